"""Compiled tasks for a learner that brings a kernel of its own: what it needs of a task, and what wrappers are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents.compiled_episodes import MOST_STEPS, only_env, telling
from spikeloop.envs.compiled import Compiled, compiled_of, shown_components
from spikeloop.envs.compiled_tables import Table, table_of
from spikeloop.envs.wrappers import HideVelocity


@dataclass(frozen=True, eq=False)
class Stretches:
    """A compiled task, of whose episodes all but the last step may be run in a kernel.

    Args:
        task: The task under its wrappers.
        wrappers: Those that have to be told of steps, and how each is.
        compiled: The task's compiled form.
        keep: Which components of its observation are shown, int64.

    >>> import spikeloop.envs  # registers the task
    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> Stretches.of(make_vec_env("spikeloop/CartPoleNoVel-v0")).keep.tolist()
    [0, 2]
    """

    task: Any
    wrappers: tuple[tuple[gym.Wrapper, Callable[[Any, np.ndarray], None]], ...]
    compiled: Compiled | Table
    keep: np.ndarray

    @staticmethod
    def of(venv: VecEnv | None) -> Stretches | None:
        """Return the stretches of an environment; None if anything about it is out of the ordinary."""
        outermost: Any = only_env(venv)
        if outermost is None:
            return None
        env, wrappers = outermost, []
        while (told := telling(env)) is not None or type(env) is HideVelocity:
            if told is not None:
                wrappers.append((env, told))
            env = env.env
        known = env is env.unwrapped and env.render_mode != "human"
        compiled = (compiled_of(env) or table_of(env)) if known else None
        if compiled is None:
            return None
        return Stretches(env, tuple(wrappers), compiled, shown_components(outermost, compiled.n_obs))

    def longest(self, most_steps: int) -> int:
        """Return how many steps a stretch may have so that neither it nor the step after it goes beyond a limit."""
        limits: list[Any] = [wrapper for wrapper, _ in self.wrappers if isinstance(wrapper, TimeLimit)]
        left = [limit._max_episode_steps - (limit._elapsed_steps or 0) - 1 for limit in limits]
        return max(0, min(most_steps, MOST_STEPS, *left))

    def state(self) -> np.ndarray | None:
        """Return the state of the task, float64, shape (n_state,); None if its next step is not the compiled one."""
        return self.compiled.state(self.task)

    def tell(self, state: np.ndarray, rewards: np.ndarray) -> None:
        """Move the environment to where a kernel has taken it.

        Args:
            state: State of the task.
            rewards: What each step paid, shape (n_steps,).
        """
        if len(rewards):
            self.compiled.set_state(self.task, state, len(rewards))
        for wrapper, tell in self.wrappers:
            tell(wrapper, rewards)
