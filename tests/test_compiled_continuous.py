"""Compiled tasks with continuous actions do what Gymnasium's do, to the last bit."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.envs.compiled_continuous import CONTINUOUS, continuous_of
from spikeloop.spiking.compiling import kernel

TASKS = ["Pendulum-v1", "MountainCarContinuous-v0"]
SPANS = {"Pendulum-v1": (7.0, 8.0), "MountainCarContinuous-v0": (1.1, 0.07)}


@kernel
def take_step(step, state, action, body, obs):
    return step(state, action, body, obs)


def compare(env, state, action):
    """Take one step from the same state in both: all numbers are the same."""
    task, compiled = env.unwrapped, continuous_of(env)
    task.reset(seed=0)
    task.state = np.array(state, compiled.state_dtype)
    mine, obs = np.array(task.state, float), np.empty(compiled.n_obs)
    reward, terminated = take_step(compiled.step, mine, action.astype(float), compiled.body(env), obs)
    seen, expected, ended, _, _ = task.step(action)
    assert (reward, terminated) == (expected, ended)
    np.testing.assert_array_equal(obs.astype(np.float32), seen)
    np.testing.assert_array_equal(mine, task.state)


def test_every_task_is_here():
    assert {gym.spec(name).entry_point.rpartition(":")[2] for name in TASKS} == {task.__name__ for task in CONTINUOUS}


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=300)
@given(unit=st.tuples(st.floats(-1, 1), st.floats(-1, 1)), action=st.floats(-3, 3, width=32))
def test_one_step_equals_gymnasiums(name, unit, action):
    compare(gym.make(name), np.multiply(SPANS[name], unit), np.array([action], np.float32))


@pytest.mark.parametrize(("name", "part"), [("Pendulum-v1", "m"), ("Pendulum-v1", "l"), (TASKS[1], "power")])
def test_one_step_on_a_changed_body_equals_gymnasiums(name, part):
    env = gym.make(name)
    setattr(env.unwrapped, part, 1.3 * getattr(env.unwrapped, part))
    compare(env, np.multiply(SPANS[name], 0.3), np.array([0.7], np.float32))


def test_a_whole_episode_equals_gymnasiums():
    env, rng = gym.make("MountainCarContinuous-v0").unwrapped, np.random.default_rng(0)
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))  # the state of the reset has more digits
    state, obs, compiled, n_steps = np.array(env.state, float), np.empty(2), continuous_of(env), 0
    terminated = False
    while not terminated:
        push = np.sign(state[1:]).astype(np.float32) * np.float32(rng.random())
        reward, terminated = take_step(compiled.step, state, push.astype(float), compiled.body(env), obs)
        seen, expected, ended, _, _ = env.step(push)
        assert (reward, terminated) == (expected, ended)
        np.testing.assert_array_equal(obs.astype(np.float32), seen)
        n_steps += 1
    assert n_steps > 50
