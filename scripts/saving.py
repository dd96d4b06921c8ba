"""Files of a run folder that belong together appear together: all of a save is in place, or nothing of it.

A save is a small transaction. Its files are written and synced under hidden names, then a record that lists them
appears, then each is renamed into place and the record removed. Whoever opens the folder finishes a save that was cut
short after its record, and sees nothing of one that was cut short before.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeloop.agents.seals import sealed
from spikeloop.spiking.storage import sync_folder, write_atomically, write_hidden

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecNormalize

RECORD = ".saving"
_HIDDEN = re.compile(r"\.(.+\.[0-9a-f]{8}|evaluations\.npz)")  # names of files that are being written


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write several files of a folder; a crash or a full disk leaves all of the old ones, or all of the new ones.

    Args:
        folder: The folder.
        files: Contents by path below it, with ``/`` between folders, which are made.

    Raises:
        OSError: If something cannot be written; then nothing has changed.
    """
    record = folder / RECORD
    finish_saving(folder)
    hidden: dict[str, str] = {}
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            hidden[temporary.relative_to(folder).as_posix()] = name
            write_hidden(temporary, data)
        write_atomically(record, json.dumps(hidden).encode())
    except BaseException:
        if record.exists():  # the save is complete: it is put in place whatever interrupts it now
            _put_in_place(folder, hidden)
        for temporary_name in hidden:
            (folder / temporary_name).unlink(missing_ok=True)
        raise
    _put_in_place(folder, hidden)


def write_lost(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write those text files of a folder that are missing, empty or, as after a loss of power, nothing but zeros.

    Args:
        folder: The folder.
        files: Contents by path below it.
    """
    lost = {name: data for name, data in files.items() if _is_lost(folder / name)}
    if lost:
        write_together(folder, lost)


def _is_lost(path: Path) -> bool:
    return not path.is_file() or not path.read_bytes().strip(b"\0 \n")


def finish_saving(folder: Path) -> None:
    """Put in place what a save that was cut short had written whole; several processes may do so at once.

    Raises:
        OSError: If there is such a save and the folder cannot be written.
        ValueError: If the record of the save is not one.
    """
    try:
        hidden = json.loads((folder / RECORD).read_text("utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        hidden = None
    if not isinstance(hidden, dict) or not all(_is_hidden_name(*pair) for pair in hidden.items()):
        raise ValueError(f"{folder / RECORD} was not written by a training: remove it if you know the folder")
    _put_in_place(folder, hidden)


def _is_hidden_name(temporary: str, name: object) -> bool:
    """Return whether a file stands hidden beside where it is to go: nobody's record moves files out of a folder."""
    if not isinstance(name, str) or not name or any(part in ("", ".", "..") for part in name.split("/")):
        return False
    folder, slash, last = name.rpartition("/")
    return re.fullmatch(rf"{re.escape(folder + slash)}\.{re.escape(last)}\.[0-9a-f]{{8}}", temporary) is not None


def _put_in_place(folder: Path, hidden: Mapping[str, str]) -> None:
    for temporary, name in hidden.items():
        try:
            os.replace(folder / temporary, folder / name)
        except FileNotFoundError:  # it is in place already
            continue
    for parent in {(folder / name).parent for name in hidden.values()}:
        sync_folder(parent)
    (folder / RECORD).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the hidden files of writes that were cut short; only for who holds the lock of the folder."""
    finish_saving(folder)
    for path in folder.rglob(".*"):
        if _HIDDEN.fullmatch(path.name) and path.is_file():
            path.unlink()


def model_bytes(model: BaseAlgorithm) -> bytes:
    """Return the zip that SB3 saves, sealed as the user's own."""
    buffer = io.BytesIO()
    model.save(buffer)
    return sealed(buffer.getvalue(), ".zip")


def statistics_bytes(statistics: VecNormalize) -> bytes:
    """Return what ``VecNormalize.save`` writes, sealed as the user's own."""
    return sealed(pickle.dumps(statistics), ".pkl")


def monitor_start(path: Path, env_id: str, monitor_kwargs: Mapping[str, Any]) -> float:
    """Return the time from which a monitor file counts; a file that is missing is begun with its two head lines."""
    if not path.is_file():
        about = {"t_start": time.time(), "env_id": env_id}
        keywords = [*monitor_kwargs.get("reset_keywords", ()), *monitor_kwargs.get("info_keywords", ())]
        write_atomically(path, f"#{json.dumps(about)}\n{','.join(['r', 'l', 't', *keywords])}\r\n".encode())
    with path.open(encoding="utf-8") as file:
        return json.loads(file.readline().lstrip("#"))["t_start"]
