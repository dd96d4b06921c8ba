"""Observations to the few input lines that spike: tiles of overlapping grids, or the place cells nearest by.

All dimensions are coded together, as by the place cells of the hippocampus: a line stands for a region of the whole
observation space, so that a single layer of plastic synapses can hold a policy that is no sum of one-dimensional ones
(Albus 1975, CMAC; Sutton 1996; Frémaux, Sprekeler & Gerstner 2013). A dimension is a component of the observation, or
the angle of two components that are its cosine and sine. Angles wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from spikeloop.spiking import checks
from spikeloop.spiking.encoders import tile_kernels


@dataclass(frozen=True)
class Dimensions:
    """The space that is coded.

    Args:
        low: Lower end of each dimension, in units of the observation; a value beyond an end is taken for the end.
        high: Upper end.
        components: What each dimension is: the index of a component, or a pair of indices of the cosine and the sine
            of an angle, whose ends must be a whole turn apart; None takes the components as they are.
        wraps: Dimensions, by their index here, in which ``high`` is the same as ``low``; pairs always are.

    Raises:
        ValueError: If lengths differ or an end is not finite or not above the other.
    """

    low: Sequence[float]
    high: Sequence[float]
    components: Sequence[int | Sequence[int]] | None = None
    wraps: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Validate and freeze the fields."""
        n = len(self.low)
        components = tuple(range(n)) if self.components is None else tuple(self.components)
        pairs = tuple(i for i, part in enumerate(components) if not isinstance(part, (int, np.integer)))
        parts = tuple(tuple(part) if i in pairs else part for i, part in enumerate(components))  # type: ignore[arg-type]
        for name, value in (("low", tuple(map(float, self.low))), ("high", tuple(map(float, self.high)))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "components", parts)
        object.__setattr__(self, "wraps", tuple(sorted({*self.wraps, *pairs})))
        if n == 0 or len(self.high) != n or len(parts) != n:
            raise ValueError(f"low, high and components must be of one length, got {n}, {len(self.high)}, {len(parts)}")
        if any(len(parts[i]) != 2 for i in pairs) or any(index < 0 for index in np.hstack(parts)):  # type: ignore[arg-type]
            raise ValueError(f"components must be indices or pairs of indices (cosine, sine), got {parts}")
        if not np.all(np.isfinite([self.low, self.high])) or np.any(np.asarray(self.high) <= self.low):
            raise ValueError(f"ends must be finite and low below high, got low {self.low} and high {self.high}")
        if any(not np.isclose(self.high[i] - self.low[i], 2 * np.pi) for i in pairs):
            raise ValueError("the ends of an angle of cosine and sine must be 2 pi apart, such as -pi and pi")
        if not all(0 <= i < n for i in self.wraps):
            raise ValueError(f"wraps must name some of the {n} dimensions, got {self.wraps}")

    @property
    def n_obs(self) -> int:
        """Number of components an observation must have, at least."""
        return 1 + int(max(np.hstack(self.components)))  # type: ignore[arg-type]

    def table(self, extent: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the kernels know of the dimensions, coded from 0 to ``extent``, shape (d,)."""
        sources = np.array([part if isinstance(part, tuple) else (part, -1) for part in self.components])  # type: ignore[union-attr]
        low, high = np.array(self.low), np.array(self.high)
        extent = extent.astype(np.float64)
        return {
            "sources": sources.astype(np.int64),
            "low": low,
            "gain": extent / (high - low),
            "extent": extent,
            "wraps": np.isin(np.arange(len(low)), self.wraps),
        }


@dataclass(frozen=True)
class Tiles:
    """Overlapping grids, in each of which the one tile that holds the observation spikes.

    Grid t of T is displaced in dimension i by ``(t (2 i + 1) mod T) / T`` of a tile. A dimension of n tiles has n + 1
    in each grid, because a displaced grid needs one more to cover it; one that wraps has n.

    Args:
        dimensions: The space.
        n_tiles: Tiles of a grid along each dimension.
        n_grids: Number of grids T, which is how many lines are active at any time.

    Raises:
        ValueError: If a number is not positive, or their number is not that of the dimensions.
    """

    dimensions: Dimensions
    n_tiles: Sequence[int]
    n_grids: int = 8

    def __post_init__(self) -> None:
        """Validate and freeze the fields."""
        object.__setattr__(self, "n_tiles", tuple(int(n) for n in self.n_tiles))
        if len(self.n_tiles) != len(self.dimensions.low) or min(self.n_tiles) < 1:
            raise ValueError(f"n_tiles must be {len(self.dimensions.low)} numbers >= 1, got {self.n_tiles}")
        if self.n_grids < 1:
            raise ValueError(f"n_grids must be at least 1, got {self.n_grids}")

    @property
    def n_active(self) -> int:
        """Number of lines that spike at any time."""
        return self.n_grids

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of lines along each dimension of a grid."""
        return tuple(n + (i not in self.dimensions.wraps) for i, n in enumerate(self.n_tiles))

    @property
    def n_inputs(self) -> int:
        """Number of lines."""
        return self.n_grids * int(np.prod(self.shape))

    @cached_property
    def table(self) -> tile_kernels.Coder:
        """The tables of the kernel."""
        n = np.array(self.n_tiles)
        grids, dims = np.ogrid[: self.n_grids, : len(n)]
        offsets = (grids * (2 * dims + 1) % self.n_grids) / self.n_grids
        sizes, centers = np.array(self.shape), np.empty((0, len(n)))
        return tile_kernels.Coder(**self.dimensions.table(n), sizes=sizes, offsets=offsets, centers=centers)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Return the lines that spike for an observation, shape (n_active,), int64."""
        return _encode(self, obs)


@dataclass(frozen=True)
class PlaceCells:
    """Cells with random centres, of which those nearest to the observation spike.

    Distances are Euclidean in units of the ranges; across the ends of a dimension that wraps they go the short way.

    Args:
        dimensions: The space.
        n_inputs: Number of cells.
        n_active: How many of them spike at any time.
        seed: Seed of the centres.

    Raises:
        ValueError: If ``n_active`` is not between 1 and ``n_inputs``.
    """

    dimensions: Dimensions
    n_inputs: int = 1000
    n_active: int = 8
    seed: int = field(default=0)

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not 1 <= self.n_active <= self.n_inputs:
            raise ValueError(f"n_active must be between 1 and n_inputs={self.n_inputs}, got {self.n_active}")

    @cached_property
    def table(self) -> tile_kernels.Coder:
        """The tables of the kernel."""
        n = len(self.dimensions.low)
        centers = np.random.default_rng(self.seed).random((self.n_inputs, n))
        sizes, offsets = np.empty(0, np.int64), np.empty((self.n_active, 0))
        return tile_kernels.Coder(**self.dimensions.table(np.ones(n)), sizes=sizes, offsets=offsets, centers=centers)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Return the cells that spike for an observation, shape (n_active,), int64, nearest first."""
        return _encode(self, obs)


def _encode(coder: Tiles | PlaceCells, obs: np.ndarray) -> np.ndarray:
    obs = np.asarray(checks.real("an observation", obs), dtype=np.float64).reshape(-1)
    if np.isnan(obs).any() or (coder.dimensions.wraps and np.isinf(obs).any()):  # elsewhere infinity is an end
        checks.finite("an observation", obs)
    if len(obs) < coder.dimensions.n_obs:
        raise ValueError(f"an observation needs {coder.dimensions.n_obs} components or more, got {len(obs)}")
    active = np.empty(coder.n_active, np.int64)
    tile_kernels.encode(coder.table, obs, active)
    return active
