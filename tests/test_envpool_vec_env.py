"""EnvPool's environments behave like SB3's; where EnvPool is missing, a stand-in with its rules takes its place."""

import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecMonitor

from spikeloop.agents import SpikingPPO
from spikeloop.agents.envpool_vec_env import EnvPoolVecEnv


class Pool:
    """A pool of CartPoles, which answers in another order than that of its environments."""

    def __init__(self, num_envs, seed, max_episode_steps=500):
        self.envs = [gym.make("CartPole-v1", max_episode_steps=max_episode_steps) for _ in range(num_envs)]
        self.seeds = [seed + i for i in range(num_envs)]
        self.observation_space, self.action_space = self.envs[0].observation_space, self.envs[0].action_space

    def reset(self, ids=None):
        ids = np.arange(len(self.envs)) if ids is None else ids
        seeds = {i: self.seeds[i] for i in ids}
        self.seeds = [None if i in seeds else seed for i, seed in enumerate(self.seeds)]
        obs = [self.envs[i].reset(seed=seeds[i])[0] for i in ids[::-1]]
        return np.stack(obs), {"env_id": ids[::-1]}

    def step(self, actions):
        assert actions.dtype == self.action_space.dtype
        ids = np.arange(len(self.envs))[::-1]
        results = [np.array(one) for one in zip(*(self.envs[i].step(actions[i])[:4] for i in ids), strict=True)]
        return *results, {"env_id": ids}

    def close(self):
        pass


@pytest.fixture
def stand_in(monkeypatch):
    envpool = SimpleNamespace(
        make=lambda task_id, env_type, **options: Pool(**options), list_all_envs=lambda: ["CartPole-v1"]
    )
    monkeypatch.setitem(sys.modules, "envpool", envpool)


def test_episodes_are_those_of_the_environments(stand_in):
    env = EnvPoolVecEnv("CartPole-v1", n_envs=3, max_episode_steps=15)
    env.seed(7)
    theirs = [gym.make("CartPole-v1", max_episode_steps=15) for _ in range(3)]
    expected = np.stack([one.reset(seed=7 + i)[0] for i, one in enumerate(theirs)])
    np.testing.assert_array_equal(env.reset(), expected)
    ends = set()
    for actions in np.random.default_rng(0).integers(0, 2, (90, 3)):
        obs, rewards, dones, infos = env.step(actions)
        for i, one in enumerate(theirs):
            last, reward, terminated, truncated, _ = one.step(actions[i])
            assert rewards[i] == reward and dones[i] == (terminated or truncated)
            if dones[i]:
                np.testing.assert_array_equal(infos[i]["terminal_observation"], last)
                assert infos[i]["TimeLimit.truncated"] == (truncated and not terminated)
                ends.add(infos[i]["TimeLimit.truncated"])
                last, _ = one.reset()
            np.testing.assert_array_equal(obs[i], last)
    assert ends == {True, False}


def test_a_policy_trains_in_them(stand_in):
    model = SpikingPPO("LsnnPolicy", VecMonitor(EnvPoolVecEnv("CartPole-v1", 4)), n_steps=32, batch_size=64, seed=0)
    model.learn(256)
    assert model.ep_info_buffer


def test_what_it_does_not_have_is_refused_in_one_line(stand_in):
    with pytest.raises(ValueError, match="task_id must be one of"):
        EnvPoolVecEnv("No-v0")
    with pytest.raises(ValueError, match="batch_size must be n_envs, 4, got 2"):
        EnvPoolVecEnv("CartPole-v1", 4, batch_size=2)
    env = EnvPoolVecEnv("CartPole-v1")
    env.set_options({})
    with pytest.raises(ValueError, match="take no options"):
        env.set_options([{"low": 0.1}])
    assert env.get_attr("render_mode") == [None] and env.env_is_wrapped(gym.Wrapper) == [False]
    for refused in (lambda: env.get_attr("x"), lambda: env.set_attr("x", 1), lambda: env.env_method("x")):
        with pytest.raises(AttributeError, match="in Python, got x"):
            refused()


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_it_plays_in_real_pools():
    pytest.importorskip("envpool")
    env = EnvPoolVecEnv("CartPole-v1", 4, max_episode_steps=20)
    env.seed(1)
    first = env.reset()
    ended = 0
    for _ in range(50):
        obs, rewards, dones, infos = env.step(np.zeros(4, np.int64))
        assert obs.shape == first.shape and np.all(rewards == 1)
        assert np.abs(obs[dones]).max(initial=0) <= 0.05  # where a new episode begins
        for i in np.flatnonzero(dones):
            assert np.abs(infos[i]["terminal_observation"]).max() > 0.05
        ended += dones.sum()
    assert ended >= 8
    env.seed(1)
    np.testing.assert_array_equal(env.reset(), first)
