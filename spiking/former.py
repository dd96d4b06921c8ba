"""What the names of parts stood for in files of older format versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.observation import Normalizer

# by version, as load_parts takes them: one class for all encoders, and one for the only neurons there were; version 4
# has the names of today, only no network clears
FORMER: dict[int, dict[str, Callable[..., Any]]] = {
    **{version: {"Encoder": Encoder, "NeuronParameters": LsnnNeurons} for version in (2, 3)},
    4: {},
}


def normalizer_of_version_1(mean: np.ndarray, var: np.ndarray, epsilon: float, clip: float) -> Normalizer:
    """Return the normaliser that version 1 describes by a variance, as ``VecNormalize`` does."""
    return Normalizer(mean, np.sqrt(var + epsilon), clip)
