"""ReLU layers as integrate-and-fire neurons: the ANN is the oracle."""

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikeloop.hardware import DeployedPolicy, compile_network
from spikeloop.hardware.recording import record
from spikeloop.spiking import ActionHead, Layer, Network, Readout, Simulator, reference
from spikeloop.spiking.conversion import activation_ranges, closest_states, converted, forward, sample
from spikeloop.spiking.dense_forms import MAX_WEIGHTS, convolution, fold_batch_norm, maxima, pooled
from spikeloop.spiking.encoders.values import Direct
from spikeloop.spiking.neurons.integrate_and_fire import IntegrateAndFire
from spikeloop.spiking.readout import Dense


def ann(seed, sizes=(3, 12, 10, 2)):
    """Return ReLU layers before a linear map, and states."""
    rng = np.random.default_rng(seed)
    layers = []
    for m, n in pairwise(sizes):
        kind = "relu" if len(layers) < len(sizes) - 2 else "identity"
        layers.append(Dense(rng.normal(size=(n, m)) / np.sqrt(m), rng.normal(0, 0.3, n), kind))
    return layers, rng.normal(size=(200, sizes[0]))


def outputs(layers, x, n_ticks, **options):
    network = converted(layers, x, n_ticks, percentile=100.0, **options)
    return Simulator(network).run(x[:, None])[0][:, 0]


def bound(layers, x, per_neuron):
    """Return how far K times the output may be off: a count is off by half a spike, and by what its inputs are."""
    scales = [of_layer.scale for of_layer in activation_ranges(layers, x, 100.0, per_neuron)]
    error, before = np.zeros(x.shape[1]), np.ones(x.shape[1])
    for layer, scale in zip(layers, scales, strict=False):
        error = np.abs(layer.w * before / scale[:, None]) @ error + 0.5
        before = scale
    return np.abs(layers[-1].w * before) @ error


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    n_ticks=st.integers(1, 64),
    sizes=st.lists(st.integers(1, 16), min_size=3, max_size=5),
    per_neuron=st.booleans(),
    readout=st.sampled_from(["count", "slope"]),
)
def test_the_outputs_are_the_anns_up_to_c_over_k(seed, n_ticks, sizes, per_neuron, readout):
    """At worst all errors of the sums that a slope is taken from have one sign: then it is off by half as much more."""
    layers, x = ann(seed, sizes)
    error = abs(outputs(layers, x, n_ticks, per_neuron=per_neuron, readout=readout) - forward(layers, x)[-1])
    ticks = n_ticks if readout == "count" else (2 * n_ticks + 1) / 3
    assert np.all(error <= bound(layers, x, per_neuron) / ticks + 1e-3)


def test_a_slope_is_nearer_than_a_count():
    mean = dict.fromkeys(("slope", "count"), 0.0)
    for seed in range(5):
        layers, x = ann(seed)
        for readout in mean:
            mean[readout] += abs(outputs(layers, x, 16, readout=readout) - forward(layers, x)[-1]).mean()
    assert mean["slope"] < 0.75 * mean["count"]


def test_more_ticks_come_nearer_and_a_start_at_zero_stays_behind():
    errors = {v_start: [] for v_start in (0.5, 0.0)}
    for n_ticks in (2, 4, 8, 16, 64):
        for v_start, found in errors.items():
            mean = 0.0
            for seed in range(5):
                layers, x = ann(seed)
                mean += abs(outputs(layers, x, n_ticks, v_start=v_start) - forward(layers, x)[-1]).mean() / 5
            found.append(mean)
    half, zero = np.array(errors[0.5]), np.array(errors[0.0])
    assert np.all(np.diff(half) < 0) and half[-1] < 0.05 * half[0]
    assert np.all(half[:4] < 0.7 * zero[:4])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), n_ticks=st.sampled_from([2, 4, 8, 16]))
