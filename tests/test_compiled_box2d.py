"""LunarLander compiled does what Gymnasium's does, to the last bit, and Python sees the environments where they are."""

import functools
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import EvalCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from test_compiled_tasks import compare_rollouts

from spikeloop.agents import SpikingA2C, SpikingPPO
from spikeloop.agents.compiled_rollout import watches
from spikeloop.agents.compiled_tasks import tasks_of
from spikeloop.envs import ChangeBody, box2d_kernels, compiled_box2d
from spikeloop.envs.compiled_box2d import lander_of
from spikeloop.spiking.compiling import kernel

pytest.importorskip("Box2D")

NAME = "LunarLander-v3"
KINDS = [{}, {"continuous": True}]


@kernel
def take_step(step, state, action, body, obs):
    return step(state, action, body, obs)


@pytest.fixture(autouse=True)
def found_anew():
    """Let no test see what another one found out about the library."""
    compiled_box2d._functions.cache_clear()
    compiled_box2d._obstacle.cache_clear()
    yield
    compiled_box2d._functions.cache_clear()
    compiled_box2d._obstacle.cache_clear()


def steered(env, obs, chance):
    """Return an action of Gymnasium's own pilot, or by chance any."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    return env.action_space.sample() if chance else heuristic(env, obs)


def assert_same_world(one, other):
    """Compare all bodies, and what the environments hold beside them."""
    for mine, theirs in zip((one.lander, *one.legs), (other.lander, *other.legs), strict=True):
        for name in ("position", "worldCenter", "angle", "linearVelocity", "angularVelocity", "awake"):
            assert getattr(mine, name) == getattr(theirs, name), name
    assert [leg.ground_contact for leg in one.legs] == [leg.ground_contact for leg in other.legs]
    assert (one.game_over, one.prev_shaping) == (other.game_over, other.prev_shaping)
    assert one.np_random.bit_generator.state == other.np_random.bit_generator.state


@pytest.mark.parametrize("gravity", [-10.0, -2.5])
@pytest.mark.parametrize("kwargs", KINDS)
def test_every_step_is_gymnasiums(kwargs, gravity):
    mine, other = (gym.make(NAME, gravity=gravity, **kwargs).unwrapped for _ in range(2))
    form, rng, paid = lander_of(mine), np.random.default_rng(0), []
    mine.action_space.seed(0)
    seen = np.empty(8)
    obs = other.reset(seed=5)[0]
    np.testing.assert_array_equal(mine.reset(seed=5)[0], obs)
    for step in range(4000):
        action = steered(mine, obs, rng.random() < (0.9 if len(paid) % 3 else 0.1))
        if kwargs:
            action = np.asarray(action, np.float32) * np.float32(1.2)  # beyond what an engine can do, too
        body, state = form.body(mine), form.state(mine)
        there = np.asarray(action, float) if kwargs else action
        reward, ends = take_step(form.step, state, there, body, seen)
        obs, expected, terminated, _, _ = other.step(action)
        assert ends == terminated
        np.testing.assert_array_equal(seen.astype(np.float32), obs)
        if ends:
            finished = form.finish(mine, seen)
            np.testing.assert_array_equal(finished[0], obs)
            assert finished[1:] == (expected, True, False, {}) and finished[0].dtype == obs.dtype
            paid.append(expected)
        else:
            form.set_state(mine, state, 1)
            assert reward == expected
        assert_same_world(mine, other)
        if ends or step == 150:
            obs = other.reset()[0]
            np.testing.assert_array_equal(mine.reset()[0], obs)
    assert set(paid) == {-100, 100}


@pytest.mark.filterwarnings("ignore:batch_size")
@pytest.mark.parametrize("normalize", [False, True])
def test_rollouts_are_those_of_the_environments_themselves(normalize, monkeypatch):
    compare_rollouts(NAME, normalize, {}, monkeypatch)


@pytest.mark.parametrize("algorithm", [SpikingPPO, SpikingA2C])
@pytest.mark.parametrize("kwargs", KINDS)
def test_python_finds_the_environments_as_if_they_had_taken_the_steps_themselves(kwargs, algorithm):
    """Some episodes end by a crash and some by the time limit; these environments also make pictures."""

    def made():
        limit = {"max_episode_steps": 75}
        return make_vec_env(lambda: gym.make(NAME, render_mode="rgb_array", **limit, **kwargs), n_envs=2, seed=0)

    settings = {"n_steps": 256, "seed": 0, "policy_kwargs": {"n_neurons": [8]}}
    model = algorithm("LsnnPolicy", made(), **settings).learn(512)
    assert not isinstance(tasks_of(model, model.env), str)
    buffer, replayed, ends = model.rollout_buffer, made(), []
    obs = replayed.reset()
    for t in range(256):
        np.testing.assert_array_equal(buffer.observations[t], obs)
        action = np.clip(buffer.actions[t], -1, 1) if kwargs else buffer.actions[t].astype(int).ravel()
        obs, rewards, dones, infos = replayed.step(action)
        cut = np.array([info["TimeLimit.truncated"] for info in infos])
        np.testing.assert_array_equal(buffer.rewards[t][~cut], rewards[~cut])
        ends += cut[dones].tolist()
    assert set(ends) == {False, True}
    np.testing.assert_array_equal(model._last_obs, obs)
    np.testing.assert_array_equal(model._last_episode_starts, dones)
    for mine, other in zip(model.env.unwrapped.envs, replayed.envs, strict=True):
        for attribute in ("rewards", "episode_returns", "episode_lengths", "total_steps", "_elapsed_steps"):
            assert mine.get_wrapper_attr(attribute) == other.get_wrapper_attr(attribute), attribute
        for _ in range(150):
            assert_same_world(mine.unwrapped, other.unwrapped)
            action = np.float32([0.3, 0.6]) if kwargs else 3
            ours, theirs = (env.step(action) for env in (mine, other))
            np.testing.assert_array_equal(ours[0], theirs[0])
            assert ours[1:4] == theirs[1:4]
            if ours[2] or ours[3]:
                np.testing.assert_array_equal(mine.reset()[0], other.reset()[0])


def test_a_changed_body_is_the_one_that_flies():
    falls = []
    for factor in (1.0, 0.2):
        env = ChangeBody(gym.make(NAME), "gravity", factor=factor)
        env.reset(seed=0)
        form, seen = lander_of(env), np.empty(8)
        for _ in range(5):
            take_step(form.step, np.zeros(0), 0, form.body(env.unwrapped), seen)
        falls.append(seen[3])
    assert falls[0] < falls[1]


def own_step(env):
    env.step = lambda action: type(env).step(env, action)


@pytest.mark.parametrize(
    ("kwargs", "change", "says"),
    [
        ({"enable_wind": True}, lambda env: None, "wind blows in LunarLander"),
        ({}, own_step, "step of LunarLander is not Gymnasium's"),
    ],
)
def test_another_task_is_left_to_python(kwargs, change, says):
    env = gym.make(NAME, **kwargs).unwrapped
    change(env)
    assert lander_of(env) == says
    model = SpikingPPO("LsnnPolicy", env, n_steps=32, batch_size=32, policy_kwargs={"n_neurons": [4]})
    assert tasks_of(model, model.env) == says or "step" in says


def hears_itself(env):
    env.world.contactListener = type("Own", (type(env.world.contactListener),), {})(env)


def hears_nothing(env):
    env.world.contactListener = None


def hears_in_another_way(env):
    env.world.contactListener.BeginContact = lambda contact: None


@pytest.mark.parametrize("change", [hears_itself, hears_nothing, hears_in_another_way])
def test_steps_are_left_to_an_environment_whose_contacts_somebody_else_hears(change):
    env = gym.make(NAME).unwrapped
    env.reset(seed=0)
    form = lander_of(env)
    assert form.state(env) is not None
    change(env)
    assert form.state(env) is None
    assert len(form.body(env))


def test_a_listener_that_was_patched_keeps_the_steps_in_python(monkeypatch):
    from gymnasium.envs.box2d.lunar_lander import ContactDetector

    begin = ContactDetector.BeginContact
    monkeypatch.setattr(ContactDetector, "BeginContact", functools.wraps(begin)(lambda self, contact: None))
    assert lander_of(gym.make(NAME)) == "what hears of contacts in LunarLander is not Gymnasium's"


def test_a_method_that_pretends_to_be_gymnasiums_is_none(monkeypatch):
    cls = type(gym.make(NAME).unwrapped)
    monkeypatch.setattr(cls, "step", functools.wraps(cls.step)(lambda env, action: None))
    assert lander_of(gym.make(NAME)) == "step of LunarLander is not Gymnasium's"


def test_evaluation_in_the_environments_of_the_training_keeps_the_steps_in_python():
    """A reset there makes another world, and a kernel would go on in the one that is gone."""
    model = SpikingPPO("LsnnPolicy", make_vec_env(NAME, 2, seed=0), n_steps=64, policy_kwargs={"n_neurons": [4]})
    callback = EvalCallback(model.get_env(), eval_freq=40, n_eval_episodes=1, verbose=0)
    callback.init_callback(model)
    assert watches(callback) == "EvalCallback in the environments of the training"
    other = EvalCallback(make_vec_env(NAME, 1, seed=0), verbose=0)
    other.init_callback(model)
    assert watches(other) is None


class StopAt(EveryNTimesteps):
    """Stops a training at a time; by its module one of this library's own, which are taken to look at nothing."""

    def __init__(self, n):
        super().__init__(n, None)

    def _on_event(self):
        return False


