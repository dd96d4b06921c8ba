"""Choices to input lines, and several codes of input lines side by side, each of a part of the observation.

With :mod:`~spikeloop.spiking.encoders.tile_coding` these are the codes with few active lines; ``lines`` says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spikeloop.spiking.encoders.dimensions import Dimensions
from spikeloop.spiking.encoders.tile_coding import PlaceCells, Tiles
from spikeloop.spiking.fields import parts_of, set_fields, whole
from spikeloop.spiking.observation import MAX_OBS

if TYPE_CHECKING:
    from spikeloop.spiking.encoders import tile_kernels


@dataclass(frozen=True, eq=False)
class Binary:
    """One line for each value, which spikes on every tick where the value is above 1/2.

    So a choice, which a network sees as zeros and a one, has a line for each of its options (a table); a flag has one.

    Args:
        n_obs: Length of the observation vector.

    Raises:
        ValueError: If it is not a whole number of at least 1.

    >>> Binary(3).lines(np.array([0.0, 1.0, 1.0]))
    array([1, 2])
    """

    kind: ClassVar[str] = "binary"
    held: ClassVar[bool] = True
    spikes: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float64
    memory_rows: ClassVar[tuple[str, ...]] = ()

    n_obs: int

    def __post_init__(self) -> None:
        """Validate the field."""
        set_fields(self, n_obs=whole("Binary", "n_obs", self.n_obs, 1, MAX_OBS))

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray) -> Binary:
        """Return the encoder of as many values; where they lie is no matter to it."""
        return cls(len(low))

    @property
    def n_channels(self) -> int:
        """Number of lines."""
        return self.n_obs

    @property
    def n_inputs(self) -> int:
        """Number of lines."""
        return self.n_obs

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """From where to where each value is expected to lie, two arrays of shape (n_obs,)."""
        return np.zeros(self.n_obs), np.ones(self.n_obs)

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """Beyond these bounds, each of shape (n_obs,), a value is taken for 0 or 1."""
        return self.expected

    @cached_property
    def table(self) -> tile_kernels.Coder:
        """The tables of the kernel, for a single choice that is given as its number: tiles of width 1."""
        from spikeloop.spiking.encoders import tile_kernels  # here: a network is a value without numba

        numbers = Dimensions([0.0], [float(self.n_obs)]).table(np.array([self.n_obs]))
        return tile_kernels.Coder(
            **numbers, sizes=np.array([self.n_obs]), offsets=np.zeros((1, 1)), centers=np.empty((0, 1))
        )

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: it sees with any number of ticks."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return an array without rows: it remembers nothing."""
        return np.zeros((0, n_envs, self.n_obs), np.float32)

    def lines(self, obs: np.ndarray) -> np.ndarray:
        """Return the lines that spike for one observation, ascending, int64."""
        return np.flatnonzero(np.asarray(obs) > 0.5)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the lines' spikes, the same on every tick, shape (L, B, n_channels)."""
        return (obs > 0.5).astype(np.float32), memory


@dataclass(frozen=True, eq=False)
class Parts:
    """Codes of input lines side by side: each takes the next values of the observation and has the next lines.

    What is learnt of the lines adds up over the parts: that two of them matter together only a code of both can tell.

    Args:
        parts: :class:`Binary`, ``Tiles`` or ``PlaceCells`` in the order of the observation's values.

    Raises:
        ValueError: If there is none, or one is of another kind.

    >>> Parts((Binary(2), Binary(3))).lines(np.array([0.0, 1.0, 1.0, 0.0, 0.0]))
    array([1, 2])
    """

    kind: ClassVar[str] = "parts"
    held: ClassVar[bool] = True
    spikes: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float64
    memory_rows: ClassVar[tuple[str, ...]] = ()

    parts: tuple[Binary | Tiles | PlaceCells, ...]

    def __post_init__(self) -> None:
        """Validate the field."""
        set_fields(self, parts=parts_of("Parts", "parts", self.parts, Binary, Tiles, PlaceCells))
        if not self.parts:
            raise ValueError("Parts.parts must hold at least one code, got none")

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, **options: Any) -> Parts:
        """Return tiles over observations from ``low`` to ``high``, the only part."""
        return cls((Tiles.over(low, high, **options),))

    @property
    def n_obs(self) -> int:
        """Length of the observation vector."""
        return sum(part.n_obs for part in self.parts)

    @property
    def n_channels(self) -> int:
        """Number of lines."""
        return sum(part.n_channels for part in self.parts)

    @property
    def n_inputs(self) -> int:
        """Number of lines."""
        return self.n_channels

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """From where to where each value is expected to lie, two arrays of shape (n_obs,)."""
        low, high = zip(*(part.expected for part in self.parts), strict=True)
        return np.concatenate(low), np.concatenate(high)

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """Far beyond these bounds, each of shape (n_obs,), a value is taken for an end."""
        low, high = zip(*(part.covered for part in self.parts), strict=True)
        return np.concatenate(low), np.concatenate(high)

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: it sees with any number of ticks."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return an array without rows: it remembers nothing."""
        return np.zeros((0, n_envs, self.n_obs), np.float32)

    def lines(self, obs: np.ndarray) -> np.ndarray:
        """Return the lines that spike for one observation, ascending, int64."""
        obs = np.asarray(obs).reshape(-1)
        return np.concatenate([first + part.lines(obs[values]) for part, values, first in self._places()])

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the lines' spikes, the same on every tick, shape (L, B, n_channels)."""
        spikes = [
            part(np.ascontiguousarray(obs[..., values]), memory, start, n_ticks, dt)[0]
            for part, values, _ in self._places()
        ]
        return np.concatenate(spikes, axis=2), memory

    def _places(self) -> Iterator[tuple[Any, slice, int]]:
        """Yield each part with the values that it takes and the number of its first line."""
        value = line = 0
        for part in self.parts:
            yield part, slice(value, value + part.n_obs), line
            value, line = value + part.n_obs, line + part.n_channels
