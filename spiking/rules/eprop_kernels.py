"""Numba kernels of e-prop, with a given learning signal and in its reward-based form.

The equations and the public functions stand in :mod:`spikeloop.spiking.rules.eprop` and
:mod:`spikeloop.spiking.rules.reward_eprop`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.tile_kernels import encode

ADAM_DECAYS = 0.9, 0.999  # of the first and the second moment, as Kingma & Ba (2015) have them
ADAM_EPS = 1e-8
LINE_FLOOR = 1e-3  # a line of the critic is forgotten when its trace has fallen below


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
    y: np.ndarray  # readout trace, (N,); a constant 1 comes last where the readout has biases
    eps: np.ndarray  # eligibility of the membrane, (M,)
    eps_a: np.ndarray  # eligibility of the adaptation, (N, M)
    e_bar: np.ndarray  # eligibility trace, low-passed by kappa, (N, M)


class RewardState(NamedTuple):
    """What reward-based e-prop carries from step to step beside :class:`EpropState`."""

    trace: np.ndarray  # of the hidden weights, (N, M)
    trace_out: np.ndarray  # of the readout weights, (n_outputs + 1, N + b)
    last: np.ndarray  # value of the last step, and 1 once there was a step in this episode, (2,)


class EpropWeights(NamedTuple):
    """What reward-based e-prop learns; row n_outputs of the readout is the value. b is 1 with biases, else 0."""

    w: np.ndarray  # input and recurrent weights side by side, (N, M); a bias is an input that is always 1, before them
    w_out: np.ndarray  # (n_outputs + 1, N + b)
    feedback: np.ndarray  # from the readout back to the neurons, like w_out; w_out itself if symmetric
    rate: np.ndarray  # running mean of the spikes per tick, (N,)


class Moments(NamedTuple):
    """Running means that Adam divides steps by, one for each synapse; of shape (0, 0) without it."""

    first: np.ndarray  # of the hidden weights' steps, (N, M)
    second: np.ndarray  # of their squares
    first_out: np.ndarray  # of the readout's, (n_outputs + 1, N + b)
    second_out: np.ndarray
    n: np.ndarray  # updates so far, float64, (1,)


class LineCritic(NamedTuple):
    """A critic on the lines of an input code instead of on the readout trace; of length 0 without it."""

    w: np.ndarray  # value of each line, (n_lines,)
    trace: np.ndarray  # (n_lines,), zero exactly for lines that are not in `live`
    live: np.ndarray  # lines with a trace, int64, (n_lines,)
    n_live: np.ndarray  # int64, (1,)


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
    reward_scale: float
    initial_value: float
    trace_max: float  # bound of the hidden weights' traces; infinite for none
    adam: float  # 1 if steps are divided by their running root mean square


class RewardLearner(NamedTuple):
    """All that learns by reward-based e-prop; kernels write into the arrays."""

    weights: EpropWeights
    neurons: EpropNeurons
    state: EpropState
    memory: RewardState
    moments: Moments
    critic: LineCritic
    c: RewardConstants


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
def _forward(x, lines, n_ticks, learner, outputs):
    """Run one env step and write what the readout makes of it, the value last."""
    weights, state, c = learner.weights, learner.state, learner.c
    n, n_outputs = len(state.v), len(outputs) - 1
    eligible = c.learning_rate != 0
    drive = np.empty_like(state.v)
    for tick in range(n_ticks):
        now = x[min(tick, len(x) - 1)]
        if tick < len(x):
            _drive(now, weights.w, drive)
        _eprop_tick(now, drive, weights.w, learner.neurons, state, eligible)
        for j in range(n):
            weights.rate[j] += c.rate_step * (state.z[j] - weights.rate[j])
    for k in range(len(outputs)):
        total = outputs.dtype.type(0)
        for j in range(weights.w_out.shape[1]):
            total += weights.w_out[k, j] * state.y[j]
        outputs[k] = total
    if len(lines) > 0:
        outputs[n_outputs] = 0
        for line in lines:
            outputs[n_outputs] += learner.critic.w[line]
    outputs[n_outputs] += c.initial_value


@kernel
def _adam(w, rate, steps, first, second, n):
    """Change weights by steps, each divided by the root of the running mean of its square (Kingma & Ba 2015).

    Args:
        w: Weights of a neuron's synapses, shape (M,), changed in place.
        rate: Learning rate.
        steps: Their steps, shape (M,).
        first: Running means of the steps, changed in place.
        second: Running means of their squares, likewise.
        n: Number of this update, from 1.
    """
    number = w.dtype.type
    decay_1, decay_2, eps = number(ADAM_DECAYS[0]), number(ADAM_DECAYS[1]), number(ADAM_EPS)
    new_1, new_2 = number(1 - ADAM_DECAYS[0]), number(1 - ADAM_DECAYS[1])
    unbiased_1, unbiased_2 = number(1 / (1 - ADAM_DECAYS[0] ** n)), number(1 / (1 - ADAM_DECAYS[1] ** n))
    for i in range(len(w)):
        first[i] = decay_1 * first[i] + new_1 * steps[i]
        second[i] = decay_2 * second[i] + new_2 * steps[i] * steps[i]
        w[i] += rate * first[i] * unbiased_1 / (np.sqrt(second[i] * unbiased_2) + eps)


@kernel
def _apply(delta, learner):
    """Change the weights by the TD error ``delta`` of the last step."""
    weights, memory, state, moments, c = learner.weights, learner.memory, learner.state, learner.moments, learner.c
    n, m = weights.w.shape
    n_out, n_read = weights.w_out.shape
    moments.n[0] += 1
    steps = np.empty(m + n_read, weights.w.dtype)
    if c.learning_rate != 0 and c.adam != 0:
        for j in range(n):
            by_rate = c.rate_coef * (c.target_rate - weights.rate[j])
            for i in range(m):
                steps[i] = delta * memory.trace[j, i] + by_rate * state.e_bar[j, i]
            _adam(weights.w[j], c.learning_rate, steps, moments.first[j], moments.second[j], moments.n[0])
            weights.w[j, m - n + j] = 0
    elif c.learning_rate != 0:
        for j in range(n):
            by_reward = c.learning_rate * delta
            by_rate = c.learning_rate * c.rate_coef * (c.target_rate - weights.rate[j])
            for i in range(m):
                weights.w[j, i] += by_reward * memory.trace[j, i] + by_rate * state.e_bar[j, i]
            weights.w[j, m - n + j] = 0
    for k in range(n_out):
        if k < n_out - 1 and c.adam != 0:
            for j in range(n_read):
                steps[j] = delta * memory.trace_out[k, j]
            _adam(weights.w_out[k], c.actor_rate, steps, moments.first_out[k], moments.second_out[k], moments.n[0])
        elif k < n_out - 1 or len(learner.critic.w) == 0:
            step = (c.value_rate if k == n_out - 1 else c.actor_rate) * delta
            for j in range(n_read):
                weights.w_out[k, j] += step * memory.trace_out[k, j]
    critic = learner.critic
    for at in range(critic.n_live[0]):
        critic.w[critic.live[at]] += c.value_rate * delta * critic.trace[critic.live[at]]


@kernel
def _remember(errors, lines, learner):
    """Add the step just taken to the traces; ``errors`` are what would make the action likelier, per output."""
    weights, memory, state, c = learner.weights, learner.memory, learner.state, learner.c
    n, m = weights.w.shape
    n_outputs = len(errors)
    for k in range(n_outputs + 1):
        error = errors[k] if k < n_outputs else 1.0
        for j in range(weights.w_out.shape[1]):
            memory.trace_out[k, j] = c.trace_decay * memory.trace_out[k, j] + error * state.y[j]
    if len(lines) > 0:
        remember_lines(lines, learner.critic, c.trace_decay)
    if c.learning_rate == 0:
        return
    for j in range(n):
        signal = np.float64(c.value_coef * weights.feedback[n_outputs, j])
        for k in range(n_outputs):
            signal += weights.feedback[k, j] * errors[k]
        for i in range(m):
            memory.trace[j, i] = c.trace_decay * memory.trace[j, i] + signal * state.e_bar[j, i]
        if c.trace_max < np.inf:
            for i in range(m):
                if abs(memory.trace[j, i]) > c.trace_max:  # NaN is kept, to be seen
                    memory.trace[j, i] = c.trace_max if memory.trace[j, i] > 0 else -c.trace_max


@kernel
def remember_lines(lines, critic, trace_decay):
    """Let the traces of all lines decay and set those of the active ones so that they sum to 1."""
    n_kept = 0
    for at in range(critic.n_live[0]):
        line = critic.live[at]
        critic.trace[line] *= trace_decay
        if critic.trace[line] < LINE_FLOOR / len(lines):
            critic.trace[line] = 0
        else:
            critic.live[n_kept] = line
            n_kept += 1
    for line in lines:
        if critic.trace[line] == 0:
            critic.live[n_kept] = line
            n_kept += 1
        critic.trace[line] = 1 / len(lines)
    critic.n_live[0] = n_kept


@kernel
def _observe(x, lines, reward, n_ticks, learner, outputs):
    """Run the network on what is observed, and learn from the step that led there."""
    _forward(x, lines, n_ticks, learner, outputs)
    last, c = learner.memory.last, learner.c
    if last[1] != 0:
        _apply(c.reward_scale * reward + c.gamma * outputs[len(outputs) - 1] - last[0], learner)
    last[0], last[1] = outputs[len(outputs) - 1], 1


@kernel(seconds=15)
def reward_eprop_act(x, lines, reward, uniform, n_ticks, learner, outputs):
    """Take one env step of reward-based e-prop and return which of the discrete actions it takes.

    Args:
        x: Input, shape (n_ticks, M - N); of one row if it is held over the step.
        lines: Active lines of the critic's input code, int64; none if the critic reads the readout trace.
        reward: Reward of the step before; unused in the first of an episode.
        uniform: A number drawn uniformly from [0, 1), which chooses the action.
        n_ticks: Ticks per env step.
        learner: What learns, changed in place.
        outputs: Written with the action probabilities and the value, shape (n_actions + 1,).
    """
    n_actions = len(outputs) - 1
    _observe(x, lines, reward, n_ticks, learner, outputs)
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
    errors = np.empty(n_actions)
    for k in range(n_actions):
        errors[k] = (1 if k == action else 0) - outputs[k]
    _remember(errors, lines, learner)
    return action


@kernel
def cut_gaussian(mean, std, noise, low, high):
    """Return a draw from a Gaussian, cut at two bounds, and how its log-probability grows with the mean.

    A cut action is one of a tail, so it is the tail's probability that counts (Fujita & Maeda 2018). The density at the
    draw itself would push a mean beyond the bounds on and on.
    """
    action = mean + std * noise
    if low < action < high:
        return action, noise / std
    upper = action >= high
    z = (high - mean) / std if upper else (mean - low) / std  # from the mean to the tail
    slope = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) / (0.5 * math.erfc(z / math.sqrt(2.0))) / std
    return (high, slope) if upper else (low, -slope)


@kernel(seconds=15)
def reward_eprop_act_box(x, lines, reward, noise, gaussian, n_ticks, learner, outputs):
    """Take one env step of reward-based e-prop with Gaussian actions, which ``outputs`` hold afterwards.

    Args:
        x: As in :func:`reward_eprop_act`.
        lines: Likewise.
        reward: Likewise.
        noise: Numbers drawn from the normal distribution, float64, shape (n_outputs,).
        gaussian: Standard deviations of the actions and the bounds where they are cut, float64, shape (3, n_outputs).
        n_ticks: Ticks per env step.
        learner: What learns, changed in place.
        outputs: Written with the actions and the value, shape (n_outputs + 1,).
    """
    _observe(x, lines, reward, n_ticks, learner, outputs)
    errors = np.empty(len(noise))
    for k in range(len(noise)):
        std, low, high = gaussian[:, k]
        outputs[k], errors[k] = cut_gaussian(np.float64(outputs[k]), std, noise[k], low, high)
    _remember(errors, lines, learner)


@kernel(seconds=15)
def reward_eprop_end(x, lines, reward, truncated, n_ticks, learner, outputs):
    """Learn from the last reward of an episode and return to rest.

    Args:
        x: Input at the observation that the episode was cut off at; only looked at if ``truncated``.
        lines: Active lines of the critic there, likewise.
        reward: Last reward.
        truncated: Whether a time limit ended the episode, so that its last value counts.
        n_ticks: Ticks per env step.
        learner: What learns; its state and traces are cleared.
        outputs: Scratch, shape (n_outputs + 1,).
    """
    state, memory, critic, c = learner.state, learner.memory, learner.critic, learner.c
    delta = c.reward_scale * reward - memory.last[0]
    if truncated:
        _forward(x, lines, n_ticks, learner, outputs)
        delta += c.gamma * outputs[len(outputs) - 1]
    _apply(delta, learner)
    for array in (state.v, state.a, state.z, state.refractory, state.y, state.eps, memory.last):
        array[:] = 0
    for array in (state.eps_a, state.e_bar, memory.trace, memory.trace_out):
        array[:] = 0
    state.y[len(state.v) :] = 1
    for at in range(critic.n_live[0]):
        critic.trace[critic.live[at]] = 0
    critic.n_live[0] = 0


@kernel(seconds=15)
def reward_eprop_episodes(x, rewards, uniform, n_ticks, learner, returns):
    """Run whole episodes whose observations do not depend on the actions, learning all along.

    Args:
        x: Input, shape (E, T, M - N), held over the ticks of a step.
        rewards: Reward for each action, shape (E, T, n_actions).
        uniform: Numbers drawn uniformly from [0, 1), shape (E, T).
        n_ticks: Ticks per env step.
        learner: What learns, at rest; at rest again afterwards. Its critic reads the readout trace.
        returns: Written with the sum of the rewards of each episode, shape (E,).
    """
    n_episodes, n_steps = uniform.shape
    outputs = np.empty(rewards.shape[2] + 1, learner.weights.w.dtype)
    lines = np.empty(0, np.int64)
    for episode in range(n_episodes):
        reward = rewards.dtype.type(0)
        returns[episode] = 0
        for t in range(n_steps):
            now = x[episode, t : t + 1]
            action = reward_eprop_act(now, lines, reward, uniform[episode, t], n_ticks, learner, outputs)
            reward = rewards[episode, t, action]
            returns[episode] += reward
        reward_eprop_end(x[episode, :1], lines, reward, False, n_ticks, learner, outputs)


@kernel
def see(shown, before, std, coder, changes, x, lines):
    """Write the input and the critic's lines for an observation.

    Args:
        shown: What is observed, shape (n_obs,), float64 that float32 can hold.
        before: What was observed on the step before, likewise.
        std: What observations are divided by, shape (n_obs,).
        coder: Tables of the critic's input code.
        changes: Whether the code is of the observation and its change since the step before, not of it alone.
        x: Written with the input, shape (1, n_obs), or one more, which is left as it is.
        lines: Written with the active lines, ascending; of length 0 without such a critic.
    """
    for i in range(len(shown)):
        x[0, i] = shown[i] / std[i]
    if len(lines) == 0:
        return
    if not changes:
        encode(coder, shown, lines)
        return
    both = np.empty(2 * len(shown))
    both[: len(shown)] = shown
    both[len(shown) :] = shown - before
    encode(coder, both, lines)


@kernel(seconds=15)
def reward_eprop_stretch(
    step, task_state, body, obs, keep, shown, std, coder, changes, n_ticks, learner, rng, action, rewards
):
    """Act and learn in a compiled task until the next step would end the episode.

    Args:
        step: The task's step, a C function (:data:`spikeloop.envs.compiled.STEP`).
        task_state: State of the task, changed in place.
        body: Its constants.
        obs: Written with the last observation, shape (n_obs of the task,).
        keep: Which components of it are shown, int64.
        shown: What was shown last, shape (len(keep),), changed in place.
        std: What it is divided by.
        coder: Tables of the critic's input code.
        changes: See :func:`see`.
        n_ticks: Ticks per env step.
        learner: What learns, changed in place.
        rng: Source of the uniform numbers that choose actions.
        action: The action chosen last.
        rewards: Written with the reward of each step; its length is the most steps to take.

    Returns:
        The number of steps, and the action chosen after them.
    """
    dtype = learner.weights.w.dtype
    next_state, next_obs, before = np.empty_like(task_state), np.empty_like(obs), np.empty_like(shown)
    outputs = np.empty(len(learner.weights.w_out), dtype)
    x = np.ones((1, learner.weights.w.shape[1] - learner.weights.w.shape[0]), dtype)
    lines = np.empty(len(coder.offsets) if len(learner.critic.w) > 0 else 0, np.int64)
    n_steps = 0
    while n_steps < len(rewards):
        next_state[:] = task_state
        reward, terminated = step(next_state, action, body, next_obs)
        if terminated:
            break
        task_state[:], obs[:], before[:] = next_state, next_obs, shown
        for i in range(len(keep)):
            shown[i] = obs[keep[i]]
        see(shown, before, std, coder, changes, x, lines)
        uniform = np.float32(rng.random())
        action = reward_eprop_act(x, lines, np.float32(reward), uniform, n_ticks, learner, outputs)
        rewards[n_steps] = reward
        n_steps += 1
    return n_steps, action
