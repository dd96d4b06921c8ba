"""What is refused by name and value: arguments out of range, spaces that hold nothing, shapes that do not fit."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

_LARGEST = sys.float_info.max


class Range(NamedTuple):
    """The values an argument may take.

    Args:
        low: Smallest.
        high: Largest; by default any that is finite.
        above: Whether the smallest itself is excluded.
        whole: Whether it is a whole number.
        schedule: Whether it may also be a function of the remaining progress.
        optional: Whether it may also be None.
    """

    low: float = -_LARGEST
    high: float = _LARGEST
    above: bool = False
    whole: bool = False
    schedule: bool = False
    optional: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether ``value`` is among them."""
        if value is None:
            return self.optional
        if self.schedule and callable(value):  # at its start a schedule may be at the end that is excluded
            return self._replace(schedule=False, above=False).holds(value(1.0))
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, (bool, np.bool_)):
            return False
        number = float(value)
        return (self.low < number if self.above else self.low <= number) and number <= self.high

    def __str__(self) -> str:
        text = "a whole number" if self.whole else "a number"
        if self.low > -_LARGEST and self.high < _LARGEST:
            text += f" between {self.low:g} and {self.high:g}"
        elif self.low > -_LARGEST:
            text += f" {'>' if self.above else '>='} {self.low:g}"
        text += " or a function of the remaining progress that returns one" * self.schedule
        return text + " or None" * self.optional


WHOLE = Range(1, whole=True)
UNIT = Range(0, 1)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, above=True)

# What every algorithm takes.
COMMON = {
    "learning_rate": Range(0, schedule=True),
    "gamma": UNIT,
    "_stats_window_size": WHOLE,
    "seed": Range(0, 2**32 - 1, whole=True, optional=True),
}


def check_ranges(values: MutableMapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Refuse arguments out of range, and turn numbers of numpy's into Python's, which SB3 asks for in places.

    Args:
        values: Arguments by name, changed in place; one that is missing is not looked at.
        ranges: What each may be.

    Raises:
        ValueError: If one is out of range.
    """
    for name, allowed in ranges.items():
        if name not in values:
            continue
        value = values[name]
        if not allowed.holds(value):
            raise ValueError(f"{name.lstrip('_')} must be {allowed}, got {value!r}")
        if isinstance(value, np.generic):
            values[name] = value.item()


def check_not_empty(what: str, space: spaces.Space) -> None:
    """Refuse a space whose elements hold no numbers.

    Raises:
        ValueError: If it or a part of it is empty.
    """
    for part in space.spaces.values() if isinstance(space, spaces.Dict) else [space]:
        if 0 in (part.shape or ()):
            raise ValueError(f"the {what} space must hold at least one number, got {in_words(space)}")


def in_words(thing: Any) -> str:
    """Return in one line what prints on several, as large spaces and modules do."""
    return " ".join(str(thing).split())


def rows_of(observation: Any, space: spaces.Space) -> tuple[np.ndarray, bool]:
    """Return observations as a batch, shape (B, ...), and whether it was a single one.

    Raises:
        ValueError: If they are neither one of the space's shape nor a batch of such.
    """
    obs = np.asarray(observation)
    single = obs.shape == space.shape
    if not single and (obs.ndim == 0 or len(obs) == 0 or obs.shape[1:] != space.shape):
        raise ValueError(f"predict() takes one observation of shape {space.shape} or a batch of them, got {obs.shape}")
    return obs[None] if single else obs, single


def check_carried(state: np.ndarray | None, shape: tuple[int, int], episode_start: Any, n_envs: int) -> None:
    """Refuse a packed state or flags that do not fit the observations.

    Args:
        state: Packed state, shape (n_rows, B, width); None for rest.
        shape: ``(n_rows, width)``.
        episode_start: Flags, shape (B,); None for none.
        n_envs: Number of observations B.

    Raises:
        ValueError: If one has another shape, or there is no observation.
    """
    if n_envs == 0:
        raise ValueError("predict() needs at least one observation, got a batch of shape (0, ...)")
    wanted = (shape[0], n_envs, shape[1])
    if state is not None and state.shape != wanted:
        raise ValueError(f"predict() needs a state of shape {wanted} for {n_envs} observations, got {state.shape}")
    if episode_start is not None and np.size(episode_start) != n_envs:
        raise ValueError(f"predict() needs {n_envs} values of episode_start, got shape {np.shape(episode_start)}")
