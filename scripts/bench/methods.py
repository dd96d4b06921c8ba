"""All ways to train a spiking policy, side by side: CartPole-v1, each with its own preset and fixed budget.

Each run is one ``spikeloop train``, one ``spikeloop rollout`` and one ``spikeloop deploy``, in processes of their own;
finished ones are kept in the output folder under a digest of what made them. Solved is the first env step at which the
last 20 training episodes return 475 in the mean. Spikes per decision are counted on the chip: those of its neurons and
those that the host sends it. Processor seconds are the median of those of ``spikeloop train``, of which start-up takes
some 4; the first run compiles its kernels. Kept is (chip - random) / (float - random) with 8-bit weights on the same
episodes.
"""

from __future__ import annotations

import argparse
import csv
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spikeloop.agents.machine import processor
from spikeloop.scripts.bench import convert
from spikeloop.scripts.bench.returns import (
    CPU_SECONDS,
    EPISODES,
    Row,
    add_run_arguments,
    for_all,
    run_folder,
    spikeloop,
    trained,
)
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.scripts.compared import kept
from spikeloop.scripts.kept_results import digest

ENV, BAR, N_EPISODES, CHIP = "CartPole-v1", 475.0, 20, "loihi1"
SEEDS = tuple(range(3010, 3020))  # never used to choose a setting
CONVERTED_TICKS = convert.CHIP_TICKS
CONVERTED = f"ANN to SNN, {CONVERTED_TICKS} ticks"


class Method(NamedTuple):
    """A training, and whether its policies can be put on the chip."""

    row: Row
    deploys: bool = True


# A new method is one line here.
METHODS = {
    "surrogate gradients, PPO": Method(Row("spiking_ppo", ENV, 50_000, chip_ready=True)),
    "first spike of 8 ticks, PPO": Method(Row("first_to_spike", ENV, 50_000)),
    "tempotron of 8 ticks, PPO": Method(Row("tempotron", ENV, 50_000)),
    "surrogate gradients, A2C": Method(Row("spiking_a2c", ENV, 100_000)),
    "exact spike times, PPO": Method(Row("spike_time", ENV, 50_000)),
    "equilibrium propagation, PPO": Method(Row("equilibrium", ENV, 50_000), deploys=False),
    "e-prop": Method(Row("eprop", ENV, 130_000)),
    "R-STDP, winner-take-all": Method(Row("rstdp", ENV, 100_000)),
    "R-STDP, populations": Method(Row("rstdp_populations", ENV, 100_000), deploys=False),  # too many lines for a core
    "Bernoulli neurons, score function": Method(Row("glm", ENV, 150_000)),
    "evolution strategy": Method(Row("evolution", ENV, 500_000)),
    "SB3's PPO, MlpPolicy": Method(Row("ppo", ENV, 50_000), deploys=False),
}


