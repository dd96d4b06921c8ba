import copy
import pickle
import warnings

import numpy as np
import pytest

from spikeloop.spiking import ActionHead, Encoder, Layer, LsnnNeurons, Network, Normalizer, Readout, reference
from spikeloop.spiking.simulator import Simulator

N_OBS = 3
LOW, HIGH = -np.ones(N_OBS), np.ones(N_OBS)
ENCODERS = {
    "direct": Encoder("direct", N_OBS),
    "population": Encoder(
        "population", N_OBS, centers=np.tile([-1.0, 0.0, 1.0], (N_OBS, 1)), widths=np.full((N_OBS, 3), 0.5)
    ),
    "rate": Encoder("rate", N_OBS, low=LOW, high=HIGH, gain=0.7),
    "latency": Encoder("latency", N_OBS, low=LOW, high=HIGH, gain=3.0),
    "delta": Encoder("delta", N_OBS, threshold=0.25),
}
NORMALIZER = Normalizer(np.array([0.1, -0.2, 0.3]), np.array([1.0, 2.0, 0.5]), clip=1.5)


def make_network(encoder="direct", sizes=(32,), dtype=np.float32, normalizer=NORMALIZER, seed=0, head=None, **options):
    rng = np.random.default_rng(seed)
    encoder = ENCODERS[encoder]
    layers, n_in = [], encoder.n_channels
    for n in sizes:
        w_rec = (rng.normal(0, 0.3, (n, n)) * (1 - np.eye(n))).astype(dtype)
        zeros = np.zeros(n)
        neurons = LsnnNeurons(zeros + 5.0, zeros + 1.0, zeros + 30.0, np.linspace(0, 0.3, n), zeros)
        w_in, bias = rng.normal(0, 0.7, (n, n_in)).astype(dtype), np.full(n, 0.2, dtype)
        layers.append(Layer(w_in, bias, neurons, w_rec))
        n_in = n
    first_spike = options.pop("first_spike", False)
    readout = Readout(
        rng.normal(0, 0.5, (4, n_in)).astype(dtype), np.linspace(0, 0.1, 4).astype(dtype), 2.0, first_spike=first_spike
    )
    head = head or ActionHead("discrete", (4,))
    steps = () if normalizer is None else (normalizer,)
    return Network(encoder, tuple(layers), readout, head, steps, **{"n_ticks": 3, **options})


def observations(n_steps, n_envs, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_steps, n_envs, N_OBS)).astype(np.float32), rng.random((n_steps, n_envs)) < 0.15


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("sizes", [(32,), (20, 33)])
def test_step_by_step_gives_the_bits_of_the_whole_run(encoder, sizes):
    simulator = Simulator(make_network(encoder, sizes, latency=len(sizes) - 1))
    obs, start = observations(12, 5)
    state = first = simulator.initial_state(5)
    outputs, end = simulator.run(obs, first, start)
    for step in range(len(obs)):
        action, state = simulator.predict(obs[step], state, start[step])
        np.testing.assert_array_equal(action, outputs[step].argmax(1))
    np.testing.assert_array_equal(state, end)
    # and of the batch in two parts
    parts = [simulator.run(obs[:, part], first[:, part], start[:, part]) for part in (slice(0, 2), slice(2, 5))]
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts], axis=1), outputs)
    np.testing.assert_array_equal(np.concatenate([p[1] for p in parts], axis=1), end)


def test_fused_step_has_the_outputs_of_the_run():
    simulator = Simulator(make_network(sizes=(20, 33)))
    obs, start = observations(12, 3)
    state = simulator.initial_state(3)
    outputs, _ = simulator.run(obs, state, start)
    for step in range(len(obs)):
        found, state, _ = simulator._act(obs[step], state, start[step])
        np.testing.assert_array_equal(found, outputs[step])


def test_arguments_are_values():
    simulator = Simulator(make_network("delta"))
    obs, start = observations(4, 2)
    _, state = simulator.run(obs, None, start)
    for array in (obs, start, state):
        array.setflags(write=False)
    before = state.copy()
    first = simulator.predict(obs[0], state, start[0])
    second = simulator.predict(obs[0], state, start[0])
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(state, before)
    assert not np.shares_memory(first[1], second[1])


@pytest.mark.parametrize("encoder", ["direct", "delta"])
def test_any_layout_and_dtype_of_observations(encoder):
    simulator = Simulator(make_network(encoder))
    obs = np.round(observations(6, 4)[0] * 8)
    state = simulator.initial_state(4)
    expected, end = simulator.run(obs, state)
    for variant in (obs.astype(np.float64), obs.astype(np.int64), np.asfortranarray(obs), obs[:, :, ::-1][:, :, ::-1]):
        outputs, _ = simulator.run(variant, state)
        np.testing.assert_array_equal(outputs, expected)
        action, _ = simulator.predict(variant[0], np.asfortranarray(state))
        np.testing.assert_array_equal(action, expected[0].argmax(1))
    np.testing.assert_array_equal(simulator.run(obs, np.asfortranarray(state))[1], end)


