"""Exact spike times in ticks: membranes by definition, the chip's own neuron, and policies on the chips."""

import json
from dataclasses import replace

import numpy as np
import pytest
from deployable import encoder_of, factor
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.hardware import DeployedPolicy, Deployment, compile_network
from spikeloop.hardware.loihi.worst_case import largest_input
from spikeloop.hardware.recording import record
from spikeloop.hardware.target import TARGETS
from spikeloop.scripts import deploy, rollout
from spikeloop.spiking import ActionHead, Encoder, Layer, Network, Readout, Simulator, SpikeTimeLayer
from spikeloop.spiking.in_ticks import in_ticks
from spikeloop.spiking.neurons.current_lif import CurrentLif
from spikeloop.spiking.spike_time import KERNELS
from spikeloop.spiking.spike_time_in_ticks import REFRACTORY, spike_times_in_ticks

pytestmark = pytest.mark.filterwarnings("ignore:lowered for", "ignore:quantised to 8 bits")
KAPPA = {
    "alpha": lambda s: s * np.exp(-s),
    "exponential": lambda s: 1 - np.exp(-s),
    "double": lambda s: 2 * (np.exp(-s / 2) - np.exp(-s)),
}


def policy_of(
    seed=0, *, n_obs=3, sizes=(16,), kernel="alpha", n_outputs=2, tau=1.0, head=None, w_out_scale=0.3, **readout
):
    """Return a policy of a few observed values, with weights and pulses as those that are trained begin with."""
    rng, layers, n = np.random.default_rng(seed), [], 2 * n_obs
    sizes = (*sizes, n_outputs)
    for i, size in enumerate(sizes):
        last = i == len(sizes) - 1
        w = rng.normal(0, (w_out_scale if last else 3.0) / np.sqrt(n), (size, n + 2)).astype("f4")
        w[:, -1] += 5.0 * last
        times = ((np.array([0.0, 1.5]) + 0.5 * i) * tau).astype("f4")
        numbers = 5.0, (1.6 + i) * tau, 1.0 if last else 0.4, tau, kernel
        layers.append(SpikeTimeLayer(w[:, :n], w[:, n:], times, *numbers))
        n = size
    encoder = Encoder("first_spikes", n_obs, middle=np.zeros(n_obs), scale=np.ones(n_obs), t_last=1.5 * tau)
    readout = {"w_out": -10 * np.eye(n_outputs, dtype="f4"), "b_out": np.zeros(n_outputs, "f4"), **readout}
    head = ActionHead("discrete", (n_outputs,)) if head is None else head
    return Network(encoder, tuple(layers), Readout(**readout), head, dt=(4.0 + len(sizes) - 1) * tau)


def observed(seed=0, n=200):
    return np.random.default_rng(seed).normal(0, 1, (1, n, 3)).astype("f4")


def first_ticks(monitor, layer, n, n_batch):
    """Return on which tick of the only env step neurons spike first, shape (B, n); infinity where they do not."""
    spikes = monitor.layers[layer]
    first = np.full((n_batch, monitor.n_neurons[layer]), np.inf)
    np.minimum.at(first, (spikes.env, spikes.i), np.rint(spikes.t / monitor.dt))
    return first[:, :n]


@settings(max_examples=60)
@given(
    kernel=st.sampled_from(KERNELS),
    pulses=st.lists(st.tuples(st.floats(0, 3), st.floats(-3, 3)), min_size=1, max_size=6),
    v_th=st.floats(0.05, 1.0),
    ticks_per_tau=st.integers(4, 40),
    tau=st.sampled_from([1.0, 2.5]),
)
def test_a_neuron_of_pulses_spikes_on_the_first_tick_at_whose_end_its_membrane_is_above(
    kernel, pulses, v_th, ticks_per_tau, tau
):
    t, w = np.array(pulses).T
    layer = SpikeTimeLayer(np.full((1, 2), 0.5), w[None], tau * t, 0.0, 0.0, v_th, tau, kernel)
    encoder = Encoder("first_spikes", 1, middle=[0.0], scale=[1.0], t_last=1000 * tau)  # in a later env step
    readout = Readout(-np.eye(1), np.zeros(1))
    network = Network(encoder, (layer,), readout, ActionHead("discrete", (1,)), dt=5.0 * tau)
    ticks = spike_times_in_ticks(network, ticks_per_tau)
    ends = np.arange(1, 5 * ticks_per_tau + 1) / ticks_per_tau
    since = ends[:, None] - t.astype("f4")
    v = np.where(since > 0, w * KAPPA[kernel](np.maximum(since, 0)), 0).sum(axis=1)
    if np.min(abs(v - v_th)) < 1e-3:  # times and weights are rounded
        return
    found = first_ticks(Simulator(ticks).record(np.zeros((1, 1, 1)))[2], 0, 1, 1)[0, 0]
    above = v > v_th
    assert found == (above.argmax() if above.any() else np.inf)
    exact = network.layers[0].run(np.full((1, 2), 5.0 * tau), 5.0 * tau)[0, 0] / tau
    assert exact <= (found + 1) / ticks_per_tau + 1e-6  # a hump between two ticks is missed, and none is made up


