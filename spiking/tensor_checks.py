"""Checks of tensors before they reach the kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from spikeloop.spiking import checks


def finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity; a sum that is finite tells so in one pass.

    >>> finite(torch.ones(3)), finite(torch.tensor([1.0, float("nan")]))
    (True, False)
    """
    return math.isfinite(tensor.detach().sum().item()) or bool(torch.isfinite(tensor).all())


def check_shapes(
    n_dims: int,
    n_obs: int,
    state_shape: tuple[int, int],
    features: Sequence[int],
    state: Sequence[int],
    episode_start: Sequence[int],
) -> None:
    """Refuse shapes that do not fit: the kernels read and write without looking at bounds.

    Args:
        n_dims: 3 for a sequence of env steps, 2 for one.
        n_obs: Numbers F of an observation.
        state_shape: ``(n_rows, width)`` of a packed state.
        features: Shape that should be (L, B, F), or (B, F).
        state: Shape that should be (n_rows, B, width).
        episode_start: Shape that should be (L, B), or (B,).

    Raises:
        ValueError: If one does not fit.
    """
    rows, width = state_shape
    if (
        len(features) != n_dims
        or features[-1] != n_obs
        or tuple(state) != (rows, features[-2], width)
        or tuple(episode_start) != tuple(features[:-1])
    ):
        raise ValueError(
            f"features must be (L, B, {n_obs}), state ({rows}, B, {width}) and episode_start (L, B), without L in "
            f"step(); got {tuple(features)}, {tuple(state)} and {tuple(episode_start)}"
        )


def check_sequence(
    features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor, dtype: torch.dtype
) -> None:
    """Raise ``ValueError`` unless features (L, B, F) and state (n_rows, B, width) are real, finite and of their types.

    State that the first step clears, as ``episode_start`` (L, B) says, may be anything.
    """
    if features.is_complex() or state.dtype != dtype:
        raise ValueError(f"features must be real and state {dtype}, got {features.dtype} and {state.dtype}")
    if not finite(features):
        checks.finite("features", features.detach().cpu().numpy())
    if not finite(state):
        cleared = (episode_start[:1] != 0).any(0)[:, None]  # (B, 1); no step clears nothing
        checks.finite("state", state.detach().masked_fill(cleared, 0).cpu().numpy())
