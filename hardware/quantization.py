"""What the weights of a network lose when a chip stores them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spikeloop.spiking.fields import number, set_fields, text, whole


@dataclass(frozen=True)
class QuantizationCost:
    """What the weights of one projection lost.

    Args:
        projection: Its name.
        n_weights: Weights that are not zero in the network.
        n_became_zero: How many of them are zero on the chip.
        signal_to_noise_db: Mean square of the weights over that of their errors, in dB; infinite without errors.
        largest_over_median: Largest magnitude over the median one: an outlier costs the others their bits.

    Example:
        >>> import numpy as np
        >>> cost = quantization_cost("input", np.array([[0.5, 0.01]]), np.array([[0.5, 0.0]]))
        >>> print(cost)
        input: 1 of 2 weights became 0, signal to noise 34.0 dB; the largest weight is 2.0 times the median
        >>> cost.is_large
        True
    """

    projection: str
    n_weights: int
    n_became_zero: int
    signal_to_noise_db: float
    largest_over_median: float

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "QuantizationCost"
        set_fields(
            self,
            projection=text(me, "projection", self.projection),
            n_weights=whole(me, "n_weights", self.n_weights, 0, 2**53),
            n_became_zero=whole(me, "n_became_zero", self.n_became_zero, 0, 2**53),
            signal_to_noise_db=number(me, "signal_to_noise_db", self.signal_to_noise_db, -math.inf, math.inf),
            largest_over_median=number(me, "largest_over_median", self.largest_over_median, 0.0, math.inf),
        )

    @property
    def is_large(self) -> bool:
        """Whether it is worth a warning: over 10 % of the weights gone, or noise of over a tenth of the weights.

        Normally distributed weights in 8 bits lose about 1 % of them and keep 40 dB; in 4 bits 20 % and 17 dB.
        """
        return self.n_became_zero > 0.1 * self.n_weights or self.signal_to_noise_db < 20.0

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.projection}: {self.n_became_zero} of {self.n_weights} weights became 0, signal to noise "
            f"{self.signal_to_noise_db:.1f} dB; the largest weight is {self.largest_over_median:.1f} times the median"
        )


def quantization_cost(projection: str, weights: np.ndarray, stored: np.ndarray) -> QuantizationCost:
    """Return what a projection lost.

    Args:
        projection: Its name.
        weights: In the network, shape (Q, P), not all zero.
        stored: What the chip holds, in the same units.
    """
    present = abs(weights[weights != 0]).astype(np.float64)
    noise = float(np.sum(((stored - weights) / present.max()) ** 2))
    signal = float(np.sum((present / present.max()) ** 2))
    return QuantizationCost(
        projection,
        present.size,
        int(np.count_nonzero(stored[weights != 0] == 0)),
        10.0 * math.log10(signal / noise) if noise else math.inf,
        float(present.max() / np.median(present)),
    )
