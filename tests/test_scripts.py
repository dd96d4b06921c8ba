"""The scripts train and roll out, and answer a wrong request with one line and status 2."""

import functools
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from shell import ENV, SMALL, assert_one_line, start

from spikeloop.agents import SpikingPPO
from spikeloop.agents.episodes import read_episodes
from spikeloop.agents.registry import ALGOS, hyperparams_file, load_algorithm
from spikeloop.scripts import cli, rollout, train
from spikeloop.spiking import Network
from spikeloop.spiking.extras import install_hint


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["rollout", "--help"]])
def test_help_loads_nothing_heavy(args):
    heavy = "print(*({'torch', 'numba', 'gymnasium', 'rl_zoo3'} & set(sys.modules)))"
    code = f"import sys\nfrom spikeloop.scripts import cli\nsys.argv[1:] = {args}\ntry: cli.main()\nfinally: {heavy}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("usage: spikeloop") and run.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("script", sorted(cli.COMMANDS))
def test_script_runs_as_a_file(script):
    file = Path(cli.__file__).with_name(f"{script}.py")
    subprocess.run([sys.executable, file, "--help"], stdout=subprocess.DEVNULL, check=True)


def test_unknown_command_is_answered_with_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["spikeloop", "trian"])
    assert cli.main() == 2
    assert capsys.readouterr().err == "spikeloop: error: unknown command 'trian'; did you mean 'train'?\n"


@pytest.mark.parametrize("algo", ALGOS)
def test_hyperparameters_are_data_the_algorithm_takes(algo):
    pytest.importorskip("rl_zoo3")
    from spikeloop.scripts.hyperparameters import check_hyperparameters

    entries = yaml.safe_load(hyperparams_file(algo).read_text("utf-8"))
    assert "default" in entries
    for hyperparams in entries.values():
        check_hyperparameters(load_algorithm(algo), hyperparams)
        assert not any("(" in value for value in hyperparams.values() if isinstance(value, str))


def test_training_leaves_what_the_zoo_leaves_and_more(trained):
    files = {path.name for path in trained.iterdir()}
    ours = {"checkpoint.zip", "learning_curve.csv", "learning_curve.png", "policy.safetensors"}
    assert files >= ours | {
        "best_model.zip",
        "evaluations.npz",
        "0.monitor.csv",
        "1.monitor.csv",
        f"{trained.name[:-2]}.zip",
    }
    metadata = Network.load(trained / "policy.safetensors").metadata
    assert metadata["env"] == ENV and metadata["seed"] == "3" and metadata["num_timesteps"] == "256"


@pytest.mark.parametrize("algo", ["spiking_a2c", "ppo", "dqn"])
def test_every_algorithm_of_the_zoo_trains(algo, tmp_path):
    pytest.importorskip("rl_zoo3")
    budget, argv = ["-n", 64, "--eval-freq", -1, "--verbose", 0, "-f", tmp_path], sys.argv
    assert start(train, "--algo", algo, "--env", "CartPole-v1", *budget) == 0
    assert sys.argv is argv  # RL Zoo reads the arguments of the process, which are the caller's
    run = tmp_path / algo / "CartPole-v1_1"
    assert (run / "policy.safetensors").exists() == algo.startswith("spiking")
    assert (run / "checkpoint.zip").exists() == (algo != "dqn")  # a replay buffer is not kept
    assert start(rollout, run, "-n", 1) == 0


def test_hyperparameters_are_tuned_by_the_zoo(tmp_path, capsys):
    pytest.importorskip("rl_zoo3")
    pytest.importorskip("pandas")
    trials = [
        "--optimize-hyperparameters",
        "--n-trials",
        1,
        "--n-evaluations",
        1,
        "--no-optim-plots",
        "--eval-episodes",
        1,
    ]
    sizes = ["n_envs:1", "n_steps:32", "batch_size:32", "n_epochs:1"]
    assert start(train, *trials, "-n", 64, "--seed", 0, "-f", tmp_path, "--hyperparams", *sizes) == 0
    assert "tau_m:" in capsys.readouterr().out
    assert not list((tmp_path / "spiking_ppo").glob("CartPole-v1_*"))  # a search is no run


