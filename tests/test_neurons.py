"""Every neuron model of NEURONS: one set of equations on numpy arrays, torch tensors and in numba."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.spiking import reference
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.engine import any_kernels, sequences
from spikeloop.spiking.gradients.equations import Spike
from spikeloop.spiking.gradients.surrogate import Surrogate
from spikeloop.spiking.initial import per_neuron
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons import NEURONS
from spikeloop.spiking.readout import Readout

# Between what values the fields of a model are drawn; those of a model that is not here have their defaults.
DRAWN = {
    "lsnn": dict(tau_m=(0.0, 20.0), v_th=(0.5, 2.0), tau_a=(1.0, 100.0), beta=(0.0, 1.0), refractory=(0, 3)),
    "izhikevich": dict(a=(0.01, 0.2), b=(-0.1, 0.26), c=(-80.0, -40.0), d=(-10.0, 10.0), gain=(1.0, 20.0)),
    "fitzhugh_nagumo": dict(epsilon=(0.01, 0.2), gain=(0.5, 2.0), background=(-1.0, 2.0), width=(0.1, 0.5)),
    "integrate_and_fire": dict(v_th=(0.5, 2.0), v_start=(-1.0, 0.4)),
}
CHOICES = {"lsnn": [{}, {"reset": "zero"}, {"reset": "zero", "hold": True}, {"adaptation": "ahp"}]}
SURROGATE = Surrogate()


def neurons_of(name, n, seed=0):
    """Return n neurons of a model with drawn parameters."""
    rng, kind = np.random.default_rng(seed), NEURONS[name]
    choices = CHOICES.get(name, [{}])
    values = dict(choices[seed % len(choices)])
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for field in per_neuron(kind):
        low, high = DRAWN.get(name, {}).get(field, (defaults[field],) * 2)
        draw = rng.integers(low, high + 1, n) if isinstance(low, int) else rng.uniform(low, high, n)
        values[field] = draw
    return kind(**values)


def run(kind, constants, currents, spike=reference.heaviside, zeros=np.zeros_like):
    """Return each row after each tick, from rest."""
    z, state = zeros(currents[0]), tuple(zeros(currents[0]) for _ in kind.rows[1:])
    recorded = []
    for i in currents:
        z, state = kind.tick(i, z, state, constants, spike)
        recorded.append((z, *state))
    return recorded


every_model = pytest.mark.parametrize("name", NEURONS)


@every_model
def test_constants_are_arrays_of_their_dtype_or_whole_numbers(name):
    for dtype in (np.float32, np.float64):
        for constant in neurons_of(name, 5).constants(0.5, dtype):
            assert isinstance(constant, (bool, int)) or (constant.shape == (5,) and constant.dtype == dtype)


@every_model
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_zeros_is_rest_and_the_dtype_is_kept(name, dtype):
    kind, constants = NEURONS[name], neurons_of(name, 6).constants(1.0, dtype)
    for row in run(kind, constants, np.zeros((20, 2, 6), dtype))[-1]:
        np.testing.assert_array_equal(row, np.zeros((2, 6)))
        assert row.dtype == dtype
    driven = run(kind, constants, np.full((20, 2, 6), 2.0, dtype))
    assert {row.dtype for tick in driven for row in tick} == {np.dtype(dtype)}
    assert any((tick[0] > 0.5).any() for tick in driven)


@every_model
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.3, 3.0, 1e30]))
@settings(max_examples=30)
def test_the_state_stays_finite_and_within_its_bound(name, seed, scale):
    neurons, rng = neurons_of(name, 8, seed), np.random.default_rng(seed)
    currents = (rng.uniform(-scale, scale, (40, 1, 8)) * (rng.random((40, 1, 1)) < 0.7)).astype(np.float32)
    recorded = run(NEURONS[name], neurons.constants(1.0, np.float32), currents)
    largest = max(np.abs(row).max() for tick in recorded for row in tick)
    assert largest <= max(1.0, neurons.largest_state(scale, 40)) * 1.001
    if not neurons.graded:
        assert {0.0, 1.0} >= {float(z) for tick in recorded for z in tick[0].ravel()}


@every_model
@given(seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_numpy_and_torch_agree(name, seed):
    kind, constants = NEURONS[name], neurons_of(name, 8, seed).constants(0.5, np.float64)
    currents = np.random.default_rng(seed).normal(0.5, 2.0, (40, 3, 8))
    tensors = constants._make(torch.from_numpy(c) if isinstance(c, np.ndarray) else c for c in constants)
    recorded = run(kind, constants, currents)
    mirrored = run(kind, tensors, torch.from_numpy(currents), lambda u: (u > 0).to(u.dtype), torch.zeros_like)
    np.testing.assert_allclose(np.array(recorded), np.array([[r.numpy() for r in t] for t in mirrored]), rtol=1e-12)


@every_model
@given(seed=st.integers(0, 2**31), dtype=st.sampled_from([np.float32, np.float64]), n=st.integers(1, 40))
@settings(max_examples=20)
def test_numpy_and_numba_agree_to_the_bit(name, seed, dtype, n):
    kind, neurons = NEURONS[name], neurons_of(name, n, seed)
    currents = np.random.default_rng(seed).normal(0.5, 2.0, (30, 2, n)).astype(dtype)
    timing = sequences.Timing(30, 1.0, 0, 0.0, False, held=False)
    weights = sequences.Weights(np.eye(n, dtype=dtype), np.zeros(n, dtype), np.empty((0, n), dtype))
    state, start = np.zeros((len(kind.rows) + 1, 2, n), dtype), np.zeros((2, 1), np.uint8)
    x, counts = np.ascontiguousarray(currents.swapaxes(0, 1)), [np.zeros(n, np.int64)]
    prepared = any_kernels.prepare([neurons], timing, 0, dtype)
    _, new, tapes, finite = any_kernels.run(prepared, [weights], x, state, start, counts, any_kernels.KEEP_MEMBRANE)
    recorded = run(kind, neurons.constants(1.0, dtype), currents)
    z, *others = recorded[-1]
    at = kind.rows.index("z")
    np.testing.assert_array_equal(new[:-1], [*others[:at], z, *others[at:]])
    np.testing.assert_array_equal(tapes[0].outputs[:, 1:].swapaxes(0, 1), [tick[0] for tick in recorded])
    v = 1 + [row for row in kind.rows if row != "z"].index("v")
    np.testing.assert_array_equal(tapes[0].membrane.swapaxes(0, 1), [tick[v] for tick in recorded])
    above = np.array([np.zeros_like(z), *(tick[0] for tick in recorded)]) > 0.5
    spikes = above[1:] & ~above[:-1] if kind.graded else above[1:]
    np.testing.assert_array_equal(counts[0], spikes.sum((0, 1)))
    assert finite


@every_model
def test_gradients_are_finite_and_reach_the_currents(name):
    kind, constants = NEURONS[name], neurons_of(name, 8).constants(1.0, np.float64)
    constants = constants._make(torch.from_numpy(c) if isinstance(c, np.ndarray) else c for c in constants)
    currents = torch.randn(30, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    currents = (0.5 + 2 * currents).requires_grad_()
    recorded = run(kind, constants, currents, lambda u: Spike.apply(u, SURROGATE.derivative), torch.zeros_like)
    sum(z.mean() for z, *_ in recorded).backward()
    assert currents.grad.isfinite().all() and (currents.grad[0] != 0).any()


@every_model
def test_a_network_of_them_is_saved_and_loaded(name, tmp_path):
    layer = Layer(np.ones((5, 2)), np.zeros(5), neurons_of(name, 5))
    network = Network(Encoder("direct", 2), (layer,), Readout(np.ones((1, 5)), np.zeros(1)))
    network.save(tmp_path / "network.safetensors")
    loaded = Network.load(tmp_path / "network.safetensors").layers[0].neurons
    assert type(loaded) is NEURONS[name]
    for field in dataclasses.fields(loaded):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(layer.neurons, field.name))
