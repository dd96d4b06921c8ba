"""Emulated neuromorphic chips, exact to published integer arithmetic. Names load when first used (PEP 562)."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Learner": "learning",
    "LearningRule": "learning_rules",
    "Trace": "learning_rules",
    "actor_rule": "actor_critic",
    "critic_rule": "actor_critic",
    "ChipWinnerTakeAll": "plastic_chip",
    "CHIPS": "chip",
    "PROFILES": "chip",
    "Compartments": "program",
    "Projection": "program",
    "Program": "program",
    "Emulator": "core",
    "Interpreter": "interpreter",
    "compile_network": "compiler",
    "quantizer": "compiler",
    "DeployedPolicy": "deployed",
    "Deployment": "deployed",
    "Report": "report",
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
