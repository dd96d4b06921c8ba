"""A learning rule for one projection of a compiled network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikeloop.hardware.learning.rule import LearningRule
from spikeloop.hardware.loihi.lowered import READOUT
from spikeloop.hardware.loihi.placement import place
from spikeloop.hardware.loihi.program import Learning, Program, Projection


def teach(program: Program, rule: LearningRule, projection: str = READOUT, seed: int = 0, n_parts: int = 1) -> Program:
    """Return a program in which a projection goes on learning, placed anew: plastic synapses take more of a core.

    Args:
        program: A compiled program.
        rule: The rule, in the arithmetic of the program.
        projection: Name of the projection; the readout's if the chip holds it.
        seed: Of the random rounding.
        n_parts: Parts of the readout, each of which becomes a projection of its own, ``readout 0`` and so on: one
            plastic projection would have synapses between each source and all parts.

    Raises:
        ValueError: If there is no such projection, or the chip cannot hold its rule.
    """
    names = [p.name for p in program.projections]
    if projection not in names:
        hint = "; train with latency=1 for a readout on the chip" if projection == READOUT else ""
        raise ValueError(f"projection must be one of {names}, got {projection!r}{hint}")
    taught: list[Projection] = []
    for p in program.projections:
        if p.name != projection:
            taught.append(p)
            continue
        parts = in_parts(p, n_parts) if p.name == READOUT and n_parts > 1 else [p]
        taught += [replace(part, learning=Learning(rule, seed + k)) for k, part in enumerate(parts)]
    return place(replace(program, projections=tuple(taught)))


def in_parts(readout: Projection, n_parts: int) -> list[Projection]:
    """Return the synapses of each part of a readout as a projection; the parts have equal shares of the sources.

    >>> weights = [[2, 4, 0, 0], [0, 0, 0, 6]]  # of two parts with one output each
    >>> readout = Projection("readout", True, pre=range(4), post=[0, 1], weights=weights)
    >>> [(part.name, part.pre.tolist(), part.weights.tolist()) for part in in_parts(readout, 2)]
    [('readout 0', [0, 1], [[2, 4]]), ('readout 1', [2, 3], [[0, 6]])]
    """
    parts = []
    shares = np.array_split(np.arange(readout.pre.size), n_parts)  # as lowering shares them out
    for k, (rows, columns) in enumerate(zip(np.arange(readout.post.size).reshape(n_parts, -1), shares, strict=True)):
        at, name = np.ix_(rows, columns), f"{readout.name} {k}"
        weights, delays = readout.weights[at], None if readout.delays is None else readout.delays[at]
        pre, post = readout.pre[columns], readout.post[rows]
        parts.append(replace(readout, name=name, pre=pre, post=post, weights=weights, delays=delays))
    return parts
