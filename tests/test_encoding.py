import math
import re

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.spiking.encoders import ENCODERS, Encoder, encode

N_OBS = 3
LOW, HIGH = np.full(N_OBS, -1.0), np.array([1.0, 2.0, 3.0])


def make_encoder(kind, **changes):
    """Return an encoder of uneven numbers; one that this does not know is as its class makes it over a range."""
    known = {
        "direct": {},
        "population": {"centers": np.linspace(-2, 2, 5 * N_OBS).reshape(N_OBS, 5), "widths": np.full((N_OBS, 5), 0.4)},
        "rate": {"low": LOW, "high": HIGH, "gain": 0.8},
        "latency": {"low": LOW, "high": HIGH, "gain": 3.0, "tau": 4.0, "threshold": 0.7},
        "delta": {"threshold": 0.3},
    }
    if kind not in known:
        return ENCODERS[kind].over(LOW, HIGH, **changes)
    return Encoder(kind, N_OBS, **{**known[kind], **changes})


def make_memory(encoder, n_envs, seed=0, dtype=np.float32):
    memory = np.zeros((len(encoder.memory_rows), n_envs, N_OBS + 2), dtype=dtype)
    memory[:, :, :N_OBS] = encoder.initial_memory(n_envs, np.random.default_rng(seed))
    return memory


@st.composite
def sequences(draw):
    length, n_envs = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    obs = hnp.arrays(np.float64, (length, n_envs, N_OBS), elements=st.floats(-5, 5, width=32))
    starts = hnp.arrays(np.bool_, (length, n_envs))
    return draw(obs), draw(starts), draw(st.integers(1, 4)), draw(st.integers(0, 100))


