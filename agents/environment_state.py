"""The state of environments, saved within an episode and put into others like them, which go on with the same bits.

The state is the attributes of an environment's layers, wrappers and task, with all that hangs from them, and what a
function holds that is an attribute but nobody else's, such as a lambda. In the new environment the layers, their spaces
and these functions are not replaced but filled, so that whoever refers to one refers to the right one. What cannot be
saved is named; left out is only what is no state: a monitor's file, specs. Where a task has both ``get_state()`` and
``set_state(state)`` they are called besides, and vouch for those of its attributes that cannot be pickled.

What is not to be seen from there is not saved, and nobody can tell: values of modules and classes, files, other
processes, what a library keeps behind an object that pickles without it. The global random numbers of Python, numpy and
torch are saved where they are a worker process's; those of the main process belong to more than its environments.

A state is a pickle, which can run code: load only what you trust.
"""

from __future__ import annotations

import copyreg
import inspect
import io
import multiprocessing
import pickle
import random
import sys
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.utils import EzPickle
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper, VecMonitor

from spikeloop.agents.workers import GONE, blame_worker

_NO_STATE: tuple[tuple[type, set[str]], ...] = (
    (gym.Wrapper, {"env", "_cached_spec"}),
    (gym.Env, {"spec"}),
    (Monitor, {"results_writer"}),
    (VecEnvWrapper, {"venv", "class_attributes"}),
    (VecMonitor, {"results_writer"}),
)
_OF_VEC_ENV = {"_seeds", "_options", "reset_infos"}  # its buffers are written anew in every step
_OTHERWISE = "it is of one with other wrappers, or that was made in another way"


class _Unsaved(Exception):
    """Why something cannot be saved or loaded."""


def save_env(env: gym.Env, name: str) -> bytes | str:
    """Return the state of an environment with its wrappers; in words, why it cannot be saved.

    Args:
        env: The environment.
        name: What to call it in these words.
    """
    try:
        own = _own_state(env.unwrapped)
        return _save(_layers(env), {"own": own, "process": _process()}, vouches=own is not None)
    except Exception as error:
        return f"{name} cannot be saved: {_one_line(error)}"


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
        more = _load(_layers(env), state)
        if more["own"] is not None:
            task.set_state(*more["own"])
        if more["process"] is not None:
            _set_process(more["process"])
    except Exception as error:
        return f"the state of {name} cannot be restored: {_one_line(error)}"
    return None


def venv_state(venv: VecEnv) -> dict[str, Any] | str:
    """Return the state of vectorised environments and of the wrappers around them; in words, why it cannot be saved.

    Args:
        venv: The environments, each of them in a :class:`~spikeloop.agents.guarded_env.GuardedEnv`.

    Raises:
        EnvironmentFailed: If a worker process has died.
    """
    layers = _layers(venv)
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
        return {"envs": envs, "wrappers": _save(layers, {})}
    except Exception as error:
        return f"what is around the environments cannot be saved: {_one_line(error)}"


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
            _load(_layers(venv), state["wrappers"])
        except Exception as error:
            reason = f"the state of what is around the environments cannot be restored: {_one_line(error)}"
    return reason


def _layers(env: Any) -> list[Any]:
    """Return wrappers and task, the outermost first."""
    layers = [env]
    while isinstance(env, (gym.Wrapper, VecEnvWrapper)):
        env = env.env if isinstance(env, gym.Wrapper) else env.venv
        layers.append(env)
    return layers


def _save(layers: list[Any], more: dict[str, Any], vouches: bool = False) -> bytes:
    """Return the pickled state of layers with ``more`` beside it.

    Args:
        layers: Wrappers and task.
        more: What else to keep.
        vouches: Whether attributes of the task may be left out that cannot be pickled.
    """
    fixed = _fixed(layers)
    state = {name: _inside(thing) for name, thing in fixed.items()}
    left: list[str] = []
    try:
        return _dump({"state": state, "left": left, **more}, fixed)
    except Exception as error:
        found = [(name, key, why) for name, inside in state.items() for key, why in _not_picklable(inside, fixed)]
        task = next(name for name, thing in fixed.items() if thing is layers[-1])
        if not found or not vouches or any(name != task for name, *_ in found):
            name, key, why = (found or [("", "", error)])[0]
            place = f"attribute {name.partition(':')[2]}.{key}: " * bool(found)
            raise _Unsaved(f"{place}{_one_line(why)}") from error
    left += [key for _, key, _ in found]
    state[task] = {key: value for key, value in state[task].items() if key not in left}
    return _dump({"state": state, "left": left, **more}, fixed)


def _load(layers: list[Any], pickled: bytes) -> dict[str, Any]:
    """Fill layers with the state of others, and return what was kept beside it."""
    fixed = _fixed(layers)
    loaded = _Unpickler(pickled, fixed).load()
    _same(sorted(loaded["state"]), sorted(fixed))
    for name, inside in loaded["state"].items():
        if isinstance(fixed[name], types.FunctionType):
            _same(inside["code"], _code(fixed[name]))
    for name, inside in loaded["state"].items():
        _fill(fixed[name], inside, loaded["left"] if fixed[name] is layers[-1] else ())
    return loaded


def _same(saved: Any, found: Any) -> None:
    if saved != found:
        raise _Unsaved(_OTHERWISE)


