"""Measuring in turn: every contender runs in every block, so that a busy machine slows all of them alike.

A ratio is the median of the ratios of blocks. It holds on a shared machine too; a time alone does not.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Contenders = dict[str, Callable[[], Any]]  # by name, what does one unit of work
Clock = Callable[[], float]


class Case(NamedTuple):
    """One table of a benchmark, as far as it measures this library alone: what ``--against`` compares.

    Args:
        title: What is run.
        contenders: Rows of the table.
        seconds: Time that one contender gets in one block, roughly.
        unit: What figures are given in, such as ``"us/tick"``.
        scale: Seconds of one call that make one such unit.
    """

    title: str
    contenders: Contenders
    seconds: float
    unit: str
    scale: float


def seconds_per_call(call: Callable[[], Any], repeats: int, clock: Clock = time.perf_counter) -> float:
    """Return the mean seconds of a number of calls, one after the other."""
    begin = clock()
    for _ in range(repeats):
        call()
    return (clock() - begin) / repeats


def warmed(call: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    """Return the seconds of a call that is not the first, which compiles and allocates."""
    call()
    return seconds_per_call(call, 1, clock)


def repeats_in(seconds: float, one_call: float) -> int:
    """Return how many calls fit into a time; at least one."""
    return max(1, int(seconds / one_call))


def in_turn(measures: Mapping[str, Callable[[], float]], blocks: int) -> dict[str, np.ndarray]:
    """Return the figures of each measurement, one a block; in each block they are taken one after the other.

    >>> figures = iter(range(4))
    >>> in_turn({"a": lambda: next(figures), "b": lambda: next(figures)}, blocks=2)
    {'a': array([0., 2.]), 'b': array([1., 3.])}
    """
    taken = {name: np.empty(blocks) for name in measures}
    for block in range(blocks):
        for name, measure in measures.items():
            taken[name][block] = measure()
    return taken


def alternate(contenders: Contenders, blocks: int, seconds: float) -> dict[str, np.ndarray]:
    """Return the seconds per call of each contender, one figure a block.

    Args:
        contenders: What to run.
        blocks: Number of blocks.
        seconds: Time that one contender gets in one block, roughly; 0 for one call.
    """

    def measure(call: Callable[[], Any]) -> Callable[[], float]:
        repeats = repeats_in(seconds, warmed(call))
        return lambda: seconds_per_call(call, repeats)

    return in_turn({name: measure(call) for name, call in contenders.items()}, blocks)


def ratio(times: np.ndarray, to: np.ndarray) -> float:
    """Return how many times as long one takes as another: the median of the ratios of blocks.

    >>> ratio(np.array([2.0, 4.0, 60.0]), to=np.array([1.0, 2.0, 3.0]))
    2.0
    """
    return float(np.median(times / to))


def ask(worker: subprocess.Popen[str], question: str) -> str:
    """Write a line to a worker process and return the line that it answers.

    Raises:
        ValueError: If it has ended.
    """
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(f"{question}\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        raise ValueError(f"the worker {worker.args!r} ended with exit status {worker.wait()}; see what it printed")
    return answer
