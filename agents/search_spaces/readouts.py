"""What is searched for policies whose outputs are looked at on every tick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 1e-3, 0.2, log=True),
        "n_neurons": trial.suggest_categorical("n_neurons", [32, 64, 128]),
        "tau_m": trial.suggest_float("tau_m", 1.0, 20.0, log=True),
        "tau_out": trial.suggest_float("tau_out", 1.0, 20.0, log=True),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    policy = {name: stored[name] for name in ("tau_m", "tau_out")}
    return {
        "learning_rate": stored["learning_rate"],
        "gamma": 1 - stored["one_minus_gamma"],
        "gae_lambda": 1 - stored["one_minus_gae_lambda"],
        "policy_kwargs": {"n_neurons": [stored["n_neurons"]], **policy},
    }
