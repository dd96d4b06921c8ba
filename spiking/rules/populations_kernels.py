"""Numba kernels of spiking populations: trains of the input lines, ticks of the neurons, pairs of the synapses.

An env step is a block of K ticks in which no weight changes. So its neurons are run first, and their spikes recorded;
what the pairs of these spikes leave at a synapse follows from one table for all lines, as in
:func:`~spikeloop.spiking.rules.stdp_kernels.rstdp_unbounded`. A line that was silent costs one row of it, whatever the
number of ticks, and a line whose traces have died away nothing. A row is ``w[i]``, the weights of line i onto all
neurons, next to one another in memory. :mod:`spikeloop.spiking.rules.populations` has the equations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.tile_kernels import encode
from spikeloop.spiking.engine.vectors import fma
from spikeloop.spiking.neurons.lsnn import LsnnConstants
from spikeloop.spiking.rules.stdp_kernels import RewardStdpConstants, further_ahead, pairs_ahead
from spikeloop.spiking.rules.winner_take_all_kernels import modulator_of


class Constants(NamedTuple):
    """Constants of a tick, and of an env step where it says so."""

    neurons: LsnnConstants
    rule: RewardStdpConstants
    noise: float  # width of escape, in units of the threshold
    inhibition: float  # by a spike of another population
    kappa: float  # decay of the rate that is read out
    per_spike: float  # what a spike adds to it
    clears: bool  # whether it begins every env step at 0
    p_spike: float  # spikes of an active line per tick
    regular: bool
    n_actions: int
    n_per_action: int
    centred: bool
    w_sum: float  # what each action neuron's weights are kept at in sum; NaN if they are not
    value_learning_rate: float
    value_offset: float
    value_gain: float
    value_rate: float  # of the critic's neurons where the value is value_offset
    floor: float  # what a trace decays below is forgotten


class NeuronState(NamedTuple):
    """State of the neurons, arrays of shape (N,): rows of a Network's packed state."""

    v: np.ndarray
    a: np.ndarray
    z: np.ndarray
    refractory: np.ndarray
    rate: np.ndarray  # spikes per tick, filtered, which is read out


class SynapseState(NamedTuple):
    """What synapses are and remember; kernels write into these arrays."""

    w: np.ndarray  # (n_inputs, N)
    e: np.ndarray  # (n_inputs, N) eligibilities
    v: np.ndarray  # (n_inputs,) the graded critic's weights
    f: np.ndarray  # (n_inputs,) its eligibilities, > 0 exactly for the lines in `live` once a step is counted in
    x: np.ndarray  # (n_inputs,) presynaptic trace
    y: np.ndarray  # (N,) postsynaptic trace
    live: np.ndarray  # (n_inputs,) int64, lines with traces
    n_live: np.ndarray  # (1,) int64
    place: np.ndarray  # (n_inputs,) int64, 1 + place of a line in the latest env step, 0 elsewhere


@kernel
def write_trains(spikes, p_spike, regular, rng):
    """Write trains of so many spikes per tick to ``spikes``, uint8, shape (n_active, K).

    Poisson trains have at most one spike in a tick. Regular ones are evenly spaced, from a random phase on.
    """
    for k in range(spikes.shape[0]):
        phase = rng.random() if regular else 0.0
        for t in range(spikes.shape[1]):
            if regular:
                phase += p_spike
                spikes[k, t] = phase >= 1.0
                if phase >= 1.0:
                    phase -= 1.0
            else:
                spikes[k, t] = rng.random() < p_spike


