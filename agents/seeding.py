"""A policy's own sources of random numbers, beside torch's and numpy's global ones."""

from __future__ import annotations

from typing import Any

import numpy as np


def own_generators(policy: Any) -> dict[str, np.random.Generator]:
    """Return the generators a policy holds, by the name of the attribute."""
    return {name: value for name, value in vars(policy).items() if isinstance(value, np.random.Generator)}


def reseed(policy: Any, seed: int) -> None:
    """Seed the generators a policy holds, each for a stream of its own; whoever shares them draws on from there."""
    for index, rng in enumerate(own_generators(policy).values()):
        rng.bit_generator.state = type(rng.bit_generator)([seed, index]).state
