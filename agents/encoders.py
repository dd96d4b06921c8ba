"""The encoder of a policy: sensible descriptions for a feature vector, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spikeloop.spiking.encoders.encoder import Encoder

# Normalised observations (VecNormalize) rarely leave +-3 standard deviations.
DEFAULT_RANGE = (-3.0, 3.0)


def encoder_for(kind: str, n_features: int, options: Mapping[str, Any] | None = None) -> Encoder:
    """Describe an encoder for ``n_features`` values, which are expected to be normalised to about +-3.

    Args:
        kind: ``direct``, ``population``, ``rate``, ``latency`` or ``delta``.
        n_features: Length of the feature vector.
        options: ``low`` and ``high``, scalars or one per feature (``population``, ``rate``, ``latency``; default
            -3 and 3); ``n``, neurons per feature (``population``, default 10); any further field of
            :class:`~spikeloop.spiking.encoders.encoder.Encoder` that the kind uses.

    Raises:
        ValueError: If an option is unknown or out of range.
    """
    fields = {"population": {"n"}, "rate": {"gain", "poisson"}, "latency": {"gain", "tau", "threshold"}}
    ranged = {"low", "high"} if kind in fields else set()
    options = dict(options or {})
    allowed = fields.get(kind, {"threshold"} if kind == "delta" else set()) | ranged
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise ValueError(f"encoder {kind!r} has no option {unknown[0]!r}; it takes {sorted(allowed) or 'none'}")
    low = np.broadcast_to(np.asarray(options.pop("low", DEFAULT_RANGE[0]), np.float32), (n_features,))
    high = np.broadcast_to(np.asarray(options.pop("high", DEFAULT_RANGE[1]), np.float32), (n_features,))
    if kind == "population":
        n = int(options.get("n", 10))
        if n < 2:
            raise ValueError(f"encoder option n must be at least 2, got {n}")
        centers = np.linspace(low, high, n, axis=1)  # (n_features, n)
        # Neighbouring curves cross at exp(-1/2) of their peak when the width is half the distance.
        widths = np.repeat(((high - low) / (n - 1))[:, None], n, axis=1)
        return Encoder("population", n_features, centers=centers.astype(np.float32), widths=widths)
    if kind == "latency":
        options.setdefault("gain", 2.0)  # intensity 1/2 charges just to the threshold
    return Encoder(kind, n_features, low=low if ranged else None, high=high if ranged else None, **options)
