"""What output units that are looked at on every tick come to, by sums over all patterns and pairs of ticks."""

import itertools

import numpy as np
import torch as th

from spikeloop.spiking.readout_kinds import READOUTS

BY_TICK = [name for name, kind in READOUTS.items() if kind.gradient is not None]


def enumerated(p):
    """Return the chance of each neuron to decide, (B, n), by going through all patterns of spikes of (K, B, n)."""
    n_ticks, n_rows, n = p.shape
    chances = np.zeros((n_rows, n))
    for bits in itertools.product((0, 1), repeat=n_ticks * n):
        z = np.array(bits).reshape(n_ticks, n)
        probability = np.where(z[:, None], p, 1 - p).prod(axis=(0, 2))
        fired = z.any(axis=1)
        first = z[fired.argmax()] if fired.any() else np.ones(n)
        chances += probability[:, None] * first / first.sum()
    return chances


def by_hand(kind, z, w, b, tau_out, dt):
    """Return the values of units by sums over all pairs of ticks, in torch: no filter, no recursion."""
    n_ticks = z.shape[1]
    if kind == "bernoulli":
        kappa = np.exp(-dt / tau_out)
        h = (1 - kappa) * kappa ** np.arange(n_ticks)
    else:
        t = dt * np.arange(1, n_ticks + 1000)
        h = np.exp(-t / tau_out) - np.exp(-4 * t / tau_out)
        h = h[:n_ticks] / h.max()
    lag = np.arange(n_ticks)[:, None] - np.arange(n_ticks)
    filters = th.from_numpy(np.where(lag >= 0, h[np.maximum(lag, 0)], 0.0))
    v = th.einsum("kj,rjn,on->rko", filters, z, w) + b
    if kind == "max":
        return v.amax(dim=1)
    if kind == "mean":
        return v.mean(dim=1)
    p, n = th.sigmoid(v), len(b)
    alive, chances = th.ones(len(z), dtype=z.dtype), th.zeros(len(z), n, dtype=z.dtype)
    for of_tick in p.unbind(1):
        for bits in itertools.product((0, 1), repeat=n):
            if any(bits):
                mask = th.tensor(bits, dtype=z.dtype)
                pattern = (mask * of_tick + (1 - mask) * (1 - of_tick)).prod(dim=1)
                chances = chances + (alive * pattern)[:, None] * mask / mask.sum()
        alive = alive * (1 - of_tick).prod(dim=1)
    return (chances + alive[:, None] / n).log()
