"""A trained policy with an environment to run it in, from a run folder or from the file of a network."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import RecordVideo
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import spikeloop.envs  # noqa: F401  registers our tasks
from spikeloop.agents.checks import in_words
from spikeloop.agents.environment import EnvDescription, check_statistics, describe, with_zoo_settings
from spikeloop.agents.export import observation_parts
from spikeloop.agents.guarded_env import GuardedEnv
from spikeloop.agents.registry import register_with_zoo
from spikeloop.hardware.deployed import DeployedPolicy
from spikeloop.hardware.deployment import Deployment
from spikeloop.scripts.cli import UsageError, did_you_mean
from spikeloop.scripts.hyperparameters import CLASSES, check_classes
from spikeloop.scripts.plain_data import read_settings
from spikeloop.scripts.run_folder import open_run
from spikeloop.spiking.network import Network
from spikeloop.spiking.simulator import Simulator

SPACES = {
    "discrete": spaces.Discrete,
    "multi_discrete": spaces.MultiDiscrete,
    "multi_binary": spaces.MultiBinary,
    "box": spaces.Box,
}


class Place(NamedTuple):
    """Where a policy from a file is run.

    Example:
        >>> Place("CartPole-v1", seed=3).trust
        False
    """

    env_id: str | None = None  # that of its training if None
    seed: int = 0
    video: dict[str, Any] | None = None  # arguments of RecordVideo; None to record nothing
    human: bool = False  # show the episodes in a window
    packages: Sequence[str] = ()  # modules of the user's own that register tasks and hold wrappers
    trust: bool = False  # take what can run code, and texts that can name files


class Policy(NamedTuple):
    """What is rolled out.

    Example:
        >>> Policy("a policy", "an environment", "my policy").metadata
        {}
    """

    predictor: Any  # has the `predict` of an SB3 policy
    env: VecEnv  # one environment, seeded
    name: str
    metadata: Mapping[str, str] = {}  # of a model from a run folder: what its network should know

    def network(self) -> Network:
        """Return the policy as a network.

        Raises:
            UsageError: If it is not a spiking one.
        """
        if isinstance(self.predictor, Simulator):
            return self.predictor.network
        if isinstance(self.predictor, DeployedPolicy):
            raise UsageError(f"{self.name} is compiled for a chip, it is no network any more")
        if not hasattr(self.predictor, "to_network"):
            policy = type(self.predictor.policy).__name__
            raise UsageError(f"{self.name} cannot be turned into a spiking network, its policy is {policy}")
        try:
            return self.predictor.to_network(self.metadata)
        except ValueError as error:
            raise UsageError(f"{self.name} cannot become a network: {error}") from None

    def firing_rates(self) -> list[float]:
        """Return the spikes per neuron and tick of each layer so far; empty if the policy sends no spikes."""
        if isinstance(self.predictor, DeployedPolicy):
            return self.predictor.firing_rates()
        spiking: Any = self.predictor
        if not isinstance(self.predictor, Simulator):
            spiking = getattr(self.predictor.policy, "lstm_actor", None)
        layers = spiking.network.layers if isinstance(spiking, Simulator) else getattr(spiking, "layers", ())
        if any(getattr(layer, "graded", False) for layer in layers) or getattr(layers, "graded", False):
            return []
        counts = getattr(spiking, "spike_counts", [])
        return [float(count.mean()) / max(spiking.n_counted, 1) for count in counts]

    def decisions(self) -> dict[str, float] | None:
        """Return spikes per decision, when actions were known, in ms, and the share known before the outputs' deadline.

        None for a policy that acts at the end of an env step, and not on a first spike.
        """
        simulates = isinstance(self.predictor, Simulator)
        spiking: Any = self.predictor if simulates else getattr(self.predictor, "policy", None)
        core = spiking.steps if simulates else getattr(spiking, "lstm_actor", None)
        decided = getattr(core, "decided", None)
        if decided is None or not decided[0]:
            return None
        counted: Any = spiking if simulates else core
        n, time, early = decided
        return {
            "spikes_per_decision": float(sum(count.sum() for count in counted.spike_counts) / counted.n_counted),
            "decision_time_ms": float(time / n),
            "share_before_deadline": float(early / n),
        }


def load_network(path: Path, place: Place) -> Policy:
    """Load the file of a network; nothing in it is unpickled.

    Args:
        path: The file.
        place: Where to run it.

    Raises:
        UsageError: If the network does not fit the environment, or that cannot be made as it was in training.
    """
    network = Network.load(path)
    env, env_id = environment_of(f"{path}", network, place)
    return Policy(Simulator(network, np.random.default_rng(place.seed)), env, f"{path} on {env_id}")


def load_deployed(path: Path, place: Place) -> Policy:
    """Load the file of a network compiled for a chip; arguments and errors as in :func:`load_network`."""
    deployment = Deployment.load(path)
    env, env_id = environment_of(f"{path}", deployment, place)
    learns = deployment.reinforcement is not None
    chip = DeployedPolicy(deployment, np.random.default_rng(place.seed), learning=learns)
    return Policy(chip, env, f"{path} on {deployment.chip}, {env_id}")


def network_of_run(folder: Path, best: bool, place: Place) -> Policy:
    """Return the network of a run folder, playing in the environment that its file would be played in.

    Args:
        folder: The run folder.
        best: Take the model that did best in evaluation instead of the last.
        place: Where to run it.

    Raises:
        UsageError: If there is no such run, or its policy cannot become a network.
    """
    run = open_run(folder, best, place.trust)
    policy = load_run(folder, best, place.seed, None, trust=place.trust)
    try:
        network = policy.network()
    finally:
        policy.env.close()
    place = place._replace(packages=[*run.gym_packages, *place.packages], trust=True)  # as the run itself is
    env, _ = environment_of(f"{folder}", network, place)
    return Policy(Simulator(network, np.random.default_rng(place.seed)), env, policy.name)


def environment_of(name: str, policy: Network | Deployment, place: Place) -> tuple[VecEnv, str]:
    """Return the environment of a policy from a file, made as its metadata says, and its id.

    Raises:
        UsageError: If the file does not name one, it cannot be made again, or the policy does not fit it.
    """
    description = EnvDescription.from_metadata(policy.metadata)
    if place.env_id is not None and (description is None or place.env_id != description.env_id):
        # another task: what stood around the old one stands around this one too
        wrappers = () if description is None else description.wrappers
        description = EnvDescription(place.env_id, wrappers=wrappers)
    if description is None:
        raise UsageError(f"{name} does not say what it was trained on, add --env ID")
    env = made(description, place)
    _check_spaces(policy, env, description.env_id)
    return env, description.env_id


def made(description: EnvDescription, place: Place) -> VecEnv:
    """Return one environment that shows raw observations, seeded.

    Raises:
        UsageError: If nobody has registered it.
    """
    _check_registered(description)

    def make() -> gym.Env:
        env = description.make(place.packages, place.trust, **_rendering(place.video, place.human))
        return GuardedEnv(RecordVideo(env, **place.video) if place.video else env)

    env = DummyVecEnv([make])
    env.action_space.seed(place.seed)
    env.seed(place.seed)
    return env


def load_run(
    folder: Path, best: bool, seed: int, video: dict[str, Any] | None, human: bool = False, trust: bool = False
) -> Policy:
    """Load the model of a run folder, with its wrappers and its normalisation.

    Args:
        folder: The run folder.
        best: Load the model that did best in evaluation instead of the last.
        seed: Seed of the environment and of sampled actions.
        video: Arguments of ``RecordVideo``; None to record nothing.
        human: Show the episodes in a window.
        trust: Load a run that is not the user's own; that can run code.

    Raises:
        UsageError: If there is no such run, its model cannot be loaded, or it is not to be trusted.
    """
    register_with_zoo()
    import rl_zoo3

    run = open_run(folder, best, trust)
    stamp = run.stamp()
    for package in run.gym_packages:
        importlib.import_module(package)
    _check_registered(EnvDescription(run.env_id, gym_packages=tuple(run.gym_packages)))
    hyperparams = read_settings(run.settings / "config.yml", (*CLASSES, "env_kwargs", "frame_stack", "normalize"))
    hyperparams["normalize_kwargs"] = hyperparams.setdefault("normalize", False)  # which RL Zoo prints
    check_classes(hyperparams)
    settings = dict(hyperparams)
    env_kwargs = hyperparams.pop("env_kwargs", None) or run.env_kwargs
    wrappers = hyperparams.get("env_wrapper") or []
    wrappers = wrappers if isinstance(wrappers, list) else [wrappers]
    hyperparams["env_wrapper"] = [*wrappers, *([{RecordVideo: video}] if video else []), GuardedEnv]
    env = rl_zoo3.create_test_env(
        run.env_id,
        stats_path=str(run.statistics),
        seed=seed,
        should_render=False,
        hyperparams=hyperparams,
        env_kwargs={**env_kwargs, **_rendering(video, human)},
    )
    check_statistics(env)
    schedules = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    # `seed` because the one it was saved with would seed the environment again
    try:
        model = rl_zoo3.ALGOS[run.algo].load(run.model, env=env, seed=seed, custom_objects=schedules)
    except Exception as error:
        raise UsageError(f"{run.model} cannot be loaded ({error})") from error
    if run.stamp() != stamp:
        raise UsageError(f"{run.model} was saved anew while it was read: try again")
    description = describe(env)
    assert description is not None  # RL Zoo makes registered environments
    metadata = with_zoo_settings(description, settings, run.gym_packages).to_metadata()
    return Policy(model, env, f"{run.algo} on {run.env_id}", metadata)


def _rendering(video: dict[str, Any] | None, human: bool) -> dict[str, str]:
    mode = "human" if human else "rgb_array" if video else None
    return {"render_mode": mode} if mode else {}


def _check_registered(description: EnvDescription) -> None:
    if description.env_id not in gym.registry:
        known = f"; it was registered by --gym-packages {' '.join(description.gym_packages)}"
        unknown = did_you_mean("environment", description.env_id, gym.registry)
        raise UsageError(unknown + known * bool(description.gym_packages))


def _check_spaces(policy: Network | Deployment, env: VecEnv, env_id: str) -> None:
    parts, head = (
        (policy.parts, policy.head) if isinstance(policy, Network) else (policy.host.observation, policy.host.head)
    )
    obs, actions = env.observation_space, env.action_space
    try:
        shown = observation_parts(obs)
    except ValueError as error:
        raise UsageError(f"{env_id}: {error}") from None
    vector = len(parts) == len(shown) == 1 and not parts[0].sizes and not shown[0].sizes
    fits = [astuple(part) for part in parts] == [astuple(part) for part in shown]
    if not fits and not (vector and parts[0].n_values == shown[0].n_values):
        takes = ", ".join(f"{part.n_values} numbers{part.key and f' for {part.key!r}'}" for part in parts)
        raise UsageError(f"the network observes {takes}, {env_id} shows {in_words(obs)}")
    if head is None:
        raise UsageError("the network has no action head, it is no policy")
    n_numbers = len(head.sizes) // head.n_rows if head.rows else head.n_outputs
    fits = isinstance(actions, SPACES[head.kind]) and spaces.flatdim(actions) == n_numbers
    if not fits or actions.shape != head.shape:
        raise UsageError(f"the network chooses {head.kind} actions {head.sizes}, {env_id} takes {in_words(actions)}")
