"""Runs the kernels over the layers of a network, forward and backward: numpy arrays in and out, no torch.

Weights come pre x post, ``w_in`` (n_inputs, N) and ``w_rec`` (N, N): the kernels add rows of presynaptic neurons.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numba
import numpy as np

from spikeloop.spiking import checks
from spikeloop.spiking.decay import decay
from spikeloop.spiking.engine import lsnn_kernels, products, step_kernels, vectors
from spikeloop.spiking.engine.lsnn_kernels import LsnnOptions, LsnnRows
from spikeloop.spiking.neurons import Neurons
from spikeloop.spiking.neurons.lsnn import NeuronParameters, only_lsnn
from spikeloop.spiking.readout import ACTIVATIONS, Dense

if TYPE_CHECKING:
    from spikeloop.spiking.gradients.surrogate import Surrogate

# Below this work, neurons^2 x ticks x sequences, one thread is done before a second has started.
SERIAL_BELOW = 2_000_000
_KEPT_BUFFERS = 4


class Weights(NamedTuple):
    """Weights of one layer as the kernels read them."""

    w_in: np.ndarray  # (n_inputs, N)
    bias: np.ndarray  # (N,)
    w_rec: np.ndarray  # (N, N), the diagonal counts as zero; (0, N) for none


class Constants(NamedTuple):
    """Constants of one layer as the kernels read them."""

    n_neurons: int
    rows: np.ndarray  # those of LsnnRows, (9, padded N)
    options: np.ndarray  # those of LsnnOptions, integers

    @property
    def named(self) -> LsnnOptions:
        """The options by their names."""
        return LsnnOptions(*self.options.tolist())


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
        row=n_memory + len(NeuronParameters.rows) * layer,
        reset_zero=neurons.reset == "zero",
        ahp=neurons.adaptation == "ahp",
        refractory=int(np.any(neurons.refractory)) * (1 + neurons.hold),
        surrogate=0 if surrogate is None else surrogate.code,
        latency=timing.latency,
        count=timing.count_spikes,
        last=last,
        held=timing.held,
    )
    return Constants(n, block, np.array(options, np.intp))


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
        psi = _take(whole if keep == lsnn_kernels.KEEP_TAPE else none, dtype)
        wanted = layer.named.reset_zero if keep == lsnn_kernels.KEEP_TAPE else keep == lsnn_kernels.KEEP_MEMBRANE
        membrane = _take(whole if wanted else none, dtype)
        spikes = Spikes(_take((n_batch * (n_t + 1) * n,), np.uint16), np.empty((n_batch, n_t + 2), np.int64))
        arguments = (
            keep, x if i == 0 else empty, *weight, layer.rows, layer.options, *below, state, start, new_state, y, psi,
            membrane, *spikes,
        )  # fmt: skip
        bounds = _bounds(n_batch, n_threads if n * n * n_t * n_batch >= serial_below else 1)
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
            grad_below = _take((n_batch, n_t if i > 0 else tape.x.shape[1], below_width), dtype)
        bounds = _bounds(n_batch, n_threads if n * n * n_t * n_batch >= serial_below else 1)
        windows = _windows(width, len(bounds) - 1, vectors.panel(dtype))
        currents = _take((n_t * n_batch * width if len(windows) > 1 else 0,), dtype)
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
        _give_back(tape.psi, tape.membrane, tape.spikes.neuron, grad_z, currents)
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


def warm_up(dtype: Any = np.float32) -> None:
    """Compile the kernels for one dtype, or load them from the cache, and start numba's threads.

    Call it in the parent of worker processes: caches race when several compile at once.
    """
    ones = np.ones(2)
    neurons = NeuronParameters(ones, ones, ones, ones, ones)
    layers = [constants(neurons, Timing(1, 1.0, 0, 0.0, False, True), 0, 0, True, None, dtype)]
    weights = [padded(Weights(*(np.ones(n, dtype) for n in ((1, 2), 2, (2, 2)))), layers[0].rows.shape[1])]
    x, state, counts = np.ones((2, 1, 1), dtype), np.zeros((5, 2, 2), dtype), [np.zeros(2, np.int64)]
    start = np.zeros((2, 1), np.uint8)
    for n_threads in {1, max_threads()}:
        y, _, tapes = forward(weights, layers, x, state, start, counts, lsnn_kernels.KEEP_TAPE, n_threads, 0)
        backward(tapes, y, [None], True, n_threads, 0)
    step(weights, layers, address_table(weights, layers, counts), x, state, start, counts)
    products.linear_rows(x[:, 0], weights[0].w_in.T[:2].copy(), weights[0].bias[:2], np.empty((2, 2), dtype))


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


def max_threads() -> int:
    """Return how many threads the kernels may use: numba's, if its threading layer starts them fast and safely.

    In a forked process it is 1: threads do not survive a fork, and their runtimes then hang or end the process.
    """
    global _max_threads
    if _max_threads == 0:
        with _first_launch:
            if _max_threads == 0:
                # In a thread of its own: the launch sets the thread count of the OpenMP runtime that torch may share,
                # but only for the thread it happens in.
                launch = threading.Thread(target=lsnn_kernels.start_threads, args=(np.zeros(1),))
                launch.start()
                launch.join()
                # "workqueue" takes 30-100 us a launch, and ends the process when two Python threads use it at once.
                fit = numba.threading_layer() in ("omp", "tbb")
                _max_threads = numba.config.NUMBA_NUM_THREADS if fit else 1  # type: ignore[attr-defined]
    return _max_threads


def _after_fork() -> None:
    global _max_threads
    _max_threads = 1


_max_threads = 0
_first_launch = threading.Lock()
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)


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
_bounds_cache: dict[tuple[int, int], np.ndarray] = {}


def _bounds(n_batch: int, n_threads: int) -> np.ndarray:
    """Return the limits of the batch chunks, one per thread."""
    n = max(1, min(n_threads, n_batch))
    if (n_batch, n) not in _bounds_cache:
        _bounds_cache[n_batch, n] = np.arange(n + 1, dtype=np.intp) * n_batch // n
    return _bounds_cache[n_batch, n]


@lru_cache
def _windows(width: int, n: int, panel: int) -> np.ndarray:
    """Return what part of the weights' gradients each of n threads adds up: columns from and to, part of the rows."""
    n_panels = width // panel
    n_columns = max(c for c in range(1, min(n, n_panels) + 1) if n % c == 0)
    ends = np.arange(n_columns + 1) * n_panels // n_columns * panel
    n_parts = n // n_columns
    return np.array([(*ends[c : c + 2], p, n_parts) for c in range(n_columns) for p in range(n_parts)], dtype=np.intp)


# Fresh pages cost as much as the kernels that fill them, so big buffers go round.
_free: list[np.ndarray] = []


def _take(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < 1 << 16:
        return np.empty(shape, dtype)
    for i, buffer in enumerate(_free):
        if size <= buffer.nbytes <= 4 * size:
            try:
                buffer = _free.pop(i)
            except IndexError:  # another thread was faster
                break
            if size <= buffer.nbytes:
                return buffer[:size].view(dtype).reshape(shape)
    return np.empty(size, np.uint8)[:size].view(dtype).reshape(shape)


def _give_back(*arrays: np.ndarray) -> None:
    for array in arrays:
        base: Any = array
        while base.base is not None:
            base = base.base
        if base.nbytes >= 1 << 16 and base.dtype == np.uint8:
            _free.append(base)
    del _free[:-_KEPT_BUFFERS]
