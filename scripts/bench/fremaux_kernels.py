"""The numba kernel of :mod:`spikeloop.scripts.bench.fremaux`, which has the equations.

Eligibilities decay by themselves between spikes, so a synapse is touched only when its weight is read or its
eligibility grows. What the TD error did to it in between follows from two sums over time that all synapses share:

    G1(t) = Σ_{s <= t} δ(s) dt exp(-(s - t0) / τκ),   G2 the same with υκ
    Δw = factor (k1 (G1(now) - G1(then)) - k2 (G2(now) - G2(then)))

where k1 and k2 are the eligibility's two exponentials as they would be at t0, which moves on every half second.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikeloop.spiking.compiling import kernel

W, K1, K2, THEN1, THEN2 = range(5)  # of a synapse: weight, eligibility at t0, and both sums when it was last settled
NOW, ORIGIN, SUM1, SUM2, CRITIC1, CRITIC2 = range(6)  # of the clock: tick, tick of t0, G1, G2, critic's filtered spikes
MOVE_ON = 500  # ticks after which t0 moves


class Constants(NamedTuple):
    """The numbers; times in ms, voltages in mV, rates per ms."""

    tau_m: float
    tau_s: float
    epsilon_0: float
    eta_0: float
    rho_0: float
    theta: float
    delta_u: float
    tau_kappa: float
    upsilon_kappa: float
    tau_gamma: float
    upsilon_gamma: float
    tau_r: float
    nu: float
    v_0: float
    n_critic: int
    w_min: float
    w_max: float
    drive: float
    dt: float


class Net(NamedTuple):
    """Everything that changes; of the N neurons the first ``n_critic`` are the critic's, the others the actor's."""

    synapses: np.ndarray  # (n_places, N, 5)
    factor: np.ndarray  # (N,) learning rate / ((τκ - υκ) τr)
    lateral: np.ndarray  # (n_actor, n_actor) from a column to a row
    psp: np.ndarray  # (N, 2) the two exponentials of what arrived since a neuron's latest spike
    after: np.ndarray  # (N,) potential that is left of the latest spike
    first: np.ndarray  # (N,) number of the first place-cell spike after it
    rate: np.ndarray  # (n_actor, 2) the two exponentials of the actor's filtered spikes
    places: np.ndarray  # (capacity,) place cells in the order of their spikes, a ring
    times: np.ndarray  # (capacity,) ticks of these
    n_spikes: np.ndarray  # (1,) how many there were
    clock: np.ndarray  # (6,)


@kernel
def settle(synapse, factor, sum1, sum2, low, high):
    """Let a weight have what the TD error did to it since it was last settled."""
    change = synapse[K1] * (sum1 - synapse[THEN1]) - synapse[K2] * (sum2 - synapse[THEN2])
    synapse[W] = min(max(synapse[W] + factor * change, low), high)
    synapse[THEN1], synapse[THEN2] = sum1, sum2


@kernel
def move_on(net, c):
    """Settle all synapses and begin the sums anew from now on."""
    clock = net.clock
    elapsed = (clock[NOW] - clock[ORIGIN]) * c.dt
    decay1, decay2 = np.exp(-elapsed / c.tau_kappa), np.exp(-elapsed / c.upsilon_kappa)
    for j in range(net.synapses.shape[0]):
        for i in range(net.synapses.shape[1]):
            synapse = net.synapses[j, i]
            if synapse[K1] != 0.0:
                settle(synapse, net.factor[i], clock[SUM1], clock[SUM2], c.w_min, c.w_max)
                synapse[K1] *= decay1
                synapse[K2] *= decay2
            synapse[THEN1] = synapse[THEN2] = 0.0
    clock[ORIGIN] = clock[NOW]
    clock[SUM1] = clock[SUM2] = 0.0


@kernel
def value(net, c):
    """Return V."""
    kappa = (net.clock[CRITIC1] - net.clock[CRITIC2]) / (c.tau_kappa - c.upsilon_kappa)
    return c.nu / c.n_critic * kappa + c.v_0


@kernel
def advance(net, c, cumulative, reward_rate, n_ticks, learning, rng):
    """Run the network.

    Args:
        net: The network.
        c: The numbers.
        cumulative: Cumulative share of each place cell in the drive, shape (n_places,).
        reward_rate: r, reward per ms.
        n_ticks: Ticks to run.
        learning: Whether weights change.
        rng: Source of the spikes.

    Returns:
        Spikes of the N neurons, shape (n_ticks, N), and the TD error on each tick, per ms.
    """
    n_neurons, capacity, n_critic = len(net.after), len(net.times), c.n_critic
    clock = net.clock
    decay_m, decay_s = np.exp(-c.dt / c.tau_m), np.exp(-c.dt / c.tau_s)
    decay1, decay2 = np.exp(-c.dt / c.tau_kappa), np.exp(-c.dt / c.upsilon_kappa)
    gamma1, gamma2 = np.exp(-c.dt / c.tau_gamma), np.exp(-c.dt / c.upsilon_gamma)
    unit = c.epsilon_0 / (c.tau_m - c.tau_s)
    age = np.arange(int(10 * c.tau_m / c.dt)) * c.dt  # beyond, nothing is left of a spike
    epsilon = unit * (np.exp(-age / c.tau_m) - np.exp(-age / c.tau_s))
    z, delta = np.zeros((n_ticks, n_neurons), np.bool_), np.zeros(n_ticks)
    for tick in range(n_ticks):
        if clock[NOW] - clock[ORIGIN] >= MOVE_ON:
            move_on(net, c)
        now = clock[NOW]
        for i in range(n_neurons):
            net.psp[i, 0] *= decay_m
            net.psp[i, 1] *= decay_s
            net.after[i] *= decay_m
        for _ in range(rng.poisson(c.drive * c.dt)):
            j = min(np.searchsorted(cumulative, rng.random()), len(cumulative) - 1)
            net.places[net.n_spikes[0] % capacity], net.times[net.n_spikes[0] % capacity] = j, now
            net.n_spikes[0] += 1
            for i in range(n_neurons):
                synapse = net.synapses[j, i]
                if synapse[K1] != 0.0:
                    settle(synapse, net.factor[i], clock[SUM1], clock[SUM2], c.w_min, c.w_max)
                net.psp[i, 0] += synapse[W]
                net.psp[i, 1] += synapse[W]
        clock[CRITIC1] *= decay1
        clock[CRITIC2] *= decay2
        net.rate[:, 0] *= gamma1
        net.rate[:, 1] *= gamma2
        grow1 = np.exp((now - clock[ORIGIN]) * c.dt / c.tau_kappa)
        grow2 = np.exp((now - clock[ORIGIN]) * c.dt / c.upsilon_kappa)
        for i in range(n_neurons):
            u = unit * (net.psp[i, 0] - net.psp[i, 1]) + net.after[i]
            expected, uniform = c.rho_0 * np.exp((u - c.theta) / c.delta_u) * c.dt, rng.random()
            z[tick, i] = uniform < expected and uniform < 1.0 - np.exp(-expected)  # the second is seldom needed
        for i in range(n_neurons):
            if not z[tick, i]:
                continue
            if learning:
                oldest = max(net.first[i], net.n_spikes[0] - capacity)
                for n in range(net.n_spikes[0] - 1, oldest - 1, -1):
                    since = int(now) - net.times[n % capacity]
                    if since >= len(epsilon):
                        break
                    synapse = net.synapses[net.places[n % capacity], i]
                    settle(synapse, net.factor[i], clock[SUM1], clock[SUM2], c.w_min, c.w_max)
                    synapse[K1] += epsilon[since] * grow1
                    synapse[K2] += epsilon[since] * grow2
            net.psp[i, 0] = net.psp[i, 1] = 0.0
            net.after[i], net.first[i] = c.eta_0, net.n_spikes[0]
            if i < n_critic:
                clock[CRITIC1] += 1.0
                clock[CRITIC2] += 1.0
            else:
                net.rate[i - n_critic, 0] += 1.0
                net.rate[i - n_critic, 1] += 1.0
        for k in range(n_neurons - n_critic):
            if z[tick, n_critic + k]:
                for other in range(n_neurons - n_critic):
                    net.psp[n_critic + other, 0] += net.lateral[other, k]
                    net.psp[n_critic + other, 1] += net.lateral[other, k]
        slope = (clock[CRITIC2] / c.upsilon_kappa - clock[CRITIC1] / c.tau_kappa) / (c.tau_kappa - c.upsilon_kappa)
        delta[tick] = c.nu / n_critic * slope - value(net, c) / c.tau_r + reward_rate
        if learning:
            clock[SUM1] += delta[tick] * c.dt / grow1
            clock[SUM2] += delta[tick] * c.dt / grow2
        clock[NOW] = now + 1
    return z, delta


@kernel
def impulse(net, c, size):
    """Teach by a TD error that lasts no time, of the given integral."""
    elapsed = (net.clock[NOW] - 1 - net.clock[ORIGIN]) * c.dt
    net.clock[SUM1] += size * np.exp(-elapsed / c.tau_kappa)
    net.clock[SUM2] += size * np.exp(-elapsed / c.upsilon_kappa)
    move_on(net, c)


@kernel
def rest(net, c):
    """Settle all synapses and forget everything but the weights."""
    move_on(net, c)
    net.synapses[:, :, K1:] = 0.0
    net.psp[:] = 0.0
    net.rate[:] = 0.0
    net.after[:] = 0.0
    net.first[:] = 0
    net.n_spikes[0] = 0
    net.clock[:] = 0.0
