"""What a program takes of a chip and what an emulator has counted, as a report needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from spikeloop.hardware.energy import COSTS
from spikeloop.hardware.figures import ChipFigures, CoreFigures
from spikeloop.hardware.loihi.chip import Chip
from spikeloop.hardware.loihi.cost import modelled_cost
from spikeloop.hardware.loihi.emulator import Counts
from spikeloop.hardware.loihi.program import Program
from spikeloop.hardware.loihi.resources import RESOURCES, CoreUse, use
from spikeloop.spiking.metrics import activation_sparsity

STATE_BYTES = 8  # of a compartment


def chip_figures(program: Program, counts: Counts, graded: bool, clipped: Mapping[str, int]) -> ChipFigures:
    """Return the figures of a program after a run.

    Args:
        program: What ran.
        counts: What happened.
        graded: Whether input lines send payloads, which multiply weights.
        clipped: How many values were too large on their way to the chip, by kind.
    """
    chip, cores = program.chip_spec, use(program)
    spikes_read = float(counts.spikes[program.spike_outputs].sum())
    of_input = sum(_reached(p.weights, counts.input_spikes[p.pre]) for p in program.projections if p.from_input)
    return ChipFigures(
        profile=program.profile,
        cores=core_figures(cores, chip),
        limits={"cores": chip.cores, **{limit: getattr(chip, limit) for _, limit in RESOURCES.values()}},
        grid=grid(cores, chip),
        events={
            "spikes": counts.spikes.sum(),
            "input spikes": counts.input_spikes.sum(),
            "synaptic operations": counts.synaptic_ops,
            "compartment updates": counts.updates,
            "packets to cores": counts.packets + counts.input_packets,
            "packets to the host": spikes_read,
            **({"synapses learned": counts.learned.sum()} if program.learns else {}),
        },
        overflows={**counts.overflows, **clipped},
        modelled={name: modelled_cost(program, counts, model) for name, model in COSTS.items()},
        spikes_sent=float(counts.input_spikes.sum()),
        spikes_read=spikes_read,
        n_weights=sum(n_weights(p.weights) for p in program.projections),
        n_nonzero=sum(int(np.count_nonzero(p.weights)) for p in program.projections),
        effective_macs=of_input if graded else 0.0,
        effective_acs=counts.synaptic_ops - of_input * graded,
        activation_sparsity=activation_sparsity([counts.spikes[program.compartments.fires > 0]], counts.n_ticks),
        memory_bytes=8 * sum(core.memory_words for core in cores) + STATE_BYTES * program.compartments.n,
    )


def core_figures(cores: Iterable[CoreUse], chip: Chip) -> tuple[CoreFigures, ...]:
    """Return what each core's use is in a report; in its picture, the cores of a tile make a square of two by two."""
    return tuple(CoreFigures(core, core.needs(chip), _place(core.core, chip)) for core in cores)


def grid(cores: Iterable[CoreUse], chip: Chip) -> tuple[int, int]:
    """Return rows and columns of a picture of the chip, wider where cores beyond those of one chip are in use."""
    columns = max([chip.tile_columns, *(1 + chip.tile(core.core)[0] for core in cores)])
    return 2 * chip.tile_rows, 2 * columns


def _place(core: int, chip: Chip) -> tuple[int, int]:
    x, y = chip.tile(core)
    corner = core % chip.cores_per_tile
    return 2 * y + corner // 2, 2 * x + corner % 2


def n_weights(weights: np.ndarray) -> int:
    """Return how many weights a matrix stands for: all, or one per neuron where each has its own synapse."""
    present = int(np.count_nonzero(weights))
    return present if present <= max(weights.shape) else weights.size


def _reached(weights: np.ndarray, spikes: np.ndarray) -> float:
    return float(np.count_nonzero(weights, axis=0) @ spikes)
