"""A run in which synapses learn: each tick the emulator's kernel, then the learning engine of each projection.

The learning engines' own kernels are handed in by the addresses of C functions, so that this loop is compiled once for
all rules. After a learning epoch, what an engine made of the weights and delays of the
sources that it visited replaces theirs in the synapse table, where they stand.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikeloop.hardware.learning.c_functions import function_at
from spikeloop.hardware.loihi.emulator_kernels import BLOCK, OK, N, advance, refusal
from spikeloop.spiking.compiling import kernel

FROM_INPUT, LONGEST_DELAY, IN_A_ROW = range(3)  # of Engine.constants
# Of Engine.actual, from a mantissa to what a spike adds: bits dropped, rounded (ties to even) and appended, bounds.
DROP, ROUND, APPEND, LEAST, MOST = range(5)


class Engine(NamedTuple):
    """What one projection learns with: arrays of its ``Learner``, its sources and targets, its place in the table."""

    synapses: np.ndarray  # (P, 4, Q) int32; this and what follows up to ``traces`` are ``Learner.arrays``
    x: np.ndarray
    y: np.ndarray
    hy: np.ndarray
    rows: np.ndarray
    scalars: np.ndarray
    traces: np.ndarray
    trace_draws: np.ndarray  # (0, 0), or room for Lava's shared ones
    synapse_draws: np.ndarray  # (0, 0, 0)
    pre: np.ndarray  # (P,) int64: input lines or compartments
    post: np.ndarray  # (Q,) int64: compartments
    pre_spikes: np.ndarray  # (P,) int32, scratch: sources that spiked on this tick
    post_spikes: np.ndarray  # (Q,) int32, scratch: targets that did
    ends: np.ndarray  # (2, 1) int64, scratch: how many of both
    written: np.ndarray  # (3, Q) int32, scratch: posttraces that the host writes
    table_weights: np.ndarray  # (P, Q) int16, a view into the synapse table
    table_delays: np.ndarray  # (P (1 + 2 Q),) uint16, the same; empty where the rule changes no delays
    actual: np.ndarray  # (5,) int32
    constants: np.ndarray  # (3,) int64; IN_A_ROW: whether each source is the one after that before it


@kernel
def list_spikes(carried, spikes):
    """List the entries other than 0; return how many."""
    found, n = 0, np.uint64(carried.size)
    rest = n // BLOCK * BLOCK
    for start in range(np.uint64(0), rest, BLOCK):
        some = np.int32(0)
        for i in range(BLOCK):
            some |= carried[start + i]
        if some:
            for i in range(start, start + BLOCK):
                spikes[found] = i
                found += carried[i] != 0
    for i in range(rest, n):
        spikes[found] = i
        found += carried[i] != 0
    return found


@kernel
def collect_spikes(engine, lines, z, host_spikes):
    """List the sources and targets of a projection that spiked on this tick; return how many of each."""
    n_pre, n_post = 0, 0
    carried = lines if engine.constants[FROM_INPUT] else z
    n, first = np.uint64(engine.pre.size), np.uint64(engine.pre[0])
    if carried.size and engine.constants[IN_A_ROW]:
        n_pre = list_spikes(carried[first : first + n], engine.pre_spikes)
    elif carried.size:
        for i in range(n):
            engine.pre_spikes[n_pre] = i
            n_pre += carried[engine.pre[i]] != 0
    for j in range(engine.post.size):
        engine.post_spikes[n_post] = j
        from_host = host_spikes.size > 0 and host_spikes[engine.post[j]] != 0
        n_post += from_host or z[engine.post[j]] != 0
    return n_pre, n_post


@kernel
def store_weights(weights, stored, actual):
    """Put the mantissas of one source's synapses into the synapse table, as what a spike adds."""
    drop, by, append, least, most = actual[DROP], actual[ROUND], actual[APPEND], actual[LEAST], actual[MOST]
    below_half = np.int32((1 << by >> 1) - 1) if by else np.int32(0)
    odd = np.int32(1) if by else np.int32(0)
    for j in range(np.uint64(weights.size)):
        w = np.int32(weights[j] >> drop)
        w = np.int32(np.int32(np.int32(w + below_half) + np.int32(np.int32(w >> by) & odd)) >> by)
        stored[j] = np.int16(min(max(np.int32(w << append), least), most))