@pytest.mark.parametrize("neurons", [[], [8]])
def test_a_trial_keeps_the_rest_of_the_preset_and_so_does_a_training_of_it(neurons, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    pytest.importorskip("pandas")
    kwargs = {"n_neurons": neurons, "encoder": "latency", "n_ticks": 6, "readout": "max", "net_arch": {"vf": [8]}}
    numbers = {"n_envs": 1, "n_steps": 32, "seq_len": 1, "batch_size": 32, "n_epochs": 1, "policy": "LsnnPolicy"}
    preset, built, init = tmp_path / "preset.yml", [], SpikingPPO.__init__
    preset.write_text(yaml.dump({"default": {**numbers, "policy_kwargs": {**kwargs, "tau_out": 2.0}}}))

    @functools.wraps(init)  # the script asks for its arguments
    def spy(model, *args, **given):
        built.append(given["policy_kwargs"])
        init(model, *args, **given)

    monkeypatch.setattr(SpikingPPO, "__init__", spy)
    run = ["--algo", "tempotron", "--env", "CartPole-v1", "-n", 64, "-f", tmp_path, "--conf-file", preset]
    run += ["--storage", tmp_path / "study.log", "--study-name", "s", "--eval-freq", -1]
    trials = ["--n-trials", 2, "--n-evaluations", 1, "--no-optim-plots", "--eval-episodes", 1]
    assert start(train, *run, "--optimize-hyperparameters", *trials) == 0
    assert start(train, *run, "--trial-id", 1) == 0
    trial, again = built[1], built[2]  # RL Zoo takes the first trial, 0, for none
    assert trial == again and trial.items() >= {name: kwargs[name] for name in kwargs if name != "n_neurons"}.items()
    assert trial["tau_out"] != 2.0 and bool(trial["n_neurons"]) == ("tau_m" in trial) == bool(neurons)


def test_trials_of_a_killed_worker_do_not_count_as_done(tmp_path):
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("pandas")
    study_file = tmp_path / "study.log"
    sizes = ["--hyperparams", "n_envs:1", "n_steps:32", "batch_size:32", "n_epochs:1"]
    options = ["-n", 64, "--seed", 0, "-f", tmp_path, "--storage", study_file, "--study-name", "s", *sizes]
    search = ["--optimize-hyperparameters", "--n-evaluations", 1, "--no-optim-plots", "--eval-episodes", 1]
    killed = (
        "import os, sys\nfrom spikeloop.scripts import experiment, train\n"
        "experiment.Experiment.learn = experiment.ExperimentManager.objective = lambda *_: os._exit(9)\n"
        "train.main(sys.argv[1:])\n"
    )
    arguments = [str(a) for a in (*search, "--max-total-trials", 2, *options)]
    assert subprocess.run([sys.executable, "-c", killed, *arguments], capture_output=True).returncode == 9
    assert start(train, *arguments) == 0
    backend = optuna.storages.journal.JournalFileBackend(str(study_file))
    study = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]


