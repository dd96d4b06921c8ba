import dataclasses
import warnings

import numpy as np
import pytest

from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.metrics import (
    accumulates,
    activation_sparsity,
    connection_sparsity,
    footprint,
    summary,
    synaptic_operations,
)
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.readout import Dense, Readout

N_IN, N, N_OUT = 3, 4, 2


def neurons(n=N):
    return LsnnNeurons(np.full(n, 4.0), np.ones(n), np.full(n, 100.0), np.zeros(n), np.zeros(n))


def sparse(rng, *shape):
    return (rng.normal(size=shape) * (rng.random(shape) < 0.6)).astype(np.float32)


@pytest.fixture
def network():
    rng = np.random.default_rng(0)
    w_rec = sparse(rng, N, N)
    np.fill_diagonal(w_rec, 0.0)
    layers = (
        Layer(sparse(rng, N, N_IN), np.zeros(N, np.float32), neurons(), w_rec),
        Layer(sparse(rng, N, N), np.zeros(N, np.float32), neurons()),
    )
    readout = Readout(sparse(rng, N_OUT, N), np.zeros(N_OUT, np.float32))
    return Network(Encoder("direct", N_IN), layers, readout, n_ticks=5)


def record(network, n_steps=20, n_envs=3, seed=0):
    rng = np.random.default_rng(seed)
    ticks = n_steps * network.n_ticks
    return [(rng.random((ticks, n_envs, layer.n_neurons)) < 0.2).astype(np.float32) for layer in network.layers]


def counted(values, weights):
    """NeuroBench's own way: both made binary, multiplied, summed."""
    return float(((values != 0).astype(float) @ (weights != 0).T.astype(float)).sum())


@pytest.mark.parametrize("kind", ["currents", "binary currents", "spikes"])
def test_operations_equal_a_count_pair_by_pair(network, kind):
    n_steps, n_envs, k = 20, 3, network.n_ticks
    spikes = record(network, n_steps, n_envs)
    rng = np.random.default_rng(1)
    shape = (n_steps, k, n_envs, N_IN) if kind == "spikes" else (n_steps, n_envs, N_IN)
    x = (rng.random(shape) < 0.5) * (rng.normal(size=shape) if kind == "currents" else 1.0)
    first, second = network.layers
    operations = synaptic_operations(
        network.layers,
        [z.sum(axis=(0, 1)) for z in spikes],
        spikes[0].shape[0] * n_envs,
        n_ticks=k,
        x=x,
        w_out=network.readout.w_out,
    )
    samples = n_steps * n_envs
    pairs = [(spikes[0], first.w_rec), (spikes[0], second.w_in), (spikes[1], network.readout.w_out)]
    of_input, of_spikes = counted(x, first.w_in) / samples, sum(counted(z, w) for z, w in pairs) / samples
    macs = of_input if kind == "currents" else 0.0
    assert operations.effective_macs == pytest.approx(macs)
    assert operations.effective_acs == pytest.approx(of_input - macs + of_spikes)
    per_layer = [sum(counted(*pair) for pair in pairs[:2]) / samples, counted(*pairs[2]) / samples]
    counts, w_out = [z.sum(axis=(0, 1)) for z in spikes], network.readout.w_out
    assert accumulates(network.layers, counts, samples * k, n_ticks=k, w_out=w_out) == pytest.approx(per_layer)
    per_tick = N * N + N * N + N_OUT * N
    assert operations.dense == k * per_tick + (k if kind == "spikes" else 1) * N * N_IN


def test_the_example_of_neurobench():
    # docs/metrics/workload_metrics/synaptic_operations.rst of neurobench: 4 effective, 9 dense.
    w = np.array([[1.3, 0, -3.2], [0, 1.2, -5.1], [-1.1, 2.7, 0]])
    layer = Layer(w, np.zeros(3), neurons(3))
    silent = [np.zeros(3, dtype=np.int64)]
    operations = synaptic_operations([layer], silent, 1, x=np.array([[[0, 1.3, -1]]]))
    assert operations == (4.0, 0.0, 9.0)
    assert synaptic_operations([layer], silent, 1, x=np.array([[[0, 1.0, -1]]])) == (0.0, 4.0, 9.0)


def test_an_unknown_input_counts_as_currents_that_are_never_zero(network):
    first = network.layers[0]
    silent = [np.zeros(N, dtype=np.int64)] * 2
    operations = synaptic_operations(network.layers, silent, 10, n_ticks=5)
    assert operations.effective_macs == np.count_nonzero(first.w_in)
    assert operations.effective_acs == 0.0


