"""Integrate-and-fire neurons as compartments of the chips.

    loihi1    two ``cuba`` compartments: one integrates and never fires, the other, without memory, adds the first one's
              v to its own u and fires; its spike takes v_th off the first, one tick later, as in the network
    loihi2    one ``lsnn`` compartment, whose spike takes its own threshold, v_th - v_start, off it; a synapse onto
              itself takes off the rest, v_start

All registers at zero stand for a membrane at ``v_start``: the threshold on the chip is the distance from there. On
loihi1 all decays of a core share one offset. Because the second compartment must forget everything, a decay of 0 is
impossible there: the membrane loses 1/4096 of itself on every tick.
"""

from __future__ import annotations

import numpy as np

from spikeloop.hardware.loihi.lowered import NEURON_PROGRAMS, Group, Link, LoweredLayer
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.integrate_and_fire import IntegrateAndFire


def integrate_and_fire_on_loihi1(
    index: int, network: Network, mean_adaptation: np.ndarray, program: str
) -> LoweredLayer:
    """Return one layer as ``cuba`` compartments: the chip's own neurons, whatever ``program`` says.

    Args:
        index: Of the layer.
        network: The network.
        mean_adaptation: Not used.
        program: One of ``NEURON_PROGRAMS``; this chip has the first only.
    """
    layer, name = network.layers[index], f"layer {index}"
    neurons, inner, none = _neurons(layer), f"{name} membrane", np.zeros(layer.n_neurons)
    never, everyone = np.full(layer.n_neurons, np.inf), np.arange(layer.n_neurons)
    membrane = Group(inner, index, none + 1.0, never, layer.bias, fires=False, parent=(name, everyone))
    fires = Group(name, index, none, neurons.v_th - neurons.v_start, none)
    reset = Link(f"{name} reset", name, inner, np.diag(-neurons.v_th))
    return LoweredLayer((membrane, fires), (*_recurrent(index, layer, name, inner), reset), inner, name)


def integrate_and_fire_on_loihi2(
    index: int, network: Network, mean_adaptation: np.ndarray, program: str
) -> LoweredLayer:
    """Return one layer as ``lsnn`` compartments without a leak.

    Args:
        index: Of the layer.
        network: The network.
        mean_adaptation: Of no use here.
        program: One of ``NEURON_PROGRAMS``.

    Raises:
        ValueError: If the program is lava-dl's.
    """
    if program != NEURON_PROGRAMS[0]:
        raise ValueError(f"neurons must be {NEURON_PROGRAMS[0]!r} for IntegrateAndFire neurons, got {program!r}")
    layer, name = network.layers[index], f"layer {index}"
    neurons, none = _neurons(layer), np.zeros(layer.n_neurons)
    main = Group(
        name,
        index,
        none + 1.0,
        neurons.v_th - neurons.v_start,
        layer.bias,
        model="lsnn",
        rho=none,
        beta=none,
        subtract=True,
    )
    rest = Link(f"{name} reset", name, name, np.diag(-neurons.v_start))
    return LoweredLayer((main,), (*_recurrent(index, layer, name, name), rest), name, name)


def _neurons(layer: Layer) -> IntegrateAndFire:
    assert isinstance(layer.neurons, IntegrateAndFire)  # as LOWERINGS says
    return layer.neurons


def _recurrent(index: int, layer: Layer, source: str, target: str) -> tuple[Link, ...]:
    return () if layer.w_rec is None else (Link(f"layer {index} recurrent", source, target, layer.w_rec),)
