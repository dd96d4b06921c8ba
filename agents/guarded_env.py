"""The outermost wrapper of an environment in a run: names its failures in one line, saves and restores its state."""

from __future__ import annotations

import errno
import math
import signal
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spikeloop.agents.environment_state import load_env, save_env
from spikeloop.agents.failures import LARGEST, EnvironmentFailed
from spikeloop.agents.workers import POLITE

# Errors of the machine: an environment may raise them, but they are not its fault.
MACHINE = tuple(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EFBIG", "EMFILE", "ENFILE", "ENOMEM")
)
_HANDED_OVER = "spikeloop.failure"  # key of an info
_LIBRARIES = ("gymnasium.", "stable_baselines3.", "rl_zoo3.")
_FLAGS = (bool, np.bool_)


class GuardedEnv(gym.Wrapper):
    """Raises :class:`~spikeloop.agents.failures.EnvironmentFailed` for whatever is wrong with an environment.

    That is an exception in ``step`` or ``reset``, or a result that SB3 cannot use, or that SB3 would use although it is
    wrong: it would repeat an observation of shape (1,) to fill shape (4,). Errors of the machine, such as a full disk
    under a monitor's file, pass unchanged. NaN and infinity are left to
    :class:`~spikeloop.agents.check_finite.CheckFinite`.

    Args:
        env: The environment, with all other wrappers.
        hand_over: Put the exception into the info instead of raising it; :func:`raise_handed_over` raises it in the
            main process. For worker processes, whose own exceptions are lost with them.

    Attributes:
        label: What to call the environment.
        n_steps: Steps so far.

    >>> class Broken(gym.Env):
    ...     observation_space, action_space = spaces.Box(0, 1, (4,)), spaces.Discrete(2)
    ...     def step(self, action):
    ...         return np.zeros(3, np.float32), 0.0, False, False, {}
    >>> GuardedEnv(Broken()).step(0)
    Traceback (most recent call last):
    spikeloop.agents.failures.EnvironmentFailed: Broken returned an observation of shape (3,), expected (4,) in step 1
    """

    def __init__(self, env: gym.Env, hand_over: bool = False):
        super().__init__(env)
        self.hand_over = hand_over
        self.label = type(env.unwrapped).__name__ if env.spec is None else env.spec.id
        self.n_steps = 0
        box = self.observation_space if isinstance(self.observation_space, spaces.Box) else None
        self._shape = None if box is None else box.shape
        self._dtype = None if box is None else box.dtype

    @property
    def spec(self) -> Any:
        """The environment's own spec, without this wrapper, which need not be made again."""
        return self.env.spec

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        self.n_steps += 1
        try:
            results = self.env.step(action)
            if type(results) is not tuple or len(results) != 5:
                raise _wrong_number(results, 5)
            obs, reward, terminated, truncated, info = results
            # fast path for the ordinary case
            if not (
                type(obs) is np.ndarray
                and obs.shape == self._shape
                and obs.dtype == self._dtype
                and isinstance(reward, float)
                and -LARGEST < reward < LARGEST
                and type(terminated) in _FLAGS
                and type(truncated) in _FLAGS
                and type(info) is dict
            ):
                _check_observation(obs, self.observation_space)
                _check_reward(reward)
                _check_flag("terminated", terminated)
                _check_flag("truncated", truncated)
                _check_info(info)
        except (Exception, SystemExit) as error:
            return _zeros(self.observation_space), 0.0, False, False, self._answer(error, f"step {self.n_steps}")
        return results

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        try:
            results = self.env.reset(**kwargs)
            if not isinstance(results, tuple) or len(results) != 2:
                raise _wrong_number(results, 2)
            _check_observation(results[0], self.observation_space)
            _check_info(results[1])
        except (Exception, SystemExit) as error:
            return _zeros(self.observation_space), self._answer(error, f"the reset after step {self.n_steps}")
        return results

    def save_state(self) -> bytes | str:
        """Return the state of the environment; in words, why it cannot be saved."""
        return save_env(self, self.label)

    def load_state(self, state: bytes) -> str | None:
        """Put the environment where another one like it was saved; return why that cannot be done, None if it was."""
        return load_env(self, state, self.label)

    def _answer(self, error: BaseException, when: str) -> dict[str, Any]:
        """Raise by its name what went wrong, or return it in an info for another process to raise."""
        named = _named(error, self.label, when)
        if not self.hand_over:
            _raise(named, error)
        if isinstance(named, OSError):  # rebuilt, as another process may not be able to unpickle all that it holds
            named = OSError(named.errno, named.strerror, named.filename)
        elif isinstance(named, MemoryError):
            named = MemoryError(str(named))
        named.add_note("".join(traceback.format_exception(error)))
        return {_HANDED_OVER: named}


def guarded(wrapper: Callable[[gym.Env], gym.Env] | None, hand_over: bool, env: gym.Env) -> GuardedEnv:
    """Return an environment behind another wrapper, if there is one, and then behind :class:`GuardedEnv`.

    With ``hand_over`` this process is a worker. It then ignores the signals that ask a group of processes to end, so
    that the main process can save before the workers go.
    """
    if hand_over:
        for number in POLITE:
            signal.signal(number, signal.SIG_IGN)
    return GuardedEnv(env if wrapper is None else wrapper(env), hand_over)


def raise_handed_over(infos: Iterable[Mapping[str, Any]]) -> None:
    """Raise the failure that a worker process has put into an info, if there is one."""
    for info in infos:
        if _HANDED_OVER in info:
            raise info[_HANDED_OVER]


