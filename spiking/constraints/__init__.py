"""What weights of spiking layers must be while they are trained. A new constraint is a file here and a line below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spikeloop.spiking.constraints.base import Constraint
from spikeloop.spiking.constraints.binary import Binary
from spikeloop.spiking.constraints.dale import Dale
from spikeloop.spiking.constraints.deep_r import DeepR
from spikeloop.spiking.constraints.static import Static

CONSTRAINTS: dict[str, Callable[..., Constraint]] = {
    "deep_r": DeepR,
    "static": Static,
    "dale": Dale,
    "binary": Binary,
}


def constraint_for(name: str, options: Mapping[str, Any]) -> Constraint:
    """Return the constraint of that name.

    Args:
        name: A member of :data:`CONSTRAINTS`.
        options: Its arguments.

    Raises:
        ValueError: If there is none of that name, or it takes no such arguments.

    >>> constraint_for("static", {"connectivity": 0.2})
    Static(connectivity=0.2, input_connectivity=1.0, inhibitory=None)
    """
    if name not in CONSTRAINTS:
        raise ValueError(f"constraint must be one of {sorted(CONSTRAINTS)}, got {name!r}")
    try:
        return CONSTRAINTS[name](**options)
    except TypeError as error:
        raise ValueError(f"constraint_kwargs do not fit constraint {name!r}: {error}") from None
