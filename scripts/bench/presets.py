"""Trainings from presets, without RL Zoo, in benchmarks whose rows change one thing of a policy each."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from spikeloop.agents.registry import hyperparams_file
from spikeloop.agents.spiking_ppo import SpikingPPO
from spikeloop.hardware import DeployedPolicy, Deployment, compile_network
from spikeloop.scripts.bench.schedules import schedule_of
from spikeloop.scripts.bench.tables import each, mean_and_deviation
from spikeloop.scripts.deploy import CALIBRATION_STEPS
from spikeloop.scripts.hyperparameters import chip_ready
from spikeloop.scripts.players import Act, observations, play, random_player
from spikeloop.spiking.network import Network
from spikeloop.spiking.simulator import Simulator

EPISODES, CHIP = 100, "loihi1"


class Judged(NamedTuple):
    """A training by its last weights."""

    simulator: Simulator  # of the exported network, after its episodes
    mean: float  # return of greedy episodes
    seconds: float  # of processor time


class OnChip(NamedTuple):
    """A deployed network, and how it does."""

    deployment: Deployment
    seen: np.ndarray  # observations of the network's own episodes, with which it was compiled, (n_steps, 1, n_obs)
    returns: dict[str, list[float]]  # of "float", "chip" and "random", on the same episodes


def add_row_arguments(parser: argparse.ArgumentParser, seeds: Sequence[int], rows: Collection[str]) -> None:
    """Add the flags of a benchmark of rows, each trained with all seeds."""
    shown = f"default {seeds[0]} ... {seeds[-1]}"
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds), help=shown)
    parser.add_argument("--rows", nargs="+", default=list(rows), choices=rows, metavar="ROW", help="default all")
    parser.add_argument("--n-timesteps", type=int, default=None, help="env steps (default the preset's)")


def untrained(
    algo: str,
    env_id: str,
    policy: Mapping[str, Any],
    seed: int,
    n_timesteps: int | None,
    *,
    for_chip: bool = False,
) -> tuple[SpikingPPO, int]:
    """Return the model of a preset before its training, and the env steps of that.

    Args:
        algo: Whose presets.
        env_id: The preset's environment.
        policy: What is changed of its ``policy_kwargs``.
        seed: Seed of the training.
        n_timesteps: Env steps; None for the preset's.
        for_chip: Whether the preset is changed first as ``train --chip-ready`` changes it.
    """
    preset = yaml.safe_load(hyperparams_file(algo).read_text(encoding="utf-8"))[env_id]
    if for_chip:
        preset = chip_ready(preset)
    env, normalize = make_vec_env(env_id, preset.pop("n_envs"), seed), preset.pop("normalize", None)
    if normalize:
        env = VecNormalize(env, gamma=preset["gamma"], **normalize)
    budget = n_timesteps or preset["n_timesteps"]
    del preset["n_timesteps"]
    for name in ("learning_rate", "clip_range"):
        preset[name] = schedule_of(preset[name])
    policy_kwargs = {**preset.pop("policy_kwargs"), **policy}
    return SpikingPPO(env=env, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **preset), budget


def trained(algo: str, env_id: str, policy: Mapping[str, Any], seed: int, n_timesteps: int | None) -> SpikingPPO:
    """Return the trained model of a preset; the arguments are those of :func:`untrained`."""
    model, budget = untrained(algo, env_id, policy, seed, n_timesteps)
    return model.learn(budget)


def judged(
    algo: str, env_id: str, policy: Mapping[str, Any], seed: int, n_timesteps: int | None, n_envs: int
) -> Judged:
    """Train as :func:`trained` does, and play greedy episodes in so many environments with the exported network."""
    begin = time.process_time()
    model = trained(algo, env_id, policy, seed, n_timesteps)
    seconds = time.process_time() - begin
    simulator = Simulator(model.to_network())
    env = make_vec_env(env_id, n_envs=n_envs, seed=10_000 + seed)
    mean = float(evaluate_policy(simulator, env, EPISODES, deterministic=True)[0])  # type: ignore[arg-type]
    return Judged(simulator, mean, seconds)


def on_chip(network: Network, env_id: str, seed: int) -> OnChip:
    """Deploy a network with the compiler's own settings, and play greedy episodes in float, there and at random."""
    env = make_vec_env(env_id)
    seen = observations(network, env, CALIBRATION_STEPS, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is lowered or rounds to 0: the returns show what that costs
        deployment = compile_network(network, CHIP, calibration=seen)
    players: dict[str, Act] = {"float": Simulator(network).predict, "chip": DeployedPolicy(deployment).predict}
    players["random"] = random_player(env, seed)
    returns = {name: play(env, act, EPISODES, 10_000 + seed) for name, act in players.items()}
    return OnChip(deployment, seen, returns)


def return_cells(returns: np.ndarray) -> list[str]:
    """Return the cells of a row's returns: mean and deviation, worst, and each.

    >>> return_cells(np.array([1.0, 2.0, 3.0]))
    ['2.0 ± 1.0', '1.0', '1.0, 2.0, 3.0']
    """
    return [mean_and_deviation(returns), f"{returns.min():.1f}", each(returns)]
