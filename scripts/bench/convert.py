"""What policies keep when `spikeloop convert` turns them into spiking networks, in float and on the emulated loihi1.

Every model is one training of Stable-Baselines3 for a fixed budget, and every row has all seeds; finished trainings and
measurements are kept in the output folder, under digests of what made them. The policy, the networks and random
actions play the same episodes; kept is (network - random) / (policy - random). Agreement is the share of the greedy
policy's own states in which the network takes the policy's action. There are two controls, each of which differs in one
thing: neurons that begin at 0, and one scale for a layer.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.utils import set_random_seed

from spikeloop.agents.machine import processor
from spikeloop.scripts.ann_policy import AnnPolicy, load
from spikeloop.scripts.bench import catch
from spikeloop.scripts.bench.tables import print_head, print_row
from spikeloop.scripts.convert import (
    agreement_with,
    compare,
    layers_to_convert,
    network_of,
    reference_of,
    spikes_per_decision,
)
from spikeloop.scripts.kept_results import digest
from spikeloop.scripts.load_policy import Place
from spikeloop.scripts.players import observations
from spikeloop.scripts.saving import model_bytes, statistics_bytes
from spikeloop.spiking.simulator import Simulator
from spikeloop.spiking.storage import write_atomically

SEEDS = (3000, 3001, 3002)  # never used to choose a setting
EPISODES = 50
TICKS = (1, 2, 4, 8, 16, 32)
PLAYED = (1, 4, 16)  # those of TICKS with which episodes are played
CHIP_TICKS = 16
CONTROLS: dict[str, dict[str, Any]] = {"v(0) = 0": {"v_start": 0.0}, "one scale a layer": {"per_neuron": False}}


@dataclass(frozen=True)
class Task:
    """A task, and how its policy is trained; ReLU unless ``tanh``."""

    env: str
    algo: str
    n_timesteps: int
    settings: Mapping[str, Any]
    n_envs: int = 1
    policy: str = "MlpPolicy"
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    normalize: bool = False
    falls: tuple[str, ...] = ()  # settings that fall linearly to 0
    tanh: bool = False


_PPO_CARTPOLE: dict[str, Any] = dict(n_steps=32, batch_size=256, n_epochs=20, gamma=0.98, gae_lambda=0.8)
_PPO_CARTPOLE |= dict(learning_rate=1e-3, clip_range=0.2)
_FALLS = ("learning_rate", "clip_range")
_DQN_CARTPOLE: dict[str, Any] = dict(learning_rate=2.3e-3, batch_size=64, buffer_size=100_000, learning_starts=1000)
_DQN_CARTPOLE |= dict(target_update_interval=10, train_freq=256, gradient_steps=128)
_DQN_CARTPOLE |= dict(exploration_fraction=0.16, exploration_final_eps=0.04)
# settings are RL Zoo's, for smaller budgets
TASKS = {
    "cartpole": Task("CartPole-v1", "ppo", 50_000, _PPO_CARTPOLE, n_envs=8, falls=_FALLS),
    "cartpole-tanh": Task("CartPole-v1", "ppo", 50_000, _PPO_CARTPOLE, n_envs=8, falls=_FALLS, tanh=True),
    "cartpole-dqn": Task("CartPole-v1", "dqn", 50_000, _DQN_CARTPOLE, policy_kwargs=dict(net_arch=[256, 256])),
    "cartpole-qrdqn": Task(
        "CartPole-v1", "qrdqn", 50_000, _DQN_CARTPOLE, policy_kwargs=dict(net_arch=[256, 256], n_quantiles=10)
    ),
    "cartpole-a2c": Task("CartPole-v1", "a2c", 200_000, dict(ent_coef=0.0), n_envs=8),
    "pendulum-sac": Task("Pendulum-v1", "sac", 20_000, dict(learning_rate=1e-3)),
    "acrobot": Task(
        "Acrobot-v1",
        "ppo",
        100_000,
        dict(n_steps=256, gae_lambda=0.94, gamma=0.99, n_epochs=4, ent_coef=0.0),
        n_envs=16,
        normalize=True,
    ),
    "lunarlander": Task(
        "LunarLander-v3",
        "ppo",
        200_000,
        dict(n_steps=512, batch_size=128, gae_lambda=0.98, gamma=0.999, n_epochs=4, ent_coef=0.01, learning_rate=1e-3),
        n_envs=16,
        falls=("learning_rate",),
    ),
    "catch": Task(
        catch.ID,
        "ppo",
        30_000,
        dict(n_steps=64, batch_size=128, n_epochs=4, gamma=0.99, ent_coef=0.01, learning_rate=5e-4),
        n_envs=8,
        policy="CnnPolicy",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark convert``."""
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="TASK")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help=f"default {SEEDS[0]} to {SEEDS[-1]}")
    parser.add_argument("-o", "--output", type=Path, default=Path("logs/convert"), help="default logs/convert")


def run(args: argparse.Namespace) -> None:
    """Train and measure what is missing, then print the tables."""
    results = {task: [measured(task, seed, args.output) for seed in args.seeds] for task in args.tasks}
    seeds = ", ".join(map(str, args.seeds))
    print(f"{EPISODES} episodes each, seeds {seeds}; mean, and the worst seed; {processor()}")
    chip = f"loihi1, {CHIP_TICKS} ticks"
    for name in ("", *CONTROLS):
        played, all_ticks = ([f"{name}, {n} ticks".removeprefix(", ") for n in ticks] for ticks in (PLAYED, TICKS))
        on_chip = [] if name else [chip]
        print(f"\n{name or 'as it is'}")
        _table(results, "kept", [*played, *on_chip], lambda found: found["kept"])
        _table(results, "agreement", [*all_ticks, *on_chip], lambda found: found["agreement"]["snn"])
    ticks = [f"{n} ticks" for n in TICKS]
    _table(results, "spikes per decision", ticks, lambda found: found["spikes_per_decision"], "{:.0f}", worst=max)


