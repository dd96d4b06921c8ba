"""Kernels of the learning engine that do not depend on the rule: spikes, traces, rewards, random numbers, row lists.

The sweep over the synapses is written for each rule by ``codegen``; the cache entries of that code
also depend on this file, so that a change here is noticed. What a sweep reads of one row (one input) lies together.
Arrays of one learner:

    synapses (n_pre, 4, n_post)    w, t, d, residue
    x (n_pre, 5 + 2 (T + 1))       x1, x2, time of the last spike in the epoch (1.., 0: none), whether the row is on the
                                   list, whether it has tags; then x1, x2 at ticks 0 (before the epoch) to T,
                                   of which profile nengo writes 0, 1 and T: they change at most once in between
    y (4, n_post)                  y1, y2, y3, time of the last spike
    hy (T + 1, 3, n_post)          y1, y2, y3 at ticks 0 to T
    rows (2 n_pre + 1,)            list of the rows that hold a spike, trace or tag; from n_pre on, list of the rows
                                   whose weights or delays the latest tick computed; last, the length of that list
    scalars (6,)                   see the indices below
    traces (6, 3)                  of x1 x2 y1 y2 y3 r1: decay, decay of the integer part, impulse
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from spikeloop.spiking.compiling import kernel

X1, X2, TIME, LISTED, TAGGED, HISTORY = range(6)
TICK, REWARD_TRACE, REWARD, N_ROWS, SEED, UPDATES = range(6)
N_SCALARS = 6
TRACE_STREAM, SYNAPSE_STREAM, EXTRA_STREAM = 0x51ED270B, 0x2545F491, 0x9E3779B9
WIDE_STREAM = 0x6A09E667  # of the bits of a draw beyond 16
X_DECAY, X_IMPULSE, Y_DECAY, Y_IMPULSE, Y_IMPULSE_MID, SYNAPSE = range(6)  # Lava's draws: one for all


@intrinsic
def _mixed(typing_context, x):
    """Return 32 well-mixed bits of 32, of type uint32.

    In Python's operators these would be products of 64 bits, cut to 32 each time. The compiler keeps them so, and a
    product of 64 bits costs Intel's vector units several times one of 32.
    """

    def generate(context, builder, signature, arguments):
        (x,) = arguments
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            x = builder.xor(x, builder.lshr(x, x.type(shift)))
            x = builder.mul(x, x.type(factor))
        return x

    return types.uint32(types.uint32), generate


@kernel(allocates=False)
def mix(x):
    """Return 32 well-mixed bits of 32."""
    return _mixed(np.uint32(x))


@kernel(allocates=False)
def phase_key(seed, phase, stream):
    """Return the key of one random stream in one learning phase."""
    low = mix(np.uint32(seed & 0xFFFFFFFF) ^ np.uint32(stream))
    high = mix(np.uint32((seed >> 32) & 0xFFFFFFFF) ^ np.uint32(low))
    return mix(np.uint32(phase & 0xFFFFFFFF) ^ np.uint32(high))


@kernel(allocates=False)
def uniform(key, index):
    """Return draw number ``index`` of a stream, in [0, 1)."""
    return mix(np.uint32(np.uint32(index) * np.uint32(0x9E3779B1)) ^ np.uint32(key)) * 2.0**-32


@kernel(allocates=False)
def within(events, n):
    """Return whether all indices are in 0..n-1."""
    for a in range(events.size):  # noqa: SIM110 - numba compiles no generators
        if events[a] < 0 or events[a] >= n:
            return False
    return True


@kernel(allocates=False)
def list_row(x, rows, scalars, i):
    """Put a row on the list."""
    x[i, LISTED] = 1
    rows[scalars[N_ROWS]] = i
    scalars[N_ROWS] += 1


@kernel(allocates=False)
def list_all(x, rows, scalars):
    """Put all rows on the list."""
    for i in range(x.shape[0]):
        if x[i, LISTED] == 0:
            list_row(x, rows, scalars, i)


@kernel(allocates=False)
def record_pre(x, rows, scalars, events, e):
    """Note presynaptic spikes at tick ``e`` of the epoch."""
    for a in range(events.size):
        i = events[a]
        x[i, TIME] = e
        if x[i, LISTED] == 0:
            list_row(x, rows, scalars, i)


@kernel(allocates=False)
def record_post(y, events, e):
    """Note postsynaptic spikes at tick ``e`` of the epoch."""
    for a in range(events.size):
        y[3, events[a]] = e


@kernel(allocates=False)
def forget_rows(x, rows, scalars):
    """Take rows off the list that hold neither trace nor tag, and end the epoch of all."""
    n = 0
    for a in range(scalars[N_ROWS]):
        i = rows[a]
        x[i, TIME] = 0
        if x[i, X1] != 0 or x[i, X2] != 0 or x[i, TAGGED] != 0:
            rows[n] = i
            n += 1
        else:
            x[i, LISTED:] = 0
    scalars[N_ROWS] = n


@kernel(allocates=False)
def write_traces(y, written):
    """Let the postsynaptic neurons write their traces."""
    for k in range(written.shape[0]):
        for j in range(y.shape[1]):
            y[k, j] = written[k, j]


@kernel(allocates=False)
def round_up(value, draw):
    """Return ``value`` rounded away from zero if its fraction exceeds the draw, else towards zero."""
    whole = np.floor(abs(value))
    whole += draw < abs(value) - whole
    return np.int32(whole) if value >= 0 else -np.int32(whole)


@kernel(allocates=False)
def reward_trace(scalars, traces, key):
    """Decay r1 once per epoch and add the epoch's rewards; signed 8 bits."""
    r = round_up(traces[5, 0] * scalars[REWARD_TRACE], uniform(key, 0x5000000))
    r += round_up(traces[5, 2] * scalars[REWARD], uniform(key, 0x5000001))
    scalars[REWARD_TRACE] = min(127, max(-128, r))
    scalars[REWARD] = 0


