"""Training throughput on a preset: ours and its levels, SB3's MLP and LSTM policies, other spiking libraries in SB3.

Every agent runs in this process, with the same environment and hyperparameters, in alternating blocks of env steps;
the figure is the median over the blocks. An update belongs to the block that collected its rollout. What agents reach
in these steps stands beside their speed.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import util
from typing import Any

import numpy as np

from spikeloop.scripts.bench.rejax_ppo import RejaxPPO, settings
from spikeloop.scripts.bench.timing import Case, Contenders, alternate, ratio
from spikeloop.scripts.cli import UsageError

OURS = "SpikingPPO"
N_TICKS = 8  # ticks per env step of the spiking features extractors, whose state is rebuilt on every step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark train``."""
    parser.add_argument("--env", default="CartPole-v1", help="the task (default CartPole-v1)")
    parser.add_argument("--few", action="store_true", help="only ours and SB3's PPO MlpPolicy")
    parser.add_argument("--blocks", type=int, default=7, help="blocks per agent (default 7)")
    parser.add_argument("--steps", type=int, default=1024, help="env steps per block (default 1024)")
    parser.add_argument("--threads", type=_positive, nargs="+", default=[1], help="of torch, each in turn (default 1)")
    parser.add_argument("--seed", type=int, default=0)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def run(args: argparse.Namespace) -> None:
    """Print env steps per second of every agent and our ratio to it."""
    agents = _agents(args)
    models = {(name, n): make() for name, make in agents.items() for n in args.threads}
    trainings: Contenders = {
        f"{name}, {n} threads": partial(_go_on, model, args.steps, n) for (name, n), model in models.items()
    }
    times = alternate(trainings, args.blocks, seconds=0)
    for n in args.threads:
        print(f"{_title(args)}, {args.blocks} blocks of {args.steps} env steps, torch's threads: {n}")
        print(f"{'agent':42s} {'steps/s':>8s} {'min':>7s} {'max':>7s}  ours / it  last episodes' mean")
        for name in agents:
            seconds, ours = times[f"{name}, {n} threads"], times[f"{OURS}, {n} threads"]
            speeds = args.steps / seconds
            row = f"{np.median(speeds):8.0f} {speeds.min():7.0f} {speeds.max():7.0f} {ratio(seconds, ours):10.2f}"
            returns = [episode["r"] for episode in models[name, n].ep_info_buffer]
            reached = f"{np.mean(returns):10.1f}" if returns else f"{'-':>10s}"
            print(f"{name:42s} {row} {reached}")
        for name in agents:
            if took := getattr(models[name, n], "compile_seconds", None):
                print(f"{name}: compiled in {took:.1f} s, before its first block")
    for name in agents if len(args.threads) > 1 else ():
        first = times[f"{name}, {args.threads[0]} threads"]
        gains = [f"{n}: {ratio(first, times[f'{name}, {n} threads']):.2f}" for n in args.threads]
        print(f"{name:42s} speed by threads, over that with {args.threads[0]}:  {', '.join(gains)}")


def _go_on(model: Any, n_steps: int, n_threads: int) -> None:
    """Train on without starting the environments anew, whose episodes would never end in short blocks."""
    import torch

    torch.set_num_threads(n_threads)
    model.learn(n_steps, reset_num_timesteps=model.num_timesteps == 0)


