"""The kinds of readout: how output units turn the spikes that reach them into values. A new kind goes in ``READOUTS``.

With the spikes ``z`` of a tick, every output unit filters its drive ``w_out z + b_out``:

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
    max           i <- kappa_s i + w_out z                   from 0 at the start of each step; kappa_s = kappa^4. The
                  v <- kappa v + c i                         value is b_out plus the largest v of the step; c is such
                                                             that the peak of v after a single spike is its weight
    mean          as max                                     b_out plus the mean of v over the step
    slope         v <- v + drive                             from 0 at the start of each step: the slope of the line
                                                             through 0 that comes nearest to v on all ticks

``leaky`` and ``count`` filter the spikes before the weights. The result is the same, and dense layers may come between.

``max`` is the tempotron (Guetig & Sompolinsky 2006): an output unit integrates postsynaptic potentials of the shape
``exp(-t / tau_out) - exp(-4 t / tau_out)``. As in the paper, the synaptic time constant is a quarter of the membrane's.
In the paper the output spikes if v reaches a threshold, and an error changes each weight in proportion to what its
spikes added to v when v was largest. Here outputs do not spike, their values are logits, and the gradient of the
largest v by a weight is that same amount. All other ticks have no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.decay import decay
from spikeloop.spiking.first_to_spike import first_to_spike, first_to_spike_gradient, spike_probability


class Filter(NamedTuple):
    """``i <- synapse i + drive``, then ``v <- kept v + gain i`` on every tick.

    >>> Filter(kept=0.5, gain=1.0, synapse=0.25).response(3).tolist()  # v after a drive of 1 on the first tick
    [1.0, 0.75, 0.4375]
    """

    kept: float
    gain: float
    synapse: float = 0.0

    def response(self, n_ticks: int) -> np.ndarray:
        """Return v on each tick after a drive of 1 on the first alone, shape (n_ticks,)."""
        found, i, v = np.empty(n_ticks), 1.0, 0.0
        for k in range(n_ticks):
            v = self.kept * v + self.gain * i
            i *= self.synapse
            found[k] = v
        return found

    def adjoint(self, grad: np.ndarray) -> np.ndarray:
        """Return the gradient of a loss by the drive of each tick, from its gradient by v, both (n_ticks, ...)."""
        found, by_v, by_i = np.empty_like(grad), np.zeros_like(grad[0]), np.zeros_like(grad[0])
        kept, gain, synapse = (grad.dtype.type(number) for number in self)
        for k in range(len(grad) - 1, -1, -1):
            by_v = grad[k] + kept * by_v
            by_i = found[k] = gain * by_v + synapse * by_i
        return found


# Takes the membranes of the output units after each tick of a step, (n_ticks, B, n_outputs), their threshold, and the
# number of units in each group of the action head. Returns the output values (B, n_outputs), where the largest of a
# group is the choice, and the units' spikes (n_ticks, B, n_outputs).
Decide = Callable[[np.ndarray, float, Sequence[int]], tuple[np.ndarray, np.ndarray]]


# Takes the membranes after each tick (n_ticks, B, n_outputs) and the gradient of a loss by the output values
# (B, n_outputs). Returns the loss's gradient by the membranes.
Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


# Takes the drive of the output units on each tick of a step, (n_ticks, ..., n_outputs), b_out and the filter. Returns
# the units' membranes.
Membranes = Callable[[np.ndarray, np.ndarray, Filter], np.ndarray]


def as_driven(drive: np.ndarray, b_out: np.ndarray, filtered: Filter) -> np.ndarray:
    """Return the drive itself: these units keep nothing from tick to tick."""
    return drive


def added_up(drive: np.ndarray, b_out: np.ndarray, filtered: Filter) -> np.ndarray:
    """Return the sum of the drive since the step began."""
    return np.cumsum(drive, axis=0)


def from_the_bias(drive: np.ndarray, b_out: np.ndarray, filtered: Filter) -> np.ndarray:
    """Return the filtered drive of units that begin each step at their bias.

    >>> from_the_bias(np.array([[3.0], [1.0]]), np.array([1.0]), Filter(0.5, 0.5)).tolist()
    [[2.0], [1.5]]
    """
    v, found = np.broadcast_to(b_out, drive.shape[1:]), np.empty_like(drive)
    for k, of_tick in enumerate(drive):
        v = found[k] = drive.dtype.type(filtered.kept) * v + drive.dtype.type(filtered.gain) * of_tick
    return found


def from_rest(drive: np.ndarray, b_out: np.ndarray, filtered: Filter) -> np.ndarray:
    """Return the filtered drive of units whose filter begins each step at 0; the bias is not filtered but added.

    >>> from_rest(np.array([[3.0], [1.0]]), np.array([1.0]), Filter(0.5, 0.5)).tolist()
    [[2.0], [1.5]]
    """
    i, v, found = np.zeros_like(drive[0]), np.zeros_like(drive[0]), np.empty_like(drive)
    kept, gain, synapse = (drive.dtype.type(number) for number in filtered)
    for k, of_tick in enumerate(drive):
        i = synapse * i + (of_tick - b_out)
        v = kept * v + gain * i
        found[k] = v + b_out
    return found


class ReadoutKind(NamedTuple):
    """How one kind of readout works.

    Args:
        filter: Makes the filter from ``tau_out``, the number of ticks and ``dt``.
        clears: Whether the units begin every env step anew.
        decide: Makes values and spikes from the membranes on all ticks of a step; None if only the last tick is read.
        fires: Whether the units spike.
        heads: Kinds of action heads with which units that spike may be combined.
        membranes: Makes the membranes that ``decide`` takes. For training they must be linear in the drive.
        draws: Whether units spike at random. Their values are then logarithms of the actions' probabilities.
        gradient: Gradient of the values that ``decide`` returns; None if gradients do not train these units.
    """

    filter: Callable[[float, int, float], Filter]
    clears: bool = False
    decide: Decide | None = None
    fires: bool = False
    heads: tuple[str, ...] = ("discrete",)
    membranes: Membranes = as_driven
    draws: bool = False
    gradient: Gradient | None = None

    @property
    def trains(self) -> bool:
        """Whether gradients train readouts of this kind."""
        return self.decide is None or self.gradient is not None


def first_spike(v: np.ndarray, v_th: float, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the membranes on the tick on which the first exceeds ``v_th``, or on the last if none does, and its spike.

    Where several exceed the threshold on one tick, the unit with the largest membrane spikes.

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

    The largest value is that of the most likely action. The returned spikes are all 0: nothing is drawn here.

    >>> values, spikes = bernoulli(np.array([[[0.0, -1000.0]]]), 1.0, sizes=[2])
    >>> np.exp(values).tolist(), spikes.any()
    ([[0.75, 0.25]], np.False_)
    """
    chances = first_to_spike(spike_probability(v.astype(np.float64)))
    with np.errstate(divide="ignore"):
        values = np.log(np.maximum(chances, np.finfo(v.dtype).tiny))
    return values.astype(v.dtype), np.zeros_like(v)


