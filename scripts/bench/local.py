"""R-STDP on held-out seeds: returns at the end of a fixed budget of episodes, and env steps until solved.

Every run trains in the preset's budget and then plays 100 deterministic episodes with its weights frozen, in
Gymnasium's own loop; no checkpoint and no seed is left out. Beside it the same network without learning, and a tabular
actor-critic with softmax actions on the same tiles, with the same modulator and budget. Solved is the env step at which
the mean of the last 20 training episodes first reaches the bar. With --peers also PPO and DQN as RL Zoo sets them.
`spikeloop benchmark local-peers` has other learners.

With --policy populations it is R-STDP of spiking populations, with the returns of both its policies: without noise,
which is the Network that it exports, and as it acted while it learned. Its controls are the same populations without
learning; with the window turned around, so that pairs post before pre potentiate and pairs pre before post do nothing;
and with the ticks of the neurons' spikes shuffled within each env step before they meet the rule, which leaves counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from spikeloop.agents.episodes import read_episodes
from spikeloop.agents.registry import hyperparams_file
from spikeloop.agents.rstdp import RSTDP
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.scripts.kept_results import digest
from spikeloop.spiking.rules.populations import SpikingPopulations
from spikeloop.spiking.rules.winner_take_all import WinnerTakeAllParameters

SEEDS = tuple(range(100, 120))  # settings were chosen on others; of populations, the critic's rate knowing of these
EPISODES = 100
WINDOW = 20


@dataclass(frozen=True, eq=False)
class Task:
    """A task, the return that passes, what is wanted, and the budgets of the peers in env steps."""

    env: str
    bar: float
    wanted: str
    peers: Mapping[str, int]


# RL Zoo gives PPO a million steps at constant rates. A shorter training is the beginning of a longer one, and these end
# when the task has long been solved.
TASKS = {
    "cartpole": Task("CartPole-v1", 475, "mean >= 495, rate 95%", {"ppo": 100_000, "dqn": 50_000}),
    "mountaincar": Task("MountainCar-v0", -110, "mean >= -105, rate 90%", {"ppo": 400_000, "dqn": 120_000}),
    "acrobot": Task("Acrobot-v1", -100, "mean >= -92, rate 90%", {"ppo": 200_000, "dqn": 100_000}),
}
NO_LEARNING = {"learning_rate": 0.0, "value_learning_rate": 0.0}


class TabularActorCritic:
    """Softmax actor-critic with eligibility traces on binary features (Sutton & Barto 2018, section 13.5).

    A ``PlasticNetwork`` (:mod:`spikeloop.spiking.rules.plastic_network`) without spikes: preferences are sums of the
    active lines' weights, actor traces add up the score ``1[a] - π``, critic traces are replaced.

    Args:
        n_inputs: Number of lines.
        n_outputs: Number of actions.
        parameters: Learning rates, decay of the traces and initial value; the noise is not used.
        rng: Source of the actions.
    """

    def __init__(self, n_inputs: int, n_outputs: int, parameters: WinnerTakeAllParameters, rng: np.random.Generator):
        self.parameters, self.rng = parameters, rng
        self.learning = self.exploring = True
        self.w, self.v = np.zeros((n_inputs, n_outputs)), np.zeros(n_inputs)
        self.reset()

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Clear the traces."""
        self.traces, self.v_traces = np.zeros_like(self.w), np.zeros_like(self.v)

    def run(self, x: np.ndarray, n_ticks: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Choose one action; the ticks do not matter."""
        preferences = self.w[x].sum(axis=0)
        policy = np.exp(preferences - preferences.max())
        policy /= policy.sum()
        action = np.searchsorted(policy.cumsum(), self.rng.random()) if self.exploring else preferences.argmax()
        spikes = (np.arange(len(policy)) == action).astype(np.int64)
        if self.learning:
            self.lines, self.score = x, spikes - policy
        return spikes, spikes, self.parameters.value_offset + float(self.v[x].sum())

    def reinforce(self, modulator: float) -> None:
        """Learn by the modulator and the traces, then count the latest action in."""
        p = self.parameters
        self.w += p.learning_rate * modulator * self.traces
        self.v += p.value_learning_rate * modulator * self.v_traces
        self.traces *= p.eligibility_decay
        self.v_traces *= p.eligibility_decay
        self.traces[self.lines] += self.score
        self.v_traces[self.lines] = 1.0

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the weights."""
        return {"w": self.w.copy(), "v": self.v.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over weights."""
        self.w[:], self.v[:] = state["w"], state["v"]


class ShuffledTicks(SpikingPopulations):
    """Populations whose spikes meet the rule in ticks of other order, new in each env step: counts are what is left."""

    def reinforce(self, modulator: float) -> None:
        """Learn from the modulator, then count the pairs of shuffled spikes in."""
        self._z[:] = self.rng.permutation(self._z)
        super().reinforce(modulator)


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy of R-STDP: its preset, and what is compared: changes of the preset, and of its ``population_kwargs``."""

    preset: str
    learners: Mapping[str, Mapping[str, Any]]
    noise: bool = False  # whether the returns with its noise have a column
    bars: Mapping[str, tuple[float, str]] = field(default_factory=dict)  # by environment, for those of its task


POLICIES = {
    "wta": Policy(
        "rstdp",
        {
            "rstdp": {},
            "no learning": NO_LEARNING,
            "tabular": {"backend": TabularActorCritic, "learning_rate": 0.3},  # of 0.3, 1 and 3, on seeds 0 to 7
        },
    ),
    "populations": Policy(
        "rstdp_populations",
        {
            "populations": {},
            "no learning": NO_LEARNING,
            # The rule subtracts pairs post before pre. With every reward and value of the other sign, it adds them.
            "post before pre": {"population_kwargs": {"a_plus": 0.0, "a_minus": 1.0}, "sign": -1},
            "shuffled ticks": {"backend": ShuffledTicks},
            "no competition": {"population_kwargs": {"centred": False}},
            "regular trains": {"population_kwargs": {"trains": "regular"}},
            # on seeds 0 to 2
            "spiking critic": {
                "population_kwargs": {"critic": "spiking", "trains": "regular"},
                "value_learning_rate": 0.0008,
            },
        },
        noise=True,
        bars={
            "CartPole-v1": (475, "mean >= 490, rate 90%"),
            "MountainCar-v0": (-115, "mean >= -108, rate 90%"),
            "Acrobot-v1": (-105, "mean >= -98, rate 90%"),
        },
    ),
}


class OrdinaryLoop(gym.Wrapper):
    """Changes nothing; the compiled loop stands back from wrappers that it does not know."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark local``."""
    add = parser.add_argument
    add("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="TASK", help=f"{list(TASKS)}")
    add("--policy", choices=list(POLICIES), default="wta", help="default wta, the winner-take-all rule")
    learners = [name for policy in POLICIES.values() for name in policy.learners]
    add("--learners", nargs="+", choices=list(dict.fromkeys(learners)), help="default: all of the policy")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 100 ... 119")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change hyperparameters of every learner")
    add("--ordinary", action="store_true", help="train in Gymnasium's own loop, not the compiled one")
    add("--peers", type=int, default=0, metavar="N", help="seeds of PPO and DQN (default 0; 15 minutes each)")
    add("--curves", type=Path, metavar="FILE", help="picture of the learning curves")
    add("-o", "--output", type=Path, default=Path("logs/local"), help="where the peers' runs are kept")


@dataclass(frozen=True)
class Result:
    """What one run gave: return at its end, without and with noise, steps and returns of episodes, CPU seconds."""

    mean_return: float
    mean_with_noise: float
    steps: np.ndarray
    returns: np.ndarray
    seconds: float


def run(args: argparse.Namespace) -> None:
    """Train, play, and print the tables."""
    changes = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in args.set)}
    policy = POLICIES[args.policy]
    tasks = [_with_bar(TASKS[name], policy) for name in args.tasks]
    learners = [name for name in args.learners or policy.learners if name in policy.learners]
    train_one(tasks[0], policy, {"n_episodes": 2}, 0, args.ordinary)  # compiles
    results = {
        (task, learner): [
            train_one(task, policy, {**policy.learners[learner], **changes}, s, args.ordinary) for s in args.seeds
        ]
        for task in tasks
        for learner in learners
    }
    print(f"deterministic return over {EPISODES} episodes with the weights at the end, seeds {_span(args.seeds)}")
    columns = ["environment", "learner", "episodes", "mean ± sd", "worst", "rate", "each seed", "CPU us per env step"]
    with_noise = ["with noise: mean ± sd", "worst", "rate", "each seed"] if policy.noise else []
    print_head([*columns, *with_noise, "wanted"])
    for (task, learner), runs in results.items():
        print_row(_returns_cells(task, learner, runs, policy))
    curves = {(task, learner): [(r.steps, r.returns) for r in runs] for (task, learner), runs in results.items()}
    for task in tasks if args.peers else ():
        for algo, budget in task.peers.items():
            seeds = SEEDS[: args.peers]
            curves[task, algo] = [_peer_episodes(task, algo, budget, seed, args.output) for seed in seeds]
    print(f"\nenv steps until the mean of the last {WINDOW} training episodes reaches the bar")
    print_head(["environment", "learner", "solved", "median", "least", "most"])
    for (task, learner), episodes in curves.items():
        if learner != "no learning":
            print_row(_solved_cells(task, learner, episodes))
    if args.curves:
        draw(curves, args.curves)


