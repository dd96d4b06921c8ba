"""The probability of each of several stochastic neurons to spike first, in closed form: a distribution over actions.

Neuron i spikes on tick k with probability ``p[k, i]``, independently of the others. The first tick with a spike ends
the race. If several neurons spike on that tick, one of these is drawn with equal chances; if none has spiked by the
last tick, one of all neurons is drawn. So the chance of neuron i to be chosen, in K ticks of n neurons, is

    P[i]  = sum over k of alive[k] p[k, i] integral from 0 to 1 of prod over j != i of (1 - p[k, j] t) dt
            + alive[K] / n
    alive[0] = 1,  alive[k + 1] = alive[k] prod over j of (1 - p[k, j])

The integral is the mean of 1 / (1 + number of other neurons that spike on that tick). The integrand is a polynomial of
degree n - 1, so Gauss-Legendre quadrature with n // 2 + 1 nodes is exact.

First-to-spike decoding: Bagheri, Simeone & Rajendran 2018; as a policy: Rosenfeld, Simeone & Rajendran 2019. With one
neuron ``1 - alive[K]`` is the stochastic tempotron of Urbanczik & Senn 2009.
"""

from __future__ import annotations

from functools import cache

import numpy as np


def spike_probability(v: np.ndarray) -> np.ndarray:
    """Return ``1 / (1 + exp(-v))``, the chance that a neuron with membrane v spikes on a tick.

    >>> spike_probability(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    e = np.exp(-np.abs(v))
    return np.where(v >= 0, 1.0, e) / (1.0 + e)


def first_to_spike(p: np.ndarray) -> np.ndarray:
    """Return the probability of each neuron to be the one that is chosen.

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
    decides, silent = p * _no_others(p), (1.0 - p).prod(axis=-1)
    alive, chosen = np.ones(p.shape[1:-1]), np.zeros(p.shape[1:])
    for k in range(len(p)):
        chosen += alive[..., None] * decides[k]
        alive = alive * silent[k]
    return chosen + alive[..., None] / p.shape[-1]


def first_to_spike_gradient(p: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """Return a loss's gradient by the spike probabilities, from its gradient by the result of :func:`first_to_spike`.

    Args:
        p: Spike probability of each neuron on each tick, shape (n_ticks, ..., n).
        grad: The loss's gradient by the probabilities of being chosen, shape (..., n).

    Returns:
        The gradient by p, shape (n_ticks, ..., n).

    >>> first_to_spike_gradient(np.array([[0.5, 0.0]]), np.array([1.0, 0.0])).tolist()
    [[0.5, -0.5]]
    """
    p, n = np.asarray(p, np.float64), p.shape[-1]
    alone, by_p = _no_others(p), np.empty(p.shape)
    silent = (1.0 - p).prod(axis=-1)
    alive = np.ones(p.shape[:-1])  # as each tick begins
    np.cumprod(silent[:-1], axis=0, out=alive[1:])
    decides, by_alive = (grad * p * alone).sum(axis=-1), np.empty(p.shape[:-1])
    after = grad.sum(axis=-1) / n
    for k in range(len(p) - 1, -1, -1):
        by_alive[k] = after  # as the tick ends
        after = decides[k] + after * silent[k]
    for j in range(n):
        # a spike of this neuron can decide, lowers the other neurons' chances on this tick, and ends the race
        others = np.delete(p, j, axis=-1)
        shared = (np.delete(grad, j, axis=-1) * others * _no_others(others, shared=True)).sum(axis=-1)
        by_p[..., j] = grad[..., j] * alone[..., j] - shared - by_alive * (1.0 - others).prod(axis=-1)
    return alive[..., None] * by_p


def expected_ticks(p: np.ndarray) -> np.ndarray:
    """Return the mean number of ticks until the first spike, counting all ticks if there is none, shape (...).

    The argument is that of :func:`first_to_spike`.

    >>> float(expected_ticks(np.array([[0.5, 0.0], [0.5, 0.0]])))
    1.5
    """
    silent = np.cumprod((1.0 - np.asarray(p, np.float64)).prod(axis=-1), axis=0)
    return 1.0 + silent[:-1].sum(axis=0)


def bias_of_silence(n: int, n_ticks: int, share: float = 0.1) -> float:
    """Return the membrane at which n equal neurons all stay silent for ``n_ticks`` in the given share of races.

    >>> round((1 - float(spike_probability(np.array(bias_of_silence(2, 8))))) ** 16, 3)
    0.1
    """
    silent = share ** (1.0 / (n * n_ticks))
    return float(np.log1p(-silent) - np.log(silent))


def _no_others(p: np.ndarray, shared: bool = False) -> np.ndarray:
    """Return, for each neuron i, the integral from 0 to 1 of ``prod over j != i of (1 - p[j] t) dt``, shape (..., n).

    Args:
        p: Probabilities, shape (..., n).
        shared: Whether one more neuron is known to spike on the tick; then t times the product is integrated.
    """
    total = np.zeros(p.shape)
    for t, weight in _nodes(p.shape[-1] + shared):
        silent = 1.0 - p * t
        for j in range(p.shape[-1]):
            others = np.delete(silent, j, axis=-1).prod(axis=-1)
            total[..., j] += (weight * t if shared else weight) * others  # in one order, whatever the batch
    return total


@cache
def _nodes(n: int) -> tuple[tuple[float, float], ...]:
    """Return nodes and weights of Gauss-Legendre quadrature over [0, 1], exact up to degree n."""
    at, weight = np.polynomial.legendre.leggauss(n // 2 + 1)
    return tuple(zip((0.5 * (at + 1.0)).tolist(), (0.5 * weight).tolist(), strict=True))
