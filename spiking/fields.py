"""Checks of the fields of frozen dataclasses: one line naming owner, field, value and expectation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def array_of(
    owner: str, name: str, value: Any, shape: tuple[int | None, ...], dtype: npt.DTypeLike | None = None
) -> np.ndarray:
    """Return ``value`` as a read-only, C-contiguous array of the given shape, or raise naming the field.

    Args:
        owner: Class of the field.
        name: The field.
        value: What it was given.
        shape: Its shape; None for any length.
        dtype: Its type; if None, float64 stays and everything else becomes float32.

    Raises:
        ValueError: If it is no array of finite numbers of that shape.

    >>> array_of("Layer", "bias", [0.5, 1], (2,))
    array([0.5, 1. ])
    >>> array_of("Layer", "bias", [0.5, np.nan], (2,))
    Traceback (most recent call last):
    ValueError: Layer.bias must be finite, found nan
    """
    try:
        given = np.asarray(value)
    except (TypeError, ValueError):
        given = np.empty(0, object)
    if given.dtype.kind not in "fiub":
        raise ValueError(f"{owner}.{name} must be an array of numbers, got {shown(value)}")
    if dtype is None:
        dtype = np.float64 if given.dtype == np.float64 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused below
        array = np.array(given, dtype=dtype, order="C", copy=True)
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"{owner}.{name} must have shape {wanted}, got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{owner}.{name} must be finite, found {array[~np.isfinite(array)].flat[0]}")
    if array.dtype.kind == "i" and not np.array_equal(array, given):
        raise ValueError(f"{owner}.{name} must hold whole numbers, got {shown(value)}")
    array.setflags(write=False)
    return array


def check_choice(owner: str, name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if not (isinstance(value, str) and value in allowed):
        raise ValueError(f"{owner}.{name} must be one of {allowed}, got {shown(value)}")


def check_part(owner: str, name: str, value: Any, *classes: type) -> None:
    """Raise ValueError unless ``value`` is an object of one of the classes."""
    if not isinstance(value, classes):
        wanted = " or ".join(one.__name__ for one in classes)
        raise ValueError(f"{owner}.{name} must be of type {wanted}, got {shown(value)}")


def parts_of(owner: str, name: str, values: Any, *classes: type) -> tuple[Any, ...]:
    """Return ``values`` as a tuple of objects of the classes, or raise ValueError naming the field."""
    parts = tuple(values) if isinstance(values, Iterable) else None
    if parts is None or not all(isinstance(part, classes) for part in parts):
        wanted = " or ".join(one.__name__ for one in classes)
        raise ValueError(f"{owner}.{name} must be a tuple of {wanted}, got {shown(values if parts is None else parts)}")
    return parts


def number(owner: str, name: str, value: Any, low: float, high: float) -> float:
    """Return ``value`` as a float, or raise ValueError unless it is a number within the bounds."""
    real = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
    if not (real and low <= value <= high):  # no bounds hold NaN
        raise ValueError(f"{owner}.{name} must be a finite number within [{low:g}, {high:g}], got {shown(value)}")
    return float(value)


def whole(owner: str, name: str, value: Any, low: int, high: int) -> int:
    """Return ``value`` as an int, or raise ValueError unless it is an integer within the bounds."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not low <= value <= high:
        wanted = "0 or 1" if (low, high) == (0, 1) else f"an integer >= {low} and <= {high}"
        raise ValueError(f"{owner}.{name} must be {wanted}, got {shown(value)}")
    return int(value)


def wholes(owner: str, name: str, values: Any, low: int, high: int) -> tuple[int, ...]:
    """Return ``values`` as a tuple of ints, or raise ValueError unless all are integers within the bounds."""
    try:
        return tuple(whole(owner, name, value, low, high) for value in values)
    except TypeError:
        raise ValueError(f"{owner}.{name} must be integers >= {low} and <= {high}, got {shown(values)}") from None


def flag(owner: str, name: str, value: Any) -> bool:
    """Return ``value`` as a bool, or raise ValueError unless it is one, or 0 or 1."""
    if not isinstance(value, (bool, int, np.bool_, np.integer)) or value not in (0, 1):
        raise ValueError(f"{owner}.{name} must be True or False, got {shown(value)}")
    return bool(value)


def texts(owner: str, name: str, values: Any) -> dict[str, str]:
    """Return a mapping as one of text to text, or raise ValueError unless UTF-8 can hold it."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{owner}.{name} must be a mapping, got {shown(values)}")
    return {text(owner, name, str(key)): text(owner, name, str(value)) for key, value in values.items()}


def text(owner: str, name: str, value: Any) -> str:
    """Return ``value``, or raise ValueError unless it is text that UTF-8 can hold."""
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        raise ValueError(f"{owner}.{name} must be text that UTF-8 can hold, got {shown(value)}") from None
    return value


def shown(value: Any) -> str:
    """Return how a value is written in a message: in one line, a long one shortened."""
    return in_one_line(repr(value))


def in_one_line(text: Any) -> str:
    """Return a text, or the message of an exception, in one line, a long one shortened."""
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else f"{line[:220]} ... {line[-60:]}"


def set_fields(instance: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass while it is being built."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)
