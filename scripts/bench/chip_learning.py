"""R-STDP on the emulated chip's learning engine: from scratch, what breaks without extensions, and after deployment.

Every run trains for its preset's budget of episodes on the chip and then plays 100 deterministic episodes with its
weights frozen; no checkpoint and no seed is left out. Adaptation deploys the policy that the
float simulator learnt, rounded to the chip's weights, lets it live on, and changes the body in mid-life: it is compared
with the deployed policy frozen, and with learning from scratch on the changed body for as many episodes. Finished runs
are kept in the output folder and not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from spikeloop.agents.compiled_episodes import ClosedLoop
from spikeloop.agents.registry import hyperparams_file
from spikeloop.agents.rstdp import RSTDP
from spikeloop.envs import ChangeBody
from spikeloop.hardware.loihi.winner_take_all import ChipWinnerTakeAll
from spikeloop.scripts.bench.local import EPISODES, SEEDS, solved_at
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.scripts.cli import UsageError, did_you_mean
from spikeloop.scripts.kept_results import digest

BARS = {"CartPole-v1": 475, "MountainCar-v0": -110, "Acrobot-v1": -100}
TASKS = {"cartpole": "CartPole-v1", "mountaincar": "MountainCar-v0", "acrobot": "Acrobot-v1"}
WANTED = {"CartPole-v1": "rate 100%", "MountainCar-v0": "rate 95%", "Acrobot-v1": "rate 90%"}
# name -> task -> arguments of the chip's network
_LARGEST = {"CartPole-v1": 0.1, "MountainCar-v0": 0.2, "Acrobot-v1": 0.4}  # weights that float learning reaches, about
SYNAPSES: dict[str, dict[str, dict[str, Any]]] = {
    "8-bit + residue": {env: {} for env in BARS},
    "8-bit": {env: {"residue": False} for env in BARS},
    "8-bit, range used": {env: {"residue": False, "w_max": _LARGEST[env], "value_unit": 0.0006} for env in BARS},
    "8-bit + wide shift": {env: {"residue": False, "wide_shift": True} for env in BARS},
    "8-bit + residue + wide shift": {env: {"wide_shift": True} for env in BARS},
}
OLD_BODY, NEW_BODY = 20, 250  # episodes of a life
_NO_LIMIT = 10_000_000  # env steps; episodes are what is budgeted


@dataclass(frozen=True)
class Change:
    """A body that changes: task, part, and the factors to try, until and beyond the one that breaks a frozen policy."""

    env: str
    part: str
    factors: tuple[float, ...]


CHANGES = (
    Change("CartPole-v1", "length", (1.5, 2, 3, 10, 20)),
    Change("CartPole-v1", "length", (0.2, 0.15)),
    Change("CartPole-v1", "mass", (1.5, 2, 3)),
    Change("Acrobot-v1", "length", (1.5, 2, 3)),
    Change("Acrobot-v1", "mass", (1.5, 2, 3)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark chip-learning``."""
    add = parser.add_argument
    add("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="TASK", help=f"{list(TASKS)}")
    add("--synapses", nargs="*", default=list(SYNAPSES), metavar="NAME", help=f"{list(SYNAPSES)}; none: no table")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 100 ... 119")
    add("--adaptation-seeds", nargs="*", type=int, default=list(SEEDS[:5]), help="default 100 ... 104; none: no table")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change hyperparameters of every learner")
    add("-o", "--output", type=Path, default=Path("logs/chip-learning"), help="default logs/chip-learning")


@dataclass(frozen=True)
class Result:
    """One run: deterministic return at its end, env step at which it was solved, its env steps, CPU seconds."""

    mean_return: float
    solved: float
    n_steps: int
    seconds: float


@dataclass(frozen=True)
class Lab:
    """Runs what has not been run, and keeps it.

    Args:
        output: Where results are kept, under a digest of settings, code and versions.
        changes: Hyperparameters changed for all runs.
    """

    output: Path
    changes: Mapping[str, Any] = field(default_factory=dict)

    def kept(self, name: str, settings: Any, make: Callable[[], Any]) -> Any:
        """Return what ``make()`` returned with these settings, now or in an earlier run."""
        made_by = digest(settings, ("agents", "envs", "hardware", "spiking"))
        path = self.output / f"{name}-{made_by}.json".replace(" ", "_").replace("/", "_")
        if not path.is_file():
            result = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            unfinished.write_text(json.dumps(result), "utf-8")
            unfinished.replace(path)
        return json.loads(path.read_text("utf-8"))

    def settings(self, preset: str, env_id: str, **changes: Any) -> dict[str, Any]:
        """Return the hyperparameters of a preset, the budget in episodes."""
        hyperparams = yaml.safe_load(hyperparams_file(preset).read_text("utf-8"))[env_id]
        del hyperparams["n_timesteps"]
        return {**hyperparams, **self.changes, **changes}

    def from_scratch(self, env_id: str, synapses: str, seed: int) -> Result:
        """Train on the chip, and play at the end."""
        settings = self.settings("rstdp_chip", env_id, backend_kwargs=SYNAPSES[synapses][env_id])

        def train() -> list[float]:
            model = chip(gym.make(env_id), seed, settings)
            start = time.process_time()
            steps, returns = learn(model)
            seconds = time.process_time() - start
            played = play(model, gym.make(env_id), seed)
            return [played, solved_at(steps, returns, BARS[env_id]), int(steps[-1]), seconds]

        return Result(*self.kept(f"{env_id}-{synapses}-seed{seed}", settings, train))

    def adaptation(self, change: Change, factor: float, seed: int) -> dict[str, float]:
        """Return the returns of a deployed policy on the old body, frozen and learning on the new one, from scratch."""
        env_id = change.env
        source = self.settings("rstdp", env_id)
        life = self.settings("rstdp_chip", env_id, n_episodes=OLD_BODY + NEW_BODY)

        def body(after: int = 0) -> gym.Env:
            return ChangeBody(gym.make(env_id), change.part, factor, after)

        def live() -> dict[str, float]:
            float_model = RSTDP(env=Monitor(gym.make(env_id)), seed=seed, **source)
            learn(float_model)
            deployed = chip(body(OLD_BODY), 1000 + seed, life)
            deployed.policy.network.load_float(float_model.policy.network.state_dict())  # type: ignore[attr-defined]
            returns = {"deployed": play(deployed, gym.make(env_id), seed), "frozen": play(deployed, body(), seed)}
            learn(deployed)
            scratch = chip(body(), 2000 + seed, {**life, "n_episodes": NEW_BODY})
            returns["random"] = play(scratch, body(), seed, deterministic=False)
            learn(scratch)
            return returns | {"learning": play(deployed, body(), seed), "scratch": play(scratch, body(), seed)}

        return self.kept(f"{env_id}-{change.part}-x{factor:g}-seed{seed}", [source, life, OLD_BODY], live)


def chip(env: gym.Env, seed: int, settings: Mapping[str, Any]) -> RSTDP:
    """Return a learner on the chip."""
    return RSTDP(env=Monitor(env), seed=seed, backend=ChipWinnerTakeAll, **settings)


def learn(model: RSTDP) -> tuple[np.ndarray, np.ndarray]:
    """Train for the preset's episodes; return steps and returns at the ends of the episodes."""
    model.learn(_NO_LIMIT, log_interval=None)
    monitor = model.get_env().envs[0]  # type: ignore[union-attr]
    return np.cumsum(monitor.get_episode_lengths()), np.array(monitor.get_episode_rewards())


def play(model: RSTDP, env: gym.Env, seed: int, deterministic: bool = True) -> float:
    """Return the mean return of frozen episodes."""
    venv, policy = DummyVecEnv([lambda: Monitor(env)]), model.policy
    loop = ClosedLoop.of(venv, policy.network, policy.coder, policy.head)
    assert loop is not None
    venv.seed(10_000 + seed)
    policy.network.learning, policy.network.exploring = False, not deterministic
    obs, returns = venv.reset(), []
    for _ in range(EPISODES):
        action, value = policy.step(obs[0])  # type: ignore[index]
        rewards, _, action, _ = loop.advance(
            obs[0],  # type: ignore[index]
            action,
            value,
            model.n_ticks,
            policy.modulator,
            1.0,
            1.0,
            _NO_LIMIT,
        )
        obs, last, dones, _ = venv.step(policy.action(action[None]))
        assert dones[0]
        returns.append(float(rewards.sum() + last[0]))
    policy.network.exploring = False
    return float(np.mean(returns))


def changes_of(texts: list[str]) -> dict[str, Any]:
    """Return the hyperparameters that are set as NAME=VALUE."""
    return {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in texts)}


