"""Tasks whose episodes are drawn by the reset, in a compiled form: what they show and pay lies in the body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from spikeloop.envs.compiled import compile_step
from spikeloop.envs.repeat import Repeat
from spikeloop.envs.tmaze import TMaze

DRAWN: tuple[type[gym.Env], ...] = (TMaze, Repeat)


def _step_drawn(state, action, body, obs):  # type: ignore[no-untyped-def]
    n_steps, n_actions = int(body[0]), int(body[1])
    at = int(state[0])
    reward = body[2 + at * n_actions + action]
    at += 1
    state[0] = at
    if at == n_steps:
        obs[:] = 0.0
        return reward, True
    first = 2 + n_steps * n_actions + at * len(obs)
    for i in range(len(obs)):
        obs[i] = body[first + i]
    return reward, False


_STEP = compile_step(_step_drawn)


@dataclass(frozen=True, eq=False)
class Drawn:
    """One of the tasks :data:`DRAWN`, with the members of :class:`~spikeloop.envs.compiled.Compiled`.

    Args:
        n_obs: Length of the observation.
    """

    n_obs: int
    step: Any = _STEP
    n_state: int = 1

    def body(self, env: Any) -> np.ndarray:
        """Return steps of the episode and actions, then the episode's rewards and its observations in a row."""
        sizes = env._rewards.shape
        return np.concatenate([sizes, env._rewards.ravel(), env._observations.ravel()], dtype=np.float64)

    def state(self, env: Any) -> np.ndarray | None:
        """Return the number of the step, shape (1,); None if the episode is over, whose next step is an error."""
        return np.array([env._step], np.float64) if env._step < len(env._rewards) else None

    def set_state(self, env: Any, state: np.ndarray, n_steps: int) -> None:
        """Bring an environment to where these steps led."""
        env._step = int(state[0])

    def finish(self, env: Any, obs: np.ndarray) -> None:
        """Return None: an environment takes the step that ends its episode itself."""


def drawn_of(env: gym.Env) -> Drawn | None:
    """Return the compiled form of a task whose episodes are drawn; None if an environment is none.

    >>> drawn_of(TMaze(n_neurons=5)).n_obs
    15
    """
    task: Any = env.unwrapped
    return Drawn(task._observations.shape[1]) if type(task) in DRAWN else None
