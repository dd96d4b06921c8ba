"""Catch on images of 36 x 36 pixels, the smallest that Stable-Baselines3's NatureCNN takes: so it can be converted.

A ball falls through 12 rows, from a random column of 12; a paddle of the last row moves left, stays or moves right. The
reward is 1 if the paddle meets the ball and -1 if not (after bsuite's catch, which has 10 x 5 pixels).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

ID = "spikeloop-bench/Catch-v0"
_SIZE, _SCALE = 12, 3


class Catch(gym.Env):
    """The task."""

    observation_space = gym.spaces.Box(0, 255, (_SIZE * _SCALE, _SIZE * _SCALE, 1), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Let a ball begin to fall."""
        super().reset(seed=seed)
        self._row, self._column, self._paddle = 0, int(self.np_random.integers(_SIZE)), _SIZE // 2
        return self._image(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move the paddle, and let the ball fall by a row."""
        self._paddle = int(np.clip(self._paddle + int(action) - 1, 0, _SIZE - 1))
        self._row += 1
        done = self._row == _SIZE - 1
        reward = 0.0 if not done else 1.0 if self._paddle == self._column else -1.0
        return self._image(), reward, done, False, {}

    def _image(self) -> np.ndarray:
        grid = np.zeros((_SIZE, _SIZE), np.uint8)
        grid[self._row, self._column] = grid[_SIZE - 1, self._paddle] = 255
        return np.kron(grid, np.ones((_SCALE, _SCALE), np.uint8))[:, :, None]


if ID not in gym.registry:
    gym.register(ID, "spikeloop.scripts.bench.catch:Catch")
