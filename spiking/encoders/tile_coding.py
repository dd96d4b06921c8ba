"""Observations to the few input lines that spike: tiles of overlapping grids, or the place cells nearest by.

All dimensions are coded together, as by the place cells of the hippocampus: a line stands for a region of the whole
observation space, so that a single layer of plastic synapses can hold a policy that is no sum of one-dimensional ones
(Albus 1975, CMAC; Sutton 1996; Frémaux, Sprekeler & Gerstner 2013). A dimension is a component of the observation, or
the angle of two components that are its cosine and sine. Angles wrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spikeloop.spiking import checks
from spikeloop.spiking.encoders.dimensions import Dimensions
from spikeloop.spiking.fields import check_part, set_fields, whole, wholes

if TYPE_CHECKING:
    from spikeloop.spiking.encoders import tile_kernels

MAX_LINES = 5_000_000  # beyond, a space has too many dimensions for grids over all of them


@dataclass(frozen=True)
class Tiles:
    """Overlapping grids, in each of which the one tile that holds the observation spikes, on every tick of the step.

    Grid t of T is displaced in dimension i by ``(t (2 i + 1) mod T) / T`` of a tile. A dimension of n tiles has n + 1
    in each grid, because a displaced grid needs one more to cover it; one that wraps has n.

    Args:
        dimensions: The space.
        n_tiles: Tiles of a grid along each dimension.
        n_grids: Number of grids T, which is how many lines are active at any time.

    Raises:
        ValueError: If a number is not positive, their number is not that of the dimensions, or there are too many
            lines.

    Two grids of two tiles, three of which each grid needs, so that there are six lines:

    >>> tiles = Tiles(Dimensions(low=[0.0], high=[1.0]), n_tiles=[2], n_grids=2)
    >>> tiles.n_channels, tiles.lines(np.array([0.3])).tolist(), tiles.lines(np.array([0.45])).tolist()
    (6, [0, 4], [0, 4])
    """

    kind: ClassVar[str] = "tiles"
    held: ClassVar[bool] = True
    spikes: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float64
    memory_rows: ClassVar[tuple[str, ...]] = ()

    dimensions: Dimensions
    n_tiles: Sequence[int]
    n_grids: int = 8

    def __post_init__(self) -> None:
        """Validate and freeze the fields."""
        check_part("Tiles", "dimensions", self.dimensions, Dimensions)
        n_dims = len(self.dimensions.low)
        n_tiles = wholes("Tiles", "n_tiles", self.n_tiles, 1, MAX_LINES)
        if len(n_tiles) != n_dims:
            raise ValueError(f"Tiles.n_tiles must be {n_dims} numbers >= 1, got {n_tiles}")
        set_fields(self, n_tiles=n_tiles, n_grids=whole("Tiles", "n_grids", self.n_grids, 1, MAX_LINES))
        if self.n_channels > MAX_LINES:
            least, most = min(n_tiles), max(n_tiles)
            along = f"{most} tiles" if least == most else f"{least} to {most} tiles"
            raise ValueError(
                f"Tiles must make {MAX_LINES:,} input lines at most: {along} along each of {n_dims} dimensions in "
                f"{self.n_grids} grids make {float(self.n_channels):.3g}; fewer n_tiles, or encoder 'places'"
            )

    @classmethod
    def over(
        cls,
        low: np.ndarray,
        high: np.ndarray,
        *,
        n_tiles: int | Sequence[int] = 6,
        n_grids: int = 8,
        components: Sequence[int | Sequence[int]] | None = None,
        wraps: Sequence[int] = (),
    ) -> Tiles:
        """Return grids over observations from ``low`` to ``high``, both of shape (n_obs,).

        Args:
            low: Lower end of each component.
            high: Upper end.
            n_tiles: Tiles along each dimension, or one number for all.
            n_grids: Number of grids.
            components: As in :class:`Dimensions`; an angle of cosine and sine goes from -pi to pi.
            wraps: As in :class:`Dimensions`.
        """
        dimensions = Dimensions.over(low, high, components, wraps)
        each = [n_tiles] * len(dimensions.low) if isinstance(n_tiles, int) else n_tiles
        return cls(dimensions, each, n_grids)

    @property
    def n_obs(self) -> int:
        """Length of the observation vector."""
        return self.dimensions.n_obs

    @property
    def n_active(self) -> int:
        """Number of lines that spike at any time."""
        return self.n_grids

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of lines along each dimension of a grid."""
        return tuple(n + (i not in self.dimensions.wraps) for i, n in enumerate(self.n_tiles))

    @property
    def n_channels(self) -> int:
        """Number of lines."""
        return self.n_grids * math.prod(self.shape)

    @property
    def n_inputs(self) -> int:
        """Number of lines, under the name that :class:`PlaceCells` gives it."""
        return self.n_channels

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """From where to where each component is expected to lie, two arrays of shape (n_obs,)."""
        return self.dimensions.expected

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """Far beyond these bounds, each of shape (n_obs,), an observation is taken for an end."""
        return self.dimensions.covered

    @cached_property
    def table(self) -> tile_kernels.Coder:
        """The tables of the kernel."""
        from spikeloop.spiking.encoders import tile_kernels  # here: a network is a value without numba

        n = np.array(self.n_tiles)
        grids, dims = np.ogrid[: self.n_grids, : len(n)]
        offsets = (grids * (2 * dims + 1) % self.n_grids) / self.n_grids
        sizes, centers = np.array(self.shape), np.empty((0, len(n)))
        return tile_kernels.Coder(**self.dimensions.table(n), sizes=sizes, offsets=offsets, centers=centers)

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: it sees with any number of ticks."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return an array without rows: it remembers nothing."""
        return np.zeros((0, n_envs, self.n_obs), np.float32)

    def lines(self, obs: np.ndarray) -> np.ndarray:
        """Return the lines that spike for one observation, ascending, shape (n_active,), int64."""
        return _lines(self, obs)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the lines' spikes, the same on every tick, shape (L, B, n_channels)."""
        return spikes_of(self.table, obs, self.n_channels), memory


