"""Calls of C functions by their addresses, and memory at an address as an array, for kernels that drive a simulator.

Addresses are arguments of a kernel and no part of its machine code, which is thus right in other processes too.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable


def _call_to(builder: Any, address: Any, arguments: Any, returned: Any) -> Any:
    values = cgutils.unpack_tuple(builder, arguments)
    function_type = ir.FunctionType(returned, [value.type for value in values])
    return builder.call(builder.inttoptr(address, function_type.as_pointer()), values)


@intrinsic
def call(typing_context: Any, address: Any, arguments: Any) -> Any:
    """Call the C function at an address, int64, with a tuple: pointers as int64, other numbers of C's own types.

    What the function returns is dropped.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call_to(builder, args[0], args[1], ir.VoidType())
        return context.get_dummy_value()

    return types.void(types.int64, arguments), generate


@intrinsic
def call_for_number(typing_context: Any, address: Any, arguments: Any) -> Any:
    """Call a C function as :func:`call` does; return the double that it returns."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call_to(builder, args[0], args[1], ir.DoubleType())

    return types.float64(types.int64, arguments), generate


@intrinsic
def _pointer(typing_context: Any, address: Any, dtype: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(types.int64, dtype), generate


@register_jitable
def numbers_at(address, n, dtype):  # type: ignore[no-untyped-def]
    """Return the ``n`` numbers of a dtype at an address, int64, as an array on that memory itself."""
    return carray(_pointer(address, dtype), (n,))  # type: ignore[call-arg]
