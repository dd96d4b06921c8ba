"""Encoders whose input is spikes, other ones on every tick of an env step.

With the intensity ``s = clip((x - low) / (high - low), 0, 1)`` of a value ``x``, and ticks ``k = 0 ... n_ticks - 1``:

    rate         1 where u < p, p = gain s                       Bernoulli; "poisson": p = 1 - exp(-gain s)
    latency      1 at the first k where gain s (1 - exp(-(k + 1) dt / tau)) > threshold, else 0
    delta        up 1, level <- level + threshold    if x - level > threshold
                 down 1, level <- level - threshold  else if level - x > threshold

The uniforms u of ``rate`` are those of a key in the packed state (:mod:`spikeloop.spiking.encoders.keys`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spikeloop.spiking.encoders import keys
from spikeloop.spiking.fields import array_of, flag, number, set_fields, shown, whole
from spikeloop.spiking.limits import MAX_NUMBER, MAX_TIME
from spikeloop.spiking.observation import MAX_OBS


@dataclass(frozen=True, eq=False)
class Rate:
    """Random spikes, new on every tick, the more of them the larger the value.

    Args:
        n_obs: Length of the observation vector.
        low: Value of intensity 0, shape (n_obs,).
        high: Value of intensity 1, shape (n_obs,), > low.
        gain: Spikes per tick at intensity 1, in (0, 1] without ``poisson``.
        poisson: A spike has the probability ``1 - exp(-gain s)`` instead of ``gain s``.

    Raises:
        ValueError: If a shape is wrong or a number out of range.

    >>> encoder = Rate(1, low=[0.0], high=[1.0])
    >>> memory = encoder.initial_memory(1, np.random.default_rng(0))
    >>> x, memory = encoder(np.ones((1, 1, 1), np.float32), memory, None, n_ticks=3, dt=1.0)
    >>> x[0, :, 0, 0].tolist()  # the largest value spikes on every tick
    [1.0, 1.0, 1.0]
    """

    kind: ClassVar[str] = "rate"
    held: ClassVar[bool] = False
    spikes: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float32
    memory_rows: ClassVar[tuple[str, ...]] = ("key",)

    n_obs: int
    low: np.ndarray
    high: np.ndarray
    gain: float = 1.0
    poisson: bool = False

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        set_fields(self, poisson=flag("Rate", "poisson", self.poisson))
        _set_range(self)
        set_fields(self, gain=number("Rate", "gain", self.gain, 1e-9, MAX_NUMBER if self.poisson else 1.0))

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, *, gain: float = 1.0, poisson: bool = False) -> Rate:
        """Return an encoder of values from ``low`` to ``high``, both of shape (n_obs,)."""
        return cls(len(low), low, high, gain, poisson)

    @property
    def n_channels(self) -> int:
        """Number of inputs that the first layer sees."""
        return self.n_obs

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """From where to where the values are expected to lie."""
        return self.low, self.high

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """Far beyond these bounds, shape (n_obs,), its spikes tell nothing any more."""
        return _covered(self.low, self.high)

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: it may spike within any number of ticks."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the start keys, whole numbers below 2^24: memory of shape (1, n_envs, n_obs), the key in its first."""
        return keys.initial_memory(n_envs, self.n_obs, rng)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the spikes, shape (L, n_ticks, B, n_obs), and the memory after the last step.

        Raises:
            ValueError: If a key is none.
        """
        p = self.gain * _intensity(self.low, self.high, obs)
        if self.poisson:
            p = -np.expm1(-p)
        u, memory = keys.uniforms(memory, len(obs), n_ticks, self.n_obs)
        return (u < p[:, None]).astype(np.float32), memory


@dataclass(frozen=True, eq=False)
class Latency:
    """One spike of each value within the step, the earlier the larger the value.

    A circuit of resistor and capacitor is charged with ``gain`` times the intensity and spikes when it passes its
    threshold (Eshraghian et al. 2023, 3.A).

    Args:
        n_obs: Length of the observation vector.
        low: Value of intensity 0, shape (n_obs,).
        high: Value of intensity 1, shape (n_obs,), > low.
        gain: Input current at intensity 1, > threshold.
        tau: Membrane time constant of the circuit in ms.
        threshold: Membrane that it spikes at.

    Raises:
        ValueError: If a shape is wrong or a number out of range.

    >>> encoder = Latency(1, low=[0.0], high=[1.0], gain=2.0, tau=2.0)
    >>> x, _ = encoder(np.array([[[1.0]], [[0.6]]], np.float32), np.zeros((0, 1, 1)), None, n_ticks=5, dt=1.0)
    >>> x[:, :, 0, 0].tolist()  # a larger value spikes earlier
    [[0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0]]
    """

    kind: ClassVar[str] = "latency"
    held: ClassVar[bool] = False
    spikes: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float32
    memory_rows: ClassVar[tuple[str, ...]] = ()

    n_obs: int
    low: np.ndarray
    high: np.ndarray
    gain: float = 2.0
    tau: float = 5.0
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "Latency"
        _set_range(self)
        set_fields(
            self,
            gain=number(me, "gain", self.gain, 1e-9, MAX_NUMBER),
            tau=number(me, "tau", self.tau, 1e-9, MAX_TIME),
            threshold=number(me, "threshold", self.threshold, 1e-9, MAX_NUMBER),
        )
        if self.gain <= self.threshold:
            raise ValueError(f"Latency.gain must exceed threshold={self.threshold} to ever spike, got {self.gain}")

    @classmethod
    def over(
        cls, low: np.ndarray, high: np.ndarray, *, gain: float = 2.0, tau: float = 5.0, threshold: float = 1.0
    ) -> Latency:
        """Return an encoder of values from ``low`` to ``high``, both of shape (n_obs,).

        With a gain of twice the threshold, the middle of the range charges the circuit just to the threshold.
        """
        return cls(len(low), low, high, gain, tau, threshold)

    @property
    def n_channels(self) -> int:
        """Number of inputs that the first layer sees."""
        return self.n_obs

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """From where to where the values are expected to lie."""
        return self.low, self.high

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """Far beyond these bounds, shape (n_obs,), its spikes tell nothing any more."""
        return _covered(self.low, self.high)

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Say why it can never spike within an env step, and what would mend it; None if it can.

        At intensity 1 its circuit must pass its threshold by the step's last tick.
        """
        if n_ticks < 1 or not dt > 0:  # such ticks are refused as such
            return None
        needed = 1 + math.floor(-self.tau / dt * math.log1p(-self.threshold / self.gain))
        if needed <= n_ticks:
            return None
        gain = self.threshold / -math.expm1(-n_ticks * dt / self.tau)
        return (
            f"with n_ticks={n_ticks} and dt={dt} the latency encoder never spikes: with gain={self.gain} and "
            f"tau={self.tau} it needs n_ticks >= {needed}, or with these ticks a gain above {gain:.4g}"
        )

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return an array without rows: it remembers nothing."""
        return np.zeros((0, n_envs, self.n_obs), np.float32)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the spikes, shape (L, n_ticks, B, n_obs)."""
        charge = -np.expm1(-np.arange(1, n_ticks + 1) * (dt / self.tau))  # (n_ticks,)
        current = self.gain * _intensity(self.low, self.high, obs)  # (L, B, n_obs)
        above = current[:, None] * charge[:, None, None] > self.threshold  # (L, n_ticks, B, n_obs)
        x = above.astype(np.float32)
        x[:, 1:] -= above[:, :-1]  # charge only grows: once above, above to the end of the step
        return x, memory


