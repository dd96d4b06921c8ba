"""What the host hands to the learning engines while the chip runs: rewards, spikes and traces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.hardware.loihi.program import Program


class Signals(NamedTuple):
    """What a run hands to the learning engines, tick by tick."""

    rewards: np.ndarray  # (n_ticks,) int64
    post_spikes: np.ndarray  # (n_ticks, C) int32, or (1, 0)
    post_traces: np.ndarray  # (n_ticks, 3, C) int32, or (1, 3, 0)


def signals_of(
    program: Program,
    n_copies: int,
    n_ticks: int,
    rewards: npt.ArrayLike | None,
    post_spikes: npt.ArrayLike | None,
    post_traces: npt.ArrayLike | None,
    learning: bool,
) -> Signals | None:
    """Return what a run hands to the learning engines, None if none of them runs.

    Raises:
        ValueError: If something is given that nothing would learn from, or several copies of the chip would learn.
    """
    given = {"rewards": rewards, "post_spikes": post_spikes, "post_traces": post_traces}
    if not (learning and program.learns):
        for name, values in given.items():
            if values is not None:
                why = "learning=False" if program.learns else "a program without learning rules"
                raise ValueError(f"{name} must be None with {why}")
        return None
    if n_copies != 1:
        raise ValueError(
            f"a run that learns must be of one copy of the chip, each would need weights of its own, got {n_copies}; "
            "run one emulator for each, or with learning=False"
        )
    if post_traces is not None and program.profile == "brian":
        raise ValueError("post_traces must be None in profile 'brian', whose traces nobody writes")
    n = program.compartments.n
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, int]]] = {
        "rewards": ((n_ticks,), (-(2**31), 2**31 - 1)),
        "post_spikes": ((n_ticks, n), (0, 1)),
        "post_traces": ((n_ticks, 3, n), (-128, 127)),
    }
    found = {name: _whole(name, given[name], *shapes[name]) for name in given}
    none = {
        "rewards": np.zeros(n_ticks, int),
        "post_spikes": np.zeros((1, 0), int),
        "post_traces": np.zeros((1, 3, 0), int),
    }
    types = {"rewards": np.int64, "post_spikes": np.int32, "post_traces": np.int32}
    return Signals(**{
        name: np.require(
            none[name] if found[name] is None or n_ticks == 0 else found[name], types[name], ["C", "W"]
        )
        for name in given
    })  # fmt: skip


def _whole(
    name: str, values: npt.ArrayLike | None, shape: tuple[int, ...], bounds: tuple[int, int]
) -> np.ndarray | None:
    """Return values as an array of whole numbers within bounds, or raise naming them; one of one copy may say so."""
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape == (shape[0], 1, *shape[1:]):
        array = array[:, 0]
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    wrong = array[(array < bounds[0]) | (array > bounds[1])]
    if wrong.size:
        raise ValueError(f"{name} must be within [{bounds[0]}, {bounds[1]}], found {wrong[0]}")
    return array
