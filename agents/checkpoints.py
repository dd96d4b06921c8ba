"""Checkpoints of a training run, from which it goes on exactly as if it had never been cut.

A checkpoint is taken where a rollout begins: the last update is complete, nothing of the next is begun. It is one file,
a model that ``Algorithm.load`` reads as it is, with one entry more for what SB3 does not save.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import random
import sys
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents.check_finite import check_finite, check_learnt
from spikeloop.agents.environment_state import restore_venv, venv_state
from spikeloop.agents.machine import this_machine
from spikeloop.agents.seals import sealed
from spikeloop.agents.seeding import own_generators
from spikeloop.spiking.storage import sync_files, write_atomically

FORMAT_VERSION = 2
PREVIOUS = "checkpoint.previous.zip"  # the generation before, beside the checkpoint
WITHIN = 5.0  # seconds in which a run that is asked to stop finishes its rollout; then it is left undone
_ENTRY = "spikeloop.pkl"
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "ep_info_buffer", "ep_success_buffer")
_OWN_COUNTERS = ("n_calls",)  # of algorithms that do not take a step in each environment at a time
_PLACE = ("_looked", "_action", "_value")  # of our algorithms, beside what all of SB3's call `_last_...`
_NOISE = ("weights_dist", "exploration_mat", "exploration_matrices")  # of gSDE, drawn before a rollout begins
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
    """Writes a checkpoint every so many env steps or seconds, and one more when asked to stop.

    The checkpoint before is kept beside the newest as ``checkpoint.previous.zip``. One that holds numbers that are not
    finite is never written.

    Args:
        path: The file; it appears under this name only when it is complete.
        every: Env steps between two checkpoints.
        run: What is needed to build the run again, kept in the file.
        evaluations: Evaluations whose results and best return are kept, and whose environments.
        seconds: A checkpoint is also due when so much time has passed since the last.

    Attributes:
        saved_at: Env step of the checkpoint on disk; None if there is none yet.
        why_not_exact: Why a run that resumes will differ from one that was never cut; None if it will not.

    >>> checkpoints = Checkpoints(Path("checkpoint.zip"), every=10_000, run={"seed": 0})  # a callback for learn()
    >>> checkpoints.saved_at is None
    True
    """

    def __init__(
        self,
        path: Path,
        every: int,
        run: Mapping[str, Any],
        evaluations: Sequence[EvalCallback] = (),
        seconds: float = math.inf,
    ):
        super().__init__()
        self.path = path
        self.every, self.seconds = every, seconds
        self.run = run
        self.evaluations = evaluations
        self.saved_at: int | None = None
        self.why_not_exact: str | None = None
        self._saved_when = self._began = time.monotonic()
        self._stop_by: float | None = None  # when to stop amid a rollout
        self._start: tuple[int, bytes] | None = None  # the checkpoint of this rollout's beginning, if it is at hand
        self._state_to_restore: Mapping[str, Any] | None = None

    def request_stop(self) -> None:
        """Let the training save and raise :class:`TrainingStopped` where the next rollout begins.

        If that takes longer than :data:`WITHIN` seconds and the beginning of this rollout is at hand, that is saved.
        """
        self._stop_by = time.monotonic() + WITHIN

    def _on_rollout_start(self) -> None:
        if self._state_to_restore is not None:
            self._restore_place(self._state_to_restore)
            self._state_to_restore = None
        before, self._began = self._began, time.monotonic()
        steps = self.model.num_timesteps
        due = self.saved_at is None or steps >= self.saved_at + self.every
        due = due or self._began - self._saved_when >= self.seconds
        stops, is_slow = self._stop_by is not None, self._began - before > WITHIN / 2
        self._start = None
        if due or stops or is_slow:
            self._start = steps, self._contents()
        if due or stops:
            self._write(*self._start)  # type: ignore[misc]
        if stops:
            raise TrainingStopped

    def _on_step(self) -> bool:
        if self._stop_by is not None and self._start is not None and time.monotonic() > self._stop_by:
            if self.saved_at != self._start[0]:
                self._write(*self._start)
            raise TrainingStopped
        return True

    def _on_training_end(self) -> None:
        self._write(self.model.num_timesteps, self._contents())  # while the environments are there

    def _write(self, step: int, contents: bytes) -> None:
        """Write the checkpoint of a step; the one before is kept if that does not succeed."""
        try:
            sync_files(self.path.parent.glob("*.csv"))  # what the checkpoint counts on
            write_atomically(self.path, contents, self.path.with_name(PREVIOUS))
        except OSError as error:
            kept = "there is none yet" if self.saved_at is None else f"that of step {self.saved_at} is kept"
            print(f"checkpoint {self.path} not written: {error.strerror}; {kept}", file=sys.stderr)
            return
        self.saved_at, self._saved_when = step, time.monotonic()

    def _contents(self) -> bytes:
        """Return a checkpoint of now.

        Raises:
            NonFiniteError: If a parameter is not finite, or what the optimizer or VecNormalize keep is not.
        """
        step = f"training to step {self.model.num_timesteps}"
        check_learnt(self.model.policy.state_dict().items(), step)
        state = self._state()
        check_finite((*self.model.get_parameters().items(), *state["vec_normalize"].items()), step)
        buffer = io.BytesIO()
        self.model.save(buffer)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(_ENTRY, cloudpickle.dumps(state))
        return sealed(buffer.getvalue(), self.path.suffix)

    def _state(self) -> dict[str, Any]:
        vec_normalize = self.model.get_vec_normalize_env()
        return {
            "format_version": FORMAT_VERSION,
            "run": dict(self.run),
            "machine": this_machine(),
            "num_timesteps": self.model.num_timesteps,
            "random": _random_state(self.model),
            "vec_normalize": {
                name: getattr(vec_normalize, name) for name in _STATISTICS if hasattr(vec_normalize, name)
            },
            "place": self._place(),
            "why_not_exact": self.why_not_exact,
            "evaluations": [{name: getattr(callback, name) for name in _EVALUATIONS} for callback in self.evaluations],
            "logs": {file.name: log_state(file) for file in self.path.parent.glob("*.csv")},
            "tensorboard": os.path.abspath(self.logger.dir or "") if self.model.tensorboard_log else None,
        }

    def _place(self) -> dict[str, Any] | None:
        """Return where in its episodes the training is; None if that cannot be kept, so that they start anew."""
        model = self.model
        between_episodes = model._last_obs is None or bool(np.all(model._last_episode_starts))
        if not hasattr(model, "rollout_buffer") and not between_episodes:
            return None  # what a local rule remembers within an episode is not kept
        environments = []
        for venv in self._environments():
            state = venv_state(venv)
            if isinstance(state, str):
                self.why_not_exact = state
                return None
            environments.append(state)
        self.why_not_exact = None
        names = [name for name in vars(model) if name.startswith("_last_") or name in _PLACE]
        noise = getattr(model.policy, "action_dist", None)
        return {
            "environments": environments,
            "model": to_device({name: getattr(model, name) for name in names}, "cpu"),
            "noise": to_device({name: vars(noise)[name] for name in _NOISE if name in vars(noise)}, "cpu")
            if noise is not None
            else {},
        }

    def _environments(self) -> list[VecEnv]:
        return [self.training_env, *(callback.eval_env for callback in self.evaluations)]

    def restore(self, model: BaseAlgorithm, state: Mapping[str, Any], path: Path | None = None) -> None:
        """Put a freshly built model and its evaluations where the checkpoint was.

        Its environments, and where in their episodes they were, follow when its first rollout begins; episodes start
        anew if the checkpoint does not hold them.

        Args:
            model: Built like the one that was saved, with its environments.
            state: What :func:`read_checkpoint` returned.
            path: The file it was read from; :attr:`path` if None.
        """
        data, params, _ = load_from_zip_file(path or self.path, device=model.device)
        assert data is not None
        model.set_parameters(params, device=model.device)
        for name in _COUNTERS:
            setattr(model, name, data[name])
        for name in (name for name in _OWN_COUNTERS if name in data):
            setattr(model, name, data[name])
        for name, statistics in state["vec_normalize"].items():
            setattr(model.get_vec_normalize_env(), name, statistics)
        for callback, values in zip(self.evaluations, state["evaluations"], strict=True):
            vars(callback).update(values)
        _set_random_state(model, state["random"])
        self.saved_at = model.num_timesteps
        if state["place"] is not None:
            self._state_to_restore = state

    def _restore_place(self, state: Mapping[str, Any]) -> None:
        model, place = self.model, state["place"]
        venvs = self._environments()
        reasons = [restore_venv(venv, saved) for venv, saved in zip(venvs, place["environments"], strict=True)]
        why = next((reason for reason in reasons if reason is not None), None)
        if why is not None:
            print(f"new episodes begin: {why}", file=sys.stderr)
            model._last_obs = venvs[0].reset()  # type: ignore[assignment]  # as SB3 does
            model._last_episode_starts = np.ones(venvs[0].num_envs, bool)
            return
        vars(model).update(to_device(place["model"], model.device))
        if place["noise"]:
            vars(model.policy.action_dist).update(to_device(place["noise"], model.device))
        _set_random_state(model, state["random"])


def to_device(value: Any, device: th.device | str) -> Any:
    """Return a value with its tensors on a device; containers are made anew.

    >>> to_device({"state": (th.zeros(2), 3)}, "cpu")
    {'state': (tensor([0., 0.]), 3)}
    """
    if isinstance(value, th.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(item, device) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds beside the model. It is a pickle: reading it can run code.

    Raises:
        ValueError: If the file is damaged, not a checkpoint, or one of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{path} is damaged: {damaged} does not have the checksum it was written with")
            state = pickle.loads(archive.read(_ENTRY))
    except (zipfile.BadZipFile, KeyError, zlib.error):
        raise ValueError(f"{path} is not a checkpoint of a training run") from None
    if state["format_version"] != FORMAT_VERSION:
        found = state["format_version"]
        raise ValueError(f"{path} has format version {found}; this spikeloop reads version {FORMAT_VERSION}")
    return state


def newest_checkpoint(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the newest sound checkpoint of a run, the file and what it holds: this one, or the one before it.

    Raises:
        ValueError: If neither can be read; the message is about the newest.
    """
    previous = path.with_name(PREVIOUS)
    try:
        return path, read_checkpoint(path)
    except (ValueError, FileNotFoundError) as error:
        if not previous.is_file():
            raise
        try:
            state = read_checkpoint(previous)
        except ValueError:
            raise error from None
        print(f"{error}; going on from the checkpoint before it, {previous}", file=sys.stderr)
        return previous, state


def log_state(path: Path) -> tuple[int, bytes]:
    """Return the size of a CSV file of a run, and its first lines: comments and the names of the columns."""
    header = b""
    with path.open("rb") as file:
        for line in file:
            header += line
            if not line.startswith(b"#"):
                break
    return path.stat().st_size, header


def clean_up(folder: Path, logs: Mapping[str, tuple[int, bytes]]) -> None:
    """Put the CSV files of a run where they were at a checkpoint: what came after it happens again.

    Rows that were lost are told of, and files that were lost begin anew, so that the run can go on.

    Args:
        folder: The run folder.
        logs: By name, what :func:`log_state` said at the checkpoint.
    """
    for name, (size, header) in logs.items():
        path = folder / name
        data = path.read_bytes() if path.is_file() else b""
        kept = data[:size].partition(b"\0")[0]  # a file system that lost power may leave zeros
        kept = kept[: kept.rfind(b"\n") + 1]
        if not kept.startswith(header):
            kept = header
        if len(kept) < size:
            print(f"{path} had lost rows: {len(kept)} of {size} bytes are left of what it held", file=sys.stderr)
        if kept != data:
            write_atomically(path, kept)


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
