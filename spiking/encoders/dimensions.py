"""The space that tiles and place cells code: components of an observation, angles, and their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloop.spiking.fields import set_fields, whole
from spikeloop.spiking.observation import MAX_OBS


@dataclass(frozen=True)
class Dimensions:
    """The space that is coded.

    Args:
        low: Lower end of each dimension, in units of the observation; a value beyond an end is taken for the end.
        high: Upper end.
        components: What each dimension is: the index of a component, or a pair of indices of the cosine and the sine
            of an angle, whose ends must be a whole turn apart; None takes the components as they are.
        wraps: Dimensions, by their index here, in which ``high`` is the same as ``low``; pairs always are.
        n_obs: Length of the observation vector; None if no component follows the last that is named.

    Raises:
        ValueError: If lengths differ or an end is not finite or not above the other.

    An angle that the environment shows as cosine and sine, and a velocity:

    >>> dimensions = Dimensions(low=[-np.pi, -8.0], high=[np.pi, 8.0], components=[(0, 1), 2])
    >>> dimensions.n_obs, dimensions.wraps
    (3, (0,))
    """

    low: Sequence[float]
    high: Sequence[float]
    components: Sequence[int | Sequence[int]] | None = None
    wraps: Sequence[int] = ()
    n_obs: int = None  # type: ignore[assignment]  # a number from __post_init__ on

    def __post_init__(self) -> None:
        """Validate and freeze the fields."""
        n = len(self.low)
        components = tuple(range(n)) if self.components is None else tuple(self.components)
        pairs = tuple(i for i, part in enumerate(components) if not isinstance(part, (int, np.integer)))
        parts = tuple(tuple(part) if i in pairs else part for i, part in enumerate(components))  # type: ignore[arg-type]
        for name, value in (("low", tuple(map(float, self.low))), ("high", tuple(map(float, self.high)))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "components", parts)
        object.__setattr__(self, "wraps", tuple(sorted({*self.wraps, *pairs})))
        if n == 0 or len(self.high) != n or len(parts) != n:
            raise ValueError(f"low, high and components must be of one length, got {n}, {len(self.high)}, {len(parts)}")
        if any(len(parts[i]) != 2 for i in pairs) or any(index < 0 for index in np.hstack(parts)):  # type: ignore[arg-type]
            raise ValueError(f"components must be indices or pairs of indices (cosine, sine), got {parts}")
        if not np.all(np.isfinite([self.low, self.high])) or np.any(np.asarray(self.high) <= self.low):
            raise ValueError(f"ends must be finite and low below high, got low {self.low} and high {self.high}")
        if any(not np.isclose(self.high[i] - self.low[i], 2 * np.pi) for i in pairs):
            raise ValueError("the ends of an angle of cosine and sine must be 2 pi apart, such as -pi and pi")
        if not all(0 <= i < n for i in self.wraps):
            raise ValueError(f"wraps must name some of the {n} dimensions, got {self.wraps}")
        least = 1 + int(max(np.hstack(parts)))
        set_fields(
            self, n_obs=whole("Dimensions", "n_obs", least if self.n_obs is None else self.n_obs, least, MAX_OBS)
        )

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """From where to where each component of an observation is expected to lie, two arrays of shape (n_obs,)."""
        low, high = np.full(self.n_obs, -1.0), np.ones(self.n_obs)  # of cosines, sines, and what is not coded
        for part, *ends in zip(self.components, self.low, self.high, strict=True):  # type: ignore[arg-type]
            if isinstance(part, (int, np.integer)):
                low[part], high[part] = ends
        return low, high

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """Far beyond these bounds, each of shape (n_obs,), an observation is taken for an end; angles have none."""
        low, high = self.expected
        margin = high - low
        bounds = np.full(self.n_obs, -np.inf), np.full(self.n_obs, np.inf)
        for i, part in enumerate(self.components):  # type: ignore[arg-type]
            if isinstance(part, (int, np.integer)) and i not in self.wraps:
                bounds[0][part], bounds[1][part] = low[part] - margin[part], high[part] + margin[part]
        return bounds

    @classmethod
    def over(
        cls,
        low: np.ndarray,
        high: np.ndarray,
        components: Sequence[int | Sequence[int]] | None = None,
        wraps: Sequence[int] = (),
    ) -> Dimensions:
        """Return the dimensions of observations between two ends, each of shape (n_obs,); angles take a turn."""
        parts = list(range(len(low)) if components is None else components)
        if any(not 0 <= index < len(low) for index in np.hstack(parts).tolist()):
            raise ValueError(f"components must be indices into {len(low)} numbers, got {parts}")
        lows, highs = (
            [float(end[part]) if isinstance(part, (int, np.integer)) else turn for part in parts]
            for end, turn in ((low, -np.pi), (high, np.pi))
        )
        return cls(lows, highs, parts, wraps, n_obs=len(low))

    def table(self, extent: np.ndarray) -> dict[str, Any]:
        """Return what the kernels know of the dimensions, coded from 0 to ``extent``, shape (d,)."""
        sources = np.array([part if isinstance(part, tuple) else (part, -1) for part in self.components])  # type: ignore[union-attr]
        low, high = np.array(self.low), np.array(self.high)
        extent = extent.astype(np.float64)
        return {
            "sources": sources.astype(np.int64),
            "low": low,
            "gain": extent / (high - low),
            "extent": extent,
            "wraps": np.isin(np.arange(len(low)), self.wraps),
        }
