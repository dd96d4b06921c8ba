"""Compiled networks do what the float ones do, up to quantisation; what does not fit or is approximated is named."""

import dataclasses
import warnings

import numpy as np
import pytest
from deployable import exact_network, factor, observations
from random_networks import random_network

from spikeloop.hardware.compile import compile_network
from spikeloop.hardware.deployed import DeployedPolicy
from spikeloop.hardware.loihi.chip import CHIPS, PROFILES
from spikeloop.hardware.loihi.program import MODELS
from spikeloop.hardware.loihi.quantize import quantize_decay
from spikeloop.hardware.loihi.resources import check_limits, use
from spikeloop.spiking import Encoder, Simulator
from spikeloop.spiking.readout import ACTIVATIONS, Dense

BOTH = [{}, {"sizes": (12, 9)}, {"count": True}, {"tau_out": 3.0}, {"first_spike": True}, {"recurrent": False}]
BOTH += [{"encoder": kind} for kind in ("population", "delta", "rate", "latency")]
BOTH += [{"reset": "subtract"}, {"reset": "subtract", "adaptation": "threshold"}, {"beta": 0.0}]
BOTH += [
    {"refractory": 2, "hold": True, "seed": 4},
    {"refractory": 3, "hold": True, "sizes": (12, 9), "encoder": "delta", "seed": 4},
]
BOTH += [{"reset": "subtract", "refractory": 2}, {"reset": "subtract", "adaptation": "threshold", "count": True}]
ONLY_LOIHI2 = [{"adaptation": "threshold"}, {"refractory": 2}, {"adaptation": "threshold", "sizes": (8, 8)}]
ON_HOST = [{"latency": 0}, {"latency": 0, "first_spike": True}, {"latency": 0, "tau_out": 4.0, "reset": "subtract"}]


def outputs(network, deployment):
    """Return the output values of simulator and chip for the same observations, and the mean spikes per tick."""
    obs, starts = observations()
    simulator = Simulator(network, np.random.default_rng(1))
    expected, _ = simulator.run(obs, simulator.initial_state(obs.shape[1]), starts)
    policy = DeployedPolicy(deployment, np.random.default_rng(1))
    state, values = policy.initial_state(obs.shape[1]), []
    for x, start in zip(obs, starts, strict=True):
        value, state = policy.step(x, state, start)
        values.append(value)
    rate = sum(int(c.sum()) for c in simulator.spike_counts) / simulator.n_counted
    return expected, np.array(values), rate


@pytest.mark.parametrize(
    ("chip", "options"), [(chip, options) for chip in CHIPS for options in BOTH] + [("loihi2", o) for o in ONLY_LOIHI2]
)
def test_what_the_chip_has_loses_nothing_where_numbers_fit(chip, options):
    network = exact_network(**options)
    deployment = compile_network(network, chip, calibration=observations()[0], strict=True)
    expected, values, rate = outputs(network, deployment)
    assert rate > 0.1 and deployment.approximations == ()
    np.testing.assert_allclose(values, expected, atol=1e-3)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    "options",
    [{}, {"encoder": "delta", "sizes": (8, 8)}, {"reset": "subtract"}, {"refractory": 2, "hold": True, "seed": 4}],
)
def test_every_profile_runs_compiled_networks(profile, options):
    network = exact_network(**options)
    deployment = compile_network(network, "loihi1", profile=profile, calibration=observations()[0])
    expected, values, _ = outputs(network, deployment)
    np.testing.assert_allclose(values, expected, atol=1e-3)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("options", ON_HOST)
def test_a_readout_without_latency_is_read_on_the_host_and_loses_nothing(chip, options):
    network = exact_network(**options)
    with pytest.warns(UserWarning, match="readout on the host"):
        deployment = compile_network(network, chip, calibration=observations()[0])
    expected, values, _ = outputs(network, deployment)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    with pytest.raises(ValueError, match="readout on the host"):
        compile_network(network, chip, strict=True)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("latency", [0, 1])
