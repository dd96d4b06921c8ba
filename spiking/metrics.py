"""NeuroBench's complexity metrics (Yik et al. 2025, arXiv:2304.04640; neurobench's docs/metrics), from spike counts.

    footprint             bytes of parameters and buffers, zero weights included
    connection sparsity   zero weights / weights, over all layers
    activation sparsity   1 - spikes / (neurons x ticks), over all layers, 1 if nothing ever spikes
    synaptic operations   pairs of an activation and a synapse it reaches, per model execution:
                          dense counts all, effective those with both nonzero;
                          effective ones are accumulates (ACs) if the activations are binary (-1, 0, 1),
                          multiply-accumulates (MACs) otherwise. Biases do not count.

A model execution is one env step with all its ticks. Three readings of ours: the diagonal of ``w_rec`` counts as N zero
weights, as it would in NeuroBench's harness. A current that is held over a step is projected once per step. The
readout's filter and its linear map commute, so a spike that reaches the readout costs an AC per output, as in
compartments that integrate and never fire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from spikeloop.spiking.network import Layer, Network


class SynapticOperations(NamedTuple):
    """Synaptic operations per env step."""

    effective_macs: float
    effective_acs: float
    dense: float


def footprint(network: Network) -> int:
    """Return the bytes that the network's arrays and the state of one environment take."""
    return _array_bytes(network) + network.initial_state().nbytes


def connection_sparsity(network: Network) -> float:
    """Return the share of weights that are zero, the readout's included."""
    weights = [*network.readout.weights, *(w for layer in network.layers for w in _weights(layer))]
    return 1.0 - float(sum(np.count_nonzero(w) for w in weights)) / sum(w.size for w in weights)


def activation_sparsity(spike_counts: Sequence[np.ndarray], n_counted: int) -> float:
    """Return the share of neurons and ticks without a spike; 1 if there are no neurons.

    Args:
        spike_counts: Spikes of each neuron, one array (N,) per layer.
        n_counted: Pairs of environment and tick over which they were counted.

    >>> activation_sparsity([np.array([5, 0])], n_counted=10)  # 2 neurons, 10 ticks
    0.75
    """
    n_neurons = sum(c.size for c in spike_counts)
    return 1.0 - float(sum(c.sum() for c in spike_counts)) / (n_counted * n_neurons) if n_neurons else 1.0


def synaptic_operations(
    layers: Sequence[Layer],
    spike_counts: Sequence[np.ndarray],
    n_counted: int,
    *,
    n_ticks: int = 1,
    x: np.ndarray | None = None,
    w_out: np.ndarray | None = None,
) -> SynapticOperations:
    """Return the synaptic operations per env step, averaged over what was counted.

    Args:
        layers: The network's layers. Without any, the input's spikes meet ``w_out``.
        spike_counts: Spikes of each neuron, one array (N,) per layer.
        n_counted: Pairs of environment and tick over which they were counted.
        n_ticks: Ticks per env step.
        x: Encoder output to average the input's cost over, shape (L, B, n_channels) or (L, n_ticks, B, n_channels);
            None takes currents that are never zero, which is the worst case of a held input.
        w_out: Readout weights that the spikes meet, shape (n, N); None leaves the readout out.

    Raises:
        ValueError: If a layer answers steps by neurons that send numbers.
    """
    for layer in layers:
        if getattr(layer, "graded", False):
            raise ValueError(f"synaptic operations are counted of spikes, {type(layer).__name__} sends numbers")
    met = layers[0].w_in if layers else w_out
    if met is None:
        return SynapticOperations(0.0, 0.0, 0.0)
    if x is None:
        x = np.full((1, 1, met.shape[1]), 0.5 if layers else 1.0)
    if not layers and x.ndim == 3:  # spikes that are held arrive on every tick
        x = np.repeat(x[:, None], n_ticks, axis=1)
    ticks_of_x = x.shape[1] if x.ndim == 4 else 1
    steps_of_x = x.size // (x.shape[-1] * ticks_of_x)
    active = np.count_nonzero(x.reshape(-1, x.shape[-1]), axis=0) / steps_of_x  # nonzero inputs per env step
    of_input = _operations(active, met)
    binary = bool(np.all((x == 0) | (abs(x) == 1)))
    dense = float(ticks_of_x * met.size)
    acs = sum(accumulates(layers, spike_counts, n_counted, n_ticks=n_ticks, w_out=w_out)) + binary * of_input
    dense += n_ticks * sum(weights.size for reached in _reached(layers, w_out) for weights in reached)
    return SynapticOperations(0.0 if binary else of_input, acs, dense)


