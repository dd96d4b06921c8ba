"""Probabilistic networks that draw their spikes and learn on the emulated chip: held-out seeds, controls, and float.

Every row trains with the preset of ``glm_chip.yml``, and then plays 100 episodes with frozen weights and with spikes
drawn by the chip as in training. No checkpoint is picked, and no seed is left out. The row "float" has the same task in
floating point with logistic neurons, and the preset of ``glm.yml``. The other rows differ from the first:

- no learning: r1 is always 0;
- shuffled TD error: r1 is drawn at random from the last 1,000; the critic learns from the right TD errors;
- three synapses: each weight is the sum of three 8-bit synapses, and twice the noise makes their steps finer;
- residue: each weight has a second synapse that holds four more bits, which no Loihi has;
- three variates, one variate: the noise is the sum of three uniform variates, or one, instead of eight, so that the
  spike probability has shorter tails, or none. The variates are twice as large, so weights have steps about as fine.

Solved is the env step at which the mean of the last 20 training episodes first reaches 475; the table has its median,
least and most over the seeds. Ticks and output spikes are means per env step over the whole training.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import yaml
from stable_baselines3.common.monitor import Monitor

from spikeloop.agents.glm import GLM
from spikeloop.agents.registry import hyperparams_file
from spikeloop.hardware import ChipGlm
from spikeloop.scripts.bench.glm import BARS, CARTPOLE, EPISODES, RECENT, play
from spikeloop.scripts.bench.local import solved_at
from spikeloop.scripts.bench.schedules import schedule_of
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row

SEEDS = tuple(range(3120, 3140))  # never used to choose a setting


class ShuffledTd(ChipGlm):
    """A control that learns from TD errors of other env steps."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._recent: deque[int] = deque(maxlen=RECENT)

    def criticise(self, lines: np.ndarray, reward: float, ending: int, progress: float) -> int:
        """Update the critic, and return the TD error of a random recent env step."""
        self._recent.append(super().criticise(lines, reward, ending, progress))
        return self._recent[self.rng.integers(len(self._recent))]


class _Plain(gym.Wrapper):
    """A wrapper that changes nothing; behind it the environment is not run compiled."""


class Row(NamedTuple):
    """A training: its changes to the preset."""

    name: str
    changes: Mapping[str, Any] = {}
    backend: Mapping[str, Any] = {}
    network: type[ChipGlm] | None = ChipGlm  # None: in float
    n_seeds: int = 20
    wanted: str = ""


ROWS = (
    Row("8-bit", wanted="mean >= 475"),
    Row("float", network=None),
    Row("no learning", {"learning_rate": 0.0, "n_timesteps": 1000}, n_seeds=5),
    Row("shuffled TD error", network=ShuffledTd, n_seeds=5),
    Row("three synapses", backend={"n_copies": 3, "noise_exponent": 15}),
    Row("residue", backend={"residue": True}, n_seeds=10),
    Row("three variates", backend={"n_noise": 3, "noise_exponent": 15}, n_seeds=10),
    Row("one variate", backend={"n_noise": 1, "noise_exponent": 15}, n_seeds=10),
)


class Result(NamedTuple):
    """Figures of one training."""

    mean: float  # mean return of episodes with drawn spikes
    solved: float  # env step at which it was solved, NaN if it never was
    n_steps: int
    seconds: float  # CPU
    ticks: float
    spikes: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark chip-glm``."""
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW", help=f"{names}")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 3120 ... 3139")
    text = "change hyperparameters of every row"
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help=text)


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    changes = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in args.set)}
    print(f"The presets' budgets, then {EPISODES} episodes with frozen weights and spikes drawn by the chip.\n")
    columns = ["network", "env steps", "mean ± sd", "worst", f"at least {BARS[CARTPOLE]:g}", "each seed"]
    print_head([*columns, "solved: median", "least", "most", "ticks", "output spikes", "CPU s", "wanted"])
    for row in ROWS:
        if row.name in args.rows:
            print_row(_cells(row, [train_one(row, seed, changes) for seed in args.seeds[: row.n_seeds]]))


def train_one(row: Row, seed: int, changes: Mapping[str, Any]) -> Result:
    """Train with the preset and play at the end."""
    presets = yaml.safe_load(hyperparams_file("glm_chip" if row.network else "glm").read_text("utf-8"))
    preset = {**copy.deepcopy(presets[CARTPOLE]), **row.changes, **changes}
    budget, _ = preset.pop("n_timesteps"), preset.pop("n_envs", 1)
    preset["learning_rate"] = schedule_of(preset["learning_rate"])
    if row.network:
        preset["backend"] = row.network
        preset["backend_kwargs"] = {**preset.get("backend_kwargs", {}), **row.backend}
    env = gym.make(CARTPOLE)
    monitor = Monitor(env if row.network in (None, ChipGlm) else _Plain(env))
    model = GLM(env=monitor, seed=seed, **preset)
    begin = time.process_time()
    model.learn(budget, log_interval=None)
    seconds = time.process_time() - begin
    n_steps, (steps, ticks, _, spikes, *_) = model.num_timesteps, model.policy.counts.copy()
    lengths, returns = np.array(monitor.get_episode_lengths()), np.array(monitor.get_episode_rewards())
    solved = solved_at(np.cumsum(lengths), returns, BARS[CARTPOLE])
    return Result(play(model, CARTPOLE, seed), solved, n_steps, seconds, ticks / steps, spikes / steps)


def _cells(row: Row, results: list[Result]) -> list[str]:
    means, solved, n_steps, seconds, ticks, spikes = (
        np.array(column, np.float64) for column in zip(*results, strict=True)
    )
    late = np.where(np.isfinite(solved), solved, np.inf)  # a seed that never reaches the bar counts as later than all
    at = [f"{value:,.0f}" if np.isfinite(value) else "-" for value in (np.median(late), late.min(), late.max())]
    return [
        row.name,
        f"{n_steps.mean():,.0f}",
        mean_and_deviation(means),
        f"{means.min():.1f}",
        f"{np.sum(means >= BARS[CARTPOLE])} of {len(means)}",
        each(means),
        *at,
        f"{ticks.mean():.2f}",
        f"{spikes.mean():.2f}",
        f"{seconds.mean():.1f}",
        row.wanted,
    ]
