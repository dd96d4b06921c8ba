"""Compiled classic control does what Gymnasium's does, whatever the body."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.envs import ChangeBody
from spikeloop.envs.bodies import ADDED, parts_of
from spikeloop.envs.compiled import COMPILED, compiled_of
from spikeloop.spiking.compiling import kernel

TASKS = {"CartPole-v1": 2, "MountainCar-v0": 3, "Acrobot-v1": 3}
SPANS = {"CartPole-v1": (2.3, 3, 0.2, 3), "MountainCar-v0": (1.1, 0.069), "Acrobot-v1": (3.1, 3.1, 12, 28)}


@kernel
def take_step(step, state, action, body, obs):
    return step(state, action, body, obs)


def compare(env, state, action):
    """Take one step from the same state in both, and return the largest difference."""
    task, compiled = env.unwrapped, compiled_of(env)
    mine, obs = np.array(state, float), np.empty(compiled.n_obs)
    reward, terminated = take_step(compiled.step, mine, action, compiled.body(env), obs)
    task.reset(seed=0)
    task.state = np.array(state, float)
    seen, expected, ended, _, _ = task.step(action)
    assert reward == expected and terminated == ended
    np.testing.assert_allclose(obs, seen, rtol=0, atol=1e-6)  # float32: the last bit may differ
    return np.abs(mine - task.state).max()


def test_every_task_is_here():
    assert {gym.spec(name).entry_point.rpartition(":")[2] for name in TASKS} == {task.__name__ for task in COMPILED}


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=300)
@given(data=st.data())
def test_one_step_equals_gymnasiums(name, data):
    unit = st.floats(-1, 1)
    state = [span * data.draw(unit) for span in SPANS[name]]
    assert compare(gym.make(name), state, data.draw(st.integers(0, TASKS[name] - 1))) <= 1e-12


PARTS = [(name, part) for name in TASKS for part in parts_of(gym.make(name)) if part[:6] not in ("action", "sensor")]


@pytest.mark.parametrize(("name", "part"), PARTS)
@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_one_step_on_a_changed_body_equals_gymnasiums(name, part, factor):
    env, plain = ChangeBody(gym.make(name), part, factor), gym.make(name)
    env.reset(seed=0)
    state = [0.3 * span for span in SPANS[name]]
    assert compare(env, state, 1) <= 1e-12
    assert not np.array_equal(compiled_of(env).body(env), compiled_of(plain).body(plain))


def test_variants_of_a_task_are_not_taken_for_it():
    nips, noisy = gym.make("Acrobot-v1"), gym.make("Acrobot-v1")
    nips.unwrapped.book_or_nips, noisy.unwrapped.torque_noise_max = "nips", 0.1
    other = gym.make("CartPole-v1")
    other.unwrapped.kinematics_integrator = "semi-implicit euler"
    assert [compiled_of(env) for env in (nips, noisy, other, gym.make("Pendulum-v1"))] == [None] * 4
    assert compare(gym.make("CartPole-v1", sutton_barto_reward=True), (0.0, 0.0, 0.2094, 3.0), 1) == 0


def test_a_body_changes_once_between_episodes():
    env = ChangeBody(gym.make("CartPole-v1"), "length", 2.0, after_episodes=2)
    lengths = []
    for n_resets in (3, 1, 2, 1):  # a reset that no step follows is no episode
        for _ in range(n_resets):
            env.reset(seed=0)
        lengths.append(env.unwrapped.length)
        env.step(0)
    assert lengths == [0.5, 0.5, 1.0, 1.0]
    assert env.unwrapped.polemass_length == pytest.approx(0.1)


@pytest.mark.parametrize("limit", [None, 3])
def test_episodes_that_end_by_themselves_or_by_a_limit_count(limit):
    env = ChangeBody(gym.make("CartPole-v1", max_episode_steps=limit), "length", 2.0, after_episodes=3)
    lengths = []
    for _ in range(5):
        env.reset(seed=0)
        ended = False
        while not ended:
            *_, terminated, truncated, _ = env.step(0)
            ended = terminated or truncated
        lengths.append(env.unwrapped.length)
    assert lengths == [0.5, 0.5, 0.5, 1.0, 1.0]


def test_a_heavier_pole_weighs_on_the_cart():
    env = ChangeBody(gym.make("CartPole-v1"), "mass", 3.0)
    env.reset(seed=0)
    assert env.unwrapped.total_mass == pytest.approx(1.3) and env.unwrapped.polemass_length == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (("CartPole-v1", "colour"), "one of action_sign, cart, force, gravity, length, mass, sensor_gain, .* CartPole"),
        (
            ("MountainCar-v0", "length"),
            "one of action_sign, force, gravity, sensor_gain, .* of MountainCar-v0, got 'len",
        ),
        (("CartPole-v1", "mass", 0.0), "factor must be a number > 0 for mass, got 0.0"),
        (("CartPole-v1", "gravity", float("inf")), "factor must be a finite number, got inf"),
        (("CartPole-v1", "sensor_offset", 2.0), "sensor_offset takes an amount that is added, got factor=2.0"),
        (("CartPole-v1", "force", 2.0, 0, 1.0), "force takes a factor, got amount=1.0"),
        (("CartPole-v1", "action_sign", -1.0), "action_sign takes no factor, got -1.0"),
        (("CartPole-v1", "sensor_offset", None, 0, [1.0]), r"of shape \(4,\) of such, got \[1.0\]"),
        (("CartPole-v1", "sensor_noise", None, 0, -1.0), "standard deviation >= 0, got -1.0"),
        (("FrozenLake-v1", "sensor_noise", None, 0, 1.0), "of FrozenLake-v1, got 'sensor_noise'"),
        (("CartPole-v1", "mass", 2.0, -1), "after_episodes must be a whole number >= 0, got -1"),
    ],
)
def test_wrong_changes_are_refused(args, answer):
    with pytest.raises(ValueError, match=answer):
        ChangeBody(gym.make(args[0]), *args[1:])


@pytest.mark.parametrize("name", [*TASKS, "Pendulum-v1", "MountainCarContinuous-v0"])
def test_every_part_of_every_task_changes_what_is_seen(name):
    action = 0 if name in TASKS else None
    for part in parts_of(gym.make(name)):
        number = {"amount": 0.01} if part in ADDED else {} if part == "action_sign" else {"factor": 0.5}
        env = ChangeBody(gym.make(name), part, after_episodes=1, **number)
        for changed in (False, True):
            mine, plain = run_of(env, action), run_of(gym.make(name), action)
            assert np.array_equal(mine, plain) != changed, part
            assert mine.dtype == plain.dtype


def run_of(env, action, n_steps=5):
    """Return what is observed on some steps."""
    seen = [env.reset(seed=3)[0]]
    for _ in range(n_steps):
        seen.append(env.step(env.action_space.high / 2 if action is None else action)[0])
    return np.stack(seen)


def test_actions_turn_round_and_saturate():
    sent = []
    for space in (gym.spaces.Discrete(3, start=2), gym.spaces.Box(-1, 1, (2,))):
        task = gym.make("CartPole-v1").unwrapped
        task.action_space = space
        task.step = lambda action: sent.append(action) or (np.zeros(4, np.float32), 0.0, False, False, {})
        for part in ("action_sign", *(["action_gain"] if len(sent) else [])):
            env = ChangeBody(task, part, factor=None if part == "action_sign" else 3.0)
            env.reset(seed=0)
            env.step(2 if isinstance(space, gym.spaces.Discrete) else np.array([0.2, 0.5], np.float32))
    assert sent[0] == 4
    np.testing.assert_allclose(sent[1:], [[-0.2, -0.5], [0.6, 1.0]], rtol=1e-6)


def test_noise_of_a_sensor_is_its_seeds_and_leaves_the_tasks_own_random_numbers_alone():
    noisy, plain = (ChangeBody(gym.make("CartPole-v1"), "sensor_noise", amount=a) for a in ([0, 0, 0.1, 0], 0.0))
    first, again = (noisy.reset(seed=5)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    second, hidden = noisy.reset()[0], plain.reset(seed=5)[0]
    np.testing.assert_array_equal((first - hidden)[[0, 1, 3]], 0)
    assert first[2] != hidden[2]
    np.testing.assert_array_equal((second - plain.reset()[0])[[0, 1, 3]], 0)


def test_a_task_of_ones_own_changes_in_its_numbers():
    class Own(gym.Env):
        observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.MultiBinary(2)

        def __init__(self):
            self.stiffness, self.name, self.closed = 3.0, "own", True

        def reset(self, *, seed=None, options=None):
            return 0, {}

    env = ChangeBody(Own(), "stiffness", 0.5)
    env.reset()
    assert env.unwrapped.stiffness == 1.5
    with pytest.raises(ValueError, match="part must be one of stiffness of Own, got 'name'"):
        ChangeBody(Own(), "name")


def test_the_fields_of_a_mujoco_model_change_by_name():
    pytest.importorskip("mujoco")
    model = {
        part: ChangeBody(gym.make("Hopper-v5"), part, 3.0) for part in ("mass:torso", "friction", "gear", "gravity")
    }
    plain = gym.make("Hopper-v5").unwrapped.model
    for env in model.values():
        env.reset(seed=0)
    changed = {part: env.unwrapped.model for part, env in model.items()}
    np.testing.assert_allclose(changed["mass:torso"].body_mass / np.maximum(plain.body_mass, 1e-9), [0, 3, 1, 1, 1])
    np.testing.assert_allclose(changed["friction"].geom_friction, 3 * plain.geom_friction)
    np.testing.assert_allclose(changed["gear"].actuator_gear, 3 * plain.actuator_gear)
    np.testing.assert_allclose(changed["gravity"].opt.gravity, 3 * plain.opt.gravity)
    with pytest.raises(ValueError, match=r"mass:NAME, a body of the model: .*arm"):
        ChangeBody(gym.make("Hopper-v5"), "mass:arm")


@pytest.mark.parametrize("action", [1, np.int64(1), np.array(1)], ids=["int", "int64", "0-d"])
def test_turned_actions_stay_single_whatever_they_come_in(action):
    env = ChangeBody(gym.make("CartPole-v1"), "action_sign")
    env.reset(seed=0)
    turned = env._acted(action)
    assert turned == 0 and np.shape(turned) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [("factor", True), ("factor", "2"), ("factor", np.nan), ("after_episodes", "2"), ("after_episodes", 0.5)],
)
def test_numbers_of_a_body_that_are_none_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a .*, got"):
        ChangeBody(gym.make("CartPole-v1"), "length", **{name: value})
    assert ChangeBody(gym.make("CartPole-v1"), "length", np.float32(2.0)).lets_pass


def test_numbers_that_no_step_of_a_table_reads_are_no_parts():
    assert parts_of(gym.make("FrozenLake-v1")) == ["action_sign"]


def test_sensor_noise_is_drawn_anew_each_time_with_the_standard_deviation_that_is_given():
    noisy, plain = (gym.make("CartPole-v1") for _ in range(2))
    noisy = ChangeBody(noisy, "sensor_noise", amount=0.5)
    errors = np.array([noisy.reset(seed=seed)[0] - plain.reset(seed=seed)[0] for seed in range(400)])
    assert abs(errors.std() - 0.5) < 0.03 and abs(errors.mean()) < 0.05
    assert len(np.unique(errors)) > 1500
    again = ChangeBody(gym.make("CartPole-v1"), "sensor_noise", amount=0.5).reset(seed=7)[0]
    np.testing.assert_array_equal(again, noisy.reset(seed=7)[0])


def test_attributes_that_are_set_by_hand_act_as_in_gymnasium():
    env = gym.make("CartPole-v1")
    env.unwrapped.masspole, env.unwrapped.length = 2.0, 0.1  # its step goes on with total_mass and polemass_length
    assert compare(env, (0.1, 1.0, 0.1, -1.0), 1) <= 1e-12
