"""Spiking policies trained on Gymnasium environments with Stable-Baselines3; names load when first used (PEP 562)."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "SpikingPPO": "spiking_ppo",
    "SpikingA2C": "spiking_a2c",
    "EProp": "eprop",
    "Evolution": "evolution",
    "RSTDP": "rstdp",
    "GLM": "glm",
    "EvolutionPolicy": "evolution_policy",
    "LsnnPolicy": "policies",
    "LifPolicy": "policies",
    "SpikeTimePolicy": "spike_time_policy",
    "EventPropPolicy": "event_prop_policy",
    "EquilibriumPolicy": "equilibrium_policy",
    "WtaPolicy": "wta_policy",
    "GlmPolicy": "glm_policy",
    "load_network": "warm_start",
    "PopulationPolicy": "population_policy",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name`` and return it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return __all__
