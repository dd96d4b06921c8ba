"""RepeatFirst and RepeatPrevious deal POPGym's cards and pay for the suit that was asked for."""

import gymnasium as gym
import numpy as np
import pytest

from spikeloop.envs.repeat import Repeat

POPGYM = "3130201221210132022300300131130022131033012301323221"  # suits of popgym 1.0.7, RepeatFirstEasy, reset(seed=3)


def play(env, choose, seed=0):
    """Play an episode and return the suits that were shown and the rewards."""
    obs, _ = env.reset(seed=seed)
    suits, rewards, done = [], [], False
    while not done:
        suits.append(int(obs[:4].argmax()))
        assert obs[:4].sum() == 1 and obs[4] == (len(suits) == 1)
        obs, reward, done, truncated, _ = env.step(choose(suits))
        rewards.append(reward)
        assert not truncated
    assert not obs.any()
    return suits, rewards


def test_the_cards_are_popgyms():
    suits, _ = play(Repeat(), lambda suits: 0, seed=3)
    assert "".join(map(str, suits)) == POPGYM[:-1]


TASKS = [(None, 1, 51), (None, 2, 103), (1, 1, 51), (4, 1, 48), (32, 2, 72)]


@pytest.mark.parametrize(("k", "n_decks", "n_paid"), TASKS)
def test_right_answers_sum_to_one_and_wrong_ones_to_minus_one(k, n_decks, n_paid):
    def right(suits):
        return suits[0] if k is None else suits[-k] if len(suits) >= k else 0

    _, rewards = play(Repeat(k, n_decks), right)
    assert sum(rewards) == pytest.approx(1)
    assert np.count_nonzero(rewards) == n_paid == np.count_nonzero(rewards[-n_paid:])
    _, rewards = play(Repeat(k, n_decks), lambda suits: (right(suits) + 1) % 4)
    assert sum(rewards) == pytest.approx(-1)


@pytest.mark.parametrize(
    "kwargs", [{"k": 0}, {"k": 52}, {"k": 2.5}, {"k": True}, {"n_decks": 0}, {"render_mode": "human"}]
)
def test_a_wrong_argument_is_named(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        Repeat(**kwargs)


@pytest.mark.parametrize("name", ["spikeloop/RepeatFirst-v0", "spikeloop/TMaze50-v0"])
def test_an_action_that_is_none_is_refused(name):
    env = gym.make(name).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"an action must be 0 .*, got -1"):
        env.step(-1)
