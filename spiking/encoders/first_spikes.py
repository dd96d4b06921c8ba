"""A code of first spikes: two inputs for each value; one spikes early if it is large, the other if it is small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from spikeloop.spiking.fields import array_of, number, set_fields, whole
from spikeloop.spiking.limits import MAX_TIME
from spikeloop.spiking.observation import MAX_OBS


@dataclass(frozen=True, eq=False)
class FirstSpikes:
    """The exact times of input spikes, one of each input in an env step, as layers of exact spike times take them.

    ``t = t_last/2 (1 - tanh((x - middle) / scale))`` for each value x, and behind all of these
    ``t_last/2 (1 + tanh(...))``: the larger x is, the earlier the first input spikes, and the later the second. Layers
    that run in ticks take these numbers as currents.

    Args:
        n_obs: Length of the observation vector.
        middle: Values for which both inputs spike at t_last/2, shape (n_obs,).
        scale: How wide the range of values with different times is, in units of the observation, shape (n_obs,), > 0.
        t_last: When the latest spikes come, in ms.

    Raises:
        ValueError: If a shape is wrong or a number out of range.

    >>> encoder = FirstSpikes(1, middle=[0.0], scale=[1.0], t_last=1.0)
    >>> times, _ = encoder(np.array([[[0.5]]], np.float32), np.zeros((0, 1, 1)), None, n_ticks=1, dt=5.0)
    >>> [round(t, 3) for t in times[0, 0].tolist()]
    [0.269, 0.731]
    """

    kind: ClassVar[str] = "first_spikes"
    held: ClassVar[bool] = True
    spikes: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float32
    memory_rows: ClassVar[tuple[str, ...]] = ()

    n_obs: int
    middle: np.ndarray
    scale: np.ndarray
    t_last: float = 1.5

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "FirstSpikes"
        n = whole(me, "n_obs", self.n_obs, 1, MAX_OBS)
        middle, scale = (array_of(me, name, getattr(self, name), (n,)) for name in ("middle", "scale"))
        if np.any(scale <= 0):
            raise ValueError(f"{me}.scale must be > 0, found {scale.min()}")
        set_fields(self, n_obs=n, middle=middle, scale=scale, t_last=number(me, "t_last", self.t_last, 1e-9, MAX_TIME))

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, *, t_last: float = 1.5) -> Self:
        """Return the code whose times change most in the middle third between two ends, both of shape (n_obs,)."""
        return cls(len(low), (low + high) / 2, (high - low) / 6, t_last)

    @property
    def n_channels(self) -> int:
        """Number of inputs that the first layer sees."""
        return 2 * self.n_obs

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """Range in which values are expected, two arrays (n_obs,)."""
        return self.middle - 3 * self.scale, self.middle + 3 * self.scale

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds, two arrays (n_obs,), beyond which a value has almost always the same times."""
        return self.middle - 5 * self.scale, self.middle + 5 * self.scale

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: whether a layer can answer its times is for the layer to check."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return an array without rows: it remembers nothing."""
        return np.zeros((0, n_envs, self.n_obs), np.float32)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the times in ms, shape (L, B, n_channels), computed in float64 and rounded once."""
        s = np.tanh((obs.astype(np.float64) - self.middle) / self.scale)
        times = np.concatenate((1.0 - s, 1.0 + s), axis=2)
        return (0.5 * self.t_last * times).astype(np.float32), memory
