"""Checks of the arrays that public functions are given: the kernels read and write without looking at bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def real(name: str, value: Any) -> np.ndarray:
    """Return ``value`` as an array of booleans, integers or floats.

    Args:
        name: What the caller calls the value; messages begin with it.
        value: Any array-like.

    Raises:
        ValueError: If it holds anything else, such as complex numbers, text or lists of different lengths.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of real numbers, got {value!r}") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    return array


def shaped(name: str, value: Any, shape: Sequence[int | str]) -> np.ndarray:
    """Return ``value`` as an array of real numbers of the given shape, whose free sizes are given by their letters.

    Raises:
        ValueError: If it has another shape, or holds anything but real numbers.

    >>> shaped("obs", [[1, 2, 3]], ("B", 3)).shape
    (1, 3)
    >>> shaped("obs", [1, 2], ("B", 3))
    Traceback (most recent call last):
    ValueError: obs must have shape (B, 3), got (2,)
    """
    array = real(name, value)
    fits = all(isinstance(want, str) or want == got for want, got in zip(shape, array.shape, strict=False))
    if array.ndim != len(shape) or not fits:
        wanted = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name} must have shape ({wanted}), got {array.shape}")
    return array


def arrays_like(own: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return of ``given`` the arrays that go by the names of ``own``.

    Raises:
        ValueError: If one is missing or has another shape.

    >>> arrays_like({"w": np.zeros(2)}, {"w": [1.0, 2.0], "other": 3})
    {'w': array([1., 2.])}
    >>> arrays_like({"w": np.zeros(2)}, {"w": [1.0]})
    Traceback (most recent call last):
    ValueError: arrays must have shapes {'w': (2,)}, got {'w': (1,)}
    """
    found = {name: np.asarray(given[name]) for name in own if name in given}
    shapes, others = ({name: array.shape for name, array in arrays.items()} for arrays in (own, found))
    if shapes != others:
        raise ValueError(f"arrays must have shapes {shapes}, got {others}")
    return found


def finite(name: str, array: np.ndarray) -> np.ndarray:
    """Return the array if all its numbers are finite.

    Raises:
        ValueError: If one is NaN or infinite; the message says where.
    """
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, found {array[where]} at index {where}")
    return array


def flags(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return ``value`` as booleans of the given shape, true where it is not 0.

    Raises:
        ValueError: If it has another shape or holds what is no number.
    """
    array = shaped(name, value, shape)
    if array.dtype.kind == "f":
        finite(name, array)
    return array != 0


def spikes(name: str, value: Any, shape: Sequence[int | str]) -> np.ndarray:
    """Return a spike train as a C-contiguous array of 0 and 1, uint8.

    Raises:
        ValueError: If it has another shape or holds another number.
    """
    array = shaped(name, value, shape)
    fired = array != 0
    if array.dtype != bool and not (array[fired] == 1).all():
        wrong = fired & (array != 1)
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{name} must hold spikes, 0 or 1, found {array[where]} at index {where}")
    return np.ascontiguousarray(fired).view(np.uint8)


def within(name: str, array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the array, clipped to the bounds.

    A value may exceed a bound by the rounding of float32, which makes 0.1 a little larger, and is then clipped to it.

    Raises:
        ValueError: If a value is not finite or lies beyond a bound.
    """
    finite(name, array)
    with np.errstate(over="ignore"):  # a bound that float32 cannot hold is none there
        least, most = min(low, float(np.float32(low))), max(high, float(np.float32(high)))
    if array.size and (array.min() < least or array.max() > most):
        raise ValueError(f"{name} must lie within {low} and {high}, found {array.min()} to {array.max()}")
    return np.clip(array, low, high)
