"""SpikingPPO where only a memory helps, over held-out seeds, with the controls that say where the memory lies.

Every row trains for the same number of env steps and is judged by its last weights in 100 greedy episodes. In the
control networks parts of the spiking one are missing; sb3-contrib's LSTM learns from rollouts of the same size. Then
the presets' networks are played with part of their state changed in the middle of every episode: set to rest, or
replaced by what it is in another episode, and from there on paid as that other episode pays. Where the memory lies,
the first loses it, and the second takes it along.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import yaml
from sb3_contrib import RecurrentPPO
from sb3_contrib.ppo_recurrent import MlpLstmPolicy
from stable_baselines3.common.env_util import make_vec_env

import spikeloop.envs  # noqa: F401  registers the tasks
from spikeloop.agents.registry import hyperparams_file
from spikeloop.agents.spiking_ppo import SpikingPPO
from spikeloop.scripts.bench.schedules import schedule_of
from spikeloop.scripts.bench.tables import each, mean_and_deviation, print_head, print_row
from spikeloop.spiking.neurons.lsnn import LsnnNeurons

SEEDS = tuple(range(2000, 2010))  # never used to choose a setting
EPISODES = 100
STATE = (*LsnnNeurons.rows, "y")  # of a policy of one layer whose encoder is "direct"
BARS = {
    "TMaze50": 0.99,
    "TMaze100": 0.97,
    "TMaze200": 0.95,
    "RepeatFirst": 0.95,
    "RepeatPrevious": 0.5,
}


class WholeSequences(MlpLstmPolicy):
    """sb3-contrib's LSTM policy, quicker: where a state is cleared only as a sequence begins, it needs no loop."""

    @staticmethod
    def _process_sequence(features: Any, lstm_states: Any, episode_starts: th.Tensor, lstm: Any) -> Any:
        starts = episode_starts.reshape(lstm_states[0].shape[1], -1)  # (n_seq, length)
        if starts[:, 1:].any():
            return MlpLstmPolicy._process_sequence(features, lstm_states, episode_starts, lstm)
        cleared = tuple((1.0 - starts[:, 0]).view(1, -1, 1) * state for state in lstm_states)
        return MlpLstmPolicy._process_sequence(features, cleared, th.zeros_like(episode_starts), lstm)


PRESET = "preset"
SPIKING: dict[str, dict[str, Any]] = {  # what is changed of the preset's policy
    PRESET: {},
    "beta = 0": {"beta": 0.0},
    "beta = 1": {"beta": 1.0},
    "no recurrence": {"recurrent": False},
    "no recurrence, beta = 0": {"recurrent": False, "beta": 0.0},
    "beta = 0, tau_m 50 to 400": {"beta": 0.0, "tau_m": [50.0, 400.0], "w_in_scale": 0.44},
}
LSTMS = {f"LSTM, learning rate {rate}": rate for rate in (0.003, 0.001)}
NETWORKS = [*SPIKING, *LSTMS]


@dataclass(frozen=True)
class Change:
    """What happens to the state in the middle of an episode.

    Args:
        rows: The rows of the state that are changed, by the names that the neurons have for them.
        exchanged: Replace them by those of another episode, which is then the one that pays, instead of zeros.
    """

    rows: tuple[str, ...]
    exchanged: bool = False


