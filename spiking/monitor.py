"""What a run did: spikes of each layer as Brian2's monitors hold them (``.i``, ``.t``), and membranes if recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Spikes(NamedTuple):
    """Spikes of one layer in order of time, one entry each."""

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
    """

    layers: tuple[Spikes, ...]
    n_neurons: tuple[int, ...]
    n_envs: int
    total_ticks: int
    n_ticks: int = 1
    dt: float = 1.0
    v: tuple[np.ndarray, ...] | None = None

    @classmethod
    def from_dense(
        cls, spikes: Sequence[np.ndarray], v: Sequence[np.ndarray] | None = None, n_ticks: int = 1, dt: float = 1.0
    ) -> Monitor:
        """Build a monitor from arrays.

        Args:
            spikes: 0 or 1, one array (T, B, N) per layer.
            v: Membranes of the same shapes.
            n_ticks: Ticks per env step.
            dt: Length of a tick in ms.

        Raises:
            ValueError: If the arrays do not cover the same ticks and environments.
        """
        if not spikes or any(z.ndim != 3 or z.shape[:2] != spikes[0].shape[:2] for z in spikes):
            raise ValueError(f"spikes must be one array (T, B, N) per layer, got shapes {[z.shape for z in spikes]}")
        if v is not None and [u.shape for u in v] != [z.shape for z in spikes]:
            raise ValueError(f"v must have the shapes of spikes, got {[u.shape for u in v]}")
        total_ticks, n_envs = spikes[0].shape[:2]
        found = [np.nonzero(z) for z in spikes]
        return cls(
            layers=tuple(Spikes(i, tick * dt, env) for tick, env, i in found),
            n_neurons=tuple(z.shape[2] for z in spikes),
            n_envs=n_envs,
            total_ticks=total_ticks,
            n_ticks=n_ticks,
            dt=dt,
            v=None if v is None else tuple(v),
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

    @property
    def mean_rates(self) -> list[float]:
        """Spikes per neuron and tick of each layer."""
        return [float(rates.mean()) for rates in self.rates]
