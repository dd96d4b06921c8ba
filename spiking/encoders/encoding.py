"""Observations to network input, as pure functions over whole sequences of env steps.

The result for L steps equals, bit for bit, that of L calls with one step each and that of any split of the batch:
every value depends on one environment's observations and memory only. Observations are rounded to float32 first, as
SB3 does before its policies; what follows is computed in float64 and rounded once.

With ``s = clip((x - low) / (high - low), 0, 1)`` the intensity of an observation ``x``, an env step has ticks
``k = 0 ... n_ticks - 1`` and the input is

    direct       x                                               a current, held over the step
    population   exp(-((x - c) / w)^2 / 2)                       held; all n centres of dim 0, then of dim 1, ...
                                                                 (Eliasmith & Anderson 2003; Tang et al. 2020, PopSAN)
    rate         1 where u < p, p = gain s                       Bernoulli; "poisson": p = 1 - exp(-gain s)
    latency      1 at the first k where gain s (1 - exp(-(k + 1) dt / tau)) > threshold, else 0
                                                                 a charging RC circuit (Eshraghian et al. 2023, 3.A)
    delta        up 1, level <- level + threshold    if x - level > threshold
                 down 1, level <- level - threshold  else if level - x > threshold
                                                                 channels: up of all dims, then down of all dims

``delta`` starts each episode at level 0. The uniforms u of ``rate`` are a hash of (key, k, channel); the key moves on
by one step of a full-period generator modulo 2^24 per env step, episodes or not, so a run can be replayed from its
start keys alone. All environments walk the same cycle of 2^24 steps, each from its own start.
"""

from __future__ import annotations

import numpy as np

from spikeloop.spiking import checks
from spikeloop.spiking.encoders.encoder import Encoder

# A key lives in the packed state, whose float32 holds integers exactly up to 2^24. Multiplier 1 modulo 4 and odd
# increment give the full period (Hull & Dobell 1962).
_KEY_MASK = np.uint32(2**24 - 1)
_KEY_MULTIPLIER = np.uint32(1140671485)
_KEY_INCREMENT = np.uint32(12820163)


