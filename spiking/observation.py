"""From an environment's observation to the vector that an encoder takes.

An observation may be an array of any shape, whole numbers that name a choice, or a mapping of such parts.
:func:`flatten` makes one row of numbers of it. :func:`preprocess` then applies the steps that a training put between
environment and policy, in their order and with their arithmetic, so that a network sees the very bits its policy saw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloop.spiking.fields import array_of, flag, set_fields, shown, text, whole, wholes

MAX_OBS = 2**24  # most numbers of an observation or action, and most options of one choice
MAX_START = 2**53  # largest first number of a choice: float64 counts whole numbers up to here


def shape_of(owner: str, name: str, shape: Any) -> tuple[int, ...]:
    """Return the shape of an array that an environment shows or takes, or raise ValueError naming the field."""
    shape = wholes(owner, name, shape, 1, MAX_OBS)
    if len(shape) > 16 or math.prod(shape) > MAX_OBS:
        raise ValueError(f"{owner}.{name} must hold {MAX_OBS} values at most on 16 axes, got {shown(shape)}")
    return shape


@dataclass(frozen=True, eq=False)
class ObservationPart:
    """One part of an observation: numbers, or choices that become one-hot.

    Args:
        shape: Shape of the part as the environment shows it; () for a single number.
        key: Its key where the observation is a mapping; "" where it is this part alone.
        sizes: Choices of each value, one entry per value: each becomes that many numbers, all 0 but the chosen one.
            Empty for numbers that are taken as they are.
        starts: Smallest value of each choice, of the same length; zeros if empty.

    Raises:
        ValueError: If a size is not positive, or there is not one per value.

    >>> ObservationPart((2, 2)).rows([[1.0, 2.0], [3.0, 4.0]])[0]
    array([[1., 2., 3., 4.]])
    >>> ObservationPart((), sizes=(3,)).rows(2)[0]  # the last of three choices
    array([[0., 0., 1.]], dtype=float32)
    """

    shape: tuple[int, ...]
    key: str = ""
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "ObservationPart"
        sizes = wholes(me, "sizes", self.sizes, 1, MAX_OBS)
        set_fields(
            self,
            shape=shape_of(me, "shape", self.shape),
            key=text(me, "key", self.key),
            sizes=sizes,
            starts=wholes(me, "starts", self.starts, -MAX_START, MAX_START) or (0,) * len(sizes),
        )
        if sizes and len(sizes) != math.prod(self.shape):
            raise ValueError(f"{me}.sizes must be positive, one per value of {self.shape}, got {shown(sizes)}")
        if len(self.starts) != len(sizes):
            raise ValueError(f"{me}.starts must have {len(sizes)} entries, got {shown(self.starts)}")
        whole(me, "sizes", self.n_values, 1, MAX_OBS)

    @property
    def n_values(self) -> int:
        """Numbers that the part becomes."""
        return sum(self.sizes) if self.sizes else math.prod(self.shape)

    def rows(self, observations: Any) -> tuple[np.ndarray, bool]:
        """Return the part as rows, shape (B, n_values), and whether it was a single observation.

        Numbers may also come flat already: shape (n_values,), or (B, n_values).

        Raises:
            ValueError: If shape, type or a value is not what the part takes.
        """
        name = f"observation {self.key!r}" if self.key else "observation"
        array = np.asarray(observations)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} must hold real numbers, got {array.dtype}")
        n, flat = math.prod(self.shape), (math.prod(self.shape),)
        single = array.shape in (self.shape, flat) and not (array.shape == flat and self.shape == ())
        if not single and array.shape[1:] not in (self.shape, flat):
            also = "" if self.shape == flat else f", flat ones {flat}"
            raise ValueError(f"{name} must have shape {self.shape}{also}, or a batch of these, got {array.shape}")
        values = array.reshape(1 if single else len(array), n)
        return (self._one_hot(values, name) if self.sizes else values), single

    def _one_hot(self, values: np.ndarray, name: str) -> np.ndarray:
        chosen = values - np.array(self.starts)
        bad = (chosen < 0) | (chosen >= np.array(self.sizes)) | (chosen % 1 != 0)
        if bad.any():
            column = int(np.argwhere(bad)[0, 1])
            low, high = self.starts[column], self.starts[column] + self.sizes[column] - 1
            raise ValueError(f"{name} must be a whole number from {low} to {high}, got {values[bad][0]}")
        rows = np.zeros((len(values), self.n_values), np.float32)
        first = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        np.put_along_axis(rows, (first + chosen).astype(np.intp), 1, axis=1)
        return rows


@dataclass(frozen=True, eq=False)
class Normalizer:
    """A fixed shift and scale of every value: ``clip((x - mean) / std, -clip, clip)``, in float64, rounded to float32.

    Args:
        mean: Shape (n,).
        std: What is divided by, shape (n,), > 0. ``VecNormalize`` has ``sqrt(var + epsilon)`` here.
        clip: Bound of the result, > 0, shape (n,) or one number for all; infinite for no bound.
        rounds: Whether x is rounded to float32 first, as SB3's policies do with all they are shown; ``VecNormalize``
            stands before a policy and does not.

    Raises:
        ValueError: If shapes disagree or a value is out of range.

    >>> Normalizer(mean=np.array([1.0, 0.0]), std=np.array([2.0, 0.1]), clip=5.0)(np.array([[3.0, 1.0]]))
    array([[1., 5.]], dtype=float32)
    """

    mean: np.ndarray
    std: np.ndarray
    clip: np.ndarray | float = math.inf
    rounds: bool = False

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        n = np.size(self.mean)
        mean = array_of("Normalizer", "mean", self.mean, (n,), np.float64)
        std = array_of("Normalizer", "std", self.std, (n,), np.float64)
        if np.any(std <= 0):
            raise ValueError(f"Normalizer.std must be > 0, found {std.min()}")
        clip = np.asarray(self.clip)
        if clip.shape not in ((), (n,)) or clip.dtype.kind not in "fiu" or not np.all(clip > 0):
            raise ValueError(f"Normalizer.clip must be > 0, one number or {n}, got {shown(self.clip)}")
        clip = np.array(np.broadcast_to(clip, (n,)), np.float64)
        clip.setflags(write=False)
        set_fields(self, mean=mean, std=std, clip=clip, rounds=flag("Normalizer", "rounds", self.rounds))

    @property
    def n_in(self) -> int:
        """Values taken."""
        return self.mean.size

    @property
    def n_out(self) -> int:
        """Values given."""
        return self.mean.size

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the normalised values, shape (..., n), float32."""
        if self.rounds:
            x = x.astype(np.float32)
        z = (x - self.mean) / self.std
        # what np.clip does, without its search for types: this runs on every env step
        return np.minimum(np.maximum(z, -self.clip, out=z), self.clip, out=z).astype(np.float32)


