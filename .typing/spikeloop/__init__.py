"""Reinforcement learning with spiking networks, and emulated chips. Names load when first used (PEP 562)."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
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


# Where modules have moved that saved models or users' scripts name. A pickle holds the paths of its classes.
_MOVED = {
    f"{__name__}.{before}": f"{__name__}.{now}"
    for before, now in {
        "agents.callbacks": "agents.checkpoints",
        "agents.closed_loop": "agents.compiled_episodes",
        "envs.dynamics": "envs.compiled",
        "hardware.chip": "hardware.loihi.chip",
        "hardware.compiler": "hardware.compile",
        "hardware.core": "hardware.loihi.emulator",
        "hardware.learning.winner_take_all": "hardware.loihi.winner_take_all",
        "hardware.learning_codegen": "hardware.learning.codegen",
        "hardware.learning_kernels": "hardware.learning.kernels",
        "hardware.learning_rules": "hardware.learning.rule",
        "hardware.plastic_chip": "hardware.loihi.winner_take_all",
        "hardware.program": "hardware.loihi.program",
        "hardware.resources": "hardware.loihi.resources",
        "spiking.eprop": "spiking.rules.eprop",
        "spiking.lsnn": "spiking.module",
        "spiking.plastic": "spiking.rules.plastic_network",
        "spiking.plasticity": "spiking",
        "spiking.surrogate": "spiking.gradients.surrogate",
        "spiking.tile_coding": "spiking.encoders.tile_coding",
        "spiking.winner_take_all": "spiking.rules.winner_take_all",
    }.items()
}


class _Moved(MetaPathFinder, Loader):
    """Gives a module that has moved under its former name too: the same object, not a copy."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state  # importlib has put the former name's there


sys.meta_path.append(_Moved())
