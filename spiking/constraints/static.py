"""Synapses that are drawn once and stay: the control of what chooses its synapses while it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spikeloop.spiking.constraints.base import Synapses, check_shares, held


@dataclass(frozen=True)
class Static:
    """A fixed random share of the synapses; with ``inhibitory``, each neuron has one sign as well.

    Args:
        connectivity: Share of the recurrent synapses, above 0 and at most 1.
        input_connectivity: That of input synapses; 1 leaves them as they are.
        inhibitory: Share of neurons that inhibit; None for neurons that may do both. A weight that comes to the other
            side of its sign is set to 0, and may leave it again.

    Raises:
        ValueError: If a field is out of range.

    >>> now = Synapses(np.array([[0.5, 0.1]]), np.zeros((1, 2), np.int8), np.array([[True, False]]))
    >>> Static().after_step(now, 1e-3, np.random.default_rng(0))[0].w
    array([[0.5, 0. ]])
    """

    draws_signs: ClassVar[bool] = False
    acting: ClassVar[None] = None

    connectivity: float = 0.1
    input_connectivity: float = 1.0
    inhibitory: float | None = None

    def __post_init__(self) -> None:
        check_shares(self, "connectivity", "input_connectivity", "inhibitory")

    def after_step(self, synapses: Synapses, rate: float, rng: np.random.Generator) -> tuple[Synapses, np.ndarray]:
        """Keep the synapses; set to 0 what has the wrong sign."""
        return synapses._replace(w=held(synapses)), synapses.active