def run(args: argparse.Namespace) -> None:
    """Run what is missing, and print the tables."""
    lab = Lab(args.output, changes_of(args.set))
    env_ids = [TASKS[name] for name in args.tasks]
    if unknown := set(args.synapses) - set(SYNAPSES):
        raise UsageError(did_you_mean("kind of synapse", unknown.pop(), SYNAPSES))
    if args.synapses:
        _from_scratch(lab, env_ids, args.synapses, args.seeds)
    if args.adaptation_seeds:
        _adaptation(lab, env_ids, args.adaptation_seeds)


def _from_scratch(lab: Lab, env_ids: list[str], kinds: list[str], seeds: list[int]) -> None:
    """Print what the chip learns from scratch."""
    print(f"deterministic return over {EPISODES} episodes with the weights at the end, seeds {seeds}")
    titles = ["environment", "synapses", "mean ± sd", "worst", "pass", "wanted", "each seed"]
    titles += ["solved at (median env step)", "us per env step"]
    print_head(titles)
    for env_id in env_ids:
        for synapses in kinds:
            runs = [lab.from_scratch(env_id, synapses, seed) for seed in seeds]
            print_row(_cells(env_id, synapses, runs))


def _cells(env_id: str, synapses: str, runs: list[Result]) -> list[str]:
    means, solved = np.array([r.mean_return for r in runs]), np.array([r.solved for r in runs])
    late = np.median(np.where(np.isfinite(solved), solved, np.inf))
    return [
        env_id,
        synapses,
        mean_and_deviation(means),
        f"{means.min():.1f}",
        f"{np.mean(means >= BARS[env_id]):.0%}",
        WANTED[env_id] if synapses == next(iter(SYNAPSES)) else "",
        each(means),
        f"{late:,.0f}" if np.isfinite(late) else "-",
        f"{np.median([r.seconds / r.n_steps for r in runs]) * 1e6:.1f}",
    ]