# --- nengo: one decay per epoch, one rounding of decayed value plus impulse, a second spike of an epoch is lost


@kernel(allocates=False)
def _nengo_trace(before, decay, impulse, time, draw):
    """Return a trace after an epoch, without and with the impulse of a spike in it."""
    value = decay * before
    without = round_up(value, draw)
    return without, min(np.int32(127), round_up(value + impulse, draw)) if time > 0 else without


@kernel(allocates=False)
def nengo_pre(x, rows, scalars, traces, key, draws):
    """Advance the presynaptic traces by an epoch; ``draws`` (0, 0) takes the draws of ``key``."""
    for a in range(scalars[N_ROWS]):
        i = rows[a]
        time = x[i, TIME]
        for k in range(2):
            before = x[i, k]
            if before != 0 or (time > 0 and traces[k, 2] != 0):  # else it stays 0, whatever is drawn
                p = draws[k, i] if draws.size else uniform(key, (k << 24) + i)
                without, after = _nengo_trace(before, traces[k, 0], traces[k, 2], time, p)
                x[i, k] = after
                x[i, HISTORY + k] = before
                x[i, HISTORY + 2 + k] = after if time == 1 else without
                x[i, x.shape[1] - 2 + k] = after
            elif x[i, HISTORY + k] != 0:
                x[i, HISTORY + k :: 2] = 0


@kernel(allocates=False)
def nengo_post(y, hy, held, traces, key, draws):
    """Advance the postsynaptic traces by an epoch; traces that neurons wrote are held as they are."""
    hy[:] = 0
    for j in range(y.shape[1]):
        for k in range(3):
            if held:
                for e in range(hy.shape[0]):
                    hy[e, k, j] = y[k, j]
            elif y[k, j] != 0 or (y[3, j] > 0 and traces[2 + k, 2] != 0):  # else it stays 0, whatever is drawn
                p = draws[2 + k, j] if draws.size else uniform(key, ((2 + k) << 24) + j)
                without, after = _nengo_trace(y[k, j], traces[2 + k, 0], traces[2 + k, 2], y[3, j], p)
                hy[0, k, j] = y[k, j]
                y[k, j] = after
                for e in range(1, hy.shape[0]):
                    hy[e, k, j] = after if 0 < y[3, j] <= e else without


# --- Lava: one decay per tick, all of an epoch at its end, with one draw for all; every spike counts


