"""R-STDP is an SB3 algorithm, learns, and does the same in compiled tasks as in Gymnasium's own loop."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from rstdp_models import CLASSIC, PRESETS, make
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from spikeloop.agents import RSTDP
from spikeloop.agents.compiled_episodes import ClosedLoop
from spikeloop.agents.modulators import Modulator
from spikeloop.envs import ChangeBody
from spikeloop.scripts import train
from spikeloop.spiking import WinnerTakeAll


def weights(model):
    return {name: value.numpy().copy() for name, value in model.policy.state_dict().items()}


def assert_same(one, other, **tolerance):
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, **tolerance or {"rtol": 0, "atol": 0})


class Steps(BaseCallback):
    """Notes what callbacks are told."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at, self.seen, self.episodes = stop_at, [], []

    def _on_step(self):
        self.seen.append((self.num_timesteps, float(self.locals["rewards"][0])))
        self.episodes += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return self.num_timesteps != self.stop_at


def test_cartpole_is_learnt_in_150_episodes():
    model = make(seed=1)
    model.learn(100_000)
    assert model._episode_num == 150
    assert evaluate_policy(model, model.get_env(), 10)[0] >= 475


@pytest.mark.parametrize("name", CLASSIC)
def test_the_compiled_loop_is_taken_and_does_what_the_ordinary_one_does(name):
    models = [make(name, compiled, n_episodes=5) for compiled in (True, False)]
    assert [bool(ClosedLoop.of(m.get_env(), m.policy.network, m.policy.coder)) for m in models] == [True, False]
    steps = [Steps(), Steps()]
    for model, callback in zip(models, steps, strict=True):
        model.learn(400 if name == "Acrobot-v1" else 3000, callback)  # whose chaos magnifies the last bit
    assert steps[0].seen == steps[1].seen and steps[0].episodes == steps[1].episodes
    assert_same(weights(models[0]), weights(models[1]), rtol=0, atol=1e-9)
    monitors = [model.get_env().envs[0] for model in models]
    while not isinstance(monitors[1], Monitor):
        monitors[1] = monitors[1].env
    assert monitors[0].get_episode_rewards() == monitors[1].get_episode_rewards()
    assert monitors[0].get_total_steps() == monitors[1].get_total_steps()


def test_mean_returns_of_both_loops_agree_within_their_intervals():
    means = []
    for compiled in (True, False):
        returns = []
        for seed in range(20):
            model = make("CartPole-v1", compiled, seed + 20 * compiled, n_episodes=15)
            model.learn(100_000)
            returns.append(np.mean(model.get_env().envs[0].get_wrapper_attr("get_episode_rewards")()))
        means.append((np.mean(returns), 2 * np.std(returns, ddof=1) / np.sqrt(20)))
    (one, one_half), (other, other_half) = means
    assert abs(one - other) <= one_half + other_half


@pytest.mark.parametrize("compiled", [True, False])
def test_a_training_in_pieces_is_the_training_in_one(compiled):
    whole, pieces = make(compiled=compiled), make(compiled=compiled)
    whole.learn(500)
    pieces.learn(123)
    for n in (1, 200, 176):
        pieces.learn(n, reset_num_timesteps=False)
    assert whole.num_timesteps == pieces.num_timesteps == 500
    assert_same(weights(whole), weights(pieces))


@pytest.mark.parametrize("compiled", [True, False])
def test_callbacks_see_every_step_and_can_stop(compiled):
    model, steps = make(compiled=compiled), Steps(stop_at=77)
    model.learn(500, steps)
    assert [step for step, _ in steps.seen] == list(range(1, 78))
    assert model.num_timesteps == 77 or (compiled and 77 <= model.num_timesteps <= 577)
    model.learn(50, reset_num_timesteps=False)


def test_an_evaluation_in_the_middle_leaves_the_training_as_it_was():
    alone, watched = make(), make()
    alone.learn(600)
    watched.learn(600, EvalCallback(gym.make("CartPole-v1"), n_eval_episodes=1, eval_freq=37, verbose=0, warn=False))
    assert_same(weights(alone), weights(watched))


@pytest.mark.parametrize("encoder", ["tiles", "places"])
def test_save_and_load_keep_what_was_learnt(encoder, tmp_path):
    model = make(n_episodes=20, policy_kwargs={**PRESETS["CartPole-v1"]["policy_kwargs"], "encoder": "tiles"})
    if encoder == "places":
        places = {"n_inputs": 300, "low": [-2.4, -2.5, -0.2, -2.5], "high": [2.4, 2.5, 0.2, 2.5]}
        model = make(modulator="reward_baseline", policy_kwargs={"encoder": encoder, "encoder_kwargs": places})
    model.learn(300)
    model.save(tmp_path / "model")
    loaded = RSTDP.load(tmp_path / "model", env=gym.make("CartPole-v1"))
    assert weights(model)["network.w"].any()
    assert_same(weights(model), weights(loaded))
    obs = np.random.default_rng(0).uniform(-0.2, 0.2, (50, 4)).astype(np.float32)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    loaded.learn(50, reset_num_timesteps=False)
    assert loaded.num_timesteps == 350


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    runs = []
    for seed in (0, 0, 1):
        model = make(seed=seed)
        model.learn(400)
        runs.append(weights(model)["network.w"])
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_predict_takes_one_observation_or_a_batch_and_explores_unless_told_not_to():
    model = make()
    one, state = model.predict(np.zeros(4, np.float32), deterministic=True)
    batch, _ = model.predict(np.zeros((200, 4), np.float32))
    assert one.shape == () and state is None and set(batch) == {0, 1}
    assert set(model.predict(np.zeros((50, 4), np.float32), deterministic=True)[0]) == {int(one)}


