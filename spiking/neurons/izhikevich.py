"""Izhikevich neurons: two equations that show the firing patterns of the cortex (Izhikevich 2003)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.neurons.base import check_parameters, usually

PEAK = 30.0  # mV, where a spike is cut off
FLOOR = -100.0  # mV, below the reversal potential of potassium: explicit steps from further below would overshoot
_BOUNDS = {
    "a": (1e-4, 1.0),
    "b": (-10.0, 10.0),
    "c": (FLOOR, PEAK),
    "d": (-1e3, 1e3),
    "gain": (1e-3, 1e3),
    "background": (-1e3, 1e3),
    "scale": (1e-3, 1e3),
}


class IzhikevichConstants(NamedTuple):
    """Constants of a tick, each of shape (N,); potentials as distances from rest."""

    a: Any  # a dt
    b: Any
    c: Any
    d: Any
    gain: Any
    scale: Any
    slope: Any  # of the membrane's equation at rest, 0.08 v + 5
    half: Any  # dt / 2
    peak: Any
    floor: Any


@dataclass(frozen=True, eq=False)
class Izhikevich:
    """Izhikevich neurons of one layer.

    The model is ``v' = 0.04 v^2 + 5 v + 140 - u + I`` and ``u' = a (b v - u)``, in mV and ms; where v reaches 30 mV the
    neuron spikes, v becomes c, and u grows by d (Izhikevich 2003, "Simple model of spiking neurons", IEEE Trans. Neural
    Networks 14:1569, eqs. 1-3). Here ``I = background + gain i``, with i what arrives: with the default gain of 10,
    weights as LSNN neurons have them drive these neurons too. ``gain=1`` gives the paper's currents.

    Each argument is one number for all neurons or an array, shape (N,), one at least; the defaults are those of regular
    spiking. All zeros is rest: the rows ``v`` and ``u`` hold distances from the resting point, which :attr:`rest`
    names.

    Args:
        a: Rate of the recovery variable u per ms, within [0.0001, 1].
        b: What u follows, per mV of v. A resting point needs ``(5 - b)^2 >= 0.16 (140 + background)``.
        c: Potential after a spike in mV, within [-100, 30].
        d: What a spike adds to u.
        gain: Current I per unit of input, within [0.001, 1000].
        background: Current I without input; it moves the resting point.
        scale: Millivolts below the peak that count as 1 in the surrogate derivative, within [0.001, 1000].

    Raises:
        ValueError: If a field has a wrong shape or a value out of range, or a neuron has no resting point.

    >>> neurons = Izhikevich(c=np.array([-65.0, -50.0]), d=np.array([8.0, 2.0]))  # regular spiking, chattering
    >>> v, u = neurons.rest
    >>> v.round(6).tolist(), u.round(6).tolist()
    ([-70.0, -70.0], [-14.0, -14.0])
    """

    rows: ClassVar[tuple[str, ...]] = ("v", "u", "z")
    graded: ClassVar[bool] = False

    a: np.ndarray = usually(0.02)
    b: np.ndarray = usually(0.2)
    c: np.ndarray = usually(-65.0)
    d: np.ndarray = usually(8.0)
    gain: np.ndarray = usually(10.0)
    background: np.ndarray = usually(0.0)
    scale: np.ndarray = usually(30.0)

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        check_parameters(self, _BOUNDS)
        without = self.b[~(self._discriminant >= 0)]
        if without.size:
            raise ValueError(
                "Izhikevich must have a resting point, (5 - b)^2 >= 0.16 (140 + background), "
                f"found none with b = {without[0]:g}"
            )

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        return self.a.shape[0]

    @property
    def _discriminant(self) -> np.ndarray:
        return (5.0 - self.b) ** 2 - 0.16 * (140.0 + self.background)

    @property
    def rest(self) -> tuple[np.ndarray, np.ndarray]:
        """Membrane and recovery at rest, v and u in mV, each of shape (N,)."""
        v = ((self.b - 5.0) - np.sqrt(self._discriminant)) / 0.08
        return v, self.b * v

    def constants(self, dt: float, dtype: npt.DTypeLike) -> IzhikevichConstants:
        """Return the constants of a tick of ``dt`` ms.

        Raises:
            ValueError: If ``dt`` is above 1 ms, with which half-steps of the membrane overshoot.
        """
        if dt > 1.0:
            raise ValueError(f"Izhikevich neurons take ticks dt of at most 1 ms, got {dt:g}")
        v = self.rest[0]
        constants = IzhikevichConstants(
            a=self.a * dt,
            b=self.b,
            c=self.c - v,
            d=self.d,
            gain=self.gain,
            scale=self.scale,
            slope=0.08 * v + 5.0,
            half=np.full(self.n_neurons, dt / 2),
            peak=PEAK - v,
            floor=FLOOR - v,
        )
        return IzhikevichConstants(*(value.astype(dtype) for value in constants))

    @staticmethod
    def tick(
        i: Any, z: Any, state: tuple[Any, ...], c: IzhikevichConstants, spike: Callable[[Any], Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Advance the neurons by one tick, as the program in the paper does: reset, two half-steps of v, one of u.

        In code order, v and u being distances from rest:

            v, u <- c, u + d                                        after a spike, z = 1
            v <- v + dt / 2 (0.04 v^2 + slope v - u + gain i)       twice, each time held within [-100, 30] mV
            z <- spike((v - 30 mV) / scale)                         of the second half-step, before it is held
            u <- u + dt a (b v - u)

        Arguments and result are those of :meth:`spikeloop.spiking.neurons.base.Neurons.tick`.
        """
        v, u = state
        v = v * (1.0 - z) + c.c * z
        u = u + c.d * z
        current = c.gain * i - u
        v = v + c.half * (0.04 * v * v + c.slope * v + current)
        v = v * (v < c.peak) * (v > c.floor) + c.peak * (v >= c.peak) + c.floor * (v <= c.floor)
        v = v + c.half * (0.04 * v * v + c.slope * v + current)
        z = spike((v - c.peak) / c.scale)
        v = v * (v < c.peak) * (v > c.floor) + c.peak * (v >= c.peak) + c.floor * (v <= c.floor)
        u = u + c.a * (c.b * v - u)
        return z, (v, u)

    def largest_state(self, current: float, n_ticks: int) -> float:
        """Return a bound of the state, however long it runs, and of what a half-step reaches before it is held."""
        v = PEAK - FLOOR
        u = np.abs(self.b) * v + np.abs(self.d) / self.a
        return float((v * v + u + np.abs(self.gain) * current).max())
