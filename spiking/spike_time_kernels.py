"""numba kernels of what :mod:`spikeloop.spiking.spike_time` defines, row by row, and of its gradients.

A row's inputs are sorted once. From one input to the next, sums of exponentials are carried relative to the last input,
so that late times cannot overflow: only differences of times are exponentiated, and these are never positive.
"""

from __future__ import annotations

import math

import numpy as np

from spikeloop.spiking.compiling import kernel

ALPHA, EXPONENTIAL, DOUBLE = 0, 1, 2
_BRANCH = -1.0 / math.e


@kernel
def lambert_w0(x):
    """Return the principal branch of Lambert's W for x within [-1/e, 0], by Halley's iteration."""
    if x <= _BRANCH:
        return -1.0
    if x < -0.25:
        p = math.sqrt(2.0 * (math.e * x + 1.0))
        w = -1.0 + p * (1.0 - p * (1.0 / 3.0 - p * 11.0 / 72.0))
    else:
        w = x * (1.0 - x * (1.0 - 1.5 * x))
    for _ in range(20):
        e = math.exp(w)
        f = w * e - x
        slope = e * (w + 1.0)
        if slope <= 0.0:
            break
        change = f / (slope - 0.5 * (w + 2.0) * f / (w + 1.0))
        w -= change
        if abs(change) <= 1e-6 * (1.0 + w):  # the remaining error is of the third power of the change
            break
    return w


@kernel
def crossing(kind, a, b, v_th):
    """Return how long after the last input the membrane reaches the threshold; -1 if it never does by itself.

    ``a`` and ``b`` are the two sums of :func:`spike_times` at the last input, when the membrane is below it.
    """
    if a <= 0.0:
        return -1.0
    if kind == ALPHA:
        ratio = b / a
        if ratio > 700.0:  # the membrane peaks at a exp(-1 - ratio)
            return -1.0
        x = -v_th / a * math.exp(ratio)
        return -1.0 if x < _BRANCH else ratio - lambert_w0(x)
    if kind == EXPONENTIAL:
        return math.log(a / (b - v_th)) if b > v_th else -1.0
    discriminant = b * b - 2.0 * a * v_th
    if discriminant < 0.0 or b <= 0.0:
        return -1.0
    return -2.0 * math.log((b + math.sqrt(discriminant)) / (2.0 * a))


@kernel
def sort_row(times, row, order):
    """Write the indices of a row's times to ``order``, earliest first, equal ones as they stand."""
    for i in range(times.shape[1]):
        k = i
        while k > 0 and times[row, order[k - 1]] > times[row, i]:
            order[k] = order[k - 1]
            k -= 1
        order[k] = i


@kernel(seconds=10)
def spike_times(kind, times, w, v_th, window, out):
    """Write when each neuron spikes, ``window`` where it does not, to ``out``, (B, N).

    Args:
        kind: ALPHA, EXPONENTIAL or DOUBLE.
        times: Of the inputs, in units of tau, shape (B, n_inputs); ``window`` and later is no spike.
        w: Weights, shape (N, n_inputs).
        v_th: Threshold.
        window: Length of the step in units of tau.
        out: Result.
    """
    n_rows, n = times.shape
    order = np.empty(n, np.int64)
    gap, slow, decay = np.empty(n + 1), np.empty(n + 1), np.empty(n + 1)
    for row in range(n_rows):
        sort_row(times, row, order)
        n_spikes = 0
        while n_spikes < n and times[row, order[n_spikes]] < window:
            n_spikes += 1
        for k in range(n_spikes + 1):  # gap[k] lies before input k, the last one before the window's end
            here = times[row, order[k]] if k < n_spikes else window
            gap[k] = here - times[row, order[k - 1]] if k > 0 else 0.0
            slow[k] = math.exp(-0.5 * gap[k])
            decay[k] = slow[k] * slow[k]
        for j in range(w.shape[0]):
            a = b = 0.0
            out[row, j] = window
            for k in range(n_spikes):
                fast = decay[k]
                if kind == ALPHA:
                    b = (b - a * gap[k]) * fast
                    below = -b < v_th
                elif kind == EXPONENTIAL:
                    below = b - a * fast < v_th
                else:
                    b *= slow[k]
                    below = 2.0 * (b - a * fast) < v_th
                a *= fast
                here = times[row, order[k]]
                if not below:  # it reached the threshold as this input came, to rounding
                    out[row, j] = here
                    break
                weight = w[j, order[k]]
                a += weight
                if kind != ALPHA:
                    b += weight
                until = times[row, order[k + 1]] if k + 1 < n_spikes else window
                wait = until - here
                if wait <= 0.0 or a <= 0.0:
                    continue
                # it rises until 1 + b/a: most inputs come before that and before the threshold
                if kind == ALPHA and a * (wait - 1.0) <= b and (a * wait - b) * decay[k + 1] < v_th:
                    continue
                after = crossing(kind, a, b, v_th)
                if after >= 0.0 and here + after < until:
                    out[row, j] = here + after
                    break


@kernel(seconds=10)
def spike_times_backward(kind, times, w, v_th, window, out, grad, floor, silent, grad_times, grad_w):
    """Add to ``grad_times`` (B, n_inputs) and ``grad_w`` (N, n_inputs) what ``grad`` (B, N) becomes at the inputs.

    The other arguments are those of :func:`spike_times` and of ``spike_time.backward``.
    """
    n_rows, n = times.shape
    kappa, slope = np.empty(n), np.empty(n)
    for row in range(n_rows):
        for j in range(w.shape[0]):
            g, t = grad[row, j], out[row, j]
            if g == 0.0:
                continue
            if t >= window:
                if g > 0.0:  # it should spike earlier, so at all
                    for i in range(n):
                        grad_w[j, i] -= silent * g
                continue
            current = rise = 0.0
            for i in range(n):
                s = t - times[row, i]
                if s <= 0.0:
                    continue
                fast = math.exp(-s)
                if kind == ALPHA:
                    kappa[i], slope[i] = s * fast, (1.0 - s) * fast
                elif kind == EXPONENTIAL:
                    kappa[i], slope[i] = 1.0 - fast, fast
                else:
                    slow = math.exp(-0.5 * s)
                    kappa[i], slope[i] = 2.0 * (slow - fast), 2.0 * fast - slow
                current += w[j, i] * fast
                rise += w[j, i] * slope[i]
            share = g / max(rise, floor * max(current, v_th))
            for i in range(n):
                if t - times[row, i] > 0.0:
                    grad_w[j, i] -= share * kappa[i]
                    grad_times[row, i] += share * w[j, i] * slope[i]
