"""Probabilistic spiking networks on held-out seeds: returns at the end of a fixed budget, and their controls.

Every row trains with the task's preset and then plays 100 episodes with its weights frozen and its spikes drawn as in
training; no checkpoint and no seed is left out. Odd seeds run with two threads, even ones with one. A further column
has episodes of the network's most likely action instead of a drawn one, where there is a network. Each control differs
in one thing:

- no learning: all rates are 0;
- shuffled input: in every env step the input's spikes come from other channels, as many of them and at the same times;
- shuffled TD error: the outputs learn from one of the last 1,000 TD errors, drawn at random; the critic from its own;
- softmax of curves: a softmax of a linear map of the tuning curves themselves, with the same critic, traces and budget;
  nothing spikes. Its rate is 1, with which seeds 0 and 1 solve CartPole: no other was needed;
- softmax of spikes: the same on the mean of the input's spikes of an env step;
- 48 hidden: with hidden neurons; the word behind it is what they learn by. Their rate, as a multiple of the outputs',
  was chosen on seeds 0 to 5: for expected 3, out of 1 and 3; for score 0.1, out of 1, 0.1 and 0.01 (seeds 0 to 3,
  60,000 env steps).

Solved is the env step at which the mean of the last 20 training episodes first reaches the bar: its median, least and
most over the seeds. Ticks and output spikes are means per env step over the whole training.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym
import numba
import numpy as np
import torch as th
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents.glm import GLM
from spikeloop.agents.glm_learning import GlmLearning
from spikeloop.agents.glm_policy import GlmPolicy
from spikeloop.agents.registry import hyperparams_file
from spikeloop.hardware import DeployedPolicy, compile_network
from spikeloop.hardware.target import TARGETS
from spikeloop.scripts.bench.linear_peers import softmax_action
from spikeloop.scripts.bench.local import solved_at
from spikeloop.scripts.bench.schedules import schedule_of
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.spiking.encoders.population_spikes import PopulationSpikes
from spikeloop.spiking.rules.glm import RewardGlm
from spikeloop.spiking.rules.glm_kernels import value_of

SEEDS = tuple(range(3000, 3020))  # never used to choose a setting
EPISODES = 100
RECENT = 1000  # TD errors that a shuffled one is drawn from
CARTPOLE, ACROBOT, WINDY = "CartPole-v1", "Acrobot-v1", "spikeloop/WindyGridworld-v0"
BARS = {CARTPOLE: 475.0, ACROBOT: -100.0, WINDY: -16.5}  # returns


class Shuffled(GlmLearning):
    """Learns from input spikes of other channels, new ones in each env step."""

    def _see(self, row: np.ndarray, starts: bool) -> None:
        super()._see(row, starts)
        x = self.input.x
        x[:] = x[:, self.policy.rng.permutation(x.shape[1])]


class ShuffledTd(GlmLearning):
    """Outputs learn from TD errors of other env steps."""

    policy: ShuffledTdPolicy

    def __init__(self, policy: ShuffledTdPolicy, rule: RewardGlm):
        super().__init__(policy, replace(rule, learning_rate=0.0))
        self._rate = rule.learning_rate

    def act(self, obs: Any, before: Any, reward: Any, starts: bool) -> int:
        """Learn from the step before, run the network for an env step, and return the action."""
        if not starts:
            self._reinforce(obs, reward, 1.0)
        return super().act(obs, before, reward, starts)

    def end(self, last: Any, before: Any, reward: Any, truncated: bool) -> None:
        """Learn from the last reward of an episode, and forget its traces."""
        self._reinforce(last, reward, float(truncated))
        super().end(last, before, reward, truncated)

    def _reinforce(self, obs: Any, reward: Any, goes_on: float) -> None:
        c, learner, recent = self._c, self._learner, self.policy.recent
        value = value_of(self.policy.critic.lines(self.policy.rows(obs)[0]), learner, c)
        recent.append(c.reward_scale * float(reward) + c.gamma * goes_on * value - learner.value[0])
        delta = recent[self.policy.rng.integers(len(recent))]
        learner.w_out[:, :-1] += self._rate * delta * learner.e_out[:, :-1]


class Softmax:
    """A softmax actor-critic on the policy's input, with the critic and the traces of the rule; no neuron spikes.

    The output weights of the policy are its preferences, without biases.

    Args:
        policy: The policy.
        rule: The rule.
        of_spikes: Whether it sees the mean of an env step's drawn spikes, or the tuning curves.
    """

    def __init__(self, policy: GlmPolicy, rule: RewardGlm, of_spikes: bool):
        self.policy, self.rule, self.of_spikes = policy, rule, of_spikes
        self._input = GlmLearning(policy, rule)
        _, w_out, self._v = policy.arrays()
        self._w = w_out[:, :-1]
        self._value = 0.0
        self._forget()

    def _forget(self) -> None:
        self._e, self._e_v, self._value = np.zeros_like(self._w), np.zeros_like(self._v), 0.0

    def _features(self, row: np.ndarray, starts: bool) -> np.ndarray:
        encoder = self.policy.encoder
        if isinstance(encoder, PopulationSpikes) and not self.of_spikes:
            curves = encoder.table
            ends = curves.centers.min(axis=1), curves.centers.max(axis=1)
            z = (np.clip(row[0], *ends)[:, None] - curves.centers) / curves.widths
            return np.exp(-0.5 * z * z).ravel()
        self._input._see(row, starts)
        return self._input.input.x.mean(axis=0)

    def _reinforce(self, delta: float) -> None:
        self._w += self.rule.learning_rate * delta * self._e
        self._v += self.rule.value_rate * delta * self._e_v

    def act(self, obs: Any, before: Any, reward: Any, starts: bool) -> int:
        """Learn from the step before, and return the next action."""
        rule, row = self.rule, self.policy.rows(obs)
        lines = self.policy.critic.lines(row[0])
        if starts:
            self._forget()
        else:
            value = rule.initial_value + self._v[lines].sum()
            self._reinforce(rule.reward_scale * float(reward) + rule.gamma * value - self._value)
        self._value = rule.initial_value + self._v[lines].sum()
        x = self._features(row, starts)
        action, score = softmax_action(self._w @ x, self.policy.rng, exploring=True)
        decay = rule.gamma * rule.trace_lambda
        self._e = decay * self._e + np.outer(score, x)
        self._e_v *= decay
        self._e_v[lines] = 1.0
        return action

    def end(self, last: Any, before: Any, reward: Any, truncated: bool) -> None:
        """Learn from the last reward of an episode."""
        rule = self.rule
        value = rule.initial_value + self._v[self.policy.critic.lines(self.policy.rows(last)[0])].sum()
        target = rule.reward_scale * float(reward) + rule.gamma * value * truncated
        self._reinforce(target - self._value)


class ShuffledPolicy(GlmPolicy):
    """A policy that sees shuffled input."""

    plain = False

    def learning(self, rule: RewardGlm) -> Any:
        """Return what runs and teaches the network."""
        return Shuffled(self, rule)


class ShuffledTdPolicy(ShuffledPolicy):
    """A policy that learns from TD errors of other env steps."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.recent: deque[float] = deque(maxlen=RECENT)

    def learning(self, rule: RewardGlm) -> Any:
        """Return what runs and teaches the network."""
        return ShuffledTd(self, rule)


