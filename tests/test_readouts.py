"""Readouts that look at their units on every tick: what they compute, and their gradients."""

import numpy as np
import pytest
import torch as th
from deployable import exact_network, observations
from readout_sums import BY_TICK, by_hand, enumerated

from spikeloop.spiking import LSNN, Network, Readout, Simulator
from spikeloop.spiking.encoders import ENCODERS, Encoder
from spikeloop.spiking.first_to_spike import (
    bias_of_silence,
    expected_ticks,
    first_to_spike,
    first_to_spike_gradient,
    spike_probability,
)
from spikeloop.spiking.gradients.equations import run_equations
from spikeloop.spiking.readout_kinds import READOUTS
from spikeloop.spiking.tick_readout import TickReadout, TickValues


@pytest.mark.parametrize(("n_ticks", "n"), [(1, 1), (3, 1), (1, 4), (4, 2), (3, 3), (2, 5)])
def test_first_to_spike_is_the_sum_over_all_patterns_of_spikes(n_ticks, n):
    p = np.random.default_rng(n).uniform(0, 1, (n_ticks, 3, n))
    np.testing.assert_allclose(first_to_spike(p), enumerated(p), atol=1e-12)
    ends = np.random.default_rng(0).integers(0, 2, p.shape).astype(float)  # certain spikes, certain silence
    np.testing.assert_allclose(first_to_spike(ends), enumerated(ends), atol=1e-12)


