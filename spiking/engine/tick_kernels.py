"""The kernel that runs a layer by the ``tick`` of its neurons' class: one source, compiled once for each class.

Inside, arrays are ``(B, T, N)`` with N padded to whole vector panels. ``tick`` is compiled for vectors of neurons
(:mod:`spikeloop.spiking.engine.vectors`), whose operations round as numpy's do. Every sum has one fixed order,
whatever the batch or the split of a sequence into calls: ``current = bias + inputs in ascending order + outputs of the
layer itself in ascending order``, without those that are 0.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.engine.lsnn_kernels import add_counts
from spikeloop.spiking.engine.products import all_finite, copy_row, fill
from spikeloop.spiking.engine.vectors import bits_of, fma, get, lanes_of, load, lowest_bit, select, splat, store
from spikeloop.spiking.neurons import Neurons


class LayerOptions(NamedTuple):
    """Integers of a layer as its kernel reads them; yes and no are 1 and 0."""

    n: int  # neurons
    n_ticks: int  # of an env step
    first_row: int  # of the layer's in the packed state
    n_rows: int
    z: int  # which of its rows is the output
    v: int  # which is the membrane
    latency: int
    count: int  # the readout is a mean over the step
    last: int  # the readout follows
    held: int  # the input is one row per step, not one per tick
    graded: int


@kernel
def add_weighted(values, v0, n, w, width, s, d0):
    """Add ``sum of values[v0 + k] w[k]`` for k below n to a row of ``s``, in the order of k and without the zeros.

    Args:
        values: Holds the factors.
        v0: Where they begin.
        n: How many there are.
        w: Shape (n, width).
        width: Columns, whole vectors.
        s: Holds the row.
        d0: Where it begins.
    """
    lanes = lanes_of(s)
    j = 0
    while j + 4 * lanes <= width:
        c0, c1 = load(s, d0 + j), load(s, d0 + j + lanes)
        c2, c3 = load(s, d0 + j + 2 * lanes), load(s, d0 + j + 3 * lanes)
        for k in range(n):
            value = get(values, v0 + k)
            if value != 0:
                x, o = splat(value), k * width + j
                c0 = fma(x, load(w, o), c0)
                c1 = fma(x, load(w, o + lanes), c1)
                c2 = fma(x, load(w, o + 2 * lanes), c2)
                c3 = fma(x, load(w, o + 3 * lanes), c3)
        store(s, d0 + j, c0)
        store(s, d0 + j + lanes, c1)
        store(s, d0 + j + 2 * lanes, c2)
        store(s, d0 + j + 3 * lanes, c3)
        j += 4 * lanes
    while j < width:
        c0 = load(s, d0 + j)
        for k in range(n):
            value = get(values, v0 + k)
            if value != 0:
                c0 = fma(splat(value), load(w, k * width + j), c0)
        store(s, d0 + j, c0)
        j += lanes


@kernel(forceinline=True)
def spike(u):
    """Return 1 where u > 0, else 0."""
    one = u * 0 + 1
    return select(u > 0, one, one - one)


tick = constants_at = state_at = store_state = None  # the kernel of each class has its own, see layer_kernel


def _layer(
    x, below, w_in, bias, w_rec, rows, flags, kappa_and_share, options, state, start, new_state, y_out, outputs,
    membrane, counts
):  # fmt: skip
    """Run one layer over all ticks of a sequence: the source that :func:`layer_kernel` compiles for a class.

    Args:
        x: Input, shape (B, steps where ``held`` else ticks, n_inputs); n_inputs 0 for a layer fed by another.
        below: Outputs of the layer below, shape (B, T + 1, its N padded): entry 0 before the sequence, t + 1 on tick t.
        w_in: Shape (n_inputs, N padded), pre x post.
        bias: Shape (N padded,).
        w_rec: Shape (N, N padded), pre x post, zero diagonal; (0, N padded) for none.
        rows: Constants that are one for each neuron, shape (at least 1, N padded).
        flags: Constants that are one for all, integers.
        kappa_and_share: What the readout trace keeps in a tick, and the share of the output that it takes.
        options: The layer's :class:`LayerOptions`.
        state: Packed state, shape (n_rows, B, width).
        start: 1 where the state is cleared before a step, shape (B, L).
        new_state: Written: the layer's rows, and the readout trace if ``last``.
        y_out: Written if ``last``: trace at the end of each step, shape (B, L, N padded).
        outputs: Written unless empty, as ``below`` is.
        membrane: Written unless empty: the membrane after each tick, shape (B, T, N padded).
        counts: Spikes of each neuron are added to it, shape (N,).

    Returns:
        Whether the new state is finite.
    """
    lanes = lanes_of(rows)
    n, n_rows, width = options.n, options.n_rows, rows.shape[1]
    n_batch, n_row, n_steps = state.shape[1], state.shape[2], start.shape[1]
    n_t, n_x, n_inputs = n_steps * options.n_ticks, x.shape[1], x.shape[2]
    dense, recurrent = n_inputs > 0, w_rec.shape[0] > 0
    number = rows.dtype.type
    half, share = splat(number(0.5)), splat(number(kappa_and_share[1]))
    # rows of the scratch: the state, the trace, the input with the bias, the whole current
    z0, y0, i0, current = options.z * width, n_rows * width, (n_rows + 1) * width, (n_rows + 2) * width
    s = np.empty((n_rows + 3) * width, rows.dtype)
    found = np.zeros(width, np.int64)
    for b in range(n_batch):
        fill(s, 0, (n_rows + 1) * width, number(0))
        for k in range(n_rows):
            copy_row(state, ((options.first_row + k) * n_batch + b) * n_row, s, k * width, n)
        if options.last:
            copy_row(state, ((options.first_row + n_rows) * n_batch + b) * n_row, s, y0, n)
        if outputs.shape[0] > 0:
            copy_row(s, z0, outputs, b * (n_t + 1) * width, width)
        step, tick_of_step = 0, 0
        for t in range(n_t):
            first = tick_of_step == 0
            cleared = first and start[b, step] != 0
            if cleared:
                fill(s, 0, (n_rows + 1) * width, number(0))
            if dense:
                if first or not options.held:
                    copy_row(bias, 0, s, i0, width)
                    at = step if options.held else t
                    add_weighted(x, (b * n_x + at) * n_inputs, n_inputs, w_in, width, s, i0)
            else:
                copy_row(bias, 0, s, i0, width)
                if not (options.latency and cleared):
                    at = (b * (n_t + 1) + t + 1 - options.latency) * below.shape[2]
                    add_weighted(below, at, w_in.shape[0], w_in, width, s, i0)
            copy_row(s, i0, s, current, width)
            if recurrent:
                add_weighted(s, z0, n, w_rec, width, s, current)
            kappa = splat(number(0 if first else 1) if options.count else number(kappa_and_share[0]))
            for j in range(0, width, lanes):
                z = load(s, z0 + j)
                others = state_at(s, j, width)
                new_z, others = tick(load(s, current + j), z, others, constants_at(rows, flags, j, width), spike)
                store(s, z0 + j, new_z)
                store_state(s, j, width, others)
                bits = bits_of(new_z > half)
                if options.graded:
                    bits &= bits ^ bits_of(z > half)  # above now, and not before
                while bits != np.uint64(0):
                    found[np.uintp(j + lowest_bit(bits))] += 1
                    bits &= bits - np.uint64(1)
                if options.last:
                    if options.latency == 0:
                        z = new_z
                    store(s, y0 + j, kappa * load(s, y0 + j) + share * z)
            if outputs.shape[0] > 0:
                copy_row(s, z0, outputs, (b * (n_t + 1) + t + 1) * width, width)
            if membrane.shape[0] > 0:
                copy_row(s, options.v * width, membrane, (b * n_t + t) * width, width)
            tick_of_step += 1
            if tick_of_step == options.n_ticks:
                if options.last:
                    copy_row(s, y0, y_out, (b * n_steps + step) * width, width)
                tick_of_step = 0
                step += 1
        for k in range(n_rows):
            copy_row(s, k * width, new_state, ((options.first_row + k) * n_batch + b) * n_row, n)
        if options.last:
            copy_row(s, y0, new_state, ((options.first_row + n_rows) * n_batch + b) * n_row, n)
    add_counts(found, counts)
    return all_finite(new_state)


# What a class's constants and state look like in a kernel: its NamedTuple of vectors, and a tuple of them.
_ACCESS = """
def constants_at(rows, flags, j, width):
    return Constants({constants})