class Slow(WinnerTakeAll):
    """Another network behind the same protocol."""


def test_any_plastic_network_is_driven():
    model, other = make(), make(backend=Slow)
    assert ClosedLoop.of(other.get_env(), other.policy.network, other.policy.coder) is None
    model.learn(300)
    other.learn(300)
    assert type(other.policy.network) is Slow
    assert_same(weights(model), weights(other), rtol=0, atol=1e-12)


def test_behind_wrappers_of_vectorised_environments_the_ordinary_loop_runs():
    env = VecNormalize(make_vec_env("CartPole-v1"))
    model = RSTDP("WtaPolicy", env, policy_kwargs={"encoder_kwargs": {"n_tiles": 3, "low": [-3] * 4, "high": [3] * 4}})
    model.learn(200)
    assert model.num_timesteps == 200 and weights(model)["network.w"].any()


def test_a_body_that_changes_is_learnt_on_in_the_compiled_loop():
    lengths = []

    class Body(Steps):
        def _on_rollout_end(self):
            lengths.append(self.training_env.get_attr("length")[0])

    env = ChangeBody(gym.make("CartPole-v1"), "length", 3.0, after_episodes=2)
    settings = {key: value for key, value in PRESETS["CartPole-v1"].items() if key != "n_timesteps"}
    model = RSTDP(env=env, seed=0, **{**settings, "n_episodes": 4})
    assert ClosedLoop.of(model.get_env(), model.policy.network, model.policy.coder) is not None
    model.learn(10_000, Body())
    assert lengths == [0.5, 1.5, 1.5, 1.5]  # the vectorised environment has reset by then


def test_changed_sensors_and_actions_are_learnt_with_in_the_ordinary_loop():
    for part, numbers in {"sensor_offset": {"amount": 0.1}, "action_sign": {}}.items():
        model = make()
        model.set_env(ChangeBody(gym.make("CartPole-v1"), part, **numbers))
        assert ClosedLoop.of(model.get_env(), model.policy.network, model.policy.coder) is None


def test_a_learning_rate_can_decay_with_the_episodes():
    model = make(learning_rate=lambda progress: 0.1 * progress, n_episodes=10)
    model.learn(100_000)
    assert model._current_progress_remaining == pytest.approx(0.1)


def test_set_env_goes_on_elsewhere():
    model = make()
    model.learn(100)
    model.set_env(gym.make("CartPole-v1"))
    model.learn(100, reset_num_timesteps=False)
    assert model.num_timesteps == 200
    with pytest.raises(ValueError, match="one environment at a time, got 2"):
        model.set_env(make_vec_env("CartPole-v1", 2))


@pytest.mark.parametrize(
    ("env", "changes", "answer"),
    [
        (lambda: make_vec_env("CartPole-v1", 2), {}, "one environment at a time, got 2; set n_envs to 1"),
        (lambda: gym.make("FrozenLake-v1"), {}, "encoder_kwargs must be empty for Discrete"),
        (
            lambda: gym.make("CartPole-v1"),
            {"backend": "chip"},
            "backend must be one of float or build a network, got 'chip'",
        ),
        (lambda: gym.make("CartPole-v1"), {"n_episodes": 0}, "n_episodes must be a whole number >= 1 or None, got 0"),
        (lambda: gym.make("CartPole-v1"), {"n_ticks": 0}, "n_ticks must be a whole number >= 1, got 0"),
        (lambda: gym.make("CartPole-v1"), {"modulator": "joy"}, "modulator must be one of .*'joy'"),
        (lambda: gym.make("CartPole-v1"), {"gamma": 2}, "gamma must be a number between 0 and 1, got 2"),
        (lambda: gym.make("CartPole-v1"), {"policy_kwargs": {}}, "encoder_kwargs needs low and high"),
        (lambda: gym.make("CartPole-v1"), {"policy_kwargs": {"encoder": "morse"}}, "'morse'"),
        (lambda: gym.make("Acrobot-v1"), {"policy_kwargs": {"encoder_kwargs": {"n_tile": 3}}}, "n_tile"),
        (
            lambda: gym.make("Acrobot-v1"),
            {"policy_kwargs": {"encoder_kwargs": {"n_tiles": 30}}},
            "5,000,000 input lines at",
        ),
        (lambda: gym.make("Acrobot-v1"), {"policy_kwargs": {"encoder_kwargs": {"components": [[0, 9]]}}}, "indices"),
    ],
)
def test_a_wrong_request_is_answered_by_name(env, changes, answer):
    settings = {key: value for key, value in {**PRESETS["CartPole-v1"], **changes}.items() if key != "n_timesteps"}
    with pytest.raises(ValueError, match=answer):
        RSTDP(env=env(), **settings)


