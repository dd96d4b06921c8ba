"""Encoders whose input is a value held over the whole env step: the observation itself, or tuning curves of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spikeloop.spiking.fields import array_of, set_fields, whole
from spikeloop.spiking.observation import MAX_OBS


@dataclass(frozen=True, eq=False)
class Direct:
    """The observation itself, as a current that is held over the step.

    Args:
        n_obs: Length of the observation vector.

    Raises:
        ValueError: If it is not a whole number of at least 1.

    >>> Direct(4).n_channels
    4
    """

    kind: ClassVar[str] = "direct"
    held: ClassVar[bool] = True
    spikes: ClassVar[bool] = False
    identity: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    obs_dtype: ClassVar[type] = np.float32
    memory_rows: ClassVar[tuple[str, ...]] = ()
    expected: ClassVar[None] = None
    covered: ClassVar[None] = None

    n_obs: int

    def __post_init__(self) -> None:
        """Validate the field."""
        set_fields(self, n_obs=whole("Direct", "n_obs", self.n_obs, 1, MAX_OBS))

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray) -> Direct:
        """Return the encoder of as many values; where they lie is no matter to it."""
        return cls(len(low))

    @property
    def n_channels(self) -> int:
        """Number of inputs that the first layer sees."""
        return self.n_obs

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: it sees with any number of ticks."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return an array without rows: it remembers nothing."""
        return np.zeros((0, n_envs, self.n_obs), np.float32)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the observations as they are."""
        return obs, memory


@dataclass(frozen=True, eq=False)
class Population:
    """Gaussian tuning curves of each value, held over the step (Eliasmith & Anderson 2003; Tang et al. 2020, PopSAN).

    ``exp(-((x - center) / width)^2 / 2)``, all centres of value 0, then of value 1, and so on.

    Args:
        n_obs: Length of the observation vector.
        centers: Shape (n_obs, n), in units of the observation.
        widths: Standard deviations, shape (n_obs, n), > 0.

    Raises:
        ValueError: If a shape is wrong or a width is not positive.

    >>> encoder = Population.over(np.array([-1.0]), np.array([1.0]), n=3)
    >>> encoder.centers.tolist(), encoder.widths.tolist()
    ([[-1.0, 0.0, 1.0]], [[1.0, 1.0, 1.0]])
    """

    kind: ClassVar[str] = "population"
    held: ClassVar[bool] = True
    spikes: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    obs_dtype: ClassVar[type] = np.float32
    memory_rows: ClassVar[tuple[str, ...]] = ()
    expected: ClassVar[None] = None

    n_obs: int
    centers: np.ndarray
    widths: np.ndarray

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "Population"
        n = whole(me, "n_obs", self.n_obs, 1, MAX_OBS)
        centers = array_of(me, "centers", self.centers, (n, None))
        if centers.size == 0:
            raise ValueError("Population.centers must have at least one neuron per observation")
        widths = array_of(me, "widths", self.widths, centers.shape)
        if np.any(widths <= 0):
            raise ValueError(f"Population.widths must be > 0, found {widths.min()}")
        set_fields(self, n_obs=n, centers=centers, widths=widths)

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, *, n: int = 10) -> Population:
        """Return ``n`` curves for each value, spread evenly from ``low`` to ``high``, both of shape (n_obs,).

        Raises:
            ValueError: If there are fewer than 2.
        """
        if int(n) < 2:
            raise ValueError(f"encoder option n must be at least 2, got {n}")
        centers = np.linspace(low, high, int(n), axis=1)
        # Neighbouring curves cross at exp(-1/2) of their peak when the width is half the distance.
        widths = np.repeat(((high - low) / (int(n) - 1))[:, None], int(n), axis=1)
        return cls(len(low), centers.astype(np.float32), widths)

    @property
    def n_channels(self) -> int:
        """Number of inputs that the first layer sees."""
        return self.centers.size

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray] | None:
        """From where to where a value, shape (n_obs,), excites a neuron: there a curve has fallen to exp(-8)."""
        margin = 4 * self.widths
        return (self.centers - margin).min(axis=1), (self.centers + margin).max(axis=1)

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: it sees with any number of ticks."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return an array without rows: it remembers nothing."""
        return np.zeros((0, n_envs, self.n_obs), np.float32)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tuning curves, shape (L, B, n_channels), computed in float64 and rounded once."""
        # numpy may take another exp for strided arrays, with other last bits; this one is contiguous by construction.
        u = obs.astype(np.float64)[..., None] - self.centers  # (L, B, n_obs, n)
        u /= self.widths
        u *= u
        u *= -0.5
        return np.exp(u).astype(np.float32).reshape(*obs.shape[:2], self.n_channels), memory
