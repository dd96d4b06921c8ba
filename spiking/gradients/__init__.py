"""How gradients reach the weights of spiking layers; torch. A new gradient is a file here and a line below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spikeloop.spiking.gradients.base import Gradient
from spikeloop.spiking.gradients.surrogate import Surrogate

GRADIENTS: dict[str, Callable[..., Gradient]] = {
    "surrogate": Surrogate,
}


def gradient_for(name: str, options: Mapping[str, Any]) -> Gradient:
    """Return the gradient of that name.

    Args:
        name: A member of :data:`GRADIENTS`.
        options: Its arguments.

    Raises:
        ValueError: If there is none of that name, or it takes no such arguments.

    >>> gradient_for("surrogate", {"shape": "triangle", "damping": 0.3})
    Surrogate(shape='triangle', damping=0.3, width=0.5)
    """
    if name not in GRADIENTS:
        raise ValueError(f"gradient must be one of {sorted(GRADIENTS)}, got {name!r}")
    try:
        return GRADIENTS[name](**options)
    except TypeError as error:
        raise ValueError(f"gradient_kwargs do not fit gradient {name!r}: {error}") from None
