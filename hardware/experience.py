"""What a deployed policy has seen of its body, episode by episode, as far as a model of it needs that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spikeloop.hardware.body_model import Act, BodyModel, Episode, best_shift, surpasses
from spikeloop.hardware.host import Host
from spikeloop.hardware.sensors import n_sensors, seen_by

_EPISODES_KEPT, _STARTS_KEPT, _STEPS_KEPT = 16, 32, 2000  # the last episodes, and the first steps of each
_MOST_SENSORS = 64  # nobody sees enough for a model of images
_ROWS_WANTED, _MOST_WEIGHTS = 2, 2000  # transitions for each input weight of the model, and how many it may have


class Experience:
    """Episodes since returns began to surprise, and how those before them began.

    A model is fitted where observations are numbers, 64 at most, and one action of several is chosen. No reward may
    have been negative, and some before an episode's end must have been positive, so that in the model it costs returns
    to leave the range of what has been seen.

    Args:
        host: Of the policy.

    >>> from spikeloop.hardware.host import Host
    >>> from spikeloop.spiking import ActionHead, Encoder, Readout
    >>> from spikeloop.spiking.observation import ObservationPart
    >>> readout, head = Readout(np.zeros((2, 0)), np.zeros(2)), ActionHead("discrete", (2,))
    >>> host = Host((ObservationPart((1,)),), Encoder("direct", 1), readout, 4, 1.0, "graded", 16.0, 0.01, head=head)
    >>> experience = Experience(host)
    >>> for t in range(12):
    ...     experience.saw(np.array([0.1 * t]), t % 2)
    ...     experience.rewarded(1.0)
    >>> experience.ended()
    >>> experience.modelled
    True
    """

    def __init__(self, host: Host):
        head = host.head
        self.n_actions = head.sizes[0] if head is not None and head.kind == "discrete" and len(head.sizes) == 1 else 0
        self._first_action = head.start[0] if head is not None and head.start else 0
        self.host, self.numbers = host, self.n_actions > 0 and 0 < n_sensors(host) <= _MOST_SENSORS
        self.episodes: deque[Episode] = deque(maxlen=_EPISODES_KEPT)
        self.starts: deque[np.ndarray] = deque(maxlen=_STARTS_KEPT)
        self._rows: list[np.ndarray] = []
        self._actions: list[int] = []
        self._rewards: list[float] = []
        self._now: tuple[np.ndarray, int] | None = None

    def saw(self, row: np.ndarray, action: int) -> None:
        """Take note of an observation, shape (n,), and of the number of the action that answers it, from 0."""
        if self.numbers:
            self._now = np.array(row, np.float64), action

    def rewarded(self, reward: float) -> None:
        """Take note of what the latest action was worth."""
        if self._now is None or len(self._rows) == _STEPS_KEPT:
            return
        self._rows.append(self._now[0])
        self._actions.append(self._now[1])
        self._rewards.append(reward)
        self._now = None

    def ended(self) -> None:
        """End an episode."""
        if self._rows:
            self.episodes.append(Episode(np.array(self._rows), np.array(self._actions), np.array(self._rewards)))
        self._rows, self._actions, self._rewards, self._now = [], [], [], None

    def calm(self, anew: bool) -> None:
        """Forget all episodes but how they began, as nothing surprises any more.

        Args:
            anew: Whether something did surprise before: how episodes began before that is forgotten too.
        """
        if anew:
            self.starts.clear()
        self.starts.extend(episode.observations[0] for episode in self.episodes)
        self.episodes.clear()

    @property
    def modelled(self) -> bool:
        """Whether a model can be fitted to what has been seen since returns began to surprise."""
        n_weights = self.n_actions * (1 + self.host.n_obs)
        n_rows = sum(len(episode.rewards) - 1 for episode in self.episodes)
        if n_weights > _MOST_WEIGHTS or n_rows < max(1, _ROWS_WANTED * n_weights):
            return False
        rewards = np.concatenate([episode.rewards for episode in self.episodes])
        paid = any(episode.rewards[:-1].any() for episode in self.episodes)
        return rewards.min() >= 0 and paid and all(np.isfinite(e.observations).all() for e in self.episodes)

    def best_correction(
        self, steps: Sequence[Act], first: np.ndarray, seed: Sequence[int]
    ) -> tuple[int, np.ndarray] | None:
        """Return which policy does best in a model of the body, and with which correction of sensors, shape (2 n,).

        None if that is the first policy with the first correction. Where returns scatter, the best of several means is
        often better by chance: what is returned is worth a trial, which judges it.

        Args:
            steps: Output values of each policy without correction, as
                :meth:`~spikeloop.hardware.deployed.DeployedPolicy.step` returns them.
            first: The correction to begin with, shape (2 n,).
            seed: Of the search.
        """
        starts = np.array(self.starts if self.starts else [episode.observations[0] for episode in self.episodes])
        model = BodyModel.fitted(self.episodes, starts, self.n_actions)
        found = [
            best_shift(self._returns(model, step, seed), first, np.random.default_rng([*seed, k]))
            for k, step in enumerate(steps)
        ]
        best = 0
        for k, (_, mean) in enumerate(found):
            best = k if surpasses(mean, found[best][1]) else best
        shift = found[best][0]
        return None if best == 0 and np.array_equal(shift, first) else (best, shift)

    def _returns(self, model: BodyModel, step: Act, seed: Sequence[int]) -> Callable[[np.ndarray, int], np.ndarray]:
        """Return what computes the returns of corrections of one policy, shape (C, 2 n), over imagined episodes."""
        head, dtype = self.host.head, self.host.readout.b_out.dtype

        def act(rows: np.ndarray, state: Any, starts: np.ndarray) -> tuple[np.ndarray, Any]:
            values, after = step(rows, state, starts)
            return head(values.astype(dtype)) - self._first_action, after  # type: ignore[misc] # there are actions

        def returns(shifts: np.ndarray, n_episodes: int) -> np.ndarray:
            rng = np.random.default_rng([*seed, n_episodes])  # the same starts for all candidates of all rounds
            return model.returns(act, seen_by(self.host, shifts), n_episodes, rng)

        return returns
