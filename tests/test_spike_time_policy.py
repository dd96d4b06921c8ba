"""Policies of exact spike times: what PPO, networks, files, the simulator and the chips make of them."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from whole_steps import (
    check_benchmark_prints_a_row,
    check_evolution_goes_on,
    check_refusals_of_a_core,
    check_refusals_of_a_policy,
    check_saved_model_acts_alike,
    check_what_is_for_lsnn_layers_says_so,
    simulated,
)

from spikeloop.agents import SpikingA2C, SpikingPPO
from spikeloop.agents.policies import POLICIES
from spikeloop.agents.spike_time_policy import SpikeTimePolicy
from spikeloop.scripts.bench import spike_time
from spikeloop.scripts.load_policy import Policy
from spikeloop.spiking import LSNN, ActionHead, Encoder, FirstSpikes, Network, Readout, Simulator, SpikeTimeLayer
from spikeloop.spiking.spike_time import KERNELS
from spikeloop.spiking.spike_time_module import SpikeTimeCore

SPACE = spaces.Box(-3.0, 3.0, (4,))


def model_of(env="CartPole-v1", algo=SpikingPPO, **policy_kwargs):
    sizes = {} if algo is SpikingA2C else {"batch_size": 32}
    return algo("SpikeTimePolicy", env, n_steps=32, seed=0, policy_kwargs={"n_neurons": 12, **policy_kwargs}, **sizes)


def network_of(n_layers=2, dtype=np.float32, **changed):
    rng, n, layers = np.random.default_rng(0), 4, []
    for size in [5] * (n_layers - 1) + [3]:
        w = rng.normal(0.3, 0.5, (size, n + 2)).astype(dtype)
        layers.append(SpikeTimeLayer(w[:, :n], w[:, n:], np.array([0.0, 1.0], dtype), deadline=1.6 + len(layers)))
        n = size
    parts = dict(
        encoder=FirstSpikes(2, np.zeros(2), np.ones(2)),
        layers=tuple(layers),
        readout=Readout(-2 * np.eye(3, dtype=dtype), np.zeros(3, dtype)),
        head=ActionHead("discrete", (3,)),
        dt=5.0,
    )
    return Network(**{**parts, **changed})


@pytest.mark.parametrize("algo", [SpikingPPO, SpikingA2C])
def test_the_simulator_acts_as_the_policy_does(algo, tmp_path):
    model = model_of(algo=algo, obs_scale=[1.0, 1.0, 10.0, 1.0]).learn(64)
    simulator = simulated(model, tmp_path / "policy.safetensors", n_steps=50)
    core = model.policy.lstm_actor
    assert simulator.steps.decided.tolist() == core.decided.tolist()
    for ours, theirs in zip(simulator.spike_counts, core.spike_counts, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert max(count.max() for count in core.spike_counts) <= core.n_counted  # once per decision at most


def test_the_first_ratio_is_one():
    model = model_of()
    env_steps = model.n_steps * model.n_envs
    model._setup_learn(env_steps)
    callback = model._init_callback(None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    for batch in model.rollout_buffer.get(32):
        actions = batch.actions.long().flatten()
        _, log_prob, _ = model.policy.evaluate_actions(
            batch.observations, actions, batch.lstm_states, batch.episode_starts
        )
        assert torch.equal(log_prob, batch.old_log_prob)


def test_an_update_moves_weights_and_leaves_the_readout():
    model = model_of()
    before = [layer.w_in.detach().clone() for layer in model.policy.lstm_actor.layers]
    model.learn(64)
    assert all(not torch.equal(w, layer.w_in) for w, layer in zip(before, model.policy.lstm_actor.layers, strict=True))
    np.testing.assert_array_equal(model.to_network().readout.w_out, -10 * np.eye(2))
    assert not any(p.requires_grad for p in model.policy.action_net.parameters())
    frozen = model_of(train_hidden=False)
    before = frozen.policy.lstm_actor.layers[0].w_in.detach().clone()
    frozen.learn(64)
    assert torch.equal(before, frozen.policy.lstm_actor.layers[0].w_in)


def test_a_model_is_saved_and_its_rollouts_are_logged(tmp_path):
    model = model_of()
    model.set_logger(configure(None, []))
    model._setup_learn(32)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    logged, record = model.logger.name_to_value, model.policy.rollout_counts
    n = model.n_steps * model.n_envs
    assert record[1] == n and logged["spiking/spikes"] == sum(int(count.sum()) for count in record[0]) / n
    assert 0 < logged["spiking/decision_time"] <= 5.0 and 0 <= logged["spiking/before_deadline"] <= 1
    model.predict(np.zeros((9, 4), np.float32), episode_start=np.ones(9))  # of no rollout
    assert model.policy.rollout_decided[0] == n and model.policy.lstm_actor.decided[0] == 9
    check_saved_model_acts_alike(model, tmp_path / "model")


def test_multi_discrete_actions_wait_for_the_first_spike_of_each_group():
    policy = SpikeTimePolicy(SPACE, spaces.MultiDiscrete([2, 3]), lambda _: 1e-3, n_neurons=6)
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    actions, (state,) = policy.predict(obs, episode_start=np.ones(5), deterministic=True)
    t = state[0, :, :5]
    np.testing.assert_array_equal(actions, np.stack([t[:, :2].argmin(1), t[:, 2:].argmin(1)], axis=1))
    latest = np.maximum(t[:, :2].min(1), t[:, 2:].min(1))
    assert policy.lstm_actor.decided[1] == pytest.approx(latest.sum())


@pytest.mark.parametrize("kernel", KERNELS)
def test_xor_is_learnt(kernel):
    """Two inputs, two outputs: what no network without a hidden layer tells apart."""
    torch.manual_seed(0)
    policy = SpikeTimePolicy(spaces.Box(-3, 3, (2,)), spaces.Discrete(2), lambda _: 1e-3, n_neurons=32, kernel=kernel)
    core, x = policy.lstm_actor, torch.tensor([[-2.0, -2.0], [-2.0, 2.0], [2.0, -2.0], [2.0, 2.0]])
    wanted, optimizer = torch.tensor([0, 1, 1, 0]), torch.optim.Adam(core.parameters(), 5e-3)
    state, start = torch.from_numpy(core.initial_state(4)), torch.ones(1, 4)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(-10 * core(x[None], state, start)[0][0], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.15


def test_tau_is_a_unit():
    obs, found = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), []
    for tau in (1.0, 10.0):
        torch.manual_seed(0)
        policy = SpikeTimePolicy(SPACE, spaces.Discrete(3), lambda _: 1e-3, tau=tau)
        found.append(
            (*policy.predict(obs, episode_start=np.ones(6), deterministic=True), policy.action_net.weight[0, 0])
        )
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(10 * found[0][1][0], found[1][1][0], rtol=1e-5)
    assert found[0][2] == pytest.approx(10 * found[1][2].item())


def test_a_price_on_time_joins_the_gradient():
    grads = []
    for coef in (0.0, 0.6):
        torch.manual_seed(0)
        policy = SpikeTimePolicy(SPACE, spaces.Discrete(2), lambda _: 1e-3, n_neurons=6, time_coef=coef)
        core = policy.lstm_actor
        t, _ = core(torch.zeros(3, 2, 4), torch.from_numpy(core.initial_state(2)), torch.zeros(3, 2))
        (t.sum() * 0.05).backward()  # the mean of 12 times weighs 0.6 / 12 as much each
        grads.append(core.layers[1].w_in.grad)
    torch.testing.assert_close(grads[1], 2 * grads[0])


def test_recorded_spikes_have_exact_times():
    network = network_of()
    obs = np.random.default_rng(1).normal(size=(4, 2, 2)).astype(np.float32)
    outputs, _, monitor = Simulator(network).record(obs)
    t = network.encoder(obs, np.zeros((0, 2, 2)), None, 1, 5.0)[0].reshape(8, 4)
    for layer, spikes in zip(network.layers, monitor.layers, strict=True):
        t = layer.run(t, 5.0)
        step, i = np.nonzero(t < 5.0)
        wanted = np.array(sorted(zip(step // 2 * 5.0 + t[step, i].astype(float), step % 2, i, strict=True)))
        np.testing.assert_allclose(np.stack([spikes.t, spikes.env, spikes.i], axis=1), wanted)
        assert (np.diff(spikes.t) >= 0).all()
    np.testing.assert_allclose(outputs.reshape(8, 3), -2 * t, rtol=1e-6)
    assert monitor.rates[1].max() <= 1.0
    with pytest.raises(ValueError, match="no membranes on ticks"):
        Simulator(network).record(obs, membranes=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_is_a_file_and_a_vector(dtype, tmp_path):
    network = network_of(dtype=dtype)
    network.save(tmp_path / "network")
    loaded, obs = Network.load(tmp_path / "network"), np.ones((1, 3, 2), np.float32)
    outputs, state = Simulator(loaded).run(obs)
    np.testing.assert_array_equal(outputs, Simulator(network).run(obs)[0])
    assert state.shape == (1, 3, 5) and state.dtype == dtype
    vector = network.to_vector()
    assert vector.shape == (5 * 6 + 3 * 7 + 9 + 3,)
    moved = network.with_vector(vector + 1)
    np.testing.assert_array_equal(moved.layers[1].w_in, network.layers[1].w_in + 1)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"n_ticks": 2}, "n_ticks must be 1 with layers of SpikeTimeLayer, got 2"),
        ({"latency": 1}, "latency must be 0 with layers of SpikeTimeLayer, got 1"),
        ({"encoder": Encoder("direct", 4)}, "must be 'first_spikes' before SpikeTimeLayer, got 'direct'"),
        ({"readout": Readout(np.ones((3, 3), np.float32), np.zeros(3), count=True)}, "'leaky' with tau_out 0"),
        ({"dt": 600.0}, "dt must be at most 500 tau"),
    ],
)
def test_a_network_refuses_what_its_layers_cannot_follow(changed, fault):
    with pytest.raises(ValueError, match=fault):
        network_of(**changed)


def test_layers_of_two_kinds_are_refused():
    ticks = LSNN(Encoder("direct", 5), [3]).network_layers()
    with pytest.raises(ValueError, match="must all be of one type"):
        network_of(layers=(network_of().layers[0], *ticks))


def test_what_is_for_lsnn_layers_says_so():
    check_what_is_for_lsnn_layers_says_so(model_of(), network_of())


@pytest.mark.parametrize(
    ("action_space", "kwargs", "fault"),
    [
        (spaces.Box(-1, 1, (1,)), {}, "Discrete or MultiDiscrete actions, got Box"),
        (spaces.MultiBinary(3), {}, "Discrete or MultiDiscrete actions, got MultiBinary"),
        (spaces.Discrete(2), {"net_arch": {"pi": [8]}}, "net_arch pi must be"),
        (spaces.Discrete(2), {"kernel": "beta"}, "kernel must be one of"),
        (spaces.Discrete(2), {"window": 2.0}, "window must be above the outputs' deadline, 2.6"),
        (spaces.Discrete(2), {"n_pulses": -1}, "n_pulses must be"),
        (spaces.Discrete(2), {"floor": -0.1}, "floor must be"),
    ],
)
def test_a_policy_refuses_what_it_cannot_be(action_space, kwargs, fault):
    with pytest.raises(ValueError, match=fault):
        SpikeTimePolicy(SPACE, action_space, lambda _: 1e-3, **kwargs)


def test_a_convolution_and_an_option_of_the_lsnn_are_refused():
    check_refusals_of_a_policy(SpikeTimePolicy)


def test_a_rollout_tells_spikes_and_times_of_decisions():
    simulator = Simulator(network_of())
    policy = Policy(simulator, None, "a policy")
    assert policy.decisions() is None  # none yet
    obs = np.random.default_rng(0).normal(size=(40, 2))
    simulator.predict(obs, episode_start=np.ones(40))
    t = simulator.network.encoder(obs[None].astype(np.float32), np.zeros((0, 40, 1)), None, 1, 5.0)[0][0]
    answers = []
    for layer in simulator.network.layers:
        t = layer.run(t, 5.0)
        answers.append(t)
    assert policy.decisions() == pytest.approx(
        {
            "spikes_per_decision": sum((t < 5.0).sum() for t in answers) / 40,
            "decision_time_ms": t.min(axis=1).mean(),
            "share_before_deadline": (t.min(axis=1) < 2.6).mean(),
        }
    )
    other = Simulator(network_of(readout=Readout(np.ones((3, 3), np.float32), np.zeros(3))))
    other.predict(obs, episode_start=np.ones(40))
    assert Policy(other, None, "no first spike").decisions() is None


def test_the_benchmark_prints_a_row(capsys):
    check_benchmark_prints_a_row(spike_time, capsys)


def test_a_core_refuses_wrong_shapes():
    check_refusals_of_a_core(SpikeTimeCore(FirstSpikes(2, np.zeros(2), np.ones(2)), network_of().layers, 5.0, (3,)))


def test_the_policy_is_registered():
    assert POLICIES["SpikeTimePolicy"] is SpikeTimePolicy


def test_evolution_goes_on_from_it_in_float_and_is_refused_on_a_chip():
    env = make_vec_env("CartPole-v1", seed=0)
    model = SpikingPPO("SpikeTimePolicy", env, n_steps=32, batch_size=32, seed=0, policy_kwargs=dict(n_neurons=[4]))
    check_evolution_goes_on(env, model.to_network())
