"""Offset and gain of each number that a deployed policy observes, as its host corrects them before it encodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikeloop.hardware.host import Host
from spikeloop.spiking.observation import Normalizer

_MOST = 20.0  # of a gain's logarithm


def n_sensors(host: Host) -> int:
    """Return how many numbers are observed; 0 where some of what is observed is choices, or there are several parts."""
    numbers = len(host.observation) == 1 and not host.observation[0].sizes
    return host.n_obs if numbers else 0


def corrected(host: Host, shift: np.ndarray) -> Host:
    """Return a host whose sensors are shifted: of each input x of the network it makes ``gain (x - offset)``.

    Args:
        host: The host; the input is what its first normaliser gives, or the observation if that comes first.
        shift: Offsets, then logarithms of gains, shape (2 n,).

    Example:
        >>> from spikeloop.hardware.host import Host
        >>> from spikeloop.spiking import ActionHead, Encoder, Readout
        >>> from spikeloop.spiking.observation import ObservationPart
        >>> readout, head = Readout(np.zeros((2, 0)), np.zeros(2)), ActionHead("discrete", (2,))
        >>> parts, encoder = (ObservationPart((1,)),), Encoder("direct", 1)
        >>> host = Host(parts, encoder, readout, 4, 1.0, "graded", 16.0, 0.01, head=head)
        >>> (step,) = corrected(host, np.array([0.1, np.log(2)])).preprocessing
        >>> step(np.array([[0.6]]))
        array([[1.]], dtype=float32)
    """
    offset, gain = shift[: host.n_obs], np.exp(np.clip(shift[host.n_obs :], -_MOST, _MOST))
    steps = host.preprocessing
    if steps and isinstance(steps[0], Normalizer):
        first = steps[0]
        now = replace(first, mean=first.mean + first.std * offset, std=first.std / gain)
        return replace(host, preprocessing=(now, *steps[1:]))
    return replace(host, preprocessing=(Normalizer(offset, 1.0 / gain), *steps))
