"""Lowers a network to a chip: layers by the class of their neurons, then what connects them, and the readout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from spikeloop.hardware.loihi.chip import CHIPS
from spikeloop.hardware.loihi.lower_lsnn import NEURON_PROGRAMS, lsnn_on_loihi1, lsnn_on_loihi2
from spikeloop.hardware.loihi.lowered import INPUT, READOUT, Group, Link, Lowered, LoweredLayer
from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons.lsnn import NeuronParameters

# How a chip holds the neurons of a layer: (class of its neurons, chip) -> function of the layer's index, the network,
# the mean of ``a`` at a neuron's own spikes, shape (N,), and the neurons' program, one of ``NEURON_PROGRAMS``.
LOWERINGS: dict[tuple[type, str], Callable[[int, Network, np.ndarray, str], LoweredLayer]] = {
    (NeuronParameters, "loihi1"): lsnn_on_loihi1,
    (NeuronParameters, "loihi2"): lsnn_on_loihi2,
}


def check_neurons(network: Network, chip: str) -> None:
    """Raise ``ValueError`` where a chip has no form for the neurons of a layer."""
    held = [neurons.__name__ for neurons, where in LOWERINGS if where == chip]
    for i, layer in enumerate(network.layers):
        if (type(layer.neurons), chip) not in LOWERINGS:
            name = type(layer.neurons).__name__
            raise ValueError(f"{chip} cannot hold {name}, those of layer {i}; it holds {', '.join(held)}")


def lower(
    network: Network, chip: str, mean_adaptation: Sequence[np.ndarray], program: str = NEURON_PROGRAMS[0]
) -> Lowered:
    """Return a network as groups and links.

    Args:
        network: The network.
        chip: Name of the chip.
        mean_adaptation: Per layer, mean of ``a`` at a neuron's own spikes, shape (N,).
        program: One of ``NEURON_PROGRAMS``: what runs the neurons on ``loihi2``.

    Raises:
        ValueError: If the chip has no form for the network's neurons, or they do what the program cannot.
    """
    check_neurons(network, chip)
    if program not in NEURON_PROGRAMS:
        raise ValueError(f"neurons must be one of {NEURON_PROGRAMS}, got {program!r}")
    if program != NEURON_PROGRAMS[0] and program not in CHIPS[chip].models:
        raise ValueError(f"neurons must be {NEURON_PROGRAMS[0]!r} on {chip}, which has no neuron model {program!r}")
    layers = [
        LOWERINGS[type(layer.neurons), chip](i, network, mean_adaptation[i], program)
        for i, layer in enumerate(network.layers)
    ]
    groups = [group for layer in layers for group in layer.groups]
    links = [link for layer in layers for link in layer.links]
    notes = [note for layer in layers for note in layer.approximations]
    graded = CHIPS[chip].graded_spikes
    kind: Literal["bias", "spikes", "graded"] = "spikes" if network.encoder.spikes else "graded" if graded else "bias"
    if kind != "bias":
        links.append(Link(INPUT, INPUT, layers[0].target, network.layers[0].w_in))
    for i, (before, after) in enumerate(pairwise(layers), start=1):
        links.append(Link(f"layer {i - 1} to {i}", before.source, after.target, network.layers[i].w_in))
    if network.latency and not network.readout.dense:  # dense layers are the host's, and so is what follows them
        groups.append(_readout(network))
        links.append(Link(READOUT, layers[-1].source, READOUT, network.readout.w_out))
    elif not network.latency:
        notes += ["latency between layers"] * (len(layers) > 1) + ["readout on the host"]
    sources = tuple(layer.source for layer in layers)
    return Lowered(tuple(groups), tuple(links), kind, layers[0].target, sources, tuple(dict.fromkeys(notes)))


def _readout(network: Network) -> Group:
    """Return the readout: compartments that never fire; the trace's filter and the output weights commute."""
    readout, n = network.readout, network.readout.n_outputs
    kept = readout.filter(network.n_ticks, network.dt).kept
    return Group(READOUT, len(network.layers), np.full(n, kept), np.full(n, np.inf), np.zeros(n), fires=False)
