"""What a run folder of RL Zoo, `logs/ALGO/ENV_N`, holds, and how to find one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from spikeloop.scripts.cli import UsageError
from spikeloop.scripts.saving import finish_saving

DEFAULT_ENV = "CartPole-v1"  # of commands that are given none
CHECKPOINT, PREVIOUS = "checkpoint.zip", "checkpoint.previous.zip"
EPISODES = "learning_curve.csv"
CURVE = "learning_curve.png"
SETTINGS = ("args.yml", "config.yml")  # in the folder of the settings
NETWORK = "policy.safetensors"
RUNNING = "running.pid"  # while a training writes the folder, and after one that was killed
BEST = "best_model"  # the zip of this name, and the folder of the normalisation statistics of its time


def deployed_file(chip: str) -> str:
    """Return the name of the file that ``deploy`` leaves for a chip: the compiled network."""
    return f"deployed-{chip}.safetensors"


def report_file(chip: str) -> str:
    """Return the name of the report that ``deploy`` leaves for a chip."""
    return f"report-{chip}.json"


def cores_picture(chip: str) -> str:
    """Return the name of the picture of the cores that ``deploy`` leaves for a chip."""
    return f"cores-{chip}.png"


def find_deployed(folder: Path, chip: str | None = None) -> Path:
    """Return the compiled network in a folder.

    Args:
        folder: Where ``deploy`` left it.
        chip: For which chip; None where there is only one.

    Raises:
        UsageError: If there is none, or several and no chip is named.
    """
    found = sorted(folder.glob(deployed_file(chip or "*")))
    if len(found) > 1:
        raise UsageError(f"{folder} holds {' and '.join(file.name for file in found)}: choose one with --chip")
    if not found:
        raise UsageError(f"{folder} holds no {deployed_file(chip or 'CHIP')}, make it with: spikeloop deploy {folder}")
    return found[0]


def need_folder(option: str, folder: Path) -> None:
    """Make a folder that files are to be left in, before the work that makes them.

    Args:
        option: The option that named it, with its value, for the message.
        folder: The folder.

    Raises:
        UsageError: If it cannot be made, or takes no files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(f"{option}: no files can be left in {folder} ({error.strerror})") from None


class Busy(UsageError):
    """Another process writes the folder."""


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[int]:
    """Hold the lock of a run folder: one training at a time writes there.

    The lock ends with this process and with those that inherit its file descriptor, which is handed over.

    Raises:
        Busy: If another process holds it.
        OSError: If the folder cannot be written.
    """
    path = folder / RUNNING
    while True:
        file = path.open("a+", encoding="ascii")
        if not _lock(file):
            pid = path.read_text("ascii") or "of another user"
            file.close()
            raise Busy(f"{folder} is being trained by process {pid}: wait for its end, or end it")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # its holder has just removed it
    with file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield file.fileno()
        finally:
            path.unlink(missing_ok=True)


def _lock(file: IO[str]) -> bool:
    """Lock a file for this process and return whether that succeeded; where there are no locks it does."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True)
class RunFolder:
    """A finished run.

    Args:
        model: The zip that SB3 saved.
        settings: Folder of the run's settings.
        statistics: Folder of the normalisation statistics that belong to the model.
        algo: Name of the algorithm.
        env_id: Environment it was trained on.
        env_kwargs: Arguments of the environment given on the command line.
        gym_packages: Modules that register the environment.
    """

    model: Path
    settings: Path
    statistics: Path
    algo: str
    env_id: str
    env_kwargs: dict[str, Any]
    gym_packages: list[str]

    def stamp(self) -> list[tuple[int, int]]:
        """Return what changes when the model or its statistics are saved anew: who loads both compares it."""
        files = [path for path in (self.model, self.statistics / "vecnormalize.pkl") if path.is_file()]
        return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]


def open_run(folder: Path, best: bool = False, trust: bool = False) -> RunFolder:
    """Return what stands in a run folder.

    Args:
        folder: The folder.
        best: Whether to take its best model instead of its last.
        trust: Whether to take files that the user's own training did not write; loading them can run code.

    Raises:
        UsageError: If it is no run folder, the run did not get as far, or a file of it is not to be trusted.
    """
    from spikeloop.scripts.trust import need_own

    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}")
    finish_saving(folder)
    settings = _settings(folder)
    if settings is None:
        n_found = len(list(folder.glob("*/args.yml")))
        raise UsageError(f"{folder} is not the folder of one run: it holds {n_found} */args.yml")
    args = _arguments(settings)
    model = folder / f"{BEST}.zip" if best else _model(folder, settings)
    if not model.is_file():
        raise UsageError(f"{folder} holds no {model.name}" + _why_missing(folder, best))
    statistics = folder / BEST if best and (folder / BEST / "vecnormalize.pkl").is_file() else settings
    env_kwargs = args["env_kwargs"] or {}
    need_own([*(settings / name for name in SETTINGS), model, statistics / "vecnormalize.pkl"], trust)
    return RunFolder(model, settings, statistics, args["algo"], args["env"], env_kwargs, args["gym_packages"])


def packages_of(folder: Path, trust: bool = False) -> list[str]:
    """Return the modules that register the environment of a run, by its folder; none if it is no run folder.

    Raises:
        UsageError: If they are named by a file that is not to be trusted; arguments as in :func:`open_run`.
    """
    from spikeloop.scripts.trust import need_own

    settings = _settings(folder)
    if settings is None:
        return []
    need_own([settings / "args.yml"], trust)
    return list(_arguments(settings)["gym_packages"])


def _arguments(settings: Path) -> dict[str, Any]:
    """Return those arguments of a run that others need, from what RL Zoo wrote."""
    from spikeloop.scripts.plain_data import read_settings

    needed = ("algo", "env", "env_kwargs", "gym_packages")
    found = read_settings(settings / "args.yml", needed)
    for name in needed:
        if name not in found:
            raise UsageError(f"{settings / 'args.yml'} is not the arguments of a run, it lacks {name}")
    return found


def _settings(folder: Path) -> Path | None:
    """Return the folder that holds a run's settings; None if ``folder`` is not that of exactly one run."""
    found = list(folder.glob("*/args.yml"))
    return found[0].parent if len(found) == 1 else None


def _model(folder: Path, settings: Path) -> Path:
    """Return the path of the model that training saves last."""
    return folder / f"{settings.name}.zip"


def _why_missing(folder: Path, best: bool) -> str:
    if best:
        return ": the training made no evaluation (--eval-freq), leave out --load-best to take the last model"
    if (folder / CHECKPOINT).is_file():
        return f" yet, train on with: spikeloop train --resume {folder}"
    return ": the training did not finish, and left no checkpoint"


def find_run(logs: Path, algo: str, env_id: str, exp_id: int) -> Path:
    """Return the run folder that RL Zoo's ``--algo --env --folder --exp-id`` mean.

    Args:
        logs: Folder of all runs.
        algo: Name of the algorithm.
        env_id: Environment id.
        exp_id: Number of the run; 0 is the latest that was trained to its end.

    Raises:
        UsageError: If ``exp_id`` is 0 and there is no such run.
    """
    name = env_id.replace("/", "-")
    if exp_id:
        return logs / algo / f"{name}_{exp_id}"
    runs = {}
    for folder in (logs / algo).glob(f"{name}_*"):
        number, settings = folder.name.removeprefix(f"{name}_"), _settings(folder)
        if number.isdecimal() and settings is not None and _model(folder, settings).is_file():
            runs[int(number)] = folder
    if not runs:
        raise UsageError(f"there is no finished run of {algo} on {env_id} in {logs / algo}")
    return runs[max(runs)]
