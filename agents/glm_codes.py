"""The two codes of observations in probabilistic spiking policies: input of the network, and input of the critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from spikeloop.agents.check_finite import check_predicted
from spikeloop.agents.checks import in_words, rows_of
from spikeloop.agents.critic_code import critic_code
from spikeloop.agents.encoders import encoder_for
from spikeloop.agents.export import observation_parts
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.encoders.base import encoder_class
from spikeloop.spiking.encoders.lines import Binary
from spikeloop.spiking.encoders.population_spikes import PopulationSpikes
from spikeloop.spiking.encoders.tile_coding import PlaceCells, Tiles
from spikeloop.spiking.observation import flatten


def is_vector(space: spaces.Space) -> bool:
    """Return whether observations are vectors of numbers, and not discrete."""
    return isinstance(space, spaces.Box) and len(space.shape) == 1


class ObservationRows:
    """Observations of a space, vectors or choices, as rows of numbers.

    Args:
        space: The space.

    Raises:
        ValueError: If the space is of another kind.

    >>> rows = ObservationRows(spaces.Discrete(3))
    >>> rows(np.array([2]))
    array([[0., 0., 1.]], dtype=float32)
    """

    def __init__(self, space: Any):
        self._space, self._parts = space, observation_parts(space)

    def __call__(self, observation: Any) -> np.ndarray:
        """Return observations as rows, shape (B, n_obs)."""
        if is_vector(self._space):
            return np.asarray(observation).reshape(-1, self._space.shape[0])
        return flatten(self._parts, observation)[0]

    def of_predict(self, observation: Any) -> tuple[np.ndarray, bool]:
        """Return what ``predict`` is called with as rows, and whether it was a single observation.

        Raises:
            ValueError: If a shape is wrong or a number is not finite.
        """
        if is_vector(self._space):
            obs, one = rows_of(observation, self._space)
            check_predicted(obs)
            return obs.reshape(len(obs), -1), one
        check_predicted(observation)
        return flatten(self._parts, observation)


def is_plain(encoder: Encoder, space: Any) -> bool:
    """Return whether the kernels of compiled tasks know the input code."""
    return type(encoder) is PopulationSpikes or isinstance(space, spaces.Discrete)


def glm_codes(
    name: str,
    space: Any,
    n_ticks: int,
    encoder: str | None,
    encoder_kwargs: Mapping[str, Any],
    critic: str,
    critic_kwargs: Mapping[str, Any],
) -> tuple[Encoder, Tiles | PlaceCells | Binary]:
    """Return the encoder and the critic's code, from arguments of :class:`~spikeloop.agents.glm_policy.GlmPolicy`.

    Args:
        name: Name of the policy, for messages.
        space: Observation space.
        n_ticks: Ticks of an env step.
        encoder: Name of the encoder, which turns observations into spikes; None for the default of the space.
        encoder_kwargs: Options of the encoder.
        critic: Code that the critic reads, ``"tiles"`` or ``"places"``.
        critic_kwargs: Options of the critic's code.

    Raises:
        ValueError: If the space is neither a vector nor discrete, or a name or an option is not valid.

    >>> encoder, code = glm_codes("GlmPolicy", spaces.Discrete(3), 8, None, {}, "tiles", {})
    >>> encoder.n_channels, code.n_inputs
    (3, 3)
    """
    if not is_vector(space):
        if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
            raise ValueError(f"{name} needs a vector observation (Box) or choices, got {in_words(space)}")
        if encoder not in (None, "binary") or encoder_kwargs or critic_kwargs:
            given = encoder, dict(encoder_kwargs), dict(critic_kwargs)
            raise ValueError(f"encoder and the options of codes must be left out for {in_words(space)}, got {given}")
        lines = Binary(sum(part.n_values for part in observation_parts(space)))
        return lines, lines
    ends = {name: encoder_kwargs[name] for name in ("low", "high") if name in encoder_kwargs}
    if "components" not in critic_kwargs:
        critic_kwargs = {**{name: np.broadcast_to(end, space.shape) for name, end in ends.items()}, **critic_kwargs}
    code = critic_code(critic, critic_kwargs, False, space)
    if code is None:
        raise ValueError(f"critic must be 'tiles' or 'places', got {critic!r}")
    for end, bound in (("low", space.low), ("high", space.high)):
        if end not in ends and np.all(np.abs(bound) < 1e6):
            ends[end] = bound
    kind = encoder or "population_spikes"
    if encoder_class(kind).over(np.full(1, -3.0), np.full(1, 3.0)).covered is None:
        ends = {}  # this encoder takes no range
    found = encoder_for(kind, space.shape[0], {**encoder_kwargs, **ends})
    if not found.spikes:
        raise ValueError(f"encoder must be one whose input is spikes, got {encoder!r}")
    if fault := found.blind(n_ticks, 1.0):
        raise ValueError(fault)
    return found, code
