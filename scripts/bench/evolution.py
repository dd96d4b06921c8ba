"""Evolution on held-out seeds: returns after a fixed budget, with its controls, and fine-tuning through the chip.

Every row trains from the preset for its budget of evaluations or of env steps, counted over all members, and is judged
by its last network: the mean return of 100 episodes of other seeds. No checkpoint and no seed is left out. Controls:
random draws with the same budget; for CartPole without velocities also neurons that do not adapt. The last row has
inputs so small that most draws act the same whatever they observe.

The second table begins with policies of R-STDP that learnt on the chip with what Loihi 1 could hold, plain 8-bit
weights (`spikeloop benchmark chip-learning`, synapses "8-bit"), as they are after their preset's episodes. All returns
there are of the compiled program. The control of the chip in the loop is the same search with the returns of the float
simulator, compiled afterwards. Finished runs are kept in the output folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import spikeloop.envs  # noqa: F401  registers tasks
from spikeloop.agents.evolution import Evolution
from spikeloop.agents.playing import CompiledTask, FloatPlayer, play_compiled
from spikeloop.agents.registry import hyperparams_file
from spikeloop.agents.rstdp import RSTDP
from spikeloop.hardware import ChipPlayer, ChipWinnerTakeAll
from spikeloop.scripts.bench.schedules import schedule_of
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.scripts.kept_results import digest

SEEDS = tuple(range(3000, 3010))  # never used to choose a setting
EPISODES, FIRST_EPISODE = 100, 5_000_000  # those that judge, and the seed of the first
CARTPOLE, NO_VELOCITY = "CartPole-v1", "spikeloop/CartPoleNoVel-v0"


class Row(NamedTuple):
    """A training: a preset, and what is changed of it."""

    env: str
    name: str
    bar: float
    algorithm: Mapping[str, Any] = {}
    policy: Mapping[str, Any] = {}
    wanted: str = ""


_EVALUATIONS = {"max_generations": 120, "n_timesteps": 10_000_000}
ROWS = (
    Row(CARTPOLE, "es", 475, wanted="mean >= 495"),
    Row(CARTPOLE, "cma", 475, {"method": "cma"}),
    Row(CARTPOLE, "perturbation", 475, {"method": "perturbation"}),
    Row(CARTPOLE, "perturbation without re-evaluation", 475, {"method": "perturbation", "reevaluate": False}),
    Row(CARTPOLE, "bayes, 120 evaluations", 475, {"method": "bayes", **_EVALUATIONS}, wanted="8 of 10"),
    Row(CARTPOLE, "random, 120 evaluations", 475, {"method": "random", **_EVALUATIONS}),
    Row(CARTPOLE, "random", 475, {"method": "random"}),
    Row(CARTPOLE, "no learning", 475, {"learning_rate": 0.0, "n_timesteps": 1_000}),
    Row(NO_VELOCITY, "es", 450, wanted="8 of 10"),
    Row(NO_VELOCITY, "es, beta = 0", 450, {}, {"beta": 0.0}),
    Row(NO_VELOCITY, "random", 450, {"method": "random", "n_members": None}),
    Row("Acrobot-v1", "es", -100),
    Row("Pendulum-v1", "es", -200),
    Row(
        CARTPOLE,
        "bayes, 120 evaluations, small inputs",
        475,
        {"method": "bayes", **_EVALUATIONS},
        {"obs_scale": [1.0, 1.0, 10.0, 1.0]},
    ),
)
FINE_TUNING = {  # name -> bits, and whether the chip is in the loop; None: no further search
    "as learnt, 8 bits": (8, None),
    "chip in the loop, 8 bits": (8, True),
    "float, then compiled, 8 bits": (8, False),
}


class Result(NamedTuple):
    """What one training came to."""

    mean_return: float
    n_steps: int
    seconds: float  # of CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark evolution``."""
    add = parser.add_argument
    add("--rows", nargs="*", default=[str(i) for i in range(len(ROWS))], metavar="I", help=_listed(ROWS))
    add(
        "--chip-rows", nargs="*", default=list(FINE_TUNING), metavar="NAME", help=f"{list(FINE_TUNING)}; none: no table"
    )
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 3000 ... 3009")
    add("-o", "--output", type=Path, default=Path("logs/evolution"), help="default logs/evolution")


def _listed(rows: tuple[Row, ...]) -> str:
    return "; ".join(f"{i}: {row.env} {row.name}" for i, row in enumerate(rows))