def _adaptation(lab: Lab, env_ids: list[str], seeds: list[int]) -> None:
    """Print what is left of a deployed policy when the body changes."""
    print(
        f"\na policy of the float simulator on the chip; the body changes after {OLD_BODY} episodes, {NEW_BODY} follow"
    )
    print(f"mean of seeds {seeds}; what is kept is a share of (return - random) of the old body, and of from scratch")
    titles = [
        "environment",
        "part",
        "factor",
        "deployed, old body",
        "frozen",
        "frozen keeps",
        "learning",
        "from scratch",
    ]
    titles += ["random", "learning keeps", "each seed, learning"]
    print_head(titles)
    for change in CHANGES:
        broken = False
        for factor in change.factors if change.env in env_ids else ():
            lives = [lab.adaptation(change, factor, seed) for seed in seeds]
            mean = {name: float(np.mean([life[name] for life in lives])) for name in lives[0]}
            kept = (mean["frozen"] - mean["random"]) / (mean["deployed"] - mean["random"])
            learnt = mean["scratch"] - mean["random"]
            ratio = (mean["learning"] - mean["random"]) / learnt if learnt > 0 else np.inf
            judged, broken = kept < 0.8 and not broken, broken or kept < 0.8
            cells = [change.env, change.part, f"{factor:g}", *(f"{mean[n]:.1f}" for n in ("deployed", "frozen"))]
            cells += [f"{kept:.0%}", *(f"{mean[n]:.1f}" for n in ("learning", "scratch", "random"))]
            verdict = (" judged: " + ("reaches" if ratio >= 0.9 else "misses") + " 90 %") * judged
            share = f"{ratio:.0%}" if np.isfinite(ratio) else "nothing to reach"
            cells += [f"{share}{verdict}", ", ".join(f"{life['learning']:.0f}" for life in lives)]
            print_row(cells)
