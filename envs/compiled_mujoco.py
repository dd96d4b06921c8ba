"""MuJoCo tasks whose step is compiled: Hopper, HalfCheetah, Walker2d and InvertedDoublePendulum in their version 5.

As :mod:`spikeloop.envs.compiled_continuous`, but the state is the environment's own MuJoCo data: a kernel's steps are
steps of the environment. One that would end the episode is taken back as a whole, and is left to Python. MuJoCo is an
extra, and nothing here imports it before there is such an environment.
"""

from __future__ import annotations

import ctypes
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gymnasium as gym
import numpy as np

from spikeloop.envs import mujoco_kernels
from spikeloop.envs.compiled import compile_step, has_own
from spikeloop.envs.compiled_continuous import STEP

# What steps read beyond addresses: attributes, and whether numpy multiplies the cost of controls in float32.
_TIME = ("frame_skip", "dt")
_RUN = (
    *_TIME, "_exclude_current_positions_from_observation", "single", "_forward_reward_weight", "_ctrl_cost_weight",
)  # fmt: skip
_HEALTH = ("_healthy_reward", "_terminate_when_unhealthy", "_healthy_z_range", "_healthy_angle_range")
# what the steps of these tasks are made of; a method of one's own makes another task of them
_METHODS = (
    "step", "do_simulation", "_step_mujoco_simulation", "_get_obs", "_get_rew", "control_cost", "is_healthy",
    "healthy_reward", "state_vector", "dt", "reset", "reset_model", "set_state", "_reset_simulation",
)  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    """A task of Gymnasium's, by the module that has it, so that MuJoCo need not be there."""

    step: Callable
    constants: tuple[str, ...]
    """Attributes that its step reads beyond frames and time: numbers, or pairs of them."""
    model: str
    """File of its model."""
    sizes: tuple[int, int, int]
    """Positions, velocities and controls of this model."""
    n_obs: int
    """Length of the observation with all positions."""


_KINDS = {
    ("hopper_v5", "HopperEnv"): _Kind(
        mujoco_kernels.step_hopper, (*_RUN, *_HEALTH, "_healthy_state_range"), "hopper.xml", (6, 6, 3), 12
    ),
    ("walker2d_v5", "Walker2dEnv"): _Kind(
        mujoco_kernels.step_walker, (*_RUN, *_HEALTH), "walker2d_v5.xml", (9, 9, 6), 18
    ),
    ("half_cheetah_v5", "HalfCheetahEnv"): _Kind(
        mujoco_kernels.step_half_cheetah, _RUN, "half_cheetah.xml", (9, 9, 6), 18
    ),
    ("inverted_double_pendulum_v5", "InvertedDoublePendulumEnv"): _Kind(
        mujoco_kernels.step_double_pendulum, (*_TIME, "_healthy_reward"), "inverted_double_pendulum.xml", (3, 3, 1), 9
    ),
}


@dataclass(frozen=True, eq=False)
class MujocoTask:
    """A MuJoCo environment, with the members of :class:`~spikeloop.envs.compiled.Compiled`.

    Args:
        step: The step, a C function of the signature of :mod:`spikeloop.envs.compiled_continuous`.
        constants: Attributes that it reads.
        n_obs: Length of the observation.
        n_state: Numbers of the state that are not in the environment: none.
    """

    step: Any
    constants: tuple[str, ...]
    n_obs: int
    n_state: int = 0

    def body(self, env: Any) -> np.ndarray:
        """Return addresses of functions, model and data, as bits, and the constants of an environment as they are."""
        data, model, functions = env.data, env.model, _functions()
        assert functions is not None
        ends = "_healthy_reward" in self.constants and getattr(env, "_terminate_when_unhealthy", True)
        addresses = np.zeros(mujoco_kernels.N_ADDRESSES, np.int64)
        addresses[:] = [
            *functions, model._address, data._address, _spare(env)._address if ends else 0,
            *(array.ctypes.data for array in (data.qpos, data.qvel, data.ctrl, data.site_xpos, data.qfrc_constraint)),
        ]  # fmt: skip
        return np.concatenate([addresses.view(np.float64), _constants(env, self.constants)])

    def state(self, env: Any) -> np.ndarray:
        """Return nothing: the state is where the environment has it."""
        return np.zeros(0)

    def set_state(self, env: Any, state: np.ndarray, n_steps: int) -> None:
        """Do nothing: the steps were the environment's."""

    def finish(self, env: Any, obs: np.ndarray) -> None:
        """Return None: an environment takes the step that ends its episode itself."""


