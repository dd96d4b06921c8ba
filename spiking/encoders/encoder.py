"""How an observation becomes the input of the first layer, as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spikeloop.spiking.fields import array_of, check_choice, flag, number, set_fields, shown, whole
from spikeloop.spiking.limits import MAX_NUMBER, MAX_TIME
from spikeloop.spiking.observation import MAX_OBS

ENCODERS = ("direct", "population", "rate", "latency", "delta")


@dataclass(frozen=True, eq=False)
class Encoder:
    """How an observation becomes the input of the first layer (see :mod:`spikeloop.spiking.encoders.encoding`).

    Args:
        kind: ``direct`` (values are currents held over the step), ``population`` (Gaussian tuning curves, held),
            ``rate`` (random spikes, new on every tick), ``latency`` (one spike, earlier for larger values),
            ``delta`` (signed change events against a remembered level).
        n_obs: Length of the observation vector.
        centers: ``population``: shape (n_obs, n), in units of the observation.
        widths: ``population``: standard deviations, shape (n_obs, n), > 0.
        low: ``rate`` and ``latency``: value mapped to intensity 0, shape (n_obs,).
        high: ``rate`` and ``latency``: value mapped to intensity 1, shape (n_obs,), > low.
        gain: ``rate``: spikes per tick at intensity 1, in (0, 1] for Bernoulli; ``latency``: input current at
            intensity 1, > threshold.
        poisson: ``rate``: spike probability ``1 - exp(-gain * intensity)`` instead of ``gain * intensity``.
        tau: ``latency``: membrane time constant of the charging RC circuit in ms.
        threshold: ``latency``: its threshold; ``delta``: change that makes one event.

    Raises:
        ValueError: If a field that the kind needs is missing, of wrong shape or out of range.
    """

    kind: str
    n_obs: int
    centers: np.ndarray | None = None
    widths: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    gain: float = 1.0
    poisson: bool = False
    tau: float = 5.0
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields that the kind uses."""
        check_choice("Encoder", "kind", self.kind, ENCODERS)
        n = whole("Encoder", "n_obs", self.n_obs, 1, MAX_OBS)
        set_fields(self, n_obs=n, poisson=flag("Encoder", "poisson", self.poisson))
        for name, most in (("gain", MAX_NUMBER), ("tau", MAX_TIME), ("threshold", MAX_NUMBER)):
            set_fields(self, **{name: number("Encoder", name, getattr(self, name), 1e-9, most)})
        for name in ("centers", "widths", "low", "high"):
            value = getattr(self, name)
            if value is not None:  # nor may what the kind does not use be just anything
                set_fields(self, **{name: array_of("Encoder", name, value, (None,) * np.ndim(value))})
        if self.kind == "population":
            centers = array_of("Encoder", "centers", self.centers, (n, None))
            if centers.size == 0:
                raise ValueError("Encoder.centers must have at least one neuron per observation")
            widths = array_of("Encoder", "widths", self.widths, centers.shape)
            if np.any(widths <= 0):
                raise ValueError(f"Encoder.widths must be > 0, found {widths.min()}")
            set_fields(self, centers=centers, widths=widths)
        if self.kind in ("rate", "latency"):
            low, high = array_of("Encoder", "low", self.low, (n,)), array_of("Encoder", "high", self.high, (n,))
            if np.any(high <= low):
                raise ValueError(f"Encoder.high must be above Encoder.low, got low {shown(low)} and high {shown(high)}")
            set_fields(self, low=low, high=high)
        if self.kind == "rate" and not self.poisson:
            number("Encoder", "gain", self.gain, 1e-9, 1.0)
        if self.kind == "latency" and self.gain <= self.threshold:
            raise ValueError(f"Encoder.gain must exceed threshold={self.threshold} to ever spike, got {self.gain}")

    @property
    def n_channels(self) -> int:
        """Number of inputs the first layer sees."""
        if self.kind == "population":
            assert self.centers is not None
            return self.centers.size
        return 2 * self.n_obs if self.kind == "delta" else self.n_obs

    @property
    def per_tick(self) -> bool:
        """Whether the input differs from tick to tick within a step."""
        return self.kind in ("rate", "latency", "delta")

    @property
    def memory_rows(self) -> tuple[str, ...]:
        """Names of the state rows the encoder keeps: the random stream's key, or the remembered level."""
        return {"rate": ("key",), "delta": ("level",)}.get(self.kind, ())


def blind(encoder: Encoder, n_ticks: int, dt: float) -> str | None:
    """Say why an encoder can never spike within an env step, and what would mend it; None if it can.

    Only ``latency`` can be so: at intensity 1 its circuit must pass its threshold by the step's last tick.
    """
    if encoder.kind != "latency" or n_ticks < 1 or not dt > 0:  # such ticks are refused as such
        return None
    needed = 1 + math.floor(-encoder.tau / dt * math.log1p(-encoder.threshold / encoder.gain))
    if needed <= n_ticks:
        return None
    gain = encoder.threshold / -math.expm1(-n_ticks * dt / encoder.tau)
    return (
        f"with n_ticks={n_ticks} and dt={dt} the latency encoder never spikes: with gain={encoder.gain} and "
        f"tau={encoder.tau} it needs n_ticks >= {needed}, or with these ticks a gain above {gain:.4g}"
    )