def encode(
    encoder: Encoder,
    obs: np.ndarray,
    memory: np.ndarray,
    episode_start: np.ndarray | None,
    n_ticks: int,
    dt: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode a sequence of env steps.

    Args:
        encoder: What to compute.
        obs: Observations, already normalised, shape (L, B, n_obs).
        memory: The encoder's rows of the packed state, shape (n_memory_rows, B, >= n_obs), before the first step.
        episode_start: Whether an episode begins at a step, shape (L, B); None where none does.
        n_ticks: Ticks per env step.
        dt: Length of a tick in ms.

    Returns:
        The input as float32, shape (L, B, n_channels) where it is held over the step, (L, n_ticks, B, n_channels)
        where ``encoder.per_tick``; and the memory after the last step. The arguments are not modified.

    Raises:
        ValueError: If a shape is wrong, an observation is not finite in float32, or a key is none.
    """
    obs = checks.shaped("obs", obs, ("L", "B", encoder.n_obs))
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        obs = checks.finite("obs", np.array(obs, dtype=np.float32, order="C"))
    n_rows = len(encoder.memory_rows)
    if memory.ndim != 3 or memory.shape[:2] != (n_rows, obs.shape[1]) or (n_rows and memory.shape[2] < encoder.n_obs):
        raise ValueError(f"memory must have shape ({n_rows}, {obs.shape[1]}, >= {encoder.n_obs}), got {memory.shape}")
    if episode_start is not None:
        episode_start = checks.flags("episode_start", episode_start, obs.shape[:2])
    if encoder.kind == "direct":
        return obs, memory
    if encoder.kind == "population":
        return _population(encoder, obs), memory
    if encoder.kind == "rate":
        return _rate(encoder, obs, memory, n_ticks)
    if encoder.kind == "latency":
        return _latency(encoder, obs, n_ticks, dt), memory
    return _delta(encoder, obs, memory, episode_start, n_ticks)


def new_keys(rng: np.random.Generator, n_envs: int) -> np.ndarray:
    """Draw start keys for the memory of a ``rate`` encoder, shape (n_envs,), float32 integers below 2^24."""
    return rng.integers(2**24, size=n_envs).astype(np.float32)


def _population(encoder: Encoder, obs: np.ndarray) -> np.ndarray:
    assert encoder.centers is not None and encoder.widths is not None
    # numpy may take another exp for strided arrays, with other last bits; this one is contiguous by construction.
    u = obs.astype(np.float64)[..., None] - encoder.centers  # (L, B, n_obs, n)
    u /= encoder.widths
    u *= u
    u *= -0.5
    return np.exp(u).astype(np.float32).reshape(*obs.shape[:2], encoder.n_channels)


def _intensity(encoder: Encoder, obs: np.ndarray) -> np.ndarray:
    """Return ``s``, shape (L, B, n_obs), float64."""
    assert encoder.low is not None and encoder.high is not None
    low, high = encoder.low.astype(np.float64), encoder.high.astype(np.float64)
    return np.clip((obs - low) / (high - low), 0.0, 1.0)


def _rate(encoder: Encoder, obs: np.ndarray, memory: np.ndarray, n_ticks: int) -> tuple[np.ndarray, np.ndarray]:
    p = encoder.gain * _intensity(encoder, obs)
    if encoder.poisson:
        p = -np.expm1(-p)
    key = memory[0, :, 0]
    if not ((key >= 0) & (key <= _KEY_MASK)).all():
        raise ValueError(f"keys of a rate encoder must lie within 0 and {_KEY_MASK}, got {key}")
    key = key.astype(np.uint32)  # (B,)
    keys = np.empty(obs.shape[:2], dtype=np.uint32)  # (L, B)
    for step in range(len(obs)):
        keys[step] = key
        key = (key * _KEY_MULTIPLIER + _KEY_INCREMENT) & _KEY_MASK
    u = _uniform(keys, n_ticks, encoder.n_obs)
    memory = memory.copy()
    memory[0, :, 0] = key
    return (u < p[:, None]).astype(np.float32), memory


def _uniform(keys: np.ndarray, n_ticks: int, n_channels: int) -> np.ndarray:
    """Return uniforms on [0, 1), shape (L, n_ticks, B, n_channels), for keys of shape (L, B)."""
    ticks = np.arange(n_ticks, dtype=np.uint32)[:, None]
    channels = np.arange(n_channels, dtype=np.uint32)
    mixed = _mix(_mix(keys)[:, None] + ticks)  # (L, n_ticks, B)
    return (_mix(mixed[..., None] + channels) >> np.uint32(8)) * 2.0**-24


def _mix(x: np.ndarray) -> np.ndarray:
    """Return a hash of each uint32: an invertible mixer, every input bit reaches every output bit."""
    # lowbias32 with the constants found by T. Ettinger (C. Wellons, hash-prospector).
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0xD35A2D97)
    return x ^ (x >> np.uint32(15))


def _latency(encoder: Encoder, obs: np.ndarray, n_ticks: int, dt: float) -> np.ndarray:
    charge = -np.expm1(-np.arange(1, n_ticks + 1) * (dt / encoder.tau))  # (n_ticks,)
    current = encoder.gain * _intensity(encoder, obs)  # (L, B, n_obs)
    above = current[:, None] * charge[:, None, None] > encoder.threshold  # (L, n_ticks, B, n_obs)
    x = above.astype(np.float32)
    x[:, 1:] -= above[:, :-1]  # charge only grows: once above, above to the end of the step
    return x


def _delta(
    encoder: Encoder, obs: np.ndarray, memory: np.ndarray, episode_start: np.ndarray | None, n_ticks: int
) -> tuple[np.ndarray, np.ndarray]:
    n = encoder.n_obs
    # The level is kept in the state's dtype, between ticks as between calls; a wider one here would round at splits.
    level = memory[0, :, :n].copy()  # (B, n_obs)
    threshold = level.dtype.type(encoder.threshold)
    x = np.zeros((len(obs), n_ticks, obs.shape[1], 2 * n), dtype=np.float32)
    for step, target in enumerate(obs):
        if episode_start is not None:
            level[episode_start[step]] = 0.0
        for tick in range(n_ticks):
            up, down = target - level > threshold, level - target > threshold
            x[step, tick, :, :n], x[step, tick, :, n:] = up, down
            level += up * threshold
            level -= down * threshold
    memory = memory.copy()
    memory[0, :, :n] = level
    return x, memory
