"""Hyperparameters before a run begins: checked by name, and made ready for a chip."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from spikeloop.agents.policies import LSNN_OPTIONS, LsnnPolicy
from spikeloop.scripts.cli import did_you_mean
from spikeloop.spiking.lsnn import LSNN
from spikeloop.spiking.network import decay

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


def chip_ready(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters whose actor has the semantics of a chip, so that it deploys with quantisation alone.

    Spikes take a tick to the next layer, and there are ticks enough for them to reach the readout. Unless the settings
    say otherwise, a spike clears the membrane and adaptation is a slow negative current, scaled so that a steady one
    pulls the membrane as far as the threshold would have risen: the forms that take fewest compartments. A membrane
    that a spike clears is held at 0 while its neuron is refractory.

    Raises:
        ValueError: If the policy has no spiking actor.
    """
    if hyperparams.get("policy") not in ("LsnnPolicy", "LifPolicy"):
        raise ValueError(f"only a spiking policy can be chip-ready, the policy is {hyperparams.get('policy')!r}")
    kwargs = dict(hyperparams.get("policy_kwargs") or {})
    defaults = inspect.signature(LSNN).parameters
    if "adaptation" not in kwargs:
        tau_m = kwargs.get("tau_m", defaults["tau_m"].default)
        typical = math.sqrt(tau_m[0] * tau_m[1]) if isinstance(tau_m, (list, tuple)) else tau_m
        beta = kwargs.get("beta", defaults["beta"].default)
        kwargs |= {"adaptation": "ahp", "beta": float(beta * (1 - decay(typical, kwargs.get("dt", 1.0))))}
    kwargs.setdefault("reset", "zero")
    if kwargs["reset"] == "zero" and kwargs.get("refractory", 0):
        kwargs["hold"] = True
    kwargs["latency"] = 1
    kwargs["n_ticks"] = max(kwargs.get("n_ticks", 1), len(kwargs.get("n_neurons", (1,))) + 1)
    return {**hyperparams, "policy_kwargs": kwargs}


def _arguments(cls: type) -> set[str]:
    """Return the names a constructor takes, those it hands on to its base classes included."""
    names: set[str] = set()
    for base in cls.__mro__:
        parameters = inspect.signature(base).parameters.values() if "__init__" in vars(base) else ()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names
