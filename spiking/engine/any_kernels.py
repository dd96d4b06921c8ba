"""Runs layers of any neurons: kernels compiled from the ``tick`` of their classes, numpy arrays in and out, no torch.

LSNN neurons have kernels of their own (:mod:`spikeloop.spiking.engine.sequences`); here they run beside others. There
is no backward pass: gradients come from the equations under autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.core.errors import NumbaError

from spikeloop.spiking.decay import decay
from spikeloop.spiking.engine.sequences import Timing, Weights, padded, padded_size
from spikeloop.spiking.engine.tick_kernels import LayerOptions, layer_kernel
from spikeloop.spiking.fields import in_one_line
from spikeloop.spiking.neurons import Neurons

# What a run keeps beside its results: nothing; the outputs of each tick; these, and the membranes.
KEEP_NOTHING, KEEP_OUTPUTS, KEEP_MEMBRANE = 0, 1, 2


class PreparedLayer(NamedTuple):
    """One layer's kernel and constants."""

    kernel: Callable[..., bool]
    rows: np.ndarray  # constants of each neuron, (at least 1, N padded)
    flags: np.ndarray  # constants of all neurons
    options: LayerOptions


class Prepared(NamedTuple):
    """What :func:`run` needs of a network, less its weights, which may change from call to call."""

    layers: tuple[PreparedLayer, ...]
    readout: np.ndarray  # what the trace keeps in a tick, and the share of the output that it takes
    n_memory: int


class Tape(NamedTuple):
    """What a layer did; arrays of shape (0, 0, 0) where it was not kept."""

    outputs: np.ndarray  # (B, T + 1, N): entry 0 before the sequence
    membrane: np.ndarray  # (B, T, N)


def prepare(neurons: Sequence[Neurons], timing: Timing, n_memory: int, dtype: Any) -> Prepared:
    """Return what :func:`run` needs of layers of such neurons.

    Args:
        neurons: Neurons of each layer.
        timing: Ticks, latency, readout.
        n_memory: Rows of the packed state before the first layer's.
        dtype: Of weights and state.

    Raises:
        TypeError: If the ``tick`` of a class does what a model may not.
        ValueError: If neurons cannot be run in ticks of that length, or do not name their output and membrane.

    >>> from spikeloop.spiking.neurons.izhikevich import Izhikevich
    >>> timing = Timing(n_ticks=20, dt=1.0, latency=0, tau_out=0.0, count_spikes=True, held=True)
    >>> prepared = prepare([Izhikevich(gain=np.ones(3))], timing, 0, np.float32)
    >>> w_in = np.array([[0.0, 10.0, 20.0]], np.float32)  # currents of the three neurons, for an input of 1
    >>> weights = [Weights(w_in, np.zeros(3, np.float32), np.empty((0, 3), np.float32))]
    >>> state, counts = np.zeros((4, 1, 3), np.float32), [np.zeros(3, np.int64)]
    >>> x, start = np.ones((1, 2, 1), np.float32), np.zeros((1, 2), np.uint8)  # one environment, two env steps
    >>> y, state, tapes, finite = run(prepared, weights, x, state, start, counts)
    >>> counts, y.shape
    ([array([0, 2, 4])], (1, 2, 3))
    """
    layers, row = [], n_memory
    for i, of_layer in enumerate(neurons):
        layers.append(_prepared_layer(of_layer, timing, row, i == len(neurons) - 1, np.dtype(dtype)))
        row += len(of_layer.rows)
    kappa = float(decay(timing.tau_out, timing.dt))
    share = 1 / timing.n_ticks if timing.count_spikes else 1 - kappa
    return Prepared(tuple(layers), np.array([kappa, share]), n_memory)


