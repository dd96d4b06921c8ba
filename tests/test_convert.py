"""`spikeloop convert`: from a model of Stable-Baselines3 to a file that rollout and deploy take."""

import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import QRDQN, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from torch import nn

pytest.importorskip("rl_zoo3")

from spikeloop.agents import distillation
from spikeloop.scripts import convert, deploy, rollout, train
from spikeloop.scripts.ann_policy import _was_normalized, algorithm_of, load
from spikeloop.scripts.bench import catch
from spikeloop.scripts.cli import UsageError
from spikeloop.scripts.load_policy import Place
from spikeloop.scripts.saving import model_bytes, statistics_bytes
from spikeloop.spiking import Network, Normalizer, Simulator

RELU = dict(activation_fn=nn.ReLU)
CARTPOLE = "CartPole-v1"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    for name in ("CALIBRATION_STEPS", "COMPARED_STEPS", "DISTILLED_STEPS"):
        monkeypatch.setattr(convert, name, 120)
    monkeypatch.setattr(distillation, "EPOCHS", 5)
    monkeypatch.setattr(deploy, "CALIBRATION_STEPS", 50)


def saved(folder, cls, policy="MlpPolicy", env=CARTPOLE, sealed=True, **options):
    """Save a model that has learnt nothing, as a training of this user's, and return the file."""
    model = cls(policy, env, seed=0, device="cpu", **options)
    path = folder / "model.zip"
    path.write_bytes(model_bytes(model)) if sealed else model.save(path)
    return path


@pytest.fixture
def model(tmp_path):
    return saved(tmp_path, PPO, policy_kwargs=RELU)


def start(*args):
    return convert.main([str(arg) for arg in args])


def json_of(capsys, *args):
    assert start(*args, "-n", 2, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore:quantised|lowered|values left")
@pytest.mark.parametrize("chip_ready", [False, True])
def test_the_file_is_a_network_that_rollout_and_deploy_take(model, chip_ready, tmp_path, capsys):
    found = json_of(capsys, model, "--env", CARTPOLE, "--ticks", 5, *["--chip-ready"] * chip_ready)
    assert set(found["mean_returns"]) == {"ann", "snn", "random"}
    assert found["neurons"][1] == 64 and (found["neurons"][0] > 64) == chip_ready  # neurons that stand for biases
    assert 0 <= found["agreement"]["snn"] <= 1 and found["spikes_per_decision"] > 0 and found["distilled"] is None
    network = Network.load(tmp_path / "policy.safetensors")
    assert (network.clears, network.latency, network.n_ticks) == (True, int(chip_ready), 5 + 2 * chip_ready)
    assert (network.metadata["env"], network.metadata["converted"]) == (CARTPOLE, "ppo")
    file = str(tmp_path / "policy.safetensors")
    assert rollout.main([file, "-n", "2", "--seed", "0", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["returns"]) == 2
    assert deploy.main([file, "-n", "2", "--chip", "loihi1", "--check-actions", "3", "--json"]) == 0
    on_chip = json.loads(capsys.readouterr().out)
    assert on_chip["report"]["host"]["chip set to rest"] == 1 and on_chip["agreement"]["baseline"] is None
    assert start(model, "--env", CARTPOLE, "-n", 1) == 0  # over a former conversion
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["ann", "snn", "random", "kept", "actions", "spikes", "left"]


def test_many_ticks_take_the_policys_actions(model, monkeypatch, capsys):
    monkeypatch.setattr(convert, "CALIBRATION_STEPS", 1000)
    assert json_of(capsys, model, "--env", CARTPOLE, "--ticks", 64)["agreement"]["snn"] > 0.8


def test_all_states_count_where_actions_are_drawn(model, monkeypatch, capsys):
    shares, made, closes, fitted = [], convert.converted, [], convert.refitted
    monkeypatch.setattr(convert, "converted", lambda *a, closest, **k: shares.append(closest) or made(*a, **k))
    monkeypatch.setattr(convert, "refitted", lambda *a, close: closes.append(close) or fitted(*a, close=close))
    assert json_of(capsys, model, "--env", CARTPOLE, "--refit", "--stochastic")["stochastic"]
    assert not json_of(capsys, model, "--env", CARTPOLE, "--refit")["stochastic"]
    assert shares == [1.0, 0.5] and closes == [False, True]


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (A2C, {"policy_kwargs": RELU}),
        (DQN, {"buffer_size": 10}),
        (QRDQN, {"buffer_size": 10}),
        (SAC, {"buffer_size": 10}),
    ],
)
def test_other_algorithms_are_known_by_their_files(cls, options, tmp_path, capsys):
    env = "Pendulum-v1" if cls is SAC else CARTPOLE
    path = saved(tmp_path, cls, env=env, **options)
    assert algorithm_of(path) == cls.__name__.lower()
    found = json_of(capsys, path, "--env", env)
    assert found["agreement"]["measure"].startswith("mean difference" if cls is SAC else "share of steps")


