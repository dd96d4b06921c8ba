"""Learning kernels as C functions, which other kernels call without being compiled for each rule."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from numba import boolean, cfunc, float64, int32, int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from spikeloop.hardware.learning.codegen import compiled

# What a rule's kernel takes: Learner.arrays and Learner.kernel say what the arguments are.
SIGNATURE = boolean(
    int32[:, :, ::1],
    int32[:, ::1],
    int32[:, ::1],
    int32[:, :, ::1],
    int32[::1],
    int64[::1],
    float64[:, ::1],
    int32[::1],
    int64[::1],
    int32[::1],
    int64[::1],
    int64[::1],
    int32[:, ::1],
    float64[:, ::1],
    int32[:, :, ::1],
)


@lru_cache(maxsize=256)
def c_function(source: str) -> Any:
    """Return the kernel of a source as a C function."""
    function = compiled(source).py_func  # type: ignore[attr-defined]
    options: dict[str, Any] = {"_nrt": False}  # as for a kernel that makes no arrays
    try:
        return cfunc(SIGNATURE, cache=True, **options)(function)
    except RuntimeError:  # numba finds no place for a cache that it may write to
        return cfunc(SIGNATURE, **options)(function)


@intrinsic
def function_at(typing_context, address):  # type: ignore[no-untyped-def]
    """Return the C function of a rule's kernel that stands at an address (int64), for compiled code to call."""
    function = types.FunctionType(SIGNATURE)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        value = cgutils.create_struct_proxy(function)(context, builder)
        value.c_addr = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        value.py_addr = value.jit_addr = cgutils.get_null_value(cgutils.voidptr_t)
        return value._getvalue()

    return function(address), generate
