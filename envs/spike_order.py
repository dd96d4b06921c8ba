"""`spikeloop/SpikeOrder-v0`: two volleys of spikes; turn to the side of the group that fired first.

Each of `2 * n_lines` lines fires exactly one spike per trial. The lines of one group fire together, those of the other
a few milliseconds later, and only that order tells which turn is right: counts of spikes are the same in all trials.
Learners that know only rates are left with chance.

A step is one trial, and an episode one step: a contextual bandit. With `n_junctions` > 1 it is a corridor of trials
where a wrong turn ends the episode and the only reward stands behind the last junction.

## Action space

`Discrete(2)`

| Action | Meaning                       |
|--------|-------------------------------|
| 0      | left: group A came first      |
| 1      | right: group B came first     |

## Observation space

`Box(0, duration, shape, float32)`: when each line spikes, in ms from the beginning of the trial; `duration` for a line
that does not

| Lines                                  | Spike                                                            |
|----------------------------------------|------------------------------------------------------------------|
| `n_lines` of group A, `n_lines` of B   | once in every trial                                              |
| one per junction, if `n_junctions` > 1 | in the last ms of the trial at that junction, whatever the order |
| one that says "go", if `hard`          | together with the last spike of both groups                      |

The first volley comes at a time drawn uniformly from a span of `onset` ms, the second after a delay drawn uniformly
from `delay`; each spike then moves by normal noise with standard deviation `jitter`. Whoever knows one spike of each
group is right in 99.99 % of the trials. Whoever knows one group alone, or a single line, is right in a share of at most
0.5 + (mean delay) / (2 onset), 0.531 by default: what comes late is a little more often the second volley. While events
follow one another within a given time, that cannot be 0.5 exactly; a longer `onset` brings it nearer.

## The hard version

Without further rules, the order can be told by a race: the first volley excites the neurons of its side, and these keep
the others down. With `hard=True` spikes from before "go" are no answer. A neuron then has to compare a volley with one
that has passed, which takes synapses or axons of different delays. An environment sees actions alone, so that it is the
policy that has to leave earlier spikes out; `spikeloop.agents.RSTDP` does so with `policy_kwargs={"go_line": True}`.

## Rewards

1 for the right turn at the last junction, 0 for everything else: the mean return is the share of episodes solved.
Chance is 0.5 to the power of `n_junctions`. The reward threshold is 0.95.

## Starting state

The first trial, in which both groups come first with equal probabilities.

## Episode end

Termination with the first wrong turn, or the right one at the last junction.

## Arguments

| Argument      | Default     | Meaning                                            |
|---------------|-------------|----------------------------------------------------|
| `n_lines`     | 10          | lines in each group                                |
| `n_junctions` | 1           | trials in a row, each with a turn                  |
| `hard`        | False       | an answer is due after the last spike              |
| `duration`    | 250.0       | length of a trial in ms                            |
| `onset`       | 200.0       | span in ms from which the first volley is drawn    |
| `delay`       | (5.0, 20.0) | range in ms from which the second one's is drawn   |
| `jitter`      | 1.0         | standard deviation of a single spike in ms         |
| `render_mode` | None        | "rgb_array"                                        |

## Version history

* v0: First version.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import register

_MARGIN = 4.0  # standard deviations of the jitter that a volley keeps from both ends of the trial
_CELL = 4  # pixels of a line and of a millisecond in the picture


class SpikeOrder(gym.Env[np.ndarray, np.int64]):
    """Two volleys, one after the other; see the description of the module.

    Args:
        n_lines: Lines in each group, >= 1.
        n_junctions: Trials of an episode in which every turn is right, >= 1.
        hard: Whether there is a line that says when an answer is due.
        duration: Length of a trial in ms.
        onset: Span in ms from which the time of the first volley is drawn, >= 0.
        delay: Range in ms from which the time from the first volley to the second is drawn, > 0.
        jitter: Standard deviation of the noise of each spike in ms, >= 0.
        render_mode: None or ``"rgb_array"``.

    Raises:
        ValueError: If an argument is out of range, or the volleys do not fit into the trial.

    >>> env = SpikeOrder(n_lines=2)
    >>> times, info = env.reset(seed=3)
    >>> times.astype(int).tolist(), info["first"]
    ([67, 67, 51, 49], 1)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 - as in Gymnasium

    def __init__(
        self,
        n_lines: int = 10,
        n_junctions: int = 1,
        hard: bool = False,
        duration: float = 250.0,
        onset: float = 200.0,
        delay: tuple[float, float] = (5.0, 20.0),
        jitter: float = 1.0,
        render_mode: str | None = None,
    ) -> None:
        for name, count in (("n_lines", n_lines), ("n_junctions", n_junctions)):
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {count!r}")
        if not isinstance(hard, (bool, np.bool_)):
            raise ValueError(f"hard must be True or False, got {hard!r}")
        for name, ms in (("duration", duration), ("onset", onset), ("jitter", jitter)):
            if not 0 <= ms < math.inf:
                raise ValueError(f"{name} must be a finite number of ms >= 0, got {ms!r}")
        if len(delay) != 2 or not 0 < delay[0] <= delay[1] < math.inf:
            raise ValueError(f"delay must be two numbers of ms, 0 < shortest <= longest, got {delay!r}")
        needed = onset + delay[1] + 2 * _MARGIN * jitter
        if not needed + 1.0 <= duration:  # the last ms is that of the junctions' lines
            raise ValueError(f"duration must be at least {needed + 1.0:g} ms for both volleys to fit, got {duration!r}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.n_lines, self.n_junctions, self.hard = int(n_lines), int(n_junctions), bool(hard)
        self.duration, self.onset, self.jitter = float(duration), float(onset), float(jitter)
        self.delay = (float(delay[0]), float(delay[1]))
        self.render_mode = render_mode
        n_all = 2 * self.n_lines + (self.n_junctions if self.n_junctions > 1 else 0) + self.hard
        self.observation_space = spaces.Box(0.0, self.duration, (n_all,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._silence = np.full(n_all, self.duration, np.float32)
        self._times, self._first, self._junction = self._silence, 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode and return the first trial; ``info["first"]`` is the group that came first, 0 or 1."""
        super().reset(seed=seed)
        self._junction = 0
        self._draw_trial()
        return self._times.copy(), {"first": self._first}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Turn, and come to the next trial; after the last turn all lines are silent."""
        right = int(action) == self._first
        self._junction += 1
        if right and self._junction < self.n_junctions:
            self._draw_trial()
            return self._times.copy(), 0.0, False, False, {"first": self._first}
        self._times = self._silence
        return self._times.copy(), float(right), True, False, {"first": self._first}

    def _draw_trial(self) -> None:
        rng, n = self.np_random, self.n_lines
        self._first = int(rng.integers(2))
        volleys = np.full(2, _MARGIN * self.jitter + rng.uniform(0.0, self.onset))  # of group A and group B
        volleys[1 - self._first] += rng.uniform(*self.delay)
        spikes = volleys.repeat(n) + self.jitter * rng.standard_normal(2 * n)
        self._times = self._silence.copy()
        # one spike in 30,000 lies beyond a margin; it stays a spike of this trial, so that counts say nothing
        self._times[: 2 * n] = spikes.clip(0.0, np.nextafter(np.float32(self.duration), np.float32(0)))
        if self.n_junctions > 1:
            self._times[2 * n + self._junction] = self.duration - 1.0
        if self.hard:
            self._times[-1] = self._times[: 2 * n].max()

    def render(self) -> np.ndarray | None:
        """Return the trial's raster, shape (H, W, 3), uint8: lines downwards, time to the right, A green and B red."""
        if self.render_mode is None:
            return None
        n = self.n_lines
        raster = np.full((len(self._times), math.ceil(self.duration), 3), 40, np.uint8)
        colors = np.full((len(self._times), 3), 220, np.uint8)  # of the lines that are in no group
        colors[:n], colors[n : 2 * n] = (40, 160, 60), (200, 40, 40)
        (spiking,) = np.nonzero(self._times < self.duration)
        raster[spiking, self._times[spiking].astype(int)] = colors[spiking]
        return raster.repeat(_CELL, axis=0).repeat(_CELL, axis=1)


register(id="spikeloop/SpikeOrder-v0", entry_point="spikeloop.envs.spike_order:SpikeOrder", reward_threshold=0.95)