def mujoco_of(env: gym.Env) -> MujocoTask | str | None:
    """Return the compiled form of a MuJoCo environment; in words, what keeps it from one; None if it is no such task.

    >>> mujoco_of(gym.make("Pendulum-v1")) is None
    True
    """
    task: Any = env.unwrapped
    cls = type(task)
    kind = _KINDS.get((cls.__module__.removeprefix("gymnasium.envs.mujoco."), cls.__qualname__))
    if kind is None or vars(sys.modules[cls.__module__]).get(cls.__qualname__) is not cls:
        return None
    reason = _obstacle(task, kind)
    if reason is not None:
        return reason
    skipped = getattr(task, "_exclude_current_positions_from_observation", False)
    return MujocoTask(_compiled(kind.step), kind.constants, kind.n_obs - bool(skipped))


def _obstacle(task: Any, kind: _Kind) -> str | None:
    """Return in words why the steps of a task are not those of its kind; None if they are."""
    name, model, file = (
        type(task).__name__,
        task.model,
        Path(inspect.getfile(type(task))).parent / "assets" / kind.model,
    )
    changed = next((method for method in _METHODS if not has_own(task, method)), None)
    if changed:
        return f"{changed} of {name} is not Gymnasium's"
    if Path(task.fullpath) != file or (model.nq, model.nv, model.nu) != kind.sizes:
        return f"the model of {name} is not the one that comes with it"
    data = task.data  # those of a run that was resumed are of a model of their own, with the same numbers
    sites = kind.step is mujoco_kernels.step_double_pendulum
    if (data.qpos.size, data.qvel.size, data.ctrl.size) != kind.sizes or data.site_xpos.size < 3 * sites:
        return f"the data of {name} is of another model"
    if not task.dt > 0:
        return f"the time step of {name} is {task.dt}"
    try:
        numbers = _constants(task, kind.constants)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if len(numbers) != sum(2 if name.endswith("_range") else 1 for name in kind.constants):
        return f"the constants of {name} are no numbers"
    if _functions() is None:
        return "the functions of MuJoCo's library are not found"
    callback = _callback()
    if callback:
        return f"MuJoCo calls Python: {callback}() is set"
    if kind.step is mujoco_kernels.step_double_pendulum and not _same_sines():
        return "numpy's sines have other last bits than the C library's here"
    return None


def _constants(task: Any, names: tuple[str, ...]) -> np.ndarray:
    """Return constants of a task, float64."""
    return np.hstack([_is_single(task) if name == "single" else getattr(task, name) for name in names]).astype(float)


def _is_single(task: Any) -> bool:
    """Return whether numpy multiplies a float32 number by the weight of controls in float32, as it does for floats."""
    found = np.result_type(task._ctrl_cost_weight, np.float32)
    if found not in (np.float32, np.float64):
        raise TypeError(f"ctrl_cost_weight must be a number of 64 bits at most, got {task._ctrl_cost_weight!r}")
    return bool(found == np.float32)


@cache
def _compiled(step: Callable) -> Any:
    return compile_step(step, STEP)


@cache
def _functions() -> tuple[int, ...] | None:
    """Return the addresses of MuJoCo's functions in the library that Python's bindings use; None if they have none."""
    import mujoco

    try:
        library = ctypes.CDLL(mujoco._functions.__file__)  # what it links to is searched, too
        names = ("mj_step", "mj_rnePostConstraint", "mj_copyData")
        return tuple(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names)
    except (AttributeError, OSError):
        return None


def _callback() -> str | None:
    """Return the name of what tells of a callback that would need Python's lock; None if there is none."""
    import mujoco

    names = (name for name in dir(mujoco) if name.startswith(("get_mjcb_", "get_mju_user_")))
    return next((name for name in names if getattr(mujoco, name)() is not None), None)


@cache
def _same_sines() -> bool:
    """Return whether numpy's sines and cosines have the bits of the C library's, as on some processors they do not."""
    angles = np.linspace(-7.0, 7.0, 2001)
    here = [[f(angle) for angle in angles] for f in (math.sin, math.cos)]
    return np.array_equal(here, [np.sin(angles), np.cos(angles)])


_SPARES: WeakKeyDictionary[gym.Env, Any] = WeakKeyDictionary()  # to make data takes longer than many steps


def _spare(task: Any) -> Any:
    """Return MuJoCo data beside those of an environment, the same ones each time."""
    import mujoco

    spare = _SPARES.get(task)
    if spare is None or spare.model._address != task.model._address:
        spare = _SPARES[task] = mujoco.MjData(task.model)
    return spare
