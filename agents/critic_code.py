"""The input code of a linear critic beside a spiking actor: tiles or place cells of what is observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from spikeloop.agents.checks import in_words
from spikeloop.agents.line_codes import coder_for
from spikeloop.spiking.encoders.tile_coding import PlaceCells, Tiles


def critic_code(
    kind: str, kwargs: Mapping[str, Any], sees_changes: bool, space: spaces.Space
) -> Tiles | PlaceCells | None:
    """Return the input code of a critic; None for one on the readout trace.

    Args:
        kind: ``trace``, ``tiles`` or ``places``.
        kwargs: Options of the code, as :func:`~spikeloop.agents.line_codes.coder_for` takes them.
        sees_changes: Whether the change of each number since the step before comes after the numbers.
        space: What is observed.

    Raises:
        ValueError: If an option is unknown or missing, or the observation is no vector.

    >>> space = spaces.Box(-1.0, 1.0, (1,))
    >>> critic_code("tiles", {"n_tiles": 3, "low": [-1, -0.1], "high": [1, 0.1]}, True, space).n_channels
    128
    """
    if kind == "trace":
        if kwargs or sees_changes:
            raise ValueError("critic_kwargs and critic_sees_changes need critic 'tiles' or 'places', got 'trace'")
        return None
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"critic {kind!r} needs a vector observation (Box), the environment shows {in_words(space)}")
    if sees_changes:
        far = np.full(space.shape, np.inf)  # as no end of a change is known, it has to be given
        space = spaces.Box(np.append(space.low, -far), np.append(space.high, far), dtype=np.float64)
    try:
        return coder_for(kind, kwargs, space)
    except ValueError as error:
        raise ValueError(f"critic: {error}") from None
