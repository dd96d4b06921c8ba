"""Networks of any neurons in numba: against the definition, in any batch and split, from several threads, cached."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_neurons import neurons_of

from spikeloop.spiking import reference
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.engine import any_kernels, sequences
from spikeloop.spiking.network import Layer, Network, state_rows
from spikeloop.spiking.neurons import NEURONS
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.simulator import Simulator


def network_of(names, sizes, seed=0, encoder=None, dtype=np.float64, recurrent=True, head=None, **options):
    """Return a network whose layers have neurons of the given models."""
    rng, layers = np.random.default_rng(seed), []
    encoder = encoder or Encoder("direct", 3)
    readout_options = {key: options.pop(key) for key in ("tau_out", "count", "first_spike") if key in options}
    for name, (n_in, n) in zip(names, pairwise([encoder.n_channels, *sizes]), strict=True):
        w_rec = (rng.normal(0, 0.3, (n, n)) * (1 - np.eye(n))).astype(dtype) if recurrent else None
        w_in, bias = rng.normal(0, 1, (n, n_in)).astype(dtype), rng.normal(0.3, 0.3, n).astype(dtype)
        layers.append(Layer(w_in, bias, neurons_of(name, n, seed), w_rec))
    readout = Readout(rng.normal(size=(2, sizes[-1])).astype(dtype), np.zeros(2, dtype), **readout_options)
    return Network(encoder, tuple(layers), readout, head or ActionHead("discrete", (2,)), **options)


@st.composite
def networks(draw):
    """Networks with at least one layer that is not LSNN."""
    names = draw(st.lists(st.sampled_from(sorted(NEURONS)), min_size=1, max_size=3))
    if set(names) == {"lsnn"}:
        names.append("izhikevich")
    sizes = [draw(st.integers(1, 40)) for _ in names]
    held = Encoder("direct", 3)
    per_tick = Encoder("rate", 3, low=np.full(3, -1.0), high=np.ones(3), gain=0.7)
    return network_of(
        names,
        sizes,
        seed=draw(st.integers(0, 2**32 - 1)),
        encoder=draw(st.sampled_from([held, per_tick])),
        recurrent=draw(st.booleans()),
        tau_out=draw(st.sampled_from([0.0, 3.0])),
        count=draw(st.booleans()),
        n_ticks=draw(st.integers(1, 4)),
        latency=draw(st.integers(0, 1)),
        dt=draw(st.sampled_from([0.5, 1.0])),
    )


def run_reference(network, x, start):
    """Return outputs (L, B, n_outputs), and per layer what it sent (T, B, N), by the equations of reference.py."""
    states, outputs, sent = reference.rest(network, x.shape[2]), [], []
    y = np.zeros((x.shape[2], network.layers[-1].n_neurons))
    for of_step, cleared in zip(x, start, strict=True):
        states = [tuple(np.where(cleared[:, None], 0, row) for row in state) for state in states]
        values, states, y, z = reference.step(network, of_step, states, np.where(cleared[:, None], 0, y))
        outputs.append(values)
        sent.append(z)
    return np.array(outputs), [np.concatenate(of_layer) for of_layer in zip(*sent, strict=True)]


@given(network=networks(), seed=st.integers(0, 2**31))
@settings(max_examples=40)
def test_any_network_follows_the_equations(network, seed):
    rng = np.random.default_rng(seed)
    start = rng.random((4, 3)) < 0.3
    n_t = 1 if network.encoder.held else network.n_ticks
    x = rng.normal(0.3, 1.0, (4, n_t, 3, network.encoder.n_channels))
    timing = sequences.Timing(
        network.n_ticks, network.dt, network.latency, network.readout.tau_out, network.readout.count,
        network.encoder.held,
    )  # fmt: skip
    expected, sent = run_reference(network, np.broadcast_to(x, (4, network.n_ticks, *x.shape[2:])), start)
    prepared = any_kernels.prepare([layer.neurons for layer in network.layers], timing, 0, np.float64)
    none = [np.empty((0, layer.n_neurons)) for layer in network.layers]
    weights = [
        sequences.Weights(
            layer.w_in.T.copy(), layer.bias.copy(), empty if layer.w_rec is None else layer.w_rec.T.copy()
        )
        for layer, empty in zip(network.layers, none, strict=True)
    ]
    counts = [np.zeros(layer.n_neurons, np.int64) for layer in network.layers]
    rows = sum(len(layer.neurons.rows) for layer in network.layers) + 1
    state = np.zeros((rows, 3, max(layer.n_neurons for layer in network.layers)))
    by_env = np.ascontiguousarray(start.T).view(np.uint8)
    batch_first = sequences.batch_first(x.reshape(4 * n_t, 3, -1))
    y, _, tapes, finite = any_kernels.run(
        prepared, weights, batch_first, state, by_env, counts, any_kernels.KEEP_OUTPUTS
    )
    assert finite
    for tape, z in zip(tapes, sent, strict=True):
        np.testing.assert_allclose(tape.outputs[:, 1:].swapaxes(0, 1), z, atol=1e-6)
    np.testing.assert_allclose(reference.read(y.swapaxes(0, 1), network.readout), expected, atol=1e-6)


def observations(n_steps, n_envs, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(0.5, 1.0, (n_steps, n_envs, 3)).astype(np.float32), rng.random((n_steps, n_envs)) < 0.15


MIXED = ["izhikevich", "lsnn", "fitzhugh_nagumo"]


@pytest.mark.parametrize("encoder", ["direct", "rate", "delta"])
@pytest.mark.parametrize("names", [[name] for name in sorted(set(NEURONS) - {"lsnn"})] + [MIXED], ids="-".join)
def test_every_batch_and_split_has_the_same_bits(names, encoder):
    bounds = dict(low=np.full(3, -1.0), high=np.ones(3)) if encoder == "rate" else {}
    made = Encoder(encoder, 3, **bounds)
    sizes, dtype = [20, 33, 12][: len(names)], np.float32
    simulator = Simulator(network_of(names, sizes, encoder=made, dtype=dtype, n_ticks=3, tau_out=2.0, latency=1))
    obs, start = observations(12, 5)
    state = first = simulator.initial_state(5)
    outputs, end = simulator.run(obs, first, start)
    counts = [count.copy() for count in simulator.spike_counts]
    simulator.reset_counts()
    for step in range(len(obs)):
        action, state = simulator.predict(obs[step], state, start[step])
        np.testing.assert_array_equal(action, outputs[step].argmax(1))
    np.testing.assert_array_equal(state, end)
    for once, stepped in zip(counts, simulator.spike_counts, strict=True):
        np.testing.assert_array_equal(once, stepped)
    parts = [simulator.run(obs[:, part], first[:, part], start[:, part]) for part in (slice(0, 2), slice(2, 5))]
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts], axis=1), outputs)
    np.testing.assert_array_equal(np.concatenate([p[1] for p in parts], axis=1), end)


def test_a_recording_shows_spikes_crossings_and_membranes():
    simulator = Simulator(network_of(MIXED, [20, 33, 12], dtype=np.float32, n_ticks=3))
    obs, start = observations(30, 4)
    outputs, state, monitor = simulator.record(obs, None, start, membranes=True)
    np.testing.assert_array_equal(outputs, simulator.run(obs, None, start)[0])
    assert simulator.n_counted == 2 * monitor.n_counted == 2 * 30 * 4 * 3
    for counts, recorded in zip(simulator.spike_counts, monitor.spike_counts, strict=True):
        np.testing.assert_array_equal(counts, 2 * recorded)
        assert recorded.sum() > 0
    rows = {"0.v": 20, "1.v": 33, "2.v": 12}
    for (name, n), v in zip(rows.items(), monitor.v, strict=True):
        np.testing.assert_array_equal(v[-1], state[state_rows(simulator.network).index(name), :, :n])


def test_the_first_output_to_spike_decides_with_any_neurons():
    simulator = Simulator(network_of(["izhikevich"], [20], dtype=np.float32, n_ticks=20, first_spike=True))
    obs, start = observations(6, 3)
    outputs, _ = simulator.run(obs, None, start)
    assert outputs.shape == (6, 3, 2) and np.abs(outputs).max() > 1


def test_threads_share_a_simulator():
    simulator = Simulator(network_of(MIXED, [20, 33, 12], dtype=np.float32, n_ticks=3))
    obs, start = observations(40, 3)
    expected = simulator.run(obs, None, start)
    one = [count.copy() for count in simulator.spike_counts]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: simulator.run(obs, None, start), range(20)):
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])
    for once, counted in zip(one, simulator.spike_counts, strict=True):
        np.testing.assert_array_equal(counted, 21 * once)


def test_errors_are_those_of_other_networks():
    simulator = Simulator(network_of(["izhikevich"], [5], dtype=np.float32))
    with pytest.raises(ValueError, match="obs must be finite"):
        simulator.run(np.full((1, 1, 3), np.nan))
    with pytest.raises(ValueError, match="observation must have shape"):
        simulator.predict(np.zeros(4))
    with pytest.raises(ValueError, match="state must be finite"):
        simulator.predict(np.zeros(3), np.full(simulator.initial_state().shape, np.inf, np.float32))
    with pytest.warns(UserWarning, match="neither state nor episode_start"):
        simulator.predict(np.zeros(3))
        simulator.predict(np.zeros(3))


def test_lsnn_neurons_run_by_their_equations_as_by_their_own_kernels():
    rng = np.random.default_rng(0)
    network = network_of(["lsnn"], [40], n_ticks=3, tau_out=2.0)  # float64: sums of another order change no spike
    neurons = network.layers[0].neurons
    assert isinstance(neurons, LsnnNeurons)
    timing = sequences.Timing(3, 1.0, 0, 2.0, False, True)
    prepared = any_kernels.prepare([neurons], timing, 0, np.float64)
    simulator = Simulator(network)
    x = np.ascontiguousarray(rng.normal(size=(2, 9, 3)))
    start, counts = np.zeros((2, 9), np.uint8), [np.zeros(40, np.int64)]
    _, state, _, _ = any_kernels.run(prepared, simulator._weights, x, simulator.initial_state(2), start, counts)
    _, expected = simulator.run(x.swapaxes(0, 1).astype(np.float32))
    np.testing.assert_array_equal(counts[0] > 0, simulator.spike_counts[0] > 0)
    np.testing.assert_allclose(state, expected, atol=1e-4)


MODEL = """
from dataclasses import dataclass
from typing import NamedTuple
import numpy as np

