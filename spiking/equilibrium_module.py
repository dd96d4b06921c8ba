"""A layer that settles as a torch module: a core that policies act with, whose backward pass is the nudged phase."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.equilibrium import (
    EquilibriumLayer,
    bounded_coupling,
    free_phase,
    nudged_phases,
)
from spikeloop.spiking.fields import number, whole
from spikeloop.spiking.fixed_encoder_core import FixedEncoderCore
from spikeloop.spiking.limits import MAX_NUMBER, MAX_TICKS
from spikeloop.spiking.metrics import Synapses


class Settle(torch.autograd.Function):
    """Where units settle, with the gradients of :mod:`spikeloop.spiking.equilibrium`.

    ``Settle.apply(x, w_in, bias, w_out, bias_out, units, counts)``, where ``units`` is an :class:`EquilibriumUnits` and
    ``counts``, (N,), gets the spikes of the free phase.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w_in: torch.Tensor,
        bias: torch.Tensor,
        w_out: torch.Tensor,
        bias_out: torch.Tensor,
        units: EquilibriumUnits,
        counts: np.ndarray,
    ) -> torch.Tensor:
        y, ctx.state, ctx.drive = units.settled(x.detach().cpu().numpy(), counts)
        ctx.units, ctx.weights = units, units.arrays()
        ctx.save_for_backward(x, w_in)
        return torch.from_numpy(y).to(w_in.device)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, w_in), units, n = ctx.saved_tensors, ctx.units, ctx.drive.shape[1]
        g = np.ascontiguousarray(grad.detach().cpu().numpy())
        w_back = None if units.w_back is None else units.w_back.cpu().numpy()
        plus, minus, scale = (
            torch.from_numpy(found).to(w_in)
            for found in nudged_phases(
                units.layer, ctx.weights, ctx.drive, ctx.state, g, units.beta, units.n_nudged, w_back
            )
        )
        shift = scale * (minus - plus)  # (B, N)
        grad_w_out = (scale * minus[:, n:]).t() @ minus[:, :n] - (scale * plus[:, n:]).t() @ plus[:, :n]
        return None, shift[:, :n].t() @ x, shift[:, :n].sum(0), grad_w_out, shift[:, n:].sum(0), None, None


class EquilibriumUnits(nn.Module):
    """A layer of :class:`~spikeloop.spiking.equilibrium.EquilibriumLayer`: its weights are parameters.

    Args:
        layer: The layer with its initial weights.
        beta: Length of the nudge.
        n_nudged: Steps of the nudged phase.
        max_coupling: Bound on the square of the largest singular value of ``w_out``, below 1, which :meth:`project`
            keeps.
        w_back: Weights that carry the nudge back in place of ``w_out``, of its shape: a control; None for none.

    Raises:
        ValueError: If a value is out of range.
    """

    w_back: torch.Tensor | None

    def __init__(
        self,
        layer: EquilibriumLayer,
        beta: float = 0.1,
        n_nudged: int = 10,
        max_coupling: float = 0.9,
        w_back: np.ndarray | None = None,
    ):
        super().__init__()
        for name in layer.trained:
            setattr(self, name, nn.Parameter(torch.tensor(getattr(layer, name))))
        self.register_buffer("w_back", None if w_back is None else torch.tensor(w_back))
        me = "EquilibriumUnits"
        self.layer, self.beta = layer, number(me, "beta", beta, 1e-6, MAX_NUMBER)
        self.n_nudged = whole(me, "n_nudged", n_nudged, 1, MAX_TICKS)
        self.max_coupling = number(me, "max_coupling", max_coupling, 1e-6, 1.0)
        self.project()

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return ``w_in``, ``bias``, ``w_out`` and ``bias_out`` as arrays, which share memory on the CPU."""
        return tuple(getattr(self, name).detach().cpu().numpy() for name in self.layer.trained)

    def settled(self, x: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what :func:`~spikeloop.spiking.equilibrium.free_phase` does for inputs, (B, n_inputs)."""
        return free_phase(self.layer, self.arrays(), x, counts)

    def forward(self, x: torch.Tensor, counts: np.ndarray) -> torch.Tensor:
        """Return where all units settle, (B, N), for inputs, (B, n_inputs); ``counts``, (N,), gets their spikes."""
        return Settle.apply(x, *(getattr(self, name) for name in self.layer.trained), self, counts)

    @torch.no_grad()
    def project(self) -> None:
        """Bring the largest singular value of ``w_out`` back within its bound: there is one place to settle."""
        w_out: torch.Tensor = self.get_parameter("w_out")
        found = w_out.detach().cpu().numpy()
        within = bounded_coupling(found, self.max_coupling)
        if within is not found:
            w_out.copy_(torch.from_numpy(within))

    @property
    def synapses(self) -> Synapses:
        """The weights that what units send meets."""
        value = self.value
        return Synapses(value.w_in, value.w_rec)

    @property
    def value(self) -> EquilibriumLayer:
        """The layer as a value."""
        w_in, bias, w_out, bias_out = self.arrays()
        return replace(self.layer, w_in=w_in, bias=bias, w_out=w_out, bias_out=bias_out)


