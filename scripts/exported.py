"""The network that a training leaves beside its model: whether there will be one, and its file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from spikeloop.agents.environment import EnvDescription, describe, with_zoo_settings
from spikeloop.agents.export import why_no_network
from spikeloop.scripts.run_folder import NETWORK


def playable_environment(
    model: Any, hyperparams: Mapping[str, Any], gym_packages: Sequence[str], chip_ready: bool
) -> EnvDescription | None:
    """Say before the training, not after it, if its policy cannot become a network or its file not be played.

    Args:
        model: What will be trained, with its environments.
        hyperparams: RL Zoo's hyperparameters of it.
        gym_packages: Modules that register the environment.
        chip_ready: Whether the policy is to be deployed.

    Returns:
        The environment that the network will be saved with; None if there will be no network.

    Raises:
        ValueError: If a policy that is to be deployed could not be.
    """
    if not hasattr(model, "to_network"):
        return None
    description = None
    reason, lost = why_no_network(model), "be written"
    if reason is None:
        description = describe(model.get_env())  # now: RL Zoo closes the environments when training ends
        assert description is not None  # RL Zoo makes registered environments
        description = with_zoo_settings(description, hyperparams, gym_packages)
        reason, lost = description.missing(), "be playable"
    if reason is not None:
        if chip_ready:
            raise ValueError(f"a chip-ready policy is to be deployed, and this one could not be: {reason}")
        print(f"{NETWORK} will not {lost}: {reason}", file=sys.stderr)
    return description


def network_bytes(model: Any, description: EnvDescription, algo: str, seed: int) -> bytes:
    """Return the contents of the network's file, which say how the network was trained."""
    about = {"algo": algo, "seed": str(seed), "num_timesteps": str(model.num_timesteps)}
    return model.to_network({**description.to_metadata(), **about}).to_bytes()