@pytest.mark.parametrize("sizes", [(16,), (12, 10)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_actions_are_those_of_the_exact_times_where_outputs_lie_three_ticks_apart(kernel, sizes):
    """Seeds of which outputs often lie so far apart."""
    network, obs = policy_of(4, sizes=sizes, kernel=kernel, w_out_scale=3.0), observed()
    t = Simulator(network).run(obs)[0] / -10
    for ticks_per_tau in (16, 32):
        apart = abs(np.diff(t, axis=2))[..., 0] > 3 / ticks_per_tau
        same = Simulator(spike_times_in_ticks(network, ticks_per_tau)).run(obs)[0].argmax(axis=2) == t.argmin(axis=2)
        assert apart.sum() > 50 and same[apart].mean() > 0.93


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_the_chip_spikes_within_two_ticks_of_the_exact_times(kernel, seed):
    """Of a threshold that is 5 % lower or higher: a membrane that only touches it may spike or not."""
    network, obs, n_ticks = policy_of(seed, kernel=kernel), observed(seed), 16
    monitor = record(compile_network(network, "loihi1"), obs)
    times, window = network.encoder(obs, np.zeros((0, 200, 3)), None, 1, network.dt)[0][0], network.dt
    for i, layer in enumerate(network.layers):
        low, high = (replace(layer, v_th=k * layer.v_th).run(times, window) * n_ticks for k in (0.95, 1.05))
        found = first_ticks(monitor, i, layer.n_neurons, 200)
        at = found + 0.5 - 0.5 * i  # a spike stands for half a tick later
        spikes = high < window * n_ticks
        assert spikes.mean() > 0.5 and np.mean((low - high)[spikes] > -2.0) > 0.8
        assert np.mean(((low - 2 <= at) & (at <= high + 2))[spikes]) > 0.97
        times = np.minimum((found + 0.5) / n_ticks, window).astype("f4")  # what the next layer was given


@pytest.mark.parametrize("chip", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_emulator_is_the_interpreter_and_acts_as_the_network_in_ticks(kernel, chip, tmp_path):
    network, obs = policy_of(2, kernel=kernel, sizes=(12, 8), n_outputs=3), observed(n=100)[0]
    deployment = compile_network(network, chip, calibration=obs[:, None])
    deployment.save(tmp_path / "file")
    policy, slow = DeployedPolicy(Deployment.load(tmp_path / "file")), DeployedPolicy(deployment, interpreted=True)
    actions = policy.predict(obs)[0]
    np.testing.assert_array_equal(slow.predict(obs[:4])[0], actions[:4])
    ticks = Simulator(in_ticks(network))
    assert np.mean(ticks.predict(obs)[0] == actions) > 0.85
    assert policy.machine.overflowed == ""


@pytest.mark.parametrize("chip", TARGETS)
def test_what_is_approximated_is_warned_of_named_and_refused_under_strict(chip):
    with pytest.warns(UserWarning, match=f"lowered for {chip}: spike times in ticks"):
        deployment = compile_network(policy_of(), chip)
    assert deployment.approximations == ("spike times in ticks",)
    assert deployment.metadata["ticks_per_tau"] == "16" and deployment.host.n_ticks == 82
    with pytest.raises(ValueError, match=f"{chip} cannot run this network as it is: spike times in ticks"):
        compile_network(policy_of(), chip, strict=True)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (
            {"n_outputs": 4, "head": ActionHead("multi_discrete", (2, 2), (2,))},
            "a head of kind 'discrete'.* 'multi_discrete'",
        ),
        ({"w_out": np.ones((2, 2), "f4")}, "acts by its first output spike"),
        ({"w_out": np.eye(2, dtype="f4")}, "acts by its first output spike"),
        ({"b_out": np.ones(2, "f4")}, "without biases and dense layers"),
    ],
)
def test_policies_that_do_not_act_by_the_first_output_spike_are_refused(changed, fault):
    with pytest.raises(ValueError, match=fault):
        compile_network(policy_of(**changed), "loihi1")


def test_other_layers_and_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="ticks_per_tau must be an integer >= 4 and <= 1000, got 3"):
        compile_network(policy_of(), "loihi1", ticks_per_tau=3)
    with pytest.raises(ValueError, match="layers must have a form in ticks, as SpikeTimeLayer, got Layer"):
        in_ticks(in_ticks(policy_of()))
    with pytest.raises(ValueError, match="neurons must be 'lsnn' for CurrentLif neurons, got 'slayer_alif'"):
        compile_network(policy_of(), "loihi2", neurons="slayer_alif")
    network = in_ticks(policy_of())
    biased = replace(network.layers[1], bias=np.ones(2))
    with pytest.raises(ValueError, match=r"Network\.layers\[1\]\.bias must be 0: .* found up to 1"):
        compile_network(replace(network, layers=(network.layers[0], biased)), "loihi2")
    held = Encoder("direct", network.encoder.n_channels)
    with pytest.raises(ValueError, match=r"loihi1 writes held input as biases.* got 'direct'"):
        compile_network(replace(network, encoder=held, preprocessing=()), "loihi1")
    with pytest.raises(ValueError, match=r"CurrentLif\.refractory must be whole ticks, found 1\.5"):
        CurrentLif(v_th=np.ones(2), refractory=1.5)
    with pytest.raises(ValueError, match=r"FirstSpikesInTicks\.pulses must be >= 0, found -1"):
        Encoder("first_spikes_in_ticks", 1, middle=[0.0], scale=[1.0], pulses=[-1.0])


