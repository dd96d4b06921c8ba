"""Layers of exact spike times as a torch module: a core that policies act with, with closed-form gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from spikeloop.spiking import spike_time_kernels
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.fixed_encoder_core import FixedEncoderCore
from spikeloop.spiking.metrics import Synapses
from spikeloop.spiking.spike_time import KERNELS, SpikeTimeLayer, decision_times, with_pulses


class SpikeTime(torch.autograd.Function):
    """Times of a layer's spikes, with the gradients of :mod:`spikeloop.spiking.spike_time`.

    ``SpikeTime.apply(x, w_in, w_pulse, layer, window)``, where ``layer`` is a :class:`SpikeTimes`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w_in: torch.Tensor, w_pulse: torch.Tensor, layer: SpikeTimes, window: float
    ) -> torch.Tensor:
        y, *ctx.kept = layer.run(x.detach().cpu().numpy(), window)
        ctx.layer, ctx.window, ctx.like = layer, window, w_in
        return torch.from_numpy(y).to(w_in.device)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (times, w, out), layer = ctx.kept, ctx.layer
        grad_times, grad_w = np.zeros_like(times), np.zeros_like(w)
        g = np.ascontiguousarray(grad.detach().cpu().numpy(), np.float64)
        spike_time_kernels.spike_times_backward(
            KERNELS.index(layer.kernel), times, w, layer.v_th, ctx.window / layer.tau, out, g * layer.tau,
            layer.floor, layer.silent, grad_times, grad_w,
        )  # fmt: skip
        n, end = layer.w_in.shape[1], w.shape[1] - 1
        found = (grad_times[:, :n] / layer.tau, grad_w[:, :n], grad_w[:, n:end])
        return *(torch.from_numpy(one).to(ctx.like) for one in found), None, None


class TimePenalty(torch.autograd.Function):
    """Identity on times ``t``, (..., N), whose backward adds ``coef * mean(t)`` to the loss.

    >>> t = torch.ones(4, 2, requires_grad=True)
    >>> TimePenalty.apply(t, 0.8).sum().backward()
    >>> round(t.grad[0, 0].item(), 6)
    1.1
    """

    @staticmethod
    def forward(ctx: Any, t: torch.Tensor, coef: float) -> torch.Tensor:
        ctx.coef = coef
        return t.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad + ctx.coef / grad.numel(), None


