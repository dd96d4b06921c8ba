"""DEEP R: as many synapses as at first, and other ones in place of those that gradients do not want.

After Bellec, Kappel, Maass & Legenstein 2018, "Deep rewiring: training very sparse deep networks", algorithm 1. Each
possible synapse has a sign of its own, or its neuron's. It is active with weight ``sign * theta`` where ``theta > 0``,
and dormant with weight 0 elsewhere. After each step of the optimizer, at learning rate eta,

    theta <- theta - eta l1 + sqrt(2 eta temperature) nu      of active synapses, nu normal
    active synapses with theta <= 0 become dormant
    as many dormant synapses, drawn uniformly, become active with theta = 1e-12

The paper's optimizer is plain gradient descent. A synapse that wakes begins with no moments of Adam, and a dormant one
has no gradient, so that only the draw can wake it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spikeloop.spiking.constraints.base import AWAKE, Synapses, check_shares
from spikeloop.spiking.fields import number, set_fields


@dataclass(frozen=True)
class DeepR:
    """A fixed number of synapses, which are rewired while weights are learnt.

    Args:
        connectivity: Share of the recurrent synapses that are active, above 0 and at most 1.
        input_connectivity: That of input synapses; 1 leaves them as they are.
        inhibitory: Share of neurons that inhibit; None for a sign of each synapse's own, drawn once.
        l1: Pull of weights towards 0, which makes room for others, >= 0.
        temperature: Strength of the random walk of active weights, >= 0.

    Raises:
        ValueError: If a field is out of range.

    >>> now = Synapses(np.array([[0.5, -0.1, 0.0]]), np.ones((1, 3), np.int8), np.array([[True, True, False]]))
    >>> new, kept = DeepR(l1=1.0).after_step(now, 0.1, np.random.default_rng(0))
    >>> new.w.tolist(), kept.tolist()
    ([[0.4, 0.0, 1e-12]], [[True, False, False]])
    """

    draws_signs: ClassVar[bool] = True
    acting: ClassVar[None] = None

    connectivity: float = 0.1
    input_connectivity: float = 1.0
    inhibitory: float | None = None
    l1: float = 0.01
    temperature: float = 0.0

    def __post_init__(self) -> None:
        check_shares(self, "connectivity", "input_connectivity", "inhibitory")
        for name in ("l1", "temperature"):
            set_fields(self, **{name: number("DeepR", name, getattr(self, name), 0.0, 1e6)})

    def after_step(self, synapses: Synapses, rate: float, rng: np.random.Generator) -> tuple[Synapses, np.ndarray]:
        """Move active weights, let those below 0 sleep and wake as many others."""
        w, sign, active = synapses
        theta = sign * w
        if self.l1:
            theta -= rate * self.l1
        if self.temperature:
            noise = rng.standard_normal(w.shape, np.float32)
            theta += math.sqrt(2 * rate * self.temperature) * noise
        kept = active & (theta > 0)
        new = np.where(kept, sign * theta, w.dtype.type(0))
        n_asleep = int(np.count_nonzero(active) - np.count_nonzero(kept))
        awake = kept
        if n_asleep:
            woken = rng.choice(np.flatnonzero(~kept & (sign != 0)), n_asleep, replace=False)
            awake = kept.copy()
            awake.flat[woken] = True
            new.flat[woken] = sign.flat[woken] * w.dtype.type(AWAKE)
        return Synapses(new, sign, awake), kept
