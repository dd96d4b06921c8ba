"""Returns and actions that policies keep when `spikeloop convert` makes spiking networks of them, also on the chips.

Every model is one training of Stable-Baselines3, and every row has all seeds. Finished trainings and measurements are
kept in the output folder, under digests of their settings and code. The policy, its networks and random actions play
the same episodes; kept is (network - random) / (policy - random). Agreement is the share of the greedy policy's own
states in which the network takes the policy's action, and of Box actions how far the network's are from the policy's.
The share is also printed for each quarter of these states, from the quarter of the policy's closest choices to that of
its clearest. Each control differs from the conversion in one thing at most; the last one has the scales and the readout
with which the method was published.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.utils import set_random_seed

from spikeloop.agents.machine import processor
from spikeloop.scripts.ann_policy import AnnPolicy, Visited, load
from spikeloop.scripts.bench import catch
from spikeloop.scripts.bench.tables import print_head, print_row
from spikeloop.scripts.convert import (
    Reference,
    agreement_with,
    chosen,
    compare,
    layers_to_convert,
    network_of,
    reference_of,
    spikes_per_decision,
)
from spikeloop.scripts.kept_results import digest
from spikeloop.scripts.load_policy import Place
from spikeloop.scripts.players import Act, observations
from spikeloop.scripts.saving import model_bytes, statistics_bytes
from spikeloop.spiking.conversion import forward, margins
from spikeloop.spiking.observation import flatten
from spikeloop.spiking.simulator import Simulator
from spikeloop.spiking.storage import write_atomically

SEEDS = (3300, 3301, 3302, 3303, 3304)  # never used to choose a setting
EPISODES = 30
N_EVALUATION, EVALUATION_FREQ = 10, 1024
TICKS = (4, 8, 16)
CHIPS, CHIP_TICKS = ("loihi1", "loihi2"), 16
CONTROLS: dict[str, dict[str, Any]] = {
    "spikes counted": {"readout": "count"},
    "last map fitted to the spikes": {"refit": True},
    "last map not fitted": {"refit": False},
    "v(0) = 0": {"v_start": 0.0},
    "range from 0": {"from_zero": True},
    "all states count": {"closest": 1.0},
    "as published": {"readout": "count", "refit": False, "per_neuron": False, "closest": 1.0, "percentile": 99.9},
}


@dataclass(frozen=True)
class Task:
    """A task, and how its policy is trained. Its layers are ReLU layers unless ``tanh`` is true.

    A training ends as soon as ``N_EVALUATION`` greedy episodes, played every ``EVALUATION_FREQ`` steps, return
    ``enough`` on average, or else after ``n_timesteps``: the last policy of a DQN is often not its best.
    """

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
    enough: float | None = None


_PPO_CARTPOLE: dict[str, Any] = dict(n_steps=32, batch_size=256, n_epochs=20, gamma=0.98, gae_lambda=0.8)
_PPO_CARTPOLE |= dict(learning_rate=1e-3, clip_range=0.2)
_FALLS = ("learning_rate", "clip_range")
_DQN_CARTPOLE: dict[str, Any] = dict(learning_rate=2.3e-3, batch_size=64, buffer_size=100_000, learning_starts=1000)
_DQN_CARTPOLE |= dict(target_update_interval=10, train_freq=256, gradient_steps=128)
_DQN_CARTPOLE |= dict(exploration_fraction=0.16, exploration_final_eps=0.04)
# settings are RL Zoo's, some with smaller budgets
TASKS = {
    "cartpole": Task("CartPole-v1", "ppo", 50_000, _PPO_CARTPOLE, n_envs=8, falls=_FALLS),
    "cartpole-tanh": Task("CartPole-v1", "ppo", 50_000, _PPO_CARTPOLE, n_envs=8, falls=_FALLS, tanh=True),
    "cartpole-dqn": Task(
        "CartPole-v1", "dqn", 50_000, _DQN_CARTPOLE, policy_kwargs=dict(net_arch=[256, 256]), enough=490.0
    ),
    "cartpole-qrdqn": Task(
        "CartPole-v1",
        "qrdqn",
        50_000,
        _DQN_CARTPOLE,
        policy_kwargs=dict(net_arch=[256, 256], n_quantiles=10),
        enough=490.0,
    ),
    "cartpole-a2c": Task("CartPole-v1", "a2c", 200_000, dict(ent_coef=0.0), n_envs=8),
    "pendulum-sac": Task("Pendulum-v1", "sac", 20_000, dict(learning_rate=1e-3)),
    "acrobot": Task(
        "Acrobot-v1",
        "ppo",
        300_000,
        dict(n_steps=256, gae_lambda=0.94, gamma=0.99, n_epochs=4, ent_coef=0.0),
        n_envs=16,
        normalize=True,
    ),
    "lunarlander": Task(
        "LunarLander-v3",
        "ppo",
        1_000_000,
        dict(n_steps=1024, batch_size=64, gae_lambda=0.98, gamma=0.999, n_epochs=4, ent_coef=0.01),
        n_envs=16,
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
    ticks = [f"{n} ticks" for n in TICKS]
    chips = [f"{chip}, {CHIP_TICKS} ticks" for chip in CHIPS]
    print(f"{EPISODES} episodes each; the mean, and seeds {', '.join(map(str, args.seeds))}; {processor()}")
    print("\nreturns")
    print_head(["task", "random", "policy"])
    for task, found in results.items():
        print_row([task, *(_cell([one["means"][name] for one in found], "{:.1f}") for name in ("random", "ann"))])
    _table(results, "kept", [*ticks, *chips], lambda found: found["kept"])
    _agreement(results, "agreement", [*ticks, *chips])
    _table(results, "spikes per decision", ticks, lambda found: found["spikes_per_decision"], "{:.0f}")
    for task, found in results.items():
        for chip in chips:
            for refused in sorted({one[chip]["refused"] for one in found if "refused" in one[chip]}):
                print(f"\n{task}, {chip}: {refused}")
    nanojoules = "nJ per decision on the chip, events alone (davies2018)"
    _table(results, nanojoules, chips, lambda found: 1e9 * found["modelled"]["davies2018"]["dynamic"], "{:.0f}")
    print(f"\nagreement at {TICKS[-1]} ticks, from the quarter of the closest choices to that of the clearest")
    print_head(["task", *(f"quarter {i + 1}" for i in range(4))])
    for task, found in results.items():
        if found[0]["quarters"]:
            print_row([task, *(f"{np.mean([one['quarters'][i] for one in found]):.3f}" for i in range(4))])
    for name in CONTROLS:
        _agreement(results, f"control, {name}", [f"{name}, {n} ticks" for n in TICKS])


def _agreement(results: Mapping[str, list[dict[str, Any]]], what: str, columns: list[str]) -> None:
    """Print how well actions agree, in a table for each measure: for Box actions it is how far apart they are."""
    measures = {task: of_seeds[0][columns[0]]["agreement"]["measure"] for task, of_seeds in results.items()}
    for measure in dict.fromkeys(measures.values()):
        alike = {task: of_seeds for task, of_seeds in results.items() if measures[task] == measure}
        _table(alike, f"{what}: {measure}", columns, lambda found: found["agreement"]["snn"])


def _table(
    results: Mapping[str, list[dict[str, Any]]],
    what: str,
    columns: list[str],
    figure: Callable[[dict[str, Any]], Any],
    form: str = "{:.3f}",
) -> None:
    print(f"\n{what}")
    print_head(["task", *columns])
    for task, of_seeds in results.items():
        print_row([task, *(_cell([figure(one[column]) for one in of_seeds], form) for column in columns)])


def _cell(values: Sequence[float | None], form: str) -> str:
    """Return the mean and each value as text; None, kept of a policy no better than random, is shown as a dash."""
    each = ["-" if value is None else form.format(value) for value in values]
    known = [value for value in values if value is not None]
    mean = form.format(np.mean(known)) if len(known) == len(values) else "-"
    return f"{mean} ({', '.join(each)})"


def measured(task: str, seed: int, output: Path) -> dict[str, Any]:
    """Return the measurements of one model's networks; the model is trained first if it has not been yet."""
    model = _trained(task, seed, output)
    settings = (EPISODES, TICKS, CHIPS, CHIP_TICKS, CONTROLS, TASKS[task].tanh)
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
    model.learn(task.n_timesteps, callback=_until_enough(task, seed))
    if task.normalize:
        write_atomically(path.with_name("vecnormalize.pkl"), statistics_bytes(env))
    write_atomically(path, model_bytes(model))


