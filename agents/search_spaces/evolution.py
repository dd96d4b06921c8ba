"""What is searched for evolution strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return {
        "sigma": trial.suggest_float("sigma", 0.05, 1.0, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.5, log=True),
        "n_members": trial.suggest_categorical("n_members", [16, 32, 64]),
        "n_episodes": trial.suggest_categorical("n_episodes", [2, 4, 8]),
        "n_neurons": trial.suggest_categorical("n_neurons", [8, 16, 32]),
        "beta": trial.suggest_float("beta", 0.05, 2.0, log=True),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    settings = {name: stored[name] for name in ("sigma", "learning_rate", "n_members", "n_episodes")}
    return {**settings, "policy_kwargs": {name: stored[name] for name in ("n_neurons", "beta")}}
