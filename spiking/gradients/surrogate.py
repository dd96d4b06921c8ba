"""Surrogate gradients: a smooth function stands in for the derivative of the spike, which is a step.

A neuron spikes when ``v`` passes its effective threshold. With ``u = (v - threshold) / v_th`` the backward pass uses

    dz/dv = damping * shape(u / width) / v_th

where ``shape`` peaks at 1 for ``u = 0``:

    triangle       max(0, 1 - |x|)            Bellec et al. 2018, eq. 4 (there damping 0.3, width 1)
    fast_sigmoid   1 / (1 + |x|)^2            Zenke & Ganguli 2018, eq. 8 (SuperSpike)
    arctan         1 / (1 + (pi x / 2)^2)     Fang et al. 2021
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from spikeloop.spiking.engine.sequences import Timing
from spikeloop.spiking.gradients.base import Run
from spikeloop.spiking.gradients.engine_sequence import run_engine
from spikeloop.spiking.gradients.equations import Spike, run_equations
from spikeloop.spiking.spiking_layer import SpikingLayers

SHAPES = ("triangle", "fast_sigmoid", "arctan")


@dataclass(frozen=True)
class Surrogate:
    """A surrogate gradient: the spike's derivative is that of a smooth function around the threshold.

    Layers of LSNN neurons run on the CPU in the numba kernels, forward and backward; all others, and on other devices,
    by their equations under autograd.

    Args:
        shape: One of ``SHAPES``.
        damping: Height of the peak, > 0.
        width: Half-width in units of ``v_th``, > 0.

    Raises:
        ValueError: If a field is out of range.

    >>> Surrogate("triangle", damping=0.3, width=1.0).derivative(torch.tensor([-1.0, -0.5, 0.0, 0.5]))
    tensor([0.0000, 0.1500, 0.3000, 0.1500])
    """

    shape: str = "fast_sigmoid"
    damping: float = 1.0
    width: float = 0.5

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.shape not in SHAPES:
            raise ValueError(f"surrogate shape must be one of {SHAPES}, got {self.shape!r}")
        for name in ("damping", "width"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"surrogate {name} must be a positive number, got {value!r}")

    @property
    def code(self) -> int:
        """Index of the shape in ``SHAPES``, the form the kernels take."""
        return SHAPES.index(self.shape)

    def derivative(self, u: Any) -> Any:
        """Return ``damping * shape(u / width)`` for an array or tensor ``u`` (any shape, in units of ``v_th``)."""
        x = abs(u) / self.width
        if self.shape == "triangle":
            return self.damping * (1.0 - x) * (x < 1.0)
        if self.shape == "fast_sigmoid":
            return self.damping / (1.0 + x) ** 2
        return self.damping / (1.0 + (0.5 * math.pi * x) ** 2)

    def spike(self, u: torch.Tensor) -> torch.Tensor:
        """Return 1 where ``u > 0``, else 0; backward its derivative is :meth:`derivative`."""
        return Spike.apply(u, self.derivative)

    def run(
        self, layers: SpikingLayers, x: torch.Tensor, state: torch.Tensor, start: torch.Tensor, timing: Timing
    ) -> Run:
        """Run a sequence (see :class:`~spikeloop.spiking.gradients.base.Gradient`)."""
        if layers.on_engine and state.device.type == "cpu" and state.dtype in (torch.float32, torch.float64):
            return run_engine(layers, x, state, start, timing, self)
        return run_equations(layers, x, state, start, timing, self.spike)
