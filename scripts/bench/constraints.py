"""Constraints on weights: returns, in float and on the chip, and recurrent synapses.

Every row is the preset of ``spiking_ppo``, chip-ready, with a recurrent layer and the constraint that it names, trained
once per seed and judged by its last weights over 100 episodes, most likely actions. Kept is
(chip - random) / (float - random).

The first rows learn CartPole without velocities. Those of ``deep_r`` and ``static`` have 10 % of the recurrent
synapses, and a fifth of their neurons inhibits. Controls:

- "static" has as many synapses as "deep_r", drawn once, and nothing is rewired;
- "dense" has no constraint;
- "no recurrence" is the preset as it is, which has no recurrent weights;
- with "beta = 0" no neuron adapts, so that a memory longer than a membrane's lies in the recurrent weights.

Rows of "binary" have binary weights in all but the readout; those named "CartPole" learn CartPole-v1 for 100,000 env
steps. Controls:

- "dense, then binary" is the training of "dense", and its weights are made binary after it;
- "drawn binary" keeps the binary weights that it begins with, and learns readout and biases alone, in torch.

Synapses are the recurrent ones that the program stores: those whose weight does not round to 0. Their memory is a share
of what a layer with all of them would take.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.hardware.loihi.program import Program
from spikeloop.hardware.loihi.resources import list_words, lists
from spikeloop.scripts.bench.presets import CHIP, add_row_arguments, on_chip, return_cells, untrained
from spikeloop.scripts.bench.tables import mean_and_deviation, print_head, print_row
from spikeloop.scripts.compared import kept
from spikeloop.spiking.constraints.base import begin
from spikeloop.spiking.constraints.binary import Binary
from spikeloop.spiking.network import Network

SEEDS = tuple(range(3200, 3205))  # never used to choose a setting
ENV, ALGO = "spikeloop/CartPoleNoVel-v0", "spiking_ppo"


class Row(NamedTuple):
    """A training: what differs from the preset's policy, and what is done before or after it."""

    policy: Mapping[str, Any]
    wanted: str = ""
    env: str = ENV
    n_timesteps: int | None = None  # None for the preset's
    frozen: bool = False  # whether constrained weights stay what they were drawn
    binarised: bool = False  # whether weights are made binary after the training


class Result(NamedTuple):
    """Figures of one training."""

    returned: float  # in float
    on_chip: float
    kept: float  # NaN where the float network is not above chance
    synapses: int  # recurrent ones whose weight is not 0 on the chip
    memory: float  # share of the memory of dense recurrent weights
    seconds: float  # processor time of the training


def _sparse(constraint: str) -> dict[str, Any]:
    share = {"connectivity": 0.1, "inhibitory": 0.2}
    return {"recurrent": True, "constraint": constraint, "constraint_kwargs": share}


_ROWS = {
    "deep_r": Row(_sparse("deep_r"), ">= 450, memory <= 25 %"),
    "static": Row(_sparse("static")),
    "dense": Row({"recurrent": True}),
    "no recurrence": Row({}),
}
_BINARY = {
    "binary": Row({"recurrent": True, "constraint": "binary"}),
    "dense, then binary": _ROWS["dense"]._replace(binarised=True),
}
_ON_CARTPOLE = {
    "binary": _BINARY["binary"]._replace(wanted=">= 475"),
    "dense": _ROWS["dense"],
    "dense, then binary": _BINARY["dense, then binary"],
    "drawn binary": _BINARY["binary"]._replace(frozen=True),
}
ROWS = (
    _ROWS
    | {f"{name}, beta = 0": row._replace(policy={**row.policy, "beta": 0.0}) for name, row in _ROWS.items()}
    | _BINARY
    | {f"CartPole, {name}": row._replace(env="CartPole-v1", n_timesteps=100_000) for name, row in _ON_CARTPOLE.items()}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark constraints``."""
    add_row_arguments(parser, SEEDS, ROWS)


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    torch.set_num_threads(1)
    print(f'{ENV}, rows "CartPole" CartPole-v1, seeds {" ".join(map(str, args.seeds))}\n')
    columns = ["constraint", "mean ± sd", "worst", "each seed", f"on {CHIP}, mean ± sd", "kept", "recurrent synapses"]
    print_head([*columns, "their memory", "CPU s", "wanted"])
    for name in args.rows:
        print_row(_cells(name, [_measured(ROWS[name], seed, args.n_timesteps) for seed in args.seeds]))


def _cells(name: str, results: list[Result]) -> list[str]:
    returned, deployed, share, synapses, memory, seconds = (np.array(c, float) for c in zip(*results, strict=True))
    known = share[~np.isnan(share)]
    shown = [name, *return_cells(returned), mean_and_deviation(deployed)]
    shown += [f"{known.mean():.1%}" if known.size else "undefined", f"{synapses.mean():,.0f}", f"{memory.mean():.1%}"]
    return [*shown, f"{seconds.mean():.0f}", ROWS[name].wanted]


def _measured(row: Row, seed: int, n_timesteps: int | None) -> Result:
    """Train, and judge by the last weights."""
    began = time.process_time()
    model, budget = untrained(ALGO, row.env, row.policy, seed, n_timesteps or row.n_timesteps, for_chip=True)
    if row.frozen:
        assert model.policy.constraint is not None
        for w in model.policy.constraint.weights:
            w.requires_grad_(False)
    network = model.learn(budget).to_network()
    if row.binarised:
        network = binary_after_training(network)
    seconds = time.process_time() - began
    deployment, _, returns = on_chip(network, row.env, seed)
    share, (synapses, memory) = kept(returns)["kept"], recurrent_synapses(deployment.program)
    mean, on = (float(np.mean(returns[name])) for name in ("float", "chip"))
    return Result(mean, on, np.nan if share is None else share, synapses, memory, seconds)


def binary_after_training(network: Network) -> Network:
    """Return a network whose spiking layers have the signs of their weights, times the mean size for each neuron."""

    def binary(w: np.ndarray, recurrent: bool) -> np.ndarray:
        return Binary.acting(begin(Binary(), w, None, recurrent, np.random.default_rng(0)))  # which draws nothing

    layers = tuple(
        dataclasses.replace(
            layer,
            w_in=binary(layer.w_in, recurrent=False),
            w_rec=None if layer.w_rec is None else binary(layer.w_rec, recurrent=True),
        )
        for layer in network.layers
    )
    return dataclasses.replace(network, layers=layers)


def recurrent_synapses(program: Program) -> tuple[int, float]:
    """Return how many recurrent synapses a program stores, and their memory as a share of what all would take."""
    synapses = stored = dense = 0
    for projection, _, targets, sizes in lists(program):
        if projection.name == "layer 0 recurrent":
            synapses += int(sizes.sum())
            stored += list_words(projection, sizes, len(targets), 0)
            dense += list_words(projection, np.full_like(sizes, len(targets)), len(targets), 0)
    return synapses, stored / dense if dense else 0.0
