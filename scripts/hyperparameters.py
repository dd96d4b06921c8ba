"""Hyperparameters before a run begins: checked, fitted to the observations, and made ready for a chip."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize

from spikeloop.agents.evolution_policy import EvolutionPolicy
from spikeloop.agents.known_arguments import arguments_of, unknown_argument
from spikeloop.agents.policies import LsnnPolicy
from spikeloop.agents.registry import DEFAULT_ALGO, load_algorithm
from spikeloop.scripts.cli import did_you_mean
from spikeloop.spiking.decay import decay
from spikeloop.spiking.module import LSNN

_LSNN = (LsnnPolicy, EvolutionPolicy)  # policies that take the options of an LSNN

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


# What RL Zoo makes schedules of, and the classes that it imports by name.
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")
CLASSES = ("env_wrapper", "vec_env_wrapper", "callback")


def check_hyperparameters(
    algorithm: type[BaseAlgorithm], hyperparams: Mapping[str, Any], quantize: str | None = None
) -> None:
    """Refuse names that the algorithm does not know, and values that RL Zoo would misread.

    The ranges of the algorithm's own hyperparameters are checked by the algorithm.

    Args:
        algorithm: The algorithm.
        hyperparams: Its hyperparameters.
        quantize: Chip whose weights are trained, of ``--quantize``; None for full precision.

    Raises:
        ValueError: Naming the hyperparameter and what is expected, or the nearest known name.
    """
    known = (arguments_of(algorithm) | ZOO_HYPERPARAMS) - {"env"}
    for name in hyperparams:
        if name not in known:
            raise ValueError(did_you_mean("hyperparameter", name, known))
    for name in ("policy", "n_timesteps"):
        if name not in hyperparams:
            raise ValueError(f"the hyperparameters lack {name}, which RL Zoo needs")
    _check_zoo_values(hyperparams)
    _check_policy(algorithm, hyperparams["policy"], hyperparams.get("policy_kwargs"))
    kwargs = hyperparams.get("policy_kwargs")
    constraint = kwargs.get("constraint") if isinstance(kwargs, dict) else None
    if quantize is not None and constraint is not None:
        raise ValueError(f"--quantize needs weights without a constraint, policy_kwargs has {constraint!r}")


def _check_zoo_values(hyperparams: Mapping[str, Any]) -> None:
    for name in ("n_envs", "n_timesteps", "frame_stack"):
        value = hyperparams.get(name, 1)
        whole = isinstance(value, int) or (name == "n_timesteps" and isinstance(value, float) and value.is_integer())
        if not whole or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
    for name in SCHEDULES:
        value = hyperparams.get(name)
        if isinstance(value, str) and not _is_linear(value):
            raise ValueError(f"{name} must be a number, or 'lin_X' to fall linearly from X to 0, got {value!r}")
    check_classes(hyperparams)
    normalize = hyperparams.get("normalize", False)
    if not isinstance(normalize, (bool, str, dict)):
        raise ValueError(f"normalize must be true, false or a dict of VecNormalize's arguments, got {normalize!r}")
    known = arguments_of(VecNormalize) - {"venv"}
    for name in normalize if isinstance(normalize, dict) else ():
        if name not in known:
            raise ValueError(did_you_mean("argument of normalize", name, known))


def _is_linear(schedule: str) -> bool:
    """Whether a schedule is the one that RL Zoo knows; it would run any other word as if it were `lin`."""
    kind, _, start = schedule.partition("_")
    try:
        return kind == "lin" and 0 <= float(start) < math.inf
    except ValueError:
        return False


def check_classes(hyperparams: Mapping[str, Any]) -> None:
    """Refuse wrappers and callbacks that are not there, and a VecNormalize whose statistics a run would not keep.

    Raises:
        ValueError: Naming the hyperparameter.
    """
    for name in CLASSES:
        named = hyperparams.get(name)
        for one in named if isinstance(named, list) else [named]:
            found = _class(name, next(iter(one), None) if isinstance(one, dict) else one)
            if name == "vec_env_wrapper" and isinstance(found, type) and issubclass(found, VecNormalize):
                raise ValueError(f"{name} {found.__name__} would lose its statistics after the run: use normalize")


def _class(what: str, name: Any) -> Any:
    if not isinstance(name, str):
        return name
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: no module was named
        raise ValueError(f"{what} must be the name of a class as in 'module.Class', got {name!r} ({error})") from None


def _check_policy(algorithm: type[BaseAlgorithm], policy: Any, policy_kwargs: Any) -> None:
    if not isinstance(policy_kwargs, (dict, str, type(None))):
        raise ValueError(f"policy_kwargs must be a dict, got {policy_kwargs!r}")
    if not isinstance(policy, str) or "." in policy:
        return
    if policy not in algorithm.policy_aliases:
        raise ValueError(did_you_mean("policy", policy, algorithm.policy_aliases))
    kwargs = policy_kwargs if isinstance(policy_kwargs, dict) else {}
    if unknown := unknown_argument(algorithm.policy_aliases[policy], kwargs):
        raise ValueError(unknown)


def fit_normalize(normalize: Mapping[str, Any], space: spaces.Space) -> dict[str, Any]:
    """Return arguments of VecNormalize that normalise only those observations that are vectors.

    VecNormalize refuses one-hot observations, and turns images into vectors that no convolution takes.

    Args:
        normalize: The arguments that a preset for any environment has.
        space: Observation space.

    >>> fit_normalize({"gamma": 0.99}, spaces.Dict(pose=spaces.Box(-1, 1, (3,)), gear=spaces.Discrete(4)))
    {'gamma': 0.99, 'norm_obs_keys': ['pose']}
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    vectors = [name for name, part in parts.items() if isinstance(part, spaces.Box) and not is_image_space(part)]
    if len(vectors) == len(parts):
        return dict(normalize)
    return {**normalize, **({"norm_obs_keys": vectors} if vectors else {"norm_obs": False})}


def chip_ready(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters whose actor has the semantics of a chip, so that it deploys with quantisation alone.

    Spikes take a tick to the next layer, and there are ticks enough for them to reach the readout. Unless the settings
    say otherwise, a spike clears the membrane and adaptation is a slow negative current, scaled so that a steady one
    pulls the membrane as far as the threshold would have risen: the forms that take fewest compartments. A membrane
    that a spike clears is held at 0 while its neuron is refractory.

    Raises:
        ValueError: If the policy has no spiking actor.
    """
    aliases = load_algorithm(DEFAULT_ALGO).policy_aliases | load_algorithm("evolution").policy_aliases
    if hyperparams.get("policy") not in [name for name, policy in aliases.items() if issubclass(policy, _LSNN)]:
        raise ValueError(f"only a policy of LSNN layers can be chip-ready, the policy is {hyperparams.get('policy')!r}")
    kwargs = dict(hyperparams.get("policy_kwargs") or {})
    if "n_neurons" in kwargs and not isinstance(kwargs["n_neurons"], int) and not len(kwargs["n_neurons"]):
        return dict(hyperparams)  # no neurons: the chip holds the readout as it is
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
    n_neurons = kwargs.get("n_neurons", (1,))
    n_layers = len(n_neurons) if isinstance(n_neurons, (list, tuple)) else 1  # the policy refuses what is no list
    kwargs["n_ticks"] = max(kwargs.get("n_ticks", 1), n_layers + 1)
    return {**hyperparams, "policy_kwargs": kwargs}