@pytest.mark.parametrize("stop_at", range(76, 84))
def test_a_training_that_stops_before_a_step_is_replayed_goes_on_where_the_environments_are(stop_at, monkeypatch):
    monkeypatch.setattr(StopAt, "__module__", "spikeloop.agents")
    venv = VecNormalize(make_vec_env(NAME, 1, seed=0), norm_obs=False)
    model = SpikingPPO("LsnnPolicy", venv, n_steps=512, seed=0, policy_kwargs={"n_neurons": [4]})
    model.learn(512, callback=StopAt(stop_at))
    (env,) = venv.unwrapped.envs
    lander = env.unwrapped
    assert len(env.get_wrapper_attr("rewards")) == env.get_wrapper_attr("_elapsed_steps")
    over = lander.game_over or not lander.lander.awake
    assert not over and (env.get_wrapper_attr("_elapsed_steps") == 0) == model._last_episode_starts[0]
    assert (venv.returns[0] == 0.0) == model._last_episode_starts[0]
    seen = model._last_obs[0]
    np.testing.assert_allclose(seen[4], lander.lander.angle, rtol=1e-6)


PLACES = ["POSITION", "CENTER", "ANGLE", "VELOCITY", "SPIN", "INVERSE_MASS", "INVERSE_INERTIA"]
PLACES += ["FLAGS", "BODY_A", "BODY_B"]