def bernoulli_gradient(v: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """Return a loss's gradient by the membranes, from its gradient by the values of :func:`bernoulli`.

    >>> v = np.zeros((2, 1, 2))  # both units alike, on two ticks
    >>> bernoulli_gradient(v, np.array([[1.0, 0.0]])).round(4).tolist()  # a spike on the first tick counts for more
    [[[0.25, -0.25]], [[0.0625, -0.0625]]]
    """
    p = spike_probability(v.astype(np.float64))
    chances = first_to_spike(p)
    seen = chances > np.finfo(v.dtype).tiny
    by_chance = np.divide(grad, chances, out=np.zeros_like(chances), where=seen)
    return (first_to_spike_gradient(p, by_chance) * p * (1.0 - p)).astype(v.dtype)


def largest(v: np.ndarray, v_th: float, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest membrane of each unit over the ticks; no unit spikes.

    >>> values, spikes = largest(np.array([[[0.4, 0.5]], [[0.2, 0.7]]]), 1.0, sizes=[2])
    >>> values.tolist(), spikes.any()
    ([[0.4, 0.7]], np.False_)
    """
    return v.max(axis=0), np.zeros_like(v)


def largest_gradient(v: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """Return each unit's gradient on the tick of its largest membrane, the first of equals, and 0 on all others.

    >>> largest_gradient(np.array([[[0.4, 0.5]], [[0.2, 0.7]]]), np.array([[1.0, 3.0]])).tolist()
    [[[1.0, 0.0]], [[0.0, 3.0]]]
    """
    found = np.zeros_like(v)
    np.put_along_axis(found, v.argmax(axis=0)[None], grad.astype(v.dtype)[None], axis=0)
    return found


def mean(v: np.ndarray, v_th: float, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each unit's membrane over the ticks, summed in the order of ticks; no unit spikes.

    >>> mean(np.array([[[0.5, 0.0]], [[0.25, 1.0]]]), 1.0, sizes=[2])[0].tolist()
    [[0.375, 0.5]]
    """
    total = np.zeros_like(v[0])
    for of_tick in v:
        total = total + of_tick
    return total / v.dtype.type(len(v)), np.zeros_like(v)


def slope(v: np.ndarray, v_th: float, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope of the line through 0 with the least squared distances to a unit's membranes; no unit spikes.

    A membrane that grows by the same amount on each tick has this amount as its slope. Where whole spikes make it grow
    by steps, ``count`` has the error of the last tick alone, while here the errors of all ticks average out.

    >>> slope(np.array([[[0.0, 0.5]], [[1.0, 1.0]], [[1.0, 1.5]]]), 1.0, sizes=[2])[0].round(3).tolist()
    [[0.357, 0.5]]
    """
    total, squares = np.zeros_like(v[0]), 0
    for k, of_tick in enumerate(v, start=1):
        total = total + v.dtype.type(k) * of_tick
        squares += k * k
    return total / v.dtype.type(squares), np.zeros_like(v)


def mean_gradient(v: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """Return an equal share of the gradient for each tick."""
    return np.broadcast_to((grad / len(v)).astype(v.dtype), v.shape).copy()


def _leak(tau_out: float, n_ticks: int, dt: float) -> Filter:
    kappa = float(decay(tau_out, dt))
    return Filter(kappa, 1.0 - kappa)


def _potential(tau_out: float, n_ticks: int, dt: float) -> Filter:
    """Return the filter whose response to a spike is a difference of two exponentials, with a largest value of 1.

    >>> _potential(15.0, 50, 1.0).response(20).argmax(), round(_potential(15.0, 50, 1.0).response(20).max(), 12)
    (np.int64(6), np.float64(1.0))
    """
    kappa, synapse = float(decay(tau_out, dt)), float(decay(tau_out / 4.0, dt))
    ticks = math.log(4.0) / 3.0 * tau_out / dt  # from the spike to the peak, which may lie between two ticks
    if ticks <= 1.0:
        return Filter(kappa, 1.0, synapse)
    a = dt / tau_out
    at = np.array([math.floor(ticks), math.ceil(ticks)])
    unscaled = np.exp(-a * (at - 1.0)) * np.expm1(-3.0 * a * at) / math.expm1(-3.0 * a)
    return Filter(kappa, float(1.0 / unscaled.max()), synapse)


READOUTS: dict[str, ReadoutKind] = {
    "leaky": ReadoutKind(_leak),
    "count": ReadoutKind(lambda tau_out, n_ticks, dt: Filter(1.0, 1.0 / n_ticks), clears=True),
    "first_spike": ReadoutKind(
        lambda tau_out, n_ticks, dt: Filter(1.0, 1.0), clears=True, decide=first_spike, fires=True, membranes=added_up
    ),
    "bernoulli": ReadoutKind(
        _leak,
        clears=True,
        decide=bernoulli,
        fires=True,
        membranes=from_the_bias,
        draws=True,
        gradient=bernoulli_gradient,
    ),
    "max": ReadoutKind(_potential, clears=True, decide=largest, membranes=from_rest, gradient=largest_gradient),
    "mean": ReadoutKind(_potential, clears=True, decide=mean, membranes=from_rest, gradient=mean_gradient),
    "slope": ReadoutKind(lambda tau_out, n_ticks, dt: Filter(1.0, 1.0), clears=True, decide=slope, membranes=added_up),
    "winner": ReadoutKind(
        lambda tau_out, n_ticks, dt: Filter(0.0, 1.0),
        decide=winner,
        fires=True,
        heads=("discrete", "multi_discrete", "box"),
    ),
}


def trained_kind(readout: str | None, count: bool = False) -> str:
    """Return the kind of readout that a policy's arguments ask for.

    Args:
        readout: Name of the kind; None for ``leaky``, or for ``count`` if ``count`` is true.
        count: The former way to ask for ``count``.

    Raises:
        ValueError: If gradients do not train that kind, or the two arguments contradict each other.

    >>> trained_kind(None, count=True), trained_kind("max")
    ('count', 'max')
    """
    kind = readout if readout is not None else "count" if count else "leaky"
    fit = tuple(name for name, one in READOUTS.items() if one.trains)
    if kind not in fit:
        hint = "; 'bernoulli' is the first spike as a distribution" if kind == "first_spike" else ""
        raise ValueError(f"readout must be one of {fit}, which gradients train, got {kind!r}{hint}")
    if count and kind != "count":
        raise ValueError(f"count=True stands for readout='count', got readout={kind!r} beside it")
    return kind