def _fixed(layers: list[Any]) -> dict[str, Any]:
    """Return what stays what it is when a state is loaded, by the name by which a state refers to it."""
    fixed: dict[str, Any] = {}

    def add(name: str, thing: Any) -> None:
        if any(thing is other for other in fixed.values()):
            return
        fixed[name] = thing
        if isinstance(thing, types.FunctionType):
            for key, value in _cells(thing).items():
                if _is_own(value):
                    add(f"{name}.{key}", value)

    for i, layer in enumerate(layers):
        name = f"{i}:{type(layer).__name__}"
        add(name, layer)
        for key in ("observation_space", "action_space"):
            if isinstance(getattr(layer, key, None), spaces.Space):
                add(f"{name}.{key}", getattr(layer, key))
        for key, value in _attributes(layer).items():
            if _is_own(value):
                add(f"{name}.{key}", value)
    return fixed


def _is_own(value: Any) -> bool:
    """Return whether something is a function that cannot be imported."""
    if not isinstance(value, types.FunctionType):
        return False
    found: Any = sys.modules.get(value.__module__ or "")
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is not value


def _inside(thing: Any) -> dict[str, Any]:
    """Return what there is to save of something fixed."""
    if isinstance(thing, types.FunctionType):
        return {
            "code": _code(thing),
            "cells": _cells(thing),
            "defaults": (thing.__defaults__, thing.__kwdefaults__),
            "attributes": vars(thing),
        }
    return dict(vars(thing)) if isinstance(thing, spaces.Space) else _attributes(thing)


def _fill(thing: Any, inside: Mapping[str, Any], left: Collection[str]) -> None:
    """Put into something fixed what was inside another one, all but what was left out."""
    if isinstance(thing, types.FunctionType):
        for variable, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
            if variable in inside["cells"]:
                cell.cell_contents = inside["cells"][variable]
        thing.__defaults__, thing.__kwdefaults__ = inside["defaults"]
        thing.__dict__.update(inside["attributes"])
        return
    slots = {} if isinstance(thing, spaces.Space) else _slots(thing)
    for name in set(_inside(thing)) - set(inside) - set(left):
        delattr(thing, name)
    for name, value in inside.items():
        if name in slots:
            slots[name].__set__(thing, value)
        else:
            vars(thing)[name] = value


def _attributes(layer: Any) -> dict[str, Any]:
    """Return the attributes of a layer that are its state."""
    if isinstance(layer, (DummyVecEnv, SubprocVecEnv)):
        return {name: getattr(layer, name) for name in _OF_VEC_ENV}
    no_state = {name for kind, names in _NO_STATE if isinstance(layer, kind) for name in names}
    slots = {name: slot.__get__(layer) for name, slot in _slots(layer).items() if hasattr(layer, name)}
    found = {**vars(layer), **slots}
    return {name: value for name, value in found.items() if name not in no_state}


def _slots(layer: Any) -> dict[str, types.MemberDescriptorType]:
    return {
        name: member
        for kind in type(layer).__mro__
        for name, member in vars(kind).items()
        if isinstance(member, types.MemberDescriptorType)
    }


def _code(function: types.FunctionType) -> tuple[Any, ...]:
    code = function.__code__
    return function.__qualname__, code.co_code, code.co_names, code.co_freevars


def _cells(function: types.FunctionType) -> dict[str, Any]:
    """Return the variables of its surroundings that a function uses."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}  # an empty one


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


def _dump(thing: Any, fixed: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, fixed).dump(thing)
    return file.getvalue()


def _not_picklable(inside: Mapping[str, Any], fixed: Mapping[str, Any]) -> Iterator[tuple[str, Exception]]:
    for key, value in inside.items():
        try:
            _dump(value, fixed)
        except Exception as error:
            yield key, error


def _one_line(error: Exception) -> str:
    return " ".join(f"{error}".split()) or type(error).__name__


class _Pickler(pickle.Pickler):
    """Refers to what is fixed by its name, and refuses what would come back as something else."""

    def __init__(self, file: io.BytesIO, fixed: Mapping[str, Any]):
        super().__init__(file, protocol=4)  # whose arrays own their memory when they are loaded
        self._names = {id(thing): name for name, thing in fixed.items()}

    def persistent_id(self, thing: Any) -> str | None:
        if type(thing) in (set, frozenset) and not _keeps_order(thing):
            raise _Unsaved("the order of a set's elements would be another one")
        return self._names.get(id(thing))

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is np.ndarray and thing.base is not None:
            return _reduce_view(thing)
        if isinstance(thing, EzPickle):  # which keeps the arguments it was made with, and nothing else
            return copyreg.__newobj__, (type(thing),), vars(thing), None, None, _set_vars  # type: ignore[attr-defined]
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, fixed: Mapping[str, Any]):
        super().__init__(io.BytesIO(pickled))
        self._fixed = fixed

    def persistent_load(self, name: str) -> Any:
        if name not in self._fixed:
            raise _Unsaved(_OTHERWISE)
        return self._fixed[name]


def _keeps_order(things: set[Any] | frozenset[Any]) -> bool:
    """Return whether a set built anew has its elements in the same order, and goes on having them so.

    What was added and removed in which order decides on that besides the elements; so does the size of the table.
    """
    again = type(things)(list(things))
    same = all(one is other for one, other in zip(again, things, strict=True))
    return same and (isinstance(things, frozenset) or sys.getsizeof(again) == sys.getsizeof(things))


def _reduce_view(array: np.ndarray) -> Any:
    """Return how to make an array again that looks into another one's memory, and is to go on doing so."""
    base = array.base
    if isinstance(base, bytes):
        return NotImplemented
    if type(base) is not np.ndarray or array.dtype.hasobject:
        raise _Unsaved(f"an array looks into the memory of {type(base).__name__}")
    start = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return _view, (base, array.shape, array.dtype, start, array.strides)


def _view(
    base: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, start: int, strides: tuple[int, ...]
) -> np.ndarray:
    return np.ndarray(shape, dtype, base if base.flags.c_contiguous else base.T, start, strides)


def _set_vars(thing: Any, state: Mapping[str, Any]) -> None:
    vars(thing).update(state)
