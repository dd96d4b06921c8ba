"""E-prop in control tasks, over held-out seeds: does a hidden LSNN layer learn by local rules, and what does it take?

Every row trains from the task's preset for the same fixed budget and is judged by its last weights: the mean return of
greedy episodes on other starts. The controls have rates of their own, the best of those tried on seeds 0 to 5, beside
which a control at the learner's rates would look worse than it is:

- frozen: only the readout learns, and the critic;
- beta = 0: no neuron adapts, so that nothing in the hidden layer outlasts a few ticks by itself.

With ``--chip`` each trained network is also compiled for a chip as it is, with 8-bit weights, and plays the same
episodes there. What it keeps is (chip - random) / (float - random) of its mean returns.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import yaml
from gymnasium import Space
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents.registry import hyperparams_file
from spikeloop.hardware import DeployedPolicy, compile_network
from spikeloop.hardware.target import TARGETS
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.scripts.bench.tmaze import train_preset
from spikeloop.scripts.compared import kept

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


class Result(NamedTuple):
    """What one training came to."""

    mean: float  # return of greedy episodes
    n_steps: int  # env steps
    seconds: float
    on_chip: float | None = None  # mean return of the compiled network
    kept: float | None = None  # None if float is not better than chance


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
    text = "also compile each network for this chip and play the same episodes there"
    parser.add_argument("--chip", choices=sorted(TARGETS), default=None, help=text)
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="networks to train (default all)")


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    presets = yaml.safe_load(hyperparams_file("eprop").read_text(encoding="utf-8"))
    bars = ", ".join(f"{bar:g} in {env}" for env, bar in SOLVED.items())
    print(f"The presets' budgets, then {EPISODES} greedy episodes with the last weights. Solved from {bars} on.\n")
    columns = ["task", "network", "return, mean ± sd", "worst", "solved", "each seed", "env steps", "s"]
    columns += [f"on {args.chip}, mean ± sd", "kept", "each seed on the chip"] if args.chip else []
    print_head([*columns, "wanted"])
    for row in ROWS:
        if (args.env or row.env) != row.env or row.name not in args.rows:
            continue
        preset = copy.deepcopy(presets[row.env])
        preset["n_timesteps"] = min(args.n_timesteps or np.inf, preset["n_timesteps"])
        results = [_train(preset, row, seed, args.chip) for seed in args.seeds[: row.n_seeds]]
        returns, steps, seconds = (np.array(column) for column in list(zip(*results, strict=True))[:3])
        cells = [
            row.env,
            row.name,
            mean_and_deviation(returns, 0),
            f"{returns.min():.0f}",
            f"{np.sum(returns >= SOLVED[row.env])} of {len(returns)}",
            each(returns, 0),
            f"{steps.mean():,.0f}",
            f"{seconds.mean():.1f}",
            *(_chip_cells(results) if args.chip else ()),
            row.wanted,
        ]
        print_row(cells)


def _chip_cells(results: list[Result]) -> list[str]:
    on_chip = np.array([result.on_chip for result in results], np.float64)
    defined = [result.kept for result in results if result.kept is not None]
    shares = f"{np.mean(defined):.1%}, worst {min(defined):.1%}" if defined else "undefined"
    if len(defined) < len(results):
        shares += f", {len(defined)} of {len(results)} seeds"
    return [mean_and_deviation(on_chip, 0), shares, each(on_chip, 0)]


def _train(preset: dict[str, Any], row: Row, seed: int, chip: str | None = None) -> Result:
    """Train once, and judge the network in float and, if a chip is named, on it."""
    begin = time.perf_counter()
    model = train_preset(preset, make_vec_env(row.env, seed=seed), seed, dict(row.algorithm), dict(row.policy))
    seconds = time.perf_counter() - begin
    played = {"float": _returns(model, row.env, seed)}
    result = Result(float(np.mean(played["float"])), model.num_timesteps, seconds)
    if chip is None:
        return result
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the host has the readout, as its latency is 0
        deployment = compile_network(model.to_network(), chip)
    played["chip"] = _returns(DeployedPolicy(deployment), row.env, seed)
    played["random"] = _returns(_Chance(model.action_space, seed), row.env, seed)
    return result._replace(on_chip=float(np.mean(played["chip"])), kept=kept(played)["kept"])


class _Chance:
    """A player that draws its actions from the space."""

    def __init__(self, space: Space, seed: int) -> None:
        space.seed(seed)
        self.space = space

    def predict(self, observation: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
        return np.stack([self.space.sample() for _ in observation]), None


def _returns(player: Any, env: str, seed: int) -> list[float]:
    """Return the returns of greedy episodes, from starts that depend on the seed alone."""
    judged_in = make_vec_env(env, n_envs=20, seed=10_000 + seed)
    returns, _ = evaluate_policy(player, judged_in, EPISODES, deterministic=True, return_episode_rewards=True)
    return list(returns)  # type: ignore[arg-type]
