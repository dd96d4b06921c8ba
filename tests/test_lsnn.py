"""An LSNN module computes the same bits in sequence, step, copy and network, and refuses what does not fit."""

import copy
import io
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lsnn_sequences import ENCODERS, N_OBS, assert_gradients_agree, gradients, make_lsnn, make_sequence

from spikeloop.spiking.encoders import encode
from spikeloop.spiking.module import LSNN
from spikeloop.spiking.network import Network
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.row_linear import RowLinear
from spikeloop.spiking.simulator import Simulator


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
    for weights in (lsnn.layers[0].synapses.w_rec, lsnn.network_layers()[0].w_rec):
        assert not weights.diagonal().any()


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