@pytest.mark.parametrize(("cls", "options"), [(PPO, {"policy_kwargs": RELU}), (DQN, {"buffer_size": 10})])
def test_the_last_map_is_fitted_where_outputs_are_no_logits_or_as_is_said(cls, options, tmp_path, capsys):
    path, found = saved(tmp_path, cls, **options), {}
    for said in ("", "--refit", "--no-refit"):
        json_of(capsys, path, "--env", CARTPOLE, "--ticks", 5, *[said] * bool(said))
        found[said] = Network.load(tmp_path / "policy.safetensors").readout.w_out.tolist()
    assert found["--refit"] != found["--no-refit"]
    assert found[""] == found["--refit" if cls is DQN else "--no-refit"]


def test_a_wide_network_is_fitted_to_as_many_states_as_it_needs(tmp_path, monkeypatch, capsys):
    seen, fitted = [], convert.refitted
    monkeypatch.setattr(convert, "refitted", lambda n, a, x, **k: seen.append(len(x)) or fitted(n, a, x, **k))
    path = saved(tmp_path, DQN, buffer_size=10, policy_kwargs=dict(net_arch=[8, 100]))
    json_of(capsys, path, "--env", CARTPOLE, "--ticks", 4)
    assert seen == [400]


def test_tanh_is_refused_and_distilled_if_asked(tmp_path, capsys):
    path = saved(tmp_path, PPO)
    assert start(path, "--env", CARTPOLE) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has tanh layers, which do not convert: distil them into ReLU layers with --distil" in line
    assert not (tmp_path / "policy.safetensors").exists()
    found = json_of(capsys, path, "--env", CARTPOLE, "--distil")
    assert found["distilled"]["steps"] == 120 and 0 <= found["distilled"]["agreement"] <= 1


def test_a_cnn_is_not_distilled_into_dense_layers(tmp_path, capsys):
    path = saved(tmp_path, PPO, "CnnPolicy", gym.make(catch.ID), policy_kwargs=dict(net_arch=[8]))
    assert start(path, "--env", catch.ID, "--distil") == 2
    assert "--distil trains dense layers of at most 262,144 weights, one has 2,654,208" in capsys.readouterr().err


def test_vec_normalize_becomes_a_normalizer(tmp_path, capsys):
    venv = VecNormalize(make_vec_env(CARTPOLE, 2, seed=0))
    model = PPO("MlpPolicy", venv, n_steps=64, batch_size=32, seed=0, device="cpu", policy_kwargs=RELU).learn(256)
    (tmp_path / "model.zip").write_bytes(model_bytes(model))
    (tmp_path / "statistics.pkl").write_bytes(statistics_bytes(venv))
    policy = load(tmp_path / "model.zip", Place(CARTPOLE), None, tmp_path / "statistics.pkl", False)
    assert [type(step) for step in policy.steps] == [Normalizer]
    obs = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    expected = model.predict(venv.normalize_obs(obs), deterministic=True)[0]
    found = np.concatenate([policy.player()(x[None], None, np.ones(1, bool))[0] for x in obs])
    np.testing.assert_array_equal(found, expected)
    assert (
        start(tmp_path / "model.zip", "--env", CARTPOLE, "--vec-normalize", tmp_path / "statistics.pkl", "-n", 1) == 0
    )
    network = Network.load(tmp_path / "policy.safetensors")
    np.testing.assert_allclose(network.preprocessing[0].mean, venv.obs_rms.mean)
    many = np.stack([policy.player_of(policy.ann.layers)(x[None], None, np.ones(1, bool))[0] for x in obs])[:, 0]
    np.testing.assert_array_equal(many, expected)


