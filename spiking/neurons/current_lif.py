"""Leaky integrate-and-fire neurons with a synaptic current of their own: the neuron that Loihi has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.decay import decay
from spikeloop.spiking.limits import MAX_NUMBER, MAX_TIME, MIN_THRESHOLD
from spikeloop.spiking.neurons.base import check_parameters, usually

_BOUNDS = {
    "v_th": (MIN_THRESHOLD, MAX_NUMBER),
    "tau_m": (0.0, MAX_TIME),
    "tau_s": (0.0, MAX_TIME),
    "refractory": (0.0, 2.0**24 - 1),  # which float32 can count
}


class CurrentLifConstants(NamedTuple):
    """Constants of a tick, each of shape (N,)."""

    alpha: Any  # exp(-dt / tau_m)
    kappa: Any  # exp(-dt / tau_s)
    v_th: Any
    refractory: Any


@dataclass(frozen=True, eq=False)
class CurrentLif:
    """Leaky integrate-and-fire neurons of one layer whose input decays as a current before it is forgotten.

    A spike of weight 1 adds ``alpha^k + alpha^(k-1) kappa + ... + kappa^k`` to the membrane k ticks later: the alpha
    function ``(k + 1) alpha^k`` if both time constants are equal, a difference of two exponentials if not. A spike sets
    the membrane to 0, where it stays while the neuron is refractory; the current goes on. So do the neurons of Loihi
    (Davies et al. 2018).

    Each argument is one number for all neurons, or an array of shape (N,); at least one must be an array.

    Args:
        v_th: Threshold, > 0.
        tau_m: Time constant of the membrane in ms, >= 0.
        tau_s: Of the current, >= 0.
        refractory: Ticks a neuron is held silent after a spike, whole numbers >= 0.

    Raises:
        ValueError: If a field has a wrong shape or a value out of range.

    >>> neurons = CurrentLif(v_th=np.full(1, 9.0), tau_m=1 / np.log(2), tau_s=1 / np.log(2))  # both halve on every tick
    >>> constants, z, state, membranes = neurons.constants(1.0, "f8"), np.zeros(1), (np.zeros(1),) * 3, []
    >>> for i in (1.0, 0.0, 0.0, 0.0):
    ...     z, state = CurrentLif.tick(np.array([i]), z, state, constants, lambda u: (u > 0) * 1.0)
    ...     membranes.append(round(float(state[0][0]), 6))
    >>> membranes
    [1.0, 1.0, 0.75, 0.5]
    """

    rows: ClassVar[tuple[str, ...]] = ("v", "u", "z", "refractory")
    graded: ClassVar[bool] = False

    v_th: np.ndarray = usually(1.0)
    tau_m: np.ndarray = usually(4.0)
    tau_s: np.ndarray = usually(2.0)
    refractory: np.ndarray = usually(0.0)

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        check_parameters(self, _BOUNDS)
        if np.any(self.refractory % 1):
            raise ValueError(f"CurrentLif.refractory must be whole ticks, found {self.refractory.max():g}")

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        return self.v_th.shape[0]

    def constants(self, dt: float, dtype: npt.DTypeLike) -> CurrentLifConstants:
        """Return the constants of a tick of ``dt`` ms."""
        constants = decay(self.tau_m, dt), decay(self.tau_s, dt), self.v_th, self.refractory
        return CurrentLifConstants(*(value.astype(dtype) for value in constants))

    @staticmethod
    def tick(
        i: Any, z: Any, state: tuple[Any, ...], c: CurrentLifConstants, spike: Callable[[Any], Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Advance the neurons by one tick.

        In code order, for the input i:

            u <- kappa u + i
            v <- alpha v (1 - z) + u                z: spikes of the tick before
            z <- spike((v - v_th) / v_th) where refractory == 0, else 0
            v <- v where refractory == 0, else 0
            refractory <- the neuron's refractory ticks where z, else max(refractory - 1, 0)

        Arguments and result are those of :meth:`spikeloop.spiking.neurons.base.Neurons.tick`.
        """
        v, u, refractory = state
        u = c.kappa * u + i
        v = c.alpha * v * (1.0 - z) + u
        free = refractory == 0
        z = spike((v - c.v_th) / c.v_th) * free
        v = v * free
        refractory = z * c.refractory + (1.0 - z) * (refractory > 0) * (refractory - 1.0)
        return z, (v, u, refractory)

    def largest_state(self, current: float, n_ticks: int) -> float:
        """Return a bound of the membrane after ``n_ticks`` ticks from rest."""
        return n_ticks * n_ticks * current + float(self.refractory.max())