class SoftmaxOfCurves(ShuffledPolicy):
    """A policy that is a softmax of the tuning curves."""

    def learning(self, rule: RewardGlm) -> Any:
        """Return what acts and learns."""
        return Softmax(self, rule, of_spikes=False)


class SoftmaxOfSpikes(ShuffledPolicy):
    """A policy that is a softmax of the input's spikes."""

    def learning(self, rule: RewardGlm) -> Any:
        """Return what acts and learns."""
        return Softmax(self, rule, of_spikes=True)


class Row(NamedTuple):
    """A training: the preset of a task, and what is changed of it."""

    task: str
    name: str
    changes: Mapping[str, Any] = {}
    policy: type[GlmPolicy] = GlmPolicy
    policy_kwargs: Mapping[str, Any] = {}
    n_seeds: int = 20
    wanted: str = ""


_NO_LEARNING = {"learning_rate": 0.0, "n_timesteps": 1000}  # any number would do: nothing changes
_SOFTMAX = {"learning_rate": "lin_1.0", "value_scale": 0.04}
_HIDDEN = {"n_hidden": 48}
_EXPECTED = {"hidden_scale": 3.0}
_SCORE = {"hidden_gradient": "score", "hidden_scale": 0.1}
ROWS = (
    Row(CARTPOLE, "glm", wanted="mean >= 495, worst >= 475"),
    Row(CARTPOLE, "no learning", _NO_LEARNING, n_seeds=5),
    Row(CARTPOLE, "shuffled input", policy=ShuffledPolicy, n_seeds=3),
    Row(CARTPOLE, "shuffled TD error", policy=ShuffledTdPolicy, n_seeds=10),
    Row(CARTPOLE, "softmax of curves", _SOFTMAX, SoftmaxOfCurves, n_seeds=10),
    Row(CARTPOLE, "softmax of spikes", _SOFTMAX, SoftmaxOfSpikes, n_seeds=3),
    Row(CARTPOLE, "48 hidden, expected", _EXPECTED, policy_kwargs=_HIDDEN, n_seeds=10),
    Row(CARTPOLE, "48 hidden, score", _SCORE, policy_kwargs=_HIDDEN, n_seeds=10),
    Row(CARTPOLE, "48 hidden, frozen", {"hidden_gradient": "frozen"}, policy_kwargs=_HIDDEN, n_seeds=10),
    Row(ACROBOT, "glm", wanted="mean >= -100"),
    Row(ACROBOT, "no learning", _NO_LEARNING, n_seeds=5),
    Row(ACROBOT, "shuffled input", policy=ShuffledPolicy, n_seeds=3),
    Row(ACROBOT, "shuffled TD error", policy=ShuffledTdPolicy, n_seeds=10),
    Row(ACROBOT, "softmax of curves", _SOFTMAX, SoftmaxOfCurves, n_seeds=10),
    Row(ACROBOT, "softmax of spikes", _SOFTMAX, SoftmaxOfSpikes, n_seeds=3),
    Row(WINDY, "glm", wanted="mean >= -16.5"),
    Row(WINDY, "no learning", _NO_LEARNING, n_seeds=5),
    Row(WINDY, "shuffled input", policy=ShuffledPolicy, n_seeds=3),
    Row(WINDY, "shuffled TD error", policy=ShuffledTdPolicy, n_seeds=10),
    Row(WINDY, "softmax of a table", _SOFTMAX, SoftmaxOfCurves, n_seeds=10),  # the input is a line per cell
)