def call_guarded(label: str, method: Callable[..., Any], *args: Any) -> Any:
    """Return what a method of an environment does, and name what goes wrong in it as :class:`GuardedEnv` does."""
    try:
        return method(*args)
    except (Exception, SystemExit) as error:
        _raise(_named(error, label, f"{method.__name__}()"), error)


class _Wrong(Exception):
    """What is wrong with what an environment returned, in words."""


def _raise(named: BaseException, error: BaseException) -> NoReturn:
    if named is error:
        raise error
    raise named from error


def _named(error: BaseException, label: str, when: str) -> BaseException:
    """Return the error to raise for one that came out of an environment."""
    if isinstance(error, (MemoryError, EnvironmentFailed)) or getattr(error, "errno", None) in MACHINE:
        return error
    if isinstance(error, _Wrong):
        return EnvironmentFailed(f"{label} returned {error} in {when}")
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    taker, text = frame.f_locals.get("self"), _one_line(error)
    if isinstance(taker, gym.Wrapper) and type(taker).__module__.startswith(_LIBRARIES):
        return EnvironmentFailed(f"{label} returned what {type(taker).__name__} cannot take in {when}: {text}")
    place = f"{Path(frame.f_code.co_filename).name}, line {line}"
    return EnvironmentFailed(f"{label} raised {type(error).__name__} in {when}: {text or 'it says no more'} ({place})")


def _one_line(thing: Any, most: int = 300) -> str:
    text = " ".join(str(thing).split())
    return text if len(text) <= most else f"{text[:most]}..."


def _in_words(thing: Any) -> str:
    """Return what something is, for a message."""
    if isinstance(thing, np.ndarray):
        return f"an array of {thing.dtype} of shape {thing.shape}"
    return "None" if thing is None else f"{_one_line(repr(thing), 40)} ({type(thing).__name__})"


def _wrong_number(results: Any, expected: int) -> _Wrong:
    found = f"{len(results)} values" if isinstance(results, (tuple, list)) else _in_words(results)
    return _Wrong(f"{found}, expected a tuple of {expected}")


def _check_observation(obs: Any, space: spaces.Space, part: str = "") -> None:
    """Refuse an observation that has another shape than the space, or numbers that the space's type cannot hold."""
    if isinstance(space, spaces.Discrete) and isinstance(obs, (int, np.integer)) and 0 <= obs - space.start < space.n:
        return
    if type(obs) is np.ndarray and obs.shape == space.shape and obs.dtype == space.dtype and type(space) is spaces.Box:
        return
    what = f"part {part} of an observation" if part else "an observation"
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping):
            raise _Wrong(f"{what} that is {_in_words(obs)}, expected a dict of {', '.join(map(repr, space.spaces))}")
        for key, inner in space.spaces.items():
            if key not in obs:
                raise _Wrong(f"{what} without {key!r}")
            _check_observation(obs[key], inner, f"{part}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(obs, (tuple, list)) or len(obs) != len(space.spaces):
            raise _Wrong(f"{what} that is {_in_words(obs)}, expected a tuple of {len(space.spaces)}")
        for index, inner in enumerate(space.spaces):
            _check_observation(obs[index], inner, f"{part}[{index}]")
    elif space.shape is not None and space.dtype is not None:  # others hold no array, and no policy takes them
        _check_array(obs, space, what)


def _check_array(obs: Any, space: spaces.Space, what: str) -> None:
    array = _numbers(obs)
    if array is None:
        raise _Wrong(f"{what} that is {_in_words(obs)}, expected {space.dtype} of shape {space.shape}")
    if array.shape != space.shape:
        raise _Wrong(f"{what} of shape {array.shape}, expected {space.shape}")
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        n = space.n if isinstance(space, spaces.Discrete) else space.nvec
        fits = (array >= space.start) & (array < space.start + n) & (array == np.floor(array))
    elif array.dtype != space.dtype and np.dtype(space.dtype).kind in "biu":  # where SB3 cuts off
        with np.errstate(invalid="ignore"):
            fits = array == array.astype(space.dtype)
    else:
        return
    if not np.all(fits):
        raise _Wrong(f"{what} that holds {array[~fits].flat[0]}, expected one of {_one_line(space)}")


def _numbers(value: Any) -> np.ndarray | None:
    """Return real numbers as an array; None if it is something else."""
    try:
        array = np.asarray(value)
    except Exception:  # rows of several lengths, for example
        return None
    return array if array.dtype.kind in "biuf" else None


def _check_reward(reward: Any) -> None:
    number: Any = reward if isinstance(reward, (int, float)) else _numbers(reward)
    if number is None or np.ndim(number):
        raise _Wrong(f"a reward that is {_in_words(reward)}, expected a number")
    if LARGEST <= abs(number) < math.inf:
        raise _Wrong(f"a reward of {number}, beyond {LARGEST:g}")


def _check_flag(name: str, flag: Any) -> None:
    number = np.array(False) if type(flag) in _FLAGS else _numbers(flag)
    if number is None or number.shape:
        raise _Wrong(f"{name} = {_in_words(flag)}, expected True or False")


def _check_info(info: Any) -> None:
    if not isinstance(info, dict):
        raise _Wrong(f"an info that is {_in_words(info)}, expected a dict")


def _zeros(space: spaces.Space) -> Any:
    """Return an observation of zeros."""
    if isinstance(space, spaces.Dict):
        return {key: _zeros(inner) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(map(_zeros, space.spaces))
    return np.zeros(space.shape or (), space.dtype)
