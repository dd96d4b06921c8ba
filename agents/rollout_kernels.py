"""A rollout of several environments in one kernel: observations, policy, dynamics, normalisation, advantages."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from spikeloop.agents.ppo_kernels import COMPILED_IN, policy_step
from spikeloop.spiking.compiling import kernel

ACT, NORMALIZE = 0, 1  # where a step goes on


class Eyes(NamedTuple):
    """From what a task shows to what the first layer gets; arrays of no rows stand for none."""

    shown: Any  # components of the task's observation, int64, (n_obs,)
    scaler: Any  # mean, divisor and bound of fixed factors, float64, (3, n_obs)
    centers: Any  # of a population code, float64, (n_obs, n)
    widths: Any


class Normalization(NamedTuple):
    """The running statistics of a VecNormalize; changed."""

    mean: Any  # of observations, float64, (n_obs,)
    var: Any
    counts: Any  # of observations and of returns, (2,)
    return_moments: Any  # mean and variance of discounted returns, (2,)
    running: Any  # discounted return of each environment, (E,)
    learns: Any
    norm_obs: Any
    norm_reward: Any
    epsilon: Any
    clip_obs: Any
    clip_reward: Any
    gamma: Any


class Tasks(NamedTuple):
    """E environments between two steps; changed."""

    states: Any  # float64, (E, n_state)
    bodies: Any  # float64, (E, n_constants)
    whole: Any  # all that the tasks showed last, float64, (E, n_whole)
    left: Any  # steps before the one that is left to the environment itself, int64, (E,)
    raw: Any  # what was shown last, before normalisation, float64, (E, n_obs)
    last: Any  # of episodes that just ended, the last observation, float64, (E, n_obs)
    done: Any  # whether the step ended an episode, uint8, (E,)
    truncated: Any  # whether a time limit did
    pending: Any  # whether the step is left to the environment itself
    before: Any  # scratch: the state before a step, float64, (n_state,)


class Filled(NamedTuple):
    """The arrays of the rollout buffer, T steps of E environments."""

    observations: Any  # float32, (T, E, n_obs)
    actions: Any  # float32, (T, E * n_action)
    paid: Any  # rewards as the tasks pay them, float64, (T, E); float32 to all but their monitors
    rewards: Any  # float32, (T, E)
    starts: Any  # float32, (T, E)
    values: Any
    log_probs: Any
    states: Any  # at the start of each sequence, float32, (E, T / L, n_rows, width)
    frames: Any  # of the critic, likewise, (E, T / L, n_frames, n_obs)


@kernel
def see(eyes, obs, features, x):
    """Write features and input of normalised observations, shape (E, n_obs), with the arithmetic of the encoders."""
    n_envs, n_obs = obs.shape
    n = eyes.centers.shape[1]
    for e in range(n_envs):
        for j in range(n_obs):
            value = np.float64(obs[e, j])
            if eyes.scaler.shape[0] > 0:
                value = (value - eyes.scaler[0, j]) / eyes.scaler[1, j]
                value = min(max(value, -eyes.scaler[2, j]), eyes.scaler[2, j])
            features[e, j] = value
            if eyes.centers.shape[0] == 0:
                x[e, 0, j] = value
            for k in range(n):
                u = (np.float64(features[e, j]) - eyes.centers[j, k]) / eyes.widths[j, k]
                x[e, 0, j * n + k] = math.exp(-0.5 * (u * u))


@kernel
def look_back(frames, features, starts, seen):
    """Write what a critic of several frames sees: those before, (n_frames, E, n_obs), and then the current one."""
    n_frames, n_envs, n_obs = frames.shape
    for e in range(n_envs):
        for i in range(n_frames):
            for j in range(n_obs):
                if starts[e, 0] != 0:
                    frames[i, e, j] = 0
                seen[e, i * n_obs + j] = frames[i, e, j]
        for j in range(n_obs):
            seen[e, n_frames * n_obs + j] = features[e, j]


@kernel
def _keep_frame(frames, features):
    for i in range(frames.shape[0]):
        frames[i] = frames[i + 1] if i + 1 < frames.shape[0] else features


@kernel
def _join(mean, var, count, batch_mean, batch_var, n):
    """Return the moments of both (Chan et al. 1979), as SB3's RunningMeanStd has them."""
    delta, total = batch_mean - mean, count + n
    joint = var * count + batch_var * n + delta * delta * count * n / total
    return mean + delta * n / total, joint / total


