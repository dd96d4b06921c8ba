"""Random numbers that can be replayed: a key in the packed state, and the uniforms that are a hash of it.

The uniforms of an env step are a hash of (key, tick, channel). With each env step, also across episodes, the key moves
on by one step of a full-period generator modulo 2^24, so a run can be replayed from its start keys alone. All
environments walk the same cycle of 2^24 steps, each from its own start.
"""

from __future__ import annotations

import numpy as np

# A key lives in the packed state, whose float32 holds integers exactly up to 2^24. Multiplier 1 modulo 4 and odd
# increment give the full period (Hull & Dobell 1962).
KEY_MASK = np.uint32(2**24 - 1)
KEY_MULTIPLIER = np.uint32(1140671485)
KEY_INCREMENT = np.uint32(12820163)


def initial_memory(n_envs: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the start keys, whole numbers below 2^24: memory of shape (1, n_envs, width), the key in its first."""
    memory = np.zeros((1, n_envs, width), np.float32)
    memory[0, :, 0] = rng.integers(2**24, size=n_envs)
    return memory


def uniforms(memory: np.ndarray, n_steps: int, n_ticks: int, n_channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the uniforms of a sequence of env steps, and the memory after it.

    Args:
        memory: As :func:`initial_memory` returns it; not modified.
        n_steps: Env steps L.
        n_ticks: Ticks of each.
        n_channels: Numbers of each tick.

    Returns:
        Uniforms on [0, 1), multiples of 2^-24, shape (L, n_ticks, B, n_channels), and the new memory.

    Raises:
        ValueError: If a key is not a whole number below 2^24.

    >>> memory = initial_memory(1, 2, np.random.default_rng(0))
    >>> u, after = uniforms(memory, n_steps=2, n_ticks=3, n_channels=5)
    >>> second = uniforms(uniforms(memory, 1, 3, 5)[1], 1, 3, 5)[0]  # one step after the other
    >>> u.shape, bool((u[1] == second[0]).all())
    ((2, 3, 1, 5), True)
    """
    key = memory[0, :, 0]
    if not ((key >= 0) & (key <= KEY_MASK)).all():
        raise ValueError(f"keys of random spikes must lie within 0 and {KEY_MASK}, got {key}")
    key = key.astype(np.uint32)  # (B,)
    keys = np.empty((n_steps, len(key)), dtype=np.uint32)  # (L, B)
    for step in range(n_steps):
        keys[step] = key
        key = (key * KEY_MULTIPLIER + KEY_INCREMENT) & KEY_MASK
    memory = memory.copy()
    memory[0, :, 0] = key
    return _uniform(keys, n_ticks, n_channels), memory


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
