"""Kernels of the actor-critic that learns on the chip: its sums, the embedded CPU's part, and the closed loop.

The learning engine's own kernels are handed in as C functions: each rule has its own, and a kernel that takes them is
compiled once for all. Encoder and modulator are those of the float learner.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.tile_kernels import encode
from spikeloop.spiking.rules.winner_take_all_kernels import act, modulator_of


class Engine(NamedTuple):
    """What one learning engine holds: ``Learner.arrays`` and its empty draws."""

    synapses: np.ndarray
    x: np.ndarray
    y: np.ndarray
    hy: np.ndarray
    rows: np.ndarray
    scalars: np.ndarray
    traces: np.ndarray
    written: np.ndarray
    trace_draws: np.ndarray
    synapse_draws: np.ndarray


class Epoch(NamedTuple):
    """The latest env step, which waits for its modulator."""

    lines: np.ndarray  # (n_inputs,) int32
    n_lines: np.ndarray  # (1,) int64
    winners: np.ndarray  # (n_ticks * n_circuits,) int32, the neurons that spike on one tick after those of another
    counts: np.ndarray  # (n_actions,) int64, spikes of the latest run


class Host(NamedTuple):
    """What the embedded CPU computes with."""

    noise: int  # the sum of two uniform integers -noise..noise explores
    value_offset: float
    value_unit: float  # value of one weight unit
    r1_scale: float  # r1 for a modulator of 1


@kernel
def run(actor, critic, epoch, host, circuits, lines, learning, exploring, rng, winners):
    """Run an env step with the given lines active on every tick; return the value.

    ``circuits`` and ``winners`` are those of ``run`` in ``spikeloop.spiking.rules.winner_take_all_kernels``.
    """
    n_actions, n_circuits = epoch.counts.shape[0], winners.shape[0]
    n_ticks = epoch.winners.shape[0] // n_circuits
    u, value = np.zeros(n_actions, np.int64), 0
    for k in range(lines.shape[0]):
        i = lines[k]
        value += critic.synapses[i, 0, 0]
        for j in range(n_actions):
            u[j] += actor.synapses[i, 0, j]
    for c in range(n_circuits):
        best = circuits[c]
        for j in range(circuits[c], circuits[c + 1]):
            epoch.counts[j] = 0
            if u[j] > u[best]:
                best = j
        winners[c] = best - circuits[c]
    width = 2 * host.noise + 1
    for tick in range(n_ticks):
        for c in range(n_circuits):
            if exploring:
                highest = -(2**62)
                for j in range(circuits[c], circuits[c + 1]):
                    noise = int(rng.random() * width) + int(rng.random() * width) - 2 * host.noise
                    if u[j] + noise > highest:
                        highest, winners[c] = u[j] + noise, j - circuits[c]
            winner = circuits[c] + winners[c]
            epoch.counts[winner] += 1
            if learning:
                epoch.winners[tick * n_circuits + c] = winner
    if learning:
        for k in range(lines.shape[0]):
            epoch.lines[k] = lines[k]
        epoch.n_lines[0] = lines.shape[0]
    return host.value_offset + host.value_unit * value


@kernel
def _ticks(learn, engine, lines, lines_end, winners, winners_end, rewards):
    return learn(
        engine.synapses,
        engine.x,
        engine.y,
        engine.hy,
        engine.rows,
        engine.scalars,
        engine.traces,
        lines,
        lines_end,
        winners,
        winners_end,
        rewards,
        engine.written,
        engine.trace_draws,
        engine.synapse_draws,
    )


@kernel
def reinforce(learn_actor, learn_critic, actor, critic, epoch, host, n_ticks, modulator, rng):
    """Run the learning engines over the latest env step, with the modulator as the reward of its last tick."""
    n_circuits, n = epoch.winners.shape[0] // n_ticks, epoch.n_lines[0]
    reward = math.floor(min(max(host.r1_scale * modulator, -128.0), 128.0) + rng.random())  # rounds at random
    rewards = np.zeros(n_ticks, np.int64)
    rewards[n_ticks - 1] = min(max(reward, -127), 127)
    lines, ends = np.empty(n_ticks * n, np.int32), np.empty(n_ticks, np.int64)
    ticks, never = np.empty(n_ticks, np.int64), np.zeros(n_ticks, np.int64)
    for tick in range(n_ticks):
        lines[tick * n : (tick + 1) * n] = epoch.lines[:n]
        ends[tick], ticks[tick] = (tick + 1) * n, (tick + 1) * n_circuits
    _ticks(learn_actor, actor, lines, ends, epoch.winners, ticks, rewards)
    _ticks(learn_critic, critic, lines, ends, epoch.winners[:0], never, rewards)


@kernel
def closed_loop(
    step,
    task_state,
    body,
    obs,
    coder,
    learn_actor,
    learn_critic,
    actor,
    critic,
    epoch,
    host,
    circuits,
    learning,
    exploring,
    rng,
    modulation,
    baseline,
    values,
    n_rows,
    winners,
    value,
    rewards,
):
    """Act in a task and learn, until before the step that would end the episode, ``len(rewards)`` steps at most.

    Arguments and result are those of ``closed_loop`` in ``spikeloop.spiking.rules.winner_take_all_kernels``, with the
    chip for the network.
    """
    kind, gamma, baseline_rate, reward_scale, scale = modulation
    next_state, next_obs = np.empty_like(task_state), np.empty_like(obs)
    lines = np.empty(coder.offsets.shape[0], np.int64)
    n_ticks = epoch.winners.shape[0] // winners.shape[0]
    n_steps = 0
    while n_steps < rewards.shape[0]:
        next_state[:] = task_state
        reward, terminated = act(step, next_state, winners, circuits, values, n_rows, body, next_obs)
        if terminated:
            break
        task_state[:], obs[:] = next_state, next_obs
        n_lines = encode(coder, obs, lines, learning)
        next_value = run(actor, critic, epoch, host, circuits, lines[:n_lines], learning, exploring, rng, winners)
        if learning:
            seen = reward_scale * np.float64(np.float32(reward))  # as vectorised environments hand it over
            modulator = modulator_of(kind, gamma, baseline_rate, baseline, seen, value, next_value, False)
            reinforce(learn_actor, learn_critic, actor, critic, epoch, host, n_ticks, scale * modulator, rng)
        value = next_value
        rewards[n_steps] = reward
        n_steps += 1
    return n_steps, value
