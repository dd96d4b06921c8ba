import copy
import io
import pickle
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.spiking.encoders import Encoder, encode
from spikeloop.spiking.gradients.equations import run_equations
from spikeloop.spiking.gradients.surrogate import SHAPES, Surrogate
from spikeloop.spiking.module import LSNN
from spikeloop.spiking.network import Network
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.row_linear import RowLinear
from spikeloop.spiking.simulator import Simulator

N_OBS = 3
LOW, HIGH = -np.ones(N_OBS), np.ones(N_OBS)
CENTERS = np.tile([-1.0, 0.0, 1.0], (N_OBS, 1))
ENCODERS = {
    "direct": Encoder("direct", N_OBS),
    "population": Encoder("population", N_OBS, centers=CENTERS, widths=np.full((N_OBS, 3), 0.5)),
    "rate": Encoder("rate", N_OBS, low=LOW, high=HIGH, gain=0.7),
    "latency": Encoder("latency", N_OBS, low=LOW, high=HIGH, gain=4.0),
    "delta": Encoder("delta", N_OBS, threshold=0.25),
}
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


def make_lsnn(n_neurons=(20,), encoder="direct", dtype=torch.float32, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    lsnn = LSNN(ENCODERS[encoder], n_neurons, generator=generator, **options).to(dtype)
    with torch.no_grad():
        for i in range(lsnn.n_layers):
            lsnn.layers[i].w_in.mul_(2)
            lsnn.layers[i].bias.normal_(0.25, 0.1, generator=generator)
    return lsnn


def make_sequence(lsnn, n_steps=9, n_envs=11, seed=1, warm=5):
    """Features, a state some steps into an episode, and episode starts."""
    generator = torch.Generator().manual_seed(seed)
    dtype = lsnn.layers[0].bias.dtype
    features = torch.randn(n_steps, n_envs, N_OBS, generator=generator, dtype=dtype)
    start = (torch.rand(n_steps, n_envs, generator=generator) < 0.15).float()
    state = torch.from_numpy(lsnn.initial_state(n_envs, np.random.default_rng(seed)))
    with torch.no_grad():
        before = torch.randn(warm, n_envs, N_OBS, generator=generator, dtype=dtype)
        _, state = lsnn(before, state, torch.zeros(warm, n_envs))
    lsnn.reset_counts()
    return features, state, start


def equations(lsnn, features, state, start):
    """What ``forward`` computes where the kernels do not run."""
    with by_equations(lsnn):
        return lsnn(features, state, start)


@contextmanager
def by_equations(lsnn):
    lsnn.layers.on_engine = False
    yield
    lsnn.layers.on_engine = True


def gradients(run, lsnn, features, state, start):
    """Readout trace, new state, and gradients of a weighted sum of the trace."""
    features = features.clone().requires_grad_()
    lsnn.zero_grad(set_to_none=True)
    y, new = run(features, state, start)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=y.dtype)
    y.backward(weights)
    grads = {name: parameter.grad for name, parameter in lsnn.named_parameters()}
    return y.detach(), new, {**grads, "features": features.grad}


