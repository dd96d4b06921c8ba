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

The first layer takes its current from the observation, constant over all K ticks. The last map takes the mean number of
spikes per tick and does not spike itself. Each neuron begins every env step at half its threshold, so that its count is
the activation rounded to the nearest, not rounded down.

With ``latency=1`` a spike takes a tick to the next layer, as on a chip, so layer l (from 0) gets no input in the first
l ticks of a step. To make up for this, a step has one tick more for each layer, biases are made smaller by the share of
ticks without input, and the weights of the last map are made larger.

Layers are :class:`~spikeloop.spiking.readout.Dense`, all ``"relu"`` but the last, which is ``"identity"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders.values import Direct
from spikeloop.spiking.fields import whole
from spikeloop.spiking.limits import MAX_TICKS
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.integrate_and_fire import IntegrateAndFire
from spikeloop.spiking.readout import ACTIVATIONS, Dense, Readout

PERCENTILE = 99.0  # of a neuron's activations: one spike per tick; no spikes stand for percentile 100 - 99
CLOSEST = 0.5  # share of the states, those of the closest choices, from which percentiles are taken
_RANGE = 3.0  # a neuron's scale is at least the layer's divided by this
MAX_WEIGHTS = 2**25  # largest number of weights of one layer: a convolution becomes a dense matrix


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
    ...     network = converted(layers, x, n_ticks, percentile=100.0, from_zero=True)
    ...     print(Simulator(network).run(x[None])[0].ravel().tolist())
    [0.75, 2.0]
    [1.25, 2.0]
    >>> network = converted(layers, x, 2, percentile=100.0)  # counted from the lowest, two ticks are enough here
    >>> Simulator(network).run(x[None])[0].ravel().tolist()
    [1.25, 2.0]
    """
    check_layers(layers)
    whole("converted", "n_ticks", n_ticks, 1, MAX_TICKS)
    ranges = activation_ranges(layers, closest_states(layers, x, head, closest), percentile, per_neuron, from_zero)
    total = n_ticks + latency * len(ranges)
    n_inputs = layers[0].w.shape[1]
    spiking, before = [], Ranges(np.zeros(n_inputs), np.ones(n_inputs))
    for i, (layer, own) in enumerate(zip(layers[:-1], ranges, strict=True)):
        neurons = IntegrateAndFire(np.ones(len(layer.b)), np.full(len(layer.b), v_start))
        w = layer.w * (before.scale / own.scale[:, None])
        b = (layer.b + layer.w @ before.low - own.low) / own.scale
        spiking.append(Layer(w.astype(np.float32), (b * (total - latency * i) / total).astype(np.float32), neurons))
        before = own
    last = _differences(layers[-1], head)
    w_out = last.w * (before.scale * total / n_ticks)
    b_out = last.b + last.w @ before.low
    return Network(
        encoder=Direct(n_inputs),
        layers=tuple(spiking),
        readout=Readout(w_out.astype(np.float32), b_out.astype(np.float32), count=True),
        head=head,
        n_ticks=total,
        latency=latency,
        metadata=metadata or {},
        clears=True,
        **inputs,
    )


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
    x = _checked(layers, x)
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
    x = _checked(layers, x)
    if not 0 < share <= 1:
        raise ValueError(f"closest must be above 0 and at most 1, got {share}")
    by = margins(forward(layers, x)[-1], head)
    return x[by <= np.quantile(by, share)]


def _differences(last: Dense, head: ActionHead | None) -> Dense:
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


def _checked(layers: Sequence[Dense], x: np.ndarray) -> np.ndarray:
    x, n_inputs = np.asarray(x), layers[0].w.shape[1]
    if x.ndim != 2 or not len(x) or x.shape[1] != n_inputs or not np.isfinite(x).all():
        raise ValueError(f"x must be finite and of shape (n, {n_inputs}), got {x.shape}")
    return x


def fold_batch_norm(
    w: np.ndarray, b: np.ndarray, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, var: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and biases of a linear map with the batch norm behind it, ``gamma (y - mean) / sd + beta``.

    Args:
        w: Shape (n_out, n_in).
        b: Shape (n_out,).
        gamma: Factors, shape (n_out,).
        beta: Offsets, shape (n_out,).
        mean: Running means, shape (n_out,).
        var: Running variances, shape (n_out,); ``sd = sqrt(var + epsilon)``.
        epsilon: See there.

    >>> one = np.ones(1)
    >>> w, b = fold_batch_norm(np.ones((1, 2)), one, 3 * one, one, 0 * one, 4 * one, epsilon=0.0)
    >>> w.tolist(), b.tolist()
    ([[1.5, 1.5]], [2.5])
    """
    factor = gamma / np.sqrt(var + epsilon)
    return w * factor[:, None], beta + factor * (b - mean)


