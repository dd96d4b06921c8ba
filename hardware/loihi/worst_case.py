"""The largest input that can reach each compartment of a program: known from the weights, whatever is played."""

from __future__ import annotations

import numpy as np

from spikeloop.hardware.loihi.fixed_point import synaptic_input
from spikeloop.hardware.loihi.program import Program, Projection

_UNIT = 64  # synapses add multiples of it to u
_ACCUMULATOR = 2**31 - 1  # of mantissas times payloads, before an exponent shifts their sum


def largest_input(program: Program, graded: bool) -> np.ndarray:
    """Return the largest sum that spikes can bring each compartment on one tick, all of one sign, shape (C,).

    Args:
        program: The program.
        graded: Whether input lines send payloads instead of spikes; these lines are then left out.
    """
    sums = np.zeros((2, program.compartments.n))
    for p in program.projections:
        if not (graded and p.from_input):
            weights = _in_units_of_u(program, p)
            highest, lowest = np.maximum(weights, 0).sum(axis=1), np.minimum(weights, 0).sum(axis=1)
            if _shifts_sums(program, p):
                highest, lowest = np.floor(highest / _UNIT) * _UNIT, np.floor(lowest / _UNIT) * _UNIT
            np.add.at(sums[0], p.post, highest)
            np.add.at(sums[1], p.post, -lowest)
    return sums.max(axis=0)


def input_per_payload(program: Program) -> np.ndarray:
    """Return the largest sum that payloads of 1 and -1 on all input lines can bring each compartment, shape (C,)."""
    sums = np.zeros(program.compartments.n)
    for p in program.projections:
        if p.from_input:
            np.add.at(sums, p.post, abs(_in_units_of_u(program, p)).sum(axis=1))
    return sums


def largest_payload(program: Program) -> int:
    """Return the largest magnitude of graded input with which no sum of one tick can leave its range, at least 1."""
    profile = program.arithmetic
    room = 2 ** min(profile.input_bits, profile.u_bits) - 1 - largest_input(program, graded=True)
    room -= _UNIT * sum(p.from_input and _shifts_sums(program, p) for p in program.projections)  # rounded down
    each = input_per_payload(program)
    limits = [float(_ACCUMULATOR), *(room[each > 0] / each[each > 0])]
    for p in program.projections:
        if p.from_input:
            limits.append(_ACCUMULATOR / max(float(abs(p.weights.astype(np.int64)).sum(axis=1).max()), 1.0))
    return max(int(min(limits)), 1)


def _in_units_of_u(program: Program, p: Projection) -> np.ndarray:
    """Return what a spike adds to u through each synapse, shape (Q, P), float64."""
    weights = synaptic_input(p.weights, p.exponent, p.bits, p.sign_mode, program.arithmetic).astype(np.float64)
    return weights * _UNIT * 2.0 ** (p.exponent if _shifts_sums(program, p) else 0)


def _shifts_sums(program: Program, p: Projection) -> bool:
    """Return whether an exponent shifts the sum of a tick, which rounds it down to a whole unit."""
    return p.exponent < 0 and program.arithmetic.exponent_on == "sum"
