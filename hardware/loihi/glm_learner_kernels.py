"""Kernels of drawing neurons that learn on the chip: an env step, the host's part of it, stretches of a compiled task.

The chip's part is the emulator's own loop, a tick at a time. What the host reads of the chip are the membranes' v and
the drawing compartments' spikes; what it writes are input spikes, posttraces y1 and y3, and rewards. The loop is called
in one place, as every place more would be compiled anew.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spikeloop.hardware.loihi.learning_kernels import advance_and_learn
from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.population_kernels import population_spikes
from spikeloop.spiking.encoders.tile_kernels import encode
from spikeloop.spiking.rules.glm_kernels import learn_value, remember_lines, value_of

GOES_ON, CUT, TERMINATED = 0, 1, 2  # of episodes
_Y1, _Y3, _MOST = 0, 2, 127  # rows of a learner's y, and the largest number in them and in r1


class Host(NamedTuple):
    """What the host computes with, and what it keeps."""

    n_ticks: int
    first_z: int  # column of the first drawing compartment's spike in the chip's state
    v_th: int
    unit: int  # v of one unit of the noise
    most: int  # largest noise, in units
    scores: np.ndarray  # y3 after silence and after a spike, by the distance to threshold, (2, 2 most + 2)
    loss: int  # y1 on the first tick of an env step
    r1_scale: float  # r1 of a TD error of 1
    gamma: float
    decay: float  # gamma lambda, of the critic's traces
    value_rate: float
    reward_scale: float
    initial_value: float
    v: np.ndarray  # the critic's weights, (n_lines,), and its arrays as ``glm_kernels.Learner`` has them
    e_v: np.ndarray
    live: np.ndarray
    n_live: np.ndarray
    value: np.ndarray  # of the last step, (1,)
    begun: np.ndarray  # whether there was a step in this episode, (1,) bool
    counts: np.ndarray  # (4,) env steps, their ticks, 0, output spikes
    inputs: np.ndarray  # of a tick, (1, 1, n_inputs) int32
    outputs: np.ndarray  # membranes after it, (1, 1, n_outputs) int32
    rewards: np.ndarray  # r1 of it, (1,) int64


@kernel
def _whole(value, rng):
    """Return a number rounded at random to a whole one that 7 bits and a sign hold."""
    return int(min(max(math.floor(value + rng.random()), -_MOST), _MOST))


@kernel
def criticise(lines, reward, ending, progress, host, rng):
    """Learn the value of the step before; return its TD error as r1.

    Args:
        lines: Active lines of the critic now.
        reward: Reward of the step before.
        ending: :data:`GOES_ON`, or how the episode has ended: :data:`CUT`, whose last value counts, or
            :data:`TERMINATED`.
        progress: Factor of the TD error, and so of all learning rates: 1 at first, 0 at last.
        host: What the host keeps.
        rng: Rounds r1.
    """
    r1 = 0
    if host.begun[0]:
        value = 0.0 if ending == TERMINATED else value_of(lines, host, host)
        delta = host.reward_scale * reward + host.gamma * value - host.value[0]
        learn_value(host, progress * host.value_rate * delta)
        r1 = _whole(progress * host.r1_scale * delta, rng)
    if ending == GOES_ON:
        host.value[0], host.begun[0] = value_of(lines, host, host), True
        remember_lines(lines, host, host.decay)
    return r1


@kernel
def _write(engines, row, j, value):
    """Write a posttrace of one membrane, for all copies of its synapses."""
    for e in range(len(engines)):
        engines[e].y[row, j] = value


@kernel(seconds=35)
def env_step(x, r1, ending, loaded, state, addresses, engines, host, rng):
    """Run one env step, learn from the one before, and return the action.

    It is ticks until an output spikes, K at most, and one more without input, in which the chip takes in the score of
    the last. After an episode's last step comes one tick without input, in which the chip learns from it.

    Args:
        x: Input spikes of each tick, 0 or 1, shape (K, n_inputs), or (1, n_inputs) where they are held.
        r1: Of the step before.
        ending: As :func:`criticise` has it.
        loaded: The emulated chip, as ``Emulator.loaded`` returns it.
        state: Its state, shape (1, W).
        addresses: Of the learning engines' kernels.
        engines: Their arrays.
        host: What the host keeps.
        rng: Rounds y3, and breaks ties.
    """
    inputs, outputs, c, n = host.inputs, host.outputs, loaded, host.outputs.shape[2]
    no_spikes, no_traces = np.zeros((1, 0), np.int32), np.zeros((1, 3, 0), np.int32)
    decided, action, k = ending != GOES_ON, 0, 0
    host.rewards[0] = r1
    for j in range(n):
        _write(engines, _Y1, j, host.loss)
    while True:
        for i in range(inputs.shape[2]):
            inputs[0, 0, i] = 0 if decided else int(x[min(k, x.shape[0] - 1), i])
        advance_and_learn(
            state, inputs, c.bias, c.options, c.constants, c.runs, c.children, c.parents, c.scratch,
            c.sources, c.staged, c.staged_post, c.pointers, c.segments, c.weights, c.targets, c.outputs_of,
            outputs, c.counters, c.spikes, c.recorded, addresses, engines, host.rewards, no_spikes, no_traces,
        )  # fmt: skip
        host.rewards[0] = 0
        n_spiked = 0
        for j in range(n):
            _write(engines, _Y1, j, 0)
            z = state[0, host.first_z + j]
            at = min(max((host.v_th - outputs[0, 0, j]) // host.unit + host.most + 1, 0), host.scores.shape[1] - 1)
            _write(engines, _Y3, j, 0 if decided else _whole(host.scores[z, at], rng))
            n_spiked += z
        if decided:
            return action
        k += 1
        host.counts[1] += 1
        if n_spiked > 0 or k == host.n_ticks:
            host.counts[0] += 1
            host.counts[3] += n_spiked
            decided, left = True, int(rng.random() * (n_spiked if n_spiked > 0 else n))
            for j in range(n):
                if n_spiked == 0 or state[0, host.first_z + j] > 0:
                    if left == 0:
                        action = j
                    left -= 1


@kernel(seconds=35)
def stretch(
    step, task_state, body, obs, keep, shown, curves, key, coder, x, progress, loaded, state, addresses, engines, host,
    rng, action, rewards,
):  # fmt: skip
    """Act and learn in a compiled task until the next step would end the episode.

    Args:
        step: The task's step, a C function (:data:`spikeloop.envs.compiled.STEP`).
        task_state: State of the task, changed in place.
        body: Its constants.
        obs: Room for an observation of the task.
        keep: Which components of it are shown, int64.
        shown: What was shown last, shape (len(keep),), changed in place.
        curves: The tuning curves of the input code.
        key: Key of the input's random spikes, shape (1,); overwritten.
        coder: Tables of the critic's code.
        x: Room for the input.
        progress: As :func:`criticise` has it.
        loaded: The chip.
        state: Its state.
        addresses: Of the learning engines.
        engines: Their arrays.
        host: What the host keeps.
        rng: Rounds, and breaks ties.
        action: The action chosen last.
        rewards: Written with the reward of each step; its length is the most steps to take.

    Returns:
        The number of steps, and the action chosen after them.
    """
    next_state, lines, n_steps = np.empty_like(task_state), np.empty(len(coder.offsets), np.int64), 0
    while n_steps < len(rewards):
        next_state[:] = task_state
        reward, terminated = step(next_state, action, body, obs)
        if terminated:
            break
        task_state[:] = next_state
        for i in range(len(keep)):
            shown[i] = obs[keep[i]]
        encode(coder, shown, lines)
        population_spikes(curves, shown, key, x)
        seen = np.float64(np.float32(reward))  # as vectorised environments hand it over
        r1 = criticise(lines, seen, GOES_ON, progress, host, rng)
        action = env_step(x, r1, GOES_ON, loaded, state, addresses, engines, host, rng)
        rewards[n_steps] = reward
        n_steps += 1
    return n_steps, action
