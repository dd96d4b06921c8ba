"""Compiled MuJoCo tasks do what Gymnasium's do, to the last bit, and Python sees the environments where they are."""

import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from test_compiled_tasks import compare_rollouts

from spikeloop.agents import SpikingA2C, SpikingPPO
from spikeloop.agents.compiled_tasks import tasks_of
from spikeloop.agents.environment_state import load_env, save_env
from spikeloop.envs import ChangeBody, compiled_mujoco
from spikeloop.envs.compiled_mujoco import mujoco_of
from spikeloop.spiking.compiling import kernel

mujoco = pytest.importorskip("mujoco")

SHOWS_ALL = "exclude_current_positions_from_observation"
TASKS = {
    "Hopper-v5": [
        {},
        {"terminate_when_unhealthy": False, SHOWS_ALL: False, "healthy_reward": -0.3},
        {"ctrl_cost_weight": np.float64(0.7), "forward_reward_weight": 2, "healthy_z_range": (1, 1.2), "frame_skip": 2},
        {"healthy_state_range": (-2.5, 2.5), "healthy_angle_range": (-9, 9), "healthy_z_range": [0, np.inf]},
    ],
    "Walker2d-v5": [
        {},
        {SHOWS_ALL: False, "ctrl_cost_weight": 3, "reset_noise_scale": 0.05},
        {"terminate_when_unhealthy": False, "healthy_reward": 2.5, "forward_reward_weight": -1.0, "frame_skip": 1},
        {"healthy_z_range": (1.1, np.float32(1.3)), "healthy_angle_range": (-0.1, 0.2), "healthy_reward": np.int8(2)},
    ],
    "HalfCheetah-v5": [
        {},
        {SHOWS_ALL: False, "ctrl_cost_weight": np.float64(0.3), "frame_skip": 2},
    ],
    "InvertedDoublePendulum-v5": [{}, {"healthy_reward": 3, "frame_skip": 2, "reset_noise_scale": 0.3}],
}  # fmt: skip


@kernel
def take_step(step, state, action, body, obs):
    return step(state, action, body, obs)


def assert_same_data(one, other):
    """Compare all that MuJoCo holds of two environments, less what it only fills in other models."""
    for name in dir(one.data):
        if name.startswith(("efc_J_", "map_")) or "island" in name:
            continue
        mine = getattr(one.data, name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, getattr(other.data, name), err_msg=name)


@pytest.mark.parametrize(
    ("name", "kwargs"), [(name, kwargs) for name, variants in TASKS.items() for kwargs in variants]
)
def test_every_step_is_gymnasiums(name, kwargs):
    mine, other = (gym.make(name, **kwargs).unwrapped for _ in range(2))
    compiled, rng, n_ended = mujoco_of(mine), np.random.default_rng(0), 0
    seen = np.empty(compiled.n_obs)
    np.testing.assert_array_equal(mine.reset(seed=5)[0], other.reset(seed=5)[0])
    assert mine.observation_space.shape == seen.shape
    for step in range(300):
        action = rng.uniform(-1, 1, mine.action_space.shape).astype(np.float32)
        reward, ends = take_step(compiled.step, compiled.state(mine), action.astype(float), compiled.body(mine), seen)
        obs, expected, terminated, _, info = other.step(action)
        assert ends == terminated
        if ends:  # nothing has happened yet
            again = mine.step(action)
            np.testing.assert_array_equal(again[0], obs)
            assert (again[1], again[2], again[4]) == (expected, True, info)
        else:
            np.testing.assert_array_equal(seen, obs)
            assert reward == expected
        if ends or step % 10 == 0:
            assert_same_data(mine, other)
        if ends or step == 150:
            n_ended += 1
            np.testing.assert_array_equal(mine.reset()[0], other.reset()[0])
    assert n_ended > 1 or "terminate_when_unhealthy" in kwargs or name == "HalfCheetah-v5"


def test_every_kind_is_here():
    assert {type(gym.make(name).unwrapped).__qualname__ for name in TASKS} == {
        kind for _, kind in compiled_mujoco._KINDS
    }


@pytest.mark.filterwarnings("ignore:batch_size")
@pytest.mark.parametrize(("name", "normalize"), [("Hopper-v5", False), *((name, True) for name in TASKS)])
def test_rollouts_are_those_of_the_environments_themselves(name, normalize, monkeypatch):
    compare_rollouts(name, normalize, {}, monkeypatch)


