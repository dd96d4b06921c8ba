"""What a deployed policy carries from one env step to the next."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class State(NamedTuple):
    """State of a deployed policy between env steps.

    ``chip``: the machine's, (B, W); ``memory``: past frames and the encoder's memory, (n_rows, B, width);
    ``trace``: the readout's, (B, N) where the host computes it, else (B, 0).

    Example:
        >>> import numpy as np
        >>> State(np.zeros((1, 9), np.int32), np.zeros((0, 1, 4)), np.zeros((1, 0))).chip.shape
        (1, 9)
    """

    chip: np.ndarray
    memory: np.ndarray
    trace: np.ndarray

    def of(self, envs: np.ndarray) -> State:
        """Return the state of some of the environments, a mask or their numbers."""
        return State(self.chip[envs], self.memory[:, envs], self.trace[envs])
