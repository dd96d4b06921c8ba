"""The numba kernel of ``settle`` in :mod:`spikeloop.spiking.equilibrium`.

It computes as many rows at a time as a vector has lanes. In the scratch arrays each unit has one vector, with one lane
for each row. So every sum runs over units in the same order, and a row has the same bits in any batch.
"""

from __future__ import annotations

import numpy as np

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.engine.vectors import bits_of, count_of, lanes_of, load, select, splat, store


@kernel(seconds=5)
def settle(spikes, drive, w, w_back, bias_out, force, steps, lams, n_average, state, y, counts, sent):
    """Let units settle for ``len(steps)`` steps, and write the mean of their last ``n_average`` values to ``y``.

    Args:
        spikes: Whether units send bits by a sigma-delta code; otherwise they send their values.
        drive: Constant input of the hidden units, shape (B, H).
        w: Weights from hidden units to outputs, shape (O, H).
        w_back: Weights from outputs to hidden units, shape (O, H): ``w`` itself, except in a control.
        bias_out: Constant input of the outputs, shape (O,).
        force: Subtracted from the input of each unit, shape (B, H + O).
        steps: How far a unit moves towards its input in each step, shape (T,).
        lams: Share of the newest bits in what a unit has received, shape (T,); 1 where units send their values.
        n_average: Number of last steps whose values are averaged.
        state: Value, last value encoded, remainder of the code, and what was received, each (B, H + O); updated.
        y: Receives the result, shape (B, H + O).
        counts: The number of spikes of each unit is added to it, shape (H + O,).
        sent: Set to 1 where a unit spikes in a step, shape (B, H + O, T); nothing is written if it has no rows.
    """
    lanes = lanes_of(drive)
    n_rows, n_hidden = drive.shape
    n_out = w.shape[0]
    n = n_hidden + n_out
    scratch = np.zeros((8, n, lanes), drive.dtype)
    u, last, phi, v = scratch[0].ravel(), scratch[1].ravel(), scratch[2].ravel(), scratch[3].ravel()
    x, q, total, arrived = scratch[4].ravel(), scratch[5].ravel(), scratch[6].ravel(), scratch[7].ravel()
    dtype = drive.dtype.type
    zero, one, half = splat(dtype(0)), splat(dtype(1)), splat(dtype(0.5))
    for first in range(0, n_rows, lanes):
        n_lanes = min(lanes, n_rows - first)
        valid = np.uint64((1 << n_lanes) - 1)
        for k in range(n_lanes):
            row = first + k
            for i in range(n):
                at = i * lanes + k
                u[at], last[at], phi[at], v[at] = state[0, row, i], state[1, row, i], state[2, row, i], state[3, row, i]
                constant = drive[row, i] if i < n_hidden else bias_out[i - n_hidden]
                x[at] = constant - force[row, i]
                total[at] = dtype(0)
        for t in range(len(steps)):
            step, lam, kept = splat(steps[t]), splat(lams[t]), splat(dtype(1) - lams[t])
            for j in range(n):
                # the outputs come first, as hidden units need what outputs send
                i = j + n_hidden if j < n_out else j - n_out
                at = i * lanes
                value = load(u, at)
                if spikes:
                    code = load(phi, at) + (value - kept * load(last, at)) / lam
                    fired = code > half
                    bit = select(fired, one, zero)
                    store(phi, at, code - bit)
                    store(last, at, value)
                    bits = bits_of(fired) & valid
                    counts[i] += count_of(bits)
                    if len(sent):
                        for k in range(n_lanes):
                            sent[first + k, i, t] = (bits >> np.uint64(k)) & np.uint64(1)
                else:
                    bit = value
                if j < n_out:
                    store(q, at, bit)
                    store(arrived, at, zero)
                    continue
                back = zero
                for o in range(n_out):
                    out = (n_hidden + o) * lanes
                    store(arrived, out, load(arrived, out) + splat(w[o, i]) * bit)
                    back = back + splat(w_back[o, i]) * load(q, out)
                received = kept * load(v, at) + lam * back
                moved = value + step * (load(x, at) + received - value)
                moved = select(moved > zero, moved, zero)
                moved = select(moved < one, moved, one)
                store(v, at, received)
                store(u, at, moved)
            for o in range(n_out):
                at = (n_hidden + o) * lanes
                value = load(u, at)
                received = kept * load(v, at) + lam * load(arrived, at)
                moved = value + step * (load(x, at) + received - value)
                if spikes:
                    moved = select(moved > zero, moved, zero)
                    moved = select(moved < one, moved, one)
                store(v, at, received)
                store(u, at, moved)
            if t >= len(steps) - n_average:
                for at in range(0, n * lanes, lanes):
                    store(total, at, load(total, at) + load(u, at))
        for k in range(n_lanes):
            row = first + k
            for i in range(n):
                at = i * lanes + k
                state[0, row, i], state[1, row, i], state[2, row, i], state[3, row, i] = u[at], last[at], phi[at], v[at]
                y[row, i] = total[at] / dtype(n_average)
