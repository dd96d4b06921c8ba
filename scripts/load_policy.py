"""A trained policy with an environment to run it in, from a run folder or from the file of a network."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import RecordVideo
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

import spikeloop.envs  # noqa: F401  registers our tasks
from spikeloop.agents.registry import register_with_zoo
from spikeloop.hardware.deployed import DeployedPolicy, Deployment
from spikeloop.scripts.cli import UsageError, did_you_mean
from spikeloop.scripts.run_folder import open_run
from spikeloop.spiking.network import ActionHead, Network
from spikeloop.spiking.simulator import Simulator

SPACES = {
    "discrete": spaces.Discrete,
    "multi_discrete": spaces.MultiDiscrete,
    "multi_binary": spaces.MultiBinary,
    "box": spaces.Box,
}


class Policy(NamedTuple):
    """What is rolled out."""

    predictor: Any  # has the `predict` of an SB3 policy
    env: VecEnv  # one environment, seeded
    name: str

    def network(self) -> Network:
        """Return the policy as a network.

        Raises:
            UsageError: If it is not a spiking one.
        """
        if isinstance(self.predictor, NetworkPolicy):
            return self.predictor.simulator.network
        if isinstance(self.predictor, ChipPolicy):
            raise UsageError(f"{self.name} is compiled for a chip, it is no network any more")
        policy = self.predictor.policy
        if not hasattr(policy, "to_network"):
            raise UsageError(
                f"{self.name} cannot be turned into a spiking network, its policy is {type(policy).__name__}"
            )
        return policy.to_network(unwrap_vec_normalize(self.env))

    def firing_rates(self) -> list[float]:
        """Return the spikes per neuron and tick of each layer so far; empty if the policy does not spike."""
        if isinstance(self.predictor, ChipPolicy):
            return self.predictor.deployed.firing_rates()
        if isinstance(self.predictor, NetworkPolicy):
            spiking: Any = self.predictor.simulator
        else:
            spiking = getattr(self.predictor.policy, "lstm_actor", None)
        counts = getattr(spiking, "spike_counts", [])
        return [float(count.mean()) / max(spiking.n_counted, 1) for count in counts]


class NetworkPolicy:
    """A network with the ``predict`` of an SB3 policy.

    Args:
        network: The network.
        seed: Seed of a ``rate`` encoder.
    """

    def __init__(self, network: Network, seed: int):
        self.simulator = Simulator(network, np.random.default_rng(seed))

    def predict(
        self, observation: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Return the actions for a batch of observations, and the new state."""
        rows = observation.reshape(len(observation), -1)
        return self.simulator.predict(rows, state, episode_start, deterministic)


