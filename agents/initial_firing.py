"""Layers that would start silent: their input weights are scaled, layer by layer, until they fire at a rate.

Weights are drawn for inputs of about 1. A layer behind others gets sparse spikes instead, and from rest it may not even
reach its threshold within a step. What never spikes has next to no gradient, and what is behind it has no input.
"""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import torch as th

from spikeloop.agents.silence import fires_below, is_silent
from spikeloop.spiking.constrained_weights import ConstrainedWeights
from spikeloop.spiking.core import Core
from spikeloop.spiking.module import LSNN

_FEEBLE = 0.02  # of a layer behind others; a first layer that fires so is one of small observations
TARGET_RATE = 0.15  # spikes per neuron and tick, what a first layer has on inputs of about 1
_LARGEST = 6.0  # powers of two: beyond a factor of 64 it is the observations that need a scale
_HALVINGS = 12


def fingerprint(core: Core) -> bytes:
    """Return a digest of all numbers of the layers, by which drawn weights are told from those that were loaded."""
    found = hashlib.sha256()
    for name, tensor in core.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return found.digest()


def starts_silent(layer: int, count: np.ndarray, n_counted: float) -> bool:
    """Return whether a layer is to be helped: it is silent, or, if it is behind others, feeble.

    Args:
        layer: Number of the layer.
        count: Spikes of its neurons, shape (N,).
        n_counted: Ticks they are counted over.

    >>> [starts_silent(layer, np.full(64, 10), 1000) for layer in (0, 1)]
    [False, True]
    """
    return is_silent(count, n_counted) or (layer > 0 and fires_below(_FEEBLE, count, n_counted))


def calibrate(
    lsnn: LSNN,
    features: th.Tensor,
    state: th.Tensor,
    starts: th.Tensor,
    target: float | None,
    constraint: ConstrainedWeights | None = None,
) -> tuple[dict[int, float], tuple[np.ndarray, ...], int]:
    """Scale the input weights of layers, the first of them first, until they fire at a rate.

    Args:
        lsnn: The layers, which are changed; their spike counts are not.
        features: What is observed, shape (L, B, F).
        state: Packed state before it, shape (n_rows, B, width).
        starts: Where episodes begin, shape (L, B).
        target: Spikes per neuron and tick that all layers are brought to; None brings silent layers to
            :data:`TARGET_RATE` and leaves the others. A layer that does not come to it is left as it was.
        constraint: What holds its weights, if anything: latent weights are scaled in place of those that act.

    Returns:
        By layer the factor; the spikes of each layer's neurons after that, and the ticks they are counted over.

    >>> from spikeloop.spiking.encoders import Encoder
    >>> lsnn = LSNN(Encoder("direct", 4), [32, 32], n_ticks=4, generator=th.Generator().manual_seed(0))
    >>> features = th.randn(50, 4, 4, generator=th.Generator().manual_seed(1))
    >>> state, starts = th.from_numpy(lsnn.initial_state(4)), th.ones(50, 4)
    >>> factors, counts, n = calibrate(lsnn, features, state, starts, target=0.2)
    >>> [round(float(count.mean() / n), 2) for count in counts]
    [0.2, 0.2]
    """

    def spikes() -> tuple[np.ndarray, ...]:
        kept = lsnn.spike_counts, lsnn.n_counted
        lsnn.reset_counts()
        with th.no_grad():
            lsnn(features, state, starts)
        found = lsnn.spike_counts
        lsnn.spike_counts, lsnn.n_counted = kept
        return found

    n_counted = starts.numel() * lsnn.n_ticks
    wanted = TARGET_RATE if target is None else target
    factors: dict[int, float] = {}
    counts = spikes()
    for i, layer in enumerate(lsnn.layers):
        if target is None and not starts_silent(i, counts[i], n_counted):
            continue
        learnt = layer.w_in if constraint is None else constraint.learnt(layer.w_in)
        drawn = learnt.detach().clone()

        def rate(power: float, i: int = i, learnt: th.Tensor = learnt, drawn: th.Tensor = drawn) -> float:
            with th.no_grad():
                learnt.copy_(drawn * 2.0**power)
            if constraint is not None:
                constraint.act()
            return float(spikes()[i].mean() / n_counted)

        low, high = (0.0 if target is None else -_LARGEST), _LARGEST
        if rate(low) > wanted or rate(high) < wanted:
            rate(0.0)  # as it was drawn
            if target is not None:
                warnings.warn(
                    f"calibrate_init={target}: layer {i} fires at no factor from {2.0**low:g} to {2.0**high:g} of its "
                    "input weights at that rate, and is left as it was drawn",
                    stacklevel=3,
                )
            continue
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if rate(middle) >= wanted else (middle, high)
        rate(high)
        factors[i] = 2.0**high
        counts = spikes()
    return factors, counts, n_counted
