"""R-STDP of spiking populations whose synapses the emulated chip's learning engines change, from scratch.

Every run learns for its preset's budget of episodes, one preset for all kinds of synapses, and then plays 100 episodes
with its weights frozen: as it acted while it learned, with the noise of its membranes, and without noise, with the
input lines' trains evenly spread instead of drawn. Float is the float form by its own preset, with its own noise; kept
is (return - random) / (float's - random) in the mean of the seeds. In the controls nothing learns, or the critic does
not, or the host sends the TD error that another step had. Finished runs are kept in the output folder and not repeated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor

from spikeloop.agents.rstdp import RSTDP
from spikeloop.hardware.loihi.populations import ChipPopulations
from spikeloop.scripts.bench.chip_learning import Lab, changes_of, learn, play
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row

BARS = {"CartPole-v1": 475.0, "MountainCar-v0": -115.0, "Acrobot-v1": -105.0}
RANDOM = {"CartPole-v1": 22.2, "MountainCar-v0": -200.0, "Acrobot-v1": -499.1}  # returns of random actions
SEEDS = tuple(range(100, 110))
_LATE = 50  # env steps


class LateModulators(ChipPopulations):
    """Populations that are told what a step many steps ago was worth: a control that leaves the rule no credit."""

    def reinforce(self, modulator: float) -> None:
        """Learn from the modulator of another step."""
        waiting = self.__dict__.setdefault("_waiting", [0.0] * _LATE)
        waiting.append(modulator)
        super().reinforce(waiting.pop(0))


# name: preset, network, hyperparameters
KINDS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "8-bit": ("rstdp_populations_chip", ChipPopulations, {}),
    "8-bit + residue (no Loihi has it)": (
        "rstdp_populations_chip",
        ChipPopulations,
        # 8 neurons for each action would not fit MountainCar's core
        {"backend_kwargs": {"residue": True}, "policy_kwargs": {"population_kwargs": {"n_neurons": 5}}},
    ),
    "float": ("rstdp_populations", None, {}),
    "no learning": (
        "rstdp_populations_chip",
        ChipPopulations,
        {"learning_rate": 0.0, "value_learning_rate": 0.0},
    ),
    "critic does not learn": ("rstdp_populations_chip", ChipPopulations, {"value_learning_rate": 0.0}),
    "TD error of 50 steps ago": ("rstdp_populations_chip", LateModulators, {}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark chip-populations``."""
    add = parser.add_argument
    add("--envs", nargs="+", choices=list(BARS), default=list(BARS), metavar="ID", help=f"{list(BARS)}")
    add("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="NAME", help=f"{list(KINDS)}")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 100 ... 109")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change hyperparameters of every learner")
    add("-o", "--output", type=Path, default=Path("logs/chip-populations"), help="default logs/chip-populations")


def run(args: argparse.Namespace) -> None:
    """Run what is missing, and print the tables."""
    lab = Lab(args.output, changes_of(args.set))
    print(f"return over 100 episodes with the weights at the end, seeds {args.seeds}")
    columns = ["environment", "synapses", "mean ± sd", "worst", "reach", "kept", "without noise", "us per env step"]
    print_head([*columns, "each seed"])
    for env_id in args.envs:
        results = {kind: [train(lab, env_id, kind, seed) for seed in args.seeds] for kind in args.kinds}
        float_mean = np.mean([noisy for noisy, *_ in results["float"]]) if "float" in results else np.nan
        for kind, runs in results.items():
            noisy, quiet, us = (np.array(column) for column in zip(*runs, strict=True))
            kept = (noisy.mean() - RANDOM[env_id]) / (float_mean - RANDOM[env_id])
            print_row([
                env_id,
                kind,
                mean_and_deviation(noisy),
                f"{noisy.min():.1f}",
                f"{np.sum(noisy >= BARS[env_id])} of {len(noisy)}",
                f"{kept:.1%}" if np.isfinite(kept) else "",
                f"{mean_and_deviation(quiet)} ({quiet.min():.1f})",
                f"{np.median(us):.1f}",
                each(noisy),
            ])  # fmt: skip


def train(lab: Lab, env_id: str, kind: str, seed: int) -> tuple[float, float, float]:
    """Return the returns with and without noise after a training, and its CPU time per env step in microseconds."""
    settings, network = settings_of(lab, env_id, kind)

    def make() -> list[float]:
        model = model_of(env_id, seed, settings, network)
        start = time.process_time()
        steps, _ = learn(model)
        us = (time.process_time() - start) / steps[-1] * 1e6
        if (
            network is LateModulators
        ):  # which no compiled loop knows: what it has learned is played by what it is made of
            player = model_of(env_id, seed, settings, ChipPopulations)
            player.policy.network.load_state_dict(model.policy.network.state_dict())
            model = player
        played = [play(model, gym.make(env_id), seed, deterministic) for deterministic in (False, True)]
        return [*played, us]

    noisy, quiet, us = lab.kept(f"{env_id}-{kind}-seed{seed}", settings, make)
    return noisy, quiet, us


def settings_of(lab: Lab, env_id: str, kind: str) -> tuple[dict[str, Any], Any]:
    """Return the hyperparameters of a kind of synapses in a task, and its network, None for float."""
    preset, network, changes = KINDS[kind]
    return _changed(lab.settings(preset, env_id), changes), network


def _changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters with changes, those of hyperparameters that have parts part by part."""
    parts = {name: _changed(settings.get(name, {}), new) for name, new in changes.items() if isinstance(new, Mapping)}
    return {**settings, **changes, **parts}


def model_of(env_id: str, seed: int, settings: Mapping[str, Any], network: Any) -> RSTDP:
    """Return a model that has learnt nothing."""
    backend = {} if network is None else {"backend": network}
    return RSTDP(env=Monitor(gym.make(env_id)), seed=seed, **backend, **settings)
