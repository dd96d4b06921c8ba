"""Dale's law: a neuron excites all that it sends to, or inhibits all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spikeloop.spiking.constraints.base import Synapses, check_shares, held


@dataclass(frozen=True)
class Dale:
    """One sign for all synapses that a neuron sends to its own layer and the next; the readout is free.

    All synapses are there. A weight that a step takes to the other side of its sign is set to 0, and may leave it
    again.

    Args:
        inhibitory: Share of neurons that inhibit, as in the cortex (Bellec et al. 2018 have a fifth).

    Raises:
        ValueError: If it is no number from 0 to 1.

    >>> now = Synapses(np.array([[0.5, 0.1]]), np.array([[1, -1]], np.int8), np.ones((1, 2), bool))
    >>> Dale().after_step(now, 1e-3, np.random.default_rng(0))[0].w
    array([[0.5, 0. ]])
    """

    draws_signs: ClassVar[bool] = False
    acting: ClassVar[None] = None
    connectivity: ClassVar[float] = 1.0
    input_connectivity: ClassVar[float] = 1.0

    inhibitory: float = 0.2

    def __post_init__(self) -> None:
        check_shares(self, "inhibitory")

    def after_step(self, synapses: Synapses, rate: float, rng: np.random.Generator) -> tuple[Synapses, np.ndarray]:
        """Set to 0 what has the wrong sign."""
        return synapses._replace(w=held(synapses)), synapses.active
