"""The emulated chip beside other emulators of it: dense 128 -> LIF 128 -> LIF 128, the same spikes into all.

Each simulator runs in an interpreter of its own, in alternating blocks, and must end with the voltages that ours has.
lava-nc, brian2-loihi and nengo-loihi need numpy < 2: `--install FOLDER` makes their environments there (lava-nc wants
Python 3.10), later runs take them from it. With `--growth`: what a tick costs as a network grows.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from spikeloop.hardware import CHIPS, Compartments, Emulator, Program, Projection
from spikeloop.scripts.bench.tables import print_head, print_row, print_times
from spikeloop.scripts.bench.timing import Case, ask, in_turn, ratio, repeats_in, seconds_per_call, warmed
from spikeloop.scripts.cli import UsageError

N, N_TICKS = 128, 3000
OURS = "spikeloop Emulator"
WORKER = Path(__file__).with_name("chip_worker.py")
PEERS = {  # each environment's Python and what pip installs; lava-nc pins old versions that it does not need here
    "lava": (
        "python3.10",
        "numpy<2 scipy networkx asteval scikit-learn matplotlib pandas",
        "--no-deps --ignore-requires-python lava-nc==0.10.0",
    ),
    "brian": (sys.executable, "numpy<2 cython setuptools<81 brian2-loihi==0.5.2"),
    "nengo": (sys.executable, "numpy<2 setuptools<81 nengo-loihi==1.1.0"),
}
SIMULATORS = {"lava-nc": "lava", "brian2-loihi numpy": "brian", "brian2-loihi cython": "brian", "nengo-loihi": "nengo"}
MODES = {"lava-nc": "lava", "brian2-loihi numpy": "brian-numpy", "brian2-loihi cython": "brian-cython"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark chip``."""
    parser.add_argument("--blocks", type=int, default=9, help="blocks per simulator (default 9)")
    parser.add_argument("--peers", type=Path, help="folder with the other simulators' environments")
    parser.add_argument("--install", type=Path, metavar="FOLDER", help="make these environments, then use them")
    parser.add_argument("--growth", action="store_true", help="only the table of costs as a network grows")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 512, 1024, 2048, 4096], help="for --growth")
    parser.add_argument("--densities", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="for --growth")