class Result(NamedTuple):
    """What one training came to."""

    mean: float  # return of episodes with drawn spikes
    likely: float  # return of episodes with the most likely actions, NaN where there are none
    solved: float  # env steps, NaN if it never was
    n_steps: int
    seconds: float  # CPU
    ticks: float
    spikes: float
    on_chip: float  # return of the compiled network, NaN where none was wanted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark glm``."""
    names, tasks = list(dict.fromkeys(row.name for row in ROWS)), list(BARS)
    add = parser.add_argument
    add("--tasks", nargs="+", choices=tasks, default=tasks, metavar="TASK", help=f"{tasks}")
    add("--rows", nargs="+", choices=names, default=names, metavar="ROW", help=f"{names}")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 3000 ... 3019")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change hyperparameters of every row")
    add("--chip", choices=sorted(TARGETS), default=None, help="also play the network compiled for this chip")


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    changes = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in args.set)}
    bars = ", ".join(f"{bar:g} in {env}" for env, bar in BARS.items())
    print(f"The presets' budgets, then {EPISODES} episodes with frozen weights and drawn spikes. The bar: {bars}.\n")
    columns = ["task", "learner", "env steps", "mean ± sd", "worst", "rate", "each seed", "most likely action: mean"]
    columns += ["solved: median", "least", "most", "ticks", "output spikes", "CPU s"]
    columns += [f"on {args.chip}: mean ± sd", "worst"] if args.chip else []
    print_head([*columns, "wanted"])
    for row in ROWS:
        if row.task in args.tasks and row.name in args.rows:
            results = [train_one(row, seed, changes, args.chip) for seed in args.seeds[: row.n_seeds]]
            print_row(_cells(row, results, bool(args.chip)))


