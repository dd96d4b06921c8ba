"""Run folders, presets and network files, and how a stranger would change them."""

import dataclasses
from pathlib import Path

from spikeloop.scripts import deploy, rollout, train
from spikeloop.spiking import Network

MARKER = "ran"
PRESET = {
    "policy": "LifPolicy",
    "n_envs": 2,
    "n_timesteps": 32,
    "n_steps": 8,
    "policy_kwargs": "{n_neurons: [8]}",
}
TRAIN = ["train", "--algo", "spiking_a2c", "-n", 32, "--eval-freq", -1, "--verbose", 0]
SMALL = ["--hyperparams", "n_envs:2", "n_steps:8", "policy_kwargs:dict(n_neurons=[8])"]
MODEL, STATISTICS = "CartPole-v1.zip", "CartPole-v1/vecnormalize.pkl"
ROLLOUT, FILE = ["rollout", "run", "-n", 1], ["rollout", "run/policy.safetensors", "-n", 1]


def start(command, *args):
    """Run a command and return its exit status."""
    return {"train": train, "rollout": rollout, "deploy": deploy}[command].main([str(arg) for arg in args])


def train_own(folder):
    """Return a run folder of this user's, deployed."""
    budget = ["-n", 32, "--eval-freq", 16, "--eval-episodes", 1, "--verbose", 0, "-f", folder]
    assert start("train", "--algo", "spiking_a2c", *budget, *SMALL, "normalize:True") == 0
    run = folder / "spiking_a2c" / "CartPole-v1_1"
    assert start("deploy", run / "policy.safetensors", "-n", 1) == 0
    return run


def in_run(name, change):
    """Change a file of a run folder."""
    return lambda: change(Path("run", name))


def metadata(file="policy.safetensors", kind=Network, **values):
    """Change what a network's file says of its environment."""

    def change(path):
        network = kind.load(path)
        dataclasses.replace(network, metadata={**network.metadata, **values}).save(path)

    return in_run(file, change)


def preset(**values):
    """Write a preset with other values."""

    def prepare():
        lines = "".join(f"  {name}: {value}\n" for name, value in {**PRESET, **values}.items())
        Path("preset.yml").write_text(f"default:\n{lines}")

    return prepare


CONF = [*TRAIN, "--conf-file", "preset.yml"]