def convolution(
    kernel: np.ndarray, bias: np.ndarray, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    """Return a convolution as a matrix, for images that are flattened channel by channel.

    Args:
        kernel: Shape (n_out, n_in, height, width).
        bias: Shape (n_out,).
        shape: Of the image, (n_in, height, width).
        stride: Rows and columns from one place to the next.
        padding: Rows and columns of zeros on each side.

    Returns:
        Weights (n_out * rows * columns, size of the image), biases, and the shape of the result.

    Raises:
        ValueError: If the kernel does not fit, or the matrix would have more than ``MAX_WEIGHTS`` weights.
    """
    n_out, n_in, height, width = kernel.shape
    image = np.arange(int(np.prod(shape))).reshape(shape)
    places = np.pad(image, ((0, 0), (padding[0],) * 2, (padding[1],) * 2), constant_values=-1)
    rows, columns = ((places.shape[1 + k] - (height, width)[k]) // stride[k] + 1 for k in range(2))
    if shape[0] != n_in or rows < 1 or columns < 1:
        raise ValueError(f"a convolution of kernel {kernel.shape} takes larger images, got {tuple(shape)}")
    check_size(n_out * rows * columns, image.size)
    w = np.zeros((n_out, rows, columns, image.size + 1), np.float32)  # the last column takes what is padding
    for r in range(rows):
        for c in range(columns):
            top, left = r * stride[0], c * stride[1]
            seen = places[:, top : top + height, left : left + width]
            w[:, r, c, seen.ravel()] = kernel.reshape(n_out, -1)
    return w.reshape(-1, image.size + 1)[:, :-1], np.repeat(bias, rows * columns), (n_out, rows, columns)


def check_size(n_out: int, n_in: int) -> None:
    """Raise ``ValueError`` for a layer of more weights than a conversion makes."""
    if n_out * n_in > MAX_WEIGHTS:
        raise ValueError(
            f"a layer of {n_out} neurons on {n_in} inputs would have {n_out * n_in:,} weights, conversion makes "
            f"{MAX_WEIGHTS:,} at most: smaller images, such as 36 x 36, need fewer"
        )


def maxima(groups: Sequence[Sequence[int]], n_inputs: int) -> tuple[list[Dense], np.ndarray]:
    """Return ReLU layers whose outputs, added up, are the maxima of groups of inputs that are never negative.

    The usual gate, which passes on the spikes of the input that has spiked most, is not a neuron model of this library.
    But ``max(a, b) = relu(a - b) + relu(b)`` if b >= 0, so ReLU layers can take maxima of pairs, then pairs of these.

    Args:
        groups: Indices of the inputs of each maximum, at least one each.
        n_inputs: Number of inputs.

    Returns:
        The layers, none if no group has two inputs; and a matrix of shape (n_groups, outputs of the last layer), which
        adds up their outputs and is to be part of the next map.

    >>> layers, sums = maxima([[0, 1, 2]], 3)
    >>> [layer.w.shape for layer in layers], sums.tolist()
    ([(3, 3), (2, 3)], [[1.0, 1.0]])
    >>> (forward(layers, np.array([[0.25, 4.0, 3.0]]))[-1] @ sums.T).tolist()
    [[4.0]]
    """
    left = [[np.eye(1, n_inputs, i, np.float32)[0] for i in group] for group in groups]
    layers: list[Dense] = []
    while max(map(len, left)) > 1:
        units: list[np.ndarray] = []
        of_units: list[list[list[int]]] = []  # for each remaining value, the units whose sum it is
        for values in left:
            of_units.append([])
            for k in range(0, len(values), 2):
                pair = values[k : k + 2]
                made = [pair[0] - pair[1], pair[1]] if len(pair) == 2 else [pair[0]]
                of_units[-1].append(list(range(len(units), len(units) + len(made))))
                units += made
        layers.append(Dense(np.stack(units), np.zeros(len(units), np.float32), "relu"))
        left = [[np.eye(len(units), dtype=np.float32)[i].sum(axis=0) for i in values] for values in of_units]
    return layers, np.stack([values[0] for values in left])


def pooled(
    shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int]
) -> tuple[list[list[int]], tuple[int, ...]]:
    """Return the groups of pixels whose maxima a max-pool takes, for :func:`maxima`, and the shape of the result."""
    n, height, width = shape
    image = np.arange(n * height * width).reshape(n, height, width)
    rows, columns = ((shape[1 + k] - kernel[k]) // stride[k] + 1 for k in range(2))
    groups = [
        image[i, r * stride[0] : r * stride[0] + kernel[0], c * stride[1] : c * stride[1] + kernel[1]].ravel().tolist()
        for i in range(n)
        for r in range(rows)
        for c in range(columns)
    ]
    return groups, (n, rows, columns)


def sample(outputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw choices from the soft-max of output values, shape (B, n); this takes the place of a soft-max layer.

    The outputs are logits, averaged over the ticks. The index of the largest one, after Gumbel noise is added to each,
    is a draw from their soft-max.

    >>> drawn = sample(np.tile(np.log([0.1, 0.9]), (10_000, 1)), np.random.default_rng(0))
    >>> round(float(drawn.mean()), 2)
    0.9
    """
    return (outputs + rng.gumbel(size=outputs.shape)).argmax(axis=1)
