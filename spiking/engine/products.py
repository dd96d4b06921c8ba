"""Products and row operations of the kernels: every sum in one fixed order, whatever the batch or number of threads."""

from __future__ import annotations

import numpy as np

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.engine.vectors import (
    COMPRESSES,
    PANEL_VECTORS,
    TILE_ROWS,
    bits_of,
    count_of,
    fma,
    get,
    lanes_of,
    load,
    lowest_bit,
    outer_tile,
    put,
    splat,
    store,
    store_lanes,
    sum_of,
    tile,
)

SPARSE = 0.3  # where less of the left side is not zero, a product row by row of what is not beats register tiles


@kernel(forceinline=True)
def fill(a, a0, n, value):
    """Write one number to n elements, whole vectors."""
    lanes = lanes_of(a)
    filled = splat(value)
    for j in range(0, n, lanes):
        store(a, a0 + j, filled)


@kernel(forceinline=True)
def copy_row(src, s0, dst, d0, n):
    """Copy n elements, n of any size."""
    lanes = lanes_of(src)
    whole = n - n % lanes
    for j in range(0, whole, lanes):
        store(dst, d0 + j, load(src, s0 + j))
    for j in range(whole, n):
        put(dst, d0 + j, get(src, s0 + j))


@kernel(forceinline=True)
def add_row(src, s0, dst, d0, n):
    """Add n elements, whole vectors, to others."""
    for j in range(0, n, lanes_of(src)):
        store(dst, d0 + j, load(dst, d0 + j) + load(src, s0 + j))


