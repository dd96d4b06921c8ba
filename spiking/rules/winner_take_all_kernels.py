"""The winner-take-all learner's numba kernels: encode, run an env step, reinforce, and all of it in a closed loop.

Only what is active costs anything: the rows of the few input lines that spike, and the rows whose eligibilities are not
zero, which stand in a list. A row is ``w[i]``, the weights of line i onto all actions, next to one another in memory.
:mod:`spikeloop.spiking.rules.winner_take_all` has the equations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.tile_kernels import encode

TD_ERROR, REWARD_BASELINE, REWARD = range(3)


class Constants(NamedTuple):
    """The rule's numbers."""

    learning_rate: float
    value_learning_rate: float
    eligibility_decay: float
    eligibility_floor: float
    w_max: float
    value_offset: float
    noise: float


class State(NamedTuple):
    """Everything that changes; kernels write into these arrays."""

    w: np.ndarray  # (n_inputs, n_actions)
    v: np.ndarray  # (n_inputs,)
    e_w: np.ndarray  # (n_inputs, n_actions)
    e_v: np.ndarray  # (n_inputs,) zero exactly for the rows that are not in `live`
    live: np.ndarray  # (n_inputs,) int64, rows with eligibilities
    n_live: np.ndarray  # (1,) int64
    latest: np.ndarray  # (n_inputs,) int64, lines of the latest env step
    n_latest: np.ndarray  # (1,) int64
    surprise: np.ndarray  # (n_actions,) z - y of the latest env step
    counts: np.ndarray  # (n_actions,) int64, spikes of the latest run


@kernel(seconds=8)
def run(state, constants, circuits, active, n_ticks, noise, learning, winners):
    """Run an env step with the given lines active; return the value.

    Args:
        state: Weights, eligibilities, and what the latest env step left.
        constants: The rule's numbers.
        circuits: First neuron of each circuit, and their end, int64, shape (n_circuits + 1,).
        active: The lines that spike on every tick.
        n_ticks: Ticks of the env step.
        noise: Shape (n_ticks, n_actions), or (0, n_actions) for none.
        learning: Whether the env step is kept for the modulator that is to come.
        winners: Written: the neuron of each circuit that won the last tick, counted from its first, int64.
    """
    n_actions = state.w.shape[1]
    u = np.zeros(n_actions)
    value = constants.value_offset
    for k in range(active.shape[0]):
        i = active[k]
        value += state.v[i]
        for j in range(n_actions):
            u[j] += state.w[i, j]
    for j in range(n_actions):
        state.counts[j] = 0
    for c in range(winners.shape[0]):
        first, end = circuits[c], circuits[c + 1]
        winner = first
        for j in range(first + 1, end):
            if u[j] > u[winner]:
                winner = j
        for tick in range(noise.shape[0]):
            winner = first
            for j in range(first + 1, end):
                if u[j] + constants.noise * noise[tick, j] > u[winner] + constants.noise * noise[tick, winner]:
                    winner = j
            state.counts[winner] += 1
        if noise.shape[0] == 0:
            state.counts[winner] = n_ticks
        winners[c] = winner - first
    if learning:
        n = active.shape[0]
        state.latest[:n] = active
        state.n_latest[0] = n
        for j in range(n_actions):
            state.surprise[j] = -state.counts[j] / n_ticks
        for c in range(winners.shape[0]):
            state.surprise[circuits[c] + winners[c]] += 1.0
    return value


