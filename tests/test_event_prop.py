"""EventProp: events against the reference, gradients against differences and against closed forms of single spikes."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spikeloop.spiking import spike_time_kernels
from spikeloop.spiking.event_prop import EventPropLayer, backward, run_events, spike_trains
from spikeloop.spiking.event_prop_module import EventPropNeurons
from spikeloop.spiking.spike_time import KERNELS, SpikeTimeLayer
from spikeloop.spiking.spike_time_module import SpikeTimes

V_TH, WINDOW = 0.4, 5.0
KAPPA = {
    "alpha": lambda s: s * np.exp(-s),
    "exponential": lambda s: 1 - np.exp(-s),
    "double": lambda s: 2 * (np.exp(-s / 2) - np.exp(-s)),
}
CHARGE = {  # its integral
    "alpha": lambda s: 1 - (1 + s) * torch.exp(-s),
    "exponential": lambda s: s - 1 + torch.exp(-s),
    "double": lambda s: 2 * (1 - torch.exp(-s / 2)) ** 2,
}
TAU_M = {"alpha": 1.0, "exponential": np.inf, "double": 2.0}


def drawn(rng, kernel, n_neurons=4, n_inputs=5, **changed):
    w_in, w_pulse = rng.normal(0.4, 0.7, (n_neurons, n_inputs)), rng.normal(0.2, 0.5, (n_neurons, 2))
    w_rec = rng.normal(0.0, 0.5, (n_neurons, n_neurons))
    return EventPropLayer(w_in, w_pulse, w_rec, np.array([0.0, 0.7]), V_TH, kernel=kernel, **changed)


def ran(layer, weights, x):
    return run_events(layer, weights, x, WINDOW)


def slopes(events, n, kernel):
    """V' of the neurons that spike, at their spikes."""
    spikes = [
        events.current[row, e] - V_TH / TAU_M[kernel]
        for row, n_events in enumerate(events.n_events)
        for e in range(n_events)
        if events.source[row, e] >= n
    ]
    return np.array(spikes)


@given(st.integers(0, 10**9), st.sampled_from(KERNELS), st.integers(1, 6))
def test_gradients_are_those_of_central_differences(seed, kernel, max_spikes):
    rng = np.random.default_rng(seed)
    layer, x = drawn(rng, kernel, max_spikes=max_spikes), rng.uniform(0, 1.5, (2, 5))
    weights = layer.w_in.copy(), layer.w_pulse.copy(), layer.w_rec.copy()
    times, w, events = ran(layer, weights, x)
    rises = slopes(events, times.shape[1], kernel)
    assume(len(rises) and rises.min() > 0.05)  # no spike is about to come or go
    grad = rng.normal(size=(2, 4))
    grad_times, grad_w = backward(layer, times, w, WINDOW, events, grad, floor=0.0, silent=0.0)
    by_weights = np.split(grad_w.T, (5, 7), axis=1)
    for _ in range(3):
        way = [rng.normal(size=one.shape) for one in (x, *weights)]

        def loss(h, way=way):
            moved = [one + h * d for one, d in zip((x, *weights), way, strict=True)]
            _, _, there = ran(layer, tuple(moved[1:]), moved[0])
            same = [np.array_equal(there.source[b, :n], events.source[b, :n]) for b, n in enumerate(events.n_events)]
            assume(np.array_equal(there.n_events, events.n_events) and all(same))
            return (there.trace * grad).sum()

        h = 1e-5
        near, far = ((loss(k * h) - loss(-k * h)) / (2 * k * h) for k in (1, 2))
        parts = [(d * g).sum() for d, g in zip(way, (grad_times[:, :5], *by_weights), strict=True)]
        size = np.sqrt(sum((g * g).sum() for g in (grad_times[:, :5], *by_weights)))
        assert abs((4 * near - far) / 3 - sum(parts)) <= 1e-6 * size