def run(args: argparse.Namespace) -> None:
    """Print the speeds, or the costs of growth."""
    if args.growth:
        print_growth(args.sizes, args.densities)
        return
    if args.install:
        install(args.install)
    compare(args.install or args.peers, args.blocks)


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Yield what is compared with another source tree.

    Raises:
        UsageError: With ``--growth``, whose table is not one of alternating blocks.
    """
    if args.growth or args.install or args.peers:
        raise UsageError("--against compares our emulator alone, without --growth, --install or --peers")
    p = problem()
    emulator, x = emulator_of(p), p["x"][:, None].astype(np.int32)
    start = emulator.initial_state()
    run, few = partial(emulator.run, start, N_TICKS, x), partial(emulator.run, start, 4)
    yield Case(f"dense {N} -> LIF {N} -> LIF {N}", {OURS: run}, 0.2, "us/tick", N_TICKS * 1e-6)
    yield Case("one call of run() for 4 ticks, without input", {OURS: few}, 0.05, "us", 1e-6)


def install(folder: Path) -> None:
    """Make a virtual environment for each other simulator that can be installed here."""
    for name, (wanted, *steps) in PEERS.items():
        pip = [str(folder / name / "bin" / "python"), "-m", "pip", "install", "-q"]
        commands = [[wanted, "-m", "venv", str(folder / name)], *([*pip, *step.split()] for step in steps)]
        try:
            for command in commands:
                subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:  # a version manager names Pythons it cannot run
            shutil.rmtree(folder / name, ignore_errors=True)  # half an environment would be taken for a whole one
            print(f"{name}: cannot be installed, left out ({error})")


def problem() -> dict[str, np.ndarray]:
    """Return weights, constants and input spikes of the network that all simulators run."""
    rng = np.random.default_rng(0)
    w1, w2 = (rng.integers(-100, 128, (N, N)) // 2 * 2 for _ in range(2))
    x = (rng.random((N_TICKS, N)) < 0.05).astype(np.int8)
    return {"w1": w1, "w2": w2, "x": x, "decay_u": np.array(1024), "decay_v": np.array(256), "v_th": np.array(4000)}


def emulator_of(p: dict[str, np.ndarray]) -> Emulator:
    """Return our emulator of the network."""
    compartments = Compartments.build(
        2 * N, decay_u=p["decay_u"], decay_v=p["decay_v"], v_th=p["v_th"] * 64, core=np.repeat([0, 1], N)
    )
    first, second = np.arange(N), np.arange(N, 2 * N)
    projections = (Projection("w1", True, first, first, p["w1"]), Projection("w2", False, first, second, p["w2"]))
    program = Program("loihi1", "nengo", N, compartments, projections, second)
    return Emulator(program)


@contextmanager
def simulator(python: Path, mode: str, path: Path, checksum: int) -> Iterator[subprocess.Popen]:
    """Start a worker; it has run the network once, and computed what we compute."""
    with subprocess.Popen(
        [python, WORKER, mode, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=path.parent,
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None and worker.stderr is not None
        ready = worker.stdout.readline().split()
        if ready[:1] != ["ready"]:
            worker.kill()
            raise ValueError(f"{mode} did not start: {(worker.stderr.read().strip() or 'no reason').splitlines()[-1]}")
        if int(ready[1]) != checksum:
            worker.kill()
            raise ValueError(f"{mode} computed other voltages than our emulator")
        yield worker
        worker.stdin.close()


def compare(folder: Path | None, blocks: int) -> None:
    """Print seconds per tick of every simulator that is there, and how many times ours."""
    p = problem()
    emulator, x = emulator_of(p), p["x"][:, None].astype(np.int32)
    start = emulator.initial_state()
    run = partial(emulator.run, start, N_TICKS, x)
    outputs, _ = run()
    checksum = zlib.crc32(outputs[-1].astype(np.int64).tobytes())
    rates = emulator.counts.spikes.reshape(2, N).mean(axis=1) / N_TICKS
    print(f"dense {N} -> LIF {N} -> LIF {N}: spikes per tick and line 0.05, neurons {rates[0]:.3f}, {rates[1]:.3f}")
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "problem.npz"
        np.savez(path, allow_pickle=False, **p)
        workers = {}
        for name, environment in SIMULATORS.items():
            python = folder and folder / environment / "bin" / "python"
            if python and python.exists():
                mode = MODES.get(name, environment)
                workers[name] = stack.enter_context(simulator(python, mode, path, checksum))
            else:
                print(f"{name}: not installed, left out")
        repeats = repeats_in(0.2, warmed(run))
        measures: dict[str, Callable[[], float]] = {OURS: lambda: seconds_per_call(run, repeats) / N_TICKS}
        for name, worker in workers.items():
            measures[name] = lambda worker=worker: float(ask(worker, ""))  # type: ignore[misc]
        times = in_turn(measures, blocks)
    print_times(times, OURS, 1e-6, "us/tick")
    print(f"one call of run() for 4 ticks, processor: {seconds_per_tick(emulator, start, n_ticks=4) * 4e6:.1f} us")
    if workers:
        fastest = min(workers, key=lambda name: float(np.median(times[name])))
        print(f"the fastest of the others, {fastest}, takes {ratio(times[fastest], times[OURS]):.0f} times ours")


# --- as a network grows


def recurrent(n: int, density: float, rng: np.random.Generator) -> Program:
    """Return n neurons, each driven to spike on about every 20th tick, with weak random synapses among them."""
    weights = rng.integers(-127, 128, (n, n)) * 2 * (rng.random((n, n)) < density)
    compartments = Compartments.build(n, v_th=64 * 4096, bias=rng.integers(12000, 14500, n) >> 3 << 3, decay_v=0)
    synapses = Projection("recurrent", False, np.arange(n), np.arange(n), weights, exponent=-4)
    return Program("loihi1", "nengo", 0, compartments, (synapses,), np.arange(0), (("neurons", 0, n),))


def cores_needed(program: Program) -> int | None:
    """Return on how many cores the program fits, its neurons spread evenly; None if on none."""
    from dataclasses import replace

    from spikeloop.hardware.loihi.resources import check_limits  # here, as older trees with --against lack it

    n, most = program.compartments.n, CHIPS[program.chip].cores
    for cores in sorted({*(2**k for k in range(8)), most}):
        spread = replace(program.compartments, core=np.arange(n) * cores // n)
        try:
            check_limits(replace(program, compartments=spread))
        except ValueError:
            continue
        return cores
    return None


def print_growth(sizes: list[int], densities: list[float]) -> None:
    """Print what a tick and a synapse cost, a row for each size and density, as a Markdown table."""
    columns = (
        "neurons",
        "density",
        "synapses",
        "cores",
        "spikes per tick",
        "events per tick",
        "us per tick",
        "without events, us",
        "ns per event",
        "bytes per synapse",
        "chip's bytes per synapse",
    )
    print_head(columns)
    for n in sizes:
        for density in densities:
            print_row(growth_row(n, density))


def growth_row(n: int, density: float) -> list[str]:
    """Return the cells of one row of the table."""
    from spikeloop.hardware.loihi.resources import use

    program = recurrent(n, density, np.random.default_rng(0))
    n_synapses = int(np.count_nonzero(program.projections[0].weights))
    emulator = Emulator(program)
    state = emulator.run(emulator.initial_state(), 200)[1]
    emulator.reset_counts()
    busy = seconds_per_tick(emulator, state)
    counts = emulator.counts
    spikes, events = counts.spikes.sum() / counts.n_ticks, counts.synaptic_ops / counts.n_ticks
    quiet = seconds_per_tick(emulator, emulator.initial_state(), np.zeros((1, n), np.int32))
    cores, words = cores_needed(program), sum(core.memory_words for core in use(program))
    per_event = (busy - quiet) / events * 1e9 if events else float("nan")
    counted = [f"{n}", f"{density:.0%}", f"{n_synapses}", f"{cores or 'limits off'}", f"{spikes:.1f}", f"{events:.0f}"]
    costs = [f"{busy * 1e6:.2f}", f"{quiet * 1e6:.2f}", f"{per_event:.2f}"]
    return counted + costs + [f"{emulator.table_bytes / n_synapses:.1f}", f"{words * 8 / n_synapses:.1f}"]


def seconds_per_tick(
    emulator: Emulator, state: np.ndarray, bias: np.ndarray | None = None, n_ticks: int = 100
) -> float:
    """Return the median time of a tick over short runs from one state, of the processor: others may share it."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < 0.5:
        start = time.process_time()
        emulator.run(state, n_ticks, bias=bias)
        times.append((time.process_time() - start) / n_ticks)
    return float(np.median(times))
