"""Probabilistic spiking networks as stochastic policies: Bernoulli neurons, taught by their score function.

An env step is at most K ticks. For inputs x, a constant input of 1 for biases, weights w_ji, and ``kappa = exp(-dt /
tau_s)``, every neuron, hidden or output, is a generalised linear model (GLM) of the spikes that reach it:

    s_i <- kappa s_i + (1 - kappa) x_i          from 0 at the start of each env step
    p_j = 1 / (1 + exp(-u_j)),  u_j = sum_i w_ji s_i + b_j
    z_j = 1 with probability p_j

The first output spike ends the env step: that neuron is the action. Of several on one tick, or of all if none spikes in
K ticks, one is drawn uniformly, whatever the weights are. So the network *is* the policy, and with respect to the
weights of the outputs

    d log P / d w_ji = sum over ticks of (z_j - p_j) s_i        the score: of two neurons, local
    e_ji <- gamma lambda e_ji + score,   w_ji <- w_ji + eta delta e_ji

is the policy gradient of an actor-critic, exact given the input's spikes. ``delta`` is the TD error of a linear critic
with replacing traces (Sutton & Barto 2018, section 13.5). Hidden neurons learn in one of three ways:

    expected   eps_ji <- kappa eps_ji + (1 - kappa) p_j (1 - p_j) s_i
               sum over ticks of L_j eps_ji, with L_j = sum_a (z_a - p_a) w_aj: the gradient through the mean of a
               neuron's spikes. Biased, as a hidden spike is taken for its probability; e-prop has the same form.
    score      the score above, of their own spikes: unbiased, with a variance that grows with their number
    frozen     not at all

Jang, Simeone, Gardner & Gruening 2019 (GLM neurons, IEEE Signal Processing Magazine 36:64); Rosenfeld, Simeone &
Rajendran 2019 (first-to-spike policies, SPAWC); Williams 1992 (the score of Bernoulli-logistic units).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.first_to_spike import spike_probability
from spikeloop.spiking.rules import glm_kernels
from spikeloop.spiking.rules.glm_kernels import Constants, Learner

HIDDEN_GRADIENTS = {
    "frozen": glm_kernels.FROZEN,
    "expected": glm_kernels.EXPECTED,
    "score": glm_kernels.SCORE,
}


@dataclass(frozen=True)
class RewardGlm:
    """The numbers of the rule.

    Args:
        learning_rate: eta of the output weights.
        hidden_rate: eta of the hidden weights.
        bias_rate: eta of biases, as a multiple of that of the weights beside them.
        value_rate: Rate of the critic's weights.
        gamma: Discount factor.
        trace_lambda: lambda; traces decay by gamma lambda per env step.
        reward_scale: Factor of the reward.
        initial_value: Value of what nothing was learnt about yet.
        hidden_gradient: One of :data:`HIDDEN_GRADIENTS`.

    >>> RewardGlm(gamma=0.5, trace_lambda=0.5).constants(kappa=0.6, n_ticks=8).decay
    0.25
    """

    learning_rate: float = 1.0
    hidden_rate: float = 1.0
    bias_rate: float = 0.0
    value_rate: float = 0.0375
    gamma: float = 0.99
    trace_lambda: float = 0.9
    reward_scale: float = 1.0
    initial_value: float = 0.0
    hidden_gradient: str = "expected"

    def constants(self, kappa: float, n_ticks: int) -> Constants:
        """Return the numbers as the kernels take them."""
        return Constants(
            learning_rate=float(self.learning_rate),
            hidden_rate=float(self.hidden_rate),
            bias_rate=float(self.bias_rate),
            value_rate=float(self.value_rate),
            gamma=float(self.gamma),
            decay=float(self.gamma * self.trace_lambda),
            reward_scale=float(self.reward_scale),
            initial_value=float(self.initial_value),
            kappa=float(kappa),
            n_ticks=int(n_ticks),
            hidden_gradient=HIDDEN_GRADIENTS[self.hidden_gradient],
        )


def new_learner(
    w_hidden: np.ndarray, w_out: np.ndarray, values: np.ndarray, counts: np.ndarray | None = None
) -> Learner:
    """Return what the kernels change, with nothing eligible yet; the weights stay where they are in memory.

    Args:
        w_hidden: Shape (H, n_inputs + 1), the last column of biases; H is 0 for none.
        w_out: Shape (n_actions, H + 1), or (n_actions, n_inputs + 1) without hidden neurons.
        values: The critic's weights, shape (n_lines,).
        counts: What env steps, ticks, hidden spikes and output spikes are added to, float64, shape (4,); None for none.
    """
    n = len(values)
    return Learner(
        w_hidden=w_hidden,
        w_out=w_out,
        v=values,
        e_hidden=np.zeros_like(w_hidden),
        e_out=np.zeros_like(w_out),
        e_v=np.zeros(n),
        live=np.zeros(n, np.int64),
        n_live=np.zeros(1, np.int64),
        value=np.zeros(1),
        counts=np.zeros(4) if counts is None else counts,
    )


class Step(NamedTuple):
    """What an env step did."""

    z: np.ndarray
    """Spikes of the outputs on its last tick, shape (n_actions,); all 0 if none spiked in K ticks."""
    n_ticks: int
    """Ticks it took."""
    score_hidden: np.ndarray
    """What the hidden weights learn from, of their shape."""
    score_out: np.ndarray
    """The score of the output weights, of their shape."""
    log_p: float
    """Logarithm of the probability of all spikes that were drawn."""


def run_step(
    x: np.ndarray,
    w_hidden: np.ndarray,
    w_out: np.ndarray,
    kappa: float,
    n_ticks: int,
    draw: Callable[[np.ndarray], np.ndarray],
    hidden_gradient: str = "expected",
) -> Step:
    """Run an env step by the equations, in numpy: the definition of what the kernel computes.

    Args:
        x: Input of each tick, shape (n_ticks, n_inputs), or (1, n_inputs) where it is held.
        w_hidden: As in :func:`new_learner`.
        w_out: As in :func:`new_learner`.
        kappa: Share of a trace that is left after a tick.
        n_ticks: Ticks K, at most.
        draw: Makes spikes, 0 or 1, of spike probabilities, shape (n,); called on each tick, for hidden neurons first.
        hidden_gradient: One of :data:`HIDDEN_GRADIENTS`.

    >>> step = run_step(np.ones((1, 1)), np.zeros((0, 2)), np.zeros((2, 2)), 0.5, 3, lambda p: np.array([0.0, 1.0]))
    >>> step.n_ticks, step.score_out.tolist()  # the second output spiked on the first tick
    (1, [[-0.25, -0.5], [0.25, 0.5]])
    """
    n_hidden, n_inputs = len(w_hidden), x.shape[1]
    s, h = np.append(np.zeros(n_inputs), 1.0), np.append(np.zeros(n_hidden), 1.0)  # the last are the constant input
    eps = np.zeros_like(w_hidden)
    of_hidden, of_out, log_p = np.zeros_like(w_hidden), np.zeros_like(w_out), 0.0
    z, k = np.zeros(len(w_out)), 0
    for k in range(n_ticks):
        s[:-1] = kappa * s[:-1] + (1 - kappa) * x[min(k, len(x) - 1)]
        if n_hidden:
            p = spike_probability(w_hidden @ s)
            spikes = draw(p)
            log_p += float(np.log(np.where(spikes > 0, p, 1 - p)).sum())
            eps = kappa * eps + (1 - kappa) * np.outer(p * (1 - p), s)
            h[:-1] = kappa * h[:-1] + (1 - kappa) * spikes
            if hidden_gradient == "score":
                of_hidden += np.outer(spikes - p, s)
        into = h if n_hidden else s
        p = spike_probability(w_out @ into)
        z = draw(p)
        log_p += float(np.log(np.where(z > 0, p, 1 - p)).sum())
        of_out += np.outer(z - p, into)
        if n_hidden and hidden_gradient == "expected":
            of_hidden += (w_out[:, :-1].T @ (z - p))[:, None] * eps
        if z.any():
            break
    return Step(z, k + 1, of_hidden, of_out, log_p)


def action_of(z: np.ndarray, u: float) -> int:
    """Return the action of an env step: one of the outputs that spiked on its last tick, or of all if none did.

    Args:
        z: Their spikes, shape (n_actions,).
        u: A uniform on [0, 1), which breaks ties.

    >>> action_of(np.array([0, 1, 1]), 0.7)
    2
    """
    candidates = np.flatnonzero(z) if z.any() else np.arange(len(z))
    return int(candidates[int(u * len(candidates))])
