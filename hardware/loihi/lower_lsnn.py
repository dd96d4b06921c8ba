"""LSNN neurons as compartments of the chips.

What a layer becomes, by what the chip's neurons can do:

    loihi2                      one ``lsnn`` compartment per neuron, whatever reset and refractory time;
                                ``ahp`` puts an auxiliary compartment under it. With ``hold``, as reset "zero" below
    loihi2, "slayer_alif"       one ``slayer_alif`` compartment, for reset "subtract" without refractory ticks and with
                                a fixed threshold: its spike raises a term r by 2 v_th, which leaks as v does, so that
                                v - r is a membrane that loses 2 alpha v_th by the next tick; a synapse onto itself
                                gives v_th (2 alpha - 1) back. At v_th itself it spikes, where the network does not
    loihi1, reset "zero"        one ``cuba`` compartment; adaptation is an auxiliary compartment whose slow negative v
                                is added to the neuron's (how LSNNs were put on Loihi: Rao, Plank et al. 2022)
    loihi1, reset "subtract"    two: one integrates and never fires, the other, without memory, adds the first one's v
                                to its own u and fires; its spike takes v_th off the first (the published soft
                                reset). A moving threshold fits into the second one's u: ``u <- rho u - beta z``

What a chip cannot do is lowered to the nearest that it can, and noted by name in ``LoweredLayer.approximations``.
"""

from __future__ import annotations

import numpy as np

from spikeloop.hardware.loihi.lowered import ADAPTATION, Group, Link, LoweredLayer
from spikeloop.spiking.decay import decay
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.lsnn import only_lsnn


def lsnn_on_loihi1(index: int, network: Network, mean_adaptation: np.ndarray, program: str) -> LoweredLayer:
    """Return one layer of LSNN neurons as ``cuba`` compartments: the chip's own neurons, whatever ``program`` says.

    Args:
        index: Of the layer.
        network: The network.
        mean_adaptation: Mean of ``a`` at the neuron's own spikes, shape (N,).
        program: One of ``NEURON_PROGRAMS``; this chip has the first only.
    """
    layer = network.layers[index]
    if only_lsnn(layer.neurons, "the chip").reset == "subtract":
        return _soft_reset(index, layer, network.dt)
    return _hard_reset(index, layer, network.dt, mean_adaptation)


def lsnn_on_loihi2(index: int, network: Network, mean_adaptation: np.ndarray, program: str) -> LoweredLayer:
    """Return one layer of LSNN neurons as compartments that run a neuron program.

    Args:
        index: Of the layer.
        network: The network.
        mean_adaptation: Mean of ``a`` at the neuron's own spikes, shape (N,).
        program: One of ``NEURON_PROGRAMS``.

    Raises:
        ValueError: If the neurons do what lava-dl's program cannot.
    """
    layer = network.layers[index]
    if program == "slayer_alif":
        return _slayer(index, layer, network.dt)
    if only_lsnn(layer.neurons, "the chip").hold:  # which our program does not, but the chip's own neuron
        return _hard_reset(index, layer, network.dt, mean_adaptation)
    return _lsnn(index, layer, network.dt)


def _one_per_row(columns: np.ndarray, n_columns: int, values: np.ndarray) -> np.ndarray:
    weights = np.zeros((len(columns), n_columns))
    weights[np.arange(len(columns)), columns] = values
    return weights


def _adaptation(
    name: str, index: int, layer: Layer, dt: float, parent: str, source: str, jump: np.ndarray
) -> tuple[tuple[Group, ...], tuple[Link, ...]]:
    """Return the auxiliary compartments ``v <- rho v - jump z`` of the neurons that adapt, under their parents."""
    neurons = only_lsnn(layer.neurons, "the chip")
    who = np.flatnonzero(jump)
    if not who.size:
        return (), ()
    rho, none = decay(neurons.tau_a, dt)[who], np.zeros(who.size)
    group = Group(name, index, rho, np.full(who.size, np.inf), none, fires=False, parent=(parent, who))
    return (group,), (Link(name, source, name, _one_per_row(who, neurons.n_neurons, -jump[who])),)


def _recurrent(index: int, layer: Layer, source: str, target: str) -> tuple[Link, ...]:
    return () if layer.w_rec is None else (Link(f"layer {index} recurrent", source, target, layer.w_rec),)