@kernel
def product(a, a0, a_row, rows, n, w, w_panel, w_row, out, o0, o_row, width):
    """Add ``a w`` to ``out``: rows x n times n x width, ``w`` at ``panel * w_panel + k * w_row``."""
    step = PANEL_VECTORS * lanes_of(out)
    for p in range(width // step):
        w0, o = p * w_panel, o0 + p * step
        r = 0
        while r + TILE_ROWS <= rows:
            tile(TILE_ROWS, a, a0 + r * a_row, a_row, n, w, w0, w_row, out, o + r * o_row, o_row)
            r += TILE_ROWS
        if r + 4 <= rows:
            tile(4, a, a0 + r * a_row, a_row, n, w, w0, w_row, out, o + r * o_row, o_row)
            r += 4
        if r + 2 <= rows:
            tile(2, a, a0 + r * a_row, a_row, n, w, w0, w_row, out, o + r * o_row, o_row)
            r += 2
        if r < rows:
            tile(1, a, a0 + r * a_row, a_row, n, w, w0, w_row, out, o + r * o_row, o_row)


@kernel
def outer(g, g0, width, x, x0, x_row, n_columns, d, d0, d_row, rows, j0, j1):
    """Add ``x^T d`` to columns j0 to j1, whole panels, of ``g`` of shape (n_columns, width)."""
    step = PANEL_VECTORS * lanes_of(g)
    c = 0
    while c + 4 <= n_columns:
        for j in range(j0, j1, step):
            outer_tile(4, g, g0 + c * width + j, width, x, x0 + c, x_row, d, d0 + j, d_row, rows)
        c += 4
    while c < n_columns:
        for j in range(j0, j1, step):
            outer_tile(1, g, g0 + c * width + j, width, x, x0 + c, x_row, d, d0 + j, d_row, rows)
        c += 1


@kernel(forceinline=True)
def list_lanes(listed, at, room, first, mask):
    """Write ``first + i`` for each lane i that is set to ``listed``, from ``at``; return where the list goes on.

    A branch for each lane that is set would be mispredicted for every other one; ``listed`` has ``room`` elements.
    """
    bits = bits_of(mask)
    if COMPRESSES and at + 16 <= room:
        store_lanes(listed, at, first, mask)
        return at + count_of(bits)
    while bits != np.uint64(0):
        listed[np.uintp(at)] = first + lowest_bit(bits)
        at += 1
        bits &= bits - np.uint64(1)
    return at


@kernel
def list_used(a, a0, n, listed):
    """List which of n elements, whole vectors, are not zero; return how many."""
    zero, count = splat(a.dtype.type(0)), 0
    for j in range(0, n, lanes_of(a)):
        count = list_lanes(listed, count, listed.shape[0], j, load(a, a0 + j) != zero)
    return count


@kernel
def is_sparse(a, a0, a_row, rows, n):
    """Return whether few of rows x n elements are not zero, in rows padded with zeros to whole vectors."""
    zero, count = splat(a.dtype.type(0)), 0
    for j in range(0, rows * a_row, lanes_of(a)):
        count += count_of(bits_of(load(a, a0 + j) != zero))
    return count < SPARSE * rows * n


@kernel
def sparse_product(a, a0, a_row, rows, w, out, o0, o_row, width):
    """Add ``a w`` to ``out``, to the bits of :func:`product`, where most of ``a`` is zero; rows of ``a`` are padded."""
    n, listed = lanes_of(out), np.empty(a_row, np.int32)
    for r in range(rows):
        count, at, o = list_used(a, a0 + r * a_row, a_row, listed), a0 + r * a_row, o0 + r * o_row
        j = 0
        while j + 4 * n <= width:
            c0, c1 = load(out, o + j), load(out, o + j + n)
            c2, c3 = load(out, o + j + 2 * n), load(out, o + j + 3 * n)
            for k in range(count):
                i = np.intp(listed[np.uintp(k)])
                x, row = splat(get(a, at + i)), i * width + j
                c0 = fma(x, load(w, row), c0)
                c1 = fma(x, load(w, row + n), c1)
                c2 = fma(x, load(w, row + 2 * n), c2)
                c3 = fma(x, load(w, row + 3 * n), c3)
            store(out, o + j, c0)
            store(out, o + j + n, c1)
            store(out, o + j + 2 * n, c2)
            store(out, o + j + 3 * n, c3)
            j += 4 * n
        while j < width:
            c0 = load(out, o + j)
            for k in range(count):
                i = np.intp(listed[np.uintp(k)])
                c0 = fma(splat(get(a, at + i)), load(w, i * width + j), c0)
            store(out, o + j, c0)
            j += n


@kernel
def sparse_outer(g, width, x, x0, x_row, d, d0, rows):
    """Add ``x^T d`` to ``g``, to the bits of :func:`outer`, where most of ``x`` is zero; rows of ``x`` are padded."""
    n, listed = lanes_of(g), np.empty(x_row, np.int32)
    for r in range(rows):
        count, at = list_used(x, x0 + r * x_row, x_row, listed), x0 + r * x_row
        j = 0
        while j + 4 * n <= width:
            o = d0 + r * width + j
            d_0, d_1, d_2, d_3 = load(d, o), load(d, o + n), load(d, o + 2 * n), load(d, o + 3 * n)
            for k in range(count):
                i = np.intp(listed[np.uintp(k)])
                value, row = splat(get(x, at + i)), i * width + j
                store(g, row, fma(value, d_0, load(g, row)))
                store(g, row + n, fma(value, d_1, load(g, row + n)))
                store(g, row + 2 * n, fma(value, d_2, load(g, row + 2 * n)))
                store(g, row + 3 * n, fma(value, d_3, load(g, row + 3 * n)))
            j += 4 * n
        while j < width:
            d_0 = load(d, d0 + r * width + j)
            for k in range(count):
                i = np.intp(listed[np.uintp(k)])
                row = i * width + j
                store(g, row, fma(splat(get(x, at + i)), d_0, load(g, row)))
            j += n


@kernel(forceinline=True)
def gather(src, s0, w, spikes, lo, hi, dst, d0, width):
    """Write ``src + sum of the rows of w that spikes[lo:hi] names`` to ``dst``, in the order of the list."""
    n = lanes_of(src)
    j = 0
    while j + 8 * n <= width:
        c0, c1 = load(src, s0 + j), load(src, s0 + j + n)
        c2, c3 = load(src, s0 + j + 2 * n), load(src, s0 + j + 3 * n)
        c4, c5 = load(src, s0 + j + 4 * n), load(src, s0 + j + 5 * n)
        c6, c7 = load(src, s0 + j + 6 * n), load(src, s0 + j + 7 * n)
        for k in range(lo, hi):
            o = np.intp(spikes[np.uintp(k)]) * width + j
            c0 += load(w, o)
            c1 += load(w, o + n)
            c2 += load(w, o + 2 * n)
            c3 += load(w, o + 3 * n)
            c4 += load(w, o + 4 * n)
            c5 += load(w, o + 5 * n)
            c6 += load(w, o + 6 * n)
            c7 += load(w, o + 7 * n)
        store(dst, d0 + j, c0)
        store(dst, d0 + j + n, c1)
        store(dst, d0 + j + 2 * n, c2)
        store(dst, d0 + j + 3 * n, c3)
        store(dst, d0 + j + 4 * n, c4)
        store(dst, d0 + j + 5 * n, c5)
        store(dst, d0 + j + 6 * n, c6)
        store(dst, d0 + j + 7 * n, c7)
        j += 8 * n
    while j + 2 * n <= width:
        c0, c1 = load(src, s0 + j), load(src, s0 + j + n)
        for k in range(lo, hi):
            o = np.intp(spikes[np.uintp(k)]) * width + j
            c0 += load(w, o)
            c1 += load(w, o + n)
        store(dst, d0 + j, c0)
        store(dst, d0 + j + n, c1)
        j += 2 * n
    while j < width:
        c0 = load(src, s0 + j)
        for k in range(lo, hi):
            c0 += load(w, np.intp(spikes[np.uintp(k)]) * width + j)
        store(dst, d0 + j, c0)
        j += n


@kernel(forceinline=True)
def scatter(src, s0, g, spikes, lo, hi, width, j0, j1):
    """Add columns j0 to j1 of the row ``src`` to each row of ``g`` that ``spikes[lo:hi]`` names."""
    n = lanes_of(src)
    j = j0
    while j + 8 * n <= j1:
        c0, c1 = load(src, s0 + j), load(src, s0 + j + n)
        c2, c3 = load(src, s0 + j + 2 * n), load(src, s0 + j + 3 * n)
        c4, c5 = load(src, s0 + j + 4 * n), load(src, s0 + j + 5 * n)
        c6, c7 = load(src, s0 + j + 6 * n), load(src, s0 + j + 7 * n)
        for k in range(lo, hi):
            o = np.intp(spikes[np.uintp(k)]) * width + j
            store(g, o, load(g, o) + c0)
            store(g, o + n, load(g, o + n) + c1)
            store(g, o + 2 * n, load(g, o + 2 * n) + c2)
            store(g, o + 3 * n, load(g, o + 3 * n) + c3)
            store(g, o + 4 * n, load(g, o + 4 * n) + c4)
            store(g, o + 5 * n, load(g, o + 5 * n) + c5)
            store(g, o + 6 * n, load(g, o + 6 * n) + c6)
            store(g, o + 7 * n, load(g, o + 7 * n) + c7)
        j += 8 * n
    while j + 4 * n <= j1:
        c0, c1 = load(src, s0 + j), load(src, s0 + j + n)
        c2, c3 = load(src, s0 + j + 2 * n), load(src, s0 + j + 3 * n)
        for k in range(lo, hi):
            o = np.intp(spikes[np.uintp(k)]) * width + j
            store(g, o, load(g, o) + c0)
            store(g, o + n, load(g, o + n) + c1)
            store(g, o + 2 * n, load(g, o + 2 * n) + c2)
            store(g, o + 3 * n, load(g, o + 3 * n) + c3)
        j += 4 * n
    while j < j1:
        c0 = load(src, s0 + j)
        for k in range(lo, hi):
            o = np.intp(spikes[np.uintp(k)]) * width + j
            store(g, o, load(g, o) + c0)
        j += n


@kernel
def pack(w, n, width, packed):
    """Copy ``w`` (pre, post; rows of ``width``) transposed into panels: ``packed[panel, post, pre in panel]``."""
    step = PANEL_VECTORS * lanes_of(w)
    n_post = packed.shape[1]
    for p in range(packed.shape[0]):
        for c in range(step):
            pre = p * step + c
            if pre < n:
                for i in range(n_post):
                    packed[p, i, c] = w[pre, i]
            else:
                for i in range(n_post):
                    packed[p, i, c] = 0


@kernel
def has_diagonal(w):
    """Return whether a square matrix has a non-zero entry on its diagonal."""
    for i in range(w.shape[0]):  # noqa: SIM110 - numba compiles loops, not generators
        if w[i, i] != 0:
            return True
    return False


@kernel
def linear_rows(x, w, bias, out):
    """Write ``x w^T + bias`` to ``out``, shape (rows, n_out): the order of each sum depends on n alone.

    Args:
        x: Shape (rows, n or more); further columns are not read.
        w: Shape (n_out, n).
        bias: Shape (n_out,).
        out: Written.
    """
    lanes = lanes_of(w)
    n = w.shape[1]
    whole = n - n % lanes
    for r in range(x.shape[0]):
        for o in range(w.shape[0]):
            partial = splat(w.dtype.type(0))
            for k in range(0, whole, lanes):
                partial = fma(load(x, r * x.shape[1] + k), load(w, o * n + k), partial)
            total = sum_of(partial)
            for k in range(whole, n):
                total += x[r, k] * w[o, k]
            out[r, o] = total + bias[o]


@kernel
def all_finite(a):
    """Return whether a contiguous array holds neither NaN nor infinity: 0 times either is NaN."""
    lanes, n = lanes_of(a), a.size
    whole = n - n % lanes
    zero = splat(a.dtype.type(0))
    total = zero
    for j in range(0, whole, lanes):
        total = fma(load(a, j), zero, total)
    rest = sum_of(total)
    for j in range(whole, n):
        rest += get(a, j) * a.dtype.type(0)
    return rest == 0
