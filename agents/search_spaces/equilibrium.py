"""What is searched for policies trained by equilibrium propagation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeloop.agents.search_spaces import on_policy

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return {
        **on_policy.sample(trial),
        "n_neurons": trial.suggest_categorical("n_neurons", [32, 64, 128]),
        "logit_scale": trial.suggest_float("logit_scale", 0.5, 10.0, log=True),
        "beta": trial.suggest_float("beta", 0.03, 0.5, log=True),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    policy = {name: stored[name] for name in ("logit_scale", "beta")}
    return {
        **on_policy.convert(stored),
        "policy_kwargs": {"n_neurons": [stored["n_neurons"]], **policy},
    }