@pytest.mark.parametrize("kind", ENCODERS)
@given(sequence=sequences(), data=st.data())
def test_any_split_of_steps_and_batch_gives_the_same_bits(kind, sequence, data):
    obs, starts, n_ticks, seed = sequence
    length, n_envs, _ = obs.shape
    encoder = make_encoder(kind)
    memory = make_memory(encoder, n_envs, seed)
    x, end = encode(encoder, obs, memory, starts, n_ticks)

    envs = np.array(data.draw(st.permutations(range(n_envs))))
    batch_axis = 1 if encoder.held else 2
    for part in np.split(envs, [data.draw(st.integers(0, n_envs))]):
        state, pieces = memory[:, part], []
        for step in range(length):
            piece, state = encode(encoder, obs[step : step + 1, part], state, starts[step : step + 1, part], n_ticks)
            pieces.append(piece)
        np.testing.assert_array_equal(np.concatenate(pieces), np.take(x, part, batch_axis))
        np.testing.assert_array_equal(state, end[:, part])


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("n_envs", [1, 7, 33])
def test_bits_do_not_depend_on_how_the_arrays_lie_in_memory(kind, n_envs):
    encoder = make_encoder(kind, **({"poisson": True} if kind == "rate" else {}))
    obs = np.random.default_rng(0).normal(size=(5, n_envs, N_OBS)).astype(np.float32)
    memory = make_memory(encoder, n_envs)
    expected = encode(encoder, obs, memory, None, 3)
    buffer = np.zeros((N_OBS, 2 * n_envs, 5), dtype=np.float32)
    buffer[:, ::2] = obs.T
    scattered = encode(encoder, buffer[:, ::2].T, np.asfortranarray(memory), None, 3)
    for got, want in zip(scattered, expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", ENCODERS)
def test_shapes_dtypes_and_untouched_arguments(kind):
    encoder, n_ticks = make_encoder(kind), 4
    obs = np.random.default_rng(0).normal(size=(6, 2, N_OBS))
    memory = make_memory(encoder, 2)
    before = obs.copy(), memory.copy()
    obs.setflags(write=False)
    memory.setflags(write=False)
    x, end = encode(encoder, obs, memory, np.zeros((6, 2)), n_ticks)
    ticks = () if encoder.held else (n_ticks,)
    assert x.shape == (6, *ticks, 2, encoder.n_channels)
    assert x.dtype == np.float32
    assert (end.shape, end.dtype) == (memory.shape, memory.dtype)
    np.testing.assert_array_equal(obs, before[0])
    np.testing.assert_array_equal(memory, before[1])
    assert np.isfinite(x).all()
    if encoder.spikes:
        assert set(np.unique(x)) <= {0.0, 1.0}


def test_wrong_observation_shape_is_refused():
    with pytest.raises(ValueError, match=r"obs must have shape \(L, B, 3\), got \(2, 3\)"):
        encode(make_encoder("direct"), np.zeros((2, 3)), np.zeros((0, 2, 3)), None, 1)


def test_population_is_gaussian_and_dim_major():
    encoder = make_encoder("population")
    obs = np.random.default_rng(1).normal(size=(1, 1, N_OBS)).astype(np.float32)
    x, _ = encode(encoder, obs, make_memory(encoder, 1), None, 1)
    expected = [
        math.exp(-0.5 * ((float(obs[0, 0, dim]) - float(c)) / float(w)) ** 2)
        for dim in range(N_OBS)
        for c, w in zip(encoder.centers[dim], encoder.widths[dim], strict=True)
    ]
    np.testing.assert_array_equal(x[0, 0], np.array(expected, dtype=np.float32))


@given(value=st.floats(-2, 4, width=32), dt=st.sampled_from([0.5, 1.0]))
def test_latency_fires_once_when_the_circuit_passes_the_threshold(value, dt):
    encoder, n_ticks = make_encoder("latency"), 12
    x, _ = encode(encoder, np.full((1, 1, N_OBS), value), make_memory(encoder, 1), None, n_ticks, dt)
    for dim in range(N_OBS):
        s = min(max((value - LOW[dim]) / (HIGH[dim] - LOW[dim]), 0.0), 1.0)
        charges = [encoder.gain * s * (1 - math.exp(-(k + 1) * dt / encoder.tau)) for k in range(n_ticks)]
        if min(abs(charge - encoder.threshold) for charge in charges) < 1e-9:
            continue  # exp and expm1 may round to different sides
        expected = next((k for k in range(n_ticks) if charges[k] > encoder.threshold), None)
        assert np.flatnonzero(x[0, :, 0, dim]).tolist() == ([] if expected is None else [expected])


def test_latency_matches_the_closed_form_of_the_first_passage():
    # t = tau ln(I / (I - threshold)); Eshraghian et al. 2023, latency coding.
    encoder = Encoder("latency", 1, low=[0.0], high=[1.0], gain=2.0, tau=5.0)
    for intensity in (0.6, 0.75, 1.0):
        x, _ = encode(encoder, np.full((1, 1, 1), intensity), np.zeros((0, 1, 1)), None, 50)
        passage = 5.0 * math.log(2 * intensity / (2 * intensity - 1))
        assert np.flatnonzero(x[0, :, 0, 0]).tolist() == [math.floor(passage)]


@given(gain=st.floats(1.01, 20), tau=st.floats(0.5, 30), dt=st.sampled_from([0.5, 1.0, 2.0]))
def test_a_latency_encoder_is_blind_until_it_has_the_ticks_it_asks_for(gain, tau, dt):
    encoder = Encoder("latency", 1, low=[0.0], high=[1.0], gain=gain, tau=tau)

    def spikes(n_ticks):
        return encode(encoder, np.ones((1, 1, 1)), np.zeros((0, 1, 1)), None, n_ticks, dt)[0].any()

    needed = math.log(gain / (gain - 1)) * tau / dt
    if abs(needed - round(needed)) < 1e-6:
        return  # the last bits decide
    fault = encoder.blind(1, dt)
    assert (fault is None) == spikes(1)
    if fault is not None:
        n_ticks = int(re.search(r"n_ticks >= (\d+)", fault).group(1))
        assert spikes(n_ticks) and not spikes(n_ticks - 1)
        assert encoder.blind(n_ticks, dt) is None and encoder.blind(n_ticks - 1, dt) is not None


@given(sequence=sequences())
def test_delta_follows_its_equations(sequence):
    obs, starts, n_ticks, _ = sequence
    encoder = make_encoder("delta")
    memory = make_memory(encoder, obs.shape[1])
    memory[0, :, :N_OBS] = 0.25
    x, end = encode(encoder, obs, memory, starts, n_ticks)
    threshold = np.float32(encoder.threshold)
    for env in range(obs.shape[1]):
        for dim in range(N_OBS):
            level = np.float32(0.25)
            for step in range(obs.shape[0]):
                if starts[step, env]:
                    level = np.float32(0.0)
                target = np.float32(obs[step, env, dim])
                for k in range(n_ticks):
                    up = target - level > threshold
                    down = level - target > threshold
                    assert x[step, k, env, [dim, N_OBS + dim]].tolist() == [up, down]
                    level = np.float32(level + threshold * up - threshold * down)
            assert end[0, env, dim] == level


def test_a_change_of_exactly_the_threshold_is_no_event():
    encoder = Encoder("delta", 1, threshold=0.25)
    for value in (0.25, -0.25):
        x, _ = encode(encoder, np.full((1, 1, 1), value), np.zeros((1, 1, 1)), None, 3)
        assert x.max() == 0.0


def test_delta_level_tracks_a_held_observation_to_within_the_threshold():
    encoder = make_encoder("delta")
    obs = np.tile(np.array([2.0, -1.5, 0.1], dtype=np.float32), (1, 1, 1))
    _, end = encode(encoder, obs, make_memory(encoder, 1, dtype=np.float64), None, 20)
    assert np.all(np.abs(end[0, 0, :N_OBS] - obs[0, 0]) <= encoder.threshold)
    assert end.dtype == np.float64


def test_rate_replays_from_its_keys_and_ignores_episode_starts():
    encoder = make_encoder("rate")
    obs = np.zeros((20, 4, N_OBS))
    memory = make_memory(encoder, 4)
    first = encode(encoder, obs, memory, None, 5)
    again = encode(encoder, obs, memory, np.ones((20, 4)), 5)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert np.all(first[1][0, :, 0] != memory[0, :, 0])
    other = encode(encoder, obs, make_memory(encoder, 4, seed=1), None, 5)[0]
    assert np.any(other != first[0])


def test_keys_are_exact_in_float32_and_their_generator_has_full_period():
    from spikeloop.spiking.encoders import keys as of_keys

    # Hull & Dobell 1962: increment odd, multiplier 1 modulo 4.
    assert int(of_keys.KEY_INCREMENT) % 2 == 1
    assert int(of_keys.KEY_MULTIPLIER) % 4 == 1
    keys = make_encoder("rate").initial_memory(1000, np.random.default_rng(0))[0, :, 0]
    assert keys.dtype == np.float32
    assert np.all((keys == np.round(keys)) & (keys >= 0) & (keys < 2**24))
    encoder = make_encoder("rate")
    memory = make_memory(encoder, 3)
    memory[0, :, 0] = [0, 1, 2**24 - 1]
    _, end = encode(encoder, np.zeros((1, 3, N_OBS)), memory, None, 1)
    expected = [(int(k) * int(of_keys.KEY_MULTIPLIER) + int(of_keys.KEY_INCREMENT)) % 2**24 for k in memory[0, :, 0]]
    assert end[0, :, 0].tolist() == expected


@pytest.mark.parametrize("poisson", [False, True])
def test_rate_has_the_stated_probability_and_independent_ticks_and_channels(poisson):
    encoder = make_encoder("rate", poisson=poisson)
    obs = np.array([-2.0, 0.5, 9.0])  # intensity 0, 0.5, 1
    length, n_envs, n_ticks = 400, 8, 10
    memory = make_memory(encoder, n_envs)
    x, _ = encode(encoder, np.tile(obs, (length, n_envs, 1)), memory, None, n_ticks)
    p = encoder.gain * np.array([0.0, 0.5, 1.0])
    p = 1 - np.exp(-p) if poisson else p
    n = length * n_envs * n_ticks
    assert np.all(np.abs(x.mean(axis=(0, 1, 2)) - p) <= 5 * np.sqrt(p * (1 - p) / n))
    spikes = x[..., 1:].transpose(1, 3, 0, 2).reshape(2 * n_ticks, -1)  # one row per tick and channel
    correlation = np.corrcoef(spikes) - np.eye(len(spikes))
    assert np.max(np.abs(correlation)) < 5 / math.sqrt(spikes.shape[1])
    successive = np.corrcoef(x[:-1, ..., 1].ravel(), x[1:, ..., 1].ravel())[0, 1]
    assert abs(successive) < 5 / math.sqrt(n)


def test_rate_extremes_never_and_always_spike():
    encoder = make_encoder("rate", gain=1.0)
    memory = make_memory(encoder, 16)
    x, _ = encode(encoder, np.tile([-1.0, 2.0, 3.0], (50, 16, 1)), memory, None, 4)
    assert x[..., 0].max() == 0.0
    assert x[..., 1:].min() == 1.0
