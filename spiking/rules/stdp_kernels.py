"""Numba kernels of pair STDP, and of reward-modulated STDP in two exact forms.

The equations stand in :mod:`spikeloop.spiking.rules.stdp` and :mod:`spikeloop.spiking.rules.rstdp`.

Given whole spike trains, no synapse depends on another. The STDP and R-STDP kernels therefore go through time in short
blocks and, within a block, row of synapses by row, which keeps the weights and eligibilities of a row in the first
cache. Their arrays are (n_pre, n_post), transposed to the rest of the library: a presynaptic spike meets
a contiguous row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikeloop.spiking.compiling import kernel


class StdpConstants(NamedTuple):
    """Constants of a tick of pair STDP, numbers in the dtype of the weights."""

    decay_pre: float
    decay_post: float
    a_plus: float
    a_minus: float
    mu: float
    w_min: float
    w_max: float


class RewardStdpConstants(NamedTuple):
    """Constants of a tick of reward-modulated STDP, numbers in the dtype of the weights."""

    decay_pre: float
    decay_post: float
    decay_e: float
    a_plus: float
    a_minus: float
    learning_rate: float
    w_min: float
    w_max: float
    e_max: float


BLOCK = 64  # ticks; what a block keeps of each tick must stay in the second cache


# ---- STDP


@kernel
def stdp(pre, post, w, x, y, c):
    """Run pair STDP; ``w`` (n_pre, n_post) and the traces ``x`` (n_pre,) and ``y`` (n_post,) change in place.

    Args:
        pre: Spikes, uint8, shape (T, n_pre).
        post: Spikes, uint8, shape (T, n_post).
        w: Weights.
        x: Presynaptic trace.
        y: Postsynaptic trace.
        c: Constants.
    """
    n_t, n_pre = pre.shape
    n_post = post.shape[1]
    decay_pre, decay_post, a_plus, a_minus, mu, w_min, w_max = c
    span = w_max - w_min
    additive, linear = mu == 0, mu == 1
    traces = np.empty((BLOCK, n_post), w.dtype)  # y as a presynaptic spike of the tick finds it
    fired = np.empty((BLOCK, n_post), np.int64)
    n_fired = np.empty(BLOCK, np.int64)
    for begin in range(0, n_t, BLOCK):
        n = min(BLOCK, n_t - begin)
        for k in range(n):
            count = 0
            for j in range(n_post):
                y[j] *= decay_post
                traces[k, j] = y[j]
                if post[begin + k, j]:
                    y[j] += 1
                    fired[k, count] = j
                    count += 1
            n_fired[k] = count
        for i in range(n_pre):
            for k in range(n):
                x[i] *= decay_pre
                if pre[begin + k, i]:
                    for j in range(n_post):
                        before = w[i, j]
                        after = before
                        if additive:
                            after -= a_minus * traces[k, j]
                        elif linear:
                            after -= a_minus * ((before - w_min) / span) * traces[k, j]
                        else:
                            after -= a_minus * ((before - w_min) / span) ** mu * traces[k, j]
                        w[i, j] = w_min if after < w_min else after
                for q in range(n_fired[k]):
                    j = fired[k, q]
                    before = w[i, j]
                    after = before
                    if additive:
                        after += a_plus * x[i]
                    elif linear:
                        after += a_plus * ((w_max - before) / span) * x[i]
                    else:
                        after += a_plus * ((w_max - before) / span) ** mu * x[i]
                    w[i, j] = w_max if after > w_max else after
                if pre[begin + k, i]:
                    x[i] += 1


# ---- R-STDP


@kernel(forceinline=True)
def pairs_ahead(a_plus, ahead, down, trace):
    """Return what a presynaptic spike brings in: by spikes that follow, and by those there have been (``trace``)."""
    return a_plus * ahead - down * trace


@kernel(forceinline=True)
def further_ahead(decay_pre, ahead, weight, z):
    """Return what a presynaptic trace of 1 meets from a tick earlier on, where spike ``z`` counts ``weight``."""
    return decay_pre * (ahead + weight * z)


@kernel
def aligned(rows, like):
    """Return zeros of shape (rows, len(like)) that begin at a multiple of 64 bytes, in the dtype of ``like``.

    Wide vector loads that straddle two cache lines cost the dense pass a quarter of its speed.
    """
    n, size = len(like), like.itemsize
    buffer = np.zeros(rows * n + 64 // size, like.dtype)
    skip = (-buffer.ctypes.data % 64) // size
    return buffer[skip : skip + rows * n].reshape(rows, n)


@kernel
def rstdp_bounded(pre, post, reward, w, e, x, y, c):
    """Run R-STDP with hard bounds on weights and eligibilities at every tick: a dense pass over all synapses.

    Args:
        pre: Spikes, uint8, shape (T, n_pre).
        post: Spikes, uint8, shape (T, n_post).
        reward: Third factor of each tick, in the dtype of w, shape (T,).
        w: Weights, shape (n_pre, n_post); like e, x and y changed in place.
        e: Eligibilities, shape (n_pre, n_post).
        x: Presynaptic trace, shape (n_pre,).
        y: Postsynaptic trace, shape (n_post,).
        c: Constants.
    """
    n_t, n_pre = pre.shape
    n_post = post.shape[1]
    decay_pre, decay_post, decay_e, a_plus, a_minus, learning_rate, w_min, w_max, e_max = c
    block = BLOCK // 4  # a row meets each tick of the block: its spikes and traces belong into the first cache
    traces, spikes = aligned(block, y), aligned(block, y)
    for begin in range(0, n_t, block):
        n = min(block, n_t - begin)
        for k in range(n):
            for j in range(n_post):
                s = w.dtype.type(post[begin + k, j])
                traces[k, j] = decay_post * y[j]
                spikes[k, j] = s
                y[j] = decay_post * y[j] + s
        for i in range(n_pre):
            k = 0
            while k < n:
                x[i] *= decay_pre
                up, step = a_plus * x[i], learning_rate * reward[begin + k]
                if pre[begin + k, i]:
                    for j in range(n_post):
                        e_ij = decay_e * e[i, j] + up * spikes[k, j] - a_minus * traces[k, j]
                        e_ij = e_max if e_ij > e_max else e_ij
                        e_ij = -e_max if e_ij < -e_max else e_ij
                        e[i, j] = e_ij
                        weight = w[i, j] + step * e_ij
                        weight = w_max if weight > w_max else weight
                        w[i, j] = w_min if weight < w_min else weight
                    x[i] += 1
                    k += 1
                elif k + 1 < n and not pre[begin + k + 1, i]:
                    # Two ticks without a presynaptic spike in one pass: e can only pass its upper bound.
                    x[i] *= decay_pre
                    next_up, next_step = a_plus * x[i], learning_rate * reward[begin + k + 1]
                    for j in range(n_post):
                        e_ij = decay_e * e[i, j] + up * spikes[k, j]
                        e_ij = e_max if e_ij > e_max else e_ij
                        weight = w[i, j] + step * e_ij
                        weight = w_max if weight > w_max else weight
                        weight = w_min if weight < w_min else weight
                        e_ij = decay_e * e_ij + next_up * spikes[k + 1, j]
                        e_ij = e_max if e_ij > e_max else e_ij
                        e[i, j] = e_ij
                        weight = weight + next_step * e_ij
                        weight = w_max if weight > w_max else weight
                        w[i, j] = w_min if weight < w_min else weight
                    k += 2
                else:
                    for j in range(n_post):
                        e_ij = decay_e * e[i, j] + up * spikes[k, j]
                        e_ij = e_max if e_ij > e_max else e_ij
                        e[i, j] = e_ij
                        weight = w[i, j] + step * e_ij
                        weight = w_max if weight > w_max else weight
                        w[i, j] = w_min if weight < w_min else weight
                    k += 1


@kernel
def rstdp_unbounded(pre, post, reward, w, e, x, y, c):
    """Run R-STDP without bounds: a row is touched where its neuron spikes, and once more where a block ends.

    Without bounds the rule is linear, so what a presynaptic spike of tick k does until the block ends depends on the
    postsynaptic spikes z and on the reward alone, and is the same for every row. With n the last tick,

        paid(k) = rate sum_{t >= k} reward(t) decay_e^(t-k)       what a unit of eligibility at tick k brings in
        to_e_k = a_plus sum_{t > k} decay_pre^(t-k) decay_e^(n-t) z(t) - a_minus decay_e^(n-k) y(k)
        to_w_k   = a_plus sum_{t > k} decay_pre^(t-k) paid(t) z(t) - a_minus paid(k) y(k)

    These come from one pass back through the block, and a row adds up those of its own spikes. The trace x and the
    eligibility from before the block count likewise.

    Args:
        pre: Spikes, uint8, shape (T, n_pre).
        post: Spikes, uint8, shape (T, n_post).
        reward: Third factor of each tick, in the dtype of w, shape (T,).
        w: Weights, shape (n_pre, n_post); like e, x and y changed in place.
        e: Eligibilities, shape (n_pre, n_post).
        x: Presynaptic trace, shape (n_pre,).
        y: Postsynaptic trace, shape (n_post,).
        c: Constants; the bounds are not looked at.
    """
    n_t, n_pre = pre.shape
    n_post = post.shape[1]
    decay_pre, decay_post, decay_e, a_plus, a_minus, rate = c[:6]
    # Row 0 of both tables is what the trace x from before the block brings in, row k + 1 what a spike of tick k does.
    # The last row stays zero: unused places in the list of spikes point there.
    to_e, to_w = aligned(BLOCK + 2, y), aligned(BLOCK + 2, y)
    traces, fired = aligned(BLOCK, y), aligned(BLOCK, y)
    e_ahead, w_ahead = np.empty(n_post, w.dtype), np.empty(n_post, w.dtype)
    x_before = np.empty(n_pre, w.dtype)
    spikes, n_spikes = np.empty((n_pre, BLOCK + 4), np.int64), np.empty(n_pre, np.int64)
    for begin in range(0, n_t, BLOCK):
        n = min(BLOCK, n_t - begin)
        n_spikes[:] = 0
        x_before[:] = x
        for k in range(n):
            for j in range(n_post):
                s = w.dtype.type(post[begin + k, j])
                traces[k, j] = decay_post * y[j]
                fired[k, j] = s
                y[j] = decay_post * y[j] + s
            for i in range(n_pre):  # without a branch, which would be mispredicted at each spike
                spikes[i, n_spikes[i]] = k + 1
                n_spikes[i] += pre[begin + k, i]
            for i in range(n_pre):
                x[i] = decay_pre * x[i] + w.dtype.type(pre[begin + k, i])
        e_ahead[:] = 0
        w_ahead[:] = 0
        kept, paid = w.dtype.type(1), w.dtype.type(0)
        for k in range(n - 1, -1, -1):
            paid = rate * reward[begin + k] + decay_e * paid
            e_down, w_down = a_minus * kept, a_minus * paid
            for j in range(n_post):
                trace, s = traces[k, j], fired[k, j]
                to_e[k + 1, j] = pairs_ahead(a_plus, e_ahead[j], e_down, trace)
                to_w[k + 1, j] = pairs_ahead(a_plus, w_ahead[j], w_down, trace)
                e_ahead[j] = further_ahead(decay_pre, e_ahead[j], kept, s)
                w_ahead[j] = further_ahead(decay_pre, w_ahead[j], paid, s)
            kept *= decay_e
        paid *= decay_e
        for j in range(n_post):
            to_e[0, j], to_w[0, j] = a_plus * e_ahead[j], a_plus * w_ahead[j]
        for i in range(n_pre):
            spikes[i, n_spikes[i] : n_spikes[i] + 4] = BLOCK + 1
            k0, k1, k2, k3 = spikes[i, 0], spikes[i, 1], spikes[i, 2], spikes[i, 3]
            x0 = x_before[i]
            for j in range(n_post):
                e_ij = e[i, j]
                w[i, j] += paid * e_ij + x0 * to_w[0, j] + (to_w[k0, j] + to_w[k1, j] + to_w[k2, j] + to_w[k3, j])
                before = kept * e_ij + x0 * to_e[0, j]
                e[i, j] = before + (to_e[k0, j] + to_e[k1, j] + to_e[k2, j] + to_e[k3, j])
            for q in range(4, n_spikes[i], 4):
                k0, k1, k2, k3 = spikes[i, q], spikes[i, q + 1], spikes[i, q + 2], spikes[i, q + 3]
                for j in range(n_post):
                    w[i, j] += to_w[k0, j] + to_w[k1, j] + to_w[k2, j] + to_w[k3, j]
                    e[i, j] += to_e[k0, j] + to_e[k1, j] + to_e[k2, j] + to_e[k3, j]
