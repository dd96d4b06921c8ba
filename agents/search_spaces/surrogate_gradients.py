"""What is searched for algorithms that train an LSNN by surrogate gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeloop.agents.search_spaces import on_policy

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return {
        **on_policy.sample(trial),
        "ent_coef": trial.suggest_float("ent_coef", 1e-8, 0.1, log=True),
        "n_neurons": trial.suggest_categorical("n_neurons", [32, 64, 128]),
        "tau_m": trial.suggest_float("tau_m", 1.0, 20.0, log=True),
        "tau_a": trial.suggest_float("tau_a", 10.0, 500.0, log=True),
        "beta": trial.suggest_float("beta", 0.05, 2.0, log=True),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    neurons = {name: stored[name] for name in ("tau_m", "tau_a", "beta")}
    return {
        **on_policy.convert(stored),
        "ent_coef": stored["ent_coef"],
        "policy_kwargs": {"n_neurons": [stored["n_neurons"]], **neurons},
    }
