"""The kernel that makes an action of outputs, for episodes that are played whole."""

from __future__ import annotations

import numpy as np

from spikeloop.spiking.compiling import kernel


@kernel
def choose(action, best, outputs, bounds):
    """Write an action as a compiled step takes it: the number of the largest output, or the outputs within bounds.

    Args:
        action: Written: int64, shape (1,), for discrete actions; float64, (1, n_action), for continuous ones.
        best: Index of the largest output.
        outputs: Shape (n_outputs,).
        bounds: Of continuous actions, float64, shape (2, n_action).
    """
    if action.ndim == 1:
        action[0] = best
    else:
        for k in range(bounds.shape[1]):
            action[0, k] = min(max(np.float64(outputs[k]), bounds[0, k]), bounds[1, k])
