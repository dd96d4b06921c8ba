"""Turns a network of ReLU layers into one of integrate-and-fire neurons (Rueckauer et al. 2016, 2017).

A ReLU layer becomes a layer of spiking neurons. An activation y becomes ``(y - low) / lam`` spikes per tick, where
``low`` and ``lam`` come from the activations in visited states (data-based normalisation):

    w[i, j] <- w[i, j] lam[l - 1][j] / lam[l][i]        lam = 1 and low = 0 before the first layer
    b[i]    <- (b[i] + sum_j w[i, j] low[l - 1][j] - low[l][i]) / lam[l][i]

Rueckauer et al. have one ``lam`` for a layer, and ``low`` = 0. Here each neuron has its own two values: ``low`` is the
1st percentile of its activations and ``low + lam`` the 99th, so that its K + 1 possible counts are spread over the
activations that it takes. Activations beyond the two percentiles are cut off. ``lam`` is at least a third of the
layer's scale, the 99th percentile of ``y - low`` over its neurons, so that 8 bits can hold the layer's weights.

If the network chooses an action, percentiles are those of half of the states: the half in which the choice was closest,
which means that the best output and the second best differed least. There small errors of a count change the action.

The first layer takes its current from the observation, constant over all K ticks. Each neuron begins every env step at
half its threshold, so that its count is the activation rounded to the nearest, not rounded down. The last map does not
spike itself. It takes how fast its neurons' spikes add up: the slope of the line through 0 that comes nearest to their
sums on all ticks. The mean number of spikes per tick (``readout="count"``) is the sum on the last tick alone, with that
tick's rounding error; over all ticks the errors average out. The count is exact where activations are whole spikes.

With ``latency=1`` a spike takes a tick to the next layer, as on a chip, so layer l (from 0) gets no input in the first
l ticks of a step. To make up for this, a step has one tick more for each layer, and the weights of the last map are
made larger. A bias must not act before the first input arrives. So biases after the first layer are the weights of
constant neurons of the layer before: these spike on every tick, from the one on which their layer gets its first input.
A constant neuron has no input itself, only a bias, and starts so far below its threshold that it begins on that tick.

After the first layer, a neuron whose weights are large beside those of its layer has half the threshold, weights and
bias. Its spikes are the same, and 8 bits hold the weights of the others better.

Layers are :class:`~spikeloop.spiking.readout.Dense`, all ``"relu"`` but the last, which is ``"identity"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders.values import Direct
from spikeloop.spiking.fields import check_choice, whole
from spikeloop.spiking.limits import MAX_TICKS
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.integrate_and_fire import IntegrateAndFire
from spikeloop.spiking.readout import ACTIVATIONS, Dense, Readout

PERCENTILE = 99.0  # of a neuron's activations: one spike per tick; no spikes stand for percentile 100 - 99
CLOSEST = 0.5  # share of the states, those of the closest choices, from which percentiles are taken
_RANGE = 3.0  # a neuron's scale is at least the layer's divided by this
_CONSTANT = 32  # most constant neurons of a layer
_RATE = 1.125  # thresholds per tick of a constant neuron: it does not miss a spike if its numbers are rounded


def converted(
    layers: Sequence[Dense],
    x: np.ndarray,
    n_ticks: int,
    *,
    percentile: float = PERCENTILE,
    closest: float = CLOSEST,
    per_neuron: bool = True,
    from_zero: bool = False,
    v_start: float = 0.5,
    latency: int = 0,
    readout: str = "slope",
    head: ActionHead | None = None,
    metadata: Mapping[str, str] | None = None,
    **inputs: Any,
) -> Network:
    """Return a network of integrate-and-fire neurons that approximates ReLU layers.

    Args:
        layers: The layers.
        x: Inputs of the first layer in visited states, shape (n_states, n_inputs).
        n_ticks: Ticks over which the outputs are read; with ``latency=1`` one more for each layer.
        percentile: Activations above this percentile are cut off, and those below percentile 100 - ``percentile``;
            above 50 and at most 100.
        closest: Share of the states that percentiles are taken from, those in which the head's choice is closest;
            above 0 and at most 1.
        per_neuron: Whether each neuron has values ``low`` and ``lam`` of its own. Otherwise all neurons of a layer have
            one ``lam``, and ``low`` is 0.
        from_zero: Whether ``low`` is 0 for all neurons.
        v_start: Membrane at the start of an env step, in thresholds; 0 rounds counts down, which is worse at few ticks.
        latency: Ticks that a spike takes between layers and to the readout, 0 or 1.
        readout: Kind of the last map's readout, ``"slope"`` or ``"count"``.
        head: Turns output values into an action. If there is none, or it chooses nothing, all states are used.
        metadata: Text pairs to keep with the network.
        inputs: ``preprocessing`` and ``observation`` of the network.

    Raises:
        ValueError: If the layers are not as the module says, or ``x`` or a number does not fit them.

    >>> relu = Dense(np.array([[1.0, 1.0], [-1.0, 0.0]]), np.array([0.0, 0.5]), "relu")
    >>> layers, x = (relu, Dense(np.array([[1.0, 2.0]]), np.zeros(1), "identity")), np.array([[0.25, 0.5], [-0.5, 0.5]])
    >>> forward(layers, x)[-1].ravel().tolist()
    [1.25, 2.0]
    >>> from spikeloop.spiking.simulator import Simulator
    >>> for n_ticks in (2, 4):
    ...     network = converted(layers, x, n_ticks, percentile=100.0, from_zero=True, readout="count")
    ...     print(Simulator(network).run(x[None])[0].ravel().tolist())
    [0.75, 2.0]
    [1.25, 2.0]
    >>> network = converted(layers, x, 2, percentile=100.0, readout="count")  # from the lowest, two are enough
    >>> Simulator(network).run(x[None])[0].ravel().tolist()
    [1.25, 2.0]
    """
    check_layers(layers)
    whole("converted", "n_ticks", n_ticks, 1, MAX_TICKS)
    check_choice("converted", "readout", readout, ("slope", "count"))
    ranges = activation_ranges(layers, closest_states(layers, x, head, closest), percentile, per_neuron, from_zero)
    total = n_ticks + latency * len(ranges)
    n_inputs = layers[0].w.shape[1]
    maps, before = [], Ranges(np.zeros(n_inputs), np.ones(n_inputs))
    for layer, own in zip(layers[:-1], ranges, strict=True):
        w = layer.w * (before.scale / own.scale[:, None])
        maps.append((w, (layer.b + layer.w @ before.low - own.low) / own.scale))
        before = own
    in_time = _in_time(maps) if latency else [(w, b, 0) for w, b in maps]
    spiking = [_layer(i, *one, v_start) for i, one in enumerate(in_time)]
    last = differences(layers[-1], head)
    w_out = last.w * (before.scale / _read_of_one(readout, total, latency * len(ranges)))
    b_out = last.b + last.w @ before.low
    return Network(
        encoder=Direct(n_inputs),
        layers=tuple(spiking),
        readout=Readout(w_out.astype(np.float32), b_out.astype(np.float32), kind=readout),
        head=head,
        n_ticks=total,
        latency=latency,
        metadata=metadata or {},
        clears=True,
        **inputs,
    )


def _in_time(maps: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Return maps without biases after the first, and how many constant neurons of each layer stand for the next ones.

    There are so many of them that their weights are not larger than the others of a neuron, if ``_CONSTANT`` suffice.
    Their weights to one neuron differ by up to a step of 8 bits, so that errors of rounding do not all have one sign.
    A bias so low that no inputs can bring the neuron to spike is raised until they just cannot: it needs less weight.
    """
    maps = [maps[0], *((w, np.maximum(b, -np.maximum(w, 0).sum(axis=1) - 1)) for w, b in maps[1:])]
    found, n_before = [], 0
    for i, (w, b) in enumerate(maps):
        n = 0
        if i + 1 < len(maps):
            w_next, b_next = maps[i + 1]
            largest = abs(w_next).max(axis=1)
            largest = np.where(largest > 0, largest, largest.max() or np.inf)
            n = int(np.clip(np.ceil((abs(b_next) / largest).max()), 1, _CONSTANT))
        if i:
            w = np.hstack([w, np.repeat(b[:, None] / n_before, n_before, axis=1)])
            step = float(abs(w).max()) / 127
            w[:, -n_before:] += step * (np.arange(n_before) / n_before - (n_before - 1) / (2 * n_before))
            b = np.zeros(len(b))
        found.append((w, b, n))
        n_before = n
    return found


