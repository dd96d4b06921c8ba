"""The LSNN's numba kernels: whole sequences forward, and hand-written backpropagation through time.

A kernel runs one layer over all ticks of a sequence; :mod:`spikeloop.spiking.engine.sequences` calls it layer by layer.
Inside, arrays are ``(B, T, N)`` with N padded to whole vector panels, so that each thread streams through its own
memory, and spikes are lists: ``spikes[b, ptr[b, t]:ptr[b, t + 1]]`` holds who fired on tick ``t - 1`` (list 0: before
the first).

Every sum has one fixed order, whatever the batch, the split of a sequence into calls, or the number of threads:
``current = bias + inputs in ascending order + recurrent spikes in ascending order``. The gradient of a weight adds up
GROUP sequences at a time, from their last tick to their first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.engine.products import add_row, copy_row, fill, gather, list_lanes, outer, product, scatter
from spikeloop.spiking.engine.vectors import (
    PANEL_VECTORS,
    add_atomically,
    fma,
    get,
    lanes_of,
    load,
    magnitude,
    mask_of,
    select,
    splat,
    store,
)

GROUP = 8  # sequences that go backward together
DENSE_RATE = 0.31  # above it a dense product beats the scatter into the recurrent gradient

# What a forward pass writes beside spikes and readout: nothing; psi (-1 where the membrane is held), and before each
# tick the membrane where reset "zero" needs it, for the backward pass; the membrane after each tick, to look at.
KEEP_NOTHING, KEEP_TAPE, KEEP_MEMBRANE = 0, 1, 2


class LsnnRows(NamedTuple):
    """What each neuron has of its own: the rows of an array (9, N padded), or where each begins in its memory."""

    alpha: Any
    rho: Any
    v_th: Any
    beta: Any
    refractory: Any
    psi_scale: Any  # damping / v_th
    psi_inverse_width: Any
    kappa: Any  # what the readout trace keeps in a tick: in the first column only
    share: Any  # and what it takes of a spike


class LsnnOptions(NamedTuple):
    """What a layer has for all its neurons: integers, in an array of their own in this order."""

    n: int  # neurons
    n_ticks: int  # of an env step
    row: int  # of the packed state, its first
    reset_zero: int
    ahp: int
    refractory: int  # 0 none, 1 the membrane integrates meanwhile, 2 it is held at 0
    surrogate: int  # its code
    latency: int
    count: int  # the readout is a mean over the step
    last: int  # the readout follows
    held: int  # the input is one row per step, not one per tick


# Kernels take both as arrays, which single steps find by their addresses: a tuple handed over from Python would be
# taken apart at each call, at 0.1 us a field. Inside, the names cost nothing.


@kernel(forceinline=True)
def rows_at(width):
    """Return where each of the rows begins."""
    w = width
    return LsnnRows(0, w, 2 * w, 3 * w, 4 * w, 5 * w, 6 * w, 7 * w, 8 * w)


@kernel(forceinline=True)
def options_of(o):
    """Return the integers of a layer by their names."""
    return LsnnOptions(o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7], o[8], o[9], o[10])


# ---- forward


@kernel
def forward_rows(
    b0, b1, keep, x, w_in, bias, w_rec, constants, options, below, below_ptr, state, start, new_state, y_out, psi,
    membrane, spikes, ptr
):  # fmt: skip
    """Run sequences b0 to b1 of one layer over all ticks.

    Args:
        b0: First sequence.
        b1: Behind the last sequence.
        keep: One of the KEEP_ constants.
        x: Input, shape (B, steps where ``held`` else ticks, n_inputs); n_inputs 0 for a layer fed by another.
        w_in: Shape (n_inputs, N padded), pre x post.
        bias: Shape (N padded,).
        w_rec: Shape (N, N padded), pre x post, zero diagonal; (0, N padded) for none.
        constants: The rows of :class:`LsnnRows`, shape (9, N padded).
        options: The integers of :class:`LsnnOptions`.
        below: Spike lists of the layer below, flat; n_inputs > 0 leaves them unread.
        below_ptr: Their limits, shape (B, T + 2).
        state: Packed state, shape (n_rows, B, width).
        start: 1 where the state is cleared before a step, shape (B, L).
        new_state: Written: the layer's rows, and the readout trace if ``last``.
        y_out: Written if ``last``: trace at the end of each step, shape (B, L, N padded).
        psi: Written with KEEP_TAPE: surrogate dz/dv, shape (B, T, N padded).
        membrane: Written as the KEEP_ constants say, shape (B, T, N padded).
        spikes: Written: the layer's spike lists, flat, room for (T + 1) N in each sequence.
        ptr: Written: their limits, shape (B, T + 2).
    """
    lanes = lanes_of(constants)
    width, n_batch, n_row = constants.shape[1], state.shape[1], state.shape[2]
    option = options_of(options)
    # where the rows of LsnnRows begin, alpha at 0: as local integers, with which the loop over neurons is 5 % faster
    rho_at, v_th_at, beta_at, refractory_at = width, 2 * width, 3 * width, 4 * width
    psi_scale_at, psi_inverse_width_at = 5 * width, 6 * width
    n, n_ticks, row, surrogate, latency = option.n, option.n_ticks, option.row, option.surrogate, option.latency
    reset_zero, ahp, refractory = option.reset_zero != 0, option.ahp != 0, option.refractory != 0
    hold = option.refractory == 2
    count, last, held = option.count != 0, option.last != 0, option.held != 0
    n_steps, n_x, n_inputs = start.shape[1], x.shape[1], x.shape[2]
    n_t = n_steps * n_ticks
    dense, recurrent = n_inputs > 0, w_rec.shape[0] > 0
    number = constants.dtype.type
    zero, one, half_pi = splat(number(0)), splat(number(1)), splat(number(np.pi / 2))
    minus_one, free = splat(number(-1)), one > zero
    share = splat(constants[8, 0])
    # rows of the scratch: the state, the current, a block of projected inputs
    v0, a0, z0, r0, y0, i0, proj0 = 0, width, 2 * width, 3 * width, 4 * width, 5 * width, 6 * width
    s = np.empty((6 + GROUP) * width, constants.dtype)
    for b in range(b0, b1):
        fill(s, 0, 5 * width, number(0))
        for k in range(4):
            copy_row(state, ((row + k) * n_batch + b) * n_row, s, k * width, n)
        if last:
            copy_row(state, ((row + 4) * n_batch + b) * n_row, s, y0, n)
        lo = b * (spikes.shape[0] // n_batch)
        hi, room = lo, (b + 1) * (spikes.shape[0] // n_batch)
        for i in range(n):
            if s[z0 + i] > 0:
                spikes[hi] = i
                hi += 1
        ptr[b, 0], ptr[b, 1] = lo, hi
        step, tick = 0, 0
        for t in range(n_t):
            cleared = tick == 0 and start[b, step]
            if cleared:
                fill(s, 0, 5 * width, number(0))
                lo = hi
            current = proj0
            if dense:
                x_row = step if held else t
                if x_row % GROUP == 0 and (tick == 0 or not held):
                    rows = min(GROUP, n_x - x_row)
                    for r in range(rows):
                        copy_row(bias, 0, s, proj0 + r * width, width)
                    product(
                        x, (b * n_x + x_row) * n_inputs, n_inputs, rows, n_inputs,
                        w_in, PANEL_VECTORS * lanes, width, s, proj0, width, width,
                    )  # fmt: skip
                current = proj0 + (x_row % GROUP) * width
            else:
                from_, to = below_ptr[b, t + 1 - latency], below_ptr[b, t + 2 - latency]
                if latency == 1 and cleared:
                    to = from_
                gather(bias, 0, w_in, below, from_, to, s, proj0, width)
            if recurrent and hi > lo:
                gather(s, current, w_rec, spikes, lo, hi, s, i0, width)
                current = i0
            decay_y = splat(number(0 if tick == 0 else 1) if count else constants[7, 0])
            psi0 = (b * n_t + t) * width
            if keep == KEEP_TAPE and reset_zero:
                copy_row(s, v0, membrane, psi0, width)
            lo = hi
            for j in range(0, width, lanes):
                z = load(s, z0 + j)
                v_th = load(constants, v_th_at + j)
                beta = load(constants, beta_at + j)
                a = fma(load(constants, rho_at + j), load(s, a0 + j), z)
                v = load(s, v0 + j)
                if reset_zero:
                    v = fma(load(constants, j), v * (one - z), load(s, current + j))
                else:
                    v = fma(load(constants, j), v, load(s, current + j)) - v_th * z
                if ahp:
                    v = v - beta * a
                    over = v - v_th
                else:
                    over = v - v_th - beta * a
                fired = over > zero
                slope = load(constants, psi_scale_at + j)
                if refractory:
                    r = load(s, r0 + j)
                    free = one > r  # r counts whole ticks
                    fired = fired & free
                    slope = select(free, slope, zero)
                    if hold:
                        v = select(free, v, zero)
                    store(s, r0 + j, select(fired, load(constants, refractory_at + j), select(free, zero, r - one)))
                new_z = select(fired, one, zero)
                store(s, v0 + j, v)
                store(s, a0 + j, a)
                store(s, z0 + j, new_z)
                if last:
                    if latency == 0:
                        z = new_z
                    store(s, y0 + j, fma(decay_y, load(s, y0 + j), share * z))
                if keep == KEEP_TAPE:
                    u = magnitude(over) * load(constants, psi_inverse_width_at + j)
                    if surrogate == 0:
                        u = one - u
                        slope = select(u > zero, slope * u, zero)
                    elif surrogate == 1:
                        u = one + u
                        slope = slope / (u * u)
                    else:
                        u = half_pi * u
                        slope = slope / fma(u, u, one)
                    if hold:
                        slope = select(free, slope, minus_one)
                    store(psi, psi0 + j, slope)
                hi = list_lanes(spikes, hi, room, j, fired)
            ptr[b, t + 2] = hi
            if keep == KEEP_MEMBRANE:
                copy_row(s, v0, membrane, psi0, width)
            tick += 1
            if tick == n_ticks:
                if last:
                    copy_row(s, y0, y_out, (b * n_steps + step) * width, width)
                tick = 0
                step += 1
        for k in range(4):
            copy_row(s, k * width, new_state, ((row + k) * n_batch + b) * n_row, n)
        if last:
            copy_row(s, y0, new_state, ((row + 4) * n_batch + b) * n_row, n)


@kernel(parallel=True)
def forward_threads(
    bounds, keep, x, w_in, bias, w_rec, constants, options, below, below_ptr, state, start, new_state, y_out, psi,
    membrane, spikes, ptr
):  # fmt: skip
    """Run all sequences, shared out among threads by ``bounds``; the other arguments are :func:`forward_rows`'."""
    for c in prange(len(bounds) - 1):
        forward_rows(
            bounds[c], bounds[c + 1], keep, x, w_in, bias, w_rec, constants, options, below, below_ptr, state, start,
            new_state, y_out, psi, membrane, spikes, ptr,
        )  # fmt: skip


