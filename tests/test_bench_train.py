"""`spikeloop benchmark train`: what it prints, which agents it has, and rejax's PPO where it is installed."""

import sys
from importlib import util
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest

from spikeloop.scripts.bench import rejax_ppo, train
from spikeloop.scripts.bench.rejax_ppo import N_EPISODES, Recording, RejaxPPO, settings
from spikeloop.scripts.benchmark import main
from spikeloop.scripts.cli import UsageError

REJAX = "rejax PPO and gymnax, one JAX function"
PRESET = {"n_steps": 50, "batch_size": 100, "n_epochs": 2, "gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3}


class Step(NamedTuple):
    obs: Any
    reward: float


class Agent:
    def __init__(self):
        self.num_timesteps, self.anew, self.ep_info_buffer = 0, [], [{"r": 3.0}, {"r": 4.0}]

    def learn(self, total_timesteps, reset_num_timesteps):
        self.anew.append(reset_num_timesteps)
        self.num_timesteps += total_timesteps


def agents_of(env_id, monkeypatch, installed):
    """Return what makes the agents, with nothing installed, or with rejax and a gymnax of one task."""
    monkeypatch.setattr(util, "find_spec", lambda name: installed and name == "rejax")
    if installed:
        monkeypatch.setitem(sys.modules, "gymnax", SimpleNamespace(registered_envs=["CartPole-v1"]))
    else:
        monkeypatch.setitem(sys.modules, "gymnax", None)  # cannot be imported
    return train._agents(SimpleNamespace(env=env_id, few=False, seed=0))


def test_a_table_has_returns_and_says_what_compiling_took(monkeypatch, capsys):
    ours, other = Agent(), Agent()
    other.compile_seconds = 1.5
    monkeypatch.setattr(train, "_agents", lambda args: {train.OURS: lambda: ours, "other": lambda: other})
    assert main(["train", "--blocks", "2", "--steps", "8"]) == 0
    title, _, *rows, compiled = capsys.readouterr().out.splitlines()
    assert title.startswith("CartPole-v1") and [row.split()[-1] for row in rows] == ["3.5", "3.5"]
    assert compiled == "other: compiled in 1.5 s, before its first block"
    assert ours.anew == [True, False, False, False]  # two blocks to warm up


@pytest.mark.parametrize("env_id, installed", [("CartPole-v1", False), ("spikeloop/TMaze50-v0", True)])
def test_without_rejax_or_without_the_task_in_gymnax_there_is_no_such_row(env_id, installed, monkeypatch):
    agents = agents_of(env_id, monkeypatch, installed)
    assert train.OURS in agents and REJAX not in agents


def test_rejax_has_the_settings_of_the_other_agents(monkeypatch):
    arguments = agents_of("CartPole-v1", monkeypatch, True)[REJAX].keywords
    preset, _, _, n_envs = train._preset("CartPole-v1")
    rollout = n_envs * preset["n_steps"]
    assert arguments["num_envs"] * arguments["num_steps"] == rollout
    assert arguments["num_minibatches"] * preset["batch_size"] == rollout
    assert (arguments["num_epochs"], arguments["gae_lambda"]) == (preset["n_epochs"], preset["gae_lambda"])
    assert arguments["gamma"] == arguments["reward_normalization_discount"] == preset["gamma"]
    assert not (arguments["normalize_observations"] or arguments["normalize_rewards"])
    mixed = settings(PRESET, {"norm_obs": True, "norm_reward": False}, 4)
    assert (mixed["normalize_observations"], mixed["normalize_rewards"]) == (True, False)


def test_minibatches_that_would_not_be_equal_are_refused():
    with pytest.raises(UsageError, match="batch_size that divides n_envs \\* n_steps = 150, got 100"):
        settings(PRESET, None, 3)


def test_the_returns_of_the_last_episodes_are_kept():
    jax = pytest.importorskip("jax")

    def step(key, state, action, params):  # rewards count up, every third step is an end and every fifth a time limit
        return state, state + 1, state * 1.0, state % 3 == 2, state % 5 == 4, {}

    env = SimpleNamespace(reset=lambda key, params: (0, 0), step=step, default_params=None)
    env.action_space = env.observation_space = None
    recording = Recording(env)
    step, (_, at) = jax.jit(recording.step), recording.reset(None, None)
    n_steps, total, expected = 400, 0.0, []
    for i in range(n_steps):
        _, at, reward, done, _ = step(None, at, None, None)
        total += i
        assert (float(reward), bool(done)) == (i, i % 3 == 2 or i % 5 == 4)
        if done:
            expected.append((i + 1, total))
            total = 0.0
    assert len(expected) > N_EPISODES
    assert sorted(zip(at.ended.tolist(), at.returns.tolist(), strict=True)) == expected[-N_EPISODES:]


@pytest.mark.filterwarnings("default")  # of other libraries
def test_rejax_trains_in_whole_rollouts_and_goes_on_where_it_was():
    pytest.importorskip("rejax")
    ppo = RejaxPPO("MountainCar-v0", 0, **settings(PRESET, {"norm_obs": True, "norm_reward": True}, 4))
    assert ppo.num_timesteps == 0 and ppo.ep_info_buffer == [] and ppo.compile_seconds > 0
    before = ppo._state.actor_ts.params
    ppo.learn(799)  # in rollouts of 200, to the time limit of all four cars, whose rewards are -1
    assert ppo.num_timesteps == 800 and ppo.ep_info_buffer == [{"r": -200.0}] * 4
    layers = zip(_leaves(before), _leaves(ppo._state.actor_ts.params), strict=True)
    assert all((old != new).any() for old, new in layers)
    ppo.learn(200, reset_num_timesteps=False)
    assert ppo.num_timesteps == 1000
    ppo.learn(200)
    assert ppo.num_timesteps == 200 and ppo.ep_info_buffer == []


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "env_id, action, state",
    [
        ("CartPole-v1", 1, (0.3, -0.2, 0.05, 0.4)),
        ("Acrobot-v1", 2, (0.5, -1.2, 2.0, -3.0)),
        ("Pendulum-v1", [1.5], (2.0, -1.0)),
        ("MountainCar-v0", 0, (-1.19, -0.05)),
        ("MountainCarContinuous-v0", [-0.5], (-0.8, 0.03)),
    ],
)
def test_environments_of_gymnax_move_as_those_of_gymnasium(env_id, action, state):
    assert np.allclose(*(step.obs for step in moved(env_id, action, state)), atol=1e-5)
    assert np.isclose(*(step.reward for step in moved(env_id, action, state)))


