"""Surrogate derivatives of the spike, by name: what stands in for the derivative of a step function.

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

SHAPES = ("triangle", "fast_sigmoid", "arctan")


@dataclass(frozen=True)
class Surrogate:
    """A surrogate derivative.

    Args:
        shape: One of ``SHAPES``.
        damping: Height of the peak, > 0.
        width: Half-width in units of ``v_th``, > 0.

    Raises:
        ValueError: If a field is out of range.
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
