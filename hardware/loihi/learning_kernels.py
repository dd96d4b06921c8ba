"""A run in which synapses learn: the emulator's kernel up to the end of a learning epoch, then the learning engines.

The learning engines' own kernels are handed in by the addresses of C functions, so that this loop is compiled once for
all rules. After a learning epoch, what an engine made of the weights and delays of the
sources that it visited replaces theirs in the synapse table, where they stand.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikeloop.hardware.learning.c_functions import function_at
from spikeloop.hardware.learning.kernels import TICK
from spikeloop.hardware.loihi.emulator_kernels import INPUT_LATENCY, N_INPUTS, OK, advance, refusal
from spikeloop.spiking.compiling import kernel

FROM_INPUT, LONGEST_DELAY, EPOCH = range(3)  # of Engine.constants
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
    place: np.ndarray  # (n_inputs + C,) int32: which of its sources an input line or a compartment is, or -1
    post: np.ndarray  # (Q,) int64: compartments
    pre_spikes: np.ndarray  # (P T,) int32, scratch: sources that spiked, tick after tick of a learning epoch
    post_spikes: np.ndarray  # (Q T,) int32, scratch: targets that did
    ends: np.ndarray  # (2, T) int64, scratch: where each tick's part of both ends
    written: np.ndarray  # (3, Q) int32, scratch: posttraces that the host writes
    table_weights: np.ndarray  # (P, Q) int16, a view into the synapse table
    table_delays: np.ndarray  # (P (1 + 2 Q),) uint16, the same; empty where the rule changes no delays
    actual: np.ndarray  # (5,) int32
    constants: np.ndarray  # (3,) int64


@kernel(allocates=False)
def list_sources(place, sources, spikes, ends):
    """List the sources of a projection among those that the chip has sent, and where each tick's part ends."""
    found = 0
    for t in range(ends.size):
        sent = sources[t, 0]
        for a in range(sent[-1]):
            i = place[sent[a]]
            if i >= 0:
                spikes[found] = i
                found += 1
        ends[t] = found


@kernel(allocates=False)
def mark_fired(sources, n_inputs, z):
    """Write 1 where a compartment is among what the chip has sent, 0 elsewhere; ``z`` is (n_ticks, C)."""
    for t in range(z.shape[0]):
        z[t] = 0
        sent = sources[t, 0]
        for a in range(sent[-1]):
            if sent[a] >= n_inputs:
                z[t, sent[a] - n_inputs] = 1


@kernel(allocates=False)
def list_targets(post, z, host_spikes, tick, spikes, ends):
    """List the targets that spiked, or that the host says did, and where each tick's part ends."""
    found = 0
    for t in range(z.shape[0]):
        of_host = host_spikes[(tick + t) % host_spikes.shape[0]]
        for j in range(post.size):
            spikes[found] = j
            from_host = of_host.size > 0 and of_host[post[j]] != 0
            found += from_host or z[t, post[j]] != 0
        ends[t] = found


@kernel(allocates=False)
def store_weights(weights, stored, actual):
    """Put the mantissas of one source's synapses into the synapse table, as what a spike adds."""
    drop, by, append, least, most = actual[DROP], actual[ROUND], actual[APPEND], actual[LEAST], actual[MOST]
    below_half = np.int32((1 << by >> 1) - 1) if by else np.int32(0)
    odd = np.int32(1) if by else np.int32(0)
    for j in range(np.uint64(weights.size)):
        w = np.int32(weights[j] >> drop)
        w = np.int32(np.int32(np.int32(w + below_half) + np.int32(np.int32(w >> by) & odd)) >> by)
        stored[j] = np.int16(min(max(np.int32(w << append), least), most))


@kernel(allocates=False)
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


@kernel(allocates=False)
def learn_ticks(learn, engine, sources, ahead, z, host_spikes, host_traces, rewards, tick):
    """Show ticks of one learning epoch to a learning engine, and what it changed to the synapse table.

    ``z`` is what compartments did on them, (n_ticks, C), and ``sources`` what ``advance`` lists, input lines by
    ``ahead`` rounds before the compartments of a tick; ``tick`` is the first one's.
    """
    n_ticks, n, c = rewards.size, engine.rows.size // 2, engine.constants
    first = 0 if c[FROM_INPUT] else ahead
    list_sources(engine.place, sources[first:], engine.pre_spikes, engine.ends[0, :n_ticks])
    list_targets(engine.post, z, host_spikes, tick, engine.post_spikes, engine.ends[1])
    if host_traces.size:
        for k in range(3):
            for j in range(engine.post.size):
                engine.written[k, j] = host_traces[tick, k, engine.post[j]]
    learn(
        engine.synapses,
        engine.x,
        engine.y,
        engine.hy,
        engine.rows,
        engine.scalars,
        engine.traces,
        engine.pre_spikes[: engine.ends[0, n_ticks - 1]],
        engine.ends[0, :n_ticks],
        engine.post_spikes[: engine.ends[1, n_ticks - 1]],
        engine.ends[1, :n_ticks],
        rewards,
        engine.written if host_traces.size else engine.written[:0],
        engine.trace_draws,
        engine.synapse_draws,
    )
    store(
        engine.synapses,
        engine.rows[n : n + engine.rows[2 * n]],
        engine.table_weights,
        engine.table_delays,
        engine.actual,
        c[LONGEST_DELAY],
    )


@kernel(allocates=False)
def run_and_learn(
    state, inputs, bias, new_bias, options, constants, runs, children, parents, scratch, sources, staged, staged_post,
    pointers, segments, weights, targets, outputs_of, outputs, counters, spikes, recorded, addresses, engines, rewards,
    host_spikes, host_traces,
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
    return advance_and_learn(
        state, inputs, bias, options, constants, runs, children, parents, scratch, sources, staged, staged_post,
        pointers, segments, weights, targets, outputs_of, outputs, counters, spikes, recorded, addresses, engines,
        rewards, host_spikes, host_traces,
    )  # fmt: skip


@kernel(allocates=False)
def advance_and_learn(
    state, inputs, bias, options, constants, runs, children, parents, scratch, sources, staged, staged_post,
    pointers, segments, weights, targets, outputs_of, outputs, counters, spikes, recorded, addresses, engines, rewards,
    host_spikes, host_traces,
):  # fmt: skip
    """Do what :func:`run_and_learn` does, with arguments that ``refusal`` has taken."""
    n_ticks, ahead, status = outputs.shape[0], 1 - options[INPUT_LATENCY], OK
    fired = scratch[3:]
    t = 0
    while t < n_ticks:
        stop = n_ticks if host_traces.size == 0 else t + 1  # what the host writes is of one tick
        for e in range(len(engines)):
            epoch = engines[e].constants[EPOCH]
            stop = min(stop, t + epoch - engines[e].scalars[TICK] % epoch)
        status = advance(
            state, inputs[t:stop], bias, options, constants, runs, children, parents, scratch, sources, staged,
            staged_post, pointers, segments, weights, targets, outputs_of, outputs[t:stop], counters, spikes,
            recorded[t:stop],
        )  # fmt: skip
        mark_fired(sources[ahead:], options[N_INPUTS], fired[: stop - t])
        for e in range(len(engines)):
            learn_ticks(
                function_at(addresses[e]),
                engines[e],
                sources,
                ahead,
                fired[: stop - t],
                host_spikes,
                host_traces,
                rewards[t:stop],
                t,
            )
        t = stop
    return status
