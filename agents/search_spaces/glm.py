"""What is searched for probabilistic spiking networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.1, 5.0, log=True),
        "value_scale": trial.suggest_float("value_scale", 0.005, 0.3, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
        "trace_lambda": trial.suggest_float("trace_lambda", 0.5, 0.95),
        "n_ticks": trial.suggest_int("n_ticks", 2, 16),
        "tau_s": trial.suggest_float("tau_s", 0.5, 5.0, log=True),
        "bias": trial.suggest_float("bias", -3.0, -0.5),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    return {
        **{name: stored[name] for name in ("learning_rate", "value_scale", "trace_lambda")},
        "gamma": 1 - stored["one_minus_gamma"],
        "policy_kwargs": {name: stored[name] for name in ("n_ticks", "tau_s", "bias")},
    }