def _with_bar(task: Task, policy: Policy) -> Task:
    bar, wanted = policy.bars.get(task.env, (task.bar, task.wanted))
    return replace(task, bar=bar, wanted=wanted)


def train_one(
    task: Task, policy: Policy, changes: Mapping[str, Any], seed: int, ordinary: bool, n_frozen: int = EPISODES
) -> Result:
    """Train with the preset and play at the end."""
    hyperparams = {**yaml.safe_load(hyperparams_file(policy.preset).read_text("utf-8"))[task.env], **changes}
    budget, sign = hyperparams.pop("n_timesteps"), hyperparams.pop("sign", 1)
    for name in ("reward_scale", "initial_value"):
        hyperparams[name] = sign * hyperparams.get(name, 0.0)
    populations = hyperparams.pop("population_kwargs", {})
    if populations:
        kwargs = hyperparams["policy_kwargs"]
        hyperparams["policy_kwargs"] = {
            **kwargs,
            "population_kwargs": {**kwargs.get("population_kwargs", {}), **populations},
        }
    env = gym.make(task.env)
    monitor = Monitor(OrdinaryLoop(env) if ordinary else env)
    model = RSTDP(env=monitor, seed=seed, **hyperparams)
    start = time.process_time()
    model.learn(budget)
    seconds = time.process_time() - start
    if model._episode_num != model.n_episodes:
        raise SystemExit(f"{budget} env steps were not enough for {model.n_episodes} episodes of {task.env}")
    mean, with_noise = (
        float(evaluate_policy(model, make_vec_env(task.env, seed=10_000 + seed), n_frozen, deterministic)[0])  # type: ignore[arg-type]
        if deterministic or policy.noise
        else np.nan
        for deterministic in (True, False)
    )
    steps, returns = np.cumsum(monitor.get_episode_lengths()), np.array(monitor.get_episode_rewards())
    return Result(mean, with_noise, steps, returns, seconds)


