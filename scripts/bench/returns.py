"""Returns of the presets on held-out seeds: train for a fixed budget, then 100 deterministic episodes at its end.

Each run is one ``spikeloop train`` and one ``spikeloop rollout``, in processes of their own. Half of the seeds train
with one thread, half with two. Finished runs are kept in the output folder under a digest
of preset, code and versions, and are not repeated. No checkpoint and no seed is left out of the table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from spikeloop.agents.machine import processor
from spikeloop.agents.registry import ALGOS, hyperparams_file
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.scripts.kept_results import digest
from spikeloop.scripts.run_folder import CHECKPOINT, PREVIOUS, Busy, sole_writer

SEEDS = tuple(range(2000, 2010))  # never used to choose a setting
EPISODES = 100
CPU_SECONDS = "cpu_seconds"  # file beside a run: what its training took
Result = TypeVar("Result")


def threads_of(seed: int) -> int:
    """Return how many threads the run of a seed trains with: 1 for even seeds, 2 for odd ones."""
    return 1 + seed % 2


@dataclass(frozen=True)
class Row:
    """One line of the table: an algorithm on an environment for a number of env steps.

    Args:
        algo: Algorithm.
        env: Environment id.
        n_timesteps: Budget in env steps.
        bar: Mean return to reach; None for a row that is only reported.
        chip_ready: Train with ``--chip-ready``.
        without_adaptation: Train with beta = 0, all else as the preset has it: the control of a claim about memory.
        n_frames: Show the policy the last frames side by side, so many of them: a memory for one that has none.
        failed: Return below which an episode counts as failed; None for a task without such episodes.
    """

    algo: str
    env: str
    n_timesteps: int
    bar: float | None = None
    chip_ready: bool = False
    without_adaptation: bool = False
    n_frames: int = 1
    failed: float | None = None

    @property
    def name(self) -> str:
        """What the table calls it."""
        frames = f", {self.n_frames} frames" * (self.n_frames > 1)
        return self.env + frames + ", beta = 0" * self.without_adaptation + ", chip-ready" * self.chip_ready

    @property
    def folder(self) -> str:
        """Name of the folder that holds its runs."""
        name = f"{self.algo}-{self.env.replace('/', '_')}-{self.n_timesteps}"
        name += f"-{self.n_frames}frames" * (self.n_frames > 1)
        return f"{name}{'-chip' * self.chip_ready}{'-beta0' * self.without_adaptation}-{self.digest()}"

    def preset(self) -> dict[str, Any] | None:
        """Return our preset for it; None where RL Zoo's is used."""
        file = hyperparams_file(self.algo)
        presets = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return presets.get(self.env)

    def digest(self) -> str:
        """Return a digest of all that its runs depend on; the code of our algorithms counts where they are used."""
        folders = ("agents", "envs", "spiking") if self.algo in ALGOS else ("envs",)
        return _digest(self, json.dumps(self.preset()), folders)


@cache
def _digest(row: Row, preset: str, folders: tuple[str, ...]) -> str:
    settings = (row.algo, row.env, row.n_timesteps, row.chip_ready, row.without_adaptation, EPISODES)
    frames = (row.n_frames,) * (row.n_frames > 1)  # so that rows of one frame keep the names that they had
    return digest(((*settings, *frames), preset), folders)


def _beside_ppo(env: str) -> list[Row]:
    """Return ours and SB3's PPO on a MuJoCo task, which needs the extra ``mujoco``."""
    return [Row("spiking_ppo", env, 300_000), Row("ppo", env, 300_000)]


