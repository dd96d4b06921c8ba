"""The dynamics in plain array operations, one tick at a time: the definition that every engine is tested against.

numpy arrays and torch tensors share the operators used here, so the same lines run under autograd; the spike
function is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons import Neurons
from spikeloop.spiking.readout import ACTIVATIONS, Readout
from spikeloop.spiking.readout_kinds import READOUTS

State = tuple[Any, ...]
"""State of one layer: an array (B, N) for each of its neurons' rows."""


def tick(
    neurons: type[Neurons], current: Any, state: State, w_rec: Any | None, c: Any, spike: Callable[[Any], Any]
) -> State:
    """Advance one layer by one tick: recurrent spikes of the tick before join the current, then the neurons' own tick.

    Args:
        neurons: The neurons' class, whose equations these are.
        current: Input current, ``w_in x + b``, shape (B, N).
        state: The layer's state: one array of shape (B, N) for each of ``neurons.rows``.
        w_rec: Recurrent weights, shape (N, N), post x pre, or None.
        c: Constants of the layer.
        spike: ``u -> 0/1``, strictly positive u spikes; differentiable through a surrogate if wanted.

    Returns:
        The new state.
    """
    at = neurons.rows.index("z")
    z = state[at]
    i = current if w_rec is None else current + z @ w_rec.T
    z, others = neurons.tick(i, z, (*state[:at], *state[at + 1 :]), c, spike)
    return (*others[:at], z, *others[at:])


def rest(network: Network, n_envs: int = 1) -> list[State]:
    """Return the state of each layer at rest."""
    dtype = network.dtype
    return [tuple(np.zeros((n_envs, layer.n_neurons), dtype) for _ in layer.neurons.rows) for layer in network.layers]


def readout_tick(y: Any, z: Any, readout: Readout, n_ticks: int, first_tick: bool, dt: float) -> Any:
    """Advance the readout trace, the spikes in the filter; kinds that look at every tick leave a leaky one, unread."""
    kind = READOUTS["leaky" if readout.every_tick else readout.kind]
    kept, gain, _ = kind.filter(readout.tau_out, n_ticks, dt)
    return (0.0 if first_tick and kind.clears else kept) * y + gain * z


def constants(network: Network, layer: int) -> Any:
    """Return the constants of one layer of a network, in the dtype of its weights."""
    return network.layers[layer].neurons.constants(network.dt, network.layers[layer].w_in.dtype)


def heaviside(u: np.ndarray) -> np.ndarray:
    """Return 1 where ``u > 0``, else 0, in the dtype of ``u``."""
    return (u > 0).astype(u.dtype)


def step(
    network: Network, x: np.ndarray, states: list[State], y: np.ndarray
) -> tuple[np.ndarray, list[State], np.ndarray, list[np.ndarray]]:
    """Run a network for one env step, numpy, by the equations of :func:`tick`.

    Layer ``l`` reads the spikes that layer ``l - 1`` sends on this tick (latency 0) or sent on the previous one
    (latency 1); so does the readout. A network that clears begins at rest, whatever the states it is given.

    Args:
        network: The network.
        x: Encoded input of each tick, shape (n_ticks, B, n_channels).
        states: One per layer, see :func:`tick`.
        y: Readout trace, shape (B, N) of the last layer.

    Returns:
        Output values (B, n_outputs), new states, new trace, and per layer the spikes (n_ticks, B, N).

    >>> from spikeloop.spiking import Encoder, Layer, Network, Readout
    >>> from spikeloop.spiking.neurons.izhikevich import Izhikevich
    >>> layer = Layer(np.ones((1, 1)), np.zeros(1), Izhikevich(a=np.array([0.02])))
    >>> network = Network(Encoder("direct", 1), (layer,), Readout(np.ones((1, 1)), np.zeros(1)), n_ticks=60)
    >>> outputs, states, y, spikes = step(network, np.ones((60, 1, 1)), rest(network), np.zeros((1, 1)))
    >>> np.flatnonzero(spikes[0])  # regular spiking in a current of 10
    array([ 4, 27])
    """
    if network.answers_steps:
        raise ValueError(f"step() runs layers in ticks, these are {type(network.layers[0]).__name__}: see its run()")
    states = rest(network, len(y)) if network.clears else list(states)
    y = np.zeros_like(y) if network.clears else y
    recorded: list[list[np.ndarray]] = [[] for _ in states]
    arrived: list[np.ndarray] = []  # at the readout
    layer_constants = [constants(network, i) for i in range(len(states))]
    outputs_at = [layer.neurons.rows.index("z") for layer in network.layers]
    for t in range(network.n_ticks):
        before = [state[at] for state, at in zip(states, outputs_at, strict=True)]
        spikes = x[t]
        for i, layer in enumerate(network.layers):
            current = spikes @ layer.w_in.T + layer.bias
            states[i] = tick(type(layer.neurons), current, states[i], layer.w_rec, layer_constants[i], heaviside)
            recorded[i].append(states[i][outputs_at[i]])
            spikes = before[i] if network.latency else states[i][outputs_at[i]]
        y = readout_tick(y, spikes, network.readout, network.n_ticks, t == 0, network.dt)
        arrived.append(spikes)
    if network.readout.every_tick:
        sizes = network.head.sizes if network.head else None
        outputs, _ = decide(np.stack(arrived), network.readout, sizes, network.dt)
    else:
        outputs = read(y, network.readout)
    return outputs, states, y, [np.stack(z) for z in recorded]


def read(y: np.ndarray, readout: Readout) -> np.ndarray:
    """Return the output values, shape (..., n_outputs), of readout traces, shape (..., N)."""
    for layer in readout.dense:
        y = ACTIVATIONS[layer.activation](y @ layer.w.T + layer.b)
    return y @ readout.w_out.T + readout.b_out


def decide(
    spikes: np.ndarray, readout: Readout, sizes: Sequence[int] | None = None, dt: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return what follows from output units on all ticks: values (B, n_outputs), spikes (n_ticks, B, n_outputs).

    Args:
        spikes: What reaches the readout on each tick of one env step, shape (n_ticks, B, N).
        readout: The units.
        sizes: Those of each group of the action head; None for one group of all.
        dt: Length of a tick in ms.
    """
    return readout.decide(readout.membranes(spikes @ readout.w_out.T + readout.b_out, dt), sizes)