@pytest.mark.parametrize("widths", [(2,), (12,), (5, 3)])
@pytest.mark.filterwarnings("ignore:lowered for")
def test_dense_layers_after_the_spikes_are_computed_by_the_host(chip, latency, widths):
    rng, dense, n = np.random.default_rng(0), [], 12
    for width in widths:
        w = rng.normal(size=(width, n)).astype("f4")
        dense.append(Dense(w, rng.normal(size=width).astype("f4"), str(rng.choice(list(ACTIVATIONS)))))
        n = width
    network = exact_network(latency=latency, count=bool(latency))
    readout = dataclasses.replace(network.readout, w_out=rng.normal(size=(2, n)).astype("f4"), dense=tuple(dense))
    network = dataclasses.replace(network, readout=readout)
    deployment = compile_network(network, chip, calibration=observations()[0])
    expected, values, rate = outputs(network, deployment)
    assert rate > 0.1
    np.testing.assert_allclose(values, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"adaptation": "threshold"}, "moving threshold as current"),
        ({"refractory": 2}, "membrane held while refractory"),
        ({"latency": 0, "sizes": (8, 8)}, "latency between layers"),
    ],
)
def test_approximations_are_named_and_strict_refuses_them(options, name):
    network = exact_network(**options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        deployment = compile_network(network, "loihi1", approximate=True)
    assert [str(w.message) for w in caught if name in str(w.message)] and name in deployment.approximations
    with pytest.raises(ValueError, match=name):
        compile_network(network, "loihi1", strict=True)


def with_neurons(network, **change):
    """Return the network with other constants in all its neurons, each a function of the constants there."""
    layers = []
    for layer in network.layers:
        values = {name: new(getattr(layer.neurons, name)) for name, new in change.items()}
        layers.append(dataclasses.replace(layer, neurons=dataclasses.replace(layer.neurons, **values)))
    return dataclasses.replace(network, layers=tuple(layers))


@pytest.mark.parametrize("profile", ["lava", "slayer"])
@pytest.mark.parametrize("k", [1024, 2048, 3072])  # so that what a spike gives back is on the chip's grid
@pytest.mark.parametrize(
    "options", [{}, {"sizes": (12, 9)}, {"beta": 0.0, "encoder": "delta", "seed": 4}, {"count": True}]
)
def test_neurons_that_reset_by_subtraction_run_on_the_slayer_program(profile, k, options):
    network = with_neurons(exact_network(reset="subtract", **options), tau_m=lambda tau: np.full(tau.size, factor(k)))
    deployment = compile_network(
        network, "loihi2", calibration=observations()[0], neurons="slayer_alif", profile=profile, strict=True
    )
    model, fires = deployment.program.compartments.model, deployment.program.compartments.fires
    assert set(model[fires > 0]) == {MODELS.index("slayer_alif")}
    spikes_at_threshold = with_neurons(network, v_th=lambda v_th: v_th * (1 - 1e-6))
    expected, values, rate = outputs(spikes_at_threshold, deployment)
    assert rate > 0.1
    np.testing.assert_allclose(values, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("chip", "options", "answer"),
    [
        ("loihi1", {"reset": "subtract"}, "must be 'lsnn' on loihi1, which has no neuron model 'slayer_alif'"),
        ("loihi2", {"sizes": (5, 5)}, r"needs reset 'subtract', .* layer 0 has reset 'zero'"),
        ("loihi2", {"reset": "subtract", "refractory": 2}, "up to 2 refractory ticks"),
        ("loihi2", {"reset": "subtract", "adaptation": "threshold"}, "adaptation 'threshold'"),
    ],
)
def test_what_the_slayer_program_cannot_do_is_refused(chip, options, answer):
    with pytest.raises(ValueError, match=answer):
        compile_network(exact_network(**options), chip, neurons="slayer_alif")


@pytest.mark.parametrize(("chip", "most"), [("loihi1", 62), ("loihi2", 63)])
def test_more_refractory_ticks_than_the_counter_tells_are_refused_by_layer(chip, most):
    compile_network(exact_network(refractory=most, hold=True), chip)
    with pytest.raises(
        ValueError, match=f"layer 0 has up to {most + 1} refractory ticks; {chip} counts at most {most} in"
    ):
        compile_network(exact_network(refractory=most + 1, hold=True), chip)


def test_what_costs_most_of_a_return_is_approximated_only_on_request():
    network = exact_network(refractory=2)
    with pytest.raises(ValueError, match=r"membrane held while refractory .* allow it: approximate=True"):
        compile_network(network, "loihi1")
    with pytest.warns(UserWarning, match="membrane held while refractory"):
        compile_network(network, "loihi1", approximate=True)
    with pytest.raises(ValueError, match="membrane held while refractory"):
        compile_network(network, "loihi1", approximate=True, strict=True)
    assert compile_network(network, "loihi2").approximations == ()


def test_a_moving_threshold_lowered_to_a_current_spikes_about_as_often():
    network = exact_network(adaptation="threshold", sizes=(64,), encoder="population", n_ticks=4, recurrent=False)
    obs = observations(n_steps=150)[0]
    with pytest.warns(UserWarning, match="moving threshold"):
        deployment = compile_network(network, "loihi1", calibration=obs)
    simulator = Simulator(network)
    simulator.run(obs)
    policy, state = DeployedPolicy(deployment), None
    for x in obs:
        _, state = policy.step(x, state)
    _, start, stop = next(group for group in deployment.program.groups if group[0] == "layer 0")
    chip = policy.machine.counts.spikes[start:stop] / policy.machine.counts.n_ticks
    floating = simulator.spike_counts[0] / simulator.n_counted
    assert np.corrcoef(chip, floating)[0, 1] > 0.98
    assert chip.mean() == pytest.approx(floating.mean(), rel=0.1)


@pytest.mark.parametrize("chip", CHIPS)
def test_a_network_too_large_for_a_core_is_spread_and_computes_the_same(chip):
    network = random_network(np.random.default_rng(0), n=512, w_rec_scale=0.2)
    program = compile_network(network, chip).program
    check_limits(program)
    cores = use(program)
    assert len(cores) > 1 and max(core.memory_words for core in cores) > 0.5 * CHIPS[chip].memory_words
    one = dataclasses.replace(
        program, compartments=dataclasses.replace(program.compartments, core=np.zeros(program.compartments.n))
    )
    from spikeloop.hardware.loihi.emulator import Emulator

    bias = program.compartments.bias[None]
    results = [
        e.run(e.initial_state(), 20, None if p.n_inputs == 0 else np.ones((20, 1, 4), int), bias)[0]
        for p in (program, one)
        for e in [Emulator(p)]
    ]
    np.testing.assert_array_equal(*results)


def test_different_time_constants_are_spread_over_cores_that_hold_their_profiles():
    tau_a = np.exp(np.linspace(np.log(4), np.log(40), 64))
    program = compile_network(random_network(np.random.default_rng(0), tau_a=tau_a)).program
    profiles = [core.compartment_profiles for core in use(program)]
    assert sum(profiles) > 32 >= max(profiles)
    assert np.array_equal(
        np.unique(program.compartments.decay_v[:32]), np.unique(quantize_decay(np.exp(-1 / tau_a[32:])))
    )


@pytest.mark.filterwarnings("ignore:quantised to")
def test_what_does_not_fit_is_refused_with_limit_need_and_layer():
    rng, n = np.random.default_rng(0), 2100
    network = random_network(rng, n=8)
    wide = dataclasses.replace(
        network,
        encoder=Encoder("delta", n),
        layers=(dataclasses.replace(network.layers[0], w_in=rng.normal(size=(8, 2 * n)).astype("f4")),),
    )
    with pytest.raises(ValueError, match="'layer 0' does not fit loihi1: a core has 4096 input axons, 41"):
        compile_network(wide, calibration=np.zeros((2, 1, n)))


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_neurons_that_reach_many_cores_are_spread_until_their_output_axons_suffice(chip, monkeypatch):
    network = random_network(np.random.default_rng(0), n=64, w_rec_scale=0.2)
    few = dataclasses.replace(CHIPS[chip], compartments=16)  # so that each neuron reaches four cores or more
    monkeypatch.setitem(CHIPS, chip, few)
    usual = compile_network(network, chip).program
    needed = max(core.output_axons for core in use(usual))
    monkeypatch.setitem(CHIPS, chip, dataclasses.replace(few, output_axons=needed - 1))
    spread = compile_network(network, chip).program
    check_limits(spread)
    assert max(core.output_axons for core in use(spread)) < needed
    monkeypatch.setitem(CHIPS, chip, dataclasses.replace(few, output_axons=3))
    with pytest.raises(
        ValueError, match=f"a core of {chip} has 3 output axons; core [0-9]+ needs [0-9]+ for group 'layer"
    ):
        compile_network(network, chip)


def test_more_cores_than_the_chip_has_are_refused_unless_limits_are_off(monkeypatch):
    network = random_network(np.random.default_rng(0), n=512, w_rec_scale=0.2)
    small = dataclasses.replace(CHIPS["loihi1"], cores=2)
    monkeypatch.setitem(CHIPS, "loihi1", small)
    with pytest.raises(
        ValueError, match=r"loihi1 has 2 cores, the network needs [0-9]+; the first that does not fit is"
    ):
        compile_network(network)
    assert len(use(compile_network(network, limits=False).program)) > 2


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"chip": "tpu"}, "chip must be one of"),
        ({"chip": ["loihi1"]}, "chip must be one of"),
        ({"bits": 7}, "bits must be one of"),
        ({"bits": 8.0}, "bits must be one of"),
        ({"neurons": "izhikevich"}, "neurons must be one of"),
        ({"bits": 1}, "bits must be one of"),
        ({"profile": "spinnaker"}, "profile must be one of"),
        (
            {"calibration": np.zeros((3, 1, 5))},
            r"calibration must have shape \(L, B, 3\) or \(L, 3\) .*, got \(3, 1, 5\)",
        ),
        ({"calibration": np.zeros(3)}, r"calibration must have shape .*, got \(3,\)"),
        ({"calibration": np.zeros((0, 3))}, "calibration must have shape .* and not be empty"),
        ({"calibration": "much"}, "calibration must be an array of numbers, got str"),
        ({"calibration": [[0, 0, 1], [0, 1]]}, "calibration must be an array of numbers"),
        (
            {"calibration": np.array([[[0, 0, 1], [0, np.nan, 1]]])},
            "must be finite, found nan in observation 1 of step 0",
        ),
        (
            {"calibration": np.array([[0, 0, 1], [0, -np.inf, 1]])},
            "must be finite, found -inf in observation 1 of step 1",
        ),
        ({"calibration": np.full((2, 3), 1e38, "f8")}, "the step left the range of float32"),
    ],
)
def test_wrong_requests_are_refused(options, answer):
    with pytest.raises(ValueError, match=answer):
        compile_network(exact_network(), **options)


def test_calibration_may_leave_out_the_batch():
    network, obs = exact_network(), observations()[0]
    one = compile_network(network, calibration=obs[:, 0])
    other = compile_network(network, calibration=obs[:, :1])
    assert one.host.input_scale == other.host.input_scale


def test_memoryless_membranes_do_not_ask_for_two_offsets_of_one_core():
    network = exact_network(count=True)
    neurons = dataclasses.replace(network.layers[0].neurons, tau_m=np.zeros(12), tau_a=np.full(12, factor(4000)))
    network = dataclasses.replace(network, layers=(dataclasses.replace(network.layers[0], neurons=neurons),))
    expected, values, _ = outputs(network, compile_network(network, calibration=observations()[0]))
    np.testing.assert_allclose(values, expected, atol=2e-3)
