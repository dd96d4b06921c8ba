"""The compiled fast path of a local learner: task, code and network in one kernel, where the task allows it.

The kernel takes steps up to the one that would end the episode; that one is left to the environment itself, as are
resets. Monitors, time limits, automatic resets and random starts are therefore the real ones, and an environment that
changes between episodes is seen as it is.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from spikeloop.agents.check_finite import CheckFinite
from spikeloop.agents.guarded_env import GuardedEnv
from spikeloop.agents.modulators import Modulator
from spikeloop.envs.bodies import ChangeBody
from spikeloop.envs.dynamics import Dynamics, dynamics_of
from spikeloop.spiking.encoders.tile_coding import PlaceCells, Tiles

# Wrappers that change nothing between the beginning of an episode and its last step.
_TRANSPARENT = (GuardedEnv, Monitor, TimeLimit, OrderEnforcing, PassiveEnvChecker, ChangeBody)
_MOST_STEPS = 10_000  # without a time limit, so that Python gets a turn now and then


class ClosedLoop:
    """Runs stretches of episodes in one kernel.

    Args:
        env: The task under its wrappers.
        wrappers: Those wrappers.
        dynamics: Its compiled step.
        network: The network, with a ``closed_loop`` such as
            :meth:`~spikeloop.spiking.rules.winner_take_all.WinnerTakeAll.closed_loop`.
        coder: Its input code.
    """

    def __init__(
        self,
        env: gym.Env,
        wrappers: list[gym.Wrapper],
        dynamics: Dynamics,
        network: Any,
        coder: Tiles | PlaceCells,
    ):
        self.task: Any = env.unwrapped
        self.limits = [wrapper for wrapper in wrappers if isinstance(wrapper, TimeLimit)]
        self.monitors = [wrapper for wrapper in wrappers if isinstance(wrapper, Monitor)]
        self.guards = [wrapper for wrapper in wrappers if isinstance(wrapper, GuardedEnv)]
        self.dynamics, self.network, self.coder = dynamics, network, coder

    @staticmethod
    def of(venv: VecEnv, network: Any, coder: Tiles | PlaceCells) -> ClosedLoop | None:
        """Return the fast path for an environment and a network; None if anything about them is out of the ordinary."""
        while type(venv) is CheckFinite:
            venv = venv.venv
        # what a subclass changes, the loop of its base does not know of
        if type(venv) is not DummyVecEnv or "closed_loop" not in vars(type(network)):
            return None
        env: Any = venv.envs[0]
        wrappers: list[gym.Wrapper] = []
        while type(env) in (*_TRANSPARENT, gym.wrappers.TimeLimit):  # RL Zoo puts its own in Gymnasium's place
            wrappers.append(env)
            env = env.env
        dynamics = dynamics_of(env) if env is env.unwrapped and env.render_mode != "human" else None
        return None if dynamics is None else ClosedLoop(env, wrappers, dynamics, network, coder)

    def advance(
        self,
        obs: np.ndarray,
        action: int,
        value: float,
        n_ticks: int,
        modulator: Modulator,
        reward_scale: float,
        scale: float,
        most_steps: int,
    ) -> tuple[np.ndarray, np.ndarray, int, float]:
        """Take steps until the next one would end the episode.

        Args:
            obs: Current observation, shape (n_obs,).
            action: Action chosen for it.
            value: Its value.
            n_ticks: Ticks per step.
            modulator: Reward to modulator.
            reward_scale: Factor of the reward.
            scale: Factor of the modulator.
            most_steps: Number of steps not to go beyond.

        Returns:
            The rewards, shape (n_steps,), and observation, action and value after these steps.
        """
        left = [limit._max_episode_steps - (limit._elapsed_steps or 0) - 1 for limit in self.limits]
        rewards = np.empty(max(0, min(most_steps, _MOST_STEPS, *left)))
        state, seen = np.array(self.task.state, np.float64), np.array(obs, np.float64)
        n_steps, action, value = self.network.closed_loop(
            self.dynamics.step,
            state,
            self.dynamics.body(self.task),
            seen,
            self.coder.table,
            n_ticks,
            (*modulator.numbers, float(reward_scale), float(scale)),
            modulator.baseline,
            action,
            value,
            rewards,
        )
        rewards = rewards[:n_steps]
        if n_steps:
            self.task.state = state
        for limit in self.limits:
            limit._elapsed_steps = (limit._elapsed_steps or 0) + n_steps
        for monitor in self.monitors:
            monitor.rewards.extend(rewards.tolist())
            monitor.total_steps += n_steps
        for guard in self.guards:
            guard.n_steps += n_steps
        return rewards, seen.astype(obs.dtype), action, value
