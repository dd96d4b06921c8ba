"""Spike order can be told from two groups together, and from nothing less; a corridor pays at its end alone."""

import gymnasium as gym
import numpy as np
import pytest

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.envs.spike_order import SpikeOrder

N_TRIALS = 20_000


def draw(n=N_TRIALS, **kwargs):
    """Return spike times, shape (n, n_observed), and which group came first, shape (n,)."""
    env = SpikeOrder(**kwargs)
    trials = [env.reset(seed=1 if trial == 0 else None) for trial in range(n)]
    return np.array([times for times, _ in trials]), np.array([info["first"] for _, info in trials])


@pytest.fixture(scope="module")
def trials():
    return draw()


def best_guess(feature, first):
    """How often the best guess by one number is right: learnt in 4 ms bins from one half, asked about the other."""
    bins = (feature // 4).astype(int)
    half, seen = len(first) // 2, np.zeros((2, bins.max() + 1))
    np.add.at(seen, (first[:half], bins[:half]), 1)
    return np.mean((seen[1] > seen[0])[bins[half:]] == first[half:])


def test_every_line_spikes_once_in_every_trial(trials):
    times, first = trials
    assert times.shape == (N_TRIALS, 20)
    assert times.min() >= 0 and times.max() < 250
    assert 0.48 < first.mean() < 0.52


def test_who_compares_both_groups_is_always_right(trials):
    times, first = trials
    groups = times.reshape(-1, 2, 10)
    assert np.mean(groups.mean(axis=2).argmin(axis=1) == first) == 1.0
    assert np.mean(groups[:, :, 0].argmin(axis=1) == first) > 0.999  # one line of each


def test_no_line_and_no_group_alone_tells_the_order(trials):
    times, first = trials
    for feature in (times[:, 0], times[:, -1], times[:, :10].mean(axis=1), times[:, 10:].mean(axis=1)):
        assert best_guess(feature, first) < 0.55


def test_neither_the_middle_of_the_trial_nor_the_delay_tells_the_order(trials):
    times, first = trials
    a, b = times.reshape(-1, 2, 10).mean(axis=2).T
    for feature in ((a + b) / 2, abs(a - b), times.min(axis=1), times.max(axis=1)):
        assert 0.48 < best_guess(feature, first) < 0.52


def test_a_short_span_of_onsets_would_give_it_away():
    times, first = draw(onset=15.0)
    assert best_guess(times[:, :10].mean(axis=1), first) > 0.8


def test_delay_and_jitter_are_as_asked_for(trials):
    times, first = trials
    groups = times.reshape(-1, 2, 10).astype(float)
    delays = (groups.mean(axis=2) * np.where(first[:, None] == 0, (-1, 1), (1, -1))).sum(axis=1)
    assert delays.min() > 3.0 and delays.max() < 22.0
    assert delays.mean() == pytest.approx(12.5, abs=0.1)
    assert groups.std(axis=2, ddof=1).mean() == pytest.approx(0.973, abs=0.01)  # of ten normal numbers


def test_a_bandit_pays_for_the_right_turn_and_ends():
    env = SpikeOrder()
    for seed in range(4):
        for wrong in (False, True):
            _, info = env.reset(seed=seed)
            times, reward, terminated, truncated, _ = env.step(info["first"] ^ wrong)
            assert (reward, terminated, truncated) == (float(not wrong), True, False)
            assert (times == env.duration).all()  # silence


def test_a_corridor_pays_behind_the_last_junction_and_ends_with_a_wrong_turn():
    env = SpikeOrder(n_junctions=3)
    times, info = env.reset(seed=0)
    for junction in range(3):
        np.testing.assert_array_equal(times[20:], np.where(np.arange(3) == junction, 249, 250))
        times, reward, terminated, _, info = env.step(info["first"])
        assert (reward, terminated) == (float(junction == 2), junction == 2)
    _, info = env.reset()
    _, _, _, _, info = env.step(info["first"])
    assert env.step(1 - info["first"])[1:3] == (0.0, True)


def test_go_comes_with_the_last_spike():
    times, _ = draw(n=50, hard=True)
    np.testing.assert_array_equal(times[:, -1], times[:, :-1].max(axis=1))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"n_lines": 0},
        {"n_junctions": 1.5},
        {"n_junctions": True},
        {"hard": 1},
        {"duration": 228.0},
        {"duration": float("inf")},
        {"onset": -1.0},
        {"delay": (0.0, 5.0)},
        {"delay": (6.0, 5.0)},
        {"jitter": float("nan")},
        {"render_mode": "human"},
    ],
)
def test_a_wrong_argument_is_named(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        SpikeOrder(**kwargs)


def test_arguments_reach_the_task_through_its_id():
    env = gym.make("spikeloop/SpikeOrder-v0", n_lines=3, n_junctions=4, hard=True)
    assert env.observation_space.shape == (6 + 4 + 1,)