def solved_at(steps: np.ndarray, returns: np.ndarray, bar: float) -> float:
    """Return the env step at which the mean of the last episodes first reaches the bar; NaN if it never does."""
    if len(returns) < WINDOW:
        return np.nan
    means = np.convolve(returns, np.full(WINDOW, 1 / WINDOW), "valid")
    reached = np.flatnonzero(means >= bar)
    return float(steps[reached[0] + WINDOW - 1]) if len(reached) else np.nan


def _returns_cells(task: Task, learner: str, runs: list[Result], policy: Policy) -> list[str]:
    means, noisy = (np.array([getattr(r, name) for r in runs]) for name in ("mean_return", "mean_with_noise"))
    with_noise = [mean_and_deviation(noisy), f"{noisy.min():.1f}", f"{np.mean(noisy >= task.bar):.0%}", each(noisy)]
    return [
        task.env,
        learner,
        f"{len(runs[0].returns)}",
        mean_and_deviation(means),
        f"{means.min():.1f}",
        f"{np.mean(means >= task.bar):.0%}",
        each(means),
        f"{np.median([r.seconds / r.steps[-1] for r in runs]) * 1e6:.1f}",
        *(with_noise if policy.noise else []),
        task.wanted if policy.learners.get(learner) == {} else "",
    ]


