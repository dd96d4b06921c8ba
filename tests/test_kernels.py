"""The numba engine against the definition in reference.py, and its kernels one by one."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.spiking import compiling, reference
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.engine import buffers, lsnn_kernels, products, sequences, shares, vectors
from spikeloop.spiking.gradients.surrogate import Surrogate
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.simulator import Simulator


def dyadic(rng, shape, scale, bits=4):
    """Multiples of 2^-bits: their sums are exact in any order, so every engine sees the same currents."""
    return np.round(rng.uniform(-scale, scale, shape) * 2**bits) / 2**bits


def random_layer(rng, n_in, n, recurrent, reset, adaptation, refractory, hold=False):
    neurons = LsnnNeurons(
        tau_m=rng.choice([0.0, 2.0, 10.0], n),
        v_th=rng.choice([0.5, 1.0, 1.25], n),
        tau_a=rng.choice([0.0, 5.0, 50.0], n),
        beta=rng.choice([0.0, 0.25], n),
        refractory=rng.integers(0, 3, n) * refractory,
        reset=reset,
        adaptation=adaptation,
        hold=hold and reset == "zero",
    )
    w_rec = dyadic(rng, (n, n), 0.5) * (1 - np.eye(n))
    return Layer(dyadic(rng, (n, n_in), 1.0), dyadic(rng, n, 0.5), neurons, w_rec if recurrent else None)


@st.composite
def networks(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = [draw(st.integers(1, 5)), *draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))]
    options = (
        draw(st.booleans()),
        draw(st.sampled_from(["subtract", "zero"])),
        draw(st.sampled_from(["threshold", "ahp"])),
        draw(st.booleans()),
        draw(st.booleans()),
    )
    layers = tuple(random_layer(rng, n_in, n, *options) for n_in, n in pairwise(sizes))
    readout = Readout(
        dyadic(rng, (2, sizes[-1]), 1.0),
        dyadic(rng, 2, 1.0),
        tau_out=draw(st.sampled_from([0.0, 3.0])),
        count=draw(st.booleans()),
    )
    n_ticks, latency = draw(st.integers(1, 4)), draw(st.integers(0, 1))
    return Network(Encoder("direct", sizes[0]), layers, readout, n_ticks=n_ticks, latency=latency), rng


def run_reference(network, obs, episode_start):
    """Outputs (L, B, n_out) and per layer spikes and membranes (T, B, N), from rest."""
    n_batch = obs.shape[1]

    def rest(n):
        return np.zeros((n_batch, n))

    states = [tuple(rest(layer.n_neurons) for _ in range(4)) for layer in network.layers]
    y = rest(network.layers[-1].n_neurons)
    outputs, spikes, membranes = [], [], []
    for x, start in zip(obs, episode_start, strict=True):
        keep = 1.0 - start[:, None]
        states = [tuple(keep * row for row in state) for state in states]
        out, states, y, z = reference.step(network, np.repeat(x[None], network.n_ticks, 0), states, keep * y)
        outputs.append(out)
        spikes.append(z)
        membranes.append([state[0] for state in states])
    per_layer = [np.concatenate([z[i] for z in spikes]) for i in range(len(network.layers))]
    return np.stack(outputs), per_layer, [np.stack([v[i] for v in membranes]) for i in range(len(network.layers))]


@settings(max_examples=150)
@given(networks(), st.integers(1, 20), st.integers(1, 4))
def test_engine_computes_the_reference_equations(drawn, n_steps, n_batch):
    network, rng = drawn
    obs = dyadic(rng, (n_steps, n_batch, network.encoder.n_obs), 2.0)
    start = rng.random((n_steps, n_batch)) < 0.2
    outputs, spikes, membranes = run_reference(network, obs, start)
    simulator = Simulator(network, n_threads=1)
    found, _, monitor = simulator.record(obs, None, start, membranes=True)
    expected = type(monitor).from_dense(spikes)
    for got, want in zip(monitor.layers, expected.layers, strict=True):
        np.testing.assert_array_equal(got.i, want.i)
        np.testing.assert_array_equal(got.t, want.t)
        np.testing.assert_array_equal(got.env, want.env)
    np.testing.assert_allclose(found, outputs, atol=1e-12)
    for got, want in zip(monitor.v, membranes, strict=True):
        np.testing.assert_allclose(got[network.n_ticks - 1 :: network.n_ticks], want, atol=1e-12)
    last = [z.sum((0, 1)) for z in spikes]
    for got, want in zip(simulator.spike_counts, last, strict=True):
        np.testing.assert_array_equal(got, want)


def engine_arguments(n=40, n_batch=13, n_steps=9, n_inputs=3, bias=0.3):
    rng = np.random.default_rng(0)
    layer = random_layer(rng, n_inputs, n, True, "subtract", "threshold", False)
    timing = sequences.Timing(2, 1.0, 0, 3.0, False, True)
    constants = sequences.constants(layer.neurons, timing, 0, 0, True, Surrogate(), np.float64)
    weights = sequences.Weights(np.array(layer.w_in.T, order="C"), np.full(n, bias), np.array(layer.w_rec.T, order="C"))
    x = rng.normal(size=(n_batch, n_steps, n_inputs))
    start = (rng.random((n_batch, n_steps)) < 0.1).astype(np.uint8)
    state, counts = np.zeros((5, n_batch, n)), [np.zeros(n, np.int64)]
    return ([weights], [constants], x, state, start, counts), rng.normal(size=(n_batch, n_steps, n))


@st.composite
def passes(draw):
    """Arguments of a forward and a backward pass whose sums round."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    sizes = [draw(st.integers(1, 40)), *draw(st.lists(st.integers(1, 140), min_size=1, max_size=2))]
    recurrent, held, latency = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 1))
    reset, hold = draw(st.sampled_from([("subtract", False), ("zero", False), ("zero", True)]))
    n_batch, n_steps, n_ticks = draw(st.integers(1, 20)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    timing = sequences.Timing(n_ticks, 1.0, latency, 3.0, False, held)
    bias = draw(st.sampled_from([0.2, 2.0]))  # sparse and dense spikes take different ways back
    weights, layers = [], []
    for i, (n_in, n) in enumerate(pairwise(sizes)):
        layer = random_layer(rng, n_in, n, recurrent, reset, "threshold", hold, hold)
        layers.append(sequences.constants(layer.neurons, timing, i, 0, i == len(sizes) - 2, Surrogate(), dtype))
        shapes = (n_in, n), (n if recurrent else 0, n)
        w_in, w_rec = (rng.normal(0, 0.4, shape).astype(dtype) for shape in shapes)
        weights.append(sequences.Weights(w_in, np.full(n, bias, dtype), w_rec))
    x = rng.normal(size=(n_batch, n_steps if held else n_steps * n_ticks, sizes[0])).astype(dtype)
    start = (rng.random((n_batch, n_steps)) < 0.2).astype(np.uint8)
    state = np.zeros((4 * len(layers) + 1, n_batch, max(sizes[1:])), dtype)
    return (weights, layers, x, state, start), rng.normal(size=(n_batch, n_steps, sizes[-1])).astype(dtype)


@settings(max_examples=10, deadline=None)
@given(passes(), st.integers(2, 9))
def test_bits_do_not_depend_on_threads(drawn, many):
    arguments, grad_y = drawn
    results = []
    for n_threads in (1, many):
        counts = [np.zeros(layer.n_neurons, np.int64) for layer in arguments[1]]
        y, state, tapes = sequences.forward(*arguments, counts, lsnn_kernels.KEEP_TAPE, n_threads, serial_below=0)
        grads, grad_x = sequences.backward(tapes, grad_y, [None] * len(counts), True, n_threads, serial_below=0)
        results.append((y, state, *counts, grad_x, *(g for layer in grads for g in layer)))
    for one, more in zip(*results, strict=True):
        np.testing.assert_array_equal(one, more)


@pytest.mark.parametrize("n_threads", range(1, 10))
def test_threads_share_out_the_gradients_without_gap_or_overlap(n_threads):
    n, width, panel = 70, 96, 32
    seen = np.zeros((n, width), int)
    for first, end, part, n_parts in shares.windows(width, n_threads, panel):
        assert first % panel == end % panel == 0
        seen[n * part // n_parts : n * (part + 1) // n_parts, first:end] += 1
    assert (seen == 1).all() and len(shares.windows(width, n_threads, panel)) == n_threads


def test_buffers_are_reused_and_never_shared():
    buffers._free.clear()
    first = buffers.take((300, 100), np.float64)
    buffers.give_back(first)
    second, third = buffers.take((300, 100), np.float32), buffers.take((300, 100), np.float32)
    assert np.shares_memory(first, second)
    assert not np.shares_memory(second, third)
    assert second.dtype == np.float32 and second.shape == (300, 100)


@pytest.mark.parametrize("n", [1, 7, 64, 100])
def test_linear_rows_sums_each_row_alike(n):
    rng = np.random.default_rng(n)
    x, w, bias = rng.normal(size=(11, n)), rng.normal(size=(5, n)), rng.normal(size=5)
    out = np.empty((11, 5))
    products.linear_rows(x, w, bias, out)
    np.testing.assert_allclose(out, x @ w.T + bias, rtol=1e-12, atol=1e-12)
    one = np.empty((1, 5))
    for row, expected in zip(x, out, strict=True):
        products.linear_rows(row[None].copy(), w, bias, one)
        np.testing.assert_array_equal(one[0], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_panels", [1, 2, 5])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6])
def test_products_that_skip_zeros_have_the_bits_of_those_that_do_not(dtype, n_panels, density):
    rng = np.random.default_rng(n_panels)
    panel, rows, n = vectors.panel(dtype), 13, 70
    width, stride = n_panels * panel, sequences.padded_size(n, dtype)
    x = np.zeros((rows, stride), dtype)
    x[:, :n] = rng.normal(size=(rows, n)) * (rng.random((rows, n)) < density)
    w, d, start = (rng.normal(size=shape).astype(dtype) for shape in ((n, width), (rows, width), (rows, width)))
    out, mine = start.copy(), start.copy()
    products.product(x, 0, stride, rows, n, w.ravel(), panel, width, out, 0, width, width)
    products.sparse_product(x, 0, stride, rows, w.ravel(), mine, 0, width, width)
    np.testing.assert_array_equal(mine, out)
    outer, mine = w.copy(), w.copy()
    products.outer(outer, 0, width, x, 0, stride, n, d, 0, width, rows, 0, width)
    products.sparse_outer(mine, width, x, 0, stride, d, 0, rows)
    np.testing.assert_array_equal(mine, outer)
    assert products.is_sparse(x, 0, stride, rows, n) == (density < products.SPARSE)


def test_listing_lanes_stays_within_its_room():
    listed = np.full(20, -1, np.int32)
    for room in (5, 16, 20):
        listed[:] = -1
        x = np.zeros(64, np.float32)
        x[[3, 17, 40, 63]] = 1.0
        assert products.list_used(x, 0, 64, listed[:room]) == 4
        np.testing.assert_array_equal(listed[:4], [3, 17, 40, 63])
        np.testing.assert_array_equal(listed[room:], -1)


def test_padding_copies_only_what_needs_it():
    width = vectors.panel(np.float64)
    whole = sequences.Weights(np.ones((3, width)), np.ones(width), np.zeros((width, width)))
    assert all(a is b for a, b in zip(sequences.padded(whole, width), whole, strict=True))
    ragged = sequences.Weights(np.ones((3, 5)), np.ones(5), np.ones((5, 5)))
    padded = sequences.padded(ragged, width)
    assert padded.w_rec.shape == (5, width)
    np.testing.assert_array_equal(padded.w_rec[:, :5], 1 - np.eye(5))
    np.testing.assert_array_equal(ragged.w_rec, 1)
    assert not padded.w_in[:, 5:].any()


def test_without_a_writable_cache_kernels_compile_uncached(monkeypatch, capsys):
    def njit(function, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return function

    monkeypatch.setattr(compiling, "njit", njit)
    monkeypatch.setattr(compiling, "_said", set())
    assert compiling.kernel(abs) is abs
    assert compiling.kernel(parallel=True)(abs) is abs
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "NUMBA_CACHE_DIR" in lines[0]


@pytest.mark.parametrize(("argument", "how_long"), [("", "a few seconds each"), (", seconds=40", "about 40 s")])
def test_first_compilation_prints_one_line_with_the_time_that_it_takes(tmp_path, argument, how_long):
    (tmp_path / "kernels.py").write_text(
        "from spikeloop.spiking.compiling import kernel\n"
        "def inner(x): return x + 1\n"
        "def outer(x): return called(x)\n"
        "inner.__module__ = outer.__module__ = 'spikeloop.test'\n"
        "called = kernel(inner)\n"
        f"found = kernel(outer{argument})\n"
    )
    code = "import kernels, numba; kernels.found(1); kernels.found(1.0); numba.njit(lambda x: x)(1)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    said = [line for line in run.stderr.splitlines() if "compiling" in line]
    assert said == [f"spikeloop: compiling kernels, {how_long}, once for this machine"]


def test_more_neurons_than_a_spike_list_can_name_are_refused():
    with pytest.raises(ValueError, match="must be of 1 to 65535 neurons, got 65536"):
        LsnnNeurons(*np.ones((5, 2**16)))
