"""Equilibrium propagation: gradients against autograd and a closed form, spikes against a transcription, convexity."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.spiking.equilibrium import (
    CODES,
    EquilibriumLayer,
    bounded_coupling,
    free_phase,
    nudged_phases,
    schedule,
    settle,
    weights_of,
)
from spikeloop.spiking.equilibrium_module import EquilibriumUnits

NUMBERS = {
    "rate": dict(step=0.5, n_ticks=200),
    "sigma_delta": dict(step=0.843, step_decay=0.0923, n_ticks=50, n_average=10),
}


def layer_of(code="rate", n_in=4, n_hidden=64, n_out=2, gain=0.05, seed=0, dtype=np.float64, **changed):
    rng = np.random.default_rng(seed)
    w_in, bias = rng.normal(0, 1 / np.sqrt(n_in), (n_hidden, n_in)), rng.random(n_hidden)
    w_out, bias_out = rng.normal(0, gain, (n_out, n_hidden)), np.full(n_out, 0.0 if code == "rate" else 0.5)
    arrays = (one.astype(dtype) for one in (w_in, bias, w_out, bias_out))
    return EquilibriumLayer(*arrays, code, **{**NUMBERS[code], **changed})


def found(layer, x, loss, **settings):
    """Return the gradients of a loss of the outputs by nudging, in the order of ``trained``."""
    units = EquilibriumUnits(layer, **{"beta": 0.1, "n_nudged": 30, **settings})
    y = units(torch.from_numpy(x), np.zeros(layer.n_neurons, np.int64))
    loss(y[:, -len(layer.w_out) :]).backward()
    return [getattr(units, name).grad.numpy() for name in layer.trained]


def wanted(layer, x, loss, n_steps=300, step=0.3):
    """Return the gradients of the same loss by autograd through the settling of a plain rate network."""
    w_in, bias, w_out, bias_out = parameters = [
        torch.tensor(getattr(layer, name), requires_grad=True) for name in layer.trained
    ]
    drive = torch.from_numpy(x) @ w_in.t() + bias
    h, o = torch.zeros_like(drive), torch.full((len(x), len(w_out)), 0.0 if layer.graded else 0.5, dtype=drive.dtype)
    for _ in range(n_steps):
        moved = o + step * (h @ w_out.t() + bias_out - o)
        h, o = (h + step * (drive + o @ w_out - h)).clamp(0, 1), moved if layer.graded else moved.clamp(0, 1)
    return [g.numpy() for g in torch.autograd.grad(loss(o), parameters)]


def agreement(a, b):
    """Return the cosine of two gradients, and the ratio of their lengths."""
    sizes = np.linalg.norm(a), np.linalg.norm(b)
    return float((a * b).sum() / (sizes[0] * sizes[1])), float(sizes[0] / sizes[1])


def cross_entropy(scale=1.0, rest=0.0):
    actions = torch.from_numpy(np.random.default_rng(1).integers(0, 2, 256))
    return lambda o: torch.nn.functional.cross_entropy(scale * (o - rest), actions)


X = np.random.default_rng(2).normal(size=(256, 4))


@pytest.mark.parametrize("gain", [0.05, 0.1])  # squared singular value 0.17 and 0.70
@pytest.mark.parametrize(("beta", "most"), [(0.1, 0.01), (0.02, 0.005)])
def test_gradients_are_those_of_autograd_through_the_settling(gain, beta, most):
    layer, loss = layer_of(gain=gain), cross_entropy()
    for ours, theirs in zip(found(layer, X, loss, beta=beta), wanted(layer, X, loss), strict=True):
        cosine, ratio = agreement(ours, theirs)
        assert cosine >= 0.998 and abs(ratio - 1) <= most


def test_short_phases_at_the_bound_of_the_coupling_shorten_gradients_and_do_not_turn_them():
    """The presets' phases, where training ends: the largest squared singular value is 0.9."""
    layer, loss = layer_of(gain=0.1), cross_entropy()
    w_out = layer.w_out * np.sqrt(0.9) / np.linalg.norm(layer.w_out, 2)
    short = found(replace(layer, w_out=w_out, n_ticks=20), X, loss, n_nudged=10)
    for ours, theirs in zip(short, wanted(replace(layer, w_out=w_out), X, loss), strict=True):
        cosine, ratio = agreement(ours, theirs)
        assert cosine >= 0.99 and 0.75 <= ratio <= 0.95


def test_gradients_of_spikes_are_those_of_the_rates_they_stand_for():
    layer, loss = layer_of("sigma_delta"), cross_entropy(10.0, 0.5)
    for ours, theirs in zip(found(layer, X, loss), wanted(layer, X, loss), strict=True):
        cosine, ratio = agreement(ours, theirs)
        assert cosine >= 0.99 and abs(ratio - 1) <= 0.1


