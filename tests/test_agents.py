"""SpikingPPO and SpikingA2C behave as SB3's users expect, on every kind of space."""

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    FakeImageEnv,
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from spikeloop.agents import LifPolicy, LsnnPolicy, SpikingA2C, SpikingPPO
from spikeloop.spiking import Simulator

ALGOS = [SpikingPPO, SpikingA2C]
SMALL = {"n_neurons": [16], "net_arch": {"vf": [16]}}


class RandomEnv(gym.Env):
    """Noise in, anything out; episodes of 7 to 23 steps, so that they end anywhere in a chunk."""

    def __init__(self, action_space: spaces.Space, n_obs: int = 3):
        self.observation_space = spaces.Box(-5, 5, (n_obs,), np.float32)
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(7, 24))
        return self._observe(), {}

    def step(self, action):
        self.left -= 1
        return self._observe(), float(self.np_random.normal()), self.left == 0, False, {}

    def _observe(self):
        return self.np_random.normal(size=self.observation_space.shape).astype(np.float32)


ACTION_SPACES = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(4),
    "box": spaces.Box(-1, 1, (2,), np.float32),
}


def small_model(
    action_space="discrete", algo=SpikingPPO, policy="LsnnPolicy", n_envs=3, seed=0, policy_kwargs=(), **kwargs
):
    env = make_vec_env(lambda: RandomEnv(ACTION_SPACES[action_space]), n_envs=n_envs, seed=seed)
    if algo is SpikingPPO:
        kwargs = {"n_steps": 32, "batch_size": 48, "n_epochs": 2, "seq_len": 8, **kwargs}
    kwargs = {"seed": seed, "device": "cpu", **kwargs}
    return algo(policy, env, policy_kwargs={**SMALL, **dict(policy_kwargs)}, **kwargs)


def collect(model):
    """Fill the rollout buffer once, without training."""
    _, callback = model._setup_learn(10_000)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


def log_prob_errors(model, batch_size):
    for batch in collect(model).get(batch_size):
        actions = batch.actions.long().flatten() if isinstance(model.action_space, spaces.Discrete) else batch.actions
        with th.no_grad():
            states, starts = batch.lstm_states, batch.episode_starts
            _, log_prob, _ = model.policy.evaluate_actions(batch.observations, actions, states, starts)
        yield (log_prob - batch.old_log_prob).abs().max().item()


@pytest.mark.parametrize("action_space", ACTION_SPACES)
@pytest.mark.parametrize("batch_size", [8, 48, 96])
def test_recomputed_log_probabilities_equal_the_stored_ones(action_space, batch_size):
    assert max(log_prob_errors(small_model(action_space, compiled=False), batch_size)) == 0.0
    assert max(log_prob_errors(small_model(action_space, compiled=True), batch_size)) <= 1e-6


@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {"encoder": "population"},
        {"encoder": "population", "learn_encoder": True},
        {"encoder": "rate", "n_ticks": 3},
        {"encoder": "latency", "n_ticks": 4},
        {"encoder": "delta", "encoder_kwargs": {"threshold": 0.5}, "n_ticks": 2},
        {"n_neurons": [16, 12], "latency": 1, "n_ticks": 3, "reset": "zero", "adaptation": "ahp", "refractory": 1},
        {"n_ticks": 3, "count": True},
        {"tau_out": 3.0, "recurrent": False},
        {"net_arch": {"pi": [8], "vf": [8]}},
    ],
    ids=lambda kwargs: "-".join(f"{k}={v}" for k, v in kwargs.items())[:40],
)
def test_recomputed_log_probabilities_equal_the_stored_ones_for_every_encoder_and_layout(policy_kwargs):
    errors = log_prob_errors(small_model(policy_kwargs=policy_kwargs, compiled=False), 48)
    exact = "pi" not in policy_kwargs.get("net_arch", {})  # MLP layers after the actor are torch's, to rounding
    assert max(errors) <= (0.0 if exact else 1e-5)


def test_recomputed_log_probabilities_with_gsde():
    assert max(log_prob_errors(small_model("box", use_sde=True), 48)) <= 1e-5


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("policy", ["LsnnPolicy", "LifPolicy"])
@pytest.mark.parametrize("action_space", ACTION_SPACES)
def test_learns_predicts_saves_and_loads(algo, policy, action_space, tmp_path):
    model = small_model(action_space, algo, policy).learn(200)
    model.save(tmp_path / "model")
    loaded = algo.load(tmp_path / "model", env=model.env)
    obs = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    state = loaded_state = None
    for _ in range(5):
        action, state = model.predict(obs, state, np.zeros(3), deterministic=True)
        loaded_action, loaded_state = loaded.predict(obs, loaded_state, np.zeros(3), deterministic=True)
        np.testing.assert_array_equal(action, loaded_action)
        np.testing.assert_array_equal(state[0], loaded_state[0])
    loaded.learn(100, reset_num_timesteps=False)


