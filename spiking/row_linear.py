"""A linear map whose sums do not depend on the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from spikeloop.spiking.engine import products


class RowLinear(nn.Linear):
    """A linear map that sums each row in one fixed order on the CPU, so that the bits do not depend on the batch.

    Its arguments are those of :class:`torch.nn.Linear`.

    >>> linear, x = RowLinear(5, 2), torch.randn(7, 5)
    >>> torch.equal(linear(x)[3], linear(x[3]))
    True
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x weight^T + bias``, shape (..., out_features)."""
        weight, bias = self.weight, self.bias  # asked once: torch searches for the attributes of a module
        known = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and bias is not None
        if not known or x.dtype != weight.dtype or x.shape[-1] != self.in_features:
            return super().forward(x)  # where x does not fit, torch says so
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad):
            return RowLinearFunction.apply(x, weight, bias)
        return linear_rows(x, weight, bias)


def linear_rows(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return ``x weight^T + bias`` with every row summed in one fixed order; no autograd."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    out = flat.new_empty(len(flat), len(weight))
    products.linear_rows(flat.numpy(), weight.contiguous().numpy(), bias.numpy(), out.numpy())
    return out.reshape(*x.shape[:-1], len(weight))


class RowLinearFunction(torch.autograd.Function):
    """:func:`linear_rows` with the ordinary backward pass of a linear map."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return linear_rows(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        return grad_x, flat.t() @ x.reshape(-1, x.shape[-1]), flat.sum(0)
