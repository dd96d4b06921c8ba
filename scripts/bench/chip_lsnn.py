"""An LSNN that learns on the emulated chip from scratch, over held-out seeds: do its hidden synapses learn there?

Every row learns for the same fixed budget and is judged by its last weights, on an emulator whose learning engines
stand still: the mean return of greedy episodes on other starts. Input, recurrent and readout synapses learn by rule
text from traces of spikes, y3 and r1 (:mod:`spikeloop.hardware.loihi.lsnn_learner` says what the host computes).
The controls:

- frozen: only the readout learns, at the best of the four settings tried on seeds 0 to 2, biases
  twice as large and half the rate;
- feedback permuted: which neuron gets whose learning signal is drawn anew for each episode;
- r1 = 0: nothing learns;
- no slow trace: the hidden rule has no x2, which stands for the eligibility of adaptation;
- beta = 0: no neuron adapts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import yaml

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents.critic_code import critic_code
from spikeloop.agents.registry import hyperparams_file
from spikeloop.envs.compiled import compiled_of, shown_components
from spikeloop.hardware.loihi.lsnn_learner import ChipLsnn, ChipLsnnParameters, FrozenChipLsnn
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row

SEEDS = tuple(range(100, 110))  # never used to choose a setting
EPISODES, SOLVED = 100, 475.0
CARTPOLE, NO_VELOCITY = "CartPole-v1", "spikeloop/CartPoleNoVel-v0"


class Row(NamedTuple):
    """A training: numbers that differ from the defaults."""

    env: str
    name: str
    parameters: Mapping[str, Any] = {}
    permuted: bool = False


_EIGHT, _RESIDUE = {"n_neurons": 8}, {"residue": True}
_FROZEN = {"train_hidden": False, "bias_scale": 1.0, "r1_scale": 128.0}
ROWS = (
    Row(NO_VELOCITY, "8-bit"),
    Row(NO_VELOCITY, "8-bit + residue", _RESIDUE),
    Row(NO_VELOCITY, "frozen, residue", {**_FROZEN, **_RESIDUE}),
    Row(NO_VELOCITY, "feedback permuted, residue", _RESIDUE, True),
    Row(NO_VELOCITY, "8-bit, 4 synapses a weight", {"n_copies": 4}),
    Row(NO_VELOCITY, "frozen, 8-bit", _FROZEN),
    Row(NO_VELOCITY, "no slow trace, residue", {"slow": False, **_RESIDUE}),
    Row(NO_VELOCITY, "beta = 0, residue", {"beta": 0.0, **_RESIDUE}),
    Row(NO_VELOCITY, "r1 = 0", {"r1_scale": 0.0}),
    Row(CARTPOLE, "8 neurons, 8-bit", _EIGHT),
    Row(CARTPOLE, "8 neurons, residue", {**_EIGHT, **_RESIDUE}),
    Row(CARTPOLE, "8 neurons, frozen, residue", {**_EIGHT, **_FROZEN, **_RESIDUE}),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark chip-lsnn``."""
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 100 ... 109")
    parser.add_argument("--env", choices=[NO_VELOCITY, CARTPOLE], default=None, help="one of the tasks (default both)")
    text = "learn for no more than so many env steps (default: the presets of eprop)"
    parser.add_argument("-n", "--n-timesteps", type=int, default=None, help=text)
    names = sorted({row.name for row in ROWS})
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="networks to train (default all)")


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    presets = yaml.safe_load(hyperparams_file("eprop").read_text(encoding="utf-8"))
    print(f"The budgets of eprop's presets, then {EPISODES} greedy episodes with the last weights.\n")
    columns = ["task", "network", "return, mean ± sd", "worst", f"at least {SOLVED:g}", "each seed"]
    print_head([*columns, "env steps", "µs a step"])
    for row in ROWS:
        if (args.env or row.env) != row.env or row.name not in args.rows:
            continue
        preset = dict(presets[row.env])
        preset["n_timesteps"] = min(args.n_timesteps or np.inf, preset["n_timesteps"])
        returns, steps, micros = np.array([_learned(preset, row, seed) for seed in args.seeds]).T
        cells = [
            row.env,
            row.name,
            mean_and_deviation(returns, 0),
            f"{returns.min():.0f}",
            f"{np.sum(returns >= SOLVED)} of {len(returns)}",
            each(returns, 0),
            f"{steps.mean():,.0f}",
            f"{np.median(micros):.0f}",
        ]
        print_row(cells)


def _learned(preset: dict[str, Any], row: Row, seed: int) -> tuple[float, int, float]:
    """Learn once and return the mean return of greedy episodes, the env steps and what one took in microseconds."""
    env, policy = gym.make(row.env), preset["policy_kwargs"]
    changes = bool(policy.get("critic_sees_changes", False))
    code = critic_code(policy["critic"], policy["critic_kwargs"], changes, env.observation_space)
    task = compiled_of(env)
    assert code is not None and task is not None
    keep, body = shown_components(env, task.n_obs), task.body(env)
    rng = np.random.default_rng(seed)
    parameters = ChipLsnnParameters(**row.parameters)
    network = ChipLsnn(int(env.action_space.n), policy["obs_scale"], code.n_channels, parameters, rng)  # type: ignore[attr-defined]
    limit = int(env.spec.max_episode_steps)  # type: ignore[union-attr, arg-type]
    starts, n_steps, n_episodes, seconds = np.random.default_rng(10_000 + seed), 0, 0, 0.0
    most_steps, most_episodes = int(preset["n_timesteps"]), preset["max_episodes"] or np.inf
    while n_steps < most_steps and n_episodes < most_episodes:
        if row.permuted:
            network.feedback[:] = network.feedback[:, rng.permutation(parameters.n_neurons)]
        left = 1 - max(n_steps / most_steps, n_episodes / most_episodes)
        state, most = starts.uniform(-0.05, 0.05, task.n_state), min(limit, most_steps - n_steps)
        begin = time.perf_counter()
        taken, _ = network.learn_episode(task.step, state, body, keep, code.table, changes, most, left)
        seconds += (time.perf_counter() - begin) * (n_episodes > 0)  # the first may compile
        n_steps, n_episodes = n_steps + taken, n_episodes + 1
    states = starts.uniform(-0.05, 0.05, (EPISODES, task.n_state))
    played = _played(FrozenChipLsnn(network), task.step, states, body, keep, limit)
    return float(played.mean()), n_steps, 1e6 * seconds / max(n_steps, 1)


def _played(
    player: FrozenChipLsnn, step: Any, states: np.ndarray, body: np.ndarray, keep: np.ndarray, limit: int
) -> np.ndarray:
    """Return the returns of greedy episodes that begin in ``states``, all played at once."""
    returns, goes_on, obs, carried = np.zeros(len(states)), np.ones(len(states), bool), np.empty(states.shape[1]), None
    for _ in range(limit):
        actions, carried = player.predict(states[:, keep], carried)
        for b in np.flatnonzero(goes_on):
            reward, terminated = step(states[b], int(actions[b]), body, obs)
            returns[b] += reward
            goes_on[b] = not terminated
        if not goes_on.any():
            break
    return returns
