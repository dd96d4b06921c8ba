"""Learners without spikes in the table of peers: a linear actor-critic, and REINFORCE of one layer."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from spikeloop.scripts.bench.peer_features import Features, gamma_of, n_actions_of
from spikeloop.spiking.compiling import kernel


class LinearActorCritic:
    """Actor-critic with eligibility traces (Sutton & Barto 2018, section 13.5), without the factor gamma^t of the step.

    Value and preferences are linear, actions are drawn by softmax, and both traces accumulate:

        δ = r + γ V(s') - V(s)
        z_v <- γ λ z_v + x,   z_j <- γ λ z_j + (1[a = j] - π_j) x,   v <- v + α_v δ z_v,   θ <- θ + α δ z

    Args:
        env: The task, whose preset gives γ.
        rng: Source of the actions.
        features: What the observation is turned into, a function of the environment.
        rate: α times the sum of squares of the features.
        value_rate: α_v times this sum.
        trace_lambda: λ.
    """

    def __init__(
        self,
        env: gym.Env,
        rng: np.random.Generator,
        features: Callable[[gym.Env], Features],
        rate: float,
        value_rate: float,
        trace_lambda: float = 0.8,
    ):
        self.features, n, power = features(env)
        self.rng, self.learning, self.seconds_elsewhere = rng, True, 0.0
        self.rate, self.value_rate = rate / power, value_rate / power
        self.gamma, self.decay = gamma_of(env), gamma_of(env) * trace_lambda
        self.theta, self.v = np.zeros((n_actions_of(env), n)), np.zeros(n)
        self.z, self.z_v = np.zeros_like(self.theta), np.zeros_like(self.v)

    def begin(self, obs: np.ndarray) -> int:
        """Forget the traces; return the first action."""
        self.z[:], self.z_v[:] = 0.0, 0.0
        return self._act(self.features(obs))

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Learn by the TD error; return the next action."""
        x = self.features(obs)
        if self.learning:
            target = reward + (0.0 if terminated else self.gamma * float(self.v @ x))
            delta = target - float(self.v @ self.x)
            _follow(self.v[None], self.z_v[None], self.x, np.ones(1), self.decay, self.value_rate * delta)
            _follow(self.theta, self.z, self.x, self.score, self.decay, self.rate * delta)
        return self._act(x)

    def _act(self, x: np.ndarray) -> int:
        self.x = x
        action, self.score = softmax_action(self.theta @ x, self.rng, self.learning)
        return action


@kernel
def _follow(w: np.ndarray, z: np.ndarray, x: np.ndarray, score: np.ndarray, decay: float, step: float) -> None:
    """Let the traces (n_actions, n) decay and count the latest action in; then change the weights."""
    for j in range(len(score)):
        for i in range(len(x)):
            z[j, i] = decay * z[j, i] + score[j] * x[i]
            w[j, i] += step * z[j, i]


class Reinforce:
    """REINFORCE (Williams 1992) of one layer: softmax of a linear map of normalised observations.

    After each episode the score of each step is weighed by the discounted return that followed it, less a baseline,
    divided by the deviation. Observations are normalised by their mean and deviation so far.

    Args:
        env: The task, whose preset gives the discount.
        rng: Source of the actions.
        rate: Learning rate.
        baseline: ``episode``, mean and deviation of this episode's returns; ``past``, the mean, over the last ten
            episodes or so, of the return that followed the same step, and the deviation from it.
    """

    def __init__(self, env: gym.Env, rng: np.random.Generator, rate: float, baseline: str = "episode"):
        self.rng, self.rate, self.gamma, self.baseline = rng, rate, gamma_of(env), baseline
        self.learning, self.seconds_elsewhere = True, 0.0
        assert env.observation_space.shape is not None and env.spec is not None
        n_obs = env.observation_space.shape[0]
        self.theta = np.zeros((n_actions_of(env), n_obs + 1))
        self.count, self.mean, self.squares = 0, np.zeros(n_obs), np.zeros(n_obs)
        self.expected = np.full(env.spec.max_episode_steps or 0, np.nan)
        self.variance = np.nan
        self.scores: list[np.ndarray] = []
        self.rewards: list[float] = []

    def begin(self, obs: np.ndarray) -> int:
        """Return the first action."""
        self.scores, self.rewards = [], []
        return self._act(obs)

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Learn where the episode is over; return the next action."""
        self.rewards.append(reward)
        if self.learning and (terminated or truncated):
            returns = np.zeros(len(self.rewards) + 1)
            for t in reversed(range(len(self.rewards))):
                returns[t] = self.rewards[t] + self.gamma * returns[t + 1]
            weights = self._advantages(returns[:-1])
            self.theta += self.rate * np.tensordot(weights, np.array(self.scores), 1)
        return self._act(obs)

    def _advantages(self, returns: np.ndarray) -> np.ndarray:
        if self.baseline == "episode":
            return (returns - returns.mean()) / (returns.std() + 1e-8)
        # an episode that is over is worth 0 from then on
        followed = np.zeros(len(self.expected))
        followed[: len(returns)] = returns
        known = np.isfinite(self.expected)
        advantages = np.where(known, followed - self.expected, 0.0)
        self.expected = np.where(known, 0.9 * self.expected + 0.1 * followed, followed)
        square = float(np.mean(advantages[: len(returns)] ** 2))
        self.variance = square if np.isnan(self.variance) else 0.9 * self.variance + 0.1 * square
        return advantages[: len(returns)] / (np.sqrt(self.variance) + 1e-8)

    def _act(self, obs: np.ndarray) -> int:
        if self.learning:
            self.count += 1
            away = obs - self.mean
            self.mean += away / self.count
            self.squares += away * (obs - self.mean)
        deviation = np.sqrt(self.squares / max(self.count, 1)) + 1e-8
        x = np.append(((obs - self.mean) / deviation).clip(-5, 5), 1.0)
        action, score = softmax_action(self.theta @ x, self.rng, self.learning)
        self.scores.append(np.outer(score, x))
        return action


def softmax_action(preferences: np.ndarray, rng: np.random.Generator, exploring: bool) -> tuple[int, np.ndarray]:
    """Return an action, the preferred one if not exploring, and the score of each preference, 1[a = j] - π_j.

    >>> softmax_action(np.array([0.0, 0.0, 1.0]), np.random.default_rng(0), exploring=False)[0]
    2
    """
    policy = np.exp(preferences - preferences.max())
    policy /= policy.sum()
    if exploring:
        action = min(int(np.searchsorted(policy.cumsum(), rng.random())), len(policy) - 1)
    else:
        action = int(preferences.argmax())
    score = -policy
    score[action] += 1.0
    return action, score
