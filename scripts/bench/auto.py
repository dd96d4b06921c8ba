"""R-STDP without hand-made tiles: one setting of encoder 'auto' on several tasks, on seeds that chose nothing.

Every run trains in a budget of episodes and then plays episodes of its own with the weights at the end, without noise;
no checkpoint and no seed is left out. Tasks have their budgets and their action neurons, and the discount and the
initial value that the preset gives them; everything else is the same for all of them: for cells :data:`CELLS` and
:data:`RATES`, as 18 of them spike at any time, and one for each pair of numbers, and of tiles only 8. Beside `auto`:

  no pairs      only cells that see all numbers
  random cells  as many cells of each size and pair as `auto` recruited on this seed, at observations of random play
                drawn at random: no rule for where they stand
  hand-made     the preset's tiles, those of Acrobot over its two angles, those of Pendulum over its angle and speed
  calibrated    the tiles that `spikeloop calibrate` proposes from 10,000 steps, not looked at by anyone

LunarLander has an eligibility and rates of its own. It needs the extra box2d, and is played only if asked for.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor

from spikeloop.agents.registry import hyperparams_file
from spikeloop.agents.rstdp import RSTDP
from spikeloop.scripts.bench.spaces import play
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.scripts.calibrate import ends_for, play_at_random, tiles_for
from spikeloop.spiking.encoders.recruited_cells import RecruitingCells

SEEDS = tuple(range(210, 220))  # 0 to 9 chose the setting
CELLS = {"n_active": 6, "n_active_pairs": 1}
RATES = {"learning_rate": 0.03, "value_learning_rate": 0.01875}  # a third and a half of what tiles have
PRESETS = yaml.safe_load(hyperparams_file("rstdp").read_text("utf-8"))
RANDOM_STEPS = 20_000  # of the play that random cells are drawn from


@dataclass(frozen=True, eq=False)
class Task:
    """A task, the return that is wanted, and what is set for it alone."""

    env: str
    wanted: float
    settings: Mapping[str, Any]
    tiles: Mapping[str, Any] | None = None  # hand-made
    action: Mapping[str, Any] = field(default_factory=dict)  # action neurons
    cells: Mapping[str, Any] = field(default_factory=dict)  # what cells do not have of the one setting

    def make(self) -> gym.Env:
        """Return a new environment."""
        return gym.make(self.env)


def _preset(env: str, wanted: float, **settings: Any) -> Task:
    preset, policy = PRESETS[env], dict(PRESETS[env]["policy_kwargs"])
    own = {name: preset[name] for name in ("n_episodes", "gamma", "initial_value") if name in preset}
    return Task(env, wanted, {**own, **settings}, policy.pop("encoder_kwargs"), policy)


TASKS = {
    "cartpole": _preset("CartPole-v1", 490),
    "mountaincar": _preset("MountainCar-v0", -108),
    "acrobot": _preset("Acrobot-v1", -92),
    "pendulum": _preset("Pendulum-v1", -180, n_episodes=300),
    "lunarlander": Task(
        "LunarLander-v3",
        100,
        {"n_episodes": PRESETS["LunarLander-v3"]["n_episodes"]},
        cells={name: PRESETS["LunarLander-v3"][name] for name in ("trace_lambda", *RATES)},
    ),
}


@dataclass(frozen=True)
class Result:
    """What one run gave: its return at the end, the cells or lines that were used, env steps and CPU seconds."""

    mean_return: float
    n_lines: int
    n_steps: int
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark auto``."""
    add = parser.add_argument
    usual = [name for name in TASKS if name != "lunarlander"]
    add("--tasks", nargs="+", choices=list(TASKS), default=usual, metavar="TASK", help=f"default {usual}")
    add("--codes", nargs="+", choices=list(CODES), default=list(CODES), help=f"default {list(CODES)}")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 210 ... 219")
    add("--episodes", type=int, default=100, help="episodes played at the end (default 100)")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change hyperparameters of every code")
    add("--auto", nargs="+", default=[], metavar="NAME=VALUE", help="change encoder_kwargs of `auto`")


def run(args: argparse.Namespace) -> None:
    """Train, play, and print a row for each task and code as soon as it is known."""
    changes, auto = (
        {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in texts)}
        for texts in (args.set, args.auto)
    )
    columns = ["environment", "code", "episodes", "mean ± sd", "worst", "wanted", "reached by", "each seed"]
    print_head([*columns, "lines in use", "CPU us per env step"])
    for task in (TASKS[name] for name in args.tasks):
        for code in args.codes:
            if code == "hand-made" and task.tiles is None:
                continue
            runs = [CODES[code](task, seed, changes, auto, args.episodes) for seed in args.seeds]
            print_row(_row(task, code, {**task.settings, **changes}["n_episodes"], runs))


