"""A sequence of env steps by the equations themselves under autograd, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from spikeloop.spiking import reference
from spikeloop.spiking.engine.sequences import Timing
from spikeloop.spiking.neurons import Neurons
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.surrogate import Surrogate


class Spike(torch.autograd.Function):
    """A spike where ``u > 0``, with a surrogate derivative."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, surrogate: Surrogate) -> torch.Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (u,) = ctx.saved_tensors
        return grad * ctx.surrogate.derivative(u), None


def run_equations(
    x: torch.Tensor,
    state: torch.Tensor,
    episode_start: torch.Tensor,
    weights: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]],
    neurons: Sequence[type[Neurons]],
    constants: Sequence[Any],
    surrogate: Surrogate,
    readout: Readout,
    timing: Timing,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Run a sequence by :func:`spikeloop.spiking.reference.tick` under autograd, on any device.

    Args:
        x: Input, shape (L, B, n_inputs) where held, else (L, n_ticks, B, n_inputs).
        state: Packed state less the encoder's rows, shape (n_rows, B, width).
        episode_start: 1 where the state is cleared before the step, shape (L, B).
        weights: ``(w_in, bias, w_rec)`` of each layer, post x pre.
        neurons: Class of the neurons of each layer.
        constants: Constants of each layer, as tensors.
        surrogate: Surrogate derivative.
        readout: What is read out; its weights are not used.
        timing: Ticks, latency.

    Returns:
        The readout trace at the end of each step, the new state, and the mean spikes per tick of each neuron.
    """
    n_neurons = [len(bias) for _, bias, _ in weights]
    first_rows = np.cumsum([0, *(len(kind.rows) for kind in neurons)])
    outputs_at = [kind.rows.index("z") for kind in neurons]
    layers: list[reference.State] = [
        tuple(state[first : first + len(kind.rows), :, :n])
        for kind, first, n in zip(neurons, first_rows, n_neurons, strict=False)
    ]
    y = state[-1, :, : n_neurons[-1]]
    ys = []
    zs: list[list[torch.Tensor]] = [[] for _ in layers]
    for step in range(len(x)):
        cleared = (episode_start[step] != 0)[:, None]  # (B, 1)
        layers = [tuple(value.masked_fill(cleared, 0) for value in layer) for layer in layers]
        y = y.masked_fill(cleared, 0)
        for k in range(timing.n_ticks):
            before = [layer[at] for layer, at in zip(layers, outputs_at, strict=True)]
            spikes = x[step] if timing.held else x[step, k]
            for i, (w_in, bias, w_rec) in enumerate(weights):
                current = functional.linear(spikes, w_in, bias)
                layers[i] = reference.tick(
                    neurons[i], current, layers[i], w_rec, constants[i], lambda u: Spike.apply(u, surrogate)
                )
                z = layers[i][outputs_at[i]]
                zs[i].append(z)
                spikes = before[i] if timing.latency else z
            y = reference.readout_tick(y, spikes, readout, timing.n_ticks, k == 0, timing.dt)
        ys.append(y)
    new = torch.zeros_like(state)
    for layer, first, n in zip(layers, first_rows, n_neurons, strict=False):
        new[first : first + len(layer), :, :n] = torch.stack(layer).detach()
    new[-1, :, : n_neurons[-1]] = y.detach()
    return torch.stack(ys), new, [torch.stack(of_layer).mean((0, 1)) for of_layer in zs]
