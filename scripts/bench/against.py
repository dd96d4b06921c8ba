"""Two source trees, measured in turn: whether a change has made the library slower.

Each tree has a worker process (``tree_worker.py``) that imports the library from there. Both run the tables of this
tree. In every block each row is measured in one tree and at once in the other, in an order that alternates, by
processor time with one thread; a figure of speed is the median of the ratios of blocks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import spikeloop
from spikeloop.scripts.bench.timing import ask, ratio, repeats_in
from spikeloop.scripts.cli import UsageError

WORKER = Path(__file__).with_name("tree_worker.py")


def compare(name: str, flags: list[str], tree: Path, blocks: int) -> tuple[float, str]:
    """Print, for each row of a benchmark, its time in both trees and the speed of this one over the other.

    Args:
        name: The benchmark, such as ``"step"``.
        flags: Its flags.
        tree: Root of the other source tree.
        blocks: Number of blocks.

    Returns:
        The lowest speed, this / other, and of which row.

    Raises:
        UsageError: If the folder is no source tree, or the flags do not go with the comparison.
        ValueError: If a worker fails.
    """
    folders = {"this": Path(spikeloop.__file__).parents[1], "other": tree.resolve() / ".typing"}
    if not (folders["other"] / "spikeloop" / "__init__.py").is_file():
        raise UsageError(f"--against takes the root of a source tree of spikeloop, got {tree}")
    print(", ".join(f"{which}: {folder.parent}" for which, folder in folders.items()))
    print(f"medians of {blocks} blocks of processor time, 1 thread")
    lowest = (np.inf, "")
    with ExitStack() as stack:
        workers = {which: stack.enter_context(_worker(folder, name, flags)) for which, folder in folders.items()}
        while (cases := {which: json.loads(ask(worker, "next")) for which, worker in workers.items()})["this"]:
            if "refused" in cases["this"]:
                raise UsageError(cases["this"]["refused"])
            for row, speed in _compare_case(cases, workers, blocks):
                lowest = min(lowest, (speed, f"{row}, {cases['this']['title']}"))
    print(f"\nlowest speed, this / other: {lowest[0]:.3f} ({lowest[1]})")
    return lowest


def _worker(folder: Path, name: str, flags: list[str]) -> subprocess.Popen[str]:
    """Start the worker of one tree."""
    return subprocess.Popen(
        [sys.executable, "-P", WORKER, name, *flags],  # -P: the folder of the worker is not searched for modules
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        text=True,
    )


def _compare_case(
    cases: dict[str, dict[str, Any]], workers: dict[str, subprocess.Popen[str]], blocks: int
) -> list[tuple[str, float]]:
    """Print one table and return the speed of each row."""
    this, other = cases["this"], cases["other"]
    print(f"\n{this['title']}\n{'':42s} {'this':>10s} {'other':>10s} {this['unit']:10s} speed, this / other")
    speeds = []
    for row in [row for row in this["contenders"] if row in other["contenders"]]:
        repeats = repeats_in(this["seconds"], this["contenders"][row])
        times: dict[str, list[float]] = {which: [] for which in workers}
        for block in range(blocks):
            for which in (*workers,)[:: 1 if block % 2 else -1]:
                index = [*cases[which]["contenders"]].index(row)
                times[which].append(float(ask(workers[which], f"{index} {repeats}")))
        ours, theirs = np.array(times["this"]), np.array(times["other"])
        speeds.append((row, ratio(theirs, ours)))
        medians = (np.median(each) / this["scale"] for each in (ours, theirs))
        print(f"{row:42s} {next(medians):10.3f} {next(medians):10.3f} {'':10s} {speeds[-1][1]:.3f}", flush=True)
    for missing in this["contenders"].keys() ^ other["contenders"].keys():
        print(f"{missing}: only in one of the trees, left out")
    return speeds
