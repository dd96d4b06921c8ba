"""A trained policy is rolled out, and a wrong request is answered with one line and status 2."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from shell import ENV, SMALL, assert_one_line, start
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from spikeloop.scripts import cli, rollout, train
from spikeloop.scripts.run_folder import find_run
from spikeloop.spiking import Network
from spikeloop.spiking.extras import install_hint
from spikeloop.spiking.storage import save_parts


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


@pytest.mark.parametrize(
    ("option", "module", "extra"), [("--video", "moviepy", "render"), ("--raster", "matplotlib", "plot")]
)
def test_missing_extra_is_named_before_the_episodes_run(option, module, extra, trained, monkeypatch, tmp_path, capsys):
    find = rollout.importlib.util.find_spec
    monkeypatch.setattr(rollout.importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert start(rollout, trained, option, tmp_path) == 2
    assert_one_line(capsys, install_hint(extra))