@kernel
def reinforce(state, constants, modulator):
    """Change the weights by the eligibilities there are, then let these decay and count the latest env step in."""
    n_actions = state.w.shape[1]
    dw = constants.learning_rate * modulator
    dv = constants.value_learning_rate * modulator
    n_kept = 0
    for k in range(state.n_live[0]):
        i = state.live[k]
        state.v[i] += dv * state.e_v[i]
        state.e_v[i] *= constants.eligibility_decay
        dies = state.e_v[i] < constants.eligibility_floor
        if dies:
            state.e_v[i] = 0.0
        else:
            state.live[n_kept] = i
            n_kept += 1
        for j in range(n_actions):
            w = state.w[i, j] + dw * state.e_w[i, j]
            state.w[i, j] = min(max(w, -constants.w_max), constants.w_max)
            state.e_w[i, j] = 0.0 if dies else state.e_w[i, j] * constants.eligibility_decay
    for k in range(state.n_latest[0]):
        i = state.latest[k]
        if state.e_v[i] == 0.0:
            state.live[n_kept] = i
            n_kept += 1
        state.e_v[i] = min(state.e_v[i] + 1.0, 1.0)
        for j in range(n_actions):
            state.e_w[i, j] = min(max(state.e_w[i, j] + state.surprise[j], -1.0), 1.0)
    state.n_live[0] = n_kept
    state.n_latest[0] = 0


@kernel
def reset(state):
    """Set all eligibilities to zero."""
    for k in range(state.n_live[0]):
        i = state.live[k]
        state.e_v[i] = 0.0
        for j in range(state.w.shape[1]):
            state.e_w[i, j] = 0.0
    state.n_live[0] = state.n_latest[0] = 0


@kernel
def modulator_of(kind, gamma, baseline_rate, baseline, reward, value, next_value, terminated):
    """Return the third factor; ``baseline``, shape (1,), is the running mean of the reward."""
    if kind == TD_ERROR:
        return reward + gamma * (0.0 if terminated else next_value) - value
    if kind == REWARD:
        return reward
    modulator = reward - baseline[0]
    baseline[0] += baseline_rate * modulator
    return modulator


def act(step, state, winners, circuits, values, n_rows, body, obs):
    """Take a compiled task's step by what the winners stand for: a choice, or numbers where there are values.

    ``values`` is None, or has shape (n_neurons,): then each number is the mean of ``n_rows`` winners' in a row.
    """
    return (_choose if values is None else _set)(step, state, winners, circuits, values, n_rows, body, obs)


@overload(act)
def _act(step, state, winners, circuits, values, n_rows, body, obs):
    """Select by the type, for the kernels: a step takes either a whole number or an array."""
    return _choose if isinstance(values, types.NoneType) else _set


def _choose(step, state, winners, circuits, values, n_rows, body, obs):
    return step(state, winners[0], body, obs)


def _set(step, state, winners, circuits, values, n_rows, body, obs):
    action = np.zeros(winners.shape[0] // n_rows)
    for c in range(winners.shape[0]):
        action[c // n_rows] += values[circuits[c] + winners[c]]
    action /= n_rows
    return step(state, action, body, obs)


@kernel(seconds=8)
def closed_loop(
    step,
    task_state,
    body,
    obs,
    coder,
    state,
    constants,
    circuits,
    n_ticks,
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
    """Act in a task; :meth:`spikeloop.spiking.rules.winner_take_all.WinnerTakeAll.closed_loop` says how."""
    kind, gamma, baseline_rate, reward_scale, scale = modulation
    next_state, next_obs = np.empty_like(task_state), np.empty_like(obs)
    active = np.empty(coder.offsets.shape[0], np.int64)
    lines = active
    noise = np.empty((n_ticks if exploring else 0, state.w.shape[1]))
    n_steps = 0
    while n_steps < rewards.shape[0]:
        next_state[:] = task_state
        reward, terminated = act(step, next_state, winners, circuits, values, n_rows, body, next_obs)
        if terminated:
            break
        task_state[:], obs[:] = next_state, next_obs
        n_active = encode(coder, obs, active, learning)
        if n_active != lines.shape[0]:  # a slice on every step would cost a twentieth of it
            lines = active[:n_active]
        for tick in range(noise.shape[0]):
            for j in range(noise.shape[1]):
                noise[tick, j] = rng.standard_normal()
        next_value = run(state, constants, circuits, lines, n_ticks, noise, learning, winners)
        if learning:
            seen = reward_scale * np.float64(np.float32(reward))  # as vectorised environments hand it over
            modulator = modulator_of(kind, gamma, baseline_rate, baseline, seen, value, next_value, False)
            reinforce(state, constants, scale * modulator)
        value = next_value
        rewards[n_steps] = reward
        n_steps += 1
    return n_steps, value
