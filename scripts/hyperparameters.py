"""Hyperparameters checked by name before a run begins."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from spikeloop.agents.policies import LSNN_OPTIONS, LsnnPolicy
from spikeloop.scripts.cli import did_you_mean

# What RL Zoo takes out of the hyperparameters before they reach the algorithm.
ZOO_HYPERPARAMS = {
    "callback",
    "env_kwargs",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "n_timesteps",
    "noise_std",
    "noise_type",
    "normalize",
    "vec_env_wrapper",
}


def check_hyperparameters(algorithm: type[BaseAlgorithm], hyperparams: Mapping[str, Any]) -> None:
    """Refuse a hyperparameter, policy or policy argument that the algorithm does not know.

    Raises:
        ValueError: Naming it, and the nearest known one.
    """
    known = (_arguments(algorithm) | ZOO_HYPERPARAMS) - {"env"}
    for name in hyperparams:
        if name not in known:
            raise ValueError(did_you_mean("hyperparameter", name, known))
    n_envs = hyperparams.get("n_envs", 1)
    if not isinstance(n_envs, int) or n_envs < 1:
        raise ValueError(f"n_envs must be a whole number >= 1, got {n_envs!r}")
    policy = hyperparams.get("policy")
    if not isinstance(policy, str) or "." in policy:
        return
    if policy not in algorithm.policy_aliases:
        raise ValueError(did_you_mean("policy", policy, algorithm.policy_aliases))
    policy_class = algorithm.policy_aliases[policy]
    known = _arguments(policy_class) | (set(LSNN_OPTIONS) if issubclass(policy_class, LsnnPolicy) else set())
    policy_kwargs = hyperparams.get("policy_kwargs")
    for name in policy_kwargs if isinstance(policy_kwargs, dict) else ():
        if name not in known:
            raise ValueError(did_you_mean("policy argument", name, known))


def _arguments(cls: type) -> set[str]:
    """Return the names a constructor takes, those it hands on to its base classes included."""
    names: set[str] = set()
    for base in cls.__mro__:
        parameters = inspect.signature(base).parameters.values() if "__init__" in vars(base) else ()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names