def _until_enough(task: Task, seed: int) -> Any:
    from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
    from stable_baselines3.common.env_util import make_vec_env

    if task.enough is None:
        return None
    stop = StopTrainingOnRewardThreshold(task.enough, verbose=0)
    return EvalCallback(
        make_vec_env(task.env, seed=seed + 1_000_000),
        stop,
        n_eval_episodes=N_EVALUATION,
        eval_freq=EVALUATION_FREQ,
        verbose=0,
    )


def _falling(first: float) -> Callable[[float], float]:
    return lambda left: left * first


def _measure(task: Task, model: Path, seed: int) -> dict[str, Any]:
    """Return the returns, kept, agreement and spikes of every network of a model."""
    statistics = model.with_name("vecnormalize.pkl") if task.normalize else None
    policy = load(model, Place(task.env, seed), None, statistics, False)
    first = 10_000 + seed
    set_random_seed(first)
    layers, x, distillation = layers_to_convert(policy, first, task.tanh)
    reference = reference_of(policy, EPISODES, first)
    found: dict[str, Any] = {"distilled": distillation}
    for ticks in TICKS:
        simulator = Simulator(network_of(policy, layers, x, ticks, False))
        one = compare(policy, reference, simulator.predict, first)
        found[f"{ticks} ticks"] = one | {"spikes_per_decision": spikes_per_decision(simulator)}
        for name, options in CONTROLS.items():
            control = Simulator(network_of(policy, layers, x, ticks, False, **options))
            found[f"{name}, {ticks} ticks"] = {"agreement": agreement_with(policy, reference, control.predict)}
    found["quarters"] = _quarters(policy, reference, simulator.predict)
    for chip in CHIPS:
        found[f"{chip}, {CHIP_TICKS} ticks"] = _on_chip(chip, policy, layers, x, reference, first)
    policy.env.close()
    found["means"] = {name: float(np.mean(values)) for name, values in reference.returns.items()}
    for one in found.values():
        if isinstance(one, dict):
            one.pop("returns", None)  # kept once below: returns of the policy and of random actions are the same in all
    return found | {"returns": reference.returns}


