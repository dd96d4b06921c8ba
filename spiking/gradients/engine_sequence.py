"""A sequence of env steps through the numba engine as one autograd function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from spikeloop.spiking.engine import lsnn_kernels, sequences
from spikeloop.spiking.threads import kernel_threads


class EngineSequence(torch.autograd.Function):
    """One sequence through the engine; ``parameters`` are (w_in, bias[, w_rec]) of each layer."""

    @staticmethod
    def forward(ctx: Any, call: EngineCall, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        y, call.new_state, ctx.tapes = sequences.forward(
            call.weights,
            call.constants,
            call.x,
            call.state,
            call.start,
            call.counts,
            lsnn_kernels.KEEP_TAPE,
            call.n_threads,
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
        grads, grad_x = sequences.backward(tapes, grad_y, call.rate_grads(), want_x, call.n_threads)
        # the kernels' (pre, post) memory is that of the parameters, seen transposed
        flat = [torch.from_numpy(g).t() for weights in grads for g in weights if len(g)]
        return None, torch.from_numpy(grad_x).transpose(0, 1) if want_x else None, *flat


class EngineCall:
    """Arguments of one :class:`EngineSequence`, and the rate penalty; weights and state are views of torch's memory."""

    def __init__(
        self,
        weights: Sequence[sequences.Weights],
        constants: Sequence[sequences.Constants],
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
