"""Numba kernels of random spikes: what :mod:`population_spikes` computes, and the hash of :mod:`keys`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.keys import KEY_INCREMENT, KEY_MASK, KEY_MULTIPLIER

_MASK, _MULTIPLIER, _INCREMENT = int(KEY_MASK), int(KEY_MULTIPLIER), int(KEY_INCREMENT)
_32 = np.uint64(2**32 - 1)
_FIRST, _SECOND = np.uint64(0x21F0AAAD), np.uint64(0xD35A2D97)


class Curves(NamedTuple):
    """Tuning curves of each value; if there are none, the observation is the number of the only line that spikes."""

    centers: np.ndarray  # (n_obs, n) float64
    widths: np.ndarray
    clips: np.ndarray  # (1,) bool


def one_line() -> Curves:
    """Return the empty curves that stand for a line per option of a choice, which is observed as its number."""
    return Curves(np.empty((0, 0)), np.empty((0, 0)), np.zeros(1, bool))


@kernel
def mix(x):
    """Return the hash of a number below 2^32, uint64."""
    x = ((x ^ (x >> np.uint64(16))) * _FIRST) & _32
    x = ((x ^ (x >> np.uint64(15))) * _SECOND) & _32
    return x ^ (x >> np.uint64(15))


@kernel
def population_spikes(curves, obs, key, x):
    """Write the spikes of an env step to ``x``, and move the key on.

    Args:
        curves: The tuning curves.
        obs: What is observed, shape (n_obs,).
        key: The key, float64, shape (1,); overwritten.
        x: Spikes, shape (n_ticks, n_channels); (1, n_channels) for a line per option, which is held.
    """
    n_obs, n = curves.centers.shape
    if n == 0:
        x[:] = 0
        x[0, int(obs[0])] = 1
        return
    before = np.uint64(key[0])
    hashed = mix(before)
    for j in range(n_obs):
        value = np.float64(np.float32(obs[j]))
        if curves.clips[0]:
            low = high = curves.centers[j, 0]
            for k in range(1, n):
                low, high = min(low, curves.centers[j, k]), max(high, curves.centers[j, k])
            value = min(max(value, low), high)
        for k in range(n):
            z = (value - curves.centers[j, k]) / curves.widths[j, k]
            x[0, j * n + k] = math.exp(-0.5 * z * z)
    for tick in range(x.shape[0] - 1, -1, -1):  # backwards, as the first row holds the probabilities until the end
        mixed = mix((hashed + np.uint64(tick)) & _32)
        for c in range(x.shape[1]):
            u = np.float64(mix((mixed + np.uint64(c)) & _32) >> np.uint64(8)) * 2.0**-24
            x[tick, c] = 1.0 if u < x[0, c] else 0.0
    key[0] = (int(before) * _MULTIPLIER + _INCREMENT) & _MASK
