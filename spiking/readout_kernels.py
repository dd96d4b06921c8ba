"""The numba kernel of output units that take spikes."""

from __future__ import annotations

from spikeloop.spiking.compiling import kernel


@kernel
def drive(z, w, bias, out):
    """Write ``w^T z + bias``, the inputs of a row added in ascending order, whatever the batch.

    So did the rules that learn such weights add them, and the same sums decide the same ties.

    Args:
        z: Spikes, mostly 0, shape (rows, N).
        w: Weights, shape (N, n_outputs).
        bias: Shape (n_outputs,).
        out: Written, shape (rows, n_outputs).
    """
    for row in range(z.shape[0]):
        out[row, :] = 0
        for i in range(z.shape[1]):
            if z[row, i] != 0:
                for o in range(w.shape[1]):
                    out[row, o] += z[row, i] * w[i, o]
        for o in range(w.shape[1]):
            out[row, o] += bias[o]
