"""Searches of hyperparameters that several processes share: what a killed one left is cleared away."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

WORKER = "worker"  # attribute of a trial: the machine and the process that run it


def this_worker() -> list[Any]:
    """Return what a trial that this process runs has as its attribute :data:`WORKER`."""
    return [platform.node(), os.getpid()]


def fail_trials_of_the_dead(storage: str, study_name: str) -> None:
    """Mark those trials of a study as failed whose process on this machine was killed.

    Otherwise they run for ever, and count as done for ``--max-total-trials``.

    Args:
        storage: Where Optuna keeps studies: the file of a journal, ``*.log``, or the address of a database.
        study_name: Name of the study, which need not have begun.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    where: Any = storage
    if storage.endswith(".log"):
        if not Path(storage).is_file():
            return
        where = optuna.storages.JournalStorage(JournalFileBackend(storage))
    try:
        study = optuna.load_study(study_name=study_name, storage=where)
    except KeyError:  # the study begins
        return
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        node, pid = trial.user_attrs.get(WORKER, (None, 0))
        if node == platform.node() and not _is_alive(pid):
            with contextlib.suppress(ValueError, RuntimeError):  # another worker has just done so
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True
