"""A sequence of env steps through the numba engine as one autograd function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from spikeloop.spiking.engine import lsnn_kernels, sequences
from spikeloop.spiking.gradients.base import Run
from spikeloop.spiking.spiking_layer import SpikingLayers
from spikeloop.spiking.threads import kernel_threads

if TYPE_CHECKING:
    from spikeloop.spiking.gradients.surrogate import Surrogate


def run_engine(
    layers: SpikingLayers,
    x: torch.Tensor,
    state: torch.Tensor,
    start: torch.Tensor,
    timing: sequences.Timing,
    surrogate: Surrogate,
) -> Run:
    """Run a sequence of LSNN layers on the CPU; the arguments are those of a gradient's ``run``."""
    batch_first = x.transpose(0, 1) if timing.held else x.permute(2, 0, 1, 3).flatten(1, 2)
    call = EngineCall(
        layers.engine_weights(),
        layers.engine_constants(timing, surrogate),
        batch_first.detach().clone(memory_format=torch.contiguous_format).numpy(),  # it may change before backward
        state.contiguous().numpy(),
        np.ascontiguousarray((start.detach().numpy() != 0).T).view(np.uint8),  # (B, L)
    )
    parameters = [p for layer in layers for p in (layer.w_in, layer.bias, layer.w_rec) if p is not None]
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in parameters)):
        y = EngineSequence.apply(call, x, *parameters)
    else:
        array, call.new_state, _ = sequences.forward(*call.arguments, n_threads=call.n_threads)
        y = torch.from_numpy(array).transpose(0, 1)
    return Run(y, torch.from_numpy(call.new_state), call.counts, lambda: list(EngineRates.apply(call, y)))


class EngineCall:
    """Arguments of one :class:`EngineSequence`; weights and state are views of torch's memory."""

    def __init__(
        self,
        weights: list[sequences.Weights],
        constants: list[sequences.Constants],
        x: np.ndarray,
        state: np.ndarray,
        start: np.ndarray,
    ):
        self.counts = [np.zeros(layer.n_neurons, np.int64) for layer in constants]
        self.state, self.start = state, start
        self.arguments = weights, constants, x, state, start, self.counts
        self.n_counted = start.size * constants[0].named.n_ticks  # pairs of environment and tick
        self.new_state = state
        self.by_spike: list[np.ndarray | None] = [None for _ in constants]  # gradient of every spike, per layer
        self.n_threads = kernel_threads()


class EngineSequence(torch.autograd.Function):
    """One sequence through the engine; ``parameters`` are (w_in, bias[, w_rec]) of each layer."""

    @staticmethod
    def forward(ctx: Any, call: EngineCall, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        y, call.new_state, ctx.tapes = sequences.forward(*call.arguments, lsnn_kernels.KEEP_TAPE, call.n_threads)
        ctx.call = call
        # The tape views the memory of the weights; torch refuses to go back where one was changed in place since.
        ctx.save_for_backward(*(parameter for parameter in parameters if parameter.ndim == 2))
        return torch.from_numpy(y).transpose(0, 1)  # (L, B, N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        if ctx.tapes is None:
            raise RuntimeError("the graph of this sequence was already used by backward(); run the sequence again")
        _ = ctx.saved_tensors  # raises where one was changed
        call, tapes, ctx.tapes = ctx.call, ctx.tapes, None
        want_x = ctx.needs_input_grad[1]
        grad_y = grad.transpose(0, 1).contiguous().numpy()
        grads, grad_x = sequences.backward(tapes, grad_y, call.by_spike, want_x, call.n_threads)
        # the kernels' (pre, post) memory is that of the parameters, seen transposed
        flat = [torch.from_numpy(g).t() for weights in grads for g in weights if len(g)]
        return None, torch.from_numpy(grad_x).transpose(0, 1) if want_x else None, *flat


class EngineRates(torch.autograd.Function):
    """The firing rates of a sequence, one tensor per layer, of shape (N,).

    They join the graph behind the trace ``y`` of :class:`EngineSequence`: autograd goes back through them first, and
    what they leave in ``call.by_spike`` enters the one pass back through the sequence. Few losses look at them, and as
    further outputs of the sequence they would cost every pass a few percent.
    """

    @staticmethod
    def forward(ctx: Any, call: EngineCall, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.call = call
        return tuple(torch.from_numpy(count / max(call.n_counted, 1)) for count in call.counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, None]:
        call = ctx.call
        # a rate is the mean of the spikes, so each spike has its share of the gradient
        shares = [grad.numpy() / call.n_counted for grad in grads]
        call.by_spike = [new if old is None else old + new for old, new in zip(call.by_spike, shares, strict=True)]
        return None, None  # of y itself, to which the trace's own gradient comes
