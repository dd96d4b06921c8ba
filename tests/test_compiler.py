"""Compiled networks do what the float ones do, up to quantisation; what does not fit or is approximated is named."""

import dataclasses
import pickle
import warnings

import numpy as np
import pytest
from deployable import exact_network, factor, observations
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.hardware.compile import compile_network, quantizer
from spikeloop.hardware.deployed import DeployedPolicy
from spikeloop.hardware.deployment import Deployment
from spikeloop.hardware.loihi import plan
from spikeloop.hardware.loihi.chip import CHIPS, PROFILES
from spikeloop.hardware.loihi.fixed_point import bias_to_register
from spikeloop.hardware.loihi.program import MODELS
from spikeloop.hardware.loihi.quantize import (
    MAX_BIAS,
    Synapses,
    quantize_bias,
    quantize_decay,
    quantize_threshold,
    quantize_weights,
)
from spikeloop.hardware.loihi.resources import check_limits, use
from spikeloop.spiking import ActionHead, Encoder, Layer, LsnnNeurons, Network, Readout, Simulator
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


def random_network(rng, n=64, n_obs=4, adaptation="ahp", tau_a=100.0, w_rec_scale=0.5):
    neurons = LsnnNeurons(
        tau_m=np.full(n, 4.0),
        v_th=np.ones(n),
        tau_a=np.broadcast_to(tau_a, (n,)),
        beta=np.repeat([0.0, 0.05], n // 2),
        refractory=np.zeros(n),
        reset="zero",
        adaptation=adaptation,
    )
    w_rec = rng.normal(0, w_rec_scale / np.sqrt(n), (n, n)).astype("f4")
    np.fill_diagonal(w_rec, 0)
    layer = Layer(rng.normal(0, 0.3, (n, n_obs)).astype("f4"), rng.normal(0, 0.1, n).astype("f4"), neurons, w_rec)
    readout = Readout(rng.normal(size=(2, n)).astype("f4"), np.zeros(2, "f4"), count=True)
    head = ActionHead("discrete", (2,))
    return Network(Encoder("direct", n_obs), (layer,), readout, head, n_ticks=4, latency=1)


@pytest.mark.parametrize("chip", CHIPS)
def test_eight_bits_stay_near_arbitrary_weights(chip):
    rng = np.random.default_rng(0)
    network = random_network(rng, w_rec_scale=0.2)
    obs = np.cumsum(rng.normal(0, 0.2, (200, 4, 4)), axis=0) % 4 - 2
    deployment = compile_network(network, chip, calibration=obs)
    expected, _ = Simulator(network).run(obs)
    policy, state, values = DeployedPolicy(deployment), None, []
    for x in obs:
        value, state = policy.step(x, state)
        values.append(value)
    assert np.corrcoef(np.ravel(values), expected.ravel())[0, 1] > 0.95
    assert not any(policy.machine.counts.overflows.values())


@pytest.mark.filterwarnings("ignore:quantised to")
def test_fewer_bits_cost_more():
    rng = np.random.default_rng(0)
    network, obs = random_network(rng, w_rec_scale=0.2), rng.normal(size=(100, 4, 4))
    expected, _ = Simulator(network).run(obs)
    errors = []
    for bits in (8, 4, 2):
        policy, state, values = DeployedPolicy(compile_network(network, bits=bits, calibration=obs)), None, []
        for x in obs:
            value, state = policy.step(x, state)
            values.append(value)
        errors.append(np.mean((np.array(values) - expected) ** 2))
    assert errors[0] < 0.3 * errors[1] < 0.3 * errors[2]


@given(
    st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.sampled_from([2, 3, 4, 5, 6, 8]), st.sampled_from([-1, 0, 1])
)
def test_weights_are_stored_within_half_a_step_or_at_the_end_of_the_range(seed, spread, bits, sign):
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, spread, (5, 7))
    weights = weights if sign == 0 else sign * abs(weights)
    scale = 2.0**16 / spread
    quantized = quantize_weights(Synapses(weights, np.ones(7)), scale, bits)
    step = {"mixed": 2, "excitatory": 1, "inhibitory": 1}[quantized.sign_mode] << (8 - bits)
    assert quantized.sign_mode == ("mixed" if sign == 0 else "excitatory" if sign > 0 else "inhibitory")
    assert not np.any(quantized.mantissas % step) and abs(quantized.mantissas).max() <= 256 - step
    error = abs(quantized.chip_units() - weights * scale)
    at_end = abs(quantized.mantissas) == 256 - step
    assert np.all(error[~at_end] <= 2.0 ** (6 + quantized.exponent) * step / 2 * (1 + 1e-9))