@kernel
def store(synapses, rows, table_weights, table_delays, actual, longest):
    """Put what the synapses of some sources have become into the synapse table."""
    for a in range(rows.size):  # a function of arrays, not of an Engine: a call hands over each field of each array
        row = rows[a]
        store_weights(synapses[row, 0], table_weights[row], actual)
        if table_delays.size:
            n = synapses.shape[2]
            first = row * (1 + 2 * n) + 1 + n  # after the number of a source's targets, and these
            for j in range(n):
                table_delays[first + j] = min(synapses[row, 2, j], longest)


@kernel
def learn_tick(learn, engine, lines, z, host_spikes, host_traces, reward):
    """Show a tick to one learning engine, and what it changed to the synapse table."""
    n_pre, n_post = collect_spikes(engine, lines, z, host_spikes)
    engine.ends[0, 0], engine.ends[1, 0] = n_pre, n_post
    if host_traces.size:
        for k in range(3):
            for j in range(engine.post.size):
                engine.written[k, j] = host_traces[k, engine.post[j]]
    learn(
        engine.synapses,
        engine.x,
        engine.y,
        engine.hy,
        engine.rows,
        engine.scalars,
        engine.traces,
        engine.pre_spikes[:n_pre],
        engine.ends[0],
        engine.post_spikes[:n_post],
        engine.ends[1],
        reward,
        engine.written if host_traces.size else engine.written[:0],
        engine.trace_draws,
        engine.synapse_draws,
    )
    n = engine.pre.size
    store(
        engine.synapses,
        engine.rows[n : n + engine.rows[2 * n]],
        engine.table_weights,
        engine.table_delays,
        engine.actual,
        engine.constants[LONGEST_DELAY],
    )


@kernel
def run_and_learn(
    state, n_ticks, inputs, bias, new_bias, options, constants, runs, children, parents, scratch, sources, staged,
    staged_post, pointers, segments, weights, targets, outputs_of, outputs, counters, spikes, record, recorded,
    addresses, engines, rewards, host_spikes, host_traces,
):  # fmt: skip
    """Do what ``emulator_kernels.run`` does, with a single row of state, and learn after each tick.

    The spikes of a tick are sent, with the weights from before, when the learning engines see them. What they change
    acts on the spikes of the next tick; inputs that reach u on their own tick, as with latency 0, are among these.

    Args are those of ``emulator_kernels.run``, then: the addresses of the learning engines' kernels and their
    arrays, one of each per projection that learns; ``rewards`` int64 (n_ticks,); spikes that the host sends for
    compartments, int32 (n_ticks, C), or (1, 0) for none; and y1, y2, y3 as the host writes them, int32 (n_ticks, 3, C),
    or (1, 3, 0).
    """
    status = refusal(state, inputs, bias, new_bias, options)
    if status != OK:
        return status
    n = options[N]
    z = state[0, 3 + 4 * n : 3 + 5 * n]
    for t in range(n_ticks):
        status = advance(
            state, 1, inputs[t : t + 1], bias, options, constants, runs, children, parents, scratch, sources,
            staged, staged_post, pointers, segments, weights, targets, outputs_of, outputs[t : t + 1], counters,
            spikes, record, recorded[t : t + 1],
        )  # fmt: skip
        lines = inputs[t, 0] if inputs.shape[0] else z[:0]
        for e in range(len(engines)):
            learn_tick(
                function_at(addresses[e]),
                engines[e],
                lines,
                z,
                host_spikes[t % host_spikes.shape[0]],
                host_traces[t % host_traces.shape[0]],
                rewards[t : t + 1],
            )
    return status