def test_no_neuron_spikes_twice_before_its_refractory_ticks_are_over():
    network, obs = in_ticks(policy_of(3)), observed()
    monitor = Simulator(network).record(obs)[2]
    for i, layer in enumerate(network.layers):
        first = first_ticks(monitor, i, layer.n_neurons, 200)
        spikes = monitor.layers[i]
        later = np.rint(spikes.t / network.dt) - first[spikes.env, spikes.i]
        assert np.all((later == 0) | (later > REFRACTORY))


@pytest.mark.parametrize("chip", TARGETS)
@settings(max_examples=10)
@given(seed=st.integers(0, 1000), recurrent=st.booleans(), refractory=st.integers(0, 5))
def test_neurons_of_numbers_that_a_chip_can_hold_spike_there_as_in_the_simulator(chip, seed, recurrent, refractory):
    rng, n = np.random.default_rng(seed), 10
    w_rec = (rng.integers(-127, 128, (n, n)) / 256).astype("f4")
    np.fill_diagonal(w_rec, 0)
    neurons = CurrentLif(
        v_th=np.full(n, 2 + 1 / 128), tau_m=factor(3584), tau_s=factor(2048), refractory=float(refractory)
    )
    w_in = (rng.integers(-127, 128, (n, 6)) / 128).astype("f4")
    layer = Layer(w_in, np.zeros(n, "f4"), neurons, w_rec if recurrent else None)
    w_out = (rng.integers(-127, 128, (2, n)) / 128).astype("f4")
    head = ActionHead("discrete", (2,))
    network = Network(encoder_of("delta"), (layer,), Readout(w_out, np.zeros(2, "f4")), head, n_ticks=4, latency=1)
    obs = (rng.integers(-16, 17, (10, 3, 3)) / 8).astype("f4")
    simulated, on_chip = Simulator(network).record(obs)[2], record(compile_network(network, chip), obs)
    for found, expected in zip(on_chip.layers, simulated.layers, strict=True):
        np.testing.assert_array_equal(found.t, expected.t)
        np.testing.assert_array_equal(found.i, expected.i)


def test_a_current_fits_its_register_after_weights_were_rounded():
    w_in = np.random.default_rng(40).normal(size=(4, 6)).astype("f4")  # rounded at first, its sums are 0.8 % too large
    layer = Layer(w_in, np.zeros(4, "f4"), CurrentLif(v_th=np.ones(4), tau_m=4.0, tau_s=1000.0))
    readout, head = Readout(np.eye(2, 4, dtype="f4"), np.zeros(2, "f4")), ActionHead("discrete", (2,))
    network = Network(Encoder("spike_times", 6), (layer,), readout, head, n_ticks=20, latency=1)
    seen = np.random.default_rng(0).uniform(0, 20, (50, 1, 6))
    program = compile_network(network, "loihi1", calibration=seen).program
    steady = largest_input(program, graded=False)[:4] / (1 - np.exp(-1 / 1000))
    assert 0.9 * 2**23 < steady.max() < 2**23


def test_the_command_line_deploys_a_policy_and_plays_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "CALIBRATION_STEPS", 50)
    network = replace(policy_of(n_obs=4), metadata={"env": "CartPole-v1"})
    network.save(tmp_path / "policy.safetensors")
    run = str(tmp_path / "policy.safetensors")
    assert deploy.main([run, "-n", "2", "--check-actions", "3", "--ticks-per-tau", "12", "--json"]) == 0
    out, told = capsys.readouterr()
    results = json.loads(out)
    assert "lowered for loihi1: spike times in ticks" in told and results["checked_steps"] == 3
    assert results["agreement"]["baseline"] is None and results["report"]["ticks_per_step"] == 62
    assert rollout.main([str(tmp_path), "--deployed", "-n", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["returns"] == results["returns"]["chip"][:1]
    assert deploy.main([run, "--strict"]) != 0
    assert "loihi1 cannot run this network as it is: spike times in ticks" in capsys.readouterr().err
    assert deploy.main([run, "--ticks-per-tau", "2"]) != 0
    assert "ticks_per_tau must be an integer >= 4" in capsys.readouterr().err
