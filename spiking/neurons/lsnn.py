"""LSNN neurons: leaky integrate-and-fire, some with an adaptive threshold (Bellec et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from spikeloop.spiking.fields import array_of, check_choice, flag, set_fields, shown
from spikeloop.spiking.limits import MAX_NEURONS, MIN_THRESHOLD


@dataclass(frozen=True, eq=False)
class NeuronParameters:
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
    """

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
