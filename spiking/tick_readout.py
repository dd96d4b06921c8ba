"""Readouts that use their units' membranes on every tick, as a torch module: the last layer of a policy in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from spikeloop.spiking.first_to_spike import expected_ticks, spike_probability
from spikeloop.spiking.readout_kernels import drive
from spikeloop.spiking.readout_kinds import READOUTS, Filter, ReadoutKind


class TickReadout(nn.Linear):
    """A readout of ``READOUTS`` whose values depend on the membranes of every tick: ``max``, ``mean`` or ``bernoulli``.

    The forward pass gives the same bits as ``Simulator``. The backward pass is the gradient of the kind's values; that
    of ``max`` reaches only the tick of the largest membrane. The values of ``bernoulli`` are the exact logarithms of
    the actions' probabilities: a categorical distribution with these logits is that of the network's actions.

    Args:
        in_features: Number of neurons N of the last layer.
        out_features: Number of output units.
        kind: Name of a kind with a gradient.
        tau_out: Time constant of the filter in ms.
        n_ticks: Ticks per env step.
        dt: Length of a tick in ms.

    Raises:
        ValueError: If gradients do not train this kind.

    >>> units = TickReadout(3, 2, "max", tau_out=0.0, n_ticks=4)
    >>> z = torch.zeros(5, 4, 3)  # spikes of three neurons on four ticks, in five env steps
    >>> torch.equal(units(z), units.bias.expand(5, 2))
    True
    """

    def __init__(self, in_features: int, out_features: int, kind: str, tau_out: float, n_ticks: int, dt: float = 1.0):
        found = READOUTS.get(kind)
        if found is None or found.decide is None or found.gradient is None:
            fit = tuple(name for name, one in READOUTS.items() if one.gradient is not None)
            raise ValueError(f"kind must be one of {fit}, which gradients train on every tick, got {kind!r}")
        super().__init__(in_features, out_features)
        self.kind, self.n_ticks, self.filter = found, n_ticks, found.filter(tau_out, n_ticks, dt)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the values, shape (..., out_features), of spikes, shape (..., n_ticks, in_features)."""
        return TickValues.apply(z, self.weight, self.bias, self.kind, self.filter)

    def membranes(self, z: torch.Tensor) -> np.ndarray:
        """Return the units' membranes, (n_ticks, R, out_features), without gradients; R rows are all env steps of z."""
        flat = z.detach().cpu().numpy().reshape(-1, *z.shape[-2:])
        weight, bias = (p.detach().cpu().numpy() for p in (self.weight, self.bias))
        return _membranes(flat, weight, bias, self.kind, self.filter)

    def ticks(self, z: torch.Tensor) -> np.ndarray:
        """Return the mean number of ticks until an output spikes, shape (R,), for units that spike at random."""
        return expected_ticks(spike_probability(self.membranes(z).astype(np.float64)))


class TickValues(torch.autograd.Function):
    """What :class:`TickReadout` computes: ``TickValues.apply(z, weight, bias, kind, filter)``."""

    @staticmethod
    def forward(
        ctx: Any, z: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, kind: ReadoutKind, filtered: Filter
    ) -> torch.Tensor:
        rows, w, b = (tensor.detach().cpu().numpy() for tensor in (z, weight, bias))
        v = _membranes(rows.reshape(-1, *z.shape[-2:]), w, b, kind, filtered)
        assert kind.decide is not None
        values, _ = kind.decide(v, 1.0, (len(b),))
        ctx.save_for_backward(z, weight)
        ctx.kind, ctx.filtered, ctx.v = kind, filtered, v
        return torch.from_numpy(values).to(z.device).reshape(*z.shape[:-2], len(b))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        z, weight = ctx.saved_tensors
        by_v = ctx.kind.gradient(ctx.v, grad.detach().cpu().numpy().reshape(-1, grad.shape[-1]))  # (n_ticks, R, O)
        by_drive = torch.from_numpy(ctx.filtered.adjoint(by_v)).to(z.device).transpose(0, 1)
        of_tick = by_drive.reshape(*z.shape[:-1], -1)
        flat = by_drive.reshape(-1, by_drive.shape[-1])
        # membranes rest at the bias, so it shifts the membranes of all ticks by the same amount
        by_bias = torch.from_numpy(by_v.sum(axis=(0, 1))).to(z.device)
        return of_tick @ weight, flat.t() @ z.reshape(-1, z.shape[-1]), by_bias, None, None


def _membranes(z: np.ndarray, w: np.ndarray, b: np.ndarray, kind: ReadoutKind, filtered: Filter) -> np.ndarray:
    """Return membranes, shape (n_ticks, R, O), for spikes, (R, n_ticks, N), summed in the order of ``Simulator``."""
    (n_rows, n_ticks, n), n_outputs = z.shape, len(b)
    sums = np.empty((n_rows * n_ticks, n_outputs), w.dtype)
    drive(np.ascontiguousarray(z, w.dtype).reshape(len(sums), n), np.array(w.T, order="C"), np.array(b), sums)
    by_tick = np.ascontiguousarray(sums.reshape(n_rows, n_ticks, n_outputs).swapaxes(0, 1))
    return kind.membranes(by_tick, b, filtered)
