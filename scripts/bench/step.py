"""One policy step for one environment, numpy in and an action out: obs 8 -> 128 neurons, half of them adaptive -> 4.

"kernel" is the single call under ``Simulator.predict``, without its checks and fresh arrays. Deployed policies run a
chip-ready network of the same sizes, compiled for the emulated chips.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from spikeloop.scripts.bench.sequence import RATE, set_rate
from spikeloop.scripts.bench.tables import print_times
from spikeloop.scripts.bench.timing import Case, Contenders, alternate
from spikeloop.spiking import LSNN, ActionHead, Encoder, Network, Normalizer, Readout, Simulator

N_OBS, N, N_ACTIONS = 8, 128, 4
OURS = "spikeloop Simulator.predict"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark step``."""
    parser.add_argument("--blocks", type=int, default=15, help="blocks per contender (default 15)")
    parser.add_argument("--seconds", type=float, default=0.05, help="per contender and block (default 0.05)")
    parser.add_argument("--ticks", type=int, nargs="+", default=[1, 4, 16], help="ticks per step (default 1 4 16)")


def run(args: argparse.Namespace) -> None:
    """Print a table for each number of ticks."""
    from spikeloop.scripts.bench.peers import stepping

    torch.set_num_threads(1)
    for n_ticks in args.ticks:
        lsnn, w_out, obs, title = _problem(n_ticks)
        contenders = {
            **_ours(lsnn, w_out, obs),
            "spikeloop kernel": _kernel(_simulator(lsnn, w_out), obs),
            **_policies(n_ticks, obs),
            **_deployed(n_ticks, obs),
            "SB3 MlpPolicy.predict": _mlp(obs),
            **stepping(lsnn, w_out, obs),
        }
        print(f"\n{title}")
        print_times(alternate(contenders, args.blocks, args.seconds), OURS, 1e-6, "us")


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Yield what is compared with another source tree."""
    torch.set_num_threads(1)
    for n_ticks in args.ticks:
        lsnn, w_out, obs, title = _problem(n_ticks)
        contenders = _ours(lsnn, w_out, obs) | _policies(n_ticks, obs) | _deployed(n_ticks, obs)
        yield Case(title, contenders, args.seconds, "us", 1e-6)


def _problem(n_ticks: int) -> tuple[LSNN, np.ndarray, np.ndarray, str]:
    """Return a network, weights of its readout, an observation (1, n_obs), and the title of the table."""
    torch.manual_seed(0)
    lsnn = LSNN(Encoder("direct", N_OBS), [N], tau_m=20.0, tau_out=5.0, n_ticks=n_ticks)
    rate = set_rate(lsnn, torch.randn(50, 8, N_OBS), RATE)
    obs, w_out = np.random.default_rng(0).normal(size=(1, N_OBS)).astype(np.float32), torch.randn(N_ACTIONS, N).numpy()
    return lsnn, w_out, obs, f"{n_ticks} ticks, {rate:.3f} spikes per neuron and tick"


def _simulator(lsnn: LSNN, w_out: np.ndarray) -> Simulator:
    return Simulator(
        Network(
            lsnn.encoder,
            lsnn.network_layers(),
            Readout(w_out, np.zeros(N_ACTIONS, np.float32), lsnn.tau_out),
            ActionHead("discrete", (N_ACTIONS,)),
            (Normalizer(np.zeros(N_OBS), np.ones(N_OBS)),),
            lsnn.n_ticks,
        )
    )


def _ours(lsnn: LSNN, w_out: np.ndarray, obs: np.ndarray) -> Contenders:
    simulator = _simulator(lsnn, w_out)
    state = simulator.initial_state(1)
    carried = {"predict": state, "step": state}
    not_started = np.zeros(1)

    def predict() -> int:
        action, carried["predict"] = simulator.predict(obs[0], carried["predict"])
        return int(action)

    def step() -> np.ndarray:
        y, carried["step"] = lsnn.step(obs, carried["step"], not_started)
        return y

    return {OURS: predict, "spikeloop LSNN.step": step}


def _kernel(simulator: Simulator, obs: np.ndarray) -> Callable[[], int]:
    """Return the single call under ``predict``."""
    from spikeloop.spiking.engine import step_kernels

    state, start = simulator.initial_state(1), np.zeros((1, 1), np.uint8)
    states, outputs = [state, state.copy()], np.empty((1, N_ACTIONS), np.float32)

    def kernel() -> int:
        states.reverse()
        return step_kernels.act(simulator._table, obs, states[0], start, states[1], outputs)

    return kernel


def _deployed(n_ticks: int, obs: np.ndarray) -> Contenders:
    """Return the ``predict`` of a network compiled for each chip."""
    from spikeloop.hardware import CHIPS, DeployedPolicy, compile_network

    lsnn = LSNN(
        Encoder("direct", N_OBS),
        [N],
        tau_m=20.0,
        tau_out=5.0,
        n_ticks=n_ticks,
        latency=1,
        reset="zero",
        adaptation="ahp",
    )
    set_rate(lsnn, torch.randn(50, 8, N_OBS), RATE)
    w_out = np.random.default_rng(0).normal(size=(N_ACTIONS, N)).astype(np.float32)
    readout = Readout(w_out, np.zeros(N_ACTIONS, np.float32), lsnn.tau_out)
    head = ActionHead("discrete", (N_ACTIONS,))
    network = Network(lsnn.encoder, lsnn.network_layers(), readout, head, n_ticks=n_ticks, latency=1)

    def predict(policy: DeployedPolicy, carried: dict[str, Any]) -> int:
        action, carried["state"] = policy.predict(obs[0], carried["state"])
        return int(action)

    return {
        f"spikeloop DeployedPolicy.predict, {chip}": partial(
            predict, DeployedPolicy(compile_network(network, chip)), {"state": None}
        )
        for chip in CHIPS
    }


def _policies(n_ticks: int, obs: np.ndarray) -> Contenders:
    """Return the ``predict`` of our policy, with all that comes before and after the network."""
    from spikeloop.agents import LsnnPolicy

    policy = LsnnPolicy(*_spaces(), lambda _: 0.0, n_neurons=[N], n_ticks=n_ticks)
    carried = {"state": policy.predict(obs[0], deterministic=True)[1]}

    def predict() -> np.ndarray:
        action, carried["state"] = policy.predict(obs[0], carried["state"], deterministic=True)
        return action

    return {"spikeloop LsnnPolicy.predict": predict}


def _mlp(obs: np.ndarray) -> Callable[[], Any]:
    """Return the ``predict`` of SB3's policy."""
    from stable_baselines3.common.policies import ActorCriticPolicy

    policy = ActorCriticPolicy(*_spaces(), lambda _: 0.0)
    return lambda: policy.predict(obs[0], deterministic=True)


def _spaces() -> tuple[Any, Any]:
    from gymnasium.spaces import Box, Discrete

    return Box(-np.inf, np.inf, (N_OBS,)), Discrete(N_ACTIONS)
