"""An environment saved within an episode goes on in another one like it, or in another process, with the same bits."""

import copy
import functools
import multiprocessing
import pickle
import threading
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

import spikeloop.envs  # noqa: F401  registers our tasks
from spikeloop.agents.check_finite import CheckFinite
from spikeloop.agents.environment_state import restore_venv, venv_state
from spikeloop.agents.guarded_env import GuardedEnv

TASKS = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "Blackjack-v1",
    "FrozenLake-v1",
    "CliffWalking-v1",
    "Taxi-v4",
    "spikeloop/CartPoleNoVel-v0",
    "spikeloop/PendulumNoVel-v0",
    "spikeloop/TMaze-v0",
]


class Walk(gym.Env):
    """A task with state of many kinds."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Discrete(2)
    __slots__ = ("slotted",)

    def __init__(self):
        self.memory = np.zeros(6)
        self.newest = self.memory[:2]  # looks into it
        self.every_other = self.memory[::-2]
        self.rng = self.np_random  # another name of the same
        self.seen, self.free, self.log = deque(maxlen=3), {(0, 1), (2, 3)}, {}
        self.table, self.inner = {"self": self}, gym.make("CartPole-v1")
        self.slotted = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.rng = self.np_random
        self.memory[:] = 0
        self.inner.reset(seed=int(self.rng.integers(100)))
        self.left = int(self.rng.integers(3, 9))
        self.late = self.left  # an attribute that a new one lacks
        return self.shown(), {}

    def step(self, action):
        self.left -= 1
        self.slotted += 1
        self.newest += self.rng.normal(size=2) + np.random.normal()  # noqa: NPY002
        self.memory[2:] = np.roll(self.memory[2:], 1) + self.memory[0]
        self.every_other *= 1.1
        self.seen.append(self.newest.sum())
        obs, _, ended, _, _ = self.inner.step(int(action))
        self.memory[5] += obs.sum()
        return (
            self.shown(),
            float(sum(self.seen)),
            bool(self.left <= 0 or ended),
            False,
            {"slot": self.table["self"].slotted},
        )

    def shown(self):
        return self.observation_space.sample() * 0.1 + np.float32(self.memory[:3])


class Remembers(gym.Wrapper):
    """A wrapper that holds functions of what is inside, and slots."""

    __slots__ = ("total",)

    def __init__(self, env):
        super().__init__(env)
        self.inner_step, self.total = env.step, 0.0
        count = 0

        def tally(reward, past=[]):  # noqa: B006 - its default is state too
            nonlocal count
            count += 1
            past.append(reward)
            return reward + count + len(past)

        self.tally = tally

    def step(self, action):
        obs, reward, terminated, truncated, info = self.inner_step(action)
        self.total += self.tally(reward)
        return obs, self.total, terminated, truncated, info


def normalized(env):
    return wrappers.NormalizeReward(wrappers.NormalizeObservation(env))


def scaled():
    gain = [1.0]  # grows

    def scale(obs):
        gain[0] *= 1.01
        return (obs * gain[0]).astype(obs.dtype)

    return scale


AROUND = {
    "nothing": lambda env: env,
    "Monitor": Monitor,
    "NormalizeObservation": normalized,
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 3),
    "DelayObservation": lambda env: wrappers.DelayObservation(env, 2),
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "TimeAwareObservation": lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 20)),
    "TransformObservation": lambda env: wrappers.TransformObservation(env, scaled(), None),
    "TransformReward": lambda env: wrappers.TransformReward(env, lambda reward: 2.0 * reward),
    "StickyAction": lambda env: wrappers.StickyAction(env, 0.5),
    "MaxAndSkip": lambda env: wrappers.MaxAndSkipObservation(env, 2),
    "Remembers": lambda env: Remembers(Remembers(env)),
    "all": lambda env: Monitor(wrappers.FrameStackObservation(normalized(Remembers(env)), 2)),
}


def play(env, actions):
    """Return what steps give, without the time of day; an episode that ends is followed by the next."""
    seen = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        first = env.reset() if terminated or truncated else None
        seen.append(copy.deepcopy((obs, reward, terminated, truncated, timeless(info), first)))
    return seen


def timeless(info):
    episode = {name: value for name, value in info.get("episode", {}).items() if name != "t"}
    return {**info, "episode": episode} if episode else info


def assert_same(one, other):
    np.testing.assert_equal(one, other)  # NaN included, and types and dtypes by what follows
    assert repr(one) == repr(other)


def assert_goes_on(make, n_before=37, n_after=60, global_seed=5):
    env, other = GuardedEnv(make()), GuardedEnv(make())
    space = copy.deepcopy(env.action_space)
    space.seed(1)
    actions = [space.sample() for _ in range(n_before + n_after)]
    env.reset(seed=3)
    play(env, actions[:n_before])
    state = env.save_state()
    assert isinstance(state, bytes), state
    np.random.seed(global_seed)  # noqa: NPY002 - that of the process is for others to save
    whole = play(env, actions[n_before:])
    assert any(first is not None for *_, first in whole), "no episode ended"
    assert other.load_state(state) is None
    np.random.seed(global_seed)  # noqa: NPY002
    assert_same(whole, play(other, actions[n_before:]))
    assert other.n_steps == n_before + n_after


@pytest.mark.parametrize("task", TASKS)
def test_tasks_go_on(task):
    assert_goes_on(functools.partial(gym.make, task, max_episode_steps=30))


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("task", ["CartPole-v1", "Walk"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's, of what its wrappers do to the space
def test_wrappers_go_on(task, around):
    assert_goes_on(lambda: AROUND[around](Walk() if task == "Walk" else gym.make(task)))


def in_another_process(state, actions, results):
    env = GuardedEnv(AROUND["all"](Walk()))
    reason = env.load_state(state)
    np.random.seed(0)  # noqa: NPY002
    results.put((reason, play(env, actions)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_goes_on_in_another_process():
    env = GuardedEnv(AROUND["all"](Walk()))
    env.reset(seed=3)
    play(env, [0, 1] * 20)
    state, actions = env.save_state(), [1, 1, 0] * 20
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=in_another_process, args=(state, actions, results))
    process.start()
    reason, seen = results.get()
    process.join()
    assert reason is None
    np.random.seed(0)  # noqa: NPY002
    assert_same(play(env, actions), seen)


class Offers(Walk):
    """Its simulator cannot be pickled, and it says how to save that."""

    def __init__(self):
        super().__init__()
        self.simulator = None

    def reset(self, **kwargs):
        self.simulator = {"x": 1.0, "lock": threading.Lock()}
        return super().reset(**kwargs)

    def step(self, action):
        self.simulator["x"] *= 1.5
        obs, *rest = super().step(action)
        return obs + np.float32(np.sin(self.simulator["x"])), *rest

    def get_state(self):
        return self.simulator["x"]

    def set_state(self, state):
        self.simulator["x"] = state


def test_a_task_that_saves_itself_is_asked_to():
    assert_goes_on(Offers)


def holds(**attributes):
    env = gym.make("CartPole-v1")
    vars(env.unwrapped).update(attributes)
    return env


def shrunk():
    numbers = set(range(1000))
    for number in range(5, 1000):
        numbers.discard(number)
    return numbers


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: holds(lock=threading.Lock()), r"attribute CartPoleEnv.lock: cannot pickle '_thread.lock' object"),
        (lambda: holds(file=open(__file__)), "attribute CartPoleEnv.file: cannot pickle"),  # noqa: SIM115
        (lambda: holds(steps=iter(x for x in ())), "attribute CartPoleEnv.steps: cannot pickle 'generator' object"),
        (lambda: holds(free=[shrunk()]), "attribute CartPoleEnv.free: the order of a set's elements"),
        (lambda: holds(look=[lambda obs: obs]), "attribute CartPoleEnv.look: "),
        (lambda: holds(seen=np.frombuffer(bytearray(8))), "attribute CartPoleEnv.seen: an array looks into"),
        (
            lambda: wrappers.TransformReward(holds(), (lambda lock: lambda r: (r, lock)[0])(threading.Lock())),
            "attribute TransformReward.func.cells: cannot pickle '_thread.lock'",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_cannot_be_saved_is_named(make, reason):
    state = GuardedEnv(make()).save_state()
    assert isinstance(state, str) and "\n" not in state
    assert state.startswith(f"CartPole-v1 cannot be saved: {reason}")


def test_rendering_in_a_window_is_named():
    pytest.importorskip("pygame")
    env = GuardedEnv(gym.make("CartPole-v1", render_mode="rgb_array"))
    env.reset()
    env.render()
    assert "attribute CartPoleEnv.screen: cannot pickle" in env.save_state()


def test_a_state_is_not_put_where_it_does_not_belong():
    state = GuardedEnv(Monitor(gym.make("CartPole-v1"))).save_state()
    clipped = wrappers.ClipReward(gym.make("CartPole-v1"), -1)
    for env in (gym.make("CartPole-v1"), Monitor(gym.make("Acrobot-v1")), clipped):
        assert "was made in another way" in GuardedEnv(env).load_state(state)
    assert "cannot be restored" in GuardedEnv(gym.make("CartPole-v1")).load_state(state[: len(state) // 2])
    halved = GuardedEnv(wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: reward / 2))
    doubled = GuardedEnv(wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: reward + reward))
    assert "was made in another way" in doubled.load_state(halved.save_state())


FORKED = functools.partial(SubprocVecEnv, start_method="fork")  # quicker


def make_walk():
    return GuardedEnv(Monitor(Walk()))


def stacked(base, n_envs):
    envs = CheckFinite(base([make_walk] * n_envs), "Walk")
    return VecMonitor(VecFrameStack(VecNormalize(envs, gamma=0.9), 3))


def play_all(envs, n_steps):
    seen = []
    for t in range(n_steps):
        obs, rewards, dones, infos = envs.step(np.full(envs.num_envs, t % 2))
        seen.append(copy.deepcopy((obs, rewards, dones, [timeless(info) for info in infos])))
    return seen


@pytest.mark.parametrize(("base", "n_envs"), [(DummyVecEnv, 1), (DummyVecEnv, 3), (FORKED, 2)])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of forks
def test_vectorised_environments_go_on_with_their_wrappers(base, n_envs):
    one, other = stacked(base, n_envs), stacked(base, n_envs)
    one.seed(7)
    one.reset()
    play_all(one, 31)
    np.random.seed(5)  # noqa: NPY002
    state = venv_state(one)
    whole = play_all(one, 40)
    other.seed(8)  # which it has not used yet, and must not after
    assert restore_venv(other, state) is None
    np.random.seed(5)  # noqa: NPY002
    assert_same(whole, play_all(other, 40))
    assert_same(*(venvs.venv.venv.ret_rms.var for venvs in (one, other)))
    assert other.unwrapped._seeds == [None] * n_envs
    one.close()
    other.close()


def test_vectorised_environments_that_cannot_be_saved_say_so():
    assert "has to be in a GuardedEnv" in venv_state(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    locked = DummyVecEnv([lambda: GuardedEnv(holds(lock=threading.Lock()))])
    assert venv_state(locked).startswith("CartPole-v1 cannot be saved: attribute CartPoleEnv.lock")
    odd = CheckFinite(DummyVecEnv([make_walk]))
    odd.lock = threading.Lock()
    assert "attribute CheckFinite.lock: cannot pickle" in venv_state(odd)
    one, two = (DummyVecEnv([make_walk] * n) for n in (1, 2))
    assert restore_venv(two, venv_state(one)) == "the state of 1 environments cannot be restored in 2"
    assert "was made in another way" in restore_venv(CheckFinite(one), venv_state(one))


def test_states_of_former_versions_find_their_functions():
    for name in (b"_view", b"_set_vars"):
        assert pickle.loads(b"cspikeloop.agents.environment_state\n" + name + b"\n.") is not None