class EquilibriumLayers(nn.ModuleList):
    """The one layer there is.

    Attributes:
        graded: Whether units send numbers, not spikes.
    """

    graded: bool


class EquilibriumCore(FixedEncoderCore):
    """Units that settle, behind an encoder whose values they are held by; the trace holds where they settle.

    Nothing is carried from one env step to the next: units always settle from the same state. It has the members of
    :class:`~spikeloop.spiking.core.Core`, and a tick is a step of settling.

    Args:
        encoder: How features become inputs.
        units: The units with their initial weights.
        dt: Length of a tick in ms.

    Raises:
        ValueError: If the encoder does not hold its values over a step.

    >>> from spikeloop.spiking.encoders.values import Direct
    >>> w_in, w_out = np.eye(3, 2, dtype=np.float32), np.full((2, 3), 0.3, np.float32)
    >>> layer = EquilibriumLayer(w_in, np.full(3, 0.5, np.float32), w_out, np.zeros(2, np.float32))
    >>> core = EquilibriumCore(Direct(2), EquilibriumUnits(layer))
    >>> features, start = torch.zeros(7, 3, 2), torch.zeros(7, 3)  # seven env steps of three environments
    >>> y, state = core(features, torch.from_numpy(core.initial_state(3)), start)
    >>> y.shape, core.n_counted
    (torch.Size([7, 3, 5]), 420)
    >>> y[:, :, 3:].sum().backward()
    >>> core.layers[0].w_in.grad.shape
    torch.Size([3, 2])
    """

    latency, tau_out, readout, clears = 0, 0.0, "leaky", False

    def __init__(self, encoder: Encoder, units: EquilibriumUnits, dt: float = 1.0):
        units.layer.check(dt, encoder)
        n, n_ticks = units.layer.n_neurons, units.layer.n_ticks
        # the state would hold the last trace, which nothing reads
        super().__init__(encoder, (n,), (1, n), n_ticks, float(dt))
        self.layers = EquilibriumLayers([units])
        self.layers.graded = units.layer.graded

    def network_layers(self) -> tuple[EquilibriumLayer, ...]:
        """Return the layer as a value for a :class:`~spikeloop.spiking.network.Network`."""
        return (self.layers[0].value,)  # type: ignore[return-value]

    def forward(
        self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a sequence of env steps; arguments and errors as of :meth:`~spikeloop.spiking.core.Core.__call__`.

        Differentiable with respect to parameters, not to features.
        """
        self._check_sequence(features, state, episode_start)
        x = self._held(features.detach().cpu().numpy())
        y = self.layers[0](torch.from_numpy(x).to(state.device), self.spike_counts[0])
        self.n_counted += len(y) * self.n_ticks
        y = y.reshape(*episode_start.shape, self.n_neurons[0])
        return y, torch.zeros_like(state) if not len(y) else y[-1:].detach().clone()

    def step(self, features: np.ndarray, state: np.ndarray, episode_start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run one env step without gradients, to the bits of :meth:`forward`."""
        self._check_step(features, state, episode_start)
        y = self.layers[0].settled(self._held(features[None]), self.spike_counts[0])[0]  # type: ignore[operator]
        self.n_counted += len(y) * self.n_ticks
        return y, y[None].copy()
