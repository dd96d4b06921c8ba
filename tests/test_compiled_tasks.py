"""A rollout whose environments run compiled too is the one with the environments themselves."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from test_compiled_rollout import Notes

import spikeloop.envs  # noqa: F401 - registers its tasks
from spikeloop.agents import SpikingPPO, compiled_tasks, spiking_ppo
from spikeloop.agents.compiled_tasks import tasks_of
from spikeloop.envs.compiled import COMPILED
from spikeloop.envs.compiled_continuous import CONTINUOUS
from spikeloop.envs.compiled_drawn import DRAWN

TASKS = [
    "CartPole-v1", "MountainCar-v0", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0",
    "spikeloop/CartPoleNoVel-v0", "spikeloop/PendulumNoVel-v0", "spikeloop/TMaze-v0",
    "spikeloop/RepeatFirst-v0",
]  # fmt: skip


def model_of(env_id, normalize, limit=None, policy_kwargs=None, seed=0, **kwargs):
    def make():
        env = gym.make(env_id)
        return env if limit is None else gym.wrappers.TimeLimit(env, limit)

    env = make_vec_env(make, n_envs=3, seed=seed)
    if normalize:
        env = VecNormalize(env, gamma=0.99)
    small = {"n_neurons": [20], "net_arch": {"vf": [16]}, "tau_m": 8.0, **(policy_kwargs or {})}
    sizes = {"n_steps": 64, "batch_size": 48, "n_epochs": 1, "seq_len": 16}
    return SpikingPPO("LsnnPolicy", env, policy_kwargs=small, seed=seed, **sizes, **kwargs)


def test_every_task_with_a_compiled_form_is_here():
    made = {type(gym.make(task).unwrapped) for task in TASKS}
    assert {*COMPILED, *CONTINUOUS, *DRAWN} <= made


@pytest.mark.filterwarnings("ignore:batch_size")
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_rollouts_are_those_of_the_environments_themselves(task, normalize, monkeypatch):
    policy = (
        {"encoder": "population", "critic_reads_actor": True, "critic_frames": 3}
        if "Pendulum" in task
        else {"obs_scale": 2.0}
    )
    compare_rollouts(task, normalize, {} if normalize and not policy.get("encoder") else policy, monkeypatch)


def compare_rollouts(task, normalize, policy, monkeypatch):
    """Collect two rollouts with the environments in Python and two compiled ones, and return the models."""
    left = []
    for compiled in (False, True):
        if not compiled:
            monkeypatch.setattr(compiled_tasks, "tasks_of", lambda model, env: "a test forbids it")
        model = model_of(task, normalize, limit=40, policy_kwargs=policy)
        notes = Notes(10_000)
        monkeypatch.setattr(spiking_ppo, "watches", lambda callback: None)
        _, callback = model._setup_learn(10_000, notes)
        for _ in range(2):
            model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
            left.append((model.rollout_buffer.__dict__.copy(), model))
        left[-1] += (notes.seen,)
        monkeypatch.undo()
    for (theirs, _, *_), (ours, _, *_) in zip(left[:2], left[2:], strict=True):
        for name in (
            "observations",
            "actions",
            "episode_starts",
            "start_states",
            "start_frames",
            "rewards",
            "values",
            "log_probs",
        ):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-4, atol=2e-4, err_msg=name)
        for name in ("advantages", "returns"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=2e-3, err_msg=name)
    (_, theirs, seen), (_, ours, mine) = left[1], left[3]
    assert ours.num_timesteps == theirs.num_timesteps
    episodes, others = ([(e["r"], e["l"]) for e in model.ep_info_buffer] for model in (ours, theirs))
    np.testing.assert_allclose(episodes, others, rtol=1e-5)
    np.testing.assert_allclose(ours._last_obs, theirs._last_obs, rtol=2e-4, atol=2e-4)
    np.testing.assert_array_equal(ours._last_episode_starts, theirs._last_episode_starts)
    for one, other in zip(ours.env.unwrapped.envs, theirs.env.unwrapped.envs, strict=True):
        assert one.get_wrapper_attr("_elapsed_steps") == other.get_wrapper_attr("_elapsed_steps")
        np.testing.assert_allclose(one.get_wrapper_attr("rewards"), other.get_wrapper_attr("rewards"), rtol=1e-5)
        assert one.get_wrapper_attr("total_steps") == other.get_wrapper_attr("total_steps")
        assert one.unwrapped.np_random.bit_generator.state == other.unwrapped.np_random.bit_generator.state
    if normalize:
        for name in ("mean", "var", "count"):
            for rms in ("obs_rms", "ret_rms"):
                found, want = (getattr(getattr(model.env, rms), name) for model in (ours, theirs))
                np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(ours.env.returns, theirs.env.returns, rtol=1e-4)
    assert len(mine) == len(seen)
    for one, other in zip(mine, seen, strict=True):
        np.testing.assert_array_equal(one["dones"], other["dones"])
        for name in ("new_obs", "rewards", "actions", "clipped_actions", "values", "log_probs"):
            np.testing.assert_allclose(one[name], other[name], rtol=2e-4, atol=2e-4, err_msg=name)
            assert one[name].shape == other[name].shape and one[name].dtype == other[name].dtype, name
        for info, known in zip(one["infos"], other["infos"], strict=True):
            assert ("episode" in info) == ("episode" in known) and ("terminal_observation" in info) == (
                "terminal_observation" in known
            )
    return theirs, ours


class Stop(BaseCallback):
    def _on_step(self):
        return self.n_calls < 37


def test_a_callback_stops_the_training_on_its_step_and_environments_go_on(monkeypatch):
    monkeypatch.setattr(spiking_ppo, "watches", lambda callback: None)
    model = model_of("CartPole-v1", True)
    model.learn(10_000, callback=Stop())
    assert model.num_timesteps == 37 * 3
    model.learn(400, reset_num_timesteps=False)
    assert model.num_timesteps >= 111 + 400


@pytest.mark.parametrize(
    ("kwargs", "wrap", "reason"),
    [
        ({"policy_kwargs": {"encoder": "rate", "n_ticks": 2}}, None, "its encoder is rate"),
        ({}, lambda venv: VecFrameStack(venv, 2), "its environments are in or behind a VecFrameStack"),
        ({}, lambda venv: venv, None),
    ],
)
def test_what_keeps_the_environments_in_python_is_named(kwargs, wrap, reason, capsys):
    env = make_vec_env("CartPole-v1", n_envs=2)
    sizes = {"n_steps": 16, "batch_size": 32, "seq_len": 16, "verbose": 1}
    model = SpikingPPO("LsnnPolicy", wrap(env) if wrap else env, **sizes, **kwargs).learn(32)
    found = tasks_of(model, model.env)
    line = (
        "Training runs compiled" if reason is None else f"Training runs compiled, the environments in Python: {reason}"
    )
    assert (found == reason) if reason else not isinstance(found, str)
    assert f"{line}\n" in capsys.readouterr().out


class Presses(BaseCallback):
    """Makes an environment and the policy something else in the middle of a rollout."""

    def _on_step(self):
        if self.n_calls == 5:
            self.training_env.env_method("set_wrapper_attr", "force_mag", 0.0)
            with th.no_grad():
                self.model.policy.action_net.bias.copy_(th.tensor([-50.0, 50.0]))
        return True


def test_what_a_callback_changes_acts_on_the_next_step(capsys):
    env = make_vec_env("CartPole-v1", n_envs=1, seed=0)
    model = SpikingPPO("LsnnPolicy", env, n_steps=16, batch_size=16, seq_len=16, verbose=1)
    model.learn(16, callback=[EveryNTimesteps(4, Presses()), Presses()])
    assert "the environments in Python: the callback Presses may look at them\n" in capsys.readouterr().out
    assert model.rollout_buffer.actions[5:].all()
    assert env.envs[0].unwrapped.force_mag == 0
