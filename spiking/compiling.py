"""numba compilation: cached on disk where one can write there, and announced by one line on stderr.

numba's own cache is mended in two respects. It does not notice a change of a function that a kernel calls from another
file, so the stamp of each cached kernel holds a digest of all kernel files. And it raises where a file of its cache is
truncated, altered or unreadable; here such a file counts as missing, and the kernel is compiled again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from numba import cfunc, njit
from numba.core import event
from numba.core.caching import IndexDataCacheFile

_KERNEL_FILES = b"compiling import kernel", b"from numba"  # what files say that compiled code is made of
_UNCACHED = "kernels compile anew in each process; see NUMBA_CACHE_DIR"
_said: set[str] = set()
_seconds: dict[Any, int] = {}  # by the function of a kernel: what its compilation, and what is compiled with it, takes
_compiling = threading.local()  # how deep a thread is in compilations: a kernel compiles those that it calls


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        print(f"spikeloop: {line}", file=sys.stderr, flush=True)


class _Announcer(event.Listener):
    """Announces compilations of kernels of this library; kernels that come from the cache fire no event."""

    def on_start(self, event: Any) -> None:
        if not _is_ours(event):
            return
        depth = _compiling.depth = getattr(_compiling, "depth", 0) + 1
        if depth == 1:
            seconds = _seconds.get(event.data["dispatcher"].py_func)
            how_long = "a few seconds each" if seconds is None else f"about {seconds} s"
            _say_once(f"compiling kernels, {how_long}, once for this machine")

    def on_end(self, event: Any) -> None:
        if _is_ours(event):
            _compiling.depth -= 1


def _is_ours(event: Any) -> bool:
    return str(event.data["dispatcher"].py_func.__module__).startswith("spikeloop.")


event.register("numba:compile", _Announcer())


class _CacheFile(IndexDataCacheFile):
    """The cached code of one function; a digest at the end of each file shows whether it is what was written."""

    def _load_index(self) -> dict[Any, str]:
        try:
            return super()._load_index()
        except Exception:  # unpickling what is no pickle can raise anything
            self._say_broken()
            return {}

    def load(self, key: Any) -> Any:
        try:
            return super().load(key)
        except Exception:
            self._say_broken()
            return None

    def save(self, key: Any, data: Any) -> None:
        try:
            super().save(key, data)
        except OSError as error:  # the disk is full, or the folder was made read-only
            _say_once(f"numba's cache in {self._cache_path} cannot be written ({error.strerror}), {_UNCACHED}")

    def _dump(self, obj: Any) -> bytes:
        data = super()._dump(obj)
        return data + hashlib.sha256(data).digest()  # unpickling stops before the digest

    def _load_data(self, name: str) -> Any:
        data = Path(self._data_path(name)).read_bytes()
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(data)

    def _say_broken(self) -> None:
        _say_once(f"a file of the cache in {self._cache_path} is damaged or unreadable, its kernel compiles anew")


@lru_cache
def _digest(package: Path) -> str:
    """Return a digest of all kernel files of a package and of this one, whose kernels the others may call."""
    digest, paths = hashlib.sha256(), set()
    for folder in (package, Path(__file__).parent):
        # in a checkout, the packages are links to folders, which ``rglob`` does not enter
        for here, _, names in os.walk(folder, followlinks=True):
            paths |= {Path(here, name).resolve() for name in names if name.endswith(".py")}
    for path in sorted(paths):
        source = path.read_bytes()
        if any(mark in source for mark in _KERNEL_FILES):
            digest.update(source)
    return digest.hexdigest()


def _package_of(file: Path) -> Path:
    """Return the folder of the outermost package that a source file belongs to."""
    folder = file.parent
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _mend_cache(compiled: Any, function: Callable, parallel: bool) -> Any:
    """Give a function's cached code the cache file and the stamp of this module; return it."""
    try:
        cache = compiled._cache
        stamp = (
            cache._impl.locator.get_source_stamp(),
            _digest(_package_of(Path(function.__code__.co_filename))),
        )
        cache._cache_file = _CacheFile(cache._cache_path, f"{cache._impl.filename_base}{'.parallel' * parallel}", stamp)
    except (AttributeError, OSError):  # the attributes are numba's own affair; its plain cache works without them
        pass
    return compiled


def kernel(
    function: Callable | None = None,
    *,
    parallel: bool = False,
    forceinline: bool = False,
    allocates: bool = True,
    seconds: int | None = None,
) -> Any:
    """Compile a function with ``njit(cache=True, nogil=True)``; uncached, and said so, where no cache can be written.

    Args:
        function: The function; None to decorate with options.
        parallel: Whether the function holds a ``prange``.
        forceinline: Whether it becomes part of its callers: a call hands over each field of each array.
        allocates: Whether the function may make arrays. Without, numba does not count references, which takes an
            atomic instruction for each array that a call hands over, for each view and for each field of a tuple; an
            array that it made all the same would never be freed, and numba does not always refuse it.
        seconds: What is said before the first compilation of kernels that are used together: how long it takes, all
            in all, on a core of a few gigahertz. Kernels without it take a few seconds.
    """
    options: dict[str, Any] = {"nogil": True, "parallel": parallel, "forceinline": forceinline}
    if not allocates:
        options["_nrt"] = False
    if function is None:
        return lambda f: kernel(f, parallel=parallel, forceinline=forceinline, allocates=allocates, seconds=seconds)
    if seconds is not None:
        _seconds[function] = seconds
    try:
        return _mend_cache(njit(function, cache=True, **options), function, parallel)
    except RuntimeError:  # numba finds no place it may write to
        _say_once(f"no writable place for numba's cache, {_UNCACHED}")
        return njit(function, **options)


def c_function(function: Callable, signature: Any) -> Any:
    """Compile a function to a C function, which kernels of one signature take as an argument; cached as kernels are.

    Args:
        function: The function.
        signature: Its types, as numba has them.
    """
    try:
        from numba.core import ccallback, sigutils

        made: Any = ccallback.CFunc(function, sigutils.normalize_signature(signature), locals={}, options={})
        made.enable_caching()
        _mend_cache(made, function, False).compile()
        return made
    except Exception:  # no place for a cache that may be written to, or numba has other ways inside
        return cfunc(signature)(function)
