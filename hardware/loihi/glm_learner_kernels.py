"""Kernels of neurons that draw their spikes and learn on the chip: critic, env step, and stretches of a compiled task.

The chip's part is the emulator's own loop, called for one tick at a time. The host reads the membranes' v and the
drawing compartments' spikes. It writes input spikes, the posttraces y1 and y3, and rewards. The loop is called in one
place only, because each further call would be compiled again.
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
_Y1, _Y3, _MOST = 0, 2, 127  # rows of a learning engine's y, and the largest number in y and in r1


class Host(NamedTuple):
    """Constants, arrays and state of the host."""

    n_ticks: int
    first_z: int  # column of the first drawing compartment's spike in the chip's state
    v_th: int
    unit: int  # one unit of the noise, in v
    most: int  # largest noise, in units
    scores: np.ndarray  # y3 after silence and after a spike, by the distance to threshold, (2, 2 most + 2)
    loss: int  # y1 on the first tick of an env step, which makes tags decay
    r1_scale: float  # r1 of a TD error of 1
    gamma: float
    decay: float  # gamma lambda, for the critic's traces
    value_rate: float
    reward_scale: float
    initial_value: float
    v: np.ndarray  # the critic's weights, (n_lines,); the next arrays are as in ``glm_kernels.Learner``
    e_v: np.ndarray
    live: np.ndarray
    n_live: np.ndarray
    value: np.ndarray  # value of the last step, (1,)
    begun: np.ndarray  # whether there was a step in this episode, (1,) bool
    counts: np.ndarray  # (5,) env steps, their ticks, 0, output spikes, TD errors that r1 cut
    inputs: np.ndarray  # input spikes of a tick, (1, 1, n_inputs) int32
    outputs: np.ndarray  # membranes after that tick, (1, 1, n_outputs) int32
    rewards: np.ndarray  # r1 on that tick, (1,) int64


@kernel
def _whole(value, rng):
    """Return a number rounded at random to a whole number, cut to 7 bits and a sign."""
    return int(min(max(math.floor(value + rng.random()), -_MOST), _MOST))


@kernel
def criticise(lines, reward, ending, progress, host, rng):
    """Update the critic for the previous env step, and return that step's TD error as r1.

    Args:
        lines: The critic's lines that are active now.
        reward: Reward of the previous env step.
        ending: :data:`GOES_ON`, or how the episode has ended: :data:`CUT`, after which the last value still counts, or
            :data:`TERMINATED`.
        progress: Factor of the TD error, and so of all learning rates: 1 at the beginning of training, 0 at its end.
        host: The host.
        rng: Random numbers for rounding r1.
    """
    r1 = 0
    if host.begun[0]:
        value = 0.0 if ending == TERMINATED else value_of(lines, host, host)
        delta = host.reward_scale * reward + host.gamma * value - host.value[0]
        learn_value(host, progress * host.value_rate * delta)
        exact = progress * host.r1_scale * delta
        host.counts[4] += abs(exact) > _MOST
        r1 = _whole(exact, rng)
    if ending == GOES_ON:
        host.value[0], host.begun[0] = value_of(lines, host, host), True
        remember_lines(lines, host, host.decay)
    return r1


@kernel
def _write(engines, row, j, value):
    """Write a posttrace of one membrane into the learning engines of all copies of its synapses."""
    for e in range(len(engines)):
        engines[e].y[row, j] = value


@kernel(seconds=35)
def env_step(x, r1, ending, loaded, state, addresses, engines, host, rng):
    """Run one env step, learn from the previous one, and return the action.

    The env step lasts until an output spikes, at most K ticks. One more tick without input follows, on which the chip
    reads the score of the last tick. When an episode has ended, only one tick without input is run, on which the chip
    learns from the last env step.

    Args:
        x: Input spikes of each tick, 0 or 1, shape (K, n_inputs), or (1, n_inputs) if all ticks have the same.
        r1: TD error of the previous env step, as :func:`criticise` returns it.
        ending: As in :func:`criticise`.
        loaded: The emulated chip, as ``Emulator.loaded`` returns it.
        state: State of the chip, shape (1, W).
        addresses: Addresses of the learning engines' kernels.
        engines: Arrays of the learning engines.
        host: The host.
        rng: Random numbers for rounding y3 and for breaking ties.
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
        body: Constants of the task.
        obs: Scratch array for an observation of the task.
        keep: Indices of the components that are shown, int64.
        shown: The last observation that was shown, shape (len(keep),), changed in place.
        curves: The tuning curves of the input code.
        key: Key of the input's random spikes, shape (1,); overwritten.
        coder: Tables of the critic's code.
        x: Scratch array for the input spikes.
        progress: As in :func:`criticise`.
        loaded: The emulated chip, as in :func:`env_step`; so are the next three.
        state: State of the chip.
        addresses: Addresses of the learning engines' kernels.
        engines: Arrays of the learning engines.
        host: The host.
        rng: Random numbers for rounding and for breaking ties.
        action: The action that was chosen last.
        rewards: Receives the reward of each env step; its length is the largest number of steps.

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
