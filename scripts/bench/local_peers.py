"""Our local learners beside others on the same tasks and in as many episodes, in one table.

Ours are the winner-take-all rule and spiking populations with their presets, and the same presets without learning.
Beside them: a tabular actor-critic on the same tiles; a linear actor-critic on tiles and on place cells; REINFORCE of
one layer; a re-implementation of the spiking actor-critic of Frémaux, Sprekeler & Gerstner (2013), fremaux.py; MSTDPET
(Florian 2007) without a critic, by our rule and in BindsNET, mstdpet.py. All see the environment's own observations and
rewards, learn for so many episodes, and then play 50 with their weights frozen: those with a softmax take their best
action, spiking peers stay random.

Each peer had the same search, which --search prints: eight settings, a third of the episodes, on seed 0; then the best
three on seeds 1 and 2 too; the best mean of the last 20 training episodes was chosen, for each task anew. That
search is not complete: on MountainCar and Acrobot fremaux has the best of seed 0, mstdpet a guess. bindsnet takes what
mstdpet has. Finished runs are kept under a digest of their settings and code.

CPU time is that of training, with Gymnasium's environment, which only our two rules run in a compiled form.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from spikeloop.scripts.bench import local, peer_play
from spikeloop.scripts.bench.local_learners import Budget, Peer, peers
from spikeloop.scripts.bench.local_learners import run as run_peer
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row

SEEDS = tuple(range(100, 120))  # settings were chosen on others; of populations, the critic's rate knowing of these
SEARCH_SEEDS = (0, 1, 2)
N_FROZEN = 50
EPISODES = {"CartPole-v1": 200, "MountainCar-v0": 500, "Acrobot-v1": 300}
OURS = {
    "winner-take-all": ("wta", "rstdp", 20),
    "populations": ("populations", "populations", 20),
    "no learning": ("wta", "no learning", 5),
    "tabular": ("wta", "tabular", 10),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark local-peers``."""
    add, names = parser.add_argument, [*OURS, *peers()]
    tasks = list(local.TASKS)
    add("--tasks", nargs="+", choices=tasks, default=tasks, metavar="TASK", help=f"{tasks}")
    add("--learners", nargs="+", choices=names, default=names, metavar="NAME", help=f"{names}")
    add("--seeds", type=int, default=len(SEEDS), metavar="N", help="no more than so many seeds from 100 on")
    add("--episodes", type=int, metavar="N", help="train for so many episodes instead (default 200, 500, 300)")
    add("--search", action="store_true", help="print the search for the peers' settings instead")
    add("--bindsnet", metavar="PYTHON", default=sys.executable, help="interpreter that has bindsnet, for that peer")
    add("-o", "--output", type=Path, default=Path("logs/local-peers"), help="where finished runs are kept")


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as its seeds are there."""
    (search if args.search else compare)(args)


def compare(args: argparse.Namespace) -> None:
    """Print the table."""
    columns = ["environment", "learner", "sees", "episodes", "env steps", "mean ± sd", "worst", "rate", "each seed"]
    print_head([*columns, "env steps to the bar, median", "CPU us per env step", "CPU s per run"])
    for task in (local.TASKS[name] for name in args.tasks):
        n_episodes = args.episodes or EPISODES[task.env]
        for name in (name for name in OURS if name in args.learners):
            budget = Budget(n_episodes, N_FROZEN, min(OURS[name][2], args.seeds))
            features = f"our tiles x {4 if name == 'populations' else 1}"
            runs = [_ours(task, name, n_episodes, seed, args.output) for seed in SEEDS[: budget.n_seeds]]
            _print_runs(task, name, features, budget, runs)
        for name, peer in ((name, peer) for name, peer in peers(args.bindsnet).items() if name in args.learners):
            budget = peer.budgets.get(task.env, Budget(n_episodes, N_FROZEN, peer.n_seeds))
            settings = peer.settings[peer.chosen[task.env]]
            seeds = SEEDS[: min(budget.n_seeds, args.seeds)]
            runs = [run_peer(name, peer, task.env, settings, budget, seed, args.output) for seed in seeds]
            _print_runs(task, name, peer.features, budget, runs)
    times = [f"{task.env} {environment_us(task.env):.0f}" for task in (local.TASKS[name] for name in args.tasks)]
    print(f"\nus per env step of Gymnasium's environment alone: {', '.join(times)}")


def _ours(task: local.Task, name: str, n_episodes: int, seed: int, folder: Path) -> peer_play.Run:
    policy_name, learner, _ = OURS[name]
    policy = replace(local.POLICIES[policy_name], noise=False)
    changes: dict[str, Any] = {**policy.learners[learner], "n_episodes": n_episodes, "n_timesteps": 1000 * n_episodes}

    def make() -> peer_play.Run:
        local.train_one(task, policy, {**changes, "n_episodes": 2}, 0, False, 1)  # compiles
        found = local.train_one(task, policy, changes, seed, False, N_FROZEN)
        return peer_play.Run(np.array([found.mean_return]), found.steps, found.returns, found.seconds)

    what = [name, task.env, policy.preset, {key: str(value) for key, value in changes.items()}, seed, N_FROZEN]
    code = ("agents", "envs", "spiking", "scripts/bench/local.py")
    return peer_play.kept(folder, f"{name.replace(' ', '-')}-{task.env}-seed{seed}", what, code, make)


def _print_runs(task: local.Task, name: str, features: str, budget: Budget, runs: list[peer_play.Run]) -> None:
    means = np.array([run.frozen.mean() for run in runs])
    steps = np.array([run.steps[-1] for run in runs])
    at = np.array([local.solved_at(run.steps, run.returns, task.bar) for run in runs])
    median = np.median(np.where(np.isfinite(at), at, np.inf))  # a seed that never gets there is later than all others
    cells = [
        task.env,
        name,
        features,
        f"{budget.n_episodes}",
        f"{steps.mean():,.0f}",
        mean_and_deviation(means),
        f"{means.min():.1f}",
        f"{np.mean(means >= task.bar):.0%}",
        each(means),
        f"{median:,.0f}" if np.isfinite(median) else "-",
        f"{np.median([run.seconds / run.steps[-1] for run in runs]) * 1e6:.1f}",
        f"{np.median([run.seconds for run in runs]):.1f}",
    ]
    print_row(cells)


def environment_us(env_id: str, n_steps: int = 3000) -> float:
    """Return the time of a step of Gymnasium's environment under random actions."""
    env = gym.make(env_id)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, env.action_space.n, n_steps)  # type: ignore[attr-defined]
    start = time.process_time()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return (time.process_time() - start) / n_steps * 1e6