def _thresholds(w: np.ndarray) -> np.ndarray:
    """Return thresholds: half of those of others for neurons with large weights."""
    largest = abs(w).max(axis=1)
    return np.where(largest > np.sqrt(2) * np.median(largest[largest > 0]), 0.5, 1.0) if largest.any() else largest + 1


def _layer(index: int, w: np.ndarray, b: np.ndarray, n_constant: int, v_start: float) -> Layer:
    """Return neurons that spike as they would at a threshold of 1, since all is multiplied by a power of two.

    The constant neurons follow. Those of layer l begin ``_RATE l - 1/2`` thresholds below 0, so they spike first on
    tick l. Their threshold is so low that it is one half above their start, as that of others by default: a chip scales
    the room of a layer's membranes by the largest such distance.
    """
    v_th = _thresholds(w) if index else np.ones(len(b))
    start = 0.5 - _RATE * index
    low = 0.5 / (1.0 - start)
    neurons = IntegrateAndFire(
        np.append(v_th, np.full(n_constant, low)), np.append(v_start * v_th, np.full(n_constant, low * start))
    )
    w = np.vstack([w * v_th[:, None], np.zeros((n_constant, w.shape[1]))])
    b = np.append(b * v_th, np.full(n_constant, low * _RATE))
    return Layer(w.astype(np.float32), b.astype(np.float32), neurons)


