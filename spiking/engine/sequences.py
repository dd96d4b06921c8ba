"""Runs the kernels over the layers of a network, forward and backward: numpy arrays in and out, no torch.

Weights come pre x post, ``w_in`` (n_inputs, N) and ``w_rec`` (N, N): the kernels add rows of presynaptic neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from spikeloop.spiking import checks
from spikeloop.spiking.decay import decay
from spikeloop.spiking.engine import buffers, lsnn_kernels, products, shares, step_kernels, vectors
from spikeloop.spiking.engine.lsnn_kernels import LsnnOptions, LsnnRows
from spikeloop.spiking.neurons import Neurons
from spikeloop.spiking.neurons.lsnn import LsnnNeurons, only_lsnn
from spikeloop.spiking.readout import ACTIVATIONS, Dense

if TYPE_CHECKING:
    from spikeloop.spiking.gradients.surrogate import Surrogate

# Below this work, neurons^2 x ticks x sequences, one thread is done before a second has started.
SERIAL_BELOW = 2_000_000


class Weights(NamedTuple):
    """Weights of one layer as the kernels read them."""

    w_in: np.ndarray  # (n_inputs, N)
    bias: np.ndarray  # (N,)
    w_rec: np.ndarray  # (N, N), the diagonal counts as zero; (0, N) for none


class Constants(NamedTuple):
    """Constants of one layer as the kernels read them."""

    n_neurons: int
    rows: np.ndarray  # those of LsnnRows, (9, padded N)
    named: LsnnOptions
    options: np.ndarray  # the same as integers


class Timing(NamedTuple):
    """What all layers share."""

    n_ticks: int
    dt: float
    latency: int
    tau_out: float
    count_spikes: bool
    held: bool  # the input is one row per step, not one per tick


class Spikes(NamedTuple):
    """Spike lists: ``neuron[ptr[b, t + 1]:ptr[b, t + 2]]`` fired in sequence b on tick t; list 0 fired before."""

    neuron: np.ndarray  # flat
    ptr: np.ndarray  # (B, T + 2)


class Tape(NamedTuple):
    """What the backward pass of one layer needs."""

    x: np.ndarray
    padded: Weights
    constants: Constants
    below: Spikes
    start: np.ndarray
    psi: np.ndarray
    membrane: np.ndarray
    spikes: Spikes


def constants(
    neurons: Neurons, timing: Timing, layer: int, n_memory: int, last: bool, surrogate: Surrogate | None, dtype: Any
) -> Constants:
    """Return the constants of layer number ``layer``, whose rows of the state follow ``n_memory`` encoder rows.

    Without a surrogate there is no way back: the derivative of a spike is zero.
    """
    neurons = only_lsnn(neurons, "the engine")
    n = neurons.n_neurons
    block = np.zeros((len(LsnnRows._fields), padded_size(n, dtype)), dtype)
    rows = LsnnRows(*block)
    rows.v_th[:] = 1  # a padding neuron has a threshold, and never a current
    rows.alpha[:n] = decay(neurons.tau_m, timing.dt)
    rows.rho[:n] = decay(neurons.tau_a, timing.dt)
    rows.v_th[:n] = neurons.v_th
    rows.beta[:n] = neurons.beta
    rows.refractory[:n] = neurons.refractory
    if surrogate is not None:
        rows.psi_scale[:n] = surrogate.damping / neurons.v_th.astype(np.float64)
        rows.psi_inverse_width[:n] = 1 / (surrogate.width * neurons.v_th.astype(np.float64))
    kappa = float(decay(timing.tau_out, timing.dt))
    rows.kappa[0], rows.share[0] = kappa, 1 / timing.n_ticks if timing.count_spikes else 1 - kappa
    options = LsnnOptions(
        n=n,
        n_ticks=timing.n_ticks,
        row=n_memory + len(LsnnNeurons.rows) * layer,
        reset_zero=neurons.reset == "zero",
        ahp=neurons.adaptation == "ahp",
        refractory=int(np.any(neurons.refractory)) * (1 + neurons.hold),
        surrogate=0 if surrogate is None else surrogate.code,
        latency=timing.latency,
        count=timing.count_spikes,
        last=last,
        held=timing.held,
    )
    return Constants(n, block, options, np.array(options, np.intp))


def forward(
    weights: Sequence[Weights],
    layers: Sequence[Constants],
    x: np.ndarray,
    state: np.ndarray,
    start: np.ndarray,
    counts: Sequence[np.ndarray],
    keep: int = lsnn_kernels.KEEP_NOTHING,
    n_threads: int = 1,
    serial_below: int = SERIAL_BELOW,
) -> tuple[np.ndarray, np.ndarray, list[Tape]]:
    """Run a sequence.

    Args:
        weights: One per layer.
        layers: One per layer.
        x: Input, shape (B, L, n_inputs) where held, else (B, L * n_ticks, n_inputs).
        state: Packed state, shape (n_rows, B, width); not modified.
        start: 1 where the state is cleared before the step, uint8, shape (B, L).
        counts: Spike counts that are added to, one per layer, int64, shape (N,).
        keep: ``kernels.KEEP_TAPE`` keeps what :func:`backward` needs, ``KEEP_MEMBRANE`` membranes to look at.
        n_threads: Threads to use at most.
        serial_below: Work, neurons^2 x ticks x sequences, under which one thread does it all.

    Returns:
        The readout trace at the end of each step, shape (B, L, N of the last layer), the new state, and the tape,
        whose entries hold spikes in any case.
    """
    dtype, n_batch = state.dtype, state.shape[1]
    first = layers[0].named
    n_t = start.shape[1] * first.n_ticks
    new_state = np.zeros_like(state)
    new_state[: first.row] = state[: first.row]  # of the encoder
    below = Spikes(_NO_SPIKES, _NO_PTR)
    tapes = []
    y = np.empty((n_batch, start.shape[1], layers[-1].rows.shape[1]), dtype)
    empty = np.empty((n_batch, 1, 0), dtype)
    for i, (layer, weight, count) in enumerate(zip(layers, weights, counts, strict=True)):
        n, width = layer.n_neurons, layer.rows.shape[1]
        weight = padded(weight, width)
        whole, none = (n_batch, n_t, width), (0, 0, 0)
        psi = buffers.take(whole if keep == lsnn_kernels.KEEP_TAPE else none, dtype)
        wanted = layer.named.reset_zero if keep == lsnn_kernels.KEEP_TAPE else keep == lsnn_kernels.KEEP_MEMBRANE
        membrane = buffers.take(whole if wanted else none, dtype)
        spikes = Spikes(buffers.take((n_batch * (n_t + 1) * n,), np.uint16), np.empty((n_batch, n_t + 2), np.int64))
        arguments = (
            keep, x if i == 0 else empty, *weight, layer.rows, layer.options, *below, state, start, new_state, y, psi,
            membrane, *spikes,
        )  # fmt: skip
        bounds = shares.bounds(n_batch, n_threads if n * n * n_t * n_batch >= serial_below else 1)
        if len(bounds) == 2:
            lsnn_kernels.forward_rows(0, n_batch, *arguments)
        else:
            lsnn_kernels.forward_threads(bounds, *arguments)
        lsnn_kernels.count_spikes(*spikes, count)
        tapes.append(Tape(x if i == 0 else empty, weight, layer, below, start, psi, membrane, spikes))
        below = spikes
    return y[:, :, : layers[-1].n_neurons], new_state, tapes


def step(
    weights: Sequence[Weights],
    layers: Sequence[Constants],
    table: np.ndarray,
    x: np.ndarray,
    state: np.ndarray,
    start: np.ndarray,
    counts: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Run one env step in one kernel call, with the arithmetic of :func:`forward`.

    Args:
        weights: One per layer.
        layers: One per layer.
        table: The :func:`address_table` of these weights, layers and counts.
        x: Input, shape (B, 1 or n_ticks, n_inputs).
        state: Packed state.
        start: 1 where the state is cleared first, uint8, shape (B, 1).
        counts: Spike counts that are added to.

    Returns:
        The readout trace, shape (B, N of the last layer), the new state, and whether that is finite.
    """
    for weight, layer in zip(weights, layers, strict=True):
        if not _is_padded(weight, layer.rows.shape[1]):
            y, new, _ = forward(weights, layers, x, state, start, counts)
            return y[:, 0], new, bool(np.isfinite(new).all())
    y = np.empty((len(x), 1, layers[-1].rows.shape[1]), state.dtype)
    new = np.zeros_like(state)
    finite = step_kernels.step_layers(table, x, state, start, new, y)
    return y[:, 0, : layers[-1].n_neurons], new, finite


