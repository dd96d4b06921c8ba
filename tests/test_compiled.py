"""Compiled classic control does what Gymnasium's does, whatever the body."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.envs import ChangeBody
from spikeloop.envs.compiled import COMPILED, compiled_of
from spikeloop.spiking.compiling import kernel

TASKS = {"CartPole-v1": 2, "MountainCar-v0": 3, "Acrobot-v1": 3}
SPANS = {"CartPole-v1": (2.3, 3, 0.2, 3), "MountainCar-v0": (1.1, 0.069), "Acrobot-v1": (3.1, 3.1, 12, 28)}


@kernel
def take_step(step, state, action, body, obs):
    return step(state, action, body, obs)


def compare(env, state, action):
    """Take one step from the same state in both, and return the largest difference."""
    task, compiled = env.unwrapped, compiled_of(env)
    mine, obs = np.array(state, float), np.empty(compiled.n_obs)
    reward, terminated = take_step(compiled.step, mine, action, compiled.body(env), obs)
    task.reset(seed=0)
    task.state = np.array(state, float)
    seen, expected, ended, _, _ = task.step(action)
    assert reward == expected and terminated == ended
    np.testing.assert_allclose(obs, seen, rtol=0, atol=1e-6)  # float32: the last bit may differ
    return np.abs(mine - task.state).max()


def test_every_task_is_here():
    assert {gym.spec(name).entry_point.rpartition(":")[2] for name in TASKS} == {task.__name__ for task in COMPILED}


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=300)
@given(data=st.data())
def test_one_step_equals_gymnasiums(name, data):
    unit = st.floats(-1, 1)
    state = [span * data.draw(unit) for span in SPANS[name]]
    assert compare(gym.make(name), state, data.draw(st.integers(0, TASKS[name] - 1))) <= 1e-12


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1"])
@pytest.mark.parametrize("part", ["length", "mass"])
@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
def test_one_step_on_a_changed_body_equals_gymnasiums(name, part, factor):
    env, plain = ChangeBody(gym.make(name), part, factor), gym.make(name)
    env.reset(seed=0)
    state = [0.3 * span for span in SPANS[name]]
    assert compare(env, state, 1) <= 1e-12
    assert not np.array_equal(compiled_of(env).body(env), compiled_of(plain).body(plain))


def test_variants_of_a_task_are_not_taken_for_it():
    nips, noisy = gym.make("Acrobot-v1"), gym.make("Acrobot-v1")
    nips.unwrapped.book_or_nips, noisy.unwrapped.torque_noise_max = "nips", 0.1
    other = gym.make("CartPole-v1")
    other.unwrapped.kinematics_integrator = "semi-implicit euler"
    assert [compiled_of(env) for env in (nips, noisy, other, gym.make("Pendulum-v1"))] == [None] * 4
    assert compare(gym.make("CartPole-v1", sutton_barto_reward=True), (0.0, 0.0, 0.2094, 3.0), 1) == 0


def test_a_body_changes_once_between_episodes():
    env = ChangeBody(gym.make("CartPole-v1"), "length", 2.0, after_episodes=2)
    lengths = []
    for n_resets in (3, 1, 2, 1):  # a reset that no step follows is no episode
        for _ in range(n_resets):
            env.reset(seed=0)
        lengths.append(env.unwrapped.length)
        env.step(0)
    assert lengths == [0.5, 0.5, 1.0, 1.0]
    assert env.unwrapped.polemass_length == pytest.approx(0.1)


@pytest.mark.parametrize("limit", [None, 3])
def test_episodes_that_end_by_themselves_or_by_a_limit_count(limit):
    env = ChangeBody(gym.make("CartPole-v1", max_episode_steps=limit), "length", 2.0, after_episodes=3)
    lengths = []
    for _ in range(5):
        env.reset(seed=0)
        ended = False
        while not ended:
            *_, terminated, truncated, _ = env.step(0)
            ended = terminated or truncated
        lengths.append(env.unwrapped.length)
    assert lengths == [0.5, 0.5, 0.5, 1.0, 1.0]


def test_a_heavier_pole_weighs_on_the_cart():
    env = ChangeBody(gym.make("CartPole-v1"), "mass", 3.0)
    env.reset(seed=0)
    assert env.unwrapped.total_mass == pytest.approx(1.3) and env.unwrapped.polemass_length == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (("CartPole-v1", "colour"), r"\['length', 'mass'\]"),
        (("MountainCar-v0", "length"), r"\[\]"),
        (("CartPole-v1", "mass", 0.0), "factor must be a number > 0, got 0.0"),
        (("CartPole-v1", "mass", 2.0, -1), "after_episodes must be a whole number >= 0, got -1"),
    ],
)
def test_wrong_changes_are_refused(args, answer):
    with pytest.raises(ValueError, match=answer):
        ChangeBody(gym.make(args[0]), *args[1:])
