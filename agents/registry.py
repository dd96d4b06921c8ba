"""Our algorithms by name, and their place in RL Zoo."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spikeloop.spiking.extras import install_hint

if TYPE_CHECKING:
    from optuna import Trial
    from stable_baselines3.common.base_class import BaseAlgorithm


class Algorithm(NamedTuple):
    """Where an algorithm is found; nothing is imported before it is asked for.

    Args:
        home: Its class, as ``module:class`` in this package.
        search_space: The module of :mod:`spikeloop.agents.search_spaces` that says what a search varies.
        chip_network: The network of :mod:`spikeloop.hardware` in which it learns on an emulated chip, with the presets
            of ``hyperparams/<name>_chip.yml``; None where it does not.
    """

    home: str
    search_space: str
    chip_network: str | None = None


# A new algorithm adds its line here and hyperparams/<name>.yml. The first is the one that commands take by default.
ALGOS = {
    "spiking_ppo": Algorithm("spiking_ppo:SpikingPPO", "surrogate_gradients"),
    "spike_time": Algorithm("spiking_ppo:SpikingPPO", "spike_time"),
    "event_prop": Algorithm("spiking_ppo:SpikingPPO", "event_prop"),
    "first_to_spike": Algorithm("spiking_ppo:SpikingPPO", "readouts"),
    "tempotron": Algorithm("spiking_ppo:SpikingPPO", "readouts"),
    "equilibrium": Algorithm("spiking_ppo:SpikingPPO", "equilibrium"),
    "equilibrium_spikes": Algorithm("spiking_ppo:SpikingPPO", "equilibrium"),
    "spiking_a2c": Algorithm("spiking_a2c:SpikingA2C", "surrogate_gradients"),
    "eprop": Algorithm("eprop:EProp", "eprop", "ChipLsnn"),
    "rstdp": Algorithm("rstdp:RSTDP", "rstdp", "ChipWinnerTakeAll"),
    "glm": Algorithm("glm:GLM", "glm", "ChipGlm"),
    "rstdp_populations": Algorithm("rstdp:RSTDP", "rstdp_populations", "ChipPopulations"),
    "evolution": Algorithm("evolution:Evolution", "evolution", "ChipPlayer"),
}
DEFAULT_ALGO = next(iter(ALGOS))


def load_algorithm(name: str) -> type[BaseAlgorithm]:
    """Import and return the algorithm called ``name`` in :data:`ALGOS`.

    >>> load_algorithm("rstdp").__name__
    'RSTDP'
    """
    module, _, class_name = ALGOS[name].home.partition(":")
    return getattr(importlib.import_module(f"spikeloop.agents.{module}"), class_name)


def hyperparams_file(name: str) -> Path:
    """Return the path of an algorithm's hyperparameters, a file in RL Zoo's format.

    >>> hyperparams_file("rstdp").name
    'rstdp.yml'
    """
    return Path(__file__).parent / "hyperparams" / f"{name}.yml"


def register_with_zoo() -> None:
    """Add our algorithms to those RL Zoo trains, evaluates and tunes.

    Raises:
        ImportError: If RL Zoo is not installed.
    """
    try:
        from rl_zoo3 import ALGOS as zoo_algos
        from rl_zoo3 import hyperparams_opt
    except ImportError as error:
        raise ImportError(f"RL Zoo is not installed ({error}): {install_hint('zoo')}") from None
    for name, algorithm in ALGOS.items():
        zoo_algos[name] = load_algorithm(name)
        space = importlib.import_module(f"spikeloop.agents.search_spaces.{algorithm.search_space}")
        hyperparams_opt.HYPERPARAMS_SAMPLER[name] = partial(_sample, space)
        hyperparams_opt.HYPERPARAMS_CONVERTER[name] = space.convert


def _sample(space: Any, trial: Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Draw the hyperparameters of a trial; beside the space the arguments are RL Zoo's."""
    return space.convert(space.sample(trial))
