"""Which of several neurons that draw their spikes is the first to spike, in closed form: a distribution over actions.

Neuron i spikes on tick k with probability ``p[k, i]``, independently of the others. The first tick with a spike ends
the race. Where several neurons spike on it, one of these is drawn with equal chances; where none has spiked by the last
tick, one of all. So the chance of neuron i, in K ticks of n neurons, is

    P[i]  = sum over k of alive[k] p[k, i] integral from 0 to 1 of prod over j != i of (1 - p[k, j] t) dt
            + alive[K] / n
    alive[0] = 1,  alive[k + 1] = alive[k] prod over j of (1 - p[k, j])

The integral is the mean of 1 / (1 + number of the others that spike on that tick). What is integrated is a polynomial
of degree n - 1, so Gauss-Legendre quadrature with n // 2 + 1 nodes is exact.

First-to-spike decoding: Bagheri, Simeone & Rajendran 2018; as a policy: Rosenfeld, Simeone & Rajendran 2019. With one
neuron ``1 - alive[K]`` is the stochastic tempotron of Urbanczik & Senn 2009.
"""

from __future__ import annotations

import numpy as np


def spike_probability(v: np.ndarray) -> np.ndarray:
    """Return ``1 / (1 + exp(-v))``, the chance that a neuron with membrane v spikes on a tick.

    >>> spike_probability(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    e = np.exp(-np.abs(v))
    return np.where(v >= 0, 1.0, e) / (1.0 + e)


def first_to_spike(p: np.ndarray) -> np.ndarray:
    """Return the chance of each neuron to be the one that decides.

    Args:
        p: Spike probability of each neuron on each tick, shape (n_ticks, ..., n).

    Returns:
        Probabilities, shape (..., n), that sum to 1.

    >>> first_to_spike(np.array([[0.5, 0.5]])).tolist()  # one tick of two neurons alike
    [0.5, 0.5]
    >>> first_to_spike(np.array([[0.5, 0.0]])).tolist()  # the first, or silence
    [0.75, 0.25]
    """
    p = np.asarray(p, np.float64)
    n = p.shape[-1]
    at, weight = np.polynomial.legendre.leggauss(n // 2 + 1)
    at, weight = 0.5 * (at + 1.0), 0.5 * weight  # of [0, 1]
    alive, chosen = np.ones(p.shape[1:-1]), np.zeros(p.shape[1:])
    for of_tick in p:
        silent = 1.0 - of_tick[..., None] * at  # (..., n, nodes)
        for i in range(n):
            others = np.delete(silent, i, axis=-2).prod(axis=-2)
            chosen[..., i] += alive * of_tick[..., i] * (others @ weight)
        alive = alive * (1.0 - of_tick).prod(axis=-1)
    return chosen + alive[..., None] / n
