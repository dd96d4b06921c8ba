"""`spikeloop/TMaze-v0`: remember on which side a noisy cue was shown, and turn that way at the end of the corridor.

`spikeloop/TMaze50-v0`, `TMaze100-v0` and `TMaze200-v0` are the same with longer corridors.

The agent walks down a corridor by itself. On its first steps a cue lies to its left or right; then there is nothing but
noise; at the junction it has to turn to where the cue was. What it observes are the spikes of three groups of sensory
neurons, drawn anew on every step, so that no state of a network that only echoes its input outlasts the delay.

## Action space

`Discrete(2)`

| Action | Meaning    |
|--------|------------|
| 0      | turn left  |
| 1      | turn right |

Before the junction the action does nothing.

## Observation space

`Box(0, 1, shape=(3 * n_neurons,), float32)`: 0 or 1 for each sensory neuron

| Index                          | Spikes with probability `p_cue`, else `p_background` |
|--------------------------------|------------------------------------------------------|
| 0 to n_neurons - 1             | while the cue is shown, if it is on the left         |
| n_neurons to 2 n_neurons - 1   | while the cue is shown, if it is on the right        |
| 2 n_neurons to 3 n_neurons - 1 | at the junction                                      |

## Rewards

1 for the right turn at the junction, 0 for the wrong one and for every step before: the mean return is the share of
episodes solved. Without memory it is 0.5. The reward threshold is 0.95.

## Starting state

The side of the cue is drawn with equal probabilities.

## Episode end

Termination after the step at the junction: `cue_steps` steps with the cue, `delay` without, one at the junction.

## Arguments

| Argument       | Default | Meaning                                          |
|----------------|---------|--------------------------------------------------|
| `cue_steps`    | 5       | steps on which the cue is shown                  |
| `delay`        | 20      | steps between cue and junction; 50, 100 and 200  |
|                |         | in TMaze50-v0, TMaze100-v0 and TMaze200-v0       |
| `n_neurons`    | 20      | sensory neurons in each group                    |
| `p_cue`        | 0.8     | probability of a spike in a group that is driven |
| `p_background` | 0.01    | probability of a spike otherwise                 |
| `render_mode`  | None    | "rgb_array"                                      |

With `p_cue=1, p_background=0` the task is no test of memory: every cue then starts one fixed sequence of states, which
any recurrent network can tell apart.

## Version history

* v0: First version.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import register

GROUPS = 3  # cue on the left, cue on the right, junction
_CELL = 8  # pixels of a step in the picture


class TMaze(gym.Env[np.ndarray, np.int64]):
    """The T-maze; see the description of the module.

    Args:
        cue_steps: Steps on which the cue is shown, >= 1.
        delay: Steps between cue and junction, >= 0.
        n_neurons: Sensory neurons in each group, >= 1.
        p_cue: Probability of a spike per step in a group that is driven.
        p_background: Probability of a spike otherwise.
        render_mode: None or ``"rgb_array"``.

    Raises:
        ValueError: If an argument is out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - as in Gymnasium

    def __init__(
        self,
        cue_steps: int = 5,
        delay: int = 20,
        n_neurons: int = 20,
        p_cue: float = 0.8,
        p_background: float = 0.01,
        render_mode: str | None = None,
    ) -> None:
        for name, value, low in (("cue_steps", cue_steps, 1), ("delay", delay, 0), ("n_neurons", n_neurons, 1)):
            if not isinstance(value, (int, np.integer)) or value < low:
                raise ValueError(f"{name} must be a whole number >= {low}, got {value!r}")
        for name, p in (("p_cue", p_cue), ("p_background", p_background)):
            if not 0 <= p <= 1:
                raise ValueError(f"{name} must lie within [0, 1], got {p!r}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.cue_steps, self.delay, self.n_neurons = int(cue_steps), int(delay), int(n_neurons)
        self.p_cue, self.p_background, self.render_mode = p_cue, p_background, render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (GROUPS * self.n_neurons,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._side, self._step = 0, 0
        self._observations = np.zeros((self.n_steps, GROUPS * self.n_neurons), np.float32)
        self._rewards = np.zeros((self.n_steps, 2), np.float32)

    @property
    def n_steps(self) -> int:
        """Steps of an episode."""
        return self.cue_steps + self.delay + 1

    def draw_episodes(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw whole episodes, the same ones in the same order as ``n`` resets would.

        What is observed does not depend on the actions, so a learner may have the episodes at once.

        Args:
            rng: Source of randomness.
            n: Number of episodes.

        Returns:
            Observations, float32, shape (n, n_steps, 3 * n_neurons), and the rewards of both actions on each step,
            float32, shape (n, n_steps, 2).
        """
        observations = np.empty((n, *self._observations.shape), np.float32)
        rewards = np.zeros((n, self.n_steps, 2), np.float32)
        for episode in range(n):
            side = int(rng.integers(2))
            p = np.full(self._observations.shape, self.p_background)
            p[: self.cue_steps, side * self.n_neurons : (side + 1) * self.n_neurons] = self.p_cue
            p[-1, 2 * self.n_neurons :] = self.p_cue
            observations[episode] = rng.random(p.shape) < p
            rewards[episode, -1, side] = 1.0
        return observations, rewards

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode and return the first observation; ``info["side"]`` tells where the cue is."""
        super().reset(seed=seed)
        observations, rewards = self.draw_episodes(self.np_random, 1)
        self._observations, self._rewards = observations[0], rewards[0]
        self._side, self._step = int(rewards[0, -1].argmax()), 0
        return self._observations[0].copy(), {"side": self._side}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Walk on, or turn at the junction; after the turn all sensory neurons are silent."""
        if not self.action_space.contains(int(action)):
            raise ValueError(f"an action must be 0 or 1, got {action}")
        reward, info = float(self._rewards[self._step, int(action)]), {"side": self._side}
        self._step += 1
        if self._step < self.n_steps:
            return self._observations[self._step].copy(), reward, False, False, info
        return np.zeros(self._observations.shape[1], np.float32), reward, True, False, info

    def render(self) -> np.ndarray | None:
        """Return a picture of the maze from above with cue (green) and agent (red), shape (H, W, 3), uint8."""
        if self.render_mode is None:
            return None
        maze = np.full((7, self.n_steps + 2, 3), 40, np.uint8)
        maze[3, 1:] = 220  # the corridor,
        maze[1:6, self.n_steps] = 220  # the junction
        maze[3, self.n_steps + 1] = 40
        maze[2 if self._side == 0 else 4, 1 : self.cue_steps + 1] = (40, 160, 60)
        maze[3, min(self._step, self.n_steps - 1) + 1] = (200, 40, 40)
        return maze.repeat(_CELL, axis=0).repeat(_CELL, axis=1)


register(id="spikeloop/TMaze-v0", entry_point="spikeloop.envs.tmaze:TMaze", reward_threshold=0.95)
for _delay in (50, 100, 200):  # ids of their own, as presets are found by the id
    register(
        id=f"spikeloop/TMaze{_delay}-v0",
        entry_point="spikeloop.envs.tmaze:TMaze",
        kwargs={"delay": _delay},
        reward_threshold=0.95,
    )
