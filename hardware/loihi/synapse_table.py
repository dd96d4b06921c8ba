"""The synapse table of an emulator: for each source, the runs of weights that one of its spikes adds.

A spike costs what it touches: it walks its source's segments, each a run of weights. A dense segment adds to
neighbouring accumulators (2 bytes a weight), a sparse one to listed accumulators (4 bytes a synapse), and one of
plastic synapses with delays lists accumulators and delays (6 bytes a synapse).

Plastic synapses have one segment per source with all targets in the order of the projection, so that what learning
makes of a source's weights and delays replaces them where they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spikeloop.hardware.loihi.fixed_point import synaptic_input
from spikeloop.hardware.loihi.layout import Layout
from spikeloop.hardware.loihi.program import Program, Projection

_DENSE = 0.25  # from this share of synapses on, adding zeros too is quicker than naming targets
_TO_SUMS = -1  # in place of a segment's delay
_SPAN = 2**16  # targets of a sparse segment are 16-bit numbers above its first


class SynapseTable(NamedTuple):
    """Segments of all sources: input lines first, then compartments.

    The delay of a segment is -1 where its weights go to sums that an exponent shifts, its first target is -1 where
    its accumulators are neighbours (dense). A segment of plastic synapses with a delay each has length 0, as nothing is
    to be added to one slot; at its first target stand their number, their accumulators and then their delays. The
    sums that an exponent shifts stand one after the other there, delay by delay.
    """

    pointers: np.ndarray  # (n_inputs + C + 1,) int64: segments of source s are pointers[s] : pointers[s + 1]
    segments: np.ndarray  # (S, 5) int64: delay, first accumulator, first weight, length, first target
    weights: np.ndarray  # int16, in units of 64, or of a mantissa where the sum is shifted
    targets: np.ndarray  # uint16, accumulator less the segment's first; in some segments delays after them

    @property
    def n_bytes(self) -> int:
        """Memory of the table."""
        return sum(array.nbytes for array in self)


def actual_weights(program: Program, projection: Projection, weights: np.ndarray) -> np.ndarray:
    """Return what a spike adds through each synapse, shape (Q, P), in units of 64."""
    p = projection
    return synaptic_input(weights, p.exponent, p.bits, p.sign_mode, program.arithmetic).astype(np.int16)


class Views(NamedTuple):
    """Where the synapses of one projection stand in the table, so that they can change in place."""

    weights: np.ndarray  # (P, Q) int16; (0, 0) of a projection that is not plastic
    delayed: np.ndarray  # (P (1 + 2 Q),) uint16: of each source Q, targets, delays; empty where none has a delay


_NO_VIEWS = Views(np.zeros((0, 0), np.int16), np.zeros(0, np.uint16))


def build_table(program: Program, layout: Layout, mantissas: Sequence[np.ndarray]) -> tuple[SynapseTable, list[Views]]:
    """Return the table, and views into it for each projection that is plastic.

    Args:
        program: The projections.
        layout: Their accumulators.
        mantissas: Weights of each projection, shape (Q, P); the program's, or what learning made of them.

    Raises:
        ValueError: If plastic synapses of one projection reach compartments too far apart for 16 bits.
    """
    segments: list[np.ndarray] = []  # rows: source, then the columns of SynapseTable.segments
    weights: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    places: list[tuple[int, int] | None] = []  # of a plastic projection: its first weight and its first target
    n_weights = n_targets = 0
    for i, p in enumerate(program.projections):
        sources = p.pre.astype(np.int64) + (0 if p.from_input else program.n_inputs)
        actual = np.ascontiguousarray(actual_weights(program, p, mantissas[i]).T)  # (P, Q)
        staged = {delay: first for (k, delay), first in layout.staged.items() if k == i}
        if _is_dense(p, bool(staged)):
            rows = np.zeros((p.pre.size, 6), np.int64)
            rows[:, 0], rows[:, 2], rows[:, 4], rows[:, 5] = sources, p.post[0], p.post.size, -1
            if staged:
                rows[:, 1], rows[:, 2] = _TO_SUMS, staged[0]
            rows[:, 3] = n_weights + np.arange(p.pre.size) * p.post.size
            flat_weights, flat_targets = actual.reshape(-1), np.empty(0, np.uint16)
        elif p.plastic:
            rows, flat_targets = _plastic_rows(program, p, sources, staged)
            rows[:, 3] += n_weights
            rows[:, 5] += n_targets
            flat_weights = actual.reshape(-1)
        else:
            rows, flat_weights, flat_targets = _sparse_rows(p, sources, staged, actual)
            rows[:, 3] += n_weights
            rows[:, 5] += n_targets
        places.append((n_weights, n_targets) if p.plastic else None)
        segments.append(rows)
        weights.append(flat_weights)
        targets.append(flat_targets)
        n_weights += flat_weights.size
        n_targets += flat_targets.size
    n_sources = program.n_inputs + layout.n
    table = np.concatenate([np.empty((0, 6), np.int64), *segments])
    table = table[np.argsort(table[:, 0], kind="stable")]
    pointers = np.searchsorted(table[:, 0], np.arange(n_sources + 1)).astype(np.int64)
    all_weights = np.concatenate([np.empty(0, np.int16), *weights])
    all_targets = np.concatenate([np.empty(0, np.uint16), *targets])
    views = []
    for place, p in zip(places, program.projections, strict=True):
        if place is None:
            views.append(_NO_VIEWS)
            continue
        shape = p.pre.size, p.post.size
        delayed = _NO_VIEWS.delayed
        if program.longest_delay(p):
            delayed = all_targets[place[1] : place[1] + shape[0] * (1 + 2 * shape[1])]
        views.append(Views(all_weights[place[0] : place[0] + p.weights.size].reshape(shape), delayed))
    return SynapseTable(pointers, np.ascontiguousarray(table[:, 1:]), all_weights, all_targets), views


def _is_dense(p: Projection, staged: bool) -> bool:
    neighbours = staged or bool(np.all(np.diff(p.post) == 1))
    no_delay = not p.learns_delays and (p.delays is None or not p.delays.any())
    return bool(neighbours and no_delay and (p.plastic or np.count_nonzero(p.weights) >= _DENSE * p.weights.size))


def _plastic_rows(
    program: Program, p: Projection, sources: np.ndarray, staged: dict[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return one segment row per source, with the source in front, and the targets of plastic synapses."""
    n_pre, n_post = p.pre.size, p.post.size
    first = int(p.post.min())
    offsets = np.arange(n_post) if staged else p.post.astype(np.int64) - first
    if max(n_post, offsets.max()) >= _SPAN:
        raise ValueError(
            f"Projection {p.name!r}.post must lie within {_SPAN} compartments of one another if weights are plastic, "
            f"found {first} to {int(p.post.max())}"
        )
    rows = np.zeros((n_pre, 6), np.int64)
    rows[:, 0], rows[:, 2], rows[:, 4] = sources, staged[0] if staged else first, n_post
    rows[:, 3] = np.arange(n_pre) * n_post
    if not program.longest_delay(p):
        rows[:, 1] = 0
        rows[:, 5] = np.arange(n_pre) * n_post
        return rows, np.tile(offsets, n_pre).astype(np.uint16)
    rows[:, 1], rows[:, 4] = _TO_SUMS if staged else 0, 0
    rows[:, 5] = np.arange(n_pre) * (1 + 2 * n_post)
    delays = np.zeros((n_pre, n_post), np.int64) if p.delays is None else p.delays.T
    number = np.full((n_pre, 1), n_post)
    listed = np.concatenate([number, np.broadcast_to(offsets, delays.shape), delays], axis=1)
    return rows, listed.astype(np.uint16).reshape(-1)


def _sparse_rows(
    p: Projection, sources: np.ndarray, staged: dict[int, int], actual: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return segment rows with their source in front, weights and targets; one segment per source, delay and span."""
    k, j = np.nonzero(p.synapses.T)  # source, target of each synapse
    delay = np.zeros(k.size, np.int64) if p.delays is None else p.delays[j, k].astype(np.int64)
    target = p.post[j].astype(np.int64)
    for d, start in staged.items():
        target[delay == d] = start + j[delay == d]
    order = np.lexsort((target, target // _SPAN, delay, k))
    k, j, delay, target = k[order], j[order], delay[order], target[order]
    key = np.stack([k, delay, target // _SPAN])
    first = np.flatnonzero(np.any(np.diff(key, axis=1, prepend=-1) != 0, axis=0))
    length = np.diff(first, append=k.size)
    shown = np.full(first.size, _TO_SUMS) if staged else delay[first]
    rows = np.stack([sources[k[first]], shown, target[first], first, length, first], axis=1)
    return rows, actual[k, j], (target - np.repeat(target[first], length)).astype(np.uint16)
