"""The scripts train and roll out, and answer a wrong request with one line and status 2."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml

from spikeloop.agents.registry import ALGOS, hyperparams_file, load_algorithm
from spikeloop.scripts import cli, rollout, train
from spikeloop.spiking import Network

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
    sizes = ["n_envs:1", "n_steps:32", "n_epochs:1"]
    assert start(train, *trials, "-n", 64, "--seed", 0, "-f", tmp_path, "--hyperparams", *sizes) == 0
    assert "tau_m:" in capsys.readouterr().out


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
        (["--conf-file", "missing.yml"], "missing.yml"),
        (["--sede", "3"], "--sede"),
        (["--checkpoint-freq", "0"], "'0' is not a positive whole number"),
        (["--env", "OddActions-v0"], "Dict"),
        (["--resume", "nowhere"], "nowhere holds no checkpoint.zip"),
        (["--resume", "nowhere", "-n", "5"], "remove '-n'"),
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


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["nowhere"], "no file at nowhere"),
        (["."], "is not the folder of one run"),
        (["--exp-id", 5], "CartPole-v1_5"),
        (["RUN", "--load-best", "-n", 0], "--n-episodes"),
        (["RUN/checkpoint.zip"], "name its run folder"),
        (["NETWORK", "--env", "CartPol-v1"], "did you mean 'CartPole-v1'?"),
        (["NETWORK", "--env", "CartPole-v1"], "observes 2 numbers"),
        (["NETWORK", "--env", "spikeloop/PendulumNoVel-v0"], "chooses discrete actions"),
        (["NETWORK", "--stochastic"], "no distribution"),
        (["NETWORK", "--raster", "missing/spikes.png"], "no folder missing"),
        (["NETWORK", "--raster", "spikes.doc"], ".png"),
        (["NETWORK", "--video", "film.avi"], ".mp4"),
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
        file.write_bytes(data.replace(b'format_version\\": 2', b'format_version\\": 9'))
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
    assert_one_line(capsys, f"{model} cannot be loaded")


def test_unfinished_run_says_how_to_finish_it(trained, tmp_path, capsys):
    run = tmp_path / trained.name
    shutil.copytree(trained, run)
    (run / "spikeloop-CartPoleNoVel-v0.zip").unlink()
    assert start(rollout, run) == 2
    assert_one_line(capsys, f"spikeloop train --resume {run}")


@pytest.mark.parametrize("script", [train, rollout])
def test_missing_zoo_is_answered_with_the_command_that_installs_it(script, trained, monkeypatch, capsys):
    for module in [name for name in sys.modules if name.split(".")[0] == "rl_zoo3"]:
        monkeypatch.setitem(sys.modules, module, None)
    assert start(script, *([trained] if script is rollout else [])) == 2
    assert_one_line(capsys, 'pip install "spikeloop[zoo]"')


@pytest.mark.parametrize(
    ("option", "module", "extra"), [("--video", "moviepy", "render"), ("--raster", "matplotlib", "plot")]
)
def test_missing_extra_is_named_before_the_episodes_run(option, module, extra, trained, monkeypatch, tmp_path, capsys):
    find = rollout.importlib.util.find_spec
    monkeypatch.setattr(rollout.importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert start(rollout, trained, option, tmp_path) == 2
    assert_one_line(capsys, f'pip install "spikeloop[{extra}]"')


def assert_one_line(capsys, answer):
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(lines) == 1 and captured.err.endswith(lines[0] + "\n") and answer in lines[0]
