"""Integrate-and-fire neurons without a leak: their spike counts stand for the activations of a ReLU layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.limits import MIN_THRESHOLD
from spikeloop.spiking.neurons.base import check_parameters, usually


class IntegrateAndFireConstants(NamedTuple):
    """Constants of a tick, each of shape (N,)."""

    v_th: Any
    rise: Any  # from the start to the threshold


@dataclass(frozen=True, eq=False)
class IntegrateAndFire:
    """Integrate-and-fire neurons of one layer: no leak, reset by subtraction, a start above zero.

    In K ticks of a current i, of 0 to ``v_th``, such a neuron spikes ``K i / v_th`` times, rounded if it starts at half
    its threshold (Rueckauer et al. 2017, eqs. 4-7; the start: Hwang et al. 2021). It forgets nothing by itself, so a
    network of such neurons that is to answer each observation anew needs ``clears=True``.

    Each argument is one number for all neurons, or an array of shape (N,); at least one must be an array.

    Args:
        v_th: Threshold, > 0: what a spike takes off the membrane.
        v_start: Membrane at rest, below the threshold. All zeros is rest: the row ``v`` holds the distance from it.

    Raises:
        ValueError: If a field has a wrong shape or a value out of range.

    >>> neurons = IntegrateAndFire(v_th=np.ones(1))
    >>> constants, z, v, spikes = neurons.constants(1.0, "f8"), np.zeros(1), np.zeros(1), []
    >>> for _ in range(4):
    ...     z, (v,) = IntegrateAndFire.tick(np.array([0.5]), z, (v,), constants, lambda u: (u > 0) * 1.0)
    ...     spikes.append(int(z[0]))
    >>> spikes  # two in four ticks
    [0, 1, 0, 1]
    """

    rows: ClassVar[tuple[str, ...]] = ("v", "z")
    graded: ClassVar[bool] = False

    v_th: np.ndarray = usually(1.0)
    v_start: np.ndarray = usually(0.5)

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        check_parameters(self, {"v_th": (MIN_THRESHOLD, 1e6), "v_start": (-1e6, 1e6)})
        late = self.v_start[self.v_start >= self.v_th]
        if late.size:
            raise ValueError(f"IntegrateAndFire.v_start must be below v_th, found {late[0]:g}")

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        return self.v_th.shape[0]

    def constants(self, dt: float, dtype: npt.DTypeLike) -> IntegrateAndFireConstants:
        """Return the constants of a tick, the same for any ``dt``: currents are per tick."""
        return IntegrateAndFireConstants(self.v_th.astype(dtype), (self.v_th - self.v_start).astype(dtype))

    @staticmethod
    def tick(
        i: Any, z: Any, state: tuple[Any, ...], c: IntegrateAndFireConstants, spike: Callable[[Any], Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Advance the neurons by one tick.

        In code order, v being the distance from ``v_start``:

            v <- v + i - v_th z                     z: spikes of the tick before
            z <- spike((v - (v_th - v_start)) / v_th)

        Arguments and result are those of :meth:`spikeloop.spiking.neurons.base.Neurons.tick`.
        """
        (v,) = state
        v = v + i - c.v_th * z
        return spike((v - c.rise) / c.v_th), (v,)

    def largest_state(self, current: float, n_ticks: int) -> float:
        """Return a bound of the membrane after ``n_ticks`` ticks from rest; a spike takes it down by at most v_th."""
        return n_ticks * current + float(np.max(np.abs(self.v_th) + np.abs(self.v_start)))
