"""Batch norm, convolutions and max-pooling as dense maps and ReLU layers, for :mod:`~spikeloop.spiking.conversion`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spikeloop.spiking.readout import Dense

MAX_WEIGHTS = 2**25  # largest number of weights of one layer: a convolution becomes a dense matrix


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
    >>> from spikeloop.spiking.conversion import forward
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
