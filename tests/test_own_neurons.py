"""A neuron model takes one file and one line: CONTRIBUTING's, and every other, goes through the whole library."""

import importlib
import sys

import gymnasium as gym
import numpy as np
import pytest
import test_neurons
from test_any_kernels import network_of, run_reference
from test_contributing import FILES

from spikeloop.agents import SpikingPPO
from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons import NEURONS
from spikeloop.spiking.simulator import Simulator


@pytest.fixture
def lif(tmp_path, monkeypatch):
    """Register the document's model from a file of its own, and return its name."""
    (tmp_path / "lif.py").write_text(FILES["spiking/neurons/lif.py"], "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(NEURONS, "lif", importlib.import_module("lif").Lif)
    yield "lif"
    del sys.modules["lif"]


def test_the_documented_model_passes_the_tests_of_the_others(lif):
    for name, test in vars(test_neurons).items():
        if name.startswith("test_") and not name.endswith(("kept", "loaded")):
            test(lif)
    test_neurons.test_all_zeros_is_rest_and_the_dtype_is_kept(lif, np.float32)


def test_the_documented_model_runs_by_the_equations_and_from_a_file(lif, tmp_path):
    network_of([lif, "lsnn"], [20, 10], n_ticks=3).save(tmp_path / "network.safetensors")
    network = Network.load(tmp_path / "network.safetensors")
    obs, start = np.random.default_rng(0).normal(1.0, 1.0, (6, 2, 3)), np.zeros((6, 2), bool)
    obs = obs.astype(np.float32).astype(np.float64)
    outputs, _ = Simulator(network).run(obs, None, start)
    expected, sent = run_reference(network, np.broadcast_to(obs[:, None], (6, 3, 2, 3)), start)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    assert sent[0].any()


def train(name):
    options = {"n_neurons": [8], "n_ticks": 2, "neurons": name}
    ppo = {"n_steps": 16, "batch_size": 16, "seq_len": 8, "n_epochs": 2, "seed": 0}
    model = SpikingPPO("LsnnPolicy", gym.make("CartPole-v1"), policy_kwargs=options, **ppo)
    before = [p.detach().clone() for p in model.policy.lstm_actor.parameters()]
    model.learn(32)
    assert all(p.isfinite().all() for p in model.policy.parameters())
    assert any((p != q).any() for p, q in zip(before, model.policy.lstm_actor.parameters(), strict=True))
    return model


def check_actions(model):
    """Compare what a simulator of the trained network does with the policy, over some steps of an episode."""
    simulator, state, mirrored = Simulator(model.to_network()), None, None
    obs = np.random.default_rng(0).normal(0, 1, (30, 3, 4)).astype(np.float32)
    for t, row in enumerate(obs):
        start = np.array([t == 0, t % 7 == 0, t % 11 == 0])
        action, state = model.predict(row, state, start, deterministic=True)
        found, mirrored = simulator.predict(row, mirrored, start)
        np.testing.assert_array_equal(found, action)
        np.testing.assert_array_equal(mirrored, state[0])


@pytest.mark.parametrize("name", NEURONS)
def test_a_simulator_acts_as_the_trained_policy(name):
    check_actions(train(name))


def test_the_documented_model_is_trained_and_simulated(lif):
    check_actions(train(lif))
