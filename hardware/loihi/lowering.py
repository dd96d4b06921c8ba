"""A Network's layers as groups of chip compartments and the synapses between them, still in floats.

What each layer becomes, by what the chip's neurons can do:

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

What a chip cannot do is lowered to the nearest that it can, and noted by name in ``Lowered.approximations``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from spikeloop.hardware.loihi.chip import CHIPS
from spikeloop.spiking.decay import decay
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.lsnn import only_lsnn

APPROXIMATIONS = {
    "moving threshold as current": "the same between spikes; after a spike right only for the average adaptation",
    "membrane held while refractory": "the network's membrane goes on integrating; the chip keeps it at 0, "
    "as a network with `hold` does",
    "latency between layers": "a spike takes one tick to the next layer, the network expects none",
    "readout on the host": "a spike takes one tick to a readout on the chip, the network expects none; so the last "
    "layer's spikes leave the chip",
}
NEURONS = ("lsnn", "slayer_alif")  # programs of a neuron on loihi2: ours, and lava-dl's
NEEDS_CONSENT = ("membrane held while refractory",)  # it has cost 89 % of a return
INPUT, READOUT, ADAPTATION = "input", "readout", "adaptation"


@dataclass(frozen=True, eq=False)
class Group:
    """Compartments of one kind.

    Args:
        name: For messages and reports.
        domain: Which scale they share: the layer's index, the number of layers for the readout.
        alpha: Membrane factor per tick, shape (n,).
        v_th: Threshold in units of v, shape (n,).
        bias: Constant current in units of v, shape (n,).
        model: Neuron model.
        kappa: Factor per tick of the synaptic current, shape (n,); None for no memory.
        rho: ``lsnn``: factor per tick of the adaptation, shape (n,).
        beta: ``lsnn``: what a spike adds to the threshold, in units of v, shape (n,).
        refractory: Ticks a neuron is silent after a spike, shape (n,).
        subtract: ``lsnn``: reset by subtraction.
        fires: Whether they spike.
        parent: The group, and which compartments of it, shape (n,), that get their v added; None for no parent.
    """

    name: str
    domain: int
    alpha: np.ndarray
    v_th: np.ndarray
    bias: np.ndarray
    model: str = "cuba"
    kappa: np.ndarray | None = None
    rho: np.ndarray | None = None
    beta: np.ndarray | None = None
    refractory: np.ndarray | None = None
    subtract: bool = False
    fires: bool = True
    parent: tuple[str, np.ndarray] | None = None

    @property
    def n(self) -> int:
        """Number of compartments."""
        return len(self.alpha)


class Link(NamedTuple):
    """Synapses between two groups: weights (n_post, n_pre) in units of v, 0 where there is none."""

    name: str
    pre: str  # a group that fires, or "input"
    post: str
    weights: np.ndarray


class LoweredLayer(NamedTuple):
    """Groups (children before parents) and inner synapses of one layer.

    ``target`` is the group that takes its input, ``source`` the one that fires.
    """

    groups: tuple[Group, ...]
    links: tuple[Link, ...]
    target: str
    source: str
    approximations: tuple[str, ...] = ()


class Lowered(NamedTuple):
    """A whole network.

    Args:
        groups: All groups, children before parents; the readout's, if the chip has it, is the last.
        links: All synapses.
        input: How input reaches the chip, as in :class:`~spikeloop.hardware.deployed.Host`.
        target: The group that takes it.
        sources: The group of each layer that fires.
        approximations: Keys of ``APPROXIMATIONS``.
    """

    groups: tuple[Group, ...]
    links: tuple[Link, ...]
    input: Literal["bias", "spikes", "graded"]
    target: str
    sources: tuple[str, ...]
    approximations: tuple[str, ...]

    @property
    def reads_spikes(self) -> bool:
        """Whether the readout stays on the host."""
        return self.groups[-1].name != READOUT


def lower(network: Network, chip: str, mean_adaptation: Sequence[np.ndarray], neurons: str = NEURONS[0]) -> Lowered:
    """Return a network as groups and links.

    Args:
        network: The network.
        chip: ``"loihi1"`` or ``"loihi2"``.
        mean_adaptation: Per layer, mean of ``a`` at a neuron's own spikes, shape (N,).
        neurons: One of ``NEURONS``: the program of the neurons on ``loihi2``.

    Raises:
        ValueError: If the network's neurons do what that program cannot.
    """
    if neurons != NEURONS[0]:
        _check_slayer(network, chip, neurons)
        layers = [_slayer(i, layer, network.dt) for i, layer in enumerate(network.layers)]
    else:
        layers = [lower_layer(i, network, chip, mean_adaptation[i]) for i in range(len(network.layers))]
    groups = [group for layer in layers for group in layer.groups]
    links = [link for layer in layers for link in layer.links]
    notes = [note for layer in layers for note in layer.approximations]
    graded = CHIPS[chip].graded_spikes
    kind: Literal["bias", "spikes", "graded"] = "spikes" if network.encoder.per_tick else "graded" if graded else "bias"
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
    kept = 1.0 if readout.count or readout.first_spike else float(decay(readout.tau_out, network.dt))
    return Group(READOUT, len(network.layers), np.full(n, kept), np.full(n, np.inf), np.zeros(n), fires=False)


def lower_layer(index: int, network: Network, chip: str, mean_adaptation: np.ndarray) -> LoweredLayer:
    """Return one layer as groups.

    Args:
        index: Of the layer.
        network: The network.
        chip: ``"loihi1"`` or ``"loihi2"``.
        mean_adaptation: Mean of ``a`` at the neuron's own spikes, shape (N,).
    """
    layer = network.layers[index]
    neurons = only_lsnn(layer.neurons, "the chip")
    if chip == "loihi2" and not neurons.hold:  # which our program does not, but the chip's own neuron
        return _lsnn(index, layer, network.dt)
    if neurons.reset == "subtract":
        return _soft_reset(index, layer, network.dt)
    return _hard_reset(index, layer, network.dt, mean_adaptation)


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


def _check_slayer(network: Network, chip: str, neurons: str) -> None:
    if neurons not in NEURONS:
        raise ValueError(f"neurons must be one of {NEURONS}, got {neurons!r}")
    if neurons not in CHIPS[chip].models:
        raise ValueError(f"neurons must be {NEURONS[0]!r} on {chip}, which has no neuron model {neurons!r}")
    for i, layer in enumerate(network.layers):
        p = only_lsnn(layer.neurons, "the chip")
        moves = p.adaptation == "threshold" and bool(np.any(p.beta))
        if p.reset != "subtract" or np.any(p.refractory) or moves:
            raise ValueError(
                f"neurons={neurons!r} needs reset 'subtract', no refractory ticks, and adaptation 'ahp' or none; "
                f"layer {i} has reset {p.reset!r}, up to {p.refractory.max()} refractory ticks and adaptation "
                f"{p.adaptation!r}"
            )


def _slayer(index: int, layer: Layer, dt: float) -> LoweredLayer:
    neurons, name = only_lsnn(layer.neurons, "the chip"), f"layer {index}"
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