class SpikeTimes(nn.Module):
    """A layer of :class:`~spikeloop.spiking.spike_time.SpikeTimeLayer`: its weights are parameters.

    Args:
        layer: The layer with its initial weights.
        floor: Where a membrane reaches the threshold, it counts as rising by at least this share of the synaptic
            current, or of the threshold if that is more.
        silent: The weights of silent neurons grow by this share of the gradient.
    """

    t_pulse: torch.Tensor

    def __init__(self, layer: SpikeTimeLayer, floor: float, silent: float):
        super().__init__()
        self.w_in = nn.Parameter(torch.tensor(layer.w_in))
        self.w_pulse = nn.Parameter(torch.tensor(layer.w_pulse))
        self.register_buffer("t_pulse", torch.tensor(layer.t_pulse))
        self.w_deadline, self.deadline, self.v_th = layer.w_deadline, layer.deadline, layer.v_th
        self.tau, self.kernel, self.floor, self.silent = layer.tau, layer.kernel, floor, silent

    def run(self, x: np.ndarray, window: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return what :func:`~spikeloop.spiking.spike_time.with_pulses` returns for the inputs' times."""
        w_in, w_pulse, t_pulse = (one.detach().cpu().numpy() for one in (self.w_in, self.w_pulse, self.t_pulse))
        w = np.concatenate((w_in, w_pulse, np.full((len(w_in), 1), self.w_deadline)), axis=1)
        return with_pulses(self.kernel, x, t_pulse, self.deadline, w, self.v_th, window, self.tau)

    def forward(self, x: torch.Tensor, window: float) -> torch.Tensor:
        """Return when each neuron spikes, shape (B, N), given the inputs' times, shape (B, n_inputs)."""
        return SpikeTime.apply(x, self.w_in, self.w_pulse, self, window)

    @property
    def synapses(self) -> Synapses:
        """The weights that spikes of the layer before meet."""
        return Synapses(self.w_in.detach().cpu().numpy(), None)

    @property
    def value(self) -> SpikeTimeLayer:
        """The layer as a value."""
        w_in, w_pulse, t_pulse = (one.detach().cpu().numpy() for one in (self.w_in, self.w_pulse, self.t_pulse))
        numbers = self.w_deadline, self.deadline, self.v_th, self.tau, self.kernel
        return SpikeTimeLayer(w_in, w_pulse, t_pulse, *numbers)


class SpikeTimeLayers(nn.ModuleList):
    """The layers, each fed by the one before."""

    graded = False


class SpikeTimeCore(FixedEncoderCore):
    """Layers of exact spike times behind a code of first spikes; the trace holds the last layer's spike times.

    Nothing is carried from one env step to the next: every step starts at rest. It has the members of
    :class:`~spikeloop.spiking.core.Core`.

    Args:
        encoder: How features become times.
        layers: The layers with their initial weights.
        window: Length of an env step in ms, the time of a neuron that does not spike.
        sizes: Outputs of each group of the action head, by which decision times are counted.
        floor: As of :class:`SpikeTimes`.
        silent: As of :class:`SpikeTimes`.
        time_coef: Weight of the mean of the outputs' times in the loss, per ms.

    Attributes:
        decided: Counted by :meth:`step`: number of env steps, sum of the times in ms at which actions were known, and
            how many actions were known before the last layer's deadline.

    Raises:
        ValueError: If the parts do not fit together.

    >>> from spikeloop.spiking.encoders.first_spikes import FirstSpikes
    >>> layer = SpikeTimeLayer(np.ones((2, 4), np.float32), np.zeros((2, 1), np.float32), np.zeros(1, np.float32))
    >>> core = SpikeTimeCore(FirstSpikes.over(-np.ones(2), np.ones(2)), [layer], window=5.0, sizes=(2,))
    >>> features, start = torch.zeros(7, 3, 2), torch.zeros(7, 3)  # seven env steps of three environments
    >>> t, state = core(features, torch.from_numpy(core.initial_state(3)), start)
    >>> t.shape, round(t[0, 0, 0].item(), 3), core.n_counted
    (torch.Size([7, 3, 2]), 0.862, 21)
    >>> t.sum().backward()
    >>> core.layers[0].w_in.grad.shape
    torch.Size([2, 4])
    """

    latency, tau_out, readout, clears = 0, 0.0, "leaky", False

    def __init__(
        self,
        encoder: Encoder,
        layers: Sequence[SpikeTimeLayer],
        window: float,
        sizes: tuple[int, ...],
        floor: float = 0.1,
        silent: float = 0.05,
        time_coef: float = 0.0,
    ):
        for name, value in (("floor", floor), ("silent", silent), ("time_coef", time_coef)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number >= 0, got {value!r}")
        for layer in layers:
            layer.check(window)
        n_neurons = tuple(layer.n_neurons for layer in layers)
        # the state would hold the last trace, which nothing reads
        super().__init__(encoder, n_neurons, (1, max(n_neurons)), 1, float(window))
        self.sizes, self.time_coef = sizes, float(time_coef)
        self.layers = SpikeTimeLayers(SpikeTimes(layer, float(floor), float(silent)) for layer in layers)

    def reset_counts(self) -> None:
        """Set the spike counts, and those of decisions, to zero."""
        super().reset_counts()
        self.decided = np.zeros(3)

    def network_layers(self) -> tuple[SpikeTimeLayer, ...]:
        """Return the layers as values for a :class:`~spikeloop.spiking.network.Network`."""
        return tuple(layer.value for layer in self.layers)  # type: ignore[misc]

    def forward(
        self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a sequence of env steps; arguments and errors as of :meth:`~spikeloop.spiking.core.Core.__call__`.

        Differentiable with respect to parameters, not to features.
        """
        self._check_sequence(features, state, episode_start)
        t = torch.from_numpy(self._held(features.detach().cpu().numpy()))
        answers = []
        for layer in self.layers:
            t = layer(t, self.dt)
            answers.append(t.detach().cpu().numpy())
        self._count(answers)
        if self.time_coef and t.requires_grad:
            t = TimePenalty.apply(t, self.time_coef)
        t = t.reshape(*episode_start.shape, self.n_neurons[-1])
        new = torch.zeros_like(state)
        if len(t):
            new[0, :, : self.n_neurons[-1]] = t[-1].detach()
        return t, new

    def step(self, features: np.ndarray, state: np.ndarray, episode_start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run one env step without gradients, to the bits of :meth:`forward`."""
        self._check_step(features, state, episode_start)
        t = self._held(features[None])  # times, (B, n_inputs)
        answers = []
        for layer in self.layers:
            t = layer.run(t, self.dt)[0]  # type: ignore[operator]
            answers.append(t)
        self._count(answers)
        known = decision_times(t, self.sizes, self.dt)
        early = np.count_nonzero(known < self.layers[-1].deadline)
        self.decided += (float(len(known)), float(known.sum()), float(early))
        new = np.zeros_like(state)
        new[0, :, : self.n_neurons[-1]] = t
        return t, new

    def _count(self, answers: Sequence[np.ndarray]) -> None:
        """Count the spikes of env steps, of each layer's times, (B, N)."""
        for total, t in zip(self.spike_counts, answers, strict=True):
            total += np.count_nonzero(t < self.dt, axis=0)
        self.n_counted += len(answers[-1])
