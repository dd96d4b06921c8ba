"""What policies keep on the emulated chips: trained chip-ready on held-out seeds, deployed with 8-bit weights.

Each run is one ``spikeloop train --chip-ready`` and a ``spikeloop deploy`` for each chip; finished ones are kept in the
output folder and not repeated. Kept is (chip - random) / (float - random), of the same policy on the same episodes.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from spikeloop.scripts.bench_returns import EPISODES, FRESH_SEEDS, ROWS, Row, run_folder, spikeloop, trained

CHIPS = ("loihi1", "loihi2")
CHECKED_STEPS = 10_000
TASKS = {
    "cartpole": Row("spiking_ppo", "CartPole-v1", 50_000, chip_ready=True, seeds=FRESH_SEEDS),
    "acrobot": Row("spiking_ppo", "Acrobot-v1", 100_000, chip_ready=True),
    "pendulum": Row("spiking_ppo", "Pendulum-v1", 150_000, chip_ready=True),
    "cartpole-novel": ROWS["cartpole-novel"][0],  # whose preset is chip-ready
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark deploy``."""
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="TASK")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of `spikeloop benchmark returns`")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    parser.add_argument("-o", "--output", type=Path, default=Path("logs/returns"), help="default logs/returns")


def run(args: argparse.Namespace) -> None:
    """Train and deploy what is missing, then print the table."""
    rows = [TASKS[task] for task in args.tasks]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {
            row: [pool.submit(_deployed, row, seed, args.output) for seed in args.seeds or row.seeds] for row in rows
        }
        results = {row: [job.result() for job in of_row] for row, of_row in jobs.items()}
    print(f"{EPISODES} episodes each, 8-bit weights; dynamic energy and latency per env step are modelled")
    first = results[rows[0]][0][CHIPS[0]]
    columns = ["environment", "chip", "float", "on the chip", "random", "kept", "worst", "each seed"]
    columns += [f"modelled, {source}" for source in first["report"]["modelled"]]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for row in rows:
        for chip in CHIPS:
            print(_table_line(row, chip, [result[chip] for result in results[row]]))


def _deployed(row: Row, seed: int, output: Path) -> dict[str, dict[str, Any]]:
    """Return what ``deploy --json`` says of one run on each chip, training it first if that has not been done."""
    trained(row, seed, output)
    results = {}
    for chip in CHIPS:
        result = output / row.folder / f"seed{seed}" / f"{chip}.json"
        if not result.is_file():
            checked = CHECKED_STEPS if seed == row.seeds[0] else 0  # the interpreter is slow
            command = ["deploy", str(run_folder(row, seed, output)), "--chip", chip, "--json", "-n", str(EPISODES)]
            command += ["--out", str(result.with_suffix("")), "--check-actions", str(checked)]
            spikeloop([*command, "--seed", str(10_000 + seed)], result)
        results[chip] = json.loads(result.read_text().splitlines()[-1])
    return results


def _table_line(row: Row, chip: str, results: list[dict[str, Any]]) -> str:
    kept = np.array([result["kept"] for result in results])
    means = {
        name: np.mean([result["mean_returns"][name] for result in results]) for name in ("float", "chip", "random")
    }
    cells = [row.env, chip, *(f"{mean:.1f}" for mean in means.values()), f"{kept.mean():.1%}", f"{kept.min():.1%}"]
    cells.append(", ".join(f"{one:.1%}" for one in kept))
    costs = [result["report"]["modelled"] for result in results]
    for source in costs[0]:
        dynamic, latency = (np.mean([cost[source][name] for cost in costs]) for name in ("dynamic", "latency"))
        cells.append(f"{dynamic * 1e9:.0f} nJ, {latency * 1e6:.1f} µs")
    return f"| {' | '.join(cells)} |"