FACTOR = {factor}

class Constants(NamedTuple):
    leak: np.ndarray

@dataclass(frozen=True, eq=False)
class Mine:
    rows = ("v", "z")
    graded = True
    leak: np.ndarray

    n_neurons = property(lambda self: len(self.leak))

    def constants(self, dt, dtype):
        return Constants(self.leak.astype(dtype))

    @staticmethod
    def tick(i, z, state, c, spike):
        v = c.leak * state[0] + FACTOR * i
        return v, (v,)

    def largest_state(self, current, n_ticks):
        return n_ticks * current
"""
PROGRAM = """
import numpy as np
from spikeloop.spiking import Encoder, Layer, Network, Readout, Simulator
from spikeloop.spiking.neurons import NEURONS
from my_neurons import Mine
NEURONS["mine"] = Mine
layer = Layer(np.ones((1, 1)), np.zeros(1), Mine(np.zeros(1)))
simulator = Simulator(Network(Encoder("direct", 1), (layer,), Readout(np.ones((1, 1)), np.zeros(1))))
outputs, _ = simulator.run(np.ones((1, 1, 1)))
kernel = simulator._prepared.layers[0].kernel
print(outputs.item(), sum(kernel.stats.cache_hits.values()))
"""


def test_kernels_come_from_the_cache_and_notice_a_change_of_the_models_file(tmp_path):
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": paths}

    def run(factor):
        (tmp_path / "my_neurons.py").write_text(MODEL.format(factor=factor))
        ran = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return tuple(map(float, ran.stdout.split()))

    assert run(2) == (2.0, 0)
    assert run(2) == (2.0, 1)
    assert run(3) == (3.0, 0)  # a constant beside the class has changed, not its tick
    assert run(2) == (2.0, 1)


def test_what_tick_may_not_do_is_said_in_one_line():
    class Wrong(LsnnNeurons):
        @staticmethod
        def tick(i, z, state, c, spike):
            return np.tanh(i), state

    neurons = neurons_of("lsnn", 3)
    wrong = Wrong(neurons.tau_m, neurons.v_th, neurons.tau_a, neurons.beta, neurons.refractory)
    timing = sequences.Timing(1, 1.0, 0, 0.0, False, True)
    with pytest.raises(TypeError, match=r"Wrong.tick must use only .*, got tanh\(Vector\(float64\)\)") as caught:
        any_kernels.prepare([wrong], timing, 0, np.float64)
    assert "\n" not in str(caught.value)
