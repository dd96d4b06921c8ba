"""A network that clears begins every env step at rest, in every engine that runs it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from float_target import FloatTarget
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.agents import Evolution, LsnnPolicy
from spikeloop.agents.compilable import torch_reason
from spikeloop.agents.playing import FloatPlayer
from spikeloop.hardware import ChipPlayer, DeployedPolicy, compile_network
from spikeloop.hardware.deployment import Deployment
from spikeloop.hardware.target import TARGETS
from spikeloop.spiking import (
    LSNN,
    ActionHead,
    Encoder,
    FrameStack,
    Layer,
    LsnnNeurons,
    Network,
    Readout,
    Simulator,
    reference,
)
from spikeloop.spiking.neurons import NEURONS
from spikeloop.spiking.neurons.integrate_and_fire import IntegrateAndFire
from spikeloop.spiking.readout_kinds import READOUTS

VALUES = [kind for kind, readout in READOUTS.items() if readout.decide is None]


def neurons_of(kind, n):
    if kind == "lsnn":
        return LsnnNeurons(np.full(n, 4.0), np.ones(n), np.full(n, 50.0), np.full(n, 0.2), np.zeros(n))
    return NEURONS[kind](v_th=np.ones(n))


def network_of(kind="integrate_and_fire", seed=0, *, sizes=(6, 5), latency=0, readout="count", n_ticks=5, dtype="f8"):
    """Return a clearing network whose sums are exact in any order."""
    rng, layers, n_inputs = np.random.default_rng(seed), [], 3
    for n in sizes:
        w_rec = (rng.integers(-8, 9, (n, n)) / 32).astype(dtype)
        np.fill_diagonal(w_rec, 0)
        w_in, bias = rng.integers(-16, 32, (n, n_inputs)) / 32, rng.integers(-4, 8, n) / 32
        layers.append(Layer(w_in.astype(dtype), bias.astype(dtype), neurons_of(kind, n), w_rec))
        n_inputs = n
    w_out = (rng.integers(-16, 17, (2, n_inputs)) / 16).astype(dtype)
    return Network(
        Encoder("direct", 3),
        tuple(layers),
        Readout(w_out, np.zeros(2, dtype), tau_out=3.0, kind=readout),
        ActionHead("discrete", (2,)),
        n_ticks=n_ticks,
        latency=latency,
        clears=True,
    )


def observations(seed=0, length=6, n_envs=4):
    return np.random.default_rng(seed).integers(-16, 32, (length, n_envs, 3)) / 16


@pytest.mark.parametrize("kind", ["integrate_and_fire", "lsnn"])
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**31),
    latency=st.integers(0, 1),
    readout=st.sampled_from(VALUES),
    n_ticks=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
)
def test_the_simulator_is_the_definition_at_every_step_alone(kind, seed, latency, readout, n_ticks, sizes):
    network = network_of(kind, seed, sizes=sizes, latency=latency, readout=readout, n_ticks=n_ticks)
    obs, simulator = observations(seed), Simulator(network)
    outputs, end, monitor = simulator.record(obs)
    states, y = reference.rest(network, 4), np.zeros((4, sizes[-1]))
    for step, x in enumerate(obs):
        seen = np.repeat(x[None], n_ticks, axis=0)
        expected, states, y, z = reference.step(network, seen, states, y)  # which is given the states of before
        alone, *_ = reference.step(network, seen, reference.rest(network, 4), np.zeros_like(y))
        np.testing.assert_array_equal(expected, alone)
        np.testing.assert_allclose(outputs[step], expected, atol=1e-12)
        for spikes, found in zip(z, monitor.layers, strict=True):
            now = (found.t >= step * n_ticks) & (found.t < (step + 1) * n_ticks)
            assert now.sum() == spikes.sum()
    for step, x in enumerate(obs):
        np.testing.assert_array_equal(simulator.run(x[None], np.ones_like(end))[0][0], outputs[step])


@pytest.mark.parametrize("kind", ["integrate_and_fire", "lsnn"])
@pytest.mark.parametrize("latency", [0, 1])
def test_the_torch_module_clears_too_forward_and_step(kind, latency):
    network = network_of(kind, 3, latency=latency, dtype="f4")
    lsnn, obs = LSNN.from_network(network), observations(3).astype("f4")
    state, none = np.ones((*lsnn.state_shape[:1], 4, lsnn.state_shape[1]), "f4"), np.zeros((6, 4), "f4")
    y, _ = lsnn(torch.from_numpy(obs), torch.from_numpy(state), torch.from_numpy(none))
    outputs, _ = Simulator(network).run(obs)
    np.testing.assert_allclose(y.detach().numpy() @ network.readout.w_out.T, outputs, atol=1e-6)
    for step, x in enumerate(obs):
        now, state = lsnn.step(x, state, none[step])
        np.testing.assert_allclose(now, y[step].detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["integrate_and_fire", "lsnn"])
def test_one_step_at_a_time_needs_no_state(kind, recwarn):
    network = network_of(kind, 1, sizes=(7,), dtype="f4")
    simulator, obs, state = Simulator(network), observations(1), None
    expected = simulator.run(obs)[0].argmax(axis=2)
    for step, x in enumerate(obs):
        kept, state = simulator.predict(x, state)
        forgotten, _ = simulator.predict(x)
        np.testing.assert_array_equal(kept, expected[step])
        np.testing.assert_array_equal(forgotten, expected[step])
    assert not [warning for warning in recwarn if "starts from rest" in str(warning.message)]


def test_past_frames_go_on():
    network = network_of(sizes=(4,))
    stacked = replace(network, preprocessing=(FrameStack(3, 1),))
    assert stacked.remembers and not network.remembers
    obs = np.arange(4.0).reshape(4, 1, 1) / 4
    frames = np.array([[0, 0, 0], [0, 0, 0.25], [0, 0.25, 0.5], [0.25, 0.5, 0.75]])[:, None]
    np.testing.assert_array_equal(Simulator(stacked).run(obs)[0], Simulator(network).run(frames)[0])


@pytest.mark.filterwarnings("ignore:lowered|quantised")
@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
@pytest.mark.parametrize("latency", [0, 1])
def test_a_deployed_policy_clears_the_chip(chip, latency, tmp_path, recwarn):
    network, obs = network_of(latency=latency), observations(5, length=8)
    compile_network(network, chip, calibration=obs).save(tmp_path / "file")
    deployment = Deployment.load(tmp_path / "file")
    assert deployment.host.clears
    policy, slow, state = DeployedPolicy(deployment), DeployedPolicy(deployment, interpreted=True), None
    for x in obs:
        values, state = policy.step(x, state)
        for other in (policy, slow):
            np.testing.assert_array_equal(other.step(x)[0], values)
        policy.predict(x)
    assert not [warning for warning in recwarn if "starts from rest" in str(warning.message)]


def test_a_chip_whose_target_does_not_clear_refuses(monkeypatch):
    monkeypatch.setitem(TARGETS, "float", FloatTarget())
    with pytest.raises(ValueError, match="float cannot run this network, whose state is cleared at every env step"):
        compile_network(network_of(sizes=(6,)), "float")


def test_it_is_saved_and_a_flag(tmp_path):
    network = network_of()
    network.save(tmp_path / "file")
    assert Network.load(tmp_path / "file").clears
    with pytest.raises(ValueError, match=r"Network.clears must be"):
        replace(network, clears="yes")
    with pytest.raises(ValueError, match=r"v_start must be below v_th, found 1"):
        IntegrateAndFire(v_th=np.ones(2), v_start=1.0)


def test_a_policy_that_clears_is_trained_by_torch_alone():
    space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)
    policy = LsnnPolicy(*space, lambda _: 3e-4, n_neurons=[8], clears=True)
    assert torch_reason(policy) == "its state is cleared at every env step"


def test_a_player_that_clears_plays_step_by_step():
    kwargs = {"n_neurons": 8, "n_ticks": 3, "latency": 1, "reset": "zero", "adaptation": "ahp", "beta": 0.05}
    network = Evolution("EvolutionPolicy", "CartPole-v1", policy_kwargs=kwargs, seed=0).policy.network
    assert FloatPlayer(network).whole and ChipPlayer(network).whole
    cleared = replace(network, clears=True)
    assert not FloatPlayer(cleared).whole and not ChipPlayer(cleared).whole