@kernel
def add_counts(found, counts):
    """Add ``found`` to ``counts``, which several Python threads may do at once: kernels run without Python's lock."""
    for i in range(counts.shape[0]):
        if found[i] != 0:
            add_atomically(counts, i, found[i])


@kernel
def count_spikes(spikes, ptr, counts):
    """Add the spikes of the lists, but for those before the first tick, to ``counts``, shape (N,)."""
    if ptr.shape[0] == 1 and ptr[0, -1] - ptr[0, 1] < counts.shape[0] // 4:  # too few to collect them first
        for k in range(ptr[0, 1], ptr[0, -1]):
            add_atomically(counts, np.intp(spikes[np.uintp(k)]), 1)
        return
    found = np.zeros(counts.shape[0], np.int64)
    for b in range(ptr.shape[0]):
        for k in range(ptr[b, 1], ptr[b, -1]):
            found[np.intp(spikes[np.uintp(k)])] += 1
    add_counts(found, counts)


@kernel(parallel=True)
def start_threads(ones):
    """Start numba's threads, which also settles its threading layer."""
    for i in prange(len(ones)):
        ones[i] = 1


# ---- backward


@kernel(forceinline=True)
def _within(spikes, lo, hi, first, end):
    """Return the limits of what ``spikes[lo:hi]``, which ascends, names from ``first`` to before ``end``."""
    while lo < hi and np.intp(spikes[np.uintp(lo)]) < first:
        lo += 1
    while lo < hi and np.intp(spikes[np.uintp(hi - 1)]) >= end:
        hi -= 1
    return lo, hi


