"""Policies of exact spike times trained by PPO, beside the LSNN's, with controls that each take one thing away.

Every row trains from its preset for the same fixed budget, on held-out seeds, and is judged by its last weights: the
exported network plays 100 greedy episodes in ``Simulator``. Beside the return stand the spikes of all neurons per
decision. For spike times there is also when the action was known, which is at the first output spike (tau is 1 ms), and
how often that was in time: before the pulse that makes outputs fire which nothing else has driven. Controls:

- no deadline: without that pulse to any neuron, so that outputs may fall silent;
- frozen: the hidden layer stays as it was drawn;
- unpaced: the outputs have the hidden neurons' threshold, which humps of the membrane reach, the weights of all their
  trained pulses begin at 0, and logits are half as steep.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from spikeloop.scripts.bench.presets import EPISODES, add_row_arguments, judged, return_cells
from spikeloop.scripts.bench.tables import print_head, print_row

SEEDS = tuple(range(3000, 3005))  # never used to choose a setting of these policies
CARTPOLE, ACROBOT = "CartPole-v1", "Acrobot-v1"


class Row(NamedTuple):
    """A training: a preset, and what is changed of its policy."""

    env: str
    algo: str = "spike_time"
    policy: Mapping[str, Any] = {}
    wanted: str = ""


class Result(NamedTuple):
    """What one training came to."""

    mean: float  # return
    spikes: float  # per decision
    decided: tuple[float, float]  # mean time of a decision in ms, share before the deadline; NaN without spike times
    seconds: float  # of processor time


ROWS = {
    "CartPole": Row(CARTPOLE, wanted=">= 495"),
    "CartPole, LSNN": Row(CARTPOLE, "spiking_ppo"),
    "CartPole, no deadline": Row(CARTPOLE, policy={"w_deadline": 0.0}, wanted="less"),
    "CartPole, frozen": Row(CARTPOLE, policy={"train_hidden": False}, wanted="less"),
    "CartPole, unpaced": Row(CARTPOLE, policy={"w_pulse": 0.0, "v_th_out": 0.4, "logit_scale": 5.0}, wanted="less"),
    "Acrobot": Row(ACROBOT, wanted=">= -90"),
    "Acrobot, LSNN": Row(ACROBOT, "spiking_ppo"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark spike-time``."""
    add_row_arguments(parser, SEEDS, ROWS)


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    torch.set_num_threads(1)
    print(f"{EPISODES} greedy episodes after training, seeds {args.seeds}\n")
    head = ["policy", "return, mean ± sd", "worst", "each seed", "spikes per decision", "decision after", "in time"]
    print_head([*head, "CPU s", "wanted"])
    for name in args.rows:
        row = ROWS[name]
        results = [_judge(row, seed, args.n_timesteps) for seed in args.seeds]
        returns = np.array([result.mean for result in results])
        (after, early), spikes = np.mean([r.decided for r in results], axis=0), np.mean([r.spikes for r in results])
        cells = [name, *return_cells(returns), f"{spikes:.1f}"]
        cells += ["", ""] if np.isnan(after) else [f"{after:.2f} ms", f"{early:.1%}"]
        print_row([*cells, f"{np.mean([r.seconds for r in results]):.0f}", row.wanted])


def _judge(row: Row, seed: int, n_timesteps: int | None) -> Result:
    simulator, mean, seconds = judged(row.algo, row.env, row.policy, seed, n_timesteps, n_envs=10)
    n_decisions = simulator.n_counted / simulator.network.n_ticks
    spikes = float(sum(count.sum() for count in simulator.spike_counts) / n_decisions)
    decided = (np.nan, np.nan)
    if simulator.steps is not None and simulator.steps.decided is not None:
        n, total, early = simulator.steps.decided
        decided = float(total / n), float(early / n)
    return Result(mean, spikes, decided, seconds)