@kernel
def run_neurons(w, gain, lines, spikes, neurons, c, noise, rng, z, read_from):
    """Advance the neurons over the K ticks of a block.

    Without noise, these are the operations of the engine of LSNN layers in its order, so that the bits are the same.

    Args:
        w: Weights, shape (n_inputs, N).
        gain: Current of a spike through a weight of 1.
        lines: Lines that may spike, shape (n_active,).
        spikes: Their spikes, shape (n_active, K).
        neurons: State of the neurons, changed in place.
        c: Constants.
        noise: Width of escape; 0 for neurons that spike exactly above their thresholds.
        rng: Source of the noise.
        z: Written: the neurons' spikes, uint8, shape (K, N).
        read_from: Tick from which on spikes are read out; from 0 on, all are.
    """
    n_neurons, n_acting = neurons.v.shape[0], c.n_actions * c.n_per_action
    current = np.empty(n_neurons)
    k = c.neurons
    for t in range(spikes.shape[1]):
        if (t == 0 and c.clears) or (t > 0 and t == read_from):
            neurons.rate[:] = 0.0
        current[:] = 0.0
        for q in range(lines.shape[0]):
            if spikes[q, t]:
                i = lines[q]
                for j in range(n_neurons):
                    current[j] += gain * w[i, j]
        for i in range(n_acting):
            if neurons.z[i] > 0.0:
                first = i // c.n_per_action * c.n_per_action
                for j in range(first):
                    current[j] -= c.inhibition
                for j in range(first + c.n_per_action, n_acting):
                    current[j] -= c.inhibition
        for j in range(n_neurons):
            before = neurons.z[j]
            neurons.a[j] = fma(k.rho[j], neurons.a[j], before)
            neurons.v[j] = fma(k.alpha[j], neurons.v[j], current[j]) - k.v_th[j] * before
            over = neurons.v[j] - k.v_th[j] - k.beta[j] * neurons.a[j]
            if noise > 0.0:
                over -= k.v_th[j] * noise * math.log(rng.standard_exponential())
            fires = over > 0.0 and neurons.refractory[j] == 0.0
            if fires:
                neurons.refractory[j] = k.refractory[j]
            elif neurons.refractory[j] > 0.0:
                neurons.refractory[j] -= 1.0
            neurons.z[j] = 1.0 if fires else 0.0
            neurons.rate[j] = fma(c.kappa, neurons.rate[j], c.per_spike * neurons.z[j])
            z[t, j] = fires
    if read_from >= spikes.shape[1]:  # nothing was read out
        neurons.rate[:] = 0.0


@kernel
def choose(rate, n_actions, n_per_action):
    """Return the action whose population has the highest filtered rate, the first of equals."""
    best, most = 0, -1.0
    for p in range(n_actions):
        of_population = 0.0
        for j in range(p * n_per_action, (p + 1) * n_per_action):
            of_population += rate[j]
        if of_population > most:
            best, most = p, of_population
    return best


@kernel
def value_of(synapses, n_live, lines, spikes, neurons, c):
    """Return the value where a block ends, whose spikes are not counted in yet.

    The graded critic is linear in the presynaptic traces of the first ``n_live`` lines and of those that spike; that of
    spikes adds ``value_gain`` times the rate of its neurons.
    """
    value = c.value_offset
    n_acting, n_neurons = c.n_actions * c.n_per_action, neurons.v.shape[0]
    if n_neurons > n_acting:
        rate = 0.0
        for j in range(n_acting, n_neurons):
            rate += neurons.rate[j]
        return value + c.value_gain * (rate / (n_neurons - n_acting) - c.value_rate)
    kept = 1.0
    for _ in range(spikes.shape[1]):
        kept *= c.rule.decay_pre
    for q in range(n_live):
        i = synapses.live[q]
        value += synapses.v[i] * (kept * synapses.x[i])
    for q in range(lines.shape[0]):
        trace = 0.0
        for t in range(spikes.shape[1]):
            trace = c.rule.decay_pre * trace + spikes[q, t]
        value += synapses.v[lines[q]] * trace
    return value


@kernel
def change_weights(synapses, c, modulator):
    """Change the weights by the eligibilities there are, times the modulator."""
    n_acting, n_neurons = c.n_actions * c.n_per_action, synapses.w.shape[1]
    step, value_step = c.rule.learning_rate * modulator, c.value_learning_rate * modulator
    w_min, w_max = c.rule.w_min, c.rule.w_max
    for q in range(synapses.n_live[0]):
        i = synapses.live[q]
        synapses.v[i] += value_step * synapses.f[i]
        mean = 0.0
        if c.centred:
            for j in range(n_acting):
                mean += synapses.e[i, j]
            mean /= n_acting
        for j in range(n_neurons):
            change = step * (synapses.e[i, j] - mean) if j < n_acting else value_step * synapses.e[i, j]
            synapses.w[i, j] = min(max(synapses.w[i, j] + change, w_min), w_max)
    if modulator != 0.0 and not math.isnan(c.w_sum):
        keep_sums(synapses.w, n_acting, c.w_sum, w_min, w_max)


@kernel
def keep_sums(w, n_acting, w_sum, w_min, w_max):
    """Shift all weights of each action neuron by the same amount, to the given sum; bounds are held first."""
    n_inputs = w.shape[0]
    for j in range(n_acting):
        total = 0.0
        for i in range(n_inputs):
            total += w[i, j]
        shift = (w_sum - total) / n_inputs
        for i in range(n_inputs):
            w[i, j] = min(max(w[i, j] + shift, w_min), w_max)


