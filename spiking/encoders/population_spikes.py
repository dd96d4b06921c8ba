"""Random spikes of tuning curves: the nearer a value is to a neuron's centre, the more often the neuron spikes.

    p = exp(-((x - center) / width)^2 / 2)      for each value x and each of its centres
    1 where u < p, new on every tick            Bernoulli, u from the key in the packed state

Rosenfeld, Simeone & Rajendran (2019) feed probabilistic networks with such a rate code of Gaussian tuning curves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from spikeloop.spiking.encoders import keys
from spikeloop.spiking.encoders.values import Population
from spikeloop.spiking.fields import array_of, number, set_fields, whole
from spikeloop.spiking.observation import MAX_OBS

if TYPE_CHECKING:
    from spikeloop.spiking.encoders.population_kernels import Curves


@dataclass(frozen=True, eq=False)
class PopulationSpikes:
    """Gaussian tuning curves of each value as spike probabilities of a tick.

    All centres of value 0 come first, then those of value 1, and so on.

    Args:
        n_obs: Length of the observation vector.
        centers: Shape (n_obs, n), in units of the observation.
        widths: Standard deviations, shape (n_obs, n), > 0.
        clips: Whether a value beyond the outermost centres is taken for the nearest of them. If not, a value far beyond
            them makes no spikes.

    Raises:
        ValueError: If a shape is wrong or a width is not positive.

    >>> encoder = PopulationSpikes.over(np.array([-1.0]), np.array([1.0]), n=3)
    >>> memory = encoder.initial_memory(1, np.random.default_rng(0))
    >>> x, memory = encoder(np.zeros((1, 1, 1), np.float32), memory, None, n_ticks=100, dt=1.0)
    >>> x[0, :, 0].sum(axis=0).tolist()  # the middle neuron on every tick, the others with probability exp(-1/2)
    [65.0, 100.0, 67.0]
    """

    kind: ClassVar[str] = "population_spikes"
    held: ClassVar[bool] = False
    spikes: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float32
    memory_rows: ClassVar[tuple[str, ...]] = ("key",)

    n_obs: int
    centers: np.ndarray
    widths: np.ndarray
    clips: bool = True

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "PopulationSpikes"
        n = whole(me, "n_obs", self.n_obs, 1, MAX_OBS)
        centers = array_of(me, "centers", self.centers, (n, None))
        if centers.size == 0:
            raise ValueError(f"{me}.centers must have at least one neuron per observation")
        widths = array_of(me, "widths", self.widths, centers.shape)
        if np.any(widths <= 0):
            raise ValueError(f"{me}.widths must be > 0, found {widths.min()}")
        set_fields(self, n_obs=n, centers=centers, widths=widths)

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, *, n: int = 10, width: float = 1.0) -> PopulationSpikes:
        """Return ``n`` curves for each value from ``low`` to ``high``, widths in units of the centres' distance.

        Raises:
            ValueError: If there are fewer than 2 curves, or the width is not positive.
        """
        curves = Population.over(low, high, n=n)
        width = number("PopulationSpikes", "width", width, 1e-6, 1e6)
        return cls(len(low), curves.centers, (width * curves.widths).astype(np.float32))

    @property
    def n_channels(self) -> int:
        """Number of inputs that the first layer sees."""
        return self.centers.size

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Range in which values are expected, from the lowest to the highest centre; None if there is only one."""
        low, high = self.centers.min(axis=1), self.centers.max(axis=1)
        return (low, high) if np.all(low < high) else None

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds, shape (n_obs,), beyond which a value is clipped or makes no spikes."""
        margin = 4 * self.widths
        return (self.centers - margin).min(axis=1), (self.centers + margin).max(axis=1)

    @cached_property
    def table(self) -> Curves:
        """What the kernel reads (:mod:`spikeloop.spiking.encoders.population_kernels`)."""
        from spikeloop.spiking.encoders.population_kernels import Curves  # here: a network is a value without numba

        centers, widths = self.centers.astype(np.float64), self.widths.astype(np.float64)
        return Curves(centers, widths, np.array([self.clips]))

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: it may spike within any number of ticks."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the start keys, whole numbers below 2^24: memory of shape (1, n_envs, n_obs), the key in its first."""
        return keys.initial_memory(n_envs, self.n_obs, rng)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the spikes, shape (L, n_ticks, B, n_channels), and the memory after the last step.

        Raises:
            ValueError: If a key is none.
        """
        centers, widths = self.centers.astype(np.float64), self.widths.astype(np.float64)
        value = obs.astype(np.float64)[..., None]  # (L, B, n_obs, 1)
        if self.clips:
            value = np.clip(value, centers.min(axis=1, keepdims=True), centers.max(axis=1, keepdims=True))
        z = (value - centers) / widths
        p = np.exp(-0.5 * z * z).reshape(*obs.shape[:2], self.n_channels)
        u, memory = keys.uniforms(memory, len(obs), n_ticks, self.n_channels)
        return (u < p[:, None]).astype(np.float32), memory