def test_the_values_of_bernoulli_units_are_these_logarithms():
    rng, readout = np.random.default_rng(1), Readout(np.ones((3, 2)), np.zeros(3), kind="bernoulli")
    v = rng.normal(0, 2, (3, 4, 3))
    values, _ = readout.decide(v)
    np.testing.assert_allclose(values, np.log(enumerated(spike_probability(v))), atol=1e-10)
    np.testing.assert_allclose(np.exp(values).sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("n_ticks", [1, 2, 7])
def test_a_slope_is_that_of_least_squares(n_ticks):
    drive = np.random.default_rng(n_ticks).normal(size=(n_ticks, 4, 3))
    readout, k = Readout(np.ones((3, 2)), np.zeros(3), kind="slope"), np.arange(1.0, n_ticks + 1)
    found, spikes = readout.decide(readout.membranes(drive))
    sums = np.cumsum(drive, axis=0).reshape(n_ticks, -1)
    np.testing.assert_allclose(found.ravel(), np.linalg.lstsq(k[:, None], sums, rcond=None)[0][0], atol=1e-12)
    assert readout.clears and not readout.spikes and not spikes.any()
    with pytest.raises(ValueError, match="which gradients train on every tick, got 'slope'"):
        TickReadout(3, 2, "slope", tau_out=0.0, n_ticks=4)


@pytest.mark.parametrize(("n_ticks", "n"), [(1, 1), (3, 1), (4, 2), (3, 3), (2, 5)])
def test_its_gradient_is_that_of_finite_differences(n_ticks, n):
    rng = np.random.default_rng(n)
    p, grad, h = rng.uniform(0.05, 0.95, (n_ticks, 2, n)), rng.normal(size=(2, n)), 1e-6
    found, expected = first_to_spike_gradient(p, grad), np.empty_like(p)
    for at in np.ndindex(p.shape):
        shift = np.zeros_like(p)
        shift[at] = h
        expected[at] = ((first_to_spike(p + shift) - first_to_spike(p - shift)) * grad).sum() / (2 * h)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_the_expected_number_of_ticks_is_that_of_draws():
    rng, p = np.random.default_rng(0), np.random.default_rng(1).uniform(0.05, 0.3, (6, 1, 2))
    fired = (rng.random((200_000, 6, 2)) < p[None, :, 0]).any(axis=2)
    drawn = np.where(fired.any(axis=1), fired.argmax(axis=1) + 1, 6)
    assert abs(expected_ticks(p)[0] - drawn.mean()) < 4 * drawn.std() / np.sqrt(len(drawn))
    silent = np.full((8, 1, 3), spike_probability(np.array(bias_of_silence(3, 8))))
    assert (1 - silent).prod() == pytest.approx(0.1)


@pytest.mark.parametrize("dt", [1.0, 0.5, 7.0])
@pytest.mark.parametrize("tau_out", [0.0, 0.3, 3.0, 15.0, 400.0])
def test_a_postsynaptic_potential_is_the_tempotrons(tau_out, dt):
    filtered, t = READOUTS["max"].filter(tau_out, 50, dt), dt * np.arange(1, 3000)
    found = filtered.response(len(t))
    assert found.max() == pytest.approx(1, abs=1e-9) and np.all(found >= 0)
    if tau_out:
        kernel = np.exp(-t / tau_out) - np.exp(-4 * t / tau_out)
        np.testing.assert_allclose(found, kernel / kernel.max(), atol=1e-9)
    else:
        assert not found[1:].any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", BY_TICK)
def test_values_and_gradients_are_autograds_of_the_definition(kind, seed):
    gen = th.Generator().manual_seed(seed)
    z = (th.rand(5, 7, 4, generator=gen) < 0.4).double().requires_grad_()
    w, b = (th.randn(*shape, generator=gen, dtype=th.float64).requires_grad_() for shape in ((3, 4), (3,)))
    filtered, dt = READOUTS[kind].filter(6.0, 7, 0.5), 0.5
    found = TickValues.apply(z, w, b, READOUTS[kind], filtered)
    expected = by_hand(kind, z, w, b, 6.0, dt)
    th.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    weights = th.randn(5, 3, generator=gen, dtype=th.float64)
    for one, other in zip(
        th.autograd.grad((found * weights).sum(), (z, w, b)),
        th.autograd.grad((expected * weights).sum(), (z, w, b)),
        strict=True,
    ):
        th.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_the_gradient_of_max_is_the_tempotron_rule():
    # Guetig & Sompolinsky 2006: dw_i = lambda sum over t_i < t_max of K(t_max - t_i), of the unit that was too low
    rng = np.random.default_rng(0)
    times, w = np.array([2, 9, 17, 30]), rng.normal(size=4)
    z = np.zeros((1, 50, 4))
    z[0, times, np.arange(4)] = 1
    units = TickReadout(4, 1, "max", tau_out=15.0, n_ticks=50).double()
    with th.no_grad():
        units.weight.copy_(th.from_numpy(w[None]))
        units.bias.zero_()
    units(th.from_numpy(z)).sum().backward()
    kernel = lambda t: np.where(t > 0, np.exp(-t / 15.0) - np.exp(-t / 3.75), 0.0)  # noqa: E731
    peak = kernel(np.arange(1, 500)).max()
    v = (w * kernel(np.arange(1, 51)[:, None] - times) / peak).sum(axis=1)  # a tick's v is that at its end
    t_max = v.argmax() + 1
    np.testing.assert_allclose(units.weight.grad[0].numpy(), kernel(t_max - times) / peak, atol=1e-10)
    assert (units.weight.grad == 0).any()  # a spike after the peak has no part in it


@pytest.mark.parametrize("latency", [0, 1])
@pytest.mark.parametrize("kind", BY_TICK)
def test_the_simulator_is_the_brute_force_over_ticks(kind, latency):
    network = exact_network(sizes=(10,), kind=kind, tau_out=4.0, latency=latency, n_ticks=6)
    obs, starts = observations(n_steps=6)
    outputs, _, monitor = Simulator(network).record(obs, None, starts)
    z = np.zeros((36, 3, 10))
    z[np.rint(monitor.layers[0].t).astype(int), monitor.layers[0].env, monitor.layers[0].i] = 1
    arrived = z.copy()
    if latency:
        arrived[1:] = z[:-1]
        arrived[0] = 0
        arrived[::6][starts] = 0
    for step in range(6):
        rows = th.from_numpy(arrived[6 * step : 6 * step + 6].swapaxes(0, 1))
        w, b = (th.from_numpy(a.astype(np.float64)) for a in (network.readout.w_out, network.readout.b_out))
        np.testing.assert_allclose(outputs[step], by_hand(kind, rows, w, b, 4.0, 1.0).numpy(), atol=1e-5)


@pytest.mark.parametrize("encoder", ["direct", "population", "latency", "rate"])
@pytest.mark.parametrize("latency", [0, 1])
def test_the_torch_module_hands_on_the_spikes_of_every_tick(encoder, latency):
    low, high = np.full(3, -2.0, np.float32), np.full(3, 2.0, np.float32)
    source = ENCODERS[encoder].over(low, high)
    gen = th.Generator().manual_seed(0)
    lsnn = LSNN(source, [9, 6], n_ticks=4, latency=latency, readout="max", v_th=0.3, generator=gen)
    obs, starts = observations(n_steps=5)
    state = lsnn.initial_state(3, np.random.default_rng(0))
    z, end = lsnn(*map(th.from_numpy, (obs, state, starts.astype("f4"))))
    assert z.shape == (5, 3, 4, 6) and lsnn.n_counted == 5 * 3 * 4
    eye, timing = np.eye(6, dtype="f4"), {"n_ticks": 4, "latency": latency}
    network = Network(source, lsnn.network_layers(), Readout(eye, eye[0] * 0, kind="max"), **timing)
    _, _, monitor = Simulator(network).record(obs, state, starts)
    np.testing.assert_array_equal(lsnn.spike_counts[1], monitor.spike_counts[1])
    steps = state
    for step in range(5):
        of_step, steps = lsnn.step(obs[step], steps, starts[step].astype("f4"))
        np.testing.assert_array_equal(of_step, z[step].detach().numpy())
    np.testing.assert_array_equal(steps, end.numpy())
    again = LSNN.from_network(network)(*map(th.from_numpy, (obs, state, starts.astype("f4"))))[0]
    np.testing.assert_array_equal(again.detach(), z.detach())


def test_gradients_through_the_engine_are_those_of_the_equations():
    gen = th.Generator().manual_seed(0)
    lsnn = LSNN(Encoder("direct", 3), [9, 6], n_ticks=4, latency=1, readout="max", v_th=0.3, generator=gen).double()
    obs, starts = observations(n_steps=5)
    given = th.from_numpy(obs).double(), th.from_numpy(lsnn.initial_state(3)), th.from_numpy(starts).double()
    weights = th.randn(5, 3, 4, 6, generator=gen, dtype=th.float64)
    found = []
    for way in (lsnn.gradient.run, lambda *a: run_equations(*a, lsnn.gradient.spike)):
        lsnn.zero_grad()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(lsnn.gradient), "run", lambda self, *a, way=way: way(*a))
            (lsnn(*given)[0] * weights).sum().backward()
        found.append([p.grad.clone() for p in lsnn.parameters()])
    assert any(grad.abs().max() > 0.01 for grad in found[0])
    for one, other in zip(*found, strict=True):
        th.testing.assert_close(one, other, atol=1e-10, rtol=0)