def backward(
    tapes: Sequence[Tape],
    grad_y: np.ndarray,
    rate_grads: Sequence[np.ndarray | None],
    want_x: bool = False,
    n_threads: int = 1,
    serial_below: int = SERIAL_BELOW,
) -> tuple[list[Weights], np.ndarray | None]:
    """Go back through a sequence; the tape is used up.

    Args:
        tapes: What :func:`forward` returned.
        grad_y: Gradient of the trace, shape (B, L, N of the last layer).
        rate_grads: Per layer a gradient of every spike, shape (N,), or None.
        want_x: Whether the gradient of the input is wanted.
        n_threads: Threads to use at most.
        serial_below: Work, neurons^2 x ticks x sequences, under which one thread does it all.

    Returns:
        The gradients of the weights of each layer, and of x, or None.
    """
    grads: list[Weights] = []
    dtype = tapes[-1].psi.dtype
    none = np.empty((0, 0, 0), dtype)
    grad_z = none
    grad_y = _pad_last(grad_y, tapes[-1].constants.rows.shape[1])
    for i in range(len(tapes) - 1, -1, -1):
        tape = tapes[i]
        layer, padded = tape.constants, tape.padded
        n, width = layer.n_neurons, layer.rows.shape[1]
        n_batch, n_t = tape.psi.shape[:2]
        rate_grad = np.zeros(width, dtype)
        if rate_grads[i] is not None:
            rate_grad[:n] = rate_grads[i]
        w_rec = _packed(padded.w_rec, len(padded.w_rec), width, n)
        w_in, grad_below = none, none
        if i > 0 or want_x:
            n_below = len(padded.w_in)
            below_width = padded_size(n_below, dtype)
            w_in = _packed(padded.w_in, n_below, below_width, n)
            grad_below = buffers.take((n_batch, n_t if i > 0 else tape.x.shape[1], below_width), dtype)
        bounds = shares.bounds(n_batch, n_threads if n * n * n_t * n_batch >= serial_below else 1)
        windows = shares.windows(width, len(bounds) - 1, vectors.panel(dtype))
        currents = buffers.take((n_t * n_batch * width if len(windows) > 1 else 0,), dtype)
        grad = Weights(*(np.zeros(w.shape, dtype) for w in padded))
        arguments = (
            tape.x, w_in, w_rec, layer.rows, layer.options, *tape.below, tape.start, tape.psi, tape.membrane,
            *tape.spikes, grad_y, grad_z, rate_grad, grad_below, currents, *grad,
        )  # fmt: skip
        if len(windows) == 1:
            lsnn_kernels.backward_rows(0, n_batch, windows[0], *arguments)
        else:
            lsnn_kernels.backward_threads(bounds, windows, *arguments)
        if len(padded.w_rec):
            np.fill_diagonal(grad.w_rec, 0)
        grads.append(Weights(grad.w_in[:, :n], grad.bias[:n], grad.w_rec[:, :n]))
        buffers.give_back(tape.psi, tape.membrane, tape.spikes.neuron, grad_z, currents)
        grad_z = grad_below
    return grads[::-1], grad_z[:, :, : tapes[0].x.shape[2]] if want_x else None


