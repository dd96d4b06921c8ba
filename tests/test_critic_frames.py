"""A critic of k frames sees the last k of its episode: in rollouts, updates, last values and files."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.env_util import make_vec_env

import spikeloop.envs  # noqa: F401  registers the tasks
from spikeloop.agents import SpikingA2C, SpikingPPO
from spikeloop.agents.frames import frame_windows
from spikeloop.agents.policies import LsnnPolicy

K = 4


class Counting(gym.Env):
    """Shows how many steps its episode has had, from 1, and ends or cuts it at a random one."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 1
        return self.shown(), {}

    def shown(self):
        return np.float32([self.t, -self.t])

    def step(self, action):
        self.t += 1
        last = self.np_random.random(2) < 0.15
        return self.shown(), float(action), bool(last[0]), bool(last[1]), {}


def algorithm(kind=SpikingPPO, env=None, **policy_kwargs):
    options = {"batch_size": 32, "seq_len": 8, "n_epochs": 1} if kind is SpikingPPO else {}
    env = env or make_vec_env(Counting, n_envs=3, seed=0)
    policy_kwargs = {"n_neurons": 8, "critic_frames": K, **policy_kwargs}
    return kind("LsnnPolicy", env, n_steps=32, seed=0, policy_kwargs=policy_kwargs, compiled=False, **options)


def by_hand(history, start):
    """Return the last K frames of an episode that began with frame ``start`` of a row of frames, (K * F,)."""
    frames = [history[i] if i >= start else np.zeros_like(history[0]) for i in range(len(history) - K, len(history))]
    return np.concatenate(frames)


@given(st.integers(1, 5), st.integers(1, 12), st.lists(st.booleans(), min_size=12, max_size=12), st.integers(0, 11))
@settings(max_examples=50, deadline=None)
def test_windows_are_the_same_however_a_row_is_cut(k, n_steps, begins, cut):
    cut = min(cut, n_steps)
    features = th.arange(1.0, n_steps + 1).reshape(-1, 1, 1)
    starts = th.tensor(begins[:n_steps], dtype=th.float32)[:, None]
    before = th.zeros(k - 1, 1, 1)
    whole = frame_windows(features, before, starts)
    parts = []
    for piece in (slice(0, cut), slice(cut, n_steps)):
        if len(features[piece]):
            parts.append(frame_windows(features[piece], before, starts[piece]))
            before = parts[-1][-1, :, 1:].transpose(0, 1)
    assert th.equal(th.cat(parts), whole)
    for t in range(n_steps):
        first = max((i for i in range(t + 1) if begins[i]), default=0)
        wanted = [i + 1.0 if i >= first else 0.0 for i in range(t - k + 1, t + 1)]
        assert whole[t, 0, :, 0].tolist() == wanted


@pytest.mark.parametrize("reads_actor", [False, True])
@pytest.mark.parametrize("kind", [SpikingPPO, SpikingA2C])
def test_rollout_update_and_last_values_all_show_the_critic_its_episodes_last_frames(kind, reads_actor, monkeypatch):
    model = algorithm(kind, critic_reads_actor=reads_actor)
    seen, original = [], LsnnPolicy._value
    monkeypatch.setattr(LsnnPolicy, "_value", lambda self, f, y: seen.append(f.numpy()) or original(self, f, y))
    model.learn(2 * 32 * 3)
    assert all(len(array[0]) == K * 2 for array in seen)
    shown = np.concatenate(seen)
    t = shown[:, -2]  # the number of the newest frame says what the others must be
    for lag in range(K):
        expected = np.maximum(t - lag, 0)
        np.testing.assert_array_equal(shown[:, 2 * (K - 1 - lag)], expected)
        np.testing.assert_array_equal(shown[:, 2 * (K - 1 - lag) + 1], -expected)
    assert t.max() > K  # windows were full, too


def test_the_values_of_a_rollout_come_out_of_evaluate_actions_again():
    model = algorithm()
    model.learning_rate, model.lr_schedule = 0.0, lambda _: 0.0
    model.learn(64 * 3)
    for batch in model.rollout_buffer.get(48):
        states, starts = batch.lstm_states, batch.episode_starts
        values, log_prob, _ = model.policy.evaluate_actions(
            batch.observations, batch.actions.long().flatten(), states, starts
        )
        th.testing.assert_close(values.flatten(), batch.old_values, rtol=1e-5, atol=1e-6)
        assert th.equal(log_prob, batch.old_log_prob)


def test_gradients_reach_the_weights_of_the_oldest_frame():
    model = algorithm()
    model.learn(96)
    first = next(iter(model.policy.mlp_extractor.value_net))
    assert first.in_features == 2 * K and float(first.weight.grad[:, :2].abs().sum()) > 0  # the oldest frame, too


def test_saved_and_loaded_models_are_alike_and_play_without_frames(tmp_path):
    model = algorithm()
    model.learn(96)
    model.save(tmp_path / "model.zip")
    loaded = SpikingPPO.load(tmp_path / "model.zip", env=make_vec_env(Counting, n_envs=2, seed=1))
    assert loaded.policy.critic_frames == K
    for name, p in model.policy.state_dict().items():
        assert th.equal(p, loaded.policy.state_dict()[name]), name
    obs, start = np.ones((1, 2), np.float32), np.ones(1, bool)
    actions, state = loaded.predict(obs, episode_start=start, deterministic=True)
    assert len(state) == 1 and actions.shape == (1,)
    loaded.learn(64)  # in another number of environments
    assert loaded.to_network().layers[0].w_in.shape == model.to_network().layers[0].w_in.shape == (8, 2)


def test_values_of_an_episodes_end_belong_to_its_own_environment():
    policy = algorithm().policy
    states = RNNStates((), (th.from_numpy(policy.initial_state(3)), th.arange(18.0).reshape(K - 1, 3, 2)))
    obs, starts = th.arange(6.0).reshape(3, 2), th.zeros(3)
    with th.no_grad():
        together = policy.predict_values(obs, states.vf, starts)
        for i in range(3):
            alone = policy.predict_values(obs[i : i + 1], tuple(s[:, i : i + 1] for s in states.vf), starts[i : i + 1])
            th.testing.assert_close(alone, together[i : i + 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("frames", [0, -1, 1.5, "four", True])
def test_a_number_of_frames_that_is_none_is_refused(frames):
    with pytest.raises(ValueError, match="critic_frames"):
        algorithm(critic_frames=frames)


def test_frames_are_refused_behind_an_extractor_that_learns():
    space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    with pytest.raises(ValueError, match=r"critic_frames > 1 .* without weights.* got 4 with NatureCNN"):
        LsnnPolicy(space, spaces.Discrete(2), lambda _: 1e-3, critic_frames=4)


def test_dict_observations_have_frames_too():
    class Both(Counting):
        observation_space = spaces.Dict(a=spaces.Box(-1e3, 1e3, (1,)), b=spaces.Box(-1e3, 1e3, (1,)))

        def shown(self):
            return {"a": np.float32([self.t]), "b": np.float32([-self.t])}

    model = SpikingPPO(
        "LsnnPolicy", Both(), n_steps=32, batch_size=32, n_epochs=1, policy_kwargs={"n_neurons": 8, "critic_frames": 2}
    )
    assert model.learn(64).num_timesteps == 64