def model_of(env, algorithm=SpikingPPO, n_envs=2):
    venv = make_vec_env(env, n_envs=n_envs, seed=0)
    settings = {"n_steps": 128, "seed": 0, "policy_kwargs": {"n_neurons": [8], "log_std_init": 0.5}}
    return algorithm("LsnnPolicy", venv, **settings)


@pytest.mark.parametrize("algorithm", [SpikingPPO, SpikingA2C])
@pytest.mark.parametrize("name", TASKS)
def test_python_finds_the_environments_as_if_they_had_taken_the_steps_themselves(name, algorithm):
    model = model_of(name, algorithm).learn(256)
    assert not isinstance(tasks_of(model, model.env), str)
    buffer, replayed = model.rollout_buffer, make_vec_env(name, n_envs=2, seed=0)
    obs = replayed.reset()
    for t in range(128):
        np.testing.assert_array_equal(buffer.observations[t], obs.astype(np.float32))
        obs, rewards, dones, _ = replayed.step(np.clip(buffer.actions[t], -1, 1))
        np.testing.assert_array_equal(buffer.rewards[t], rewards)
    np.testing.assert_array_equal(model._last_obs, obs.astype(np.float32))
    assert model._last_obs.dtype == obs.dtype
    np.testing.assert_array_equal(model._last_episode_starts, dones)
    for mine, other in zip(model.env.unwrapped.envs, replayed.envs, strict=True):
        for attribute in ("rewards", "episode_returns", "episode_lengths", "total_steps", "_elapsed_steps"):
            assert mine.get_wrapper_attr(attribute) == other.get_wrapper_attr(attribute), attribute
        for _ in range(20):
            assert_same_data(mine.unwrapped, other.unwrapped)
            ours, theirs = (env.step(np.full(env.action_space.shape, 0.3, np.float32)) for env in (mine, other))
            np.testing.assert_array_equal(ours[0], theirs[0])
            assert ours[1:] == theirs[1:] or ours[2]  # the times in an episode's record differ
            if ours[2]:
                np.testing.assert_array_equal(mine.reset()[0], other.reset()[0])


def test_a_model_that_a_reset_replaces_is_left_to_python():
    env = gym.make("Hopper-v5").unwrapped
    env.reset_model = lambda: type(env).reset_model(env)
    assert mujoco_of(env) == "reset_model of HopperEnv is not Gymnasium's"


def test_a_model_without_the_sites_that_are_read_is_left_to_python():
    env = gym.make("InvertedDoublePendulum-v5").unwrapped
    xml = re.sub(r"<site[^>]*/>", "", Path(env.fullpath).read_text())
    env.model = mujoco.MjModel.from_xml_string(xml)
    env.data = mujoco.MjData(env.model)
    assert mujoco_of(env) == "the data of InvertedDoublePendulumEnv is of another model"


def test_a_changed_body_is_the_one_that_steps():
    stays, changes = (ChangeBody(gym.make("Hopper-v5"), "gravity", factor) for factor in (1.0, 0.2))
    for env in (stays, changes):
        env.reset(seed=0)
    seen = np.empty((2, 11))
    for env, obs in zip((stays, changes), seen, strict=True):
        compiled = mujoco_of(env)
        for _ in range(3):
            take_step(compiled.step, np.empty(0), np.zeros(3), compiled.body(env.unwrapped), obs)
    assert abs(seen[0] - seen[1]).max() > 0.01
    obs = changes.step(np.zeros(3, np.float32))[0]
    plain = ChangeBody(gym.make("Hopper-v5"), "gravity", 0.2)
    plain.reset(seed=0)
    for _ in range(4):
        expected = plain.step(np.zeros(3, np.float32))[0]
    np.testing.assert_array_equal(obs, expected)


def test_an_environment_that_was_saved_goes_on_compiled_with_the_same_bits():
    saved, restored = gym.make("Hopper-v5"), gym.make("Hopper-v5")
    action, seen = np.full(3, 0.5, np.float32), np.empty(11)
    for env in (saved, restored):
        env.reset(seed=0)
    saved.step(action)
    assert load_env(restored, save_env(saved, "it"), "it") is None
    compiled, task = mujoco_of(restored), restored.unwrapped
    for _ in range(5):
        reward, _ = take_step(compiled.step, compiled.state(task), action.astype(float), compiled.body(task), seen)
        obs, expected, *_ = saved.step(action)
        np.testing.assert_array_equal(seen, obs)
        assert reward == expected


