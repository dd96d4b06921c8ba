"""R-STDP in continuous and in tabular tasks on held-out seeds, in float and on the emulated chip, with its controls.

Every run trains for the env steps of its preset and then plays 100 deterministic episodes with its weights frozen; no
checkpoint and no seed is left out. Beside it the same network without learning, random actions, and a tabular
actor-critic with softmax actions on the same lines. ``keeps`` is what the chip keeps of float's return beyond random.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from spikeloop.agents.compiled_episodes import ClosedLoop
from spikeloop.agents.registry import hyperparams_file
from spikeloop.agents.rstdp import RSTDP
from spikeloop.hardware.loihi.winner_take_all import ChipWinnerTakeAll
from spikeloop.scripts.bench.local import NO_LEARNING, TabularActorCritic
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row

SEEDS = tuple(range(100, 120))  # never used to choose a setting
EPISODES = 100


@dataclass(frozen=True)
class Task:
    """A task, the mean return that passes, and what is wanted of all seeds."""

    env: str
    bar: float
    wanted: str


TASKS = {
    "pendulum": Task("Pendulum-v1", -225, "mean >= -175, worst >= -225"),
    "mountaincar": Task("MountainCarContinuous-v0", 90, "mean >= 92, worst >= 90"),
    "frozenlake": Task("FrozenLake-v1", 1.0, "1.0 in 20 of 20"),
    "cliff": Task("CliffWalking-v1", -20, ">= -20 in 20 of 20"),
    # the optimum of Taxi is 7.9 on average; a single passenger who is not delivered in time costs 2
    "taxi": Task("Taxi-v4", 7.5, ">= 7.5 in 19 of 20"),
}
LEARNERS: dict[str, dict[str, Any]] = {
    "rstdp": {},
    "chip": {"backend": ChipWinnerTakeAll},
    "chip, plain 8 bits": {"backend": ChipWinnerTakeAll},  # what Loihi 1 could hold
    "no learning": NO_LEARNING,
    "tabular": {"backend": TabularActorCritic, "learning_rate": 0.3},
    "random": {},
}
# of the network with plain 8 bits, whose steps are the finer, the smaller its largest weight is; chosen on seeds 0 to 3
_PLAIN = {"Pendulum-v1": {"w_max": 0.5}, "MountainCarContinuous-v0": {"w_max": 0.5}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark spaces``."""
    add = parser.add_argument
    add("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="TASK", help=f"{list(TASKS)}")
    fast = [learner for learner in LEARNERS if learner != "tabular"]
    add("--learners", nargs="+", choices=list(LEARNERS), default=fast, help=f"{list(LEARNERS)}; default {fast}")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 100 ... 119")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change hyperparameters of every learner")


def run(args: argparse.Namespace) -> None:
    """Train, play, and print the table."""
    changes = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in args.set)}
    columns = ["environment", "learner", "env steps", "mean ± sd", "worst", "rate", "each seed", "us per env step"]
    print_head([*columns, "keeps", "wanted"])
    for task in (TASKS[name] for name in args.tasks):
        means: dict[str, float] = {}
        for learner in sorted(args.learners, key=lambda name: name != "random"):
            runs = [run_one(task, learner, seed, changes) for seed in args.seeds]
            returns, seconds = (np.array(column) for column in zip(*runs, strict=True))
            means[learner] = returns.mean()
            print_row(_cells(task, learner, returns, seconds, means))


def run_one(task: Task, learner: str, seed: int, changes: Mapping[str, Any]) -> tuple[float, float]:
    """Train with the preset and play at the end; return the mean return and the CPU time of an env step in us."""
    preset = _preset("rstdp_chip" if learner.startswith("chip") else "rstdp", task.env)
    if learner == "chip, plain 8 bits":
        preset["backend_kwargs"] = {**preset["backend_kwargs"], "residue": False, **_PLAIN.get(task.env, {})}
    hyperparams = {**preset, **LEARNERS[learner], **changes}
    budget, env_kwargs = hyperparams.pop("n_timesteps"), hyperparams.pop("env_kwargs", {})
    if learner == "random":
        return play_at_random(gym.make(task.env, **env_kwargs), seed), 0.0
    if learner == "tabular":  # which is one circuit
        hyperparams["policy_kwargs"] = {**hyperparams.get("policy_kwargs", {}), "n_rows": 1}
    model = RSTDP(env=Monitor(gym.make(task.env, **env_kwargs)), seed=seed, **hyperparams)
    start = time.process_time()
    model.learn(budget, log_interval=None)
    seconds = time.process_time() - start
    return play(model, gym.make(task.env, **env_kwargs), seed), 1e6 * seconds / model.num_timesteps


def play(model: RSTDP, env: gym.Env, seed: int, n_episodes: int = EPISODES) -> float:
    """Return the mean return of deterministic episodes with frozen weights."""
    monitor, policy = Monitor(env), model.policy
    loop = ClosedLoop.of(DummyVecEnv([lambda: monitor]), policy.network, policy.coder, policy.head)
    policy.network.learning = policy.network.exploring = False
    for episode in range(n_episodes):
        obs, _ = monitor.reset(seed=10_000 * (1 + seed) + episode)
        winners, value = policy.step(obs)
        done = False
        while not done:
            if loop is not None:  # up to the last step
                seen, nothing = np.asarray(obs), (policy.modulator, 0.0, 0.0, 10**6)
                _, obs, winners, value = loop.advance(seen, winners, value, model.n_ticks, *nothing)
            obs, _, terminated, truncated, _ = monitor.step(policy.action(winners[None])[0])
            done = terminated or truncated
            winners, value = policy.step(obs)
    return float(np.mean(monitor.get_episode_rewards()))


def play_at_random(env: gym.Env, seed: int) -> float:
    """Return the mean return of episodes of random actions."""
    monitor = Monitor(env)
    monitor.action_space.seed(seed)
    for episode in range(EPISODES):
        monitor.reset(seed=10_000 * (1 + seed) + episode)
        done = False
        while not done:
            _, _, terminated, truncated, _ = monitor.step(monitor.action_space.sample())
            done = terminated or truncated
    return float(np.mean(monitor.get_episode_rewards()))


def _preset(name: str, env_id: str) -> dict[str, Any]:
    return dict(yaml.safe_load(hyperparams_file(name).read_text("utf-8"))[env_id])


def _cells(task: Task, learner: str, returns: np.ndarray, seconds: np.ndarray, means: Mapping[str, float]) -> list[str]:
    keeps = ""
    if learner.startswith("chip") and {"random", "rstdp"} <= means.keys() and means["rstdp"] != means["random"]:
        keeps = f"{(means[learner] - means['random']) / (means['rstdp'] - means['random']):.1%}"
    digits = 2 if task.env == "FrozenLake-v1" else 1
    return [
        task.env,
        learner,
        f"{_preset('rstdp', task.env)['n_timesteps']:,}",
        mean_and_deviation(returns, digits),
        f"{returns.min():.{digits}f}",
        f"{np.sum(returns >= task.bar)} of {len(returns)}",
        each(returns, digits),
        f"{np.median(seconds):.1f}" if seconds.any() else "",
        keeps,
        task.wanted if learner == "rstdp" or learner.startswith("chip") else "",
    ]
