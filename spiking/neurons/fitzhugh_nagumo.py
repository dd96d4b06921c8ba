"""FitzHugh-Nagumo neurons: a membrane and its recovery, whose output is a number, not a spike (FitzHugh 1961)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.neurons.base import check_parameters, usually

LIMIT = 3.0  # v is held within +-3: the limit cycle stays within +-2.1
_BOUNDS = {
    "epsilon": (1e-4, 1.0),
    "gain": (1e-3, 1e3),
    "background": (-10.0, 10.0),
    "width": (1e-2, 1e2),
}


class FitzHughNagumoConstants(NamedTuple):
    """Constants of a tick, each of shape (N,); v and w as distances from rest."""

    dt: Any
    epsilon: Any  # epsilon dt
    gain: Any
    v: Any  # at rest
    slope: Any  # of the membrane's equation at rest, 1 - v^2
    highest: Any  # of v
    lowest: Any
    steepness: Any  # 1 / (2 width)
    argument: Any  # of the output's function at rest
    output: Any  # its value there


@dataclass(frozen=True, eq=False)
class FitzHughNagumo:
    """FitzHugh-Nagumo neurons of one layer.

    The model is ``v' = v - v^3 / 3 - w + I`` and ``w' = epsilon (v + 0.7 - 0.8 w)``, without units (FitzHugh 1961,
    "Impulses and physiological states in theoretical models of nerve membrane", Biophysical J. 1:445; Nagumo et al.
    1962). A tick of ``dt`` ms is one explicit Euler step of ``dt`` units of the model's time. Here
    ``I = background + gain i``, with i what arrives. With a steady I from 0.331 to 1.419 no neuron stays at rest.

    The output is graded: ``s(v) - s(v at rest)``, where s rises from 0 to 1 around v = 0,

        s(v) = (3 + x)^3 / (54 + 18 x^2),  x = v / (2 width) held within +-3

    It is the logistic function of ``v / width`` within 0.012, written without exponentials:
    ``tanh(x) = x (27 + x^2) / (27 + 9 x^2)``, its Padé approximant.

    Each argument is one number for all neurons or an array, shape (N,), one at least. All zeros is rest: the rows ``v``
    and ``w`` hold distances from the resting point, which :attr:`rest` names.

    Args:
        epsilon: Rate of the recovery variable w, within [0.0001, 1].
        gain: Current I per unit of input, within [0.001, 1000].
        background: Current I without input, within [-10, 10]; it moves the resting point. Below the firing
            threshold gradients are small, so that training starts best just below it.
        width: Width of the output's rise in units of v, within [0.01, 100].

    Raises:
        ValueError: If a field has a wrong shape or a value out of range.

    >>> v, w = FitzHughNagumo(gain=np.ones(1)).rest
    >>> print(f"{v[0]:.4f} {w[0]:.4f}")
    -1.1994 -0.6243
    """

    rows: ClassVar[tuple[str, ...]] = ("v", "w", "z")
    graded: ClassVar[bool] = True

    epsilon: np.ndarray = usually(0.08)
    gain: np.ndarray = usually(1.0)
    background: np.ndarray = usually(0.0)
    width: np.ndarray = usually(0.2)

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        check_parameters(self, _BOUNDS)

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        return self.gain.shape[0]

    @property
    def rest(self) -> tuple[np.ndarray, np.ndarray]:
        """Membrane and recovery where both stand still without input, v and w, each of shape (N,)."""
        # v - v^3 / 3 - (v + 0.7) / 0.8 + I falls with v everywhere, so v^3 + 3 p v + 2 q = 0 has this one root
        p, q = 0.25, 1.5 * (0.875 - self.background)
        root = np.sqrt(q * q + p**3)
        v = np.cbrt(root - q) - np.cbrt(root + q)
        return v, (v + 0.7) / 0.8

    def constants(self, dt: float, dtype: npt.DTypeLike) -> FitzHughNagumoConstants:
        """Return the constants of a tick of ``dt``.

        Raises:
            ValueError: If ``dt`` is above 1, with which Euler steps overshoot.
        """
        if dt > 1.0:
            raise ValueError(f"FitzHughNagumo neurons take ticks dt of at most 1, got {dt:g}")
        v = self.rest[0]
        steepness = 0.5 / self.width
        argument = np.clip(3.0 + steepness * v, 0.0, 6.0).astype(dtype)
        constants = FitzHughNagumoConstants(
            dt=np.full(self.n_neurons, dt),
            epsilon=self.epsilon * dt,
            gain=self.gain,
            v=v,
            slope=1.0 - v * v,
            highest=LIMIT - v,
            lowest=-LIMIT - v,
            steepness=steepness,
            argument=3.0 + steepness * v,
            output=argument * argument * argument / (54.0 + 18.0 * (argument - 3.0) * (argument - 3.0)),
        )
        return FitzHughNagumoConstants(*(value.astype(dtype) for value in constants))

    @staticmethod
    def tick(
        i: Any, z: Any, state: tuple[Any, ...], c: FitzHughNagumoConstants, spike: Callable[[Any], Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Advance the neurons by one Euler step; ``spike`` is not used.

        In code order, v and w being distances from rest, V the membrane at rest, both new values from the old ones:

            v, w <- v + dt ((1 - V^2) v - V v^2 - v^3 / 3 - w + gain i), w + dt epsilon (v - 0.8 w)
            v <- v held within +-3 of the model's v
            x <- (V + v) / (2 width), held within +-3
            z <- (3 + x)^3 / (54 + 18 x^2) less its value at rest

        Arguments and result are those of :meth:`spikeloop.spiking.neurons.base.Neurons.tick`.
        """
        v, w = state
        bent = v * v * (c.v + v / 3.0)
        v, w = v + c.dt * (c.slope * v - bent - w + c.gain * i), w + c.epsilon * (v - 0.8 * w)
        v = v * (v < c.highest) * (v > c.lowest) + c.highest * (v >= c.highest) + c.lowest * (v <= c.lowest)
        x = c.argument + c.steepness * v
        x = x * (x > 0.0) * (x < 6.0) + (x - (x - 6.0)) * (x >= 6.0)
        z = x * x * x / (54.0 + 18.0 * (x - 3.0) * (x - 3.0)) - c.output
        return z, (v, w)

    def largest_state(self, current: float, n_ticks: int) -> float:
        """Return a bound of the state, however long it runs, and of what a step reaches before it is held."""
        v = 2 * LIMIT
        return float((v * v * v + np.abs(self.gain) * current).max())