class Synapses(NamedTuple):
    """Weights of a layer, post x pre, as a :class:`~spikeloop.spiking.layer.Layer` has them beside its neurons."""

    w_in: np.ndarray
    w_rec: np.ndarray | None


def accumulates(
    layers: Sequence[Layer | Synapses],
    spike_counts: Sequence[np.ndarray],
    n_counted: int,
    *,
    n_ticks: int = 1,
    w_out: np.ndarray | None = None,
) -> list[float]:
    """Return the effective accumulates per env step that the spikes of each layer cause, one number per layer.

    Arguments as in :func:`synaptic_operations`.
    """
    n_steps = n_counted / n_ticks
    per_step = [np.asarray(counts, dtype=np.float64) / n_steps for counts in spike_counts]  # spikes per env step, (N,)
    reached = _reached(layers, w_out)
    return [sum(_operations(active, w) for w in weights) for active, weights in zip(per_step, reached, strict=True)]


def summary(
    network: Network, spike_counts: Sequence[np.ndarray], n_counted: int, x: np.ndarray | None = None
) -> dict[str, float]:
    """Return every metric of a network by name; arguments as in :func:`synaptic_operations`.

    >>> from spikeloop.spiking import LSNN, ActionHead, Encoder, Network, Readout, Simulator
    >>> lsnn = LSNN(Encoder("direct", 3), [8])
    >>> readout = Readout(np.ones((2, 8), np.float32), np.zeros(2, np.float32))
    >>> simulator = Simulator(Network(lsnn.encoder, lsnn.network_layers(), readout, ActionHead("discrete", (2,))))
    >>> _ = simulator.predict(np.ones(3))
    >>> metrics = summary(simulator.network, simulator.spike_counts, simulator.n_counted)
    >>> metrics["dense"]  # 3 x 8 synapses from the input, 8 x 8 recurrent ones, 8 x 2 to the readout
    104.0
    """
    met, *after = network.readout.weights
    if network.answers_steps and x is None:  # one spike of each input
        x = np.ones((1, 1, network.encoder.n_channels))
    macs, acs, dense = synaptic_operations(
        network.layers, spike_counts, n_counted, n_ticks=network.n_ticks, x=x, w_out=met
    )
    once = sum(w.size for w in after)  # dense layers and what follows them run once per env step, on values
    return {
        "footprint": footprint(network),
        "connection_sparsity": connection_sparsity(network),
        "activation_sparsity": activation_sparsity(spike_counts, n_counted),
        **SynapticOperations(macs + once, acs, dense + once)._asdict(),
    }


def _operations(active: np.ndarray, weights: np.ndarray) -> float:
    """Return how often nonzero presynaptic values, counts of shape (n_pre,), meet nonzero weights (n_post, n_pre)."""
    return float(active @ np.count_nonzero(weights, axis=0))


def _reached(layers: Sequence[Layer | Synapses], w_out: np.ndarray | None) -> list[list[np.ndarray]]:
    """Return the weights that the spikes of each layer meet."""
    forward = [*(layer.w_in for layer in layers[1:]), *([w_out] if layers else [])]
    recurrent = [getattr(layer, "w_rec", None) for layer in layers]
    return [[w for w in weights if w is not None] for weights in zip(recurrent, forward, strict=True)]


def _weights(layer: Any) -> list[np.ndarray]:
    if not isinstance(layer, Layer):
        return list(layer.matrices)
    return [layer.w_in] if layer.w_rec is None else [layer.w_in, layer.w_rec]


def _array_bytes(part: Any) -> int:
    if isinstance(part, np.ndarray):
        return part.nbytes
    if isinstance(part, tuple):
        return sum(_array_bytes(item) for item in part)
    return sum(_array_bytes(getattr(part, f.name)) for f in fields(part)) if is_dataclass(part) else 0
