"""Arrays of a wrong shape, dtype or value are refused by name; those of an odd layout give the usual bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders import Encoder, encode
from spikeloop.spiking.gradients.equations import run_equations
from spikeloop.spiking.module import LSNN
from spikeloop.spiking.network import Layer, Network, Normalizer
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.simulator import Simulator

ONES = np.ones(3)
ENCODERS = {
    "direct": Encoder("direct", 3),
    "population": Encoder("population", 3, centers=np.tile([-1.0, 1.0], (3, 1)), widths=np.ones((3, 2))),
    "rate": Encoder("rate", 3, low=-ONES, high=ONES),
    "latency": Encoder("latency", 3, low=-ONES, high=ONES, gain=4.0),
    "delta": Encoder("delta", 3, threshold=0.2),
}
L, B, N = 4, 2, 20


def simulator_of(encoder="direct", dtype=np.float32, normalizer=None, **readout):
    rng, n = np.random.default_rng(0), ENCODERS[encoder].n_channels
    neurons = LsnnNeurons(*(np.full(N, value) for value in (5.0, 1.0, 30.0, 0.1, 1.0)))
    w_rec = (rng.normal(0, 0.3, (N, N)) * (1 - np.eye(N))).astype(dtype)
    layer = Layer(rng.normal(0, 1, (N, n)).astype(dtype), np.full(N, 0.1), neurons, w_rec)
    out = Readout(rng.normal(size=(2, N)).astype(dtype), np.zeros(2), **readout)
    steps = () if normalizer is None else (normalizer,)
    return Simulator(Network(ENCODERS[encoder], (layer,), out, ActionHead("discrete", (2,)), steps, n_ticks=2))


def observations():
    return np.random.default_rng(1).integers(-2, 3, (L, B, 3))


WAYS = ["run", "record", "predict", "predict one"]


def call(simulator, way, obs, state=None, start=None):
    """Hand observations of shape (L, B, n), or their first step, or its first environment, to a method."""
    if way in ("run", "record"):
        return getattr(simulator, way)(obs, state, start)
    obs = obs[0] if way == "predict" else obs[0, 0]
    state = state_for(simulator, way) if state is None else state
    return simulator.predict(obs, state, start)


def state_for(simulator, way):
    return simulator.initial_state(1 if way == "predict one" else B)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("way", WAYS)
def test_flags_of_a_wrong_shape_or_dtype_are_refused(encoder, way):
    simulator = simulator_of(encoder)
    shape = {"run": (L, B), "record": (L, B), "predict": (B,), "predict one": (1,)}[way]
    wrong = [np.zeros((*shape[:-1], shape[-1] + 1), bool), np.zeros((2 * shape[0], *shape[1:]), bool)]
    wrong += [np.zeros((*shape, 1), bool), np.zeros((1, *shape), bool), np.zeros(0, bool), np.full(shape, np.nan)]
    wrong += [np.zeros(shape, complex), np.full(shape, "a"), np.full(shape, None), [[True], [True, False]]]
    for start in wrong + ([np.bool_(False)] if way != "predict one" else []):
        with pytest.raises(ValueError, match="episode_start must"):
            call(simulator, way, observations(), state_for(simulator, way), start)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("way", WAYS)
def test_states_of_a_wrong_shape_dtype_or_value_are_refused(encoder, way):
    simulator = simulator_of(encoder)
    good = state_for(simulator, way)
    rows, n, width = good.shape
    wrong = [good[:-1], good[:, :, :-1], good[..., None], good[:, 0], np.zeros((rows, n + 1, width)), (good,)]
    wrong += [good.astype(complex), good.astype(str), good.astype(object)]
    for bad in (np.nan, np.inf):
        for row in range(rows):
            state = good.copy()
            state[row, n - 1, 0] = bad
            wrong.append(state)
    for state in wrong:
        with pytest.raises(ValueError, match=r"state must|keys of random spikes"):
            call(simulator, way, observations(), state)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("way", WAYS)
def test_observations_of_a_wrong_dtype_or_value_are_refused(encoder, way):
    simulator = simulator_of(encoder)
    obs = observations()
    for wrong in (obs.astype(complex), obs.astype(str), obs.astype(object)):
        with pytest.raises(ValueError, match=r"obs.* must be an array of real numbers, got dtype"):
            call(simulator, way, wrong)
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        wrong = obs.astype(np.float64)
        wrong[0, 0, 1] = bad
        with pytest.raises(ValueError, match=r"obs.* must be finite, found (nan|inf|-inf) at index \(0,"):
            call(simulator, way, wrong)


@pytest.mark.parametrize("way", WAYS)
def test_observations_of_a_wrong_shape_are_refused(way):
    simulator = simulator_of()
    for wrong in (np.zeros((L, B, 4)), np.zeros((L, B, 2)), np.zeros((L, B, 3, 1)), np.zeros((L, B, 0))):
        with pytest.raises(ValueError, match=r"obs.* must have shape"):
            call(simulator, way, wrong)
    for wrong in (np.zeros(()), np.zeros((1, 1, 1, 3))):
        with pytest.raises(ValueError, match=r"obs.* must have shape"):
            simulator.predict(wrong)


@pytest.mark.parametrize("way", WAYS)
def test_a_normaliser_may_clip_an_infinite_observation_but_no_nan(way):
    simulator = simulator_of(normalizer=Normalizer(np.zeros(3), np.ones(3), clip=2.0))
    obs = observations().astype(np.float32)
    clipped = obs.copy()
    obs[0, 0], clipped[0, 0] = (np.inf, -np.inf, 1e30), (2.0, -2.0, 2.0)
    for found, right in zip(call(simulator, way, obs)[:2], call(simulator, way, clipped)[:2], strict=True):
        np.testing.assert_array_equal(found, right)
    obs[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"obs.* must be finite, found nan"):
        call(simulator, way, obs)


@pytest.mark.parametrize("way", ["run", "predict", "predict one"])
def test_a_step_that_leaves_the_range_of_its_floats_is_refused(way):
    with pytest.raises(ValueError, match=r"range of float32: obs.* reach 3e\+38, or the weights"):
        call(simulator_of(), way, np.full((1, B, 3), 3e38))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("first_spike", [False, True])
@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (0, 0)])
def test_no_steps_or_no_environments_give_an_empty_result(encoder, first_spike, shape):
    simulator = simulator_of(encoder, first_spike=first_spike)
    outputs, state = simulator.run(np.ones((*shape, 3)))
    assert outputs.shape == (*shape, 2) and state.shape == simulator.initial_state(shape[1]).shape
    outputs, _, monitor = simulator.record(np.ones((*shape, 3)), membranes=True)
    assert outputs.shape == (*shape, 2) and monitor.v[0].shape == (2 * shape[0], shape[1], N)
    assert simulator.predict(np.ones((0, 3)))[0].shape == (0,)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("normalizer", [None, Normalizer(np.zeros(3), np.ones(3), clip=1.5)])
def test_layout_and_dtype_of_an_array_do_not_matter(encoder, dtype, normalizer):
    simulator, obs = simulator_of(encoder, dtype, normalizer), observations()
    start = np.arange(L * B).reshape(L, B) == 5
    state = simulator.run(obs.astype(np.float32)[::-1].copy(), simulator.initial_state(B))[1]
    right = simulator.run(obs.astype(np.float32), state, start)
    for kind in (np.float32, np.float64, np.float16, np.longdouble, np.int8, np.int64, ">f4", ">f8", ">i2"):
        frozen = obs.astype(kind)
        frozen.flags.writeable = False
        layouts = frozen, np.asfortranarray(frozen), np.repeat(frozen, 2, axis=2)[:, :, ::2], frozen[::-1].copy()[::-1]
        for odd in layouts:
            other = np.asfortranarray(state.astype(">f8"))
            found = simulator.run(odd, other, np.asfortranarray(start.astype(int)))
            action, after = simulator.predict(odd[0], other, start[0].astype(">f4"))
            np.testing.assert_array_equal(found[0], right[0])
            np.testing.assert_array_equal(found[1], right[1])
            np.testing.assert_array_equal(action, right[0][0].argmax(1))
            for step in range(1, L):
                _, after = simulator.predict(odd[step], after, start[step])
            np.testing.assert_array_equal(after, right[1])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encode_refuses_what_is_wrong(encoder):
    obs, n_rows = np.zeros((L, B, 3)), len(ENCODERS[encoder].memory_rows)

    def encoded(obs=obs, memory=np.zeros((n_rows, B, 3)), start=None):  # noqa: B008
        return encode(ENCODERS[encoder], obs, memory, start, 2)

    for obs in (
        np.full((L, B, 3), np.nan),
        np.full((L, B, 3), "a"),
        np.zeros((L, B, 2)),
        np.zeros((B, 3)),
        [[1], [1, 2]],
    ):
        with pytest.raises(ValueError, match="obs must"):
            encoded(obs)
    for memory in (np.zeros((3, B, 3)), np.zeros((n_rows, B + 1, 3)), np.zeros(3)):
        with pytest.raises(ValueError, match="memory must have shape"):
            encoded(memory=memory)
    with pytest.raises(ValueError, match="episode_start must have shape"):
        encoded(start=np.zeros((L, 1)))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("sizes", [(64,), (20, 33)])
def test_an_lsnn_refuses_as_well(encoder, sizes):
    lsnn = LSNN(ENCODERS[encoder], sizes, n_ticks=2)
    features, state, start = torch.zeros(L, B, 3), torch.from_numpy(lsnn.initial_state(B)), torch.zeros(L, B)
    nan, blown = features.clone(), state.clone()
    nan[1, 1, 2], blown[-1, 1, 0] = torch.nan, torch.inf
    wrong = [(nan, state, start, r"features must be finite, found nan|obs must be finite, found nan")]
    wrong += [(features, blown, start, r"state must be finite, found inf at index")]
    wrong += [
        (features[..., :2], state, start, "features must be"),
        (features, state[:, :1], start, "features must be"),
    ]
    wrong += [(features, state, start[:, :1], "features must be"), (features, state, start[:1], "features must be")]
    for x, carried, starts, message in wrong:
        with pytest.raises(ValueError, match=message):
            lsnn(x, carried, starts)
        with pytest.raises(ValueError, match=message):
            lsnn.step(x[1].numpy(), carried.numpy(), starts[-1].numpy() if len(starts) == L else starts.numpy())
    with pytest.raises(ValueError, match="features must be"):
        lsnn(features[0], state, start[0])
    with pytest.raises(ValueError, match="features must be"):
        lsnn.step(features.numpy(), state.numpy(), start.numpy())
    with pytest.raises(ValueError, match=r"state torch.float32, got .* torch.float64"):
        lsnn(features, state.double(), start)
    for x, starts in ((features[0].numpy().astype(complex), start[0].numpy()), (features[0].numpy(), np.full(B, "a"))):
        with pytest.raises(ValueError, match="must be an array of real numbers"):
            lsnn.step(x, state.numpy(), starts)


def test_a_step_runs_in_the_dtype_of_the_weights():
    lsnn = LSNN(Encoder("direct", 3), [64])
    obs, state = np.ones((1, 3)), lsnn.initial_state(1)
    right = lsnn.step(obs, state, np.zeros(1))
    for found, wanted in zip(lsnn.step(obs, state.astype(np.float64), np.zeros(1)), right, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ValueError, match="float32 or all float64"):
        lsnn.half().step(obs, state, np.zeros(1))


def test_all_engines_clear_a_state_that_is_not_finite():
    torch.manual_seed(0)
    lsnn = LSNN(Encoder("direct", 3), [20])
    state = torch.from_numpy(lsnn.initial_state(B))
    rest, state[:, 1] = state.clone(), torch.nan
    features, start = torch.randn(L, B, 3), torch.zeros(L, B)
    start[0, 1] = 1
    right = lsnn(features, rest, start)
    for found, wanted in zip(lsnn(features, state, start), right, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    run = run_equations(lsnn.layers, features, state, start, lsnn.timing, lsnn.gradient.spike)
    for found, wanted in zip((run.y, run.state), right, strict=True):
        torch.testing.assert_close(found, wanted)
    y, new = lsnn.step(features[0].numpy(), state.numpy(), start[0].numpy())
    np.testing.assert_array_equal(y, right[0][0].detach().numpy())
    assert np.isfinite(new).all()


def test_a_latency_encoder_that_never_spikes_is_refused_in_training_and_warned_of_in_a_network():
    encoder = Encoder("latency", 3, low=-ONES, high=ONES, gain=2.0)
    message = r"n_ticks=1 and dt=1.0 .* never spikes: .* it needs n_ticks >= 4, or .* a gain above 5.517"
    with pytest.raises(ValueError, match=message):
        LSNN(encoder, [8])
    LSNN(encoder, [8], n_ticks=4)
    network = simulator_of("latency").network
    with pytest.warns(UserWarning, match=message):
        replace(network, encoder=encoder, n_ticks=1)
