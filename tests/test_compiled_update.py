"""The compiled update is torch's: gradients, losses, steps of Adam, random numbers and what is saved."""

import copy
import pickle
from unittest.mock import patch

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from test_agents import ACTION_SPACES, RandomEnv, collect

from spikeloop.agents import SpikingA2C, SpikingPPO, spiking_ppo
from spikeloop.agents.compilable import torch_reason
from spikeloop.agents.policies import LsnnPolicy
from spikeloop.agents.ppo_kernels import tanh_rows
from spikeloop.spiking.encoders import ENCODERS
from spikeloop.spiking.gradients.surrogate import SHAPES

# the encoders of numbers, that need no data beforehand
KINDS = [kind for kind in ("direct", "population", "rate", "latency", "delta", "tiles", "places") if kind in ENCODERS]
LAYOUTS = {
    "encoder": st.sampled_from(KINDS),
    "n_ticks": st.just(4),
    "n_neurons": st.sampled_from([[20], [32], [9, 40]]),
    "latency": st.integers(0, 1),
    "reset": st.sampled_from(["subtract", "zero"]),
    "count": st.booleans(),
    "critic_reads_actor": st.booleans(),
    "critic_frames": st.integers(1, 3),
}


def make(space="discrete", policy_kwargs=None, algo=SpikingPPO, n_envs=3, **kwargs):
    env = make_vec_env(lambda: RandomEnv(ACTION_SPACES[space]), n_envs=n_envs, seed=0)
    if algo is SpikingPPO:
        kwargs = {"n_steps": 16, "batch_size": 48, "n_epochs": 1, "seq_len": 8, "max_grad_norm": 1e9, **kwargs}
    small = {"n_neurons": [20], "net_arch": {"vf": [16]}, "tau_m": 8.0, "v_th": 0.3}
    return algo("LsnnPolicy", env, policy_kwargs={**small, **(policy_kwargs or {})}, **{"seed": 0, **kwargs})


def both(model):
    """Update twice from the same rollout, in torch and compiled; return what each left behind."""
    policy, optimizer = model.policy, model.policy.optimizer
    before, moments, left = copy.deepcopy(policy.state_dict()), copy.deepcopy(optimizer.state_dict()), []
    for compiled in (False, True):
        policy.load_state_dict(before)
        optimizer.load_state_dict(copy.deepcopy(moments))
        optimizer.zero_grad()
        model.compiled, model._n_updates = compiled, 0
        policy.lstm_actor.reset_counts()
        th.manual_seed(5)
        model.train()
        grads = {name: p.grad for name, p in policy.named_parameters()}
        after = {name: p.detach().clone() for name, p in policy.named_parameters()}
        for name, p in policy.named_parameters():
            after |= {f"{name}, {key} of Adam": value.clone() for key, value in optimizer.state[p].items()}
        told = {k: v for k, v in model.logger.name_to_value.items() if k.startswith("train/")}
        counts = [c.copy() for c in policy.lstm_actor.spike_counts], policy.lstm_actor.n_counted
        left.append((grads, after, told, counts, th.rand(1).item()))
    return left


def assert_close(found, expected, tolerance):
    for name, want in expected.items():
        error, largest = (found[name] - want).abs().max().item(), want.abs().max().item()
        assert error <= tolerance * largest + 1e-12, f"{name}: {error} of {largest}"


EVERYTHING = {
    "encoder": "rate", "n_ticks": 3, "n_neurons": [20, 35], "latency": 1, "reset": "zero", "adaptation": "ahp",
    "refractory": 2, "hold": True, "critic_reads_actor": True, "critic_frames": 3, "rate_coef": 2.0,
    "target_rate": 0.02,
}  # fmt: skip


@settings(max_examples=25)
@example("box", EVERYTHING, [16, 40], th.nn.ReLU, 3)
@given(
    st.sampled_from(list(ACTION_SPACES)),
    st.fixed_dictionaries({
        **LAYOUTS,
        "adaptation": st.sampled_from(["threshold", "ahp"]),
        "refractory": st.integers(0, 2),
        "recurrent": st.booleans(),
        "gradient_kwargs": st.fixed_dictionaries({"shape": st.sampled_from(SHAPES)}),
        "rate_coef": st.sampled_from([0.0, 2.0]),
        "target_rate": st.just(0.05),
    }),
    st.sampled_from([[], [16], [40, 12]]),
    st.sampled_from([th.nn.Tanh, th.nn.ReLU]),
    st.integers(1, 4),
)  # fmt: skip
def test_gradients_and_losses_are_torchs(space, policy_kwargs, critic, activation, n_shares):
    critic = {"net_arch": {"vf": critic}, "activation_fn": activation}
    with patch.object(spiking_ppo, "shares_of", lambda *sizes: n_shares):
        gradients_and_losses_are_torchs(make(space, {**policy_kwargs, **critic}, ent_coef=0.02, clip_range_vf=0.1))


