"""Whole episodes of a compiled task, acted in by a network, in one kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from spikeloop.spiking.action_kernels import choose
from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.tile_kernels import encode
from spikeloop.spiking.engine.step_kernels import act


class Episodes(NamedTuple):
    """E episodes of a compiled task that are about to begin; only read, so that all members start from the same."""

    step: Any  # the task's compiled step
    states: Any  # float64, (E, n_state)
    bodies: Any  # float64, (E, n_constants)
    whole: Any  # all that the task shows first, float64, (E, n_whole)
    shown: Any  # which numbers of `whole` the environment shows, int64, (n_obs,)
    limit: Any  # most steps of an episode
    action: Any  # an action as the step takes it, of zeros: int64, (1,), counted from 0, or float64, (1, n_action)
    bounds: Any  # of continuous ones, float64, (2, n_action)


class Played(NamedTuple):
    """What E episodes gave."""

    returns: Any  # float64, (E,)
    lengths: Any  # int64, (E,)
    mean: Any  # of what was observed before each step, float64, (E, n_obs)
    square: Any  # sum of squared distances from it


class Circuits(NamedTuple):
    """A network without layers: the lines of a code reach circuits of output units, of which the largest sum wins."""

    coder: Any  # tables of the code
    w: Any  # (n_lines, n_outputs)
    bias: Any  # (n_outputs,)
    first: Any  # the first unit of each circuit, and the number of all units, int64, (n_circuits + 1,)
    values: Any  # what each unit stands for, (n_outputs,), in the type of the actions; (0,) for discrete ones
    n_rows: Any  # circuits for each number of an action, which is the mean of what their winners stand for


@kernel
def observe(whole, shown, t, obs, mean, square):
    """Write what the environment shows before step t to ``obs``, and take it into mean and square distance."""
    for j in range(shown.shape[0]):
        obs[j] = whole[shown[j]]
        distance = obs[j] - mean[j]
        mean[j] += distance / (t + 1)
        square[j] += distance * (obs[j] - mean[j])


@kernel
def play(table, rest, outputs, episodes, played):
    """Play whole episodes with layers; return False if the network's state is no longer finite.

    Args:
        table: The network, as :func:`spikeloop.spiking.engine.step_kernels.act` takes it.
        rest: Its state at rest, shape (n_rows, 1, width).
        outputs: Scratch, shape (1, n_outputs).
        episodes: :class:`Episodes`.
        played: :class:`Played`; written.
    """
    obs, start = np.empty((1, episodes.shown.shape[0])), np.zeros((1, 1), np.uint8)
    action, bounds = episodes.action.copy(), episodes.bounds
    for e in range(episodes.states.shape[0]):
        task, whole, body = episodes.states[e].copy(), episodes.whole[e].copy(), episodes.bodies[e]
        state, new = rest.copy(), np.zeros_like(rest)
        total, t, ends = 0.0, 0, False
        while not ends and t < episodes.limit:
            observe(whole, episodes.shown, t, obs[0], played.mean[e], played.square[e])
            new[:] = 0
            best = act(table, obs, state, start, new, outputs)
            if best < 0:
                return False
            state, new = new, state
            choose(action, best, outputs[0], bounds)
            paid, ends = episodes.step(task, action[0], body, whole)
            total += np.float64(np.float32(paid))
            t += 1
        played.returns[e], played.lengths[e] = total, t
    return True


@kernel
def play_circuits(circuits, episodes, played):
    """Play whole episodes with :class:`Circuits`; :class:`Played` is written.

    A unit's sum has the lines' weights in ascending order, then its bias, as in
    :func:`~spikeloop.spiking.readout_kernels.drive`: the same sums decide the same ties.
    """
    obs, active = np.empty(episodes.shown.shape[0]), np.empty(circuits.coder.offsets.shape[0], np.int64)
    sums, action = np.empty_like(circuits.bias), episodes.action.copy()
    for e in range(episodes.states.shape[0]):
        task, whole, body = episodes.states[e].copy(), episodes.whole[e].copy(), episodes.bodies[e]
        total, t, ends = 0.0, 0, False
        while not ends and t < episodes.limit:
            observe(whole, episodes.shown, t, obs, played.mean[e], played.square[e])
            sums[:] = 0
            for k in range(encode(circuits.coder, obs, active)):
                for o in range(sums.shape[0]):
                    sums[o] += circuits.w[active[k], o]
            for o in range(sums.shape[0]):
                sums[o] += circuits.bias[o]
            choose_winners(circuits, sums, action)
            paid, ends = episodes.step(task, action[0], body, whole)
            total += np.float64(np.float32(paid))
            t += 1
        played.returns[e], played.lengths[e] = total, t


@kernel
def choose_winners(circuits, sums, action):
    """Write the action of the winners: the number of the only one, or for each number the mean over its circuits."""
    first, n_rows = circuits.first, circuits.n_rows
    if action.ndim == 1:
        action[0] = _largest(sums, first[0], first[1])
    else:
        for k in range(action.shape[1]):
            total = 0.0
            for c in range(k * n_rows, (k + 1) * n_rows):
                total += circuits.values[_largest(sums, first[c], first[c + 1])]
            action[0, k] = circuits.values.dtype.type(total / n_rows)


@kernel
def _largest(sums, begin, end):
    """Return the index of the largest number from ``begin`` up to ``end``, the first of equals."""
    best = begin
    for o in range(begin + 1, end):
        if sums[o] > sums[best]:
            best = o
    return best
