"""Pair STDP on given spike trains, of any source; it needs neither a network nor an environment.

What one tick does is written in :mod:`spikeloop.spiking.rules.reference`.

    rng = np.random.default_rng(0)
    pre, post = rng.random((1000, 50)) < 0.05, rng.random((1000, 20)) < 0.05
    w, traces = stdp(pre, post, np.full((20, 50), 0.5))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.rules import stdp_kernels
from spikeloop.spiking.rules.reference import Traces
from spikeloop.spiking.rules.spike_trains import check_rule, packed, trains, vectors_of


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
        check_rule(self, ("tau_plus", "tau_minus"), ("a_plus", "a_minus", "mu"), ("tau_plus", "tau_minus"))

    def constants(self, dt: float = 1.0) -> dict[str, float]:
        """Return the constants of a tick of ``dt`` ms, by the names the reference takes."""
        return {
            "decay_pre": math.exp(-dt / self.tau_plus),
            "decay_post": math.exp(-dt / self.tau_minus),
            **{name: float(getattr(self, name)) for name in ("a_plus", "a_minus", "mu", "w_min", "w_max")},
        }


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
    spikes, synapses = trains(pre, post, w, dt, (rule.w_min, rule.w_max))
    x, y = vectors_of(traces, ("x", "y"), synapses)
    c = packed(rule.constants(dt), stdp_kernels.STDP_CONSTANTS, synapses.dtype)
    if not (np.isfinite(c).all() and c[-2] < c[-1]):
        raise ValueError(f"w_min={rule.w_min} and w_max={rule.w_max} are no two finite bounds in {synapses.dtype}")
    stdp_kernels.stdp(*spikes, synapses, x, y, c)
    return synapses.T, Traces(x, y)