@kernel
def count_pairs(synapses, lines, spikes, z, rule, floor):
    """Count the pairs of a block's spikes into the eligibilities, which decay meanwhile; traces move on to its end.

    Args:
        synapses: Changed in place.
        lines: Lines that may have spiked, each once, shape (n_active,).
        spikes: Their spikes, shape (n_active, K).
        z: The neurons' spikes, shape (K, N).
        rule: Constants of the rule.
        floor: Lines whose ``f`` decays to it are forgotten.
    """
    n_ticks, n_neurons = z.shape
    # Row 0 of the table is what a presynaptic trace of 1 from before the block brings in, row t + 1 what a spike of
    # tick t does.
    table, traces, ahead = np.empty((n_ticks + 1, n_neurons)), np.empty((n_ticks, n_neurons)), np.zeros(n_neurons)
    for t in range(n_ticks):
        for j in range(n_neurons):
            traces[t, j] = rule.decay_post * synapses.y[j]
            synapses.y[j] = traces[t, j] + z[t, j]
    kept = 1.0
    for t in range(n_ticks - 1, -1, -1):
        down = rule.a_minus * kept
        for j in range(n_neurons):
            table[t + 1, j] = pairs_ahead(rule.a_plus, ahead[j], down, traces[t, j])
            ahead[j] = further_ahead(rule.decay_pre, ahead[j], kept, z[t, j])
        kept *= rule.decay_e
    for j in range(n_neurons):
        table[0, j] = rule.a_plus * ahead[j]
    n_live = synapses.n_live[0]
    for q in range(lines.shape[0]):
        i = lines[q]
        if synapses.f[i] == 0.0:
            synapses.live[n_live] = i
            n_live += 1
        synapses.place[i] = q + 1
    n_kept = 0
    for q in range(n_live):
        i = synapses.live[q]
        x = synapses.x[i]
        for j in range(n_neurons):
            synapses.e[i, j] = kept * synapses.e[i, j] + x * table[0, j]
        row = synapses.place[i] - 1
        for t in range(n_ticks):
            x *= rule.decay_pre
            if row >= 0 and spikes[row, t]:
                x += 1.0
                for j in range(n_neurons):
                    synapses.e[i, j] += table[t + 1, j]
        synapses.x[i] = x
        synapses.place[i] = 0
        synapses.f[i] = kept * synapses.f[i] + x
        if synapses.f[i] <= floor:
            _forget(synapses, i)
        else:
            synapses.live[n_kept] = i
            n_kept += 1
    synapses.n_live[0] = n_kept


@kernel
def _forget(synapses, i):
    synapses.f[i] = synapses.x[i] = 0.0
    for j in range(synapses.e.shape[1]):
        synapses.e[i, j] = 0.0


@kernel
def reset(synapses, neurons):
    """Set all traces and eligibilities to zero, and the neurons to rest."""
    for q in range(synapses.n_live[0]):
        _forget(synapses, synapses.live[q])
    synapses.n_live[0] = 0
    synapses.y[:] = 0.0
    for row in neurons:
        row[:] = 0.0


@kernel
def closed_loop(
    step,
    task_state,
    body,
    obs,
    coder,
    synapses,
    neurons,
    c,
    noise,
    learning,
    rng,
    modulation,
    baseline,
    action,
    value,
    rewards,
    spikes,
    z,
):
    """Act in a task; :meth:`spikeloop.spiking.rules.populations.SpikingPopulations.closed_loop` says how."""
    kind, gamma, baseline_rate, reward_scale, scale = modulation
    next_state, next_obs = np.empty_like(task_state), np.empty_like(obs)
    lines = np.empty(coder.offsets.shape[0], np.int64)
    n_steps = 0
    while n_steps < rewards.shape[0]:
        next_state[:] = task_state
        reward, terminated = step(next_state, action, body, next_obs)
        if terminated:
            break
        task_state[:], obs[:] = next_state, next_obs
        encode(coder, obs, lines)
        write_trains(spikes, c.p_spike, c.regular, rng)
        run_neurons(synapses.w, 1.0, lines, spikes, neurons, c, noise, rng, z, 0)
        action = choose(neurons.rate, c.n_actions, c.n_per_action)
        next_value = value_of(synapses, synapses.n_live[0] if learning else 0, lines, spikes, neurons, c)
        if learning:
            modulator = modulator_of(
                kind, gamma, baseline_rate, baseline, reward_scale * reward, value, next_value, False
            )
            change_weights(synapses, c, scale * modulator)
            count_pairs(synapses, lines, spikes, z, c.rule, c.floor)
        value = next_value
        rewards[n_steps] = reward
        n_steps += 1
    return n_steps, action, value
