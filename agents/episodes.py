"""The return and length of every training episode, in a CSV file that grows while the training runs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from spikeloop.spiking.storage import write_atomically


class EpisodeLog(BaseCallback):
    """Writes the return and length of every training episode to a CSV file, a row when the episode ends.

    Args:
        path: The file.
        resume: Continue the file instead of starting it.

    >>> log = EpisodeLog(Path("learning_curve.csv"))  # a callback for ``model.learn(10_000, callback=log)``
    """

    def __init__(self, path: Path, resume: bool = False):
        super().__init__()
        self.path = path
        self.resume = resume

    def _on_training_start(self) -> None:
        if not self.resume:
            write_atomically(self.path, b"timesteps,episode_return,episode_length\n")

    def _on_step(self) -> bool:
        episodes = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        if episodes:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows((self.num_timesteps, episode["r"], episode["l"]) for episode in episodes)
        return True


def read_episodes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the env steps and returns of the episodes in a file of :class:`EpisodeLog`, each of shape (n,).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "learning_curve.csv")
    ...     _ = path.write_text("timesteps,episode_return,episode_length\n20,20.0,20\n51,31.0,31\n")
    ...     read_episodes(path)
    (array([20., 51.]), array([20., 31.]))
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == 3 and row[2]][1:]  # a full disk cuts the last one
    steps, returns, _ = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return steps, returns
