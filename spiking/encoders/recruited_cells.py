"""Place cells that recruit themselves: no ranges and no tiles, a new cell stands where no other is near.

What an observation x shows is measured in units of the random play that learning begins with, and the farther it is
from there, the more coarsely:

    p_i = asinh((x_i - mean_i) / sd_i)                          mean, sd: of the first ``n_measured`` observations
    r_s: ``share`` / 4^s of their pairs are nearer than that
    of each size s the ``n_active`` cells nearest to p spike
    if the nearest of size s is farther away than r_s, a cell is recruited at p and spikes in place of the farthest

Until then no cell spikes, so that noise alone chooses the actions: this is the random play. Large cells generalise,
small ones tell apart, as along the axis of the hippocampus (Kjelstrup et al. 2008). A radius that is a quantile of
distances suits any number of dimensions, of which fixed lengths know nothing: what random play fills takes about as
many cells in two dimensions as in six, and about four times as many of the next size. Recruiting where no prototype is
near is Platt's (1991) resource-allocating network without its gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spikeloop.spiking import checks
from spikeloop.spiking.encoders.tile_coding import MAX_LINES, spikes_of
from spikeloop.spiking.fields import array_of, number, set_fields, whole, wholes
from spikeloop.spiking.observation import MAX_OBS

if TYPE_CHECKING:
    from spikeloop.spiking.encoders import cell_kernels


@dataclass(frozen=True, eq=False)
class RecruitedCells:
    """Place cells as they were recruited; nothing is recruited any more.

    Args:
        centers: Where they are, in units of the code, shape (n_cells, n_obs); map by map: those of one size after the
            other, then those of one pair of numbers after the other, which have their two numbers first, then 0.
        sizes: How many there are of each map.
        mean: What is coded as 0, shape (n_obs,).
        sd: The unit of each number of the observation, shape (n_obs,).
        n_active: How many cells of each size spike at any time, or all of a size that has fewer.
        n_active_pairs: How many cells of each pair of numbers spike at any time; 0 if there are none of pairs.

    Raises:
        ValueError: If shapes do not fit, a number is not finite, or a unit is not positive.

    >>> cells = RecruitedCells([[-1.0], [0.0], [1.0]], sizes=[3], mean=[0.0], sd=[2.0], n_active=1)
    >>> [cells.lines(np.array([x])).tolist() for x in (-9.0, 0.5, 2.0)]  # asinh(x / 2) is -2.2, 0.25 and 0.88
    [[0], [1], [2]]
    """

    kind: ClassVar[str] = "recruited"
    held: ClassVar[bool] = True
    spikes: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float64
    memory_rows: ClassVar[tuple[str, ...]] = ()
    covered: ClassVar[None] = None

    centers: np.ndarray
    sizes: tuple[int, ...]
    mean: np.ndarray
    sd: np.ndarray
    n_active: int = 4
    n_active_pairs: int = 0

    def __post_init__(self) -> None:
        """Validate and freeze the fields."""
        me = "RecruitedCells"
        centers = array_of(me, "centers", self.centers, (None, None), np.float64)
        n_cells, n_obs = centers.shape
        whole(me, "centers.shape[0]", n_cells, 1, MAX_LINES)
        whole(me, "centers.shape[1]", n_obs, 1, MAX_OBS)
        sizes = wholes(me, "sizes", self.sizes, 0, MAX_LINES)
        if sum(sizes) != n_cells:
            raise ValueError(f"{me}.sizes must add up to {n_cells} cells, got {sizes}")
        sd = array_of(me, "sd", self.sd, (n_obs,), np.float64)
        if not np.all(sd > 0):
            raise ValueError(f"{me}.sd must be > 0, got {sd.min()}")
        set_fields(
            self,
            centers=centers,
            sizes=sizes,
            mean=array_of(me, "mean", self.mean, (n_obs,), np.float64),
            sd=sd,
            n_active=whole(me, "n_active", self.n_active, 1, MAX_LINES),
            n_active_pairs=whole(me, "n_active_pairs", self.n_active_pairs, 0, MAX_LINES),
        )
        if len(sizes) <= (n_pairs := len(_pairs(n_obs, self.n_active_pairs))):
            raise ValueError(f"{me}.sizes must have more than {n_pairs} numbers, one per pair, got {len(sizes)}")

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, *, seed: int = 0, **options: Any) -> RecruitedCells:
        """Return cells that were recruited by random observations between two ends, each of shape (n_obs,).

        Args:
            low: Lower end of each component.
            high: Upper end.
            seed: Seed of the observations, of which there are twice as many as are measured.
            options: Arguments of :class:`RecruitingCells`.
        """
        cells = RecruitingCells(len(low), **{"n_inputs": 300, "n_measured": 100, **options})
        for obs in np.random.default_rng(seed).uniform(low, high, (2 * len(cells.cells.seen), len(low))):
            cells.lines(obs, learning=True)
        return cells.recruited()[0]

    @property
    def n_obs(self) -> int:
        """Length of the observation vector."""
        return self.centers.shape[1]

    @property
    def n_channels(self) -> int:
        """Number of cells."""
        return self.centers.shape[0]

    @property
    def n_inputs(self) -> int:
        """Number of cells, under the name that the other codes of lines give it."""
        return self.n_channels

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """From where to where each component is expected to lie, two arrays of shape (n_obs,): two deviations."""
        return self.mean - 2 * self.sd, self.mean + 2 * self.sd

    @cached_property
    def table(self) -> cell_kernels.Cells:
        """The tables of the kernel."""
        sizes = np.array(self.sizes, np.int64)
        return _table(
            np.array(self.centers), sizes, sizes, np.array(self.mean), np.array(self.sd), self.n_active,
            self.n_active_pairs,
        )  # fmt: skip

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: it sees with any number of ticks."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return an array without rows: it remembers nothing."""
        return np.zeros((0, n_envs, self.n_obs), np.float32)

    def lines(self, obs: np.ndarray) -> np.ndarray:
        """Return the cells that spike for one observation, ascending, int64, shape (n,)."""
        return _lines(self.table, obs, self.n_obs, learning=False)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells' spikes, the same on every tick, shape (L, B, n_channels)."""
        return spikes_of(self.table, obs, self.n_channels), memory


