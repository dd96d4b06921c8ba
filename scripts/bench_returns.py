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
# Of presets that were chosen anew after the results of earlier held-out seeds had been looked at.
FRESH_SEEDS = (300, 301, 302, 303, 304)
NO_VEL_SEEDS = (400, 401, 402, 403, 404)
EPISODES = 100


@dataclass(frozen=True)
class Row:
    """One line of the table: an algorithm on an environment for a number of env steps."""

    algo: str
    env: str
    n_timesteps: int
    wanted: str = ""
    chip_ready: bool = False
    seeds: tuple[int, ...] = SEEDS
    without_adaptation: bool = False  # the control of a claim about memory: beta = 0, all else as the preset has it

    @property
    def folder(self) -> str:
        """Name of the folder that holds its runs."""
        name = f"{self.algo}-{self.env.replace('/', '_')}-{self.n_timesteps}"
        return name + "-chip" * self.chip_ready + "-beta0" * self.without_adaptation


NO_VEL = "spikeloop/CartPoleNoVel-v0"
PENDULUM_NO_VEL = "spikeloop/PendulumNoVel-v0"
ROWS = {
    "cartpole": [Row("spiking_ppo", "CartPole-v1", 50_000, ">= 495, worst >= 475", seeds=FRESH_SEEDS)],
    "acrobot": [Row("spiking_ppo", "Acrobot-v1", 100_000, ">= -88")],
    "pendulum": [Row("spiking_ppo", "Pendulum-v1", 150_000, ">= -200")],
    "cartpole-novel": [
        Row("spiking_ppo", NO_VEL, 100_000, ">= 450", seeds=NO_VEL_SEEDS),
        Row("spiking_ppo", NO_VEL, 100_000, "control: beta = 0", seeds=NO_VEL_SEEDS, without_adaptation=True),
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
    parser.add_argument(
        "--seeds", nargs="+", type=int, help=f"default {SEEDS}, {FRESH_SEEDS} for CartPole of spiking_ppo"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    parser.add_argument("-o", "--output", type=Path, default=Path("logs/returns"), help="default logs/returns")


def run(args: argparse.Namespace) -> None:
    """Train what is missing, then print the table."""
    rows = [row for task in args.tasks for row in ROWS[task]]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {row: [pool.submit(trained, row, seed, args.output) for seed in args.seeds or row.seeds] for row in rows}
        results = {row: [job.result() for job in of_row] for row, of_row in jobs.items()}
    print(f"deterministic return over {EPISODES} episodes after the last step, in the order of the seeds")
    print(
        "| algorithm | environment | env steps | mean ± sd | worst | each seed | spikes per neuron and tick | wanted |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(_table_line(row, results[row]))


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


def trained(row: Row, seed: int, output: Path) -> dict[str, Any]:
    """Return what ``rollout --json`` says of one run, training it first if that has not been done."""
    folder = output / row.folder / f"seed{seed}"
    result = folder / "result.json"
    if not result.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        train = ["train", "--algo", row.algo, "--env", row.env, "-n", str(row.n_timesteps), "--seed", str(seed)]
        train += ["--chip-ready"] * row.chip_ready
        if row.without_adaptation:
            kwargs = yaml.safe_load(hyperparams_file(row.algo).read_text())[row.env]["policy_kwargs"]
            train += ["--hyperparams", f"policy_kwargs:{kwargs | {'beta': 0.0}}"]
        baseline = hyperparams_file(row.algo)
        if baseline.is_file() and row.env in yaml.safe_load(baseline.read_text()):
            train += ["--conf-file", str(baseline)]
        train += ["-f", str(folder), "--eval-freq", "-1", "--num-threads", "1", "--verbose", "0"]
        spikeloop(train, folder / "train.log")
        command = ["rollout", str(run_folder(row, seed, output)), "-n", str(EPISODES), "--json"]
        spikeloop([*command, "--seed", str(10_000 + seed)], result)
    return json.loads(result.read_text().splitlines()[-1])


def run_folder(row: Row, seed: int, output: Path) -> Path:
    """Return the folder in which a run of :func:`trained` left its policy."""
    (found,) = (output / row.folder / f"seed{seed}" / row.algo).rglob("*_1")
    return found


def spikeloop(arguments: list[str], output: Path) -> None:
    """Run a command in a process of its own; what it prints appears under the name ``output`` if it succeeds.

    Raises:
        SystemExit: If it fails, with what it said last.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    partial = output.with_suffix(".partial")
    with partial.open("w") as file:
        command = [sys.executable, "-m", "spikeloop.scripts.cli", *arguments]
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    partial.rename(output)
