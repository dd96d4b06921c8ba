"""Policies trained by equilibrium propagation, actor and critic, with controls that each change one thing.

Every row trains from its preset for the preset's budget, on held-out seeds, and is judged by its last weights: the
exported network plays 100 greedy episodes in ``Simulator``. Policies of spikes have presets of their own. "Spikes" is
the share of bits that are spikes, of all units and steps of settling; units of the rate code send numbers. "Coupling"
is the square of the largest singular value between hidden units and outputs at the end of training, which is kept at
0.9 or below. Controls:

- MLP critic: the critic is SB3's, trained by backpropagation;
- frozen: what hidden units get from the input stays as it was drawn, in actor and critic;
- value scale 20: the critic's steps are 40 times as large as the preset's, where rewards are normalised;
- random feedback: in the nudged phases hidden units hear of the nudge through random weights, in actor and critic.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from spikeloop.scripts.bench.presets import EPISODES, add_row_arguments, judged, return_cells
from spikeloop.scripts.bench.tables import print_head, print_row

SEEDS = tuple(range(3100, 3110))  # never used to choose a setting of these policies
CARTPOLE, ACROBOT = "CartPole-v1", "Acrobot-v1"
SPIKES = "equilibrium_spikes"


class Row(NamedTuple):
    """A training: a preset, and what is changed of its policy."""

    env: str
    policy: Mapping[str, Any] = {}
    wanted: str = ""
    algo: str = "equilibrium"


class Result(NamedTuple):
    """What one training came to."""

    mean: float  # return
    spikes: float  # share of bits
    coupling: float
    seconds: float  # of processor time


ROWS = {
    "CartPole": Row(CARTPOLE, wanted=">= 475"),
    "CartPole, MLP critic": Row(CARTPOLE, {"critic": "mlp"}),
    "CartPole, frozen": Row(CARTPOLE, {"train_hidden": False}, "less"),
    "CartPole, random feedback": Row(CARTPOLE, {"feedback": "random"}),
    "CartPole, spikes": Row(CARTPOLE, {}, ">= 450", SPIKES),
    "CartPole, spikes, frozen": Row(CARTPOLE, {"train_hidden": False}, "less", SPIKES),
    "Acrobot": Row(ACROBOT, wanted=">= -100"),
    "Acrobot, MLP critic": Row(ACROBOT, {"critic": "mlp", "value_scale": 20.0}),  # the preset's is for the other critic
    "Acrobot, value scale 20": Row(ACROBOT, {"value_scale": 20.0}, "less"),
    "Acrobot, frozen": Row(ACROBOT, {"train_hidden": False}, "less"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark equilibrium``."""
    add_row_arguments(parser, SEEDS, ROWS)


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    torch.set_num_threads(1)
    print(f"{EPISODES} greedy episodes after training, seeds {args.seeds}\n")
    head = ["policy", "return, mean ± sd", "worst", "each seed", "spikes", "largest coupling", "CPU s", "wanted"]
    print_head(head)
    for name in args.rows:
        results = [_judge(ROWS[name], seed, args.n_timesteps) for seed in args.seeds]
        returns = np.array([result.mean for result in results])
        cells = [name, *return_cells(returns)]
        spikes = np.mean([result.spikes for result in results])
        cells += [f"{spikes:.1%}" if spikes else "", f"{max(result.coupling for result in results):.2f}"]
        print_row([*cells, f"{np.mean([result.seconds for result in results]):.0f}", ROWS[name].wanted])


def _judge(row: Row, seed: int, n_timesteps: int | None) -> Result:
    simulator, mean, seconds = judged(row.algo, row.env, row.policy, seed, n_timesteps, n_envs=50)
    (layer,), (count,) = simulator.network.layers, simulator.spike_counts
    coupling = float(np.linalg.norm(layer.w_out, 2) ** 2)
    return Result(mean, float(count.mean() / simulator.n_counted), coupling, seconds)
