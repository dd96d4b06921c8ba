"""The encoder of a policy: sensible descriptions for a feature vector, by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.encoders.base import encoder_class

# Normalised observations (VecNormalize) rarely leave +-3 standard deviations.
DEFAULT_RANGE = (-3.0, 3.0)


def encoder_for(kind: str, n_features: int, options: Mapping[str, Any] | None = None) -> Encoder:
    """Describe an encoder for ``n_features`` values, which are expected to be normalised to about +-3.

    Args:
        kind: A name in :data:`~spikeloop.spiking.encoders.ENCODERS`: ``direct``, ``population``, ``rate``,
            ``latency``, ``spike_times``, ``delta``, ``tiles`` or ``places``.
        n_features: Length of the feature vector.
        options: ``low`` and ``high``, scalars or one per feature (default -3 and 3), for an encoder that has a range;
            and what the ``over`` of its class takes, such as ``n``, neurons per feature, of ``population``.

    Raises:
        ValueError: If an option is unknown or out of range.

    >>> encoder_for("population", 4, {"n": 5, "low": -1, "high": 1}).n_channels
    20
    """
    cls, given = encoder_class(kind), dict(options or {})
    low, high = (
        np.broadcast_to(np.asarray(given.pop(name, default), np.float32), (n_features,))
        for name, default in zip(("low", "high"), DEFAULT_RANGE, strict=True)
    )
    ranged = {"low", "high"} if cls.over(low, high).covered is not None else set()
    allowed = {*inspect.signature(cls.over).parameters} - {"low", "high"} | ranged
    unknown = sorted(set(options or {}) - allowed)
    if unknown:
        raise ValueError(f"encoder {kind!r} has no option {unknown[0]!r}; it takes {sorted(allowed) or 'none'}")
    return cls.over(low, high, **given)
