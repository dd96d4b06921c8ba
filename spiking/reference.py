"""The dynamics in plain array operations, one tick at a time: the definition that every engine is tested against.

numpy arrays and torch tensors share the operators used here, so the same lines run under autograd; the spike
function is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spikeloop.spiking.decay import decay
from spikeloop.spiking.network import Network
from spikeloop.spiking.readout import ACTIVATIONS, Readout


class LayerState(NamedTuple):
    """State of one layer, each of shape (B, N): membrane, adaptation, spikes of the last tick, refractory ticks."""

    v: Any
    a: Any
    z: Any
    refractory: Any


class LayerConstants(NamedTuple):
    """Neuron constants of one layer as the tick uses them, arrays or tensors of shape (N,)."""

    alpha: Any  # exp(-dt / tau_m)
    rho: Any  # exp(-dt / tau_a)
    v_th: Any
    beta: Any
    refractory: Any
    reset_to_zero: bool
    ahp: bool
    hold: bool = False


def tick(
    current: Any, state: LayerState, w_rec: Any | None, neurons: LayerConstants, spike: Callable[[Any], Any]
) -> LayerState:
    """Advance one layer by one tick (Bellec et al. 2018, eqs. 1-3, discretised).

    In code order:

        i = current + w_rec z                       z: spikes of the previous tick; current = w_in x + b
        a <- rho a + z
        v <- alpha v + i - v_th z                   reset "zero": v <- alpha v (1 - z) + i
        v <- v - beta a                             only with adaptation "ahp"
        u = (v - v_th - beta a) / v_th              "ahp": u = (v - v_th) / v_th
        z <- spike(u) where refractory == 0, else 0
        v <- v where refractory == 0, else 0        only with hold
        refractory <- the neuron's refractory ticks where z, else max(refractory - 1, 0)

    Args:
        current: Input current, shape (B, N).
        state: The layer's state.
        w_rec: Recurrent weights, shape (N, N), post x pre, or None.
        neurons: Constants of the layer.
        spike: ``u -> 0/1``, strictly positive u spikes; differentiable through a surrogate if wanted.

    Returns:
        The new state.
    """
    z = state.z
    i = current if w_rec is None else current + z @ w_rec.T
    a = neurons.rho * state.a + z
    if neurons.reset_to_zero:
        v = neurons.alpha * state.v * (1.0 - z) + i
    else:
        v = neurons.alpha * state.v + i - neurons.v_th * z
    if neurons.ahp:
        v = v - neurons.beta * a
        u = (v - neurons.v_th) / neurons.v_th
    else:
        u = (v - neurons.v_th - neurons.beta * a) / neurons.v_th
    free = state.refractory == 0
    z = spike(u) * free
    if neurons.hold:
        v = v * free
    fired = z > 0
    refractory = fired * neurons.refractory + ~fired * ~free * (state.refractory - 1)
    return LayerState(v, a, z, refractory)


def readout_tick(y: Any, z: Any, readout: Readout, n_ticks: int, first_tick: bool, dt: float) -> Any:
    """Advance the readout trace: ``y <- kappa y + (1 - kappa) z``, or a mean over the step if ``readout.count``."""
    if readout.count:
        return (0.0 if first_tick else 1.0) * y + z / n_ticks
    kappa = float(decay(readout.tau_out, dt))
    return kappa * y + (1.0 - kappa) * z


def constants(network: Network, layer: int) -> LayerConstants:
    """Return the constants of one layer of a network, in the dtype of its weights."""
    neurons, dtype = network.layers[layer].neurons, network.layers[layer].w_in.dtype
    return LayerConstants(
        decay(neurons.tau_m, network.dt).astype(dtype),
        decay(neurons.tau_a, network.dt).astype(dtype),
        neurons.v_th.astype(dtype),
        neurons.beta.astype(dtype),
        neurons.refractory.astype(dtype),
        neurons.reset == "zero",
        neurons.adaptation == "ahp",
        neurons.hold,
    )


def heaviside(u: np.ndarray) -> np.ndarray:
    """Return 1 where ``u > 0``, else 0, in the dtype of ``u``."""
    return (u > 0).astype(u.dtype)


def step(
    network: Network, x: np.ndarray, states: list[LayerState], y: np.ndarray
) -> tuple[np.ndarray, list[LayerState], np.ndarray, list[np.ndarray]]:
    """Run a network for one env step, numpy, by the equations of :func:`tick`.

    Layer ``l`` reads the spikes that layer ``l - 1`` sends on this tick (latency 0) or sent on the previous one
    (latency 1); so does the readout.

    Args:
        network: The network.
        x: Encoded input of each tick, shape (n_ticks, B, n_channels).
        states: One state per layer.
        y: Readout trace, shape (B, N) of the last layer.

    Returns:
        Output values (B, n_outputs), new states, new trace, and per layer the spikes (n_ticks, B, N).
    """
    states = list(states)
    recorded: list[list[np.ndarray]] = [[] for _ in states]
    arrived: list[np.ndarray] = []  # at the readout
    layer_constants = [constants(network, i) for i in range(len(states))]
    for t in range(network.n_ticks):
        before = [state.z for state in states]
        spikes = x[t]
        for i, layer in enumerate(network.layers):
            current = spikes @ layer.w_in.T + layer.bias
            states[i] = tick(current, states[i], layer.w_rec, layer_constants[i], heaviside)
            recorded[i].append(states[i].z)
            spikes = before[i] if network.latency else states[i].z
        y = readout_tick(y, spikes, network.readout, network.n_ticks, t == 0, network.dt)
        arrived.append(spikes)
    first_spike = network.readout.first_spike
    outputs = first_spike_outputs(np.stack(arrived), network.readout) if first_spike else read(y, network.readout)
    return outputs, states, y, [np.stack(z) for z in recorded]


def read(y: np.ndarray, readout: Readout) -> np.ndarray:
    """Return the output values, shape (..., n_outputs), of readout traces, shape (..., N)."""
    for layer in readout.dense:
        y = ACTIVATIONS[layer.activation](y @ layer.w.T + layer.b)
    return y @ readout.w_out.T + readout.b_out


def first_spike_outputs(spikes: np.ndarray, readout: Readout) -> np.ndarray:
    """Return the values of integrating outputs when the first of them exceeds ``v_th_out``, shape (B, n_outputs).

    Args:
        spikes: What reaches the readout on each tick of one env step, shape (n_ticks, B, N).
        readout: Its weights and threshold.
    """
    return values_at_first_spike(np.cumsum(spikes @ readout.w_out.T + readout.b_out, axis=0), readout.v_th_out)


def values_at_first_spike(values: np.ndarray, v_th: float) -> np.ndarray:
    """Return integrated values, given after each tick (n_ticks, B, n_outputs), when the first exceeds ``v_th``."""
    above = np.any(values > v_th, axis=2)  # (n_ticks, B)
    above[-1] = True
    return values[above.argmax(axis=0), np.arange(values.shape[1])]
