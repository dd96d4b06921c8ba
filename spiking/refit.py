"""Fits the last map of a converted network to the spikes that the network really has.

The last map of a conversion expects of each neuron its activation. What the neurons' spikes stand for is a little
different: activations are rounded and cut off, and errors of the layers before add up. With y(s) the outputs of the
ANN in state s, r(s) what the readout reads of each neuron, and W, b the last map, the new map is (W + D, c) with

    minimal   sum_s g(s) |y(s) - (W + D) r(s) - c|^2 / sum_s g(s)  +  PENALTY / (12 K^2) |D|^2

1 / (12 K^2) is the variance of an activation that is rounded to whole spikes in K ticks; K is all ticks of the network,
with those that latency adds. Where an action is chosen, close choices count most: g = exp(-(m / m0)^2), with m the
margin of the choice and m0 its median over the states. If m0 is 0, because in half of the states two outputs are
equally good, all states count alike.

Hidden layers stay as they are (Li et al. 2021 also correct these, layer by layer). The map of a network that has
exactly the ANN's outputs in the given states stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spikeloop.spiking.conversion import checked_states, differences, forward, margins
from spikeloop.spiking.network import Network
from spikeloop.spiking.readout import Dense, Readout
from spikeloop.spiking.simulator import Simulator

PENALTY = 0.1
STATES_PER_NEURON = 4  # with fewer, the fitted map is often worse in other states
_AT_ONCE = 250  # states


def refitted(network: Network, layers: Sequence[Dense], x: np.ndarray, *, close: bool = True) -> Network:
    """Return a converted network whose last map is fitted to its spikes in visited states.

    Args:
        network: What :func:`~spikeloop.spiking.conversion.converted` made of the layers.
        layers: The layers.
        x: Inputs of the first layer in visited states, shape (n_states, n_inputs), at least four states for each neuron
            of the last hidden layer.
        close: Whether close choices count most, if the network's head chooses an action. Otherwise all states count
            alike.

    Raises:
        ValueError: If the inputs are not finite numbers of that shape, or there are too few.

    >>> from spikeloop.spiking.conversion import converted
    >>> rng = np.random.default_rng(0)
    >>> hidden = Dense(rng.normal(size=(20, 3)), rng.normal(size=20), "relu")
    >>> layers, x = (hidden, Dense(rng.normal(size=(1, 20)), np.zeros(1), "identity")), rng.normal(size=(400, 3))
    >>> network = converted(layers, x, 4)
    >>> for one in (network, refitted(network, layers, x[:200])):
    ...     error = Simulator(one).run(x[None, 200:])[0][0] - forward(layers, x[200:])[-1]
    ...     print(round(float(np.sqrt(np.mean(error**2))), 2))
    0.64
    0.59
    """
    x, n = checked_states(layers, x), network.readout.n_neurons
    if len(x) < STATES_PER_NEURON * n:
        raise ValueError(f"x must have at least {STATES_PER_NEURON * n} states to fit {n} neurons to, got {len(x)}")
    r, given = _read(network, x), forward(layers, x)
    last, margin = differences(layers[-1], network.head), margins(given[-1], network.head if close else None)
    median = float(np.median(margin))
    g = np.exp(-((margin / median) ** 2)) if median > 0 else np.ones(len(x))
    g /= g.sum()
    w, b = network.readout.w_out.astype(np.float64), network.readout.b_out.astype(np.float64)
    error = given[-2] @ last.w.T + last.b - (r @ w.T + b)
    mean_r, mean_error = g @ r, g @ error
    weighted = (r - mean_r) * g[:, None]
    penalty = PENALTY / (12 * network.n_ticks**2) * np.eye(r.shape[1])
    change = np.linalg.solve(weighted.T @ (r - mean_r) + penalty, weighted.T @ (error - mean_error)).T
    b = b + mean_error - change @ mean_r
    kind = network.readout.kind
    return replace(network, readout=Readout((w + change).astype(np.float32), b.astype(np.float32), kind=kind))


def _read(network: Network, x: np.ndarray) -> np.ndarray:
    """Return what the readout reads of each neuron, shape (n_states, N), float64."""
    n = network.readout.n_neurons
    each = Readout(np.eye(n, dtype=np.float32), np.zeros(n, np.float32), kind=network.readout.kind)
    simulator = Simulator(replace(network, readout=each, head=None, preprocessing=(), observation=()))
    parts = np.array_split(np.asarray(x, np.float32), -(-len(x) // _AT_ONCE))
    return np.concatenate([simulator.run(part[None])[0][0] for part in parts]).astype(np.float64)