@dataclass(frozen=True, eq=False)
class Delta:
    """Events where a value has changed: of each value a channel for changes up, and one for changes down.

    It remembers a level, 0 at the start of an episode, and follows the value with it by one threshold per event.

    Args:
        n_obs: Length of the observation vector.
        threshold: Change that makes one event.

    Raises:
        ValueError: If a number is out of range.

    >>> encoder = Delta(1, threshold=0.5)
    >>> x, level = encoder(np.full((1, 1, 1), 1.2, np.float32), np.zeros((1, 1, 1), np.float32), None, 4, dt=1.0)
    >>> x[0, :, 0].tolist(), level.item()  # up twice, then the value is less than one threshold away
    ([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], 1.0)
    """

    kind: ClassVar[str] = "delta"
    held: ClassVar[bool] = False
    spikes: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    obs_dtype: ClassVar[type] = np.float32
    memory_rows: ClassVar[tuple[str, ...]] = ("level",)
    expected: ClassVar[None] = None
    covered: ClassVar[None] = None

    n_obs: int
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        set_fields(
            self,
            n_obs=whole("Delta", "n_obs", self.n_obs, 1, MAX_OBS),
            threshold=number("Delta", "threshold", self.threshold, 1e-9, MAX_NUMBER),
        )

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, *, threshold: float = 1.0) -> Delta:
        """Return the encoder of as many values; where they lie is no matter to it."""
        return cls(len(low), threshold)

    @property
    def n_channels(self) -> int:
        """Number of inputs that the first layer sees: changes up of all values, then changes down of all."""
        return 2 * self.n_obs

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Return None: it may spike within any number of ticks."""
        return None

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return the level 0 of each value, shape (1, n_envs, n_obs)."""
        return np.zeros((1, n_envs, self.n_obs), np.float32)

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the events, shape (L, n_ticks, B, 2 n_obs), and the memory after the last step."""
        n = self.n_obs
        # The level is kept in the state's dtype, between ticks as between calls: a wider one would round at splits.
        level = memory[0, :, :n].copy()  # (B, n_obs)
        threshold = level.dtype.type(self.threshold)
        x = np.zeros((len(obs), n_ticks, obs.shape[1], 2 * n), dtype=np.float32)
        for step, target in enumerate(obs):
            if start is not None:
                level[start[step]] = 0.0
            for tick in range(n_ticks):
                up, down = target - level > threshold, level - target > threshold
                x[step, tick, :, :n], x[step, tick, :, n:] = up, down
                level += up * threshold
                level -= down * threshold
        memory = memory.copy()
        memory[0, :, :n] = level
        return x, memory


def _set_range(encoder: Rate | Latency) -> None:
    """Validate what the encoders of a range share."""
    me = type(encoder).__name__
    n = whole(me, "n_obs", encoder.n_obs, 1, MAX_OBS)
    low, high = array_of(me, "low", encoder.low, (n,)), array_of(me, "high", encoder.high, (n,))
    if np.any(high <= low):
        raise ValueError(f"{me}.high must be above {me}.low, got low {shown(low)} and high {shown(high)}")
    set_fields(encoder, n_obs=n, low=low, high=high)


def _covered(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    margin = high - low
    return low - margin, high + margin


def _intensity(low: np.ndarray, high: np.ndarray, obs: np.ndarray) -> np.ndarray:
    """Return ``s``, shape (L, B, n_obs), float64."""
    low, high = low.astype(np.float64), high.astype(np.float64)
    return np.clip((obs - low) / (high - low), 0.0, 1.0)
