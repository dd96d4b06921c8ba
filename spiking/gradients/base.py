"""What a gradient is to the rest of the library: how a sequence is run so that autograd can go back through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch

from spikeloop.spiking.engine.sequences import Timing
from spikeloop.spiking.spiking_layer import SpikingLayers


class Run(NamedTuple):
    """What layers did in a sequence of L env steps of B environments."""

    y: torch.Tensor  # readout trace at the end of each step, (L, B, N of the last layer), in the graph of autograd
    state: torch.Tensor  # packed state after the last step, (n_rows, B, width), outside of it
    counts: list[np.ndarray]  # spikes of each neuron of each layer, int64, (N,)
    rates: Callable[[], list[torch.Tensor]]  # the same per tick and environment, in the graph; made when asked for


class Gradient(Protocol):
    """How a sequence is run for training.

    A spike has no derivative that would tell a weight anything, so a gradient says what stands in for it. Most do so
    for the spike alone, and run the equations with it (:func:`~spikeloop.spiking.gradients.equations.run_equations`):

        def run(self, layers, x, state, start, timing):
            return run_equations(layers, x, state, start, timing, self.spike)
    """

    def run(
        self, layers: SpikingLayers, x: torch.Tensor, state: torch.Tensor, start: torch.Tensor, timing: Timing
    ) -> Run:
        """Run a sequence of env steps; the outputs are those of :mod:`spikeloop.spiking.reference`.

        Args:
            layers: The layers, whose parameters are to have gradients.
            x: Input, shape (L, B, n_inputs) where it is held over a step, else (L, n_ticks, B, n_inputs).
            state: Packed state of the layers and the readout, shape (n_rows, B, width).
            start: 1 where the state is cleared before a step, shape (L, B).
            timing: Ticks, latency and readout, the same for all layers.
        """
        ...
