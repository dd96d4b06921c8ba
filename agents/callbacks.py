"""What a training run keeps on disk: checkpoints that resume exactly and the return of every episode.

A checkpoint is taken where a rollout begins: the last update is complete, nothing of the next is begun. It is one file,
a model that ``Algorithm.load`` reads as it is, with one entry more for what SB3 does not save.
"""

from __future__ import annotations

import csv
import io
import os
import pickle
import random
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.save_util import load_from_zip_file

from spikeloop.agents.seeding import own_generators
from spikeloop.spiking.storage import write_atomically

FORMAT_VERSION = 1
_ENTRY = "spikeloop.pkl"
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "ep_info_buffer", "ep_success_buffer")
_STATISTICS = ("obs_rms", "ret_rms")
_EVALUATIONS = (
    "best_mean_reward",
    "last_mean_reward",
    "evaluations_timesteps",
    "evaluations_results",
    "evaluations_length",
    "evaluations_successes",
)


class TrainingStopped(Exception):
    """Training ended early because it was asked to."""


class Checkpoints(BaseCallback):
    """Writes a checkpoint every so many env steps, and one more when asked to stop.

    Args:
        path: The file; it appears under this name only when it is complete.
        every: Env steps between two checkpoints.
        run: What is needed to build the run again, kept in the file.
        evaluations: Evaluations whose results and best return are kept.

    Attributes:
        stop_requested: Set it, and where the next rollout begins a checkpoint is taken and :class:`TrainingStopped`
            raised.
        saved_at: Env step of the checkpoint on disk; None if there is none yet.
    """

    def __init__(
        self,
        path: Path,
        every: int,
        run: Mapping[str, Any],
        evaluations: Sequence[EvalCallback] = (),
    ):
        super().__init__()
        self.path = path
        self.every = every
        self.run = run
        self.evaluations = evaluations
        self.stop_requested = False
        self.saved_at: int | None = None

    def _on_rollout_start(self) -> None:
        due = self.saved_at is None or self.model.num_timesteps >= self.saved_at + self.every
        if due or self.stop_requested:
            self.save()
        if self.stop_requested:
            raise TrainingStopped

    def _on_step(self) -> bool:
        return True

    def save(self) -> bool:
        """Write the checkpoint and return whether that succeeded; the one before is kept if it did not."""
        buffer = io.BytesIO()
        self.model.save(buffer)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(_ENTRY, cloudpickle.dumps(self._state()))
        try:
            write_atomically(self.path, buffer.getvalue())
        except OSError as error:
            kept = "there is none yet" if self.saved_at is None else f"that of step {self.saved_at} is kept"
            print(f"checkpoint {self.path} not written: {error.strerror}; {kept}", file=sys.stderr)
            return False
        self.saved_at = self.model.num_timesteps
        return True

    def _state(self) -> dict[str, Any]:
        vec_normalize = self.model.get_vec_normalize_env()
        return {
            "format_version": FORMAT_VERSION,
            "run": dict(self.run),
            "num_timesteps": self.model.num_timesteps,
            "random": _random_state(self.model),
            "vec_normalize": {
                name: getattr(vec_normalize, name) for name in _STATISTICS if hasattr(vec_normalize, name)
            },
            "evaluations": [{name: getattr(callback, name) for name in _EVALUATIONS} for callback in self.evaluations],
            "logs": {file.name: file.stat().st_size for file in self.path.parent.glob("*.csv")},
            "tensorboard": os.path.abspath(self.logger.dir or "") if self.model.tensorboard_log else None,
        }

    def restore(self, model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
        """Put a freshly built model and its evaluations where the checkpoint was; episodes start anew.

        Args:
            model: Built like the one that was saved, with its environments.
            state: What :func:`read_checkpoint` returned for :attr:`path`.
        """
        data, params, _ = load_from_zip_file(self.path, device=model.device)
        assert data is not None
        model.set_parameters(params, device=model.device)
        for name in _COUNTERS:
            setattr(model, name, data[name])
        for name, statistics in state["vec_normalize"].items():
            setattr(model.get_vec_normalize_env(), name, statistics)
        for callback, values in zip(self.evaluations, state["evaluations"], strict=True):
            vars(callback).update(values)
            callback.n_calls = model.num_timesteps // model.n_envs
        _set_random_state(model, state["random"])
        self.saved_at = model.num_timesteps


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds beside the model.

    Raises:
        ValueError: If the file is not a checkpoint, or one of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            state = pickle.loads(archive.read(_ENTRY))
    except (zipfile.BadZipFile, KeyError):
        raise ValueError(f"{path} is not a checkpoint of a training run") from None
    if state["format_version"] != FORMAT_VERSION:
        found = state["format_version"]
        raise ValueError(f"{path} has format version {found}; this spikeloop reads version {FORMAT_VERSION}")
    return state


def clean_up(path: Path, state: Mapping[str, Any]) -> None:
    """Remove what a run wrote after its checkpoint, which happens again: rows of its logs, a checkpoint begun.

    Args:
        path: The checkpoint.
        state: What :func:`read_checkpoint` returned for it.
    """
    for unfinished in path.parent.glob(f".{path.name}.*"):
        unfinished.unlink()
    for name, size in state["logs"].items():
        file = path.with_name(name)
        if file.exists() and file.stat().st_size > size:
            os.truncate(file, size)


def _random_state(model: BaseAlgorithm) -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - SB3 and environments draw from it
        "torch": th.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in th.cuda.get_rng_state_all()],
        "policy": {name: rng.bit_generator.state for name, rng in own_generators(model.policy).items()},
    }


def _set_random_state(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    th.set_rng_state(th.from_numpy(state["torch"]))
    if len(state["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all([th.from_numpy(one) for one in state["cuda"]])
    for name, rng in own_generators(model.policy).items():
        rng.bit_generator.state = state["policy"][name]


class EpisodeLog(BaseCallback):
    """Writes the return and length of every training episode to a CSV file, a row when the episode ends.

    Args:
        path: The file.
        resume: Continue the file instead of starting it.
    """

    def __init__(self, path: Path, resume: bool = False):
        super().__init__()
        self.path = path
        self.resume = resume

    def _on_training_start(self) -> None:
        if not self.resume:
            self.path.write_text("timesteps,episode_return,episode_length\n", encoding="utf-8")

    def _on_step(self) -> bool:
        episodes = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        if episodes:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows((self.num_timesteps, episode["r"], episode["l"]) for episode in episodes)
        return True


def read_episodes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the env steps and returns of the episodes in a file of :class:`EpisodeLog`, each of shape (n,)."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == 3 and row[2]][1:]  # a full disk cuts the last one
    steps, returns, _ = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return steps, returns