def test_a_linear_network_has_the_closed_form_and_its_gradient():
    """No unit at a bound: h = (I - W'W)^-1 (drive + W'c), o = W h + c, and a quadratic loss."""
    rng = np.random.default_rng(3)
    n, m = 6, 3
    w_in, w, c = rng.normal(0, 0.02, (n, 2)), rng.normal(0, 0.15, (m, n)), rng.normal(0, 0.1, m)
    layer = EquilibriumLayer(w_in, np.full(n, 0.5), w, c, n_ticks=400)
    x, target = rng.normal(size=(5, 2)), rng.normal(size=(5, m))
    inverse = np.linalg.inv(np.eye(n) - w.T @ w)
    h = (x @ w_in.T + 0.5 + c @ w) @ inverse.T
    assert h.min() > 0 and h.max() < 1
    o = h @ w.T + c
    np.testing.assert_allclose(layer.run(x, 1.0), np.concatenate([h, o], axis=1), atol=1e-12)
    grads = found(layer, x, lambda y: ((y - torch.from_numpy(target)) ** 2).sum() / 2, n_nudged=400)
    g = o - target  # and with the shifts dh, do that g brings about, dL/dW = do h' + o dh'
    dh = g @ w @ inverse.T
    do = g + dh @ w.T
    for ours, exact in zip(grads, (dh.T @ x, dh.sum(0), do.T @ h + o.T @ dh, do.sum(0)), strict=True):
        np.testing.assert_allclose(ours, exact, atol=1e-9)


def test_a_loss_may_be_of_hidden_units_too():
    """With the loss g y: dh = (I - W'W)^-1 (g_h + W' g_o) and do = g_o + W dh, where no unit is at a bound."""
    rng = np.random.default_rng(4)
    w_in, w, x = rng.normal(0, 0.02, (5, 2)), rng.normal(0, 0.15, (2, 5)), rng.normal(size=(6, 2))
    units = EquilibriumUnits(EquilibriumLayer(w_in, np.full(5, 0.5), w, np.zeros(2), n_ticks=400), n_nudged=400)
    g = rng.normal(size=(6, 7))
    y = units(torch.from_numpy(x), np.zeros(7, np.int64))
    assert y[:, :5].min() > 0.1 and y[:, :5].max() < 0.9
    (y * torch.from_numpy(g)).sum().backward()
    dh = (g[:, :5] + g[:, 5:] @ w) @ np.linalg.inv(np.eye(5) - w.T @ w)
    np.testing.assert_allclose(units.bias.grad.numpy(), dh.sum(0), atol=1e-9)
    np.testing.assert_allclose(units.bias_out.grad.numpy(), (g[:, 5:] + dh @ w.T).sum(0), atol=1e-9)


def test_the_error_goes_to_zero_with_beta():
    layer, loss = layer_of(gain=0.1), cross_entropy()
    exact, errors = wanted(layer, X, loss)[0], []
    for beta in (1.0, 0.1, 0.01, 1e-4):  # of float64, whose rounding a nudge so small still leaves behind
        errors.append(np.linalg.norm(found(layer, X, loss, beta=beta, n_nudged=200)[0] - exact))
    assert np.all(np.diff(errors) < 0) and errors[-1] < 1e-3 * np.linalg.norm(exact)


def spikes_of_oconnor(drive, w, bias_out, steps, lams, u):
    """Transcribe the encoder, quantiser and decoder of QUVA-Lab/spiking-equilibrium-prop: one unit at a time.

    There a unit receives, moves and sends; here the loop begins with what is sent. Both ends of a synapse have one lam.
    """
    n_hidden, n = len(drive), len(u)
    last, phi, received = [0.0] * n, [0.0] * n, [0.0] * n
    values, bits = [], []
    for step, lam in zip(steps, lams, strict=True):
        q = []
        for i in range(n):
            prediction_error = u[i] - (1 - lam) * last[i]
            phi[i] += prediction_error / lam
            q.append(1.0 if phi[i] > 0.5 else 0.0)
            phi[i] -= q[i]
            last[i] = u[i]
        for i in range(n):
            total = 0.0
            if i < n_hidden:
                for o in range(n - n_hidden):
                    total += w[o, i] * q[n_hidden + o]
            else:
                for j in range(n_hidden):
                    total += w[i - n_hidden, j] * q[j]
            received[i] = (1 - lam) * received[i] + lam * total
        for i in range(n):
            constant = drive[i] if i < n_hidden else bias_out[i - n_hidden]
            u[i] = min(max(u[i] + step * (constant + received[i] - u[i]), 0.0), 1.0)
        values.append(list(u))
        bits.append(q)
    return np.array(values), np.array(bits)


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 20))
VALUES = st.one_of(st.sampled_from([0.0, 0.5, 1.0, -1.0]), st.floats(-2, 2, width=32))