NO_VEL = "spikeloop/CartPoleNoVel-v0"
PENDULUM_NO_VEL = "spikeloop/PendulumNoVel-v0"
ROWS = {
    "cartpole": [Row("spiking_ppo", "CartPole-v1", 50_000, 495.0)],
    "acrobot": [Row("spiking_ppo", "Acrobot-v1", 100_000, -82.0)],
    "acrobot-peers": [Row("ppo", "Acrobot-v1", 100_000)],
    "pendulum": [Row("spiking_ppo", "Pendulum-v1", 150_000, -165.0)],
    "cartpole-novel": [
        Row("spiking_ppo", NO_VEL, 100_000, 450.0),
        Row("spiking_ppo", NO_VEL, 100_000, without_adaptation=True),
    ],
    "cartpole-novel-peers": [
        Row("ppo", NO_VEL, 100_000),
        Row("ppo_lstm", NO_VEL, 100_000),
    ],
    "a2c": [Row("spiking_a2c", "CartPole-v1", 100_000, 475.0)],
    "mountaincar": [Row("spiking_ppo", "MountainCarContinuous-v0", 50_000, 92.0)],
    "pendulum-novel": [Row("spiking_ppo", PENDULUM_NO_VEL, 300_000, -220.0, failed=-500.0)],
    "pendulum-novel-peers": [
        Row("ppo", PENDULUM_NO_VEL, 300_000, n_frames=4, failed=-500.0),
        Row("spiking_ppo", PENDULUM_NO_VEL, 300_000, without_adaptation=True, failed=-500.0),
        Row("ppo_lstm", PENDULUM_NO_VEL, 300_000, failed=-500.0),
        Row("ppo", PENDULUM_NO_VEL, 300_000, failed=-500.0),
    ],
    "lunarlander": [Row("spiking_ppo", "LunarLander-v3", 500_000, 255.0)],
    "hopper": _beside_ppo("Hopper-v5"),
    "halfcheetah": _beside_ppo("HalfCheetah-v5"),
    "double-pendulum": _beside_ppo("InvertedDoublePendulum-v5"),
    "walker2d": _beside_ppo("Walker2d-v5"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark returns``."""
    parser.add_argument(
        "--tasks", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="TASK", help=f"{list(ROWS)}"
    )
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which seeds run, and how."""
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help=f"default {SEEDS[0]} to {SEEDS[-1]}")
    parser.add_argument("--jobs", type=int, default=2, help="threads at a time, over all runs (default 2)")
    parser.add_argument("-o", "--output", type=Path, default=Path("logs/returns"), help="default logs/returns")


def run(args: argparse.Namespace) -> None:
    """Train what is missing, then print the table."""
    rows = [row for task in args.tasks for row in ROWS[task]]
    results = for_all(rows, args, lambda row, seed: trained(row, seed, args.output))
    print(f"deterministic return over {EPISODES} episodes after the last step; {processor()}")
    print("seeds " + ", ".join(f"{seed} ({threads_of(seed)} threads)" for seed in args.seeds))
    columns = ["algorithm", "environment", "env steps", "mean ± sd", "worst", "bar", "rate", "each seed"]
    columns += ["spikes per neuron and tick", "digest"]
    print_head(columns)
    for row in rows:
        print_row(_cells(row, results[row]))
    for row in rows:
        if row.failed is not None:
            share = failed_share(row.failed, results[row])
            print(f"{row.algo} {row.name}: {share:.1%} of episodes below {row.failed:g}")


def failed_share(failed: float, results: list[dict[str, Any]]) -> float:
    """Return the share of all episodes of some runs whose return is below a number.

    >>> failed_share(-500.0, [{"returns": [-120.0, -700.0]}, {"returns": [-130.0, -500.0]}])
    0.25
    """
    return float(np.mean([value < failed for result in results for value in result["returns"]]))


def for_all(rows: list[Row], args: argparse.Namespace, work: Callable[[Row, int], Result]) -> dict[Row, list[Result]]:
    """Call ``work`` for each row and seed and return the results; runs at a time use at most ``--jobs`` threads.

    Several processes may share the output folder: what another one works on is left until the rest is done.
    """
    results: dict[tuple[Row, int], Result] = {}

    def work_on(todo: deque[tuple[Row, int]]) -> None:
        while True:
            try:
                task = todo.popleft()
            except IndexError:
                return
            try:
                results[task] = work(*task)
            except Busy:
                todo.append(task)
                time.sleep(1.0)

    for threads in (1, 2):
        todo = deque((row, seed) for row in rows for seed in args.seeds if threads_of(seed) == threads)
        workers = max(1, args.jobs // threads)
        with ThreadPoolExecutor(workers) as pool:
            for future in [pool.submit(work_on, todo) for _ in range(workers)]:
                future.result()
    return {row: [results[row, seed] for seed in args.seeds] for row in rows}


def _cells(row: Row, results: list[dict[str, Any]]) -> list[str]:
    means = np.array([result["mean_return"] for result in results])
    rates = np.array([result["firing_rates"] for result in results])  # (seeds, layers), no layers if it does not spike
    return [
        row.algo,
        row.name,
        f"{row.n_timesteps:,}",
        mean_and_deviation(means),
        f"{means.min():.1f}",
        "" if row.bar is None else f"{row.bar:g}",
        "" if row.bar is None else f"{np.mean(means >= row.bar):.0%}",
        each(means),
        f"{rates.mean():.2f} (most {rates.max():.2f})" if rates.size else "",
        row.digest(),
    ]


def trained(row: Row, seed: int, output: Path) -> dict[str, Any]:
    """Return what ``rollout --json`` says of one run, training it first if that has not been done.

    A training that was cut short goes on from its checkpoint.

    Raises:
        Busy: If another process is at it, or a training whose starter was killed.
    """
    folder = output / row.folder / f"seed{seed}"
    result = folder / "result.json"
    if not result.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(folder) as lock:
            if not result.is_file():
                _train(row, seed, folder, lock)
                command = ["rollout", str(run_folder(row, seed, output)), "-n", str(EPISODES), "--json"]
                spikeloop([*command, "--seed", str(10_000 + seed)], result, lock=lock)
    return json.loads(result.read_text().splitlines()[-1])


def _train(row: Row, seed: int, folder: Path, lock: int) -> None:
    """Train a run to its end, from where it is."""
    log, threads, seconds = folder / "train.log", threads_of(seed), folder / CPU_SECONDS
    if log.is_file():
        return
    for run in (folder / row.algo).rglob("*_1"):
        if any((run / name).is_file() for name in (CHECKPOINT, PREVIOUS)):
            seconds.write_text("nan")  # what was cut short has not said how long it had taken
            spikeloop(["train", "--resume", str(run)], log, threads, lock)
            return
        shutil.rmtree(run)  # it ended before its first checkpoint
    train = ["train", "--algo", row.algo, "--env", row.env, "-n", str(row.n_timesteps), "--seed", str(seed)]
    train += ["--chip-ready"] * row.chip_ready
    preset = row.preset()
    if row.without_adaptation:
        assert preset is not None
        train += ["--hyperparams", f"policy_kwargs:{preset['policy_kwargs'] | {'beta': 0.0}}"]
    if row.n_frames > 1:
        train += ["--hyperparams", f"frame_stack:{row.n_frames}"]
    if preset is not None:
        train += ["--conf-file", str(hyperparams_file(row.algo))]
    train += ["-f", str(folder), "--eval-freq", "-1", "--num-threads", str(threads), "--verbose", "0"]
    seconds.write_text(f"{spikeloop(train, log, threads, lock)}")


def run_folder(row: Row, seed: int, output: Path) -> Path:
    """Return the folder in which a run of :func:`trained` left its policy."""
    (found,) = (output / row.folder / f"seed{seed}" / row.algo).rglob("*_1")
    return found


def spikeloop(arguments: list[str], output: Path, threads: int = 1, lock: int | None = None) -> float:
    """Run a command in a process of its own; what it prints appears under the name ``output`` if it succeeds.

    Args:
        arguments: Of ``spikeloop``.
        output: A file.
        threads: Threads it may use.
        lock: File descriptor of a lock that it holds on to, should it outlive this process.

    Returns:
        Seconds of processor time that it and its own processes took.

    Raises:
        SystemExit: If it fails, with what it said last.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    partial = output.with_suffix(".partial")
    inherited = () if lock is None else (lock,)
    with partial.open("w") as file:
        command = [sys.executable, "-m", "spikeloop.scripts.cli", *arguments]
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.PIPE, text=True, env=environment, pass_fds=inherited
        )
        with process:
            said = process.stderr.read() if process.stderr else ""
            _, status, usage = os.wait4(process.pid, 0)  # waits for this one, and tells what it took
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}: {said.strip()[-500:]}")
    partial.rename(output)
    return usage.ru_utime + usage.ru_stime
