"""EProp behaves as SB3's users expect, learns the same compiled and step by step, and learns the T-maze."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TransformReward
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents import EProp
from spikeloop.spiking import Network, Simulator

TASK = "spikeloop/TMaze-v0"
SMALL = {"n_neurons": 12, "n_ticks": 2}


def small_model(env=None, seed=0, policy_kwargs=(), **kwargs):
    env = env or make_vec_env(TASK, seed=seed, env_kwargs={"delay": 3})
    return EProp("EpropPolicy", env, seed=seed, policy_kwargs={**SMALL, **dict(policy_kwargs)}, **kwargs)


class Steps(BaseCallback):
    """Notes what a callback sees."""

    def __init__(self):
        super().__init__()
        self.seen, self.rollouts = [], 0

    def _on_rollout_start(self):
        self.rollouts += 1

    def _on_step(self):
        info = self.locals["infos"][0].get("episode", {})
        self.seen.append((self.num_timesteps, bool(self.locals["dones"][0]), info.get("r"), info.get("l")))
        return True


@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_compiled_episodes_and_single_steps_learn_the_same_bits(feedback):
    def train(**kwargs):
        env = make_vec_env(TASK, seed=3, env_kwargs={"delay": 3}, **kwargs)
        model = small_model(env, seed=3, policy_kwargs={"feedback": feedback}, n_episodes=7)
        if kwargs:
            env.reset()  # drawn episodes begin after the one that learn() has reset to
        steps = Steps()
        model.learn(9 * 20, callback=steps)
        return model, steps

    (compiled, seen), (stepped, also_seen) = (
        train(),
        train(wrapper_class=TransformReward, wrapper_kwargs={"func": float}),
    )
    before = small_model(seed=3, policy_kwargs={"feedback": feedback}).policy.state_dict()
    for name, parameter in compiled.policy.state_dict().items():
        assert th.equal(parameter, stepped.policy.state_dict()[name])
        assert th.equal(parameter, before[name]) == (name not in ("w", "w_out", "rate"))
    assert seen.seen == also_seen.seen and seen.rollouts == also_seen.rollouts == 3
    assert compiled.num_timesteps == stepped.num_timesteps == 180
    assert len(compiled.ep_info_buffer) == len(stepped.ep_info_buffer) == 20


def test_it_learns_the_t_maze():
    """A short delay, to be quick; the whole task is `spikeloop benchmark tmaze`."""
    model = EProp("EpropPolicy", make_vec_env(TASK, seed=0, env_kwargs={"delay": 8}), seed=0).learn(40_000)
    env = make_vec_env(TASK, n_envs=4, seed=100, env_kwargs={"delay": 8})
    assert evaluate_policy(model, env, 100)[0] > 0.95


def test_a_frozen_hidden_layer_stays_as_it_was():
    model = small_model(train_hidden=False)
    w, w_out = model.policy.w.clone(), model.policy.w_out.clone()
    model.learn(180)
    assert th.equal(model.policy.w, w) and not th.equal(model.policy.w_out, w_out)


def test_saves_loads_and_goes_on(tmp_path):
    model = small_model().learn(180)
    model.save(tmp_path / "model")
    loaded = EProp.load(tmp_path / "model", env=model.env)
    obs = np.random.default_rng(0).integers(2, size=(5, 3, 60)).astype(np.float32)
    state = loaded_state = None
    for step in obs:
        action, state = model.predict(step, state, np.zeros(3), deterministic=True)
        loaded_action, loaded_state = loaded.predict(step, loaded_state, np.zeros(3), deterministic=True)
        np.testing.assert_array_equal(action, loaded_action)
        np.testing.assert_array_equal(state[0], loaded_state[0])
    before = loaded.policy.w.clone()
    loaded.learn(90, reset_num_timesteps=False)
    assert loaded.num_timesteps == 270 and not th.equal(before, loaded.policy.w)


def test_exported_network_acts_as_predict_does(tmp_path):
    model = small_model().learn(180)
    model.policy.to_network(metadata={"env": TASK}).save(tmp_path / "policy.safetensors")
    simulator = Simulator(Network.load(tmp_path / "policy.safetensors"))
    env = gym.make(TASK)
    obs, _ = env.reset(seed=0)
    state = simulated_state = None
    done = False
    while not done:
        action, state = model.predict(obs, state, deterministic=True)
        simulated, simulated_state = simulator.predict(obs, simulated_state)
        assert action == simulated
        obs, _, done, _, _ = env.step(action)


def test_actions_are_drawn_by_their_probabilities():
    model = small_model()
    with th.no_grad():
        model.policy.w_out[0] = 5.0
    obs = np.ones((2000, 60), np.float32)
    drawn, state = model.predict(obs)
    y = Simulator(model.policy.to_network()).run(obs[None, :1])[0][0, 0]
    expected = np.exp(y[1]) / np.exp(y).sum()
    assert drawn.mean() == pytest.approx(expected, abs=0.04)
    assert state[0].shape[1] == 2000


def test_weights_changed_in_place_show_in_the_next_prediction():
    model, obs = small_model(), np.ones(60, np.float32)
    weights, _ = model.policy.plastic()
    before = model.predict(obs, deterministic=True)[1][0]
    weights.w[:] *= -1
    assert not np.array_equal(before, model.predict(obs, deterministic=True)[1][0])
    weights.w_out[:2] = [[-1.0], [1.0]]
    assert model.predict(obs, deterministic=True)[0] == 1


def test_learning_shows_in_predictions_at_once():
    model = small_model()
    obs = np.ones(60, np.float32)
    before = model.predict(obs, deterministic=True)[1][0]
    model.learn(900)
    assert not np.array_equal(before, model.predict(obs, deterministic=True)[1][0])


def test_any_environment_with_discrete_actions_can_be_learnt_from():
    env = VecNormalize(make_vec_env("CartPole-v1", seed=0), norm_reward=False)
    model = small_model(env, n_episodes=2).learn(300)
    assert model.num_timesteps == 300
    assert model.to_network().preprocessing
    model.learn(100, reset_num_timesteps=False)


def test_callbacks_can_stop_it_and_logs_are_kept(tmp_path):
    model = small_model(n_episodes=4, tensorboard_log=None)
    model.learn(900, callback=StopTrainingOnMaxEpisodes(5), log_interval=1)
    assert model.num_timesteps == 45
    assert model.logger.name_to_value == {}  # dumped
    model.dump_logs()


def test_same_seed_gives_the_same_bits():
    first, second = (small_model(seed=4).learn(360).policy.state_dict() for _ in range(2))
    assert all(th.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_episodes": 0}, "n_episodes"),
        ({"gamma": 2.0}, "gamma"),
        ({"device": "cuda"}, "CPU"),
        ({"policy_kwargs": {"feedback": "none"}}, "feedback"),
        ({"policy_kwargs": {"adaptive_fraction": 2.0}}, "adaptive_fraction"),
        ({"policy_kwargs": {"tau_m": -1.0}}, "tau_m"),
        ({"env": make_vec_env("CartPole-v1", n_envs=2)}, "one environment at a time, got 2; set n_envs to 1"),
        ({"env": make_vec_env("CartPole-v1"), "policy_kwargs": {"critic": "rows"}}, "critic: encoder must be one of"),
        (
            {"env": make_vec_env("CartPole-v1"), "policy_kwargs": {"critic": "tiles"}},
            "critic: encoder_kwargs needs low",
        ),
        ({"policy_kwargs": {"critic_sees_changes": True}}, "need critic 'tiles' or 'places', got 'trace'"),
        ({"policy_kwargs": {"tau_a": [50.0]}}, r"tau_a must be a number >= 0, or two > 0 .*, got \[50.0\]"),
        ({"policy_kwargs": {"tau_a": [80.0, 50.0]}}, "in ascending order"),
        ({"policy_kwargs": {"obs_scale": 0.0}}, "obs_scale must be > 0"),
        ({"policy_kwargs": {"encoder": "latency", "encoder_kwargs": {"gain": 2.0}}}, "never spikes"),
        ({"optimizer": "rms"}, "optimizer must be one of .*, got 'rms'"),
        ({"trace_max": 0.0}, "trace_max must be a number > 0"),
        ({"max_episodes": 0}, "max_episodes"),
    ],
)
def test_a_wrong_setting_is_named(kwargs, message):
    with pytest.raises((ValueError, AssertionError), match=message):
        small_model(**kwargs)
