"""How output values become a deterministic action of a Gymnasium space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spikeloop.spiking.fields import check_choice, flag, set_fields, shown, wholes
from spikeloop.spiking.observation import MAX_OBS, MAX_START, shape_of

HEADS = ("discrete", "multi_discrete", "multi_binary", "box")


@dataclass(frozen=True, eq=False)
class ActionHead:
    """How output values become a deterministic action of a Gymnasium space.

    Args:
        kind: ``discrete`` and ``multi_discrete`` take the largest value of each group, ``multi_binary`` the sign,
            ``box`` the values themselves, clipped to the bounds.
        sizes: Choices per group: (n,) for ``discrete``, nvec for ``multi_discrete``, all 2 for ``multi_binary``. For
            ``box`` all 1; or, if none is 1, the neurons of each of its rows.
        shape: Shape of one action.
        low: ``box``: lower bounds, of that shape; kept in float64 if they come so, as the actions then are.
        high: ``box``: upper bounds.
        squash: ``box``: outputs pass tanh and are scaled to the bounds (gSDE with ``squash_output``).
        start: ``discrete`` and ``multi_discrete``: number of each group's first choice; 0 for all if empty.

    The neurons of a row stand for values at equal distances from the lower bound to the upper one, both included, and
    the action is what the most active of them stands for. Where each number of an action has several rows, one after
    another, it is their mean: the population vector of the neurons that won (Vasilaki et al. 2009). On a ring, which is
    an angle, the upper bound is the last value before the lower one comes again.

    Raises:
        ValueError: If a field does not fit the kind.

    >>> head = ActionHead("box", sizes=(5,), shape=(1,), low=np.array([-1.0]), high=np.array([1.0]))
    >>> head(np.array([[0, 0, 0, 1, 0]])).tolist()
    [[0.5]]
    """

    kind: str
    sizes: tuple[int, ...]
    shape: tuple[int, ...] = ()
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    squash: bool = False
    start: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_choice("ActionHead", "kind", self.kind, HEADS)
        set_fields(
            self,
            sizes=wholes("ActionHead", "sizes", self.sizes, 1, MAX_OBS),
            shape=shape_of("ActionHead", "shape", self.shape),
            squash=flag("ActionHead", "squash", self.squash),
        )
        if len(self.sizes) != math.prod(self.shape) and not (
            self.rows and len(self.sizes) % math.prod(self.shape) == 0
        ):
            raise ValueError(f"ActionHead.shape {self.shape} does not hold {len(self.sizes)} actions")
        only = {"multi_binary": 2, "box": None if self.rows else 1}.get(self.kind)
        if only is not None and set(self.sizes) != {only}:
            raise ValueError(f"ActionHead.sizes must all be {only} for kind {self.kind!r}, got {shown(self.sizes)}")
        start = wholes("ActionHead", "start", self.start, -MAX_START, MAX_START) or (0,) * len(self.sizes)
        if len(start) != len(self.sizes) or (any(start) and self.kind not in ("discrete", "multi_discrete")):
            raise ValueError(f"ActionHead.start must be {len(self.sizes)} whole numbers, got {shown(self.start)}")
        set_fields(self, start=start)
        if self.kind == "box":
            self._check_bounds()

    def _check_bounds(self) -> None:
        for name in ("low", "high"):
            value = np.asarray(getattr(self, name))
            if value.shape != self.shape or value.dtype.kind not in "fiu" or np.any(np.isnan(value)):
                raise ValueError(f"ActionHead.{name} must have shape {self.shape}, got {shown(getattr(self, name))}")
            with np.errstate(over="ignore"):  # a bound beyond float32 is none
                bound = np.array(value, np.float64 if value.dtype == np.float64 else np.float32, order="C")
            bound.setflags(write=False)
            set_fields(self, **{name: bound})
        if np.any(self.low > self.high):  # type: ignore[operator]
            raise ValueError(
                f"ActionHead.high must be at least low, got low {shown(self.low)} and high {shown(self.high)}"
            )
        needs = "squash" if self.squash else "sizes" if self.rows else None
        if needs and not (np.all(np.isfinite(self.low)) and np.all(np.isfinite(self.high))):  # type: ignore[arg-type]
            raise ValueError(
                f"ActionHead.{needs} needs finite bounds, got low {shown(self.low)} and high {shown(self.high)}"
            )
        if self.squash and self.rows:
            raise ValueError(f"ActionHead.squash must be False with rows of neurons, got sizes {shown(self.sizes)}")

    @property
    def rows(self) -> bool:
        """Whether it is a ``box`` that reads rows of neurons."""
        return self.kind == "box" and min(self.sizes, default=1) > 1

    @property
    def n_outputs(self) -> int:
        """Number of output values the head reads."""
        return len(self.sizes) if self.kind in ("box", "multi_binary") and not self.rows else sum(self.sizes)

    @property
    def n_rows(self) -> int:
        """Number of groups for each number of an action."""
        return len(self.sizes) // math.prod(self.shape)

    @cached_property
    def values(self) -> np.ndarray:
        """What each neuron of a ``box``'s rows stands for, shape (n_outputs,), one row after another."""
        assert self.rows and self.low is not None and self.high is not None
        ends = zip(np.repeat(self.low, self.n_rows), np.repeat(self.high, self.n_rows), self.sizes, strict=True)
        return np.concatenate([np.linspace(*row) for row in ends]).astype(self.low.dtype)

    def chosen(self, outputs: np.ndarray) -> np.ndarray:
        """Return the number of the largest value of each group, the first of equals, shape (B, n_groups)."""
        groups = np.split(outputs, np.cumsum(self.sizes)[:-1], axis=1)
        return np.stack([group.argmax(axis=1) for group in groups], axis=1)

    def action(self, chosen: np.ndarray) -> np.ndarray:
        """Return the actions, shape (B, *shape), of the number that is chosen in each group, (B, n_groups)."""
        if not self.rows:
            return (chosen + np.array(self.start)).reshape(-1, *self.shape)
        first = np.cumsum((0, *self.sizes[:-1]))
        won = self.values[first + chosen].astype(np.float64).reshape(len(chosen), *self.shape, self.n_rows)
        return (np.cumsum(won, axis=-1)[..., -1] / self.n_rows).astype(self.values.dtype)  # added up in their order

    def __call__(self, outputs: np.ndarray) -> np.ndarray:
        """Return the actions, shape (B, *shape), for output values of shape (B, n_outputs)."""
        if self.kind == "discrete":
            return outputs.argmax(axis=1) + self.start[0]
        if self.kind == "multi_discrete" or self.rows:
            return self.action(self.chosen(outputs))
        if self.kind == "multi_binary":
            # SB3 takes round(sigmoid(x)), which is 0 at exactly x = 0.
            return (outputs > 0).astype(np.int8).reshape(-1, *self.shape)
        actions = outputs.reshape(-1, *self.shape)
        assert self.low is not None and self.high is not None
        if self.squash:
            actions = self.low + 0.5 * (np.tanh(actions) + 1.0) * (self.high - self.low)  # may round beyond a bound
        return np.clip(actions, self.low, self.high)
