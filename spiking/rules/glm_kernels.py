"""Numba kernels of probabilistic spiking policies: an env step, its learning, and stretches of a compiled task.

:mod:`spikeloop.spiking.rules.glm` has the equations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.population_kernels import population_spikes
from spikeloop.spiking.encoders.tile_kernels import encode

FROZEN, EXPECTED, SCORE = range(3)


class Constants(NamedTuple):
    """The rule's numbers."""

    learning_rate: float
    hidden_rate: float
    bias_rate: float  # as a multiple of the rate of the weights beside
    value_rate: float
    gamma: float
    decay: float  # of traces, per env step
    reward_scale: float
    initial_value: float
    kappa: float  # share of a trace of spikes that is left after a tick
    n_ticks: int
    hidden_gradient: int


class Learner(NamedTuple):
    """Everything that changes; kernels write into these arrays."""

    w_hidden: np.ndarray  # (H, n_inputs + 1), biases last
    w_out: np.ndarray  # (n_actions, H + 1), or (n_actions, n_inputs + 1) if H is 0
    v: np.ndarray  # (n_lines,) the critic's weights
    e_hidden: np.ndarray
    e_out: np.ndarray
    e_v: np.ndarray  # (n_lines,) zero exactly for lines that are not in `live`
    live: np.ndarray  # (n_lines,) int64, lines with a trace
    n_live: np.ndarray  # (1,) int64
    value: np.ndarray  # (1,) value of the last observation
    counts: np.ndarray  # (4,) env steps, ticks, hidden spikes, output spikes


@kernel
def spike_probability(v):
    """Return 1 / (1 + exp(-v))."""
    e = math.exp(-abs(v))
    return (1.0 if v >= 0 else e) / (1.0 + e)


@kernel
def run_step(x, learner, c, rng, score_hidden, score_out):
    """Run an env step and return its action; :func:`spikeloop.spiking.rules.glm.run_step` is its definition.

    Args:
        x: Input, shape (n_ticks, n_inputs), or (1, n_inputs) where it is held.
        learner: Weights; spikes are added to its counts.
        c: The rule's numbers.
        rng: Source of the draws: on each tick for hidden neurons, then for outputs; at the end one that breaks ties.
        score_hidden: Written: what the hidden weights learn from.
        score_out: Written: the score of the output weights.
    """
    n_hidden, n_actions, n_inputs = learner.w_hidden.shape[0], learner.w_out.shape[0], x.shape[1]
    n_into = learner.w_out.shape[1]
    s, h = np.zeros(n_inputs + 1), np.zeros(n_hidden + 1)
    s[n_inputs] = h[n_hidden] = 1.0
    expected = n_hidden > 0 and c.hidden_gradient == EXPECTED
    eps = np.zeros((n_hidden if expected else 0, n_inputs + 1))
    into = h if n_hidden > 0 else s
    surprise, z = np.empty(n_actions), np.zeros(n_actions)
    score_hidden[:], score_out[:] = 0.0, 0.0
    n_spiked = 0
    for k in range(c.n_ticks):
        row = min(k, x.shape[0] - 1)
        for i in range(n_inputs):
            s[i] = c.kappa * s[i] + (1.0 - c.kappa) * x[row, i]
        for j in range(n_hidden):
            u = 0.0
            for i in range(n_inputs + 1):
                u += learner.w_hidden[j, i] * s[i]
            p = spike_probability(u)
            spike = 1.0 if rng.random() < p else 0.0
            learner.counts[2] += spike
            h[j] = c.kappa * h[j] + (1.0 - c.kappa) * spike
            if expected:
                slope = (1.0 - c.kappa) * p * (1.0 - p)
                for i in range(n_inputs + 1):
                    eps[j, i] = c.kappa * eps[j, i] + slope * s[i]
            elif c.hidden_gradient == SCORE:
                for i in range(n_inputs + 1):
                    score_hidden[j, i] += (spike - p) * s[i]
        for a in range(n_actions):
            u = 0.0
            for i in range(n_into):
                u += learner.w_out[a, i] * into[i]
            p = spike_probability(u)
            z[a] = 1.0 if rng.random() < p else 0.0
            surprise[a] = z[a] - p
            if z[a] > 0:
                n_spiked += 1
            for i in range(n_into):
                score_out[a, i] += surprise[a] * into[i]
        if expected:
            for j in range(n_hidden):
                signal = 0.0
                for a in range(n_actions):
                    signal += surprise[a] * learner.w_out[a, j]
                for i in range(n_inputs + 1):
                    score_hidden[j, i] += signal * eps[j, i]
        learner.counts[1] += 1
        if n_spiked > 0:
            break
    learner.counts[0] += 1
    learner.counts[3] += n_spiked
    chosen = int(rng.random() * (n_spiked if n_spiked > 0 else n_actions))
    for a in range(n_actions):
        if n_spiked == 0 or z[a] > 0:
            if chosen == 0:
                return a
            chosen -= 1
    return n_actions - 1


@kernel
def value_of(lines, learner, c):
    """Return the critic's value of an observation that makes these lines active."""
    value = c.initial_value
    for at in range(lines.shape[0]):
        value += learner.v[lines[at]]
    return value


