"""What a critic that remembers frames sees: the last features of an episode, side by side."""

from __future__ import annotations

import torch as th
from torch import nn


def frame_windows(features: th.Tensor, before: th.Tensor, starts: th.Tensor) -> th.Tensor:
    """Return the last k frames of every step of sequences, the oldest first; those from before the episode are 0.

    Args:
        features: Frames of the steps, shape (L, B, F).
        before: The k - 1 frames before the first step, the oldest first, as :func:`frame_windows` returned them then;
            shape (k - 1, B, F).
        starts: 1 where an episode begins with a step, shape (L, B).

    Returns:
        The windows, shape (L, B, k, F).

    >>> features, starts = th.tensor([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1), th.tensor([[0.0], [0.0], [1.0], [0.0]])
    >>> frame_windows(features, th.tensor([-2.0, -1.0]).reshape(2, 1, 1), starts)[:, 0, :, 0].tolist()
    [[-2.0, -1.0, 1.0], [-1.0, 1.0, 2.0], [0.0, 0.0, 3.0], [0.0, 3.0, 4.0]]
    """
    (n_before, n_envs, _), n_steps = before.shape, len(features)
    frames = th.cat((before, features))
    begins = th.cat((starts.new_zeros(n_before, n_envs), starts)) != 0
    windows, old = [features], begins.new_zeros(n_steps, n_envs)
    for lag in range(1, n_before + 1):
        first = n_before - lag
        old = old | begins[first + 1 : first + 1 + n_steps]  # an episode began since the frame of this lag
        windows.append(frames[first : first + n_steps].masked_fill(old[..., None], 0.0))
    return th.stack(windows[::-1], dim=2)


def critic_view(k: int, features: th.Tensor, before: th.Tensor, starts: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Return what a critic of k frames sees in steps, (L, B, k * F), and the frames it remembers after the last.

    Args:
        k: Number of frames; with one the critic remembers none, and what it is said to remember is handed back.
        features: As of :func:`frame_windows`, like those that follow.
        before: Frames before the first step.
        starts: Where episodes begin.
    """
    if k == 1:
        return features, before
    windows = frame_windows(features, before, starts)
    return windows.flatten(2), windows[-1, :, 1:].transpose(0, 1)


def check_frames(k: int, extractor: nn.Module) -> None:
    """Refuse to remember features of past steps that the extractor would by now give otherwise.

    Raises:
        ValueError: If the critic sees several frames and the extractor has weights.
    """
    if k > 1 and any(True for _ in extractor.parameters()):
        raise ValueError(
            f"critic_frames > 1 needs a features extractor without weights, whose features of past steps stay true, "
            f"got {k} with {type(extractor).__name__}"
        )