def test_a_policy_alone_saves_and_loads(tmp_path):
    policy = small_model(policy="LifPolicy", policy_kwargs={"beta": 0.7, "encoder": "population"}).policy
    policy.save(tmp_path / "policy.pth")
    loaded = LifPolicy.load(tmp_path / "policy.pth")
    obs = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(
        policy.predict(obs, deterministic=True)[1][0], loaded.predict(obs, deterministic=True)[1][0]
    )


def test_same_seed_gives_the_same_bits():
    first, second = (small_model("box", seed=3).learn(400).policy.state_dict() for _ in range(2))
    assert all(th.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("action_space", ACTION_SPACES)
@pytest.mark.parametrize("policy_kwargs", [{}, {"encoder": "population", "n_ticks": 3, "tau_out": 2.0}])
def test_exported_network_acts_as_predict_does(action_space, policy_kwargs, tmp_path):
    model = small_model(action_space, policy_kwargs=policy_kwargs)
    model.env = env = VecNormalize(model.env)
    model.learn(200)
    network = model.policy.to_network(env)
    network.save(tmp_path / "policy.safetensors")
    simulator = Simulator(type(network).load(tmp_path / "policy.safetensors"))
    rng = np.random.default_rng(1)
    state = simulated_state = None
    for _ in range(50):
        obs, start = rng.normal(size=(4, 3)).astype(np.float32), rng.random(4) < 0.1
        action, state = model.predict(env.normalize_obs(obs), state, start, deterministic=True)
        simulated, simulated_state = simulator.predict(obs, simulated_state, start)
        np.testing.assert_array_equal(action, simulated)


@pytest.mark.parametrize("env_class", [FakeImageEnv, SimpleMultiObsEnv])
def test_image_and_dict_observations(env_class):
    model = SpikingPPO("LsnnPolicy", env_class(), n_steps=16, batch_size=16, seq_len=8, policy_kwargs=SMALL, seed=0)
    assert max(log_prob_errors(model, 16)) <= 1e-5
    model.learn(32)
    evaluate_policy(model, model.env, n_eval_episodes=1, warn=False)


def identity(env_class, **kwargs):
    """Four environments that reward repeating what they show, which is drawn from their action spaces."""

    def make(seed):
        env = env_class(ep_length=100, **kwargs)
        env.action_space.seed(seed)
        return env

    return DummyVecEnv([partial(make, seed) for seed in range(4)])


@pytest.mark.parametrize("env_class", [IdentityEnv, IdentityEnvMultiDiscrete, IdentityEnvMultiBinary, IdentityEnvBox])
def test_ppo_learns_to_repeat_what_it_sees(env_class):
    env = identity(env_class, **({"eps": 0.5} if env_class is IdentityEnvBox else {}))
    schedule = {"learning_rate": 5e-3, "n_steps": 64, "batch_size": 128, "gamma": 0.4}
    memoryless = {"n_neurons": [32], "tau_m": 0.0}  # what was seen before tells nothing here
    model = SpikingPPO("LsnnPolicy", env, policy_kwargs=memoryless, seed=0, **schedule).learn(5_000)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=8, warn=False)
    assert mean > 90


def test_a2c_learns_to_repeat_what_it_sees():
    env = identity(IdentityEnv, dim=2)
    memoryless = {"n_neurons": [32], "tau_m": 0.0}
    model = SpikingA2C("LsnnPolicy", env, 7e-3, n_steps=8, policy_kwargs=memoryless, seed=0, gamma=0.4).learn(8_000)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=8, warn=False)
    assert mean > 90


@pytest.mark.parametrize("action_space", ACTION_SPACES)
def test_a_deterministic_action_is_the_mode_of_the_distribution(action_space):
    policy = small_model(action_space).policy
    obs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    action, _ = policy.predict(obs, deterministic=True)
    with th.no_grad():
        state, starts = (th.from_numpy(policy.initial_state(6)),), th.zeros(6)
        mode = policy.get_distribution(th.from_numpy(obs), state, starts)[0].mode().numpy()
    if action_space == "box":
        mode = np.clip(mode, policy.action_space.low, policy.action_space.high)
    np.testing.assert_array_equal(action, mode)
    assert all(policy.action_space.contains(one) for one in action.astype(policy.action_space.dtype))


