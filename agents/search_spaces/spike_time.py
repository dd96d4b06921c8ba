"""What is searched for policies of exact spike times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeloop.agents.search_spaces import on_policy

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return {
        **on_policy.sample(trial),
        "n_neurons": trial.suggest_categorical("n_neurons", [16, 32, 64]),
        "logit_scale": trial.suggest_float("logit_scale", 1.0, 10.0, log=True),
        "time_coef": trial.suggest_float("time_coef", 1e-3, 0.1, log=True),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    policy = {name: stored[name] for name in ("logit_scale", "time_coef")}
    return {
        **on_policy.convert(stored),
        "policy_kwargs": {"n_neurons": [stored["n_neurons"]], **policy},
    }