def test_a_cnn_of_small_images_converts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert, "STATES_PER_NEURON", 1)
    path = saved(tmp_path, PPO, "CnnPolicy", gym.make(catch.ID))
    found = json_of(capsys, path, "--env", catch.ID, "--ticks", 4)
    assert found["neurons"] == [2048, 576, 64, 512]
    assert [type(step) for step in Network.load(tmp_path / "policy.safetensors").preprocessing] == [Normalizer]
    obs = np.random.default_rng(0).integers(0, 256, (36, 36, 1)).astype(np.uint8)
    assert Simulator(Network.load(tmp_path / "policy.safetensors")).predict(obs)[0] in range(3)


def test_a_run_folder_of_rl_zoo_brings_wrappers_and_settings(tmp_path, capsys):
    settings = ["n_envs:1", "n_steps:64", "batch_size:32", "normalize:True", "frame_stack:2"]
    settings += ["policy_kwargs:dict(activation_fn=nn.ReLU)"]
    arguments = ["--algo", "ppo", "--env", CARTPOLE, "-n", "64", "--eval-freq", "-1", "--verbose", "0", "--seed", "0"]
    assert train.main([*arguments, "-f", str(tmp_path), "--hyperparams", *settings, "--trust"]) == 0
    folder = tmp_path / "ppo" / "CartPole-v1_1"
    capsys.readouterr()
    found = json_of(capsys, folder, "--ticks", 32)
    assert found["agreement"]["snn"] > 0.8
    network = Network.load(folder / "policy.safetensors")
    assert [type(step).__name__ for step in network.preprocessing] == ["Normalizer", "FrameStack"] and network.remembers
    assert rollout.main([str(folder / "policy.safetensors"), "-n", "1"]) == 0


def test_a_run_that_spikes_already_is_refused(own, capsys):
    assert start(own) == 2
    assert "is there already and is no converted network" in capsys.readouterr().err
    assert start(own, "--out", own / "elsewhere") == 2
    assert "is a model of spiking_a2c, which spikes already" in capsys.readouterr().err


