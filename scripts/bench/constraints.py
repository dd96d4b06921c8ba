"""Constraints on recurrent weights, on CartPole without velocities: returns, in float and on the chip, and synapses.

Every row is the preset of ``spiking_ppo`` with a recurrent layer (``LsnnPolicy``) and the constraint that it names,
trained once per seed and judged by its last weights over 100 episodes, most likely actions. Rows of ``deep_r`` and
``static`` have 10 % of the recurrent synapses, and a fifth of their neurons inhibits. Controls:

- "static" has as many synapses as "deep_r", drawn once, and nothing is rewired;
- "dense" has no constraint;
- "no recurrence" is the preset as it is, which has no recurrent weights;
- with "beta = 0" no neuron adapts, so that a memory longer than a membrane's lies in the recurrent weights.

Synapses are the recurrent ones that the program stores: those whose weight does not round to 0. Their memory is a share
of what a layer with all of them would take. Finished runs are kept in the output folder, under a digest of their
settings and code.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents.registry import hyperparams_file
from spikeloop.agents.spiking_ppo import SpikingPPO
from spikeloop.hardware import DeployedPolicy, compile_network
from spikeloop.hardware.loihi.program import Program
from spikeloop.hardware.loihi.resources import list_words, lists
from spikeloop.scripts.bench.schedules import schedule_of
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.scripts.kept_results import digest
from spikeloop.spiking.network import Network
from spikeloop.spiking.simulator import Simulator

SEEDS = tuple(range(3200, 3205))  # never used to choose a setting
ENV, ALGO, CHIP = "spikeloop/CartPoleNoVel-v0", "spiking_ppo", "loihi1"
EPISODES = 100
CALIBRATION = 200  # env steps of ten environments that the compiler sees
SPARSE = {"connectivity": 0.1, "inhibitory": 0.2}


class Row(NamedTuple):
    """A training: policy, constraint and its arguments, and what else differs from the preset's policy."""

    policy: str = "LsnnPolicy"
    constraint: str | None = None
    options: Mapping[str, Any] = {}
    others: Mapping[str, Any] = {}
    wanted: str = ""


class Result(NamedTuple):
    """Figures of one training."""

    returned: float  # in float
    on_chip: float
    synapses: int  # recurrent ones whose weight is not 0 on the chip
    memory: float  # share of the memory of dense recurrent weights
    seconds: float  # processor time of the training


_ROWS = {
    "deep_r": Row(constraint="deep_r", options=SPARSE, wanted=">= 450, memory <= 25 %"),
    "static": Row(constraint="static", options=SPARSE),
    "dense": Row(),
    "no recurrence": Row("LifPolicy"),
}
ROWS = {**_ROWS, **{f"{name}, beta = 0": row._replace(others={"beta": 0.0}) for name, row in _ROWS.items()}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark constraints``."""
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 3200 ... 3204")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW", help="default all")
    parser.add_argument("--n-timesteps", type=int, default=None, help="env steps (default the preset's)")
    parser.add_argument("--output", type=Path, default=Path("logs/constraints"), help="where finished runs are kept")


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    torch.set_num_threads(1)
    print(f"{ENV}, seeds {' '.join(map(str, args.seeds))}\n")
    columns = ["constraint", "mean ± sd", "worst", "each seed", f"on {CHIP}, mean ± sd", "kept", "recurrent synapses"]
    print_head([*columns, "their memory", "CPU s", "wanted"])
    for name in args.rows:
        print_row(_cells(name, ROWS[name], [_kept(ROWS[name], seed, args) for seed in args.seeds]))


def _cells(name: str, row: Row, results: list[Result]) -> list[str]:
    returned, on_chip, synapses, memory, seconds = (np.array(c, np.float64) for c in zip(*results, strict=True))
    shown = [name, mean_and_deviation(returned), f"{returned.min():.1f}", each(returned), mean_and_deviation(on_chip)]
    shown += [f"{on_chip.mean() / returned.mean():.1%}", f"{synapses.mean():,.0f}", f"{memory.mean():.1%}"]
    return [*shown, f"{seconds.mean():.0f}", row.wanted]


def _kept(row: Row, seed: int, args: argparse.Namespace) -> Result:
    """Return the figures of a run, from its file if it was run before."""
    settings = row._replace(wanted=""), seed, args.n_timesteps, EPISODES, CALIBRATION
    made_by = ("agents", "envs", "hardware", "spiking", "scripts/bench/constraints.py")
    path = args.output / f"{digest((settings, preset_of(row)), made_by)}.json"
    if not path.is_file():
        result = measured(row, seed, args.n_timesteps)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result), "utf-8")
    return Result(*json.loads(path.read_text("utf-8")))


def preset_of(row: Row) -> dict[str, Any]:
    """Return the hyperparameters of a row."""
    preset = copy.deepcopy(yaml.safe_load(hyperparams_file(ALGO).read_text("utf-8"))[ENV])
    chosen = {} if row.constraint is None else {"constraint": row.constraint, "constraint_kwargs": dict(row.options)}
    return {**preset, "policy": row.policy, "policy_kwargs": {**preset["policy_kwargs"], **row.others, **chosen}}


def train(row: Row, seed: int, n_timesteps: int | None = None) -> SpikingPPO:
    """Return the trained model of a row."""
    preset = preset_of(row)
    budget, n_envs = preset.pop("n_timesteps"), preset.pop("n_envs")
    preset.pop("normalize", None)  # off
    for name in ("learning_rate", "clip_range"):
        preset[name] = schedule_of(preset[name])
    env = make_vec_env(ENV, n_envs, seed)
    return SpikingPPO(env=env, seed=seed, device="cpu", **preset).learn(n_timesteps or budget)


def measured(row: Row, seed: int, n_timesteps: int | None = None) -> Result:
    """Train, and judge by the last weights."""
    begin = time.process_time()
    network = train(row, seed, n_timesteps).to_network()
    seconds = time.process_time() - begin
    seen = visited(network, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that round to nothing, which the table counts
        deployment = compile_network(network, CHIP, calibration=seen)
    synapses, memory = recurrent_synapses(deployment.program)
    on_chip = returned(DeployedPolicy(deployment), seed)
    return Result(returned(Simulator(network), seed), on_chip, synapses, memory, seconds)


def recurrent_synapses(program: Program) -> tuple[int, float]:
    """Return how many recurrent synapses a program stores, and their memory as a share of what all would take."""
    synapses = stored = dense = 0
    for projection, _, targets, sizes in lists(program):
        if projection.name == "layer 0 recurrent":
            synapses += int(sizes.sum())
            stored += list_words(projection, sizes, len(targets), 0)
            dense += list_words(projection, np.full_like(sizes, len(targets)), len(targets), 0)
    return synapses, stored / dense if dense else 0.0


def returned(policy: Any, seed: int) -> float:
    """Return the mean return of episodes."""
    env = make_vec_env(ENV, n_envs=10, seed=10_000 + seed)
    return float(evaluate_policy(policy, env, EPISODES, deterministic=True)[0])  # type: ignore[arg-type]


def visited(network: Network, seed: int) -> np.ndarray:
    """Return observations of a policy that plays, shape (L, 10, n_obs), in episodes apart from those of the table."""
    env, simulator = make_vec_env(ENV, n_envs=10, seed=20_000 + seed), Simulator(network)
    seen, obs, state, start = [], np.asarray(env.reset()), simulator.initial_state(10), np.ones(10, bool)
    for _ in range(CALIBRATION):
        seen.append(obs)
        action, state = simulator.predict(obs, state, start)
        after, _, start, _ = env.step(action)
        obs = np.asarray(after)
    return np.stack(seen)
