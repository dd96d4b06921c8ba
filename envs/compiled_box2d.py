"""LunarLander compiled: Box2D's own world moves on, by calls from a kernel.

As :mod:`spikeloop.envs.compiled`, but the state is the environment's own world: a kernel's steps are steps of the
environment. They cannot be taken back, so a step that ends an episode is not left to the environment, which is only
told what it came to. Sparks of the engines, which touch nothing but pictures, are left out.

Box2D is an extra, and nothing here imports it before there is such an environment.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import gymnasium as gym
import numpy as np

from spikeloop.envs import box2d_kernels as kernels
from spikeloop.envs.compiled import STEP, compile_step, has_own, written_in
from spikeloop.envs.compiled_continuous import STEP as STEP_CONTINUOUS

_MODULE = "gymnasium.envs.box2d.lunar_lander"
# what a step reads beyond addresses: numbers of that module, then the environment's height of the landing place
_CONSTANTS = (
    "SCALE", "MAIN_ENGINE_POWER", "SIDE_ENGINE_POWER", "MAIN_ENGINE_Y_LOCATION", "SIDE_ENGINE_HEIGHT",
    "SIDE_ENGINE_AWAY", "LEG_DOWN", "VIEWPORT_W", "VIEWPORT_H", "FPS",
)  # fmt: skip
_METHODS = ("step", "reset", "_destroy")  # if one is replaced, the task is another one
_HEARS = {"BeginContact", "EndContact"}  # methods of Gymnasium's listener to contacts
_SOLVES = {"PreSolve", "PostSolve"}  # methods that it does not have; Box2D would call them
_CHECKED_STEPS = 400


@dataclass(frozen=True, eq=False)
class Lander:
    """LunarLander, with the members of :class:`~spikeloop.envs.compiled.Compiled`.

    Args:
        step: The step, a C function of the signature for its actions.
    """

    step: Any
    n_obs: int = 8
    n_state: int = 0

    def body(self, env: Any) -> np.ndarray:
        """Return addresses of functions and of what they work on, as bits, and the constants as they are now."""
        functions, record, generator = _functions(), _record(env), env.np_random.bit_generator.ctypes
        assert functions is not None
        record[kernels.TABLE] = functions.table.ctypes.data
        record[kernels.HULL], record[kernels.LEGS : kernels.CRASHED] = _at(env.lander), [_at(leg) for leg in env.legs]
        record[kernels.CRASHED] = bool(env.game_over)
        record[kernels.TOUCHES : kernels.SHAPING] = [bool(leg.ground_contact) for leg in env.legs]
        record.view(np.float64)[kernels.SHAPING] = env.prev_shaping
        addresses = np.zeros(kernels.N_ADDRESSES, np.int64)
        addresses[:] = [
            functions.step, functions.set_listener, ctypes.cast(generator.next_double, ctypes.c_void_p).value or 0,
            generator.state_address, _at(env.world), _at(env.lander), _at(env.world.contactListener),
            record.ctypes.data,
        ]  # fmt: skip
        module = sys.modules[_MODULE]
        numbers = [*(getattr(module, name) for name in _CONSTANTS), env.helipad_y]
        return np.concatenate([addresses.view(np.float64), np.array(numbers, np.float64)])

    def state(self, env: Any) -> np.ndarray | None:
        """Return nothing, as the state is where the environment has it; None if its next step is not this one's."""
        return np.zeros(0) if env.world is not None and _hears_as_known(env.world) and env.lander.awake else None

    def set_state(self, env: Any, state: np.ndarray, n_steps: int) -> None:
        """Tell an environment of the contacts that the kernel has heard of, and the shaping of its last step."""
        record = _record(env)
        env.prev_shaping = record.view(np.float64)[kernels.SHAPING]
        env.game_over = bool(record[kernels.CRASHED])
        for leg, touches in zip(env.legs, record[kernels.TOUCHES : kernels.SHAPING].tolist(), strict=True):
            leg.ground_contact = bool(touches)

    def finish(self, env: Any, obs: np.ndarray) -> tuple[Any, ...]:
        """Return what an environment's step returns, where the kernel's last step was that step and ended the episode.

        Args:
            env: The environment.
            obs: What the kernel saw, shape (8,).

        Returns:
            Observation, reward, whether the episode ended, whether a time limit did so, and what else there is to say.
        """
        self.set_state(env, np.zeros(0), 1)
        return obs.astype(np.float32), -100 if env.lander.awake else 100, True, False, {}


