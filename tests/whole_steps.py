"""What has to hold of every policy whose core answers an env step as a whole, and of its networks."""

import argparse

import numpy as np
import pytest
from gymnasium import spaces

from spikeloop.agents import Evolution, SpikingPPO, load_network
from spikeloop.hardware import ChipPlayer
from spikeloop.scripts.hyperparameters import chip_ready
from spikeloop.spiking import LSNN, Network, Simulator


def simulated(model, path, n_steps):
    """Return a simulator of the saved network, which has acted in so many steps as the model did, from fresh counts."""
    model.to_network().save(path)
    simulator, rng = Simulator(Network.load(path)), np.random.default_rng(0)
    model.policy.lstm_actor.reset_counts()
    state, own = simulator.initial_state(3), model.policy.initial_state(3)
    for _ in range(n_steps):
        obs = rng.normal(size=(3, 4)).astype(np.float32)
        actions, state = simulator.predict(obs, state)
        wanted, (own,) = model.predict(obs, (own,), deterministic=True)
        np.testing.assert_array_equal(actions, wanted)
        np.testing.assert_array_equal(state, own)
    return simulator


def check_saved_model_acts_alike(model, path):
    model.save(path)
    loaded, obs = SpikingPPO.load(path), np.random.default_rng(0).normal(size=(5, 4))
    actions = (one.predict(obs, episode_start=np.ones(5), deterministic=True)[0] for one in (model, loaded))
    np.testing.assert_array_equal(*actions)


def check_what_is_for_lsnn_layers_says_so(model, network):
    policy, core = type(model.policy).__name__, type(model.policy.lstm_actor).__name__
    with pytest.raises(ValueError, match=f"to an LsnnPolicy or EpropPolicy, got {policy}"):
        load_network(model.policy, model.to_network())
    with pytest.raises(ValueError, match=r"LSNN\.layers must be a tuple of Layer, got"):
        LSNN.from_network(network)
    with pytest.raises(ValueError, match="only a policy of LSNN layers can be chip-ready"):
        chip_ready({"policy": policy})
    with pytest.raises(ValueError, match=f"compiled=True cannot be, as its core is {core}"):
        SpikingPPO(policy, "CartPole-v1", n_steps=32, batch_size=32, compiled=True)


def check_refusals_of_a_policy(policy_class):
    """A convolution, and an option of the LSNN."""
    image = spaces.Box(0, 255, (3, 40, 40), np.uint8)
    with pytest.raises(ValueError, match="without weights before it, NatureCNN has some"):
        policy_class(image, spaces.Discrete(2), lambda _: 1e-3)
    with pytest.raises(TypeError, match="tau_m"):
        policy_class(spaces.Box(-3.0, 3.0, (4,)), spaces.Discrete(2), lambda _: 1e-3, tau_m=4.0)


def check_refusals_of_a_core(core):
    """Wrong shapes and NaN in a step; the core has two inputs."""
    with pytest.raises(ValueError, match="features must be"):
        core.step(np.zeros((2, 3), np.float32), core.initial_state(2), np.zeros(2))
    with pytest.raises(ValueError, match="features"):
        core.step(np.full((2, 2), np.nan, np.float32), core.initial_state(2), np.zeros(2))


def check_evolution_goes_on(env, network):
    """In float; a chip refuses its layer by name."""
    given = {"network": network}
    evolution = Evolution("EvolutionPolicy", env, n_members=2, n_episodes=1, seed=0, policy_kwargs=given)
    assert evolution.policy.evolved.n == network.to_vector().size
    before = evolution.policy.network.to_vector()
    assert np.any(evolution.learn(300).policy.network.to_vector() != before)
    layer = type(network.layers[0]).__name__
    with pytest.raises(ValueError, match=f"loihi1 runs in ticks: no search changes {layer} there"):
        Evolution("EvolutionPolicy", env, n_members=2, backend=ChipPlayer, policy_kwargs=given)


def check_benchmark_prints_a_row(benchmark, capsys):
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    benchmark.run(parser.parse_args(["--seeds", "1", "--rows", "CartPole, frozen", "--n-timesteps", "256"]))
    head, _, row = capsys.readouterr().out.splitlines()[-3:]
    assert head.count("|") == row.count("|") and row.startswith("| CartPole, frozen |")
