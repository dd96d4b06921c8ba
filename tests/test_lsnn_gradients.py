"""The gradients of an LSNN module are those of its equations."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from lsnn_sequences import CENTERS, assert_gradients_agree, gradients, make_lsnn, make_sequence

from spikeloop.spiking.gradients.equations import run_equations
from spikeloop.spiking.gradients.surrogate import SHAPES, Surrogate
from spikeloop.spiking.row_linear import RowLinear

OPTIONS = {
    "plain": {},
    "readout": {"tau_out": 3.0},
    "count": {"count": True, "n_ticks": 3},
    "ticks": {"n_ticks": 3, "tau_out": 2.0},
    "reset zero": {"reset": "zero"},
    "ahp": {"adaptation": "ahp"},
    "refractory": {"refractory": 2},
    "hold": {"refractory": 2, "reset": "zero", "hold": True, "tau_out": 2.0},
    "hold, ahp": {"refractory": 1, "reset": "zero", "hold": True, "adaptation": "ahp", "n_ticks": 3, "latency": 1},
    "latency": {"latency": 1, "tau_out": 2.0},
    "feed-forward": {"recurrent": False},
    "rate penalty": {"rate_coef": 0.3, "target_rate": 0.1},
    "chip": {
        "latency": 1,
        "reset": "zero",
        "adaptation": "ahp",
        "n_ticks": 4,
        "count": True,
        "refractory": 1,
        "hold": True,
        "rate_coef": 0.1,
    },
    **{shape: {"gradient": Surrogate(shape, 0.7, 0.8)} for shape in SHAPES},
}


def equations(lsnn, features, state, start):
    """What ``forward`` computes where the kernels do not run."""
    with by_equations(lsnn):
        return lsnn(features, state, start)


@contextmanager
def by_equations(lsnn):
    lsnn.layers.on_engine = False
    yield
    lsnn.layers.on_engine = True


@pytest.mark.parametrize("n_neurons", [(20,), (20, 33, 9)])
@pytest.mark.parametrize("option", OPTIONS)
def test_gradients_are_those_of_the_equations(option, n_neurons):
    lsnn = make_lsnn(n_neurons, dtype=torch.float64, **OPTIONS[option])
    sequence = make_sequence(lsnn)
    expected = gradients(lambda *a: equations(lsnn, *a), lsnn, *sequence)
    counts, n_counted = [count.copy() for count in lsnn.spike_counts], lsnn.n_counted
    lsnn.reset_counts()
    found = gradients(lsnn, lsnn, *sequence)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-12)
    assert_gradients_agree(found[2], expected[2], 1e-10)
    assert all(grad.abs().max() > 0 for grad in expected[2].values()), "a gradient is zero throughout: nothing tested"
    assert lsnn.n_counted == n_counted == 9 * 11 * lsnn.n_ticks
    for got, want in zip(lsnn.spike_counts, counts, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("n_neurons", [(64,), (20, 33)])
def test_float32_gradients(n_neurons):
    lsnn = make_lsnn(n_neurons, n_ticks=2, tau_out=2.0)
    sequence = make_sequence(lsnn)
    expected = gradients(lambda *a: equations(lsnn, *a), lsnn, *sequence)
    found = gradients(lsnn, lsnn, *sequence)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
    assert_gradients_agree(found[2], expected[2], 2e-5)


def test_threads_agree_with_one():
    lsnn = make_lsnn((64,))
    sequence = make_sequence(lsnn, n_steps=40, n_envs=32)
    results, before = [], torch.get_num_threads()
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        results.append(gradients(lsnn, lsnn, *sequence))
        assert torch.get_num_threads() == n_threads
    torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert_gradients_agree(results[0][2], results[1][2], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_population_encoder_learns_by_the_gradient_of_its_formula(dtype):
    lsnn = make_lsnn(encoder="population", dtype=dtype, learn_encoder=True, n_ticks=2, tau_out=3.0)
    features, state, start = make_sequence(lsnn)

    def formula(features, state, start):
        u = (features[..., None] - lsnn.centers) / lsnn.log_widths.exp()
        x = torch.exp(-0.5 * u.square()).flatten(2)
        return run_equations(lsnn.layers, x, state, start, lsnn.timing, lsnn.gradient.spike)[:2]

    expected = gradients(formula, lsnn, features, state, start)
    found = gradients(lsnn, lsnn, features, state, start)
    assert_gradients_agree(found[2], expected[2], 1e-4)
    with torch.no_grad():
        lsnn.centers.add_(0.5)
    np.testing.assert_allclose(lsnn.current_encoder().centers, CENTERS + 0.5)


def test_a_sequence_goes_backward_once():
    lsnn = make_lsnn()
    y, _ = lsnn(*make_sequence(lsnn))
    y.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already used"):
        y.sum().backward()


def test_two_sequences_before_one_backward():
    lsnn = make_lsnn((32,), dtype=torch.float64)
    first, second = make_sequence(lsnn, n_steps=40, seed=1), make_sequence(lsnn, n_steps=40, seed=2)
    separate = []
    for sequence in (first, second):
        separate.append(gradients(lsnn, lsnn, *sequence)[2]["layers.0.w_rec"].clone())
    lsnn.zero_grad()
    ys = [lsnn(*sequence)[0] for sequence in (first, second)]
    weights = torch.randn(ys[0].shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    (ys[0] * weights + ys[1] * weights).sum().backward()
    torch.testing.assert_close(lsnn.layers[0].w_rec.grad, separate[0] + separate[1], rtol=1e-12, atol=1e-12)


def test_fused_adam_moves_transposed_parameters_as_plain_adam_does():
    moved = []
    for options in ({"fused": True}, {"foreach": False}):
        lsnn = make_lsnn((20,))
        optimizer = torch.optim.Adam(lsnn.parameters(), lr=0.05, **options)
        for seed in range(3):
            y, _ = lsnn(*make_sequence(lsnn, seed=seed))
            optimizer.zero_grad()
            y.square().sum().backward()
            optimizer.step()
        moved.append([p.detach().clone() for p in lsnn.parameters()])
    for fused, plain in zip(*moved, strict=True):
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-5)


def test_row_linear_gradients():
    torch.manual_seed(0)
    linear = RowLinear(7, 3).double()
    x = torch.randn(4, 2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(linear, {"weight": w, "bias": b}, (x,)),
        (x, linear.weight, linear.bias),
    )