@given(st.data())
def test_spikes_are_those_of_a_transcription(data):
    n_in, n_hidden, n_out, n_ticks = data.draw(SIZES)
    draw = lambda *shape: np.array(  # noqa: E731
        data.draw(st.lists(VALUES, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    ).reshape(shape)
    arrays = draw(n_hidden, n_in), draw(n_hidden), 0.5 * draw(n_out, n_hidden), draw(n_out)
    layer = EquilibriumLayer(
        *arrays, "sigma_delta", n_ticks, 0.843, 0.0923, n_average=data.draw(st.integers(1, n_ticks))
    )
    x = draw(2, n_in)
    sent = np.zeros((2, layer.n_neurons, n_ticks), np.uint8)
    counts = np.zeros(layer.n_neurons, np.int64)
    y, _, drive = free_phase(layer, weights_of(layer), x, counts, sent)
    for row in range(2):
        values, bits = spikes_of_oconnor(
            drive[row], layer.w_out, layer.bias_out, *schedule(layer, 0, n_ticks), [0.0] * n_hidden + [0.5] * n_out
        )
        np.testing.assert_array_equal(sent[row].T, bits)
        np.testing.assert_allclose(y[row], values[-layer.n_average :].mean(axis=0), atol=1e-12)
    np.testing.assert_array_equal(counts, sent.sum(axis=(0, 2)))
    times = layer.spikes(x, 10.0)
    np.testing.assert_array_equal(np.isfinite(times), sent > 0)
    assert not np.isfinite(times).any() or times[np.isfinite(times)].max() < 10.0


@pytest.mark.parametrize("code", CODES)
@given(st.integers(0, 10**6))
def test_the_kernel_is_the_reference(code, seed):
    rng = np.random.default_rng(seed)
    sizes = dict(n_in=int(rng.integers(1, 5)), n_hidden=int(rng.integers(1, 20)), n_out=int(rng.integers(1, 4)))
    layer = layer_of(code, gain=0.2, seed=seed, **sizes, n_ticks=int(rng.integers(1, 30)), n_average=1)
    x = rng.normal(size=(int(rng.integers(1, 20)), layer.n_inputs))
    y, state, drive = free_phase(layer, weights_of(layer), x)
    start, none = np.zeros_like(state), np.zeros_like(y)
    start[0, :, len(layer.w_in) :] = 0.0 if layer.graded else 0.5
    numbers = *schedule(layer, 0, layer.n_ticks), 1, start, not layer.graded
    ours, ours_state, _ = settle(drive, layer.w_out, layer.bias_out, none, *numbers)
    np.testing.assert_allclose(y, ours, atol=1e-9)
    np.testing.assert_allclose(state, ours_state, atol=1e-9)


@given(st.integers(0, 10**6))
def test_within_the_bound_there_is_one_place_to_settle(seed):
    """From any state, to the same one, which a minimum of the energy is: nearby states have more."""
    rng = np.random.default_rng(seed)
    layer = layer_of(n_hidden=12, n_out=3, gain=1.0, seed=seed)
    w = bounded_coupling(layer.w_out, 0.9)
    assert np.linalg.norm(w, 2) ** 2 <= 0.9 + 1e-12
    drive, n = rng.normal(0.3, 1, (1, 12)), 15
    ends = []
    for _ in range(3):
        state = np.zeros((4, 1, n))
        state[0] = np.concatenate([rng.random((1, 12)), rng.normal(0, 10, (1, 3))], axis=1)
        numbers = np.full(2000, 0.5), np.ones(2000), 1, state, False
        ends.append(settle(drive, w, layer.bias_out, np.zeros((1, n)), *numbers)[0][0])
    np.testing.assert_allclose(ends[1:], [ends[0]] * 2, atol=1e-6)

    def energy(u):
        h, o = u[:12], u[12:]
        return (u @ u) / 2 - h @ drive[0] - o @ w @ h - o @ layer.bias_out

    for _ in range(20):
        near = ends[0] + rng.normal(0, 0.1, n)
        near[:12] = near[:12].clip(0, 1)
        assert energy(near) >= energy(ends[0]) - 1e-9


def test_beyond_the_bound_there_may_be_two():
    """One hidden unit that excites itself by way of an output: it stays off, or on."""
    w, drive, ends = np.array([[1.5]]), np.array([[-0.5]]), []
    for h in (0.0, 1.0):
        state = np.zeros((4, 1, 2))
        state[0, 0] = h, 1.5 * h
        numbers = np.full(500, 0.5), np.ones(500), 1, state, False
        ends.append(settle(drive, w, np.zeros(1), np.zeros((1, 2)), *numbers)[0][0].round(6).tolist())
    assert ends == [[0.0, 0.0], [1.0, 1.5]]


@given(st.integers(1, 5), st.integers(1, 40), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_a_bounded_matrix_is_the_nearest(n_out, n_hidden, most, seed):
    w = np.random.default_rng(seed).normal(size=(n_out, n_hidden)).astype(np.float32)
    bounded = bounded_coupling(w, most)
    assert np.linalg.norm(bounded.astype(np.float64), 2) ** 2 <= most * (1 + 1e-5)
    values = np.linalg.svd(w, compute_uv=False)
    distance = np.sqrt(np.square(np.maximum(values - np.sqrt(most), 0)).sum())
    assert np.linalg.norm(w - bounded) == pytest.approx(distance, rel=1e-3, abs=1e-5)
    assert bounded_coupling(bounded * np.float32(0.999), most) is not None
    within = (w * (0.9 * np.sqrt(most) / values[0])).astype(np.float32)
    assert bounded_coupling(within, most) is within


def test_units_are_projected_when_made():
    units = EquilibriumUnits(layer_of(gain=1.0), max_coupling=0.5)
    assert np.linalg.norm(units.value.w_out, 2) ** 2 == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("code", CODES)
def test_rows_do_not_depend_on_the_batch(code, dtype):
    layer = layer_of(code, dtype=dtype, n_ticks=30)
    x = X[:37].astype(dtype)
    together = layer.run(x, 1.0)
    assert together.dtype == dtype
    np.testing.assert_array_equal(together, np.concatenate([layer.run(row[None], 1.0) for row in x]))
    assert layer.run(x[:0], 1.0).shape == (0, 66)


def test_a_sample_without_gradient_moves_nothing():
    layer = layer_of()
    grads = found(layer, X, lambda y: 0 * y.sum())
    assert not any(one.any() for one in grads)


def test_a_nudge_by_random_weights_is_another_gradient_of_the_inputs_alone():
    """The control: what reaches the outputs' own biases is nearly what it was, what reaches hidden units is not."""
    layer, loss = layer_of(gain=0.1), cross_entropy()
    own = found(layer, X, loss)
    other = np.random.default_rng(9).normal(0, 0.1, layer.w_out.shape)
    random = found(layer, X, loss, w_back=other)
    assert agreement(own[3], random[3])[0] > 0.9 and abs(agreement(own[0], random[0])[0]) < 0.7
    same = found(layer, X, loss, w_back=layer.w_out)
    for a, b in zip(own, same, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("code", CODES)
def test_random_weights_carry_the_nudge_alone(code):
    """Settled units that hardly anything nudges stay where they are, whatever carries the nudge back."""
    layer = layer_of(code, gain=0.1, n_ticks=200)
    y, state, drive = free_phase(layer, weights_of(layer), X)
    other, grad = np.random.default_rng(9).normal(0, 0.1, layer.w_out.shape), np.ones_like(y)
    for w_back in (None, other):
        for moved in nudged_phases(layer, weights_of(layer), drive, state, grad, 1e-6, 30, w_back)[:2]:
            assert np.abs(moved - y).mean() < (1e-5 if code == "rate" else 0.02)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"w_in": np.zeros((0, 2))}, "must have an input, a hidden unit and an output"),
        ({"w_out": np.zeros((0, 2))}, "must have an input, a hidden unit and an output"),
        ({"w_out": np.zeros((1, 3))}, "w_out must have shape"),
        ({"bias": np.zeros(3)}, "bias must have shape"),
        ({"w_in": np.full((2, 2), np.nan)}, "w_in"),
        ({"code": "bits"}, "code must be one of"),
        ({"step": 1.5}, "step must be"),
        ({"lam": 0.0}, "lam must be"),
        ({"n_average": 21}, "n_average must be"),
    ],
)
def test_a_layer_refuses_what_it_cannot_be(changed, fault):
    fields = {"w_in": np.zeros((2, 2)), "bias": np.zeros(2), "w_out": np.zeros((1, 2)), "bias_out": np.zeros(1)}
    with pytest.raises(ValueError, match=fault):
        EquilibriumLayer(**{**fields, **changed})
