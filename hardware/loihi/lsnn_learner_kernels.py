"""Kernels of an LSNN that learns on the chip: an env step with the host's part of it, and stretches of a compiled task.

The chip's part is the emulator's own loop, which runs the learning engines after each tick. What the host reads of the
chip is v of the output compartments, and v of the neurons where it stands for a pseudo-derivative; what it writes are
input spikes, the third posttraces, and rewards. The loop is called in one place, as every place more would be compiled
anew.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spikeloop.hardware.loihi.learning_kernels import advance_and_learn
from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.tile_kernels import encode
from spikeloop.spiking.rules.eprop_kernels import LineCritic, remember_lines

GOES_ON, CUT, TERMINATED = 0, 1, 2  # of episodes
_Y3, _MOST = 2, 127  # row of a learner's y, and the largest number in it and in r1


class Host(NamedTuple):
    """What the host computes with, and what it keeps."""

    n_hidden: int  # learning engines of input and recurrent synapses, which come first; then those of the readout
    scale: np.ndarray  # of each number of the observation, (n_obs,)
    feedback: np.ndarray  # B, (n_outputs, N)
    output_scale: float  # logit of one unit of v
    signal_scale: float  # y3 of a learning signal of 1
    r1_scale: float  # r1 of a TD error of 1
    v_th: float  # threshold of the neurons in units of their v; 0 where the host does not read it
    gamma: float
    trace_decay: float  # gamma lambda, of the critic
    value_rate: float
    reward_scale: float
    initial_value: float
    carry: np.ndarray  # what the spikes of each number have not said yet, (n_obs,)
    last: np.ndarray  # value of the last step, and 1 once there was one in this episode, (2,)
    critic: LineCritic
    inputs: np.ndarray  # of an env step, (n_ticks, 1, n_lines), int32
    outputs: np.ndarray  # v of outputs, then of neurons if it is read, after each tick, (n_ticks, 1, n_read), int32
    rewards: np.ndarray  # r1 of each tick, (n_ticks,), int64


@kernel
def send(shown, scale, carry, inputs):
    """Write the input spikes of an env step: each number by two lines, by one while positive, by one while negative.

    On each tick the number, cut to -1..1, is added to a carry; where that reaches 1/2, a spike takes 1 off it
    (first-order sigma-delta modulation). The last line, for biases, spikes on each tick.

    Args:
        shown: What is observed, shape (n_obs,).
        scale: Its factors, likewise.
        carry: What the spikes so far have not said, likewise, changed in place.
        inputs: Written with 0 and 1, shape (n_ticks, 1, 2 n_obs + 1).
    """
    for t in range(len(inputs)):
        for i in range(len(shown)):
            carry[i] += min(max(shown[i] * scale[i], -1.0), 1.0)
            up, down = carry[i] >= 0.5, carry[i] <= -0.5
            inputs[t, 0, 2 * i], inputs[t, 0, 2 * i + 1] = up, down
            carry[i] -= np.float64(up) - np.float64(down)
        inputs[t, 0, -1] = 1


@kernel
def forget(host):
    """Let the host forget an episode; the critic's weights stay."""
    host.carry[:] = 0
    host.last[:] = 0
    critic = host.critic
    for at in range(critic.n_live[0]):
        critic.trace[critic.live[at]] = 0
    critic.n_live[0] = 0


@kernel
def _whole(value, rng):
    """Return a number rounded at random to a whole one that 7 bits and a sign hold."""
    return int(min(max(math.floor(value + rng.random()), -_MOST), _MOST))


@kernel
def _value(lines, host):
    value = host.initial_value
    for line in lines:
        value += host.critic.w[line]
    return value


@kernel
def criticise(reward, value, host, progress, rng):
    """Return the TD error of the step before as r1, and let the critic learn from it; ``value`` is the new state's."""
    if host.last[1] == 0:
        return 0
    delta, critic = host.reward_scale * reward + host.gamma * value - host.last[0], host.critic
    for at in range(critic.n_live[0]):
        critic.w[critic.live[at]] += progress * host.value_rate * delta * critic.trace[critic.live[at]]
    return _whole(progress * host.r1_scale * delta, rng)


@kernel
def pseudo_derivative(v, v_th):
    """Return ``max(0, 1 - |v - v_th| / v_th)``, or 1/2 for the v of 0 that a spike has just left behind."""
    return 0.5 if v == 0 else max(0.0, 1 - abs(v - v_th) / v_th)


