"""A model of the body that a host fits to what a deployed policy has observed, to try corrections of sensors in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_RIDGE, _RIDGE_TOGETHER = 1e-4, 1e-7  # of squared weights, of one action and of all, as shares of the transitions
_WIDER = 0.01  # share of the range of what has been seen
_STEPS = 500  # env steps of an imagined episode, at most
_SEARCHES, _ROUNDS, _CANDIDATES, _EPISODES = 2, 16, 64, 4  # rounds of a search; episodes of each candidate
_COMPARED, _EPISODES_COMPARED = 4, 32  # last rounds of each search whose means are compared, and episodes of each
_NEGLIGIBLE = 1e-3  # share of a return
_FIRST_DEVIATION, _KEPT = 0.5, 0.3  # of the search's Gaussian; how much of it a round keeps

# Observations, a state and which episodes start -> actions or what they are chosen by, and the next state.
Act = Callable[[np.ndarray, Any, np.ndarray], tuple[np.ndarray, Any]]


@dataclass(frozen=True)
class Episode:
    """What was observed in an episode, which actions were taken, and the reward of each.

    Args:
        observations: Shape (T, n).
        actions: Numbers of the actions, from 0, shape (T,).
        rewards: Shape (T,).
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


@dataclass(frozen=True)
class BodyModel:
    """An affine model of the next observation s' and of the reward r, for each action a.

    It is fitted by ridge regression, and the error e is drawn from the residuals::

        (s' - s, r) = W[a] (1, (s - mean) / deviation) + e

    W[a] is the sum of a matrix for all actions and one for each, of which the latter is penalised more. An action that
    has not been tried yet therefore counts as one like the others.

    An imagined episode ends where an observation leaves the range of those that have been seen, widened by a hundredth.
    What comes then is not known, be it that the pole has fallen or that nobody has been there yet, and so it counts as
    the end (a pessimistic model: Kidambi et al. 2020, MOReL).

    Args:
        mean: Of the observations, shape (n,).
        deviation: Their standard deviations, shape (n,).
        weights: Shape (n_actions, 1 + n, n + 1); the last column is the reward's.
        residuals: Of the transitions, shape (K, n + 1).
        low: Below it, an observation ends an episode, shape (n,).
        high: Above it, an observation ends an episode, shape (n,).
        starts: First observations of episodes, shape (M, n).
    """

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray
    low: np.ndarray
    high: np.ndarray
    starts: np.ndarray

    @staticmethod
    def fitted(episodes: Sequence[Episode], starts: np.ndarray, n_actions: int) -> BodyModel:
        """Return the model of the transitions within some episodes.

        Args:
            episodes: At least one with two observations.
            starts: First observations of earlier episodes, shape (M, n): only how they scatter is taken from them.
            n_actions: How many actions there are.

        >>> rng = np.random.default_rng(0)
        >>> s, actions = np.zeros((50, 1)), rng.integers(2, size=50)
        >>> for t in range(49):
        ...     s[t + 1] = 0.9 * s[t] + (1.0 if actions[t] else -1.0)
        >>> model = BodyModel.fitted([Episode(s, actions, np.ones(50))], np.zeros((1, 1)), 2)
        >>> after, reward, ended = model.step(np.array([[1.0], [99.0]]), np.array([1, 1]), rng)
        >>> after[0].round(2), reward.round(2), ended
        (array([1.9]), array([1., 1.]), array([False,  True]))
        """
        before = np.concatenate([episode.observations[:-1] for episode in episodes])
        after = np.concatenate([episode.observations[1:] for episode in episodes])
        actions = np.concatenate([episode.actions[:-1] for episode in episodes])
        rewards = np.concatenate([episode.rewards[:-1] for episode in episodes])
        seen = np.concatenate([episode.observations for episode in episodes])
        firsts = np.array([episode.observations[0] for episode in episodes])
        mean, deviation = seen.mean(axis=0), seen.std(axis=0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        inputs = _inputs((before - mean) / deviation, actions, n_actions)
        targets = np.concatenate([after - before, rewards[:, None]], axis=1)
        penalty = np.diag(np.where(np.arange(inputs.shape[1]) <= len(mean), _RIDGE_TOGETHER, _RIDGE) * len(inputs))
        weights = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets)
        together, of_each = np.split(weights, [1 + len(mean)])
        scatter = starts - starts.mean(axis=0)
        return BodyModel(
            mean,
            deviation,
            together + of_each.reshape(n_actions, 1 + len(mean), -1),
            targets - inputs @ weights,
            seen.min(axis=0) - _WIDER * np.ptp(seen, axis=0),
            seen.max(axis=0) + _WIDER * np.ptp(seen, axis=0),
            firsts.mean(axis=0) + scatter,
        )

    def start(self, n_episodes: int, rng: np.random.Generator) -> np.ndarray:
        """Return first observations, shape (n_episodes, n): each value drawn from those of the starts by itself."""
        rows = rng.integers(len(self.starts), size=(n_episodes, self.starts.shape[1]))
        return np.take_along_axis(self.starts, rows, axis=0)

    def step(
        self, observations: np.ndarray, actions: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the next observations, shape (B, n), the rewards and whether the episodes end, shape (B,)."""
        inputs = np.concatenate([np.ones((len(observations), 1)), (observations - self.mean) / self.deviation], axis=1)
        change = np.einsum("bi,bij->bj", inputs, self.weights[actions])
        change += self.residuals[rng.integers(len(self.residuals), size=len(change))]
        after = observations + change[:, :-1]
        return after, change[:, -1], ((after < self.low) | (after > self.high)).any(axis=1)

    def returns(self, act: Act, seen: np.ndarray, n_episodes: int, rng: np.random.Generator) -> np.ndarray:
        """Return the mean return of each of some candidates over imagined episodes with the same starts, shape (C,).

        Args:
            act: Called with a batch of observations, shape (B, n), its state, None first, and which episodes start,
                shape (B,); returns the numbers of the actions, shape (B,), and its state, whose ``of(mask)`` is that of
                some of the batch.
            seen: How candidates see: gains of observations, then what is added to them, shape (C, 2, n).
            n_episodes: Of each candidate.
            rng: Source of starts and residuals.
        """
        gain, added = np.repeat(seen, n_episodes, axis=0).swapaxes(0, 1)
        now = np.tile(self.start(n_episodes, rng), (len(seen), 1))
        going, total = np.arange(len(now)), np.zeros(len(now))  # only episodes that go on are computed
        starts, state = np.ones(len(now), bool), None
        for _ in range(_STEPS):
            actions, state = act(gain[going] * now + added[going], state, starts)
            now, rewards, ended = self.step(now, actions, rng)
            total[going] += rewards
            if ended.any():
                going, now, state = going[~ended], now[~ended], state.of(~ended)
                if not len(going):
                    break
            starts = np.zeros(len(going), bool)
        return total.reshape(len(seen), n_episodes).mean(axis=1)


def _inputs(scaled: np.ndarray, actions: np.ndarray, n_actions: int) -> np.ndarray:
    """Return the inputs of the regression, of all actions together and of each, (K, (1 + n_actions) (1 + n))."""
    ones = np.concatenate([np.ones((len(scaled), 1)), scaled], axis=1)
    chosen = np.concatenate([np.ones((len(actions), 1)), np.eye(n_actions)[actions]], axis=1)
    return (chosen[:, :, None] * ones[:, None, :]).reshape(len(scaled), -1)


def best_shift(
    returns: Callable[[np.ndarray, int], np.ndarray], first: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return the shift of sensors with the largest return that the cross-entropy method finds, and that return.

    Each round of a search draws candidates from a Gaussian and moves its mean and deviations towards those of the best
    quarter (Rubinstein 1999). At the end the means of the last rounds of all searches are compared with the first mean
    on more episodes. The first mean is kept unless another returns more, by a thousandth at least.

    Args:
        returns: Returns of candidates, shape (C, d), over a number of episodes, shape (C,).
        first: Mean of the first Gaussian, shape (d,).
        rng: Source of the candidates.

    >>> rng = np.random.default_rng(0)
    >>> shift, mean = best_shift(lambda x, n: -((x - 1.0) ** 2).sum(axis=1), np.zeros(3), rng)
    >>> shift.round(1), round(mean, 1)
    (array([1., 1., 1.]), -0.0)
    """
    means = []
    for _ in range(_SEARCHES):
        mean, deviation = first, np.full(first.shape, _FIRST_DEVIATION)
        for _ in range(_ROUNDS):
            candidates = mean + deviation * rng.standard_normal((_CANDIDATES, len(mean)))
            candidates[0], candidates[1] = mean, first
            best = candidates[np.argsort(-returns(candidates, _EPISODES), kind="stable")[: _CANDIDATES // 4]]
            mean = _KEPT * mean + (1 - _KEPT) * best.mean(axis=0)
            deviation = _KEPT * deviation + (1 - _KEPT) * best.std(axis=0)
            means.append(mean)
    last = np.array(means).reshape(_SEARCHES, _ROUNDS, -1)[:, -_COMPARED:].reshape(-1, len(first))
    compared = np.concatenate([first[None], last])
    values = returns(compared, _EPISODES_COMPARED)
    most = int(np.argmax(values)) if surpasses(values.max(), values[0]) else 0
    return compared[most], float(values[most])


def surpasses(value: float, other: float) -> bool:
    """Return whether a return is larger than another by more than the errors of a fitted reward add up to."""
    return value > other + _NEGLIGIBLE * abs(other)
