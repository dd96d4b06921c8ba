"""Arguments of spiking policies: ranges of options, sizes of layers, spaces, and former words."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)

from spikeloop.agents.checks import NOT_NEGATIVE, POSITIVE, UNIT, WHOLE, Range, check_not_empty, check_ranges, in_words
from spikeloop.spiking.initial import neuron_kind
from spikeloop.spiking.module import LSNN
from spikeloop.spiking.readout_kinds import READOUTS

LSNN_OPTIONS = tuple(
    name
    for name in inspect.signature(LSNN.__init__).parameters
    if name not in ("self", "encoder", "n_neurons", "gradient", "generator")
)
FORMER = ("surrogate", "surrogate_kwargs")  # words that gradient and gradient_kwargs have taken the place of
OF_INPUT = ("n_ticks", "dt", "tau_out", "readout")  # of these, what a core without layers has too
RANGES = {
    **dict.fromkeys(("beta", "tau_out", "rate_coef", "w_rec_scale"), NOT_NEGATIVE),
    **dict.fromkeys(("v_th", "dt"), POSITIVE),
    "w_in_scale": POSITIVE._replace(optional=True),
    **dict.fromkeys(("adaptive_fraction", "target_rate"), UNIT),
    "n_ticks": WHOLE,
    "refractory": Range(0, whole=True),
    "latency": Range(0, 1, whole=True),
}


def former_surrogate(gradient: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the former words ``surrogate`` and ``surrogate_kwargs`` out of a policy's arguments.

    Returns:
        The ``gradient_kwargs`` that they say.

    Raises:
        ValueError: If they are given for another gradient.

    >>> former_surrogate("surrogate", {"surrogate": "triangle", "surrogate_kwargs": {"damping": 0.3}})
    {'shape': 'triangle', 'damping': 0.3}
    """
    former = {name: kwargs.pop(name) for name in FORMER if name in kwargs}
    if former and gradient != "surrogate":
        raise ValueError(f"{next(iter(former))} goes with gradient='surrogate', got gradient={gradient!r}")
    shape = {"shape": former["surrogate"]} if "surrogate" in former else {}
    return {**shape, **(former.get("surrogate_kwargs") or {})}