class OddActions(gym.Env):
    """Acts in a space that no algorithm here takes."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Dict({"a": gym.spaces.Discrete(2)})


gym.register("OddActions-v0", entry_point=OddActions)


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["--env", "CartPol-v1"], "CartPole-v1"),
        (["--algo", "spiking_pppo"], "did you mean 'spiking_ppo'?"),
        (["--hyperparams", "n_step:3"], "did you mean 'n_steps'?"),
        (["--hyperparams", "policy_kwargs:dict(tau_mm=3)"], "did you mean 'tau_m'?"),
        (["--hyperparams", "policy:'LsnPolicy'"], "did you mean 'LsnnPolicy'?"),
        (["--hyperparams", "policy_kwargs:dict(encoder='morse')"], "morse"),
        (["--hyperparams", "learning_rate:fast"], "text in quotes"),
        (["--hyperparams", "n_steps:33"], "must divide n_steps=33"),
        (["--hyperparams", "n_envs:0"], "n_envs"),
        (["--hyperparams", "n_envs:True"], "n_envs must be a whole number >= 1, got True"),
        (["--hyperparams", "frame_stack:1.5"], "frame_stack must be a whole number >= 1, got 1.5"),
        (["--hyperparams", "gamma"], "--hyperparams gamma: expected NAME:VALUE"),
        (["--hyperparams", "gamma:1/0"], "--hyperparams gamma:1/0: expected NAME:VALUE"),
        (["--hyperparams", "policy_kwargs:3"], "policy_kwargs must be a dict, got 3"),
        (["--hyperparams", "normalize:dict(norm_ob=True)"], "did you mean 'norm_obs'?"),
        (["--hyperparams", "normalize:3"], "got 3"),
        (["--hyperparams", "env_wrapper:'Foo'"], "'module.Class', got 'Foo'"),
        (["--hyperparams", "env_wrapper:'gymnasium.wrappers.NormalizeObservation'"], "use VecNormalize instead"),
        (["--hyperparams", "vec_env_wrapper:'stable_baselines3.common.vec_env.VecNormalize'"], "use normalize"),
        (["--hyperparams", "callback:'gymnasium.Foo'"], "'module.Class', got 'gymnasium.Foo'"),
        (["--env-kwargs", "x:y"], "--env-kwargs x:y"),
        (["--conf-file", "missing.yml"], "--conf-file missing.yml: expected"),
        (["-conf", "module_that_is_not"], "--conf-file module_that_is_not: expected"),
        (["-conf", __file__], "a dict called hyperparams"),
        (["-f", "/dev/null/logs"], "--log-folder /dev/null/logs"),
        (["--tensorboard-log", "/dev/null/tb"], "--tensorboard-log /dev/null/tb"),
        (["--gym-packages", "module_that_is_not"], "--gym-packages module_that_is_not: expected"),
        (["--env", "module_that_is_not:X-v0"], "--env module_that_is_not: expected"),
        (["--env", "spikeloop.envs:spikeloop/CartPoleNoVe-v0"], "did you mean 'spikeloop/CartPoleNoVel-v0'?"),
        (["-n", "0"], "'0' is not a positive whole number"),
        (["--seed", "-5"], "--seed must be at least 0, got -5"),
        (["--eval-episodes", "0"], "--eval-episodes must be at least 1, got 0"),
        (["--log-interval", "0"], "--log-interval must not be 0"),
        (["--device", "abacus"], "--device abacus: expected"),
        (["--trained-agent", "model.zip"], "none at model.zip"),
        (["--algo", "dqn", "--checkpoint-freq", "9"], "--checkpoint-freq: dqn has no checkpoints"),
        (["--sede", "3"], "--sede"),
        (["--checkpoint-freq", "0"], "'0' is not a positive whole number"),
        (["--env", "OddActions-v0"], "Dict"),
        (["--resume", "nowhere"], "nowhere holds no checkpoint.zip"),
        (["--resume", "nowhere", "--env", "X-v0"], "remove '--env'"),
        (["--resume", "nowhere", "--seed", "5"], "remove '--seed'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files of environments left behind
def test_wrong_training_request_is_answered_in_one_line(args, answer, tmp_path, monkeypatch, capsys):
    pytest.importorskip("rl_zoo3")
    monkeypatch.chdir(tmp_path)
    assert start(train, *args) == 2
    assert_one_line(capsys, answer)
    assert not list(tmp_path.glob("logs/*/*"))


@pytest.mark.parametrize("name", ["learning_rate", "clip_range"])
@pytest.mark.parametrize("value", ["cos_0.1", "abc", "lin", "lin_", "lin_x", "lin_nan", "lin_-1", "0.1", ""])
def test_a_schedule_that_the_zoo_would_misread_is_refused(name, value):
    pytest.importorskip("rl_zoo3")
    from spikeloop.scripts.hyperparameters import check_hyperparameters

    settings = {"policy": "LsnnPolicy", "n_timesteps": 64}
    check_hyperparameters(load_algorithm("spiking_ppo"), {**settings, name: "lin_2.5e-4"})
    with pytest.raises(ValueError, match=f"{name} must be a number, or 'lin_X'.*got '{value}'"):
        check_hyperparameters(load_algorithm("spiking_ppo"), {**settings, name: value})


def test_training_ends_with_its_return_and_the_next_command(tmp_path, capsys):
    pytest.importorskip("rl_zoo3")
    options = ["-n", 128, "--eval-freq", 64, "--verbose", 0, "-f", tmp_path / "a folder"]
    assert start(train, *options, "--hyperparams", *SMALL) == 0
    *_, trained_return, evaluated, following = capsys.readouterr().out.splitlines()
    _, returns = read_episodes(tmp_path / "a folder" / "spiking_ppo" / "CartPole-v1_1" / "learning_curve.csv")
    assert trained_return.startswith(f"Return {returns[-100:].mean():.2f}, mean of the last {len(returns)} training")
    assert evaluated.endswith("mean of the 5 episodes of the evaluation at step 128")
    words = shlex.split(following)
    assert words[:3] == ["Next:", "spikeloop", "rollout"]
    assert start(rollout, *words[3:], "-n", 1) == 0


OWN_MODULE = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Mine(CartPoleEnv): pass

class Half(gym.ObservationWrapper):
    def observation(self, observation): return observation / 2

gym.register("Mine-v0", entry_point="own_module:Mine", max_episode_steps=50)
"""
OWN_SETTINGS = """
hyperparams = {"Mine-v0": dict(policy="LsnnPolicy", n_envs=1, n_steps=32, batch_size=32, n_epochs=1,
                               env_wrapper="own_module.Half", policy_kwargs=dict(n_neurons=[8]))}
"""


