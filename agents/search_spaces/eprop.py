"""What is searched for e-prop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-3, 0.1, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
        "trace_lambda": trial.suggest_float("trace_lambda", 0.0, 0.95),
        "n_neurons": trial.suggest_categorical("n_neurons", [20, 40, 80]),
        "tau_a": trial.suggest_float("tau_a", 10.0, 500.0, log=True),
        "beta": trial.suggest_float("beta", 0.05, 2.0, log=True),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    return {
        "learning_rate": stored["learning_rate"],
        "gamma": 1 - stored["one_minus_gamma"],
        "trace_lambda": stored["trace_lambda"],
        "policy_kwargs": {name: stored[name] for name in ("n_neurons", "tau_a", "beta")},
    }
