"""Numba kernels of the codes of the whole observation space: the few lines that spike, of tiles or place cells."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba.extending import overload

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.cell_kernels import Cells, code_cells


class Coder(NamedTuple):
    """Tables of tiles or place cells; one of ``sizes`` and ``centers`` is empty."""

    sources: np.ndarray  # (d, 2) component, -1; or cosine, sine
    low: np.ndarray  # (d,)
    gain: np.ndarray  # (d,) units of the code per unit of the observation
    extent: np.ndarray  # (d,) units of the code from low to high
    wraps: np.ndarray  # (d,) bool
    sizes: np.ndarray  # (d,) tiles along each dimension of a grid
    offsets: np.ndarray  # (n_active, d) displacement of each grid
    centers: np.ndarray  # (n_cells, d)


def encode(coder, obs, active, learning=False):
    """Write the lines that spike for ``obs``, shape (n_obs,), to ``active``, ascending; return how many they are.

    They are all of ``active``, shape (n_active,), but where cells are still to be recruited, which happens if learning.
    Kernels may call it too: each is compiled for the one kind of tables it is given, so that none pays for the other.
    """
    if isinstance(coder, Cells):
        return code_cells(coder, obs, active, learning)
    return _encode_tiles(coder, obs, active)


@overload(encode)
def _encode(coder, obs, active, learning=False):
    if coder.instance_class is Cells:
        return lambda coder, obs, active, learning=False: code_cells(coder, obs, active, learning)
    return lambda coder, obs, active, learning=False: _encode_tiles(coder, obs, active)


@kernel
def _encode_tiles(coder, obs, active):
    n_dims = coder.low.shape[0]
    place = np.empty(n_dims)
    for i in range(n_dims):
        value = obs[coder.sources[i, 0]]
        if coder.sources[i, 1] >= 0:
            value = math.atan2(obs[coder.sources[i, 1]], value)
        p = (value - coder.low[i]) * coder.gain[i]
        if not coder.wraps[i]:
            p = min(p, coder.extent[i]) if p > 0.0 else 0.0  # NaN becomes 0 as well
        place[i] = p
    if coder.centers.shape[0] > 0:
        _nearest(coder, place, active)
        active.sort()  # in the order in which a network's readout adds them
        return active.shape[0]
    base = 0
    for t in range(active.shape[0]):
        index, size = 0, 1
        for i in range(n_dims):
            n = coder.sizes[i]
            k = math.floor(place[i] + coder.offsets[t, i])
            if coder.wraps[i]:
                k %= n
            index = index * n + k
            size *= n
        active[t] = base + index
        base += size
    return active.shape[0]


@kernel
def _nearest(coder, place, active):
    n_active = active.shape[0]
    nearest = np.full(n_active, np.inf)
    active[:] = 0
    for cell in range(coder.centers.shape[0]):
        distance = 0.0
        for i in range(place.shape[0]):
            d = place[i] - coder.centers[cell, i]
            if coder.wraps[i]:
                d -= math.floor(d + 0.5)
            distance += d * d
        if not distance < nearest[n_active - 1]:
            continue
        k = n_active - 1
        while k > 0 and distance < nearest[k - 1]:
            nearest[k], active[k] = nearest[k - 1], active[k - 1]
            k -= 1
        nearest[k], active[k] = distance, cell


@kernel
def spikes(coder, obs, n_active, x):
    """Write 1 to the lines that spike for each row of ``obs``, shape (n, n_obs), in ``x``, zeros (n, n_lines)."""
    active = np.empty(n_active, np.int64)
    for row in range(obs.shape[0]):
        for k in range(encode(coder, obs[row], active)):
            x[row, active[k]] = 1
