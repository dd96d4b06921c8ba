"""Whole episodes of a compiled task, acted in by a network, in one kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from spikeloop.spiking.action_kernels import choose
from spikeloop.spiking.compiling import kernel
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


@kernel
def play(table, rest, outputs, episodes, played):
    """Play whole episodes; return False if the network's state is no longer finite.

    Args:
        table: The network, as :func:`spikeloop.spiking.engine.step_kernels.act` takes it.
        rest: Its state at rest, shape (n_rows, 1, width).
        outputs: Scratch, shape (1, n_outputs).
        episodes: :class:`Episodes`.
        played: :class:`Played`; written.
    """
    n_obs = episodes.shown.shape[0]
    obs, start = np.empty((1, n_obs)), np.zeros((1, 1), np.uint8)
    action, bounds = episodes.action.copy(), episodes.bounds
    for e in range(episodes.states.shape[0]):
        task, whole, body = episodes.states[e].copy(), episodes.whole[e].copy(), episodes.bodies[e]
        state, new = rest.copy(), np.zeros_like(rest)
        total, t, ends = 0.0, 0, False
        while not ends and t < episodes.limit:
            for j in range(n_obs):
                obs[0, j] = whole[episodes.shown[j]]
                distance = obs[0, j] - played.mean[e, j]
                played.mean[e, j] += distance / (t + 1)
                played.square[e, j] += distance * (obs[0, j] - played.mean[e, j])
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