@pytest.mark.filterwarnings("default")
def test_the_left_wall_of_gymnax_does_not_stop_the_continuous_car():
    theirs, right = moved("MountainCarContinuous-v0", [-0.5], (-1.19, -0.05))
    assert theirs.obs[0] == right.obs[0] == np.float32(-1.2)
    assert theirs.obs[1] < -0.04 and right.obs[1] == 0


@pytest.mark.filterwarnings("default")
def test_a_gymnax_with_other_steps_is_refused_in_one_line(monkeypatch, capsys):
    pytest.importorskip("rejax")
    monkeypatch.setattr(rejax_ppo, "version", lambda name: "0.0.9")
    assert main(["train", "--blocks", "1"]) == 2
    assert capsys.readouterr().err == (
        "spikeloop benchmark: error: the benchmark of rejax's PPO needs gymnax >= 1, got 0.0.9\n"
    )


def moved(env_id, action, state):
    """Return observation and reward of one step from a state, of gymnax and of Gymnasium."""
    gymnax = pytest.importorskip("gymnax")
    import jax

    env, params = gymnax.make(env_id)
    _, begin = env.reset(jax.random.PRNGKey(0), params)
    names = [name for name in begin.__dataclass_fields__ if name not in ("time", "last_u")]
    begin = begin.replace(**dict(zip(names, map(np.float32, state), strict=True)))
    action = np.array(action, np.float32) if isinstance(action, list) else action
    *_, reward, _, _, info = env.step(jax.random.PRNGKey(0), begin, action, params)
    same = gym.make(env_id)
    same.reset(seed=0)
    same.unwrapped.state = np.array(state, np.float32)
    obs, right, *_ = same.step(action)
    return Step(np.asarray(info["final_observation"]), float(reward)), Step(obs, float(right))


def _leaves(tree):
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
