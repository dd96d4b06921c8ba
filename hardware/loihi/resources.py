"""What a program takes of a chip: cores, axons, synaptic memory, routes; and whether that is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spikeloop.hardware.loihi.chip import Chip
from spikeloop.hardware.loihi.fixed_point import synapse_memory_bits
from spikeloop.hardware.loihi.program import Program, Projection

TAG_BITS = 9  # of a plastic synapse; D18 Table 1


class Routes(NamedTuple):
    """Where one spike of each source goes; sources are input lines first, then compartments."""

    synapses: np.ndarray  # (n_inputs + C,): weights added
    packets: np.ndarray  # (n_inputs + C,): lists on cores it is sent to, each by a packet of its own
    hops_x: np.ndarray  # (C,): tiles east or west, summed over those packets
    hops_y: np.ndarray  # (C,): north or south


class Lists(NamedTuple):
    """The lists of synapses of one projection on one core. A spike that reaches a list is one packet."""

    projection: Projection
    core: int
    targets: np.ndarray  # which targets of the projection are on the core, by their index in it
    sizes: np.ndarray  # (P,): synapses in the list of each source; 0 where it has none


@dataclass(frozen=True, eq=False)
class CoreUse:
    """What a program takes on one core.

    Args:
        core: Its number.
        compartments: Compartments.
        input_axons: Lists of synapses, those of plastic projections twice.
        output_axons: Lists that its compartments reach, on any core, those of plastic projections twice; and one for
            each compartment whose spikes the host reads.
        memory_words: 64-bit words of synaptic memory.
        delay_slots: Input slots per compartment, a power of two.
        compartment_profiles: Distinct settings of decays, refractory period and joins.
        threshold_profiles: Distinct thresholds.
        synapse_formats: Distinct formats.
    """

    core: int
    compartments: int
    input_axons: int
    output_axons: int
    memory_words: int
    delay_slots: int
    compartment_profiles: int
    threshold_profiles: int
    synapse_formats: int

    @property
    def input_slots(self) -> int:
        """Input slots of all compartments together."""
        return self.compartments * self.delay_slots

    def needs(self, chip: Chip) -> dict[str, tuple[int, int | None]]:
        """Return what is used of each limited resource, and how much of it a core of the chip has; None is no limit."""
        return {label: (getattr(self, used), getattr(chip, limit)) for label, (used, limit) in RESOURCES.items()}


# What limits a core: name, field or property of CoreUse, field of Chip.
RESOURCES = {
    "compartments": ("compartments", "compartments"),
    "input axons": ("input_axons", "input_axons"),
    "output axons": ("output_axons", "output_axons"),
    "64-bit words of synaptic memory": ("memory_words", "memory_words"),
    "compartments x delay slots": ("input_slots", "delay_slots"),
    "compartment profiles": ("compartment_profiles", "compartment_profiles"),
    "thresholds": ("threshold_profiles", "threshold_profiles"),
    "synapse formats": ("synapse_formats", "synapse_formats"),
}


def lists(program: Program) -> Iterator[Lists]:
    """Yield the lists of synapses of each projection on each core that it reaches.

    Axons, packets, hops, energy and time are all counted over these.
    """
    core = program.compartments.core
    for p in program.projections:
        present, cores = p.synapses, core[p.post]
        by_core = np.argsort(cores, kind="stable")
        for targets in np.split(by_core, 1 + np.flatnonzero(np.diff(cores[by_core]))):
            yield Lists(p, int(cores[targets[0]]), targets, present[targets].sum(axis=0))


def routes(program: Program) -> Routes:
    """Return where spikes go."""
    n_inputs, core = program.n_inputs, program.compartments.core
    synapses, packets = np.zeros((2, n_inputs + core.size), np.int64)
    hops_x, hops_y = np.zeros((2, core.size), np.int64)
    for p, destination, _, sizes in lists(program):
        sources = p.pre + (0 if p.from_input else n_inputs)
        synapses[sources] += sizes
        packets[sources] += sizes > 0
        if not p.from_input:
            here, there = program.chip_spec.tile(core[p.pre]), program.chip_spec.tile(destination)
            hops_x[p.pre] += (sizes > 0) * abs(here[0] - there[0])
            hops_y[p.pre] += (sizes > 0) * abs(here[1] - there[1])
    return Routes(synapses, packets, hops_x, hops_y)


def use(program: Program) -> tuple[CoreUse, ...]:
    """Return what the program takes on each core that it uses, by core number."""
    c = program.compartments
    used = np.unique(c.core)
    input_axons = dict.fromkeys(used.tolist(), 0)
    output_axons, words = dict(input_axons), dict(input_axons)
    longest = dict(input_axons)
    formats: dict[int, set[tuple]] = {core: set() for core in used.tolist()}
    for p, core, targets, sizes in lists(program):
        slots = 1 + p.plastic
        input_axons[core] += slots * int(np.count_nonzero(sizes))
        delays = longest_delay(program, p, targets)
        longest[core] = max(longest[core], delays)
        key = (p.bits, p.sign_mode, p.exponent, delays.bit_length(), p.plastic)
        formats[core].add(key)
        words[core] += list_words(p, sizes, targets.size, delays)
        if not p.from_input:
            for sender in c.core[p.pre[sizes > 0]].tolist():
                output_axons[sender] += slots
    for sender in c.core[program.spike_outputs].tolist():
        output_axons[sender] += 1
    state_words = program.chip_spec.state_words
    return tuple(
        CoreUse(
            core,
            n := int(np.count_nonzero(c.core == core)),
            input_axons[core],
            output_axons[core],
            words[core] + n * state_words,
            max(8, 1 << (longest[core] + 1).bit_length()),
            *_profiles(program, core),
            len(formats[core]),
        )
        for core in used.tolist()
    )


def longest_delay(program: Program, p: Projection, targets: np.ndarray) -> int:
    """Return the longest delay of a projection's synapses onto some targets, or the longest that they may learn."""
    if p.learns_delays:
        return program.longest_delay(p)
    return 0 if p.delays is None else int(p.delays[targets].max())


