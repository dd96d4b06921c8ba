"""Returns of the presets on held-out seeds: train for a fixed budget, then 100 deterministic episodes at its end.

Each run is one ``spikeloop train`` and one ``spikeloop rollout``, in processes of their own; finished runs are kept in
the output folder and not repeated. No checkpoint and no seed is left out of the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from spikeloop.agents.registry import hyperparams_file

SEEDS = (100, 101, 102, 103, 104)  # never used to choose a setting
EPISODES = 100


@dataclass(frozen=True)
class Row:
    """One line of the table: an algorithm on an environment for a number of env steps."""

    algo: str
    env: str
    n_timesteps: int
    wanted: str = ""

    @property
    def folder(self) -> str:
        """Name of the folder that holds its runs."""
        return f"{self.algo}-{self.env.replace('/', '_')}-{self.n_timesteps}"


NO_VEL = "spikeloop/CartPoleNoVel-v0"
PENDULUM_NO_VEL = "spikeloop/PendulumNoVel-v0"
ROWS = {
    "cartpole": [Row("spiking_ppo", "CartPole-v1", 50_000, ">= 495, worst >= 475")],
    "acrobot": [Row("spiking_ppo", "Acrobot-v1", 100_000, ">= -88")],
    "pendulum": [Row("spiking_ppo", "Pendulum-v1", 150_000, ">= -200")],
    "cartpole-novel": [
        Row("spiking_ppo", NO_VEL, 100_000, ">= 450"),
        Row("ppo", NO_VEL, 100_000),
        Row("ppo_lstm", NO_VEL, 100_000),
    ],
    "a2c": [Row("spiking_a2c", "CartPole-v1", 100_000, ">= 475")],
    "mountaincar": [
        Row("spiking_ppo", "MountainCarContinuous-v0", 50_000),
        Row("ppo", "MountainCarContinuous-v0", 50_000),
    ],
    "pendulum-novel": [
        Row("spiking_ppo", PENDULUM_NO_VEL, 150_000),
        Row("ppo", PENDULUM_NO_VEL, 150_000),
    ],
    "lunarlander": [Row("spiking_ppo", "LunarLander-v3", 500_000, ">= 200")],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark returns``."""
    parser.add_argument(
        "--tasks", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="TASK", help=f"{list(ROWS)}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help=f"default {SEEDS}")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    parser.add_argument("-o", "--output", type=Path, default=Path("logs/returns"), help="default logs/returns")


def run(args: argparse.Namespace) -> None:
    """Train what is missing, then print the table."""
    rows = [row for task in args.tasks for row in ROWS[task]]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {(row, seed): pool.submit(_result, row, seed, args.output) for row in rows for seed in args.seeds}
        results = {key: job.result() for key, job in jobs.items()}
    print(f"deterministic return over {EPISODES} episodes after the last step, seeds {args.seeds}")
    print(
        "| algorithm | environment | env steps | mean ± sd | worst | each seed | spikes per neuron and tick | wanted |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(_table_line(row, [results[row, seed] for seed in args.seeds]))


def _table_line(row: Row, results: list[dict[str, Any]]) -> str:
    means = np.array([result["mean_return"] for result in results])
    rates = np.array([result["firing_rates"] for result in results])  # (seeds, layers), no layers if it does not spike
    cells = [
        row.algo,
        row.env,
        f"{row.n_timesteps:,}",
        f"{means.mean():.1f} ± {means.std(ddof=min(1, len(means) - 1)):.1f}",
        f"{means.min():.1f}",
        ", ".join(f"{mean:.1f}" for mean in means),
        f"{rates.mean():.2f} (most {rates.max():.2f})" if rates.size else "",
        row.wanted,
    ]
    return f"| {' | '.join(cells)} |"


def _result(row: Row, seed: int, output: Path) -> dict[str, Any]:
    """Return what ``rollout --json`` says of one run, training it first if that has not been done."""
    folder = output / row.folder / f"seed{seed}"
    result = folder / "result.json"
    if not result.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        train = ["train", "--algo", row.algo, "--env", row.env, "-n", str(row.n_timesteps), "--seed", str(seed)]
        baseline = hyperparams_file(row.algo)
        if baseline.is_file() and row.env in yaml.safe_load(baseline.read_text()):
            train += ["--conf-file", str(baseline)]
        train += ["-f", str(folder), "--eval-freq", "-1", "--num-threads", "1", "--verbose", "0"]
        _spikeloop(train, folder / "train.log")
        (run_folder,) = (folder / row.algo).rglob("*_1")
        rollout = ["rollout", str(run_folder), "-n", str(EPISODES), "--seed", str(10_000 + seed), "--json"]
        partial = result.with_suffix(".partial")
        _spikeloop(rollout, partial)
        partial.rename(result)
    return json.loads(result.read_text().splitlines()[-1])


def _spikeloop(arguments: list[str], output: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with output.open("w") as file:
        command = [sys.executable, "-m", "spikeloop.scripts.cli", *arguments]
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
