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
    offset, gain = shift[: host.n_obs], _gains(shift[host.n_obs :])
    steps = host.preprocessing
    if steps and isinstance(steps[0], Normalizer):
        first = steps[0]
        now = replace(first, mean=first.mean + first.std * offset, std=first.std / gain)
        return replace(host, preprocessing=(now, *steps[1:]))
    return replace(host, preprocessing=(Normalizer(offset, 1.0 / gain), *steps))


def seen_by(host: Host, shifts: np.ndarray) -> np.ndarray:
    """Return what makes of observations those which the host takes as :func:`corrected` hosts take the first ones.

    Args:
        host: The host, not corrected.
        shifts: Offsets, then logarithms of gains, of some corrections, shape (C, 2 n).

    Returns:
        Gains of observations, then what is added to them, shape (C, 2, n).

    Example:
        >>> from spikeloop.hardware.host import Host
        >>> from spikeloop.spiking import ActionHead, Encoder, Readout
        >>> from spikeloop.spiking.observation import Normalizer, ObservationPart
        >>> readout, head = Readout(np.zeros((2, 0)), np.zeros(2)), ActionHead("discrete", (2,))
        >>> parts, encoder = (ObservationPart((1,)),), Encoder("direct", 1)
        >>> steps = (Normalizer(np.array([3.0]), np.array([0.5])),)
        >>> host = Host(parts, encoder, readout, 4, 1.0, "graded", 16.0, 0.01, preprocessing=steps, head=head)
        >>> shift = np.array([0.1, np.log(2)])
        >>> gain, added = seen_by(host, shift[None])[0]
        >>> host.preprocessing[0](gain * np.array([[3.6]]) + added)
        array([[2.2]], dtype=float32)
        >>> corrected(host, shift).preprocessing[0](np.array([[3.6]]))
        array([[2.2]], dtype=float32)
    """
    steps = host.preprocessing
    mean, deviation = np.zeros(host.n_obs), np.ones(host.n_obs)
    if steps and isinstance(steps[0], Normalizer):
        mean, deviation = steps[0].mean, steps[0].std
    gain = _gains(shifts[:, host.n_obs :])
    return np.stack([gain, mean - gain * (mean + deviation * shifts[:, : host.n_obs])], axis=1)


def _gains(logarithms: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(logarithms, -_MOST, _MOST))
