"""Binary weights: every synapse onto a neuron has the same size, and only its sign is its own.

A neuron acts with ``sign(w) s``, where ``s`` is the mean of ``|w|`` over the synapses that it has in a matrix: it has
one scale for its input weights and one for its recurrent weights (Rastegari et al. 2016, "XNOR-Net"). ``w`` are latent
weights. They move by the gradient of the weights that act, as if there were neither sign nor mean between them, and are
clipped to [-1, 1] (Courbariaux, Bengio & David 2015, "BinaryConnect"). In this straight-through estimator the scale
follows the latent weights, and has no gradient of its own (as in the code of Liu et al. 2018, "Bi-Real Net"); XNOR-Net
gives it one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spikeloop.spiking.constraints.base import Synapses


@dataclass(frozen=True)
class Binary:
    """Weights of one size for each neuron and matrix, of both signs; all synapses are there.

    The input weights of the first layer are binary too.

    >>> latent = Synapses(np.array([[0.5, -1.25, 0.0]]), np.zeros((1, 3), np.int8), np.array([[True, True, False]]))
    >>> clipped, _ = Binary().after_step(latent, 1e-3, np.random.default_rng(0))
    >>> clipped.w, Binary.acting(clipped)
    (array([[ 0.5, -1. ,  0. ]]), array([[ 0.75, -0.75,  0.  ]]))
    """

    draws_signs: ClassVar[bool] = False
    connectivity: ClassVar[float] = 1.0
    input_connectivity: ClassVar[float] = 1.0
    inhibitory: ClassVar[None] = None

    @staticmethod
    def acting(latent: Synapses) -> np.ndarray:
        """Return the sign of each latent weight, 1 for 0, times the mean size of those of its row."""
        w, _, active = latent
        size = np.where(active, abs(w), 0).sum(axis=1, keepdims=True) / np.maximum(active.sum(axis=1, keepdims=True), 1)
        return np.where(active, np.where(w < 0, -size, size), 0).astype(w.dtype)

    def after_step(self, synapses: Synapses, rate: float, rng: np.random.Generator) -> tuple[Synapses, np.ndarray]:
        """Clip latent weights to [-1, 1]: one that was to go further is where its gradient would no longer count."""
        return synapses._replace(w=np.clip(synapses.w, -1, 1)), synapses.active
