import math
from collections import namedtuple

import numpy as np
import pytest

from spikeloop.spiking import reference
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.gradients.surrogate import SHAPES, Surrogate
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.lsnn import LsnnConstants, LsnnNeurons
from spikeloop.spiking.readout import Readout

LayerState = namedtuple("LayerState", LsnnNeurons.rows)


def make_layer(rng, n_in, n, dtype, recurrent, neurons):
    parameters = LsnnNeurons(
        tau_m=np.linspace(0, 8, n),
        v_th=np.linspace(0.8, 1.2, n),
        tau_a=np.linspace(20, 100, n),
        beta=np.where(np.arange(n) < n // 2, 0.0, 0.3),
        refractory=np.arange(n) % 3,
        **neurons,
    )
    w_rec = rng.normal(0, 0.4, (n, n)).astype(dtype)
    np.fill_diagonal(w_rec, 0.0)
    w_in, bias = rng.normal(0, 0.7, (n, n_in)).astype(dtype), rng.normal(0.1, 0.1, n).astype(dtype)
    return Layer(w_in, bias, parameters, w_rec if recurrent else None)


def make_two_layers(dtype=np.float64, neurons=None, readout=None, **changes):
    """Return a network of 2 inputs, 5 recurrent and 3 feed-forward neurons and 4 outputs."""
    rng = np.random.default_rng(0)
    layers = make_layer(rng, 2, 5, dtype, True, neurons or {}), make_layer(rng, 5, 3, dtype, False, neurons or {})
    w_out, b_out = rng.normal(size=(4, 3)).astype(dtype), rng.normal(size=4).astype(dtype)
    return Network(Encoder("direct", 2), layers, Readout(w_out, b_out, **(readout or {})), **changes)


def scalar_step(network, x, states, y):
    """Recompute one env step of one environment with floats in loops, from the docstrings alone."""
    spikes_per_tick = []
    for k in range(network.n_ticks):
        previous = [list(state["z"]) for state in states]
        sent = [float(value) for value in x[k]]
        spikes_per_tick.append([])
        for index, layer in enumerate(network.layers):
            p, state = layer.neurons, states[index]
            new = []
            for j in range(layer.n_neurons):
                i = sum(w * value for w, value in zip(layer.w_in[j], sent, strict=True)) + layer.bias[j]
                if layer.w_rec is not None:
                    i += sum(w * z for w, z in zip(layer.w_rec[j], previous[index], strict=True))
                alpha = math.exp(-network.dt / p.tau_m[j]) if p.tau_m[j] else 0.0
                rho = math.exp(-network.dt / p.tau_a[j]) if p.tau_a[j] else 0.0
                z = previous[index][j]
                a = rho * state["a"][j] + z
                if p.reset == "zero":
                    v = (0.0 if z else alpha * state["v"][j]) + i
                else:
                    v = alpha * state["v"][j] + i - p.v_th[j] * z
                threshold = p.v_th[j]
                if p.adaptation == "ahp":
                    v -= p.beta[j] * a
                else:
                    threshold += p.beta[j] * a
                silent = state["refractory"][j]
                fires = v > threshold and silent == 0
                v = 0.0 if p.hold and silent else v
                new.append((v, a, float(fires), p.refractory[j] if fires else max(silent - 1, 0)))
            for name, values in zip(("v", "a", "z", "refractory"), zip(*new, strict=True), strict=True):
                state[name] = list(values)
            spikes_per_tick[-1].append(state["z"])
            sent = previous[index] if network.latency else state["z"]
        if network.readout.count:
            y = [(0.0 if k == 0 else old) + z / network.n_ticks for old, z in zip(y, sent, strict=True)]
        else:
            kappa = math.exp(-network.dt / network.readout.tau_out) if network.readout.tau_out else 0.0
            y = [kappa * old + (1 - kappa) * z for old, z in zip(y, sent, strict=True)]
    outputs = [
        sum(w * value for w, value in zip(row, y, strict=True)) + b
        for row, b in zip(network.readout.w_out, network.readout.b_out, strict=True)
    ]
    return outputs, y, spikes_per_tick


@pytest.mark.parametrize("readout", [{}, {"tau_out": 6.0}, {"count": True}], ids=["last", "leaky", "count"])
@pytest.mark.parametrize("latency", [0, 1])
@pytest.mark.parametrize("adaptation", ["threshold", "ahp"])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_reference_follows_its_equations(reset, adaptation, latency, readout):
    network = make_two_layers(
        dtype=np.float64,
        neurons={"reset": reset, "adaptation": adaptation},
        readout=readout,
        n_ticks=4,
        latency=latency,
        dt=0.5,
    )
    n_envs, rng = 2, np.random.default_rng(3)
    sizes = [layer.n_neurons for layer in network.layers]
    states = [LayerState(*(np.zeros((n_envs, n)) for _ in LayerState._fields)) for n in sizes]
    y = np.zeros((n_envs, sizes[-1]))
    scalar = [
        ([{name: [0.0] * n for name in LayerState._fields} for n in sizes], [0.0] * sizes[-1]) for _ in range(n_envs)
    ]
    total = np.zeros(len(sizes))
    for _ in range(30):
        x = rng.normal(1.0, 3.0, (network.n_ticks, n_envs, 2))
        outputs, states, y, spikes = reference.step(network, x, states, y)
        for env in range(n_envs):
            layer_states, trace = scalar[env]
            expected, trace, fired = scalar_step(network, x[:, env], layer_states, trace)
            scalar[env] = layer_states, trace
            np.testing.assert_allclose(outputs[env], expected, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(y[env], trace, rtol=1e-9, atol=1e-12)
            for index, state in enumerate(states):
                np.testing.assert_array_equal(spikes[index][:, env], [tick[index] for tick in fired])
                for name, value in zip(LayerState._fields, state, strict=True):
                    np.testing.assert_allclose(value[env], layer_states[index][name], rtol=1e-9, atol=1e-12)
        total += [z.sum() for z in spikes]
    assert np.all(total > 20), "too few spikes to tell anything"


def lone_neuron(**changes):
    values = {"tau_m": [0.0], "v_th": [1.0], "tau_a": [0.0], "beta": [0.0], "refractory": [0]}
    layer = Layer(np.ones((1, 1)), np.zeros(1), LsnnNeurons(**{**values, **changes}))
    return Network(Encoder("direct", 1), (layer,), Readout(np.ones((1, 1)), np.zeros(1)), n_ticks=8)


def run(network, x):
    states = [LayerState(*(np.zeros((1, 1)) for _ in LayerState._fields))]
    _, states, _, spikes = reference.step(network, np.reshape(x, (-1, 1, 1)).astype(float), states, np.zeros((1, 1)))
    return "".join(str(int(z)) for z in spikes[0].ravel()), LayerState(*states[0])


def test_a_refractory_neuron_is_silent_for_so_many_ticks():
    assert run(lone_neuron(), np.full(8, 3.0))[0] == "11111111"
    assert run(lone_neuron(refractory=[1], reset="zero"), np.full(8, 3.0))[0] == "10101010"
    assert run(lone_neuron(refractory=[3], reset="zero"), np.full(8, 3.0))[0] == "10001000"


def test_a_refractory_neuron_integrates_or_is_held_at_zero():
    lasting = {"refractory": [2], "reset": "zero", "tau_m": [1e9]}
    assert run(lone_neuron(**lasting), np.full(8, 0.4))[0] == "00100100"
    assert run(lone_neuron(**lasting, hold=True), np.full(8, 0.4))[0] == "00100001"


def test_a_membrane_at_the_threshold_does_not_spike():
    assert run(lone_neuron(), np.full(8, 1.0))[0] == "00000000"


def test_rest_stays_at_rest():
    spikes, state = run(lone_neuron(tau_m=[10.0], tau_a=[100.0], beta=[0.5]), np.zeros(8))
    assert spikes == "00000000"
    assert all(float(value) == 0.0 for value in (state.v[0, 0], state.a[0, 0], state.refractory[0, 0]))


def test_adaptation_spreads_the_spikes():
    steady = run(lone_neuron(), np.full(8, 1.5))[0]
    adapting = run(lone_neuron(tau_a=[50.0], beta=[0.4], reset="zero"), np.full(8, 1.5))[0]
    assert adapting.count("1") < steady.count("1")
    # 0.4 of threshold per spike, drive 0.5 above it: two spikes, then silence until a has decayed below 1.25.
    assert adapting == "11000000"


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("adaptation", ["threshold", "ahp"])
def test_reference_runs_the_same_lines_on_torch_tensors(reset, adaptation):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    network = make_two_layers(dtype=np.float64, neurons={"reset": reset, "adaptation": adaptation})
    layer, constants = network.layers[0], reference.constants(network, 0)
    tensors = LsnnConstants(*(torch.tensor(c) if isinstance(c, np.ndarray) else c for c in constants))
    state = LayerState(*(np.zeros((3, 5)) for _ in LayerState._fields))
    mirrored = LayerState(*(torch.tensor(part) for part in state))
    for _ in range(20):
        current = rng.normal(0.5, 1.0, (3, 5))
        state = reference.tick(LsnnNeurons, current, state, layer.w_rec, constants, reference.heaviside)
        mirrored = reference.tick(
            LsnnNeurons,
            torch.tensor(current),
            mirrored,
            torch.tensor(layer.w_rec),
            tensors,
            lambda u: (u > 0).to(u.dtype),
        )
        for value, tensor in zip(state, mirrored, strict=True):
            np.testing.assert_allclose(value, tensor.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reference_keeps_the_dtype_of_the_weights(dtype):
    network = make_two_layers(dtype=dtype, readout={"tau_out": 5.0}, n_ticks=3)
    states = [LayerState(*(np.zeros((1, n), dtype) for _ in LayerState._fields)) for n in (5, 3)]
    x = np.ones((3, 1, 2), dtype)
    outputs, states, y, spikes = reference.step(network, x, states, np.zeros((1, 3), dtype))
    assert {value.dtype for value in (outputs, y, *spikes, *states[0], *states[1])} == {np.dtype(dtype)}


# Surrogate derivatives


SURROGATES = {
    "triangle": lambda x: max(0.0, 1.0 - abs(x)),
    "fast_sigmoid": lambda x: 1.0 / (1.0 + abs(x)) ** 2,
    "arctan": lambda x: 1.0 / (1.0 + (math.pi * x / 2.0) ** 2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_surrogate_is_its_formula_and_peaks_at_the_threshold(shape):
    surrogate = Surrogate(shape, damping=0.3, width=0.5)
    u = np.linspace(-2, 2, 41)
    expected = [0.3 * SURROGATES[shape](value / 0.5) for value in u]
    np.testing.assert_allclose(surrogate.derivative(u), expected, atol=1e-15)
    assert surrogate.derivative(np.zeros(1))[0] == 0.3 == np.max(surrogate.derivative(u))
    assert SHAPES[surrogate.code] == shape


@pytest.mark.parametrize(("field", "value"), [("shape", "sigmoid"), ("damping", 0.0), ("width", math.inf)])
def test_surrogate_refuses_by_name(field, value):
    with pytest.raises(ValueError, match=f"surrogate {field}"):
        Surrogate(**{field: value})
