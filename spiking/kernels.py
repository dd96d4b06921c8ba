"""The LSNN's numba kernels: whole sequences forward, hand-written backpropagation through time, row-wise products.

A kernel runs one layer over all ticks of a sequence; :mod:`spikeloop.spiking.engine` calls it layer by layer. Inside,
arrays are ``(B, T, N)`` with N padded to whole vector panels, so that each thread streams through its own memory, and
spikes are lists: ``spikes[b, ptr[b, t]:ptr[b, t + 1]]`` holds who fired on tick ``t - 1`` (list 0: before the first).

Every sum has one fixed order, whatever the batch, the split of a sequence into calls, or the number of threads:
``current = bias + inputs in ascending order + recurrent spikes in ascending order``. The gradient of a weight adds up
GROUP sequences at a time, from their last tick to their first.

The vector type below is a thin layer over LLVM's: an array is addressed by a flat element offset, and LLVM turns the
operations into what the CPU has. Written as scalar loops the same kernels do not vectorise, because LLVM cannot prove
that a dozen arrays do not overlap.
"""

from __future__ import annotations

import operator
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import carray, prange, types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from spikeloop.spiking.compiling import kernel

_HAS_AVX512 = bool(llvm.get_host_cpu_features().get("avx512f", False))
# A register tile is TILE_ROWS rows of PANEL_VECTORS 64-byte vectors: what fits in 32 wide or in 16 narrower registers.
TILE_ROWS = 8 if _HAS_AVX512 else 4
PANEL_VECTORS = 2 if _HAS_AVX512 else 1
GROUP = 8  # sequences that go backward together
DENSE_RATE = 0.31  # above it a dense product beats the scatter into the recurrent gradient

# What a forward pass writes beside spikes and readout: nothing; psi (-1 where the membrane is held), and before each
# tick the membrane where reset "zero" needs it, for the backward pass; the membrane after each tick, to look at.
KEEP_NOTHING, KEEP_TAPE, KEEP_MEMBRANE = 0, 1, 2

CONSTANTS = ("alpha", "rho", "v_th", "beta", "refractory", "psi_scale", "psi_inverse_width", "kappa")
# refractory: 0 none, 1 the membrane integrates meanwhile, 2 it is held at 0
OPTIONS = ("n", "n_ticks", "row", "reset_zero", "ahp", "refractory", "surrogate", "latency", "count", "last", "held")


def panel(dtype: Any) -> int:
    """Return the multiple to which rows of neurons are padded."""
    return PANEL_VECTORS * 64 // np.dtype(dtype).itemsize


# ---- vectors of 64 bytes


class _Vector(types.Type):
    def __init__(self, element: types.Float):
        self.element = element
        self.lanes = 512 // element.bitwidth
        super().__init__(name=f"Vector({element})")


class _Mask(types.Type):
    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__(name=f"Mask({lanes})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: _Vector):
        super().__init__(dmm, fe_type, _llvm_vector(fe_type.element))


@register_model(_Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: _Mask):
        super().__init__(dmm, fe_type, ir.VectorType(ir.IntType(1), fe_type.lanes))


def _llvm_vector(element: types.Float) -> ir.VectorType:
    scalar = ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(scalar, 512 // element.bitwidth)


def _register_operator(op: Any, emit: Any, compare: bool = False) -> None:
    @infer_global(op)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and args[0] == args[1] and isinstance(args[0], _Vector):
                return signature(_Mask(args[0].lanes) if compare else args[0], *args)
            if len(args) == 2 and args[0] == args[1] and isinstance(args[0], _Mask) and op is operator.and_:
                return signature(args[0], *args)
            return None

    @lower_builtin(op, _Vector, _Vector)
    @lower_builtin(op, _Mask, _Mask)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, *args)


_register_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_register_operator(operator.iadd, lambda builder, a, b: builder.fadd(a, b))
_register_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_register_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_register_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
_register_operator(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), compare=True)
_register_operator(operator.and_, lambda builder, a, b: builder.and_(a, b))