def list_words(p: Projection, sizes: np.ndarray, n_targets: int, longest_delay: int) -> int:
    """Return 64-bit words of lists of these sizes, each stored dense or sparse, whichever is shorter."""
    index_bits = max(6, (n_targets - 1).bit_length())
    residue = 0 if p.learning is None else p.learning.rule.residue_bits  # of a second synapse, beside the weight
    bits = {"weight_bits": p.bits + residue, "tag_bits": TAG_BITS * p.plastic}
    rest = {"delay_bits": longest_delay.bit_length(), **bits}
    total = 0
    found, how_many = np.unique(sizes, return_counts=True)
    for size, n in zip(found.tolist(), how_many.tolist(), strict=True):
        sparse = synapse_memory_bits(size, index_bits=index_bits, **rest)
        dense = synapse_memory_bits(n_targets, index_bits=0, **rest)
        total += n * min(sparse, dense) // 64
    return total


def _profiles(program: Program, core: int) -> tuple[int, int]:
    c = program.compartments
    here = c.core == core
    has_parent, is_parent = c.parent >= 0, np.isin(np.arange(c.n), c.parent)
    settings = np.stack([c.decay_u, c.decay_v, c.refractory, has_parent, is_parent, c.fires, c.noise], axis=1)
    return len(np.unique(settings[here], axis=0)), np.unique(c.v_th[here & (c.fires > 0)]).size


def check_limits(program: Program) -> None:
    """Raise ``ValueError`` naming limit, need and group where a core or the chip is too small."""
    chip, c = program.chip_spec, program.compartments
    highest = int(c.core.max())
    if highest >= chip.cores:
        where = program.group_of(int(c.core.argmax()))
        raise ValueError(f"{chip.name} has {chip.cores} cores; {where} is placed on core {highest}")
    for one in use(program):
        for limit, (need, most) in one.needs(chip).items():
            if most is not None and need > most:
                here = list(dict.fromkeys(program.group_of(i) for i in np.flatnonzero(c.core == one.core).tolist()))
                more = f" and {len(here) - 3} more" if len(here) > 3 else ""
                raise ValueError(
                    f"a core of {chip.name} has {most} {limit}; core {one.core} needs {need} for "
                    f"{', '.join(here[:3])}{more}"
                )
        _check_offsets(program, one.core)
        _check_epochs(program, one.core)


def _check_epochs(program: Program, core: int) -> None:
    """Refuse learning epochs of several lengths on one core, which has one."""
    epochs = {
        p.learning.rule.epoch: p.name
        for p in program.projections
        if p.learning is not None and np.any(program.compartments.core[p.post] == core)
    }
    if len(epochs) > 1:
        asked = " and ".join(f"{n} ticks for {name!r}" for n, name in sorted(epochs.items()))
        raise ValueError(f"a core of {program.chip} has one learning epoch; core {core} needs {asked}")


def _check_offsets(program: Program, core: int) -> None:
    """Refuse decays that no 12-bit register and one offset bit per core can express together."""
    if program.chip != "loihi1":
        return
    here = program.compartments.core == core
    for name in ("decay_u", "decay_v"):
        values = getattr(program.compartments, name)[here]
        if values.min() == 0 and values.max() >= 4096:
            raise ValueError(
                f"core {core} needs {name} 0 and {values.max()}: the offset that makes 4096 is the whole core's, "
                "so place these compartments on different cores"
            )
