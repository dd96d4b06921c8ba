"""`spikeloop deploy` compiles, runs and reports; what it leaves rolls out; wrong requests get one line and status 2."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from deployable import exact_network
from test_deployed import cartpole_network

from spikeloop.hardware import Deployment
from spikeloop.scripts import deploy, rollout, train


def start(script, *args):
    """Run a script and return its exit status."""
    return script.main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The file of a network for CartPole."""
    file = tmp_path_factory.mktemp("saved") / "policy.safetensors"
    dataclasses.replace(cartpole_network(), metadata={"env": "CartPole-v1"}).save(file)
    return file


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_a_network_is_deployed_and_rolls_out_as_it_was_reported(chip, saved, tmp_path, capsys):
    out = tmp_path / "new" / chip
    args = ["--chip", chip, "-n", 3, "--seed", 5, "--out", out, "--check-actions", 60]
    assert start(deploy, saved, *args, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert json.loads((out / "report.json").read_text()) == results
    assert set(results["returns"]) == {"float", "chip", "random"} and results["checked_steps"] == 60
    means = {name: np.mean(values) for name, values in results["returns"].items()}
    kept = (means["chip"] - means["random"]) / (means["float"] - means["random"])
    assert results["kept"] == pytest.approx(kept) and kept > 0.7
    assert Deployment.load(out / "deployed.safetensors").program.chip == chip
    assert (out / "cores.png").stat().st_size > 1000
    for source in (out, out / "deployed.safetensors"):
        assert start(rollout, source, "--deployed", "-n", 1, "--seed", 5, "--json") == 0
        rolled = json.loads(capsys.readouterr().out)
        assert rolled["returns"] == results["returns"]["chip"][:1] and rolled["firing_rates"][0] > 0


def test_the_table_says_what_was_kept_and_what_is_modelled(saved, tmp_path, capsys):
    assert start(deploy, saved, "-n", 2, "--out", tmp_path) == 0
    text = capsys.readouterr().out
    assert "kept" in text and "modelled" in text and "deployed.safetensors" in text
    assert "chip     return" in text and "random   return" in text


def test_a_run_folder_is_deployed_with_its_normalisation(tmp_path, capsys):
    pytest.importorskip("rl_zoo3")
    env = "spikeloop/CartPoleNoVel-v0"
    sizes = ["n_envs:2", "n_steps:32", "batch_size:64", "n_epochs:1", "policy_kwargs:dict(n_neurons=[8])"]
    budget = ["-n", 64, "--eval-freq", -1, "--verbose", 0, "-f", tmp_path, "--seed", 0]
    assert start(train, "--env", env, *budget, "--hyperparams", *sizes) == 0
    run = tmp_path / "spiking_ppo" / "spikeloop-CartPoleNoVel-v0_1"
    seen = []
    for source in (run, run / "policy.safetensors"):
        capsys.readouterr()
        assert start(deploy, source, "-n", 2, "--json") == 0
        captured = capsys.readouterr()
        seen.append(json.loads(captured.out)["returns"])
        assert "lowered for loihi1: readout on the host" in captured.err
    assert seen[0] == seen[1]
    assert start(rollout, run, "--deployed", "-n", 1) == 0


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["nowhere"], "no file at nowhere"),
        (["."], "is not the folder of one run"),
        (["NETWORK", "--chip", "tpu"], "invalid choice: 'tpu'"),
        (["NETWORK", "--bits", 7], "bits must be one of"),
        (["NETWORK", "--env", "CartPol-v1"], "did you mean 'CartPole-v1'?"),
        (["NETWORK", "--env", "Acrobot-v1"], "observes 4 numbers"),
        (["NETWORK", "-n", 0], "--n-episodes"),
        (["NETWORK", "--check-actions", -1], "--check-actions"),
        (["NETWORK", "--seed", -1], "--seed"),
        (["NETWORK", "--out", "NETWORK"], "--out takes a folder"),
        (["model.zip"], "name its run folder"),
        ([".", "--env", "CartPole-v1"], "--env goes with the file of a network"),
        (["THRESHOLD", "--strict"], "moving threshold as current"),
        (["THRESHOLD"], "does not say what it was trained on"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_deploy_request_is_answered_in_one_line(args, answer, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    threshold = exact_network(adaptation="threshold")
    if "--strict" in args:
        neurons = dataclasses.replace(cartpole_network().layers[0].neurons, adaptation="threshold")
        layer = dataclasses.replace(cartpole_network().layers[0], neurons=neurons)
        threshold = dataclasses.replace(cartpole_network(), layers=(layer,), metadata={"env": "CartPole-v1"})
    threshold.save(tmp_path / "threshold.safetensors")
    known = {"NETWORK": str(saved), "THRESHOLD": str(tmp_path / "threshold.safetensors")}
    assert start(deploy, *[known.get(str(arg), arg) for arg in args]) == 2
    assert_one_line(capsys, answer)
    assert not (tmp_path / "deployed.safetensors").exists()


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["NETWORK"], "holds a 'spikeloop.network', not a 'spikeloop.deployment'"),
        (["."], "no file at deployed.safetensors"),
        (["NETWORK", "--stochastic"], "remove --stochastic"),
        (["NETWORK", "--raster", "spikes.png"], "remove --raster"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_rollout_of_a_deployed_policy_is_answered_in_one_line(args, answer, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start(rollout, *[str(saved) if arg == "NETWORK" else arg for arg in args], "--deployed") == 2
    assert_one_line(capsys, answer)


def test_help_loads_nothing_heavy():
    heavy = "print(*({'torch', 'numba', 'gymnasium', 'rl_zoo3'} & set(sys.modules)))"
    call = "import sys\nfrom spikeloop.scripts import cli\nsys.argv[1:] = ['deploy', '--help']\ntry: cli.main()"
    code = f"{call}\nfinally: {heavy}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("usage: spikeloop") and run.stdout.splitlines()[-1] == ""


def assert_one_line(capsys, answer):
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(lines) == 1 and captured.err.endswith(lines[0] + "\n") and answer in lines[0]