class Found(NamedTuple):
    """What one run came to; NaN where there is no such figure."""

    mean_return: float
    solved: float  # env steps
    seconds: float
    spikes: float
    kept: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark methods``."""
    names = [*METHODS, CONVERTED]
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="METHOD", help=f"{names}")
    add_run_arguments(parser)
    parser.set_defaults(seeds=list(SEEDS), output=Path("logs/methods"))


def run(args: argparse.Namespace) -> None:
    """Train what is missing, then print the table."""
    print(f"{ENV}, {EPISODES} episodes after the last step, as greedy as the policy can be; {processor()}")
    columns = ["method", "env steps", "return, mean ± sd", "worst", "each seed", "env steps until solved, median"]
    print_head([*columns, "processor s, median", "spikes per decision", f"kept on {CHIP}"])
    for name in args.methods:
        if name == CONVERTED:
            n_timesteps = convert.TASKS["cartpole"].n_timesteps
            found = [_converted(seed, args.output) for seed in args.seeds]
        else:
            method = METHODS[name]
            n_timesteps = method.row.n_timesteps
            found = for_all([method.row], args, partial(_found, args.output, method.deploys))[method.row]
        print_row(_cells(name, n_timesteps, found))


def _cells(name: str, n_timesteps: int, found: list[Found]) -> list[str]:
    means, solved, seconds, spikes, shares = (np.array(column) for column in zip(*found, strict=True))
    n_solved = int(np.sum(np.isfinite(solved)))
    median = f"{np.median(solved):,.0f}" if n_solved * 2 > len(found) else "-"
    return [
        name,
        f"{n_timesteps:,}",
        mean_and_deviation(means),
        f"{means.min():.1f}",
        each(means),
        "" if np.all(np.isnan(solved)) else f"{median} ({n_solved} of {len(found)})",
        f"{np.nanmedian(seconds):.0f}" if np.any(np.isfinite(seconds)) else "",  # kernels compile in the first run
        _mean(spikes, "{:.1f}"),
        _mean(shares, "{:.1%}"),
    ]


def _mean(values: np.ndarray, form: str) -> str:
    return form.format(np.nanmean(values)) if np.any(np.isfinite(values)) else ""


def _found(output: Path, deploys: bool, row: Row, seed: int) -> Found:
    result = trained(row, seed, output)
    folder = output / row.folder / f"seed{seed}"
    run = run_folder(row, seed, output)
    chip = _deployed(row, seed, run, folder) if deploys else None
    events = chip["report"]["events"] if chip else {}
    share = kept(chip["returns"])["kept"] if chip else None
    return Found(
        result["mean_return"],
        solved_after(*_curve(run)),
        float((folder / CPU_SECONDS).read_text()),
        events.get("spikes", np.nan) + events.get("input spikes", 0.0),
        np.nan if share is None else share,
    )


def _deployed(row: Row, seed: int, run: Path, folder: Path) -> dict[str, Any]:
    """Return what ``deploy --json`` says of a run, deploying it first if that has not been done."""
    result = folder / f"{CHIP}-{digest((row.digest(), CHIP, EPISODES), ('hardware', 'spiking'))}.json"
    if not result.is_file():
        command = ["deploy", str(run), "--chip", CHIP, "--json", "-n", str(EPISODES), "--seed", str(10_000 + seed)]
        spikeloop([*command, "--out", str(result.with_suffix(""))], result)
    return json.loads(result.read_text().splitlines()[-1])


def _curve(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the env steps at which training episodes ended, and their returns."""
    with (run / "learning_curve.csv").open(newline="") as file:
        rows = [(int(row["timesteps"]), float(row["episode_return"])) for row in csv.DictReader(file)]
    steps, returns = zip(*rows, strict=True) if rows else ((), ())
    return np.array(steps), np.array(returns)


def solved_after(steps: np.ndarray, returns: np.ndarray) -> float:
    """Return the env step at which the mean of the last episodes first reached the bar; inf if it never did.

    >>> solved_after(np.arange(1, 41) * 500, np.full(40, 500.0))
    10000.0
    >>> solved_after(np.arange(1, 41) * 500, np.full(40, 400.0))
    inf
    """
    if len(returns) < N_EPISODES:
        return np.inf
    means = np.convolve(returns, np.full(N_EPISODES, 1 / N_EPISODES), "valid")
    reached = np.flatnonzero(means >= BAR - 1e-9)
    return float(steps[reached[0] + N_EPISODES - 1]) if reached.size else np.inf


def _converted(seed: int, output: Path) -> Found:
    """Return what SB3's PPO with ReLU comes to as a network of integrate-and-fire neurons."""
    measured = convert.measured("cartpole", seed, output)
    network, chip = measured[f"{CONVERTED_TICKS} ticks"], measured[f"loihi1, {CONVERTED_TICKS} ticks"]
    random, policy = measured["means"]["random"], measured["means"]["ann"]
    share = network["kept"]
    mean = random + share * (policy - random) if share is not None else np.nan
    on_chip = np.nan if chip["kept"] is None else chip["kept"]
    return Found(mean, np.nan, np.nan, network["spikes_per_decision"], on_chip)
