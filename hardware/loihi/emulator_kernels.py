"""The emulator's integer kernel in numba: what :mod:`spikeloop.hardware.loihi.interpreter` defines, event-driven.

Nothing is allocated per tick. So that the compiler vectorises the loops over compartments and weights, each has few
arrays (it checks at run time that they do not overlap, up to eight pairs), arithmetic of 32 bits, and unsigned indices
(a signed one may be negative, which numba would handle in the loop). Helpers are inlined by numba: a call would hand
over each field of each array, and cost more than most loops.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spikeloop.spiking.compiling import kernel

# Columns of the option vector, which emulator.py fills.
N_INPUTS, SLOTS, N, INPUT_BITS, U_WRAP, WRAP_V_INPUT, INPUT_LATENCY, LATE_RESET, GRADED = range(9)
NOISE_AT, NOISE_EXPONENT, NOISE_MANTISSA = range(9, 12)
OWN_DELAYS = 12
N_OPTIONS = 13
WRAP_AT_23, WRAP_AT_28, WRAP_ONCE = range(3)
# Rows of the constants, one column per compartment; decays as factors 4096 - e.
KEEP_U, KEEP_V, V_TH, SILENT, V_MIN, V_MAX, KEEP_A, STEP_A, KEEP_R, SUBTRACT, NOISY = range(11)
N_CONSTANTS = 11
# Columns of the runs of like compartments.
START, STOP, MODEL, HAS_SILENT, CHILDREN_FROM, CHILDREN_TO, IS_PARENT = range(7)
# Counters; the first six in the order of interpreter.OVERFLOWS.
INPUT, U, V_INPUT, V_ABOVE, V_BELOW, ADAPTATION, UPDATES, TICKS = range(8)
N_COUNTERS = 8
OK, OVERFLOWED, BAD_PAYLOAD, BAD_BIAS, BAD_STATE = range(5)
_NO_NOISE, _CURRENT, _MEMBRANE = range(3)
_CUBA, _ALIF, _LSNN = range(3)
_MOST = np.int32(2**28 - 1)  # chip.EMULATOR_MAX
BLOCK = np.uint64(16)  # sources that are looked at together; most are silent

inlined = njit(inline="always")


@inlined
def _decay(x, keep):
    """Return ``x * keep / 4096`` rounded towards zero, in 32 bits: high part times keep, plus low part times keep."""
    low = np.int32(np.int32(x & 4095) * keep)
    towards_zero = np.int32(np.int32(np.int32(x ^ keep) >> 31) & 4095)
    return np.int32(np.int32(np.int32(x >> 12) * keep) + np.int32(np.int32(low + towards_zero) >> 12))


@inlined
def _wrap(x, shift):
    """Return ``x`` wrapped in two's complement at ``31 - shift`` bits and a sign."""
    return np.int32(np.int32(x << shift) >> shift)


@inlined
def _clip(x, low, high):
    return np.int32(min(max(x, low), high))


