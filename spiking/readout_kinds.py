"""What output units make of the spikes that reach them: the kinds of readout. A new one is an entry in ``READOUTS``.

With the spikes ``z`` of a tick, every output unit is a filter of its drive ``w_out z + b_out``:

    leaky         v <- kappa v + (1 - kappa) drive           read at the end of the step; kappa = exp(-dt / tau_out)
    count         v <- v + drive / n_ticks                   from 0 at the start of each step: the mean number of spikes
    first_spike   v <- v + drive                             from 0 at the start of each step; units race, and the first
                                                             to exceed v_th_out decides the step
    winner        v <- drive                                 on every tick the unit with the largest v spikes and
                                                             inhibits the others; the last tick's decides. There is
                                                             one such circuit for each group of the action head
    bernoulli     v <- kappa v + (1 - kappa) drive           from b_out at the start of each step; units spike with
                                                             probability 1 / (1 + exp(-v)), and the first to do so
                                                             decides, ties and silence being broken by chance

``leaky`` and ``count`` filter the spikes before the weights, which is the same, so that dense layers may stand between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.decay import decay
from spikeloop.spiking.first_to_spike import first_to_spike, spike_probability


class Filter(NamedTuple):
    """``v <- kept v + gain drive`` on every tick."""

    kept: float
    gain: float


# Membranes of the output units after each tick of a step, (n_ticks, B, n_outputs), their threshold, and the units of
# each group of the action head -> the output values (B, n_outputs), of which the largest of a group is the choice, and
# the units' spikes (n_ticks, B, n_outputs).
Decide = Callable[[np.ndarray, float, Sequence[int]], tuple[np.ndarray, np.ndarray]]


# Drive of the output units on each tick of a step, (n_ticks, ..., n_outputs), b_out and filter -> their membranes.
Membranes = Callable[[np.ndarray, np.ndarray, Filter], np.ndarray]


def as_driven(drive: np.ndarray, b_out: np.ndarray, filtered: Filter) -> np.ndarray:
    """Return the drive: units that keep nothing."""
    return drive


def added_up(drive: np.ndarray, b_out: np.ndarray, filtered: Filter) -> np.ndarray:
    """Return the sum of the drive since the step began."""
    return np.cumsum(drive, axis=0)


def from_the_bias(drive: np.ndarray, b_out: np.ndarray, filtered: Filter) -> np.ndarray:
    """Return the filtered drive of units that begin each step where the bias alone holds them.

    >>> from_the_bias(np.array([[3.0], [1.0]]), np.array([1.0]), Filter(0.5, 0.5)).tolist()
    [[2.0], [1.5]]
    """
    v, found = np.broadcast_to(b_out, drive.shape[1:]), np.empty_like(drive)
    for k, of_tick in enumerate(drive):
        v = found[k] = drive.dtype.type(filtered.kept) * v + drive.dtype.type(filtered.gain) * of_tick
    return found


class ReadoutKind(NamedTuple):
    """How one kind of readout works.

    Args:
        filter: ``tau_out``, number of ticks and ``dt`` to the numbers of the filter.
        clears: Whether the units begin every env step anew.
        decide: What spiking output units choose; None for units that are read as values.
        heads: Kinds of action heads that units which spike may choose for.
        membranes: Membranes of units that spike.
        draws: Whether units draw their spikes. Their values are then logarithms of the actions' probabilities.
    """

    filter: Callable[[float, int, float], Filter]
    clears: bool = False
    decide: Decide | None = None
    heads: tuple[str, ...] = ("discrete",)
    membranes: Membranes = as_driven
    draws: bool = False


def first_spike(v: np.ndarray, v_th: float, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Let units race: the membranes when the first exceeds ``v_th`` (at the last tick if none does), and its spike.

    Where several pass the threshold on one tick, the largest of them spikes.

    >>> v = np.array([[[0.4, 0.5]], [[0.8, 1.2]], [[1.5, 1.4]]])  # of two units after three ticks
    >>> values, spikes = first_spike(v, 1.0, sizes=[2])
    >>> values.tolist(), spikes[:, 0].tolist()
    ([[0.8, 1.2]], [[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    """
    above = np.any(v > v_th, axis=2)  # (n_ticks, B)
    passes = above.any(axis=0)
    above[-1] = True
    tick, env = above.argmax(axis=0), np.arange(v.shape[1])
    values = v[tick, env]
    spikes = np.zeros_like(v)
    spikes[tick, env, values.argmax(axis=1)] = passes
    return values, spikes


def winner(v: np.ndarray, v_th: float, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Let the unit with the largest membrane of its circuit spike on every tick, the first of equals.

    The last tick's spikes decide. ``sizes`` are the units of each circuit, one circuit after another.

    >>> values, spikes = winner(np.array([[[0.4, 0.5]], [[0.2, 0.2]]]), 1.0, sizes=[2])
    >>> values.tolist(), spikes[:, 0].tolist()
    ([[1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])
    """
    spikes = np.zeros_like(v)
    first = 0
    for size in sizes:
        best = first + v[..., first : first + size].argmax(axis=2)
        np.put_along_axis(spikes, best[..., None], 1.0, axis=2)
        first += size
    return spikes[-1], spikes


def bernoulli(v: np.ndarray, v_th: float, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithm of each unit's chance to be the first to spike (:mod:`spikeloop.spiking.first_to_spike`).

    The largest is what is done most often. No spike is noted: nothing was drawn.

    >>> values, spikes = bernoulli(np.array([[[0.0, -1000.0]]]), 1.0, sizes=[2])
    >>> np.exp(values).tolist(), spikes.any()
    ([[0.75, 0.25]], np.False_)
    """
    chances = first_to_spike(spike_probability(v.astype(np.float64)))
    with np.errstate(divide="ignore"):
        values = np.log(np.maximum(chances, np.finfo(v.dtype).tiny))
    return values.astype(v.dtype), np.zeros_like(v)


def _leak(tau_out: float, n_ticks: int, dt: float) -> Filter:
    kappa = float(decay(tau_out, dt))
    return Filter(kappa, 1.0 - kappa)


READOUTS: dict[str, ReadoutKind] = {
    "leaky": ReadoutKind(_leak),
    "count": ReadoutKind(lambda tau_out, n_ticks, dt: Filter(1.0, 1.0 / n_ticks), clears=True),
    "first_spike": ReadoutKind(
        lambda tau_out, n_ticks, dt: Filter(1.0, 1.0), clears=True, decide=first_spike, membranes=added_up
    ),
    "bernoulli": ReadoutKind(_leak, clears=True, decide=bernoulli, membranes=from_the_bias, draws=True),
    "winner": ReadoutKind(
        lambda tau_out, n_ticks, dt: Filter(0.0, 1.0), decide=winner, heads=("discrete", "multi_discrete", "box")
    ),
}
