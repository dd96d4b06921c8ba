"""R-STDP on given spike trains: 256 -> 256 synapses with eligibility, a reward on each tick, float32, one thread.

Beside BindsNET's MSTDPET and Brian2 in C++ standalone mode, once as its documentation writes STDP and once as well as
we could. Each library runs in an interpreter of its own (--bindsnet, --brian2: path of a python that has it; default
this one) on the same trains, in alternating blocks. Times are processor times of the ticks alone, without preparation.
Tuned, Brian2 computes our rule; BindsNET's tags come one tick late, and the untuned Brian2 counts pairs of one tick.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from spikeloop.scripts.bench.timing import ask, in_turn, ratio
from spikeloop.spiking.rules.rstdp import RewardSTDP, reward_stdp

N, PRE_RATE, POST_RATE = 256, 0.07, 0.065
RULE = {
    "tau_plus": 16.8,
    "tau_minus": 33.7,
    "tau_e": 100.0,
    "a_plus": 0.01,
    "a_minus": 0.00525,
    "learning_rate": 0.01,
    "w_min": 0.0,
    "w_max": 1.0,
    "e_max": 0.05,
}
FORMS = {"free": "no bounds", "bounded": "hard bounds on weights, saturating tags, on every tick"}
WANTED = {"free": 40, "bounded": 10}
OURS = "spikeloop rstdp"
PEERS = {
    "BindsNET MSTDPET": ("bindsnet", ""),
    "Brian2 C++ standalone": ("brian2", ""),
    "Brian2 C++ standalone, tuned": ("brian2", "-tuned"),
}
SAMPLE = 97  # weight changes of every 97th synapse are compared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark plasticity``."""
    parser.add_argument("--steps", type=int, default=5000, help="ticks per run (default 5000)")
    parser.add_argument("--blocks", type=int, default=5, help="runs per contender (default 5)")
    for name in ("bindsnet", "brian2"):
        parser.add_argument(f"--{name}", metavar="PYTHON", default=sys.executable, help=f"interpreter that has {name}")


def run(args: argparse.Namespace) -> None:
    """Print a table without bounds and one with bounds."""
    rng = np.random.default_rng(0)
    trains = {
        "pre": rng.random((args.steps, N)) < PRE_RATE,
        "post": rng.random((args.steps, N)) < POST_RATE,
        "reward": rng.normal(size=args.steps).astype(np.float32),
        "w": rng.random((N, N)).astype(np.float32),
    }
    print(f"R-STDP {N} -> {N}, pre {PRE_RATE}, post {POST_RATE} spikes per tick, {args.steps} ticks, ticks/s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trains.npz")
        np.savez(path, **trains, rule=json.dumps(RULE))
        for form in FORMS:
            _compare(form, trains, path, args)


def _compare(form: str, trains: dict[str, np.ndarray], path: Path, args: argparse.Namespace) -> None:
    """Measure and print one table."""
    ours, change = _ours(form, trains)
    contenders: dict[str, Callable[[], float]] = {OURS: ours}
    agreement = {OURS: 1.0}
    processes = []
    for name, (library, manner) in PEERS.items():
        process = subprocess.Popen(
            [getattr(args, library), Path(__file__).with_name("plasticity_peers.py"), library, path, form + manner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        processes.append(process)
        theirs = _wait_until_ready(process)
        if theirs is None:
            print(f"{name}: not installed for {getattr(args, library)}, left out")
            continue
        agreement[name] = float(np.corrcoef(change, theirs)[0, 1])
        contenders[name] = lambda process=process: float(ask(process, "run"))  # type: ignore[misc]
    times = in_turn(contenders, args.blocks)
    for process in processes:
        process.communicate()
    _print(form, args.steps, times, agreement)


def _ours(form: str, trains: dict[str, np.ndarray]) -> tuple[Callable[[], float], np.ndarray]:
    """Return our measurement and the weight changes to compare."""
    rule = RewardSTDP(
        **(RULE if form == "bounded" else {k: v for k, v in RULE.items() if k not in ("w_min", "w_max", "e_max")})
    )

    def measure() -> float:
        begin = time.process_time()
        for _ in range(repeats):
            reward_stdp(trains["pre"], trains["post"], trains["reward"], trains["w"], rule)
        return (time.process_time() - begin) / repeats

    w, _ = reward_stdp(trains["pre"], trains["post"], trains["reward"], trains["w"], rule)
    repeats = 20  # so that a block of ours takes about as long as one of theirs
    return measure, (w - trains["w"]).astype(np.float64).ravel()[::SAMPLE]


def _wait_until_ready(process: subprocess.Popen[str]) -> np.ndarray | None:
    """Return the weight changes that a peer reports when it is prepared; None if it could not be."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready "):
            return np.array(json.loads(line.removeprefix("ready ")))
    return None


def _print(form: str, steps: int, times: dict[str, np.ndarray], agreement: dict[str, float]) -> None:
    print(f"\n{FORMS[form]}\n{'':32s} {'median':>10s} {'best':>10s}  ours is faster by  correlation of weight changes")
    for name, seconds in times.items():
        faster = ratio(seconds, times[OURS])
        rates = steps / np.median(seconds), steps / seconds.min()
        print(f"{name:32s} {rates[0]:10.0f} {rates[1]:10.0f} {faster:18.1f} {agreement[name]:30.6f}")
    for what, names in (("as documented", [*PEERS][:2]), ("with the tuned Brian2", [*PEERS])):
        ratios = [ratio(times[name], times[OURS]) for name in names if name in times]
        if ratios:
            print(f"ours / the fastest of them {what}: {min(ratios):.1f} (wanted >= {WANTED[form]})")
