"""Readouts trained by PPO on held-out seeds: the largest membrane (tempotron), the first spike, and others to compare.

CartPole-v1: the row "first spike" has the preset ``first_to_spike``, the others the preset ``tempotron`` with the
readout that they name. All have 64 hidden LIF neurons and 8 ticks per env step, and begin every step at rest. Returns
are means of 100 episodes after the last step, with the most likely actions and, for outputs that spike at random, with
drawn actions. Ticks are the mean number until an output spikes, in one more rollout after training.

Latency patterns: 30 patterns, each with one spike on each of 10 lines, half in each of two classes; each seed has other
patterns. There are no hidden neurons. The figures are the share of the 30 patterns that is classified right, by the
network and by its program on the chip with 8-bit weights. In "max" the logits are the largest membranes of the trial
(time constants 15 and 3.75 ms), in "mean" the mean membranes. The controls are:

- lines shuffled: in every training trial the times of the pattern are dealt to the lines at random;
- times shuffled: every training trial has new times, so that nothing can be learnt;
- both are judged on the patterns without shuffling.

Finished runs are kept in the output folder, under a digest of their settings and code.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents.registry import hyperparams_file
from spikeloop.agents.spiking_ppo import SpikingPPO
from spikeloop.hardware import DeployedPolicy, compile_network
from spikeloop.scripts.bench.schedules import schedule_of
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.scripts.kept_results import digest
from spikeloop.spiking.simulator import Simulator

SEEDS = tuple(range(3100, 3110))  # never used to choose a setting
EPISODES, CHIP = 100, "loihi1"
CARTPOLE, PATTERNS = "CartPole-v1", "spikeloop/LatencyPatterns-v0"


class Row(NamedTuple):
    """A training: a preset, with changes to its policy arguments and to its environment's arguments."""

    env: str
    algo: str = "tempotron"
    policy: Mapping[str, Any] = {}
    task: Mapping[str, Any] = {}
    n_seeds: int = len(SEEDS)
    wanted: str = ""


class Result(NamedTuple):
    """Figures of one training; NaN where there is no such figure."""

    likely: float  # return of the most likely actions, or share of patterns that are classified right
    drawn: float  # return of drawn actions
    ticks: float  # ticks until an output spikes, with drawn actions
    spikes: float  # hidden spikes per decision, if all ticks are run
    on_chip: float  # share of patterns that the chip classifies right
    seconds: float  # processor time of the training