@dataclass(frozen=True)
class PlaceCells:
    """Cells with random centres, of which those nearest to the observation spike, on every tick of the step.

    Distances are Euclidean in units of the ranges; across the ends of a dimension that wraps they go the short way.

    Args:
        dimensions: The space.
        n_inputs: Number of cells.
        n_active: How many of them spike at any time.
        seed: Seed of the centres.

    Raises:
        ValueError: If ``n_active`` is not between 1 and ``n_inputs``, or a number is out of range.

    >>> cells = PlaceCells(Dimensions(low=[0.0], high=[1.0]), n_inputs=100, n_active=3)
    >>> cells(np.array([[[0.5]]]), np.zeros((0, 1, 1)), None, n_ticks=1, dt=1.0)[0].sum().item()
    3.0
    """

    kind: ClassVar[str] = "places"
    held: ClassVar[bool] = True
    spikes: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float64
    memory_rows: ClassVar[tuple[str, ...]] = ()

    dimensions: Dimensions
    n_inputs: int = 1000
    n_active: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "PlaceCells"
        check_part(me, "dimensions", self.dimensions, Dimensions)
        set_fields(
            self,
            n_inputs=whole(me, "n_inputs", self.n_inputs, 1, MAX_LINES),
            n_active=whole(me, "n_active", self.n_active, 1, MAX_LINES),
            seed=whole(me, "seed", self.seed, 0, 2**63 - 1),
        )
        if self.n_active > self.n_inputs:
            raise ValueError(f"n_active must be between 1 and n_inputs={self.n_inputs}, got {self.n_active}")

    @classmethod
    def over(
        cls,
        low: np.ndarray,
        high: np.ndarray,
        *,
        n_inputs: int = 1000,
        n_active: int = 8,
        seed: int = 0,
        components: Sequence[int | Sequence[int]] | None = None,
        wraps: Sequence[int] = (),
    ) -> PlaceCells:
        """Return cells over observations from ``low`` to ``high``, both of shape (n_obs,).

        Args:
            low: Lower end of each component.
            high: Upper end.
            n_inputs: Number of cells.
            n_active: How many of them spike at any time.
            seed: Seed of the centres.
            components: As in :class:`Dimensions`; an angle of cosine and sine goes from -pi to pi.
            wraps: As in :class:`Dimensions`.
        """
        return cls(Dimensions.over(low, high, components, wraps), n_inputs, n_active, seed)

    @property
    def n_obs(self) -> int:
        """Length of the observation vector."""
        return self.dimensions.n_obs

    @property
    def n_channels(self) -> int:
        """Number of cells."""
        return self.n_inputs

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """From where to where each component is expected to lie, two arrays of shape (n_obs,)."""
        return self.dimensions.expected

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """Far beyond these bounds, each of shape (n_obs,), an observation is taken for an end."""
        return self.dimensions.covered

    @cached_property
    def table(self) -> tile_kernels.Coder:
        """The tables of the kernel."""
        from spikeloop.spiking.encoders import tile_kernels  # here: a network is a value without numba

        n = len(self.dimensions.low)
        centers = np.random.default_rng(self.seed).random((self.n_inputs, n))
        sizes, offsets = np.empty(0, np.int64), np.empty((self.n_active, 0))
        return tile_kernels.Coder(**self.dimensions.table(np.ones(n)), sizes=sizes, offsets=offsets, centers=centers)

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: it sees with any number of ticks."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return an array without rows: it remembers nothing."""
        return np.zeros((0, n_envs, self.n_obs), np.float32)

    def lines(self, obs: np.ndarray) -> np.ndarray:
        """Return the cells that spike for one observation, ascending, shape (n_active,), int64."""
        return _lines(self, obs)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells' spikes, the same on every tick, shape (L, B, n_channels)."""
        return spikes_of(self.table, obs, self.n_channels), memory


def spikes_of(table: Any, obs: np.ndarray, n_channels: int) -> np.ndarray:
    """Return the spikes of so many lines, shape (L, B, n_channels), for observations of shape (L, B, n_obs)."""
    from spikeloop.spiking.encoders import tile_kernels

    x = np.zeros((*obs.shape[:2], n_channels), np.float32)
    tile_kernels.spikes(table, obs.reshape(-1, obs.shape[2]), len(table.offsets), x.reshape(-1, n_channels))
    return x


def _lines(coder: Tiles | PlaceCells, obs: np.ndarray) -> np.ndarray:
    from spikeloop.spiking.encoders import tile_kernels

    obs = np.asarray(checks.real("an observation", obs), dtype=np.float64).reshape(-1)
    if np.isnan(obs).any() or (coder.dimensions.wraps and np.isinf(obs).any()):  # elsewhere infinity is an end
        checks.finite("an observation", obs)
    if len(obs) < coder.dimensions.n_obs:
        raise ValueError(f"an observation needs {coder.dimensions.n_obs} components or more, got {len(obs)}")
    active = np.empty(coder.n_active, np.int64)
    tile_kernels.encode(coder.table, obs, active)
    return active
