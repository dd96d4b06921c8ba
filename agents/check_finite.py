"""NaN, infinity and numbers beyond all use are refused: from environments, callers of ``predict`` and updates.

A number is beyond all use if its square overflows float32, the dtype in which networks learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, is_vecenv_wrapped, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from spikeloop.agents.failures import LARGEST, NonFiniteError
from spikeloop.agents.guarded_env import raise_handed_over
from spikeloop.agents.workers import GONE, blame_worker

_LARGEST_SQUARE = LARGEST**2


class CheckFinite(VecEnvWrapper):
    """Raises :class:`NonFiniteError`, naming the environment, when an observation or a reward is NaN or infinite.

    SB3's ``VecCheckNan`` names neither the environment nor the value's origin within the batch. What went wrong in a
    worker process is raised here too: failures that it handed over, and its death.

    Args:
        venv: The environments, before any normalisation.
        name: What to call them in the message.

    >>> import gymnasium as gym
    >>> from stable_baselines3.common.vec_env import DummyVecEnv
    >>> venv = CheckFinite(DummyVecEnv([lambda: gym.make("CartPole-v1")]), "CartPole-v1")
    >>> venv.reset().shape
    (1, 4)
    """

    def __init__(self, venv: VecEnv, name: str = ""):
        super().__init__(venv)
        self.name = name

    def reset(self) -> VecEnvObs:
        """Reset the environments."""
        try:
            obs = self.venv.reset()
        except GONE:
            blame_worker(self.venv, self.name)
            raise
        raise_handed_over(self.venv.unwrapped.reset_infos)
        check_first(self.venv, obs, self.name)
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step."""
        try:
            self.venv.step_async(actions)
        except GONE:
            blame_worker(self.venv, self.name)
            raise

    def step_wait(self) -> VecEnvStepReturn:
        """Return the result of the step."""
        try:
            results = self.venv.step_wait()
        except GONE:
            blame_worker(self.venv, self.name)
            raise
        raise_handed_over(results[3])
        if True in results[2]:
            raise_handed_over(self.venv.unwrapped.reset_infos)
        check_step(self.venv, *results, name=self.name)
        return results


def check_step(
    env: VecEnv, obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]], name: str = ""
) -> None:
    """Refuse NaN and infinity in what a step of vectorised environments returned.

    Args:
        env: The environments. Behind a VecNormalize what it was given is looked at too: it may have clipped infinity.
        obs: Observations, shape (B, ...) or a mapping of such.
        rewards: Rewards, shape (B,).
        dones: Whether an episode ended, shape (B,).
        infos: What else they told; the last observation of an episode is in there.
        name: What to call the environments.

    Raises:
        NonFiniteError: If a number is not finite.
    """
    normalized = unwrap_vec_normalize(env)
    if normalized is not None:
        _check("reward", normalized.old_reward, name)
        _check("observation", normalized.old_obs, name)
    _check("observation", obs, name)
    _check("reward", rewards, name)
    for index, done in enumerate(dones.tolist()):
        if done:
            _check("last observation of an episode", infos[index].get("terminal_observation", 0.0), name, index)


def check_first(env: VecEnv, obs: Any, name: str = "") -> None:
    """Refuse NaN and infinity in the observations of vectorised environments; see :func:`check_step`."""
    normalized = unwrap_vec_normalize(env)
    if normalized is not None:
        _check("observation", normalized.old_obs, name)
    _check("observation", obs, name)


def is_checked(env: VecEnv | None) -> bool:
    """Return whether a wrapper already looks at what environments return."""
    return env is not None and is_vecenv_wrapped(env, CheckFinite)


def check_predicted(observation: Any) -> None:
    """Refuse NaN and infinity in what ``predict`` is called with: an array or a mapping of arrays.

    Raises:
        NonFiniteError: If a number is not finite.
    """
    found = _first(observation)
    if found is not None:
        raise NonFiniteError(f"predict() needs a finite observation, got one with {found[1]}")


def all_small(array: np.ndarray) -> bool:
    """Return whether the sum of squares shows that no number is NaN, infinite or too large; if not, one may still be.

    A sum of squares takes less time than a look at each number, and vdot does not warn where it overflows.
    """
    return float(np.vdot(array, array)) < _LARGEST_SQUARE


def check_learnt(arrays: Iterable[tuple[str, th.Tensor]], when: str) -> None:
    """Refuse to go on with parameters that are not finite.

    Args:
        arrays: Parameters with their names.
        when: What changed them.

    Raises:
        NonFiniteError: If a number is not finite.
    """
    named = [(name, array) for name, array in arrays if array.is_floating_point() and array.numel()]
    if not named:
        return
    largest = th._foreach_norm([array.detach() for _, array in named], math.inf)  # of each; NaN if there is one
    for (name, array), most in zip(named, largest, strict=True):
        if not most < LARGEST:
            fits = array.abs() < LARGEST
            raise NonFiniteError(f"{when} led to {array[~fits][0]:g} in {name}: a lower learning_rate may help")


def check_finite(arrays: Iterable[tuple[str, Any]], when: str) -> None:
    """Refuse to keep numbers that are not finite, of the optimizer or of normalisation.

    Args:
        arrays: Tensors, arrays and numbers with their names, or mappings, sequences and objects of such.
        when: What led to them.

    Raises:
        NonFiniteError: If a number is not finite.
    """
    for name, value in arrays:
        if isinstance(value, Mapping):
            check_finite(((f"{name} {key}", item) for key, item in value.items()), when)
        elif isinstance(value, (list, tuple)):
            check_finite(((f"{name} {index}", item) for index, item in enumerate(value)), when)
        elif isinstance(value, th.Tensor):
            if not th.isfinite(value).all():
                raise NonFiniteError(f"{when} led to NaN or infinity in {name}: a lower learning_rate may help")
        elif isinstance(value, RunningMeanStd):
            check_finite(((f"{name} {key}", th.as_tensor(item)) for key, item in vars(value).items()), when)


def _check(what: str, value: Any, name: str, env: int | None = None) -> None:
    found = _first(value)
    if found is not None:
        row = found[0] if env is None else env
        raise NonFiniteError(f"{what} from env {row}{' of ' * bool(name)}{name} is {found[1]}")


def _first(value: Any) -> tuple[int, str] | None:
    """Return the row and the number of the first that is refused, in an array or a mapping of arrays."""
    for part in value.values() if isinstance(value, Mapping) else (value,):
        array = np.asarray(part)
        if array.dtype.kind != "f":
            continue
        if all_small(array):
            continue
        bad = ~(np.abs(array) < LARGEST)
        if bad.any():  # else it was only the sum that is too large
            return int(np.argwhere(bad)[0, 0]) if array.ndim else 0, str(array[bad].flat[0])
    return None
