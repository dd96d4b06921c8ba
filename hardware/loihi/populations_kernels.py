"""Numba kernels of populations on the chip: env steps of an emulated program, and whole stretches of a compiled task.

:mod:`spikeloop.hardware.loihi.populations` says what happens when in an env step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spikeloop.hardware.loihi.emulator_kernels import N, advance
from spikeloop.hardware.loihi.learning_kernels import advance_and_learn
from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.tile_kernels import encode
from spikeloop.spiking.rules.populations_kernels import write_trains
from spikeloop.spiking.rules.winner_take_all_kernels import modulator_of


class Host(NamedTuple):
    """What the host computes with, and the arrays in which it hands over spikes and rewards and reads membranes."""

    n_lines: int
    n_actions: int
    n_valuing: int  # ticks of the critic
    n_critic: int  # neurons, the last of the program
    value_of_silence: float  # where none of these fires
    value_of_spike: float
    r1_scale: float
    p_spike: float  # spikes of an active line per tick
    regular: bool
    inputs: np.ndarray  # (n_ticks, 1, 2 n_lines + n_valuing) int32, 0 between two env steps
    outputs: np.ndarray  # (n_ticks, 1, n_actions) int32
    rewards: np.ndarray  # (n_ticks,) int64
    no_spikes: np.ndarray  # (1, 0) int32: the host sends no postsynaptic spikes,
    no_traces: np.ndarray  # (1, 3, 0) int32: and writes no traces


@kernel(allocates=False)
def _run(loaded, addresses, engines, host, state, inputs, outputs, rewards, learning):
    """Run ticks of an env step: as many as ``outputs`` has."""
    c = loaded
    if learning:
        return advance_and_learn(
            state, inputs, c.bias, c.options, c.constants, c.runs, c.children, c.parents, c.scratch, c.sources,
            c.staged, c.staged_post, c.pointers, c.segments, c.weights, c.targets, c.outputs_of, outputs, c.counters,
            c.spikes, c.recorded, addresses, engines, rewards, host.no_spikes, host.no_traces,
        )  # fmt: skip
    return advance(
        state, inputs, c.bias, c.options, c.constants, c.runs, c.children, c.parents, c.scratch, c.sources, c.staged,
        c.staged_post, c.pointers, c.segments, c.weights, c.targets, c.outputs_of, outputs, c.counters, c.spikes,
        c.recorded,
    )  # fmt: skip


@kernel(allocates=False)
def write_even_trains(spikes, p_spike):
    """Write evenly spaced trains, whose phases are evenly spread too: the same ones each time."""
    for q in range(spikes.shape[0]):
        phase = (q + 0.5) / spikes.shape[0]
        for t in range(spikes.shape[1]):
            phase += p_spike
            spikes[q, t] = phase >= 1.0
            if phase >= 1.0:
                phase -= 1.0


@kernel(allocates=False)
def evaluate(loaded, addresses, engines, host, state, lines, spikes, learning):
    """Hand over the lines' spikes of an env step, run the ticks of the critic and return the value."""
    for q in range(lines.shape[0]):
        for t in range(host.inputs.shape[0]):
            host.inputs[t, 0, lines[q]] = spikes[q, t]
    host.rewards[:] = 0
    n, n_spikes = loaded.options[N], 0
    z = state[0, 3 + 4 * n : 3 + 5 * n]  # which compartments spiked on the latest tick
    for t in range(host.n_valuing):
        host.inputs[t, 0, 2 * host.n_lines + t] = 1
        for q in range(lines.shape[0]):
            host.inputs[t, 0, host.n_lines + lines[q]] = 1
        tick = slice(t, t + 1)
        _run(
            loaded, addresses, engines, host, state, host.inputs[tick], host.outputs[tick], host.rewards[tick], learning
        )
        for i in range(n - host.n_critic, n):
            n_spikes += z[i]
    return host.value_of_silence + host.value_of_spike * n_spikes


@kernel
def reinforce(host, modulator, rng):
    """Note the modulator as the reward of the next tick, rounded at random to the 8 bits of r1."""
    reward = math.floor(min(max(host.r1_scale * modulator, -128.0), 128.0) + rng.random())
    host.rewards[host.n_valuing] = min(max(reward, -127), 127)


@kernel(allocates=False)
def act(loaded, addresses, engines, host, state, lines, learning):
    """Run the other ticks of the env step; return the action with the largest rate, the first of equals."""
    n_ticks, start = host.inputs.shape[0], host.n_valuing
    _run(
        loaded, addresses, engines, host, state, host.inputs[start:], host.outputs[start:], host.rewards[start:],
        learning,
    )  # fmt: skip
    for t in range(start):
        host.inputs[t, 0, 2 * host.n_lines + t] = 0
        for q in range(lines.shape[0]):
            host.inputs[t, 0, host.n_lines + lines[q]] = 0
    for q in range(lines.shape[0]):
        for t in range(n_ticks):
            host.inputs[t, 0, lines[q]] = 0
    best = 0
    for action in range(1, host.n_actions):
        if host.outputs[n_ticks - 1, 0, action] > host.outputs[n_ticks - 1, 0, best]:
            best = action
    return best


@kernel
def closed_loop(
    step,
    task_state,
    body,
    obs,
    coder,
    loaded,
    addresses,
    engines,
    host,
    state,
    learning,
    exploring,
    rng,
    modulation,
    baseline,
    action,
    value,
    rewards,
):
    """Act in a task, and learn; ``spikeloop.spiking.rules.populations.SpikingPopulations.closed_loop`` says how."""
    kind, gamma, baseline_rate, reward_scale, scale = modulation
    next_state, next_obs = np.empty_like(task_state), np.empty_like(obs)
    lines = np.empty(coder.offsets.shape[0], np.int64)
    spikes = np.empty((lines.shape[0], host.inputs.shape[0]), np.uint8)
    n_steps = 0
    while n_steps < rewards.shape[0]:
        next_state[:] = task_state
        reward, terminated = step(next_state, action, body, next_obs)
        if terminated:
            break
        task_state[:], obs[:] = next_state, next_obs
        encode(coder, obs, lines)
        if exploring:
            write_trains(spikes, host.p_spike, host.regular, rng)
        else:
            write_even_trains(spikes, host.p_spike)
        next_value = evaluate(loaded, addresses, engines, host, state, lines, spikes, learning)
        if learning:
            modulator = modulator_of(
                kind, gamma, baseline_rate, baseline, reward_scale * reward, value, next_value, False
            )
            reinforce(host, scale * modulator, rng)
        action = act(loaded, addresses, engines, host, state, lines, learning)
        value = next_value
        rewards[n_steps] = reward
        n_steps += 1
    return n_steps, action, value
