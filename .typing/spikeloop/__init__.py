"""Reinforcement learning with spiking networks, and emulated chips. Names load when first used (PEP 562)."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

_HOME = {
    "EProp": "agents",
    "SpikingA2C": "agents",
    "SpikingPPO": "agents",
    "DeployedPolicy": "hardware",
    "compile_network": "hardware",
    "Network": "spiking",
    "Simulator": "spiking",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    """Import the package that holds ``name`` and return it."""
    if name == "__version__":
        return importlib.metadata.version("spikeloop")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return __all__
