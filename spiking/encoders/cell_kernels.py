"""Numba kernels of place cells that are recruited where no other is near.

:mod:`spikeloop.spiking.encoders.recruited_cells` has the equations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.compiling import kernel


class Cells(NamedTuple):
    """Maps of place cells, and what is known of the space they code; while they learn, kernels write here."""

    centers: np.ndarray  # (n_cells, d) in units of the code, map by map; first the numbers that its map sees, then 0
    first: np.ndarray  # (n_maps,) int64, where the cells of a map begin
    room: np.ndarray  # (n_maps,) int64, how many of a map there can be
    counts: np.ndarray  # (n_maps,) int64, how many there are
    n_active: np.ndarray  # (n_maps,) int64, how many of a map spike at any time
    numbers: np.ndarray  # (n_maps, d) int64, the numbers of the place that a map sees
    n_numbers: np.ndarray  # (n_maps,) int64, how many these are; what stands behind them means nothing
    squared_radii: np.ndarray  # (n_maps,) a cell is recruited where the nearest of its map is farther away
    mean: np.ndarray  # (d,) of the observations that were measured
    sd: np.ndarray  # (d,)
    seen: np.ndarray  # (n_measured, d) observations that are measured before there are cells
    n_seen: np.ndarray  # (1,) int64
    shares: np.ndarray  # (n_maps,) of their pairs that are nearer to each other than the radius
    # what every table of lines has: where numbers come from, and a row for each line that spikes at any time
    sources: np.ndarray  # (d, 1) components of the observation
    offsets: np.ndarray  # (n_active, 0)


@kernel
def code_cells(cells, obs, active, learning):
    """Write the cells that spike for ``obs``, shape (n_obs,), to ``active``, ascending; return how many they are.

    If learning, observations are measured until there are enough, and then cells are recruited.
    """
    n_measured, n_seen = cells.seen.shape[0], cells.n_seen[0]
    if n_seen < n_measured:
        if learning:
            cells.seen[n_seen] = obs
            cells.n_seen[0] = n_seen + 1
            if n_seen + 1 == n_measured:
                _measure(cells)
        return 0
    place, seen = np.empty(cells.mean.shape[0]), np.empty(cells.mean.shape[0])
    _place(cells, obs, place)
    distances = np.empty(active.shape[0])
    n = 0
    for m in range(cells.first.shape[0]):
        first, count, n_each, n_numbers = cells.first[m], cells.counts[m], cells.n_active[m], cells.n_numbers[m]
        for i in range(n_numbers):
            seen[i] = place[cells.numbers[m, i]]
        found = min(n_each, count)
        nearest = active[n : n + n_each]
        centers = cells.centers[first : first + count]
        _nearest(centers, seen[:n_numbers], distances[:found], nearest[:found])
        is_new = found == 0 or distances[0] > cells.squared_radii[m]
        if learning and is_new and count < cells.room[m]:
            cells.centers[first + count, :n_numbers] = seen[:n_numbers]
            found = min(n_each, found + 1)
            nearest[found - 1] = count  # in place of the farthest
            cells.counts[m] += 1
        for k in range(found):  # in the order in which a network's readout adds them
            cell, at = first + nearest[k], k
            while at > 0 and nearest[at - 1] > cell:
                nearest[at] = nearest[at - 1]
                at -= 1
            nearest[at] = cell
        n += found
    return n


@kernel
def _place(cells, obs, place):
    for i in range(place.shape[0]):
        place[i] = math.asinh((obs[i] - cells.mean[i]) / cells.sd[i])


@kernel
def _nearest(centers, place, distances, nearest):
    """Write the cells nearest to a place, the first the nearest, and their squared distances."""
    n = nearest.shape[0]
    distances[:] = np.inf
    for cell in range(centers.shape[0]):
        distance = 0.0
        for i in range(place.shape[0]):
            d = place[i] - centers[cell, i]
            distance += d * d
        if not distance < distances[n - 1]:
            continue
        k = n - 1
        while k > 0 and distance < distances[k - 1]:
            distances[k], nearest[k] = distances[k - 1], nearest[k - 1]
            k -= 1
        distances[k], nearest[k] = distance, cell


@kernel
def _measure(cells):
    """Set mean, standard deviation and radii by the observations that were seen."""
    n, n_dims = cells.seen.shape
    for i in range(n_dims):
        cells.mean[i] = cells.seen[:, i].mean()
        sd = cells.seen[:, i].std()
        cells.sd[i] = sd if sd > 0.0 else 1.0  # what never changed is 0 wherever it stays
    places = np.empty((n, n_dims))
    for k in range(n):
        _place(cells, cells.seen[k], places[k])
    distances = np.empty(n * (n - 1) // 2)
    for m in range(cells.squared_radii.shape[0]):
        numbers, pair = cells.numbers[m, : cells.n_numbers[m]], 0
        for a in range(n):
            for b in range(a):
                distance = 0.0
                for i in numbers:
                    d = places[a, i] - places[b, i]
                    distance += d * d
                distances[pair] = distance
                pair += 1
        distances.sort()
        cells.squared_radii[m] = distances[int(cells.shares[m] * pair)]
