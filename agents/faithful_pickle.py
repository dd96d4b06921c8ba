"""Pickles whose contents come back as what they were: views stay views, sets keep their order, or they are refused.

Some things are not in the pickle but *fixed*: it refers to them by name, and whoever loads it gives those of his own.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.utils import EzPickle

OTHERWISE = "it is of one with other wrappers, or that was made in another way"


class Unsaved(Exception):
    """Why something cannot be saved or loaded."""


def dump(thing: Any, fixed: Mapping[str, Any]) -> bytes:
    """Return a pickle.

    Args:
        thing: What to pickle.
        fixed: By name, what the pickle refers to only.

    Raises:
        Unsaved: If something would come back as something else.
        Exception: What pickling raises.

    >>> world = {"self": object()}
    >>> load(dump([world["self"], 1], world), {"self": "another world"})
    ['another world', 1]
    """
    file = io.BytesIO()
    _Pickler(file, fixed).dump(thing)
    return file.getvalue()


def load(pickled: bytes, fixed: Mapping[str, Any]) -> Any:
    """Return what :func:`dump` was given, with the things of ``fixed`` for those of the same names.

    Raises:
        Unsaved: If one of them is missing.
        Exception: What unpickling raises.
    """
    return _Unpickler(pickled, fixed).load()


class _Pickler(pickle.Pickler):
    """Refers to what is fixed by its name, and refuses what would come back as something else."""

    def __init__(self, file: io.BytesIO, fixed: Mapping[str, Any]):
        super().__init__(file, protocol=4)  # whose arrays own their memory when they are loaded
        self._names = {id(thing): name for name, thing in fixed.items()}

    def persistent_id(self, thing: Any) -> str | None:
        if type(thing) in (set, frozenset) and not _keeps_order(thing):
            raise Unsaved("the order of a set's elements would be another one")
        return self._names.get(id(thing))

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is np.ndarray and thing.base is not None:
            return _reduce_view(thing)
        if isinstance(thing, EzPickle):  # which keeps the arguments it was made with, and nothing else
            return copyreg.__newobj__, (type(thing),), vars(thing), None, None, _set_vars  # type: ignore[attr-defined]
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, fixed: Mapping[str, Any]):
        super().__init__(io.BytesIO(pickled))
        self._fixed = fixed

    def persistent_load(self, name: str) -> Any:
        if name not in self._fixed:
            raise Unsaved(OTHERWISE)
        return self._fixed[name]


def _keeps_order(things: set[Any] | frozenset[Any]) -> bool:
    """Return whether a set built anew has its elements in the same order, and goes on having them so.

    What was added and removed in which order decides on that besides the elements; so does the size of the table.
    """
    again = type(things)(list(things))
    same = all(one is other for one, other in zip(again, things, strict=True))
    return same and (isinstance(things, frozenset) or sys.getsizeof(again) == sys.getsizeof(things))


def _reduce_view(array: np.ndarray) -> Any:
    """Return how to make an array again that looks into another one's memory, and is to go on doing so."""
    base = array.base
    if isinstance(base, bytes):
        return NotImplemented
    if type(base) is not np.ndarray or array.dtype.hasobject:
        raise Unsaved(f"an array looks into the memory of {type(base).__name__}")
    start = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return _view, (base, array.shape, array.dtype, start, array.strides)


def _view(
    base: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, start: int, strides: tuple[int, ...]
) -> np.ndarray:
    return np.ndarray(shape, dtype, base if base.flags.c_contiguous else base.T, start, strides)


def _set_vars(thing: Any, state: Mapping[str, Any]) -> None:
    vars(thing).update(state)