def lander_of(env: gym.Env) -> Lander | str | None:
    """Return the compiled form of a LunarLander; in words, what keeps it from one; None if it is no such task.

    >>> lander_of(gym.make("CartPole-v1")) is None
    True
    """
    task: Any = env.unwrapped
    cls = type(task)
    if (cls.__module__, cls.__qualname__) != (_MODULE, "LunarLander"):
        return None
    changed = next((method for method in _METHODS if not has_own(task, method)), None)
    if changed:
        return f"{changed} of {cls.__name__} is not Gymnasium's"
    if task.enable_wind:
        return f"wind blows in {cls.__name__}"
    if not _is_gymnasiums_listener(sys.modules[_MODULE].ContactDetector):
        return f"what hears of contacts in {cls.__name__} is not Gymnasium's"
    return _obstacle(bool(task.continuous)) or _form(bool(task.continuous))


def _is_gymnasiums_listener(cls: type) -> bool:
    """Return whether a class hears of contacts as the one that the kernels stand for."""
    hears = all(written_in(getattr(cls, name)) == _MODULE for name in _HEARS)
    return (cls.__module__, cls.__qualname__) == (_MODULE, "ContactDetector") and hears and not _SOLVES & set(vars(cls))


def _hears_as_known(world: Any) -> bool:
    """Return whether a world tells only a listener of Gymnasium's of contacts, and asks nobody which there are."""
    listener = world.contactListener
    if world.contactFilter is not None or listener is None or not _is_gymnasiums_listener(type(listener)):
        return False
    return not (_SOLVES | _HEARS) & set(vars(listener))


@cache
def _form(continuous: bool) -> Lander:
    if continuous:
        return Lander(compile_step(kernels.step_continuous, STEP_CONTINUOUS))
    return Lander(compile_step(kernels.step_discrete, STEP))


@dataclass(frozen=True)
class _Functions:
    step: int
    set_listener: int
    table: np.ndarray
    """Of a listener that is a record, int64: Box2D's own functions, but those here where a contact begins or ends."""


@cache
def _functions() -> _Functions | None:
    """Return the addresses of Box2D's functions in the library that Python uses; None if it does not show them."""
    listener = "_ZN17b2ContactListener"
    try:
        library = ctypes.CDLL(importlib.import_module("Box2D._Box2D").__file__)
        found = [
            ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
            for name in (
                "_ZN7b2World4StepEfii", "_ZN7b2World18SetContactListenerEP17b2ContactListener",
                f"{listener}12BeginContactEP9b2Contact", f"{listener}10EndContactEP9b2Contact",
            )
        ]  # fmt: skip
        # before the functions come two words that C++ keeps there for casts
        table = np.array((ctypes.c_int64 * 8).in_dll(library, "_ZTV17b2ContactListener"))[2:]
    except (AttributeError, ImportError, OSError, ValueError):
        return None
    for function, theirs in zip((kernels.begin_contact, kernels.end_contact), found[2:], strict=True):
        if np.sum(table == theirs) != 1:
            return None
        table[table == theirs] = _hearing(function).address
    return _Functions(found[0], found[1], table)


@cache
def _hearing(function: Callable) -> Any:
    return compile_step(function, kernels.HEARS)


_RECORDS: WeakKeyDictionary[gym.Env, np.ndarray] = WeakKeyDictionary()


def _record(task: Any) -> np.ndarray:
    """Return what stands for a listener to a task's contacts, int64, the same memory each time."""
    return _RECORDS.setdefault(task, np.zeros(kernels.N_RECORD, np.int64))


