"""A sequence of env steps by the equations themselves under autograd, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from spikeloop.spiking import reference
from spikeloop.spiking.engine.sequences import Timing
from spikeloop.spiking.gradients.base import Run
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.spiking_layer import SpikingLayers


class Spike(torch.autograd.Function):
    """A spike where ``u > 0``, with a derivative of one's own: ``Spike.apply(u, derivative)``.

    >>> u = torch.tensor([-0.5, 0.5], requires_grad=True)
    >>> z = Spike.apply(u, lambda u: 1 / (1 + abs(u)))
    >>> z.sum().backward()
    >>> z.tolist(), [round(slope, 3) for slope in u.grad.tolist()]
    ([0.0, 1.0], [0.667, 0.667])
    """

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, derivative: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        ctx.save_for_backward(u)
        ctx.derivative = derivative
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (u,) = ctx.saved_tensors
        return grad * ctx.derivative(u), None


def run_equations(
    layers: SpikingLayers,
    x: torch.Tensor,
    state: torch.Tensor,
    start: torch.Tensor,
    timing: Timing,
    spike: Callable[[torch.Tensor], torch.Tensor],
) -> Run:
    """Run a sequence by :func:`spikeloop.spiking.reference.tick` under autograd, for any neurons, on any device.

    Args:
        layers: As in :meth:`spikeloop.spiking.gradients.base.Gradient.run`, like those that follow.
        x: Input.
        state: Packed state.
        start: Where it is cleared.
        timing: Ticks, latency and readout.
        spike: ``u -> 0 or 1``, with a derivative.
    """
    weights = [layer.weights() for layer in layers]
    constants = [layer.constants(timing.dt) for layer in layers]
    kinds, n_neurons = [layer.kind for layer in layers], [layer.n_neurons for layer in layers]
    first_rows = np.cumsum([0, *(len(kind.rows) for kind in kinds)])
    outputs_at = [kind.rows.index("z") for kind in kinds]
    no_weights = np.zeros((1, n_neurons[-1]), np.float32)
    readout = Readout(no_weights, no_weights[0, :1], timing.tau_out, timing.count_spikes)
    states: list[reference.State] = [
        tuple(state[first : first + len(kind.rows), :, :n])
        for kind, first, n in zip(kinds, first_rows, n_neurons, strict=False)
    ]
    y = state[-1, :, : n_neurons[-1]]
    ys = []
    events: list[list[torch.Tensor]] = [[] for _ in kinds]
    for step in range(len(x)):
        cleared = (start[step] != 0)[:, None]  # (B, 1)
        states = [tuple(value.masked_fill(cleared, 0) for value in rows) for rows in states]
        y = y.masked_fill(cleared, 0)
        for k in range(timing.n_ticks):
            before = [rows[at] for rows, at in zip(states, outputs_at, strict=True)]
            sent = x[step] if timing.held else x[step, k]
            for i, (w_in, bias, w_rec) in enumerate(weights):
                current = functional.linear(sent, w_in, bias)
                states[i] = reference.tick(kinds[i], current, states[i], w_rec, constants[i], spike)
                z = states[i][outputs_at[i]]
                events[i].append(((z > 0.5) & (before[i] <= 0.5)).to(z) if kinds[i].graded else z)
                sent = before[i] if timing.latency else z
            y = reference.readout_tick(y, sent, readout, timing.n_ticks, k == 0, timing.dt)
        ys.append(y)
    new = torch.zeros_like(state)
    for rows, first, n in zip(states, first_rows, n_neurons, strict=False):
        new[first : first + len(rows), :, :n] = torch.stack(rows).detach()
    new[-1, :, : n_neurons[-1]] = y.detach()
    summed = [torch.stack(of_layer).sum((0, 1)) for of_layer in events]
    n_counted = max(start.numel() * timing.n_ticks, 1)
    counts = [np.rint(total.detach().cpu().numpy()).astype(np.int64) for total in summed]
    return Run(torch.stack(ys), new, counts, lambda: [total / n_counted for total in summed])
