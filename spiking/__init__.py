"""Spiking networks as values, and the engines that run and train them. Names load when first used (PEP 562)."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ActionHead": "action_head",
    "Encoder": "encoders",
    "Layer": "network",
    "Network": "network",
    "LsnnNeurons": "neurons.lsnn",
    "Izhikevich": "neurons.izhikevich",
    "FitzHughNagumo": "neurons.fitzhugh_nagumo",
    "NEURONS": "neurons",
    "STEP_LAYERS": "step_layers",
    "SpikeTimeLayer": "spike_time",
    "EventPropLayer": "event_prop",
    "EquilibriumLayer": "equilibrium",
    "FirstSpikes": "encoders.first_spikes",
    "ENCODERS": "encoders",
    "Dense": "readout",
    "FrameStack": "observation",
    "Normalizer": "observation",
    "ObservationPart": "observation",
    "Reorder": "observation",
    "Readout": "readout",
    "Surrogate": "gradients.surrogate",
    "Simulator": "simulator",
    "Monitor": "monitor",
    "LSNN": "module",
    "PlasticNetwork": "rules.plastic_network",
    "Dimensions": "encoders.dimensions",
    "Tiles": "encoders.tile_coding",
    "PlaceCells": "encoders.tile_coding",
    "RecruitedCells": "encoders.recruited_cells",
    "RecruitingCells": "encoders.recruited_cells",
    "STDP": "rules.stdp",
    "RewardSTDP": "rules.rstdp",
    "stdp": "rules.stdp",
    "reward_stdp": "rules.rstdp",
    "SignalEprop": "rules.eprop",
    "RewardEprop": "rules.reward_eprop",
    "reward_eprop": "rules.reward_eprop",
    "RULES": "rules",
    "WinnerTakeAll": "rules.winner_take_all",
    "WinnerTakeAllParameters": "rules.winner_take_all",
    "SpikingPopulations": "rules.populations",
    "PopulationParameters": "rules.population_parameters",
}

__all__ = sorted(_HOME)

_FORMER = {
    "NeuronParameters": "LsnnNeurons",
    "RSTDP": "RewardSTDP",
    "rstdp": "reward_stdp",
}  # names of before, which scripts may still use


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name`` and return it."""
    name = _FORMER.get(name, name)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return __all__
