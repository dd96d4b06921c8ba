"""The scripts train and roll out, and answer a wrong request with one line and status 2."""

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from spikeloop.agents.callbacks import read_episodes
from spikeloop.agents.registry import ALGOS, hyperparams_file, load_algorithm
from spikeloop.scripts import cli, rollout, train
from spikeloop.scripts.run_folder import find_run
from spikeloop.spiking import Network
from spikeloop.spiking.extras import install_hint
from spikeloop.spiking.storage import save_parts

ENV = "spikeloop/CartPoleNoVel-v0"
SMALL = ["n_envs:2", "n_steps:32", "batch_size:64", "n_epochs:1", "policy_kwargs:dict(n_neurons=[8])"]


def start(script, *args):
    """Run a script and return its exit status."""
    return script.main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run folder of a short training."""
    pytest.importorskip("rl_zoo3")
    logs = tmp_path_factory.mktemp("trained") / "logs"
    budget = ["-n", 256, "--eval-freq", 128, "--verbose", 0, "-f", logs]
    assert start(train, "--env", ENV, "--seed", 3, *budget, "--hyperparams", *SMALL) == 0
    return logs / "spiking_ppo" / "spikeloop-CartPoleNoVel-v0_1"


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
    budget = ["-n", 64, "--eval-freq", -1, "--verbose", 0, "-f", tmp_path]
    assert start(train, "--algo", algo, "--env", "CartPole-v1", *budget) == 0
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


def test_rollout_prints_mean_and_spread(trained, capsys):
    assert start(rollout, trained / "policy.safetensors", "-n", 3) == 0
    text = capsys.readouterr().out
    assert start(rollout, trained / "policy.safetensors", "-n", 3, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert len(figures["returns"]) == 3 and figures["mean_return"] == pytest.approx(np.mean(figures["returns"]))
    assert f"return {figures['mean_return']:.2f} +/- {figures['std_return']:.2f}" in text


def test_run_folder_options_and_network_file_name_the_same_policy(trained, capsys):
    options = ["--env", ENV, "-f", trained.parent.parent, "--exp-id", 1]
    seen = []
    for source in ([trained], options, [trained / "policy.safetensors"]):
        assert start(rollout, *source, "-n", 4, "--seed", 7, "--json") == 0
        seen.append(json.loads(capsys.readouterr().out)["returns"])
    assert seen[0] == seen[1] == seen[2]


def test_stochastic_rollouts_repeat_with_their_seed(trained, capsys):
    seen = []
    for seed in (1, 1, 2):
        assert start(rollout, trained, "-n", 4, "--stochastic", "--seed", seed, "--json") == 0
        seen.append(json.loads(capsys.readouterr().out)["returns"])
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("source", [".", "policy.safetensors"])
def test_rollout_records_a_video_and_a_raster(trained, source, tmp_path):
    for module in ("moviepy", "pygame", "matplotlib"):
        pytest.importorskip(module)
    video, raster = tmp_path / "episode.mp4", tmp_path / "spikes.png"
    assert start(rollout, trained / source, "-n", 1, "--video", video, "--raster", raster) == 0
    assert video.stat().st_size > 1000 and raster.stat().st_size > 1000
    assert start(rollout, trained / source, "-n", 2, "--video", tmp_path / "all") == 0
    assert len(list((tmp_path / "all").glob("*.mp4"))) == 2


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


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["nowhere"], "no file at nowhere"),
        (["."], "is not the folder of one run"),
        (["--exp-id", 5], "CartPole-v1_5"),
        (["RUN", "--load-best", "-n", 0], "--n-episodes"),
        (["RUN", "--algo", "ppo"], "--algo ppo is for finding a run"),
        (["RUN", "--exp-id", 0], "--exp-id 0 is for finding a run"),
        (["NETWORK", "-f", "logs"], "--folder logs is for finding a run"),
        (["RUN", "--env", "CartPole-v1"], "--env CartPole-v1 is for the file of a network"),
        (["NETWORK", "--load-best"], "--load-best needs a run folder"),
        (["--exp-id", -1], "--exp-id must be at least 0, got -1"),
        (["-f", "nowhere"], "no finished run of spiking_ppo on CartPole-v1 in nowhere"),
        (["RUN", "--human", "--video", "all"], "remove one of them"),
        (["NETWORK", "--gym-packages", "module_that_is_not"], "--gym-packages module_that_is_not"),
        (["NETWORK", "--env", "module_that_is_not:X-v0"], "--env module_that_is_not"),
        (["RUN/checkpoint.zip"], "name its run folder"),
        (["NETWORK", "--env", "CartPol-v1"], "did you mean 'CartPole-v1'?"),
        (["NETWORK", "--env", "CartPole-v1"], "observes 2 numbers"),
        (["NETWORK", "--env", "spikeloop/PendulumNoVel-v0"], "chooses discrete actions"),
        (["NETWORK", "--stochastic"], "no distribution"),
        (["NETWORK", "--raster", "missing/spikes.png"], "no folder missing"),
        (["NETWORK", "--raster", "spikes.doc"], ".png"),
        (["NETWORK", "--video", "film.avi"], ".mp4"),
        (["NETWORK", "--video", "/dev/null/films"], "--video /dev/null/films: no files can be left in"),
        (["NETWORK", "--raster", "/proc/self/spikes.png"], "--raster /proc/self/spikes.png: no files can be left in"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_rollout_request_is_answered_in_one_line(args, answer, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    known = {"RUN": str(trained), "NETWORK": str(trained / "policy.safetensors")}
    for name, path in known.items():
        args = [str(arg).replace(name, path) for arg in args]
    assert start(rollout, *args) == 2
    assert_one_line(capsys, answer)


@pytest.mark.parametrize("damage", ["truncated", "not ours", "another version", "no policy"])
def test_damaged_network_file_is_answered_in_one_line(damage, trained, tmp_path, capsys):
    file = tmp_path / "policy.safetensors"
    data = (trained / "policy.safetensors").read_bytes()
    if damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "not ours":
        file.write_bytes(b"PK" + data)
    elif damage == "another version":
        save_parts(file, "spikeloop.network", 9, Network.load(trained / "policy.safetensors"))
    else:
        dataclasses.replace(Network.load(trained / "policy.safetensors"), head=None).save(file)
    assert start(rollout, file) == 2
    assert_one_line(capsys, "version 9" if damage == "another version" else "")


def test_damaged_model_is_answered_in_one_line(trained, tmp_path, capsys):
    run = tmp_path / trained.name
    shutil.copytree(trained, run)
    model = run / "spikeloop-CartPoleNoVel-v0.zip"
    model.write_bytes(model.read_bytes()[:5000])
    assert start(rollout, run) == 2
    assert_one_line(capsys, f"{model} can run code, and it is not as a training of yours wrote it")
    assert start(rollout, run, "--trust") == 2
    assert_one_line(capsys, f"{model} cannot be loaded")


def test_unfinished_run_says_how_to_finish_it(trained, tmp_path, capsys):
    run = tmp_path / trained.name
    shutil.copytree(trained, run)
    (run / "spikeloop-CartPoleNoVel-v0.zip").unlink()
    assert start(rollout, run) == 2
    assert_one_line(capsys, f"spikeloop train --resume {run}")


def test_the_best_model_plays_with_the_statistics_of_its_time(tmp_path):
    pytest.importorskip("rl_zoo3")
    from spikeloop.scripts.load_policy import load_run

    budget = ["-n", 64, "--eval-freq", 64, "--eval-episodes", 1, "--verbose", 0, "-f", tmp_path]
    assert start(train, "--env", "CartPole-v1", *budget, "--hyperparams", *SMALL, "normalize:True") == 0
    run = tmp_path / "spiking_ppo" / "CartPole-v1_1"
    kept = run / "best_model" / "vecnormalize.pkl"
    statistics = VecNormalize.load(str(kept), make_vec_env("CartPole-v1"))
    statistics.obs_rms.count = 77.0
    statistics.save(str(kept))
    counts = [load_run(run, best, 0, None, trust=True).env.obs_rms.count for best in (True, False)]
    assert counts[0] == 77.0 != counts[1]


def test_a_run_that_was_never_evaluated_has_no_best_model(trained, tmp_path, capsys):
    run = tmp_path / trained.name
    shutil.copytree(trained, run)
    (run / "best_model.zip").unlink()
    assert start(rollout, run, "--load-best") == 2
    assert_one_line(capsys, "the training made no evaluation (--eval-freq), leave out --load-best")


def test_the_latest_run_is_the_latest_that_is_a_run(trained, tmp_path):
    runs = tmp_path / "spiking_ppo"
    shutil.copytree(trained, runs / trained.name)
    unfinished = runs / trained.name.replace("_1", "_2")
    shutil.copytree(trained, unfinished)
    (unfinished / "spikeloop-CartPoleNoVel-v0.zip").unlink()
    (runs / trained.name.replace("_1", "_10")).mkdir()
    (runs / trained.name.replace("_1", "_old")).mkdir()
    assert find_run(tmp_path, "spiking_ppo", ENV, 0) == runs / trained.name
    assert find_run(tmp_path, "spiking_ppo", ENV, 2) == unfinished


@pytest.mark.parametrize("words", [["rollout", "--human"], ["enjoy"]])
def test_enjoy_shows_the_episodes_in_a_window(words, trained, monkeypatch, capsys):
    pytest.importorskip("pygame")
    shown = []
    monkeypatch.setattr(CartPoleEnv, "render", lambda env: shown.append(env.render_mode))
    assert start(rollout, trained, "-n", 2, "--seed", 5, "--json") == 0
    unseen = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(sys, "argv", ["spikeloop", *words, str(trained), "-n", "2", "--seed", "5", "--json"])
    assert cli.main() == 0
    assert json.loads(capsys.readouterr().out) == unseen
    assert set(shown) == {"human"} and len(shown) >= sum(unseen["lengths"])


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")  # Gymnasium's, before our answer
@pytest.mark.parametrize("option", [["--human"], ["--video", "all"]])
def test_an_environment_that_cannot_render_is_refused(option, tmp_path, trained, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CartPoleEnv, "metadata", {"render_modes": []})
    assert start(rollout, trained, *option) == 2
    assert_one_line(capsys, "this one has []")


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


@pytest.mark.parametrize(
    ("option", "module", "extra"), [("--video", "moviepy", "render"), ("--raster", "matplotlib", "plot")]
)
def test_missing_extra_is_named_before_the_episodes_run(option, module, extra, trained, monkeypatch, tmp_path, capsys):
    find = rollout.importlib.util.find_spec
    monkeypatch.setattr(rollout.importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert start(rollout, trained, option, tmp_path) == 2
    assert_one_line(capsys, install_hint(extra))


def assert_one_line(capsys, answer):
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(lines) == 1 and captured.err.endswith(lines[0] + "\n") and answer in lines[0]