def writable(name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the array as the kernels are compiled for: C-contiguous, aligned, writable; a copy if it is not so.

    Raises:
        ValueError: If it holds no real numbers; the message begins with ``name``.
    """
    if array.flags.carray and array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):  # what becomes infinite here is found when the step has been computed
        return np.array(checks.real(name, array), dtype, order="C")


def refuse_step(name: str, obs: np.ndarray, state: np.ndarray, start: np.ndarray) -> NoReturn:
    """Say why a step did not end in a finite state.

    Args:
        name: What the caller calls its observations.
        obs: Observations, as they are fed to the first layer or before normalisation, shape (B, n).
        state: Packed state before the step.
        start: Where it was cleared first, shape (B,).

    Raises:
        ValueError: Always.
    """
    checks.finite(name, obs)
    checks.finite("state", np.where(start[:, None], 0, state))
    largest = f"{name} reach {np.abs(obs).max():.3g}"
    raise ValueError(f"the step left the range of {state.dtype}: {largest}, or the weights are too large for them")


def _is_padded(weights: Weights, width: int) -> bool:
    """Return whether :func:`padded` would give back the same arrays."""
    w_in, _, w_rec = weights
    contiguous = w_in.flags.c_contiguous and w_rec.flags.c_contiguous
    return contiguous and w_in.shape[1] == width and not products.has_diagonal(w_rec)


def address_table(weights: Sequence[Weights], layers: Sequence[Constants], counts: Sequence[np.ndarray]) -> np.ndarray:
    """Return what :func:`kernels.step_layers` reads: addresses, valid as long as the (padded) arrays live."""
    return np.array(
        [
            (
                len(weight.w_in),
                weight.w_in.ctypes.data,
                weight.bias.ctypes.data,
                weight.w_rec.ctypes.data if len(weight.w_rec) else 0,
                layer.rows.ctypes.data,
                layer.options.ctypes.data,
                count.ctypes.data,
                layer.rows.shape[1],
            )
            for weight, layer, count in zip(weights, layers, counts, strict=True)
        ],
        dtype=np.intp,
    )


def dense_layers(layers: Sequence[Dense], y: np.ndarray) -> np.ndarray:
    """Return what ordinary layers make of readout traces, shape (rows, N): every row is summed in one fixed order."""
    for layer in layers:
        out = np.empty((len(y), len(layer.b)), y.dtype)
        products.linear_rows(np.ascontiguousarray(y), np.array(layer.w), np.array(layer.b), out)
        y = ACTIVATIONS[layer.activation](out)
    return y


def batch_first(x: np.ndarray) -> np.ndarray:
    """Return encoded input, (L, B, C) or (L, n_ticks, B, C), as the kernels take it: (B, ticks or steps, C)."""
    if x.ndim == 4:
        x = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    return np.ascontiguousarray(x.transpose(1, 0, 2))


def dense(spikes: Spikes, n_neurons: int, dtype: Any) -> np.ndarray:
    """Return spikes as 0 and 1, shape (1 + T, B, N); entry 0 is the tick before the sequence."""
    n_batch, n_lists = spikes.ptr.shape
    z = np.zeros((n_lists - 1, n_batch, n_neurons), dtype)
    for b, ptr in enumerate(spikes.ptr):
        ticks = np.repeat(np.arange(n_lists - 1), np.diff(ptr))
        z[ticks, b, spikes.neuron[ptr[0] : ptr[-1]]] = 1
    return z


def padded_size(n: int, dtype: Any) -> int:
    """Return n rounded up to whole vector panels."""
    step = vectors.panel(dtype)
    return -(-n // step) * step


def _pad_last(array: np.ndarray, width: int) -> np.ndarray:
    """Return the array with its last axis padded with zeros, contiguous; itself if it is so already."""
    if array.shape[-1] == width:
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)
    padded = np.zeros((*array.shape[:-1], width), array.dtype)
    padded[..., : array.shape[-1]] = array
    return padded


def padded(weights: Weights, width: int) -> Weights:
    """Return the weights with ``width`` columns and a zero diagonal; the same arrays where they are so already."""
    w_rec = _pad_last(weights.w_rec, width)
    if products.has_diagonal(w_rec):
        w_rec = w_rec.copy()
        np.fill_diagonal(w_rec, 0)
    return Weights(_pad_last(weights.w_in, width), _pad_last(weights.bias, width), w_rec)


def _packed(w: np.ndarray, n: int, width: int, n_post: int) -> np.ndarray:
    if n == 0:
        return np.empty((0, 0, 0), w.dtype)
    step = vectors.panel(w.dtype)
    packed = np.empty((width // step, n_post, step), w.dtype)
    products.pack(w, n, w.shape[1], packed)
    return packed


_NO_SPIKES = np.empty(0, np.uint16)
_NO_PTR = np.empty((0, 0), np.int64)
