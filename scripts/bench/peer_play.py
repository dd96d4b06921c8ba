"""How a learner of another kind trains and plays for the table of ``spikeloop benchmark local-peers``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

from spikeloop.scripts.kept_results import digest


class Player(Protocol):
    """What plays a task and learns while it does."""

    learning: bool
    """Whether it learns; with frozen weights a softmax takes its best action, and spiking networks stay random."""
    seconds_elsewhere: float
    """CPU seconds that other processes have spent on it."""

    def begin(self, obs: np.ndarray) -> int:
        """Return the first action of an episode."""
        ...

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Take what the latest action brought; return the next, which is not used where the episode is over."""
        ...


class Run(NamedTuple):
    """What one run gave: returns of frozen episodes, steps and returns of training, CPU seconds of training."""

    frozen: np.ndarray
    steps: np.ndarray
    returns: np.ndarray
    seconds: float


Make = Callable[..., Player]
"""A learner from an environment, a random generator, and its settings as keyword arguments."""


def train(make: Make, env_id: str, settings: Mapping[str, Any], n_episodes: int, seed: int, n_frozen: int) -> Run:
    """Let a learner learn for so many episodes, and then play so many with its weights frozen."""
    env = gym.make(env_id)
    player, start = make(env, np.random.default_rng(seed), **settings), time.process_time()
    lengths, returns = play(player, env, n_episodes, seed)
    seconds = time.process_time() - start + player.seconds_elsewhere
    player.learning = False
    _, frozen = play(player, gym.make(env_id), n_frozen, 10_000 + seed)
    return Run(frozen, np.cumsum(lengths), returns, seconds)


def play(player: Player, env: gym.Env, n_episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return length and return of each episode."""
    lengths, returns = np.zeros(n_episodes, np.int64), np.zeros(n_episodes)
    for episode in range(n_episodes):
        obs, _ = env.reset(seed=seed if episode == 0 else None)
        action, done = player.begin(obs), False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(action)
            action, done = player.step(float(reward), obs, terminated, truncated), terminated or truncated
            lengths[episode] += 1
            returns[episode] += float(reward)
    return lengths, returns


def kept(folder: Path, name: str, what: Any, code: Sequence[str], make: Callable[[], Run]) -> Run:
    """Return a run, made if the folder does not have it.

    Args:
        folder: Where runs are kept.
        name: Beginning of the file's name.
        what: All that the run depends on, beside code; anything JSON holds.
        code: Files and folders of the repository whose code it runs.
        make: Makes the run.
    """
    path = folder / f"{name}-{digest(what, ('scripts/bench/peer_play.py', *code))}.json"
    if not path.is_file():
        run = make()
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([np.asarray(part).tolist() for part in run]), "utf-8")
    frozen, steps, returns, seconds = json.loads(path.read_text("utf-8"))
    return Run(np.array(frozen), np.array(steps, np.int64), np.array(returns), seconds)