def test_one_observation_gives_one_action():
    network = make_network()
    simulator = Simulator(network)
    obs, _ = observations(1, 1)
    action, state = simulator.predict(obs[0, 0])
    batch, batch_state = simulator.predict(obs[0], simulator.initial_state(1))
    assert np.ndim(action) == 0 and batch.shape == (1,)
    assert action == batch[0]
    np.testing.assert_array_equal(state, batch_state)


def test_box_actions():
    head = ActionHead("box", (1,) * 4, (2, 2), low=np.full((2, 2), -0.1), high=np.full((2, 2), 0.3))
    simulator = Simulator(make_network(head=head))
    obs, _ = observations(1, 3)
    actions, _ = simulator.predict(obs[0])
    np.testing.assert_array_equal(actions, head(simulator.run(obs)[0][0]))
    assert simulator.predict(obs[0, 0], simulator.initial_state())[0].shape == (2, 2)


@pytest.mark.parametrize("latency", [0, 1])
def test_first_spike_readout_is_that_of_the_reference(latency):
    network = make_network(dtype=np.float64, normalizer=None, first_spike=True, latency=latency, n_ticks=4)
    obs, start = observations(10, 3)
    outputs, _ = Simulator(network).run(obs, None, start)
    states, y = [tuple(np.zeros((4, 3, 32)))], np.zeros((3, 32))
    for step, x in enumerate(obs.astype(np.float64)):
        keep = 1.0 - start[step][:, None]
        states = [tuple(keep * row for row in states[0])]
        expected, states, y, _ = reference.step(network, np.repeat(x[None], 4, 0), states, keep * y)
        np.testing.assert_allclose(outputs[step], expected, atol=1e-12)


def test_record_is_the_run_with_its_spikes():
    simulator = Simulator(make_network(sizes=(20, 33)))
    obs, start = observations(8, 3)
    outputs, state = simulator.run(obs, None, start)
    counts = [count.copy() for count in simulator.spike_counts]
    recorded, end, monitor = simulator.record(obs, None, start)
    np.testing.assert_array_equal(recorded, outputs)
    np.testing.assert_array_equal(end, state)
    for got, want in zip(monitor.spike_counts, counts, strict=True):
        np.testing.assert_array_equal(got, want)
    assert monitor.v is None and (monitor.total_ticks, monitor.n_envs, monitor.n_ticks) == (24, 3, 3)
    v = simulator.record(obs, None, start, membranes=True)[2].v
    assert [u.shape for u in v] == [(24, 3, 20), (24, 3, 33)]
    np.testing.assert_array_equal(v[0][-1], state[0, :, :20])


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_outlives_the_original(copier):
    simulator = Simulator(make_network(sizes=(20, 33)))
    obs, _ = observations(5, 1)
    outputs, _ = simulator.run(obs)
    simulator = copier(simulator)
    state = simulator.initial_state()
    for step in range(len(obs)):
        action, state = simulator.predict(obs[step], state)
        assert action[0] == outputs[step, 0].argmax()


def test_rate_keys_come_from_the_generator():
    network = make_network("rate")
    first, second = (Simulator(network, np.random.default_rng(3)).initial_state(4) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(set(first[0, :, 0])) == 4


def test_predict_warns_once_when_the_state_is_dropped():
    obs, _ = observations(1, 2)
    simulator = Simulator(make_network())
    _, state = simulator.predict(obs[0])
    simulator.predict(obs[0], state)
    simulator.predict(obs[0], episode_start=np.ones(2))
    simulator.predict(obs[0])
    with pytest.warns(UserWarning, match="Pass the returned state"):
        simulator.predict(obs[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulator.predict(obs[0])


def test_what_cannot_be_run_is_refused():
    obs, _ = observations(2, 2)
    simulator = Simulator(make_network())
    with pytest.raises(ValueError, match="deterministic"):
        simulator.predict(obs[0], deterministic=False)
    with pytest.raises(ValueError, match="observation must have shape"):
        simulator.predict(obs[0, :, :2])
    with pytest.raises(ValueError, match=r"obs must have shape \(L, B, 3\)"):
        simulator.run(obs[:, :, :2])
    with pytest.raises(ValueError, match="shape"):
        simulator.run(obs[0])
    with pytest.raises(ValueError, match=r"state must have shape \(5, 2, 32\)"):
        simulator.predict(obs[0], np.zeros((5, 3, 32), np.float32))
    headless = Network(simulator.network.encoder, simulator.network.layers, simulator.network.readout)
    with pytest.raises(ValueError, match="no action head"):
        Simulator(headless).predict(obs[0])
