"""Tuning curves whose centres and widths are trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from spikeloop.spiking.encoders.values import Population as Encoder


class Population(torch.autograd.Function):
    """Gaussian tuning curves: forward is the numpy encoder (rollouts and training see the same bits)."""

    @staticmethod
    def forward(
        ctx: Any, features: torch.Tensor, centers: torch.Tensor, log_widths: torch.Tensor, x: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(features, centers, log_widths, x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features, centers, log_widths, x = ctx.saved_tensors
        widths = log_widths.exp()
        u = (features[..., None] - centers) / widths  # (L, B, n_obs, n)
        slope = (grad * x).reshape(u.shape) * u / widths  # dL/dc
        return -slope.sum(-1), slope.sum((0, 1)), (slope * u * widths).sum((0, 1)), None


def population_input(
    encoder: Encoder,
    features: torch.Tensor,
    x: torch.Tensor,
    centers: torch.Tensor | None,
    log_widths: torch.Tensor | None,
) -> torch.Tensor:
    """Return the input that an encoder has made of features, differentiable by them, centres and widths.

    Args:
        encoder: The encoder.
        features: Shape (L, B, n_obs).
        x: What it has made of them, shape (L, B, n_channels).
        centers: Its centres if they are trained, shape (n_obs, n).
        log_widths: The logarithms of its widths, likewise.
    """
    if centers is None or log_widths is None:
        centers = torch.as_tensor(encoder.centers.copy()).to(x)
        log_widths = torch.as_tensor(np.log(encoder.widths)).to(x)
    return Population.apply(features, centers, log_widths, x)
