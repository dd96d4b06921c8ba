"""Numba kernels of e-prop, with a given learning signal and in its reward-based form.

The equations and the public functions stand in :mod:`spikeloop.spiking.rules.eprop` and
:mod:`spikeloop.spiking.rules.reward_eprop`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikeloop.spiking.compiling import kernel


class EpropNeurons(NamedTuple):
    """Constants of an LSNN layer under e-prop, in the dtype of the weights."""

    rho: np.ndarray  # exp(-dt / tau_a), (N,)
    beta: np.ndarray  # (N,)
    v_th: np.ndarray  # (N,)
    refractory: np.ndarray  # (N,)
    alpha: float  # exp(-dt / tau_m), the same for all neurons
    kappa: float  # exp(-dt / tau_out)
    damping: float  # height of the pseudo-derivative
    width: float  # its half-width


class EpropState(NamedTuple):
    """State of an LSNN layer and of its eligibilities; M = n_inputs + N presynaptic channels. Zeros are rest."""

    v: np.ndarray  # (N,)
    a: np.ndarray  # (N,)
    z: np.ndarray  # (N,)
    refractory: np.ndarray  # (N,)
    y: np.ndarray  # readout trace, (N,)
    eps: np.ndarray  # eligibility of the membrane, (M,)
    eps_a: np.ndarray  # eligibility of the adaptation, (N, M)
    e_bar: np.ndarray  # eligibility trace, low-passed by kappa, (N, M)


class RewardState(NamedTuple):
    """What reward-based e-prop carries from step to step beside :class:`EpropState`."""

    trace: np.ndarray  # of the hidden weights, (N, M)
    trace_out: np.ndarray  # of the readout weights, (n_actions + 1, N)
    last: np.ndarray  # value of the last step, and 1 once there was a step in this episode, (2,)


class EpropWeights(NamedTuple):
    """What reward-based e-prop learns; row n_actions of the readout is the value."""

    w: np.ndarray  # input and recurrent weights side by side, (N, M)
    w_out: np.ndarray  # (n_actions + 1, N)
    feedback: np.ndarray  # from the readout back to the neurons, (n_actions + 1, N); w_out itself if symmetric
    rate: np.ndarray  # running mean of the spikes per tick, (N,)


class RewardConstants(NamedTuple):
    """Constants of reward-based e-prop, numbers in the dtype of the weights."""

    gamma: float
    trace_decay: float  # gamma lambda
    learning_rate: float  # of the hidden weights; 0 freezes the hidden layer
    actor_rate: float
    value_rate: float
    value_coef: float
    rate_coef: float
    target_rate: float
    rate_step: float  # step of the running means of the firing rates, per tick


@kernel
def _drive(x, w, drive):
    """Write the input current ``w_in x`` of each neuron."""
    n = w.shape[0]
    drive[:] = 0
    for i in range(x.shape[0]):
        if x[i] != 0:
            for j in range(n):
                drive[j] += w[j, i] * x[i]


@kernel
def _eprop_tick(x, drive, w, neurons, state, eligible):
    """Advance layer and eligibilities by one tick."""
    alpha, kappa, damping, width = neurons.alpha, neurons.kappa, neurons.damping, neurons.width
    v, a, z, refractory, y, eps, eps_a, e_bar = state
    n, m = w.shape
    n_in = m - n
    new = 1 - kappa
    for i in range(n_in):
        eps[i] = alpha * eps[i] + x[i]
    for j in range(n):
        eps[n_in + j] = alpha * eps[n_in + j] + z[j]
        a[j] = neurons.rho[j] * a[j] + z[j]
        v[j] = alpha * v[j] + drive[j] - neurons.v_th[j] * z[j]
    for k in range(n):
        if z[k] > 0:
            for j in range(n):
                v[j] += w[j, n_in + k]
    for j in range(n):
        u = (v[j] - neurons.v_th[j] - neurons.beta[j] * a[j]) / neurons.v_th[j]
        psi = w.dtype.type(0)
        z[j] = 0
        if refractory[j] == 0:
            shape = 1 - abs(u) / width
            if shape > 0:
                psi = damping * shape / neurons.v_th[j]
            if u > 0:
                z[j] = 1
                refractory[j] = neurons.refractory[j]
        else:
            refractory[j] -= 1
        y[j] = kappa * y[j] + new * z[j]
        if eligible:
            beta, rho = neurons.beta[j], neurons.rho[j]
            for i in range(m):
                e = psi * (eps[i] - beta * eps_a[j, i])
                eps_a[j, i] = rho * eps_a[j, i] + e
                e_bar[j, i] = kappa * e_bar[j, i] + new * e


@kernel
def eprop(x, signal, w, neurons, state, dw, spikes):
    """Run a layer on a sequence and add ``sum_t signal_j(t) e_bar_ji(t)`` to ``dw``.

    Args:
        x: Input of each tick, shape (T, n_inputs).
        signal: Learning signal of each neuron and tick, shape (T, N).
        w: Weights, shape (N, n_inputs + N).
        neurons: Constants.
        state: State, changed in place.
        dw: Like w, added to.
        spikes: Written with the spikes, shape (T, N).
    """
    n, m = w.shape
    drive = np.empty(n, w.dtype)
    for t in range(x.shape[0]):
        _drive(x[t], w, drive)
        _eprop_tick(x[t], drive, w, neurons, state, True)
        for j in range(n):
            spikes[t, j] = state.z[j]
            for i in range(m):
                dw[j, i] += signal[t, j] * state.e_bar[j, i]


@kernel
def _forward(x, n_ticks, weights, neurons, state, c, drive, outputs):
    """Run one env step on input held over its ticks and write action preferences and value."""
    eligible = c.learning_rate != 0
    _drive(x, weights.w, drive)
    for _ in range(n_ticks):
        _eprop_tick(x, drive, weights.w, neurons, state, eligible)
        for j in range(len(drive)):
            weights.rate[j] += c.rate_step * (state.z[j] - weights.rate[j])
    for k in range(len(outputs)):
        total = outputs.dtype.type(0)
        for j in range(len(drive)):
            total += weights.w_out[k, j] * state.y[j]
        outputs[k] = total


@kernel
def _apply(delta, weights, state, memory, c):
    """Change the weights by the TD error ``delta`` of the last step."""
    n, m = weights.w.shape
    n_out = len(weights.w_out)
    if c.learning_rate != 0:
        for j in range(n):
            by_reward = c.learning_rate * delta
            by_rate = c.learning_rate * c.rate_coef * (c.target_rate - weights.rate[j])
            for i in range(m):
                weights.w[j, i] += by_reward * memory.trace[j, i] + by_rate * state.e_bar[j, i]
            weights.w[j, m - n + j] = 0
    for k in range(n_out):
        step = (c.value_rate if k == n_out - 1 else c.actor_rate) * delta
        for j in range(n):
            weights.w_out[k, j] += step * memory.trace_out[k, j]


@kernel
def _remember(action, outputs, weights, state, memory, c):
    """Add the step just taken to the traces; ``outputs`` become the probabilities of the actions."""
    n, m = weights.w.shape
    n_actions = len(outputs) - 1
    for k in range(n_actions + 1):
        error = -outputs[k]
        if k == n_actions:
            error = outputs.dtype.type(1)
        elif k == action:
            error += 1
        for j in range(n):
            memory.trace_out[k, j] = c.trace_decay * memory.trace_out[k, j] + error * state.y[j]
    if c.learning_rate == 0:
        return
    for j in range(n):
        signal = c.value_coef * weights.feedback[n_actions, j]
        for k in range(n_actions):
            signal += weights.feedback[k, j] * ((1 if k == action else 0) - outputs[k])
        for i in range(m):
            memory.trace[j, i] = c.trace_decay * memory.trace[j, i] + signal * state.e_bar[j, i]


@kernel
def reward_eprop_act(x, reward, uniform, n_ticks, weights, neurons, state, memory, c, outputs):
    """Take one env step of reward-based e-prop and return the action.

    Args:
        x: Input, held over the step, shape (n_inputs,).
        reward: Reward of the step before; unused in the first of an episode.
        uniform: A number drawn uniformly from [0, 1), which chooses the action.
        n_ticks: Ticks per env step.
        weights: Weights, changed in place.
        neurons: Constants.
        state: State of the layer, changed in place.
        memory: Traces, changed in place.
        c: Constants.
        outputs: Written with the action probabilities and the value, shape (n_actions + 1,).
    """
    n_actions = len(outputs) - 1
    _forward(x, n_ticks, weights, neurons, state, c, np.empty_like(state.v), outputs)
    if memory.last[1] != 0:
        _apply(reward + c.gamma * outputs[n_actions] - memory.last[0], weights, state, memory, c)
    highest, total = outputs[:n_actions].max(), outputs.dtype.type(0)
    for k in range(n_actions):
        outputs[k] = np.exp(outputs[k] - highest)
        total += outputs[k]
    below, action = outputs.dtype.type(0), n_actions - 1
    for k in range(n_actions):
        outputs[k] /= total
    for k in range(n_actions - 1):
        below += outputs[k]
        if uniform < below:
            action = k
            break
    _remember(action, outputs, weights, state, memory, c)
    memory.last[0], memory.last[1] = outputs[n_actions], 1
    return action


@kernel
def reward_eprop_end(x, reward, truncated, n_ticks, weights, neurons, state, memory, c, outputs):
    """Learn from the last reward of an episode and return to rest.

    Args:
        x: Observation the episode was cut off at, shape (n_inputs,); only looked at if ``truncated``.
        reward: Last reward.
        truncated: Whether a time limit ended the episode, so that its last value counts.
        n_ticks: Ticks per env step.
        weights: Weights, changed in place.
        neurons: Constants.
        state: State of the layer, cleared.
        memory: Traces, cleared.
        c: Constants.
        outputs: Scratch, shape (n_actions + 1,).
    """
    delta = reward - memory.last[0]
    if truncated:
        _forward(x, n_ticks, weights, neurons, state, c, np.empty_like(state.v), outputs)
        delta += c.gamma * outputs[len(outputs) - 1]
    _apply(delta, weights, state, memory, c)
    for array in (state.v, state.a, state.z, state.refractory, state.y, state.eps, memory.last):
        array[:] = 0
    for array in (state.eps_a, state.e_bar, memory.trace, memory.trace_out):
        array[:] = 0


@kernel
def reward_eprop_episodes(x, rewards, uniform, n_ticks, weights, neurons, state, memory, c, returns):
    """Run whole episodes whose observations do not depend on the actions, learning all along.

    Args:
        x: Observations, shape (E, T, n_inputs).
        rewards: Reward for each action, shape (E, T, n_actions).
        uniform: Numbers drawn uniformly from [0, 1), shape (E, T).
        n_ticks: Ticks per env step.
        weights: Weights, changed in place.
        neurons: Constants.
        state: State of the layer at rest; at rest again afterwards.
        memory: Traces, likewise.
        c: Constants.
        returns: Written with the sum of the rewards of each episode, shape (E,).
    """
    n_episodes, n_steps = uniform.shape
    outputs = np.empty(rewards.shape[2] + 1, weights.w.dtype)
    for episode in range(n_episodes):
        reward = rewards.dtype.type(0)
        returns[episode] = 0
        for t in range(n_steps):
            action = reward_eprop_act(
                x[episode, t], reward, uniform[episode, t], n_ticks, weights, neurons, state, memory, c, outputs
            )
            reward = rewards[episode, t, action]
            returns[episode] += reward
        reward_eprop_end(x[episode, 0], reward, False, n_ticks, weights, neurons, state, memory, c, outputs)