@given(st.floats(-2e6, 2e6) | st.integers(-2000, 2000).map(lambda k: 4095.0 * k / 4) | st.integers(-9, 9).map(float))
def test_biases_are_the_nearest_a_register_holds(value):
    mantissa, exponent = bias_to_register(min(max(value, -MAX_BIAS), MAX_BIAS))
    assert quantize_bias(np.array([value]))[0] == mantissa << exponent


def test_thresholds_and_decays_are_rounded_to_the_registers():
    assert quantize_threshold(np.array([1.0, np.inf]), 100.0).tolist() == [128, 131071 * 64]
    assert quantize_decay(np.array([0.0, 0.5, 1.0, np.exp(-1 / 20)])).tolist() == [4096, 2048, 0, 200]


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 6, 8]), st.sampled_from(["f4", "f8"]))
def test_quantizer_puts_weights_on_a_grid_and_leaves_those_on_it(seed, bits, dtype):
    weights = np.random.default_rng(seed).normal(size=(6, 5)).astype(dtype)
    on_grid = quantizer("loihi1", bits)
    once = on_grid(weights)
    assert once.dtype == weights.dtype and once.shape == weights.shape
    largest = 2 ** (bits - 1) - 1
    assert np.unique(abs(once)).size <= largest + 1 and abs(once - weights).max() <= abs(weights).max() / largest
    np.testing.assert_array_equal(on_grid(once), once)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(on_grid))(weights), once)


@pytest.mark.parametrize("chip", CHIPS)
def test_the_compiler_finds_the_grid_of_the_quantizer_again(chip):
    network = random_network(np.random.default_rng(0))
    on_grid, layer = quantizer(chip), network.layers[0]
    neurons = dataclasses.replace(layer.neurons, beta=np.repeat([0.0, 1 / 16], 32))
    layer = dataclasses.replace(layer, w_in=on_grid(layer.w_in), w_rec=on_grid(layer.w_rec), neurons=neurons)
    readout = dataclasses.replace(network.readout, w_out=on_grid(network.readout.w_out))
    network = dataclasses.replace(network, layers=(layer,), readout=readout)
    program = compile_network(network, chip).program
    matrices = {"layer 0 recurrent": layer.w_rec, "input": layer.w_in, "readout": readout.w_out}
    for p in program.projections:
        if p.name in matrices:
            ratio = p.weights[p.weights != 0] / matrices[p.name][p.weights != 0]
            np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
            np.testing.assert_array_equal(p.weights != 0, matrices[p.name] != 0)


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


