"""The weights of a network put into a policy: one algorithm goes on where another has left off.

``load_network(eprop.policy, ppo.to_network())`` lets local rules go on with what gradients have learnt, and
``load_network(ppo.policy, eprop.to_network())`` brings it back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th

from spikeloop.agents.eprop_network import arrays_of
from spikeloop.agents.eprop_policy import NEURON_ARRAYS, EpropPolicy
from spikeloop.agents.policies import LsnnPolicy
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.lsnn import only_lsnn
from spikeloop.spiking.rules.eprop import eprop_neurons

_LEARNT = ("w_in", "w_rec", "bias", "w_out", "b_out", "w", "b")  # of which only the shapes have to agree


def load_network(policy: LsnnPolicy | EpropPolicy, network: Network) -> None:
    """Give a policy a network's weights and the numbers of its neurons; what both are made of has to be the same.

    The policy then acts as the network does, to the bit. What only trains it is left as it is: the critic, the
    standard deviation of actions, and an optimizer's state, except that e-prop's running means begin anew and that its
    fixed ``initial`` feedback becomes the network's readout.

    Args:
        policy: The policy of SpikingPPO, SpikingA2C or EProp.
        network: The network, such as ``model.to_network()``. Its metadata and what wrappers of the environment became
            in it (VecNormalize, stacked frames) are not looked at.

    Raises:
        ValueError: If another encoder, scale, number of ticks or neurons, readout or action space is needed, or e-prop
            does not know such neurons; the message names what differs. Also if the policy's weights have a constraint.

    >>> from spikeloop.agents import EProp, SpikingPPO
    >>> same = dict(n_neurons=8, n_ticks=2, tau_m=4.0, tau_out=3.0)
    >>> ppo = SpikingPPO("LsnnPolicy", "CartPole-v1", policy_kwargs=same, seed=0)
    >>> eprop = EProp("EpropPolicy", "CartPole-v1", policy_kwargs=dict(**same, bias_scale=0.0), seed=1)
    >>> load_network(eprop.policy, ppo.to_network())
    >>> bool((eprop.to_network().to_vector() == ppo.to_network().to_vector()).all())
    True
    """
    if not isinstance(policy, (EpropPolicy, LsnnPolicy)):
        raise ValueError(f"load_network gives weights to an LsnnPolicy or EpropPolicy, got {type(policy).__name__}")
    is_eprop = isinstance(policy, EpropPolicy)
    if isinstance(policy, LsnnPolicy) and policy.constraint is not None:
        raise ValueError("load_network gives weights to a policy without a constraint: those of another would break it")
    own = policy.own_network() if isinstance(policy, EpropPolicy) else policy.actor.to_network()
    _check_same_parts(own, network)
    if is_eprop:
        _load_into_eprop(policy, network)  # type: ignore[arg-type]
    else:
        _load_into_lsnn(policy, network)  # type: ignore[arg-type]


def _check_same_parts(own: Network, network: Network) -> None:
    steps = network.preprocessing[len(network.preprocessing) - len(own.preprocessing) :]
    if not own.preprocessing:  # then no fixed factors, which are what rounds before it scales
        steps = tuple(step for step in network.preprocessing[-1:] if getattr(step, "rounds", False))
    wanted, given = (
        dict(_parts("network", dataclasses.replace(one, preprocessing=(), observation=(), metadata={})))
        | dict(_parts("obs_scale", scale))
        for one, scale in ((own, own.preprocessing), (network, steps))
    )
    for name in [*wanted, *given]:
        a, b = wanted.get(name), given.get(name)
        if not np.array_equal(a, b):  # type: ignore[arg-type]
            raise ValueError(f"the policy needs a network whose {name} is {_in_short(a)}, got {_in_short(b)}")


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of all that has to agree in a part of a network."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield f"{name} kind", type(value).__name__
        for field in dataclasses.fields(value):
            part = getattr(value, field.name)
            if field.name in _LEARNT:
                yield f"shape of {name}.{field.name}", None if part is None else part.shape
            elif not (field.name in NEURON_ARRAYS and name.endswith("neurons")):
                yield from _parts(f"{name}.{field.name}", part)
    elif isinstance(value, tuple) and all(map(dataclasses.is_dataclass, value)):
        for i, part in enumerate(value):
            yield from _parts(f"{name}[{i}]", part)
    else:
        yield name, value


def _in_short(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) and value.size > 8 else str(value)


def _load_into_eprop(policy: EpropPolicy, network: Network) -> None:
    (layer,), readout = network.layers, network.readout
    neurons = only_lsnn(layer.neurons, "EProp")
    eprop_neurons(neurons, readout.tau_out, np.float32)  # refuses what e-prop does not know
    if not policy.biased and (np.any(layer.bias) or np.any(readout.b_out)):
        raise ValueError("the network has biases, the policy has none: make it with policy_kwargs bias_scale=0.0")
    state, (w, actions) = policy.state_dict(), arrays_of(layer, readout, policy.biased)
    new = {name: np.array(getattr(neurons, name), np.float64) for name in NEURON_ARRAYS} | {"w": w}
    for name in ("w_out", "feedback") if policy.feedback_kind == "initial" else ("w_out",):
        new[name] = np.concatenate((actions, state[name][-1:].numpy()))  # the value's row is the critic's
    for name in (name for name in state if name.startswith("adam_")):
        new[name] = np.zeros(state[name].shape)
    policy.load_state_dict({**state, **{name: th.from_numpy(array) for name, array in new.items()}})


def _load_into_lsnn(policy: LsnnPolicy, network: Network) -> None:
    with th.no_grad():
        for mine, layer in zip(policy.lstm_actor.layers if network.layers else (), network.layers, strict=True):
            _copy_layer(mine, layer)
        linear: list[Any] = [*list(policy.mlp_extractor.policy_net)[::2], policy.action_net]
        matrices = network.readout.weights
        biases = (*(dense.b for dense in network.readout.dense), network.readout.b_out)
        for module, w, b in zip(linear, matrices, biases, strict=True):
            module.weight.copy_(th.from_numpy(w.copy()))
            module.bias.copy_(th.from_numpy(b.copy()))


def _copy_layer(mine: Any, layer: Layer) -> None:
    for name in ("w_in", "bias", "w_rec"):
        if getattr(layer, name) is not None:
            getattr(mine, name).copy_(th.from_numpy(getattr(layer, name).copy()))
    for name in mine.array_names:
        getattr(mine, name).copy_(th.from_numpy(np.array(getattr(layer.neurons, name), np.float64)))
