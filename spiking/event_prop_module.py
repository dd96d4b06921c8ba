"""A recurrent layer of exact spike times as a torch module: a core that policies act with, trained by EventProp."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.event_prop import EventPropLayer, Events, backward, run_events
from spikeloop.spiking.fixed_encoder_core import FixedEncoderCore
from spikeloop.spiking.metrics import Synapses


class EventProp(torch.autograd.Function):
    """Traces of a layer's spikes, with the gradients of :mod:`spikeloop.spiking.event_prop`.

    ``EventProp.apply(w_in, w_pulse, w_rec, neurons, ran, window)``, where ``neurons`` is an :class:`EventPropNeurons`
    and ``ran`` what its :meth:`~EventPropNeurons.run` returned for the inputs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        w_in: torch.Tensor,
        w_pulse: torch.Tensor,
        w_rec: torch.Tensor,
        neurons: EventPropNeurons,
        ran: tuple[np.ndarray, np.ndarray, Events],
        window: float,
    ) -> torch.Tensor:
        ctx.neurons, ctx.ran, ctx.window, ctx.like = neurons, ran, window, w_in
        return torch.from_numpy(ran[2].trace).to(w_in)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (times, w, events), neurons = ctx.ran, ctx.neurons
        layer, g = neurons.layer, grad.detach().cpu().numpy()
        _, grad_w = backward(layer, times, w, ctx.window, events, g, neurons.floor, neurons.silent)
        ends = layer.n_inputs, times.shape[1]
        return *(torch.from_numpy(one.T).to(ctx.like) for one in np.split(grad_w, ends)), None, None, None


class EventPropNeurons(nn.Module):
    """The neurons of an :class:`~spikeloop.spiking.event_prop.EventPropLayer`: its weights are parameters.

    Args:
        layer: The layer with its initial weights.
        floor: Where a membrane reaches the threshold, it counts as rising by at least this share of its current, or of
            the threshold if that is more.
        silent: The weights of a silent neuron's inputs grow by this share of the gradient.

    Raises:
        ValueError: If ``floor`` or ``silent`` is below 0 or no number.
    """

    def __init__(self, layer: EventPropLayer, floor: float = 0.1, silent: float = 0.05):
        super().__init__()
        for name, value in (("floor", floor), ("silent", silent)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number >= 0, got {value!r}")
        for name in layer.trained:
            setattr(self, name, nn.Parameter(torch.tensor(getattr(layer, name))))
        self.layer, self.floor, self.silent = layer, float(floor), float(silent)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return ``w_in``, ``w_pulse`` and ``w_rec`` as arrays, which share memory on the CPU."""
        return tuple(getattr(self, name).detach().cpu().numpy() for name in self.layer.trained)

    def run(self, x: np.ndarray, window: float) -> tuple[np.ndarray, np.ndarray, Events]:
        """Return what :func:`~spikeloop.spiking.event_prop.run_events` does for the inputs' times, (B, n_inputs)."""
        return run_events(self.layer, self.arrays(), x, window)

    def forward(self, ran: tuple[np.ndarray, np.ndarray, Events], window: float) -> torch.Tensor:
        """Return the traces, (B, N), of what :meth:`run` returned."""
        return EventProp.apply(*(getattr(self, name) for name in self.layer.trained), self, ran, window)

    @property
    def synapses(self) -> Synapses:
        """The weights that spikes meet."""
        w_in, _, w_rec = self.arrays()
        return Synapses(w_in, w_rec)

    @property
    def value(self) -> EventPropLayer:
        """The layer as a value."""
        w_in, w_pulse, w_rec = self.arrays()
        return replace(self.layer, w_in=w_in, w_pulse=w_pulse, w_rec=w_rec)


class EventPropLayers(nn.ModuleList):
    """The one layer there is."""

    graded = False


class EventPropCore(FixedEncoderCore):
    """A recurrent layer of exact spike times behind a code of first spikes; the trace holds its neurons' traces.

    Nothing is carried from one env step to the next: every step starts at rest. It has the members of
    :class:`~spikeloop.spiking.core.Core`.

    Args:
        encoder: How features become times.
        neurons: The neurons with their initial weights.
        window: Length of an env step in ms.

    Attributes:
        n_exhausted: How often a neuron used up its ``max_spikes`` in an env step, since counts were reset.

    Raises:
        ValueError: If the parts do not fit together.

    >>> from spikeloop.spiking.encoders.first_spikes import FirstSpikes
    >>> w_in, w_rec = np.ones((3, 4), np.float32), np.full((3, 3), -0.1, np.float32)
    >>> layer = EventPropLayer(w_in, np.zeros((3, 1)), w_rec, np.zeros(1))
    >>> core = EventPropCore(FirstSpikes.over(-np.ones(2), np.ones(2)), EventPropNeurons(layer), window=5.0)
    >>> features, start = torch.zeros(7, 3, 2), torch.zeros(7, 3)  # seven env steps of three environments
    >>> r, state = core(features, torch.from_numpy(core.initial_state(3)), start)
    >>> r.shape, core.n_counted
    (torch.Size([7, 3, 3]), 168)
    >>> r.sum().backward()
    >>> core.layers[0].w_rec.grad.shape
    torch.Size([3, 3])
    """

    latency, tau_out, readout, clears = 0, 0.0, "leaky", False

    def __init__(self, encoder: Encoder, neurons: EventPropNeurons, window: float):
        neurons.layer.check(window, encoder)
        n, n_ticks = neurons.layer.n_neurons, neurons.layer.n_ticks
        # the state would hold the last trace, which nothing reads
        super().__init__(encoder, (n,), (1, n), n_ticks, float(window) / n_ticks)
        self.layers = EventPropLayers([neurons])

    def reset_counts(self) -> None:
        """Set the spike counts, and that of exhausted neurons, to zero."""
        super().reset_counts()
        self.n_exhausted = np.zeros(1, np.int64)

    def network_layers(self) -> tuple[EventPropLayer, ...]:
        """Return the layer as a value for a :class:`~spikeloop.spiking.network.Network`."""
        return (self.layers[0].value,)  # type: ignore[return-value]

    def forward(
        self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a sequence of env steps; arguments and errors as of :meth:`~spikeloop.spiking.core.Core.__call__`.

        Differentiable with respect to parameters, not to features.
        """
        self._check_sequence(features, state, episode_start)
        ran = self._ran(features.detach().cpu().numpy())
        r = self.layers[0](ran, self.n_ticks * self.dt).reshape(*episode_start.shape, self.n_neurons[0])
        new = torch.zeros_like(state)
        if len(r):
            new[0] = r[-1].detach()
        return r, new

    def step(self, features: np.ndarray, state: np.ndarray, episode_start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run one env step without gradients, to the bits of :meth:`forward`."""
        self._check_step(features, state, episode_start)
        r = self._ran(features[None])[2].trace.astype(np.float32)
        return r, r[None].copy()

    def _ran(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, Events]:
        """Run and count env steps of features, (L, B, F)."""
        ran = self.layers[0].run(self._held(features), self.n_ticks * self.dt)  # type: ignore[operator]
        fired = ran[2].fired
        self.spike_counts[0][:] += fired.sum(axis=0)
        self.n_exhausted += np.count_nonzero(fired == self.n_ticks)
        self.n_counted += len(fired) * self.n_ticks
        return ran
