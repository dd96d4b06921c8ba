"""Policies with readouts that look at every tick: training, networks, chips, and what is refused."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from deployable import exact_network, observations
from gymnasium import spaces
from learners import Noise, make
from readout_sums import BY_TICK, by_hand, enumerated
from stable_baselines3.common.env_util import make_vec_env

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents import SpikingA2C, SpikingPPO
from spikeloop.agents.compilable import torch_reason
from spikeloop.agents.warm_start import load_network
from spikeloop.hardware import DeployedPolicy, compile_network
from spikeloop.spiking import Network, Readout, Simulator
from spikeloop.spiking.encoders import ENCODERS
from spikeloop.spiking.first_to_spike import spike_probability
from spikeloop.spiking.input_core import InputCore
from spikeloop.spiking.readout_kinds import READOUTS
from spikeloop.spiking.tick_readout import TickReadout

SMALL = {"n_neurons": [8], "net_arch": {"vf": [8]}, "n_ticks": 4, "tau_out": 3.0, "v_th": 0.3}
LATENCY = "spikeloop/LatencyPatterns-v0"
BARE = {"n_neurons": [], "encoder": "spike_times", "net_arch": {"vf": [8]}, "n_ticks": 50, "tau_out": 15.0}


def trained(kind, algo="spiking_ppo", env=None, **policy_kwargs):
    kwargs = {**SMALL, "readout": kind, **policy_kwargs}
    return make(algo, env, policy_kwargs=kwargs).learn(48)


@pytest.mark.parametrize("algo", ["spiking_ppo", "spiking_a2c"])
@pytest.mark.parametrize("kind", BY_TICK)
def test_a_policy_trains_and_acts_as_its_network(kind, algo, tmp_path):
    model = trained(kind, algo, latency=1)
    before = make(algo, policy_kwargs={**SMALL, "readout": kind, "latency": 1}).policy.state_dict()
    assert any(not th.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    model.to_network().save(tmp_path / "file")
    network = Network.load(tmp_path / "file")
    assert (network.readout.kind, network.readout.tau_out) == (kind, 3.0)
    simulator, obs = Simulator(network), np.random.default_rng(0).uniform(-1, 1, (20, 30, 3)).astype("f4")
    state, own = simulator.initial_state(30), None
    for seen in obs:
        action, state = simulator.predict(seen, state)
        expected, own = model.predict(seen, own, np.zeros(30) if own else np.ones(30), deterministic=True)
        np.testing.assert_array_equal(action, expected)
    model.save(tmp_path / "model.zip")
    again = type(model).load(tmp_path / "model.zip", device="cpu")
    np.testing.assert_array_equal(again.predict(obs[0], episode_start=np.ones(30), deterministic=True)[0],
                                  model.predict(obs[0], episode_start=np.ones(30), deterministic=True)[0])  # fmt: skip


@pytest.mark.parametrize("kind", BY_TICK)
@pytest.mark.parametrize("encoder", ["direct", "rate"])
def test_the_first_ratio_of_ppo_is_one_to_the_bit(kind, encoder):
    model = trained(kind, encoder=encoder)
    model._last_obs, _ = model.env.reset(), model._setup_learn(16)
    model.collect_rollouts(model.env, model._setup_learn(16)[1], model.rollout_buffer, model.n_steps)
    for batch in model.rollout_buffer.get(8):
        _, log_prob, entropy = model.policy.evaluate_actions(
            batch.observations, batch.actions.long().flatten(), batch.lstm_states, batch.episode_starts
        )
        np.testing.assert_array_equal(log_prob.detach(), batch.old_log_prob)
        assert th.isfinite(entropy).all()


def test_log_probabilities_of_a_bernoulli_policy_are_exact_and_its_draws_follow_them():
    policy = trained("bernoulli").policy
    obs, start = th.from_numpy(np.random.default_rng(3).uniform(-1, 1, (6, 3)).astype("f4")), th.ones(6)
    state = th.from_numpy(policy.initial_state(6))
    y, _ = policy.actor.step(policy._features(obs)[0], state, start)
    chances = enumerated(spike_probability(policy.action_net.membranes(y).astype(np.float64)))
    distribution = policy._act(y)
    for action in range(3):
        log_prob = distribution.log_prob(th.full((6,), action)).detach().numpy()
        np.testing.assert_allclose(log_prob, np.log(chances[:, action]), atol=1e-6)
    np.testing.assert_allclose(distribution.entropy().detach(), -(chances * np.log(chances)).sum(axis=1), atol=1e-6)
    many = np.repeat(obs[:1].numpy(), 20_000, axis=0)
    drawn = policy.predict(many, episode_start=np.ones(len(many)), deterministic=False)[0]
    shares = np.bincount(drawn, minlength=3) / len(many)
    assert np.abs(shares - chances[0]).max() < 0.02


def test_the_ticks_until_a_decision_are_logged():
    model = trained("bernoulli")
    assert 1 <= model.policy.rollout_figures()["ticks_per_step"] <= 4
    assert "ticks_per_step" not in trained("max").policy.rollout_figures()


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2,))])
def test_max_gives_values_for_actions_of_any_space(space):
    model = trained("max", env=Noise(action_space=space))
    network, obs = model.to_network(), np.random.default_rng(0).uniform(-1, 1, (30, 3)).astype("f4")
    expected = model.predict(obs, episode_start=np.ones(30), deterministic=True)[0]
    np.testing.assert_array_equal(Simulator(network).predict(obs, None, np.ones(30, bool))[0], expected)


def test_the_compiled_training_declines_in_words():
    assert torch_reason(trained("max").policy) == "its readout 'max' takes every tick"
    with pytest.raises(ValueError, match="compiled=True cannot be, as its readout 'bernoulli' takes every tick"):
        make("spiking_ppo", compiled=True, policy_kwargs={**SMALL, "readout": "bernoulli"})


REFUSED = {
    "readout must be one of .*, got 'first_spike'; 'bernoulli' is the first spike": {"readout": "first_spike"},
    "readout must be one of .*, got 'winner'": {"readout": "winner"},
    "readout must be one of .*, got 'largest'": {"readout": "largest"},
    "count=True stands for readout='count', got readout='max'": {"readout": "max", "count": True},
    r"readout='max' takes spikes: net_arch pi must be \[\], got \[8\]": {"readout": "max", "net_arch": {"pi": [8]}},
    "critic_reads_actor must be False with readout='max'": {"readout": "max", "critic_reads_actor": True},
    "an encoder that spikes and a readout of .*, got encoder 'direct'": {"n_neurons": [], "readout": "max"},
    "and readout 'leaky'": {"n_neurons": [], "encoder": "latency", "readout": "leaky"},
    "tau_m must be left out with n_neurons=.*, got 3.0": {"n_neurons": [], "tau_m": 3.0, "readout": "max"},
    "recurrent must be left out with n_neurons=.*, got False": {"n_neurons": [], "recurrent": False, "readout": "max"},
    "calibrate_init must be left out with n_neurons=.*, got 0.2": {"n_neurons": [], "calibrate_init": 0.2},
    "latency must be left out with n_neurons=.*, got 1": {"n_neurons": [], "latency": 1, "readout": "max"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(message):
    kwargs = {"net_arch": {"vf": [8]}, "n_ticks": 4, "n_neurons": [8], **REFUSED[message]}
    with pytest.raises(ValueError, match=message) as refused:
        SpikingPPO("LsnnPolicy", Noise(), n_steps=16, batch_size=16, device="cpu", policy_kwargs=kwargs)
    assert "\n" not in str(refused.value)


def test_a_single_tick_is_told_of():
    with pytest.warns(UserWarning, match="readout='max' looks at every tick of an env step, and n_ticks=1"):
        model = SpikingPPO("LsnnPolicy", Noise(), n_steps=16, batch_size=16, policy_kwargs={"readout": "max"}, seed=0)
    obs = np.random.default_rng(0).uniform(-1, 1, (30, 3)).astype("f4")
    plain = SpikingPPO("LsnnPolicy", Noise(), n_steps=16, batch_size=16, seed=0)
    plain.policy.load_state_dict(model.policy.state_dict())
    for one in (model, plain):
        one.policy.action_net.weight.data.mul_(30)
    expected, found = (one.predict(obs, episode_start=np.ones(30), deterministic=True)[0] for one in (plain, model))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bare", [False, True])
def test_weights_of_a_network_are_loaded_into_a_policy_of_its_kind(bare):
    small = {**BARE, "n_ticks": 4} if bare else SMALL
    one, other, leaky = (
        SpikingPPO("LsnnPolicy", Noise(), n_steps=16, batch_size=16, policy_kwargs=changed, seed=seed)
        for seed, changed in ((0, {**small, "readout": "max"}), (1, {**small, "readout": "max"}), (2, SMALL))
    )
    network = one.to_network()
    load_network(other.policy, network)
    np.testing.assert_array_equal(other.to_network().to_vector(), network.to_vector())
    with pytest.raises(ValueError, match="the policy needs a network whose"):
        load_network(leaky.policy, network)


def test_what_cannot_be_in_some_action_space_is_refused():
    with pytest.raises(ValueError, match="needs Discrete, got MultiDiscrete"):
        trained("bernoulli", env=Noise(action_space=spaces.MultiDiscrete([2, 3])))
    with pytest.raises(ValueError, match="use_sde must be False with readout='max'"):
        box = Noise(action_space=spaces.Box(-1, 1, (2,)))
        make("spiking_ppo", box, use_sde=True, policy_kwargs={**SMALL, "readout": "max"})
    with pytest.raises(ValueError, match="which gradients train on every tick, got 'leaky'"):
        TickReadout(3, 2, "leaky", 0.0, 4)
    with pytest.raises(ValueError, match=r"Readout.dense must be empty with kind 'max'"):
        Readout(np.ones((2, 3)), np.zeros(2), kind="max", dense=(spiking_dense(),))
    with pytest.raises(ValueError, match="no spike arrives"):
        InputCore(ENCODERS["spike_times"](2, [9.0]), n_ticks=4, readout="max")


def spiking_dense():
    from spikeloop.spiking.readout import Dense

    return Dense(np.eye(3), np.zeros(3))


@pytest.mark.parametrize("algo", [SpikingPPO, SpikingA2C])
@pytest.mark.parametrize("encoder", ["spike_times", "population_spikes"])
@pytest.mark.parametrize("kind", BY_TICK)
def test_without_layers_the_encoders_spikes_reach_the_outputs(kind, encoder, algo, tmp_path):
    env = make_vec_env(LATENCY, 4, seed=0)
    kwargs = {**BARE, "readout": kind, "encoder": encoder}
    if encoder == "population_spikes":
        kwargs |= {"encoder_kwargs": {"low": 0.0, "high": 50.0}, "n_ticks": 5}
    options = {
        "n_steps": 8,
        "seed": 0,
        "device": "cpu",
        **({"batch_size": 16, "seq_len": 1} if algo is SpikingPPO else {}),
    }
    model = algo("LsnnPolicy", env, policy_kwargs=kwargs, **options)
    drawn = model.policy.action_net.weight.detach().clone()
    model.learn(64)
    assert not th.equal(model.policy.action_net.weight, drawn)
    assert torch_reason(model.policy) == "its core is InputCore"
    network = model.to_network()
    assert network.layers == () and network.readout.n_neurons == network.encoder.n_channels
    simulator, obs = Simulator(network), gym.make(LATENCY).unwrapped.patterns
    state = simulator.initial_state(len(obs))
    expected = model.predict(obs, (state,), np.zeros(len(obs)), deterministic=True)[0]
    np.testing.assert_array_equal(simulator.predict(obs, state)[0], expected)
    assert model.policy.lstm_actor.n_counted > 0 and model.policy.rollout_counts[0][0].sum() > 0
    model.save(tmp_path / "model.zip")
    again = algo.load(tmp_path / "model.zip", device="cpu").policy.lstm_actor
    assert type(again) is InputCore and again.encoder.kind == encoder


CHIPS = ["loihi1", "loihi2"]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("kind", BY_TICK)
def test_units_on_a_chip_have_the_membranes_of_its_spikes(chip, kind, tmp_path):
    network = exact_network(sizes=(12,), kind=kind, tau_out=8.0, n_ticks=8)
    deployment = compile_network(network, chip)
    assert not deployment.host.reads_spikes and deployment.program.groups[-1][0] == "readout"
    deployment.save(tmp_path / "file")
    policy = DeployedPolicy.load(tmp_path / "file")
    obs, _ = observations(n_steps=30, n_envs=4)
    state, before = policy.initial_state(4).chip, np.zeros((4, 12))
    w, b = (th.from_numpy(a.astype(np.float64)) for a in (network.readout.w_out, network.readout.b_out))
    largest = 0.0
    for seen in obs:
        spikes: list = []
        read, state = policy.machine.run(state, seen, spikes)
        arrived = np.concatenate([before[None], spikes[0][0][:-1]])  # a spike takes a tick
        before = spikes[0][0][-1]
        expected = by_hand(kind, th.from_numpy(arrived.astype(np.float64)).transpose(0, 1), w, b, 8.0, 1.0).numpy()
        found = policy._decide(read)[0]
        np.testing.assert_allclose(found, expected, atol=2e-3)  # 12-bit decays, and v cut to whole units on every tick
        largest = max(largest, np.abs(expected - b.numpy()).max())
    assert largest > 0.5 and not policy.machine.overflowed


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("kind", BY_TICK)
def test_a_chip_takes_the_networks_actions(chip, kind):
    network = exact_network(sizes=(12,), kind=kind, tau_out=8.0, n_ticks=8)
    deployment = compile_network(network, chip)
    policy, interpreted = DeployedPolicy(deployment), DeployedPolicy(deployment, interpreted=True)
    obs, starts = observations(n_steps=30, n_envs=4)
    state, own, same = policy.initial_state(4), None, []
    for seen, start in zip(obs, starts, strict=True):
        action, state = policy.predict(seen, state, start)
        expected, own = Simulator(network).predict(seen, own, start)
        same.append(action == expected)
    assert np.mean(same) >= 0.98  # a neuron at its threshold may spike a tick early or late there
    np.testing.assert_array_equal(interpreted.step(obs[0, :1])[0], DeployedPolicy(deployment).step(obs[0, :1])[0])
    if READOUTS[kind].draws:
        many = np.repeat(obs[:1, 0], 4000, axis=0)
        values, _ = policy.step(many[:1])
        drawn, _ = policy.predict(many, policy.initial_state(4000), deterministic=False)
        assert abs(np.mean(drawn) - np.exp(values[0, 1])) < 0.03


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("kind", BY_TICK)
def test_units_that_the_host_computes_are_the_networks(chip, kind):
    network = exact_network(sizes=(12,), kind=kind, tau_out=8.0, n_ticks=4, latency=0)
    with pytest.warns(UserWarning, match="readout on the host"):
        policy = DeployedPolicy(compile_network(network, chip))
    obs, _ = observations(n_steps=5)
    state, own = policy.initial_state(3), None
    for seen in obs:
        values, state = policy.step(seen, state)
        outputs, own = Simulator(network).run(seen[None], own)
        np.testing.assert_allclose(values, outputs[0], atol=1e-5)


@pytest.mark.filterwarnings("ignore:quantised to 8 bits")
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("kind", BY_TICK)
def test_a_bare_tempotron_runs_on_a_chip(chip, kind):
    env = make_vec_env(LATENCY, 4, seed=0)
    kwargs = {**BARE, "readout": kind}
    options = {"n_steps": 8, "batch_size": 16, "seq_len": 1, "device": "cpu", "seed": 0, "learning_rate": 0.05}
    model = SpikingPPO("LsnnPolicy", env, policy_kwargs=kwargs, **options)
    network = model.learn(320).to_network()
    patterns = gym.make(LATENCY).unwrapped.patterns
    policy = DeployedPolicy(compile_network(network, chip, calibration=patterns))
    values, _ = policy.step(patterns, policy.initial_state(30))
    expected = Simulator(network).run(patterns[None])[0][0]
    assert expected.std() > 0.05
    np.testing.assert_allclose(values, expected, atol=0.06)