@dataclass(frozen=True, eq=False)
class FrameStack:
    """The values of the last ``n_stack`` env steps, oldest first, with zeros for steps before the episode began.

    Args:
        n_stack: Steps, >= 2.
        n_in: Values of one step.

    Raises:
        ValueError: If a number is out of range.

    >>> stack = FrameStack(n_stack=2, n_in=1)
    >>> stacked, memory = stack(np.array([[[7.0]], [[8.0]]]), np.zeros((1, 1, 1)), None)  # two steps of one env
    >>> stacked[:, 0].tolist()
    [[0.0, 7.0], [7.0, 8.0]]
    """

    n_stack: int
    n_in: int

    def __post_init__(self) -> None:
        """Validate the fields."""
        for name, least in (("n_stack", 2), ("n_in", 1)):
            set_fields(self, **{name: whole("FrameStack", name, getattr(self, name), least, MAX_OBS)})

    @property
    def n_out(self) -> int:
        """Values given."""
        return self.n_stack * self.n_in

    def __call__(
        self, x: np.ndarray, memory: np.ndarray, episode_start: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Stack the frames of a sequence.

        Args:
            x: Shape (L, B, n_in).
            memory: The frames before, the oldest first, shape (n_stack - 1, B, n_in).
            episode_start: Whether an episode begins at a step, shape (L, B); None where none does.

        Returns:
            The stacked values, shape (L, B, n_out), and the new memory.
        """
        frames = memory
        stacked = np.empty((*x.shape[:2], self.n_out), np.result_type(x, memory))
        for step, newest in enumerate(x):
            if episode_start is not None:
                frames = np.where(np.asarray(episode_start[step], bool)[:, None], 0, frames)
            frames = np.concatenate([frames, newest[None]])  # (n_stack, B, n_in)
            stacked[step] = frames.transpose(1, 0, 2).reshape(len(newest), self.n_out)
            frames = frames[1:]
        return stacked, frames


@dataclass(frozen=True, eq=False)
class Reorder:
    """The same values in another order, ``x[..., order]``; exchanging the axes of an image is one.

    Args:
        order: Each index from 0 to n - 1 once, shape (n,).

    Raises:
        ValueError: If it is no permutation.

    >>> Reorder(np.array([2, 0, 1]))(np.array([10.0, 11.0, 12.0]))
    array([12., 10., 11.])
    """

    order: np.ndarray

    def __post_init__(self) -> None:
        """Validate the field and make the array read-only."""
        order = array_of("Reorder", "order", self.order, (None,), np.int64)
        if not np.array_equal(np.sort(order), np.arange(order.size)):
            raise ValueError(f"Reorder.order must hold each of 0 to {order.size - 1} once, got {shown(self.order)}")
        set_fields(self, order=order)

    @property
    def n_in(self) -> int:
        """Values taken."""
        return self.order.size

    @property
    def n_out(self) -> int:
        """Values given."""
        return self.order.size

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the values in the new order, shape (..., n)."""
        return x[..., self.order]


Preprocessor = Normalizer | FrameStack | Reorder


def largest_value(steps: Sequence[Preprocessor]) -> float:
    """Return the largest magnitude that the steps can turn observations within -1 and 1 into; inf beyond float32."""
    largest = 1.0
    with np.errstate(over="ignore"):
        for step in steps:
            if isinstance(step, Normalizer):
                bounds = np.minimum((largest + abs(step.mean)) / step.std, step.clip)
                largest = float(bounds.max(initial=0.0).astype(np.float32))
    return largest


def flatten(parts: Sequence[ObservationPart], observation: Any) -> tuple[np.ndarray, bool]:
    """Return an observation, or a batch of them, as rows of numbers.

    Args:
        parts: What the observation consists of.
        observation: An array, a number, or a mapping of these.

    Returns:
        The rows, shape (B, n), and whether it was a single observation (B is 1 then).

    Raises:
        ValueError: If the observation is not what the parts say.

    >>> parts = ObservationPart((2,), "joints"), ObservationPart((), "gear", sizes=(3,))
    >>> flatten(parts, {"joints": [0.5, -0.5], "gear": 1})
    (array([[ 0.5, -0.5,  0. ,  1. ,  0. ]]), True)
    """
    if not parts[0].key:
        return parts[0].rows(observation)
    if not isinstance(observation, Mapping):
        keys = [part.key for part in parts]
        flat = np.asarray(observation)
        n = sum(part.n_values for part in parts)
        if flat.dtype.kind in "fiub" and flat.shape[-1:] == (n,) and flat.ndim in (1, 2):
            return flat.reshape(-1, n), flat.ndim == 1
        raise ValueError(f"observation must be a mapping with the keys {keys}, got {type(observation).__name__}")
    missing = [part.key for part in parts if part.key not in observation]
    if missing:
        raise ValueError(f"observation lacks {missing[0]!r}, it holds {sorted(map(str, observation))}")
    rows, singles = zip(*(part.rows(observation[part.key]) for part in parts), strict=True)
    if len({(len(array), single) for array, single in zip(rows, singles, strict=True)}) > 1:
        raise ValueError(f"observation must hold as many of each part, got {[len(array) for array in rows]}")
    return np.concatenate(rows, axis=1), singles[0]


def preprocess(
    steps: Sequence[Preprocessor], x: np.ndarray, memory: np.ndarray, episode_start: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Apply the steps to a sequence.

    Args:
        steps: In their order; at most one :class:`FrameStack`.
        x: Shape (L, B, n).
        memory: Rows that the frame stack keeps, shape (n_frames, B, width >= its n_in).
        episode_start: Whether an episode begins at a step, shape (L, B); None where none does.

    Returns:
        The result, shape (L, B, n_out), and the new memory.
    """
    for step in steps:
        if isinstance(step, FrameStack):
            x, frames = step(x, memory[:, :, : step.n_in], episode_start)
            memory = memory.copy()
            memory[:, :, : step.n_in] = frames
        else:
            x = step(x)
    return x, memory


def n_frames(steps: Sequence[Preprocessor]) -> int:
    """Return how many rows of past frames the steps keep."""
    return sum(step.n_stack - 1 for step in steps if isinstance(step, FrameStack))
