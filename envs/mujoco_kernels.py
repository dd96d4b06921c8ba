"""Steps of MuJoCo tasks for kernels: MuJoCo's own functions, called by their addresses, and Gymnasium's rewards.

An environment's own model and data are worked on, so that all that Python sees of them is where the environment is.

What a step computes, the type of each intermediate result too, is what Gymnasium's ``step`` of these tasks computes.
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import register_jitable

from spikeloop.envs.native_calls import call, numbers_at

# What the body begins with: addresses, as the bits of float64 numbers; no spare data (0) where no step ends an episode.
MJ_STEP, MJ_RNE_POST_CONSTRAINT, MJ_COPY_DATA, MODEL, DATA, SPARE, QPOS, QVEL, CTRL, SITE_XPOS, QFRC = range(11)
N_ADDRESSES = 11


@register_jitable
def _keep(at):
    """Keep the data as it is, if the step may have to be taken back."""
    if at[SPARE] != 0:
        call(at[MJ_COPY_DATA], (at[SPARE], at[MODEL], at[DATA]))


@register_jitable
def _take_back(at):
    call(at[MJ_COPY_DATA], (at[DATA], at[MODEL], at[SPARE]))


@register_jitable
def _simulate(at, n_frames, action):
    """Move the data on by one env step."""
    ctrl = numbers_at(at[CTRL], len(action), np.float64)
    for k in range(len(action)):
        ctrl[k] = np.float32(action[k])
    for _ in range(n_frames):
        call(at[MJ_STEP], (at[MODEL], at[DATA]))
    call(at[MJ_RNE_POST_CONSTRAINT], (at[MODEL], at[DATA]))


@register_jitable
def _control_cost(action, weight, single):
    total = np.float32(0)  # the actions are float32, and numpy sums up to seven of them in their order
    for k in range(len(action)):
        total += np.float32(action[k]) * np.float32(action[k])
    return np.float64(np.float32(weight) * total) if single != 0 else weight * np.float64(total)


@register_jitable
def _show(qpos, qvel, skipped, bound, obs):
    """Write positions, all but the first ``skipped``, and velocities within a bound."""
    n = len(qpos) - skipped
    for i in range(n):
        obs[i] = qpos[skipped + i]
    for i in range(len(qvel)):
        velocity = qvel[i]
        obs[n + i] = bound if velocity > bound else (-bound if velocity < -bound else velocity)


@register_jitable
def _hop(body, action, obs, n_joints, min_state, max_state, checks_state):
    """Hopper and Walker2d, which stand as long as height and angle, Hopper's other numbers too, are within ranges."""
    (
        n_frames, dt, skipped, single, forward_weight, control_weight, healthy_reward, ends,
        min_z, max_z, min_angle, max_angle,
    ) = body[N_ADDRESSES:]  # fmt: skip
    at = body[:N_ADDRESSES].view(np.int64)
    qpos, qvel = numbers_at(at[QPOS], n_joints, np.float64), numbers_at(at[QVEL], n_joints, np.float64)
    before = qpos[0]
    _keep(at)
    _simulate(at, int(n_frames), action)
    velocity = (qpos[0] - before) / dt
    _show(qpos, qvel, int(skipped), 10.0, obs)
    healthy = min_z < qpos[1] < max_z and min_angle < qpos[2] < max_angle
    if checks_state:
        for i in range(n_joints):
            healthy = healthy and min_state < qvel[i] < max_state
            healthy = healthy and (i < 2 or min_state < qpos[i] < max_state)
    reward = forward_weight * velocity + (1.0 if healthy else 0.0) * healthy_reward
    reward -= _control_cost(action, control_weight, single)
    ended = not healthy and ends != 0
    if ended:
        _take_back(at)
    return reward, ended


def step_hopper(state, action, body, obs):
    """Take a step of Hopper-v5; arguments are those of a step with continuous actions."""
    return _hop(body[:-2], action, obs, 6, body[-2], body[-1], True)


def step_walker(state, action, body, obs):
    """Take a step of Walker2d-v5; arguments are those of a step with continuous actions."""
    return _hop(body, action, obs, 9, 0.0, 0.0, False)


def step_half_cheetah(state, action, body, obs):
    """Take a step of HalfCheetah-v5; arguments are those of a step with continuous actions."""
    n_frames, dt, skipped, single, forward_weight, control_weight = body[N_ADDRESSES:]
    at = body[:N_ADDRESSES].view(np.int64)
    qpos, qvel = numbers_at(at[QPOS], 9, np.float64), numbers_at(at[QVEL], 9, np.float64)
    before = qpos[0]
    _simulate(at, int(n_frames), action)
    velocity = (qpos[0] - before) / dt
    _show(qpos, qvel, int(skipped), np.inf, obs)
    return forward_weight * velocity - _control_cost(action, control_weight, single), False


def step_double_pendulum(state, action, body, obs):
    """Take a step of InvertedDoublePendulum-v5; arguments are those of a step with continuous actions."""
    n_frames, dt, healthy_reward = body[N_ADDRESSES:]
    at = body[:N_ADDRESSES].view(np.int64)
    qpos, qvel = numbers_at(at[QPOS], 3, np.float64), numbers_at(at[QVEL], 3, np.float64)
    _keep(at)
    _simulate(at, int(n_frames), action)
    tip = numbers_at(at[SITE_XPOS], 3, np.float64)
    for i in range(2):
        obs[1 + i], obs[3 + i] = math.sin(qpos[1 + i]), math.cos(qpos[1 + i])
    obs[0] = qpos[0]
    _show(qpos, qvel, 3, 10.0, obs[5:])
    _show(qpos, numbers_at(at[QFRC], 1, np.float64), 3, 10.0, obs[8:])
    ended = tip[2] <= 1.0
    two = 2.0 if dt > 0 else 0.0  # not constant, so that it is C's pow, whose bits numpy's squares have
    distance = 0.01 * tip[0] ** two + (tip[2] - 2.0) ** two
    speed = 1e-3 * qvel[1] ** two + 5e-3 * qvel[2] ** two
    reward = healthy_reward * (0.0 if ended else 1.0) - distance - speed
    if ended:
        _take_back(at)
    return reward, ended
