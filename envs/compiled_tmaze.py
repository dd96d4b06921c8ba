"""The walk down a T-maze in a compiled form: what is observed was drawn by the reset, and lies in the body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from spikeloop.envs.compiled import compile_step
from spikeloop.envs.tmaze import TMaze


def _step_walk(state, action, body, obs):  # type: ignore[no-untyped-def]
    n_steps, side = int(body[0]), int(body[1])
    at = int(state[0]) + 1
    state[0] = at
    if at < n_steps:
        for i in range(len(obs)):
            obs[i] = body[2 + at * len(obs) + i]
        return 0.0, False
    obs[:] = 0.0
    return (1.0 if action == side else 0.0), True


_STEP = compile_step(_step_walk)


@dataclass(frozen=True, eq=False)
class Walk:
    """A T-maze, with the members of :class:`~spikeloop.envs.compiled.Compiled`.

    Args:
        n_obs: Length of the observation.
    """

    n_obs: int
    step: Any = _STEP
    n_state: int = 1

    def body(self, env: Any) -> np.ndarray:
        """Return steps of the episode, side of the cue, and all observations of the episode in a row."""
        return np.concatenate([[env.n_steps, env._side], env._observations.ravel()]).astype(np.float64)

    def state(self, env: Any) -> np.ndarray:
        """Return the number of the step, shape (1,)."""
        return np.array([env._step], np.float64)

    def set_state(self, env: Any, state: np.ndarray, n_steps: int) -> None:
        """Bring an environment to where these steps led."""
        env._step = int(state[0])


def walk_of(env: gym.Env) -> Walk | None:
    """Return the compiled form of a T-maze; None if an environment is none.

    >>> walk_of(TMaze(n_neurons=5)).n_obs
    15
    """
    task = env.unwrapped
    return Walk(task._observations.shape[1]) if type(task) is TMaze else None
