"""What policies share whose network is a backend's, such as one on an emulated chip, and learns there by itself.

SB3 works by inheritance: what a policy saves, loads and answers are methods of its own. So this is a class between its
``BasePolicy`` and these policies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents.check_finite import NonFiniteError
from spikeloop.agents.learnt_arrays import add_learnt, find_learnt
from spikeloop.agents.predicting_policy import PredictingPolicy
from spikeloop.spiking.network import Network


class ChipPolicy(PredictingPolicy):
    """A policy of one network, which a backend has built; a subclass sets it, and has ``predict`` and ``learning``.

    Attributes:
        network: What acts and learns.
        trained_behind: Names of the wrappers of the VecEnv that change what is observed.
    """

    network: Any
    trained_behind: tuple[str, ...]
    _arguments: dict[str, Any]  # of the constructor, beside spaces and trained_behind

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces_only = {"observation_space": self.observation_space, "action_space": self.action_space}
        return {**spaces_only, **self._arguments, "trained_behind": self.trained_behind}

    def to_network(self, env: VecEnv | None = None, metadata: Mapping[str, str] | None = None) -> Network:
        """Refuse to: the policy is a program of its chip.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"a policy of {type(self.network).__name__} is a program of its chip, policy.network.program_now(), "
            "and not a Network"
        )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        add_learnt(destination, f"{prefix}network.", self.network.state_dict())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.network.load_state_dict(find_learnt(state_dict, f"{prefix}network.", self.network.state_dict()))


def check_options(network: Mapping[str, Any], backend_kwargs: Mapping[str, Any] | None) -> None:
    """Refuse options of a backend that the policy has as arguments of its own.

    Raises:
        ValueError: If there is one.
    """
    if both := network.keys() & (backend_kwargs or {}):
        raise ValueError(f"backend_kwargs must not hold {min(both)}, which is one of policy_kwargs")


def built(backend: Callable[..., Any], numbers: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Return the network that a backend builds.

    Args:
        backend: What builds it.
        numbers: What it is called with by position.
        options: What it is called with by name.

    Raises:
        ValueError: If it does not know an option, or an argument is out of range.
    """
    try:
        return backend(*numbers, **options)
    except TypeError as error:  # an argument it does not know
        raise ValueError(f"backend_kwargs: {error}") from None


def progress_of(rule: Any, network: Any, rates: Sequence[str]) -> float:
    """Return the share of the network's rates that a rule has, whose rates of these names change all alike."""
    pairs = [(getattr(rule, name), getattr(network.rule, name)) for name in rates]
    return max((now / then for now, then in pairs if then), default=0.0)


def check_value(network: Any) -> None:
    """Refuse to go on with a critic whose value is not finite.

    Raises:
        NonFiniteError: If it is not.
    """
    if not np.isfinite(value := network.value):
        raise NonFiniteError(f"learning led to a value of {value}: a lower value_scale or learning_rate may help")
