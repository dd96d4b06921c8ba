"""The code of first spikes in ticks: each input spikes on the tick nearest to its time; pulses have own lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spikeloop.spiking.encoders.first_spikes import FirstSpikes
from spikeloop.spiking.fields import array_of, set_fields


@dataclass(frozen=True, eq=False)
class FirstSpikesInTicks(FirstSpikes):
    """One spike of each input in an env step, on the tick nearest to the time that :class:`FirstSpikes` gives it.

    Behind the inputs come lines that spike at the same time in every env step. What would come after the step's last
    tick does not come.

    Args:
        n_obs: Length of the observation vector.
        middle: Values for which both inputs spike at t_last/2, shape (n_obs,).
        scale: How wide the range of values with different times is, in units of the observation, shape (n_obs,), > 0.
        t_last: When the latest spikes come, in ms.
        pulses: When each further line spikes, in ms, >= 0, shape (n_pulses,).

    Raises:
        ValueError: If a shape is wrong or a number out of range.

    >>> encoder = FirstSpikesInTicks(1, middle=[0.0], scale=[1.0], t_last=1.0, pulses=[0.5])
    >>> x, _ = encoder(np.array([[[0.5]]], np.float32), np.zeros((0, 1, 1)), None, n_ticks=4, dt=0.25)
    >>> x[0, :, 0].T.tolist()  # of 0.269 and 0.731 ms, and of the pulse
    [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
    """

    kind: ClassVar[str] = "first_spikes_in_ticks"
    held: ClassVar[bool] = False
    spikes: ClassVar[bool] = True

    pulses: np.ndarray = ()  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        super().__post_init__()
        pulses = array_of("FirstSpikesInTicks", "pulses", self.pulses, (None,))
        if np.any(pulses < 0):
            raise ValueError(f"FirstSpikesInTicks.pulses must be >= 0, found {pulses.min()}")
        set_fields(self, pulses=pulses)

    @property
    def n_channels(self) -> int:
        """Number of inputs that the first layer sees, the pulses among them."""
        return super().n_channels + self.pulses.size

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: a value that is large enough spikes on the first tick."""
        return None

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the spikes, shape (L, n_ticks, B, n_channels)."""
        times, memory = super().__call__(obs, memory, start, n_ticks, dt)
        pulses = np.broadcast_to(self.pulses, (*times.shape[:2], self.pulses.size))
        ticks = np.floor(np.concatenate((times.astype(np.float64), pulses), axis=2) / dt + 0.5)
        return (ticks[:, None] == np.arange(n_ticks)[:, None, None]).astype(np.float32), memory
