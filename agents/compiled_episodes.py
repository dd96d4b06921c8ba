"""The fast path of local learners: stretches of episodes, or whole ones, in one call of a kernel.

There are two kinds of tasks for it. Where a task's step is compiled (:data:`spikeloop.envs.compiled.COMPILED`), a
:class:`ClosedLoop` runs task, input code and network up to the step that would end the episode; that one is left to the
environment itself, as are resets. Where a task hands out whole episodes
(:class:`~spikeloop.envs.compiled.DrawsEpisodes`), they are drawn beforehand. Either way monitors, time limits and
random starts are the real ones, and anything out of the ordinary, such as a wrapper that is not known here, leads back
to the ordinary loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from spikeloop.agents.check_finite import CheckFinite, NonFiniteError
from spikeloop.agents.guarded_env import GuardedEnv, call_guarded
from spikeloop.agents.line_codes import LineCode
from spikeloop.agents.modulators import Modulator
from spikeloop.envs.bodies import ChangeBody
from spikeloop.envs.compiled import Compiled, DrawsEpisodes, compiled_of
from spikeloop.envs.compiled_continuous import continuous_of
from spikeloop.envs.compiled_tables import Table, table_of
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders.lines import Binary, Parts
from spikeloop.spiking.encoders.recruited_cells import RecruitingCells
from spikeloop.spiking.encoders.spike_times import SpikeTimes
from spikeloop.spiking.encoders.tile_coding import PlaceCells, Tiles
from spikeloop.spiking.rules.plastic_network import RUNS_COMPILED_TASKS

MOST_STEPS = 10_000  # of a task without a time limit, so that Python gets a turn now and then


def only_env(venv: VecEnv | None) -> gym.Env | None:
    """Return the one environment in this process; None if there are others, or something changes what it shows."""
    while type(venv) is CheckFinite:
        venv = venv.venv
    return venv.envs[0] if type(venv) is DummyVecEnv else None


# ---- compiled steps


def _move_clock(limit: Any, rewards: np.ndarray) -> None:
    limit._elapsed_steps = (limit._elapsed_steps or 0) + len(rewards)  # Gymnasium's clock has no public hand


def _note_rewards(monitor: Any, rewards: np.ndarray) -> None:
    monitor.rewards.extend(rewards.tolist())
    monitor.total_steps += len(rewards)


def _count_steps(guard: Any, rewards: np.ndarray) -> None:
    guard.n_steps += len(rewards)


def _nothing(wrapper: Any, rewards: np.ndarray) -> None:
    pass


# Wrappers that change nothing between the first step of an episode and its last, and how each is told of steps that it
# has not seen.
TRANSPARENT: dict[type[gym.Wrapper], Callable[[Any, np.ndarray], None]] = {
    TimeLimit: _move_clock,
    Monitor: _note_rewards,
    GuardedEnv: _count_steps,
    OrderEnforcing: _nothing,
    PassiveEnvChecker: _nothing,
    ChangeBody: _nothing,
}


def telling(wrapper: gym.Env) -> Callable[[Any, np.ndarray], None] | None:
    """Return how a wrapper is told of steps that it has not seen; None if it is none of :data:`TRANSPARENT`."""
    if type(wrapper) is gym.wrappers.TimeLimit:  # RL Zoo puts a class of its own there
        return _move_clock
    if isinstance(wrapper, ChangeBody) and not wrapper.lets_pass:
        return None
    return TRANSPARENT.get(type(wrapper))  # type: ignore[arg-type]


def _compiled_form(env: gym.Env, coder: LineCode, head: ActionHead | None) -> Compiled | Table | None:
    if isinstance(coder, Binary):
        return table_of(env)
    return continuous_of(env) if head is not None and head.rows else compiled_of(env)


@dataclass(frozen=True, eq=False)
class ClosedLoop:
    """Runs stretches of episodes of a compiled task in one kernel.

    Args:
        task: The task under its wrappers.
        wrappers: Those wrappers, and how each is told of steps.
        compiled: The task's compiled form.
        network: The network, one of :data:`~spikeloop.spiking.rules.plastic_network.RUNS_COMPILED_TASKS`.
        coder: Its input code.
        values: What each action neuron stands for, float64; None for discrete actions.
        n_rows: Rows of action neurons for each number of an action.

    >>> from spikeloop.agents import RSTDP
    >>> encoder = {"n_tiles": 3, "low": [-2.4, -3.0, -0.2, -3.0], "high": [2.4, 3.0, 0.2, 3.0]}
    >>> model = RSTDP("WtaPolicy", "CartPole-v1", policy_kwargs={"encoder_kwargs": encoder})
    >>> ClosedLoop.of(model.env, model.policy.network, model.policy.coder, model.policy.head).compiled.n_obs
    4
    """

    task: Any
    wrappers: tuple[tuple[gym.Wrapper, Callable[[Any, np.ndarray], None]], ...]
    compiled: Compiled | Table
    network: Any
    coder: Tiles | PlaceCells | RecruitingCells | Binary
    values: np.ndarray | None = None
    n_rows: int = 1

    @staticmethod
    def of(venv: VecEnv, network: Any, coder: LineCode, head: ActionHead | None = None) -> ClosedLoop | None:
        """Return the fast path for an environment and a network; None if anything about them is out of the ordinary."""
        env: Any = only_env(venv)
        if env is None or type(network) not in RUNS_COMPILED_TASKS or isinstance(coder, (Parts, SpikeTimes)):
            return None
        wrappers = []
        while (told := telling(env)) is not None:
            wrappers.append((env, told))
            env = env.env
        compiled = _compiled_form(env, coder, head) if env is env.unwrapped and env.render_mode != "human" else None
        if compiled is None:
            return None
        rows = (head.values.astype(np.float64), head.n_rows) if head is not None and head.rows else ()
        return ClosedLoop(env, tuple(wrappers), compiled, network, coder, *rows)

    def advance(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        value: float,
        n_ticks: int,
        modulator: Modulator,
        reward_scale: float,
        scale: float,
        most_steps: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Take steps until the next one would end the episode.

        Args:
            obs: Current observation, shape (n_obs,), or () where it is a choice.
            action: Neuron of each circuit that won for it, shape (n_circuits,).
            value: Its value.
            n_ticks: Ticks per step.
            modulator: Reward to modulator.
            reward_scale: Factor of the reward.
            scale: Factor of the modulator.
            most_steps: Number of steps not to go beyond.

        Returns:
            The rewards, shape (n_steps,), and observation, action and value after these steps.
        """
        limits = [wrapper for wrapper, _ in self.wrappers if isinstance(wrapper, TimeLimit)]
        left = [limit._max_episode_steps - (limit._elapsed_steps or 0) - 1 for limit in limits]
        state, seen = self.compiled.state(self.task), np.array(obs, np.float64, ndmin=1)
        if state is None:
            return np.empty(0), obs, action, value
        rewards = np.empty(max(0, min(most_steps, MOST_STEPS, *left)))
        n_steps, action, value = self.network.closed_loop(
            self.compiled.step,
            state,
            self.compiled.body(self.task),
            seen,
            self.coder.table,
            n_ticks,
            (*modulator.numbers, float(reward_scale), float(scale)),
            modulator.baseline,
            int(action[0]) if self.values is None else action,
            value,
            rewards,
            *([] if self.values is None else [self.values, self.n_rows]),
        )
        rewards = rewards[:n_steps]
        if n_steps:
            self.compiled.set_state(self.task, state, n_steps)
        for wrapper, tell in self.wrappers:
            tell(wrapper, rewards)
        return rewards, seen.astype(obs.dtype).reshape(obs.shape), np.atleast_1d(action), value