@kernel(allocates=False)
def _draw(state, b):
    """Advance the row's random stream (splitmix64) and return a uniform integer from -127..127."""
    low, high = np.uint64(state[b, 1]) & np.uint64(0xFFFFFFFF), np.uint64(state[b, 2]) & np.uint64(0xFFFFFFFF)
    stream = (low | (high << np.uint64(32))) + np.uint64(0x9E3779B97F4A7C15)
    state[b, 1], state[b, 2] = np.int32(stream & np.uint64(0xFFFFFFFF)), np.int32(stream >> np.uint64(32))
    x = (stream ^ (stream >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return np.int64(((x >> np.uint64(32)) * np.uint64(255)) >> np.uint64(32)) - 127


@kernel(allocates=False)
def _noise(state, b, options):
    x = (_draw(state, b) + 64 * options[NOISE_MANTISSA]) << options[NOISE_EXPONENT]
    return x >> 7 if x >= 0 else -(-x >> 7)


@inlined
def _any(x, start):
    """Return whether one of the ``BLOCK`` entries from ``start`` on is other than 0: one instruction reads them all."""
    some = np.int32(0)
    for i in range(BLOCK):
        some |= x[start + i]
    return some != 0


@inlined
def _gather_spikes(n, n_inputs, z, sources, payloads):
    """List the compartments that fired; return how many."""
    found, rest = 0, np.uint64(n) // BLOCK * BLOCK
    for start in range(np.uint64(0), rest, BLOCK):
        if _any(z, start):
            for i in range(start, start + BLOCK):  # without a branch, which would be mispredicted at every spike
                sources[found], payloads[found] = n_inputs + i, 1
                found += z[i]
    for i in range(rest, np.uint64(n)):
        sources[found], payloads[found] = n_inputs + i, 1
        found += z[i]
    return found


@inlined
def _gather_inputs(found, x, sources, payloads):
    """Append the input lines that carry something; return how many sources there are then."""
    n = np.uint64(x.shape[0])
    rest = n // BLOCK * BLOCK
    for start in range(np.uint64(0), rest, BLOCK):
        if _any(x, start):
            for i in range(start, start + BLOCK):
                sources[found], payloads[found] = i, x[i]
                found += x[i] != 0
    for i in range(rest, n):
        sources[found], payloads[found] = i, x[i]
        found += x[i] != 0
    return found


@kernel(allocates=False)
def _send_with_own_delays(
    found, sources, payloads, slot, pending, slots, n, pointers, segments, weights, targets, counters
):
    """Do what ``_send`` does, over plastic synapses with a delay each: segments that are empty to ``_send``."""
    for e in range(found):
        source, payload = sources[e], payloads[e]
        for s in range(pointers[source], pointers[source + 1]):
            if segments[s, 3] != 0:
                continue
            at, listed = np.uint64(segments[s, 2]), np.uint64(segments[s, 4])
            length = np.uint64(targets[listed])
            to_sums = segments[s, 0] < 0  # which stand delay by delay; input slots stand in a ring
            begin, wrap = np.uint64(0 if to_sums else slot + 1), np.uint64(2**63 if to_sums else slots)
            width, first = np.uint64(length if to_sums else n), np.uint64(segments[s, 1] + slots * n * to_sums)
            for j in range(length):
                due = begin + np.uint64(targets[listed + np.uint64(1) + length + j])
                k = (due - wrap if due >= wrap else due) * width + first + np.uint64(targets[listed + np.uint64(1) + j])
                if payload == 1:
                    pending[k] += weights[at + j]
                else:
                    x = np.int64(pending[k]) + np.int64(weights[at + j]) * payload
                    pending[k] = np.int32(x)
                    counters[INPUT] += pending[k] != x


@inlined
def _send(found, sources, payloads, slot, pending, slots, n, pointers, segments, weights, targets, spikes, counters):
    """Add the weights of all listed spikes to the slots in which they are due, one tick from now and later."""
    for e in range(found):
        source, payload = sources[e], payloads[e]
        spikes[source] += 1
        for s in range(pointers[source], pointers[source + 1]):
            due = slot + 1 + segments[s, 0]
            if due >= slots:
                due -= slots
            base = np.uint64((slots if segments[s, 0] < 0 else due) * n + segments[s, 1])
            at, length, dense = np.uint64(segments[s, 2]), np.uint64(segments[s, 3]), segments[s, 4] < 0
            listed = np.uint64(0 if dense else segments[s, 4])
            if payload != 1:
                for j in range(length):
                    k = base + (j if dense else np.uint64(targets[listed + j]))
                    x = np.int64(pending[k]) + np.int64(weights[at + j]) * payload
                    pending[k] = np.int32(x)
                    counters[INPUT] += pending[k] != x
            elif dense:
                for j in range(length):
                    pending[base + j] += weights[at + j]
            else:
                for j in range(length):
                    pending[base + np.uint64(targets[listed + j])] += weights[at + j]


@inlined
def _apply_exponents(n, slots, slot, pending, staged, staged_post, counters):
    """Shift the sums that stand apart by their negative exponents and add them to the slots in which they are due."""
    for s in range(staged.shape[0]):
        start, stop, by = staged[s, 0], staged[s, 1], staged[s, 2]
        due = slot + 1 + staged[s, 3]
        if due >= slots:
            due -= slots
        for j in range(start, stop):
            k = due * n + staged_post[j]
            x = np.int64(pending[k]) + np.int64(pending[slots * n + j] >> by)
            pending[k] = np.int32(x)
            counters[INPUT] += pending[k] != x
            pending[slots * n + j] = 0


@inlined
def _collect_input(n, q, pending, first, shift, counters):
    """Read and clear the input that is due, in units of 64: ``q`` in units of u, wrapped."""
    over = np.int32(0)
    begin = np.uint64(first)
    for i in range(np.uint64(n)):
        y = pending[begin + i]
        kept = _wrap(y, shift)
        over = np.int32(over + np.int32(y != kept))
        q[i] = np.int32(kept << 6)
        pending[begin + i] = 0
    counters[INPUT] += over


@kernel(allocates=False)
def _collect_noisy_input(state, b, n, q, pending, first, noisy, options, counters):
    """The same with noise, added before the sum wraps."""
    for i in range(n):
        x = np.int64(pending[first + i]) << 6
        if noisy[i]:
            x += _noise(state, b, options)
        bits = options[INPUT_BITS]
        y = ((x + (1 << bits)) & ((1 << (bits + 1)) - 1)) - (1 << bits)
        counters[INPUT] += x != y
        q[i] = np.int32(y)
        pending[first + i] = 0


@inlined
def _currents(start, stop, u, q, keep_u, shift, counters):
    """``u <- wrap(D(u) + q)``; called with a literal shift, which the compiler then need not load."""
    over = np.int32(0)
    for i in range(start, stop):
        y = np.int32(_decay(u[i], keep_u[i]) + q[i])
        u[i] = _wrap(y, shift)
        over = np.int32(over + np.int32(u[i] != y))
    counters[U] += over


@inlined
def _currents_wrapped_once(start, stop, u, q, keep_u, counters):
    """``u <- wrap(D(u) + q)`` with one correction by 2^24, then within the emulator's own width."""
    over = np.int32(0)
    for i in range(start, stop):
        y = np.int32(_decay(u[i], keep_u[i]) + q[i])
        corrected = np.int32(y + (np.int32(np.int32(y <= -(1 << 23)) - np.int32(y > (1 << 23))) << 24))
        u[i] = _wrap(corrected, 3)
        over = np.int32(over + np.int32(u[i] != y))
    counters[U] += over


@inlined
def _v_inputs(start, stop, x, u, v, q, bias, joined, wrapped, counters):
    """``x = u + bias + joined``, wrapped at 23 bits and a sign if asked; count compartments with something to do."""
    over, busy = np.int32(0), np.int32(0)
    if wrapped:
        for i in range(start, stop):
            y = np.int32(np.int32(u[i] + bias[i]) + joined[i])
            x[i] = _wrap(y, 8)
            over = np.int32(over + np.int32(x[i] != y))
    else:
        for i in range(start, stop):
            x[i] = np.int32(np.int32(u[i] + bias[i]) + joined[i])
    for i in range(start, stop):
        busy = np.int32(busy + np.int32((u[i] | v[i] | q[i] | bias[i]) != 0))
    counters[V_INPUT] += over
    counters[UPDATES] += busy


@inlined
def _membranes(start, stop, v, x, keep_v, v_min, v_max, counters):
    """``v <- clip(D(v) + x)``."""
    above, below = np.int32(0), np.int32(0)
    for i in range(start, stop):
        y = np.int32(_decay(v[i], keep_v[i]) + x[i])
        above = np.int32(above + np.int32(y > v_max[i]))
        below = np.int32(below + np.int32(y < v_min[i]))
        v[i] = _clip(y, v_min[i], v_max[i])
    counters[V_ABOVE] += above
    counters[V_BELOW] += below


@inlined
def _clear_spiked(start, stop, v, z):
    for i in range(start, stop):
        v[i] = np.int32(v[i] & np.int32(z[i] - 1))  # z - 1 is all ones where there was no spike


@inlined
def _hold_at_zero(start, stop, v, r):
    for i in range(start, stop):
        held = np.int32(r[i] > 0)
        v[i] = np.int32(v[i] & np.int32(held - 1))
        r[i] = np.int32(r[i] - held)


@inlined
def _fire(start, stop, v, z, v_th):
    for i in range(start, stop):
        z[i] = np.int32(v[i] > v_th[i])


@inlined
def _fire_and_reset(start, stop, v, z, v_th):
    for i in range(start, stop):
        spike = np.int32(v[i] > v_th[i])
        z[i] = spike
        v[i] = np.int32(v[i] & np.int32(spike - 1))


@inlined
def _fall_silent(start, stop, r, z, silent):
    for i in range(start, stop):
        r[i] = np.int32(r[i] | np.int32(silent[i] & np.int32(-z[i])))  # r is 0 where z is 1


@inlined
def _lsnn_before(start, stop, v, a, z, x, keep_v, v_th, keep_a, step_a, subtract, counters):
    """Adapt, and let the input bring what the reset takes off v: v_th, or all that is kept of v."""
    over = np.int32(0)
    for i in range(start, stop):
        y = np.int32(_decay(a[i], keep_a[i]) + np.int32(step_a[i] & np.int32(-z[i])))
        a[i] = _clip(y, -_MOST, _MOST)
        over = np.int32(over + np.int32(a[i] != y))
    counters[ADAPTATION] += over
    for i in range(start, stop):
        kept = np.int32(_decay(v[i], keep_v[i]) & np.int32(subtract[i] - 1))
        taken = np.int32(np.int32(v_th[i] & np.int32(-subtract[i])) | kept)
        x[i] = np.int32(x[i] - np.int32(taken & np.int32(-z[i])))


@inlined
def _lsnn_fire(start, stop, v, a, r, z, v_th, has_silent):
    for i in range(start, stop):
        z[i] = np.int32(v[i] > np.int32(v_th[i] + a[i]))
    if has_silent:
        for i in range(start, stop):
            held = np.int32(r[i] > 0)
            z[i] = np.int32(z[i] & np.int32(held - 1))
            r[i] = np.int32(r[i] - held)


@inlined
def _slayer_alif(start, stop, v, a, r, z, v_th, keep_a, step_a, keep_r, counters):
    for i in range(start, stop):
        r[i] = _decay(r[i], keep_r[i])
    for i in range(start, stop):
        a[i] = _decay(a[i], keep_a[i])
    for i in range(start, stop):
        z[i] = np.int32(v[i] >= np.int32(np.int32(v_th[i] + a[i]) + r[i]))
    over = np.int32(0)
    for i in range(start, stop):
        y = np.int32(r[i] + np.int32(np.int32(2 * np.int32(v_th[i] + a[i])) & np.int32(-z[i])))
        r[i] = _clip(y, -_MOST, _MOST)
        over = np.int32(over + np.int32(r[i] != y))
    for i in range(start, stop):
        y = np.int32(a[i] + np.int32(step_a[i] & np.int32(-z[i])))
        a[i] = _clip(y, -_MOST, _MOST)
        over = np.int32(over + np.int32(a[i] != y))
    counters[ADAPTATION] += over


@kernel(allocates=False)
def _bias_fits(bias):
    """Return whether every bias is a 13-bit signed mantissa times 2^0..2^7."""
    for b in range(bias.shape[0]):
        for i in range(bias.shape[1]):
            x = bias[b, i]
            k = 0
            while k < 7 and (x & 1) == 0:
                x >>= 1
                k += 1
            if x < -4096 or x > 4095:
                return False
    return True


@kernel(allocates=False)
def _only_spikes(inputs):
    """Return whether every payload is 0 or 1."""
    for t in range(inputs.shape[0]):
        for b in range(inputs.shape[1]):
            other = np.int32(0)
            for i in range(inputs.shape[2]):
                other |= inputs[t, b, i] & ~1
            if other:
                return False
    return True


@kernel(allocates=False)
def _state_fits(state, n, slots):
    """Return whether every row reads a slot that exists and its spikes are 0 or 1: both are used as indices."""
    for b in range(state.shape[0]):
        other = np.int32(0)
        for i in range(3 + 4 * n, 3 + 5 * n):
            other |= state[b, i] & ~1
        if other or state[b, 0] < 0 or state[b, 0] >= slots:
            return False
    return True


@kernel(allocates=False)
def refusal(state, inputs, bias, new_bias, options):
    """Return the status with which :func:`run` refuses its arguments, ``OK`` if it takes them."""
    if new_bias and not _bias_fits(bias):
        return BAD_BIAS
    if not options[GRADED] and not _only_spikes(inputs):
        return BAD_PAYLOAD
    if not _state_fits(state, options[N], options[SLOTS]):
        return BAD_STATE
    return OK


@kernel(allocates=False)
def run(
    state, inputs, bias, new_bias, options, constants, runs, children, parents, scratch, sources, staged,
    staged_post, pointers, segments, weights, targets, outputs_of, outputs, counters, spikes, recorded,
):  # fmt: skip
    """Advance every row of ``state``, in place, by as many ticks as ``outputs`` has; fill these; return a status.

    Every tick is recorded where ``recorded`` is not empty. The status is ``OVERFLOWED`` as soon as the counters hold a
    value that left its range. On a bad status nothing has changed.
    """
    status = refusal(state, inputs, bias, new_bias, options)
    if status != OK:
        return status
    return advance(
        state, inputs, bias, options, constants, runs, children, parents, scratch, sources, staged, staged_post,
        pointers, segments, weights, targets, outputs_of, outputs, counters, spikes, recorded,
    )  # fmt: skip


@kernel(allocates=False)
def advance(
    state, inputs, bias, options, constants, runs, children, parents, scratch, sources, staged, staged_post,
    pointers, segments, weights, targets, outputs_of, outputs, counters, spikes, recorded,
):  # fmt: skip
    """Do what :func:`run` does, with arguments that :func:`refusal` has taken.

    Each round of sending lists its sources in ``sources``, with their number at the end: what fired on a tick, then the
    inputs, of the next tick if they come ahead. Where there is no more room for a round, it takes the place of the
    first.

    There is no argument that a caller may write as a constant: numba compiles this function anew for each of them.
    """
    n_ticks, record = outputs.shape[0], recorded.size > 0
    n, n_inputs, slots, late_reset = options[N], options[N_INPUTS], options[SLOTS], options[LATE_RESET] != 0
    keep_u, keep_v, v_th, silent = constants[KEEP_U], constants[KEEP_V], constants[V_TH], constants[SILENT]
    v_min, v_max, keep_a, step_a = constants[V_MIN], constants[V_MAX], constants[KEEP_A], constants[STEP_A]
    keep_r, subtract, noisy = constants[KEEP_R], constants[SUBTRACT], constants[NOISY]
    q, x, joined = scratch[0], scratch[1], scratch[2]
    # An input that reaches u on its own tick, as with latency 0, is sent like one of the tick before with latency 1: at
    # the end of that tick, or, before the first tick, by a round of the loop that sends and does nothing else.
    ahead = 1 - options[INPUT_LATENCY]
    for b in range(state.shape[0]):
        u, v, a = state[b, 3 : 3 + n], state[b, 3 + n : 3 + 2 * n], state[b, 3 + 2 * n : 3 + 3 * n]
        r, z, pending = state[b, 3 + 3 * n : 3 + 4 * n], state[b, 3 + 4 * n : 3 + 5 * n], state[b, 3 + 5 * n :]
        bias_row = bias[b] if bias.shape[0] > 1 else bias[0]
        slot = np.int64(state[b, 0]) - ahead
        if slot < 0:
            slot += slots
        for t in range(-ahead, n_ticks):
            sending = sources[(t + ahead) % sources.shape[0]]
            ids, payloads, found = sending[0], sending[1], 0
            if t >= 0:
                first = slot * n
                if options[NOISE_AT] == _CURRENT:
                    _collect_noisy_input(state, b, n, q, pending, first, noisy, options, counters)
                elif options[INPUT_BITS] == 21:
                    _collect_input(n, q, pending, first, 16, counters)
                else:
                    _collect_input(n, q, pending, first, 9, counters)
                for k in range(runs.shape[0]):
                    start, stop, model = np.uint64(runs[k, START]), np.uint64(runs[k, STOP]), runs[k, MODEL]
                    if runs[k, IS_PARENT]:
                        for i in range(start, stop):
                            joined[i] = 0
                        for c in range(runs[k, CHILDREN_FROM], runs[k, CHILDREN_TO]):
                            joined[parents[c]] += v[children[c]]
                    if options[U_WRAP] == WRAP_ONCE:
                        _currents_wrapped_once(start, stop, u, q, keep_u, counters)
                    elif options[U_WRAP] == WRAP_AT_23:
                        _currents(start, stop, u, q, keep_u, 8, counters)
                    else:
                        _currents(start, stop, u, q, keep_u, 3, counters)
                    if options[NOISE_AT] == _MEMBRANE:
                        for i in range(start, stop):
                            if noisy[i]:
                                joined[i] += np.int32(_noise(state, b, options))
                    _v_inputs(start, stop, x, u, v, q, bias_row, joined, options[WRAP_V_INPUT] != 0, counters)
                    if options[NOISE_AT] == _MEMBRANE and not runs[k, IS_PARENT]:
                        for i in range(start, stop):
                            joined[i] = 0
                    has_silent = runs[k, HAS_SILENT] != 0
                    if model == _CUBA:
                        if late_reset:
                            _clear_spiked(start, stop, v, z)
                        _membranes(start, stop, v, x, keep_v, v_min, v_max, counters)
                        if has_silent:
                            _hold_at_zero(start, stop, v, r)
                        if late_reset:
                            _fire(start, stop, v, z, v_th)
                        else:
                            _fire_and_reset(start, stop, v, z, v_th)
                        if has_silent:
                            _fall_silent(start, stop, r, z, silent)
                    elif model == _LSNN:
                        _lsnn_before(start, stop, v, a, z, x, keep_v, v_th, keep_a, step_a, subtract, counters)
                        _membranes(start, stop, v, x, keep_v, v_min, v_max, counters)
                        _lsnn_fire(start, stop, v, a, r, z, v_th, has_silent)
                        if has_silent:
                            _fall_silent(start, stop, r, z, silent)
                    else:
                        _membranes(start, stop, v, x, keep_v, v_min, v_max, counters)
                        _slayer_alif(start, stop, v, a, r, z, v_th, keep_a, step_a, keep_r, counters)
                found = _gather_spikes(n, n_inputs, z, ids, payloads)
                for i in range(outputs_of.shape[0]):
                    outputs[t, b, i] = v[outputs_of[i]]
                if record:
                    for i in range(5 * n):
                        recorded[t, b, i] = state[b, 3 + i]
            if t + ahead < inputs.shape[0]:
                found = _gather_inputs(found, inputs[t + ahead, b], ids, payloads)
            ids[-1] = found
            _send(found, ids, payloads, slot, pending, slots, n, pointers, segments, weights, targets, spikes, counters)
            if options[OWN_DELAYS]:
                _send_with_own_delays(
                    found, ids, payloads, slot, pending, slots, n, pointers, segments, weights, targets, counters
                )
            _apply_exponents(n, slots, slot, pending, staged, staged_post, counters)
            slot = slot + 1 if slot + 1 < slots else 0
        state[b, 0] = slot
    counters[TICKS] += n_ticks * state.shape[0]
    for c in range(UPDATES):
        if counters[c]:
            return OVERFLOWED
    return OK
