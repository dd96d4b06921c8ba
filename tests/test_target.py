"""A chip is what stands in TARGETS: whatever is registered compiles, runs, is saved, reported and drawn."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from deployable import exact_network, observations
from float_target import FloatTarget
from test_deployed import cartpole_network

from spikeloop.hardware import DeployedPolicy, compile_network, quantizer
from spikeloop.hardware.deployment import Deployment
from spikeloop.hardware.draw import draw_cores
from spikeloop.hardware.loihi.lower_lsnn import lsnn_on_loihi1
from spikeloop.hardware.loihi.lowering import LOWERINGS
from spikeloop.hardware.loihi.target import LoihiTarget
from spikeloop.hardware.recording import record
from spikeloop.hardware.report import report
from spikeloop.hardware.target import TARGETS
from spikeloop.scripts import deploy, rollout, verify
from spikeloop.scripts.compared import PERTURBATION, raise_membranes
from spikeloop.spiking import LsnnNeurons, Simulator
from spikeloop.spiking.neurons import NEURONS

NAMES = (*TARGETS, "float")


@pytest.fixture(autouse=True)
def float_target(monkeypatch):
    monkeypatch.setitem(TARGETS, "float", FloatTarget())


@pytest.mark.parametrize("encoder", ["direct", "rate"])
@pytest.mark.parametrize("chip", NAMES)
@pytest.mark.filterwarnings("ignore:lowered for")
def test_a_policy_goes_through_every_target(chip, encoder, tmp_path):
    network, (obs, starts) = exact_network(latency=0, encoder=encoder), observations()
    deployment = compile_network(network, chip, calibration=obs)
    deployment.save(tmp_path / "policy.safetensors")
    policy = DeployedPolicy.load(tmp_path / "policy.safetensors", np.random.default_rng(1))
    assert (policy.deployment.chip, policy.deployment.target) == (chip, TARGETS[chip])
    simulator = Simulator(network, np.random.default_rng(1))
    states = [policy.initial_state(3), simulator.initial_state(3)]
    for x, start in zip(obs, starts, strict=True):
        actions, states[0] = policy.predict(x, states[0], start)
        expected, states[1] = simulator.predict(x, states[1], start)
        np.testing.assert_array_equal(actions, expected)
    assert policy.firing_rates() == pytest.approx([simulator.spike_counts[0].mean() / simulator.n_counted])
    twin = pickle.loads(pickle.dumps(policy))
    np.testing.assert_array_equal(twin.step(obs[0], states[0])[0], policy.step(obs[0], states[0])[0])
    spikes = record(deployment, obs[:5]).layers[0]
    np.testing.assert_array_equal(spikes.i, simulator_spikes(network, obs[:5]).i)


def simulator_spikes(network, obs):
    return Simulator(network, np.random.default_rng(0)).record(obs)[2].layers[0]


@pytest.mark.parametrize("chip", NAMES)
@pytest.mark.filterwarnings("ignore:lowered for")
def test_every_target_is_reported_and_drawn(chip):
    policy = DeployedPolicy(compile_network(exact_network(latency=0), chip))
    with pytest.raises(ValueError, match="at least one step"):
        report(policy)
    for x in observations()[0][:5]:
        policy.step(x, policy.initial_state(3))
    figures = report(policy, 0.02)
    assert figures.chip == chip and figures.n_steps == 15
    values = json.loads(json.dumps(figures.to_dict()))
    assert values["events"]["spikes"] == figures.host["spikes read from the chip"] > 0
    assert set(values["modelled"]) == set(TARGETS[chip].costs) and values["limits"]["cores"] >= len(values["cores"])
    assert chip in figures.table() and "nJ dynamic" in figures.energy()
    pytest.importorskip("matplotlib")
    from spikeloop.spiking.plotting import new_axes

    assert draw_cores(new_axes()[0], figures).images[0].get_array().shape == figures.grid


@pytest.mark.parametrize("chip", NAMES)
def test_every_target_has_a_grid_of_weights_that_can_be_pickled(chip):
    weights = np.random.default_rng(0).normal(size=(6, 5)).astype("f4")
    on_grid = pickle.loads(pickle.dumps(quantizer(chip)))
    once = on_grid(weights)
    assert once.dtype == weights.dtype and abs(once - weights).max() < 0.05
    np.testing.assert_array_equal(on_grid(once), once)


def test_a_deployment_fits_no_other_program_and_no_unknown_chip(monkeypatch):
    deployments = [compile_network(exact_network(latency=0, sizes=(n,)), "float") for n in (12, 9)]
    with pytest.raises(ValueError, match="must read the program's neurons"):
        dataclasses.replace(deployments[0], program=deployments[1].program)
    with pytest.raises(ValueError, match=r"Deployment\.program must be of type Program or FloatProgram, got 'x'"):
        dataclasses.replace(deployments[0], program="x")
    with pytest.raises(ValueError, match=r"chip must be one of .*, got 'tpu'"):
        dataclasses.replace(deployments[0], program=dataclasses.replace(deployments[0].program, chip="tpu"))
    with pytest.raises(ValueError, match=r"Deployment\.program must be of type Program, got FloatProgram"):
        dataclasses.replace(deployments[0], program=dataclasses.replace(deployments[0].program, chip="loihi1"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'profile'"):
        compile_network(exact_network(latency=0), "float", profile="lava")


def test_a_file_of_a_chip_that_is_not_registered_is_refused(monkeypatch, tmp_path):
    compile_network(exact_network(latency=0), "float").save(tmp_path / "file")
    monkeypatch.delitem(TARGETS, "float")
    with pytest.raises(ValueError, match=r"KeyError: '(LsnnNeurons|FloatProgram)'"):
        Deployment.load(tmp_path / "file")


def test_the_command_line_asks_the_targets_for_their_names_and_options(capsys):
    options = deploy._parser().parse_args(["run", "--chip", "float"])
    assert options.chip == "float" and deploy._options(options) == {}
    options = deploy._parser().parse_args(["run", "--chip", "float", "--profile", "lava"])
    with pytest.raises(deploy.UsageError, match="--profile lava is nothing that float has"):
        deploy._options(options)


def network_of(neurons):
    """Return a network with other neurons in its only layer."""
    network = exact_network(latency=0)
    layer = dataclasses.replace(network.layers[0], neurons=neurons)
    return dataclasses.replace(network, layers=(layer,))


def some(neurons, n=12):
    """Return ``n`` neurons of a class whose parameters have defaults."""
    first = dataclasses.fields(neurons)[0]
    return neurons(**{first.name: np.full(n, first.default)})


@pytest.mark.parametrize("neurons", [one for one in NEURONS.values() if (one, "loihi1") not in LOWERINGS])
def test_neurons_that_a_chip_cannot_hold_are_refused_by_name_and_run_where_they_can(neurons):
    network, obs = network_of(some(neurons)), observations()[0][:3]  # differences in rounding grow from step to step
    for chip in ("loihi1", "loihi2"):
        answer = f"{chip} cannot hold {neurons.__name__}, those of layer 0; it holds LsnnNeurons, IntegrateAndFire"
        with pytest.raises(ValueError, match=answer):
            compile_network(network, chip)
    policy, simulator = DeployedPolicy(compile_network(network, "float")), Simulator(network)
    values, state = [], None
    for x in obs:
        value, state = policy.step(x, state)
        values.append(value)
    np.testing.assert_allclose(values, simulator.run(obs)[0], atol=1e-4)
    raised = raise_membranes(network, simulator.initial_state())  # as deploy does, to tell chaos from the chip
    assert np.count_nonzero(raised) == 12 and raised.max() == np.float32(PERTURBATION)


def test_the_command_line_deploys_to_a_chip_of_another_family(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "CALIBRATION_STEPS", 50)
    network = dataclasses.replace(cartpole_network(), latency=0, metadata={"env": "CartPole-v1"})
    network.save(tmp_path / "policy.safetensors")
    run, left = str(tmp_path / "policy.safetensors"), str(tmp_path / "deployed-float.safetensors")
    assert deploy.main([run, "--chip", "float", "-n", "2", "--check-actions", "5", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["kept"] == 1.0 and results["agreement"]["chip"] == 1.0
    assert rollout.main([str(tmp_path), "--deployed", "--chip", "float", "-n", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["returns"] == results["returns"]["chip"][:1]
    assert verify.main([left]) == 0 and "sound" not in (line := capsys.readouterr().out)
    assert "deployment for float; format version" in line


class OtherNeurons(LsnnNeurons):
    """Neurons that no chip has heard of."""


def test_a_lowering_is_what_lets_a_chip_hold_neurons(monkeypatch):
    neurons = exact_network().layers[0].neurons
    monkeypatch.setitem(NEURONS, "other", OtherNeurons)
    other = OtherNeurons(**{f.name: getattr(neurons, f.name) for f in dataclasses.fields(neurons)})
    monkeypatch.setitem(LOWERINGS, (OtherNeurons, "loihi1"), lsnn_on_loihi1)
    with pytest.warns(UserWarning, match="readout on the host"):
        deployment = compile_network(network_of(other), "loihi1")
    assert deployment.program.groups[-1] == ("layer 0", 6, 18)  # beside six compartments of adaptation
    with pytest.raises(ValueError, match="loihi2 cannot hold OtherNeurons"):
        compile_network(network_of(other), "loihi2")


def test_every_chip_of_the_family_is_a_target_and_holds_some_neurons():
    for name, target in TARGETS.items():
        assert target.name == name
        if isinstance(target, LoihiTarget):
            assert any(chip == name for _, chip in LOWERINGS)
