"""`spikeloop/RepeatFirst-v0` and `spikeloop/RepeatPrevious-v0`: name the suit of a card that was dealt before.

Cards are dealt one by one from a shuffled deck, and on every step the agent names a suit. In RepeatFirst it is that of
the first card, to be kept to the end of the episode whatever else is dealt; in RepeatPrevious that of the card dealt
`k - 1` steps ago, so that every card has to be remembered for a while and then forgotten.

The tasks are those of POPGym 1.0.7 (Morad et al. 2023, "POPGym: Benchmarking Partially Observable Reinforcement
Learning"), written anew: RepeatFirst-v0 is its RepeatFirstEasy, RepeatPrevious-v0 its RepeatPreviousEasy. A seed deals
the same cards, actions are paid the same rewards, and the episode ends on the same step. What differs:

* A suit is shown as four numbers, where POPGym has `Discrete(4)`.
* The first card is marked. POPGym's paper and docstring say so of RepeatFirst; its code leaves that to the wrapper
  `Antialias`, which marks the first step of any task.
* After the last step nothing is shown, where POPGym shows one card more. Nothing depends on it.

POPGym's docstring counts the card just dealt as `k = 0`, its code as `k = 1`; here it is as in the code.

## Action space

`Discrete(4)`: spades, diamonds, clubs, hearts

## Observation space

`Box(0, 1, shape=(5,), float32)`

| Index  | Is 1                                            |
|--------|-------------------------------------------------|
| 0 to 3 | for the suit of the card just dealt, else 0     |
| 4      | with the first card of an episode, else 0       |

## Rewards

1 / n for the right suit and -1 / n for a wrong one, where n counts the steps that pay: returns lie between -1 and 1,
and a guess gets -0.5. RepeatPrevious pays nothing on its first `k - 1` steps.

## Starting state

The deck is shuffled and one card dealt.

## Episode end

Termination with the last card, after `52 * n_decks - 1` steps.

## Arguments

| Argument      | Default                             | Meaning                                         |
|---------------|-------------------------------------|-------------------------------------------------|
| `k`           | None, 4 in RepeatPrevious-v0        | which card back, 1 for the one just dealt;      |
|               |                                     | None for the first one                          |
| `n_decks`     | 1                                   | decks of 52 cards that are shuffled together    |
| `render_mode` | None                                | "rgb_array"                                     |

POPGym's other sizes are RepeatFirst with `n_decks` 8 and 16, RepeatPrevious with `n_decks=2, k=32` and with
`n_decks=3, k=64`.

## Version history

* v0: First version.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import register

SUITS = 4
_DECK = 52
_CELL = 8  # pixels of a card in the picture


class Repeat(gym.Env[np.ndarray, np.int64]):
    """RepeatFirst and RepeatPrevious; see the description of the module.

    Args:
        k: Which card's suit is asked for: the k-th last, 1 for the one just dealt; the first one if None.
        n_decks: Decks of 52 cards, >= 1.
        render_mode: None or ``"rgb_array"``.

    Raises:
        ValueError: If an argument is out of range.

    >>> env = Repeat(k=2)
    >>> first, _ = env.reset(seed=0)
    >>> second, reward, *_ = env.step(0)  # nothing is asked yet
    >>> env.step(first[:4].argmax())[1] == 1 / 50
    True
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - as in Gymnasium

    def __init__(self, k: int | None = None, n_decks: int = 1, render_mode: str | None = None) -> None:
        if isinstance(n_decks, bool) or not isinstance(n_decks, (int, np.integer)) or n_decks < 1:
            raise ValueError(f"n_decks must be a whole number >= 1, got {n_decks!r}")
        self.n_decks, self.n_steps = int(n_decks), _DECK * int(n_decks) - 1
        whole = isinstance(k, (int, np.integer)) and not isinstance(k, bool)
        if k is not None and not (whole and 1 <= k <= self.n_steps):
            raise ValueError(f"k must be None or a whole number from 1 to {self.n_steps}, got {k!r}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.k, self.render_mode = None if k is None else int(k), render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (SUITS + 1,), np.float32)
        self.action_space = spaces.Discrete(SUITS)
        self._step = 0
        self._observations = np.zeros((self.n_steps, SUITS + 1), np.float32)
        self._rewards = np.zeros((self.n_steps, SUITS))

    def draw_episodes(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw whole episodes, the same ones in the same order as ``n`` resets would.

        Args:
            rng: Source of randomness.
            n: Number of episodes.

        Returns:
            Observations, float32, shape (n, n_steps, 5), and the rewards of all actions on each step, float64, shape
            (n, n_steps, 4).
        """
        observations = np.zeros((n, self.n_steps, SUITS + 1), np.float32)
        observations[:, 0, SUITS] = 1.0
        rewards = np.zeros((n, self.n_steps, SUITS))
        first_paid = 0 if self.k is None else self.k - 1
        scale, steps = 1.0 / (self.n_steps - first_paid), np.arange(self.n_steps)
        for episode in range(n):
            cards = np.arange(self.n_steps + 1)
            rng.shuffle(cards)
            suits = cards[:0:-1] % SUITS  # dealt from the end; the last card comes when the episode is over
            observations[episode, steps, suits] = 1.0
            right = np.full(self.n_steps, suits[0]) if self.k is None else suits[: self.n_steps - first_paid]
            rewards[episode, first_paid:] = -scale
            rewards[episode, steps[first_paid:], right] = scale
        return observations, rewards

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Shuffle the deck and return the first card."""
        super().reset(seed=seed)
        observations, rewards = self.draw_episodes(self.np_random, 1)
        self._observations, self._rewards, self._step = observations[0], rewards[0], 0
        return self._observations[0].copy(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Name a suit, and see the next card; after the last one there is nothing to see."""
        if not self.action_space.contains(int(action)):
            raise ValueError(f"an action must be 0 to 3, got {action}")
        reward = float(self._rewards[self._step, int(action)])
        self._step += 1
        if self._step < self.n_steps:
            return self._observations[self._step].copy(), reward, False, False, {}
        return np.zeros(SUITS + 1, np.float32), reward, True, False, {}

    def render(self) -> np.ndarray | None:
        """Return the cards dealt so far from left to right, a row for each suit, shape (H, W, 3), uint8."""
        if self.render_mode is None:
            return None
        dealt = np.full((SUITS, self.n_steps, 3), 40, np.uint8)
        seen = self._observations[: self._step + 1, :SUITS].T > 0
        dealt[:, : seen.shape[1]][seen] = (40, 160, 60)
        return dealt.repeat(_CELL, axis=0).repeat(_CELL, axis=1)


register(id="spikeloop/RepeatFirst-v0", entry_point="spikeloop.envs.repeat:Repeat", reward_threshold=0.95)
register(
    id="spikeloop/RepeatPrevious-v0",
    entry_point="spikeloop.envs.repeat:Repeat",
    kwargs={"k": 4},
    reward_threshold=0.95,
)
