"""The state of environments, saved within an episode and put into others like them, which go on with the same bits.

Beside what :mod:`~spikeloop.agents.layer_state` finds in their wrappers and tasks: where a task has both
``get_state()`` and ``set_state(state)`` they are called, and vouch for those of its attributes that cannot be pickled;
and the global random numbers of Python, numpy and torch, of a worker process. Those of the main process belong to more
than its environments, and are not saved.

A state is a pickle, which can run code: load only what you trust.
"""

from __future__ import annotations

import inspect
import multiprocessing
import random
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from spikeloop.agents.faithful_pickle import _set_vars, _view  # noqa: F401  where states of former versions find them
from spikeloop.agents.layer_state import in_one_line, layers_of, load_layers, save_layers
from spikeloop.agents.workers import GONE, blame_worker


def save_env(env: gym.Env, name: str) -> bytes | str:
    """Return the state of an environment with its wrappers; in words, why it cannot be saved.

    Args:
        env: The environment.
        name: What to call it in these words.
    """
    try:
        own = _own_state(env.unwrapped)
        return save_layers(layers_of(env), {"own": own, "process": _process()}, vouches=own is not None)
    except Exception as error:
        return f"{name} cannot be saved: {in_one_line(error)}"


def load_env(env: gym.Env, state: bytes, name: str) -> str | None:
    """Put an environment where another one like it was saved.

    Args:
        env: The environment, made as the other one was.
        state: What :func:`save_env` returned for that.
        name: What to call it in words.

    Returns:
        Why it cannot be done, None if it was. If not, the environment is neither here nor there, and is to be reset.
    """
    task: Any = env.unwrapped
    try:
        if _has_own_state(task):
            task.reset()  # some build only there what set_state fills
        more = load_layers(layers_of(env), state)
        if more["own"] is not None:
            task.set_state(*more["own"])
        if more["process"] is not None:
            _set_process(more["process"])
    except Exception as error:
        return f"the state of {name} cannot be restored: {in_one_line(error)}"
    return None


def venv_state(venv: VecEnv) -> dict[str, Any] | str:
    """Return the state of vectorised environments and of the wrappers around them; in words, why it cannot be saved.

    Args:
        venv: The environments, each of them in a :class:`~spikeloop.agents.guarded_env.GuardedEnv`.

    Raises:
        EnvironmentFailed: If a worker process has died.
    """
    layers = layers_of(venv)
    base = layers[-1]
    if type(base) not in (DummyVecEnv, SubprocVecEnv):
        return f"{type(base).__name__} cannot be saved: only DummyVecEnv and SubprocVecEnv are known"
    if getattr(base, "closed", False):
        return "the environments cannot be saved: they are closed"
    try:
        if not base.has_attr("save_state"):
            return "the environments cannot be saved: each of them has to be in a GuardedEnv"
        envs = base.env_method("save_state")
    except GONE:
        blame_worker(base)
        raise
    reason = next((state for state in envs if isinstance(state, str)), None)
    if reason is not None:
        return reason
    try:
        return {"envs": envs, "wrappers": save_layers(layers, {})}
    except Exception as error:
        return f"what is around the environments cannot be saved: {in_one_line(error)}"


def restore_venv(venv: VecEnv, state: Mapping[str, Any]) -> str | None:
    """Put vectorised environments and their wrappers where others like them were saved.

    Args:
        venv: Made as the others were.
        state: What :func:`venv_state` returned for them.

    Returns:
        Why it cannot be done, None if it was; if not, all is to be reset.

    Raises:
        EnvironmentFailed: If a worker process has died.
    """
    base = venv.unwrapped
    if len(state["envs"]) != venv.num_envs:
        return f"the state of {len(state['envs'])} environments cannot be restored in {venv.num_envs}"
    try:
        reasons = [base.env_method("load_state", one, indices=i)[0] for i, one in enumerate(state["envs"])]
    except GONE:
        blame_worker(base)
        raise
    reason = next((one for one in reasons if one is not None), None)
    if reason is None:
        try:
            load_layers(layers_of(venv), state["wrappers"])
        except Exception as error:
            reason = f"the state of what is around the environments cannot be restored: {in_one_line(error)}"
    return reason


def _has_own_state(task: Any) -> bool:
    """Return whether a task offers ``get_state()`` and ``set_state(state)``, and not others of these names."""
    try:
        inspect.signature(task.get_state).bind()
        inspect.signature(task.set_state).bind(None)
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def _own_state(task: Any) -> tuple[Any] | None:
    return (task.get_state(),) if _has_own_state(task) else None


def _process() -> dict[str, Any] | None:
    """Return the global random numbers of a worker process; None in the main process."""
    if multiprocessing.parent_process() is None:
        return None
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - environments draw from it
        "torch": th.get_rng_state().numpy().copy(),
    }


def _set_process(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    th.set_rng_state(th.from_numpy(state["torch"]))
