"""Layers that would start silent are brought to fire after the first rollout; loaded weights are not."""

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env

from spikeloop.agents import SpikingA2C, SpikingPPO, load_network
from spikeloop.agents.initial_firing import TARGET_RATE, calibrate
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.module import LSNN

DEEP = {"n_neurons": [32, 32, 32], "n_ticks": 4}


def algorithm(kind=SpikingPPO, seed=0, n_envs=2, **policy_kwargs):
    options = {"batch_size": 128, "n_epochs": 1} if kind is SpikingPPO else {}
    env = make_vec_env("Pendulum-v1", n_envs=n_envs, seed=seed)
    return kind("LsnnPolicy", env, n_steps=64, seed=seed, learning_rate=1e-9, policy_kwargs=policy_kwargs, **options)


def learnt(model, n_rollouts=1):
    """Return what a model logged while it learnt for so many rollouts."""
    model.learn(n_rollouts * 64 * model.n_envs, log_interval=1000)
    return dict(model.logger.name_to_value)


def w_in(model):
    return [layer.w_in.detach().clone() for layer in model.policy.lstm_actor.layers]


@pytest.mark.parametrize("kind", [SpikingPPO, SpikingA2C])
def test_silent_layers_fire_from_the_second_rollout_on_and_the_factors_are_logged(kind):
    model = algorithm(kind, **DEEP)
    before = w_in(model)
    first = learnt(model)
    assert first["spiking/firing_rate_1"] < 0.02 and first["spiking/firing_rate_2"] < 0.02
    second = learnt(model)
    factors = [first.get(f"spiking/init_scale_{i}", 1.0) for i in range(3)]
    assert factors[0] == 1.0 and factors[1] > 1 and factors[2] > 1
    for i, (old, new) in enumerate(zip(before, w_in(model), strict=True)):
        th.testing.assert_close(new, factors[i] * old, rtol=1e-5, atol=1e-6)
    for i in (1, 2):
        assert second[f"spiking/firing_rate_{i}"] == pytest.approx(TARGET_RATE, rel=0.6)  # other observations
    assert not any(name.startswith("spiking/init_scale") for name in second if name not in first)


def test_a_net_that_fires_and_one_that_is_not_to_be_calibrated_stay_as_they_were_drawn():
    for options in ({"n_neurons": 32}, {**DEEP, "calibrate_init": False}):
        model = algorithm(**options)
        before = w_in(model)
        if options.get("calibrate_init") is False:
            with pytest.warns(UserWarning, match="layer 2 spikes on"):
                logged = learnt(model)
        else:
            logged = learnt(model)
        assert not any(name.startswith("spiking/init_scale") for name in logged)
        th.testing.assert_close(w_in(model), before, rtol=1e-5, atol=1e-6)


def test_a_number_brings_every_layer_to_that_rate():
    model = algorithm(n_envs=16, **DEEP, calibrate_init=0.3)  # of whose rollouts one is like the other
    assert {f"spiking/init_scale_{i}" for i in range(3)} <= set(learnt(model))
    logged = learnt(model)
    for i in range(3):
        assert logged[f"spiking/firing_rate_{i}"] == pytest.approx(0.3, rel=0.6)


def test_the_same_seed_gives_the_same_factors():
    found = []
    for _ in range(2):
        model = algorithm(**DEEP)
        learnt(model)
        found.append(w_in(model))
    assert all(map(th.equal, *found))


@pytest.mark.filterwarnings("ignore:layer . spikes on")
@pytest.mark.parametrize("way", ["load_network", "set_parameters"])
def test_weights_that_were_loaded_are_left_alone(way):
    source, model = algorithm(seed=1, **DEEP), algorithm(seed=0, **DEEP)
    if way == "load_network":
        load_network(model.policy, source.to_network())
    else:
        model.set_parameters(source.get_parameters())
    before = w_in(model)
    logged = learnt(model)
    assert not any(name.startswith("spiking/init_scale") for name in logged)
    th.testing.assert_close(w_in(model), before, rtol=1e-5, atol=1e-6)


def test_a_model_that_learnt_is_not_calibrated_again_once_it_is_loaded(tmp_path):
    model = algorithm(**DEEP)
    learnt(model)
    model.save(tmp_path / "model.zip")
    loaded = SpikingPPO.load(tmp_path / "model.zip", env=make_vec_env("Pendulum-v1", n_envs=2, seed=0))
    before = w_in(loaded)
    loaded._looked = False  # as if the checkpoint had not told
    assert not any(name.startswith("spiking/init_scale") for name in learnt(loaded))
    th.testing.assert_close(w_in(loaded), before, rtol=1e-5, atol=1e-6)


@given(
    st.lists(st.integers(16, 40), min_size=1, max_size=3),
    st.floats(0.05, 0.2),
    st.integers(0, 100),
    st.sampled_from(["direct", "population", "rate"]),
)
@settings(max_examples=15, deadline=None)
def test_all_layers_reach_a_rate_and_counts_are_left_as_they_were(sizes, target, seed, kind):
    encoder = Encoder(kind, 3) if kind == "direct" else Encoder(kind, 3, **RANGES[kind])
    lsnn = LSNN(encoder, sizes, n_ticks=4, generator=th.Generator().manual_seed(seed))
    features = th.randn(40, 3, 3, generator=th.Generator().manual_seed(seed))
    state = th.from_numpy(lsnn.initial_state(3, np.random.default_rng(seed)))
    factors, counts, n_counted = calibrate(lsnn, features, state, th.zeros(40, 3), target)
    assert lsnn.n_counted == 0 and sum(count.sum() for count in lsnn.spike_counts) == 0
    for i, count in enumerate(counts):
        if i in factors:
            assert count.mean() / n_counted == pytest.approx(target, abs=0.05)


RANGES = {
    "population": {"centers": np.tile([-1.0, 1.0], (3, 1)), "widths": np.ones((3, 2))},
    "rate": {"low": -3 * np.ones(3), "high": 3 * np.ones(3)},
}


def test_a_rate_that_no_factor_reaches_is_told_of_and_changes_nothing():
    model = algorithm(n_neurons=8, refractory=4, calibrate_init=0.9)
    before = w_in(model)
    with pytest.warns(UserWarning, match=r"calibrate_init=0.9: layer 0 fires at no factor"):
        learnt(model)
    th.testing.assert_close(w_in(model), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan"), "yes", None])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="calibrate_init must be"):
        algorithm(calibrate_init=rate)


def test_a_rate_of_neurons_that_do_not_spike_is_refused():
    from spikeloop.spiking.neurons import NEURONS

    graded = next((name for name, kind in NEURONS.items() if kind.graded), None)
    if graded is not None:
        with pytest.raises(ValueError, match="needs neurons that spike"):
            algorithm(neurons=graded, calibrate_init=0.2)
