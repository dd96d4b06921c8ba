"""Lowers a network to a chip: layers by the class of their neurons, then what connects them, and the readout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from spikeloop.hardware.loihi.chip import CHIPS
from spikeloop.hardware.loihi.lower_current_lif import current_lif_on_loihi1, current_lif_on_loihi2
from spikeloop.hardware.loihi.lower_integrate_and_fire import (
    integrate_and_fire_on_loihi1,
    integrate_and_fire_on_loihi2,
)
from spikeloop.hardware.loihi.lower_lsnn import lsnn_on_loihi1, lsnn_on_loihi2
from spikeloop.hardware.loihi.lowered import INPUT, NEURON_PROGRAMS, READOUT, Group, Link, Lowered, LoweredLayer
from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons.current_lif import CurrentLif
from spikeloop.spiking.neurons.integrate_and_fire import IntegrateAndFire
from spikeloop.spiking.neurons.lsnn import LsnnNeurons

# How a chip holds the neurons of a layer: (class of its neurons, chip) -> function of the layer's index, the network,
# the mean of ``a`` at a neuron's own spikes, shape (N,), and the neurons' program, one of ``NEURON_PROGRAMS``.
LOWERINGS: dict[tuple[type, str], Callable[[int, Network, np.ndarray, str], LoweredLayer]] = {
    (LsnnNeurons, "loihi1"): lsnn_on_loihi1,
    (LsnnNeurons, "loihi2"): lsnn_on_loihi2,
    (IntegrateAndFire, "loihi1"): integrate_and_fire_on_loihi1,
    (IntegrateAndFire, "loihi2"): integrate_and_fire_on_loihi2,
    (CurrentLif, "loihi1"): current_lif_on_loihi1,
    (CurrentLif, "loihi2"): current_lif_on_loihi2,
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
    if kind != "bias" and layers:
        links.append(Link(INPUT, INPUT, layers[0].target, network.layers[0].w_in))
    for i, (before, after) in enumerate(pairwise(layers), start=1):
        links.append(Link(f"layer {i - 1} to {i}", before.source, after.target, network.layers[i].w_in))
    n_parts = 1
    # dense layers are the host's, and so is what follows them; input reaches a readout without delay
    if (network.latency or not layers) and not network.readout.dense:
        # half of a core's axons: the readout may be taught to learn, and a plastic synapse takes two
        weights = in_parts(network.readout.w_out, CHIPS[chip].input_axons // 2)
        n_parts = len(weights) // network.readout.n_outputs
        groups.append(_readout(network, n_parts))
        links.append(Link(READOUT, layers[-1].source if layers else INPUT, READOUT, weights))
    elif not network.latency:
        notes += ["latency between layers"] * (len(layers) > 1) + ["readout on the host"]
    sources = tuple(layer.source for layer in layers)
    target = layers[0].target if layers else READOUT
    return Lowered(tuple(groups), tuple(links), kind, target, sources, tuple(dict.fromkeys(notes)), n_parts)


def in_parts(weights: np.ndarray, n_axons: int) -> np.ndarray:
    """Return the weights of output units that are split because more sources reach them than a core has axons.

    Each part has units of its own, that take an equal share of the sources, those of weight 0 too: they may learn.
    Adding the parts is the host's.

    Args:
        weights: Shape (n_outputs, n_pre).
        n_axons: Sources that can reach a core.

    Returns:
        Weights of shape (n_parts * n_outputs, n_pre), part after part, 0 where a source is not of a part's share.

    Example:
        >>> in_parts(np.ones((1, 3)), n_axons=2).tolist()
        [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    n_pre = weights.shape[1]
    shares = np.array_split(np.arange(n_pre), max(1, -(-n_pre // n_axons)))
    parts = np.zeros((len(shares), *weights.shape), weights.dtype)
    for part, share in zip(parts, shares, strict=True):
        part[:, share] = weights[:, share]
    return parts.reshape(-1, weights.shape[1])


def _readout(network: Network, n_parts: int) -> Group:
    """Return the readout: compartments that never fire; the trace's filter and the output weights commute."""
    readout, n = network.readout, n_parts * network.readout.n_outputs
    kept, _, synapse = readout.filter(network.n_ticks, network.dt)
    return Group(
        READOUT,
        len(network.layers),
        np.full(n, kept),
        np.full(n, np.inf),
        np.zeros(n),
        kappa=np.full(n, synapse) if synapse else None,
        fires=False,
    )
