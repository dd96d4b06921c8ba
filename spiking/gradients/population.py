"""Tuning curves whose centres and widths are trained."""

from __future__ import annotations

from typing import Any

import torch


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