def test_modules_in_the_working_folder_are_found_by_the_installed_command(tmp_path):
    pytest.importorskip("rl_zoo3")
    (tmp_path / "own_module.py").write_text(OWN_MODULE)
    (tmp_path / "own_settings.py").write_text(OWN_SETTINGS)

    def spikeloop(*args):
        script = Path(sys.executable).with_name("spikeloop")
        run = subprocess.run([script, *map(str, args)], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    settings = ["-conf", "own_settings", "-n", 32, "--eval-freq", -1, "--vec-env", "subproc", "--verbose", 0]
    spikeloop("train", "--env", "own_module:Mine-v0", *settings)
    spikeloop("rollout", "--env", "own_module:Mine-v0", "-n", 1)
    spikeloop("deploy", "logs/spiking_ppo/Mine-v0_1", "-n", 1)
    spikeloop("rollout", "logs/spiking_ppo/Mine-v0_1", "--deployed", "-n", 1)


class TinyEnv(gym.Env):
    """Ends after eight steps, whatever is done; observes what it is given."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 8
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {}


gym.register("TinyEnv-v0", entry_point=TinyEnv)
VECTOR, IMAGE = gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
FITTED = {
    "vector": (VECTOR, {"norm_obs": True}),
    "image": (IMAGE, {"norm_obs": False}),
    "discrete": (gym.spaces.Discrete(5), {"norm_obs": False}),
    "multi_discrete": (gym.spaces.MultiDiscrete([3, 2]), {"norm_obs": False}),
    "multi_binary": (gym.spaces.MultiBinary(4), {"norm_obs": False}),
    "dict": (gym.spaces.Dict(a=VECTOR, b=VECTOR), {"norm_obs": True}),
    "mixed dict": (gym.spaces.Dict(a=VECTOR, b=gym.spaces.Discrete(3), c=IMAGE), {"norm_obs_keys": ["a"]}),
    "dict without vectors": (gym.spaces.Dict(b=gym.spaces.Discrete(3)), {"norm_obs": False}),
}


@pytest.mark.parametrize("name", FITTED)
def test_the_default_preset_fits_the_observation_space(name, tmp_path, capsys):
    pytest.importorskip("rl_zoo3")
    space, wanted = FITTED[name]
    gym.registry["TinyEnv-v0"].kwargs["space"] = space
    small = ["n_envs:2", "n_steps:16", "batch_size:32", "n_epochs:1", "policy_kwargs:dict(n_neurons=[8])"]
    options = ["--env", "TinyEnv-v0", "-n", 32, "--eval-freq", -1, "--verbose", 0, "-f", tmp_path]
    assert start(train, *options, "--hyperparams", *small) == 0
    run = tmp_path / "spiking_ppo" / "TinyEnv-v0_1"
    saved = yaml.load((run / "TinyEnv-v0" / "config.yml").read_text("utf-8"), Loader=yaml.UnsafeLoader)
    assert {**saved["normalize"], **wanted} == saved["normalize"]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("The default preset")]
    assert len(said) == (name not in ("vector", "dict"))
    assert start(rollout, run, "-n", 1) == 0


@pytest.mark.parametrize("script", [train, rollout])
def test_missing_zoo_is_answered_with_the_command_that_installs_it(script, trained, monkeypatch, capsys):
    for module in [name for name in sys.modules if name.split(".")[0] == "rl_zoo3"]:
        monkeypatch.setitem(sys.modules, module, None)
    assert start(script, *([trained] if script is rollout else [])) == 2
    assert_one_line(capsys, install_hint("zoo"))