@kernel
def _bounded(x, bound):
    return min(max(x, -bound), bound)


@kernel
def normalized(norm, raw, obs):
    """Write observations, shape (E, n_obs), as VecNormalize shows them."""
    for e in range(raw.shape[0]):
        for j in range(raw.shape[1]):
            value = raw[e, j]
            if norm.norm_obs != 0:
                value = _bounded((value - norm.mean[j]) / math.sqrt(norm.var[j] + norm.epsilon), norm.clip_obs)
            obs[e, j] = value


@kernel
def _learn_statistics(norm, raw, paid, done):
    n_envs = raw.shape[0]
    if norm.norm_obs != 0:
        for j in range(raw.shape[1]):
            mean, var = 0.0, 0.0
            for e in range(n_envs):
                mean += raw[e, j] / n_envs
            for e in range(n_envs):
                var += (raw[e, j] - mean) ** 2 / n_envs
            norm.mean[j], norm.var[j] = _join(norm.mean[j], norm.var[j], norm.counts[0], mean, var, n_envs)
        norm.counts[0] += n_envs
    mean, var = 0.0, 0.0
    for e in range(n_envs):
        norm.running[e] = norm.running[e] * norm.gamma + np.float32(paid[e])
        mean += norm.running[e] / n_envs
    for e in range(n_envs):
        var += (norm.running[e] - mean) ** 2 / n_envs
    moments = norm.return_moments
    moments[0], moments[1] = _join(moments[0], moments[1], norm.counts[1], mean, var, n_envs)
    norm.counts[1] += n_envs


