"""Steps of LunarLander for kernels: Box2D's own functions, called by address, and Gymnasium's engines and reward.

An environment's own world, bodies and random numbers are worked on, so that all that Python sees of them is where the
environment is. During a step the world tells of contacts to functions that are here rather than to Python.

What a step computes, the type of each intermediate result too, is what ``step`` of Gymnasium's LunarLander computes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import float64, int64, void
from numba.extending import register_jitable

from spikeloop.envs.native_calls import call, call_for_number, numbers_at

# What the body begins with: addresses, as the bits of float64 numbers.
STEP, SET_LISTENER, NEXT_DOUBLE, RANDOM_STATE, WORLD, LANDER, LISTENER, RECORD = range(8)
N_ADDRESSES = 8
N_BODY = N_ADDRESSES + 11  # and then the constants of a step

# Where the numbers of a b2Body are, in words of four bytes from its beginning.
POSITION, CENTER, ANGLE, VELOCITY, SPIN, INVERSE_MASS, INVERSE_INERTIA, N_WORDS = 3, 11, 14, 16, 18, 37, 39, 40
FLAGS, AWAKE = 2, 2  # the flags in words of two bytes, and the bit that is set while a body is awake
# Of a b2Contact, in words of eight bytes: the two bodies. Of a b2ContactListener: its table of functions.
BODY_B, BODY_A, N_CONTACT = 4, 8, 9
# Of the record that listens, in words of eight bytes: its table of functions; the bodies that a contact's two are
# compared with; what has been heard; and, as a float64 number, Gymnasium's shaping after the last step, whose change is
# the reward.
TABLE, HULL, LEGS, CRASHED, TOUCHES, SHAPING, N_RECORD = 0, 1, 2, 4, 5, 7, 8


@register_jitable
def _hear(record, contact, begins):
    """Note whether the hull or a leg, whose contact it is, touches the ground."""
    for k in range(2):
        body = contact[BODY_A] if k == 0 else contact[BODY_B]
        if begins and body == record[HULL]:
            record[CRASHED] = 1
        for i in range(2):
            if body == record[LEGS + i]:
                record[TOUCHES + i] = 1 if begins else 0


def begin_contact(this, contact):
    """Stand for ``BeginContact`` of a listener whose memory is the record."""
    _hear(numbers_at(this, N_RECORD, np.int64), numbers_at(contact, N_CONTACT, np.int64), True)


def end_contact(this, contact):
    """Stand for ``EndContact``."""
    _hear(numbers_at(this, N_RECORD, np.int64), numbers_at(contact, N_CONTACT, np.int64), False)


HEARS = void(int64, int64)


@register_jitable
def _push(body, impulse_x, impulse_y, x, y):
    """Apply a linear impulse to a body at a point, in Box2D's float32."""
    impulse_x, impulse_y, x, y = np.float32(impulse_x), np.float32(impulse_y), np.float32(x), np.float32(y)
    body[VELOCITY] += body[INVERSE_MASS] * impulse_x
    body[VELOCITY + 1] += body[INVERSE_MASS] * impulse_y
    body[SPIN] += body[INVERSE_INERTIA] * ((x - body[CENTER]) * impulse_y - (y - body[CENTER + 1]) * impulse_x)


