"""When a deployed policy begins to try something else, and what of it is kept: judged by the returns of episodes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.fields import check_choice, flag, number, set_fields, whole
from spikeloop.spiking.observation import MAX_OBS

SIZES = (5, 6, 7, 8)  # bits of the tags that are drawn for a trial
RECORDING, QUIET, JUDGING, COMPARING, TRYING, REVERSED, REPEATED, TURNED, MODELLED = PHASES = (
    "recording",
    "quiet",
    "judging",
    "comparing",
    "trying",
    "reversed",
    "repeated",
    "turned",
    "modelled",
)
_OF_TRIALS = (TRYING, REVERSED, REPEATED, TURNED, MODELLED)
_MOST_SURPRISE = 4.0  # of one episode, so that a single bad one starts nothing
_SLACK, _ALARM = 1.0, 6.0  # of the cumulative sum, in units of the spread
_JUDGED_FIRST = 2  # episodes of the kept policy, before anything is compared with it
_JUDGED_EVERY = 5  # episodes; the others are trials
_RACE, _LONGEST_RACE = 3, 5  # episodes of a trial that is kept
_SCATTER_OF = 16  # distances whose mean the scatter is; of more, the last ones count most
_SURE = 2.0  # differences of means that count, in units of their scatter
_REMEMBERED = 8  # episodes whose mean a score is; of more, the last ones count most
_WEIGHTS_EVERY = 5  # choices; the others are of sensors, where there are any
_TURNED_SHARE = 0.1  # of the choices of weights
_GAINS_SHARE = 0.5  # share of the trials of sensors that change all gains and no offset
_SHIFTED_SHARE, _SHIFT = 0.25, 1.0  # share of offsets and gains that other trials change; sd of every change


class Verdict(NamedTuple):
    """What the host does between two episodes with weights and sensors, in this order.

    Args:
        keep: Whether the policy that has been played is the kept policy from now on.
        restore: Whether the deployed policy is the kept policy from now on.
        back: Whether the kept policy is written back.
        first: Whether what was deployed is played next.
        size: Bits of the tags to draw for a trial of other weights; 0: none.
        reverse: Whether the tags drawn last are tried with the other sign.
        turn: Whether all weights change their sign.
        shift: What is added to the offset of each sensor, then to the logarithm of each gain; empty: nothing.
        modelled: Whether the host looks in a model of the body for other sensors, with the signs of all weights as they
            are or turned, and tries what is best there; or ``shift`` if nothing is better than what is kept.
    """

    keep: bool = False
    restore: bool = False
    back: bool = False
    first: bool = False
    size: int = 0
    reverse: bool = False
    turn: bool = False
    shift: tuple[float, ...] = ()
    modelled: bool = False


@dataclass(frozen=True)
class WeightSearch:
    """Keeps a policy as it is while its returns are those on record; else tries other sensors and weights, in races.

    The gate is a cumulative sum over episodes with return R (CUSUM, Page 1954)::

        S <- max(0, S + min((mean - R) / spread, 4) - 1)        opens where S >= 6

    While it is open, the kept policy is first judged by two more episodes, as those that opened the gate were bad by
    selection. Then trials begin. In the first all weights change their sign, as a body whose actions have turned round
    needs; on any other body, other actions are seen in it. After that, four of five trials change offsets and gains of
    sensors, which the host applies before it encodes. They are what does best in a model of the body
    (:class:`~spikeloop.hardware.body_model.BodyModel`), with the signs of all weights as they are or turned. Where the
    host can fit no model, or finds nothing better in it than what is kept, they are drawn: half of them change all
    gains and no offset, as a body that moves differently needs; the others change some of both. The fifth trial draws a
    change of all weights. A drawn change that fails is tried with the other sign, and a drawn change of sensors that
    wins is made once more (random search: Rechenberg 1973; Jabri & Flower 1992).

    A trial races against the kept policy (racing: Maron & Moore 1994). It ends with the first episode after which its
    mean return is not above the kept policy's score. It becomes the kept policy after three to five episodes, once its
    mean is better by more than returns scatter, or within the tolerance of the mean on record. What was found in a
    model has done well in many imagined episodes: before the third episode it ends only where it is worse by more than
    returns scatter. One episode in five
    plays the kept policy and updates its score. The deployed policy stays in the comparison: it is played again while
    the two scores cannot be told apart, and it is taken back once its score is higher. The gate closes when the kept
    policy's score, of eight episodes, is back within the tolerance of the mean on record.

    All that is known of returns stands in the fields, so that it is saved with a deployment. The weights are the
    chip's; what has been seen of the body is the policy's, and not saved.

    Args:
        n_record: Episodes on record, played before anything is tried.
        tolerance: Share of the mean on record, in absolute value, that a return may miss and count as recovered.
        seed: Of which trials are made.
        n_sensors: Numbers observed, each with an offset and a gain; 0: only weights are tried. None: as many as
            :meth:`~spikeloop.hardware.deployment.Deployment.taught` finds.
        mean: Mean return on record.
        square: Mean squared return on record.
        n_episodes: Episodes so far.
        surprise: S.
        score: Mean return of the kept policy, since the gate opened.
        n_score: Episodes of that mean, at most eight.
        first: Mean return of what was deployed, since the gate opened.
        n_first: Episodes of that mean, at most eight.
        changed: Whether something else than what was deployed is kept.
        scatter: Mean distance of returns from the mean of those of the same weights and sensors before them.
        n_scatter: Episodes of that mean, at most 16.
        trial: Mean return of the trial of now.
        n_trial: Episodes of that mean.
        choice: Trials chosen so far, their repetitions apart.
        sign: Of the shift of sensors that was drawn and is tried; 0 for all other trials.
        phase: What is played now: one of ``PHASES``.
        modelled: Whether the host could fit a model of the body after the latest episode.
        model: Whether trials of sensors are looked for in a model of the body, where one can be fitted.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> search = WeightSearch(n_record=2)
        >>> for episode_return in (100.0, 100.0, 99.0, 40.0, 40.0, 41.0, 39.0):
        ...     search, verdict = search.after(episode_return)
        ...     print(search.phase, search.surprise, search.score)
        recording 0.0 0.0
        quiet 0.0 0.0
        quiet 0.0 0.0
        quiet 3.0 0.0
        judging 6.0 0.0
        judging 6.0 41.0
        turned 6.0 40.0
        >>> search, verdict = search.after(20.0)  # with all signs turned: worse, so what is kept is put back
        >>> verdict.back, search.trying  # and another trial follows
        (True, True)
    """

    n_record: int = 20
    tolerance: float = 0.05
    seed: int = 0
    n_sensors: int | None = None
    mean: float = 0.0
    square: float = 0.0
    n_episodes: int = 0
    surprise: float = 0.0
    score: float = 0.0
    n_score: int = 0
    first: float = 0.0
    n_first: int = 0
    changed: bool = False
    scatter: float = 0.0
    n_scatter: int = 0
    trial: float = 0.0
    n_trial: int = 0
    choice: int = 0
    sign: int = 0
    phase: str = RECORDING
    modelled: bool = False
    model: bool = True

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "WeightSearch"
        check_choice(me, "phase", self.phase, PHASES)
        counts, returns = (
            ("n_episodes", "n_score", "n_first", "n_trial", "n_scatter", "choice"),
            ("mean", "score", "first", "trial"),
        )
        set_fields(
            self,
            n_record=whole(me, "n_record", self.n_record, 2, 10**6),
            tolerance=number(me, "tolerance", self.tolerance, 0.0, 1.0),
            seed=whole(me, "seed", self.seed, 0, 2**63 - 1),
            n_sensors=None if self.n_sensors is None else whole(me, "n_sensors", self.n_sensors, 0, MAX_OBS),
            square=number(me, "square", self.square, 0.0, 1e60),
            surprise=number(me, "surprise", self.surprise, 0.0, 1e30),
            scatter=number(me, "scatter", self.scatter, 0.0, 1e31),
            changed=flag(me, "changed", self.changed),
            model=flag(me, "model", self.model),
            modelled=flag(me, "modelled", self.modelled),
            sign=whole(me, "sign", self.sign, -1, 1),
            **{name: whole(me, name, getattr(self, name), 0, 2**62) for name in counts},
            **{name: number(me, name, getattr(self, name), -1e30, 1e30) for name in returns},
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
        """Whether what is played now is a trial."""
        return self.phase in _OF_TRIALS

    @property
    def opened(self) -> bool:
        """Whether the gate is open."""
        return self.phase not in (RECORDING, QUIET)

    @property
    def calm(self) -> bool:
        """Whether nothing surprises: returns are recorded, or are those on record."""
        return not self.opened and self.surprise == 0

    def of_kept(self) -> WeightSearch:
        """Return the search as it goes on with the kept policy in place of the deployed one, without a trial."""
        phase = JUDGING if self.opened else self.phase
        return replace(
            self, phase=phase, modelled=False, changed=False, first=self.score, n_first=self.n_score, n_trial=0
        )

    def after(self, episode_return: float, modelled: bool = False) -> tuple[WeightSearch, Verdict]:
        """Return the search after an episode, and what is to be done before the next.

        Args:
            episode_return: Sum of the rewards.
            modelled: Whether the host can fit a model of the body to what has been observed.
        """
        now = replace(self, n_episodes=self.n_episodes + 1, modelled=modelled and self.model)
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
            return replace(now, n_score=0, n_first=0, n_scatter=0, phase=JUDGING), Verdict()
        if self.trying:
            return now._raced(episode_return)
        return now._judged(episode_return)

    def _judged(self, episode_return: float) -> tuple[WeightSearch, Verdict]:
        """Return what follows an episode of the kept policy, or of the deployed one."""
        of_first = self.phase == COMPARING
        score, n = (self.first, self.n_first) if of_first else (self.score, self.n_score)
        missed, n = episode_return - score, min(n + 1, _REMEMBERED)
        score = episode_return if n == 1 else score + missed / n
        now = replace(self, first=score, n_first=n) if of_first else replace(self, score=score, n_score=n)
        if n > 1:
            now = now._scattered(missed)
        if not now.changed:
            return replace(now, first=now.score, n_first=now.n_score)._next(Verdict())
        if now.n_first and now.first > now.score:
            return replace(now, score=now.first, n_score=now.n_first, changed=False)._next(Verdict(restore=True))
        return now._next(Verdict(back=of_first))

    def _raced(self, episode_return: float) -> tuple[WeightSearch, Verdict]:
        """Return what follows an episode of a trial."""
        n = self.n_trial + 1
        now = replace(
            self, trial=episode_return if n == 1 else self.trial + (episode_return - self.trial) / n, n_trial=n
        )
        lost = now.trial <= now.score
        won = self._sure(now.trial, n) or now.trial >= now.bar
        if self.phase == MODELLED:  # many imagined episodes speak for it, so one bad one does not end it
            lost = lost and (n >= _RACE or self._sure(now.trial, n))
        if lost or (n >= _LONGEST_RACE and not won):
            now = replace(now, n_trial=0)
            if self.phase == TRYING:
                return replace(now, sign=-now.sign, phase=REVERSED)._played(Verdict(back=True))
            return now._next(Verdict(back=True))
        if n < _RACE or not won:
            return now, Verdict()
        now = replace(now, score=now.trial, n_score=n, n_trial=0, changed=True)
        return now._next(Verdict(keep=True), repeat=self.phase != TURNED and self.sign != 0)

    def _next(self, verdict: Verdict, repeat: bool = False) -> tuple[WeightSearch, Verdict]:
        """Return what is played next, beside what is done with what has been played."""
        if self.changed and self.n_first < self.n_score and not (self.n_first and self._sure(self.first, self.n_first)):
            return replace(self, phase=COMPARING), verdict._replace(first=True)
        recovered = self.score >= self.bar
        if recovered and self.n_score >= _REMEMBERED:
            return replace(self, phase=QUIET, surprise=0.0), verdict
        if recovered or self.n_score < _JUDGED_FIRST:
            return replace(self, phase=JUDGING), verdict
        if repeat:
            return replace(self, phase=REPEATED)._played(verdict)
        if self.n_episodes % _JUDGED_EVERY == 0:
            return replace(self, phase=JUDGING), verdict
        now = replace(self, choice=self.choice + 1, sign=0, phase=TRYING)
        if self.choice == 0:
            now = replace(now, phase=TURNED)
        elif self.n_sensors and self.choice % _WEIGHTS_EVERY:
            now = replace(now, phase=MODELLED) if self.modelled else replace(now, sign=1)
        elif now._rng().random() < _TURNED_SHARE:
            now = replace(now, phase=TURNED)
        return now._played(verdict)

    def _played(self, verdict: Verdict) -> tuple[WeightSearch, Verdict]:
        """Return the search, and the trial that it has chosen beside what is done with what has been played."""
        if self.phase == TURNED:
            return self, verdict._replace(turn=True)
        if self.phase == MODELLED:
            return self, verdict._replace(modelled=True, shift=tuple(self._direction().tolist()))
        if self.sign:
            return self, verdict._replace(shift=tuple((self.sign * self._direction()).tolist()))
        if self.phase == REVERSED:
            return self, verdict._replace(reverse=True)
        return self, verdict._replace(size=int(self._rng().choice(SIZES)))

    def _scattered(self, missed: float) -> WeightSearch:
        """Return the search with one more distance of a return from the mean of those before it."""
        n = min(self.n_scatter + 1, _SCATTER_OF)
        return replace(self, scatter=self.scatter + (abs(missed) - self.scatter) / n, n_scatter=n)

    def _sure(self, mean: float, n: int) -> bool:
        """Return whether the score of the kept policy differs from the mean of n returns by more than their scatter."""
        error = self.scatter * math.sqrt(1 / max(n, 1) + 1 / max(self.n_score, 1))
        return abs(mean - self.score) >= _SURE * error

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.choice])

    def _direction(self) -> np.ndarray:
        """Return the shift of sensors that was chosen last, shape (2 n_sensors,)."""
        rng, n = self._rng(), self.n_sensors or 0
        if rng.random() < _GAINS_SHARE:  # as a body that moves differently needs
            shifted = np.arange(2 * n) >= n
        else:
            shifted = rng.random(2 * n) < _SHIFTED_SHARE
            shifted[rng.integers(2 * n)] = True
        return _SHIFT * shifted * rng.standard_normal(2 * n)