def train_one(row: Row, seed: int, changes: Mapping[str, Any], chip: str | None = None) -> Result:
    """Train with the preset and play at the end."""
    _use_threads(1 + seed % 2)
    presets = yaml.safe_load(hyperparams_file("glm").read_text("utf-8"))
    preset = {**copy.deepcopy(presets[row.task]), **row.changes, **changes}
    budget, _ = preset.pop("n_timesteps"), preset.pop("n_envs", 1)
    preset["policy_kwargs"] = {**preset.get("policy_kwargs", {}), **row.policy_kwargs}
    preset["learning_rate"] = schedule_of(preset["learning_rate"])
    del preset["policy"]
    monitor = Monitor(gym.make(row.task))
    model = GLM(row.policy, monitor, seed=seed, **preset)
    begin = time.process_time()
    model.learn(budget, log_interval=None)
    seconds = time.process_time() - begin
    n_steps, (steps, ticks, _, spikes) = model.num_timesteps, model.policy.counts.copy()
    lengths, returns = np.array(monitor.get_episode_lengths()), np.array(monitor.get_episode_rewards())
    solved = solved_at(np.cumsum(lengths), returns, BARS[row.task])
    likely = _greedy(model, row.task, seed, True) if row.name == "glm" else np.nan
    on_chip = np.nan
    if chip is not None and row.name == "glm":
        policy = DeployedPolicy(compile_network(model.to_network(), chip), np.random.default_rng(seed))
        on_chip = _greedy(policy, row.task, seed, False)
    mean = play(model, row.task, seed)
    shares: tuple[float, float] = (ticks / steps, spikes / steps) if steps else (np.nan, np.nan)
    return Result(mean, likely, solved, n_steps, seconds, *shares, on_chip)


def play(model: GLM, task: str, seed: int, n_episodes: int | None = None) -> float:
    """Return the mean return of a trained model's episodes as they are in training, with all rates 0."""
    monitor = Monitor(gym.make(task))
    model.set_env(monitor)
    model.set_random_seed(10_000 + seed)
    model.learning_rate = 0.0
    model._setup_lr_schedule()
    model.max_episodes = model._episode_num + (EPISODES if n_episodes is None else n_episodes)
    model.learn(10**9, log_interval=None, reset_num_timesteps=False)
    return float(np.mean(monitor.get_episode_rewards()))


def _greedy(player: Any, task: str, seed: int, deterministic: bool) -> float:
    """Return the mean return of episodes in Gymnasium's own loop, 20 side by side."""
    env = make_vec_env(task, n_envs=20, seed=10_000 + seed)
    return float(evaluate_policy(player, env, EPISODES, deterministic)[0])  # type: ignore[arg-type]


def _use_threads(n: int) -> None:
    th.set_num_threads(n)
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


def _cells(row: Row, results: list[Result], with_chip: bool) -> list[str]:
    means, likely, solved, n_steps, seconds, ticks, spikes, on_chip = (
        np.array(column, np.float64) for column in zip(*results, strict=True)
    )
    late = np.where(np.isfinite(solved), solved, np.inf)  # a seed that never reaches the bar counts as later than all
    at = [f"{value:,.0f}" if np.isfinite(value) else "-" for value in (np.median(late), late.min(), late.max())]
    chip = [mean_and_deviation(on_chip), f"{on_chip.min():.1f}"] if np.isfinite(on_chip).all() else ["", ""]
    return [
        row.task,
        row.name,
        f"{n_steps.mean():,.0f}",
        mean_and_deviation(means),
        f"{means.min():.1f}",
        f"{np.sum(means >= BARS[row.task])} of {len(means)}",
        each(means),
        f"{likely.mean():.1f}" if np.isfinite(likely).all() else "",
        *at,
        f"{ticks.mean():.2f}" if np.isfinite(ticks).all() else "",
        f"{spikes.mean():.2f}" if np.isfinite(spikes).all() else "",
        f"{seconds.mean():.1f}",
        *(chip if with_chip else []),
        row.wanted,
    ]
