"""LSNN neurons: leaky integrate-and-fire, some with an adaptive threshold (Bellec et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.decay import decay
from spikeloop.spiking.fields import array_of, check_choice, flag, set_fields, shown
from spikeloop.spiking.limits import MAX_NEURONS, MIN_THRESHOLD
from spikeloop.spiking.neurons.base import Neurons


class LsnnConstants(NamedTuple):
    """Constants of a tick: arrays or tensors of shape (N,), and what is the same for all neurons."""

    alpha: Any  # exp(-dt / tau_m)
    rho: Any  # exp(-dt / tau_a)
    v_th: Any
    beta: Any
    refractory: Any
    reset_to_zero: bool
    ahp: bool
    hold: bool = False


@dataclass(frozen=True, eq=False)
class LsnnNeurons:
    """LSNN neurons of one layer; a neuron with ``beta = 0`` is a plain LIF (population R), others adapt (A).

    Args:
        tau_m: Membrane time constant in ms, shape (N,), >= 0.
        v_th: Threshold in units of v, shape (N,), > 0.
        tau_a: Adaptation time constant in ms, shape (N,), >= 0.
        beta: Adaptation strength in units of v per unit of ``a``, shape (N,), >= 0.
        refractory: Ticks a neuron is held silent after a spike, shape (N,), integers >= 0.
        reset: ``"subtract"`` takes ``v_th`` off the membrane on the tick after a spike, ``"zero"`` clears it.
        adaptation: ``"threshold"`` raises the threshold by ``beta * a``; ``"ahp"`` keeps the threshold and
            feeds ``-beta * a`` into the membrane, the form Loihi 1 has.
        hold: Keep the membrane at 0 while a neuron is refractory, as Loihi does; needs reset ``"zero"``. Otherwise it
            integrates meanwhile.

    Raises:
        ValueError: If a field has a wrong shape or a value out of range.

    >>> fields = dict(tau_m=[4.0, 4.0], v_th=[1.0, 1.0], tau_a=[100.0, 100.0], refractory=[0, 0])
    >>> neurons = LsnnNeurons(beta=[0.0, 0.2], **fields)  # the second one adapts
    >>> neurons.constants(1.0, "f8").alpha.round(3).tolist()
    [0.779, 0.779]
    """

    rows: ClassVar[tuple[str, ...]] = ("v", "a", "z", "refractory")
    graded: ClassVar[bool] = False

    tau_m: np.ndarray
    v_th: np.ndarray
    tau_a: np.ndarray
    beta: np.ndarray
    refractory: np.ndarray
    reset: Literal["subtract", "zero"] = "subtract"
    adaptation: Literal["threshold", "ahp"] = "threshold"
    hold: bool = False

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me, n = type(self).__name__, None
        for name, least in (("tau_m", 0.0), ("v_th", MIN_THRESHOLD), ("tau_a", 0.0), ("beta", 0.0)):
            array = array_of(me, name, getattr(self, name), (n,))
            n = array.size
            if np.any(array < least):
                bound = f"> 0, at least {least:g}" if name == "v_th" else ">= 0"
                raise ValueError(f"{me}.{name} must be {bound}, found {array.min()}")
            set_fields(self, **{name: array})
        if not 1 <= self.n_neurons <= MAX_NEURONS:
            raise ValueError(f"{me} must be of 1 to {MAX_NEURONS} neurons, got {self.n_neurons}")
        refractory = array_of(me, "refractory", self.refractory, (n,), np.float64)
        if np.any(refractory % 1) or np.any(refractory < 0) or np.any(refractory >= 2**24):
            found = shown(self.refractory)
            raise ValueError(f"{me}.refractory must be whole ticks >= 0 that float32 can count, got {found}")
        set_fields(self, refractory=array_of(me, "refractory", refractory, (n,), np.int32))
        check_choice(me, "reset", self.reset, ("subtract", "zero"))
        check_choice(me, "adaptation", self.adaptation, ("threshold", "ahp"))
        set_fields(self, hold=flag(me, "hold", self.hold))
        if self.hold and self.reset != "zero":
            raise ValueError(f"{me}.hold must be False, or True with reset 'zero', got True and {self.reset!r}")

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        return self.tau_m.shape[0]

    def constants(self, dt: float, dtype: npt.DTypeLike) -> LsnnConstants:
        """Return the constants of a tick of ``dt`` ms."""
        return LsnnConstants(
            decay(self.tau_m, dt).astype(dtype),
            decay(self.tau_a, dt).astype(dtype),
            self.v_th.astype(dtype),
            self.beta.astype(dtype),
            self.refractory.astype(dtype),
            self.reset == "zero",
            self.adaptation == "ahp",
            self.hold,
        )

    @staticmethod
    def tick(
        i: Any, z: Any, state: tuple[Any, ...], c: LsnnConstants, spike: Callable[[Any], Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Advance the neurons by one tick (Bellec et al. 2018, eqs. 1-3, discretised).

        In code order, for the input current i:

            a <- rho a + z                          z: spikes of the tick before
            v <- alpha v + i - v_th z               reset "zero": v <- alpha v (1 - z) + i
            v <- v - beta a                         only with adaptation "ahp"
            u = (v - v_th - beta a) / v_th          "ahp": u = (v - v_th) / v_th
            z <- spike(u) where refractory == 0, else 0
            v <- v where refractory == 0, else 0    only with hold
            refractory <- the neuron's refractory ticks where z, else max(refractory - 1, 0)

        Arguments and result are those of :meth:`spikeloop.spiking.neurons.base.Neurons.tick`.
        """
        v, a, refractory = state
        a = c.rho * a + z
        v = c.alpha * v * (1.0 - z) + i if c.reset_to_zero else c.alpha * v + i - c.v_th * z
        if c.ahp:
            v = v - c.beta * a
            u = (v - c.v_th) / c.v_th
        else:
            u = (v - c.v_th - c.beta * a) / c.v_th
        free = refractory == 0
        z = spike(u) * free
        if c.hold:
            v = v * free
        refractory = z * c.refractory + (1.0 - z) * (refractory > 0) * (refractory - 1.0)
        return z, (v, a, refractory)

    def largest_state(self, current: float, n_ticks: int) -> float:
        """Return a bound of the membrane and the threshold after ``n_ticks`` ticks from rest."""
        return n_ticks * (current + n_ticks * float(self.beta.max()))


def only_lsnn(neurons: Neurons, who: str) -> LsnnNeurons:
    """Return the neurons if they are LSNN neurons; for code that knows no others.

    Raises:
        ValueError: If they are others; the message says who takes LSNN neurons only.
    """
    if not isinstance(neurons, LsnnNeurons):
        raise ValueError(f"{who} takes LSNN neurons, got {type(neurons).__name__}")
    return neurons
