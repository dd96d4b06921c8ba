"""Vectors of 64 bytes for numba: a thin layer over LLVM's, for loads, stores, arithmetic and register tiles.

An array is addressed by a flat element offset, and LLVM turns the operations into what the CPU has. Written as scalar
loops the kernels do not vectorise, because LLVM cannot prove that a dozen arrays do not overlap.
"""

from __future__ import annotations

import operator
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

_HAS_AVX512 = bool(llvm.get_host_cpu_features().get("avx512f", False))
# A register tile is TILE_ROWS rows of PANEL_VECTORS 64-byte vectors: what fits in 32 wide or in 16 narrower registers.
TILE_ROWS = 8 if _HAS_AVX512 else 4
PANEL_VECTORS = 2 if _HAS_AVX512 else 1
COMPRESSES = _HAS_AVX512  # whether store_lanes is one instruction


def panel(dtype: Any) -> int:
    """Return the multiple to which rows of neurons are padded."""
    return PANEL_VECTORS * 64 // np.dtype(dtype).itemsize


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
_register_operator(operator.ge, lambda builder, a, b: builder.fcmp_ordered(">=", a, b), compare=True)
_register_operator(operator.lt, lambda builder, a, b: builder.fcmp_ordered("<", a, b), compare=True)
_register_operator(operator.le, lambda builder, a, b: builder.fcmp_ordered("<=", a, b), compare=True)
_register_operator(operator.eq, lambda builder, a, b: builder.fcmp_ordered("==", a, b), compare=True)
_register_operator(operator.ne, lambda builder, a, b: builder.fcmp_unordered("!=", a, b), compare=True)
_register_operator(operator.and_, lambda builder, a, b: builder.and_(a, b))


# What the equations of a neuron model need beside these: vectors meet numbers, which become of their type, and masks,
# which become 0 and 1, all as numpy has it for arrays.


def _as_vector(context: Any, builder: Any, found: Any, value: Any, wanted: _Vector) -> Any:
    """Return a number in all lanes, a mask as 0 and 1, or a vector as it is."""
    if isinstance(found, _Vector):
        return value
    vector = _llvm_vector(wanted.element)
    if isinstance(found, _Mask):
        return builder.uitofp(value, vector)
    return _broadcast(builder, vector, context.cast(builder, value, found, wanted.element))


def _register_mixed(op: Any, emit: Any, compare: bool = False) -> None:
    kinds = (types.Number, types.Boolean) if op is not operator.mul else (types.Number, types.Boolean, _Mask)

    @infer_global(op)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [a for a in args if isinstance(a, _Vector)]
            if len(args) != 2 or len(vectors) != 1 or not all(isinstance(a, (_Vector, *kinds)) for a in args):
                return None
            return signature(_Mask(vectors[0].lanes) if compare else vectors[0], *args)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (wanted,) = (a for a in sig.args if isinstance(a, _Vector))
        both = zip(sig.args, args, strict=True)
        return emit(builder, *(_as_vector(context, builder, found, value, wanted) for found, value in both))

    for kind in kinds:
        lower_builtin(op, _Vector, kind)(lower)
        lower_builtin(op, kind, _Vector)(lower)


