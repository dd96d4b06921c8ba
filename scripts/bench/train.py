"""Training throughput on the CartPole preset: ours, SB3's MLP and LSTM policies, and other spiking libraries in SB3.

Every agent runs in this process, with the same environment and hyperparameters, in alternating blocks of env steps;
the figure is the median over the blocks. An update belongs to the block that collected its rollout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from spikeloop.scripts.bench.timing import Case, Contenders, alternate, ratio

OURS, TITLE = "SpikingPPO LsnnPolicy", "CartPole-v1, preset of spiking_ppo"
N_TICKS = 8  # ticks per env step of the spiking features extractors, whose state is rebuilt on every step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark train``."""
    parser.add_argument("--blocks", type=int, default=7, help="blocks per agent (default 7)")
    parser.add_argument("--steps", type=int, default=1024, help="env steps per block (default 1024)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> None:
    """Print env steps per second of every agent and our ratio to it."""
    import torch

    torch.set_num_threads(1)
    trainings: Contenders = {name: partial(make().learn, args.steps) for name, make in _agents(args.seed).items()}
    times = alternate(trainings, args.blocks, seconds=0)
    print(f"{TITLE}, {args.blocks} blocks of {args.steps} env steps, 1 thread")
    print(f"{'agent':42s} {'steps/s':>8s} {'min':>7s} {'max':>7s}  ours / it")
    for name, seconds in times.items():
        speeds, faster = args.steps / seconds, ratio(seconds, times[OURS])
        print(f"{name:42s} {np.median(speeds):8.0f} {speeds.min():7.0f} {speeds.max():7.0f} {faster:10.2f}")


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Yield what is compared with another source tree."""
    import torch

    torch.set_num_threads(1)
    training = partial(_agents(args.seed)[OURS]().learn, args.steps)
    yield Case(TITLE, {OURS: training}, 0, "us/step", args.steps * 1e-6)


def _agents(seed: int) -> dict[str, Callable[[], Any]]:
    """Return what makes each agent, ours among them."""
    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    from spikeloop.agents import SpikingPPO

    preset, policy_kwargs = _cartpole_preset()

    def env() -> VecNormalize:
        return VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=seed), norm_reward=False, gamma=preset["gamma"])

    common = {**preset, "seed": seed, "device": "cpu"}
    fused = {"optimizer_kwargs": {"eps": 1e-5, "fused": True}}
    agents: dict[str, Callable[[], Any]] = {
        OURS: lambda: SpikingPPO("LsnnPolicy", env(), policy_kwargs=policy_kwargs, **common),
        "SB3 PPO MlpPolicy": lambda: PPO("MlpPolicy", env(), **common),
        "SB3 PPO MlpPolicy, fused Adam": lambda: PPO("MlpPolicy", env(), policy_kwargs=fused, **common),
        "sb3-contrib RecurrentPPO MlpLstmPolicy": lambda: RecurrentPPO("MlpLstmPolicy", env(), **common),
    }
    for library, extractor in _spiking_extractors().items():
        kwargs = {"features_extractor_class": extractor, "net_arch": {"pi": [], "vf": [64, 64]}}
        agents[f"{library} extractor, T={N_TICKS}, SB3 PPO"] = partial(
            PPO, "MlpPolicy", env(), policy_kwargs=kwargs, **common
        )
    return agents


def _cartpole_preset() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the CartPole preset as keyword arguments of an SB3 algorithm, and our policy's."""
    import yaml

    from spikeloop.agents.registry import hyperparams_file

    preset = yaml.safe_load(hyperparams_file("spiking_ppo").read_text())["CartPole-v1"]
    keys = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef")
    # the schedules do not change the cost of a step
    return {**{key: preset[key] for key in keys}, "learning_rate": 1e-3}, preset.get("policy_kwargs", {})


def _spiking_extractors() -> dict[str, type]:
    """Return features extractors of 64 LIF neurons written with other libraries, those that are installed."""
    import torch
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from torch import nn

    found: dict[str, type] = {}
    try:
        import snntorch

        class SnnTorchExtractor(BaseFeaturesExtractor):
            def __init__(self, observation_space: Any):
                super().__init__(observation_space, 64)
                self.linear = nn.Linear(observation_space.shape[0], 64)
                self.lif = snntorch.Leaky(beta=0.78)

            def forward(self, obs: torch.Tensor) -> torch.Tensor:
                membrane, current, spikes = self.lif.init_leaky(), self.linear(obs), []
                for _ in range(N_TICKS):
                    spike, membrane = self.lif(current, membrane)
                    spikes.append(spike)
                return torch.stack(spikes).mean(0)

        found["snnTorch"] = SnnTorchExtractor
    except ImportError:
        pass
    try:
        from spikingjelly.activation_based import functional, neuron

        class SpikingJellyExtractor(BaseFeaturesExtractor):
            def __init__(self, observation_space: Any):
                super().__init__(observation_space, 64)
                self.linear = nn.Linear(observation_space.shape[0], 64)
                self.lif = neuron.LIFNode(tau=4.0, step_mode="m")

            def forward(self, obs: torch.Tensor) -> torch.Tensor:
                functional.reset_net(self.lif)
                return self.lif(self.linear(obs).expand(N_TICKS, -1, -1)).mean(0)

        found["SpikingJelly"] = SpikingJellyExtractor
    except ImportError:
        pass
    return found
