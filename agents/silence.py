"""Says when a network hardly spikes or its code sees nothing: it would pass for a policy that does not learn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch as th

from spikeloop.spiking.encoders import Encoder

LOWEST_RATE = 0.01  # spikes per neuron and tick
_FEWEST_SPIKES = 3.0  # that are expected at that rate where a rollout is long enough to tell
_REMEDY = "Scale the observations to about -1 to 1 (VecNormalize or obs_scale)"


def fires_below(rate: float, count: np.ndarray, n_counted: float) -> bool:
    """Return whether a layer of spike counts ``count``, shape (N,), has fewer spikes per neuron and tick than ``rate``.

    Too short a run, in which :data:`LOWEST_RATE` would give hardly a spike, tells nothing.
    """
    most = n_counted * count.size
    return bool(most * LOWEST_RATE >= _FEWEST_SPIKES and count.sum() / most < rate)


def is_silent(count: np.ndarray, n_counted: float) -> bool:
    """Return whether a layer hardly spikes: below :data:`LOWEST_RATE`, and three quarters of its neurons never."""
    return fires_below(LOWEST_RATE, count, n_counted) and bool(np.mean(count < 0.5) > 0.75)


def warn_of_silence(counts: Sequence[np.ndarray], n_counted: float) -> None:
    """Warn of the first layer that hardly spikes (:func:`is_silent`).

    Args:
        counts: Per layer the spikes of each neuron in a rollout, shape (N,).
        n_counted: Number of (environment, tick) pairs they are counted over.
    """
    for layer, count in enumerate(counts):
        if is_silent(count, n_counted):
            rate, silent = count.sum() / (n_counted * count.size), np.mean(count < 0.5)
            warnings.warn(
                f"layer {layer} spikes on {rate:.2%} of its ticks, {silent:.0%} of its neurons never did in the first "
                f"rollout, so that little can be learnt. {_REMEDY}, lower v_th, or raise n_ticks",
                stacklevel=4,
            )
            return


class Coverage:
    """Warns once of features far outside of what an encoder covers, where they leave no trace or always the same.

    Args:
        encoder: The encoder; one without ranges covers everything.
    """

    def __init__(self, encoder: Encoder):
        self.kind = encoder.kind
        self._bounds = encoder.covered
        self._warned = self._bounds is None

    def warn_of_rollout(self, features: th.Tensor) -> None:
        """Warn of a feature, shape (B, F), that was never covered in a rollout."""
        if not self._warned and (blind := self._beyond(features).all(axis=0)).any():
            i = int(np.flatnonzero(blind)[0])
            self._warn(
                f"feature {i} lay from {features[:, i].min():g} to {features[:, i].max():g} in the first rollout"
            )

    def warn_of_observation(self, features: th.Tensor) -> None:
        """Warn where no feature of what ``predict`` was called with, shape (B, F), is covered."""
        if not self._warned and self._beyond(features).all():
            self._warn(f"predict() got observations whose features lie from {features.min():g} to {features.max():g}")

    def _beyond(self, features: th.Tensor) -> np.ndarray:
        assert self._bounds is not None
        x, (low, high) = features.detach().cpu().numpy(), self._bounds
        return (x < low) | (x > high)

    def _warn(self, what: str) -> None:
        self._warned = True
        warnings.warn(
            f"{what}, far beyond what the {self.kind} code covers: the network is blind to them. {_REMEDY}, or set low "
            "and high of encoder_kwargs",
            stacklevel=4,
        )
