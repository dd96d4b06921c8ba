"""How the benchmarks print: Markdown tables row by row, and aligned tables of times."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from spikeloop.scripts.bench.timing import ratio


def print_head(columns: Iterable[str]) -> None:
    """Print the head of a Markdown table.

    >>> print_head(["task", "return"])
    | task | return |
    |---|---|
    """
    columns = list(columns)
    print_row(columns)
    print("|---" * len(columns) + "|", flush=True)


def print_row(cells: Iterable[str]) -> None:
    """Print a row of a Markdown table as soon as it is known.

    >>> print_row(["CartPole-v1", "500.0"])
    | CartPole-v1 | 500.0 |
    """
    print(f"| {' | '.join(cells)} |", flush=True)


def mean_and_deviation(values: np.ndarray, digits: int = 1) -> str:
    """Return the cell of a mean and the standard deviation of the sample, which is 0 for a single value.

    >>> mean_and_deviation(np.array([1.0, 2.0, 3.0]))
    '2.0 ± 1.0'
    """
    return f"{values.mean():.{digits}f} ± {values.std(ddof=min(1, len(values) - 1)):.{digits}f}"


def each(values: Iterable[float], digits: int = 1) -> str:
    """Return the cell of all values, none left out.

    >>> each([1.25, 2.0])
    '1.2, 2.0'
    """
    return ", ".join(f"{value:.{digits}f}" for value in values)


def print_times(times: dict[str, np.ndarray], ours: str, unit: float, unit_name: str) -> None:
    """Print the median and the least time of each contender, and how many times ours it is.

    >>> times = {"ours": np.array([0.001, 0.002]), "theirs": np.array([0.003, 0.006])}
    >>> print_times(times, "ours", 1e-3, "ms")
                                                 ms        min  x ours
    ours                                      1.500      1.000    1.00
    theirs                                    4.500      3.000    3.00
    """
    print(f"{'':36s} {unit_name:>10s} {'min':>10s}  x ours")
    for name, values in times.items():
        median, least = np.median(values) / unit, values.min() / unit
        print(f"{name:36s} {median:10.3f} {least:10.3f} {ratio(values, times[ours]):7.2f}")
