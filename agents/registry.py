"""Our algorithms by name, and their place in RL Zoo."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeloop.spiking.extras import install_hint

if TYPE_CHECKING:
    from optuna import Trial
    from stable_baselines3.common.base_class import BaseAlgorithm

# name -> module:class, imported when asked for. A new algorithm adds its line here and hyperparams/<name>.yml.
ALGOS = {
    "spiking_ppo": "spikeloop.agents.spiking_ppo:SpikingPPO",
    "spiking_a2c": "spikeloop.agents.spiking_a2c:SpikingA2C",
    "eprop": "spikeloop.agents.eprop:EProp",
    "rstdp": "spikeloop.agents.rstdp:RSTDP",
}


def load_algorithm(name: str) -> type[BaseAlgorithm]:
    """Import and return the algorithm called ``name`` in :data:`ALGOS`."""
    module, _, class_name = ALGOS[name].partition(":")
    return getattr(importlib.import_module(module), class_name)


def hyperparams_file(name: str) -> Path:
    """Return the path of an algorithm's hyperparameters, a file in RL Zoo's format."""
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
    for name in ALGOS:
        zoo_algos[name] = load_algorithm(name)
        local_rules = {"rstdp": (_sample_rstdp, _convert_rstdp), "eprop": (_sample_eprop, _convert_eprop)}
        sample, convert = local_rules.get(name, (_sample, _convert))
        hyperparams_opt.HYPERPARAMS_SAMPLER[name] = sample
        hyperparams_opt.HYPERPARAMS_CONVERTER[name] = convert  # type: ignore[assignment]


def _sample(trial: Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Draw hyperparameters for one trial of RL Zoo's ``--optimize-hyperparameters``."""
    return _convert(
        {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 5e-3, log=True),
            "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
            "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 1e-3, 0.2, log=True),
            "ent_coef": trial.suggest_float("ent_coef", 1e-8, 0.1, log=True),
            "n_neurons": trial.suggest_categorical("n_neurons", [32, 64, 128]),
            "tau_m": trial.suggest_float("tau_m", 1.0, 20.0, log=True),
            "tau_a": trial.suggest_float("tau_a", 10.0, 500.0, log=True),
            "beta": trial.suggest_float("beta", 0.05, 2.0, log=True),
        }
    )


def _convert(params: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    neurons = {name: params[name] for name in ("tau_m", "tau_a", "beta")}
    return {
        "learning_rate": params["learning_rate"],
        "gamma": 1 - params["one_minus_gamma"],
        "gae_lambda": 1 - params["one_minus_gae_lambda"],
        "ent_coef": params["ent_coef"],
        "policy_kwargs": {"n_neurons": [params["n_neurons"]], **neurons},
    }


def _sample_rstdp(trial: Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Draw hyperparameters of R-STDP for one trial."""
    return _convert_rstdp(
        {
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.5, log=True),
            "value_learning_rate": trial.suggest_float("value_learning_rate", 0.005, 0.1, log=True),
            "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
            "trace_lambda": trial.suggest_float("trace_lambda", 0.5, 0.95),
            "noise": trial.suggest_float("noise", 0.1, 1.0, log=True),
            "n_ticks": trial.suggest_int("n_ticks", 2, 10),
        }
    )


def _convert_rstdp(params: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial of R-STDP stores into hyperparameters."""
    others = {name: value for name, value in params.items() if name != "one_minus_gamma"}
    return {"gamma": 1 - params["one_minus_gamma"], **others}


def _sample_eprop(trial: Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Draw hyperparameters of e-prop for one trial."""
    return _convert_eprop(
        {
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 0.1, log=True),
            "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
            "trace_lambda": trial.suggest_float("trace_lambda", 0.0, 0.95),
            "n_neurons": trial.suggest_categorical("n_neurons", [20, 40, 80]),
            "tau_a": trial.suggest_float("tau_a", 10.0, 500.0, log=True),
            "beta": trial.suggest_float("beta", 0.05, 2.0, log=True),
        }
    )


def _convert_eprop(params: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial of e-prop stores into hyperparameters."""
    return {
        "learning_rate": params["learning_rate"],
        "gamma": 1 - params["one_minus_gamma"],
        "trace_lambda": params["trace_lambda"],
        "policy_kwargs": {name: params[name] for name in ("n_neurons", "tau_a", "beta")},
    }
