"""A network as groups of compartments and the synapses between them, still in floats: what lowering makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

APPROXIMATIONS = {
    "moving threshold as current": "the same between spikes; after a spike right only for the average adaptation",
    "membrane held while refractory": "the network's membrane goes on integrating; the chip keeps it at 0, "
    "as a network with `hold` does",
    "latency between layers": "a spike takes one tick to the next layer, the network expects none",
    "readout on the host": "a spike takes one tick to a readout on the chip, the network expects none; so the last "
    "layer's spikes leave the chip",
}
NEEDS_CONSENT = ("membrane held while refractory",)  # it has cost 89 % of a return
NEURON_PROGRAMS = ("lsnn", "slayer_alif")  # what runs a neuron on loihi2: our program, and lava-dl's
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

    Example:
        >>> neurons = Group("layer 0", 0, alpha=np.full(3, 0.9), v_th=np.ones(3), bias=np.zeros(3))
        >>> neurons.n, neurons.fires
        (3, True)
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
    """Synapses between two groups: weights (n_post, n_pre) in units of v, 0 where there is none.

    Example:
        >>> Link("layer 0 recurrent", pre="layer 0", post="layer 0", weights=np.zeros((3, 3))).weights.shape
        (3, 3)
    """

    name: str
    pre: str  # a group that fires, or "input"
    post: str
    weights: np.ndarray


class LoweredLayer(NamedTuple):
    """Groups (children before parents) and inner synapses of one layer.

    ``target`` is the group that takes its input, ``source`` the one that fires.

    Example:
        >>> neurons = Group("layer 0", 0, alpha=np.full(3, 0.9), v_th=np.ones(3), bias=np.zeros(3))
        >>> LoweredLayer((neurons,), (), target="layer 0", source="layer 0").approximations
        ()
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
        input: How input reaches the chip, as in :class:`~spikeloop.hardware.host.Host`.
        target: The group that takes it.
        sources: The group of each layer that fires.
        approximations: Keys of ``APPROXIMATIONS``.
        n_parts: How many parts the chip's readout has, each of as many compartments as there are outputs.

    Example:
        >>> neurons = Group("layer 0", 0, alpha=np.full(3, 0.9), v_th=np.ones(3), bias=np.zeros(3))
        >>> Lowered((neurons,), (), "bias", "layer 0", ("layer 0",), ()).reads_spikes
        True
    """

    groups: tuple[Group, ...]
    links: tuple[Link, ...]
    input: Literal["bias", "spikes", "graded"]
    target: str
    sources: tuple[str, ...]
    approximations: tuple[str, ...]
    n_parts: int = 1

    @property
    def reads_spikes(self) -> bool:
        """Whether the readout stays on the host."""
        return self.groups[-1].name != READOUT
