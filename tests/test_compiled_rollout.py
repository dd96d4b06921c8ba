"""A rollout collected by the compiled policy step is the one that torch collects, up to rounding."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from test_agents import ACTION_SPACES, RandomEnv
from test_compiled_update import LAYOUTS

from spikeloop.agents import SpikingPPO


class Parts(gym.ObservationWrapper):
    """The same observations as a mapping with a choice in it."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict({"numbers": env.observation_space, "choice": spaces.Discrete(3, start=2)})

    def observation(self, observation):
        return {"numbers": observation, "choice": 2 + int(observation[0] > 0)}


def environments(space, limit, parts):
    def one():
        env = gym.wrappers.TimeLimit(RandomEnv(ACTION_SPACES[space]), limit)
        return Parts(env) if parts else env

    return make_vec_env(one, n_envs=3, seed=0)


def model_of(space, compiled, limit=11, parts=False, policy_kwargs=None):
    small = {"n_neurons": [20], "net_arch": {"vf": [16]}, "tau_m": 8.0, "v_th": 0.3, **(policy_kwargs or {})}
    sizes = {"n_steps": 32, "batch_size": 48, "n_epochs": 1, "seq_len": 8, "seed": 0}
    env = environments(space, limit, parts)
    return SpikingPPO("LsnnPolicy", env, policy_kwargs=small, compiled=compiled, **sizes)


class Notes(BaseCallback):
    def __init__(self, most=50):
        super().__init__()
        self.seen, self.most = [], most

    def _on_step(self):
        names = ("new_obs", "rewards", "dones", "infos", "actions", "values", "log_probs", "clipped_actions", "self")
        self.seen.append({name: self.locals[name] for name in names})
        return self.n_calls < self.most


@settings(max_examples=20)
@example(
    "discrete", {"encoder": "population", "critic_reads_actor": True, "critic_frames": 3, "n_neurons": [12, 20]}, True
)
@given(
    st.sampled_from(list(ACTION_SPACES)),
    st.fixed_dictionaries(LAYOUTS),
    st.booleans(),
)  # fmt: skip
def test_what_does_not_depend_on_the_actions_is_what_torch_collects(space, policy_kwargs, parts):
    buffers, counts = [], []
    for compiled in (False, True):
        model = model_of(space, compiled, parts=parts, policy_kwargs=policy_kwargs)
        _, callback = model._setup_learn(10_000)
        for _ in range(2):
            model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        buffers.append(model.rollout_buffer)
        counts.append(model.policy.rollout_counts)
    torch, ours = buffers
    seen = torch.observations if isinstance(torch.observations, dict) else {"": torch.observations}
    mine = ours.observations if isinstance(ours.observations, dict) else {"": ours.observations}
    for key in seen:
        np.testing.assert_array_equal(mine[key], seen[key])
    np.testing.assert_array_equal(ours.episode_starts, torch.episode_starts)
    np.testing.assert_array_equal(ours.start_states, torch.start_states)
    for name in ("rewards", "values", "returns", "advantages"):
        np.testing.assert_allclose(getattr(ours, name), getattr(torch, name), rtol=1e-4, atol=2e-6, err_msg=name)
    assert counts[0][1] == counts[1][1]
    for one, other in zip(counts[0][0], counts[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert ours.actions.dtype == torch.actions.dtype and ours.actions.shape == torch.actions.shape


@pytest.mark.parametrize("space", ACTION_SPACES)
def test_actions_are_drawn_from_the_policys_distribution(space):
    model = model_of(space, True)
    drawn = []
    obs, starts = np.full((3, 3), 0.7, np.float32), np.ones(3)
    model.env.num_envs, compiled = 3, model._compiled()
    from spikeloop.agents.compiled_rollout import Actor, draw_noise

    compiled.take()
    actor, state = Actor(compiled, 3), model._last_lstm_states
    for noise in draw_noise(compiled, 3000, 3):
        flat, _, log_probs, _ = actor.act(obs, state, starts, noise, compiled.totals)
        drawn.append((flat.reshape(3, -1), log_probs))
    actions = np.concatenate([one for one, _ in drawn])
    expected = np.concatenate([chances for _, chances in drawn])
    if space == "box":
        u = actions - actions.mean(0)
        assert np.abs(u.std(0) - 1).max() < 0.04 and abs(np.mean(u**3)) < 0.1
        return
    for row in np.unique(actions, axis=0):
        hits = (actions == row).all(1)
        p = np.exp(expected[hits][0])
        assert abs(hits.mean() - p) < 5 * np.sqrt(p * (1 - p) / len(actions)) + 1e-4


def test_callbacks_are_called_on_every_step_find_their_names_and_can_stop():
    notes = [Notes(), Notes()]
    for compiled, note in zip((False, True), notes, strict=True):
        model = model_of("discrete", compiled)
        model.learn(10_000, callback=note)
        assert model.num_timesteps == 150
    for one, other in zip(*(note.seen for note in notes), strict=True):
        for name in ("new_obs", "dones"):
            np.testing.assert_array_equal(one[name], other[name])
        assert type(other["self"]) is SpikingPPO
        for name in ("actions", "values", "log_probs", "clipped_actions"):
            assert one[name].shape == other[name].shape and one[name].dtype == other[name].dtype, name


def test_the_same_seed_gives_the_same_bits():
    one, other = (model_of("multi_discrete", True).learn(200) for _ in range(2))
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert (a == b).all()
