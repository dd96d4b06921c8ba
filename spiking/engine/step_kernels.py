"""One env step in one kernel call: all layers, or the whole way from a raw observation to the largest output."""

from __future__ import annotations

import numpy as np
from numba import carray

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.engine.lsnn_kernels import (
    KEEP_NOTHING,
    LsnnOptions,
    LsnnRows,
    count_spikes,
    forward_rows,
    options_of,
)
from spikeloop.spiking.engine.products import all_finite, linear_rows
from spikeloop.spiking.engine.vectors import pointer_to

N_OPTIONS, N_ROWS = len(LsnnOptions._fields), len(LsnnRows._fields)


@kernel
def step_layers(table, x, state, start, new_state, y):
    """Run all layers over the ticks of one env step.

    Args:
        table: Per layer n_inputs and the addresses of w_in, bias, w_rec (0: none), constants, options and counts, as
            :func:`forward_rows` takes them, padded to ``table[i, 7]`` columns.
        x: Input, shape (B, 1 or n_ticks, n_inputs).
        state: Packed state.
        start: 1 where the state is cleared first, shape (B, 1).
        new_state: Written.
        y: Written: the readout trace, shape (B, 1, padded N of the last layer).

    Returns:
        Whether the new state is finite, which it is not where the input or the state was not.
    """
    dtype = state.dtype
    n_batch = state.shape[1]
    source = x
    below, below_ptr = np.empty(0, np.uint16), np.empty((0, 0), np.int64)
    for i in range(table.shape[0]):
        n_inputs, width = table[i, 0], table[i, 7]
        options = carray(pointer_to(table[i, 5]), (N_OPTIONS,), np.intp)
        n, n_ticks = options_of(options).n, options_of(options).n_ticks
        spikes, ptr = np.empty(n_batch * (n_ticks + 1) * n, np.uint16), np.empty((n_batch, n_ticks + 2), np.int64)
        # nothing is kept: y only stands in for the arrays that would be written
        forward_rows(
            0, n_batch, KEEP_NOTHING, source,
            carray(pointer_to(table[i, 1]), (n_inputs, width), dtype),
            carray(pointer_to(table[i, 2]), (width,), dtype),
            carray(pointer_to(table[i, 3]), (n if table[i, 3] != 0 else 0, width), dtype),
            carray(pointer_to(table[i, 4]), (N_ROWS, width), dtype),
            options, below, below_ptr, state, start, new_state, y, y, y, spikes, ptr,
        )  # fmt: skip
        count_spikes(spikes, ptr, carray(pointer_to(table[i, 6]), (n,), np.int64))
        if i + 1 < table.shape[0]:
            below, below_ptr, source = spikes, ptr, np.empty((n_batch, 1, 0), dtype)
    return all_finite(new_state)


@kernel
def act(table, obs, state, start, new_state, outputs):
    """Run one env step of a network with ``direct`` input, from the raw observation to the largest output.

    Args:
        table: As for :func:`step_layers`, and a last row: n_outputs, N of the last layer, the addresses of w_out
            (n_outputs, N) and b_out, those of mean and of std and clip (2 n_obs) of the normaliser, or 0, and
            whether it rounds first.
        obs: Raw observations, shape (B, n_obs).
        state: Packed state.
        start: 1 where the state is cleared first, shape (B, 1).
        new_state: Written.
        outputs: Written, shape (B, n_outputs).

    Returns:
        The index of the largest output of the first row; -1 if the new state is not finite.
    """
    n_batch, n_obs = obs.shape
    last = table[-1]
    x = np.empty((n_batch, 1, n_obs), state.dtype)
    if last[4] == 0:
        for b in range(n_batch):
            for j in range(n_obs):
                x[b, 0, j] = np.float32(obs[b, j])
    else:
        mean = carray(pointer_to(last[4]), (n_obs,), np.float64)
        scale = carray(pointer_to(last[5]), (2 * n_obs,), np.float64)
        for b in range(n_batch):
            for j in range(n_obs):
                value = np.float64(np.float32(obs[b, j])) if last[6] != 0 else np.float64(obs[b, j])
                value = (value - mean[j]) / scale[j]
                clip = scale[n_obs + j]
                if value > clip:
                    value = clip
                if value < -clip:
                    value = -clip
                x[b, 0, j] = np.float32(value)  # NaN stays NaN
    y = np.empty((n_batch, 1, table[-2, 7]), state.dtype)
    if not step_layers(table[:-1], x, state, start, new_state, y):
        return -1
    w_out = carray(pointer_to(last[2]), (last[0], last[1]), state.dtype)
    b_out = carray(pointer_to(last[3]), (last[0],), state.dtype)
    linear_rows(y.reshape((n_batch, -1)), w_out, b_out, outputs)
    best = 0
    for o in range(1, outputs.shape[1] if n_batch > 0 else 0):
        if outputs[0, o] > outputs[0, best]:
            best = o
    return best
