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

from spikeloop.spiking import plasticity_kernels as kernels
from spikeloop.spiking.plasticity_reference import Traces


def _check(rule: Any, positive: tuple[str, ...], not_negative: tuple[str, ...]) -> None:
    """Refuse a parameter out of range, naming it."""
    name = type(rule).__name__
    for field in fields(rule):
        value = getattr(rule, field.name)
        if not isinstance(value, (int, float, np.number)) or math.isnan(value):
            raise ValueError(f"{name}.{field.name} must be a number, got {value!r}")
        low_enough = value > 0 if field.name in positive else value >= 0
        if field.name in (*positive, *not_negative) and not low_enough:
            sign = "> 0" if field.name in positive else ">= 0"
            raise ValueError(f"{name}.{field.name} must be {sign}, got {value}")
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
        _check(self, ("tau_plus", "tau_minus"), ("a_plus", "a_minus", "mu"))
        if math.isinf(self.w_min) or math.isinf(self.w_max):
            raise ValueError(f"STDP needs finite bounds, got {self.w_min} and {self.w_max}")

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
        _check(self, ("tau_plus", "tau_minus", "tau_e", "e_max"), ("a_plus", "a_minus"))
        if math.isinf(self.learning_rate):
            raise ValueError(f"RSTDP.learning_rate must be finite, got {self.learning_rate}")

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
        ValueError: If shapes disagree or a weight is out of bounds.
    """
    rule = rule or STDP()
    spikes, synapses = _trains(pre, post, w, dt)
    if synapses.size and (synapses.min() < rule.w_min or synapses.max() > rule.w_max):
        found = f"from {synapses.min()} to {synapses.max()}"
        raise ValueError(f"w must lie within w_min={rule.w_min} and w_max={rule.w_max}, got {found}")
    x, y = _vectors(traces, ("x", "y"), synapses)
    kernels.stdp(*spikes, synapses, x, y, _packed(rule.constants(dt), kernels.STDP_CONSTANTS, synapses.dtype))
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
        ValueError: If shapes disagree or a tag of the state is out of bounds.
    """
    rule = rule or RSTDP()
    (before, after), synapses = _trains(pre, post, w, dt)
    third = np.ascontiguousarray(reward, synapses.dtype)
    if third.shape != (len(before),):
        raise ValueError(f"reward must have shape ({len(before)},), one for each tick, got {third.shape}")
    x, y = _vectors(state, ("x", "y"), synapses)
    tags = kernels.aligned(len(synapses), np.empty(synapses.shape[1], synapses.dtype))
    if state is not None:
        if state.e.shape != synapses.T.shape:
            raise ValueError(f"state.e must have the shape of w, {synapses.T.shape}, got {state.e.shape}")
        if state.e.size and np.abs(state.e).max() > rule.e_max:
            raise ValueError(f"state.e must lie within e_max={rule.e_max}, found {np.abs(state.e).max()}")
        tags = _by_pre(state.e, synapses.dtype)
    c = _packed(rule.constants(dt), kernels.RSTDP_CONSTANTS, synapses.dtype)
    kernel = kernels.rstdp_bounded if rule.bounded else kernels.rstdp_unbounded
    kernel(before, after, third, synapses, tags, x, y, c)
    return synapses.T, RSTDPState(tags.T, x, y)


def _trains(
    pre: npt.ArrayLike, post: npt.ArrayLike, w: npt.ArrayLike, dt: float
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return both trains as uint8 and a copy of the weights as (n_pre, n_post), the kernels' layout."""
    if not dt > 0:
        raise ValueError(f"dt must be > 0, got {dt}")
    trains = []
    for name, train in (("pre", pre), ("post", post)):
        array = np.asarray(train)
        if array.ndim != 2:
            raise ValueError(f"{name} must have shape (T, n), got {array.shape}")
        trains.append(np.ascontiguousarray(array if array.dtype == bool else array != 0).view(np.uint8))
    if len(trains[0]) != len(trains[1]):
        raise ValueError(f"pre and post must have as many ticks, got {len(trains[0])} and {len(trains[1])}")
    weights = np.asarray(w)
    shape = (trains[1].shape[1], trains[0].shape[1])
    if weights.shape != shape:
        raise ValueError(f"w must have shape {shape}, post x pre, got {weights.shape}")
    dtype = np.float32 if weights.dtype == np.float32 else np.float64
    return (trains[0], trains[1]), _by_pre(weights, dtype)


def _vectors(state: Any, names: tuple[str, str], synapses: np.ndarray) -> list[np.ndarray]:
    """Return copies of the two traces of a state, or zeros."""
    vectors = []
    for name, n in zip(names, synapses.shape, strict=True):
        given = np.zeros(n) if state is None else getattr(state, name)
        if given.shape != (n,):
            raise ValueError(f"trace {name} must have shape ({n},), got {given.shape}")
        vectors.append(np.array(given, synapses.dtype))
    return vectors


def _by_pre(array: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
    """Return a copy of a (post, pre) array in the kernels' layout, (pre, post)."""
    rows = kernels.aligned(array.shape[1], np.empty(array.shape[0], dtype))
    rows[:] = array.T
    return rows


def _packed(constants: dict[str, float], names: tuple[str, ...], dtype: np.dtype) -> np.ndarray:
    return np.array([constants[name] for name in names], dtype)
