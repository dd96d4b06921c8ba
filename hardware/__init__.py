"""Emulated neuromorphic chips, exact to published integer arithmetic. Names load when first used (PEP 562)."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Learner": "learning.engine",
    "LearningRule": "learning.rule",
    "Trace": "learning.rule",
    "actor_rule": "learning.actor_critic",
    "critic_rule": "learning.actor_critic",
    "ChipGlm": "loihi.glm_learner",
    "ChipLsnn": "loihi.lsnn_learner",
    "ChipPlayer": "player",
    "ChipPopulations": "loihi.populations",
    "ChipWinnerTakeAll": "loihi.winner_take_all",
    "CHIPS": "loihi.chip",
    "PROFILES": "loihi.chip",
    "Compartments": "loihi.program",
    "Projection": "loihi.program",
    "Learning": "loihi.projection",
    "Program": "loihi.program",
    "Emulator": "loihi.emulator",
    "Interpreter": "loihi.interpreter",
    "compile_network": "compile",
    "quantizer": "compile",
    "DeployedPolicy": "deployed",
    "Deployment": "deployment",
    "Report": "report",
    "TARGETS": "target",
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
