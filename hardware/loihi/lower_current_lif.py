"""Neurons with a synaptic current as compartments of the chips: these are the neurons that the chips have."""

from __future__ import annotations

import numpy as np

from spikeloop.hardware.loihi.lowered import NEURON_PROGRAMS, Group, Link, LoweredLayer
from spikeloop.spiking.decay import decay
from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons.current_lif import CurrentLif


def current_lif(index: int, network: Network, mean_adaptation: np.ndarray, program: str) -> LoweredLayer:
    """Return one layer as ``cuba`` compartments, one for each neuron.

    Args:
        index: Of the layer.
        network: The network.
        mean_adaptation: Of no use here.
        program: One of ``NEURON_PROGRAMS``.

    Raises:
        ValueError: If the program is lava-dl's.
    """
    if program != NEURON_PROGRAMS[0]:
        raise ValueError(f"neurons must be {NEURON_PROGRAMS[0]!r} for CurrentLif neurons, got {program!r}")
    layer, name = network.layers[index], f"layer {index}"
    neurons = layer.neurons
    assert isinstance(neurons, CurrentLif)  # as LOWERINGS says
    main = Group(
        name,
        index,
        decay(neurons.tau_m, network.dt),
        neurons.v_th,
        layer.bias,
        kappa=decay(neurons.tau_s, network.dt),
        refractory=neurons.refractory.astype(int),
    )
    links = () if layer.w_rec is None else (Link(f"{name} recurrent", name, name, layer.w_rec),)
    return LoweredLayer((main,), links, name, name)
