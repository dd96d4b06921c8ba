"""Policies of exact spike times trained by PPO, beside the LSNN's, with controls that each take one thing away.

Every row trains from its preset for the same fixed budget, on held-out seeds, and is judged by its last weights: the
exported network plays 100 greedy episodes in ``Simulator``. Beside the return stand the spikes of all neurons per
decision. For spike times there is also when the action was known, which is at the first output spike (tau is 1 ms), and
how often that was in time: before the pulse that makes outputs fire which nothing else has driven. These policies are
then deployed on an emulated chip with the compiler's own settings: "kept" is (chip - random) / (float - random) of the
same number of episodes, "same action" the share of steps with the float network's action on observations of its own
episodes, and "ties" the share of these on which several outputs spiked first on the same tick. Controls:

- no deadline: without that pulse to any neuron, so that outputs may fall silent;
- frozen: the hidden layer stays as it was drawn;
- unpaced: the outputs have the hidden neurons' threshold, which humps of the membrane reach, the weights of all their
  trained pulses begin at 0, and logits are half as steep.

EventProp is the recurrent layer whose neurons spike up to 8 times per decision. It has no output neurons, so nothing is
known before the end of the step. Its controls: without weights between neurons; with one spike per neuron at most; and
with the layer frozen, so that only the readout learns. Two neurons instead of 32 show whether recurrence is worth
something where neurons are few.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from spikeloop.hardware import DeployedPolicy, Deployment
from spikeloop.hardware.recording import record
from spikeloop.scripts.bench.presets import CHIP, EPISODES, add_row_arguments, judged, on_chip, return_cells
from spikeloop.scripts.bench.tables import print_head, print_row
from spikeloop.scripts.compared import kept
from spikeloop.spiking import Network, Simulator

SEEDS = tuple(range(3000, 3005))  # never used to choose a setting of these policies
CARTPOLE, ACROBOT = "CartPole-v1", "Acrobot-v1"


class Row(NamedTuple):
    """A training: a preset, and what is changed of its policy."""

    env: str
    algo: str = "spike_time"
    policy: Mapping[str, Any] = {}
    wanted: str = ""


class OnChip(NamedTuple):
    """What a policy came to on the chip; NaN where it is not deployed, or its float network is not above chance."""

    kept: float = np.nan
    agreement: float = np.nan  # share of observations
    ties: float = np.nan  # share of observations


class Result(NamedTuple):
    """What one training came to."""

    mean: float  # return
    spikes: float  # per decision
    decided: tuple[float, float]  # mean time of a decision in ms, share before the deadline; NaN without spike times
    seconds: float  # of processor time
    on_chip: OnChip


ROWS = {
    "CartPole": Row(CARTPOLE, wanted=">= 495"),
    "CartPole, LSNN": Row(CARTPOLE, "spiking_ppo"),
    "CartPole, no deadline": Row(CARTPOLE, policy={"w_deadline": 0.0}, wanted="less"),
    "CartPole, frozen": Row(CARTPOLE, policy={"train_hidden": False}, wanted="less"),
    "CartPole, unpaced": Row(CARTPOLE, policy={"w_pulse": 0.0, "v_th_out": 0.4, "logit_scale": 5.0}, wanted="less"),
    "CartPole, EventProp": Row(CARTPOLE, "event_prop", wanted=">= 495"),
    "CartPole, EventProp, not recurrent": Row(CARTPOLE, "event_prop", {"recurrent": False}),
    "CartPole, EventProp, one spike": Row(CARTPOLE, "event_prop", {"max_spikes": 1}),
    "CartPole, EventProp, frozen": Row(CARTPOLE, "event_prop", {"train_hidden": False}, wanted="less"),
    "CartPole, EventProp, 2 neurons": Row(CARTPOLE, "event_prop", {"n_neurons": [2]}),
    "CartPole, EventProp, 2 neurons, not recurrent": Row(
        CARTPOLE, "event_prop", {"n_neurons": [2], "recurrent": False}
    ),
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
    print_head([*head, f"kept on {CHIP}, mean", "worst", "same action", "ties", "CPU s", "wanted"])
    for name in args.rows:
        row = ROWS[name]
        results = [_judge(row, seed, args.n_timesteps) for seed in args.seeds]
        returns = np.array([result.mean for result in results])
        (after, early), spikes = np.mean([r.decided for r in results], axis=0), np.mean([r.spikes for r in results])
        cells = [name, *return_cells(returns), f"{spikes:.1f}"]
        cells += ["", ""] if np.isnan(after) else [f"{after:.2f} ms", f"{early:.1%}"]
        cells += _chip_cells(np.array([r.on_chip for r in results]))
        print_row([*cells, f"{np.mean([r.seconds for r in results]):.0f}", row.wanted])


def _judge(row: Row, seed: int, n_timesteps: int | None) -> Result:
    simulator, mean, seconds = judged(row.algo, row.env, row.policy, seed, n_timesteps, n_envs=10)
    n_decisions = simulator.n_counted / simulator.network.n_ticks
    spikes = float(sum(count.sum() for count in simulator.spike_counts) / n_decisions)
    decided = (np.nan, np.nan)
    if simulator.steps is not None and simulator.steps.decided is not None:
        n, total, early = simulator.steps.decided
        decided = float(total / n), float(early / n)
    deployed = _on_chip(simulator.network, row.env, seed) if row.algo == "spike_time" else OnChip()
    return Result(mean, spikes, decided, seconds, deployed)


def _chip_cells(found: np.ndarray) -> list[str]:
    """Return the cells of what seeds came to on the chip, shape (n_seeds, 3); empty ones where nothing is known."""
    if np.all(np.isnan(found)):
        return [""] * 4
    kept_of_seeds, agreement, ties = found.T
    known = kept_of_seeds[~np.isnan(kept_of_seeds)]
    shares = [f"{known.mean():.1%}", f"{known.min():.1%}"] if known.size else ["undefined"] * 2
    return [*shares, f"{agreement.mean():.1%}", f"{ties.mean():.1%}"]


def _on_chip(network: Network, env_id: str, seed: int) -> OnChip:
    deployment, seen, returns = on_chip(network, env_id, seed)
    share, rows = kept(returns)["kept"], seen[:, 0]
    same = DeployedPolicy(deployment).predict(rows)[0] == Simulator(network).predict(rows)[0]
    return OnChip(np.nan if share is None else share, float(same.mean()), _ties(deployment, rows))


def _ties(deployment: Deployment, rows: np.ndarray) -> float:
    """Return the share of observations, (B, n_obs), on which several outputs spike first on the same tick."""
    outputs = record(deployment, rows[None]).layers[-1]
    first = np.full((len(rows), deployment.host.readout.n_outputs), np.inf)
    np.minimum.at(first, (outputs.env, outputs.i), outputs.t)
    earliest = first.min(axis=1, keepdims=True)
    return float(np.mean(np.sum((first == earliest) & np.isfinite(first), axis=1) > 1))
