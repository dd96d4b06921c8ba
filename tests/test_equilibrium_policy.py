"""Policies of equilibrium propagation: what PPO, networks, files, the simulator and the chips make of them."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
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

from spikeloop.agents import EquilibriumPolicy, SpikingA2C, SpikingPPO
from spikeloop.agents.policies import POLICIES
from spikeloop.agents.ppo_update import parts_of
from spikeloop.agents.registry import hyperparams_file
from spikeloop.hardware import compile_network
from spikeloop.hardware.target import TARGETS
from spikeloop.scripts.bench import equilibrium
from spikeloop.spiking import ActionHead, Encoder, EquilibriumLayer, Network, Readout, Simulator
from spikeloop.spiking.encoders import ENCODERS
from spikeloop.spiking.equilibrium import CODES
from spikeloop.spiking.equilibrium_module import EquilibriumCore, EquilibriumUnits
from spikeloop.spiking.metrics import summary

SPACE = spaces.Box(-3.0, 3.0, (4,))
HELD = [kind for kind, cls in ENCODERS.items() if cls.held and not cls.memory_rows]
OF_A_POLICY = [kind for kind in HELD if kind not in ("recruited", "binary", "parts")]  # whose lines R-STDP makes itself


def model_of(env="CartPole-v1", algo=SpikingPPO, **policy_kwargs):
    sizes = {} if algo is SpikingA2C else {"batch_size": 32}
    given = {"n_neurons": 12, "critic_neurons": 8, **policy_kwargs}
    return algo("EquilibriumPolicy", env, n_steps=32, seed=0, policy_kwargs=given, **sizes)


def network_of(code="rate", dtype=np.float32, **changed):
    rng = np.random.default_rng(0)
    w_in, w_out = rng.normal(0, 0.7, (5, 2)).astype(dtype), rng.normal(0, 0.2, (3, 5)).astype(dtype)
    layer = EquilibriumLayer(w_in, rng.random(5).astype(dtype), w_out, np.full(3, 0.5, dtype), code, n_ticks=20)
    read = np.concatenate([np.zeros((3, 5)), 2 * np.eye(3)], axis=1).astype(dtype)
    parts = dict(
        encoder=Encoder("direct", 2),
        layers=(layer,),
        readout=Readout(read, np.zeros(3, dtype)),
        head=ActionHead("discrete", (3,)),
        n_ticks=20,
    )
    return Network(**{**parts, **changed})


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("encoder", OF_A_POLICY)
def test_the_simulator_acts_as_the_policy_does(encoder, code, tmp_path):
    model = model_of(code=code, encoder=encoder, obs_scale=[1.0, 1.0, 10.0, 1.0])
    obs = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    first, _ = model.predict(obs, episode_start=np.ones(40), deterministic=True)
    fresh = Simulator(model.to_network())
    np.testing.assert_array_equal(fresh.predict(obs, episode_start=np.ones(40))[0], first)
    model.learn(64)
    simulator = simulated(model, tmp_path / "policy.safetensors", n_steps=30)
    core = model.policy.lstm_actor
    np.testing.assert_array_equal(simulator.spike_counts[0], core.spike_counts[0])
    assert simulator.n_counted == core.n_counted
    rates = core.spike_counts[0] / core.n_counted  # bits per unit and step
    assert rates.max() == 0 if code == "rate" else 0 < rates.max() <= 1


@pytest.mark.parametrize("encoder", sorted(set(ENCODERS) - set(HELD)))
def test_an_encoder_that_does_not_hold_its_values_is_refused(encoder):
    with pytest.raises(ValueError, match="must hold its values over the env step"):
        EquilibriumPolicy(SPACE, spaces.Discrete(2), lambda _: 1e-3, encoder=encoder)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("algo", [SpikingPPO, SpikingA2C])
def test_the_first_ratio_is_one(algo, code):
    model = model_of(make_vec_env("CartPole-v1", 3, seed=0), algo, code=code)
    model._setup_learn(96)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    for batch in model.rollout_buffer.get(32):
        values, log_prob, _ = model.policy.evaluate_actions(
            batch.observations, batch.actions.long().flatten(), batch.lstm_states, batch.episode_starts
        )
        assert torch.equal(log_prob, batch.old_log_prob)
        assert torch.equal(values.flatten(), batch.old_values)


def test_an_update_moves_actor_and_critic_and_leaves_the_readouts():
    model = model_of()
    policy, critic = model.policy, model.policy.mlp_extractor.value_net[0].units
    actor = policy.lstm_actor.layers[0]
    before = [p.detach().clone() for units in (actor, critic) for p in units.parameters()]
    model.learn(64)
    after = [p for units in (actor, critic) for p in units.parameters()]
    assert len(after) == 8 and all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    readout = model.to_network().readout
    np.testing.assert_array_equal(readout.w_out, np.concatenate([np.zeros((2, 12)), 2 * np.eye(2)], axis=1))
    assert not any(p.requires_grad for net in (policy.action_net, policy.value_net) for p in net.parameters())
    parts = parts_of(policy)
    assert {id(p) for p in critic.parameters()} <= {id(p) for p in parts["critic"]}
    assert {id(p) for p in actor.parameters()} <= {id(p) for p in parts["actor"]}


def test_nothing_of_a_policy_is_trained_by_backpropagation():
    """All parameters that are trained belong to units that settle, of the actor or of the critic."""
    policy = model_of().policy
    of_units = {
        id(p) for module in policy.modules() if isinstance(module, EquilibriumUnits) for p in module.parameters()
    }
    assert {id(p) for p in policy.parameters() if p.requires_grad} == of_units
    mlp = model_of(critic="mlp", critic_neurons=64, net_arch={"vf": [16]}).policy
    assert [m.out_features for m in mlp.mlp_extractor.value_net if isinstance(m, torch.nn.Linear)] == [16]


def test_a_frozen_policy_keeps_what_hidden_units_get():
    model = model_of(train_hidden=False)
    units = model.policy.lstm_actor.layers[0], model.policy.mlp_extractor.value_net[0].units
    before = [(one.w_in.detach().clone(), one.bias.detach().clone(), one.w_out.detach().clone()) for one in units]
    model.learn(64)
    for (w_in, bias, w_out), one in zip(before, units, strict=True):
        assert torch.equal(w_in, one.w_in) and torch.equal(bias, one.bias) and not torch.equal(w_out, one.w_out)


def coupling(policy):
    units = [module for module in policy.modules() if isinstance(module, EquilibriumUnits)]
    return [np.linalg.norm(one.value.w_out, 2) ** 2 for one in units]


@pytest.mark.parametrize("copied", ["as made", "loaded", "deep copy"])
def test_every_step_of_the_optimizer_is_projected(copied, tmp_path):
    model = model_of(max_coupling=0.2)
    if copied == "loaded":
        model.save(tmp_path / "model")
        model = SpikingPPO.load(tmp_path / "model", env=make_vec_env("CartPole-v1"))
    policy = copy.deepcopy(model.policy) if copied == "deep copy" else model.policy
    for p in policy.parameters():
        p.grad = -torch.ones_like(p) if p.requires_grad else None
    for _ in range(3):
        policy.optimizer.param_groups[0]["lr"] = 1.0
        policy.optimizer.step()
        np.testing.assert_allclose(coupling(policy), 0.2, rtol=1e-4)


def test_a_model_is_saved_and_its_spikes_are_logged(tmp_path):
    model = model_of(code="sigma_delta")
    model.set_logger(configure(None, []))
    model._setup_learn(32)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    logged, (counts, n) = model.logger.name_to_value, model.policy.rollout_counts
    assert n == model.n_steps * model.n_envs * 40
    assert logged["spiking/firing_rate_0"] == pytest.approx(counts[0].mean() / n) and 0 < counts[0].mean() / n < 1
    check_saved_model_acts_alike(model, tmp_path / "model")


@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Discrete(3, start=2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.Box(-2.0, 2.0, (2,), np.float32),
    ],
)
def test_all_action_spaces_are_acted_in(action_space):
    policy = EquilibriumPolicy(SPACE, action_space, lambda _: 1e-3, n_neurons=6)
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    actions, _ = policy.predict(obs, episode_start=np.ones(5), deterministic=True)
    simulated, _ = Simulator(policy.to_network()).predict(obs, episode_start=np.ones(5))
    np.testing.assert_array_equal(actions, simulated)


def test_the_critic_may_see_frames_and_the_actor():
    model = model_of(critic_frames=3, critic_reads_actor=True)
    weights = model.policy.mlp_extractor.value_net[0].units.w_in
    assert weights.shape == (8, 3 * 4 + 14) and not weights[:, 12:].any() and weights[:, :12].all()
    model.learn(64)
    assert weights[:, 12:].any()


@pytest.mark.parametrize("code", CODES)
def test_the_critic_sends_numbers_whatever_the_actor_sends_and_begins_near_0(code):
    policy = EquilibriumPolicy(SPACE, spaces.Discrete(2), lambda _: 1e-3, code=code)
    critic = policy.mlp_extractor.value_net[0].units
    assert critic.layer.code == "rate" and (critic.layer.n_ticks, critic.n_nudged, critic.beta) == (20, 10, 0.1)
    assert policy.lstm_actor.layers[0].layer.code == code
    assert critic.w_out.std() < 0.01 < policy.lstm_actor.layers[0].w_out.std()  # values begin near 0
    with torch.no_grad():
        critic.bias_out += 10.0
    state = (torch.from_numpy(policy.initial_state(1)),)
    assert policy.predict_values(torch.zeros(1, 4), state, torch.ones(1)).item() > 150


@pytest.mark.parametrize("code", CODES)
def test_xor_is_learnt(code):
    """Two inputs, two outputs: what no network without a trained hidden layer of this size tells apart for sure."""
    torch.manual_seed(0)
    policy = EquilibriumPolicy(spaces.Box(-3, 3, (2,)), spaces.Discrete(2), lambda _: 1e-3, n_neurons=16, code=code)
    core, x = policy.lstm_actor, torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    wanted, optimizer = torch.tensor([0, 1, 1, 0]), torch.optim.Adam(core.parameters(), 2e-2)
    state, start = torch.from_numpy(core.initial_state(4)), torch.ones(1, 4)
    for _ in range(300):
        loss = torch.nn.functional.cross_entropy(policy.action_net(core(x[None], state, start)[0][0]), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        core.layers[0].project()
    assert loss.item() < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_hidden_units_learn_what_frozen_ones_cannot(seed):
    """The parity of two bits among eight others, 16 hidden units, fresh samples in every step.

    A nudge that comes back by random weights teaches them too: feedback alignment (Lillicrap et al. 2016).
    """
    shares = []
    for changed in ({}, {"train_hidden": False}, {"feedback": "random"}):
        torch.manual_seed(seed)
        space, rng = spaces.Box(-3, 3, (10,)), np.random.default_rng(seed)
        given = dict(n_neurons=16, logit_scale=10.0, **changed)
        policy = EquilibriumPolicy(space, spaces.Discrete(2), lambda _: 1e-3, **given)
        core = policy.lstm_actor
        optimizer = torch.optim.Adam([p for p in core.parameters() if p.requires_grad], 1e-2)
        state, start, correct = torch.from_numpy(core.initial_state(256)), torch.ones(1, 256), []
        for _ in range(500):
            x = torch.from_numpy(rng.choice([-1.0, 1.0], size=(256, 10)).astype(np.float32))
            wanted = (x[:, 0] * x[:, 1] > 0).long()
            logits = policy.action_net(core(x[None], state, start)[0][0])
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, wanted).backward()
            optimizer.step()
            core.layers[0].project()
            correct.append((logits.argmax(1) == wanted).float().mean().item())
        shares.append(np.mean(correct[-20:]))
    assert shares[0] > 0.99 and shares[1] < 0.95 and shares[2] > 0.99


def test_recorded_spikes_are_those_that_were_sent():
    network = network_of("sigma_delta")
    obs = np.random.default_rng(1).normal(size=(4, 2, 2)).astype(np.float32)
    simulator = Simulator(network)
    outputs, _, monitor = simulator.record(obs)
    np.testing.assert_array_equal(outputs, Simulator(network).run(obs)[0])
    (spikes,) = monitor.layers
    np.testing.assert_array_equal(monitor.spike_counts[0], simulator.spike_counts[0])
    assert (np.diff(spikes.t) >= 0).all() and spikes.t.max() < 80 and not (spikes.t % 1).any()
    assert monitor.total_ticks == 80 and monitor.rates[0].max() <= 1.0
    _, _, of_numbers = Simulator(network_of("rate")).record(obs)
    assert not len(of_numbers.layers[0].t)
    with pytest.raises(ValueError, match="no membranes on ticks"):
        Simulator(network).record(obs, membranes=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("code", CODES)
def test_a_network_is_a_file_and_a_vector(code, dtype, tmp_path):
    network = network_of(code, dtype)
    network.save(tmp_path / "network")
    loaded, obs = Network.load(tmp_path / "network"), np.ones((1, 3, 2), np.float32)
    outputs, state = Simulator(loaded).run(obs)
    np.testing.assert_array_equal(outputs, Simulator(network).run(obs)[0])
    assert state.shape == (1, 3, 8) and state.dtype == dtype and loaded.layers[0].code == code
    vector = network.to_vector()
    assert vector.shape == (5 * 2 + 5 + 3 * 5 + 3 + 3 * 8 + 3,)
    moved = network.with_vector(vector + 1)
    np.testing.assert_array_equal(moved.layers[0].w_out, network.layers[0].w_out + 1)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"n_ticks": 1}, "n_ticks must be 20 with layers of EquilibriumLayer, got 1"),
        ({"latency": 1}, "latency must be 0 with layers of EquilibriumLayer, got 1"),
        ({"encoder": Encoder("rate", 2, low=[0, 0], high=[1, 1])}, "before EquilibriumLayer, got 'rate'"),
        ({"readout": Readout(np.ones((3, 8), np.float32), np.zeros(3), count=True)}, "'leaky' with tau_out 0"),
    ],
)
def test_a_network_refuses_what_its_layer_cannot_follow(changed, fault):
    with pytest.raises(ValueError, match=fault):
        network_of(**changed)


def test_a_second_layer_is_refused():
    first = network_of().layers[0]
    second = EquilibriumLayer(np.ones((5, 8), np.float32), np.ones(5), first.w_out, first.bias_out)
    with pytest.raises(ValueError, match="must hold one EquilibriumLayer alone"):
        network_of(layers=(first, second))


def test_operations_are_counted_of_spikes_and_refused_of_numbers():
    network, obs = network_of("sigma_delta"), np.ones((6, 1, 2), np.float32)
    simulator = Simulator(network)
    simulator.run(obs)
    (count,) = simulator.spike_counts
    found = summary(network, simulator.spike_counts, simulator.n_counted)
    reached = 3 * count[:5].sum() + 5 * count[5:].sum() + np.count_nonzero(network.readout.w_out, 0) @ count
    assert found["effective_acs"] - network.layers[0].w_in.size == pytest.approx(reached / 6)
    with pytest.raises(ValueError, match="of spikes"):
        summary(network_of("rate"), simulator.spike_counts, simulator.n_counted)


@pytest.mark.parametrize("chip", TARGETS)
def test_chips_refuse_it_by_name(chip):
    with pytest.raises(ValueError, match=f"{chip} runs in ticks: it cannot hold EquilibriumLayer"):
        compile_network(network_of(), chip)


def test_what_is_for_lsnn_layers_says_so():
    check_what_is_for_lsnn_layers_says_so(model_of(), network_of())


@pytest.mark.parametrize(
    ("kwargs", "fault"),
    [
        ({"n_neurons": [32, 32]}, "has one hidden layer, got n_neurons="),
        ({"code": "bits"}, "code must be one of"),
        ({"critic": "td"}, "critic must be one of"),
        ({"feedback": "none"}, "feedback must be one of"),
        ({"net_arch": {"pi": [8]}}, "net_arch pi must be"),
        ({"net_arch": {"vf": [8]}}, "net_arch vf is for critic='mlp'"),
        ({"use_sde": True}, "use_sde must be False"),
        ({"lam": 0.1}, "lam is for code='sigma_delta', got 0.1 without it"),
        ({"critic": "mlp", "critic_neurons": 7}, "critic_neurons is for critic='equilibrium', got 7 without it"),
        ({"critic": "mlp", "value_scale": 3.0}, "value_scale is for critic='equilibrium', got 3.0 without it"),
        ({"n_ticks": 5, "n_average": 6}, "n_average must be at most n_ticks, 5, and n_nudged, 10, got 6"),
        ({"max_coupling": 1.0}, "max_coupling must be"),
        ({"beta": 0.0}, "beta must be"),
        ({"step": 1.5}, "step must be"),
    ],
)
def test_a_policy_refuses_what_it_cannot_be(kwargs, fault):
    with pytest.raises(ValueError, match=fault):
        EquilibriumPolicy(SPACE, spaces.Discrete(2), lambda _: 1e-3, **kwargs)


def test_a_convolution_and_an_option_of_the_lsnn_are_refused():
    check_refusals_of_a_policy(EquilibriumPolicy)


def test_a_core_refuses_wrong_shapes():
    check_refusals_of_a_core(EquilibriumCore(Encoder("direct", 2), EquilibriumUnits(network_of().layers[0])))


def test_the_policy_is_registered():
    assert POLICIES["EquilibriumPolicy"] is EquilibriumPolicy


@pytest.mark.filterwarnings("error")
def test_evolution_goes_on_from_it_in_float_and_is_refused_on_a_chip():
    """Evolution keeps no bound on the coupling: what a network does is defined beyond it too."""
    env = make_vec_env("CartPole-v1", seed=0)
    check_evolution_goes_on(env, model_of(env).to_network())


@pytest.mark.parametrize("row", equilibrium.ROWS.values(), ids=equilibrium.ROWS)
def test_every_row_of_the_benchmark_can_be_made(row):
    preset = yaml.safe_load(hyperparams_file(row.algo).read_text(encoding="utf-8"))[row.env]
    env = gym.make(row.env)
    EquilibriumPolicy(
        env.observation_space, env.action_space, lambda _: 1e-3, **{**preset["policy_kwargs"], **row.policy}
    )


def test_the_benchmark_prints_a_row(capsys):
    check_benchmark_prints_a_row(equilibrium, capsys)
