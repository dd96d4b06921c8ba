"""Players of episodes: a policy, chance, and what they saw."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from spikeloop.hardware.deployed import Deployment
    from spikeloop.spiking.monitor import Monitor

Act = Callable[[np.ndarray, Any, np.ndarray], tuple[np.ndarray, Any]]


def flat(policy: Any) -> Act:
    """Return a player from a policy that takes flat observations."""

    def act(obs: np.ndarray, state: Any, starts: np.ndarray) -> tuple[np.ndarray, Any]:
        return policy.predict(obs.reshape(len(obs), -1), state, starts)

    return act


def random_player(env: VecEnv, seed: int) -> Act:
    """Return a player that draws its actions from the space, seeded."""
    space = env.action_space
    space.seed(seed)
    return lambda obs, state, starts: (np.stack([space.sample() for _ in obs]), state)


def play(env: VecEnv, act: Act, n_episodes: int, seed: int) -> list[float]:
    """Play episodes, each from a seed of its own, so that every player meets the same ones.

    Args:
        env: One environment.
        act: Observation, state and episode start to actions and new state.
        n_episodes: How many.
        seed: Of the first; the next have the next.

    Returns:
        The returns; those of a ``Monitor`` where the environment has one, as in ``evaluate_policy``.
    """
    returns = []
    for episode in range(n_episodes):
        env.seed(seed + episode)
        obs, state, done, total = env.reset(), None, False, 0.0
        start = np.ones(1, bool)
        while not done:
            actions, state = act(np.asarray(obs), state, start)
            obs, rewards, dones, infos = env.step(actions)
            start, done, total = dones, bool(dones[0]), total + float(rewards[0])
        returns.append(float(infos[0]["episode"]["r"]) if "episode" in infos[0] else total)
    return returns


def observations(env: VecEnv, act: Act, n_steps: int, seed: int) -> np.ndarray:
    """Return raw observations of a player's own episodes, shape (n_steps, 1, n_obs)."""
    env.seed(seed)
    obs, state, start = np.asarray(env.reset()), None, np.ones(1, bool)
    seen = np.empty((n_steps, 1, obs.size))
    for step in range(n_steps):
        seen[step] = obs.reshape(1, -1)
        actions, state = act(obs, state, start)
        after, _, start, _ = env.step(actions)
        obs = np.asarray(after)
    return seen


class Recorded:
    """A player that keeps what it saw on its first steps.

    Args:
        act: The player.
        n_steps: How many steps it keeps.
    """

    def __init__(self, act: Act, n_steps: int):
        self.act, self.n_steps = act, n_steps
        self.steps: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, obs: np.ndarray, state: Any, starts: np.ndarray) -> tuple[np.ndarray, Any]:
        """Act, and keep the observation and whether an episode started."""
        if len(self.steps) < self.n_steps:
            self.steps.append((np.array(obs).reshape(len(obs), -1), np.array(starts, bool)))
        return self.act(obs, state, starts)


def record_deployed_episode(deployment: Deployment, env: VecEnv, seed: int) -> Monitor:
    """Run one deterministic episode of a compiled network and return the spikes of its neurons.

    Args:
        deployment: The compiled network.
        env: One environment that shows raw observations.
        seed: Seed of the environment and of a ``rate`` encoder.
    """
    from spikeloop.hardware.deployed import DeployedPolicy
    from spikeloop.hardware.recording import record

    recorded = Recorded(flat(DeployedPolicy(deployment, np.random.default_rng(seed))), sys.maxsize)
    play(env, recorded, 1, seed)
    return record(deployment, np.stack([obs for obs, _ in recorded.steps]), np.random.default_rng(seed))
