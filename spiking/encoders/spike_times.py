"""Observations that say themselves when each input line spikes, and axons on which a spike travels for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spikeloop.spiking.fields import array_of, set_fields, whole
from spikeloop.spiking.limits import MAX_TIME
from spikeloop.spiking.observation import MAX_OBS


@dataclass(frozen=True, eq=False)
class SpikeTimes:
    """One spike of each line, at the time in ms that the observation says, counted from the beginning of the env step.

    A line has one axon for each delay, with synapses of its own: the first layer sees ``len(delays)`` copies of every
    line, which lets a neuron compare a spike with one that came earlier. What would arrive before the step or after it
    does not arrive at all.

        1 on tick k where  k dt <= t_i + delay < (k + 1) dt,  else 0        t_i >= 0: observation of line i

    Args:
        n_obs: Number of lines.
        delays: How long a spike travels on each axon, in ms, shape (n_axons,), >= 0.

    Raises:
        ValueError: If a shape is wrong or a number out of range.

    >>> encoder = SpikeTimes(2, delays=[0.0, 2.0])
    >>> x, _ = encoder(np.array([[[0.3, 2.0]]], np.float32), np.zeros((0, 1, 2)), None, n_ticks=4, dt=1.0)
    >>> x[0, :, 0].T.tolist()  # both lines without delay, then both with 2 ms, of which the second comes too late
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """

    kind: ClassVar[str] = "spike_times"
    held: ClassVar[bool] = False
    spikes: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float32
    memory_rows: ClassVar[tuple[str, ...]] = ()
    expected: ClassVar[None] = None
    covered: ClassVar[None] = None

    n_obs: int
    delays: np.ndarray = (0.0,)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Validate the fields and make the array read-only."""
        me = "SpikeTimes"
        delays = array_of(me, "delays", self.delays, (None,))
        if delays.size == 0 or np.any((delays < 0) | (delays > MAX_TIME)):
            raise ValueError(f"{me}.delays must be at least one time within 0 and {MAX_TIME:g} ms, got {self.delays}")
        set_fields(self, n_obs=whole(me, "n_obs", self.n_obs, 1, MAX_OBS), delays=delays)

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, *, delays: tuple[float, ...] = (0.0,)) -> SpikeTimes:
        """Return the encoder of as many lines; between which ends their times lie is no matter to it."""
        return cls(len(low), delays)  # type: ignore[arg-type]

    @property
    def n_channels(self) -> int:
        """Number of inputs that the first layer sees: all lines with the first delay, then all with the next."""
        return self.n_obs * self.delays.size

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Say why it can never spike within an env step, and what would mend it; None if it can."""
        if self.delays.min() < n_ticks * dt:
            return None
        shortest = self.delays.min()
        return (
            f"with n_ticks={n_ticks} and dt={dt} no spike arrives: the shortest of delays is {shortest:g} ms, which "
            f"needs n_ticks > {shortest / dt:g}"
        )

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return an array without rows: it remembers nothing."""
        return np.zeros((0, n_envs, self.n_obs), np.float32)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the spikes, shape (L, n_ticks, B, n_channels)."""
        times = np.where(obs < 0, np.inf, obs)[..., None, :] + self.delays.astype(np.float64)[:, None]
        arrives = np.floor(times / dt).reshape(*obs.shape[:2], self.n_channels)  # (L, B, n_channels)
        return (arrives[:, None] == np.arange(n_ticks)[:, None, None]).astype(np.float32), memory
