"""Kernels of an LSNN that learns on the chip: the host's part of an env step, and whole episodes of a compiled task.

The chip's part is the emulator's own loop, which runs the learning engines after each tick. What the host reads of the
chip is v of the output compartments; what it writes are input spikes, the third posttraces, and rewards. The loop is
called in one place, as every place more would be compiled anew.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spikeloop.hardware.loihi.learning_kernels import advance_and_learn
from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.tile_kernels import encode
from spikeloop.spiking.rules.eprop_kernels import LineCritic, remember_lines

KINDS = 3  # of synapses: input, recurrent, readout; as many learning engines of each, in this order
_Y3, _MOST = 2, 127  # row of a learner's y, and the largest number in it and in r1


class Host(NamedTuple):
    """What the host computes with, and what it keeps."""

    scale: np.ndarray  # of each number of the observation, (n_obs,)
    feedback: np.ndarray  # B, (n_outputs, N)
    output_scale: float  # logit of one unit of v
    signal_scale: float  # y3 of a learning signal of 1
    r1_scale: float  # r1 of a TD error of 1
    gamma: float
    trace_decay: float  # gamma lambda, of the critic
    value_rate: float
    reward_scale: float
    initial_value: float
    carry: np.ndarray  # what the spikes of each number have not said yet, (n_obs,)
    last: np.ndarray  # value of the last step, and 1 once there was one in this episode, (2,)
    critic: LineCritic


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
def decide(v, engines, host, rng):
    """Draw the action by a softmax of the outputs' v, and write into y3 what would make it likelier."""
    n_outputs = len(v)
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
    n_copies = len(engines) // KINDS
    for k in range(n_outputs):
        written = _whole(_MOST * errors[k], rng)
        for e in range(2 * n_copies, len(engines)):
            engines[e].y[_Y3, k] = written
    for j in range(host.feedback.shape[1]):
        signal = 0.0
        for k in range(n_outputs):
            signal += host.feedback[k, j] * errors[k]
        written = _whole(host.signal_scale * signal, rng)
        for e in range(2 * n_copies):
            engines[e].y[_Y3, j] = written
    return action


@kernel
def episode(
    step, task_state, body, keep, coder, changes, most_steps, n_ticks, progress, loaded, state, addresses, engines,
    host, rng,
):  # fmt: skip
    """Learn in an episode of a compiled task; return its steps and the sum of its rewards.

    An env step is ``n_ticks`` ticks. Before the last of them the host reads the outputs, and synapses change at its
    end. After the last env step come as many ticks without input, in which the chip learns from it.

    Args:
        step: The task's step, a C function (:data:`spikeloop.envs.compiled.STEP`).
        task_state: State of the task to begin with, changed in place.
        body: Its constants.
        keep: Which components of the state are shown, int64.
        coder: Tables of the critic's input code.
        changes: Whether that code is also of the change since the step before.
        most_steps: After so many steps the episode is cut off.
        n_ticks: Ticks of an env step.
        progress: Factor of the TD error, and so of all learning rates: 1 at first, 0 at last.
        loaded: The emulated chip, as ``Emulator.loaded`` returns it.
        state: Its state, shape (1, W).
        addresses: Of the learning engines' kernels.
        engines: Their arrays: those of input, of recurrent, of readout synapses.
        host: What the host keeps.
        rng: Draws actions and rounds.
    """
    n_obs = len(keep)
    obs, shown, seen = np.empty_like(task_state), np.empty(n_obs), np.zeros(2 * n_obs if changes else n_obs)
    lines = np.empty(len(coder.offsets), np.int64)
    inputs = np.empty((n_ticks, 1, 2 * n_obs + 1), np.int32)
    outputs = np.empty((n_ticks, 1, len(loaded.outputs_of)), np.int32)
    rewards, c = np.zeros(n_ticks, np.int64), loaded
    no_spikes, no_traces = np.zeros((1, 0), np.int32), np.zeros((1, 3, 0), np.int32)
    reward, total, n_steps, action, terminated = 0.0, 0.0, 0, 0, False
    for i in range(n_obs):
        shown[i] = seen[i] = task_state[keep[i]]
    while True:
        encode(coder, seen, lines)
        ends = terminated or n_steps == most_steps
        if ends:
            inputs[:] = 0
        else:
            send(shown, host.scale, host.carry, inputs)
        for part in range(2):
            first, stop = 0, n_ticks - 1
            if part == 1:
                first, stop = n_ticks - 1, n_ticks
                value = 0.0 if terminated else _value(lines, host)
                rewards[first] = criticise(reward, value, host, progress, rng)
                if not ends:
                    action = decide(outputs[first - 1, 0], engines, host, rng)
                    host.last[0], host.last[1] = value, 1
                    remember_lines(lines, host.critic, host.trace_decay)
            advance_and_learn(
                state, inputs[first:stop], c.bias, c.options, c.constants, c.runs, c.children,
                c.parents, c.scratch, c.sources, c.staged, c.staged_post, c.pointers, c.segments, c.weights, c.targets,
                c.outputs_of, outputs[first:stop], c.counters, c.spikes, c.recorded, addresses, engines,
                rewards[first:stop], no_spikes, no_traces,
            )  # fmt: skip
        if ends:
            break
        reward, terminated = step(task_state, action, body, obs)
        total += reward
        n_steps += 1
        for i in range(n_obs):
            if changes:
                seen[n_obs + i] = obs[keep[i]] - shown[i]
            shown[i] = seen[i] = obs[keep[i]]
    forget(host)
    return n_steps, total
