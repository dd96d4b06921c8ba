"""numba kernels of what :mod:`spikeloop.spiking.event_prop` defines, row by row, and of its adjoint equations.

From one event to the next all membranes and currents decay by the same factors, and each neuron's next spike has a
closed form; the earliest of these and of the inputs is the next event. The backward pass goes through the same events
from the last to the first. Both passes read the weights by their sources: inputs first, then the neurons.
"""

from __future__ import annotations

import math

import numpy as np

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.spike_time_kernels import ALPHA, EXPONENTIAL, crossing, sort_row


@kernel
def decays(kind, s):
    """Return what is left of a membrane and of a current after a time s, and kappa(s): the current's share in V."""
    fast = math.exp(-s)
    if kind == ALPHA:
        return fast, fast, s * fast
    if kind == EXPONENTIAL:
        return 1.0, fast, 1.0 - fast
    slow = math.exp(-0.5 * s)
    return slow, fast, 2.0 * (slow - fast)


@kernel
def charge(kind, s):
    """Return the integral of kappa from 0 to s."""
    fast = math.exp(-s)
    if kind == ALPHA:
        return 1.0 - (1.0 + s) * fast
    if kind == EXPONENTIAL:
        return s - 1.0 + fast
    return 2.0 * (1.0 - math.exp(-0.5 * s)) ** 2


@kernel
def slope_of(kind, v, i):
    """Return dV/dt of a membrane v with the current i."""
    if kind == ALPHA:
        return i - v
    if kind == EXPONENTIAL:
        return i
    return i - 0.5 * v


@kernel
def time_to_spike(kind, v, i, v_th):
    """Return how long a membrane v with the current i takes to the threshold; negative if it never reaches it."""
    if v >= v_th:  # reached as the last event came
        return 0.0
    if kind == ALPHA:
        return crossing(kind, i, -v, v_th)
    if kind == EXPONENTIAL:
        return crossing(kind, i, v + i, v_th)
    return crossing(kind, i, 0.5 * v + i, v_th)


@kernel(seconds=10)
def run_events(kind, times, w, v_th, window, most, when, source, current, n_events, fired, trace):
    """Run an env step from rest; write its events, spikes and traces.

    Args:
        kind: ALPHA, EXPONENTIAL or DOUBLE of ``spike_time_kernels``.
        times: Of the inputs, in units of tau, shape (B, n); ``window`` and later is no spike.
        w: Weights from each source, shape (n + N, N): inputs, then neurons.
        v_th: Threshold.
        window: Length of the step in units of tau.
        most: Spikes of a neuron in a step at most.
        when: Result: times of the events of a row in their order, shape (B, n + N most).
        source: Result: the source of each, of the same shape, int64.
        current: Result: the current of the neuron that spikes, as it spikes, of the same shape.
        n_events: Result: number of events of each row, shape (B,), int64.
        fired: Result: spikes of each neuron, shape (B, N), int64.
        trace: Result: traces, shape (B, N).
    """
    n_rows, n = times.shape
    n_neurons = w.shape[1]
    order, v, i, after = np.empty(n, np.int64), np.empty(n_neurons), np.empty(n_neurons), np.empty(n_neurons)
    for row in range(n_rows):
        sort_row(times, row, order)
        v[:], i[:], fired[row], trace[row] = 0.0, 0.0, 0, 0.0
        t, k, e = 0.0, 0, 0
        while True:
            if k < n and times[row, order[k]] < window:
                until, event = times[row, order[k]], order[k]
            else:
                until, event = window, -1
            wait = max(until - t, 0.0)
            for j in range(n_neurons):
                after[j] = time_to_spike(kind, v[j], i[j], v_th) if fired[row, j] < most else -1.0
                if 0.0 <= after[j] < wait:
                    wait, event = after[j], n + j
            if event < 0:
                break
            slow, fast, kappa = decays(kind, wait)
            for j in range(n_neurons):
                # one that reaches it at the same instant spikes next, whatever rounding and this event would make of it
                v[j] = v_th if after[j] == wait else v[j] * slow + i[j] * kappa
                i[j] *= fast
            if event < n:
                t = until
                k += 1
            else:
                t += wait
                j = event - n
                v[j] = 0.0
                current[row, e] = i[j]
                fired[row, j] += 1
                trace[row, j] += charge(kind, window - t)
            when[row, e], source[row, e] = t, event
            e += 1
            for j in range(n_neurons):
                i[j] += w[event, j]
        n_events[row] = e


@kernel(seconds=10)
def run_adjoint(
    kind, w, v_th, window, when, source, current, n_events, fired, grad, floor, silent, n, grad_times, grad_w
):
    """Add to ``grad_times`` (B, n) and ``grad_w`` (n + N, N) what the gradient ``grad`` (B, N) of the traces becomes.

    The other arguments are those of :func:`run_events`, and of ``event_prop.backward``.
    """
    n_neurons = w.shape[1]
    of_v, of_i = np.empty(n_neurons), np.empty(n_neurons)
    for row in range(len(n_events)):
        of_v[:], of_i[:] = 0.0, 0.0
        t = window
        for j in range(n_neurons):
            if fired[row, j] == 0 and grad[row, j] < 0.0:  # its trace should be larger, so it should spike at all
                for k in range(n):
                    grad_w[k, j] += silent * grad[row, j]
        for e in range(n_events[row] - 1, -1, -1):
            slow, fast, kappa = decays(kind, t - when[row, e])
            t, event = when[row, e], source[row, e]
            later = 0.0  # what becomes of the loss if this event comes later
            for j in range(n_neurons):
                of_i[j] = of_i[j] * fast + of_v[j] * kappa
                of_v[j] *= slow
                grad_w[event, j] += of_i[j]
                later += w[event, j] * (of_i[j] - of_v[j])
            if event < n:
                grad_times[row, event] += later
                continue
            j, i = event - n, current[row, e]
            later -= of_v[j] * i + grad[row, j] * decays(kind, window - t)[2]
            of_v[j] = -later / max(slope_of(kind, v_th, i), floor * max(i, v_th))
