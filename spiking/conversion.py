"""Turns a network of ReLU layers into one of integrate-and-fire neurons (Rueckauer et al. 2016, 2017).

A ReLU layer becomes a layer of neurons whose spikes per tick are its activations, in units of a scale ``lam``: a high
percentile of what they are in states that were visited (data-based normalisation):

    w[i, j] <- w[i, j] lam[l - 1][j] / lam[l][i]      b[i] <- b[i] / lam[l][i]      lam = 1 before the first layer

Rueckauer et al. have one ``lam`` for a layer. Here each neuron has its own (as each channel in Kim et al. 2020), so
that a neuron with small activations has as many steps between none and its largest as the others. A neuron's ``lam`` is
at least a sixteenth of the layer's, so that the weights of a layer stay within a range that 8 bits hold.

The first layer takes its current from the observation, held over all K ticks, and the last map takes the mean of the
spikes and does not spike itself. Each neuron begins every env step at half its threshold, so that its count is the
activation rounded to the nearest, not rounded down. Activations beyond one spike per tick are cut off.

With ``latency=1`` a spike takes a tick to the next layer, as on a chip, so layer l (from 0) misses its input in the
first l ticks of a step. To make up for this, a step has one tick more for each layer; biases are made smaller by the
share of ticks that are missed, and the weights of the last map larger.

Layers are :class:`~spikeloop.spiking.readout.Dense`, all ``"relu"`` but the last, which is ``"identity"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders.values import Direct
from spikeloop.spiking.fields import whole
from spikeloop.spiking.limits import MAX_TICKS
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.integrate_and_fire import IntegrateAndFire
from spikeloop.spiking.readout import ACTIVATIONS, Dense, Readout

PERCENTILE = 99.9  # of the activations that neurons can express (Rueckauer et al. 2017, section 2.2.1)
_RANGE = 16.0  # of the scales within a layer
MAX_WEIGHTS = 2**25  # of one layer, in all: a convolution becomes a matrix


def converted(
    layers: Sequence[Dense],
    x: np.ndarray,
    n_ticks: int,
    *,
    percentile: float = PERCENTILE,
    per_neuron: bool = True,
    v_start: float = 0.5,
    latency: int = 0,
    head: ActionHead | None = None,
    metadata: Mapping[str, str] | None = None,
    **inputs: Any,
) -> Network:
    """Return a network of integrate-and-fire neurons that approximates ReLU layers.

    Args:
        layers: The layers.
        x: What the first layer is shown in visited states, shape (n_states, n_inputs).
        n_ticks: Ticks over which the outputs are read; with ``latency=1`` one more for each layer.
        percentile: Percentile of the activations, above 0 and at most 100; larger activations are cut off.
        per_neuron: Whether each neuron has a scale of its own, or all of a layer have one.
        v_start: Membrane at the start of an env step, in thresholds; 0 rounds down and is worse at few ticks.
        latency: Ticks a spike takes between layers and to the readout, 0 or 1.
        head: Output values to an action.
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
    ...     network = converted(layers, x, n_ticks, percentile=100.0)
    ...     print(Simulator(network).run(x[None])[0].ravel().tolist())
    [0.75, 2.0]
    [1.25, 2.0]
    """
    check_layers(layers)
    whole("converted", "n_ticks", n_ticks, 1, MAX_TICKS)
    scales = activation_scales(layers, x, percentile, per_neuron)
    total = n_ticks + latency * len(scales)
    spiking, before = [], np.ones(layers[0].w.shape[1])
    for i, (layer, scale) in enumerate(zip(layers[:-1], scales, strict=True)):
        neurons = IntegrateAndFire(np.ones(len(layer.b)), np.full(len(layer.b), v_start))
        w, b = layer.w * (before / scale[:, None]), layer.b / scale
        spiking.append(Layer(w.astype(np.float32), (b * (total - latency * i) / total).astype(np.float32), neurons))
        before = scale
    w_out = layers[-1].w * (before * total / n_ticks)
    return Network(
        encoder=Direct(layers[0].w.shape[1]),
        layers=tuple(spiking),
        readout=Readout(w_out.astype(np.float32), layers[-1].b.astype(np.float32), count=True),
        head=head,
        n_ticks=total,
        latency=latency,
        metadata=metadata or {},
        clears=True,
        **inputs,
    )


def check_layers(layers: Sequence[Dense]) -> None:
    """Raise ``ValueError`` unless layers are ReLU layers before a linear map, each of a size that can be held."""
    kinds = [layer.activation for layer in layers]
    if len(kinds) < 2 or kinds != ["relu"] * (len(kinds) - 1) + ["identity"]:
        raise ValueError(f"conversion takes one or more ReLU layers and a linear map, got {', '.join(kinds) or 'none'}")
    for i, (one, other) in enumerate(pairwise(layers)):
        if other.w.shape[1] != len(one.b):
            raise ValueError(
                f"layer {i + 1} must take the {len(one.b)} values of the layer before, takes {other.w.shape[1]}"
            )


def forward(layers: Sequence[Dense], x: np.ndarray) -> list[np.ndarray]:
    """Return what each layer gives for inputs of shape (n, n_inputs), float64."""
    given, y = [], np.asarray(x, np.float64)
    for layer in layers:
        y = ACTIVATIONS[layer.activation](y @ layer.w.T + layer.b)
        given.append(y)
    return given


def activation_scales(
    layers: Sequence[Dense], x: np.ndarray, percentile: float = PERCENTILE, per_neuron: bool = True
) -> list[np.ndarray]:
    """Return what one spike per tick stands for in each ReLU layer, arrays (N,), for inputs x that were seen.

    The scales of a layer that is silent as a whole are 1.

    Raises:
        ValueError: If the inputs are not finite numbers of shape (n, n_inputs), or the percentile is none.
    """
    x, n_inputs = np.asarray(x), layers[0].w.shape[1]
    if x.ndim != 2 or not len(x) or x.shape[1] != n_inputs or not np.isfinite(x).all():
        raise ValueError(f"x must be finite and of shape (n, {n_inputs}), got {x.shape}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be above 0 and at most 100, got {percentile}")
    scales = []
    for y in forward(layers[:-1], x):
        of_layer = float(np.percentile(y, percentile)) or float(y.max()) or 1.0
        own = np.percentile(y, percentile, axis=0) if per_neuron else np.zeros(y.shape[1])
        scales.append(np.maximum(own, of_layer / _RANGE if per_neuron else of_layer))
    return scales


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
    """Return a convolution of images, laid in a row channel by channel, as a matrix.

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

    The usual gate, which passes on the input that has spiked most, is no neuron that there is here. But
    ``max(a, b) = relu(a - b) + relu(b)`` where b >= 0, so ReLU layers can take maxima of pairs, then pairs of these.

    Args:
        groups: The inputs of each maximum; each has at least one.
        n_inputs: Number of inputs.

    Returns:
        The layers, none if no group has two inputs; and the sums, shape (n_groups, outputs of the last layer), which
        belong to the map behind.

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
        of_units: list[list[list[int]]] = []  # which units each value that is left is the sum of
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
    """Draw choices from the soft-max of output values, shape (B, n): what a soft-max layer becomes.

    The outputs are logits that have been added up over the ticks and divided by their number, as probabilities need;
    a draw is the largest of them with Gumbel noise added.

    >>> drawn = sample(np.tile(np.log([0.1, 0.9]), (10_000, 1)), np.random.default_rng(0))
    >>> round(float(drawn.mean()), 2)
    0.9
    """
    return (outputs + rng.gumbel(size=outputs.shape)).argmax(axis=1)