# times that coincide, or lie at the window's end, are as likely as others
TIMES = st.one_of(st.sampled_from([0.0, 0.5, 1.5, WINDOW]), st.floats(0, 6, width=32))
WEIGHTS = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-3, 3, width=32))


@given(st.data())
def test_kernels_are_the_reference(data):
    kernel, n, size = data.draw(st.sampled_from(KERNELS)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    x = np.array([data.draw(st.lists(TIMES, min_size=n, max_size=n))])
    w = np.array(data.draw(st.lists(WEIGHTS, min_size=size * n, max_size=size * n))).reshape(size, n)
    w_rec = np.array(data.draw(st.lists(WEIGHTS, min_size=size * size, max_size=size * size))).reshape(size, size)
    layer = EventPropLayer(w, np.zeros((size, 0)), w_rec, np.zeros(0), V_TH, kernel=kernel, max_spikes=4)
    events = ran(layer, (layer.w_in, layer.w_pulse, layer.w_rec), x)[2]
    # where V only touches the threshold, rounding decides whether a neuron spikes
    assume(not np.any(np.abs(slopes(events, n, kernel)) < 1e-4))
    wanted = spike_trains(x[0], w, w_rec, V_TH, WINDOW, kernel, max_spikes=4)
    np.testing.assert_allclose(layer.spikes(x, WINDOW)[0], wanted, atol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_single_spikes_without_recurrence_have_the_closed_forms(kernel):
    rng, n_spikes = np.random.default_rng(0), 0
    for _ in range(50):
        x, w, grad = rng.uniform(0, 1.5, (3, 6)), rng.normal(0.3, 0.7, (4, 6)), rng.normal(size=(3, 4))
        layer = EventPropLayer(w, np.zeros((4, 0)), np.zeros((4, 4)), np.zeros(0), V_TH, kernel=kernel, max_spikes=1)
        t = np.empty((3, 4))
        spike_time_kernels.spike_times(KERNELS.index(kernel), x, w, V_TH, WINDOW, t)
        found = layer.spikes(x, WINDOW)[:, :, 0]
        np.testing.assert_allclose(np.where(np.isinf(found), WINDOW, found), t, atol=1e-13)
        by_t = -grad * KAPPA[kernel](WINDOW - t)
        by_time, by_w = np.zeros_like(x), np.zeros_like(w)
        spike_time_kernels.spike_times_backward(
            KERNELS.index(kernel), x, w, V_TH, WINDOW, t, np.where(t < WINDOW, by_t, 0.0), 0.1, 0.0, by_time, by_w
        )
        inputs, by_source, events = ran(layer, (w, layer.w_pulse, layer.w_rec), x)
        np.testing.assert_allclose(events.trace, CHARGE[kernel](torch.from_numpy(WINDOW - t)), atol=1e-12)
        ours = backward(layer, inputs, by_source, WINDOW, events, grad, 0.1, 0.0)
        np.testing.assert_allclose(ours[0], by_time, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(ours[1][:6].T, by_w, rtol=1e-8, atol=1e-12)
        n_spikes += np.count_nonzero(t < WINDOW)
    assert n_spikes > 200


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_feed_forward_net_of_two_layers_is_recurrent_weights_in_a_block(kernel):
    """Against the closed forms of two layers of single spikes, through autograd."""
    rng = np.random.default_rng(1)
    x, w1, w2 = rng.uniform(0, 1.5, (8, 5)), rng.normal(0.5, 0.5, (6, 5)), rng.normal(0.6, 0.4, (3, 6))
    none = np.zeros((6, 0)), np.zeros(0)
    layers = [SpikeTimeLayer(w, none[0][: len(w)], none[1], 0.0, 0.0, V_TH, 1.0, kernel) for w in (w1, w2)]
    first, second = (SpikeTimes(layer, 0.1, 0.0) for layer in layers)
    t = second(first(torch.from_numpy(x), WINDOW), WINDOW)
    assert (t < WINDOW).sum() > 10
    wanted = CHARGE[kernel](WINDOW - t)
    grad = torch.from_numpy(rng.normal(size=(8, 3)))
    (wanted * grad).sum().backward()
    w_in, w_rec = np.zeros((9, 5)), np.zeros((9, 9))
    w_in[:6], w_rec[6:, :6] = w1, w2
    layer = EventPropLayer(w_in, np.zeros((9, 0)), w_rec, np.zeros(0), V_TH, kernel=kernel, max_spikes=1)
    neurons = EventPropNeurons(layer, 0.1, 0.0)
    r = neurons(neurons.run(x, WINDOW), WINDOW)[:, 6:]
    torch.testing.assert_close(r, wanted.detach(), rtol=1e-10, atol=1e-13)
    (r * grad).sum().backward()
    torch.testing.assert_close(neurons.w_in.grad[:6], first.w_in.grad, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(neurons.w_rec.grad[6:, :6], second.w_in.grad, rtol=1e-8, atol=1e-12)


def test_recurrent_inhibition_takes_spikes_and_excitation_adds_some():
    def n_spikes(w_rec):
        layer = EventPropLayer(np.array([[2.0], [0.0]]), np.zeros((2, 0)), np.array(w_rec), np.zeros(0))
        return np.isfinite(layer.spikes(np.array([[0.0]]), WINDOW)).sum(axis=2)[0].tolist()

    assert n_spikes([[0.0, 0.0], [0.0, 0.0]]) == [3, 0]
    assert n_spikes([[0.0, 0.0], [0.8, 0.0]]) == [3, 4]
    assert n_spikes([[0.0, -1.0], [0.8, 0.0]]) == [2, 2]


def test_neurons_that_excite_each_other_spike_max_spikes_times_and_are_counted():
    layer = EventPropLayer(np.full((2, 1), 5.0), np.zeros((2, 0)), np.full((2, 2), 2.0), np.zeros(0), max_spikes=20)
    counts = np.zeros(2, np.int64)
    layer.run(np.zeros((3, 1)), WINDOW, counts)
    assert counts.tolist() == [60, 60]
    assert layer.spikes(np.zeros((3, 1)), WINDOW).max() < 1.0


def test_neurons_that_reach_the_threshold_together_both_spike_even_if_they_inhibit_each_other():
    layer = EventPropLayer(np.full((2, 1), 2.0), np.zeros((2, 0)), np.full((2, 2), -9.0), np.zeros(0))
    t = layer.spikes(np.zeros((1, 1)), WINDOW)[0]
    assert t[0, 0] == t[1, 0] < 1 and np.isinf(t[:, 1:]).all()


def test_a_spike_at_the_end_of_the_step_changes_the_trace_gradually():
    layer = EventPropLayer(np.array([[2.0]]), np.zeros((1, 0)), np.zeros((1, 1)), np.zeros(0), max_spikes=1)
    x = np.linspace(WINDOW - 0.4, WINDOW, 401)[:, None]
    r, spikes = layer.run(x, WINDOW), np.isfinite(layer.spikes(x, WINDOW)[:, 0, 0])
    assert 0 < spikes.sum() < 401 and np.abs(np.diff(r[:, 0])).max() < 1.1e-3


def test_a_touch_of_the_threshold_has_a_bounded_gradient():
    w = V_TH * np.e * (1 + 1e-15)  # a single input's membrane peaks at w / e
    layer = EventPropLayer(np.array([[w]]), np.zeros((1, 0)), np.zeros((1, 1)), np.zeros(0), V_TH, kernel="alpha")
    found = []
    for floor in (0.1, 0.5):
        out = ran(layer, (layer.w_in, layer.w_pulse, layer.w_rec), np.zeros((1, 1)))
        found.append(backward(layer, out[0], out[1], WINDOW, out[2], np.ones((1, 1)), floor)[1][0, 0])
    assert found[0] == pytest.approx(5 * found[1]) != 0


def test_a_silent_neuron_grows_only_where_the_loss_wants_a_larger_trace():
    layer = EventPropLayer(np.full((1, 2), 0.1), np.full((1, 1), 0.1), np.ones((1, 1)), np.zeros(1), V_TH)
    neurons = EventPropNeurons(layer, silent=0.05)
    r = neurons(neurons.run(np.array([[0.0, 0.5], [0.0, 0.5]]), WINDOW), WINDOW)
    assert not r.any()
    (r * torch.tensor([[-2.0], [1.0]])).sum().backward()
    torch.testing.assert_close(neurons.w_in.grad, torch.full((1, 2), -0.1, dtype=torch.float64))
    torch.testing.assert_close(neurons.w_pulse.grad, torch.full((1, 1), -0.1, dtype=torch.float64))
    assert not neurons.w_rec.grad.any()


def test_a_layer_answers_in_ms_of_its_tau():
    rng = np.random.default_rng(2)
    x, w, w_rec = rng.uniform(0, 1.5, (4, 3)), rng.normal(0.5, 0.5, (2, 3)), rng.normal(size=(2, 2))
    fast, slow = (EventPropLayer(w, np.ones((2, 1)), w_rec, np.array([0.3 * tau]), tau=tau) for tau in (1.0, 10.0))
    np.testing.assert_allclose(slow.spikes(10 * x, 50.0), 10 * fast.spikes(x, 5.0), rtol=1e-9)
    np.testing.assert_allclose(slow.run(10 * x, 50.0), fast.run(x, 5.0), rtol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_late_times_do_not_overflow(kernel):
    layer = EventPropLayer(np.array([[2.0]]), np.zeros((1, 0)), np.zeros((1, 1)), np.zeros(0), kernel=kernel)
    t = layer.spikes(np.array([[0.0], [400.0]]), 450.0)[:, 0, 0]
    assert t[1] - t[0] == pytest.approx(400.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_do_not_depend_on_the_batch(dtype):
    rng = np.random.default_rng(3)
    w = (rng.normal(0.5, 1, (5, n)).astype(dtype) for n in (3, 1, 5))
    layer, x = EventPropLayer(*w, np.zeros(1, dtype)), rng.uniform(0, 2, (8, 3)).astype(dtype)
    together = layer.run(x, 5.0)
    assert together.dtype == dtype
    np.testing.assert_array_equal(together, np.concatenate([layer.run(row[None], 5.0) for row in x]))


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"w_in": np.zeros((0, 2))}, "w_in must have 1 to"),
        ({"w_pulse": np.zeros((3, 1))}, "w_pulse must have shape"),
        ({"w_rec": np.zeros((2, 3))}, "w_rec must have shape"),
        ({"t_pulse": -np.ones(1)}, "t_pulse must be >= 0"),
        ({"kernel": "beta"}, "kernel must be one of"),
        ({"v_th": 0.0}, "v_th must be a finite number"),
        ({"tau": np.nan}, "tau must be a finite number"),
        ({"max_spikes": 0}, "max_spikes must be an integer >= 1"),
    ],
)
def test_a_layer_refuses_what_it_cannot_be(changed, fault):
    fields = {"w_in": np.zeros((2, 2)), "w_pulse": np.zeros((2, 1)), "w_rec": np.zeros((2, 2)), "t_pulse": np.zeros(1)}
    with pytest.raises(ValueError, match=fault):
        EventPropLayer(**{**fields, **changed})


@pytest.mark.parametrize("name", ["floor", "silent"])
def test_shares_below_0_are_refused(name):
    layer = EventPropLayer(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.zeros(1))
    with pytest.raises(ValueError, match=f"{name} must be a number >= 0, got -0.1"):
        EventPropNeurons(layer, **{name: -0.1})