def run(args: argparse.Namespace) -> None:
    """Train, play, and print the tables."""
    if args.rows:
        print(f"return over {EPISODES} episodes at the end of the budget, seeds {args.seeds[0]} to {args.seeds[-1]}")
        print_head(
            ["environment", "search", "env steps", "mean ± sd", "worst", "at the bar", "each seed", "CPU s", "wanted"]
        )
    for row in (ROWS[int(i)] for i in args.rows):
        results = [
            _kept(args.output, ("row", row, seed), lambda row=row, seed=seed: train(row, seed)) for seed in args.seeds
        ]
        _print(results, [row.env, row.name], row.bar, row.wanted)
    if args.chip_rows:
        print(f"\nR-STDP of plain 8 bits, {CARTPOLE}, fine-tuned: returns of the compiled program")
        print_head(["policy", "env steps more", "mean ± sd", "worst", "at the bar", "each seed", "CPU s", "wanted"])
    for name in args.chip_rows:
        results = [
            _kept(args.output, ("chip", name, seed), lambda name=name, seed=seed: fine_tune(seed, *FINE_TUNING[name]))
            for seed in args.seeds
        ]
        _print(results, [name], 475, "mean >= 490" if FINE_TUNING[name] == (8, True) else "")


def _print(results: list[Result], cells: list[str], bar: float, wanted: str) -> None:
    returns = np.array([one.mean_return for one in results])
    passed = f"{int((returns >= bar).sum())} of {len(returns)} (>= {bar:g})"
    steps, seconds = (np.median([getattr(one, name) for one in results]) for name in ("n_steps", "seconds"))
    about = [f"{steps:,.0f}", mean_and_deviation(returns), f"{returns.min():.1f}", passed, each(returns)]
    print_row([*cells, *about, f"{seconds:.0f}", wanted])


def _kept(output: Path, what: Any, make: Any) -> Result:
    """Return what ``make()`` returned with these settings, now or in an earlier run."""
    path = output / f"{digest(what, ('agents', 'envs', 'hardware', 'spiking', 'scripts/bench/evolution.py'))}.json"
    if not path.is_file():
        result = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result), "utf-8")
    return Result(*json.loads(path.read_text("utf-8")))


def _preset(name: str, env_id: str, algorithm: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    preset = yaml.safe_load(hyperparams_file(name).read_text("utf-8"))[env_id]
    kwargs = {**preset.get("policy_kwargs", {}), **policy}
    changed = {**preset, **algorithm, "policy_kwargs": kwargs}
    if isinstance(changed.get("learning_rate"), str):
        changed["learning_rate"] = schedule_of(changed["learning_rate"])
    return {key: value for key, value in changed.items() if value is not None and key != "n_envs"}


def train(row: Row, seed: int) -> Result:
    """Train and judge one row with one seed."""
    settings = _preset("evolution", row.env, row.algorithm, row.policy)
    budget, normalize = settings.pop("n_timesteps"), settings.pop("normalize", None)
    venv = make_vec_env(row.env)
    model = Evolution(env=venv if normalize is None else VecNormalize(venv, **normalize), seed=seed, **settings)
    start = time.process_time()
    model.learn(budget)
    seconds = time.process_time() - start
    return Result(_judged(FloatPlayer(model.to_network()), row.env), model.num_timesteps, seconds)


def _judged(player: Any, env_id: str) -> float:
    task = CompiledTask.of(make_vec_env(env_id))
    assert task is not None
    episodes = play_compiled([player], task.begin(range(FIRST_EPISODE, FIRST_EPISODE + EPISODES)))
    return float(np.mean([episode.total for episode in episodes]))


def learnt_on_chip(seed: int) -> RSTDP:
    """Return a policy of R-STDP that learnt on the chip with plain 8-bit weights, after its preset's episodes."""
    settings = _preset("rstdp_chip", CARTPOLE, {"backend_kwargs": {"residue": False}}, {})
    budget = settings.pop("n_timesteps")
    return RSTDP(env=make_vec_env(CARTPOLE), seed=seed, backend=ChipWinnerTakeAll, **settings).learn(budget)


def fine_tune(seed: int, bits: int, in_loop: bool | None) -> Result:
    """Fine-tune a policy that learnt on the chip, and judge the compiled program."""
    start_from = learnt_on_chip(seed)
    settings = _preset("evolution_chip", CARTPOLE, {}, {})
    budget, backend = settings.pop("n_timesteps"), {"backend": ChipPlayer, "backend_kwargs": {"bits": bits}}
    for name in ("policy", "policy_kwargs"):  # as RL Zoo does for --trained-agent
        del settings[name]
    n_steps, start, network = 0, time.process_time(), start_from.to_network()
    if in_loop is not None:
        with TemporaryDirectory() as folder:
            path = Path(folder, "model.zip")
            start_from.save(path)
            model = Evolution.load(
                path, env=make_vec_env(CARTPOLE), seed=seed, **settings, **(backend if in_loop else {})
            )
        model.learn(budget)
        network, n_steps = model.to_network(), model.num_timesteps
    seconds = time.process_time() - start
    return Result(_judged(ChipPlayer(ChipPlayer.on_grid(network, bits=bits), bits=bits), CARTPOLE), n_steps, seconds)