def _at(thing: Any) -> int:
    """Return the address of a Box2D object, 0 for None."""
    return 0 if thing is None else int(thing.this)


@cache
def _obstacle(continuous: bool) -> str | None:
    """Return in words why this library's worlds cannot be moved by address; None if they can, which is tried out."""
    if _functions() is None:
        return "the functions of Box2D's library are not found"
    cls = sys.modules[_MODULE].LunarLander
    try:
        if not _is_laid_out_as_known(cls()):
            return "Box2D's objects are laid out in another way here"
        if not _takes_the_same_steps(cls(continuous=continuous), cls(continuous=continuous)):
            return "steps of Box2D by address have other bits here"
    except Exception as error:  # of a version that is made otherwise
        return f"steps of Box2D by address cannot be tried out here ({type(error).__name__}: {error})"
    return None


def _is_laid_out_as_known(env: Any) -> bool:
    """Return whether bodies and contacts have their parts where the kernels look for them, in a lander that falls."""
    env.reset(seed=0)
    touched = False
    for _ in range(_CHECKED_STEPS):
        over = env.step(1)[2]
        if not all(map(_is_known_body, (env.lander, *env.legs))) or not all(map(_is_known_contact, env.world.contacts)):
            return False
        touched = touched or bool(env.world.contacts)
        if over:
            env.lander.awake = False  # no body falls asleep by itself here
            asleep = _is_known_body(env.lander)
            env.lander.awake = True
            return touched and asleep and _is_known_body(env.lander)
    return False


def _is_known_body(body: Any) -> bool:
    words = np.array((ctypes.c_float * kernels.N_WORDS).from_address(_at(body)))
    flags = (ctypes.c_uint16 * (kernels.FLAGS + 1)).from_address(_at(body))[kernels.FLAGS]
    said = [*body.position, *body.worldCenter, body.angle, *body.linearVelocity, body.angularVelocity]
    places = (kernels.POSITION, kernels.CENTER, kernels.ANGLE, kernels.VELOCITY, kernels.SPIN)
    found = np.concatenate([words[at : at + n] for at, n in zip(places, (2, 2, 1, 2, 1), strict=True)])
    center = body.worldCenter - body.position
    inertia = body.inertia - body.mass * center.dot(center)  # of the body around its center
    inverses = words[[kernels.INVERSE_MASS, kernels.INVERSE_INERTIA]]
    return (
        np.array_equal(found, np.array(said, np.float32))
        and bool(flags & kernels.AWAKE) == body.awake
        and np.allclose(inverses, [1 / body.mass, 1 / inertia], rtol=1e-4)
    )


def _is_known_contact(contact: Any) -> bool:
    words = (ctypes.c_int64 * kernels.N_CONTACT).from_address(_at(contact))
    bodies = [_at(contact.fixtureA.body), _at(contact.fixtureB.body)]
    return [words[kernels.BODY_A], words[kernels.BODY_B]] == bodies


def _takes_the_same_steps(mine: Any, other: Any) -> bool:
    """Return whether steps by address have the bits of the environment's own, in some episodes of random actions."""
    form, rng, seen, given = _form(mine.continuous), np.random.default_rng(0), np.zeros(9), np.zeros(2)
    step_at = compile_step(kernels.step_at, kernels.STEP_AT).ctypes
    mine.reset(seed=1)
    other.reset(seed=1)
    body = form.body(mine)
    for _ in range(_CHECKED_STEPS):
        action: Any = np.float32(rng.uniform(-1, 1, 2)) if mine.continuous else int(rng.integers(4))
        given[:] = action
        reward = step_at(mine.continuous, given.ctypes.data, body.ctypes.data, seen.ctypes.data)
        expected, ends = other.step(action), bool(seen[8])
        same = np.array_equal(seen[:8], expected[0]) and ends == expected[2]
        if not same or (not ends and reward != expected[1]):
            return False
        if ends:
            mine.reset()
            other.reset()
            body = form.body(mine)
    return True
