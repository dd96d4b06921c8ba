"""What is searched for R-STDP with spiking populations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "value_learning_rate": trial.suggest_float("value_learning_rate", 1e-4, 3e-3, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
        "trace_lambda": trial.suggest_float("trace_lambda", 0.5, 0.95),
        "noise": trial.suggest_float("noise", 0.01, 0.3, log=True),
        "n_ticks": trial.suggest_int("n_ticks", 10, 40),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    others = {name: value for name, value in stored.items() if name != "one_minus_gamma"}
    return {"gamma": 1 - stored["one_minus_gamma"], **others}