class RecruitingCells:
    """Place cells while a policy learns: they begin with none, measure random play, and recruit.

    All arrays have their final shapes from the beginning, and so has the network that the lines lead to.

    Args:
        n_obs: Length of the observation vector.
        n_inputs: How many cells that see all numbers there can be, a multiple of the number of sizes. Where all of a
            size are used up, the nearest spike however far they are.
        n_active: How many cells of each size spike at any time.
        n_sizes: Number of sizes.
        share: Largest radius: so large a share of the pairs of measured observations are nearer to each other. Of the
            next size it is a quarter of that, and so on, which in a plane is half of the radius.
        n_measured: Observations that are measured before there are cells.
        n_active_pairs: How many cells of each pair of numbers spike at any time; 0 for no such cells. Two numbers or
            fewer have none beside those that see all.
        n_inputs_pair: How many cells of each pair there can be.
        pair_share: ``share`` of the radius of each pair.

    Attributes:
        n_inputs: How many cells there can be, those of pairs among them.
        table: The tables of the kernel, which writes what is learnt into them.

    Raises:
        ValueError: If a number is out of range.

    >>> cells = RecruitingCells(2, n_inputs=30, n_measured=10)
    >>> rng = np.random.default_rng(0)
    >>> [len(cells.lines(obs, learning=True)) for obs in rng.normal(size=(12, 2))]
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 6]
    >>> len(cells.lines(np.zeros(2))), cells.n_recruited  # without learning none are recruited
    (6, 6)
    """

    def __init__(
        self,
        n_obs: int,
        n_inputs: int = 6000,
        n_active: int = 4,
        n_sizes: int = 3,
        share: float = 0.05,
        n_measured: int = 500,
        n_active_pairs: int = 0,
        n_inputs_pair: int = 300,
        pair_share: float = 0.02,
    ):
        me = "encoder 'auto'"
        n_obs = whole(me, "n_obs", n_obs, 1, MAX_OBS)
        n_sizes = whole(me, "n_sizes", n_sizes, 1, 20)
        n_inputs = whole(me, "n_inputs", n_inputs, n_sizes, MAX_LINES)
        if n_inputs % n_sizes:
            raise ValueError(f"{me}.n_inputs must be a multiple of {n_sizes} sizes, got {n_inputs}")
        self.n_active = whole(me, "n_active", n_active, 1, n_inputs // n_sizes)
        share = number(me, "share", share, 0.0, 0.999)
        n_measured = whole(me, "n_measured", n_measured, 2, 5000)  # pairs are counted one by one
        n_inputs_pair = whole(me, "n_inputs_pair", n_inputs_pair, 1, MAX_LINES)
        self.n_active_pairs = whole(me, "n_active_pairs", n_active_pairs, 0, n_inputs_pair)
        pair_share = number(me, "pair_share", pair_share, 0.0, 0.999)
        n_pairs = len(_pairs(n_obs, self.n_active_pairs))
        if n_pairs > _MAX_PAIRS:
            raise ValueError(
                f"{me}.n_active_pairs must be 0 for {n_obs} numbers, which make {n_pairs} pairs, got {n_active_pairs}"
            )
        room = np.repeat([n_inputs // n_sizes, n_inputs_pair], [n_sizes, n_pairs])
        self.n_inputs = whole(me, "n_inputs with those of pairs", int(room.sum()), 1, MAX_LINES)
        self.table = _table(
            np.zeros((self.n_inputs, n_obs)),
            room,
            np.zeros(len(room), np.int64),
            np.zeros(n_obs),
            np.ones(n_obs),
            self.n_active,
            self.n_active_pairs,
            squared_radii=np.zeros(len(room)),
            seen=np.zeros((n_measured, n_obs)),
            shares=np.append(share * 0.25 ** np.arange(n_sizes), np.full(n_pairs, pair_share)),
        )

    @property
    def cells(self) -> cell_kernels.Cells:
        """The table: the cells, and what is known of the space they code."""
        return self.table

    @property
    def n_recruited(self) -> int:
        """Number of cells so far."""
        return int(self.cells.counts.sum())

    def lines(self, obs: np.ndarray, learning: bool = False) -> np.ndarray:
        """Return the cells that spike for one observation, ascending, int64, shape (n,); recruit some if learning."""
        return _lines(self.table, obs, len(self.cells.mean), learning)

    def recruited(self) -> tuple[RecruitedCells, np.ndarray]:
        """Return the cells there are, as a value, and the numbers of their lines here; one cell if there is none."""
        cells = self.cells
        sizes = np.maximum(cells.counts, np.arange(len(cells.counts)) == 0) if not cells.counts.any() else cells.counts
        lines = np.concatenate([np.arange(n) + first for n, first in zip(sizes, cells.first, strict=True)])
        value = RecruitedCells(
            cells.centers[lines], tuple(map(int, sizes)), cells.mean, cells.sd, self.n_active, self.n_active_pairs
        )
        return value, lines

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what was learnt, as copies."""
        return {name: getattr(self.cells, name).copy() for name in _LEARNT}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned.

        Raises:
            ValueError: If an array is missing, not finite or of another shape: that is of cells with other arguments.
        """
        given = {name: checks.finite(name, checks.real(name, state[name])) for name in _LEARNT}
        for name, array in given.items():
            if array.shape != getattr(self.cells, name).shape:
                wanted = getattr(self.cells, name).shape
                raise ValueError(f"{name} of the cells must have shape {wanted}, got {array.shape}")
        if np.any(given["counts"] < 0) or np.any(given["counts"] > self.cells.room) or np.any(given["sd"] <= 0):
            raise ValueError("the cells are damaged: their counts or units are out of range")
        if not 0 <= given["n_seen"].min() <= given["n_seen"].max() <= len(given["seen"]):
            raise ValueError("the cells are damaged: the number of measured observations is out of range")
        for name, array in given.items():
            getattr(self.cells, name)[:] = array


_LEARNT = ("centers", "counts", "squared_radii", "mean", "sd", "seen", "n_seen")


_MAX_PAIRS = 500  # of 32 numbers


def _pairs(n_obs: int, n_active: int) -> list[tuple[int, int]]:
    """Return the pairs of numbers that have cells of their own."""
    return list(combinations(range(n_obs), 2)) if n_active > 0 and n_obs > 2 else []


def _table(
    centers: np.ndarray,
    room: np.ndarray,
    counts: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    n_active: int,
    n_active_pairs: int,
    **learning: np.ndarray,
) -> cell_kernels.Cells:
    from spikeloop.spiking.encoders import cell_kernels  # here: a network is a value without numba

    n, n_maps, pairs = len(mean), len(room), _pairs(len(mean), n_active_pairs)
    n_whole = n_maps - len(pairs)
    numbers = np.tile(np.arange(n), (n_maps, 1))
    if pairs:
        numbers[n_whole:, :2] = pairs
    of_maps = {
        "n_active": np.repeat([n_active, n_active_pairs], [n_whole, len(pairs)]),
        "numbers": numbers,
        "n_numbers": np.repeat([n, 2], [n_whole, len(pairs)]),
    }
    unused = {"squared_radii": np.zeros(n_maps), "seen": np.zeros((0, n)), "shares": np.zeros(n_maps)}
    fields = {**of_maps, **unused, **learning}
    fields |= {"sources": np.arange(n)[:, None], "offsets": np.empty((int(of_maps["n_active"].sum()), 0))}
    first = np.cumsum(room) - room
    return cell_kernels.Cells(centers, first, room, counts, mean=mean, sd=sd, n_seen=np.zeros(1, np.int64), **fields)


def _lines(table: cell_kernels.Cells, obs: np.ndarray, n_obs: int, learning: bool) -> np.ndarray:
    from spikeloop.spiking.encoders import cell_kernels

    obs = np.asarray(checks.finite("an observation", checks.real("an observation", obs)), np.float64).reshape(-1)
    if len(obs) != n_obs:
        raise ValueError(f"an observation needs {n_obs} numbers, got {len(obs)}")
    active = np.empty(len(table.offsets), np.int64)
    return active[: cell_kernels.code_cells(table, obs, active, learning)]
