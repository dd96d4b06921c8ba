"""What the events that an emulator counted cost in energy and time, by one model's constants."""

from __future__ import annotations

import numpy as np

from spikeloop.hardware.energy import Cost, CostModel, EventCost, learning_cost
from spikeloop.hardware.loihi.emulator import Counts
from spikeloop.hardware.loihi.program import Program
from spikeloop.hardware.loihi.resources import lists


def modelled_cost(program: Program, counts: Counts, model: CostModel) -> Cost:
    """Return what the counted events cost by a model's constants.

    Energies are sums over events. For the time, each core works through its own events one after the other, all
    cores at once, and a barrier ends each tick; the core that is busiest over all ticks sets the time of them all,
    and compartment updates are taken to be as frequent on every core. Spikes from and to the host cost a packet and no
    hops. Other traffic with the host (biases written, values read) has no published constants and is left out.

    Args:
        program: What ran.
        counts: What happened.
        model: The constants.
    """
    visits = program.compartments.n * counts.n_ticks
    received = counts.packets + counts.input_packets
    sent = received + int(counts.spikes[program.spike_outputs].sum())

    def energy(*events: tuple[EventCost, float]) -> float:
        return sum(cost.energy * number for cost, number in events)

    time = counts.n_ticks * (_barrier(program, model) + _busiest(program, counts, model))
    return Cost(
        energy(
            (model.mapped, visits),
            (model.update, counts.updates),
            (model.idle_update, visits - counts.updates),
            (model.spike, int(counts.spikes.sum())),
        ),
        energy((model.synapse, counts.synaptic_ops)),
        energy(
            (model.packet, sent),
            (model.arrival, received),
            (model.hop_x, counts.hops_x),
            (model.hop_y, counts.hops_y),
        ),
        model.static_power * time,
        time,
        learning_cost(learned_per_core(program, counts), model).energy,
    )


def learned_per_core(program: Program, counts: Counts) -> np.ndarray:
    """Return the synapses that learning computed on each core, up to the last core in use, shape (n_cores,).

    An input that holds a trace or a tag is computed with all of its targets; these may lie on several cores.
    """
    core = program.compartments.core
    n_cores = int(core.max()) + 1
    per_core = np.zeros(n_cores)
    for p, learned in zip(program.projections, counts.learned, strict=program.learns):
        per_core += learned * np.bincount(core[p.post], minlength=n_cores) / p.post.size
    return per_core


def _barrier(program: Program, model: CostModel) -> float:
    """Return the time of the barrier that ends a tick, interpolated between the published numbers of tiles."""
    tiles = len(np.unique(program.compartments.core // program.chip_spec.cores_per_tile))
    known, seconds = np.array(model.barrier).T
    return float(np.interp(tiles, known, seconds))


def _busiest(program: Program, counts: Counts, model: CostModel) -> float:
    """Return the time per tick for which the busiest core works."""
    if not counts.n_ticks:
        return 0.0
    core = program.compartments.core
    n_cores = int(core.max()) + 1
    n = np.bincount(core, minlength=n_cores)
    active = counts.updates / (program.compartments.n * counts.n_ticks)
    visit = model.mapped.time + active * model.update.time + (1.0 - active) * model.idle_update.time
    busy = n * visit * counts.n_ticks + np.bincount(core, counts.spikes, n_cores) * model.spike.time
    for p, destination, _, sizes in lists(program):
        sent = (counts.input_spikes if p.from_input else counts.spikes)[p.pre].astype(np.float64)
        packets = sent * (sizes > 0)
        busy[destination] += sizes @ sent * model.synapse.time + packets.sum() * model.arrival.time
        if not p.from_input:
            busy += np.bincount(core[p.pre], packets, n_cores) * model.packet.time
    busy += learned_per_core(program, counts) * model.learn.time
    read = program.spike_outputs
    busy += np.bincount(core[read], counts.spikes[read], n_cores) * model.packet.time
    return float(busy.max()) / counts.n_ticks