def search(args: argparse.Namespace) -> None:
    """Print what was tried of each peer, best first."""
    print_head(["environment", "learner", "settings", "mean of the last 20 training episodes, each seed", "chosen"])
    for task in (local.TASKS[name] for name in args.tasks):
        for name, peer in peers().items():
            if name in args.learners and not peer.budgets:
                _search_one(task.env, name, peer, (args.episodes or EPISODES[task.env]) // 3, args.output)


def _search_one(env_id: str, name: str, peer: Peer, n_episodes: int, folder: Path) -> None:
    found: dict[int, list[float]] = {index: [] for index in range(len(peer.settings))}

    def best() -> list[int]:
        return sorted(found, key=lambda index: (len(found[index]), np.mean(found[index])), reverse=True)

    for seed in SEARCH_SEEDS:
        for index in best()[:3] if seed != SEARCH_SEEDS[0] else found:
            budget = Budget(n_episodes, 0, 1)
            one = run_peer(name, peer, env_id, peer.settings[index], budget, seed, folder)
            found[index].append(float(one.returns[-local.WINDOW :].mean()))
    for place, index in enumerate(best()):
        settings = ", ".join(f"{key} {value}" for key, value in peer.settings[index].items())
        marks = ["best"] * (place == 0) + ["chosen"] * (index == peer.chosen[env_id])
        print_row([env_id, name, settings, each(found[index]), ", ".join(marks)])
