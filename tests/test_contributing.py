"""The worked examples of CONTRIBUTING.md, as they stand: one file and one line each, and everything else finds them."""

import importlib
import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spikeloop.agents import SpikingPPO
from spikeloop.hardware import DeployedPolicy, compile_network
from spikeloop.spiking import ActionHead, Encoder, Layer, LsnnNeurons, Network, Readout, Simulator

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")
FILES = dict(re.findall(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE))
LINES = re.findall(r"`(\w+)` of `([\w/]+)\.py`:\n\n```python\n(.*?),\n```", TEXT)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """A function that adds the files whose names it is given, and their lines; all is undone afterwards."""

    def add(*names):
        known = {}
        for name in names:
            path = tmp_path / Path(name).name
            path.write_text(FILES[name], "utf-8")
            module_name = "spikeloop." + name.removesuffix(".py").replace("/", ".")
            spec = importlib.util.spec_from_file_location(module_name, path)
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, module_name, module)
            spec.loader.exec_module(module)
            known |= vars(module)
        for registry, home, line in LINES:
            key, _, member = line.rpartition(": ")
            if member in known:
                module = importlib.import_module("spikeloop." + home.removesuffix("/__init__").replace("/", "."))
                monkeypatch.setitem(getattr(module, registry), eval(key, known), known[member])
        return known

    return add


def trained(**policy_kwargs):
    kwargs = {"n_neurons": [8], "n_ticks": 2, **policy_kwargs}
    model = SpikingPPO("LsnnPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, seed=0, policy_kwargs=kwargs)
    before = model.policy.to_network().layers[0].w_in
    model.learn(32)
    assert not np.array_equal(model.policy.to_network().layers[0].w_in, before)
    return model


def same_actions(model, path):
    model.to_network().save(path)
    simulator, rng = Simulator(Network.load(path)), np.random.default_rng(0)
    states = [None, None]
    for step in range(20):
        obs, start = rng.normal(0, 1, 4).astype(np.float32), np.array([step == 0])
        action, states[0] = model.predict(obs, states[0], start, deterministic=True)
        other, states[1] = simulator.predict(obs, states[1], start)
        assert action == other


def test_every_file_has_its_line():
    assert len(FILES) == len(LINES) == 6


def with_twin(lif):
    """Two networks that do the same, of the example's neurons and of LSNN neurons without adaptation."""
    rng, none = np.random.default_rng(0), np.zeros(12)
    layer = Layer(rng.normal(0, 2, (12, 4)), np.full(12, 0.3), lif(np.linspace(2, 9, 12)))
    same = LsnnNeurons(layer.neurons.tau_m, layer.neurons.v_th, none, none, none, reset="zero")
    readout, head = Readout(rng.normal(0, 1, (2, 12)), np.zeros(2), tau_out=3.0), ActionHead("discrete", (2,))
    layers = layer, replace(layer, neurons=same)
    return [Network(Encoder("direct", 4), (one,), readout, head, n_ticks=4, latency=1) for one in layers]


def test_a_neuron_model_trains_and_simulates_and_is_refused_by_chips(added, tmp_path):
    known = added("spiking/neurons/lif.py")
    same_actions(trained(neurons="lif", neuron_kwargs={"tau_m": 10.0}), tmp_path / "lif")
    networks, obs = with_twin(known["Lif"]), np.random.default_rng(1).normal(0, 1, (30, 3, 4))
    spikes = [Simulator(network).record(obs)[2].layers[0] for network in networks]
    assert spikes[0].i.size > 50
    np.testing.assert_array_equal(spikes[0].i, spikes[1].i)
    with pytest.raises(ValueError, match="loihi1 cannot hold Lif"):
        compile_network(networks[0], "loihi1")


def test_a_lowering_puts_the_neuron_model_on_a_chip(added):
    known = added("spiking/neurons/lif.py", "hardware/loihi/lower_lif.py")
    networks, obs = with_twin(known["Lif"]), np.random.default_rng(1).normal(0, 1, (30, 3, 4))
    policies = [DeployedPolicy(compile_network(network, "loihi1", calibration=obs)) for network in networks]
    states = [None, None]
    for x in obs:
        for i, policy in enumerate(policies):
            values, states[i] = policy.step(x, states[i])
            if i == 0:
                expected = values
        np.testing.assert_array_equal(values, expected)
    with pytest.raises(ValueError, match="loihi2 cannot hold Lif"):
        compile_network(networks[0], "loihi2")


def test_an_encoder_is_found_by_its_name(added, tmp_path):
    added("spiking/encoders/on_off.py")
    same_actions(trained(encoder="on_off"), tmp_path / "on_off")


def test_a_gradient_trains(added, tmp_path):
    added("spiking/gradients/exponential.py")
    same_actions(trained(gradient="exponential", gradient_kwargs={"width": 0.3}), tmp_path / "exponential")


def test_a_constraint_holds(added, tmp_path):
    added("spiking/constraints/bounded.py")
    model = trained(constraint="bounded", constraint_kwargs={"limit": 0.05})
    largest = float(model.policy.lstm_actor.layers[0].w_rec.detach().abs().max())
    assert largest == np.float32(0.05)
    same_actions(model, tmp_path / "bounded")


def test_a_rule_runs_by_its_definition(added):
    known = added("spiking/rules/nearest.py")
    from spikeloop.spiking.rules import RULES
    from spikeloop.spiking.rules.base import Post, run

    pre, z = np.zeros((6, 1)), np.zeros((6, 1))
    pre[[0, 1, 5]], z[3] = 1, 1
    rule = RULES["nearest_stdp"]()
    w, _ = run(rule, pre, Post(z), np.zeros(6), np.array([[0.5]]))
    once = 0.01 * np.exp(-2 / 20) - 0.012 * np.exp(-2 / 20)
    assert known["NearestSTDP"] is type(rule)
    assert w.item() == pytest.approx(0.5 + once)
