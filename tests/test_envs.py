"""Every task we register obeys Gymnasium and Stable-Baselines3, and hides what it says it hides."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.utils.env_checker import data_equivalence
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from spikeloop.envs import HideVelocity

ALL_ENVS = sorted(env_id for env_id in gym.registry if env_id.startswith("spikeloop/"))
ONE_OF_EACH = sorted({str(gym.spec(env_id).entry_point): env_id for env_id in ALL_ENVS}.values())
NO_VELOCITY = [
    ("spikeloop/CartPoleNoVel-v0", "CartPole-v1", [0, 2]),
    ("spikeloop/PendulumNoVel-v0", "Pendulum-v1", [0, 1]),
]


def rollout(env: gym.Env, seed: int, n_steps: int = 30) -> list[tuple]:
    env.action_space.seed(seed)
    transitions: list[tuple] = [env.reset(seed=seed)]
    for _ in range(n_steps):
        transitions.append(env.step(env.action_space.sample()))
        if transitions[-1][2] or transitions[-1][3]:
            transitions.append(env.reset())
    return transitions


def test_all_tasks_are_registered():
    names = ["CartPoleNoVel", "LatencyPatterns", "PendulumNoVel", "RepeatFirst", "RepeatPrevious", "SpikeOrder"]
    names += ["TMaze", "TMaze100", "TMaze200", "TMaze50", "WindyGridworld"]
    assert [f"spikeloop/{name}-v0" for name in names] == ALL_ENVS


# `gym.make` gives a wrapped task, and the wrappers are part of ours; Pendulum's torque has always gone from -2 to 2.
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version:UserWarning")
@pytest.mark.filterwarnings("ignore:.*recommend.* using a symmetric and normalized space:UserWarning")
@pytest.mark.parametrize("env_id", ALL_ENVS)
def test_gymnasium_check_env(env_id):
    gymnasium_check_env(gym.make(env_id))  # renders in every mode of the task


@pytest.mark.filterwarnings("ignore:We recommend you to use a symmetric and normalized Box action space:UserWarning")
@pytest.mark.parametrize("env_id", ALL_ENVS)
def test_sb3_check_env(env_id):
    sb3_check_env(gym.make(env_id))


@pytest.mark.parametrize("env_id", ALL_ENVS)
def test_rgb_array_is_a_picture(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    env.close()
    assert frame.dtype == np.uint8
    assert frame.ndim == 3 and frame.shape[2] == 3
    assert frame.min() < frame.max()


@pytest.mark.parametrize("env_id", ALL_ENVS)
def test_same_seed_same_episode(env_id):
    first, second = (rollout(gym.make(env_id), seed=7) for _ in range(2))
    assert data_equivalence(first, second, exact=True)
    assert not data_equivalence(first, rollout(gym.make(env_id), seed=8))


@pytest.mark.parametrize("env_id", ALL_ENVS)
def test_spec_rebuilds_the_task(env_id):
    env = gym.make(env_id)
    rebuilt = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert rebuilt.observation_space == env.observation_space
    assert data_equivalence(rollout(rebuilt, seed=3), rollout(env, seed=3), exact=True)


@pytest.mark.parametrize("env_id", ONE_OF_EACH)
def test_spawned_workers_find_the_task_by_module_and_id(env_id):
    venv = make_vec_env(
        f"spikeloop.envs:{env_id}",
        n_envs=2,
        seed=0,
        vec_env_cls=SubprocVecEnv,
        vec_env_kwargs={"start_method": "spawn"},
    )
    try:
        assert venv.reset().shape == (2, *gym.make(env_id).observation_space.shape)
        venv.step([venv.action_space.sample() for _ in range(2)])
    finally:
        venv.close()


def test_rl_zoo_trains_on_the_task(tmp_path):
    config = tmp_path / "ppo.yml"
    config.write_text(
        yaml.safe_dump({env_id: {"n_timesteps": 64, "policy": "MlpPolicy", "n_steps": 64} for env_id in ALL_ENVS})
    )
    command = f"-m rl_zoo3.train --algo ppo --env {ALL_ENVS[0]} --gym-packages spikeloop.envs"
    options = f"--conf-file {config} --log-folder {tmp_path} --eval-freq -1 --device cpu --verbose 0"
    subprocess.run([sys.executable, *command.split(), *options.split()], cwd=tmp_path, check=True)
    assert list(tmp_path.glob("ppo/**/spikeloop-CartPoleNoVel-v0.zip"))


@pytest.mark.parametrize(("env_id", "original_id", "visible"), NO_VELOCITY)
def test_velocities_are_hidden_and_nothing_else_changes(env_id, original_id, visible):
    env, original = gym.make(env_id), gym.make(original_id)
    assert env.observation_space.shape == (len(visible),)
    assert env.spec.max_episode_steps == original.spec.max_episode_steps
    assert env.spec.reward_threshold == original.spec.reward_threshold
    for hidden, full in zip(rollout(env, 5, 600), rollout(original, 5, 600), strict=True):
        np.testing.assert_array_equal(hidden[0], full[0][visible])
        assert hidden[1:] == full[1:]  # reward, ends of the episode and info


@pytest.mark.parametrize("keep", [(), (4,), (-1,)])
def test_hide_velocity_rejects_indices_outside_the_observation(keep):
    with pytest.raises(ValueError, match="keep="):
        HideVelocity(gym.make("CartPole-v1"), keep=keep)


def test_hide_velocity_rejects_observations_that_are_no_vector():
    with pytest.raises(ValueError, match="one-dimensional Box"):
        HideVelocity(gym.make("FrozenLake-v1"), keep=(0,))