@register_jitable
def _fly(constants, at, obs, main, side, direction):
    """Fire the engines with these powers, move the world on by one env step, and see."""
    (
        scale, main_power, side_power, main_y, side_height, side_away, leg_down, width, height, fps, helipad,
    ) = constants  # fmt: skip
    body = numbers_at(at[LANDER], N_WORDS, np.float32)
    record = numbers_at(at[RECORD], N_RECORD, np.int64)
    angle = np.float64(body[ANGLE])
    tip_x, tip_y = math.sin(angle), math.cos(angle)
    side_x, side_y = -tip_y, tip_x
    along = (-1.0 + 2.0 * call_for_number(at[NEXT_DOUBLE], (at[RANDOM_STATE],))) / scale
    across = (-1.0 + 2.0 * call_for_number(at[NEXT_DOUBLE], (at[RANDOM_STATE],))) / scale
    if main > 0.0:
        x = tip_x * (main_y / scale + 2 * along) + side_x * across
        y = -tip_y * (main_y / scale + 2 * along) - side_y * across
        _push(
            body, -x * main_power * main, -y * main_power * main, np.float64(body[POSITION]) + x,
            np.float64(body[POSITION + 1]) + y,
        )  # fmt: skip
    if side > 0.0:
        x = tip_x * along + side_x * (3 * across + direction * side_away / scale)
        y = -tip_y * along - side_y * (3 * across + direction * side_away / scale)
        _push(
            body, -x * side_power * side, -y * side_power * side, np.float64(body[POSITION]) + x - tip_x * 17 / scale,
            np.float64(body[POSITION + 1]) + y + tip_y * side_height / scale,
        )  # fmt: skip
    call(at[SET_LISTENER], (at[WORLD], at[RECORD]))
    call(at[STEP], (at[WORLD], np.float32(1.0 / fps), np.int32(180), np.int32(60)))
    call(at[SET_LISTENER], (at[WORLD], at[LISTENER]))

    x = (np.float64(body[POSITION]) - width / scale / 2) / (width / scale / 2)
    y = (np.float64(body[POSITION + 1]) - (helipad + leg_down / scale)) / (height / scale / 2)
    speed_x = np.float64(body[VELOCITY]) * (width / scale / 2) / fps
    speed_y = np.float64(body[VELOCITY + 1]) * (height / scale / 2) / fps
    angle = np.float64(body[ANGLE])
    left, right = np.float64(record[TOUCHES]), np.float64(record[TOUCHES + 1])
    obs[0], obs[1], obs[2], obs[3] = np.float32(x), np.float32(y), np.float32(speed_x), np.float32(speed_y)
    obs[4], obs[5] = np.float32(angle), np.float32(20.0 * np.float64(body[SPIN]) / fps)
    obs[6], obs[7] = left, right
    shaping = (
        -100 * math.sqrt(x * x + y * y)
        - 100 * math.sqrt(speed_x * speed_x + speed_y * speed_y)
        - 100 * abs(angle)
        + 10 * left
        + 10 * right
    )
    last = numbers_at(at[RECORD] + 8 * SHAPING, 1, np.float64)
    reward = shaping - last[0]
    last[0] = shaping
    reward -= main * 0.30
    reward -= side * 0.03
    awake = numbers_at(at[LANDER], FLAGS + 1, np.uint16)[FLAGS] & AWAKE != 0
    return reward, record[CRASHED] != 0 or abs(x) >= 1.0 or not awake


@register_jitable
def step_discrete(state, action, body, obs):
    """Take a step of LunarLander; arguments are those of a step with discrete actions."""
    at = body[:N_ADDRESSES].view(np.int64)
    main, side = (1.0 if action == 2 else 0.0), (1.0 if action == 1 or action == 3 else 0.0)
    return _fly(body[N_ADDRESSES:], at, obs, main, side, action - 2.0)


@register_jitable
def step_continuous(state, action, body, obs):
    """Take a step of LunarLander; arguments are those of a step with continuous actions."""
    at = body[:N_ADDRESSES].view(np.int64)
    throttle = min(max(np.float64(np.float32(action[0])), -1.0), 1.0)
    turn = min(max(np.float64(np.float32(action[1])), -1.0), 1.0)
    main = (throttle + 1.0) * 0.5 if throttle > 0.0 else 0.0
    side = max(abs(turn), 0.5) if abs(turn) > 0.5 else 0.0
    return _fly(body[N_ADDRESSES:], at, obs, main, side, 1.0 if turn > 0.0 else -1.0)


def step_at(continuous, action, body, obs):
    """Take a step whose arrays are given by their addresses; after the observation comes whether it ended.

    Python can call what is compiled of this, which takes no arrays.
    """
    at = numbers_at(body, N_BODY, np.float64)
    action, obs = numbers_at(action, 2, np.float64), numbers_at(obs, 9, np.float64)
    if continuous:
        reward, ended = step_continuous(obs[9:], action, at, obs)
    else:
        reward, ended = step_discrete(obs[9:], int(action[0]), at, obs)
    obs[8] = ended
    return reward


STEP_AT = float64(int64, int64, int64, int64)
