"""Layers that answer an env step as a whole, from rest, not in ticks; a new one is a file and a line below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from spikeloop.spiking.equilibrium import EquilibriumLayer
from spikeloop.spiking.event_prop import EventPropLayer
from spikeloop.spiking.monitor import Monitor, Spikes
from spikeloop.spiking.spike_time import SpikeTimeLayer, decision_times

if TYPE_CHECKING:
    from spikeloop.spiking.encoders import Encoder
    from spikeloop.spiking.network import Network


class StepLayer(Protocol):
    """A layer that turns the input of an env step into one number per neuron, and keeps no state.

    It is a frozen dataclass with these members. The env step lasts as long as all ticks of the network together.

    Attributes:
        trained: Names of the fields that training changes, in the order of ``Network.to_vector``.
        w_in: Input weights, post x pre.
        n_ticks: Ticks that a network of such layers has: chances of a neuron to spike in an env step.
        graded: Whether its neurons send numbers, not spikes.
    """

    trained: ClassVar[tuple[str, ...]]

    @property
    def w_in(self) -> np.ndarray:
        """Input weights, shape (n, n_inputs), post x pre."""
        ...

    @property
    def n_ticks(self) -> int:
        """Ticks of the network."""
        ...

    @property
    def graded(self) -> bool:
        """Whether its neurons send numbers, not spikes."""
        ...

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        ...

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        ...

    @property
    def matrices(self) -> tuple[np.ndarray, ...]:
        """All its weights, each (N, n)."""
        ...

    def check(self, window: float, encoder: Encoder | None) -> None:
        """Raise ``ValueError`` if it cannot run for ``window`` ms or on what ``encoder`` gives; None behind a layer."""
        ...

    def run(self, x: np.ndarray, window: float, counts: np.ndarray | None = None) -> np.ndarray:
        """Return its answer, shape (B, N), to inputs (B, n_inputs), of the same type; rows do not affect each other.

        The spikes of each neuron are added to ``counts``, int64, shape (N,), unless it is None.
        """
        ...

    def spikes(self, x: np.ndarray, window: float) -> np.ndarray:
        """Return when its neurons spike on inputs (B, n_inputs), in ms from the start of the step.

        Infinity is no spike. The shape is (B, N, n), where n is the most that a neuron can spike.
        """
        ...


STEP_LAYERS: dict[str, type[StepLayer]] = {
    "spike_time": SpikeTimeLayer,
    "event_prop": EventPropLayer,
    "equilibrium": EquilibriumLayer,
}


def check_steps(network: Network) -> None:
    """Raise ``ValueError`` unless the parts of a network of such layers fit together."""
    name, readout = type(network.layers[0]).__name__, network.readout
    if {type(layer) for layer in network.layers} != {type(network.layers[0])}:
        raise ValueError(f"Network.layers must all be of one type beside {name}")
    for field, wanted in (("n_ticks", network.layers[0].n_ticks), ("latency", 0)):
        if getattr(network, field) != wanted:
            raise ValueError(f"Network.{field} must be {wanted} with layers of {name}, got {getattr(network, field)}")
    if (readout.kind, readout.tau_out) != ("leaky", 0.0):
        raise ValueError(f"Network.readout must be 'leaky' with tau_out 0 behind {name}, got {readout.kind!r}")
    for i, layer in enumerate(network.layers):
        layer.check(network.n_ticks * network.dt, network.encoder if i == 0 else None)


def trained_arrays(layer: StepLayer) -> list[np.ndarray]:
    """Return the arrays of a layer that training changes."""
    return [getattr(layer, name) for name in layer.trained]


class StepRun:
    """Runs the layers of a network that answer steps, and counts what they do.

    Args:
        network: The network.

    Attributes:
        decided: Three numbers: env steps counted, sum of the times in ms at which their actions were known, and how
            many actions were known before the last layer's deadline. None if the action is not the first output spike.
    """

    def __init__(self, network: Network):
        self.layers: Sequence[Any] = network.layers
        self.name = type(network.layers[0]).__name__
        self.window, head, readout = network.n_ticks * network.dt, network.head, network.readout
        self.sizes = (readout.n_outputs,) if head is None else head.sizes
        first = readout.w_out[0, 0]
        by_first = not readout.dense and np.array_equal(readout.w_out, first * np.eye(len(readout.w_out)))
        by_first = by_first and first < 0 and not np.any(readout.b_out)
        self.deadline = getattr(network.layers[-1], "deadline", None) if by_first else None
        self.decided = None if self.deadline is None else np.zeros(3)

    def reset_counts(self) -> None:
        """Set the counts of decisions to zero, in place."""
        if self.decided is not None:
            self.decided[:] = 0

    def __call__(
        self, x: np.ndarray, state: np.ndarray, frames: np.ndarray, counts: Sequence[np.ndarray], times: bool
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Run a sequence of env steps.

        Args:
            x: Input, shape (L, B, n_inputs).
            state: Packed state, shape (n_rows, B, width).
            frames: The past frames that the new state begins with.
            counts: Spike counts that are added to, one per layer, int64, shape (N,).
            times: Whether the times of spikes are wanted.

        Returns:
            The last layer's answers, shape (L * B, N), the new state, and the times of each layer's spikes, if wanted.
        """
        found, n_batch, new = [], x.shape[1], np.zeros_like(state)
        x = x.reshape(-1, x.shape[2]).astype(state.dtype, copy=False)
        for layer, count in zip(self.layers, counts, strict=True):
            if times:
                found.append(layer.spikes(x, self.window))
            x = layer.run(x, self.window, count)
        if self.decided is not None:
            known = decision_times(x, self.sizes, self.window)
            self.decided += (float(len(known)), float(known.sum()), float(np.count_nonzero(known < self.deadline)))
        new[: len(frames)] = frames
        if len(x):
            new[-1, :, : x.shape[1]] = x[-n_batch:]
        return x, new, found


def monitor_of(times: Sequence[np.ndarray], n_envs: int, n_ticks: int, dt: float) -> Monitor:
    """Return a monitor of spikes at their exact times.

    Args:
        times: Of each layer, from the beginning of their steps in ms, infinity for none, shape (L * n_envs, N, n).
        n_envs: Environments.
        n_ticks: Ticks per env step.
        dt: Length of a tick in ms.

    >>> monitor_of([np.array([[[np.inf], [0.5]], [[2.0], [1.25]]])], 1, n_ticks=1, dt=5.0).layers[0].t.tolist()
    [0.5, 6.25, 7.0]
    """
    layers = []
    for of_layer in times:
        by_env = of_layer.reshape(len(of_layer) // n_envs, n_envs, *of_layer.shape[1:]).astype(
            np.float64
        )  # (L, B, N, n)
        step, env, i, k = np.nonzero(np.isfinite(by_env))
        t = step * n_ticks * dt + by_env[step, env, i, k]
        order = np.argsort(t, kind="stable")
        layers.append(Spikes(i[order], t[order], env[order]))
    total = len(times[0]) // n_envs * n_ticks
    return Monitor(tuple(layers), tuple(one.shape[1] for one in times), n_envs, total, n_ticks, dt)