@pytest.mark.parametrize(("place", "there"), [*((place, None) for place in PLACES), ("AWAKE", 4), ("AWAKE", 32)])
def test_objects_that_lie_otherwise_keep_the_steps_in_python(place, there, monkeypatch):
    monkeypatch.setattr(box2d_kernels, place, getattr(box2d_kernels, place) - 1 if there is None else there)
    assert lander_of(gym.make(NAME)) == "Box2D's objects are laid out in another way here"


def test_steps_with_other_bits_are_left_to_python(monkeypatch):

    names = tuple("SCALE" if name == "FPS" else name for name in compiled_box2d._CONSTANTS)
    monkeypatch.setattr(compiled_box2d, "_CONSTANTS", names)  # as if another version's formula had another number there
    assert lander_of(gym.make(NAME)) == "steps of Box2D by address have other bits here"


def test_a_version_without_what_is_read_keeps_the_steps_in_python(monkeypatch):
    from gymnasium.envs.box2d import lunar_lander

    monkeypatch.delattr(lunar_lander, "SIDE_ENGINE_AWAY")
    found = lander_of(gym.make(NAME))
    assert isinstance(found, str) and found.startswith("steps of Box2D by address cannot be tried out here (")


def test_a_library_that_does_not_show_its_functions_keeps_the_steps_in_python(monkeypatch):
    monkeypatch.setattr(compiled_box2d.ctypes, "CDLL", lambda name: object())
    assert lander_of(gym.make(NAME)) == "the functions of Box2D's library are not found"


ELSEWHERE = """
import sys
import spikeloop.agents.compiled_tasks
assert not {"Box2D", "gymnasium.envs.box2d"} & set(sys.modules)
import gymnasium as gym
import numpy as np
from test_compiled_box2d import take_step
from spikeloop.envs.compiled_box2d import lander_of
env = gym.make("LunarLander-v3").unwrapped
env.reset(seed=0)
form, obs = lander_of(env), np.empty(8)
take_step(form.step, form.state(env), 2, form.body(env), obs)
print(form.step.cache_hits, obs.tolist())
"""


def test_code_from_the_cache_finds_box2d_where_another_process_has_it():
    """And nothing of Box2D is imported before there is such an environment."""
    env = gym.make(NAME).unwrapped
    assert lander_of(env).step  # in the cache from now on
    env.reset(seed=0)
    expected = env.step(2)[0]
    command, here = [sys.executable, "-W", "ignore", "-c", ELSEWHERE], Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout == f"1 {expected.tolist()}\n"
