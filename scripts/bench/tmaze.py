"""Reward-based e-prop on the noisy-cue T-maze, over held-out seeds, with the controls that say what it learns with.

Every row trains its preset for the same fixed budget and is judged by its last weights: the share of frozen greedy
episodes that end with the right turn. Without adaptation (beta 0) the network has no memory as long as the delay; with
a frozen hidden layer only the readout learns.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import numpy as np
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents.eprop import EProp
from spikeloop.agents.registry import hyperparams_file
from spikeloop.scripts.bench.schedules import schedule_of
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row

ENV = "spikeloop/TMaze-v0"
SEEDS = tuple(range(100, 110))  # never used to choose a setting
EPISODES = 100
DELAYS = (20, 50, 100)
BAR = 0.95
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {  # name: algorithm, policy, wanted
    "e-prop": ({}, {}, f">= {BAR} in at least 9 of 10"),
    "e-prop, random feedback": ({}, {"feedback": "random"}, ""),
    "control: beta = 0": ({}, {"beta": 0.0}, "<= 0.60"),
    "control: frozen hidden layer": ({"train_hidden": False}, {}, "<= 0.85"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark tmaze``."""
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 100 ... 109")
    text = "env steps between cue and junction (default 20 50 100), all with the one preset"
    parser.add_argument("--delay", nargs="+", type=int, default=list(DELAYS), help=text)
    text = "train no more than so many env steps (default the preset's)"
    parser.add_argument("-n", "--n-timesteps", type=int, default=None, help=text)
    parser.add_argument("--rows", nargs="+", default=[*ROWS], choices=ROWS, help="networks to train (default all)")


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    preset = yaml.safe_load(hyperparams_file("eprop").read_text(encoding="utf-8"))[ENV]
    preset["n_timesteps"] = args.n_timesteps or preset["n_timesteps"]
    print(f"{ENV}, {preset['max_episodes']:,} episodes, then {EPISODES} greedy ones, seeds {args.seeds}\n")
    columns = [
        "delay",
        "network",
        "correct, mean ± sd",
        "worst",
        f"rate of {BAR}",
        "each seed",
        "spikes per neuron and tick",
    ]
    print_head([*columns, "s", "wanted"])
    for delay, (name, (algorithm, policy, wanted)) in itertools.product(args.delay, ROWS.items()):
        if name not in args.rows:
            continue
        begin = time.perf_counter()
        results = np.array([_train(preset, delay, seed, algorithm, policy) for seed in args.seeds])
        seconds = (time.perf_counter() - begin) / len(args.seeds)
        correct, rates = results.T
        cells = [
            str(delay),
            name,
            mean_and_deviation(correct, 2),
            f"{correct.min():.2f}",
            f"{np.mean(correct >= BAR):.0%}",
            each(correct, 2),
            f"{rates.mean():.3f}",
            f"{seconds:.1f}",
            wanted,
        ]
        print_row(cells)


def _train(
    preset: dict[str, Any], delay: int, seed: int, algorithm: dict[str, Any], policy: dict[str, Any]
) -> tuple[float, float]:
    """Train once and return the share of episodes solved and the mean firing rate."""
    model = train_preset(preset, make_vec_env(ENV, seed=seed, env_kwargs={"delay": delay}), seed, algorithm, policy)
    judged_in = make_vec_env(ENV, n_envs=10, seed=10_000 + seed, env_kwargs={"delay": delay})
    correct, _ = evaluate_policy(model, judged_in, EPISODES, deterministic=True)
    return float(correct), float(model.policy.rate.mean())  # type: ignore[arg-type]


def train_preset(
    preset: dict[str, Any], env: VecEnv, seed: int, algorithm: dict[str, Any], policy: dict[str, Any]
) -> EProp:
    """Train e-prop by a preset, of whose arguments those of the algorithm and of the policy replace some."""
    options = {k: v for k, v in {**preset, **algorithm}.items() if k not in ("policy", "n_envs", "n_timesteps")}
    schedule = schedule_of(options.pop("learning_rate"))
    policy = {**options.pop("policy_kwargs", {}), **policy}
    model = EProp(preset["policy"], env, schedule, seed=seed, policy_kwargs=policy, **options)
    return model.learn(preset["n_timesteps"])