def _title(args: argparse.Namespace) -> str:
    return f"{args.env}, preset of spiking_ppo"


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Yield what is compared with another source tree."""
    if args.threads != [1]:
        raise UsageError("--against measures processor time on one thread: use it without --threads")
    training = partial(_go_on, _agents(args)[OURS](), args.steps, 1)
    yield Case(_title(args), {OURS: training}, 0, "us/step", args.steps * 1e-6)


def _agents(args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return what makes each agent, ours among them."""
    import gymnasium as gym
    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

    import spikeloop.envs  # noqa: F401 - registers its tasks
    from spikeloop.agents import SpikingPPO
    from spikeloop.agents.envpool_vec_env import EnvPoolVecEnv

    preset, own, normalize, n_envs = _preset(args.env)

    def env(in_python: bool = False) -> VecEnv:
        # a wrapper that nobody knows keeps the steps of the environments out of the kernel
        wrapper = gym.Wrapper if in_python else None
        # drawn at no time: sparks that LunarLander makes for pictures would slow it down
        unseen = {"render_mode": None}
        venv = make_vec_env(args.env, n_envs, args.seed, wrapper_class=wrapper, env_kwargs=unseen)
        return VecNormalize(venv, gamma=preset["gamma"], **normalize) if normalize else venv

    def pool() -> VecEnv:
        venv: VecEnv = VecMonitor(EnvPoolVecEnv(args.env, n_envs))
        return VecNormalize(venv, gamma=preset["gamma"], **normalize) if normalize else venv

    common = {**preset, "seed": args.seed, "device": "cpu"}
    ours = partial(SpikingPPO, **own, **common)
    agents: dict[str, Callable[[], Any]] = {
        OURS: lambda: ours(env=env()),
        f"{OURS}, environments in Python": lambda: ours(env=env(in_python=True)),
        f"{OURS}, torch": lambda: ours(env=env(), compiled=False),
        "SB3 PPO MlpPolicy": lambda: PPO("MlpPolicy", env(), **common),
    }
    critic = own["policy_kwargs"].get("net_arch", {}).get("vf")
    if critic:  # fewer layers than SB3's own would be an advantage of ours alone
        same = {"net_arch": {"pi": [64, 64], "vf": critic}}
        agents["SB3 PPO MlpPolicy, our critic's layers"] = lambda: PPO("MlpPolicy", env(), policy_kwargs=same, **common)
    if args.few:
        return agents
    if util.find_spec("envpool") and args.env in importlib.import_module("envpool").list_all_envs():
        agents[f"{OURS}, environments of EnvPool"] = lambda: ours(env=pool())
        agents["SB3 PPO MlpPolicy, environments of EnvPool"] = lambda: PPO("MlpPolicy", pool(), **common)
    fused = {"optimizer_kwargs": {"eps": 1e-5, "fused": True}}
    agents["SB3 PPO MlpPolicy, fused Adam"] = lambda: PPO("MlpPolicy", env(), policy_kwargs=fused, **common)
    if util.find_spec("sbx"):
        sbx = importlib.import_module("sbx")
        agents["SBX PPO MlpPolicy, compiled by JAX"] = lambda: sbx.PPO("MlpPolicy", env(), **common)
    if util.find_spec("rejax") and args.env in importlib.import_module("gymnax").registered_envs:
        agents["rejax PPO and gymnax, one JAX function"] = partial(
            RejaxPPO, args.env, args.seed, **settings(preset, normalize, n_envs)
        )
    agents["sb3-contrib RecurrentPPO MlpLstmPolicy"] = lambda: RecurrentPPO("MlpLstmPolicy", env(), **common)
    for library, extractor in _spiking_extractors().items():
        kwargs = {"features_extractor_class": extractor, "net_arch": {"pi": [], "vf": [64, 64]}}
        agents[f"{library} extractor, T={N_TICKS}, SB3 PPO"] = partial(
            PPO, "MlpPolicy", env(), policy_kwargs=kwargs, **common
        )
    return agents


def _preset(env_id: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]:
    """Return a preset as arguments of an SB3 algorithm, our own beside them, VecNormalize's, and the environments."""
    import yaml

    from spikeloop.agents.registry import hyperparams_file

    presets = yaml.safe_load(hyperparams_file("spiking_ppo").read_text())
    preset = presets.get(env_id, presets["default"])
    keys = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef")
    own = {name: preset[name] for name in ("policy", "seq_len", "policy_kwargs")}
    # the schedules do not change the cost of a step
    given = {key: preset[key] for key in keys if key in preset}
    return {**given, "learning_rate": 1e-3}, own, preset.get("normalize"), preset["n_envs"]


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