def _pointer(context: Any, builder: Any, array_type: types.Array, array: Any, offset: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def _load_vector(context: Any, builder: Any, array_type: types.Array, array: Any, offset: Any) -> Any:
    vector = _llvm_vector(array_type.dtype)
    pointer = builder.bitcast(_pointer(context, builder, array_type, array, offset), vector.as_pointer())
    return builder.load(pointer, align=array_type.dtype.bitwidth // 8)


def _store_vector(context: Any, builder: Any, array_type: types.Array, array: Any, offset: Any, value: Any) -> None:
    vector = _llvm_vector(array_type.dtype)
    pointer = builder.bitcast(_pointer(context, builder, array_type, array, offset), vector.as_pointer())
    builder.store(value, pointer, align=array_type.dtype.bitwidth // 8)


def _broadcast(builder: Any, vector: ir.VectorType, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _call_intrinsic(builder: Any, name: str, *args: Any) -> Any:
    vector = args[0].type
    bits = 32 if isinstance(vector.element, ir.FloatType) else 64
    function_type = ir.FunctionType(vector, [vector] * len(args))
    name = f"llvm.{name}.v{vector.count}f{bits}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _emit_fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call_intrinsic(builder, "fma", a, b, c)


@intrinsic
def _lanes(typingctx: Any, array: Any) -> Any:
    """Return the number of elements of the array that one vector holds."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), 512 // sig.args[0].dtype.bitwidth)

    return types.intp(array), codegen


@intrinsic
def _load(typingctx: Any, array: Any, offset: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load_vector(context, builder, sig.args[0], *args)

    return _Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def _store(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store_vector(context, builder, sig.args[0], *args)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def _get(typingctx: Any, array: Any, offset: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, sig.args[0], *args))

    return array.dtype(array, types.intp), codegen


@intrinsic
def _set(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, sig.args[0], *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), codegen


@intrinsic
def _add_atomically(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.atomic_rmw("add", _pointer(context, builder, sig.args[0], *args[:2]), args[2], "monotonic")
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), codegen


@intrinsic
def _splat(typingctx: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _broadcast(builder, _llvm_vector(sig.args[0]), args[0])

    return _Vector(value)(value), codegen


@intrinsic
def _fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``, rounded once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _emit_fma(builder, *args)

    return a(a, b, c), codegen


@intrinsic
def _where(typingctx: Any, mask: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(*args)

    return a(mask, a, b), codegen


@intrinsic
def _abs(typingctx: Any, a: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call_intrinsic(builder, "fabs", *args)

    return a(a), codegen


@intrinsic
def _bits(typingctx: Any, mask: Any) -> Any:
    """Return the mask as an integer, lane i in bit i."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.IntType(sig.args[0].lanes)), ir.IntType(64))

    return types.uint64(mask), codegen


@intrinsic
def _lowest_bit(typingctx: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(types.uint64), codegen


@intrinsic
def _sum(typingctx: Any, a: Any) -> Any:
    """Return the sum of a vector's elements: halves onto halves."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value, n = args[0], sig.args[0].lanes
        while n > 1:
            n //= 2
            halves = [
                builder.shuffle_vector(
                    value, value, ir.Constant(ir.VectorType(ir.IntType(32), n), list(range(start, start + n)))
                )
                for start in (0, n)
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return a.element(a), codegen


@intrinsic(prefer_literal=True)
def _tile(
    typingctx: Any,
    rows: Any,
    a: Any,
    a0: Any,
    a_row: Any,
    n: Any,
    w: Any,
    w0: Any,
    w_row: Any,
    out: Any,
    o0: Any,
    o_row: Any,
) -> Any:
    """Add a product to a register tile: ``out[o0 + r o_row + j] += sum_k a[a0 + r a_row + k] w[w0 + k w_row + j]``.

    r runs over the (literal) rows, j over one panel; the sum over k is sequential, one fused multiply-add each.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, a, a0, a_row, n, w, w0, w_row, out, o0, o_row = args
        a_type, w_type, out_type = sig.args[1], sig.args[5], sig.args[8]
        vector = _llvm_vector(out_type.dtype)
        intp = ir.IntType(64)
        offsets = {}
        sums = {}
        for r in range(sig.args[0].literal_value):
            row = builder.add(o0, builder.mul(o_row, ir.Constant(intp, r)))
            for p in range(PANEL_VECTORS):
                offsets[r, p] = builder.add(row, ir.Constant(intp, p * vector.count))
                start = _load_vector(context, builder, out_type, out, offsets[r, p])
                sums[r, p] = cgutils.alloca_once_value(builder, start)
        with cgutils.for_range(builder, n, intp=intp) as loop:
            k = loop.index
            w_k = builder.add(w0, builder.mul(k, w_row))
            panels = [
                _load_vector(context, builder, w_type, w, builder.add(w_k, ir.Constant(intp, p * vector.count)))
                for p in range(PANEL_VECTORS)
            ]
            for r in range(sig.args[0].literal_value):
                at = builder.add(builder.add(a0, k), builder.mul(a_row, ir.Constant(intp, r)))
                x = _broadcast(builder, vector, builder.load(_pointer(context, builder, a_type, a, at)))
                for p in range(PANEL_VECTORS):
                    builder.store(_emit_fma(builder, x, panels[p], builder.load(sums[r, p])), sums[r, p])
        for key, pointer in sums.items():
            _store_vector(context, builder, out_type, out, offsets[key], builder.load(pointer))
        return context.get_dummy_value()

    i = types.intp
    return types.void(rows, a, i, i, i, w, i, i, out, i, i), codegen


@intrinsic(prefer_literal=True)
def _outer_tile(
    typingctx: Any,
    columns: Any,
    g: Any,
    g0: Any,
    g_row: Any,
    x: Any,
    x0: Any,
    x_row: Any,
    d: Any,
    d0: Any,
    d_row: Any,
    n: Any,
) -> Any:
    """Add outer products: ``g[g0 + c g_row + j] += sum_r x[x0 + r x_row + c] d[d0 + r d_row + j]``.

    c runs over the (literal) columns of x, j over one panel, r over n rows.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, g, g0, g_row, x, x0, x_row, d, d0, d_row, n = args
        g_type, x_type, d_type = sig.args[1], sig.args[4], sig.args[7]
        vector = _llvm_vector(g_type.dtype)
        intp = ir.IntType(64)
        offsets = {}
        sums = {}
        for c in range(sig.args[0].literal_value):
            row = builder.add(g0, builder.mul(g_row, ir.Constant(intp, c)))
            for p in range(PANEL_VECTORS):
                offsets[c, p] = builder.add(row, ir.Constant(intp, p * vector.count))
                start = _load_vector(context, builder, g_type, g, offsets[c, p])
                sums[c, p] = cgutils.alloca_once_value(builder, start)
        with cgutils.for_range(builder, n, intp=intp) as loop:
            x_r = builder.add(x0, builder.mul(loop.index, x_row))
            d_r = builder.add(d0, builder.mul(loop.index, d_row))
            panels = [
                _load_vector(context, builder, d_type, d, builder.add(d_r, ir.Constant(intp, p * vector.count)))
                for p in range(PANEL_VECTORS)
            ]
            for c in range(sig.args[0].literal_value):
                at = builder.add(x_r, ir.Constant(intp, c))
                value = _broadcast(builder, vector, builder.load(_pointer(context, builder, x_type, x, at)))
                for p in range(PANEL_VECTORS):
                    builder.store(_emit_fma(builder, value, panels[p], builder.load(sums[c, p])), sums[c, p])
        for key, pointer in sums.items():
            _store_vector(context, builder, g_type, g, offsets[key], builder.load(pointer))
        return context.get_dummy_value()

    i = types.intp
    return types.void(columns, g, i, i, x, i, i, d, i, i, i), codegen


# ---- products and row operations on flat offsets


@kernel
def _fill(a, a0, n, value):
    lanes = _lanes(a)
    filled = _splat(value)
    for j in range(0, n, lanes):
        _store(a, a0 + j, filled)


@kernel
def _copy(src, s0, dst, d0, n):
    """Copy n elements, n of any size."""
    lanes = _lanes(src)
    whole = n - n % lanes
    for j in range(0, whole, lanes):
        _store(dst, d0 + j, _load(src, s0 + j))
    for j in range(whole, n):
        _set(dst, d0 + j, _get(src, s0 + j))


@kernel
def _add(src, s0, dst, d0, n):
    for j in range(0, n, _lanes(src)):
        _store(dst, d0 + j, _load(dst, d0 + j) + _load(src, s0 + j))


@kernel
def _product(a, a0, a_row, rows, n, w, w_panel, w_row, out, o0, o_row, width):
    """Add ``a w`` to ``out``: rows x n times n x width, ``w`` at ``panel * w_panel + k * w_row``."""
    step = PANEL_VECTORS * _lanes(out)
    for p in range(width // step):
        w0, o = p * w_panel, o0 + p * step
        r = 0
        while r + TILE_ROWS <= rows:
            _tile(TILE_ROWS, a, a0 + r * a_row, a_row, n, w, w0, w_row, out, o + r * o_row, o_row)
            r += TILE_ROWS
        if r + 4 <= rows:
            _tile(4, a, a0 + r * a_row, a_row, n, w, w0, w_row, out, o + r * o_row, o_row)
            r += 4
        if r + 2 <= rows:
            _tile(2, a, a0 + r * a_row, a_row, n, w, w0, w_row, out, o + r * o_row, o_row)
            r += 2
        if r < rows:
            _tile(1, a, a0 + r * a_row, a_row, n, w, w0, w_row, out, o + r * o_row, o_row)


@kernel
def _outer(g, g0, width, x, x0, x_row, n_columns, d, d0, d_row, rows, j0, j1):
    """Add ``x^T d`` to columns j0 to j1, whole panels, of ``g`` of shape (n_columns, width)."""
    step = PANEL_VECTORS * _lanes(g)
    c = 0
    while c + 4 <= n_columns:
        for j in range(j0, j1, step):
            _outer_tile(4, g, g0 + c * width + j, width, x, x0 + c, x_row, d, d0 + j, d_row, rows)
        c += 4
    while c < n_columns:
        for j in range(j0, j1, step):
            _outer_tile(1, g, g0 + c * width + j, width, x, x0 + c, x_row, d, d0 + j, d_row, rows)
        c += 1


@kernel
def _gather(src, s0, w, spikes, lo, hi, dst, d0, width):
    """Write ``src + sum of the rows of w that spikes[lo:hi] names`` to ``dst``, in the order of the list."""
    n = _lanes(src)
    j = 0
    while j + 8 * n <= width:
        c0, c1 = _load(src, s0 + j), _load(src, s0 + j + n)
        c2, c3 = _load(src, s0 + j + 2 * n), _load(src, s0 + j + 3 * n)
        c4, c5 = _load(src, s0 + j + 4 * n), _load(src, s0 + j + 5 * n)
        c6, c7 = _load(src, s0 + j + 6 * n), _load(src, s0 + j + 7 * n)
        for k in range(lo, hi):
            o = np.intp(spikes[np.uintp(k)]) * width + j
            c0 += _load(w, o)
            c1 += _load(w, o + n)
            c2 += _load(w, o + 2 * n)
            c3 += _load(w, o + 3 * n)
            c4 += _load(w, o + 4 * n)
            c5 += _load(w, o + 5 * n)
            c6 += _load(w, o + 6 * n)
            c7 += _load(w, o + 7 * n)
        _store(dst, d0 + j, c0)
        _store(dst, d0 + j + n, c1)
        _store(dst, d0 + j + 2 * n, c2)
        _store(dst, d0 + j + 3 * n, c3)
        _store(dst, d0 + j + 4 * n, c4)
        _store(dst, d0 + j + 5 * n, c5)
        _store(dst, d0 + j + 6 * n, c6)
        _store(dst, d0 + j + 7 * n, c7)
        j += 8 * n
    while j + 2 * n <= width:
        c0, c1 = _load(src, s0 + j), _load(src, s0 + j + n)
        for k in range(lo, hi):
            o = np.intp(spikes[np.uintp(k)]) * width + j
            c0 += _load(w, o)
            c1 += _load(w, o + n)
        _store(dst, d0 + j, c0)
        _store(dst, d0 + j + n, c1)
        j += 2 * n
    while j < width:
        c0 = _load(src, s0 + j)
        for k in range(lo, hi):
            c0 += _load(w, np.intp(spikes[np.uintp(k)]) * width + j)
        _store(dst, d0 + j, c0)
        j += n


@kernel
def _scatter(src, s0, g, spikes, lo, hi, width, j0, j1):
    """Add columns j0 to j1 of the row ``src`` to each row of ``g`` that ``spikes[lo:hi]`` names."""
    n = _lanes(src)
    j = j0
    while j + 8 * n <= j1:
        c0, c1 = _load(src, s0 + j), _load(src, s0 + j + n)
        c2, c3 = _load(src, s0 + j + 2 * n), _load(src, s0 + j + 3 * n)
        c4, c5 = _load(src, s0 + j + 4 * n), _load(src, s0 + j + 5 * n)
        c6, c7 = _load(src, s0 + j + 6 * n), _load(src, s0 + j + 7 * n)
        for k in range(lo, hi):
            o = np.intp(spikes[np.uintp(k)]) * width + j
            _store(g, o, _load(g, o) + c0)
            _store(g, o + n, _load(g, o + n) + c1)
            _store(g, o + 2 * n, _load(g, o + 2 * n) + c2)
            _store(g, o + 3 * n, _load(g, o + 3 * n) + c3)
            _store(g, o + 4 * n, _load(g, o + 4 * n) + c4)
            _store(g, o + 5 * n, _load(g, o + 5 * n) + c5)
            _store(g, o + 6 * n, _load(g, o + 6 * n) + c6)
            _store(g, o + 7 * n, _load(g, o + 7 * n) + c7)
        j += 8 * n
    while j + 4 * n <= j1:
        c0, c1 = _load(src, s0 + j), _load(src, s0 + j + n)
        c2, c3 = _load(src, s0 + j + 2 * n), _load(src, s0 + j + 3 * n)
        for k in range(lo, hi):
            o = np.intp(spikes[np.uintp(k)]) * width + j
            _store(g, o, _load(g, o) + c0)
            _store(g, o + n, _load(g, o + n) + c1)
            _store(g, o + 2 * n, _load(g, o + 2 * n) + c2)
            _store(g, o + 3 * n, _load(g, o + 3 * n) + c3)
        j += 4 * n
    while j < j1:
        c0 = _load(src, s0 + j)
        for k in range(lo, hi):
            o = np.intp(spikes[np.uintp(k)]) * width + j
            _store(g, o, _load(g, o) + c0)
        j += n


@kernel
def _pack(w, n, width, packed):
    """Copy ``w`` (pre, post; rows of ``width``) transposed into panels: ``packed[panel, post, pre in panel]``."""
    step = PANEL_VECTORS * _lanes(w)
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


# ---- forward


@kernel
def _forward_rows(
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
        constants: The rows named in CONSTANTS, shape (8, N padded).
        options: The integers named in OPTIONS.
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
    lanes = _lanes(constants)
    n, n_ticks, row, surrogate, latency = options[0], options[1], options[2], options[6], options[7]
    reset_zero, ahp, refractory = options[3] != 0, options[4] != 0, options[5] != 0
    hold = options[5] == 2
    count, last, held = options[8] != 0, options[9] != 0, options[10] != 0
    width, n_batch, n_row = constants.shape[1], state.shape[1], state.shape[2]
    n_steps, n_x, n_inputs = start.shape[1], x.shape[1], x.shape[2]
    n_t = n_steps * n_ticks
    dense, recurrent = n_inputs > 0, w_rec.shape[0] > 0
    number = constants.dtype.type
    zero, one, half_pi = _splat(number(0)), _splat(number(1)), _splat(number(np.pi / 2))
    minus_one, free = _splat(number(-1)), one > zero
    fill = _splat(constants[7, 1])
    # rows of the scratch: the state, the current, a block of projected inputs
    v0, a0, z0, r0, y0, i0, proj0 = 0, width, 2 * width, 3 * width, 4 * width, 5 * width, 6 * width
    s = np.empty((6 + GROUP) * width, constants.dtype)
    for b in range(b0, b1):
        _fill(s, 0, 5 * width, number(0))
        for k in range(4):
            _copy(state, ((row + k) * n_batch + b) * n_row, s, k * width, n)
        if last:
            _copy(state, ((row + 4) * n_batch + b) * n_row, s, y0, n)
        lo = b * (spikes.shape[0] // n_batch)
        hi = lo
        for i in range(n):
            if s[z0 + i] > 0:
                spikes[hi] = i
                hi += 1
        ptr[b, 0], ptr[b, 1] = lo, hi
        step, tick = 0, 0
        for t in range(n_t):
            cleared = tick == 0 and start[b, step]
            if cleared:
                _fill(s, 0, 5 * width, number(0))
                lo = hi
            current = proj0
            if dense:
                x_row = step if held else t
                if x_row % GROUP == 0 and (tick == 0 or not held):
                    rows = min(GROUP, n_x - x_row)
                    for r in range(rows):
                        _copy(bias, 0, s, proj0 + r * width, width)
                    _product(
                        x, (b * n_x + x_row) * n_inputs, n_inputs, rows, n_inputs,
                        w_in, PANEL_VECTORS * lanes, width, s, proj0, width, width,
                    )  # fmt: skip
                current = proj0 + (x_row % GROUP) * width
            else:
                from_, to = below_ptr[b, t + 1 - latency], below_ptr[b, t + 2 - latency]
                if latency == 1 and cleared:
                    to = from_
                _gather(bias, 0, w_in, below, from_, to, s, proj0, width)
            if recurrent and hi > lo:
                _gather(s, current, w_rec, spikes, lo, hi, s, i0, width)
                current = i0
            decay_y = _splat(number(0 if tick == 0 else 1) if count else constants[7, 0])
            psi0 = (b * n_t + t) * width
            if keep == KEEP_TAPE and reset_zero:
                _copy(s, v0, membrane, psi0, width)
            lo = hi
            for j in range(0, width, lanes):
                z = _load(s, z0 + j)
                v_th = _load(constants, 2 * width + j)
                beta = _load(constants, 3 * width + j)
                a = _fma(_load(constants, width + j), _load(s, a0 + j), z)
                v = _load(s, v0 + j)
                if reset_zero:
                    v = _fma(_load(constants, j), v * (one - z), _load(s, current + j))
                else:
                    v = _fma(_load(constants, j), v, _load(s, current + j)) - v_th * z
                if ahp:
                    v = v - beta * a
                    over = v - v_th
                else:
                    over = v - v_th - beta * a
                fired = over > zero
                slope = _load(constants, 5 * width + j)
                if refractory:
                    r = _load(s, r0 + j)
                    free = one > r  # r counts whole ticks
                    fired = fired & free
                    slope = _where(free, slope, zero)
                    if hold:
                        v = _where(free, v, zero)
                    _store(s, r0 + j, _where(fired, _load(constants, 4 * width + j), _where(free, zero, r - one)))
                new_z = _where(fired, one, zero)
                _store(s, v0 + j, v)
                _store(s, a0 + j, a)
                _store(s, z0 + j, new_z)
                if last:
                    if latency == 0:
                        z = new_z
                    _store(s, y0 + j, _fma(decay_y, _load(s, y0 + j), fill * z))
                if keep == KEEP_TAPE:
                    u = _abs(over) * _load(constants, 6 * width + j)
                    if surrogate == 0:
                        u = one - u
                        slope = _where(u > zero, slope * u, zero)
                    elif surrogate == 1:
                        u = one + u
                        slope = slope / (u * u)
                    else:
                        u = half_pi * u
                        slope = slope / _fma(u, u, one)
                    if hold:
                        slope = _where(free, slope, minus_one)
                    _store(psi, psi0 + j, slope)
                bits = _bits(fired)
                while bits != np.uint64(0):
                    i = j + _lowest_bit(bits)
                    spikes[np.uintp(hi)] = i
                    hi += 1
                    bits &= bits - np.uint64(1)
            ptr[b, t + 2] = hi
            if keep == KEEP_MEMBRANE:
                _copy(s, v0, membrane, psi0, width)
            tick += 1
            if tick == n_ticks:
                if last:
                    _copy(s, y0, y_out, (b * n_steps + step) * width, width)
                tick = 0
                step += 1
        for k in range(4):
            _copy(s, k * width, new_state, ((row + k) * n_batch + b) * n_row, n)
        if last:
            _copy(s, y0, new_state, ((row + 4) * n_batch + b) * n_row, n)


@kernel(parallel=True)
def _forward_threads(
    bounds, keep, x, w_in, bias, w_rec, constants, options, below, below_ptr, state, start, new_state, y_out, psi,
    membrane, spikes, ptr
):  # fmt: skip
    for c in prange(len(bounds) - 1):
        _forward_rows(
            bounds[c], bounds[c + 1], keep, x, w_in, bias, w_rec, constants, options, below, below_ptr, state, start,
            new_state, y_out, psi, membrane, spikes, ptr,
        )  # fmt: skip


@kernel
def add_counts(found, counts):
    """Add ``found`` to ``counts``, which several Python threads may do at once: kernels run without Python's lock."""
    for i in range(counts.shape[0]):
        if found[i] != 0:
            _add_atomically(counts, i, found[i])


@kernel
def count_spikes(spikes, ptr, counts):
    """Add the spikes of the lists, but for those before the first tick, to ``counts``, shape (N,)."""
    if ptr.shape[0] == 1 and ptr[0, -1] - ptr[0, 1] < counts.shape[0] // 4:  # too few to collect them first
        for k in range(ptr[0, 1], ptr[0, -1]):
            _add_atomically(counts, np.intp(spikes[np.uintp(k)]), 1)
        return
    found = np.zeros(counts.shape[0], np.int64)
    for b in range(ptr.shape[0]):
        for k in range(ptr[b, 1], ptr[b, -1]):
            found[np.intp(spikes[np.uintp(k)])] += 1
    add_counts(found, counts)


@kernel
def _all_finite(a):
    """Return whether a contiguous array holds neither NaN nor infinity: 0 times either is NaN."""
    lanes, n = _lanes(a), a.size
    whole = n - n % lanes
    zero = _splat(a.dtype.type(0))
    total = zero
    for j in range(0, whole, lanes):
        total = _fma(_load(a, j), zero, total)
    rest = _sum(total)
    for j in range(whole, n):
        rest += _get(a, j) * a.dtype.type(0)
    return rest == 0


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
    n, latency, held = options[0], options[7], options[10] != 0
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
                    _scatter(current, i0 + r * width, grad_w_rec, spikes, lo, hi, width, j0, j1)
        if as_matrix:
            _outer(
                grad_w_rec, first * width, width, s, dense0 + first, width, end - first,
                current, i0, width, n_rows, j0, j1,
            )  # fmt: skip
            _fill(s, dense0, n_rows * width, s.dtype.type(0))
    if tick == 0 or not (dense and held):
        if part == 0:
            for r in range(n_rows):
                _add(summed, sum0 + r * width + j0, grad_bias, j0, j1 - j0)
        if dense:
            x_row = step if held else t
            first, end = n_inputs * part // n_parts, n_inputs * (part + 1) // n_parts
            _outer(
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
                _scatter(current, i0 + r * width, grad_w_in, below, lo, hi, width, j0, j1)


@kernel(forceinline=True)
def _add_tick(current, i0, s, sum0, n_rows, width, j0, j1, first):
    """Add the gradient of the current on one tick to its sum over the ticks of a step, which the first one begins."""
    for r in range(n_rows):
        if first:
            _fill(s, sum0 + r * width + j0, j1 - j0, s.dtype.type(0))
        _add(current, i0 + r * width + j0, s, sum0 + r * width + j0, j1 - j0)


@kernel
def _backward_rows(
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
        w_in: Packed in panels by :func:`_pack`; not read without ``grad_below``.
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
    lanes = _lanes(constants)
    n, n_ticks, latency = options[0], options[1], options[7]
    reset_zero, ahp, hold = options[3] != 0, options[4] != 0, options[5] == 2
    count, last, held = options[8] != 0, options[9] != 0, options[10] != 0
    width, n_batch, n_steps, n_x, n_inputs = constants.shape[1], start.shape[0], start.shape[1], x.shape[1], x.shape[2]
    n_t = n_steps * n_ticks
    dense, recurrent, fused = n_inputs > 0, w_rec.shape[0] > 0, len(currents) == 0
    summed = dense and held and n_ticks > 1  # the input is held: one gradient row per step
    from_above, want_below = grad_z.shape[0] > 0, grad_below.shape[0] > 0
    below_width = w_in.shape[0] * w_in.shape[2]
    number = constants.dtype.type
    zero, one, minus_half = _splat(number(0)), _splat(number(1)), _splat(number(-0.5))
    fill = _splat(constants[7, 1])
    step_width = PANEL_VECTORS * lanes
    # rows of the scratch, GROUP of each: adjoints of v, a, z, y; gradient of the current, its sum over a step, spikes
    block = GROUP * width
    v0, a0, z0, y0, i0, sum0, dense0 = 0, block, 2 * block, 3 * block, 4 * block, 5 * block, 6 * block
    s = np.empty(7 * block, constants.dtype)
    _fill(s, dense0, block, number(0))
    current = s if fused else currents
    for g0 in range(b0, b1, GROUP):
        n_rows = min(GROUP, b1 - g0)
        _fill(s, 0, 6 * block, number(0))
        if want_below and not dense and latency == 1:
            for r in range(n_rows):
                _fill(grad_below, ((g0 + r) * n_t + n_t - 1) * below_width, below_width, number(0))
        step, tick = n_steps - 1, n_ticks - 1
        for t in range(n_t - 1, -1, -1):
            decay_y = _splat(number(0 if tick == 0 else 1) if count else constants[7, 0])
            if not fused:
                i0 = (t * n_batch + g0) * width
            for r in range(n_rows):
                b = g0 + r
                o = r * width
                lo, hi = ptr[b, t], ptr[b, t + 1]
                if tick == 0 and start[b, step]:
                    hi = lo
                if reset_zero:
                    for k in range(lo, hi):
                        s[dense0 + o + np.intp(spikes[np.uintp(k)])] = 1
                row = (b * n_t + t) * width
                step_row = (b * n_steps + step) * width
                for j in range(0, width, lanes):
                    gz = _load(s, z0 + o + j) + _load(rate_grad, j)
                    gy = one
                    if last:
                        gy = _load(s, y0 + o + j)
                        if tick == n_ticks - 1:
                            gy = gy + _load(grad_y, step_row + j)
                        _store(s, y0 + o + j, decay_y * gy)
                        gy = fill * gy
                        if latency == 0:
                            gz = gz + gy
                    if from_above:
                        gz = gz + _load(grad_z, row + j)
                    slope = _load(psi, row + j)
                    gv = _load(s, v0 + o + j)
                    if hold:
                        free = slope > minus_half
                        slope, gv = _where(free, slope, zero), _where(free, gv, zero)
                    through = gz * slope
                    gv = gv + through
                    beta = _load(constants, 3 * width + j)
                    if ahp:
                        through = gv
                    ga = _load(s, a0 + o + j) - beta * through
                    _store(current, i0 + o + j, gv)
                    _store(s, a0 + o + j, _load(constants, width + j) * ga)
                    gz = ga
                    if last and latency == 1:
                        gz = gz + gy
                    back = _load(constants, j) * gv
                    if reset_zero:
                        gz = gz - _load(membrane, row + j) * back
                        back = back * (one - _load(s, dense0 + o + j))
                    else:
                        gz = gz - _load(constants, 2 * width + j) * gv
                    _store(s, v0 + o + j, back)
                    _store(s, z0 + o + j, gz)
                if reset_zero:
                    for k in range(lo, hi):
                        s[dense0 + o + np.intp(spikes[np.uintp(k)])] = 0
            if recurrent:
                _product(current, i0, width, n_rows, n, w_rec, n * step_width, step_width, s, z0, width, width)
            gradient, from_ = current, i0
            if summed:
                gradient, from_ = s, sum0
                _add_tick(current, i0, s, sum0, n_rows, width, 0, width, tick == n_ticks - 1)
            if fused:
                _add_gradients(
                    g0, n_rows, t, step, tick, window, current, i0, gradient, from_, s, dense0, x, options, below,
                    below_ptr, start, spikes, ptr, grad_w_in, grad_bias, grad_w_rec,
                )  # fmt: skip
            if want_below and (t >= latency or dense) and (tick == 0 or not summed):
                n_below = n_x if dense else n_t
                at = t - latency if not dense else step if held else t
                o, row = (g0 * n_below + at) * below_width, n_below * below_width
                for r in range(n_rows):
                    _fill(grad_below, o + r * row, below_width, number(0))
                _product(
                    gradient, from_, width, n_rows, n, w_in, n * step_width, step_width, grad_below, o, row, below_width
                )
                if not dense and latency == 1 and tick == 0:
                    for r in range(n_rows):
                        if start[g0 + r, step]:
                            _fill(grad_below, o + r * row, below_width, number(0))
            if tick == 0:
                for r in range(n_rows):
                    if start[g0 + r, step]:
                        for k in range(4):
                            _fill(s, k * block + r * width, width, number(0))
                step -= 1
                tick = n_ticks
            tick -= 1


@kernel
def _weight_gradients(
    window, x, options, below, below_ptr, start, spikes, ptr, currents, grad_w_in, grad_bias, grad_w_rec
):  # fmt: skip
    """Add to a window of the gradients of the weights, over all sequences and in the order of :func:`_backward_rows`.

    The arguments are its own.
    """
    n_ticks, held = options[1], options[10] != 0
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
def _backward_threads(
    bounds, windows, x, w_in, w_rec, constants, options, below, below_ptr, start, psi, membrane, spikes, ptr, grad_y,
    grad_z, rate_grad, grad_below, currents, grad_w_in, grad_bias, grad_w_rec
):  # fmt: skip
    """Go back through all sequences: threads share out the sequences first, and then the entries of the gradients."""
    for c in prange(len(bounds) - 1):
        _backward_rows(
            bounds[c], bounds[c + 1], windows[0], x, w_in, w_rec, constants, options, below, below_ptr, start, psi,
            membrane, spikes, ptr, grad_y, grad_z, rate_grad, grad_below, currents, grad_w_in, grad_bias, grad_w_rec,
        )  # fmt: skip
    for c in prange(len(windows)):
        _weight_gradients(
            windows[c], x, options, below, below_ptr, start, spikes, ptr, currents, grad_w_in, grad_bias, grad_w_rec
        )


# ---- readout


@kernel
def linear_rows(x, w, bias, out):
    """Write ``x w^T + bias`` to ``out``, shape (rows, n_out): the order of each sum depends on n alone.

    Args:
        x: Shape (rows, n or more); further columns are not read.
        w: Shape (n_out, n).
        bias: Shape (n_out,).
        out: Written.
    """
    lanes = _lanes(w)
    n = w.shape[1]
    whole = n - n % lanes
    for r in range(x.shape[0]):
        for o in range(w.shape[0]):
            partial = _splat(w.dtype.type(0))
            for k in range(0, whole, lanes):
                partial = _fma(_load(x, r * x.shape[1] + k), _load(w, o * n + k), partial)
            total = _sum(partial)
            for k in range(whole, n):
                total += x[r, k] * w[o, k]
            out[r, o] = total + bias[o]


# ---- one step without the engine: addresses bound once


@intrinsic
def _void_pointer(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), codegen


@kernel
def step_layers(table, x, state, start, new_state, y):
    """Run all layers over the ticks of one env step.

    Args:
        table: Per layer n_inputs and the addresses of w_in, bias, w_rec (0: none), constants, options and counts, as
            :func:`_forward_rows` takes them, padded to ``table[i, 7]`` columns.
        x: Input, shape (B, 1 or n_ticks, n_inputs).
        state: Packed state.
        start: 1 where the state is cleared first, shape (B, 1).
        new_state: Written.
        y: Written: the readout trace, shape (B, 1, padded N of the last layer).

    Returns:
        Whether the new state is finite, which it is not where the input or the state was not.
    """
    dtype = state.dtype
    n_batch = state.shape[1]
    source = x
    below, below_ptr = np.empty(0, np.uint16), np.empty((0, 0), np.int64)
    for i in range(table.shape[0]):
        n_inputs, width = table[i, 0], table[i, 7]
        options = carray(_void_pointer(table[i, 5]), (len(OPTIONS),), np.intp)
        n, n_ticks = options[0], options[1]
        spikes, ptr = np.empty(n_batch * (n_ticks + 1) * n, np.uint16), np.empty((n_batch, n_ticks + 2), np.int64)
        # nothing is kept: y only stands in for the arrays that would be written
        _forward_rows(
            0, n_batch, KEEP_NOTHING, source,
            carray(_void_pointer(table[i, 1]), (n_inputs, width), dtype),
            carray(_void_pointer(table[i, 2]), (width,), dtype),
            carray(_void_pointer(table[i, 3]), (n if table[i, 3] != 0 else 0, width), dtype),
            carray(_void_pointer(table[i, 4]), (len(CONSTANTS), width), dtype),
            options, below, below_ptr, state, start, new_state, y, y, y, spikes, ptr,
        )  # fmt: skip
        count_spikes(spikes, ptr, carray(_void_pointer(table[i, 6]), (n,), np.int64))
        if i + 1 < table.shape[0]:
            below, below_ptr, source = spikes, ptr, np.empty((n_batch, 1, 0), dtype)
    return _all_finite(new_state)


@kernel
def act(table, obs, state, start, new_state, outputs):
    """Run one env step of a network with ``direct`` input, from the raw observation to the largest output.

    Args:
        table: As for :func:`step_layers`, and a last row: n_outputs, N of the last layer, the addresses of w_out
            (n_outputs, N) and b_out, those of mean and of std and clip (2 n_obs) of the normaliser, or 0, and
            whether it rounds first.
        obs: Raw observations, shape (B, n_obs).
        state: Packed state.
        start: 1 where the state is cleared first, shape (B, 1).
        new_state: Written.
        outputs: Written, shape (B, n_outputs).

    Returns:
        The index of the largest output of the first row; -1 if the new state is not finite.
    """
    n_batch, n_obs = obs.shape
    last = table[-1]
    x = np.empty((n_batch, 1, n_obs), state.dtype)
    if last[4] == 0:
        for b in range(n_batch):
            for j in range(n_obs):
                x[b, 0, j] = np.float32(obs[b, j])
    else:
        mean = carray(_void_pointer(last[4]), (n_obs,), np.float64)
        scale = carray(_void_pointer(last[5]), (2 * n_obs,), np.float64)
        for b in range(n_batch):
            for j in range(n_obs):
                value = np.float64(np.float32(obs[b, j])) if last[6] != 0 else np.float64(obs[b, j])
                value = (value - mean[j]) / scale[j]
                clip = scale[n_obs + j]
                if value > clip:
                    value = clip
                if value < -clip:
                    value = -clip
                x[b, 0, j] = np.float32(value)  # NaN stays NaN
    y = np.empty((n_batch, 1, table[-2, 7]), state.dtype)
    if not step_layers(table[:-1], x, state, start, new_state, y):
        return -1
    w_out = carray(_void_pointer(last[2]), (last[0], last[1]), state.dtype)
    b_out = carray(_void_pointer(last[3]), (last[0],), state.dtype)
    linear_rows(y.reshape((n_batch, -1)), w_out, b_out, outputs)
    best = 0
    for o in range(1, outputs.shape[1] if n_batch > 0 else 0):
        if outputs[0, o] > outputs[0, best]:
            best = o
    return best
