"""From an environment's observation space to the input lines of a local learner, of which few spike at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from spikeloop.agents.checks import in_words
from spikeloop.spiking.encoders.lines import Binary, Parts
from spikeloop.spiking.encoders.recruited_cells import RecruitingCells
from spikeloop.spiking.encoders.tile_coding import Dimensions, PlaceCells, Tiles

LineCode = Tiles | PlaceCells | RecruitingCells | Binary | Parts

LINE_ENCODERS: dict[str, type[Tiles] | type[PlaceCells]] = {"tiles": Tiles, "places": PlaceCells}
_LARGEST_END = 1e6  # beyond, the end of a range stands for none


def check_observed(space: spaces.Space) -> None:
    """Refuse a space that has no code of input lines.

    Raises:
        ValueError: If it is no vector (Box), choice (Discrete, MultiDiscrete), flags (MultiBinary) or Dict of these.
    """
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    if not all(_is_vector(part) or _is_choice(part) for part in parts):
        raise ValueError(
            "R-STDP needs a vector observation (Box), Discrete, MultiDiscrete or MultiBinary, or a Dict of these, the "
            f"environment shows {in_words(space)}"
        )


def _is_vector(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1


def _is_choice(space: spaces.Space) -> bool:
    whole = isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)) and len(space.shape) == 1
    return whole or isinstance(space, spaces.Discrete)


def code_for(kind: str, kwargs: Mapping[str, Any], space: spaces.Space) -> LineCode:
    """Return an input code for an observation space: tiles or place cells of a vector, a line for each choice's option.

    Args:
        kind: The code of vectors: one of :data:`LINE_ENCODERS`, of whose lines few spike at a time, or ``auto``.
        kwargs: Its arguments and, of tiles and places, those of ``Dimensions``; ``n_tiles`` may be one number for all
            dimensions. For a Dict such arguments by the key of each vector. Choices take none.
        space: Gives the ends that are left out.

    Raises:
        ValueError: If an argument is unknown, or an end is neither given nor finite in the space.

    >>> space = spaces.Dict({"speed": spaces.Box(-1, 1, (1,)), "gear": spaces.Discrete(5)})
    >>> code_for("tiles", {"speed": {"n_tiles": 4, "n_grids": 2}}, space).n_channels  # 5 and 2 grids of 4 + 1
    15
    """
    check_observed(space)
    if isinstance(space, spaces.Dict):
        if unknown := [key for key in kwargs if key not in space.spaces or not isinstance(kwargs[key], Mapping)]:
            vectors = [key for key, part in space.spaces.items() if isinstance(part, spaces.Box)]
            raise ValueError(f"encoder_kwargs of a Dict must be by key, for {vectors}, got {unknown[0]!r}")
        return Parts(tuple(_code_of_part(kind, kwargs.get(key, {}), part) for key, part in space.spaces.items()))
    return _recruiting(kwargs, space) if kind == "auto" else _code_of_part(kind, kwargs, space)


def _recruiting(kwargs: Mapping[str, Any], space: spaces.Space) -> RecruitingCells:
    if not isinstance(space, spaces.Box):
        raise ValueError(f"encoder 'auto' needs a vector observation (Box), the environment shows {in_words(space)}")
    try:
        return RecruitingCells(space.shape[0], **kwargs)
    except TypeError as error:  # an argument it does not know
        raise ValueError(f"encoder_kwargs of 'auto': {error}") from None


def _code_of_part(kind: str, kwargs: Mapping[str, Any], space: spaces.Space) -> Tiles | PlaceCells | Binary:
    if isinstance(space, spaces.Box):
        return coder_for(kind, kwargs, space)
    if kwargs:
        raise ValueError(f"encoder_kwargs must be empty for {in_words(space)}, a line per option, got {kwargs}")
    return Binary(spaces.flatdim(space))


def coder_for(kind: str, kwargs: Mapping[str, Any], space: spaces.Box) -> Tiles | PlaceCells:
    """Return an input code for a vector space; arguments and errors are those of :func:`code_for`."""
    if kind not in LINE_ENCODERS:
        raise ValueError(
            f"encoder must be one of {', '.join(LINE_ENCODERS)}, or 'auto' with \"WtaPolicy\", got {kind!r}"
        )
    own = {name: value for name, value in kwargs.items() if name not in ("low", "high", "components", "wraps")}
    n = space.shape[0]
    components = list(kwargs.get("components", range(n)))
    if any(not 0 <= index < n for index in np.hstack(components)):
        raise ValueError(f"components must be indices into {n} numbers, got {components}")
    ends, endless = {}, []
    for name, bound, turn in (("low", space.low, -np.pi), ("high", space.high, np.pi)):
        ends[name] = kwargs.get(name, [float(bound[part]) if isinstance(part, int) else turn for part in components])
        if np.any(np.abs(ends[name]) > _LARGEST_END):
            endless.append(name)
    if endless:
        given = ", ".join(f"{name} {[float(f'{end:.3g}') for end in ends[name]]}" for name in endless)
        raise ValueError(
            f"encoder_kwargs needs {' and '.join(endless)} within +-{_LARGEST_END:g}, got {given}; "
            "`spikeloop calibrate ENV` proposes them, and \"WtaPolicy\" with encoder 'auto' needs none"
        )
    dimensions = Dimensions(**ends, components=components, wraps=kwargs.get("wraps", ()), n_obs=n)
    if kind == "tiles" and isinstance(own.get("n_tiles", 6), int):
        own["n_tiles"] = [own.get("n_tiles", 6)] * len(components)
    try:
        return LINE_ENCODERS[kind](dimensions, **own)
    except TypeError as error:  # an argument it does not know
        raise ValueError(f"encoder_kwargs of {kind!r}: {error}") from None
