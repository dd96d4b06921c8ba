"""An LSNN that learns on the emulated chip from scratch, over held-out seeds: do its hidden synapses learn there?

Every row learns by the preset of ``eprop_chip.yml`` and is judged by its last weights, with learning engines that stand
still: the mean return of greedy episodes on other starts. Input, recurrent and readout synapses learn by rule text from
traces of spikes, y3 and r1 (:mod:`spikeloop.hardware.loihi.lsnn_learner` says what the host computes). The controls:

- frozen: only the readout learns, at the best of the settings tried on seeds 0 to 2, biases twice as large and
  half the rate;
- feedback permuted: which neuron gets whose learning signal is drawn anew for each episode;
- r1 = 0: nothing learns;
- no slow trace: the hidden rule has no x2, which stands for the eligibility of adaptation;
- beta = 0: no neuron adapts;
- y1: the host reads no membranes, and a neuron's own trace stands for its pseudo-derivative.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents import EProp
from spikeloop.agents.registry import hyperparams_file
from spikeloop.envs.compiled import compiled_of, shown_components
from spikeloop.hardware import ChipLsnn
from spikeloop.scripts.bench.schedules import schedule_of
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row

SEEDS = tuple(range(3120, 3130))  # never used to choose a setting
EPISODES, SOLVED = 100, 475.0
CARTPOLE, NO_VELOCITY = "CartPole-v1", "spikeloop/CartPoleNoVel-v0"


class Row(NamedTuple):
    """A training: arguments of EProp that differ from the preset's, those of policy and backend apart."""

    env: str
    name: str
    changes: Mapping[str, Any] = {}
    policy: Mapping[str, Any] = {}
    backend: Mapping[str, Any] = {}
    permuted: bool = False


_ONE = {"n_copies": 1}
_EIGHT, _RESIDUE = {"n_neurons": 8}, {"residue": True, **_ONE}
_FROZEN: dict[str, Any] = {
    "changes": {"train_hidden": False, "actor_scale": 0.31},
    "policy": {"bias_scale": 1.0},
}
# What was learned with before the host read membranes.
_RATES = {"learning_rate": "lin_0.5", "actor_scale": 0.744, "value_scale": 0.2}
_Y1 = {"pseudo_derivative": "spikes", **_ONE}
ROWS = (
    Row(NO_VELOCITY, "4 synapses a weight"),
    Row(NO_VELOCITY, "1 synapse a weight", backend=_ONE),
    Row(NO_VELOCITY, "1 synapse a weight, residue", backend=_RESIDUE),
    Row(NO_VELOCITY, "frozen", **_FROZEN),
    Row(NO_VELOCITY, "feedback permuted", permuted=True),
    Row(NO_VELOCITY, "no slow trace", backend={"slow": False}),
    Row(NO_VELOCITY, "beta = 0", policy={"beta": 0.0}),
    Row(NO_VELOCITY, "r1 = 0", changes={"learning_rate": 0.0}),
    Row(NO_VELOCITY, "y1, 1 synapse a weight", _RATES, backend=_Y1),
    Row(NO_VELOCITY, "y1, 1 synapse a weight, residue", _RATES, backend={**_Y1, **_RESIDUE}),
    Row(NO_VELOCITY, "y1, 4 synapses a weight", _RATES, backend={**_Y1, "n_copies": 4}),
    Row(CARTPOLE, "16 neurons"),
    Row(CARTPOLE, "16 neurons, 4 synapses a weight", backend={"n_copies": 4}),
    Row(CARTPOLE, "16 neurons, frozen", **_FROZEN),
    Row(CARTPOLE, "8 neurons", policy=_EIGHT),
    Row(CARTPOLE, "8 neurons, residue", policy=_EIGHT, backend=_RESIDUE),
    Row(CARTPOLE, "8 neurons, frozen", _FROZEN["changes"], {**_FROZEN["policy"], **_EIGHT}),
)


class _Permute(BaseCallback):
    """Draws anew for each episode which neuron gets whose learning signal."""

    def _on_rollout_start(self) -> None:
        policy: Any = self.model.policy
        feedback = policy.network.feedback
        feedback[:] = feedback[:, policy.rng.permutation(feedback.shape[1])]

    def _on_step(self) -> bool:
        return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark chip-lsnn``."""
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 3120 ... 3129")
    parser.add_argument("--env", choices=[NO_VELOCITY, CARTPOLE], default=None, help="one of the tasks (default both)")
    text = "learn for no more than so many env steps (default: the presets')"
    parser.add_argument("-n", "--n-timesteps", type=int, default=None, help=text)
    names = sorted({row.name for row in ROWS})
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="networks to train (default all)")


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained."""
    presets = yaml.safe_load(hyperparams_file("eprop_chip").read_text(encoding="utf-8"))
    print(f"The presets' budgets, then {EPISODES} greedy episodes with the last weights.\n")
    columns = ["task", "network", "return, mean ± sd", "worst", f"at least {SOLVED:g}", "each seed"]
    print_head([*columns, "env steps", "µs a step"])
    for row in ROWS:
        if (args.env or row.env) != row.env or row.name not in args.rows:
            continue
        preset = dict(presets[row.env])
        preset["n_timesteps"] = min(args.n_timesteps or np.inf, preset["n_timesteps"])
        returns, steps, micros = np.array([learned(preset, row, seed) for seed in args.seeds]).T
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


def learned(preset: Mapping[str, Any], row: Row, seed: int) -> tuple[float, int, float]:
    """Learn once and return the mean return of greedy episodes, the env steps and what one took in microseconds."""
    settings = {name: value for name, value in preset.items() if name not in ("n_timesteps", "n_envs")}
    settings |= {
        **row.changes,
        "learning_rate": schedule_of({**settings, **row.changes}["learning_rate"]),
        "policy_kwargs": {**settings["policy_kwargs"], **row.policy},
        "backend_kwargs": {**settings.get("backend_kwargs", {}), **row.backend},
    }
    env = gym.make(row.env)
    model = EProp(env=Monitor(env), seed=seed, backend=ChipLsnn, **settings)
    begin = time.perf_counter()
    model.learn(int(preset["n_timesteps"]), _Permute() if row.permuted else None, log_interval=None)
    micros = 1e6 * (time.perf_counter() - begin) / model.num_timesteps
    starts = np.random.default_rng(10_000 + seed).uniform(-0.05, 0.05, (EPISODES, 4))
    return float(_played(model.policy, env, starts).mean()), model.num_timesteps, micros


def _played(policy: Any, env: gym.Env, states: np.ndarray) -> np.ndarray:
    """Return the returns of greedy episodes that begin in ``states``, all played at once."""
    task = compiled_of(env)
    assert task is not None
    keep, body, limit = shown_components(env, task.n_obs), task.body(env), int(env.spec.max_episode_steps)  # type: ignore[union-attr, arg-type]
    returns, goes_on, obs, carried = np.zeros(len(states)), np.ones(len(states), bool), np.empty(task.n_obs), None
    for _ in range(limit):
        actions, carried = policy.predict(states[:, keep].astype(np.float32), carried, deterministic=True)
        for b in np.flatnonzero(goes_on):
            reward, terminated = task.step(states[b], int(actions[b]), body, obs)
            returns[b] += reward
            goes_on[b] = not terminated
        if not goes_on.any():
            break
    return returns