# ---- drawn episodes


@dataclass(frozen=True, eq=False)
class DrawnEpisodes:
    """Takes whole episodes from a task that hands them out.

    Args:
        task: The task, an environment that :class:`~spikeloop.envs.compiled.DrawsEpisodes`.
        monitor: The monitor whose file their returns go to, if there is one.

    >>> from spikeloop.envs.tmaze import TMaze
    >>> observations, rewards = DrawnEpisodes.of(DummyVecEnv([TMaze])).draw(3)
    >>> observations.shape, rewards.shape
    ((3, 26, 60), (3, 26, 2))
    """

    task: Any
    monitor: Monitor | None

    @staticmethod
    def of(venv: VecEnv | None) -> DrawnEpisodes | None:
        """Return the fast path for an environment; None if anything about it is out of the ordinary."""
        env: Any = only_env(venv)
        while isinstance(env, GuardedEnv):
            env = env.env
        monitor = env if isinstance(env, Monitor) else None
        while isinstance(env, (Monitor, OrderEnforcing, PassiveEnvChecker)):
            env = env.env
        if env is None or env is not env.unwrapped or not isinstance(env, DrawsEpisodes):
            return None
        return DrawnEpisodes(env, monitor)

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the observations of the next n episodes, and the reward of each action on each step.

        Raises:
            NonFiniteError: If a number is not finite.
        """
        drawn = call_guarded(type(self.task).__name__, self.task.draw_episodes, self.task.np_random, n)
        for what, array in zip(("observations", "rewards"), drawn, strict=True):
            if not np.isfinite(array).all():
                raise NonFiniteError(f"draw_episodes() returned {what} that are not all finite")
        return drawn

    def log(self, episode_return: float, length: int) -> dict[str, Any]:
        """Return the record of an episode that no step of the environment has seen; it goes to the monitor's file."""
        since = time.time() - self.monitor.t_start if self.monitor is not None else 0.0
        episode = {"r": round(episode_return, 6), "l": length, "t": round(since, 6)}
        if self.monitor is not None and self.monitor.results_writer is not None:
            self.monitor.results_writer.write_row(episode)
        return episode
