"""What is searched for every policy that PPO or A2C trains; other modules add the numbers of a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial, highest_rate: float = 5e-3) -> dict[str, Any]:
    """Draw the numbers of the algorithm, with learning rates up to the highest."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, highest_rate, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 1e-3, 0.2, log=True),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn them into hyperparameters."""
    return {
        "learning_rate": stored["learning_rate"],
        "gamma": 1 - stored["one_minus_gamma"],
        "gae_lambda": 1 - stored["one_minus_gae_lambda"],
    }