class ChipPolicy:
    """A deployed network with the ``predict`` of an SB3 policy.

    Args:
        deployed: The policy that steps it.
    """

    def __init__(self, deployed: DeployedPolicy):
        self.deployed = deployed

    def predict(
        self, observation: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Return the actions for a batch of observations, and the new state."""
        rows = observation.reshape(len(observation), -1)
        return self.deployed.predict(rows, state, episode_start, deterministic)


def load_network(
    path: Path, env_id: str | None, seed: int, video: dict[str, Any] | None, human: bool = False
) -> Policy:
    """Load the file of a network; nothing in it is unpickled.

    Args:
        path: The file.
        env_id: Environment to run it in; that of its training if None.
        seed: Seed of the environment.
        video: Arguments of ``RecordVideo``; None to record nothing.
        human: Show the episodes in a window.

    Raises:
        UsageError: If the network does not fit the environment.
    """
    network = Network.load(path)
    env, env_id = _environment(path, network, env_id, seed, video, human)
    return Policy(NetworkPolicy(network, seed), env, f"{path} on {env_id}")


def load_deployed(
    path: Path, env_id: str | None, seed: int, video: dict[str, Any] | None, human: bool = False
) -> Policy:
    """Load the file of a network compiled for a chip; arguments and errors as in :func:`load_network`."""
    deployment = Deployment.load(path)
    env, env_id = _environment(path, deployment, env_id, seed, video, human)
    chip = ChipPolicy(DeployedPolicy(deployment, np.random.default_rng(seed)))
    return Policy(chip, env, f"{path} on {deployment.program.chip}, {env_id}")


def _environment(
    path: Path,
    policy: Network | Deployment,
    env_id: str | None,
    seed: int,
    video: dict[str, Any] | None,
    human: bool,
) -> tuple[VecEnv, str]:
    """Return the environment of a policy from a file, and its id."""
    trained_on = policy.metadata.get("env")
    env_id = env_id or trained_on
    if env_id is None:
        raise UsageError(f"{path} does not say what it was trained on, add --env ID")
    spec = _spec(env_id)
    env_kwargs = json.loads(policy.metadata.get("env_kwargs", "{}")) if env_id == trained_on else {}
    env = make_vec_env(
        lambda **kwargs: spec.make(**kwargs),
        seed=seed,
        env_kwargs=_rendering(env_kwargs, video, human),
        wrapper_class=RecordVideo if video else None,  # type: ignore[arg-type]
        wrapper_kwargs=video,
    )
    part = policy if isinstance(policy, Network) else policy.host
    _check_spaces(part.encoder.n_obs, part.head, env, env_id)
    return env, env_id


def load_run(folder: Path, best: bool, seed: int, video: dict[str, Any] | None, human: bool = False) -> Policy:
    """Load the model of a run folder, with its wrappers and its normalisation.

    Args:
        folder: The run folder.
        best: Load the model that did best in evaluation instead of the last.
        seed: Seed of the environment and of sampled actions.
        video: Arguments of ``RecordVideo``; None to record nothing.
        human: Show the episodes in a window.

    Raises:
        UsageError: If there is no such run, or its model cannot be loaded.
    """
    register_with_zoo()
    import rl_zoo3

    run = open_run(folder, best)
    for package in run.gym_packages:
        importlib.import_module(package)
    _spec(run.env_id)
    hyperparams, stats_path = rl_zoo3.get_saved_hyperparams(str(run.settings), test_mode=True)
    env_kwargs = hyperparams.pop("env_kwargs", None) or run.env_kwargs
    if video:
        wrappers = hyperparams.get("env_wrapper") or []
        hyperparams["env_wrapper"] = [*(wrappers if isinstance(wrappers, list) else [wrappers]), {RecordVideo: video}]
    env = rl_zoo3.create_test_env(
        run.env_id,
        stats_path=stats_path,
        seed=seed,
        should_render=False,
        hyperparams=hyperparams,
        env_kwargs=_rendering(env_kwargs, video, human),
    )
    schedules = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    # `seed` because the one it was saved with would seed the environment again
    try:
        model = rl_zoo3.ALGOS[run.algo].load(run.model, env=env, seed=seed, custom_objects=schedules)
    except Exception as error:
        raise UsageError(f"{run.model} cannot be loaded ({error})") from error
    return Policy(model, env, f"{run.algo} on {run.env_id}")


def _rendering(env_kwargs: dict[str, Any], video: dict[str, Any] | None, human: bool) -> dict[str, Any]:
    mode = "human" if human else "rgb_array" if video else None
    return {**env_kwargs, "render_mode": mode} if mode else env_kwargs


def _spec(env_id: str) -> gym.envs.registration.EnvSpec:
    if env_id not in gym.registry:
        raise UsageError(did_you_mean("environment", env_id, gym.registry))
    return gym.spec(env_id)


def _check_spaces(n_obs: int, head: ActionHead | None, env: VecEnv, env_id: str) -> None:
    obs, actions = env.observation_space, env.action_space
    if not isinstance(obs, spaces.Box) or spaces.flatdim(obs) != n_obs:
        raise UsageError(f"the network observes {n_obs} numbers, {env_id} shows {obs}")
    if head is None:
        raise UsageError("the network has no action head, it is no policy")
    fits = isinstance(actions, SPACES[head.kind]) and spaces.flatdim(actions) == head.n_outputs
    if not fits or actions.shape != head.shape:
        raise UsageError(f"the network chooses {head.kind} actions {head.sizes}, {env_id} takes {actions}")
