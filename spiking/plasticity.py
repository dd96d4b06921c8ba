"""Pair STDP and reward-modulated STDP on spike trains: rule parameters and public functions.

Both take whole trains of given spikes, of any source, and return new weights; neither needs a network or an
environment. What one tick does is written in :mod:`spikeloop.spiking.plasticity_reference`; e-prop is in
:mod:`spikeloop.spiking.eprop`.

    rng = np.random.default_rng(0)
    pre, post = rng.random((1000, 50)) < 0.05, rng.random((1000, 20)) < 0.05
    w, traces = stdp(pre, post, np.full((20, 50), 0.5))
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking import checks
from spikeloop.spiking import plasticity_kernels as kernels
from spikeloop.spiking.plasticity_reference import Traces


def _check(rule: Any, positive: tuple[str, ...], not_negative: tuple[str, ...], infinite: tuple[str, ...] = ()) -> None:
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
    if not rule.w_min < rule.w_max:
        raise ValueError(f"{name}.w_min must be below w_max={rule.w_max}, got {rule.w_min}")


@dataclass(frozen=True)
class STDP:
    """Pair STDP with exponential windows and hard bounds; every pair of spikes counts.

    A presynaptic spike ``d`` ms before a postsynaptic one adds ``a_plus f exp(-d / tau_plus)``, one ``d`` ms after it
    takes ``a_minus f exp(-d / tau_minus)``. ``f`` is the weight's distance from the bound it moves towards, as a
    fraction of ``w_max - w_min``, to the power ``mu``. The windows' defaults are those of Sboev et al. 2018.

    Args:
        tau_plus: Window of potentiation in ms, > 0.
        tau_minus: Window of depression in ms, > 0.
        a_plus: Largest potentiation by one pair, in units of w, >= 0.
        a_minus: Largest depression by one pair, in units of w, >= 0.
        mu: Dependence on the weight: 0 additive, 1 multiplicative, or between.
        w_min: Lower bound of the weights, finite.
        w_max: Upper bound of the weights, finite.

    Raises:
        ValueError: If a value is out of range.
    """

    tau_plus: float = 16.8
    tau_minus: float = 33.7
    a_plus: float = 0.01
    a_minus: float = 0.00525
    mu: float = 0.0
    w_min: float = 0.0
    w_max: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        _check(self, ("tau_plus", "tau_minus"), ("a_plus", "a_minus", "mu"), ("tau_plus", "tau_minus"))

    def constants(self, dt: float = 1.0) -> dict[str, float]:
        """Return the constants of a tick of ``dt`` ms, by the names the reference takes."""
        return {
            "decay_pre": math.exp(-dt / self.tau_plus),
            "decay_post": math.exp(-dt / self.tau_minus),
            **{name: float(getattr(self, name)) for name in ("a_plus", "a_minus", "mu", "w_min", "w_max")},
        }


@dataclass(frozen=True)
class RSTDP:
    """Reward-modulated STDP with eligibility tags (Florian 2007; Izhikevich 2007).

    Pairs of spikes change a tag that decays, and the third factor (reward, dopamine, a TD error) turns tags into
    weight changes. Florian's rule divides by ``tau_e`` what a pair adds; here that is part of the amplitudes.

    Args:
        tau_plus: Window of potentiation in ms, > 0.
        tau_minus: Window of depression in ms, > 0.
        tau_e: Time constant of the tags in ms, > 0.
        a_plus: Largest change of a tag by a pair pre before post, >= 0.
        a_minus: Largest change by a pair post before pre, >= 0.
        learning_rate: Weight change per tick, unit of the third factor, and unit of the tag.
        w_min: Lower bound of the weights, held on every tick; ``-inf`` for none.
        w_max: Upper bound; ``inf`` for none.
        e_max: Value at which tags saturate, > 0; ``inf`` for none.

    Raises:
        ValueError: If a value is out of range.
    """

    tau_plus: float = 16.8
    tau_minus: float = 33.7
    tau_e: float = 100.0
    a_plus: float = 0.01
    a_minus: float = 0.00525
    learning_rate: float = 0.01
    w_min: float = -math.inf
    w_max: float = math.inf
    e_max: float = math.inf

    def __post_init__(self) -> None:
        """Validate the fields."""
        positive = ("tau_plus", "tau_minus", "tau_e", "e_max")
        _check(self, positive, ("a_plus", "a_minus"), (*positive, "w_min", "w_max"))

    @property
    def bounded(self) -> bool:
        """Whether weights or tags have a bound, which only a pass over all synapses on each tick can hold."""
        return not (self.w_min == -math.inf and self.w_max == math.inf and self.e_max == math.inf)

    def constants(self, dt: float = 1.0) -> dict[str, float]:
        """Return the constants of a tick of ``dt`` ms, by the names the reference takes."""
        names = ("a_plus", "a_minus", "learning_rate", "w_min", "w_max", "e_max")
        return {
            "decay_pre": math.exp(-dt / self.tau_plus),
            "decay_post": math.exp(-dt / self.tau_minus),
            "decay_tag": math.exp(-dt / self.tau_e),
            **{name: float(getattr(self, name)) for name in names},
        }


class RSTDPState(NamedTuple):
    """What R-STDP carries from one call to the next."""

    e: np.ndarray  # tags, (n_post, n_pre)
    x: np.ndarray  # presynaptic trace, (n_pre,)
    y: np.ndarray  # postsynaptic trace, (n_post,)


def stdp(
    pre: npt.ArrayLike,
    post: npt.ArrayLike,
    w: npt.ArrayLike,
    rule: STDP | None = None,
    traces: Traces | None = None,
    dt: float = 1.0,
) -> tuple[np.ndarray, Traces]:
    """Return the weights after pair STDP on given spike trains.

    Args:
        pre: Presynaptic spikes, 0/1, shape (T, n_pre).
        post: Postsynaptic spikes, 0/1, shape (T, n_post).
        w: Weights within the bounds, shape (n_post, n_pre), float32 or float64. Not modified.
        rule: Parameters; the defaults if None.
        traces: What the previous call returned, to go on from there; None for no spikes before.
        dt: Length of a tick in ms.

    Returns:
        New weights and traces.

    Raises:
        ValueError: If shapes disagree, a train holds something else than 0 and 1, a number is not finite or a weight is
            out of bounds.
    """
    rule = rule or STDP()
    spikes, synapses = _trains(pre, post, w, dt, (rule.w_min, rule.w_max))
    x, y = _vectors(traces, ("x", "y"), synapses)
    c = _packed(rule.constants(dt), kernels.STDP_CONSTANTS, synapses.dtype)
    if not (np.isfinite(c).all() and c[-2] < c[-1]):
        raise ValueError(f"w_min={rule.w_min} and w_max={rule.w_max} are no two finite bounds in {synapses.dtype}")
    kernels.stdp(*spikes, synapses, x, y, c)
    return synapses.T, Traces(x, y)


def rstdp(
    pre: npt.ArrayLike,
    post: npt.ArrayLike,
    reward: npt.ArrayLike,
    w: npt.ArrayLike,
    rule: RSTDP | None = None,
    state: RSTDPState | None = None,
    dt: float = 1.0,
) -> tuple[np.ndarray, RSTDPState]:
    """Return the weights after reward-modulated STDP on given spike trains.

    Without bounds the rule is linear, and a closed form touches a synapse only where its presynaptic neuron spikes; it
    is exact to rounding. With bounds every synapse is passed on every tick.

    Args:
        pre: Presynaptic spikes, 0/1, shape (T, n_pre).
        post: Postsynaptic spikes, 0/1, shape (T, n_post).
        reward: Third factor of each tick, shape (T,).
        w: Weights, shape (n_post, n_pre), float32 or float64. Not modified.
        rule: Parameters; the defaults if None.
        state: What the previous call returned, to go on from there; None for no spikes before.
        dt: Length of a tick in ms.

    Returns:
        New weights and state.

    Raises:
        ValueError: If shapes disagree, a train holds something else than 0 and 1, a number is not finite or a tag of
            the state is out of bounds.
    """
    rule = rule or RSTDP()
    (before, after), synapses = _trains(pre, post, w, dt, (-math.inf, math.inf))
    third = checks.finite("reward", checks.shaped("reward", reward, (len(before),)))
    third = checks.finite("reward", np.ascontiguousarray(third, synapses.dtype))
    x, y = _vectors(state, ("x", "y"), synapses)
    tags = kernels.aligned(len(synapses), np.empty(synapses.shape[1], synapses.dtype))
    if state is not None:
        tags = _by_pre(
            "state.e", checks.shaped("state.e", state.e, synapses.T.shape), synapses.dtype, (-rule.e_max, rule.e_max)
        )
    c = _packed(rule.constants(dt), kernels.RSTDP_CONSTANTS, synapses.dtype)
    kernel = kernels.rstdp_bounded if rule.bounded else kernels.rstdp_unbounded
    kernel(before, after, third, synapses, tags, x, y, c)
    return synapses.T, RSTDPState(tags.T, x, y)


def _trains(
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
    return (before, after), _by_pre("w", weights, dtype, bounds)


def _vectors(state: Any, names: tuple[str, str], synapses: np.ndarray) -> list[np.ndarray]:
    """Return copies of the two traces of a state, or zeros."""
    vectors = []
    for name, n in zip(names, synapses.shape, strict=True):
        given = np.zeros(n) if state is None else checks.shaped(f"trace {name}", getattr(state, name), (n,))
        vectors.append(checks.finite(f"trace {name}", np.array(given, synapses.dtype)))
    return vectors


def _by_pre(name: str, array: np.ndarray, dtype: npt.DTypeLike, bounds: tuple[float, float]) -> np.ndarray:
    """Return a copy of a (post, pre) array in the kernels' layout, (pre, post), held within bounds."""
    rows = kernels.aligned(array.shape[1], np.empty(array.shape[0], dtype))
    rows[:] = checks.within(name, array.astype(np.float64), *map(float, bounds)).T
    return rows


def _packed(constants: dict[str, float], names: tuple[str, ...], dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # a bound that float32 cannot hold is none
        return np.array([constants[name] for name in names], dtype)