@kernel(allocates=False)
def lava_step(value, decay, impulse, spiked, draw, impulse_draw):
    """Return a trace after one more tick: a decay, then the impulse of the epoch's last spike if it is now."""
    decayed = decay * value
    floor = np.floor(decayed)
    value = np.int32(np.int32(floor) + np.int32(draw < decayed - floor))
    if spiked:
        whole, part = _lava_impulse(impulse)
        value = np.int32(value + whole + np.int32(impulse_draw < part))
        value = max(np.int32(0), min(np.int32(127), value))  # what a neuron wrote may be negative
    return value


@kernel(allocates=False)
def _lava_impulse(impulse):
    """Return integer part and fraction, in 1/256 compared with draws of 1/128, as Lava does."""
    whole = np.int32(np.floor(impulse))
    return whole, np.round(256 * (impulse - whole)) / 128


@kernel(allocates=False)
def lava_early_pre(x, traces, events):
    """Give spike before the last of an epoch its impulse, fractions rounded up."""
    for a in range(events.size):
        i = events[a]
        if x[i, TIME] > 0:
            for k in range(2):
                x[i, k] = min(np.int32(127), np.int32(x[i, k] + np.int32(np.ceil(traces[k, 2]))))


@kernel(allocates=False)
def lava_early_post(y, traces, events, draw):
    """Give a spike before the last of an epoch its impulse."""
    for a in range(events.size):
        j = events[a]
        if y[3, j] > 0:
            for k in range(3):
                whole, part = _lava_impulse(traces[2 + k, 2])
                y[k, j] = min(np.int32(127), np.int32(y[k, j] + whole + np.int32(draw < part)))


@kernel(allocates=False)
def lava_pre(x, rows, scalars, traces, draws):
    """Advance the presynaptic traces by an epoch."""
    for a in range(scalars[N_ROWS]):
        i = rows[a]
        time = x[i, TIME]
        for k in range(2):
            x[i, HISTORY + k] = x[i, k]
            for e in range(1, (x.shape[1] - HISTORY) // 2):
                x[i, k] = lava_step(
                    x[i, k], traces[k, 0], traces[k, 2], time == e, draws[0, X_DECAY], draws[0, X_IMPULSE]
                )
                x[i, HISTORY + 2 * e + k] = x[i, k]


@kernel(allocates=False)
def lava_post(y, hy, held, traces, draws):
    """Advance the postsynaptic traces by an epoch; those that neurons wrote decay only within the epoch, hardly."""
    for j in range(y.shape[1]):
        for k in range(3):
            decay = np.exp(-1 / 65535) if held else traces[2 + k, 0]
            impulse = 0.0 if held else traces[2 + k, 2]
            value = y[k, j]
            hy[0, k, j] = value
            for e in range(1, hy.shape[0]):
                value = lava_step(value, decay, impulse, y[3, j] == e, draws[0, Y_DECAY], draws[0, Y_IMPULSE])
                hy[e, k, j] = value
            if not held:
                y[k, j] = value


# --- Brian2Loihi: one-tick epochs; the fraction is drawn from the state before the impulse, the integer part after it


@kernel(allocates=False)
def _brian_trace(before, after, traces, k, draw):
    chance = before * traces[k, 0]
    return np.int32(np.floor(after * traces[k, 1])) + np.int32(draw < chance - np.floor(chance))


@kernel(allocates=False)
def brian_pre(x, rows, scalars, traces, key, draws):
    """Add impulses (the values that products see), then decay."""
    for a in range(scalars[N_ROWS]):
        i = rows[a]
        for k in range(2):
            before = x[i, k]
            after = min(np.int32(127), np.int32(before + np.int32(traces[k, 2]))) if x[i, TIME] > 0 else before
            x[i, HISTORY + k] = before
            x[i, HISTORY + 2 + k] = after
            p = draws[k, i] if draws.size else uniform(key, (k << 24) + i)
            x[i, k] = _brian_trace(before, after, traces, k, p)


@kernel(allocates=False)
def brian_post(y, hy, traces, key, draws):
    """Add impulses (the values that products see), then decay."""
    for j in range(y.shape[1]):
        for k in range(3):
            before = y[k, j]
            impulse = np.int32(traces[2 + k, 2])
            after = min(np.int32(127), np.int32(before + impulse)) if y[3, j] > 0 else before
            hy[0, k, j] = before
            hy[1, k, j] = after
            p = draws[2 + k, j] if draws.size else uniform(key, ((2 + k) << 24) + j)
            y[k, j] = _brian_trace(before, after, traces, 2 + k, p)