@kernel(forceinline=True)
def _add_gradients(
    g0, n_rows, t, step, tick, window, current, i0, summed, sum0, s, dense0, x, options, below, below_ptr, start,
    spikes, ptr, grad_w_in, grad_bias, grad_w_rec
):  # fmt: skip
    """Add to the gradients of the weights what one tick of a group of sequences has for them, within a window.

    Args:
        g0: First sequence of the group.
        n_rows: Sequences in the group.
        t: Tick.
        step: Env step it belongs to.
        tick: Its number in that step.
        window: Columns from and to, whole panels, and which part of the rows out of how many.
        current: Holds the gradient of the current, n_rows rows.
        i0: Where they begin.
        summed: Holds its sums over what an input is held for; read where these are complete.
        sum0: Where they begin.
        s: Holds as many rows of zeros, and is left so.
        dense0: Where they begin.
        x: As in the forward pass.
        options: As in the forward pass.
        below: As in the forward pass.
        below_ptr: As in the forward pass.
        start: As in the forward pass.
        spikes: What the forward pass wrote.
        ptr: What the forward pass wrote.
        grad_w_in: Added to.
        grad_bias: Added to.
        grad_w_rec: Added to.
    """
    option = options_of(options)
    n, latency, held = option.n, option.latency, option.held != 0
    width, n_x, n_inputs = grad_bias.shape[0], x.shape[1], x.shape[2]
    dense, recurrent = n_inputs > 0, grad_w_rec.shape[0] > 0
    j0, j1, part, n_parts = window[0], window[1], window[2], window[3]
    if recurrent:
        first, end = n * part // n_parts, n * (part + 1) // n_parts
        n_spikes = 0
        for r in range(n_rows):
            n_spikes += ptr[g0 + r, t + 1] - ptr[g0 + r, t]
        # either way an entry adds up row after row, to the same bits
        as_matrix = n_spikes > DENSE_RATE * n_rows * n
        for r in range(n_rows):
            if not (tick == 0 and start[g0 + r, step]):
                lo, hi = _within(spikes, ptr[g0 + r, t], ptr[g0 + r, t + 1], first, end)
                if as_matrix:
                    for k in range(lo, hi):
                        s[dense0 + r * width + np.intp(spikes[np.uintp(k)])] = 1
                else:
                    scatter(current, i0 + r * width, grad_w_rec, spikes, lo, hi, width, j0, j1)
        if as_matrix:
            outer(
                grad_w_rec, first * width, width, s, dense0 + first, width, end - first,
                current, i0, width, n_rows, j0, j1,
            )  # fmt: skip
            fill(s, dense0, n_rows * width, s.dtype.type(0))
    if tick == 0 or not (dense and held):
        if part == 0:
            for r in range(n_rows):
                add_row(summed, sum0 + r * width + j0, grad_bias, j0, j1 - j0)
        if dense:
            x_row = step if held else t
            first, end = n_inputs * part // n_parts, n_inputs * (part + 1) // n_parts
            outer(
                grad_w_in, first * width, width, x, (g0 * n_x + x_row) * n_inputs + first, n_x * n_inputs, end - first,
                summed, sum0, width, n_rows, j0, j1,
            )  # fmt: skip
    if not dense:
        n_below = grad_w_in.shape[0]
        first, end = n_below * part // n_parts, n_below * (part + 1) // n_parts
        for r in range(n_rows):
            if not (latency == 1 and tick == 0 and start[g0 + r, step]):
                lo, hi = below_ptr[g0 + r, t + 1 - latency], below_ptr[g0 + r, t + 2 - latency]
                lo, hi = _within(below, lo, hi, first, end)
                scatter(current, i0 + r * width, grad_w_in, below, lo, hi, width, j0, j1)


