"""What the rules on given spike trains share: checks, and arrays in the layout of the kernels."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeloop.spiking import checks
from spikeloop.spiking.rules import stdp_kernels


def check_rule(
    rule: Any, positive: tuple[str, ...], not_negative: tuple[str, ...], infinite: tuple[str, ...] = ()
) -> None:
    """Refuse a parameter out of range, naming it; only those in ``infinite`` may be infinite."""
    name = type(rule).__name__
    for field in fields(rule):
        value = getattr(rule, field.name)
        if not isinstance(value, (int, float, np.integer, np.floating)) or math.isnan(value):
            raise ValueError(f"{name}.{field.name} must be a number, got {value!r}")
        low_enough = value > 0 if field.name in positive else value >= 0
        if field.name in (*positive, *not_negative) and not low_enough:
            sign = "> 0" if field.name in positive else ">= 0"
            raise ValueError(f"{name}.{field.name} must be {sign}, got {value}")
        if math.isinf(value) and field.name not in infinite:
            raise ValueError(f"{name}.{field.name} must be finite, got {value}")
    if hasattr(rule, "w_min") and not rule.w_min < rule.w_max:
        raise ValueError(f"{name}.w_min must be below w_max={rule.w_max}, got {rule.w_min}")


def trains(
    pre: npt.ArrayLike, post: npt.ArrayLike, w: npt.ArrayLike, dt: float, bounds: tuple[float, float]
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return both trains as uint8 and a copy of the weights as (n_pre, n_post), the kernels' layout."""
    if not 0 < dt < math.inf:
        raise ValueError(f"dt must be a number > 0, got {dt}")
    before, after = checks.spikes("pre", pre, ("T", "n_pre")), checks.spikes("post", post, ("T", "n_post"))
    if len(before) != len(after):
        raise ValueError(f"pre and post must have as many ticks, got {len(before)} and {len(after)}")
    weights = checks.shaped("w", w, (after.shape[1], before.shape[1]))  # post x pre
    dtype = np.float32 if weights.dtype.kind == "f" and weights.dtype.itemsize == 4 else np.float64
    return (before, after), by_pre("w", weights, dtype, bounds)


def vectors_of(state: Any, names: tuple[str, str], synapses: np.ndarray) -> list[np.ndarray]:
    """Return copies of the two traces of a state, or zeros."""
    vectors = []
    for name, n in zip(names, synapses.shape, strict=True):
        given = np.zeros(n) if state is None else checks.shaped(f"trace {name}", getattr(state, name), (n,))
        vectors.append(checks.finite(f"trace {name}", np.array(given, synapses.dtype)))
    return vectors


def by_pre(name: str, array: np.ndarray, dtype: npt.DTypeLike, bounds: tuple[float, float]) -> np.ndarray:
    """Return a copy of a (post, pre) array in the kernels' layout, (pre, post), held within bounds."""
    rows = stdp_kernels.aligned(array.shape[1], np.empty(array.shape[0], dtype))
    rows[:] = checks.within(name, array.astype(np.float64), *map(float, bounds)).T
    return rows