def test_multiples_of_one_spike_are_exact(seed, n_ticks):
    """Activations are whole spikes, and no weight between layers is negative: nothing fires too early."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, n_ticks + 1, (50, 4)) / n_ticks
    x[:2] = [[1.0], [0.0]]
    layers = [Dense(np.eye(4), np.zeros(4), "relu"), Dense(np.eye(4), np.zeros(4), "relu")]
    layers.append(Dense(rng.integers(-8, 9, (3, 4)) / 8, rng.integers(-8, 9, 3) / 8, "identity"))
    np.testing.assert_allclose(outputs(layers, x, n_ticks, readout="count"), forward(layers, x)[-1], atol=1e-6)


@pytest.mark.parametrize("n_hidden", [1, 2, 3])
@pytest.mark.parametrize(("readout", "v_start"), [("count", 0.5), ("slope", 0.5), ("slope", 0.0), ("slope", -1.5)])
def test_latency_costs_ticks_and_no_accuracy(n_hidden, readout, v_start):
    """Each layer of a late network spikes as that of the other does, one tick later than the layer before."""
    layers, x = ann(n_hidden, (3, *[20] * n_hidden, 2))
    layers[1:-1] = [Dense(layer.w, layer.b - 0.5, "relu") for layer in layers[1:-1]]  # inhibition that must wait
    networks = [converted(layers, x, 16, latency=latency, readout=readout, v_start=v_start) for latency in (0, 1)]
    late = networks[1]
    assert (late.n_ticks, late.latency, late.clears) == (16 + n_hidden, 1, True)
    spikes = []
    for network in networks:
        monitor = Simulator(network).record(x[:, None].astype(np.float32))[2]
        spikes.append([np.zeros((len(x), network.n_ticks, layer.n_neurons), bool) for layer in network.layers])
        for z, found in zip(spikes[-1], monitor.layers, strict=True):
            step, tick = np.divmod(np.rint(found.t).astype(int), network.n_ticks)
            z[step, tick, found.i] = True
    for i, (one, other) in enumerate(zip(*spikes, strict=True)):
        shifted, constant = other[:, i : i + 16, : one.shape[2]], other[:, i:, one.shape[2] :]
        assert np.mean(shifted != one) < 1e-3  # sums are rounded otherwise
        assert not other[:, :i, : one.shape[2]].any() and constant.all() and (i == n_hidden - 1) != (constant.size > 0)
    found = [Simulator(network).run(x[:, None])[0][:, 0] for network in networks]
    scale = forward(layers, x)[-1].std()
    if readout == "count":
        assert np.mean(abs(found[1] - found[0]) > 1e-3 * scale) < 0.02
    else:
        assert abs(found[1] - forward(layers, x)[-1]).mean() < 1.2 * abs(found[0] - forward(layers, x)[-1]).mean()


def test_biases_in_the_place_of_weights_do_not_lose_by_8_bits():
    layers, x = ann(0, (3, 12, 10, 2))
    layers[1] = Dense(layers[1].w, layers[1].b - 4.0, "relu")
    layer = unscaled(converted(layers, x, 8, latency=1).layers[1])
    constant, step = layer.w_in[:, 12:], abs(layer.w_in).max() / 127
    assert constant.shape[1] > 3 and not layer.bias.any()
    assert abs((np.rint(constant / step) * step - constant).sum(axis=1)).max() <= step


def with_a_neuron(layers, index, scale, bias, neuron=0):
    """Return layers in which one neuron has its weights scaled, and this bias."""
    w, b = layers[index].w.copy(), layers[index].b.copy()
    w[neuron], b[neuron] = w[neuron] * scale, bias
    return [*layers[:index], Dense(w, b, "relu"), *layers[index + 1 :]]


@pytest.mark.filterwarnings("ignore:quantised|values left")
@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
@pytest.mark.parametrize("seed", [0, 1])  # of seed 1, loihi1 has no room for membranes that begin farther below
def test_constant_neurons_spike_on_every_tick_of_a_chip(seed, chip):
    """A silent neuron with small weights needs many of them, and one with large weights takes the 8 bits."""
    layers, x = ann(seed, (3, *[20] * 4, 2))
    for index in (1, 2, 3):
        layers = with_a_neuron(with_a_neuron(layers, index, 0.02, -1.0), index, 16.0, -40.0, neuron=1)
    network = converted(layers, x, 16, latency=1)
    spikes = record(compile_network(network, chip, calibration=x), x[:10, None]).layers
    for i, constant in enumerate(len(layer.bias) - 20 for layer in network.layers[:-1]):
        counts = np.bincount(spikes[i].i, minlength=20 + constant)[20:]
        assert constant > 3 and counts.tolist() == [10 * (network.n_ticks - i)] * constant


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_a_bias_that_no_input_can_undo_leaves_the_others_their_bits(scale):
    layers, x = ann(0, (3, 20, 20, 2))
    dead = [with_a_neuron(layers, 1, scale, bias) for bias in (-10.0, -1000.0)]
    less, more = (converted(one, x, 16, latency=1) for one in dead)
    np.testing.assert_array_equal(less.layers[1].w_in, more.layers[1].w_in)
    largest = abs(more.layers[1].w_in).max(axis=1)
    assert largest[0] < 1.01 * largest[1:].max()
    for latency in (0, 1):
        simulator = Simulator(converted(dead[1], x, 16, latency=latency))
        simulator.run(x[:, None])
        assert simulator.spike_counts[1][0] == 0


def unscaled(layer):
    """Return neurons with a threshold of 1 that spike as those of a layer do."""
    v_th = layer.neurons.v_th.astype("f4")
    return Layer(layer.w_in / v_th[:, None], layer.bias / v_th, IntegrateAndFire(np.ones(layer.n_neurons)))


def test_half_of_everything_changes_no_spike():
    layers, x = ann(3, (3, 20, 20, 2))
    network = converted(layers, x, 16)
    assert [set(layer.neurons.v_th.tolist()) for layer in network.layers] == [{1.0}, {0.5, 1.0}]
    for layer in network.layers[1:]:
        largest = abs(unscaled(layer).w_in).max(axis=1)
        np.testing.assert_array_equal(layer.neurons.v_th == 0.5, largest > np.sqrt(2) * np.median(largest))
    pruned = Dense(
        layers[1].w * (np.arange(20) < 8)[:, None], layers[1].b, "relu"
    )  # neurons without weights are no scale
    halves = converted([layers[0], pruned, layers[2]], x, 16).layers[1].neurons.v_th[:8] == 0.5
    assert 0 < halves.sum() < 8
    silent = Dense(0 * layers[1].w, layers[1].b, "relu")
    assert set(converted([layers[0], silent, layers[2]], x, 16).layers[1].neurons.v_th) == {1.0}
    whole = [unscaled(layer) for layer in network.layers]
    same = Simulator(replace(network, layers=tuple(whole))), Simulator(network)
    np.testing.assert_array_equal(*[simulator.run(x[:, None])[0] for simulator in same])
    np.testing.assert_array_equal(same[0].spike_counts, same[1].spike_counts)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), latency=st.integers(0, 1), n_ticks=st.integers(1, 12))
def test_the_simulator_is_the_definition(seed, latency, n_ticks):
    layers, x = ann(seed)
    network = converted(layers, x, n_ticks, latency=latency)
    found, _, monitor = Simulator(network).record(x[:, None].astype(np.float32))
    for step in range(0, 200, 50):
        seen = np.repeat(x[step : step + 1].astype(np.float32)[None], network.n_ticks, axis=0)
        none = np.zeros((1, network.readout.n_neurons), np.float32)
        expected, _, _, spikes = reference.step(network, seen, reference.rest(network), none)
        np.testing.assert_allclose(found[step], expected, atol=1e-4)
        for z, layer in zip(spikes, monitor.layers, strict=True):
            now = (layer.t >= step * network.n_ticks) & (layer.t < (step + 1) * network.n_ticks)
            assert now.sum() == z.sum()


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_the_chip_does_in_integers_what_the_network_does(chip):
    layers, x = ann(4, (3, 40, 30, 2))
    network = converted(layers, x, 16, latency=1, head=ActionHead("discrete", (2,)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that become 0
        deployment = compile_network(network, chip, calibration=x)
    assert deployment.approximations == () and deployment.host.clears
    fast, slow = DeployedPolicy(deployment), DeployedPolicy(deployment, interpreted=True)
    np.testing.assert_array_equal(fast.step(x[:5])[0], slow.step(x[:5])[0])
    values, expected = fast.step(x)[0], Simulator(network).run(x[:, None])[0][:, 0]
    assert abs(values - expected).mean() < 0.15 * expected.std()
    assert np.mean(values.argmax(1) == expected.argmax(1)) >= 0.9


@pytest.mark.filterwarnings("ignore:quantised|values left")
@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_neurons_with_large_weights_leave_the_others_their_bits(chip):
    error = {"halved": 0.0, "whole": 0.0}
    for seed in range(6):
        layers, x = ann(seed, (3, 40, 40, 2))
        factor = np.where(np.arange(40) % 10 == 0, 16.0, 1.0)
        layers[1] = Dense(layers[1].w * factor[:, None], layers[1].b * factor, "relu")
        layers[2] = Dense(layers[2].w / factor, layers[2].b, "identity")
        halved = converted(layers, x, 16, latency=1)
        whole = [halved.layers[0], unscaled(halved.layers[1])]
        for name, network in (("halved", halved), ("whole", replace(halved, layers=tuple(whole)))):
            values = DeployedPolicy(compile_network(network, chip, calibration=x)).step(x)[0]
            error[name] += abs(values - Simulator(network).run(x[:, None])[0][:, 0]).mean()
    assert error["halved"] < 0.9 * error["whole"]


@pytest.mark.filterwarnings("ignore:quantised")
def test_a_neuron_that_is_far_below_leaves_the_thresholds_their_bits():
    """Membranes that begin every env step at rest may stop 256 thresholds below it: with 1024, loihi1 refuses these."""
    layers, x = ann(2, (3, 12, 10, 2))
    w = layers[1].w.copy()
    w[0] = -10.0
    layers[1] = Dense(w, layers[1].b, "relu")
    deployment = compile_network(converted(layers, x, 16, latency=1), "loihi1", calibration=x)
    starts = {name: start for name, start, _ in deployment.program.groups}
    assert deployment.program.compartments.v_th[starts["layer 1"]] > 1024


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_chips_give_the_same_spikes_where_they_can_hold_the_numbers(chip, recurrent):
    """Weights on a grid of 1/64, thresholds between its points: a leak of 1/4096 over four ticks changes nothing."""
    rng, layers, n_inputs = np.random.default_rng(1), [], 3
    for n in (12, 10):
        neurons = IntegrateAndFire(v_th=np.ones(n), v_start=0.5 + 1 / 128)
        w_rec = (rng.integers(-16, 17, (n, n)) / 64 * ~np.eye(n, dtype=bool)).astype("f4") if recurrent else None
        w_in, bias = rng.integers(-100, 128, (n, n_inputs)) / 64, rng.integers(-20, 30, n) / 64
        layers.append(
            Layer(w_in.astype("f4"), bias.astype("f4"), neurons, w_rec if w_rec is None else w_rec.astype("f4"))
        )
        n_inputs = n
    readout = Readout((rng.integers(-127, 128, (2, 10)) / 64).astype("f4"), np.zeros(2, "f4"), count=True)
    network = Network(Direct(3), tuple(layers), readout, n_ticks=4, latency=1, clears=True)
    x = rng.integers(-4, 9, (200, 3)) / 8
    values, expected = DeployedPolicy(compile_network(network, chip, calibration=x)).step(x)[0], Simulator(network)
    np.testing.assert_allclose(values, expected.run(x[:, None])[0][:, 0], atol=1e-3)
    assert min(count.sum() for count in expected.spike_counts) > 500
    again = record(compile_network(network, chip, calibration=x), x[:, None])
    for one, other in zip(again.layers, expected.record(x[:, None])[2].layers, strict=True):
        np.testing.assert_array_equal(one.i, other.i)


def test_batch_norm_folds_to_1e_6():
    torch.manual_seed(0)
    linear, norm = nn.Linear(7, 5).double(), nn.BatchNorm1d(5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm(linear(torch.randn(100, 7).double()) * 3 + 1)
    norm.eval()
    arrays = [a.detach().numpy() for a in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
    w, b = fold_batch_norm(linear.weight.detach().numpy(), linear.bias.detach().numpy(), *arrays, norm.eps)
    x = torch.randn(50, 7).double()
    np.testing.assert_allclose(x.numpy() @ w.T + b, norm(linear(x)).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [((3, 3), (1, 1), (0, 0)), ((4, 2), (2, 3), (1, 2))])
def test_a_convolution_is_its_matrix(kernel, stride, padding):
    conv = nn.Conv2d(2, 3, kernel, stride, padding).double()
    w, b, shape = convolution(conv.weight.detach().numpy(), conv.bias.detach().numpy(), (2, 9, 11), stride, padding)
    x = torch.randn(4, 2, 9, 11).double()
    expected = conv(x).detach().numpy()
    assert shape == expected.shape[1:]
    np.testing.assert_allclose(x.numpy().reshape(4, -1) @ w.T + b, expected.reshape(4, -1), atol=1e-6)


def test_a_convolution_that_is_too_large_is_refused_in_one_line():
    with pytest.raises(
        ValueError, match=r"would have 361,267,200 weights, conversion makes 33,554,432 at most: smaller"
    ):
        convolution(np.zeros((32, 4, 8, 8)), np.zeros(32), (4, 84, 84), (4, 4), (0, 0))
    assert MAX_WEIGHTS == 33_554_432


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_maxima_are_relu_layers_and_a_sum(seed, sizes):
    rng = np.random.default_rng(seed)
    groups = [rng.choice(9, size, replace=False).tolist() for size in sizes]
    x = rng.exponential(size=(20, 9)) * (rng.random((20, 9)) < 0.7)
    layers, sums = maxima(groups, 9)
    y = forward(layers, x)[-1] if layers else x
    np.testing.assert_allclose(y @ sums.T, np.stack([x[:, group].max(axis=1) for group in groups], axis=1), atol=1e-12)


def test_a_max_pool_is_that_of_torch():
    x = torch.rand(3, 2, 6, 7)
    groups, shape = pooled((2, 6, 7), (2, 3), (2, 2))
    expected = nn.functional.max_pool2d(x, (2, 3), (2, 2)).numpy()
    assert shape == expected.shape[1:]
    rows = x.numpy().reshape(3, -1)
    np.testing.assert_array_equal(np.stack([rows[:, g].max(1) for g in groups], 1), expected.reshape(3, -1))


def test_draws_have_the_probabilities_of_the_soft_max():
    logits = np.array([0.3, -1.0, 1.2])
    drawn = sample(np.tile(logits, (40_000, 1)), np.random.default_rng(0))
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(np.bincount(drawn) / 40_000, expected, atol=0.01)


def test_spikes_stand_for_the_percentiles_that_are_asked_for():
    layers, x = ann(0, (3, 12, 2))
    y = forward(layers, x)[0]
    (whole,) = activation_ranges(layers, x, 75.0, per_neuron=False)
    np.testing.assert_allclose(whole.scale, np.percentile(y, 75.0))
    assert not whole.low.any()
    (own,) = activation_ranges(layers, x, 75.0)
    low, high = np.percentile(y, [25.0, 75.0], axis=0)
    scale = np.maximum(high - low, np.percentile(y - low, 75.0) / 3)
    np.testing.assert_allclose(own.low, low)
    np.testing.assert_allclose(own.scale, scale)
    (from_zero,) = activation_ranges(layers, x, 75.0, from_zero=True)
    np.testing.assert_allclose(from_zero.scale, np.maximum(high, np.percentile(y, 75.0) / 3))
    network = converted(layers, x, 4, percentile=75.0)
    np.testing.assert_allclose(network.layers[0].w_in, layers[0].w / scale[:, None], rtol=1e-6)
    np.testing.assert_allclose(network.layers[0].bias, (layers[0].b - low) / scale, rtol=1e-5)


def test_a_silent_layer_and_a_neuron_that_never_changes_have_a_scale():
    layers = [
        Dense(np.array([[1.0], [0.0]]), np.array([0.0, -1.0]), "relu"),
        Dense(np.ones((1, 2)), np.zeros(1), "relu"),
    ]
    layers.append(Dense(np.ones((1, 1)), np.zeros(1), "identity"))
    for x, options, expected in (
        ([[2.0], [4.0]], {}, [[2.0, 2 / 3], [2.0]]),
        ([[2.0], [4.0]], {"from_zero": True}, [[4.0, 4 / 3], [4.0]]),
        ([[2.0], [4.0]], {"per_neuron": False}, [[4.0, 4.0], [4.0]]),
        ([[-2.0]], {"per_neuron": False}, [[1.0, 1.0], [1.0]]),
        ([[2.0]], {}, [[1 / 3, 1 / 3], [1 / 3]]),
    ):
        ranges = activation_ranges(layers, np.array(x), 100.0, **options)
        assert [of_layer.scale.tolist() for of_layer in ranges] == expected
    np.testing.assert_allclose(outputs(layers, np.array([[2.0]]), 1), [[2.0]])  # what never changes needs no spike


@pytest.mark.parametrize("n_ticks", [4, 16])
def test_a_range_of_its_own_is_nearer_than_one_from_zero(n_ticks):
    error = dict.fromkeys((True, False), 0.0)
    for seed in range(5):
        layers, x = ann(seed)
        layers = [Dense(layer.w, layer.b + 1.0, layer.activation) for layer in layers]  # most are never silent
        for from_zero in error:
            found = outputs(layers, x / 4, n_ticks, from_zero=from_zero)
            error[from_zero] += abs(found - forward(layers, x / 4)[-1]).mean()
    assert error[False] < 0.7 * error[True]


@pytest.mark.parametrize("kind", ["discrete", "multi_discrete", "multi_binary"])
def test_what_the_outputs_of_a_choice_share_is_left_out(kind):
    """The action stays, and so do probabilities: the outputs of a group differ as before."""
    layers, x = ann(6, (3, 12, 5))
    sizes = {"discrete": (5,), "multi_discrete": (2, 3), "multi_binary": (2,) * 5}[kind]
    head = ActionHead(kind, sizes, () if kind == "discrete" else (len(sizes),))
    found, plain = outputs(layers, x, 8, closest=1.0, head=head), outputs(layers, x, 8)
    ends = [0, *np.cumsum(sizes)] if kind != "multi_binary" else []
    for a, b in pairwise(ends):
        np.testing.assert_allclose(found[:, a:b].sum(axis=1), 0.0, atol=1e-5)
        expected = plain[:, a:b] - plain[:, a:b].mean(axis=1, keepdims=True)
        np.testing.assert_allclose(found[:, a:b], expected, atol=1e-5)
    if kind == "multi_binary":
        np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(
    ("head", "margins"),
    [
        (ActionHead("discrete", (3,)), [3.0, 0.5, 0.0]),
        (ActionHead("multi_discrete", (1, 2), (2,)), [1.0, 0.5, 0.0]),
        (ActionHead("multi_binary", (2, 2, 2), (3,)), [1.0, 0.0, 1.0]),
        (ActionHead("multi_discrete", (1, 1, 1), (3,)), [0.0, 0.0, 0.0]),
        (ActionHead("box", (1, 1, 1), (3,), -np.ones(3), np.ones(3)), [0.0, 0.0, 0.0]),
        (None, [0.0, 0.0, 0.0]),
    ],
)
def test_the_states_of_the_closest_choices_count(head, margins):
    layers = [Dense(np.eye(3), np.zeros(3), "relu"), Dense(np.eye(3), np.zeros(3), "identity")]
    x = np.array([[5.0, 1.0, 2.0], [0.0, 2.0, 2.5], [1.0, 5.0, 5.0]])
    for share in (0.1, 0.5, 1.0):
        found = closest_states(layers, x, head, share)
        np.testing.assert_array_equal(found, x[margins <= np.quantile(margins, share)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, x: converted(a[-1:], x, 4), "takes one or more ReLU layers and a linear map, got identity"),
        (lambda a, x: converted([*a[:2], a[-1], a[-1]], x, 4), "got relu, relu, identity, identity"),
        (lambda a, x: converted([a[0], a[-1]], x, 4), "layer 1 must take the 12 values of the layer before, takes 10"),
        (lambda a, x: converted(a, x[:, :2], 4), r"x must be finite and of shape \(n, 3\), got \(200, 2\)"),
        (lambda a, x: converted(a, x * np.nan, 4), "x must be finite"),
        (lambda a, x: converted(a, x, 4, percentile=50.0), "percentile must be above 50 and at most 100, got 50"),
        (lambda a, x: converted(a, x, 4, closest=0.0), "closest must be above 0 and at most 1, got 0"),
        (lambda a, x: converted(a, x, 0), "n_ticks must be"),
        (
            lambda a, x: converted(a, x, 4, readout="max"),
            r"converted.readout must be one of \('slope', 'count'\), got 'max'",
        ),
        (lambda a, x: converted(a, x, 4, v_start=1.0), "v_start must be below v_th"),
    ],
)
def test_what_does_not_convert_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as refused:
        change(*ann(0))
    assert "\n" not in str(refused.value)
