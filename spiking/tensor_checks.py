"""Checks of tensors before they reach the kernels."""

from __future__ import annotations

import math

import torch

from spikeloop.spiking import checks


def finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity; a sum that is finite tells so in one pass.

    >>> finite(torch.ones(3)), finite(torch.tensor([1.0, float("nan")]))
    (True, False)
    """
    return math.isfinite(tensor.detach().sum().item()) or bool(torch.isfinite(tensor).all())


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