def _lsnn(index: int, layer: Layer, dt: float) -> LoweredLayer:
    neurons, name = only_lsnn(layer.neurons, "the chip"), f"layer {index}"
    ahp = neurons.adaptation == "ahp"
    main = Group(
        name,
        index,
        decay(neurons.tau_m, dt),
        neurons.v_th,
        layer.bias,
        model="lsnn",
        rho=decay(neurons.tau_a, dt),
        beta=np.zeros(neurons.n_neurons) if ahp else neurons.beta,
        refractory=neurons.refractory,
        subtract=neurons.reset == "subtract",
    )
    aux, links = _adaptation(f"{name} {ADAPTATION}", index, layer, dt, name, name, neurons.beta * ahp)
    return LoweredLayer((*aux, main), (*_recurrent(index, layer, name, name), *links), name, name)


def _slayer(index: int, layer: Layer, dt: float) -> LoweredLayer:
    neurons, name = only_lsnn(layer.neurons, "the chip"), f"layer {index}"
    moves = neurons.adaptation == "threshold" and bool(np.any(neurons.beta))
    if neurons.reset != "subtract" or np.any(neurons.refractory) or moves:
        raise ValueError(
            f"neurons='slayer_alif' needs reset 'subtract', no refractory ticks, and adaptation 'ahp' or none; "
            f"layer {index} has reset {neurons.reset!r}, up to {neurons.refractory.max()} refractory ticks and "
            f"adaptation {neurons.adaptation!r}"
        )
    alpha = decay(neurons.tau_m, dt)
    main = Group(name, index, alpha, neurons.v_th, layer.bias, model="slayer_alif")
    back = Link(f"{name} reset", name, name, np.diag(neurons.v_th * (2.0 * alpha - 1.0)))
    aux, links = _adaptation(f"{name} {ADAPTATION}", index, layer, dt, name, name, neurons.beta)
    return LoweredLayer((*aux, main), (*_recurrent(index, layer, name, name), back, *links), name, name)


def _hard_reset(index: int, layer: Layer, dt: float, mean_adaptation: np.ndarray) -> LoweredLayer:
    neurons, name, notes = only_lsnn(layer.neurons, "the chip"), f"layer {index}", []
    alpha = decay(neurons.tau_m, dt)
    jump, links = np.array(neurons.beta, np.float64), _recurrent(index, layer, name, name)
    if neurons.adaptation == "threshold" and np.any(neurons.beta):
        notes.append("moving threshold as current")
        # v' = v - beta a obeys v' <- alpha v' + i - (beta a - alpha beta a_before), which is what the currents below
        # add up to; only the reset differs, for it clears v' and not v.
        rho = decay(neurons.tau_a, dt)
        ratio = np.divide(alpha, rho, out=np.zeros_like(alpha), where=rho > 0)
        own = np.diag(-ratio * jump * (1.0 + rho * mean_adaptation))
        own -= np.diag(np.where(rho > 0, 0.0, jump))
        jump = np.where(rho > 0, (1.0 - ratio) * jump, 0.0)
        links = (*links, Link(f"{name} self-inhibition", name, name, own))
    if np.any(neurons.refractory) and not neurons.hold:
        notes.append("membrane held while refractory")
    main = Group(name, index, alpha, neurons.v_th, layer.bias, refractory=neurons.refractory)
    aux, more = _adaptation(f"{name} {ADAPTATION}", index, layer, dt, name, name, jump)
    return LoweredLayer((*aux, main), (*links, *more), name, name, tuple(notes))


def _soft_reset(index: int, layer: Layer, dt: float) -> LoweredLayer:
    neurons, n = only_lsnn(layer.neurons, "the chip"), layer.n_neurons
    name, inner = f"layer {index}", f"layer {index} membrane"
    ahp, everyone = neurons.adaptation == "ahp", np.arange(n)
    membrane = Group(
        inner, index, decay(neurons.tau_m, dt), np.full(n, np.inf), layer.bias, fires=False, parent=(name, everyone)
    )
    none = np.zeros(n)
    moves = not ahp and bool(np.any(neurons.beta))
    fires = Group(
        name,
        index,
        none,
        neurons.v_th,
        none,
        kappa=np.where(neurons.beta > 0, decay(neurons.tau_a, dt), 0.0) if moves else None,
        refractory=neurons.refractory,
    )
    links = (*_recurrent(index, layer, name, inner), Link(f"{name} reset", name, inner, np.diag(-neurons.v_th)))
    if moves:
        links = (*links, Link(f"{name} {ADAPTATION}", name, name, np.diag(-neurons.beta)))
    aux, more = _adaptation(f"{name} {ADAPTATION}", index, layer, dt, inner, name, neurons.beta * ahp)
    return LoweredLayer((*aux, membrane, fires), (*links, *more), inner, name)