_register_mixed(operator.add, lambda builder, a, b: builder.fadd(a, b))
_register_mixed(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_register_mixed(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_register_mixed(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
for _compare, _sign in {
    operator.gt: ">", operator.ge: ">=", operator.lt: "<", operator.le: "<=", operator.eq: "==",
}.items():  # fmt: skip
    _register_mixed(_compare, lambda builder, a, b, sign=_sign: builder.fcmp_ordered(sign, a, b), compare=True)
_register_mixed(operator.ne, lambda builder, a, b: builder.fcmp_unordered("!=", a, b), compare=True)


@infer_global(operator.mul)
class _MasksTyping(AbstractTemplate):
    """The product of two masks is where both hold."""

    def generic(self, args: Any, kws: Any) -> Any:
        both = len(args) == 2 and args[0] == args[1] and isinstance(args[0], _Mask)
        return signature(args[0], *args) if both else None


@lower_builtin(operator.mul, _Mask, _Mask)
def _multiply_masks(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.and_(*args)


@infer_global(operator.neg)
@infer_global(abs)
class _UnaryTyping(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(args[0], *args) if len(args) == 1 and isinstance(args[0], _Vector) else None


@lower_builtin(operator.neg, _Vector)
def _negate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.fneg(*args)


@lower_builtin(abs, _Vector)
def _absolute(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _call_intrinsic(builder, "fabs", *args)


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
    of = args[0].type  # a vector, or one number
    number, count = (of.element, f"v{of.count}") if isinstance(of, ir.VectorType) else (of, "")
    bits = 32 if isinstance(number, ir.FloatType) else 64
    function_type = ir.FunctionType(of, [of] * len(args))
    name = f"llvm.{name}.{count}f{bits}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _emit_fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call_intrinsic(builder, "fma", a, b, c)


@intrinsic
def lanes_of(typingctx: Any, array: Any) -> Any:
    """Return the number of elements of the array that one vector holds."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), 512 // sig.args[0].dtype.bitwidth)

    return types.intp(array), codegen


@intrinsic
def load(typingctx: Any, array: Any, offset: Any) -> Any:
    """Return the vector at an offset."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load_vector(context, builder, sig.args[0], *args)

    return _Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def store(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write a vector at an offset."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store_vector(context, builder, sig.args[0], *args)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def get(typingctx: Any, array: Any, offset: Any) -> Any:
    """Return the number at an offset."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, sig.args[0], *args))

    return array.dtype(array, types.intp), codegen


@intrinsic
def put(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write a number at an offset."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, sig.args[0], *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), codegen


@intrinsic
def add_atomically(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Add to the number at an offset, whatever other threads do."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.atomic_rmw("add", _pointer(context, builder, sig.args[0], *args[:2]), args[2], "monotonic")
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), codegen


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """Return a vector that holds one number in all lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _broadcast(builder, _llvm_vector(sig.args[0]), args[0])

    return _Vector(value)(value), codegen


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``, rounded once, of vectors or of numbers of one type."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _emit_fma(builder, *args)

    return a(a, b, c), codegen


@intrinsic
def select(typingctx: Any, mask: Any, a: Any, b: Any) -> Any:
    """Return ``a`` where the mask is set, else ``b``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(*args)

    return a(mask, a, b), codegen


@intrinsic
def magnitude(typingctx: Any, a: Any) -> Any:
    """Return absolute values."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call_intrinsic(builder, "fabs", *args)

    return a(a), codegen


@intrinsic
def square_root(typingctx: Any, a: Any) -> Any:
    """Return square roots."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call_intrinsic(builder, "sqrt", *args)

    return a(a), codegen


@intrinsic
def bits_of(typingctx: Any, mask: Any) -> Any:
    """Return the mask as an integer, lane i in bit i."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.IntType(sig.args[0].lanes)), ir.IntType(64))

    return types.uint64(mask), codegen


@intrinsic
def mask_of(typingctx: Any, bits: Any, like: Any) -> Any:
    """Return what :func:`bits_of` made an integer of, a mask for vectors such as ``like``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        whole = builder.trunc(args[0], ir.IntType(sig.return_type.lanes))
        return builder.bitcast(whole, ir.VectorType(ir.IntType(1), sig.return_type.lanes))

    return _Mask(like.lanes)(types.uint64, like), codegen


@intrinsic
def lowest_bit(typingctx: Any, bits: Any) -> Any:
    """Return the index of the lowest bit that is set."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(types.uint64), codegen


@intrinsic
def count_of(typingctx: Any, bits: Any) -> Any:
    """Return how many bits are set."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.intp(types.uint64), codegen


@intrinsic
def store_lanes(typingctx: Any, array: Any, offset: Any, first: Any, mask: Any) -> Any:
    """Write ``first + i`` for each lane i that is set, one after the other; the rest of a vector is overwritten."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array, offset, first, mask = args
        vector = ir.VectorType(ir.IntType(sig.args[0].dtype.bitwidth), sig.args[3].lanes)
        lanes = builder.add(
            _broadcast(builder, vector, builder.trunc(first, vector.element)),
            ir.Constant(vector, list(range(vector.count))),
        )
        kind = ir.FunctionType(vector, [vector, mask.type, vector])
        name = f"llvm.experimental.vector.compress.v{vector.count}i{vector.element.width}"
        compress = cgutils.get_or_insert_function(builder.module, kind, name)
        packed = builder.call(compress, [lanes, mask, ir.Constant(vector, ir.Undefined)])
        pointer = builder.bitcast(_pointer(context, builder, sig.args[0], array, offset), vector.as_pointer())
        builder.store(packed, pointer, align=vector.element.width // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, mask), codegen


@intrinsic
def sum_of(typingctx: Any, a: Any) -> Any:
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
def tile(
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
def outer_tile(
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


@intrinsic
def pointer_to(typingctx: Any, address: Any) -> Any:
    """Return an address as a pointer that ``carray`` takes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), codegen