def test_activation_sparsity_is_the_share_of_silent_neuron_ticks(network):
    spikes = record(network)
    counts, n_counted = [z.sum(axis=(0, 1)) for z in spikes], spikes[0].shape[0] * spikes[0].shape[1]
    assert activation_sparsity(counts, n_counted) == pytest.approx(np.mean(np.concatenate(spikes, axis=2) == 0))
    assert activation_sparsity([np.zeros(N)], 7) == 1.0
    assert activation_sparsity([np.full(N, 7)], 7) == 0.0


def test_connection_sparsity_counts_every_weight(network):
    first, second = network.layers
    weights = np.concatenate([w.ravel() for w in (first.w_in, first.w_rec, second.w_in, network.readout.w_out)])
    assert connection_sparsity(network) == pytest.approx(np.mean(weights == 0))


def test_footprint_is_arrays_and_one_state(network):
    weights = N * N_IN + N * N + N * N + N_OUT * N
    biases = 2 * N + N_OUT
    rows, width = network.state_shape
    doubles, refractory = 2 * 4 * N, 2 * N  # the neuron constants of this network are float64, refractory ticks int32
    assert footprint(network) == 4 * (weights + biases + refractory + rows * width) + 8 * doubles


def test_summary_names_every_metric(network):
    counts = [z.sum(axis=(0, 1)) for z in record(network)]
    metrics = summary(network, counts, 300)
    operations = synaptic_operations(network.layers, counts, 300, n_ticks=5, w_out=network.readout.w_out)
    assert metrics["effective_acs"] == operations.effective_acs
    assert metrics["activation_sparsity"] == activation_sparsity(counts, 300)
    assert list(metrics) == [
        "footprint",
        "connection_sparsity",
        "activation_sparsity",
        "effective_macs",
        "effective_acs",
        "dense",
    ]


def test_dense_layers_after_the_spikes_run_once_per_env_step(network):
    counts = [z.sum(axis=(0, 1)) for z in record(network)]
    plain = summary(network, counts, 300)
    met = np.ones_like(network.readout.w_out)
    dense = (Dense(met, np.zeros(N_OUT, met.dtype)),)
    w_out = np.ones((3, N_OUT), met.dtype)
    readout = dataclasses.replace(network.readout, w_out=w_out, b_out=np.zeros(3, met.dtype), dense=dense)
    deep = summary(dataclasses.replace(network, readout=readout, head=None), counts, 300)
    for name in ("effective_macs", "dense"):
        assert deep[name] == plain[name] + w_out.size
    all_met = synaptic_operations(network.layers, counts, 300, n_ticks=5, w_out=met)
    assert deep["effective_acs"] == all_met.effective_acs
    assert deep["connection_sparsity"] < plain["connection_sparsity"]


@pytest.mark.parametrize("binary", [False, True])
def test_agrees_with_neurobench(network, binary):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        harness = pytest.importorskip("neurobench.metrics.utils.layers")
        static = pytest.importorskip("neurobench.metrics.static")
    import torch

    def linear(w):
        module = torch.nn.Linear(w.shape[1], w.shape[0])
        module.weight.data = torch.tensor(w)
        return module

    network = Network(network.encoder, network.layers, network.readout)  # one tick
    rng = np.random.default_rng(2)
    x = ((rng.random((40, 1, N_IN)) < 0.5) * (1.0 if binary else rng.normal(size=(40, 1, N_IN)))).astype(np.float32)
    spikes = record(network, 40, 1)
    first, second = network.layers
    found = {"effective_macs": 0.0, "effective_acs": 0.0, "dense": 0.0}
    pairs = [(x, first.w_in), (spikes[0], first.w_rec), (spikes[0], second.w_in), (spikes[1], network.readout.w_out)]
    for values, w in pairs:
        values = torch.tensor(values[:, 0])
        effective, spiking = harness.single_layer_MACs(values, linear(w))
        found["effective_acs" if spiking else "effective_macs"] += effective / 40
        found["dense"] += harness.single_layer_MACs(values, linear(w), total=True)[0] / 40
    ours = summary(network, [z.sum(axis=(0, 1)) for z in spikes], 40, x)
    assert {name: ours[name] for name in found} == pytest.approx(found)

    class Model:
        def __net__(self):
            return torch.nn.Sequential(*[linear(w) for _, w in pairs])

    assert static.ConnectionSparsity()(Model()) == pytest.approx(connection_sparsity(network), abs=5e-5)
