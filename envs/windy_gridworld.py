"""`spikeloop/WindyGridworld-v0`: walk across a grid against a wind, example 6.5 of Sutton & Barto (2018).

The task of Rosenfeld, Simeone & Rajendran (2019), who train first-to-spike policies in it.

## Action space

`Discrete(4)`: up, down, left, right. A step off the grid leads to its edge.

## Observation space

`Discrete(70)`: the cell, row times 10 plus column, of 7 rows from the top and 10 columns.

| Column               | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |
|----------------------|---|---|---|---|---|---|---|---|---|---|
| Wind, in cells up    | 0 | 0 | 0 | 1 | 1 | 1 | 2 | 2 | 1 | 0 |

The wind of the column that a step leaves moves it up as well.

## Rewards

-1 for each step. The shortest way takes 15 steps, a return of -15.

## Starting state

Row 3, column 0.

## Episode end

Termination at row 3, column 7; truncation after 500 steps.

## Arguments

| Argument      | Default | Meaning     |
|---------------|---------|-------------|
| `render_mode` | None    | "rgb_array" |

## Version history

* v0: First version.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import register
from gymnasium.envs.toy_text.utils import categorical_sample

WIND = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)
N_ROWS, N_COLUMNS = 7, len(WIND)
START, GOAL = 3 * N_COLUMNS, 3 * N_COLUMNS + 7
_CELL = 24  # pixels
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


def _after(cell: int, action: int) -> int:
    row, column = divmod(cell, N_COLUMNS)
    down, right = _MOVES[action]
    row = min(max(row + down - WIND[column], 0), N_ROWS - 1)
    return row * N_COLUMNS + min(max(column + right, 0), N_COLUMNS - 1)


class WindyGridworld(gym.Env[np.int64, np.int64]):
    """A grid with wind; see the description of the module.

    Args:
        render_mode: None or ``"rgb_array"``.

    It is a toy text of Gymnasium's kind: ``P[cell][action]`` lists what may follow, ``s`` is the cell.

    >>> env = WindyGridworld()
    >>> cell, _ = env.reset(seed=0)
    >>> for action in [3] * 9 + [1] * 4 + [2] * 2:  # right, then down in still air, then left: the wind lifts
    ...     cell, reward, terminated, truncated, _ = env.step(action)
    >>> int(cell) == GOAL, reward, terminated
    (True, -1.0, True)
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012  Gymnasium's attribute

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space, self.action_space = spaces.Discrete(N_ROWS * N_COLUMNS), spaces.Discrete(len(_MOVES))
        self.P = {
            cell: {action: [(1.0, after := _after(cell, action), -1.0, after == GOAL)] for action in range(len(_MOVES))}
            for cell in range(N_ROWS * N_COLUMNS)
        }
        self.s = START

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.int64, dict]:
        """Return to the start."""
        super().reset(seed=seed)
        self.s = START
        return np.int64(self.s), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict]:
        """Move by the action and the wind."""
        outcomes = self.P[self.s][int(action)]
        _, self.s, reward, terminated = outcomes[categorical_sample([p for p, *_ in outcomes], self.np_random)]
        return np.int64(self.s), reward, terminated, False, {}

    def render(self) -> np.ndarray | None:
        """Return a picture: the darker a column, the stronger its wind; the goal is green, the walker red."""
        if self.render_mode is None:
            return None
        grid = np.repeat((255 - 40 * np.array([WIND] * N_ROWS))[..., None], 3, axis=2).astype(np.uint8)
        for cell, colour in ((GOAL, (0, 160, 0)), (self.s, (200, 0, 0))):
            grid[divmod(cell, N_COLUMNS)] = colour
        return grid.repeat(_CELL, axis=0).repeat(_CELL, axis=1)


register("spikeloop/WindyGridworld-v0", "spikeloop.envs.windy_gridworld:WindyGridworld", max_episode_steps=500)
