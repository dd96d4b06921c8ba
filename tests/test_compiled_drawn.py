"""Tasks whose episodes are drawn: the compiled step is theirs, and drawn episodes are those of their resets."""

import numpy as np
import pytest

from spikeloop.envs.compiled_drawn import DRAWN, drawn_of
from spikeloop.envs.repeat import Repeat
from spikeloop.envs.tmaze import TMaze
from spikeloop.spiking.compiling import kernel

TASKS = [lambda: TMaze(cue_steps=2, delay=3, n_neurons=4), Repeat, lambda: Repeat(k=4), lambda: Repeat(k=3, n_decks=2)]


@kernel
def take_step(step, state, action, body, obs):
    return step(state, action, body, obs)


def test_every_task_is_here():
    assert {type(make()) for make in TASKS} == set(DRAWN)


@pytest.mark.parametrize("make", TASKS)
def test_whole_episodes_are_those_of_the_environment(make):
    env, rng = make(), np.random.default_rng(0)
    compiled = drawn_of(env)
    for seed in range(3):
        env.reset(seed=seed)
        body, state, obs, done = compiled.body(env), compiled.state(env), np.empty(compiled.n_obs), False
        while not done:
            action = int(rng.integers(env.action_space.n))
            reward, ended = take_step(compiled.step, state, action, body, obs)
            seen, expected, done, _, _ = env.step(action)
            assert (reward, ended) == (expected, done)
            np.testing.assert_array_equal(obs, seen)
            if not done:
                np.testing.assert_array_equal(state, compiled.state(env))
        assert compiled.state(env) is None  # what comes after the end is an error, and the environment's to tell


@pytest.mark.parametrize("make", TASKS)
def test_an_environment_goes_on_from_where_compiled_steps_led(make):
    env, other = make(), make()
    for one in (env, other):
        one.reset(seed=1)
    drawn_of(env).set_state(env, np.array([2.0]), 2)
    for _ in range(2):
        other.step(1)
    for mine, theirs in zip(env.step(1), other.step(1), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("make", TASKS)
def test_drawn_episodes_are_those_of_the_resets(make):
    env, other = make(), make()
    env.reset(seed=5)
    other.reset(seed=5)
    observations, rewards = other.draw_episodes(other.np_random, 3)
    for episode in range(3):
        first, _ = env.reset()
        np.testing.assert_array_equal(observations[episode, 0], first)
        for t in range(env.n_steps):
            action = (t + episode) % env.action_space.n
            seen, reward, done, *_ = env.step(action)
            assert reward == rewards[episode, t, action] and done == (t == env.n_steps - 1)
            if not done:
                np.testing.assert_array_equal(observations[episode, t + 1], seen)