@kernel
def learn_value(learner, step):
    """Change the critic's weights by their traces; ``learner`` is anything that has the critic's arrays."""
    for at in range(learner.n_live[0]):
        line = learner.live[at]
        learner.v[line] += step * learner.e_v[line]


@kernel
def remember_lines(lines, learner, decay):
    """Let the critic's traces decay and those of the active lines begin at 1: replacing traces."""
    n_kept = 0
    for at in range(learner.n_live[0]):
        line = learner.live[at]
        learner.e_v[line] *= decay
        if learner.e_v[line] < 1e-4:  # too little to matter, and the list stays short
            learner.e_v[line] = 0.0
        else:
            learner.live[n_kept] = line
            n_kept += 1
    for at in range(lines.shape[0]):
        if learner.e_v[lines[at]] == 0.0:
            learner.live[n_kept] = lines[at]
            n_kept += 1
        learner.e_v[lines[at]] = 1.0
    learner.n_live[0] = n_kept


@kernel
def forget_lines(learner):
    """Set the critic's traces to zero."""
    for at in range(learner.n_live[0]):
        learner.e_v[learner.live[at]] = 0.0
    learner.n_live[0] = 0


@kernel
def _follow(w, e, step, bias_rate):
    """Change weights by their traces; biases, the last column, by `bias_rate` times as much."""
    last = w.shape[1] - 1
    for j in range(w.shape[0]):
        for i in range(last):
            w[j, i] += step * e[j, i]
        w[j, last] += bias_rate * step * e[j, last]


@kernel
def _reinforce(delta, learner, c):
    """Change all weights by their traces."""
    _follow(learner.w_hidden, learner.e_hidden, c.hidden_rate * delta, c.bias_rate)
    _follow(learner.w_out, learner.e_out, c.learning_rate * delta, c.bias_rate)
    learn_value(learner, c.value_rate * delta)


@kernel(seconds=10)
def act(x, lines, reward, starts, learner, c, rng):
    """Learn from the env step before, run this one, and return its action.

    Args:
        x: Input, as in :func:`run_step`.
        lines: Lines of the critic's code that are active now.
        reward: Reward of the step before.
        starts: Whether an episode begins.
        learner: Changed.
        c: The rule's numbers.
        rng: Source of the spikes.
    """
    if starts:
        forget(learner)
    else:
        next_value = value_of(lines, learner, c)
        _reinforce(c.reward_scale * reward + c.gamma * next_value - learner.value[0], learner, c)
    learner.value[0] = value_of(lines, learner, c)
    score_hidden, score_out = np.empty_like(learner.w_hidden), np.empty_like(learner.w_out)
    action = run_step(x, learner, c, rng, score_hidden, score_out)
    for j in range(score_hidden.shape[0]):
        for i in range(score_hidden.shape[1]):
            learner.e_hidden[j, i] = c.decay * learner.e_hidden[j, i] + score_hidden[j, i]
    for a in range(score_out.shape[0]):
        for i in range(score_out.shape[1]):
            learner.e_out[a, i] = c.decay * learner.e_out[a, i] + score_out[a, i]
    remember_lines(lines, learner, c.decay)
    return action


@kernel
def end(lines, reward, truncated, learner, c):
    """Learn from the last reward of an episode; ``lines`` are those of its last observation."""
    value = value_of(lines, learner, c) if truncated else 0.0
    _reinforce(c.reward_scale * reward + c.gamma * value - learner.value[0], learner, c)
    forget(learner)


@kernel
def forget(learner):
    """Set all traces to zero."""
    learner.e_hidden[:], learner.e_out[:] = 0.0, 0.0
    forget_lines(learner)


@kernel(seconds=10)
def stretch(step, state, body, next_obs, keep, shown, curves, key, coder, x, learner, c, rng, action, rewards):
    """Act and learn in a compiled task until the next step would end the episode.

    Args:
        step: The task's compiled step (:mod:`spikeloop.envs.compiled`).
        state: Its state, which is moved on to where the stretch ends.
        body: Its constants.
        next_obs: Room for an observation of the task.
        keep: Which of its numbers are shown.
        shown: The last observation; overwritten.
        curves: The tuning curves of the input code.
        key: Key of the input's random spikes, shape (1,); overwritten.
        coder: Tables of the critic's code.
        x: Room for the input.
        learner: Changed.
        c: The rule's numbers.
        rng: Source of the spikes.
        action: The action chosen last.
        rewards: Written with the reward of each step; its length is the most steps to take.

    Returns:
        The number of steps, and the action chosen after them.
    """
    next_state, lines = np.empty_like(state), np.empty(coder.offsets.shape[0], np.int64)
    n_steps = 0
    while n_steps < rewards.shape[0]:
        next_state[:] = state
        reward, terminated = step(next_state, action, body, next_obs)
        if terminated:
            break
        state[:] = next_state
        for i in range(keep.shape[0]):
            shown[i] = next_obs[keep[i]]
        encode(coder, shown, lines)
        population_spikes(curves, shown, key, x)
        seen = np.float64(np.float32(reward))  # as vectorised environments hand it over
        action = act(x, lines, seen, False, learner, c, rng)
        rewards[n_steps] = reward
        n_steps += 1
    return n_steps, action
