"""The factor per tick of a time constant."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def decay(tau: npt.ArrayLike, dt: float = 1.0) -> np.ndarray:
    """Return the factor per tick ``exp(-dt / tau)`` of a time constant; ``tau = 0`` means no memory, factor 0.

    Args:
        tau: Time constant in ms, any shape, >= 0.
        dt: Length of a tick in ms.
    """
    tau = np.asarray(tau, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.where(tau > 0, np.exp(-dt / np.where(tau > 0, tau, 1.0)), 0.0)