def state_at(s, j, width):
    return ({loads},)

def store_state(s, j, width, others):
{stores}
"""


@lru_cache(maxsize=256)
def layer_kernel(neurons: type[Neurons], constants: type, kinds: tuple[str, ...]) -> Callable:
    """Return :func:`_layer` compiled for a class of neurons.

    numba's cache knows functions by their file and name, and looks at neither what they call nor their names' values:
    so the name carries a digest of the file in which the class is written. A class that no file holds is compiled anew
    in each process.

    Args:
        neurons: The class.
        constants: Class of its constants.
        kinds: Of each of its constants, ``"row"``, ``"bool"`` or ``"int"``.
    """
    at = neurons.rows.index("z")
    others = [k for k in range(len(neurons.rows)) if k != at]
    places = [kinds[:k].count("row") if kind == "row" else k - kinds[:k].count("row") for k, kind in enumerate(kinds)]
    patterns = {"row": "load(rows, {} * width + j)", "bool": "flags[{}] != 0", "int": "flags[{}]"}
    stores = [f"    store(s, {row} * width + j, others[{k}])" for k, row in enumerate(others)]
    source = _ACCESS.format(
        constants=", ".join(patterns[kind].format(place) for kind, place in zip(kinds, places, strict=True)),
        loads=", ".join(f"load(s, {row} * width + j)" for row in others),
        stores="\n".join(stores) or "    pass",
    )
    names: dict[str, Any] = {**globals(), "Constants": constants}
    exec(source, names)
    inline = njit(forceinline=True)
    names |= {name: inline(names[name]) for name in ("constants_at", "state_at", "store_state")}
    names["tick"] = inline(neurons.tick)
    digest = _digest(neurons, source + repr(constants._fields))  # type: ignore[attr-defined]
    name = f"layer_{neurons.__name__}_{digest}"
    code = _layer.__code__.replace(co_name=name, co_qualname=name)
    function = FunctionType(code, names, name)
    function.__module__ = __name__
    return kernel(function) if digest else njit(function, nogil=True)


def _digest(neurons: type[Neurons], source: str) -> str:
    """Return a digest of the file that holds a class and of how its kernel reads it; "" if there is no such file."""
    file = getattr(sys.modules.get(neurons.__module__), "__file__", None)
    code = neurons.tick.__code__
    if file is None or not Path(file).is_file() or Path(code.co_filename) != Path(file):
        return ""
    digest = hashlib.sha256(Path(file).read_bytes())
    outside = inspect.getclosurevars(neurons.tick)  # numbers from elsewhere that numba makes constants of
    numbers = sorted((k, v) for k, v in {**outside.globals, **outside.nonlocals}.items() if isinstance(v, (int, float)))
    digest.update(repr((source, neurons.__qualname__, numbers)).encode())
    return digest.hexdigest()[:16]
