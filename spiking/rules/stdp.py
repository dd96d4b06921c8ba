"""Pair STDP: the equations, and a function for given spike trains, which needs neither a network nor an environment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.neurons.base import Neurons
from spikeloop.spiking.rules import stdp_kernels
from spikeloop.spiking.rules.base import Post, typed
from spikeloop.spiking.rules.spike_trains import check_rule, trains, vectors_of
from spikeloop.spiking.rules.stdp_kernels import StdpConstants


class Traces(NamedTuple):
    """What the synapses of pair STDP remember."""

    x: np.ndarray
    """Presynaptic trace, shape (n_pre,), without the spikes of the last tick."""
    y: np.ndarray
    """Postsynaptic trace, shape (n_post,), without the spikes of the last tick."""
    s: np.ndarray
    """Presynaptic spikes of the last tick, shape (n_pre,); 0 where they are in ``x`` already."""
    z: np.ndarray
    """Postsynaptic spikes of the last tick, shape (n_post,); 0 where they are in ``y`` already."""


@dataclass(frozen=True)
class STDP:
    """Pair STDP with exponential windows and hard bounds; every pair of spikes counts, two of the same tick do not.

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

    >>> STDP(mu=1.0).constants(dt=1.0, dtype=np.float64).decay_pre.round(4)  # exp(-1 / 16.8)
    np.float64(0.9422)
    """

    n_factors: ClassVar[int] = 2

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

    def constants(self, dt: float, dtype: npt.DTypeLike, neurons: Neurons | None = None) -> StdpConstants:
        """Return the constants of a tick of ``dt`` ms.

        Raises:
            ValueError: If the bounds are no two finite numbers in ``dtype``.
        """
        decays = {"decay_pre": math.exp(-dt / self.tau_plus), "decay_post": math.exp(-dt / self.tau_minus)}
        c = typed(StdpConstants, {**vars(self), **decays}, dtype)
        if not (np.isfinite(c).all() and c.w_min < c.w_max):
            raise ValueError(f"w_min={self.w_min} and w_max={self.w_max} are no two finite bounds in {np.dtype(dtype)}")
        return c

    def begin(self, n_post: int, n_pre: int, dtype: npt.DTypeLike) -> Traces:
        """Return the traces before any spike."""
        return Traces(*(np.zeros(n, dtype) for n in (n_pre, n_post, n_pre, n_post)))

    @staticmethod
    def tick(pre: np.ndarray, post: Post, traces: Traces, c: StdpConstants) -> Traces:
        """Let the traces decay, after the spikes of the tick before have joined them.

            x <- decay_pre (x + s),  y <- decay_post (y + z)        decay_pre = exp(-dt / tau_plus), decay_post likewise
            s, z <- the spikes of this tick

        So ``x`` and ``y`` are what the spikes of this tick find.
        """
        return Traces(c.decay_pre * (traces.x + traces.s), c.decay_post * (traces.y + traces.z), pre, post.z)

    @staticmethod
    def change(w: np.ndarray, traces: Traces, signal: float, c: StdpConstants) -> np.ndarray:
        """Depress where a presynaptic neuron has spiked, then potentiate where a postsynaptic one has.

        w <- max(w - a_minus ((w - w_min) / (w_max - w_min))^mu y, w_min)       where s
        w <- min(w + a_plus ((w_max - w) / (w_max - w_min))^mu x, w_max)        where z
        """
        span = c.w_max - c.w_min
        down = c.a_minus * ((w - c.w_min) / span) ** c.mu * traces.y[:, None]
        w = np.where(traces.s, np.maximum(w - down, c.w_min), w)
        up = c.a_plus * ((c.w_max - w) / span) ** c.mu * traces.x
        return np.where(traces.z[:, None], np.minimum(w + up, c.w_max), w)

    def compiled(
        self, pre: np.ndarray, z: np.ndarray, signal: np.ndarray, w: np.ndarray, traces: Traces | None, dt: float
    ) -> tuple[np.ndarray, Traces]:
        """Run whole spike trains in the kernel; the arguments are those of :func:`stdp`."""
        return stdp(pre, z, w, self, traces, dt)


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

    >>> rng = np.random.default_rng(0)
    >>> pre, post = rng.random((1000, 50)) < 0.05, rng.random((1000, 20)) < 0.05
    >>> w, traces = stdp(pre, post, np.full((20, 50), 0.5))
    >>> w.shape, traces.x.shape, traces.y.shape
    ((20, 50), (50,), (20,))
    >>> w, traces = stdp(pre, post, w, traces=traces)  # goes on where the first call ended
    """
    rule = rule or STDP()
    spikes, synapses = trains(pre, post, w, dt, (rule.w_min, rule.w_max))
    (x, y), (s, z) = (vectors_of(traces, names, synapses) for names in (("x", "y"), ("s", "z")))
    x, y = x + s, y + z
    stdp_kernels.stdp(*spikes, synapses, x, y, rule.constants(dt, synapses.dtype))
    return synapses.T, Traces(x, y, np.zeros_like(x), np.zeros_like(y))
