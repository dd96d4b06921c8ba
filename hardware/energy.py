"""Costs of what chips do, with constants that others published: energies and times are modelled, nothing is measured.

Sources, by their short names: D18 = Davies et al. 2018, IEEE Micro 38(1); F20 = Frady et al. 2020, NICE; SANA = SANA-FE
2.2.9, fitted on silicon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class EventCost:
    """Energy and time of one event.

    Args:
        energy: In J.
        time: In s.

    Example:
        >>> EventCost(energy=23.6e-12, time=3.5e-9).energy
        2.36e-11
    """

    energy: float
    time: float


@dataclass(frozen=True)
class CostModel:
    """Published costs of a chip's events. Modelled figures, of no chip that we measured.

    Args:
        name: Key in :data:`COSTS`.
        source: Where the constants stand.
        mapped: One compartment on one tick, whether or not it has anything to do.
        idle_update: Added for a compartment with nothing to do.
        update: Added for one that updates: v, bias or input not zero.
        spike: Added for one that fires.
        synapse: One synaptic operation.
        learn: One synapse visited by the learning engine at the end of a learning epoch.
        packet: One spike to one list of synapses on one core, or to the host, at the sender.
        arrival: The same, at the receiver.
        hop_x: One tile east or west.
        hop_y: One tile north or south.
        barrier: End of a tick, in s, by number of tiles in use (steps of a table: up to, seconds).
        static_power: Of one chip, in W.

    Example:
        >>> COSTS["davies2018"].synapse
        EventCost(energy=2.36e-11, time=3.5e-09)
    """

    name: str
    source: str
    mapped: EventCost
    idle_update: EventCost
    update: EventCost
    spike: EventCost
    synapse: EventCost
    learn: EventCost
    packet: EventCost
    arrival: EventCost
    hop_x: EventCost
    hop_y: EventCost
    barrier: tuple[tuple[int, float], ...]
    static_power: float


_NOTHING = EventCost(0.0, 0.0)
_LEARN = EventCost(120e-12, 6.1e-9)  # D18 Table 2, pairwise STDP: the only one published
_STATIC = 3.34 / 32  # W per chip: 3.34 W for 32 chips, F20

COSTS = {
    model.name: model
    for model in (
        CostModel(
            "davies2018",
            "D18 Table 2, pre-silicon, 0.75 V; least energy and longest time of a synaptic operation",
            mapped=_NOTHING,
            idle_update=EventCost(52e-12, 5.3e-9),
            update=EventCost(81e-12, 8.4e-9),
            spike=_NOTHING,
            synapse=EventCost(23.6e-12, 3.5e-9),
            learn=_LEARN,
            packet=EventCost(1.7e-12, 2.1e-9),
            arrival=_NOTHING,
            hop_x=EventCost(3.0e-12, 4.1e-9),
            hop_y=EventCost(4.0e-12, 6.5e-9),
            barrier=((1, 113e-9), (32, 465e-9)),
            static_power=_STATIC,
        ),
        CostModel(
            "sanafe",
            "SANA's loihi.yaml, fitted on silicon; dense synapses",
            mapped=EventCost(51.2e-12, 6.0e-9),
            idle_update=_NOTHING,
            update=EventCost(21.6e-12, 3.7e-9),
            spike=EventCost(69.3e-12, 30e-9),
            synapse=EventCost(35.5e-12, 3.8e-9),
            learn=_LEARN,
            packet=EventCost(111e-12, 5.1e-9),
            arrival=EventCost(0.0, 16e-9),
            hop_x=EventCost(3.0e-12, 4.1e-9),
            hop_y=EventCost(4.2e-12, 6.5e-9),
            barrier=((1, 0.6e-6), (2, 1.0e-6), (4, 1.4e-6), (29, 1.8e-6)),
            static_power=_STATIC,
        ),
    )
}


class Cost(NamedTuple):
    """Modelled energies in J and time in s of all that was counted.

    ``static`` is the power of the whole chip, whatever the share of it in use, over the modelled time.

    Example:
        >>> f"{Cost(neurons=2e-9, synapses=1e-9, network=0.5e-9, static=4e-7, time=4e-6).dynamic:.1e} J"
        '3.5e-09 J'
    """

    neurons: float
    synapses: float
    network: float
    static: float
    time: float
    learning: float = 0.0

    @property
    def dynamic(self) -> float:
        """Energy that events cost, in J."""
        return self.neurons + self.synapses + self.network + self.learning


def learning_cost(updates_per_core: npt.ArrayLike, model: CostModel) -> EventCost:
    """Return what learning costs beside the spikes that it learns from: energy, and the time of the busiest core.

    Args:
        updates_per_core: Synapses computed at the ends of learning epochs, one number for each core that learns.
        model: The constants.

    Example:
        >>> cost = learning_cost([300, 100], COSTS["davies2018"])  # 120 pJ each; 6.1 ns, one after the other on a core
        >>> f"{cost.energy * 1e9:.0f} nJ, {cost.time * 1e6:.2f} us"
        '48 nJ, 1.83 us'
    """
    updates = np.asarray(updates_per_core, np.float64)
    return EventCost(float(updates.sum()) * model.learn.energy, float(updates.max()) * model.learn.time)


def idle_energy(period: float, busy: float, model: CostModel) -> float:
    """Return the static energy of a whole chip between two env steps, in J; 0 where it is busy all the time.

    Args:
        period: Time from one env step to the next, in s.
        busy: For how much of it the chip works, in s.
        model: The constants.

    Example:
        >>> idle_energy(0.02, 4e-6, COSTS["davies2018"])  # 20 ms at 104 mW
        0.0020870825
    """
    return model.static_power * max(period - busy, 0.0)