class Evil:
    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def test_a_strangers_model_is_refused_before_it_is_unpickled(tmp_path, capsys):
    path = saved(tmp_path, PPO, sealed=False, policy_kwargs=RELU)
    assert start(path, "--env", CARTPOLE) == 2
    assert "can run code, and it is not as a training of yours wrote it on this machine" in capsys.readouterr().err
    assert start(path, "--env", CARTPOLE, "--trust", "-n", 1) == 0
    own = saved(tmp_path, PPO, policy_kwargs=RELU)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    assert start(own, "--env", CARTPOLE, "--vec-normalize", tmp_path / "evil.pkl") == 2
    assert "evil.pkl can run code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cls", "policy", "options", "message"),
    [
        (
            RecurrentPPO,
            "MlpLstmPolicy",
            {},
            "has a policy of sb3_contrib.common.recurrent.policies; those that",
        ),
        (
            TD3,
            "MlpPolicy",
            {"buffer_size": 10},
            "has a policy of stable_baselines3.td3.policies; those that convert",
        ),
        (PPO, "MlpPolicy", {"policy_kwargs": dict(activation_fn=nn.ELU)}, "conversion knows Linear, Conv2d"),
    ],
)
def test_other_policies_are_refused_at_once(cls, policy, options, message, tmp_path, capsys):
    env = "Pendulum-v1" if cls is TD3 else CARTPOLE
    assert start(saved(tmp_path, cls, policy, env, **options), "--env", env) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "does not say what it was trained on, add --env ID"),
        (["--env", "CartPole-v7"], "unknown environment 'CartPole-v7'"),
        (["--env", "Acrobot-v1"], "cannot be loaded as a model of ppo"),
        (["--env", CARTPOLE, "--ticks", 0], "--ticks must be 1 to 1000, got 0"),
        (["--env", CARTPOLE, "--ticks", 1001], "--ticks must be 1 to 1000, got 1001"),
        (["--env", CARTPOLE, "-n", 0], "--n-episodes must be at least 1, got 0"),
        (["--env", CARTPOLE, "--seed", -1], "--seed must be at least 0, got -1"),
        (["--env", CARTPOLE, "--percentile", 50], "--percentile must be above 50 and at most 100, got 50"),
        (["--env", CARTPOLE, "--distil"], "has ReLU layers, which convert as they are: remove --distil"),
        (["--env", CARTPOLE, "--load-best"], "--load-best needs a run folder"),
        (["--env", CARTPOLE, "--algo", "td3"], "is a model of td3; policies that convert are of ppo, a2c"),
        (["--env", CARTPOLE, "--vec-normalize", "nothing"], "there is no file nothing"),
    ],
)
def test_a_wrong_request_is_answered_in_one_line(model, arguments, message, capsys):
    assert start(model, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_what_is_no_model_is_refused(tmp_path, capsys):
    assert start(tmp_path / "none.zip", "--env", CARTPOLE) == 2
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(UsageError, match="is no model that Stable-Baselines3 saved"):
        algorithm_of(tmp_path / "text.zip")
    path = saved(tmp_path, SAC, env="Pendulum-v1", buffer_size=10)
    assert start(path, "--env", "Pendulum-v1", "--stochastic") == 2
    assert "--stochastic draws Discrete actions of PPO and A2C" in capsys.readouterr().err


def test_stacked_frames_of_a_model_alone_are_refused(tmp_path, capsys):
    venv = VecFrameStack(make_vec_env(CARTPOLE, 1), 2)
    path = saved(tmp_path, PPO, env=venv, policy_kwargs=RELU)
    assert start(path, "--env", CARTPOLE) == 2
    assert "Observation spaces do not match" in capsys.readouterr().err


def test_whether_a_model_was_trained_behind_vec_normalize_shows_in_its_file(tmp_path, capsys):
    for normalized in (False, True):
        venv = make_vec_env(CARTPOLE, 1, seed=0)
        venv = VecNormalize(venv) if normalized else venv
        path = tmp_path / f"{normalized}.zip"
        model = A2C("MlpPolicy", venv, seed=0, device="cpu", policy_kwargs=RELU).learn(10)
        path.write_bytes(model_bytes(model))
        assert _was_normalized(path) is normalized
    assert _was_normalized(saved(tmp_path, PPO)) is None
    (tmp_path / "statistics.pkl").write_bytes(statistics_bytes(venv))
    plain = tmp_path / "False.zip"
    assert start(plain, "--env", CARTPOLE, "--vec-normalize", tmp_path / "statistics.pkl") == 2
    assert "was not trained behind VecNormalize: leave out" in capsys.readouterr().err


def test_whole_numbers_that_were_normalised_are_no_whole_numbers(tmp_path):
    class Counts(gym.Env):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
        observation_space, action_space = gym.spaces.Box(0, 10, (3,), np.int64), gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.integers(0, 11, 3), {}

        def step(self, action):
            return self.np_random.integers(0, 11, 3), 1.0, bool(self.np_random.random() < 0.1), False, {}

    gym.register("Counts-v0", Counts)
    env = VecNormalize(make_vec_env("Counts-v0"))
    path = saved(tmp_path, PPO, env=env, policy_kwargs=RELU)
    env.reset()
    for _ in range(20):
        env.step(np.zeros(1, int))
    path.with_name("statistics.pkl").write_bytes(statistics_bytes(env))
    policy = load(path, Place("Counts-v0", 0), None, path.with_name("statistics.pkl"), False)
    seen, _ = policy._through(policy.wrapper_steps, np.array([[1, 9, 4]]), policy._frames(), np.ones(1))
    np.testing.assert_array_equal(policy._as_seen(seen)[0], seen[0].astype(np.float32))
    gym.registry.pop("Counts-v0")
