"""What training asks of a spiking core: features in, a trace and the state out, and a value for a Network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

    from spikeloop.spiking.encoders import Encoder
    from spikeloop.spiking.metrics import Synapses
    from spikeloop.spiking.network import Layer
    from spikeloop.spiking.step_layers import StepLayer


class CoreLayer(Protocol):
    """A layer of a core, as far as its spikes are counted."""

    @property
    def synapses(self) -> Synapses:
        """The weights as arrays."""
        ...


class CoreLayers(Protocol):
    """The layers of a core.

    Attributes:
        graded: Whether an output of theirs is a number, not a spike.
    """

    graded: bool

    def __iter__(self) -> Iterator[Any]: ...


class Core(Protocol):
    """A torch module that policies act with: :class:`~spikeloop.spiking.module.LSNN`, or what has its members.

    Training asks only for :meth:`forward`, and that autograd goes back through the trace: a core turns ``dL/dy`` into
    gradients of its parameters, and PPO and A2C need not know how. A row of the trace has the same bits in any batch,
    and the same from :meth:`step`, so that PPO's first ratio is exactly 1.

    Attributes:
        n_neurons: Neurons of each layer; the last number is the width of the trace.
        layers: The layers.
        state_shape: ``(n_rows, width)`` of the packed state.
        spike_counts: Per layer the spikes of each neuron, int64, shape (N,).
        n_counted: Number of ticks, summed over environments, in which these spikes were counted.
    """

    n_neurons: tuple[int, ...]
    state_shape: tuple[int, int]
    spike_counts: tuple[np.ndarray, ...]
    n_counted: int

    @property
    def layers(self) -> Any:
        """The layers (:class:`CoreLayers` of :class:`CoreLayer`)."""
        ...

    @property
    def encoder(self) -> Encoder:
        """What makes its input of features."""
        ...

    @property
    def n_ticks(self) -> int:
        """Ticks per env step; 1 where it answers a step as a whole."""
        ...

    @property
    def dt(self) -> float:
        """Length of a tick in ms."""
        ...

    @property
    def latency(self) -> int:
        """Ticks that a spike takes between layers."""
        ...

    @property
    def clears(self) -> bool:
        """Whether its layers in ticks begin every env step at rest."""
        ...

    @property
    def tau_out(self) -> float:
        """Time constant of the readout filter in ms."""
        ...

    @property
    def readout(self) -> str:
        """Kind of the readout (:data:`~spikeloop.spiking.readout_kinds.READOUTS`)."""
        ...

    def initial_state(self, n_envs: int = 1, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return the resting state, shape (n_rows, n_envs, width)."""
        ...

    def reset_counts(self) -> None:
        """Set the spike counts to zero."""
        ...

    def __call__(
        self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a sequence of env steps, with gradients.

        Args:
            features: Shape (L, B, F).
            state: Packed state before the first step, shape (n_rows, B, width).
            episode_start: 1 where the state is cleared before a step, shape (L, B).

        Returns:
            The trace at the end of each step, shape (L, B, N of the last layer), and the new state. For kinds of
            readout that take every tick, what reaches the readout on each, shape (L, B, n_ticks, N).
        """
        ...

    def step(self, features: np.ndarray, state: np.ndarray, episode_start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run one env step on arrays, without gradients, with the bits of a sequence; shapes as there, without L."""
        ...

    def current_encoder(self) -> Encoder:
        """Return the encoder with its current numbers."""
        ...

    def network_layers(self) -> tuple[Layer | StepLayer, ...]:
        """Return the layers as values for a :class:`~spikeloop.spiking.network.Network`."""
        ...

    def parameters(self) -> Iterable[Any]:
        """Return what is trained."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all its numbers by name."""
        ...
