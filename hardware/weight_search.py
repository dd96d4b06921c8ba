"""When a deployed policy begins to try other weights, and which of them it keeps: judged by the returns of episodes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.fields import check_choice, number, set_fields, whole

SIZES = (5, 6, 7, 8)  # bits of the tags that are drawn for a trial
RECORDING, QUIET, JUDGING, TRYING, REVERSED, TURNED = PHASES = (
    "recording",
    "quiet",
    "judging",
    "trying",
    "reversed",
    "turned",
)
_OF_TRIALS = (TRYING, REVERSED, TURNED)
_MOST_SURPRISE = 4.0  # of one episode, so that a single bad one starts nothing
_SLACK, _ALARM = 1.0, 6.0  # of the cumulative sum, in units of the spread
_JUDGED_EVERY = 4  # episodes; the others are trials
_TURNED_SHARE = 0.1  # of trials
_FORGETS = 0.3  # of the score of the weights that are kept, by each of their episodes


class Verdict(NamedTuple):
    """What the host does with the weights between two episodes.

    Args:
        back: Whether the trial is over and was no better: the kept weights are written back.
        keep: Whether the trial was better: its weights are the kept ones from now on.
        size: Bits of the tags to draw for a new trial; 0: none.
        reverse: Whether the tags drawn last are tried with the other sign.
        turn: Whether all weights change their sign.
    """

    back: bool = False
    keep: bool = False
    size: int = 0
    reverse: bool = False
    turn: bool = False


@dataclass(frozen=True)
class WeightSearch:
    """Keeps a policy as it is while its returns are those on record; else tries other weights, an episode each.

    The gate is a cumulative sum over episodes with return R (CUSUM, Page 1954)::

        S <- max(0, S + min((mean - R) / spread, 4) - 1)        opens where S >= 6

    While it is open, episodes are trials: a random change of all weights and, if that fails, the same change with the
    other sign; or, at first and in one of ten of the choices after that, all weights with the other sign, as a body
    whose actions have turned round needs. After an episode whose number four divides, the kept weights are played
    again, unless the other sign of a change is due, so that this is seldom. A trial that returns more than the score
    of the kept weights, a running mean, is kept (weight perturbation: Jabri & Flower 1992; an evolution strategy of
    one parent, Rechenberg 1973). The gate closes when that score is back within the tolerance of the mean on record.

    All that is known stands in the fields, so that it is saved with a deployment; the weights are the chip's.

    Args:
        n_record: Episodes on record, played before anything is tried.
        tolerance: Share of the mean on record, in absolute value, that a return may miss and count as recovered.
        seed: Of which trials are made.
        mean: Mean return on record.
        square: Mean squared return on record.
        n_episodes: Episodes so far.
        surprise: S.
        score: Return of the kept weights, a running mean; of no meaning while the gate is closed.
        phase: What is played now: one of ``PHASES``.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> search = WeightSearch(n_record=2)
        >>> for episode_return in (100.0, 100.0, 99.0, 40.0, 40.0):
        ...     search, verdict = search.after(episode_return)
        ...     print(search.phase, search.surprise)
        recording 0.0
        quiet 0.0
        quiet 0.0
        quiet 3.0
        turned 6.0
        >>> search, verdict = search.after(20.0)  # with all signs turned: worse
        >>> verdict.back, verdict.size in SIZES
        (True, True)
    """

    n_record: int = 20
    tolerance: float = 0.05
    seed: int = 0
    mean: float = 0.0
    square: float = 0.0
    n_episodes: int = 0
    surprise: float = 0.0
    score: float = 0.0
    phase: str = RECORDING

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "WeightSearch"
        check_choice(me, "phase", self.phase, PHASES)
        set_fields(
            self,
            n_record=whole(me, "n_record", self.n_record, 2, 10**6),
            tolerance=number(me, "tolerance", self.tolerance, 0.0, 1.0),
            seed=whole(me, "seed", self.seed, 0, 2**63 - 1),
            mean=number(me, "mean", self.mean, -1e30, 1e30),
            square=number(me, "square", self.square, 0.0, 1e60),
            n_episodes=whole(me, "n_episodes", self.n_episodes, 0, 2**62),
            surprise=number(me, "surprise", self.surprise, 0.0, 1e30),
            score=number(me, "score", self.score, -1e30, 1e30),
        )

    @property
    def spread(self) -> float:
        """Standard deviation on record, at least the tolerated part of the mean."""
        deviation = math.sqrt(max(0.0, self.square - self.mean**2))
        return max(deviation, self.tolerance / 2 * abs(self.mean), 1e-6)

    @property
    def bar(self) -> float:
        """Score with which the gate closes."""
        return self.mean - self.tolerance * abs(self.mean)

    @property
    def trying(self) -> bool:
        """Whether the weights of now are a trial's."""
        return self.phase in _OF_TRIALS

    def without_trial(self) -> WeightSearch:
        """Return the search as it goes on if the trial of now is given up."""
        return replace(self, phase=JUDGING) if self.trying else self

    def after(self, episode_return: float) -> tuple[WeightSearch, Verdict]:
        """Return the search after an episode, and what is to be done with the weights before the next."""
        now = replace(self, n_episodes=self.n_episodes + 1)
        if self.phase == RECORDING:
            share = 1.0 / now.n_episodes
            mean = self.mean + share * (episode_return - self.mean)
            square = self.square + share * (episode_return**2 - self.square)
            phase = QUIET if now.n_episodes >= self.n_record else RECORDING
            return replace(now, mean=mean, square=square, phase=phase), Verdict()
        if self.phase == QUIET:
            step = min((self.mean - episode_return) / self.spread, _MOST_SURPRISE) - _SLACK
            now = replace(now, surprise=max(0.0, self.surprise + step))
            if now.surprise < _ALARM:
                return now, Verdict()
            return replace(now, score=episode_return, phase=TURNED), Verdict(turn=True)
        return self._judged(now, episode_return)

    def _judged(self, now: WeightSearch, episode_return: float) -> tuple[WeightSearch, Verdict]:
        """Return what follows an episode while the gate is open."""
        verdict = Verdict()
        if self.phase == JUDGING:
            now = replace(now, score=self.score + _FORGETS * (episode_return - self.score))
        elif episode_return > self.score:
            now, verdict = replace(now, score=episode_return), Verdict(keep=True)
        else:
            verdict = Verdict(back=True)
            if self.phase == TRYING:
                return replace(now, phase=REVERSED), verdict._replace(reverse=True)
        if now.score >= self.bar:
            return replace(now, phase=QUIET, surprise=0.0), verdict
        if now.n_episodes % _JUDGED_EVERY == 0:
            return replace(now, phase=JUDGING), verdict
        rng = np.random.default_rng([self.seed, now.n_episodes])
        if rng.random() < _TURNED_SHARE:
            return replace(now, phase=TURNED), verdict._replace(turn=True)
        return replace(now, phase=TRYING), verdict._replace(size=int(rng.choice(SIZES)))
