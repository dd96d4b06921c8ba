"""A program as the arrays that the emulator's kernel takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikeloop.hardware.loihi import emulator_kernels as k
from spikeloop.hardware.loihi.layout import Layout
from spikeloop.hardware.loihi.program import NOISE_AT, Program

_NEVER = 2**30  # a threshold that no v reaches: EMULATOR_MAX is below it


class Loaded(NamedTuple):
    """Arguments of ``emulator_kernels.run`` that stay the same from run to run, by its names for them."""

    bias: np.ndarray
    options: np.ndarray
    constants: np.ndarray
    runs: np.ndarray
    children: np.ndarray
    parents: np.ndarray
    scratch: np.ndarray
    sources: np.ndarray
    staged: np.ndarray
    staged_post: np.ndarray
    pointers: np.ndarray
    segments: np.ndarray
    weights: np.ndarray
    targets: np.ndarray
    outputs_of: np.ndarray
    counters: np.ndarray
    spikes: np.ndarray
    recorded: np.ndarray


def options_of(program: Program, slots: int) -> np.ndarray:
    """Return the kernel's option vector."""
    profile = program.arithmetic
    options = np.zeros(k.N_OPTIONS, np.int64)
    options[k.N_INPUTS], options[k.SLOTS], options[k.N] = program.n_inputs, slots, program.compartments.n
    options[k.INPUT_BITS] = profile.input_bits
    options[k.U_WRAP] = k.WRAP_AT_23 if profile.u_bits == 23 else k.WRAP_AT_28
    if profile.u_wrap == "once":
        options[k.U_WRAP] = k.WRAP_ONCE
    options[k.WRAP_V_INPUT] = profile.wrap_v_input
    options[k.INPUT_LATENCY] = profile.input_latency
    options[k.LATE_RESET] = profile.late_reset
    options[k.OWN_DELAYS] = any(p.plastic and program.longest_delay(p) for p in program.projections)
    options[k.GRADED] = program.chip_spec.graded_spikes
    if np.any(program.compartments.noise):
        options[k.NOISE_AT] = 1 + NOISE_AT.index(program.noise_at)
    options[k.NOISE_EXPONENT], options[k.NOISE_MANTISSA] = program.noise_exponent, program.noise_mantissa
    return options


def constants_of(program: Program) -> np.ndarray:
    """Return the kernel's constants, int32 of shape (N_CONSTANTS, C)."""
    c = program.compartments
    rows = np.zeros((k.N_CONSTANTS, c.n), np.int32)
    for row, decay in ((k.KEEP_U, c.decay_u), (k.KEEP_V, c.decay_v), (k.KEEP_A, c.decay_a), (k.KEEP_R, c.decay_r)):
        rows[row] = 4096 - decay
    rows[k.V_TH] = np.where(c.fires, c.v_th, _NEVER)
    rows[k.SILENT], rows[k.V_MIN], rows[k.V_MAX] = c.refractory - 1, c.v_min, program.highest_v
    rows[k.STEP_A], rows[k.SUBTRACT], rows[k.NOISY] = c.step_a, c.subtract, c.noise
    return rows


def runs_of(program: Program) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the compartments into runs of one model without a parent and its child in one; list who joins whom."""
    c = program.compartments
    first_child = np.full(c.n, c.n)
    children = np.flatnonzero(c.parent >= 0)
    np.minimum.at(first_child, c.parent[children], children)
    last_child = np.full(c.n, -1)
    np.maximum.at(last_child, c.parent[children], children)
    starts = [0]
    for i in range(1, c.n):
        if c.model[i] != c.model[i - 1] or last_child[i] >= starts[-1]:
            starts.append(i)
    order = children[np.argsort(c.parent[children], kind="stable")]
    parents = c.parent[order]
    rows = []
    for start, stop in zip(starts, [*starts[1:], c.n], strict=True):
        joined = np.searchsorted(parents, [start, stop])
        silent = bool(np.any(c.refractory[start:stop] > 1))
        rows.append((start, stop, c.model[start], silent, *joined, joined[1] > joined[0]))
    return np.array(rows, np.int64), order.astype(np.int64), parents.astype(np.int64)


def stages_of(program: Program, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Return which sums an exponent shifts: ``(first, stop, shift, delay)`` of each block, and all of their targets."""
    rows, posts = [], [np.empty(0, np.int64)]
    for (i, delay), first in layout.staged.items():
        p = program.projections[i]
        rows.append((first, first + p.post.size, -p.exponent, delay))
        posts.append(p.post.astype(np.int64))
    return np.array(rows, np.int64).reshape(-1, 4), np.concatenate(posts)
