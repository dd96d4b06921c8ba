"""E-prop in control tasks, over held-out seeds: does a hidden LSNN layer learn by local rules, and what does it take?

Every row trains from the task's preset for the same fixed budget and is judged by its last weights: the mean return of
greedy episodes on other starts. The controls have rates of their own, the best of those tried on seeds 0 to 5, beside
which a control at the learner's rates would look worse than it is:

- frozen: only the readout learns, and the critic;
- beta = 0: no neuron adapts, so that nothing in the hidden layer outlasts a few ticks by itself.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents.registry import hyperparams_file
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.scripts.bench.tmaze import train_preset

SEEDS = tuple(range(1000, 1020))  # never used to choose a setting
EPISODES = 100
CARTPOLE, NO_VELOCITY = "CartPole-v1", "spikeloop/CartPoleNoVel-v0"
PENDULUM, MOUNTAIN_CAR = "Pendulum-v1", "MountainCarContinuous-v0"
SOLVED = {CARTPOLE: 475.0, NO_VELOCITY: 475.0, PENDULUM: -200.0, MOUNTAIN_CAR: 90.0}  # returns


class Row(NamedTuple):
    """A training: a preset, and what is changed of it."""

    env: str
    name: str
    algorithm: Mapping[str, Any] = {}
    policy: Mapping[str, Any] = {}
    n_seeds: int = 20
    wanted: str = ""


def _rates(learning_rate: float, actor_rate: float, value_rate: float) -> dict[str, Any]:
    """Return the arguments of a control at rates of its own."""
    scales = {"actor_scale": actor_rate / learning_rate, "value_scale": value_rate / learning_rate}
    return {"learning_rate": f"lin_{learning_rate}", **scales}


_FROZEN = {"train_hidden": False, **_rates(0.02, 0.02, 1.0)}
_EIGHT = {"n_neurons": 8, "w_out_std": 1.06}  # 3 / sqrt(8), as 0.75 is of 16
ROWS = (
    Row(CARTPOLE, "16 neurons", wanted="18 of 20"),
    Row(CARTPOLE, "16 neurons, frozen", _FROZEN),
    Row(CARTPOLE, "8 neurons", {}, _EIGHT),
    Row(CARTPOLE, "8 neurons, frozen", _FROZEN, _EIGHT),
    Row(NO_VELOCITY, "16 neurons", n_seeds=10, wanted="9 of 10"),
    Row(NO_VELOCITY, "16 neurons, random feedback", {}, {"feedback": "random"}, 10),
    Row(NO_VELOCITY, "16 neurons, frozen", _FROZEN, {}, 10, "<= 300 in mean"),
    Row(NO_VELOCITY, "16 neurons, beta = 0", _rates(0.001, 0.01, 0.1), {"beta": 0.0}, 10, "<= 300 in mean"),
    Row(NO_VELOCITY, "8 neurons", {}, _EIGHT, 10),
    Row(NO_VELOCITY, "8 neurons, frozen", _FROZEN, _EIGHT, 10),
    Row(PENDULUM, "32 neurons", n_seeds=10),
    Row(MOUNTAIN_CAR, "32 neurons", n_seeds=10),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark local-lsnn``."""
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 1000 ... 1019")
    parser.add_argument(
        "--env", choices=sorted({row.env for row in ROWS}), default=None, help="one of the tasks (default all)"
    )
    text = "train no more than so many env steps (default the presets')"
    parser.add_argument("-n", "--n-timesteps", type=int, default=None, help=text)
    names = sorted({row.name for row in ROWS})
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="networks to train (default all)")


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    presets = yaml.safe_load(hyperparams_file("eprop").read_text(encoding="utf-8"))
    bars = ", ".join(f"{bar:g} in {env}" for env, bar in SOLVED.items())
    print(f"The presets' budgets, then {EPISODES} greedy episodes with the last weights. Solved from {bars} on.\n")
    columns = ["task", "network", "return, mean ± sd", "worst", "solved", "each seed", "env steps", "s"]
    print_head([*columns, "wanted"])
    for row in ROWS:
        if (args.env or row.env) != row.env or row.name not in args.rows:
            continue
        preset = copy.deepcopy(presets[row.env])
        preset["n_timesteps"] = min(args.n_timesteps or np.inf, preset["n_timesteps"])
        results = np.array([_train(preset, row, seed) for seed in args.seeds[: row.n_seeds]])
        returns, steps, seconds = results.T
        cells = [
            row.env,
            row.name,
            mean_and_deviation(returns, 0),
            f"{returns.min():.0f}",
            f"{np.sum(returns >= SOLVED[row.env])} of {len(returns)}",
            each(returns, 0),
            f"{steps.mean():,.0f}",
            f"{seconds.mean():.1f}",
            row.wanted,
        ]
        print_row(cells)


def _train(preset: dict[str, Any], row: Row, seed: int) -> tuple[float, int, float]:
    """Train once and return the return of greedy episodes, the env steps and the seconds that training took."""
    begin = time.perf_counter()
    model = train_preset(preset, make_vec_env(row.env, seed=seed), seed, dict(row.algorithm), dict(row.policy))
    seconds = time.perf_counter() - begin
    judged_in = make_vec_env(row.env, n_envs=20, seed=10_000 + seed)
    mean, _ = evaluate_policy(model, judged_in, EPISODES, deterministic=True)
    return float(mean), model.num_timesteps, seconds  # type: ignore[arg-type]