@kernel(seconds=COMPILED_IN)
def advance(
    step, sizes, layers, dense, groups, options, rows, parameters, scratch, eyes, norm, tasks, filled, t, phase, gamma,
    obs, starts, state, new_state, frames, noise, bounds, chosen, features, seen, x, last, nothing, totals, uncounted
):  # fmt: skip
    """Take steps until one is left to an environment itself, or the rollout is full.

    Args:
        step: The compiled step of the tasks.
        sizes: As for :func:`~spikeloop.agents.ppo_kernels.epochs`.
        layers: As for :func:`~spikeloop.agents.ppo_kernels.epochs`.
        dense: As for :func:`~spikeloop.agents.ppo_kernels.epochs`.
        groups: As for :func:`~spikeloop.agents.ppo_kernels.epochs`.
        options: As for :func:`~spikeloop.agents.ppo_kernels.epochs`.
        rows: As for :func:`~spikeloop.agents.ppo_kernels.epochs`.
        parameters: As for :func:`~spikeloop.agents.ppo_kernels.epochs`.
        scratch: As for :func:`~spikeloop.agents.ppo_kernels.epochs`.
        eyes: :class:`Eyes`.
        norm: :class:`Normalization`.
        tasks: :class:`Tasks`.
        filled: :class:`Filled`.
        t: Step to go on with.
        phase: Where in it: ACT, or NORMALIZE when the environments have taken the steps that were left to them.
        gamma: Discount factor.
        obs: Observations as the policy sees them, float32, shape (E, n_obs); changed.
        starts: Whether an episode begins with them, uint8, shape (E, 1); changed.
        state: Packed state, shape (n_rows, E, width); changed.
        new_state: Scratch of the same shape.
        frames: What the critic remembers, float32, shape (n_frames, E, n_obs); changed.
        noise: What actions are drawn by, float32, shape (T, E * n_action).
        bounds: Least and greatest action, float64, shape (2, n_action).
        chosen: Actions as the step takes them: int64, shape (E,), or float64, shape (E, n_action); written.
        features: Scratch, float32, shape (E, n_obs).
        seen: Scratch, float32, shape (E, (n_frames + 1) * n_obs).
        x: Scratch, float32, shape (E, 1, n_inputs).
        last: Scratch, float32, shape (E, n_obs).
        nothing: Scratch, float32, shape (3, E * n_action).
        totals: Spikes of each neuron; added to.
        uncounted: Likewise, of passes that do not count.

    Returns:
        The step to go on with, where in it, and whether all numbers are finite.
    """
    n_steps, n_envs = filled.values.shape
    seq_len = sizes.n_steps
    while t < n_steps:
        if phase == ACT:
            see(eyes, obs, features, x)
            if t % seq_len == 0:
                for e in range(n_envs):
                    filled.states[e, t // seq_len] = state[:, e]
                    filled.frames[e, t // seq_len] = frames[:, e]
            look_back(frames, features, starts, seen)
            _keep_frame(frames, features)
            finite = policy_step(
                sizes, layers, dense, groups, options, rows, parameters, scratch, x, seen, starts, state, new_state,
                noise[t], totals, filled.actions[t], filled.values[t], filled.log_probs[t],
            )  # fmt: skip
            if not finite:
                return t, ACT, False
            state[:] = new_state
            waits = False
            for e in range(n_envs):
                filled.starts[t, e] = starts[e, 0]
                filled.observations[t, e] = obs[e]
                _choose(chosen, e, filled.actions[t], bounds)
                tasks.done[e] = tasks.truncated[e] = tasks.pending[e] = 0
                tasks.before[:] = tasks.states[e]
                ends = tasks.left[e] <= 0
                if not ends:
                    paid, ends = step(tasks.states[e], chosen[e], tasks.bodies[e], tasks.whole[e])
                if ends:
                    tasks.states[e] = tasks.before
                    tasks.pending[e], waits = 1, True
                else:
                    filled.paid[t, e] = paid
                    tasks.left[e] -= 1
                    for j in range(len(eyes.shown)):
                        tasks.raw[e, j] = tasks.whole[e, eyes.shown[j]]
            phase = NORMALIZE
            if waits:
                return t, NORMALIZE, True
        if norm.learns != 0:
            _learn_statistics(norm, tasks.raw, filled.paid[t], tasks.done)
        normalized(norm, tasks.raw, obs)
        cut = False
        for e in range(n_envs):
            reward = np.float64(np.float32(filled.paid[t, e]))
            if norm.norm_reward != 0:
                reward = _bounded(reward / math.sqrt(norm.return_moments[1] + norm.epsilon), norm.clip_reward)
            filled.rewards[t, e] = reward
            starts[e, 0] = 0
            cut = cut or tasks.truncated[e] != 0
            if tasks.done[e] != 0:
                norm.running[e] = 0.0
        if cut:  # what was still to come counts by its value
            normalized(norm, tasks.last, last)
            see(eyes, last, features, x)
            look_back(frames, features, starts, seen)
            policy_step(
                sizes, layers, dense, groups, options, rows, parameters, scratch, x, seen, starts, state, new_state,
                nothing[0], uncounted, nothing[0], nothing[1], nothing[2],
            )  # fmt: skip
            for e in range(n_envs):
                if tasks.truncated[e] != 0:
                    filled.rewards[t, e] += gamma * nothing[1, e]
        for e in range(n_envs):
            starts[e, 0] = tasks.done[e]
        phase = ACT
        t += 1
    return t, ACT, True


@kernel
def _choose(chosen, e, actions, bounds):
    """Write an action as the step takes it; continuous ones within their bounds."""
    if chosen.ndim == 1:
        chosen[e] = int(actions[e])
    else:
        for k in range(bounds.shape[1]):
            action = np.float64(actions[e * bounds.shape[1] + k])
            chosen[e, k] = min(max(action, bounds[0, k]), bounds[1, k])


@kernel
def advantages(rewards, values, starts, last_values, dones, gamma, gae_lambda, out, returns):
    """Write generalised advantages (Schulman et al. 2016) and returns, float32, shape (T, E), as SB3's buffer does."""
    n_steps, n_envs = rewards.shape
    for e in range(n_envs):
        gain = 0.0
        for t in range(n_steps - 1, -1, -1):
            last = t == n_steps - 1
            goes_on = 1.0 - (dones[e] if last else starts[t + 1, e])
            ahead = last_values[e] if last else values[t + 1, e]
            gain = rewards[t, e] + gamma * ahead * goes_on - values[t, e] + gamma * gae_lambda * goes_on * gain
            out[t, e] = gain
            returns[t, e] = np.float32(gain) + values[t, e]