def model_of(task: Task, seed: int, changes: Mapping[str, Any], encoder: str, encoder_kwargs: Any) -> RSTDP:
    """Return a model that has learnt nothing."""
    settings = {**PRESETS["default"], **task.settings, **changes}
    settings.pop("n_timesteps")
    policy = {"encoder": encoder, "encoder_kwargs": encoder_kwargs, **task.action}
    return RSTDP(env=Monitor(task.make()), seed=seed, **settings, policy_kwargs=policy)


def _cells_of(task: Task, seed: int, changes: Mapping[str, Any], auto: Mapping[str, Any]) -> RSTDP:
    return model_of(task, seed, {**RATES, **task.cells, **changes}, "auto", {**CELLS, **auto})


def _auto(task: Task, seed: int, changes: Mapping[str, Any], auto: Mapping[str, Any], episodes: int) -> Result:
    return _result(_cells_of(task, seed, changes, auto), task, seed, episodes)


def _no_pairs(task: Task, seed: int, changes: Mapping[str, Any], auto: Mapping[str, Any], episodes: int) -> Result:
    return _auto(task, seed, changes, {**auto, "n_active_pairs": 0}, episodes)


def _random_cells(task: Task, seed: int, changes: Mapping[str, Any], auto: Mapping[str, Any], episodes: int) -> Result:
    recruited = _cells_of(task, seed, changes, auto)
    recruited.learn(10**9, log_interval=None)
    model = _cells_of(task, seed, changes, auto)
    assert isinstance(model.policy.coder, RecruitingCells) and isinstance(recruited.policy.coder, RecruitingCells)
    place_at_random(model.policy.coder, recruited.policy.coder.cells.counts, task.make, seed)
    return _result(model, task, seed, episodes)


def place_at_random(coder: RecruitingCells, counts: np.ndarray, make: Callable[[], gym.Env], seed: int) -> None:
    """Put so many cells of each map at random observations of random play; none are recruited afterwards."""
    cells = coder.cells
    seen = play_at_random(make_vec_env(make), RANDOM_STEPS, seed)[0]
    mean, sd = seen.mean(axis=0), seen.std(axis=0)
    sd[sd == 0] = 1.0
    places = np.arcsinh((seen - mean) / sd)
    rng, centers = np.random.default_rng(seed), np.zeros_like(cells.centers)
    for first, count, numbers, n in zip(cells.first, counts, cells.numbers, cells.n_numbers, strict=True):
        centers[first : first + count, :n] = places[rng.choice(len(places), count, replace=False)][:, numbers[:n]]
    learnt = coder.state_dict() | {"centers": centers, "counts": counts, "mean": mean, "sd": sd}
    nowhere = np.full_like(cells.squared_radii, 1e9)  # no observation is so far away
    coder.load_state_dict({**learnt, "squared_radii": nowhere, "n_seen": np.array([len(cells.seen)])})


def _hand_made(task: Task, seed: int, changes: Mapping[str, Any], auto: Mapping[str, Any], episodes: int) -> Result:
    return _result(model_of(task, seed, changes, "tiles", task.tiles), task, seed, episodes)


def _calibrated(task: Task, seed: int, changes: Mapping[str, Any], auto: Mapping[str, Any], episodes: int) -> Result:
    venv: Any = make_vec_env(task.make, 4)
    ends = ends_for(play_at_random(venv, 10_000, seed)[0], venv.observation_space)
    tiles = tiles_for(ends)
    assert tiles is not None  # these tasks have few dimensions
    kwargs = {"n_tiles": list(tiles.n_tiles), "low": ends.low, "high": ends.high}
    return _result(model_of(task, seed, changes, "tiles", kwargs), task, seed, episodes)


CODES: dict[str, Callable[..., Result]] = {
    "auto": _auto,
    "no pairs": _no_pairs,
    "random cells": _random_cells,
    "hand-made": _hand_made,
    "calibrated": _calibrated,
}


def _result(model: RSTDP, task: Task, seed: int, episodes: int) -> Result:
    start = time.process_time()
    model.learn(10**9, log_interval=None)
    seconds = time.process_time() - start
    mean = play(model, task.make(), seed, episodes)
    n_lines = int(np.any(model.policy.network.state_dict()["w"], axis=0).sum())
    return Result(mean, n_lines, model.num_timesteps, seconds)


def _row(task: Task, code: str, n_episodes: int, runs: list[Result]) -> list[str]:
    means = np.array([r.mean_return for r in runs])
    lines = np.array([r.n_lines for r in runs])
    return [
        task.env,
        code,
        f"{n_episodes}",
        mean_and_deviation(means),
        f"{means.min():.1f}",
        f"{task.wanted:g}",
        f"{np.sum(means >= task.wanted)} of {len(means)}",
        each(means),
        f"{np.median(lines):,.0f}",
        f"{np.median([r.seconds / r.n_steps for r in runs]) * 1e6:.0f}",
    ]
