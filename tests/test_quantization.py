"""Numbers become the nearest that a chip holds, nothing wraps, and what that costs is kept and warned of."""

import dataclasses
import pickle
import warnings

import numpy as np
import pytest
from deployable import exact_network, observations
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import any_network, random_network

from spikeloop.hardware.compile import compile_network, quantizer
from spikeloop.hardware.deployed import DeployedPolicy
from spikeloop.hardware.deployment import Deployment
from spikeloop.hardware.loihi import plan
from spikeloop.hardware.loihi.chip import CHIPS, PROFILES
from spikeloop.hardware.loihi.fixed_point import bias_to_register
from spikeloop.hardware.loihi.quantize import (
    MAX_BIAS,
    Synapses,
    quantize_bias,
    quantize_decay,
    quantize_threshold,
    quantize_weights,
)
from spikeloop.spiking import Layer, Simulator


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
