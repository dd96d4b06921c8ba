"""Whole episodes of a compiled task, acted in by an emulated program, in one kernel."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from spikeloop.hardware.loihi.emulator_kernels import advance
from spikeloop.spiking.action_kernels import choose
from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.tile_kernels import encode


class Beside(NamedTuple):
    """What the host computes beside the chip, for one copy of it."""

    by_bias: Any  # whether it writes currents; else it sends spikes of the lines of the code
    coder: Any  # tables of the code
    n_active: Any  # lines that spike at once
    normalizer: Any  # mean, divisor and bound, float64, (3, n_obs); (0, n_obs) for none
    rounds: Any  # whether the normaliser rounds to float32 first
    w: Any  # input weights in chip units, float64, (n_channels, N)
    b: Any  # constant currents, float64, (N,)
    max_bias: Any
    first_target: Any
    cleared: Any  # columns of the state that are 0 as an env step begins, int64, (K,)
    output_scale: Any
    b_out: Any  # float64, (n_outputs,)
    narrow: Any  # whether output values are rounded to float32
    n_ticks: Any


@kernel
def play(loaded, rest, beside, episodes, returns, lengths, mean, square):
    """Play whole episodes of a compiled task.

    Args:
        loaded: The program, :class:`~spikeloop.hardware.loihi.kernel_arguments.Loaded`.
        rest: The chip's state at rest, int32, shape (1, W).
        beside: :class:`Beside`.
        episodes: What begins: step, states, bodies, whole, shown, limit, action and bounds, as
            ``spikeloop.agents.episode_kernels.Episodes`` has them.
        returns: Written, float64, shape (E,).
        lengths: Written, int64, shape (E,).
        mean: Of what was observed before each step, float64, shape (E, n_obs), zeros; written.
        square: Sum of squared distances from it, likewise.
    """
    c, n_obs = loaded, episodes.shown.shape[0]
    obs, active = np.empty(n_obs), np.zeros(beside.n_active, np.int64)
    action, bounds = episodes.action.copy(), episodes.bounds
    n_ticks, n_lines = beside.n_ticks, c.options[0]
    inputs = np.zeros((0, 0, 0), np.int32) if beside.by_bias else np.zeros((n_ticks, 1, n_lines), np.int32)
    outputs = np.empty((n_ticks, 1, c.outputs_of.shape[0]), np.int32)
    bias, values = c.bias.copy(), np.empty(beside.b_out.shape[0])
    for e in range(episodes.states.shape[0]):
        task, whole, body = episodes.states[e].copy(), episodes.whole[e].copy(), episodes.bodies[e]
        state = rest.copy()
        total, t, ends = 0.0, 0, False
        while not ends and t < episodes.limit:
            for j in range(n_obs):
                obs[j] = whole[episodes.shown[j]]
                distance = obs[j] - mean[e, j]
                mean[e, j] += distance / (t + 1)
                square[e, j] += distance * (obs[j] - mean[e, j])
            if beside.by_bias:
                write_currents(beside, obs, bias)
            else:
                n_active = encode(beside.coder, obs, active)
                for k in range(n_active):
                    for tick in range(n_ticks):
                        inputs[tick, 0, active[k]] = 1
            for k in beside.cleared:
                state[0, k] = 0
            advance(
                state, inputs, bias, c.options, c.constants, c.runs, c.children, c.parents, c.scratch, c.sources,
                c.staged, c.staged_post, c.pointers, c.segments, c.weights, c.targets, c.outputs_of, outputs,
                c.counters, c.spikes, c.recorded,
            )  # fmt: skip
            if not beside.by_bias:
                for k in range(n_active):
                    for tick in range(n_ticks):
                        inputs[tick, 0, active[k]] = 0
            best = read_outputs(beside, outputs[n_ticks - 1, 0], values)
            choose(action, best, values, bounds)
            paid, ends = episodes.step(task, action[0], body, whole)
            total += np.float64(np.float32(paid))
            t += 1
        returns[e], lengths[e] = total, t


@kernel
def write_currents(beside, obs, bias):
    """Write the currents that an observation makes, as the registers of biases hold them."""
    n = beside.b.shape[0]
    for i in range(n):
        current = beside.b[i]
        for j in range(obs.shape[0]):
            x = obs[j]
            if beside.normalizer.shape[0] > 0:
                if beside.rounds:
                    x = np.float64(np.float32(x))
                x = (x - beside.normalizer[0, j]) / beside.normalizer[1, j]
                x = min(max(x, -beside.normalizer[2, j]), beside.normalizer[2, j])
            current += np.float64(np.float32(x)) * beside.w[j, i]
        current = min(max(current, -beside.max_bias), beside.max_bias)
        fraction, exponent = math.frexp(current * (1.0 / 4095))
        step = math.ldexp(1.0, max(exponent - (1 if abs(fraction) == 0.5 else 0), 0))
        bias[0, beside.first_target + i] = np.int32(np.rint(current / step) * step)


@kernel
def read_outputs(beside, v, values):
    """Write the output values from what the host reads on the last tick; return the index of the (first) largest."""
    n, best = values.shape[0], 0
    for i in range(n):
        total = 0
        for part in range(v.shape[0] // n):
            total += v[part * n + i]
        value = total * beside.output_scale + beside.b_out[i]
        values[i] = np.float64(np.float32(value)) if beside.narrow else value
        if values[i] > values[best]:
            best = i
    return best
