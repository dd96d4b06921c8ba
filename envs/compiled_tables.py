"""Tasks that are a table of what follows what, such as FrozenLake, CliffWalking and Taxi, in a compiled form.

As :mod:`spikeloop.envs.compiled`, where the table ``P`` of a toy text has one outcome for each action in each
state. A slippery lake has several, and is none of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.toy_text import CliffWalkingEnv, FrozenLakeEnv, TaxiEnv

from spikeloop.envs.compiled import compile_step
from spikeloop.envs.windy_gridworld import WindyGridworld

TABLES: tuple[type[gym.Env], ...] = (FrozenLakeEnv, CliffWalkingEnv, TaxiEnv, WindyGridworld)
_VARIANT = {"fickle_passenger": False}  # what the table does not tell


def _step_table(state, action, body, obs):  # type: ignore[no-untyped-def]
    at = 1 + 3 * (int(state[0]) * int(body[0]) + action)
    state[0] = obs[0] = body[at]
    return body[at + 1], body[at + 2] != 0


_STEP = compile_step(_step_table)


@dataclass(frozen=True, eq=False)
class Table:
    """A task that is a table, with the members of :class:`~spikeloop.envs.compiled.Compiled`.

    Args:
        outcomes: Next state, reward, and whether that is the end, of each action in each state, float64, shape
            (n_states, n_actions, 3).
    """

    outcomes: np.ndarray
    step: Any = _STEP
    n_state: int = 1
    n_obs: int = 1

    def body(self, env: gym.Env) -> np.ndarray:
        """Return the number of actions and the table in a row."""
        return np.concatenate([[float(self.outcomes.shape[1])], self.outcomes.ravel()])

    def state(self, env: Any) -> np.ndarray:
        """Return the state of an environment, float64, shape (1,)."""
        return np.array([env.s], np.float64)

    def set_state(self, env: Any, state: np.ndarray, n_steps: int) -> None:
        """Bring an environment to where these steps led; it draws a number on each, whatever the outcome."""
        env.s = int(state[0])
        env.np_random.random(n_steps)


def table_of(env: gym.Env) -> Table | None:
    """Return the compiled form of an environment; None if it is no table, or leaves something to chance.

    >>> table_of(gym.make("FrozenLake-v1", is_slippery=False)).outcomes.shape
    (16, 4, 3)
    >>> table_of(gym.make("FrozenLake-v1", is_slippery=True)) is None
    True
    """
    task: Any = env.unwrapped
    if type(task) not in TABLES or any(getattr(task, name, value) != value for name, value in _VARIANT.items()):
        return None
    states = [[task.P[s][a] for a in range(len(task.P[s]))] for s in range(len(task.P))]
    if any(len(outcomes) != 1 for actions in states for outcomes in actions):
        return None
    return Table(np.array([[outcomes[0][1:] for outcomes in actions] for actions in states], np.float64))
