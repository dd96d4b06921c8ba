"""Checks of the fields of frozen dataclasses: one line naming owner, field, value and expectation."""

from __future__ import annotations

import math
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
    """
    try:
        array = np.asarray(value)
        if dtype is None:
            dtype = np.float64 if array.dtype == np.float64 else np.float32
        array = np.array(array, dtype=dtype, order="C", copy=True)
    except (TypeError, ValueError):
        raise ValueError(f"{owner}.{name} must be an array of numbers, got {value!r}") from None
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"{owner}.{name} must have shape {wanted}, got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{owner}.{name} must be finite, found {array[~np.isfinite(array)].flat[0]}")
    array.setflags(write=False)
    return array


def check_choice(owner: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{owner}.{name} must be one of {allowed}, got {value!r}")


def check_number(owner: str, name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless ``value`` is a finite number within the bounds."""
    if not (isinstance(value, (int, float, np.number)) and math.isfinite(value) and low <= value <= high):
        bound = f">= {low}" if high == math.inf else f"within [{low}, {high}]"
        raise ValueError(f"{owner}.{name} must be a finite number {bound}, got {value!r}")


def set_fields(instance: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass while it is being built."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)