def _prepared_layer(neurons: Neurons, timing: Timing, row: int, last: bool, dtype: np.dtype) -> PreparedLayer:
    n, constants = neurons.n_neurons, neurons.constants(timing.dt, dtype)
    width = padded_size(n, dtype)
    kinds = tuple(type(c).__name__ if isinstance(c, (bool, int)) else "row" for c in constants)
    arrays = [np.broadcast_to(c, (n,)) for c, kind in zip(constants, kinds, strict=True) if kind == "row"]
    # a padding neuron is as the last one: what is computed for it is finite, and nobody reads it
    rows = np.stack([np.pad(array, (0, width - n), "edge") for array in arrays or [np.zeros(n)]]).astype(dtype)
    flags = np.array([c for c, kind in zip(constants, kinds, strict=True) if kind != "row"], np.int64)
    names = neurons.rows
    if not {"z", "v"} <= set(names):
        raise ValueError(f"{type(neurons).__name__}.rows must name the output 'z' and the membrane 'v', got {names}")
    options = LayerOptions(
        n=n,
        n_ticks=timing.n_ticks,
        first_row=row,
        n_rows=len(names),
        z=names.index("z"),
        v=names.index("v"),
        latency=timing.latency,
        count=int(timing.count_spikes),
        last=int(last),
        held=int(timing.held),
        graded=int(neurons.graded),
    )
    layer = PreparedLayer(layer_kernel(type(neurons), type(constants), kinds), rows, flags, options)
    _compile(type(neurons), layer)
    return layer


def _compile(neurons: type[Neurons], layer: PreparedLayer) -> None:
    """Let the first call, which compiles, be one of no environments: what cannot be compiled is refused here.

    Raises:
        TypeError: If ``tick`` does what a model may not.
    """
    dtype, width = layer.rows.dtype, layer.rows.shape[1]
    none, row = np.empty((0, 0, 0), dtype), np.empty((0, width), dtype)
    start, count = np.empty((0, 0), np.uint8), np.zeros(layer.options.n, np.int64)
    try:
        layer.kernel(
            none, none, row, row.reshape(-1), row, layer.rows, layer.flags, np.zeros(2), layer.options, none, start,
            none, none, none, none, count,
        )  # fmt: skip
    except NumbaError as error:
        # what numba could not type stands behind ">>>", where it is an operation; the rest is of its own insides
        lines = [line.strip() for line in str(error).splitlines() if not line.startswith("Failed in")]
        found = next((line.removeprefix(">>> ") for line in lines if line.startswith(">>>")), lines[0])
        raise TypeError(
            f"{neurons.__name__}.tick must use only + - * /, abs, comparisons multiplied by arrays, and spike, got "
            f"{in_one_line(found)}"
        ) from None


def run(
    prepared: Prepared,
    weights: Sequence[Weights],
    x: np.ndarray,
    state: np.ndarray,
    start: np.ndarray,
    counts: Sequence[np.ndarray],
    keep: int = KEEP_NOTHING,
) -> tuple[np.ndarray, np.ndarray, list[Tape], bool]:
    """Run a sequence of env steps; several Python threads may do so at once.

    The bits are the same whatever the batch, and however a sequence is cut into calls.

    Args:
        prepared: What :func:`prepare` returned.
        weights: Of each layer, pre x post; those whose columns are not whole vector panels are copied.
        x: Input, contiguous, shape (B, L, n_inputs) where held, else (B, L * n_ticks, n_inputs).
        state: Packed state, contiguous, shape (n_rows, B, width); not modified.
        start: 1 where the state is cleared before the step, uint8, shape (B, L).
        counts: Spike counts that are added to, one per layer, int64, shape (N,).
        keep: One of the KEEP_ constants.

    Returns:
        The readout trace at the end of each step, shape (B, L, N of the last layer), the new state, per layer what was
        kept, and whether the new state is finite.
    """
    dtype, (n_batch, n_steps), last = state.dtype, start.shape, prepared.layers[-1]
    n_t = n_steps * last.options.n_ticks
    new_state = np.zeros_like(state)
    new_state[: prepared.n_memory] = state[: prepared.n_memory]
    y = np.empty((n_batch, n_steps, last.rows.shape[1]), dtype)
    none, finite = np.empty((0, 0, 0), dtype), True
    below, tapes = none, []
    for layer, weight, count in zip(prepared.layers, weights, counts, strict=True):
        n, width = layer.options.n, layer.rows.shape[1]
        kept = keep != KEEP_NOTHING or layer is not last
        outputs = np.empty((n_batch, n_t + 1, width), dtype) if kept else none
        membrane = np.empty((n_batch, n_t, width), dtype) if keep == KEEP_MEMBRANE else none
        finite = layer.kernel(
            x, below, *padded(weight, width), layer.rows, layer.flags, prepared.readout, layer.options, state, start,
            new_state, y, outputs, membrane, count,
        )  # fmt: skip
        tapes.append(Tape(outputs[:, :, :n], membrane[:, :, :n]))
        x, below = np.empty((n_batch, 1, 0), dtype), outputs
    return y[:, :, : last.options.n], new_state, tapes, finite
