"""What a program takes of a chip: cores, axons, synaptic memory, routes; and whether that is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spikeloop.hardware.fixed_point import synapse_memory_bits
from spikeloop.hardware.program import Program, Projection

TAG_BITS = 9  # of a plastic synapse; D18 Table 1


class Routes(NamedTuple):
    """Where one spike of each source goes; sources are input lines first, then compartments."""

    synapses: np.ndarray  # (n_inputs + C,): weights added
    cores: np.ndarray  # (n_inputs + C,): cores it is sent to
    hops_x: np.ndarray  # (C,): tiles east or west, summed over those cores
    hops_y: np.ndarray  # (C,): north or south


@dataclass(frozen=True, eq=False)
class CoreUse:
    """What a program takes on one core.

    Args:
        core: Its number.
        compartments: Compartments.
        input_axons: Lists of synapses, those of plastic projections twice.
        output_axons: Lists that its compartments reach, on any core.
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


def routes(program: Program) -> Routes:
    """Return where spikes go."""
    n_inputs, core = program.n_inputs, program.compartments.core
    synapses = np.zeros(n_inputs + core.size, np.int64)
    pairs = [np.empty((0, 2), np.int64)]  # source, destination core
    for p in program.projections:
        sources = p.pre.astype(np.int64) + (0 if p.from_input else n_inputs)
        present = p.synapses
        synapses[sources] += present.sum(axis=0)
        for destination in np.unique(core[p.post]):
            reached = sources[present[core[p.post] == destination].any(axis=0)]
            pairs.append(np.stack([reached, np.full(reached.size, destination)], axis=1))
    source, destination = np.unique(np.concatenate(pairs), axis=0).T
    cores = np.bincount(source, minlength=n_inputs + core.size)
    own = source >= n_inputs
    here, there = core[source[own] - n_inputs], destination[own]
    hops = np.abs(np.subtract(program.chip_spec.tile(here), program.chip_spec.tile(there)))
    hops_x, hops_y = (np.bincount(source[own] - n_inputs, h, core.size).astype(np.int64) for h in hops)
    return Routes(synapses, cores.astype(np.int64), hops_x, hops_y)


def use(program: Program) -> tuple[CoreUse, ...]:
    """Return what the program takes on each core that it uses, by core number."""
    c = program.compartments
    used = np.unique(c.core)
    input_axons = dict.fromkeys(used.tolist(), 0)
    output_axons, words = dict(input_axons), dict(input_axons)
    longest = dict(input_axons)
    formats: dict[int, set[tuple]] = {core: set() for core in used.tolist()}
    for p in program.projections:
        for core in np.unique(c.core[p.post]).tolist():
            part = p.synapses[c.core[p.post] == core]  # (targets on this core, P)
            lists = part.sum(axis=0)
            slots = 1 + p.plastic
            input_axons[core] += slots * int(np.count_nonzero(lists))
            delays = 0 if p.delays is None else int(p.delays[c.core[p.post] == core].max())
            longest[core] = max(longest[core], delays)
            key = (p.bits, p.sign_mode, p.exponent, delays.bit_length(), p.plastic)
            formats[core].add(key)
            words[core] += list_words(p, lists, part.shape[0], delays)
            if not p.from_input:
                for sender in c.core[p.pre[lists > 0]].tolist():
                    output_axons[sender] += slots
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


def list_words(p: Projection, lists: np.ndarray, n_targets: int, longest_delay: int) -> int:
    """Return 64-bit words of the lists, each stored dense or sparse, whichever is shorter."""
    index_bits = max(6, (max(n_targets, 2) - 1).bit_length())
    rest = {"delay_bits": longest_delay.bit_length(), "tag_bits": TAG_BITS * p.plastic, "weight_bits": p.bits}
    total = 0
    sizes, how_many = np.unique(lists[lists > 0], return_counts=True)
    for size, n in zip(sizes.tolist(), how_many.tolist(), strict=True):
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
        needs = {
            "compartments": (one.compartments, chip.compartments),
            "input axons": (one.input_axons, chip.input_axons),
            "output axons": (one.output_axons, chip.output_axons),
            "64-bit words of synaptic memory": (one.memory_words, chip.memory_words),
            "compartments x delay slots": (one.compartments * one.delay_slots, chip.delay_slots),
            "compartment profiles": (one.compartment_profiles, chip.compartment_profiles),
            "thresholds": (one.threshold_profiles, chip.threshold_profiles),
            "synapse formats": (one.synapse_formats, chip.synapse_formats),
        }
        for limit, (need, most) in needs.items():
            if most is not None and need > most:
                here = list(dict.fromkeys(program.group_of(i) for i in np.flatnonzero(c.core == one.core).tolist()))
                more = f" and {len(here) - 3} more" if len(here) > 3 else ""
                raise ValueError(
                    f"a core of {chip.name} has {most} {limit}; core {one.core} needs {need} for "
                    f"{', '.join(here[:3])}{more}"
                )
        _check_offsets(program, one.core)


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