def any_network(seed, kind, size=1.0):
    """Return a random network whose numbers are no chip's, for observations of about ``1 / size``."""
    rng = np.random.default_rng(seed)
    n_obs, n = int(rng.integers(1, 6)), int(rng.choice([6, 40]))
    low, high = np.full(n_obs, -2.0 / size), np.full(n_obs, 2.0 / size)
    if kind == "population":
        centers = np.tile(np.array([-1.0, 0.0, 1.0]) / size, (n_obs, 1))
        encoder = Encoder(kind, n_obs, centers=centers, widths=np.full((n_obs, 3), 0.5 / size))
    else:
        gain, threshold = (1.0 if kind == "rate" else 3.0), (0.25 / size if kind == "delta" else 1.0)
        encoder = Encoder(kind, n_obs, low=low, high=high, gain=gain, threshold=threshold)
    reset = str(rng.choice(["zero", "subtract"]))
    v_th = 10.0 ** rng.uniform(-2, 2)
    neurons = LsnnNeurons(
        tau_m=np.full(n, rng.uniform(1, 20)),
        v_th=np.full(n, v_th),
        tau_a=np.full(n, rng.uniform(20, 500)),
        beta=v_th * np.repeat([0.0, rng.uniform(0.01, 1)], n // 2),
        refractory=np.zeros(n),
        reset=reset,
        adaptation="ahp" if reset == "zero" else str(rng.choice(["ahp", "threshold"])),
    )
    held = size if kind == "direct" else 1.0
    w_rec = v_th * rng.normal(0, rng.choice([0.3, 2.0]) / np.sqrt(n), (n, n))
    np.fill_diagonal(w_rec, 0)
    w_in = v_th * held * rng.normal(rng.choice([-0.5, 0, 0.5]), 1.0, (n, encoder.n_channels))
    layer = Layer(w_in.astype("f4"), (v_th * rng.normal(0, 0.1, n)).astype("f4"), neurons, w_rec.astype("f4"))
    kind_of_readout = [{"count": True}, {"tau_out": 5.0}, {"first_spike": True}][rng.integers(3)]
    readout = Readout(rng.normal(size=(3, n)).astype("f4"), np.zeros(3, "f4"), **kind_of_readout)
    return Network(encoder, (layer,), readout, ActionHead("discrete", (3,)), n_ticks=3, latency=1)


ENCODERS = ("direct", "population", "delta", "rate", "latency")


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from(list(CHIPS)), st.sampled_from(list(PROFILES)), st.sampled_from(ENCODERS)
)
def test_nothing_wraps_however_quiet_calibration_was_and_what_saturates_is_warned_of(seed, chip, profile, kind):
    network, rng = any_network(seed, kind), np.random.default_rng(seed)
    n = network.encoder.n_obs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="quantised to")
        quiet = rng.choice([0.0, 0.05]) * rng.normal(size=(20, 1, n))
        policy = DeployedPolicy(compile_network(network, chip, profile=profile, calibration=quiet))
    state = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for loudness in (1.0, 30.0, 1e6):
            for x in loudness * rng.choice([-1.0, 1.0, 0.3], (4, 2, n)):
                _, state = policy.step(x, state)
    counts = policy.machine.counts.overflows
    assert (counts["input"], counts["u"], counts["v input"]) == (0, 0, 0)
    left = any(counts.values()) or any(policy.machine.clipped.values())
    assert [str(w.message)[:23] for w in caught] == ["values left their range"] * bool(left)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", ["direct", "population", "delta"])