def subclass():
    class Heavier(type(gym.make("Hopper-v5").unwrapped)):
        pass

    return Heavier()


def own_file(tmp_path):
    path = tmp_path / "hopper.xml"
    path.write_text(Path(gym.make("Hopper-v5").unwrapped.fullpath).read_text())
    return gym.make("Hopper-v5", xml_file=str(path))


def other_data():
    return gym.make("HalfCheetah-v5").unwrapped.data


def changed(name, value):
    env = gym.make("Hopper-v5")
    setattr(env.unwrapped, name, value)
    return env


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: subclass(), "Heavier has no compiled dynamics here"),
        (lambda path: changed("_get_obs", lambda: np.zeros(11)), "_get_obs of HopperEnv is not Gymnasium's"),
        (lambda path: changed("do_simulation", lambda *a: None), "do_simulation of HopperEnv is not Gymnasium's"),
        (own_file, "the model of HopperEnv is not the one that comes with it"),
        (lambda path: changed("data", other_data()), "the data of HopperEnv is of another model"),
        (lambda path: changed("frame_skip", 0), "the time step of HopperEnv is 0.0"),
        (lambda path: changed("_healthy_z_range", (0, 1, 2)), "the constants of HopperEnv are no numbers"),
        (lambda path: changed("_ctrl_cost_weight", np.longdouble(1)), "the constants of HopperEnv are no numbers"),
        (lambda path: gym.make("Hopper-v4"), "HopperEnv has no compiled dynamics here"),
        (lambda path: gym.make("Swimmer-v5"), "SwimmerEnv has no compiled dynamics here"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*The environment Hopper-v4 is out of date")
def test_other_tasks_are_not_taken_for_it(make, reason, tmp_path):
    model = model_of(lambda: make(tmp_path), n_envs=1)
    assert tasks_of(model, model.env) == reason


def test_a_method_of_the_class_that_was_replaced_is_not_taken_for_gymnasiums(monkeypatch):
    env = gym.make("Hopper-v5")
    monkeypatch.setattr(type(env.unwrapped), "is_healthy", property(lambda self: True))
    assert mujoco_of(env) == "is_healthy of HopperEnv is not Gymnasium's"


def test_callbacks_of_mujoco_that_are_pythons_keep_the_steps_there():
    env = gym.make("Hopper-v5")
    mujoco.set_mjcb_control(lambda model, data: None)
    try:
        assert mujoco_of(env) == "MuJoCo calls Python: get_mjcb_control() is set"
    finally:
        mujoco.set_mjcb_control(None)
    assert not isinstance(mujoco_of(env), str)


def test_sines_with_other_bits_keep_the_pendulum_in_python(monkeypatch):
    monkeypatch.setattr(compiled_mujoco, "_same_sines", lambda: False)
    found = mujoco_of(gym.make("InvertedDoublePendulum-v5"))
    assert found == "numpy's sines have other last bits than the C library's here"
    assert not isinstance(mujoco_of(gym.make("Hopper-v5")), str)


ELSEWHERE = """
import sys
import spikeloop.agents.compiled_tasks
assert not {"mujoco", "gymnasium.envs.mujoco"} & set(sys.modules)
import gymnasium as gym
import numpy as np
from test_compiled_mujoco import take_step
from spikeloop.envs.compiled_mujoco import mujoco_of
env = gym.make("Hopper-v5").unwrapped
env.reset(seed=0)
form, obs = mujoco_of(env), np.empty(11)
take_step(form.step, form.state(env), np.ones(3), form.body(env), obs)
print(form.step.cache_hits, obs.tolist())
"""


def test_code_from_the_cache_finds_mujoco_where_another_process_has_it():
    """And nothing of MuJoCo is imported before there is such an environment."""
    env = gym.make("Hopper-v5").unwrapped
    assert mujoco_of(env).step  # in the cache from now on
    env.reset(seed=0)
    expected = env.step(np.ones(3, np.float32))[0]
    command, here = [sys.executable, "-W", "ignore", "-c", ELSEWHERE], Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout == f"1 {expected.tolist()}\n"