def gradients_and_losses_are_torchs(model):
    collect(model)
    rng = np.random.default_rng(1)
    buffer = model.rollout_buffer  # as if the policy had moved since
    buffer.log_probs += rng.normal(0, 0.2, buffer.log_probs.shape).astype(np.float32)
    buffer.values += rng.normal(0, 0.1, buffer.values.shape).astype(np.float32)
    (grads, _, told, counts, drawn), (mine, _, mine_told, mine_counts, mine_drawn) = both(model)
    assert_close(mine, grads, 1e-5)
    for name, number in told.items():
        assert mine_told[name] == pytest.approx(number, rel=1e-4, abs=1e-6), name
    assert mine_drawn == drawn and mine_counts[1] == counts[1]
    for one, other in zip(mine_counts[0], counts[0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("algo", "kwargs"),
    [
        (SpikingPPO, {"batch_size": 32, "n_epochs": 3}),  # the last minibatch is smaller
        (SpikingPPO, {"seq_len": 1, "batch_size": 47, "n_epochs": 2}),  # a single step joins the one before
        (SpikingPPO, {"target_kl": 1e-5, "batch_size": 16, "n_epochs": 4, "learning_rate": 1e-3}),
        (SpikingPPO, {"normalize_advantage": False, "batch_size": 16}),
        (SpikingA2C, {"n_steps": 8, "max_grad_norm": 1e9}),
    ],
)
@pytest.mark.filterwarnings("ignore:batch_size")
def test_whole_updates_move_parameters_and_generator_as_torch_does(algo, kwargs):
    model = make(algo=algo, **kwargs)
    collect(model)
    for _ in range(2):  # from no moments, and from some
        (_, after, told, _, drawn), (_, mine, mine_told, _, mine_drawn) = both(model)
        assert_close(mine, after, 1e-4)
        assert mine_drawn == drawn and mine_told.keys() >= told.keys()
        for name in ("train/approx_kl", "train/policy_gradient_loss", "train/loss", "train/n_updates"):
            assert mine_told[name] == pytest.approx(told[name], rel=1e-3, abs=1e-5), name


def test_actor_and_critic_are_clipped_apart():
    model = make(max_grad_norm=0.01)
    collect(model)
    model.train()
    critic = [p for name, p in model.policy.named_parameters() if "value_net" in name]
    actor = [p for name, p in model.policy.named_parameters() if "value_net" not in name]
    for part in (actor, critic):
        assert float(th.cat([p.grad.ravel() for p in part]).norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("kwargs", "policy_kwargs", "reason"),
    [
        ({"use_sde": True}, {}, "use_sde is on"),
        ({}, {"neurons": "izhikevich"}, "its neurons are not LSNN neurons"),
        ({}, {"net_arch": {"pi": [8], "vf": []}}, "layers follow the spiking actor (net_arch pi)"),
        ({}, {"encoder": "population", "learn_encoder": True}, "learn_encoder is on"),
        ({}, {"optimizer_class": th.optim.SGD}, "its optimizer is SGD"),
        ({}, {"activation_fn": th.nn.ELU}, "its critic has other layers than linear ones with tanh or ReLU"),
    ],
)
def test_what_only_torch_can_do_is_named_and_done_by_it(kwargs, policy_kwargs, reason, capsys):
    if "neurons" in policy_kwargs:
        policy_kwargs = {**policy_kwargs, "tau_m": 4.0, "v_th": 1.0}
    model = make("box", policy_kwargs, verbose=1, **kwargs)
    assert torch_reason(model.policy) == reason
    model.learn(48)
    assert f"Training runs in torch: {reason}\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"compiled=True cannot be, as .*: 'auto' trains it in torch"):
        make("box", policy_kwargs, compiled=True, **kwargs)


@pytest.mark.parametrize(
    ("hook", "what"),
    [
        (lambda policy: policy.optimizer.register_step_post_hook(lambda *_: None), "its optimizer"),
        (lambda policy: policy.action_net.register_forward_hook(lambda *_: None), "action_net"),
        (lambda policy: policy.action_net.weight.register_hook(lambda grad: grad), "action_net.weight"),
    ],
)
def test_where_something_has_hooks_torch_calls_them(hook, what, capsys):
    model = make(verbose=1)
    hook(model.policy)
    model.learn(48)
    assert f"Training runs in torch: {what} has hooks, which only torch calls\n" in capsys.readouterr().out
    model.compiled = True
    with pytest.raises(ValueError, match=r"compiled=True cannot be, as .* has hooks"):
        model.learn(48)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_trained_model_learns_on_alike(how):
    model = make().learn(48)
    twin = how(model)
    for one in (model, twin):
        one.set_env(make_vec_env(lambda: RandomEnv(ACTION_SPACES["discrete"]), n_envs=3, seed=1))
        th.manual_seed(3)
        one.learn(48, reset_num_timesteps=False)
    for mine, its in zip(model.policy.parameters(), twin.policy.parameters(), strict=True):
        assert th.equal(mine, its)


def test_sizes_and_modules_that_change_are_noticed():
    model = make(batch_size=16).learn(48)
    model.batch_size = 48
    model.learn(48, reset_num_timesteps=False)
    model.policy.value_net = th.nn.Linear(16, 1)
    assert torch_reason(model.policy) == "its optimizer moves other parameters than the policy's"
    with th.no_grad():
        model.policy.value_net.weight.zero_()
        model.policy.value_net.bias.fill_(7.0)
    collect(model)
    assert np.all(model.rollout_buffer.values == 7.0)
    model.n_steps = 32
    with pytest.raises(ValueError, match="n_steps must stay what the model was made with, 16, got 32"):
        model.learn(96)


def test_parameters_with_fewer_steps_of_adam_than_others_are_left_to_torch():
    model = make()
    model.policy.action_net.requires_grad_(False)
    model.learn(48)
    model.policy.action_net.requires_grad_(True)
    assert torch_reason(model.policy) == "some of its parameters have had more steps of Adam than others"


def test_methods_of_ones_own_are_called(capsys):
    class Own(LsnnPolicy):
        def _get_action_dist_from_latent(self, latent_pi):
            return super()._get_action_dist_from_latent(latent_pi)

    env = make_vec_env(lambda: RandomEnv(ACTION_SPACES["discrete"]), n_envs=1)
    model = SpikingPPO(Own, env, n_steps=16, batch_size=16, verbose=1).learn(16)
    assert "torch: Own has a method _get_action_dist_from_latent of its own" in capsys.readouterr().out
    model = make()
    model.policy.mlp_extractor.forward_critic = model.policy.mlp_extractor.forward_critic
    assert torch_reason(model.policy) == "its mlp_extractor is MlpExtractor with methods of its own"


def test_the_switch_is_checked_logged_and_saved(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"compiled must be 'auto', True or False, got 1\.5"):
        make(compiled=1.5)
    model = make(compiled=False, verbose=1).learn(48)
    assert "Training runs in torch: compiled=False" in capsys.readouterr().out
    assert model._compiled_policy is None
    model.save(tmp_path / "model")
    assert SpikingPPO.load(tmp_path / "model", env=model.env).compiled is False
    assert make(verbose=1).learn(48)._compiled_policy is not None
    assert "Training runs compiled" in capsys.readouterr().out


def test_a_model_that_was_saved_goes_on_to_the_bits_of_one_that_was_not(tmp_path):
    model = make(n_envs=2).learn(96)
    model.save(tmp_path / "model")
    loaded = SpikingPPO.load(tmp_path / "model", env=model.env)
    collect(model)
    loaded.rollout_buffer = model.rollout_buffer
    loaded._setup_learn(10_000)
    model.train()
    loaded.train()
    for one, other in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert th.equal(one, other)


def test_tanh_is_tanh():
    x = np.concatenate([np.linspace(-12, 12, 4000), np.geomspace(1e-30, 1, 95), [0.0]]).astype(np.float32)
    y = x.copy()
    tanh_rows(y, 0, len(y))
    np.testing.assert_allclose(y, np.tanh(x.astype(np.float64)), rtol=1e-6, atol=4e-7)


def test_a_step_that_leaves_the_range_stops_the_training():
    from spikeloop.agents.failures import NonFiniteError

    model = make(learning_rate=1e30, n_epochs=3)
    collect(model)
    with pytest.raises(NonFiniteError, match="a lower learning_rate may help"):
        model.train()
    assert isinstance(model.action_space, spaces.Discrete)
