"""The state of an environment's layers, its wrappers and task, as a pickle that is put into layers like them.

The state is the attributes of the layers, with all that hangs from them, and what a function holds that is an attribute
but nobody else's, such as a lambda. In the new environment the layers, their spaces and these functions are *fixed*:
they are not replaced but filled, so that whoever refers to one refers to the right one. What cannot be saved is named;
left out is only what is no state: a monitor's file, specs.

What is not to be seen from there is not saved, and nobody can tell: values of modules and classes, files, other
processes, what a library keeps behind an object that pickles without it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnvWrapper, VecMonitor

from spikeloop.agents.faithful_pickle import OTHERWISE, Unsaved, dump, load

_NO_STATE: tuple[tuple[type, set[str]], ...] = (
    (gym.Wrapper, {"env", "_cached_spec"}),
    (gym.Env, {"spec"}),
    (Monitor, {"results_writer"}),
    (VecEnvWrapper, {"venv", "class_attributes"}),
    (VecMonitor, {"results_writer"}),
)
_OF_VEC_ENV = {"_seeds", "_options", "reset_infos"}  # its buffers are written anew in every step


def layers_of(env: Any) -> list[Any]:
    """Return wrappers and task, the outermost first."""
    layers = [env]
    while isinstance(env, (gym.Wrapper, VecEnvWrapper)):
        env = env.env if isinstance(env, gym.Wrapper) else env.venv
        layers.append(env)
    return layers


def save_layers(layers: list[Any], more: dict[str, Any], vouches: bool = False) -> bytes:
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
        return dump({"state": state, "left": left, **more}, fixed)
    except Exception as error:
        found = [(name, key, why) for name, inside in state.items() for key, why in _not_picklable(inside, fixed)]
        task = next(name for name, thing in fixed.items() if thing is layers[-1])
        if not found or not vouches or any(name != task for name, *_ in found):
            name, key, why = (found or [("", "", error)])[0]
            place = f"attribute {name.partition(':')[2]}.{key}: " * bool(found)
            raise Unsaved(f"{place}{in_one_line(why)}") from error
    left += [key for _, key, _ in found]
    state[task] = {key: value for key, value in state[task].items() if key not in left}
    return dump({"state": state, "left": left, **more}, fixed)


def load_layers(layers: list[Any], pickled: bytes) -> dict[str, Any]:
    """Fill layers with the state of others, and return what was kept beside it."""
    fixed = _fixed(layers)
    loaded = load(pickled, fixed)
    _same(sorted(loaded["state"]), sorted(fixed))
    for name, inside in loaded["state"].items():
        if isinstance(fixed[name], types.FunctionType):
            _same(inside["code"], _code(fixed[name]))
    for name, inside in loaded["state"].items():
        _fill(fixed[name], inside, loaded["left"] if fixed[name] is layers[-1] else ())
    return loaded


def _same(saved: Any, found: Any) -> None:
    if saved != found:
        raise Unsaved(OTHERWISE)


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


def _not_picklable(inside: Mapping[str, Any], fixed: Mapping[str, Any]) -> Iterator[tuple[str, Exception]]:
    for key, value in inside.items():
        try:
            dump(value, fixed)
        except Exception as error:
            yield key, error


def in_one_line(error: Exception) -> str:
    """Return the message of an exception in one line; the name of its class if it has none."""
    return " ".join(f"{error}".split()) or type(error).__name__
