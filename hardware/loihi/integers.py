"""Checks of the integer arrays that a chip's configuration is made of: one line naming owner, field and value."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.fields import shown


def shortened(values: Any) -> str:
    """Return how values are written in a message: the first and the last of many, with their number."""
    array = np.asarray(values)
    if array.size <= 12:
        return shown(values.tolist() if isinstance(values, np.ndarray) else values)
    ends = ", ".join(str(x) for x in array.flat[:3]), ", ".join(str(x) for x in array.flat[-3:])
    return f"[{ends[0]}, ..., {ends[1]}] ({array.size} values)"


def integers(owner: str, name: str, value: Any, shape: tuple[int | None, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Return ``value`` as a read-only integer array of the given shape and dtype, or raise naming the field."""
    try:
        array = np.asarray(value)
        whole = array.dtype.kind in "iub" or bool(np.all(array == np.round(array)))
        info = np.iinfo(dtype)
        inside = array.size == 0 or bool(np.all((array >= info.min) & (array <= info.max)))
    except (TypeError, ValueError):
        raise ValueError(f"{owner}.{name} must be an array of integers, got {shortened(value)}") from None
    if not (whole and inside):
        raise ValueError(f"{owner}.{name} must hold whole numbers that fit {np.dtype(dtype)}, got {shortened(value)}")
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"{owner}.{name} must have shape {wanted}, got {array.shape}")
    array = np.array(array, dtype=dtype, order="C", copy=True)
    array.setflags(write=False)
    return array


def check_within(owner: str, name: str, array: np.ndarray, low: int, high: int) -> None:
    """Raise ValueError naming the field unless all of an array lies within the bounds."""
    if array.size and (array.min() < low or array.max() > high):
        found = array.min() if array.min() < low else array.max()
        raise ValueError(f"{owner}.{name} must be within [{low}, {high}], found {found}")


def ids_of(name: str, values: npt.ArrayLike, n: int) -> np.ndarray:
    """Return ids from 0 to n - 1 as int64 of shape (K,), or raise ``ValueError``."""
    ids = np.asarray(values)
    if ids.size == 0:
        return np.zeros(0, np.int64)
    if ids.ndim > 1 or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= n:
        raise ValueError(f"{name} must be ids within [0, {n - 1}], shape (K,), got {shortened(values)}")
    return np.atleast_1d(ids).astype(np.int64)