def _quarters(policy: AnnPolicy, reference: Reference, chooses: Act) -> list[float]:
    """Return the agreement in each quarter of the states, ordered by the policy's margin; empty for a box head."""
    head, steps = policy.ann.head, reference.steps
    if head.kind == "box":
        return []
    rows = np.concatenate([flatten(policy.parts, obs)[0] for obs, _ in steps])
    seen = policy.first_inputs(Visited(rows, np.concatenate([start for _, start in steps])))
    order = np.argsort(margins(forward(policy.ann.layers, seen)[-1], head))
    same = np.all(chosen(chooses, steps) == reference.actions, axis=1)
    return [float(same[quarter].mean()) for quarter in np.array_split(order, 4)]


def _on_chip(name: str, policy: AnnPolicy, layers: Any, x: np.ndarray, reference: Any, seed: int) -> dict[str, Any]:
    from spikeloop.hardware.compile import compile_network
    from spikeloop.hardware.deployed import DeployedPolicy
    from spikeloop.hardware.report import report

    network = network_of(policy, layers, x, CHIP_TICKS, True)
    seen = observations(network, policy.env, 1000, seed + 1_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of weights that became 0; the table shows their effect
        try:
            chip = DeployedPolicy(compile_network(network, name, calibration=seen))
        except ValueError as error:  # too large for the chip
            nothing = {"davies2018": {"dynamic": np.nan}}
            return {"kept": None, "agreement": {"snn": None}, "modelled": nothing, "refused": str(error)}
    figures = compare(policy, reference, chip.predict, seed)
    return figures | {"modelled": report(chip).to_dict()["modelled"], "overflows": report(chip).to_dict()["overflows"]}
