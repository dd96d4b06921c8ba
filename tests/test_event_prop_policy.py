"""Recurrent policies of exact spike times: what PPO, networks, files, the simulator and the chips make of them."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from whole_steps import (
    check_evolution_goes_on,
    check_refusals_of_a_core,
    check_refusals_of_a_policy,
    check_saved_model_acts_alike,
    check_what_is_for_lsnn_layers_says_so,
    simulated,
)

from spikeloop.agents import SpikingA2C, SpikingPPO
from spikeloop.agents.event_prop_policy import EventPropPolicy
from spikeloop.agents.policies import POLICIES
from spikeloop.hardware import compile_network
from spikeloop.hardware.target import TARGETS
from spikeloop.spiking import ActionHead, Encoder, EventPropLayer, FirstSpikes, Network, Readout, Simulator
from spikeloop.spiking.event_prop_module import EventPropCore, EventPropNeurons
from spikeloop.spiking.spike_time import KERNELS

SPACE = spaces.Box(-3.0, 3.0, (4,))


def model_of(env="CartPole-v1", algo=SpikingPPO, **policy_kwargs):
    sizes = {} if algo is SpikingA2C else {"batch_size": 32}
    return algo("EventPropPolicy", env, n_steps=32, seed=0, policy_kwargs={"n_neurons": 12, **policy_kwargs}, **sizes)


def network_of(dtype=np.float32, **changed):
    rng = np.random.default_rng(0)
    w = (rng.normal(0.5, 0.7, (5, n)).astype(dtype) for n in (4, 2, 5))
    layer = EventPropLayer(*w, np.array([0.0, 1.0], dtype), max_spikes=4)
    parts = dict(
        encoder=FirstSpikes(2, np.zeros(2), np.ones(2)),
        layers=(layer,),
        readout=Readout(rng.normal(size=(3, 5)).astype(dtype), np.zeros(3, dtype)),
        head=ActionHead("discrete", (3,)),
        n_ticks=4,
        dt=1.25,
    )
    return Network(**{**parts, **changed})


@pytest.mark.parametrize("algo", [SpikingPPO, SpikingA2C])
def test_the_simulator_acts_as_the_policy_does(algo, tmp_path):
    model = model_of(algo=algo, obs_scale=[1.0, 1.0, 10.0, 1.0]).learn(64)
    simulator, core = simulated(model, tmp_path / "policy.safetensors", n_steps=50), model.policy.lstm_actor
    np.testing.assert_array_equal(simulator.spike_counts[0], core.spike_counts[0])
    assert simulator.n_counted == core.n_counted
    assert core.n_counted / core.n_ticks < core.spike_counts[0].max() <= core.n_counted  # several per decision


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)])
def test_a_linear_readout_serves_every_action_space(space):
    policy, obs = EventPropPolicy(SPACE, space, lambda _: 1e-3, n_neurons=6), np.ones((5, 4), np.float32)
    actions, _ = policy.predict(obs, episode_start=np.ones(5), deterministic=True)
    assert all(space.contains(action) for action in actions)


def test_the_first_ratio_is_one():
    model = model_of()
    model._setup_learn(32)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    for batch in model.rollout_buffer.get(32):
        actions = batch.actions.long().flatten()
        _, log_prob, _ = model.policy.evaluate_actions(
            batch.observations, actions, batch.lstm_states, batch.episode_starts
        )
        assert torch.equal(log_prob, batch.old_log_prob)


@pytest.mark.parametrize(
    ("controls", "frozen"),
    [({}, ()), ({"recurrent": False}, ("w_rec",)), ({"train_hidden": False}, ("w_in", "w_pulse", "w_rec"))],
)
def test_an_update_moves_the_weights_that_are_trained(controls, frozen):
    model = model_of(**controls)
    neurons = model.policy.lstm_actor.layers[0]
    before = {name: getattr(neurons, name).detach().clone() for name in neurons.layer.trained}
    model.learn(64)
    for name, w in before.items():
        assert torch.equal(w, getattr(neurons, name)) == (name in frozen)
    assert not (model.to_network().layers[0].w_rec.any() and "recurrent" in controls)


def test_a_model_is_saved_and_its_rollouts_are_logged(tmp_path):
    model = model_of(max_spikes=2)
    model.set_logger(configure(None, []))
    model._setup_learn(32)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    logged, ((count,), n_counted) = model.logger.name_to_value, model.policy.rollout_counts
    assert n_counted == 2 * model.n_steps and logged["spiking/spikes"] == count.sum() / model.n_steps
    assert 0 < logged["spiking/exhausted"] < 1 and 0 < logged["spiking/sparsity_0"] < 1
    exhausted = model.policy.rollout_exhausted.copy()
    model.predict(np.zeros((9, 4), np.float32), episode_start=np.ones(9))  # of no rollout
    assert model.policy.rollout_exhausted == exhausted and model.policy.lstm_actor.n_counted == 18
    check_saved_model_acts_alike(model, tmp_path / "model")


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_learns_xor(kernel):
    torch.manual_seed(0)
    policy = EventPropPolicy(spaces.Box(-3, 3, (2,)), spaces.Discrete(2), lambda _: 1e-3, n_neurons=16, kernel=kernel)
    core, x = policy.lstm_actor, torch.tensor([[-2.0, -2.0], [-2.0, 2.0], [2.0, -2.0], [2.0, 2.0]])
    wanted, optimizer = torch.tensor([0, 1, 1, 0]), torch.optim.Adam(policy.parameters(), 2e-2)
    state, start = torch.from_numpy(core.initial_state(4)), torch.ones(1, 4)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(policy.action_net(core(x[None], state, start)[0][0]), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.15


def test_tau_is_a_unit():
    obs, found = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), []
    for tau in (1.0, 10.0):
        torch.manual_seed(0)
        policy = EventPropPolicy(SPACE, spaces.Discrete(3), lambda _: 1e-3, tau=tau)
        found.append(policy.predict(obs, episode_start=np.ones(6), deterministic=True))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1][0], found[1][1][0], atol=1e-5)


def test_recorded_spikes_have_exact_times():
    network, obs = network_of(), np.random.default_rng(1).normal(size=(4, 2, 2)).astype(np.float32)
    outputs, _, monitor = Simulator(network).record(obs)
    x = network.encoder(obs, np.zeros((0, 2, 2)), None, 4, 1.25)[0].reshape(8, 4)
    layer, (spikes,) = network.layers[0], monitor.layers
    t = layer.spikes(x, 5.0).astype(float)
    step, i, k = np.nonzero(np.isfinite(t))
    wanted = sorted(zip(step // 2 * 5.0 + t[step, i, k], step % 2, i, strict=True))
    np.testing.assert_allclose(np.stack([spikes.t, spikes.env, spikes.i], axis=1), np.array(wanted))
    assert (np.diff(spikes.t) >= 0).all() and k.max() > 0
    np.testing.assert_allclose(outputs.reshape(8, 3), layer.run(x, 5.0) @ network.readout.w_out.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_is_a_file_and_a_vector(dtype, tmp_path):
    network = network_of(dtype=dtype)
    network.save(tmp_path / "network")
    loaded, obs = Network.load(tmp_path / "network"), np.ones((1, 3, 2), np.float32)
    outputs, state = Simulator(loaded).run(obs)
    np.testing.assert_array_equal(outputs, Simulator(network).run(obs)[0])
    assert state.shape == (1, 3, 5) and state.dtype == dtype
    vector = network.to_vector()
    assert vector.shape == (5 * (4 + 2 + 5) + 15 + 3,)
    np.testing.assert_array_equal(network.with_vector(vector + 1).layers[0].w_rec, network.layers[0].w_rec + 1)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"n_ticks": 1}, "n_ticks must be 4 with layers of EventPropLayer, got 1"),
        ({"latency": 1}, "latency must be 0 with layers of EventPropLayer, got 1"),
        ({"encoder": Encoder("direct", 4)}, "must be 'first_spikes' before EventPropLayer, got 'direct'"),
        ({"dt": 150.0}, "n_ticks times dt must be at most 500 tau"),
    ],
)
def test_a_network_refuses_what_its_layer_cannot_follow(changed, fault):
    with pytest.raises(ValueError, match=fault):
        network_of(**changed)


def test_a_second_layer_is_refused():
    square = EventPropLayer(np.ones((5, 5), np.float32), np.ones((5, 1)), np.ones((5, 5)), np.zeros(1), max_spikes=4)
    with pytest.raises(ValueError, match="must hold one EventPropLayer alone"):
        network_of(layers=(network_of().layers[0], square))


@pytest.mark.parametrize("chip", TARGETS)
def test_chips_refuse_it_by_name(chip):
    with pytest.raises(ValueError, match=f"{chip} runs in ticks: it cannot hold EventPropLayer"):
        compile_network(network_of(), chip)


def test_what_is_for_lsnn_layers_says_so():
    check_what_is_for_lsnn_layers_says_so(model_of(), network_of())


@pytest.mark.parametrize(
    ("kwargs", "fault"),
    [
        ({"n_neurons": [8, 8]}, r"has one recurrent layer, got n_neurons=\[8, 8\]"),
        ({"kernel": "beta"}, "kernel must be one of"),
        ({"window": 501.0}, "window must be"),
        ({"max_spikes": 0}, "max_spikes must be"),
        ({"n_pulses": -1}, "n_pulses must be"),
        ({"w_rec_scale": -0.1}, "w_rec_scale must be"),
    ],
)
def test_a_policy_refuses_what_it_cannot_be(kwargs, fault):
    with pytest.raises(ValueError, match=fault):
        EventPropPolicy(SPACE, spaces.Discrete(2), lambda _: 1e-3, **kwargs)


def test_a_convolution_and_an_option_of_the_lsnn_are_refused():
    check_refusals_of_a_policy(EventPropPolicy)


def test_a_core_refuses_wrong_shapes():
    neurons = EventPropNeurons(network_of().layers[0])
    check_refusals_of_a_core(EventPropCore(FirstSpikes(2, np.zeros(2), np.ones(2)), neurons, 5.0))


def test_the_policy_is_registered():
    assert POLICIES["EventPropPolicy"] is EventPropPolicy


def test_evolution_goes_on_from_it_in_float_and_is_refused_on_a_chip():
    env = make_vec_env("CartPole-v1", seed=0)
    model = SpikingPPO(
        "EventPropPolicy", env, n_steps=32, batch_size=32, seed=0, policy_kwargs=dict(n_neurons=[4], ortho_init=False)
    )
    check_evolution_goes_on(env, model.to_network())