_BUT_ADAPTATION = tuple(name for name in STATE if name != "a")
UNCHANGED = "nothing"
CHANGES: dict[str, Change | None] = {
    UNCHANGED: None,
    "adaptation to rest": Change(("a",)),
    "all but adaptation to rest": Change(_BUT_ADAPTATION),
    "adaptation of another episode": Change(("a",), exchanged=True),
    "all but adaptation of another episode": Change(_BUT_ADAPTATION, exchanged=True),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark memory``."""
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help=f"default {SEEDS[0]} to {SEEDS[-1]}")
    parser.add_argument("--tasks", nargs="+", choices=BARS, default=list(BARS), help="default all")
    text = "networks to train (default all)"
    parser.add_argument("--rows", nargs="+", choices=NETWORKS, default=NETWORKS, help=text)
    text = "train no more than so many env steps (default the preset's)"
    parser.add_argument("-n", "--n-timesteps", type=int, default=None, help=text)


def run(args: argparse.Namespace) -> None:
    """Print a row as soon as all its seeds are trained, and in the end what changes of the state do."""
    th.set_num_threads(1)
    presets = yaml.safe_load(hyperparams_file("spiking_ppo").read_text(encoding="utf-8"))
    print(f"{EPISODES} greedy episodes after the last step, seeds {args.seeds}\n")
    columns = ["environment", "network", "env steps", "mean ± sd", "worst", "bar", "rate", "each seed"]
    print_head([*columns, "spikes per neuron and tick", "s"])
    changed = []
    for task, network in itertools.product(args.tasks, args.rows):
        preset, seconds = presets[f"spikeloop/{task}-v0"], 0.0
        if _is_told_before(network, preset):
            continue
        n_timesteps = args.n_timesteps or preset["n_timesteps"]
        returns: dict[str, list[float]] = {change: [] for change in _changes(task, network)}
        rates: list[float] = []
        for seed in args.seeds:
            begin = time.perf_counter()
            model = trained(task, preset, network, seed, n_timesteps)
            seconds += (time.perf_counter() - begin) / len(args.seeds)
            for change, found in returns.items():
                found.append(judged(model, task, seed, CHANGES[change]))
            rates += _rates(model)
        cells = _result(returns.pop(UNCHANGED), BARS[task] if network == PRESET else None)
        spikes = f"{np.mean(rates):.2f}" if rates else ""
        print_row([task, network, f"{n_timesteps:,}", *cells, spikes, f"{seconds:.0f}"])
        changed += [[task, change, mean_and_deviation(np.array(r), 2), each(r, 2)] for change, r in returns.items()]
    if not changed:
        return
    print()
    print_head(["environment", "what changes in mid-episode", "mean ± sd", "each seed"])
    for cells in changed:
        print_row(cells)


def _is_told_before(network: str, preset: Mapping[str, Any]) -> bool:
    """Return whether a control makes the same of this preset as a row before it, be it the preset."""
    made = [{**preset["policy_kwargs"], **changed} for changed in SPIKING.values()]
    return network in SPIKING and made.index(made[[*SPIKING].index(network)]) < [*SPIKING].index(network)


def _result(returns: list[float], bar: float | None) -> list[str]:
    found = np.array(returns)
    reached = ["", ""] if bar is None else [f"{bar:g}", f"{np.mean(found >= bar):.0%}"]
    return [mean_and_deviation(found, 2), f"{found.min():.2f}", *reached, each(found, 2)]


def _changes(task: str, network: str) -> list[str]:
    """Return the changes under which a network is played; there are some where all depends on what was shown first."""
    return list(CHANGES) if network == PRESET and task != "RepeatPrevious" else [UNCHANGED]


def trained(task: str, preset: Mapping[str, Any], network: str, seed: int, n_timesteps: int) -> Any:
    """Return a network that was trained with the hyperparameters of a preset."""
    hyperparams = {name: value for name, value in preset.items() if name not in ("n_envs", "n_timesteps")}
    hyperparams |= {name: schedule_of(preset[name]) for name in ("learning_rate", "clip_range")}
    hyperparams |= {"env": make_vec_env(f"spikeloop/{task}-v0", preset["n_envs"], seed=seed), "seed": seed}
    policy_kwargs = hyperparams.pop("policy_kwargs")
    if network in SPIKING:
        model: Any = SpikingPPO(**hyperparams, policy_kwargs={**policy_kwargs, **SPIKING[network]})
    else:  # with as many units as the spiking network has neurons
        hyperparams |= {"policy": WholeSequences, "learning_rate": schedule_of(f"lin_{LSTMS[network]}")}
        del hyperparams["seq_len"]
        model = RecurrentPPO(**hyperparams, policy_kwargs={"lstm_hidden_size": policy_kwargs["n_neurons"][0]})
    return model.learn(n_timesteps)


def judged(model: Any, task: str, seed: int, change: Change | None = None) -> float:
    """Return a network's mean return in greedy episodes, all played side by side.

    Args:
        model: The model.
        task: Its environment, which must be one whose episodes can be drawn.
        seed: Seed of its training; episodes are drawn with others.
        change: What happens in the middle of every episode.
    """
    env: Any = gym.make(f"spikeloop/{task}-v0").unwrapped
    observations, rewards = env.draw_episodes(np.random.default_rng(10_000 + seed), EPISODES)
    episodes = np.arange(EPISODES)
    another = np.roll(episodes, 1)
    state, start, total = None, np.ones(EPISODES, bool), np.zeros(EPISODES)
    for t in range(env.n_steps):
        if change is not None and t == env.n_steps // 2:
            assert state is not None
            rows = [i for i, name in enumerate(STATE) if name in change.rows]
            state[0][rows] = state[0][rows][:, another] if change.exchanged else 0.0
            rewards = rewards[another] if change.exchanged else rewards
        actions, state = model.predict(observations[:, t], state, start, deterministic=True)
        total, start = total + rewards[episodes, t, actions], np.zeros(EPISODES, bool)
    return float(total.mean())


def _rates(model: Any) -> list[float]:
    """Return the spikes per neuron and tick of the last rollout; nothing if it does not spike."""
    if not isinstance(model, SpikingPPO):
        return []
    counts, n_counted = model.policy.rollout_counts
    return [float(count.mean()) / n_counted for count in counts]