ROWS = {
    "first spike": Row(CARTPOLE, "first_to_spike", wanted="mean >= 495, ticks < 8"),
    "max": Row(CARTPOLE),
    "mean": Row(CARTPOLE, policy={"readout": "mean"}, n_seeds=3),
    "leaky": Row(CARTPOLE, policy={"readout": "leaky"}, n_seeds=3),
    "count": Row(CARTPOLE, policy={"readout": "count"}, n_seeds=3),
    "patterns, max": Row(PATTERNS, wanted="mean >= 0.93, above mean in 9 of 10"),
    "patterns, mean": Row(PATTERNS, policy={"readout": "mean"}),
    "patterns, max, lines shuffled": Row(PATTERNS, task={"shuffled": "lines"}, wanted="0.4 to 0.6"),
    "patterns, max, times shuffled": Row(PATTERNS, task={"shuffled": "times"}, wanted="0.4 to 0.6"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark readouts``."""
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 3100 ... 3109")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW", help="default all")
    parser.add_argument("--n-timesteps", type=int, default=None, help="env steps (default the preset's)")
    parser.add_argument("--output", type=Path, default=Path("logs/readouts"), help="where finished runs are kept")


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    torch.set_num_threads(1)
    print(f"Seeds {args.seeds[0]} to {args.seeds[-1]}; the first ones where a row has fewer\n")
    print_head(
        [
            "readout",
            "mean ± sd",
            "worst",
            "each seed",
            "drawn",
            "ticks",
            "hidden spikes",
            f"on {CHIP}",
            "CPU s",
            "wanted",
        ]
    )
    for name in args.rows:
        row = ROWS[name]
        print_row(_cells(name, row, [_kept(row, seed, args) for seed in args.seeds[: row.n_seeds]]))


def _cells(name: str, row: Row, results: list[Result]) -> list[str]:
    likely, *others = (np.array(column, np.float64) for column in zip(*results, strict=True))
    digits = 1 if row.env == CARTPOLE else 3
    drawn, ticks, spikes, on_chip, seconds = (values.mean() for values in others)
    shown = [f"{drawn:.1f}", f"{ticks:.2f}", f"{spikes:.1f}", f"{on_chip:.3f}"]
    cells = [name, mean_and_deviation(likely, digits), f"{likely.min():.{digits}f}", each(likely, digits)]
    return [*cells, *("" if text == "nan" else text for text in shown), f"{seconds:.0f}", row.wanted]


def _kept(row: Row, seed: int, args: argparse.Namespace) -> Result:
    """Return the figures of a run, from its file if it was run before."""
    settings = row._replace(n_seeds=0, wanted=""), seed, args.n_timesteps, EPISODES
    made_by = ("agents", "envs", "hardware", "spiking", "scripts/bench/readouts.py")
    path = args.output / f"{digest((settings, preset_of(row)), made_by)}.json"
    if not path.is_file():
        result = measured(row, seed, args.n_timesteps)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result), "utf-8")
    return Result(*json.loads(path.read_text("utf-8")))


def preset_of(row: Row) -> dict[str, Any]:
    """Return the hyperparameters of a row."""
    preset = yaml.safe_load(hyperparams_file(row.algo).read_text("utf-8"))[row.env]
    return {**copy.deepcopy(preset), "policy_kwargs": {**preset["policy_kwargs"], **row.policy}}


def train(row: Row, seed: int, n_timesteps: int | None = None) -> SpikingPPO:
    """Return the trained model of a row."""
    preset, task = preset_of(row), dict(row.task)
    if row.env == PATTERNS:
        task["pattern_seed"] = seed
    budget, n_envs = preset.pop("n_timesteps"), preset.pop("n_envs")
    preset.pop("normalize", None)  # off in both tasks
    for name in ("learning_rate", "clip_range"):
        preset[name] = schedule_of(preset[name])
    env = make_vec_env(row.env, n_envs, seed, env_kwargs=task)
    return SpikingPPO(env=env, seed=seed, device="cpu", **preset).learn(n_timesteps or budget)


def measured(row: Row, seed: int, n_timesteps: int | None = None) -> Result:
    """Train, and judge by the last weights."""
    begin = time.process_time()
    model = train(row, seed, n_timesteps)
    seconds = time.process_time() - begin
    return (judged_patterns if row.env == PATTERNS else judged_episodes)(model, seed, seconds)


def judged_patterns(model: SpikingPPO, seed: int, seconds: float) -> Result:
    """Return the share of unshuffled patterns that the network and its compiled program classify right."""
    task: Any = gym.make(PATTERNS, pattern_seed=seed).unwrapped
    network = model.to_network()
    deployed = DeployedPolicy(compile_network(network, CHIP, calibration=task.patterns))
    start = np.ones(len(task.patterns), bool)
    shares = [np.mean(p.predict(task.patterns, None, start)[0] == task.classes) for p in (Simulator(network), deployed)]
    return Result(float(shares[0]), np.nan, np.nan, np.nan, float(shares[1]), seconds)


def judged_episodes(model: SpikingPPO, seed: int, seconds: float) -> Result:
    """Return mean returns of episodes, and the network's ticks and spikes in them."""
    simulator, policy = Simulator(model.to_network(), np.random.default_rng(seed)), model.policy
    draws, returns = simulator.network.readout.draws, []
    for deterministic in (True, False)[: 1 + draws]:
        env = make_vec_env(CARTPOLE, n_envs=10, seed=10_000 + seed)
        returns.append(float(evaluate_policy(simulator, env, EPISODES, deterministic=deterministic)[0]))  # type: ignore[arg-type]
    spikes = sum(int(count.sum()) for count in simulator.spike_counts) * simulator.network.n_ticks / simulator.n_counted
    ticks = np.nan
    if draws:  # ticks are counted in one more rollout, with a learning rate of 0
        policy.reset_rollout_counts()
        model.learning_rate = 0.0
        model._setup_lr_schedule()
        model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False)
        ticks = policy.rollout_figures()["ticks_per_step"]
    return Result(returns[0], returns[1] if draws else np.nan, ticks, spikes, np.nan, seconds)