def _read_of_one(kind: str, n_ticks: int, late: int) -> float:
    """Return the value that a readout of weight 1 gives to a spike on every tick but the first ``late`` ones."""
    readout = Readout(np.ones((1, 1)), np.zeros(1), kind=kind)
    spikes = (np.arange(n_ticks) >= late).astype(np.float64)
    if not readout.every_tick:
        return float(spikes.mean())
    return float(readout.decide(readout.membranes(spikes[:, None, None]))[0][0, 0])


def check_layers(layers: Sequence[Dense]) -> None:
    """Raise ``ValueError`` unless layers are ReLU layers and then a linear map, whose sizes fit each other."""
    kinds = [layer.activation for layer in layers]
    if len(kinds) < 2 or kinds != ["relu"] * (len(kinds) - 1) + ["identity"]:
        raise ValueError(f"conversion takes one or more ReLU layers and a linear map, got {', '.join(kinds) or 'none'}")
    for i, (one, other) in enumerate(pairwise(layers)):
        if other.w.shape[1] != len(one.b):
            raise ValueError(
                f"layer {i + 1} must take the {len(one.b)} values of the layer before, takes {other.w.shape[1]}"
            )


def forward(layers: Sequence[Dense], x: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of each layer for inputs of shape (n, n_inputs), float64."""
    given, y = [], np.asarray(x, np.float64)
    for layer in layers:
        y = ACTIVATIONS[layer.activation](y @ layer.w.T + layer.b)
        given.append(y)
    return given


class Ranges(NamedTuple):
    """Ranges of a layer's activations that counts stand for: from ``low`` to ``low + scale``, each of shape (N,)."""

    low: np.ndarray
    scale: np.ndarray


def activation_ranges(
    layers: Sequence[Dense],
    x: np.ndarray,
    percentile: float = PERCENTILE,
    per_neuron: bool = True,
    from_zero: bool = False,
) -> list[Ranges]:
    """Return the range of activations of each ReLU layer's neurons, for the inputs x of visited states.

    ``low`` is the activation that no spikes stand for, ``low + scale`` the one that a spike on every tick stands for.
    The arguments are those of :func:`converted`. Scales are above 0 even if a layer's activations never change.

    Raises:
        ValueError: If the inputs are not finite numbers of shape (n, n_inputs), or the percentile is out of range.

    >>> layers = Dense(np.eye(2), np.zeros(2), "relu"), Dense(np.eye(2), np.zeros(2), "identity")
    >>> ((low, scale),) = activation_ranges(layers, np.array([[-1.0, 2.0], [1.0, 5.0]]), percentile=100.0)
    >>> low.tolist(), scale.tolist()
    ([0.0, 2.0], [1.0, 3.0])
    """
    x = checked_states(layers, x)
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile must be above 50 and at most 100, got {percentile}")
    ranges = []
    for y in forward(layers[:-1], x):
        lowest, highest = np.percentile(y, [100 - percentile, percentile], axis=0)
        low = lowest if per_neuron and not from_zero else np.zeros(y.shape[1])
        of_layer = float(np.percentile(y - low, percentile)) or float((y - low).max()) or 1.0
        own = np.maximum(highest - low, of_layer / _RANGE) if per_neuron else np.full(y.shape[1], of_layer)
        ranges.append(Ranges(low, own))
    return ranges


def closest_states(
    layers: Sequence[Dense], x: np.ndarray, head: ActionHead | None, share: float = CLOSEST
) -> np.ndarray:
    """Return the given share of inputs, those for which the head's choice is closest; all inputs if it chooses nothing.

    Raises:
        ValueError: If the inputs are not finite numbers of shape (n, n_inputs), or the share is out of range.

    >>> layers = Dense(np.eye(2), np.zeros(2), "relu"), Dense(np.eye(2), np.zeros(2), "identity")
    >>> closest_states(layers, np.array([[0.0, 9.0], [2.0, 3.0]]), ActionHead("discrete", (2,))).tolist()
    [[2.0, 3.0]]
    """
    x = checked_states(layers, x)
    if not 0 < share <= 1:
        raise ValueError(f"closest must be above 0 and at most 1, got {share}")
    by = margins(forward(layers, x)[-1], head)
    return x[by <= np.quantile(by, share)]


def differences(last: Dense, head: ActionHead | None) -> Dense:
    """Return the last map less its mean over the outputs of a choice: choices stay, and 8 bits hold the rest better."""
    if head is None or head.kind not in ("discrete", "multi_discrete"):
        return last
    w, b = last.w.astype(np.float64), last.b.astype(np.float64)
    for group in np.split(np.arange(len(b)), np.cumsum(head.sizes)[:-1]):
        w[group] -= w[group].mean(axis=0)
        b[group] -= b[group].mean()
    return Dense(w, b, last.activation)


def margins(outputs: np.ndarray, head: ActionHead | None) -> np.ndarray:
    """Return the margin of each choice, shape (n,): the difference between the best output and the second best.

    If a head chooses several actions at once, the smallest of their margins is returned; if it chooses nothing, 0.

    Args:
        outputs: Output values, shape (n, n_outputs).
        head: Turns the outputs into an action.

    >>> margins(np.array([[0.5, 2.0, 1.0]]), ActionHead("discrete", (3,))).tolist()
    [1.0]
    """
    if head is None or head.kind == "box":
        return np.zeros(len(outputs))
    if head.kind == "multi_binary":
        return abs(outputs).min(axis=1)
    groups = [np.sort(group, axis=1) for group in np.split(outputs, np.cumsum(head.sizes)[:-1], axis=1)]
    gaps = [group[:, -1] - group[:, -2] for group in groups if group.shape[1] > 1]
    return np.min(gaps, axis=0) if gaps else np.zeros(len(outputs))


def checked_states(layers: Sequence[Dense], x: np.ndarray) -> np.ndarray:
    """Return inputs as an array; raise ``ValueError`` unless they are finite and of shape (n, n_inputs), n above 0."""
    x, n_inputs = np.asarray(x), layers[0].w.shape[1]
    if x.ndim != 2 or not len(x) or x.shape[1] != n_inputs or not np.isfinite(x).all():
        raise ValueError(f"x must be finite and of shape (n, {n_inputs}), got {x.shape}")
    return x


def sample(outputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw choices from the soft-max of output values, shape (B, n); this takes the place of a soft-max layer.

    The outputs are logits. The index of the largest one, after Gumbel noise is added to each,
    is a draw from their soft-max.

    >>> drawn = sample(np.tile(np.log([0.1, 0.9]), (10_000, 1)), np.random.default_rng(0))
    >>> round(float(drawn.mean()), 2)
    0.9
    """
    return (outputs + rng.gumbel(size=outputs.shape)).argmax(axis=1)
