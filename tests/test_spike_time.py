"""Exact spike times: against bisection, differences, and the reference, and where no closed form holds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.spiking import spike_time_kernels
from spikeloop.spiking.spike_time import (
    KERNELS,
    SpikeTimeLayer,
    decision_times,
    lambert_w0,
    spike_times,
)
from spikeloop.spiking.spike_time_module import SpikeTimes

KAPPA = {
    "alpha": lambda s: s * np.exp(-s),
    "exponential": lambda s: 1 - np.exp(-s),
    "double": lambda s: 2 * (np.exp(-s / 2) - np.exp(-s)),
}
V_TH, WINDOW = 0.4, 5.0


def membrane(t, times, w, kernel):
    """V at times t, (T,), of one neuron: the sum over the inputs that have come."""
    s = np.maximum(np.asarray(t)[:, None] - times, 0.0)
    return (w * KAPPA[kernel](s)).sum(axis=1)


def first_crossing(times, w, kernel):
    """Bisect the first interval of a fine grid in which V reaches the threshold; None if there is none."""
    grid = np.linspace(0, WINDOW, 8001)
    above = np.flatnonzero(membrane(grid, times, w, kernel) >= V_TH)
    if not len(above):
        return None
    low, high = grid[above[0] - 1], grid[above[0]]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if membrane([middle], times, w, kernel)[0] >= V_TH else (middle, high)
    return high


def by_kernel(times, w, kernel, v_th=V_TH, window=WINDOW):
    out = np.empty((len(times), len(w)))
    spike_time_kernels.spike_times(KERNELS.index(kernel), times, w, v_th, window, out)
    return out


def backward(times, w, kernel, grad, floor=1e-9, silent=0.0):
    out, grad_times, grad_w = by_kernel(times, w, kernel), np.zeros_like(times), np.zeros_like(w)
    spike_time_kernels.spike_times_backward(
        KERNELS.index(kernel), times, w, V_TH, WINDOW, out, grad, floor, silent, grad_times, grad_w
    )
    return grad_times, grad_w


@pytest.mark.parametrize("kernel", KERNELS)
def test_spike_times_are_where_bisection_finds_the_threshold(kernel):
    rng = np.random.default_rng(0)
    errors, n_silent = [], 0
    for _ in range(300):
        times, w = rng.uniform(0, 1.5, 8), rng.normal(0.3, 0.7, 8)
        found, wanted = by_kernel(times[None], w[None], kernel)[0, 0], first_crossing(times, w, kernel)
        if wanted is None:  # a touch between two points of the grid is a spike
            n_silent += 1
            assert found == WINDOW or abs(membrane([found], times, w, kernel)[0] - V_TH) < 1e-12
        else:
            errors.append(abs(found - wanted))
    assert n_silent > 20
    assert max(errors) <= (5e-15 if kernel == "alpha" else 1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_those_of_central_differences(kernel):
    rng, h = np.random.default_rng(1), 1e-6
    for _ in range(30):
        times, w, grad = rng.uniform(0, 1.5, (2, 6)), rng.normal(0.3, 0.7, (3, 6)), rng.normal(size=(2, 3))
        found = backward(times, w, kernel, grad)
        for of, gradient in zip((times, w), found, strict=True):
            for at in np.ndindex(of.shape):
                kept, values = of[at], []
                for moved in (kept + h, kept - h):
                    of[at] = moved
                    values.append((by_kernel(times, w, kernel) * grad).sum())
                of[at] = kept
                difference = (values[0] - values[1]) / (2 * h)
                # a neuron that only just spikes may fall silent within h, and its time is steep
                assert abs(difference - gradient[at]) < 1e-4 * (1 + abs(difference)) or abs(difference) > 50


# times that coincide, or lie at the window's end, are as likely as others
TIMES = st.one_of(st.sampled_from([0.0, 0.5, 1.5, WINDOW]), st.floats(0, 6, width=32))
WEIGHTS = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-3, 3, width=32))


@given(st.data())
def test_kernels_are_the_reference(data):
    kernel, n = data.draw(st.sampled_from(KERNELS)), data.draw(st.integers(1, 6))
    times = np.array([data.draw(st.lists(TIMES, min_size=n, max_size=n))])
    w = np.array([data.draw(st.lists(WEIGHTS, min_size=n, max_size=n))])
    found, wanted = by_kernel(times, w, kernel)[0, 0], spike_times(times, w, V_TH, WINDOW, kernel)[0, 0]
    if abs(found - wanted) <= 1e-9:
        return
    # where V only touches the threshold, rounding decides whether it does, and when
    v = [membrane([min(t, WINDOW)], times[0], w[0], kernel)[0] for t in (found, wanted) if t < WINDOW]
    assert v and abs(np.array(v) - V_TH).max() < 1e-9


def test_lambert_w_of_kernel_and_reference():
    x = -np.exp(-1) * np.linspace(1, 0, 501) ** 2
    found = np.array([spike_time_kernels.lambert_w0(one) for one in x])
    np.testing.assert_allclose(found * np.exp(found), x, atol=1e-15)
    np.testing.assert_allclose(found[1:], lambert_w0(x)[1:], atol=1e-12)
    assert found[0] == -1.0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("w", [[0.0, 0.0], [-1.0, -2.0], [1.0, -9.0], [0.1, 0.1]])
def test_a_membrane_that_stays_below_is_silent(kernel, w):
    assert by_kernel(np.array([[0.0, 0.01]]), np.array([w]), kernel)[0, 0] == WINDOW


def test_a_touch_of_the_threshold_is_a_spike_whose_gradient_is_bounded():
    # a single input's membrane peaks at w / e, one tau later
    t = by_kernel(np.array([[0.25]]), np.array([[V_TH * np.e * (1 + 1e-15)]]), "alpha")[0, 0]
    assert t == pytest.approx(1.25, abs=1e-7)
    for floor, most in ((0.1, 10.0), (0.5, 2.0)):
        _, grad_w = backward(
            np.array([[0.25]]), np.array([[V_TH * np.e * (1 + 1e-15)]]), "alpha", np.ones((1, 1)), floor
        )
        assert 0 < -grad_w[0, 0] <= most / np.e / V_TH * 1.001


def test_equal_times_are_one_input_of_the_summed_weight():
    one = by_kernel(np.array([[0.3]]), np.array([[1.5]]), "alpha")
    three = by_kernel(np.array([[0.3, 0.3, 0.3]]), np.array([[0.7, -0.2, 1.0]]), "alpha")
    np.testing.assert_allclose(three, one, rtol=1e-15)


def test_inputs_after_a_spike_and_at_the_end_count_for_nothing():
    times, w = np.array([[0.0, 2.0, WINDOW]]), np.array([[2.0, -50.0, 50.0]])
    t = by_kernel(times, w, "alpha")[0, 0]
    assert t == by_kernel(times[:, :1], w[:, :1], "alpha")[0, 0] < 2.0
    grad_times, grad_w = backward(times, w, "alpha", np.ones((1, 1)))
    assert grad_times[0, 0] == pytest.approx(1.0)  # the whole membrane moves with its only input
    assert not grad_times[0, 1:].any() and not grad_w[0, 1:].any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_late_times_do_not_overflow(kernel):
    # exp(t) leaves float32 at 89 tau, and float64 at 710
    shifts = np.array([0.0, 100.0, 450.0, 5000.0])
    times, w = np.array([[0.0, 0.4, 0.9]]) + shifts[:, None], np.array([[0.8, 0.3, 0.9]])
    t = by_kernel(times, w, kernel, window=1e4)
    np.testing.assert_allclose(t[:, 0] - shifts, t[0, 0], atol=1e-11)
    far = np.array([[0.0, 3000.0]])  # what came long ago is forgotten, with a leak
    assert by_kernel(far, np.array([[-5.0, 2.0]]), "alpha", window=1e4)[0, 0] == pytest.approx(3000.26, abs=0.01)


def test_a_silent_neuron_grows_only_where_the_loss_wants_it_earlier():
    times, w = np.array([[0.0, 0.5], [0.0, 0.5]]), np.full((1, 2), 0.1)
    _, grad_w = backward(times, w, "alpha", np.array([[2.0], [-1.0]]), silent=0.05)
    np.testing.assert_allclose(grad_w, -0.1)
    _, grad_w = backward(times, w, "alpha", np.array([[2.0], [-1.0]]))
    assert not grad_w.any()


def test_a_layer_answers_in_ms_of_its_tau():
    rng = np.random.default_rng(2)
    x, w = rng.uniform(0, 1.5, (4, 3)), rng.normal(0.5, 0.5, (2, 3))
    layer = SpikeTimeLayer(w, np.ones((2, 1)), np.zeros(1))
    slow = SpikeTimeLayer(w, np.ones((2, 1)), np.zeros(1), deadline=16.0, tau=10.0)
    np.testing.assert_allclose(slow.run(10 * x, 50.0), 10 * layer.run(x, 5.0), rtol=1e-12)


def test_a_layers_module_gives_its_floor_and_its_share_of_silent_neurons_to_the_gradient():
    def gradient(w, floor, silent):
        layer = SpikeTimeLayer(np.array([[w]]), np.zeros((1, 1)), np.zeros(1), w_deadline=0.0, v_th=V_TH)
        module = SpikeTimes(layer, floor, silent)
        module(torch.zeros(1, 1, dtype=torch.float64), WINDOW).sum().backward()
        return module.w_in.grad.item()

    touch = V_TH * np.e * (1 + 1e-15)
    assert gradient(touch, 0.1, 0.0) == pytest.approx(5 * gradient(touch, 0.5, 0.0)) != 0
    assert gradient(0.1, 0.1, 0.05) == pytest.approx(-0.05)


def test_the_deadline_makes_a_neuron_spike_that_nothing_else_has_driven():
    t = [
        SpikeTimeLayer(np.ones((1, 1)), np.zeros((1, 1)), np.zeros(1), deadline=at).run(np.array([[WINDOW]]), WINDOW)
        for at in (1.0, 2.5)
    ]
    assert 2.5 < t[1][0, 0] < 3.0 and t[1][0, 0] - t[0][0, 0] == pytest.approx(1.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_do_not_depend_on_the_batch(dtype):
    rng = np.random.default_rng(3)
    layer = SpikeTimeLayer(rng.normal(size=(5, 3)).astype(dtype), np.ones((5, 1), dtype), np.zeros(1, dtype))
    x = rng.uniform(0, 2, (8, 3)).astype(dtype)
    together = layer.run(x, 5.0)
    assert together.dtype == dtype
    np.testing.assert_array_equal(together, np.concatenate([layer.run(row[None], 5.0) for row in x]))


def test_decision_times_wait_for_every_group():
    t = np.array([[1.0, 2.0, 4.0], [np.inf, 3.0, np.inf]])
    assert decision_times(t, (3,), 5.0).tolist() == [1.0, 3.0]
    assert decision_times(t, (2, 1), 5.0).tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"w_in": np.zeros((0, 2))}, "w_in must have 1 to"),
        ({"w_pulse": np.zeros((3, 1))}, "w_pulse must have shape"),
        ({"t_pulse": -np.ones(1)}, "t_pulse must be >= 0"),
        ({"kernel": "beta"}, "kernel must be one of"),
        ({"v_th": 0.0}, "v_th must be a finite number"),
        ({"tau": np.nan}, "tau must be a finite number"),
    ],
)
def test_a_layer_refuses_what_it_cannot_be(changed, fault):
    fields = {"w_in": np.zeros((2, 2)), "w_pulse": np.zeros((2, 1)), "t_pulse": np.zeros(1)}
    with pytest.raises(ValueError, match=fault):
        SpikeTimeLayer(**{**fields, **changed})
