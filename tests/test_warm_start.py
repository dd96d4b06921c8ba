"""A network's weights go from one policy to another, whatever trained them, and nothing else has to follow."""

import dataclasses

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from spikeloop.agents import EProp, SpikingPPO, load_network
from spikeloop.spiking import Simulator

SAME = {"n_neurons": 8, "n_ticks": 2, "tau_m": 3.0, "tau_a": [10.0, 90.0], "tau_out": 4.0, "beta": 0.3}
SCALE = {"obs_scale": [0.5, 0.5, 6.0, 1.0]}
OBS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


def ppo(env="CartPole-v1", seed=0, **policy_kwargs):
    settings = {"n_steps": 32, "batch_size": 32, "seq_len": 8, "n_epochs": 1}
    return SpikingPPO("LsnnPolicy", env, seed=seed, policy_kwargs={**SAME, **policy_kwargs}, **settings)


def eprop(env="CartPole-v1", seed=1, **policy_kwargs):
    policy_kwargs = {"bias_scale": 0.0, **SAME, **policy_kwargs}
    return EProp("EpropPolicy", env, seed=seed, n_episodes=2, policy_kwargs=policy_kwargs, optimizer="adam")


def acts(network):
    simulator, state, outputs = Simulator(network), None, []
    for obs in OBS:
        output, state = simulator.run(obs[None, None], state)
        outputs.append(output)
    return np.array(outputs)


def predicts(model, obs):
    state, actions = None, []
    for row in obs:
        action, state = model.predict(row, state, np.zeros(1), deterministic=True)
        actions.append(action)
    return np.array(actions)


@pytest.mark.parametrize(
    "kwargs", [{}, SCALE, {"encoder": "population", "encoder_kwargs": {"n": 3}}, {"encoder": "rate"}], ids=str
)
def test_ppo_to_e_prop_and_back(kwargs):
    first = ppo(**kwargs).learn(64)
    local = eprop(feedback="initial", **kwargs).learn(30)
    load_network(local.policy, first.to_network())
    np.testing.assert_array_equal(acts(local.to_network()), acts(first.to_network()))
    np.testing.assert_array_equal(local.policy.feedback[:-1], local.policy.w_out[:-1])
    means = {name: value for name, value in local.policy.state_dict().items() if name.startswith("adam_")}
    assert means and not any(value.any() for value in means.values())  # of the weights that were there before
    if "encoder" not in kwargs:
        np.testing.assert_array_equal(predicts(local, OBS), predicts(first, OBS))
    before = local.to_network().to_vector()
    local.learn(60, reset_num_timesteps=False)
    assert not np.array_equal(before, local.to_network().to_vector())
    load_network(first.policy, local.to_network())
    np.testing.assert_array_equal(acts(first.to_network()), acts(local.to_network()))
    if "encoder" not in kwargs:
        np.testing.assert_array_equal(predicts(first, OBS), predicts(local, OBS))
    first.learn(64, reset_num_timesteps=False)


@pytest.mark.parametrize("make", [ppo, eprop])
def test_box_actions_and_normalisation_go_along(make):
    def env():
        return VecNormalize(make_vec_env("Pendulum-v1", seed=0))

    source, target = make(env()), make(env(), seed=5)
    load_network(target.policy, source.to_network())
    np.testing.assert_array_equal(target.to_network().to_vector(), source.to_network().to_vector())


@pytest.mark.parametrize("make", [ppo, eprop])
def test_a_network_that_does_not_fit_is_refused_by_name(make):
    network = make().to_network()
    wrong = {
        "n_ticks is 2, got 3": dataclasses.replace(network, n_ticks=3),
        "tau_out is 4.0, got 1.0": make(tau_out=1.0).to_network(),
        r"w_in is \(8, 4\), got \(9, 4\)": make(n_neurons=9).to_network(),
        "encoder kind is Direct, got Population": make(encoder="population").to_network(),
        "encoder.n_obs is 4, got 6": make("Acrobot-v1").to_network(),
        r"obs_scale\[0\] kind is None, got Normalizer": make(**SCALE).to_network(),
    }
    for message, other in wrong.items():
        model = make()
        before = model.to_network().to_vector()
        with pytest.raises(ValueError, match=message):
            load_network(model.policy, other)
        np.testing.assert_array_equal(model.to_network().to_vector(), before)


def test_neurons_that_are_taken_over_show_in_the_next_prediction():
    """Though the weights are the same."""
    model, other = eprop(beta=0.1), eprop(beta=0.9)
    load_network(other.policy, model.to_network())
    predicts(other, OBS)
    adapted = dataclasses.replace(model.to_network().layers[0].neurons, beta=np.full(8, 5.0))
    network = model.to_network()
    network = dataclasses.replace(network, layers=(dataclasses.replace(network.layers[0], neurons=adapted),))
    load_network(other.policy, network)
    np.testing.assert_array_equal(acts(other.to_network()), acts(network))
    state = None
    for obs in OBS:
        state = other.predict(obs, state, deterministic=True)[1]
    expected = None
    for obs in OBS:
        expected = Simulator(network).predict(obs, expected)[1]
    np.testing.assert_array_equal(state[0], expected)


def test_what_e_prop_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"bias_scale=0\.0"):
        load_network(eprop(bias_scale=None).policy, eprop(bias_scale=0.5).to_network())
    with pytest.raises(ValueError, match="one tau_m for all"):
        load_network(eprop().policy, ppo(tau_m=(2.0, 9.0)).to_network())
    with pytest.raises(ValueError, match=r"neurons\.reset is subtract, got zero"):
        load_network(eprop().policy, ppo(reset="zero").to_network())
