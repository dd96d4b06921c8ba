"""The scripts train and roll out, and answer a wrong request with one line and status 2."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml

from spikeloop.agents.registry import ALGOS, hyperparams_file
from spikeloop.scripts import cli, rollout, train
from spikeloop.spiking import Network

SCRIPTS = Path(cli.__file__).parent
SMALL = ["n_envs:2", "n_steps:32", "batch_size:64", "n_epochs:1", "policy_kwargs:dict(n_neurons=[8])"]
ZOO = pytest.mark.skipif(not train.__dict__, reason="")


def start(script, *args):
    """Run a script and return its exit status."""
    try:
        return script.main([str(arg) for arg in args])
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A working folder with a short run in it, and the run folder."""
    pytest.importorskip("rl_zoo3")
    folder = tmp_path_factory.mktemp("trained")
    logs = folder / "logs"
    sizes = ["--hyperparams", *SMALL, "-n", 256, "--eval-freq", 128, "--verbose", 0, "-f", logs]
    assert start(train, "--env", "spikeloop/CartPoleNoVel-v0", "--seed", 3, *sizes) == 0
    return logs / "spiking_ppo" / "spikeloop-CartPoleNoVel-v0_1"


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["rollout", "--help"]])
def test_help_needs_nothing_heavy(args):
    code = f"import sys; from spikeloop.scripts import cli; sys.argv[1:] = {args}\ntry: cli.main()\nexcept SystemExit: pass\n"
    code += "print(*(name for name in ('torch', 'numba', 'gymnasium', 'rl_zoo3') if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: spikeloop" in run.stdout and run.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("script", sorted(cli.COMMANDS))
def test_script_runs_as_a_file(script):
    subprocess.run([sys.executable, SCRIPTS / f"{script}.py", "--help"], stdout=subprocess.DEVNULL, check=True)


def test_unknown_command_is_answered_with_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["spikeloop", "trian"])
    assert cli.main() == 2
    assert capsys.readouterr().err == "spikeloop: error: unknown command 'trian'; did you mean 'train'?\n"
