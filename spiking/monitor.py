"""What a run did: spikes as Brian2's monitors hold them (``.i``, ``.t``), and membranes if recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Spikes(NamedTuple):
    """Spikes of a layer, of the input or of output units in order of time, one entry each."""

    i: np.ndarray  # neuron
    t: np.ndarray  # start of the tick in ms, 0 on the first tick of the run
    env: np.ndarray  # environment, the index in the batch


@dataclass(frozen=True, eq=False)
class Monitor:
    """Spikes and membranes of one run of a network.

    Args:
        layers: Spikes of each layer.
        n_neurons: Size of each layer.
        n_envs: Environments that ran, B.
        total_ticks: Ticks of the whole run, T.
        n_ticks: Ticks per env step.
        dt: Length of a tick in ms.
        v: Membrane at the end of each tick, one array (T, B, N) per layer; None if it was not recorded.
        input: Spikes of the input, where the encoder spikes; else None.
        output: Spikes of the output units, where the readout has some that spike; else None.
        n_inputs: Number of inputs, 0 where they do not spike.
        n_outputs: Number of output units, 0 where they do not spike.

    >>> spikes = np.zeros((4, 1, 2))  # 4 ticks, 1 environment, 2 neurons
    >>> spikes[1, 0, 1] = spikes[3, 0, 1] = 1
    >>> monitor = Monitor.from_dense([spikes], dt=0.5)
    >>> monitor.layers[0].i.tolist(), monitor.layers[0].t.tolist()
    ([1, 1], [0.5, 1.5])
    >>> monitor.rates[0].tolist()
    [0.0, 0.5]
    """

    layers: tuple[Spikes, ...]
    n_neurons: tuple[int, ...]
    n_envs: int
    total_ticks: int
    n_ticks: int = 1
    dt: float = 1.0
    v: tuple[np.ndarray, ...] | None = None
    input: Spikes | None = None
    output: Spikes | None = None
    n_inputs: int = 0
    n_outputs: int = 0

    @classmethod
    def from_dense(
        cls,
        spikes: Sequence[np.ndarray],
        v: Sequence[np.ndarray] | None = None,
        n_ticks: int = 1,
        dt: float = 1.0,
        inputs: np.ndarray | None = None,
        outputs: np.ndarray | None = None,
    ) -> Monitor:
        """Build a monitor from arrays.

        Args:
            spikes: 0 or 1, one array (T, B, N) per layer.
            v: Membranes of the same shapes.
            n_ticks: Ticks per env step.
            dt: Length of a tick in ms.
            inputs: Spikes of the input, shape (T, B, n_inputs); None if it does not spike.
            outputs: Spikes of the output units, shape (T, B, n_outputs); None if there are none.

        Raises:
            ValueError: If the arrays do not cover the same ticks and environments, or there is none.
        """
        everything = [*spikes, *(z for z in (inputs, outputs) if z is not None)]
        if not everything or any(z.ndim != 3 or z.shape[:2] != everything[0].shape[:2] for z in everything):
            raise ValueError(
                f"spikes must be one array (T, B, N) per layer, got shapes {[z.shape for z in everything]}"
            )
        if v is not None and [u.shape for u in v] != [z.shape for z in spikes]:
            raise ValueError(f"v must have the shapes of spikes, got {[u.shape for u in v]}")
        total_ticks, n_envs = everything[0].shape[:2]
        return cls(
            layers=tuple(_spikes(z, dt) for z in spikes),
            n_neurons=tuple(z.shape[2] for z in spikes),
            n_envs=n_envs,
            total_ticks=total_ticks,
            n_ticks=n_ticks,
            dt=dt,
            v=None if v is None else tuple(v),
            input=None if inputs is None else _spikes(inputs, dt),
            output=None if outputs is None else _spikes(outputs, dt),
            n_inputs=0 if inputs is None else inputs.shape[2],
            n_outputs=0 if outputs is None else outputs.shape[2],
        )

    @property
    def n_counted(self) -> int:
        """Pairs of environment and tick, the number of chances each neuron had to spike."""
        return self.total_ticks * self.n_envs

    @property
    def spike_counts(self) -> list[np.ndarray]:
        """Spikes of each neuron over the run and all environments, one array (N,) per layer."""
        return [np.bincount(s.i, minlength=n) for s, n in zip(self.layers, self.n_neurons, strict=True)]

    @property
    def rates(self) -> list[np.ndarray]:
        """Spikes per tick of each neuron, one array (N,) per layer."""
        return [counts / self.n_counted for counts in self.spike_counts]


def _spikes(z: np.ndarray, dt: float) -> Spikes:
    tick, env, i = np.nonzero(z)
    return Spikes(i, tick * dt, env)


def per_tick(x: np.ndarray, n_ticks: int) -> np.ndarray:
    """Return an encoder's output on each tick, shape (T, B, n_channels): what it holds over a step is repeated.

    Args:
        x: Shape (L, B, n_channels), or (L, n_ticks, B, n_channels).
        n_ticks: Ticks per env step.
    """
    by_step = np.repeat(x[:, None], n_ticks, axis=1) if x.ndim == 3 else x
    return by_step.reshape(by_step.shape[0] * by_step.shape[1], *x.shape[-2:])
