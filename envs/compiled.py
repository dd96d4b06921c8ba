"""Tasks in a form that a compiled learner can run: a step for its kernel, or whole episodes at once.

A compiled step is a C function, so that a kernel takes it as an argument, is compiled once for all tasks, and is cached
on disk whatever the task. It computes what Gymnasium's computes, in the same order, and reads the same constants,
which :meth:`Compiled.body` collects from an environment whenever a stretch of steps begins: a body that changes between
episodes changes here too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv, MountainCarEnv
from numba import boolean, float64, int64, types

from spikeloop.envs.wrappers import HideVelocity
from spikeloop.spiking.compiling import c_function

# step(state, action, body, obs): state and obs are overwritten, body is read; returns the reward and whether it ended
STEP = types.Tuple((float64, boolean))(float64[::1], int64, float64[::1], float64[::1])

_CARTPOLE = (
    "gravity",
    "masspole",
    "total_mass",
    "length",
    "polemass_length",
    "force_mag",
    "tau",
    "theta_threshold_radians",
    "x_threshold",
    "_sutton_barto_reward",
)
_MOUNTAIN_CAR = (
    "min_position",
    "max_position",
    "max_speed",
    "goal_position",
    "goal_velocity",
    "force",
    "gravity",
)
_ACROBOT = (
    "dt",
    "LINK_LENGTH_1",
    "LINK_MASS_1",
    "LINK_MASS_2",
    "LINK_COM_POS_1",
    "LINK_COM_POS_2",
    "LINK_MOI",
    "MAX_VEL_1",
    "MAX_VEL_2",
    "AVAIL_TORQUE",
)


def written_in(function: Any) -> str | None:
    """Return the module that a Python function was written in.

    ``functools.wraps`` copies ``__module__`` from the function that it wraps, so that tells nothing.

    >>> written_in(CartPoleEnv.step)
    'gymnasium.envs.classic_control.cartpole'
    """
    return getattr(function, "__globals__", {}).get("__name__")


def has_own(task: gym.Env, member: str) -> bool:
    """Return whether a method or property was written where the task's classes were, or is not there at all.

    If somebody replaced it, on the task or in its class, the task is another one.

    >>> env = gym.make("CartPole-v1").unwrapped
    >>> has_own(env, "step")
    True
    >>> env.step = lambda action: None
    >>> has_own(env, "step")
    False
    """
    found = inspect.getattr_static(type(task), member, None)
    function = found.fget if isinstance(found, property) else found
    own = {cls.__module__ for cls in type(task).__mro__}
    return member not in vars(task) and (function is None or written_in(function) in own)


def compile_step(function: Callable, signature: Any = STEP) -> Any:
    """Compile a task's step to a C function."""
    return c_function(function, signature)


def _step_cartpole(state, action, body, obs):  # type: ignore[no-untyped-def]
    gravity, mass_pole, total_mass, length, pole_mass_length, force_mag, tau, max_theta, max_x, sutton_barto = body
    x, x_dot, theta, theta_dot = state
    force = force_mag if action == 1 else -force_mag
    cos, sin = math.cos(theta), math.sin(theta)
    temp = (force + pole_mass_length * (theta_dot * theta_dot) * sin) / total_mass
    theta_acc = (gravity * sin - cos * temp) / (length * (4.0 / 3.0 - mass_pole * (cos * cos) / total_mass))
    x_acc = temp - pole_mass_length * theta_acc * cos / total_mass
    state[0] = x + tau * x_dot
    state[1] = x_dot + tau * x_acc
    state[2] = theta + tau * theta_dot
    state[3] = theta_dot + tau * theta_acc
    for i in range(4):
        obs[i] = np.float32(state[i])
    terminated = abs(state[0]) > max_x or abs(state[2]) > max_theta
    if sutton_barto:
        return (-1.0 if terminated else 0.0), terminated
    return 1.0, terminated


def _step_mountain_car(state, action, body, obs):  # type: ignore[no-untyped-def]
    min_position, max_position, max_speed, goal_position, goal_velocity, force, gravity = body
    position, velocity = state
    velocity += (action - 1) * force + math.cos(3 * position) * (-gravity)
    velocity = min(max(velocity, -max_speed), max_speed)
    position = min(max(position + velocity, min_position), max_position)
    if position == min_position and velocity < 0:
        velocity = 0.0
    state[0], state[1] = position, velocity
    obs[0], obs[1] = np.float32(position), np.float32(velocity)
    return -1.0, (position >= goal_position and velocity >= goal_velocity)


