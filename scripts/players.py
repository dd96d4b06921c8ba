"""Players of episodes: a policy, chance, and what they saw."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloop.spiking.observation import flatten

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from spikeloop.hardware.deployment import Deployment
    from spikeloop.spiking.monitor import Monitor
    from spikeloop.spiking.network import Network

# Observations of one environment, state, episode starts of shape (1,) -> actions and the new state.
Act = Callable[[Any, Any, np.ndarray], tuple[np.ndarray, Any]]


def random_player(env: VecEnv, seed: int) -> Act:
    """Return a player that draws its actions from the space, seeded."""
    space = env.action_space
    space.seed(seed)
    return lambda obs, state, starts: (np.stack([space.sample() for _ in starts]), state)


Reinforce = Callable[[float, bool, bool], None]  # reward, whether the step ended in a terminal state, or was cut off


def play(env: VecEnv, act: Act, n_episodes: int, seed: int, reinforce: Reinforce | None = None) -> list[float]:
    """Play episodes, each from a seed of its own, so that every player meets the same ones.

    Args:
        env: One environment.
        act: Observation, state and episode start to actions and new state.
        n_episodes: How many.
        seed: Of the first; the next have the next.
        reinforce: Called after each step, for a player that learns.

    Returns:
        The returns; those of a ``Monitor`` where the environment has one, as in ``evaluate_policy``.
    """
    returns = []
    for episode in range(n_episodes):
        env.seed(seed + episode)
        obs, state, done, total = env.reset(), None, False, 0.0
        start = np.ones(1, bool)
        while not done:
            actions, state = act(obs, state, start)
            obs, rewards, dones, infos = env.step(actions)
            start, done, total = dones, bool(dones[0]), total + float(rewards[0])
            if reinforce is not None:
                truncated = bool(infos[0].get("TimeLimit.truncated", False))
                reinforce(float(rewards[0]), done and not truncated, truncated)
        returns.append(float(infos[0]["episode"]["r"]) if "episode" in infos[0] else total)
    return returns


def observations(network: Network, env: VecEnv, n_steps: int, seed: int) -> np.ndarray:
    """Return raw observations of a network's own episodes as rows, shape (n_steps, 1, n_obs)."""
    from spikeloop.spiking.simulator import Simulator

    simulator = Simulator(network, np.random.default_rng(seed))
    env.seed(seed)
    obs, state, start = env.reset(), None, np.ones(1, bool)
    seen = np.empty((n_steps, 1, network.n_obs))
    for step in range(n_steps):
        seen[step] = flatten(network.parts, obs)[0]
        actions, state = simulator.predict(obs, state, start)
        obs, _, start, _ = env.step(actions)
    return seen


class Recorded:
    """A player that keeps what it saw on its first steps.

    Args:
        act: The player.
        n_steps: How many steps it keeps.

    Example:
        >>> import numpy as np
        >>> player = Recorded(lambda obs, state, starts: (np.zeros(1), state), n_steps=1)
        >>> for obs in (np.ones(2), np.zeros(2)):
        ...     action, state = player(obs, None, np.ones(1))
        >>> player.steps
        [(array([1., 1.]), array([ True]))]
    """

    def __init__(self, act: Act, n_steps: int):
        self.act, self.n_steps = act, n_steps
        self.steps: list[tuple[Any, np.ndarray]] = []

    def __call__(self, obs: Any, state: Any, starts: np.ndarray) -> tuple[np.ndarray, Any]:
        """Act, and keep the observation and whether an episode started."""
        if len(self.steps) < self.n_steps:
            self.steps.append((copy.deepcopy(obs), np.array(starts, bool)))  # the environment writes over it
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

    recorded = Recorded(DeployedPolicy(deployment, np.random.default_rng(seed)).predict, sys.maxsize)
    play(env, recorded, 1, seed)
    seen = [flatten(deployment.host.observation, obs)[0] for obs, _ in recorded.steps]
    return record(deployment, np.stack(seen), np.random.default_rng(seed))