@kernel(forceinline=True)
def _add_tick(current, i0, s, sum0, n_rows, width, j0, j1, first):
    """Add the gradient of the current on one tick to its sum over the ticks of a step, which the first one begins."""
    for r in range(n_rows):
        if first:
            fill(s, sum0 + r * width + j0, j1 - j0, s.dtype.type(0))
        add_row(current, i0 + r * width + j0, s, sum0 + r * width + j0, j1 - j0)


@kernel
def backward_rows(
    b0, b1, window, x, w_in, w_rec, constants, options, below, below_ptr, start, psi, membrane, spikes, ptr, grad_y,
    grad_z, rate_grad, grad_below, currents, grad_w_in, grad_bias, grad_w_rec
):  # fmt: skip
    """Go back through sequences b0 to b1 of one layer, GROUP of them side by side.

    With the adjoints ``g`` of tick t + 1 at hand, tick t adds, for threshold adaptation and subtractive reset,

        gz <- gz + (1 - kappa) gy + gradient from above
        gv <- gv + psi gz                   gradient of the current, too
        ga <- ga - beta psi gz
        gz, gv, ga <- ga - v_th gv + w_rec^T gv, alpha gv, rho ga

    Args:
        b0: First sequence.
        b1: Behind the last sequence.
        window: Where gradients of weights are added to, as for :func:`_add_gradients`.
        x: As in the forward pass.
        w_in: Packed in panels by :func:`pack`; not read without ``grad_below``.
        w_rec: Packed in panels.
        constants: As in the forward pass.
        options: As in the forward pass.
        below: As in the forward pass.
        below_ptr: As in the forward pass.
        start: As in the forward pass.
        psi: What the forward pass wrote.
        membrane: What the forward pass wrote.
        spikes: What the forward pass wrote.
        ptr: What the forward pass wrote.
        grad_y: Gradient of the trace at the end of each step, shape (B, L, N padded).
        grad_z: Gradient of the spikes from the layer above, shape (B, T, N padded); empty for the last layer.
        rate_grad: A gradient that every spike of a neuron gets, shape (N padded,).
        grad_below: Written unless empty: gradient of the spikes of the layer below, shape (B, T, its N padded), or of
            x, shape (B, rows of x, n_inputs padded).
        currents: Unless empty written, instead of gradients of weights, for :func:`_weight_gradients`: the gradient of
            the current, shape (T, B, N padded), flat.
        grad_w_in: Added to, shape of the forward pass' ``w_in``.
        grad_bias: Added to.
        grad_w_rec: Added to; the caller masks the diagonal.
    """
    lanes = lanes_of(constants)
    option = options_of(options)
    n, n_ticks, latency = option.n, option.n_ticks, option.latency
    reset_zero, ahp, hold = option.reset_zero != 0, option.ahp != 0, option.refractory == 2
    count, last, held = option.count != 0, option.last != 0, option.held != 0
    width, n_batch, n_steps, n_x, n_inputs = constants.shape[1], start.shape[0], start.shape[1], x.shape[1], x.shape[2]
    at, n_t = rows_at(width), n_steps * n_ticks
    dense, recurrent, fused = n_inputs > 0, w_rec.shape[0] > 0, len(currents) == 0
    summed = dense and held and n_ticks > 1  # the input is held: one gradient row per step
    from_above, want_below = grad_z.shape[0] > 0, grad_below.shape[0] > 0
    below_width = w_in.shape[0] * w_in.shape[2]
    number = constants.dtype.type
    zero, one, minus_half = splat(number(0)), splat(number(1)), splat(number(-0.5))
    share = splat(get(constants, at.share))
    step_width = PANEL_VECTORS * lanes
    # rows of the scratch, GROUP of each: adjoints of v, a, z, y; gradient of the current, its sum over a step, spikes
    block = GROUP * width
    v0, a0, z0, y0, i0, sum0, dense0 = 0, block, 2 * block, 3 * block, 4 * block, 5 * block, 6 * block
    s = np.empty(7 * block, constants.dtype)
    fill(s, dense0, block, number(0))
    was_reset = np.zeros(width // lanes, np.uint64)  # a bit for each neuron
    current = s if fused else currents
    for g0 in range(b0, b1, GROUP):
        n_rows = min(GROUP, b1 - g0)
        fill(s, 0, 6 * block, number(0))
        if want_below and not dense and latency == 1:
            # what the layer below sends on the last tick arrives after the sequence, where gradients are cut off
            for r in range(n_rows):
                fill(grad_below, ((g0 + r) * n_t + n_t - 1) * below_width, below_width, number(0))
        step, tick = n_steps - 1, n_ticks - 1
        for t in range(n_t - 1, -1, -1):
            # a mean over the step begins anew with its first tick, and otherwise forgets nothing
            decay_y = splat(number(0 if tick == 0 else 1) if count else get(constants, at.kappa))
            if not fused:
                i0 = (t * n_batch + g0) * width
            for r in range(n_rows):
                b = g0 + r
                o = r * width
                lo, hi = ptr[b, t], ptr[b, t + 1]
                if tick == 0 and start[b, step]:
                    hi = lo  # the state was cleared, so that no spike came before
                if reset_zero:
                    # who spiked on the tick before was reset, and through its membrane no gradient passes
                    for k in range(lo, hi):
                        i = np.intp(spikes[np.uintp(k)])
                        was_reset[i // lanes] |= np.uint64(1) << np.uint64(i % lanes)
                row = (b * n_t + t) * width
                step_row = (b * n_steps + step) * width
                for j in range(0, width, lanes):
                    # all that this tick's spike acted on: the next tick, the rate penalty, the trace, the layer above
                    gz = load(s, z0 + o + j) + load(rate_grad, j)
                    gy = one
                    if last:
                        gy = load(s, y0 + o + j)
                        if tick == n_ticks - 1:
                            gy = gy + load(grad_y, step_row + j)
                        store(s, y0 + o + j, decay_y * gy)
                        gy = share * gy
                        if latency == 0:
                            gz = gz + gy  # with latency 1 the trace read the spike of the tick before: see below
                    if from_above:
                        gz = gz + load(grad_z, row + j)
                    slope = load(psi, row + j)
                    gv = load(s, v0 + o + j)
                    if hold:
                        # held at 0 the membrane depends on nothing, which psi says by -1: neither its spike nor its
                        # past gets a gradient; slopes are never negative, so that any bound between would do
                        free = slope > minus_half
                        slope, gv = select(free, slope, zero), select(free, gv, zero)
                    through = gz * slope
                    gv = gv + through
                    beta = load(constants, at.beta + j)
                    if ahp:
                        # beta a enters the membrane itself, so that a gets all of the membrane's gradient; in a
                        # threshold it acts on the spike only
                        through = gv
                    ga = load(s, a0 + o + j) - beta * through
                    # the current enters v with factor 1: its gradient is that of v
                    store(current, i0 + o + j, gv)
                    store(s, a0 + o + j, load(constants, at.rho + j) * ga)
                    # from here on, gz is that of the spike before, which entered this tick's a with factor 1
                    gz = ga
                    if last and latency == 1:
                        gz = gz + gy
                    back = load(constants, at.alpha + j) * gv
                    if reset_zero:
                        # v = alpha v (1 - z) + i: by z it is -alpha v, by v it is alpha (1 - z)
                        gz = gz - load(membrane, row + j) * back
                        back = select(mask_of(was_reset[j // lanes], back), zero, back)
                    else:
                        gz = gz - load(constants, at.v_th + j) * gv
                    store(s, v0 + o + j, back)
                    store(s, z0 + o + j, gz)
                if reset_zero:
                    was_reset[:] = 0
            if recurrent:
                # all sequences of the group at once: each row of weights is loaded once for them
                product(current, i0, width, n_rows, n, w_rec, n * step_width, step_width, s, z0, width, width)
            gradient, from_ = current, i0
            if summed:
                gradient, from_ = s, sum0
                _add_tick(current, i0, s, sum0, n_rows, width, 0, width, tick == n_ticks - 1)
            if fused:
                _add_gradients(
                    g0, n_rows, t, step, tick, window, current, i0, gradient, from_, s, dense0, x, options, below,
                    below_ptr, start, spikes, ptr, grad_w_in, grad_bias, grad_w_rec,
                )  # fmt: skip
            # with latency 1, what acted on tick t was sent on t - 1; an input that is held gets its sum over the step
            if want_below and (t >= latency or dense) and (tick == 0 or not summed):
                n_below = n_x if dense else n_t
                below_t = t - latency if not dense else step if held else t
                o, row = (g0 * n_below + below_t) * below_width, n_below * below_width
                for r in range(n_rows):
                    fill(grad_below, o + r * row, below_width, number(0))
                product(
                    gradient, from_, width, n_rows, n, w_in, n * step_width, step_width, grad_below, o, row, below_width
                )
                if not dense and latency == 1 and tick == 0:
                    for r in range(n_rows):
                        if start[g0 + r, step]:  # where the state was cleared, what was on its way was too
                            fill(grad_below, o + r * row, below_width, number(0))
            if tick == 0:
                for r in range(n_rows):
                    if start[g0 + r, step]:  # nothing before a cleared state acted on what came after
                        for k in range(4):
                            fill(s, k * block + r * width, width, number(0))
                step -= 1
                tick = n_ticks
            tick -= 1


@kernel
def _weight_gradients(
    window, x, options, below, below_ptr, start, spikes, ptr, currents, grad_w_in, grad_bias, grad_w_rec
):  # fmt: skip
    """Add to a window of the gradients of the weights, over all sequences and in the order of :func:`backward_rows`.

    The arguments are its own.
    """
    option = options_of(options)
    n_ticks, held = option.n_ticks, option.held != 0
    n_batch, n_t, width = start.shape[0], start.shape[1] * n_ticks, grad_bias.shape[0]
    summed = x.shape[2] > 0 and held and n_ticks > 1
    sum0, dense0 = 0, GROUP * width
    s = np.zeros(2 * GROUP * width, currents.dtype)
    for g0 in range(0, n_batch, GROUP):
        n_rows = min(GROUP, n_batch - g0)
        for t in range(n_t - 1, -1, -1):
            step, tick = t // n_ticks, t % n_ticks
            i0 = (t * n_batch + g0) * width
            gradient, from_ = currents, i0
            if summed:
                gradient, from_ = s, sum0
                _add_tick(currents, i0, s, sum0, n_rows, width, window[0], window[1], tick == n_ticks - 1)
            _add_gradients(
                g0, n_rows, t, step, tick, window, currents, i0, gradient, from_, s, dense0, x, options, below,
                below_ptr, start, spikes, ptr, grad_w_in, grad_bias, grad_w_rec,
            )  # fmt: skip


@kernel(parallel=True)
def backward_threads(
    bounds, windows, x, w_in, w_rec, constants, options, below, below_ptr, start, psi, membrane, spikes, ptr, grad_y,
    grad_z, rate_grad, grad_below, currents, grad_w_in, grad_bias, grad_w_rec
):  # fmt: skip
    """Go back through all sequences: threads share out the sequences first, and then the entries of the gradients."""
    for c in prange(len(bounds) - 1):
        backward_rows(
            bounds[c], bounds[c + 1], windows[0], x, w_in, w_rec, constants, options, below, below_ptr, start, psi,
            membrane, spikes, ptr, grad_y, grad_z, rate_grad, grad_below, currents, grad_w_in, grad_bias, grad_w_rec,
        )  # fmt: skip
    for c in prange(len(windows)):
        _weight_gradients(
            windows[c], x, options, below, below_ptr, start, spikes, ptr, currents, grad_w_in, grad_bias, grad_w_rec
        )
