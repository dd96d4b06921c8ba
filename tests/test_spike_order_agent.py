"""Spiking populations learn the order of spikes by R-STDP, and the options that this takes do as they say."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents import RSTDP
from spikeloop.agents.registry import hyperparams_file
from spikeloop.scripts.bench.spike_order import CountedPairs, ShuffledLines
from spikeloop.scripts.benchmark import main
from spikeloop.spiking import Simulator
from spikeloop.spiking.encoders.spike_times import SpikeTimes
from spikeloop.spiking.rules.population_parameters import PopulationParameters
from spikeloop.spiking.rules.populations import SpikingPopulations

ENV = "spikeloop/SpikeOrder-v0"
PRESETS = {
    algo: yaml.safe_load(hyperparams_file(algo).read_text("utf-8"))[ENV] for algo in ("rstdp", "rstdp_populations")
}
PRESET = PRESETS["rstdp"]


def make(n_episodes=200, policy_kwargs=(), backend="float", **env_kwargs):
    settings = {**PRESET, "n_episodes": n_episodes, "backend": backend}
    del settings["n_timesteps"]
    settings["policy_kwargs"] = {**settings["policy_kwargs"], **dict(policy_kwargs)}
    return RSTDP(env=make_vec_env(ENV, seed=0, env_kwargs=env_kwargs), seed=0, **settings)


def correct(model, wrapper=None, **env_kwargs):
    env = make_vec_env(ENV, n_envs=4, seed=1, env_kwargs=env_kwargs, wrapper_class=wrapper)
    return evaluate_policy(model, env, 200)[0]


def test_both_algorithms_have_the_same_preset():
    assert PRESETS["rstdp"] == PRESETS["rstdp_populations"]


def test_the_preset_learns_the_order_and_nothing_else():
    model = make().learn(10_000)
    assert correct(model) > 0.95
    assert 0.35 < correct(model, ShuffledLines) < 0.65


def test_counts_teach_nothing():
    assert 0.35 < correct(make(backend=CountedPairs).learn(10_000)) < 0.65


def test_shuffled_lines_keep_the_times():
    env, shuffled = gym.make(ENV), ShuffledLines(gym.make(ENV))
    times, _ = env.reset(seed=3)
    dealt, _ = shuffled.reset(seed=3)
    np.testing.assert_array_equal(np.sort(dealt), np.sort(times))
    assert np.any(dealt != times)


def test_the_network_without_noise_is_a_value_that_acts_alike():
    model = make(n_episodes=50).learn(10_000)
    simulator, env = Simulator(model.to_network()), gym.make(ENV)
    obs = np.array([env.reset(seed=seed)[0] for seed in range(50)])
    actions, _ = model.predict(obs, deterministic=True, episode_start=np.ones(50, bool))
    assert 0 < actions.sum() < 50
    np.testing.assert_array_equal(simulator.predict(obs)[0], actions)


def test_a_saved_policy_acts_alike(tmp_path):
    model = make(n_episodes=20, policy_kwargs={"go_line": True}, hard=True).learn(10_000)
    model.save(tmp_path / "model")
    loaded, env = RSTDP.load(tmp_path / "model"), gym.make(ENV, hard=True)
    obs = np.array([env.reset(seed=seed)[0] for seed in range(20)])
    start = {"deterministic": True, "episode_start": np.ones(20, bool)}
    np.testing.assert_array_equal(loaded.predict(obs, **start)[0], model.predict(obs, **start)[0])


def test_a_go_line_has_no_place_in_a_network():
    with pytest.raises(ValueError, match="go_line"):
        make(policy_kwargs={"go_line": True}, hard=True).to_network()


@pytest.mark.parametrize("kwargs", [{"go_line": 2}, {"go_line": True, "encoder": "tiles"}])
def test_a_go_line_without_spike_times_is_refused(kwargs):
    with pytest.raises(ValueError, match="go_line"):
        make(policy_kwargs=kwargs)


def test_axons_too_long_for_the_env_step_are_refused():
    with pytest.raises(ValueError, match="shortest of delays is 250 ms"):
        make(policy_kwargs={"encoder_kwargs": {"delays": [250.0]}})


PARAMETERS = PopulationParameters(
    n_ticks=20, n_neurons=3, w_start=0.3, w_max=1.0, w_min=0.0, readout="count", noise=0.5, learning_rate=0.1
)


def test_normalized_weights_keep_their_sum_and_bounds():
    parameters = dataclasses.replace(PARAMETERS, normalized=True, centred=False, w_max=10.0)
    network, rng = SpikingPopulations(6, 2, parameters, np.random.default_rng(0)), np.random.default_rng(1)
    for _ in range(20):
        network.run_trains(np.arange(3), rng.random((3, 20)) < 0.3)
        network.reinforce(rng.normal())
        w = network.state_dict()["w"]
        assert w.min() >= 0.0
        if w.min() > 0.0:  # no bound was met
            np.testing.assert_allclose(w.sum(axis=1), 6 * 0.3, atol=1e-12)
    assert w.std() > 1e-3


def test_a_count_begins_at_the_tick_it_is_read_from():
    network = SpikingPopulations(4, 2, PARAMETERS, np.random.default_rng(0))
    spikes = np.random.default_rng(1).random((4, 20)) < 0.5
    for read_from in (0, 7, 19):
        network.run_trains(np.arange(4), spikes, read_from)
        np.testing.assert_array_equal(network.state.rate, network.spikes[read_from:].sum(axis=0))


def test_populations_refuse_what_does_not_fit():
    for changes, name in (
        ({"readout": "mean"}, "readout"),
        ({"critic": "spiking"}, "critic"),
        ({"w_min": 0.4}, "w_start"),
        ({"w_min": 2.0}, "w_min"),
        ({"normalized": 1.5}, "normalized"),
    ):
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(PARAMETERS, **changes)


def test_spike_times_outside_the_env_step_are_no_spikes():
    encoder = SpikeTimes(3, delays=[0.0, 1.5])
    x, _ = encoder(np.array([[[-0.5, 3.9, 4.0]]], np.float32), np.zeros((0, 1, 3)), None, 8, 0.5)
    assert x.shape == (1, 8, 1, 6)
    np.testing.assert_array_equal(x[0, :, 0].sum(axis=0), [0, 1, 0, 0, 0, 0])
    assert x[0, 7, 0, 1] == 1


@pytest.mark.parametrize("delays", [[], [-1.0], [[0.0]], [np.nan]])
def test_delays_that_are_none_are_refused(delays):
    with pytest.raises(ValueError, match="delays"):
        SpikeTimes(2, delays=delays)


def test_the_benchmark_shows_that_hard_needs_delays_and_that_a_corridor_is_learnt(capsys):
    rows = ["hard: pair window, delays", "hard: no delays", "corridor: pair window, TD error"]
    assert main(["spike-order", "--seeds", "24", "--n-episodes", "1000", "--rows", *rows]) == 0
    printed = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in printed[2:]] == rows
    assert all(len(row) == 7 for row in printed[2:])
    hard, no_delays, corridor = (float(row[1].split()[0]) for row in printed[2:])
    assert hard > 0.9 and no_delays < 0.7 and corridor > 0.9
