"""Reward-modulated STDP on given spike trains, of any source; it needs neither a network nor an environment.

What one tick does is written in :mod:`spikeloop.spiking.rules.reference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking import checks
from spikeloop.spiking.rules import stdp_kernels
from spikeloop.spiking.rules.spike_trains import by_pre, check_rule, packed, trains, vectors_of


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
        check_rule(self, positive, ("a_plus", "a_minus"), (*positive, "w_min", "w_max"))

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
    (before, after), synapses = trains(pre, post, w, dt, (-math.inf, math.inf))
    third = checks.finite("reward", checks.shaped("reward", reward, (len(before),)))
    third = checks.finite("reward", np.ascontiguousarray(third, synapses.dtype))
    x, y = vectors_of(state, ("x", "y"), synapses)
    tags = stdp_kernels.aligned(len(synapses), np.empty(synapses.shape[1], synapses.dtype))
    if state is not None:
        tags = by_pre(
            "state.e", checks.shaped("state.e", state.e, synapses.T.shape), synapses.dtype, (-rule.e_max, rule.e_max)
        )
    c = packed(rule.constants(dt), stdp_kernels.RSTDP_CONSTANTS, synapses.dtype)
    kernel = stdp_kernels.rstdp_bounded if rule.bounded else stdp_kernels.rstdp_unbounded
    kernel(before, after, third, synapses, tags, x, y, c)
    return synapses.T, RSTDPState(tags.T, x, y)
