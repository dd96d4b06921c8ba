"""Autograd functions of the LSNN: the numba engine as one function per sequence, and the equations under autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from spikeloop.spiking import engine, kernels, reference
from spikeloop.spiking.network import LAYER_ROWS, Readout
from spikeloop.spiking.surrogate import Surrogate
from spikeloop.spiking.threads import kernel_threads


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


class Attach(torch.autograd.Function):
    """Identity on ``y`` whose backward also seeds ``penalty`` with 1, which adds it to whatever the loss is."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return grad, grad.new_ones(())


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


class EngineSequence(torch.autograd.Function):
    """One sequence through :mod:`spikeloop.spiking.engine`; ``parameters`` are (w_in, bias[, w_rec]) of each layer."""

    @staticmethod
    def forward(ctx: Any, call: EngineCall, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        y, call.new_state, ctx.tapes = engine.forward(
            call.weights, call.constants, call.x, call.state, call.start, call.counts, kernels.KEEP_TAPE, call.n_threads
        )
        ctx.call = call
        # The tape views the memory of the weights; torch refuses to go back where one was changed in place since.
        ctx.save_for_backward(*(parameter for parameter in parameters if parameter.ndim == 2))
        return torch.from_numpy(y).transpose(0, 1)  # (L, B, N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.tapes is None:
            raise RuntimeError("the graph of this sequence was already used by backward(); run the sequence again")
        _ = ctx.saved_tensors  # raises where one was changed
        call, tapes, ctx.tapes = ctx.call, ctx.tapes, None
        want_x = ctx.needs_input_grad[1]
        grad_y = grad.transpose(0, 1).contiguous().numpy()
        grads, grad_x = engine.backward(tapes, grad_y, call.rate_grads(), want_x, call.n_threads)
        # the kernels' (pre, post) memory is that of the parameters, seen transposed
        flat = [torch.from_numpy(g).t() for weights in grads for g in weights if len(g)]
        return None, torch.from_numpy(grad_x).transpose(0, 1) if want_x else None, *flat


class EngineCall:
    """Arguments of one :class:`EngineSequence`, and the rate penalty; weights and state are views of torch's memory."""

    def __init__(
        self,
        weights: Sequence[engine.Weights],
        constants: Sequence[engine.Constants],
        x: np.ndarray,
        state: np.ndarray,
        start: np.ndarray,
        rate_coef: float,
        target_rate: float,
    ):
        self.weights, self.constants, self.x, self.state, self.start = weights, constants, x, state, start
        self.rate_coef, self.target_rate = rate_coef, target_rate
        self.counts = [np.zeros(layer.n_neurons, np.int64) for layer in constants]
        self.n_counted = start.size * int(constants[0].options[1])
        self.new_state = state
        self.n_threads = kernel_threads()

    def rate_grads(self) -> list[np.ndarray | None]:
        """Return the gradient of the rate penalty by each spike of a neuron, per layer."""
        if not self.rate_coef or not self.n_counted:
            return [None] * len(self.counts)
        scale = self.rate_coef / (len(self.counts) * self.n_counted)
        return [scale * np.maximum(count / self.n_counted - self.target_rate, 0) for count in self.counts]


def run_equations(
    x: torch.Tensor,
    state: torch.Tensor,
    episode_start: torch.Tensor,
    weights: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]],
    constants: Sequence[reference.LayerConstants],
    surrogate: Surrogate,
    readout: Readout,
    timing: engine.Timing,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Run a sequence by :func:`spikeloop.spiking.reference.tick` under autograd, on any device.

    Args:
        x: Input, shape (L, B, n_inputs) where held, else (L, n_ticks, B, n_inputs).
        state: Packed state less the encoder's rows, shape (n_rows, B, width).
        episode_start: 1 where the state is cleared before the step, shape (L, B).
        weights: ``(w_in, bias, w_rec)`` of each layer, post x pre.
        constants: Constants of each layer.
        surrogate: Surrogate derivative.
        readout: What is read out; its weights are not used.
        timing: Ticks, latency.

    Returns:
        The readout trace at the end of each step, the new state, and the mean spikes per tick of each neuron.
    """
    n_neurons = [len(bias) for _, bias, _ in weights]
    layers = [
        reference.LayerState(*(state[len(LAYER_ROWS) * i + k, :, :n] for k in range(len(LAYER_ROWS))))
        for i, n in enumerate(n_neurons)
    ]
    y = state[-1, :, : n_neurons[-1]]
    ys = []
    zs: list[list[torch.Tensor]] = [[] for _ in layers]
    for step in range(len(x)):
        cleared = (episode_start[step] != 0)[:, None]  # (B, 1)
        layers = [reference.LayerState(*(value.masked_fill(cleared, 0) for value in layer)) for layer in layers]
        y = y.masked_fill(cleared, 0)
        for k in range(timing.n_ticks):
            before = [layer.z for layer in layers]
            spikes = x[step] if timing.held else x[step, k]
            for i, (w_in, bias, w_rec) in enumerate(weights):
                current = functional.linear(spikes, w_in, bias)
                layers[i] = reference.tick(current, layers[i], w_rec, constants[i], lambda u: Spike.apply(u, surrogate))
                zs[i].append(layers[i].z)
                spikes = before[i] if timing.latency else layers[i].z
            y = reference.readout_tick(y, spikes, readout, timing.n_ticks, k == 0, timing.dt)
        ys.append(y)
    new = torch.zeros_like(state)
    for i, (layer, n) in enumerate(zip(layers, n_neurons, strict=True)):
        new[len(LAYER_ROWS) * i :][: len(LAYER_ROWS), :, :n] = torch.stack(layer).detach()
    new[-1, :, : n_neurons[-1]] = y.detach()
    return torch.stack(ys), new, [torch.stack(z).mean((0, 1)) for z in zs]


def linear_rows(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return ``x weight^T + bias`` with every row summed in one fixed order; no autograd."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    out = flat.new_empty(len(flat), len(weight))
    kernels.linear_rows(flat.numpy(), weight.contiguous().numpy(), bias.numpy(), out.numpy())
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
