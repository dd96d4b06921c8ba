"""Searches of hyperparameters: trials keep the rest of a preset, and what a killed process left is cleared away."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spikeloop.agents.policy_arguments import LSNN_OPTIONS, OF_INPUT
from spikeloop.agents.registry import ALGOS

WORKER = "worker"  # attribute of a trial: the machine and the process that run it


def need_pandas() -> None:
    """Raise ``ImportError`` without pandas, with which RL Zoo reports what it found."""
    if importlib.util.find_spec("pandas") is None:
        raise ImportError("RL Zoo reports on the search with pandas: pip install pandas")


def over_preset(found: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a trial with its ``policy_kwargs`` laid over the preset's.

    RL Zoo would put them in their place, and the trial would train another network: one that has lost its encoder,
    factors on the observation, or readout. A preset without neurons, ``n_neurons=[]``, has none in its trials either.

    Args:
        found: What was drawn, or a study kept.
        preset: The preset's ``policy_kwargs``.

    >>> over_preset({"gamma": 0.9, "policy_kwargs": {"n_neurons": [32]}}, {"n_neurons": [64], "obs_scale": [1.0, 10.0]})
    {'gamma': 0.9, 'policy_kwargs': {'n_neurons': [32], 'obs_scale': [1.0, 10.0]}}
    >>> over_preset({"policy_kwargs": {"n_neurons": [32], "tau_m": 4.0, "tau_out": 9.0}}, {"n_neurons": []})
    {'policy_kwargs': {'n_neurons': [], 'tau_out': 9.0}}
    """
    searched = dict(found.get("policy_kwargs") or {})
    if preset.get("n_neurons") == []:
        of_neurons = {"n_neurons", *LSNN_OPTIONS} - {*OF_INPUT}
        searched = {name: value for name, value in searched.items() if name not in of_neurons}
    kwargs = {**preset, **searched}
    return {**found, "policy_kwargs": kwargs} if kwargs else dict(found)


@contextlib.contextmanager
def trials_over(algo: str, preset: Mapping[str, Any]) -> Iterator[None]:
    """Have RL Zoo lay what it draws for our algorithms over a preset's ``policy_kwargs`` (:func:`over_preset`)."""
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER

    if algo not in ALGOS:
        yield
        return
    sampler = HYPERPARAMS_SAMPLER[algo]
    HYPERPARAMS_SAMPLER[algo] = lambda *given: over_preset(sampler(*given), preset)
    try:
        yield
    finally:
        HYPERPARAMS_SAMPLER[algo] = sampler


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
