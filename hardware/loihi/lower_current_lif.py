"""Neurons with a synaptic current as compartments of the chips: these are the neurons that the chips have.

Spikes and payloads reach a compartment's current, as they do the neuron's. A bias reaches its membrane, and the host of
loihi1 writes what is held over an env step as biases. So biases are refused, and on loihi1 such input too.
"""

from __future__ import annotations

import numpy as np

from spikeloop.hardware.loihi.lowered import NEURON_PROGRAMS, Group, Link, LoweredLayer
from spikeloop.spiking.decay import decay
from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons.current_lif import CurrentLif


def current_lif_on_loihi1(index: int, network: Network, mean_adaptation: np.ndarray, program: str) -> LoweredLayer:
    """Return one layer as :func:`current_lif_on_loihi2` does.

    Raises:
        ValueError: If the layer has a bias, or its input would be written as biases.
    """
    if index == 0 and not network.encoder.spikes:
        raise ValueError(
            "loihi1 writes held input as biases, past the current of CurrentLif neurons: Network.encoder must spike, "
            f"got {network.encoder.kind!r}"
        )
    return current_lif_on_loihi2(index, network, mean_adaptation, program)


def current_lif_on_loihi2(index: int, network: Network, mean_adaptation: np.ndarray, program: str) -> LoweredLayer:
    """Return one layer as ``cuba`` compartments, one for each neuron.

    Args:
        index: Of the layer.
        network: The network.
        mean_adaptation: Of no use here.
        program: One of ``NEURON_PROGRAMS``.

    Raises:
        ValueError: If the layer has a bias, or the program is lava-dl's.
    """
    if program != NEURON_PROGRAMS[0]:
        raise ValueError(f"neurons must be {NEURON_PROGRAMS[0]!r} for CurrentLif neurons, got {program!r}")
    layer, name = network.layers[index], f"layer {index}"
    neurons, none = layer.neurons, np.zeros(layer.n_neurons)
    assert isinstance(neurons, CurrentLif)  # as LOWERINGS says
    if np.any(layer.bias):
        raise ValueError(
            f"Network.layers[{index}].bias must be 0: a chip adds a bias to the membrane, past the current of "
            f"CurrentLif neurons, found up to {abs(layer.bias).max():g}"
        )
    main = Group(
        name,
        index,
        decay(neurons.tau_m, network.dt),
        neurons.v_th,
        none,
        kappa=decay(neurons.tau_s, network.dt),
        refractory=neurons.refractory.astype(int),
    )
    links = () if layer.w_rec is None else (Link(f"{name} recurrent", name, name, layer.w_rec),)
    return LoweredLayer((main,), links, name, name)
