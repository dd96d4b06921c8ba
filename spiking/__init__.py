"""Spiking networks as values, and the engines that run and train them. Names load when first used (PEP 562)."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ActionHead": "network",
    "Encoder": "network",
    "Layer": "network",
    "Network": "network",
    "NeuronParameters": "network",
    "Dense": "network",
    "FrameStack": "observation",
    "Normalizer": "observation",
    "ObservationPart": "observation",
    "Reorder": "observation",
    "Readout": "network",
    "Surrogate": "surrogate",
    "Simulator": "simulator",
    "Monitor": "monitor",
    "LSNN": "lsnn",
    "PlasticNetwork": "plastic",
    "Dimensions": "tile_coding",
    "Tiles": "tile_coding",
    "PlaceCells": "tile_coding",
    "STDP": "plasticity",
    "RSTDP": "plasticity",
    "stdp": "plasticity",
    "rstdp": "plasticity",
    "RewardEprop": "eprop",
    "reward_eprop": "eprop",
    "WinnerTakeAll": "winner_take_all",
    "WinnerTakeAllParameters": "winner_take_all",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name`` and return it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return __all__