@pytest.mark.parametrize("size", [1e-5, 1.0, 1e5])
def test_outputs_follow_the_network_in_every_profile_whatever_the_size_of_observations(chip, profile, kind, size):
    network = any_network(1, kind, size)
    network = dataclasses.replace(network, layers=(dataclasses.replace(network.layers[0], w_rec=None),))
    obs = np.random.default_rng(0).normal(size=(40, 4, network.encoder.n_obs)) / size
    policy, state, values = DeployedPolicy(compile_network(network, chip, profile=profile, calibration=obs)), None, []
    for x in obs:
        value, state = policy.step(x, state)
        values.append(value)
    expected, _ = Simulator(network).run(obs)
    assert np.corrcoef(np.ravel(values), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("size", [1e-20, 1e-9, 1e9, 1e20])
def test_the_unit_of_the_membrane_does_not_matter(chip, size):
    network = any_network(1, "direct")
    layer = network.layers[0]
    other = {name: size * getattr(layer.neurons, name) for name in ("v_th", "beta")}
    neurons = dataclasses.replace(layer.neurons, **other)
    scaled = Layer(*(np.float64(size) * x for x in (layer.w_in, layer.bias)), neurons, np.float64(size) * layer.w_rec)
    w_out = np.float64(size) * network.readout.w_out
    readout = dataclasses.replace(network.readout, w_out=w_out, b_out=np.zeros(3), v_th_out=1e-9)
    unscaled = dataclasses.replace(network.readout, v_th_out=1e-9)
    obs = np.random.default_rng(0).normal(size=(20, 2, network.encoder.n_obs))
    programs = [
        compile_network(dataclasses.replace(network, layers=(one,), readout=out), chip, calibration=obs).program
        for one, out in ((layer, unscaled), (scaled, readout))
    ]
    for p, q in zip(programs[0].projections, programs[1].projections, strict=True):
        assert (
            np.abs(p.weights - q.weights).max() <= 128
            and np.corrcoef(p.weights.ravel(), q.weights.ravel())[0, 1] > 0.999
        )
    np.testing.assert_allclose(programs[1].compartments.v_th, programs[0].compartments.v_th, rtol=0.02)


@pytest.mark.parametrize("chip", CHIPS)
def test_what_quantisation_costs_each_projection_is_kept_and_a_large_cost_warned_of(chip, tmp_path):
    network = any_network(2, "delta")
    quiet = compile_network(network, chip, calibration=np.zeros((2, 1, network.encoder.n_obs)))
    by_name = {cost.projection: cost for cost in quiet.quantization}
    assert set(by_name) == {p.name for p in quiet.program.projections} and not any(
        c.is_large for c in quiet.quantization
    )
    layer = network.layers[0]
    w_in = layer.w_in.copy()
    w_in[0, 0] = 200 * abs(w_in).max()
    outlier = dataclasses.replace(network, layers=(dataclasses.replace(layer, w_in=w_in),))
    with pytest.warns(
        UserWarning, match=r"quantised to 8 bits, input: [0-9]+ of [0-9]+ weights became 0, signal to noise"
    ):
        found = compile_network(outlier, chip, calibration=np.zeros((2, 1, network.encoder.n_obs)))
    cost = next(c for c in found.quantization if c.projection == "input")
    stored = next(p for p in found.program.projections if p.name == "input").weights
    assert cost.n_weights == w_in.size and cost.n_became_zero == np.count_nonzero(stored == 0) > 0.1 * w_in.size
    assert cost.largest_over_median == pytest.approx(abs(w_in).max() / np.median(abs(w_in)))
    found.save(tmp_path / "d.safetensors")
    assert Deployment.load(tmp_path / "d.safetensors").quantization == found.quantization


@pytest.mark.parametrize("chip", CHIPS)
def test_weights_are_stored_once_for_a_choice_of_scales(chip, monkeypatch):
    calls = []
    monkeypatch.setattr(plan, "quantize_weights", lambda *args: calls.append(args) or quantize_weights(*args))
    deployment = compile_network(exact_network(sizes=(12, 9)), chip, calibration=observations()[0])
    assert len(calls) == len(deployment.program.projections) == len(deployment.quantization)


def test_weights_on_the_chips_grid_cost_nothing():
    deployment = compile_network(exact_network(beta=0.0), calibration=observations()[0])
    assert {cost.signal_to_noise_db for cost in deployment.quantization} == {np.inf}


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("encoder", ["direct", "delta"])
def test_biases_above_what_the_chip_holds_are_warned_of_by_layer(chip, encoder):
    network = exact_network(encoder=encoder, sizes=(12, 9))
    first, second = network.layers
    bias = second.bias.copy()
    bias[:2] = 1000, -2000
    layers = (first, dataclasses.replace(second, bias=bias))
    answer = "layer 1: 2 of 9 biases, up to 2e.03, are larger than a bias can be .* and become 2[0-9][0-9]"
    with pytest.warns(UserWarning, match=answer):
        compile_network(dataclasses.replace(network, layers=layers), chip)


@pytest.mark.parametrize("chip", CHIPS)
def test_weights_that_no_mantissa_and_exponent_hold_beside_the_thresholds_are_refused(chip):
    network = exact_network(recurrent=True)
    layer = network.layers[0]
    huge = dataclasses.replace(layer, w_rec=layer.w_rec * np.float32(1e5))
    with pytest.raises(
        ValueError, match=r"layer 0 cannot be represented: beside weights up to .* a threshold of 1\.01 bec"
    ):
        compile_network(dataclasses.replace(network, layers=(huge,)), chip)
    uneven = dataclasses.replace(layer.neurons, v_th=np.geomspace(1e-6, 1, 12))
    layer = dataclasses.replace(layer, neurons=uneven)
    with pytest.raises(ValueError, match="layer 0 cannot be represented"):
        compile_network(dataclasses.replace(network, layers=(layer,)), chip)


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