def _table(
    results: Mapping[str, list[dict[str, Any]]],
    what: str,
    columns: list[str],
    figure: Callable[[dict[str, Any]], Any],
    form: str = "{:.3f}",
    worst: Callable[..., float] = min,
) -> None:
    print(f"\n{what}")
    print_head(["task", "policy, each seed", "random", *columns])
    for task, of_seeds in results.items():
        policy = ", ".join(f"{one['means']['ann']:.1f}" for one in of_seeds)
        cells = [task, policy, f"{np.mean([one['means']['random'] for one in of_seeds]):.1f}"]
        for column in columns:
            found = [figure(one[column]) for one in of_seeds]
            if None in found:
                cells.append("undefined")
            else:
                cells.append(f"{form.format(np.mean(found))} ({form.format(worst(found))})")
        print_row(cells)


def measured(task: str, seed: int, output: Path) -> dict[str, Any]:
    """Return what one model's networks did, training it first if that has not been done."""
    model = _trained(task, seed, output)
    settings = (EPISODES, TICKS, PLAYED, CHIP_TICKS, CONTROLS, TASKS[task].tanh)
    folders = ("agents", "hardware", "spiking", "scripts/convert.py", "scripts/ann_policy.py", "scripts/players.py")
    result = model.with_name(f"measured-{digest(settings, folders)}.json")
    if not result.is_file():
        write_atomically(result, json.dumps(_measure(TASKS[task], model, seed)).encode())
    return json.loads(result.read_text("utf-8"))


def _trained(name: str, seed: int, output: Path) -> Path:
    task = TASKS[name]
    made_by = digest((asdict(task), seed), ("scripts/bench/catch.py",))
    model = output / f"{name}-{made_by}" / f"seed{seed}" / "model.zip"
    if not model.is_file():
        model.parent.mkdir(parents=True, exist_ok=True)
        _train(task, seed, model)
    return model


def _train(task: Task, seed: int, path: Path) -> None:
    import sb3_contrib
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    env: Any = make_vec_env(task.env, task.n_envs, seed=seed)
    if task.normalize:
        env = VecNormalize(env, gamma=task.settings["gamma"])
    settings = {k: _falling(v) if k in task.falls else v for k, v in task.settings.items()}
    policy_kwargs = dict(task.policy_kwargs) | ({} if task.tanh else {"activation_fn": torch.nn.ReLU})
    cls = getattr(sb3_contrib if task.algo == "qrdqn" else stable_baselines3, task.algo.upper())
    model = cls(task.policy, env, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **settings)
    model.learn(task.n_timesteps)
    if task.normalize:
        write_atomically(path.with_name("vecnormalize.pkl"), statistics_bytes(env))
    write_atomically(path, model_bytes(model))


def _falling(first: float) -> Callable[[float], float]:
    return lambda left: left * first


def _measure(task: Task, model: Path, seed: int) -> dict[str, Any]:
    """Return returns, what was kept, agreement and spikes of every network of a model."""
    statistics = model.with_name("vecnormalize.pkl") if task.normalize else None
    policy = load(model, Place(task.env, seed), None, statistics, False)
    first = 10_000 + seed
    set_random_seed(first)
    layers, x, distillation = layers_to_convert(policy, first, task.tanh)
    reference = reference_of(policy, EPISODES, first)
    found: dict[str, Any] = {"distilled": distillation}
    for ticks in TICKS:
        for name, options in {"": dict[str, Any](), **CONTROLS}.items():
            simulator = Simulator(network_of(policy, layers, x, ticks, False, **options))
            if ticks in PLAYED:
                one = compare(policy, reference, simulator.predict, first)
            else:
                one = {"agreement": agreement_with(policy, reference, simulator.predict)}
            found[f"{name}, {ticks} ticks".removeprefix(", ")] = one
            one["spikes_per_decision"] = spikes_per_decision(simulator)
    found[f"loihi1, {CHIP_TICKS} ticks"] = _on_chip(policy, layers, x, reference, first)
    policy.env.close()
    found["means"] = {name: float(np.mean(values)) for name, values in reference.returns.items()}
    for one in found.values():
        if isinstance(one, dict):
            one.pop("returns", None)  # those of the policy and of random actions are the same in all
    return found | {"returns": reference.returns}


def _on_chip(policy: AnnPolicy, layers: Any, x: np.ndarray, reference: Any, seed: int) -> dict[str, Any]:
    from spikeloop.hardware.compile import compile_network
    from spikeloop.hardware.deployed import DeployedPolicy
    from spikeloop.hardware.report import report

    network = network_of(policy, layers, x, CHIP_TICKS, True)
    seen = observations(network, policy.env, 1000, seed + 1_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that became 0; the table shows what that costs
        chip = DeployedPolicy(compile_network(network, "loihi1", calibration=seen))
    figures = compare(policy, reference, chip.predict, seed)
    return figures | {"modelled": report(chip).to_dict()["modelled"], "overflows": report(chip).to_dict()["overflows"]}
