"""How many threads the kernels may use, and what each of them does."""

from __future__ import annotations

import os
import threading
from functools import lru_cache

import numba
import numpy as np

from spikeloop.spiking.engine import lsnn_kernels


def max_threads() -> int:
    """Return how many threads the kernels may use: numba's, if its threading layer starts them fast and safely.

    In a forked process it is 1: threads do not survive a fork, and their runtimes then hang or end the process.
    """
    global _max_threads
    if _max_threads == 0:
        with _first_launch:
            if _max_threads == 0:
                # In a thread of its own: the launch sets the thread count of the OpenMP runtime that torch may share,
                # but only for the thread it happens in.
                launch = threading.Thread(target=lsnn_kernels.start_threads, args=(np.zeros(1),))
                launch.start()
                launch.join()
                # "workqueue" takes 30-100 us a launch, and ends the process when two Python threads use it at once.
                fit = numba.threading_layer() in ("omp", "tbb")
                _max_threads = numba.config.NUMBA_NUM_THREADS if fit else 1  # type: ignore[attr-defined]
    return _max_threads


def _after_fork() -> None:
    global _max_threads
    _max_threads = 1


_max_threads = 0
_first_launch = threading.Lock()
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)


_bounds_cache: dict[tuple[int, int], np.ndarray] = {}


def bounds(n_batch: int, n_threads: int) -> np.ndarray:
    """Return the limits of the batch chunks, one per thread."""
    n = max(1, min(n_threads, n_batch))
    if (n_batch, n) not in _bounds_cache:
        _bounds_cache[n_batch, n] = np.arange(n + 1, dtype=np.intp) * n_batch // n
    return _bounds_cache[n_batch, n]


@lru_cache
def windows(width: int, n: int, panel: int) -> np.ndarray:
    """Return what part of the weights' gradients each of n threads adds up: columns from and to, part of the rows."""
    n_panels = width // panel
    n_columns = max(c for c in range(1, min(n, n_panels) + 1) if n % c == 0)
    ends = np.arange(n_columns + 1) * n_panels // n_columns * panel
    n_parts = n // n_columns
    return np.array([(*ends[c : c + 2], p, n_parts) for c in range(n_columns) for p in range(n_parts)], dtype=np.intp)
