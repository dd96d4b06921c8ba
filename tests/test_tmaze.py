"""The T-maze shows a noisy cue, forgets it, and pays for the turn to its side."""

import gymnasium as gym
import numpy as np
import pytest

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.envs.tmaze import TMaze


def test_an_episode_is_cue_delay_and_junction():
    env = TMaze(cue_steps=3, delay=4, n_neurons=50)
    for seed in range(4):
        observation, info = env.reset(seed=seed)
        seen, done = [observation], False
        while not done:
            observation, reward, done, truncated, _ = env.step(info["side"])
            seen.append(observation)
            assert not truncated and reward == float(done)
        groups = np.reshape(seen[:-1], (8, 3, 50)).mean(axis=2)
        cue = info["side"]
        assert groups[:3, cue].min() > 0.6 and groups[:3, 1 - cue].max() < 0.1
        assert groups[3:7].max() < 0.1
        assert groups[7, 2] > 0.6 and groups[7, :2].max() < 0.1
        assert not seen[-1].any()


def test_the_wrong_turn_pays_nothing():
    env = TMaze(cue_steps=1, delay=0)
    _, info = env.reset(seed=0)
    env.step(0)
    assert env.step(1 - info["side"])[1:3] == (0.0, True)


def test_both_sides_come_up_and_noise_differs():
    observations, rewards = TMaze().draw_episodes(np.random.default_rng(0), 200)
    assert 0.4 < rewards[:, -1, 0].mean() < 0.6
    assert observations[:, 5:-1].mean() == pytest.approx(0.01, abs=0.003)
    assert len(np.unique(observations.reshape(200, -1), axis=0)) == 200


@pytest.mark.parametrize(
    "kwargs", [{"cue_steps": 0}, {"delay": -1}, {"n_neurons": 2.5}, {"p_cue": 1.1}, {"render_mode": "human"}]
)
def test_a_wrong_argument_is_named(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        TMaze(**kwargs)


def test_arguments_reach_the_task_through_its_id():
    assert gym.make("spikeloop/TMaze-v0", delay=7, n_neurons=5).observation_space.shape == (15,)


@pytest.mark.parametrize("delay", [50, 100, 200])
def test_longer_corridors_have_ids_of_their_own(delay):
    assert gym.make(f"spikeloop/TMaze{delay}-v0").unwrapped.n_steps == 5 + delay + 1
