"""numba compilation: cached on disk where one can write there, and announced by one line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core import event

_said: set[str] = set()


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        print(f"spikeloop: {line}", file=sys.stderr, flush=True)


class _Announcer(event.Listener):
    """Announces the first compilation of a kernel of this library; kernels that come from the cache fire no event."""

    def on_start(self, event: Any) -> None:
        if str(event.data["dispatcher"].py_func.__module__).startswith("spikeloop."):
            _say_once("compiling kernels, once for this machine; this can take a minute")

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcer())


def kernel(function: Callable | None = None, *, parallel: bool = False) -> Any:
    """Compile a function with ``njit(cache=True, nogil=True)``; uncached, and said so, where no cache can be written.

    Kernels that call one another must stand in one file: numba's cache does not notice changes in another.

    Args:
        function: The function; None to decorate with options.
        parallel: Whether the function holds a ``prange``.
    """
    if function is None:
        return lambda f: kernel(f, parallel=parallel)
    try:
        return njit(function, cache=True, nogil=True, parallel=parallel)
    except RuntimeError:  # numba finds no place it may write to
        _say_once("no writable place for numba's cache, kernels compile anew in each process; see NUMBA_CACHE_DIR")
        return njit(function, nogil=True, parallel=parallel)
