"""Tasks with continuous actions whose step is compiled: Pendulum and MountainCarContinuous.

As :mod:`spikeloop.envs.compiled`, with actions that are numbers. Gymnasium computes what an action of its space touches
in float32, and so do these steps; MountainCarContinuous even keeps its state so, from the second step of an episode on.
"""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import Continuous_MountainCarEnv, PendulumEnv
from numba import boolean, float64, types

from spikeloop.envs.compiled import Compiled, compile_step

# step(state, action, body, obs): state and obs are overwritten, action and body are read; the action is rounded to
# float32
STEP = types.Tuple((float64, boolean))(float64[::1], float64[::1], float64[::1], float64[::1])

_PENDULUM = ("max_speed", "max_torque", "dt", "g", "m", "l")
_MOUNTAIN_CAR = (
    "min_action",
    "max_action",
    "min_position",
    "max_position",
    "max_speed",
    "goal_position",
    "goal_velocity",
    "power",
)


def _step_pendulum(state, action, body, obs):  # type: ignore[no-untyped-def]
    max_speed, max_torque, dt, g, m, length = body
    theta, theta_dot = state
    u = np.float32(min(max(action[0], -max_torque), max_torque))
    angle = (theta + np.pi) % (2 * np.pi) - np.pi
    two = 2.0 if dt > 0 else 0.0  # not constant, so that it is C's pow, whose bits numpy's squares have
    costs = angle**two + 0.1 * theta_dot**two + np.float64(np.float32(0.001) * u ** np.float32(two))
    torque = np.float64(np.float32(3.0 / (m * (length * length))) * u)
    theta_dot = theta_dot + (3 * g / (2 * length) * math.sin(theta) + torque) * dt
    theta_dot = min(max(theta_dot, -max_speed), max_speed)
    theta = theta + theta_dot * dt
    state[0], state[1] = theta, theta_dot
    obs[0], obs[1], obs[2] = np.float32(math.cos(theta)), np.float32(math.sin(theta)), np.float32(theta_dot)
    return -costs, False


def _step_mountain_car(state, action, body, obs):  # type: ignore[no-untyped-def]
    min_action, max_action, min_position, max_position, max_speed, goal_position, goal_velocity, power = body
    position, velocity = np.float32(state[0]), np.float32(state[1])
    push = np.float64(np.float32(action[0]))
    pull = 0.0025 * math.cos(np.float64(np.float32(3) * position))
    if push < min_action or push > max_action:  # then Gymnasium's force is a Python float
        velocity += np.float32(min(max(push, min_action), max_action) * power - pull)
    else:
        velocity += np.float32(push) * np.float32(power) - np.float32(pull)
    if velocity > np.float32(max_speed):
        velocity = np.float32(max_speed)
    if velocity < -np.float32(max_speed):
        velocity = np.float32(-max_speed)
    position += velocity
    if position > np.float32(max_position):
        position = np.float32(max_position)
    if position < np.float32(min_position):
        position = np.float32(min_position)
    if position == np.float32(min_position) and velocity < 0:
        velocity = np.float32(0)
    state[0], state[1] = position, velocity
    obs[0], obs[1] = position, velocity
    terminated = position >= np.float32(goal_position) and velocity >= goal_velocity
    return (100.0 if terminated else 0.0) - push * push * 0.1, terminated


CONTINUOUS: dict[type[gym.Env], Compiled] = {
    PendulumEnv: Compiled(compile_step(_step_pendulum, STEP), _PENDULUM, 2, 3),
    Continuous_MountainCarEnv: Compiled(compile_step(_step_mountain_car, STEP), _MOUNTAIN_CAR, 2, 2, np.float32),
}


def continuous_of(env: gym.Env) -> Compiled | None:
    """Return the compiled form of an environment with continuous actions; None if it has none.

    >>> continuous_of(gym.make("Pendulum-v1")).n_obs
    3
    >>> continuous_of(gym.make("CartPole-v1")) is None
    True
    """
    return CONTINUOUS.get(type(env.unwrapped))