@kernel
def decide(read, engines, host, rng):
    """Draw the action by a softmax of the outputs' v, and write into y3 what would make it likelier."""
    n_outputs = len(host.feedback)
    v = read[:n_outputs]
    p = np.exp(host.output_scale * (v - v.max()))
    p /= p.sum()
    left, action = rng.random(), n_outputs - 1
    for k in range(n_outputs - 1):
        left -= p[k]
        if left < 0:
            action = k
            break
    errors = -p
    errors[action] += 1
    for k in range(n_outputs):
        written = _whole(_MOST * errors[k], rng)
        for e in range(host.n_hidden, len(engines)):
            engines[e].y[_Y3, k] = written
    for j in range(host.feedback.shape[1]):
        signal = 0.0
        for k in range(n_outputs):
            signal += host.feedback[k, j] * errors[k]
        if host.v_th > 0:
            signal *= pseudo_derivative(read[n_outputs + j], host.v_th)
        written = _whole(host.signal_scale * signal, rng)
        for e in range(host.n_hidden):
            engines[e].y[_Y3, j] = written
    return action


@kernel(seconds=35)
def env_step(shown, lines, reward, ending, progress, loaded, state, addresses, engines, host, rng):
    """Run one env step and learn from the one before; return the action.

    It is as many ticks as ``host.inputs`` has. Before the last of them the host reads the outputs, and synapses change
    at its end. After an episode's last env step come as many ticks without input, in which the chip learns from it.

    Args:
        shown: What is observed, shape (n_obs,).
        lines: Active lines of the critic.
        reward: Reward of the step before.
        ending: :data:`GOES_ON`, or how the episode has ended: :data:`CUT`, whose last value counts, or
            :data:`TERMINATED`.
        progress: Factor of the TD error, and so of all learning rates: 1 at first, 0 at last.
        loaded: The emulated chip, as ``Emulator.loaded`` returns it.
        state: Its state, shape (1, W).
        addresses: Of the learning engines' kernels.
        engines: Their arrays: those of input, of recurrent, of readout synapses.
        host: What the host keeps.
        rng: Draws actions and rounds.
    """
    inputs, outputs, rewards, c, n_ticks = host.inputs, host.outputs, host.rewards, loaded, len(host.inputs)
    no_spikes, no_traces, action = np.zeros((1, 0), np.int32), np.zeros((1, 3, 0), np.int32), 0
    if ending == GOES_ON:
        send(shown, host.scale, host.carry, inputs)
    else:
        inputs[:] = 0
    for part in range(2):
        first, stop = 0, n_ticks - 1
        if part == 1:
            first, stop = n_ticks - 1, n_ticks
            value = 0.0 if ending == TERMINATED else _value(lines, host)
            rewards[first] = criticise(reward, value, host, progress, rng)
            if ending == GOES_ON:
                action = decide(outputs[first - 1, 0], engines, host, rng)
                host.last[0], host.last[1] = value, 1
                remember_lines(lines, host.critic, host.trace_decay)
        advance_and_learn(
            state, inputs[first:stop], c.bias, c.options, c.constants, c.runs, c.children, c.parents, c.scratch,
            c.sources, c.staged, c.staged_post, c.pointers, c.segments, c.weights, c.targets, c.outputs_of,
            outputs[first:stop], c.counters, c.spikes, c.recorded, addresses, engines, rewards[first:stop], no_spikes,
            no_traces,
        )  # fmt: skip
    return action


@kernel(seconds=35)
def stretch(
    step, task_state, body, obs, keep, shown, coder, changes, progress, loaded, state, addresses, engines, host, rng,
    action, rewards,
):  # fmt: skip
    """Act and learn in a compiled task until the next step would end the episode.

    Args:
        step: The task's step, a C function (:data:`spikeloop.envs.compiled.STEP`).
        task_state: State of the task, changed in place.
        body: Its constants.
        obs: Written with the last observation, shape (n_obs of the task,).
        keep: Which components of it are shown, int64.
        shown: What was shown last, shape (len(keep),), changed in place.
        coder: Tables of the critic's input code.
        changes: Whether that code is also of the change since the step before.
        progress: See :func:`env_step`, as the next six.
        loaded: The chip.
        state: Its state.
        addresses: Of the learning engines.
        engines: Their arrays.
        host: What the host keeps.
        rng: Draws actions and rounds.
        action: The action chosen last.
        rewards: Written with the reward of each step; its length is the most steps to take.

    Returns:
        The number of steps, and the action chosen after them.
    """
    next_state, next_obs, n_obs = np.empty_like(task_state), np.empty_like(obs), len(keep)
    seen, lines, n_steps = np.zeros(2 * n_obs if changes else n_obs), np.empty(len(coder.offsets), np.int64), 0
    while n_steps < len(rewards):
        next_state[:] = task_state
        reward, terminated = step(next_state, action, body, next_obs)
        if terminated:
            break
        task_state[:], obs[:] = next_state, next_obs
        for i in range(n_obs):
            if changes:
                seen[n_obs + i] = obs[keep[i]] - shown[i]
            shown[i] = seen[i] = obs[keep[i]]
        encode(coder, seen, lines)
        action = env_step(shown, lines, reward, GOES_ON, progress, loaded, state, addresses, engines, host, rng)
        rewards[n_steps] = reward
        n_steps += 1
    return n_steps, action