def _step_acrobot(state, action, body, obs):  # type: ignore[no-untyped-def]
    dt, l1, m1, m2, lc1, lc2, moi, max_speed1, max_speed2 = body[:9]
    torque = body[9 + action]
    y1, y2, y3, y4 = state
    # the sums of Runge and Kutta, from stages at 0, dt / 2, dt / 2 and dt
    s1 = s2 = s3 = s4 = 0.0
    k1 = k2 = k3 = k4 = 0.0
    for stage in range(4):
        h = 0.0 if stage == 0 else (dt if stage == 3 else dt / 2.0)
        theta1, theta2, dtheta1, dtheta2 = y1 + h * k1, y2 + h * k2, y3 + h * k3, y4 + h * k4
        cos2, sin2 = math.cos(theta2), math.sin(theta2)
        d1 = m1 * lc1**2 + m2 * (l1**2 + lc2**2 + 2 * l1 * lc2 * cos2) + moi + moi
        d2 = m2 * (lc2**2 + l1 * lc2 * cos2) + moi
        phi2 = m2 * lc2 * 9.8 * math.cos(theta1 + theta2 - math.pi / 2.0)
        phi1 = (
            -m2 * l1 * lc2 * dtheta2**2 * sin2
            - 2 * m2 * l1 * lc2 * dtheta2 * dtheta1 * sin2
            + (m1 * lc1 + m2 * l1) * 9.8 * math.cos(theta1 - math.pi / 2)
            + phi2
        )
        k4 = (torque + d2 / d1 * phi1 - m2 * l1 * lc2 * dtheta1**2 * sin2 - phi2) / (m2 * lc2**2 + moi - d2**2 / d1)
        k3 = -(d2 * k4 + phi1) / d1
        k1, k2 = dtheta1, dtheta2
        weight = 1.0 if stage in (0, 3) else 2.0
        s1, s2, s3, s4 = s1 + weight * k1, s2 + weight * k2, s3 + weight * k3, s4 + weight * k4
    y1, y2, y3, y4 = y1 + dt / 6.0 * s1, y2 + dt / 6.0 * s2, y3 + dt / 6.0 * s3, y4 + dt / 6.0 * s4
    while y1 > math.pi:
        y1 -= 2 * math.pi
    while y1 < -math.pi:
        y1 += 2 * math.pi
    while y2 > math.pi:
        y2 -= 2 * math.pi
    while y2 < -math.pi:
        y2 += 2 * math.pi
    state[0], state[1] = y1, y2
    state[2], state[3] = min(max(y3, -max_speed1), max_speed1), min(max(y4, -max_speed2), max_speed2)
    obs[0], obs[1] = np.float32(math.cos(y1)), np.float32(math.sin(y1))
    obs[2], obs[3] = np.float32(math.cos(y2)), np.float32(math.sin(y2))
    obs[4], obs[5] = np.float32(state[2]), np.float32(state[3])
    terminated = -math.cos(y1) - math.cos(y2 + y1) > 1.0
    return (0.0 if terminated else -1.0), terminated


class Compiled(NamedTuple):
    """A task whose step is compiled."""

    step: Any
    """The step, a C function of signature :data:`STEP`."""
    constants: tuple[str, ...]
    """Attributes of the environment that the step reads as its ``body``, in order: numbers, or lists of them."""
    n_state: int
    """Length of the state, which the environment holds as ``state``."""
    n_obs: int
    """Length of the observation."""
    state_dtype: type = np.float64
    """What the environment computes its state in; a reset's may have more digits, and that step is not compiled."""

    def body(self, env: gym.Env) -> np.ndarray:
        """Return the constants of an environment as they are now, shape (n_constants,), float64."""
        task, numbers = env.unwrapped, []
        for name in self.constants:
            found = getattr(task, name)
            numbers += found if isinstance(found, list) else [found]
        return np.array(numbers, np.float64)

    def state(self, env: Any) -> np.ndarray | None:
        """Return the state of an environment, float64, shape (n_state,); None if its next step is not this one's."""
        wide = self.state_dtype != np.float64 and env.state.dtype != self.state_dtype
        return None if wide else np.array(env.state, np.float64)

    def set_state(self, env: Any, state: np.ndarray, n_steps: int) -> None:
        """Bring an environment to where these steps led."""
        env.state = state.astype(self.state_dtype)

    def finish(self, env: Any, obs: np.ndarray) -> None:
        """Return None: an environment takes the step that ends its episode itself."""


COMPILED: dict[type[gym.Env], Compiled] = {
    CartPoleEnv: Compiled(compile_step(_step_cartpole), _CARTPOLE, 4, 4),
    MountainCarEnv: Compiled(compile_step(_step_mountain_car), _MOUNTAIN_CAR, 2, 2),
    AcrobotEnv: Compiled(compile_step(_step_acrobot), _ACROBOT, 4, 6),
}

# What the compiled steps take for granted: an environment that was set to something else is another task.
_VARIANT = {
    "kinematics_integrator": "euler",
    "torque_noise_max": 0.0,
    "book_or_nips": "book",
}


def compiled_of(env: gym.Env) -> Compiled | None:
    """Return the compiled form of an environment; None if it has none or was set to something else.

    >>> compiled_of(gym.make("CartPole-v1")).n_obs
    4
    >>> compiled_of(gym.make("Pendulum-v1")) is None
    True
    """
    task = env.unwrapped
    if any(getattr(task, name, value) != value for name, value in _VARIANT.items()):
        return None
    return COMPILED.get(type(task))


def shown_components(env: gym.Env, n_obs: int) -> np.ndarray:
    """Return which of the ``n_obs`` components of a task's observation its wrappers show, in their order, int64.

    ``spikeloop/CartPoleNoVel-v0`` is CartPole behind such a wrapper.

    >>> import spikeloop.envs  # registers the task
    >>> shown_components(gym.make("spikeloop/CartPoleNoVel-v0"), 4).tolist()
    [0, 2]
    """
    if env is env.unwrapped:
        return np.arange(n_obs)
    assert isinstance(env, gym.Wrapper)
    shown = shown_components(env.env, n_obs)
    return shown[env.keep] if isinstance(env, HideVelocity) else shown


@runtime_checkable
class DrawsEpisodes(Protocol):
    """An environment that hands out whole episodes, because what it shows does not depend on the actions.

    :class:`~spikeloop.envs.tmaze.TMaze` is one. A learner can then take many episodes in one call of a kernel.

    Attributes:
        n_steps: Steps of each episode.
    """

    n_steps: int

    def draw_episodes(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw whole episodes, the same ones in the same order as ``n`` resets would.

        Args:
            rng: Source of randomness.
            n: Number of episodes.

        Returns:
            Observations, shape (n, n_steps, ...), and the reward of each action on each step, (n, n_steps, n_actions).
        """
        ...
