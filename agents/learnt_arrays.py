"""Arrays that a policy has learnt outside of torch, among the tensors of its ``state_dict``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch as th


def add_learnt(state_dict: dict[str, Any], prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Add arrays to a state dict, as copies, each under the prefix and its name."""
    for name, array in arrays.items():
        state_dict[prefix + name] = th.from_numpy(np.array(array))


def find_learnt(state_dict: Mapping[str, Any], prefix: str, names: Collection[str]) -> dict[str, np.ndarray]:
    """Return the arrays of these names in a state dict.

    Raises:
        ValueError: If one is missing.

    >>> saved: dict[str, Any] = {}
    >>> add_learnt(saved, "policy.", {"w": np.ones(2)})
    >>> find_learnt(saved, "policy.", ["w"])
    {'w': array([1., 1.])}
    """
    missing = [name for name in names if prefix + name not in state_dict]
    if missing:
        raise ValueError(f"the saved policy lacks {', '.join(missing)}")
    return {name: state_dict[prefix + name].cpu().numpy() for name in names}
