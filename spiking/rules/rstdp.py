"""Reward-modulated STDP: the equations, and a function for given spike trains, which needs no network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking import checks
from spikeloop.spiking.neurons.base import Neurons
from spikeloop.spiking.rules import stdp_kernels
from spikeloop.spiking.rules.base import Post, typed
from spikeloop.spiking.rules.spike_trains import by_pre, check_rule, trains, vectors_of
from spikeloop.spiking.rules.stdp_kernels import RewardStdpConstants


class RewardSTDPState(NamedTuple):
    """What the synapses of reward-modulated STDP remember."""

    e: np.ndarray
    """Eligibilities, shape (n_post, n_pre)."""
    x: np.ndarray
    """Presynaptic trace, shape (n_pre,)."""
    y: np.ndarray
    """Postsynaptic trace, shape (n_post,)."""


@dataclass(frozen=True)
class RewardSTDP:
    """Reward-modulated STDP, also called MSTDPET (Florian 2007; Izhikevich 2007).

    Pairs of spikes change an eligibility that decays, and the third factor (reward, dopamine, a TD error) turns
    eligibility into weight changes. Florian's rule divides by ``tau_e`` what a pair adds; here that is part of the
    amplitudes.

    Args:
        tau_plus: Window of potentiation in ms, > 0.
        tau_minus: Window of depression in ms, > 0.
        tau_e: Time constant of the eligibilities in ms, > 0.
        a_plus: Largest change of an eligibility by a pair pre before post, >= 0.
        a_minus: Largest change by a pair post before pre, >= 0.
        learning_rate: Weight change per tick, unit of the third factor, and unit of eligibility.
        w_min: Lower bound of the weights, held on every tick; ``-inf`` for none.
        w_max: Upper bound; ``inf`` for none.
        e_max: Value at which eligibilities saturate, > 0; ``inf`` for none.

    Raises:
        ValueError: If a value is out of range.

    >>> RewardSTDP().bounded, RewardSTDP(w_min=0.0, w_max=1.0).bounded
    (False, True)
    """

    n_factors: ClassVar[int] = 3

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
        """Whether weights or eligibilities have a bound, which only a pass over all synapses on each tick can hold."""
        return not (self.w_min == -math.inf and self.w_max == math.inf and self.e_max == math.inf)

    def constants(self, dt: float, dtype: npt.DTypeLike, neurons: Neurons | None = None) -> RewardStdpConstants:
        """Return the constants of a tick of ``dt`` ms."""
        taus = {"decay_pre": self.tau_plus, "decay_post": self.tau_minus, "decay_e": self.tau_e}
        decays = {name: math.exp(-dt / tau) for name, tau in taus.items()}
        return typed(RewardStdpConstants, {**vars(self), **decays}, dtype)

    def begin(self, n_post: int, n_pre: int, dtype: npt.DTypeLike) -> RewardSTDPState:
        """Return the traces before any spike."""
        return RewardSTDPState(*(np.zeros(shape, dtype) for shape in ((n_post, n_pre), n_pre, n_post)))

    @staticmethod
    def tick(pre: np.ndarray, post: Post, traces: RewardSTDPState, c: RewardStdpConstants) -> RewardSTDPState:
        """Let eligibilities and traces decay, count the tick's pairs in, and then its spikes.

        With s the presynaptic and z the postsynaptic spikes, decay_e = exp(-dt / tau_e) and the others likewise:

            x <- decay_pre x,  y <- decay_post y
            e <- clip(decay_e e + a_plus z x - a_minus y s)        within +-e_max
            x <- x + s,  y <- y + z
        """
        x, y = c.decay_pre * traces.x, c.decay_post * traces.y
        e = c.decay_e * traces.e + c.a_plus * post.z[:, None] * x - c.a_minus * y[:, None] * pre
        return RewardSTDPState(np.clip(e, -c.e_max, c.e_max), x + pre, y + post.z)

    @staticmethod
    def change(w: np.ndarray, traces: RewardSTDPState, signal: float, c: RewardStdpConstants) -> np.ndarray:
        """Return ``clip(w + learning_rate signal e)``, within w_min and w_max."""
        return np.clip(w + c.learning_rate * signal * traces.e, c.w_min, c.w_max)

    def compiled(
        self,
        pre: np.ndarray,
        z: np.ndarray,
        signal: np.ndarray,
        w: np.ndarray,
        traces: RewardSTDPState | None,
        dt: float,
    ) -> tuple[np.ndarray, RewardSTDPState]:
        """Run whole spike trains in the kernel; the arguments are those of :func:`reward_stdp`."""
        return reward_stdp(pre, z, signal, w, self, traces, dt)


def reward_stdp(
    pre: npt.ArrayLike,
    post: npt.ArrayLike,
    reward: npt.ArrayLike,
    w: npt.ArrayLike,
    rule: RewardSTDP | None = None,
    state: RewardSTDPState | None = None,
    dt: float = 1.0,
) -> tuple[np.ndarray, RewardSTDPState]:
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
        ValueError: If shapes disagree, a train holds something else than 0 and 1, a number is not finite or an
            eligibility of the state is out of bounds.

    >>> pre, post, reward = np.zeros((60, 1)), np.zeros((60, 1)), np.zeros(60)
    >>> pre[3], post[5], reward[50] = 1, 1, 1.0  # the reward comes 45 ms after the pair that earned it
    >>> w, state = reward_stdp(pre, post, reward, [[0.5]], RewardSTDP(learning_rate=1.0))
    >>> w.round(5)  # 0.5 + a_plus exp(-2 / tau_plus) exp(-45 / tau_e)
    array([[0.50566]])
    """
    rule = rule or RewardSTDP()
    (before, after), synapses = trains(pre, post, w, dt, (-math.inf, math.inf))
    third = checks.finite("reward", checks.shaped("reward", reward, (len(before),)))
    third = checks.finite("reward", np.ascontiguousarray(third, synapses.dtype))
    x, y = vectors_of(state, ("x", "y"), synapses)
    e = stdp_kernels.aligned(len(synapses), np.empty(synapses.shape[1], synapses.dtype))
    if state is not None:
        given = checks.shaped("state.e", state.e, synapses.T.shape)
        e = by_pre("state.e", given, synapses.dtype, (-rule.e_max, rule.e_max))
    kernel = stdp_kernels.rstdp_bounded if rule.bounded else stdp_kernels.rstdp_unbounded
    kernel(before, after, third, synapses, e, x, y, rule.constants(dt, synapses.dtype))
    return synapses.T, RewardSTDPState(e.T, x, y)