def test_modulators():
    td, baseline, raw = (Modulator(kind, 0.9, 0.5) for kind in ("td_error", "reward_baseline", "reward"))
    assert td(1.0, 2.0, 3.0, False) == pytest.approx(1 + 0.9 * 3 - 2)
    assert td(1.0, 2.0, 3.0, True) == pytest.approx(1 - 2)
    assert raw(1.0, 2.0, 3.0, True) == 1
    assert [baseline(1.0, 0, 0, False) for _ in range(3)] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("modulator", ["reward", "reward_baseline"])
def test_a_bandit_is_learnt_from_reward_alone(modulator):
    class Bandit(gym.Env):
        observation_space, action_space = gym.spaces.Box(0, 1, (1,)), gym.spaces.Discrete(3, start=5)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), 1.0 if action == 6 else -1.0, True, False, {}

    kwargs = {"encoder_kwargs": {"n_tiles": 1}}
    model = RSTDP("WtaPolicy", Bandit(), modulator=modulator, reward_scale=1.0, seed=0, policy_kwargs=kwargs)
    model.learn(300)
    assert model.predict(np.zeros(1, np.float32), deterministic=True)[0] == 6


def test_kernels_of_the_compiled_loop_come_from_the_disk_in_another_process():
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from rstdp_models import make
from spikeloop.spiking.rules import winner_take_all_kernels
for name in ("CartPole-v1", "Acrobot-v1"):
    make(name).learn(300)
stats = winner_take_all_kernels.closed_loop.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
    make().learn(300)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "0"], run.stderr


# ---- the script


def start(*args):
    try:
        return train.main([str(arg) for arg in args])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


FAULTY = ["--algo", "rstdp", "--env", "Faulty-v0", "--gym-packages", "faulty_env", "-n", 512, "--verbose", 0]
ENCODER = "policy_kwargs:dict(encoder_kwargs=dict(n_tiles=4, low=[-2, -2], high=[2, 2]))"


def test_a_killed_run_goes_on_and_twice_to_the_same_bits(tmp_path, monkeypatch):
    pytest.importorskip("rl_zoo3")
    monkeypatch.chdir(tmp_path)
    kill = ["--env-kwargs", "fault:'SIGKILL'", "at:300", "--checkpoint-freq", "100", "--eval-freq", "100"]
    command = [sys.executable, train.__file__, *map(str, FAULTY), *kill, "--seed", "3", "--hyperparams", ENCODER]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    killed = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert killed.returncode == -9, killed.stderr
    results = []
    run = Path("logs/rstdp/Faulty-v0_1")
    subprocess.run(["cp", "-r", run, "again"], check=True)
    for folder in (run, Path("again")):
        assert start("--resume", folder) == 0
        model = RSTDP.load(folder / "Faulty-v0.zip")
        assert model.num_timesteps == 512
        results.append((weights(model), (folder / "learning_curve.csv").read_bytes()))
    assert_same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1] and results[0][0]["network.w"].any()


def test_a_run_whose_episodes_are_spent_has_nothing_left(tmp_path, monkeypatch):
    pytest.importorskip("rl_zoo3")
    monkeypatch.chdir(tmp_path)
    budget = ["-n", 5000, "--eval-freq", -1, "--verbose", 0, "--hyperparams", "n_episodes:3"]
    assert start("--algo", "rstdp", "--env", "CartPole-v1", *budget) == 0
    run = Path("logs/rstdp/CartPole-v1_1")
    before = RSTDP.load(run / "CartPole-v1.zip")
    assert before._episode_num == 3
    assert start("--resume", run) == 0
    after = RSTDP.load(run / "CartPole-v1.zip")
    assert after.num_timesteps == before.num_timesteps
    assert_same(weights(before), weights(after))


def test_state_is_made_of_tensors():
    assert all(isinstance(value, th.Tensor) for value in make().policy.state_dict().values())
    assert isinstance(make().get_env(), DummyVecEnv)


def test_a_single_tick_from_which_nothing_is_learned_is_refused():
    with pytest.raises(ValueError, match=r"n_ticks must be at least 2, .* got 1"):
        make("CartPole-v1", n_ticks=1)


def test_what_is_saved_is_a_copy():
    model = make("CartPole-v1")
    saved = model.policy.state_dict()
    before = {name: value.clone() for name, value in saved.items()}
    model.policy.modulator.baseline[:] = 7.0
    model.policy.network.arrays.w[:] = 7.0
    assert all((saved[name] == value).all() for name, value in before.items())
