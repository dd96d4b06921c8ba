"""A learning rule for one projection of a compiled network."""

from __future__ import annotations

from dataclasses import replace

from spikeloop.hardware.learning.rule import LearningRule
from spikeloop.hardware.loihi.lowered import READOUT
from spikeloop.hardware.loihi.placement import place
from spikeloop.hardware.loihi.program import Learning, Program


def teach(program: Program, rule: LearningRule, projection: str = READOUT, seed: int = 0) -> Program:
    """Return a program in which a projection goes on learning, placed anew: plastic synapses take more of a core.

    Args:
        program: A compiled program.
        rule: The rule, in the arithmetic of the program.
        projection: Name of the projection; the readout's if the chip holds it.
        seed: Of the random rounding.

    Raises:
        ValueError: If there is no such projection, or the chip cannot hold its rule.
    """
    names = [p.name for p in program.projections]
    if projection not in names:
        hint = "; train with latency=1 for a readout on the chip" if projection == READOUT else ""
        raise ValueError(f"projection must be one of {names}, got {projection!r}{hint}")
    taught = tuple(
        replace(p, learning=Learning(rule, seed)) if p.name == projection else p for p in program.projections
    )
    return place(replace(program, projections=taught))