def test_predict_says_once_that_the_state_was_dropped():
    model = small_model()
    obs = np.zeros(3, np.float32)
    action, state = model.predict(obs)
    assert action.shape == () and state[0].shape[1] == 1
    model.predict(obs, state)
    model.predict(obs)  # a new episode may start from rest
    with pytest.warns(UserWarning, match="neither state nor episode_start"):
        model.predict(obs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(obs)


def test_the_rate_of_spikes_is_logged_per_layer():
    model = small_model(policy_kwargs={"n_neurons": [16, 8]})
    collect(model)
    logged = model.logger.name_to_value
    for key in ("firing_rate", "sparsity", "synops"):
        assert all(np.isfinite(logged[f"spiking/{key}_{layer}"]) for layer in range(2))
    assert 0 <= logged["spiking/firing_rate_0"] <= 1
    assert logged["spiking/sparsity_0"] == pytest.approx(1 - logged["spiking/firing_rate_0"])


def test_a_rate_penalty_quietens_the_network():
    def rate(rate_coef):
        model = small_model(policy_kwargs={"rate_coef": rate_coef, "n_neurons": [32]}, learning_rate=3e-3, n_epochs=10)
        model.learn(1500)
        collect(model)
        return model.logger.name_to_value["spiking/firing_rate_0"]

    assert rate(3.0) < 0.5 * rate(0.0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"seq_len": 7}, "seq_len=7 must divide n_steps=32"),
        ({"seq_len": 16, "batch_size": 8}, "batch_size=8"),
        ({"policy_kwargs": {"surrogate": "square"}}, "square"),
        ({"policy_kwargs": {"encoder": "morse"}}, "morse"),
        ({"policy_kwargs": {"encoder": "population", "encoder_kwargs": {"m": 3}}}, "no option 'm'"),
        ({"policy_kwargs": {"n_ticks": 0}}, "n_ticks"),
        ({"policy_kwargs": {"latency": 2}}, "latency"),
        ({"policy_kwargs": {"tau_m": -1.0}}, "tau_m"),
        ({"policy_kwargs": {"reset": "hard"}}, "reset"),
    ],
)
def test_a_wrong_setting_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small_model(**kwargs)


def test_an_unknown_policy_option_is_refused():
    with pytest.raises(TypeError, match="tau_mem"):
        small_model(policy_kwargs={"tau_mem": 3})


def test_policies_are_registered_by_name():
    assert isinstance(small_model(policy="LsnnPolicy").policy, LsnnPolicy)
    assert small_model(policy="LifPolicy").policy.lstm_actor.network_layers()[0].w_rec is None


def test_a_critic_that_reads_the_actor_has_its_memory():
    model = small_model(policy_kwargs={"critic_reads_actor": True, "tau_out": 3.0})
    buffer = collect(model)
    batch = next(buffer.get())
    values, _, _ = model.policy.evaluate_actions(
        batch.observations, batch.actions.long().flatten(), batch.lstm_states, batch.episode_starts
    )
    np.testing.assert_allclose(values.flatten().detach(), batch.old_values, atol=1e-5)
    obs, starts = th.zeros(3, 3), th.zeros(3)
    rest = th.zeros_like(model._last_lstm_states.pi[0])
    carried = model.policy.predict_values(obs, model._last_lstm_states.vf, starts)
    assert th.equal(carried, model.policy.predict_values(obs, (rest,), starts))  # at first from the observation alone
    model.learn(200)
    carried = model.policy.predict_values(obs, model._last_lstm_states.vf, starts)
    assert not th.equal(carried, model.policy.predict_values(obs, (rest,), starts))


def test_a_fixed_scale_stands_for_normalisation_and_goes_along_with_the_network():
    env = make_vec_env("CartPole-v1", n_envs=2, seed=0)
    kwargs = {"n_neurons": [16], "obs_scale": [1.0, 0.5, 10.0, 3.0]}
    model = SpikingPPO("LsnnPolicy", env, n_steps=32, batch_size=32, seed=0, device="cpu", policy_kwargs=kwargs)
    model.learn(64)
    simulator = Simulator(model.policy.to_network())
    obs, state, packed = env.reset(), None, None
    for _ in range(50):
        actions, state = model.predict(obs, state, deterministic=True)
        again, packed = simulator.predict(obs, packed)
        assert np.array_equal(actions, again) and np.array_equal(state[0], packed)
        obs = env.step(actions)[0]
    features = model.policy._features(th.ones(1, 4))[0]
    assert th.allclose(features, th.tensor([[1.0, 0.5, 10.0, 3.0]]))


@pytest.mark.parametrize("scale", [0.0, [1.0, 2.0], [1.0, 1.0, 1.0, float("inf")], -1])
def test_a_scale_that_does_not_fit_is_refused(scale):
    with pytest.raises(ValueError, match="obs_scale must be > 0, one number or 4"):
        SpikingPPO("LsnnPolicy", "CartPole-v1", policy_kwargs={"obs_scale": scale})
