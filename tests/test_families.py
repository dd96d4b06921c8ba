"""Encoders and readouts are tested by their place in ENCODERS and READOUTS: a new one finds its tests here."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.agents.encoders import encoder_for
from spikeloop.hardware import DeployedPolicy, compile_network
from spikeloop.spiking import LSNN, ActionHead, Layer, LsnnNeurons, Network, Readout, Simulator, reference
from spikeloop.spiking.encoders import ENCODERS, Encoder
from spikeloop.spiking.readout_kinds import READOUTS

N_OBS, N_OUT = 2, 3
LOW, HIGH = np.array([-1.0, -2.0], np.float32), np.array([1.0, 2.0], np.float32)
SPIKING = [kind for kind, encoder in ENCODERS.items() if encoder.spikes]
DECIDING = [kind for kind, readout in READOUTS.items() if readout.decide is not None]


def make_network(encoder="direct", readout="leaky", *, layers=True, latency=0, dtype=np.float32, seed=0, n_ticks=4):
    rng = np.random.default_rng(seed)
    source = ENCODERS[encoder].over(LOW, HIGH)
    n = 6 if layers else source.n_channels
    neurons = LsnnNeurons(np.full(6, 4.0), np.ones(6), np.full(6, 50.0), np.repeat([0.0, 0.2], 3), np.zeros(6))
    w_in = (rng.normal(0.5, 1.0, (6, source.n_channels)) / np.sqrt(source.n_channels / N_OBS)).astype(dtype)
    w_rec = rng.normal(0, 0.3, (6, 6)).astype(dtype)
    np.fill_diagonal(w_rec, 0)
    w_out, b_out = rng.normal(size=(N_OUT, n)).astype(dtype), rng.normal(0, 0.1, N_OUT).astype(dtype)
    return Network(
        source,
        (Layer(w_in, np.full(6, 0.2, dtype), neurons, w_rec),) if layers else (),
        Readout(w_out, b_out, tau_out=3.0, kind=readout),
        ActionHead("discrete", (N_OUT,), start=(-1,)),
        n_ticks=n_ticks,
        latency=latency,
    )


NETWORKS = [
    *((encoder, readout, True) for encoder in ENCODERS for readout in READOUTS),
    *((encoder, readout, False) for encoder in SPIKING for readout in DECIDING),
]


def observations(seed, length=5, n_envs=4):
    rng = np.random.default_rng(seed)
    obs = rng.uniform(1.2 * LOW, 1.2 * HIGH, (length, n_envs, N_OBS)).astype(np.float32)
    return obs, rng.random((length, n_envs)) < 0.2


@pytest.mark.parametrize(("encoder", "readout", "layers"), NETWORKS)
@settings(max_examples=5)
@given(seed=st.integers(0, 1000), latency=st.integers(0, 1), dtype=st.sampled_from([np.float32, np.float64]))
def test_a_sequence_is_its_steps_and_a_batch_its_parts(encoder, readout, layers, seed, latency, dtype):
    network = make_network(encoder, readout, layers=layers, latency=latency, dtype=dtype, seed=seed)
    simulator, (obs, starts) = Simulator(network), observations(seed)
    first = simulator.initial_state(obs.shape[1])
    outputs, end, monitor = simulator.record(obs, first, starts)
    assert np.isfinite(outputs).all() and np.isfinite(end).all() and outputs.dtype == dtype
    for part in (slice(0, 1), slice(1, 4)):
        state = first[:, part]
        for step in range(len(obs)):
            y, state = simulator.run(obs[step : step + 1, part], state, starts[step : step + 1, part])
            np.testing.assert_array_equal(y[0], outputs[step, part])
        np.testing.assert_array_equal(state, end[:, part])
    assert (monitor.input is not None) == ENCODERS[encoder].spikes
    # units that draw have no spikes to show: their outputs are exact probabilities
    assert (monitor.output is not None) == (READOUTS[readout].fires and not READOUTS[readout].draws)


@pytest.mark.parametrize(("encoder", "readout", "layers"), NETWORKS)
def test_the_simulator_computes_the_definition(encoder, readout, layers):
    network = make_network(encoder, readout, layers=layers, latency=1, dtype=np.float64)
    simulator, (obs, _) = Simulator(network), observations(1)
    state = simulator.initial_state(obs.shape[1])
    outputs, _, monitor = simulator.record(obs, state)
    memory = state[: len(network.encoder.memory_rows)]
    states, y = reference.rest(network, obs.shape[1]), np.zeros((obs.shape[1], network.readout.n_neurons))
    for step, seen in enumerate(obs):
        x, memory = network.encoder(seen[None].astype(network.encoder.obs_dtype), memory, None, network.n_ticks, 1.0)
        ticks = np.repeat(x, network.n_ticks, axis=0) if network.encoder.held else x[0]
        expected, states, y, _ = reference.step(network, ticks.astype(np.float64), states, y)
        np.testing.assert_allclose(outputs[step], expected, atol=1e-12)
    if monitor.output is not None:  # at the end of a step the units' spikes have decided
        spikes = np.zeros((monitor.total_ticks, obs.shape[1], N_OUT))
        spikes[np.rint(monitor.output.t).astype(int), monitor.output.env, monitor.output.i] = 1
        by_step = spikes.reshape(len(obs), network.n_ticks, obs.shape[1], N_OUT)
        last = by_step.sum(axis=1) if network.readout.clears else by_step[:, -1]
        decided = last.any(axis=-1)
        np.testing.assert_array_equal(last.argmax(-1)[decided], outputs.argmax(-1)[decided])


@pytest.mark.parametrize(("encoder", "readout", "layers"), NETWORKS)
def test_a_network_of_a_file_acts_as_the_one_that_was_saved(encoder, readout, layers, tmp_path):
    network = make_network(encoder, readout, layers=layers)
    network.save(tmp_path / "file")
    obs, _ = observations(2)
    found = [Simulator(one).run(obs)[0] for one in (network, Network.load(tmp_path / "file"))]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("kind", ENCODERS)
def test_lsnn_trains_behind_every_encoder_what_the_simulator_runs(kind):
    encoder, (obs, starts) = ENCODERS[kind].over(LOW, HIGH), observations(3)
    lsnn = LSNN(encoder, [6], n_ticks=4, tau_out=3.0, generator=torch.Generator().manual_seed(0))
    w_out = np.eye(6, dtype=np.float32)
    network = Network(encoder, lsnn.network_layers(), Readout(w_out, np.zeros(6), tau_out=3.0), n_ticks=4)
    state = Simulator(network).initial_state(obs.shape[1])
    features = torch.from_numpy(obs).requires_grad_()
    y, end = lsnn(features, torch.from_numpy(state.copy()), torch.from_numpy(starts.astype(np.float32)))
    outputs, expected = Simulator(network).run(obs, state, starts)
    np.testing.assert_array_equal(y.detach().numpy(), outputs)
    np.testing.assert_array_equal(end.numpy(), expected)
    y.sum().backward()
    assert (features.grad is not None) == encoder.differentiable
    assert torch.isfinite(lsnn.get_parameter(next(name for name, _ in lsnn.named_parameters())).grad).all()


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_says_what_it_is(kind):
    cls = ENCODERS[kind]
    encoder = encoder_for(kind, 3)
    assert cls.kind == kind and (encoder.n_obs, type(encoder)) == (3, cls)
    assert dataclasses.is_dataclass(encoder) and cls.__dataclass_params__.frozen
    assert encoder.blind(10, 1.0) is None
    for bounds in (encoder.expected, encoder.covered):
        assert bounds is None or (np.shape(bounds) == (2, 3) and np.all(bounds[0] < bounds[1]))
    with pytest.raises(ValueError, match="has no option 'colour'"):
        encoder_for(kind, 3, {"colour": 1})


def test_a_network_without_layers_needs_spikes_on_both_sides():
    for changes in ({"encoder": "direct", "readout": "winner"}, {"encoder": "tiles", "readout": "leaky"}):
        with pytest.raises(ValueError, match="must hold at least one layer"):
            make_network(**changes, layers=False)


def test_fields_of_other_kinds_are_passed_over_and_unknown_ones_refused():
    assert Encoder("direct", 2, low=LOW, high=HIGH, gain=3.0).n_channels == 2
    with pytest.raises(ValueError, match="encoder 'direct' has no field 'lows'"):
        Encoder("direct", 2, lows=LOW)


@pytest.mark.parametrize(
    ("flags", "kind"), [({}, "leaky"), ({"count": True}, "count"), ({"first_spike": True}, "first_spike")]
)
def test_the_flags_of_a_readout_name_its_kind(flags, kind):
    readout = Readout(np.ones((2, 3)), np.zeros(2), **flags)
    assert (readout.kind, readout.count) == (kind, kind == "count")
    assert dataclasses.replace(readout, b_out=np.ones(2)).kind == kind
    with pytest.raises(ValueError, match="must be False beside kind 'winner'"):
        Readout(np.ones((2, 3)), np.zeros(2), count=True, kind="winner")


def make_lines(n_channels, n_ticks=3, seed=0):
    """Return a network without layers, of so many input lines."""
    rng = np.random.default_rng(seed)
    dimensions = ENCODERS["tiles"].over(LOW, HIGH, n_tiles=[n_channels // 8 - 1, 1], n_grids=4)
    w = rng.integers(-127, 128, (N_OUT, dimensions.n_channels)) / 128
    readout = Readout(w, np.zeros(N_OUT), kind="winner")
    return Network(dimensions, (), readout, ActionHead("discrete", (N_OUT,)), n_ticks=n_ticks)


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
@pytest.mark.parametrize(("n_channels", "n_parts"), [(400, 1), (10_000, 5)])
def test_a_readout_of_more_lines_than_a_core_has_axons_is_split_and_the_host_adds(chip, n_channels, n_parts, tmp_path):
    network = make_lines(n_channels)
    assert network.encoder.n_channels == n_channels
    deployment = compile_network(network, chip)
    assert deployment.host.n_parts == n_parts
    deployment.save(tmp_path / "file")
    policy = DeployedPolicy.load(tmp_path / "file")
    obs = np.random.default_rng(1).uniform(LOW, HIGH, (300, N_OBS))
    actions, expected = (one.predict(obs, one.initial_state(300))[0] for one in (policy, Simulator(network)))
    assert np.mean(actions == expected) >= 0.98
    interpreted = DeployedPolicy(deployment, interpreted=True)
    x = network.encoder(obs[None, :2], np.zeros((0, 2, N_OBS)), None, 1, 1.0)[0][0]
    read, expected = (one.machine.run(one.machine.initial_state(2), x)[0] for one in (interpreted, policy))
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_allclose(read[-1] * deployment.host.output_scale, x @ network.readout.w_out.T, atol=0.15)


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_each_part_of_a_split_readout_learns(chip):
    deployment = compile_network(make_lines(10_000), chip)
    taught = deployment.taught()
    assert [p.name for p in taught.program.projections] == [f"readout {k}" for k in range(5)]
    assert len({p.learning.seed for p in taught.program.projections}) == 5  # no part rounds as another does
    frozen, policy = DeployedPolicy(taught), DeployedPolicy(taught, learning=True)
    obs, state = np.random.default_rng(1).uniform(LOW, HIGH, (150, N_OBS)), policy.initial_state()
    plain = DeployedPolicy(deployment).predict(obs, frozen.initial_state(150))[0]
    np.testing.assert_array_equal(frozen.predict(obs, frozen.initial_state(150))[0], plain)
    for x in obs:
        action, state = policy.predict(x, state)
        policy.reinforce(1.0 - action)
    changes = policy.changes().values()
    assert sum(change["weights"] for change in changes) == 10_000 * N_OUT
    assert all(change["changed"] > 0 for change in changes)
    assert policy.machine.figures().effective_acs > 0


@pytest.mark.filterwarnings("ignore:quantised to 8 bits")
@pytest.mark.parametrize("layers", [True, False])
@pytest.mark.parametrize("encoder", SPIKING)
def test_a_chip_takes_every_encoder_that_spikes_and_shows_its_spikes(encoder, layers):
    from spikeloop.hardware.recording import record

    network = make_network(encoder, "winner", layers=layers, latency=1)
    obs, _ = observations(4)
    on_chip = record(compile_network(network, "loihi2"), obs)
    simulated = Simulator(network).record(obs)[2]
    for name in ("i", "t", "env"):
        np.testing.assert_array_equal(getattr(on_chip.input, name), getattr(simulated.input, name))
    assert on_chip.output.i.size == simulated.output.i.size == obs.shape[0] * obs.shape[1] * network.n_ticks