def check_no_layers(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a policy that are about neurons, of which one with ``n_neurons=[]`` has none.

    Raises:
        ValueError: If there is one.
    """
    given = {name: value for name, value in arguments.items() if name in LSNN_OPTIONS and name not in OF_INPUT}
    given |= {"gradient": gradient} if (gradient := arguments["gradient"]) != "surrogate" else {}
    given |= {"gradient_kwargs": kwargs} if (kwargs := arguments["gradient_kwargs"]) else {}
    given |= {"constraint": constraint} if (constraint := arguments["constraint"]) is not None else {}
    given |= {"calibrate_init": rate} if not isinstance(rate := arguments["calibrate_init"], bool) else {}
    for name, value in given.items():
        raise ValueError(f"{name} must be left out with n_neurons=[], which has no neurons, got {value!r}")


def sizes_of(name: str, sizes: Any) -> tuple[int, ...]:
    """Return sizes of layers, of which a number is one.

    Raises:
        ValueError: If one is no whole number, or there are none.

    >>> sizes_of("n_neurons", 64), sizes_of("n_neurons", [64, 32])
    ((64,), (64, 32))
    """
    listed = sizes if isinstance(sizes, (list, tuple)) else [sizes]
    if not listed or not all(WHOLE.holds(size) for size in listed):
        raise ValueError(f"{name} must be whole numbers >= 1, such as [64], got {sizes!r}")
    return tuple(int(size) for size in listed)


def mlp_layers(net_arch: Any) -> dict[str, list[int]]:
    """Return the MLP layers after the actor and of the critic.

    Raises:
        ValueError: If ``net_arch`` does not say which are which.

    >>> mlp_layers({"vf": [32]})
    {'pi': [], 'vf': [32]}
    """
    if net_arch is None:
        net_arch = {}
    if not isinstance(net_arch, Mapping) or not set(net_arch) <= {"pi", "vf"}:
        raise ValueError(
            "net_arch must say which layers follow the spiking actor and which are the critic's, "
            f"such as dict(pi=[], vf=[64, 64]), got {net_arch!r}"
        )
    both = {"pi": [], "vf": [64, 64], **net_arch}
    return {name: list(sizes_of(f"net_arch[{name!r}]", sizes)) if sizes else [] for name, sizes in both.items()}


def default_extractor(space: spaces.Space) -> type[BaseFeaturesExtractor]:
    """Return SB3's features extractor for observations of a space."""
    if isinstance(space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(space) else FlattenExtractor


def check_options(arguments: dict[str, Any]) -> None:
    """Refuse a policy's own arguments that are out of range or do not go together.

    Raises:
        ValueError: If there is one.
    """
    check_ranges(arguments, RANGES)
    if arguments["constraint"] is None and (options := arguments["constraint_kwargs"]):
        raise ValueError(f"constraint_kwargs are arguments of a constraint, and constraint is None, got {options!r}")
    if arguments.get("learn_encoder") and (encoder := arguments["encoder"]) != "population":
        raise ValueError(f"learn_encoder needs encoder='population', whose centres it trains, got {encoder!r}")
    rate = arguments["calibrate_init"]
    if isinstance(rate, bool):
        return
    if not (Range(0, 1, above=True).holds(rate) and rate < 1):
        raise ValueError(f"calibrate_init must be True, False or a rate above 0 and below 1, got {rate!r}")
    if neuron_kind(arguments.get("neurons", "lsnn")).graded:
        raise ValueError(f"calibrate_init={rate} needs neurons that spike, got {arguments['neurons']!r}: leave it out")


def check_readout(policy: Any) -> None:
    """Refuse what does not go with a readout that takes the spikes of every tick.

    Args:
        policy: A spiking policy that has its core, and not yet its outputs.

    Raises:
        ValueError: If there is something.
    """
    name, space = policy.lstm_actor.readout, policy.action_space
    kind = READOUTS[name]
    if kind.decide is None:
        return
    if policy.net_arch["pi"]:
        raise ValueError(f"readout={name!r} takes spikes: net_arch pi must be [], got {policy.net_arch['pi']}")
    if policy.use_sde:
        raise ValueError(f"use_sde must be False with readout={name!r}, which has no trace for its noise to follow")
    if policy.critic_reads_actor:
        raise ValueError(f"critic_reads_actor must be False with readout={name!r}, which has no trace at a step's end")
    if policy.lstm_actor.n_ticks == 1 and not kind.draws:
        what = f"readout={name!r} looks at every tick of an env step, and n_ticks=1"
        warnings.warn(f"{what}: that is what readout='leaky' with tau_out=0 does, only faster", stacklevel=7)
    if kind.fires and type(space).__name__.lower() not in kind.heads:
        raise ValueError(f"readout={name!r} chooses one of several actions: it needs Discrete, got {in_words(space)}")


def check_no_weights_before(policy: Any) -> None:
    """Refuse a features extractor with weights before a core that hands no gradient on to them.

    Args:
        policy: A spiking policy that has its features extractor.

    Raises:
        ValueError: If it has one.
    """
    if any(True for _ in policy.pi_features_extractor.parameters()):
        me, name = type(policy).__name__, type(policy.pi_features_extractor).__name__
        raise ValueError(f"{me} takes observations without weights before it, {name} has some")


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Refuse spaces that hold nothing, and a bare number observed, in which SB3 finds nothing to flatten."""
    check_not_empty("observation", observation_space)
    check_not_empty("action", action_space)
    space = observation_space
    for part in space.spaces.values() if isinstance(space, spaces.Dict) else [space]:
        if isinstance(part, spaces.Box) and part.shape == ():
            raise ValueError(f"the observation space must have an axis, such as shape (1,), got {in_words(space)}")


def from_zero(obs: Any, space: spaces.Space) -> Any:
    """Return observations whose choices count from 0, as SB3's one-hot preprocessing expects them."""
    if isinstance(space, spaces.Dict):
        return {key: from_zero(obs[key], part) for key, part in space.spaces.items()}
    start = getattr(space, "start", None)
    return obs if start is None or not np.any(start) else obs - th.as_tensor(start, device=obs.device)
