"""What policies keep on the emulated chips: trained chip-ready on held-out seeds, deployed with 8-bit weights.

Each run is one ``spikeloop train --chip-ready`` and a ``spikeloop deploy`` for each chip; finished ones are kept in the
output folder, under a digest of what made them, and are not repeated. Kept is (chip - random) / (float - random), of
the same policy on the same episodes; it is undefined for a policy that is not above chance by its interval. Intervals
are bootstrapped, over seeds for the mean.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from spikeloop.hardware.target import TARGETS
from spikeloop.scripts.bench.returns import (
    EPISODES,
    ROWS,
    SEEDS,
    Row,
    add_run_arguments,
    for_all,
    run_folder,
    spikeloop,
    trained,
)
from spikeloop.scripts.bench.tables import print_head, print_row
from spikeloop.scripts.compared import bootstrap_interval, kept
from spikeloop.scripts.kept_results import digest

CHECKED_STEPS = 10_000
TASKS = {
    "cartpole": Row("spiking_ppo", "CartPole-v1", 50_000, chip_ready=True),
    "acrobot": Row("spiking_ppo", "Acrobot-v1", 100_000, chip_ready=True),
    "pendulum": Row("spiking_ppo", "Pendulum-v1", 150_000, chip_ready=True),
    "cartpole-novel": ROWS["cartpole-novel"][0],  # whose preset is chip-ready
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark deploy``."""
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="TASK")
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Train and deploy what is missing, then print the table."""
    rows = [TASKS[task] for task in args.tasks]
    results = for_all(rows, args, lambda row, seed: _deployed(row, seed, args.output))
    print(f"{EPISODES} episodes each, 8-bit weights; energy (dynamic + static) and time per env step are modelled")
    first = results[rows[0]][0][next(iter(TARGETS))]
    columns = ["environment", "chip", "float", "on the chip", "random", "kept, 95% interval", "worst", "each seed"]
    columns += [f"modelled, {source}" for source in first["report"]["modelled"]]
    print_head(columns)
    for row in rows:
        for chip in TARGETS:
            print_row(_cells(row, chip, [result[chip] for result in results[row]]))


def _deployed(row: Row, seed: int, output: Path) -> dict[str, dict[str, Any]]:
    """Return what ``deploy --json`` says of one run on each chip, training it first if that has not been done."""
    trained(row, seed, output)
    results = {}
    for chip in TARGETS:
        checked = CHECKED_STEPS if seed == SEEDS[0] else 0  # the interpreter is slow
        made_by = digest((row.digest(), chip, EPISODES, checked), ("hardware", "spiking"))
        result = output / row.folder / f"seed{seed}" / f"{chip}-{made_by}.json"
        if not result.is_file():
            command = ["deploy", str(run_folder(row, seed, output)), "--chip", chip, "--json", "-n", str(EPISODES)]
            command += ["--out", str(result.with_suffix("")), "--check-actions", str(checked)]
            spikeloop([*command, "--seed", str(10_000 + seed)], result)
        results[chip] = json.loads(result.read_text().splitlines()[-1])
    return results


def _cells(row: Row, chip: str, results: list[dict[str, Any]]) -> list[str]:
    means = {
        name: np.mean([result["mean_returns"][name] for result in results]) for name in ("float", "chip", "random")
    }
    each = [kept(result["returns"])["kept"] for result in results]
    cells = [row.name, chip, *(f"{mean:.1f}" for mean in means.values()), *_kept_cells(each)]
    costs = [result["report"]["modelled"] for result in results]
    for source in costs[0]:
        names = ("dynamic", "static", "time")
        dynamic, static, time = (np.mean([cost[source][name] for cost in costs]) for name in names)
        cells.append(f"{dynamic * 1e9:.0f} + {static * 1e9:.0f} nJ, {time * 1e6:.1f} µs")
    return cells


def _kept_cells(each: list[float | None]) -> list[str]:
    """Return table cells of what the seeds kept, where it is defined: mean with interval, the least, each."""
    defined = np.array([one for one in each if one is not None])
    shown = ", ".join("undefined" if one is None else f"{one:.1%}" for one in each)
    if not defined.size:
        return ["undefined", "undefined", shown]
    low, high = bootstrap_interval(defined.size, lambda drawn: defined[drawn].mean(axis=1))
    of = "" if defined.size == len(each) else f", {defined.size} of {len(each)} seeds"
    return [f"{defined.mean():.1%} [{low:.1%}, {high:.1%}]{of}", f"{defined.min():.1%}", shown]