def assert_gradients_agree(found, expected, tolerance):
    for name, want in expected.items():
        if want is None:
            assert found[name] is None or not found[name].any()
        else:
            error = (found[name] - want).abs().max() / want.abs().max().clamp(min=1e-30)
            assert error <= tolerance, (name, float(error))


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


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("n_neurons", [(32,), (20, 33)])
@settings(max_examples=10)
@given(data=st.data())
def test_any_split_gives_the_same_bits(encoder, n_neurons, data):
    lsnn = make_lsnn(n_neurons, encoder, n_ticks=2, latency=len(n_neurons) - 1, tau_out=2.0)
    features, state, start = make_sequence(lsnn, n_steps=12, n_envs=10)
    y, end = lsnn(features, state, start)
    y_no_grad, _ = lsnn(features.detach(), state, start)
    cut = data.draw(st.integers(1, 11))
    columns = data.draw(st.permutations(range(10)).map(lambda order: order[: len(order) // 2 + 1]))
    part, rest = (features[:, columns], start[:, columns]), state[:, columns]
    first, middle = lsnn(part[0][:cut], rest, part[1][:cut])
    rows, arrays = [], middle.numpy()
    for step in range(cut, 12):
        row, arrays = lsnn.step(part[0][step].numpy(), arrays, part[1][step].numpy())
        rows.append(row.copy())
    assert torch.equal(y, y_no_grad)
    assert torch.equal(first, y[:cut, columns])
    np.testing.assert_array_equal(np.stack(rows), y[cut:, columns].detach().numpy())
    np.testing.assert_array_equal(arrays, end[:, columns].numpy())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_network_round_trip(encoder, tmp_path):
    lsnn = make_lsnn((32, 20), encoder, n_ticks=2, tau_out=2.0, tau_a=(10.0, 200.0), refractory=1, reset="zero")
    n_out = lsnn.n_neurons[-1]
    readout = Readout(np.eye(n_out, dtype=np.float32), np.zeros(n_out, np.float32), lsnn.tau_out, lsnn.count)
    Network(lsnn.current_encoder(), lsnn.network_layers(), readout, n_ticks=2).save(tmp_path / "network")
    network = Network.load(tmp_path / "network")
    again = LSNN.from_network(network)
    for name, value in lsnn.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    features, state, start = make_sequence(lsnn)
    y, end = lsnn(features, state, start)
    assert torch.equal(again(features, state, start)[0], y)
    outputs, last = Simulator(network).run(features.numpy(), state.numpy(), start.numpy())
    np.testing.assert_array_equal(outputs, y.detach().numpy())
    np.testing.assert_array_equal(last, end.numpy())


def test_float64_network_becomes_a_float64_module():
    lsnn = make_lsnn(dtype=torch.float64)
    network = Network(lsnn.encoder, lsnn.network_layers(), Readout(np.zeros((1, 20)), np.zeros(1)))
    assert LSNN.from_network(network).layers[0].bias.dtype == torch.float64


def test_self_connections_count_for_nothing():
    lsnn = make_lsnn((32,), n_ticks=2)
    sequence = make_sequence(lsnn)
    y, _, grads = gradients(lsnn, lsnn, *sequence)
    assert not grads["layers.0.w_rec"].diagonal().any()
    with torch.no_grad():
        lsnn.layers[0].w_rec.fill_diagonal_(3.0)
    assert torch.equal(lsnn(*sequence)[0], y)
    row, _ = lsnn.step(sequence[0][0].numpy(), sequence[1].numpy(), sequence[2][0].numpy())
    np.testing.assert_array_equal(row, y[0].numpy())


def test_step_reads_the_live_parameters():
    lsnn = make_lsnn((32,))
    features, state, start = make_sequence(lsnn)
    arguments = features[0].numpy(), state.numpy(), start[0].numpy()

    def check():
        y, _ = lsnn(features[:1], state, start[:1])
        np.testing.assert_array_equal(lsnn.step(*arguments)[0], y[0].detach().numpy())
        return y.detach()

    seen = [check()]
    with torch.no_grad():
        lsnn.layers[0].bias.add_(0.5)
    seen.append(check())
    lsnn.layers[0].w_in.data = torch.randn(32, N_OBS)  # contiguous the other way round
    seen.append(check())
    lsnn.load_state_dict(make_lsnn((32,), seed=5, v_th=0.7).state_dict())
    seen.append(check())
    lsnn.layers[0].beta.mul_(3)
    check()
    assert not any(torch.equal(a, b) for a, b in pairwise(seen))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: save_load(m)])
def test_a_copy_is_independent(copier):
    lsnn = make_lsnn((32,))
    features, state, start = make_sequence(lsnn)
    arguments = features[0].numpy(), state.numpy(), start[0].numpy()
    y, _ = lsnn.step(*arguments)
    other = copier(lsnn)
    np.testing.assert_array_equal(other.step(*arguments)[0], y)
    with torch.no_grad():
        other.layers[0].bias.add_(1.0)
    assert other.layers[0].w_rec.stride() == lsnn.layers[0].w_rec.stride()  # the kernels' order in memory
    assert not np.array_equal(other.step(*arguments)[0], y)
    np.testing.assert_array_equal(lsnn.step(*arguments)[0], y)


def save_load(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_any_memory_layout_of_the_arguments():
    lsnn = make_lsnn((32,))
    features, state, start = make_sequence(lsnn)
    y, end = lsnn(features, state, start)
    strided = (
        features.transpose(0, 1).contiguous().transpose(0, 1),
        state.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        torch.stack((start, start), -1)[..., 0].bool(),
    )
    again, last = lsnn(*strided)
    assert torch.equal(again, y) and torch.equal(last, end)
    found = gradients(lsnn, lsnn, *strided)[2]
    assert_gradients_agree(found, gradients(lsnn, lsnn, features, state, start)[2], 0.0)
    step = [np.asfortranarray(a) for a in (features[0].numpy(), state.numpy(), start[0].numpy())]
    for array in step:
        array.setflags(write=False)
    np.testing.assert_array_equal(lsnn.step(*step)[0], y[0].detach().numpy())


def test_arguments_are_not_modified_and_gradients_stop_at_the_state():
    lsnn = make_lsnn((32,), encoder="delta", n_ticks=2)
    features, state, start = make_sequence(lsnn)
    before = [array.clone() for array in (features, state, start)]
    y, end = lsnn(features, state, start)
    y.sum().backward()
    lsnn.step(features[0].numpy(), state.numpy(), start[0].numpy())
    assert all(torch.equal(a, b) for a, b in zip(before, (features, state, start), strict=True))
    assert not end.requires_grad


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


def test_encoded_input_is_that_of_the_encoder():
    lsnn = make_lsnn(encoder="rate", n_ticks=3)
    features, state, start = make_sequence(lsnn)
    x, memory = lsnn._encode(features, state, start)
    expected, expected_memory = encode(lsnn.encoder, features.numpy(), state[:1].numpy(), start.numpy(), 3)
    np.testing.assert_array_equal(x.numpy(), expected)
    np.testing.assert_array_equal(memory.numpy(), expected_memory)


def test_adaptive_neurons_are_the_last():
    lsnn = LSNN(ENCODERS["direct"], [10], adaptive_fraction=0.3, beta=0.5, tau_a=(10.0, 100.0))
    np.testing.assert_array_equal(lsnn.layers[0].beta.numpy(), np.array([0] * 7 + [0.5] * 3, np.float32))
    assert 10 <= lsnn.layers[0].tau_a.min() < lsnn.layers[0].tau_a.max() <= 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_neurons": []}, "n_neurons"),
        ({"n_neurons": [8, 0]}, "n_neurons"),
        ({"adaptive_fraction": 1.5}, "adaptive_fraction"),
        ({"rate_coef": -1.0}, "rate_coef"),
        ({"reset": "none"}, "reset"),
        ({"latency": 2}, "latency"),
        ({"n_ticks": 0}, "n_ticks"),
        ({"v_th": 0.0}, "v_th"),
        ({"tau_m": -1.0}, "tau_m"),
        ({"refractory": 0.5}, "refractory"),
        ({"tau_a": (0.0, 10.0)}, "tau_a"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LSNN(ENCODERS["direct"], **{"n_neurons": [8], **options})


def test_shapes_that_do_not_fit_are_refused():
    lsnn = make_lsnn()
    features, state, start = make_sequence(lsnn)
    with pytest.raises(ValueError, match=r"features must be \(L, B, 3\)"):
        lsnn(features, state[:, :3], start)
    with pytest.raises(ValueError, match=r"features must be \(L, B, 3\)"):
        lsnn(features[..., :2], state, start)
    with pytest.raises(ValueError, match="features"):
        lsnn.step(features[0, :, :2].numpy(), state.numpy(), start[0].numpy())


@pytest.mark.parametrize("n", [1, 7, 64, 100])
def test_row_linear_gives_every_batch_the_same_bits(n):
    torch.manual_seed(n)
    linear, x = RowLinear(n, 5), torch.randn(6, 11, n)
    out = linear(x)
    torch.testing.assert_close(out, torch.nn.functional.linear(x, linear.weight, linear.bias), rtol=0, atol=1e-5)
    with torch.no_grad():
        for b in range(11):
            assert torch.equal(linear(x[:, b]), out[:, b])


def test_row_linear_gradients():
    torch.manual_seed(0)
    linear = RowLinear(7, 3).double()
    x = torch.randn(4, 2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(linear, {"weight": w, "bias": b}, (x,)),
        (x, linear.weight, linear.bias),
    )
