"""`spikeloop/LatencyPatterns-v0`: which of two classes a pattern of spike times belongs to.

Each of `n_lines` lines spikes exactly once per trial, at the time that the pattern gives. There are `n_patterns`
patterns, drawn once, and half of them belong to each class. Spike counts are the same in all trials, so only spike
times tell the class. A step is one trial, and an episode is one step: a contextual bandit.

It is the task of the tempotron (Gütig & Sompolinsky 2006), which learns about three patterns per input line with
certainty as the number of lines grows; the default is at that load.

## Action space

`Discrete(2)`: the class.

## Observation space

`Box(0, duration, (n_lines,), float32)`: when each line spikes, in ms from the beginning of the trial.

## Rewards

1 for the right class, else 0: the mean return is the share of trials with the right answer. Chance is 0.5. The reward
threshold is 0.93.

## Starting state

A pattern, all of which are equally likely.

## Episode end

Termination after one step; the last observation is that of the same trial.

## Shuffled trials

With `shuffled="lines"` the times of the pattern are dealt to the lines at random in every trial: the set of times still
says something about the class, but not which line has which time. With `shuffled="times"` new times are drawn in every
trial, and nothing can be learnt.

## Arguments

| Argument       | Default | Meaning                                                                      |
|----------------|---------|------------------------------------------------------------------------------|
| `n_patterns`   | 30      | patterns, even, half of them of each class                                   |
| `n_lines`      | 10      | lines                                                                        |
| `duration`     | 50.0    | length of a trial in ms                                                      |
| `pattern_seed` | 0       | seed of the patterns and classes, apart from the seed of the trials            |
| `shuffled`     | ""      | "", "lines" or "times"                                                       |
| `render_mode`  | None    | "rgb_array"                                                                  |

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

SHUFFLES = ("", "lines", "times")
_CELL = 4  # pixels of a line and of a millisecond in the picture


class LatencyPatterns(gym.Env[np.ndarray, np.int64]):
    """Patterns of one spike per line, in two classes; see the description of the module.

    Args:
        n_patterns: Number of patterns, even, >= 2.
        n_lines: Number of lines, >= 1.
        duration: Length of a trial in ms, > 0.
        pattern_seed: Seed of the patterns and of their classes.
        shuffled: One of ``SHUFFLES``: whether times are dealt to other lines, or drawn anew, in every trial.
        render_mode: None or ``"rgb_array"``.

    Raises:
        ValueError: If an argument is out of range.

    >>> env = LatencyPatterns(n_patterns=2, n_lines=3)
    >>> times, info = env.reset(seed=0)
    >>> times.astype(int).tolist(), info["pattern"]
    ([0, 40, 45], 1)
    >>> reward = env.step(env.classes[info["pattern"]])[1]
    >>> reward
    1.0
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 - as in Gymnasium

    def __init__(
        self,
        n_patterns: int = 30,
        n_lines: int = 10,
        duration: float = 50.0,
        pattern_seed: int = 0,
        shuffled: str = "",
        render_mode: str | None = None,
    ) -> None:
        for name, count, least in (
            ("n_patterns", n_patterns, 2),
            ("n_lines", n_lines, 1),
            ("pattern_seed", pattern_seed, 0),
        ):
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {count!r}")
        if n_patterns % 2:
            raise ValueError(f"n_patterns must be even, half of them of each class, got {n_patterns!r}")
        if not 0 < duration < math.inf:
            raise ValueError(f"duration must be a finite number of ms > 0, got {duration!r}")
        if shuffled not in SHUFFLES:
            raise ValueError(f"shuffled must be one of {SHUFFLES}, got {shuffled!r}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.n_patterns, self.n_lines, self.duration = int(n_patterns), int(n_lines), float(duration)
        self.shuffled, self.render_mode = shuffled, render_mode
        rng = np.random.default_rng(int(pattern_seed))
        self._last = np.nextafter(np.float32(self.duration), np.float32(0))  # a spike at the very end would be none
        self.patterns = self._drawn(rng, (self.n_patterns, self.n_lines))
        self.classes = rng.permutation(np.arange(self.n_patterns) % 2)
        self.observation_space = spaces.Box(0.0, self.duration, (self.n_lines,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._pattern, self._times = 0, self.patterns[0]

    def _drawn(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.minimum(rng.uniform(0.0, self.duration, shape).astype(np.float32), self._last)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return a trial; ``info["pattern"]`` is the number of its pattern."""
        super().reset(seed=seed)
        self._pattern = int(self.np_random.integers(self.n_patterns))
        self._times = self.patterns[self._pattern]
        if self.shuffled == "lines":
            self._times = self.np_random.permutation(self._times)
        elif self.shuffled == "times":
            self._times = self._drawn(self.np_random, (self.n_lines,))
        return self._times.copy(), {"pattern": self._pattern}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Name a class, which ends the episode."""
        reward = float(int(action) == self.classes[self._pattern])
        return self._times.copy(), reward, True, False, {"pattern": self._pattern}

    def render(self) -> np.ndarray | None:
        """Return the trial's raster, shape (H, W, 3), uint8: time to the right, in its class's colour."""
        if self.render_mode is None:
            return None
        raster = np.full((self.n_lines, math.ceil(self.duration), 3), 40, np.uint8)
        colour = ((40, 160, 60), (200, 40, 40))[self.classes[self._pattern]]
        raster[np.arange(self.n_lines), self._times.astype(int)] = colour
        return raster.repeat(_CELL, axis=0).repeat(_CELL, axis=1)


register(
    id="spikeloop/LatencyPatterns-v0",
    entry_point="spikeloop.envs.latency_patterns:LatencyPatterns",
    reward_threshold=0.93,
)