def _solved_cells(task: Task, learner: str, episodes: list[tuple[np.ndarray, np.ndarray]]) -> list[str]:
    at = np.array([solved_at(steps, returns, task.bar) for steps, returns in episodes])
    cells = [task.env, learner, f"{np.mean(np.isfinite(at)):.0%}"]
    # a seed that never reaches the bar counts as later than all others
    late = np.where(np.isfinite(at), at, np.inf)
    cells += [f"{value:,.0f}" if np.isfinite(value) else "-" for value in (np.median(late), late.min(), late.max())]
    return cells


def _span(seeds: list[int]) -> str:
    whole = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def _peer_episodes(task: Task, algo: str, budget: int, seed: int, output: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and returns of the training episodes of an SB3 algorithm, trained if that has not been done."""
    folder = output / f"{algo}-{digest((algo, task.env, budget), ('envs',))}" / task.env / f"seed{seed}"
    if not (folder / "done").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        arguments = ["--algo", algo, "--env", task.env, "-n", str(budget), "--seed", str(seed), "-f", str(folder)]
        quiet = ["--eval-freq", "-1", "--num-threads", "1", "--verbose", "0"]
        command = [sys.executable, "-m", "spikeloop.scripts.cli", "train", *arguments, *quiet]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        (folder / "done").touch()
    (latest,) = sorted((folder / algo).glob(f"{task.env}_*/learning_curve.csv"))[-1:]
    return read_episodes(latest)


def draw(curves: Mapping[tuple[Task, str], list[tuple[np.ndarray, np.ndarray]]], path: Path) -> None:
    """Draw the mean of the last training episodes over env steps: median and quartiles over seeds."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(task for task, _ in curves))
    figure = Figure(figsize=(4.5 * len(tasks), 3.2), layout="constrained")
    for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True):
        for (of, learner), episodes in curves.items():
            if of is not task:
                continue
            window = np.full(WINDOW, 1 / WINDOW)
            whole = [(steps[WINDOW - 1 :], np.convolve(returns, window, "valid")) for steps, returns in episodes]
            grid = np.linspace(max(steps[0] for steps, _ in whole), max(steps[-1] for steps, _ in whole), 200)
            lines = [np.interp(grid, steps, means) for steps, means in whole]
            low, median, high = np.quantile(lines, [0.25, 0.5, 0.75], axis=0)
            axes.plot(grid, median, label=learner)
            axes.fill_between(grid, low, high, alpha=0.25)
        axes.axhline(task.bar, color="gray", linewidth=0.8, linestyle=":")
        axes.set(title=task.env, xlabel="env steps", ylabel=f"return, mean of {WINDOW} episodes")
        axes.legend(frameon=False)
    figure.savefig(path)
