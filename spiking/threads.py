"""How many threads compute, and torch's operations on one of them: how they split a sum depends on the number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from spikeloop.spiking.engine import shares

_of_kernels: ContextVar[int | None] = ContextVar("threads of the kernels", default=None)


def kernel_threads() -> int:
    """Return how many threads our kernels use: as many as torch does, or did before :func:`torch_on_one_thread`."""
    return min(_of_kernels.get() or torch.get_num_threads(), shares.max_threads())


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Run torch's operations on one thread, and our kernels, whose bits do not depend on it, on as many as before."""
    n_threads = torch.get_num_threads()
    if n_threads == 1:
        yield
        return
    token = _of_kernels.set(n_threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
        _of_kernels.reset(token)
