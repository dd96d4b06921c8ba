"""What is searched for recurrent policies of exact spike times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeloop.agents.search_spaces import on_policy

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return {
        **on_policy.sample(trial, highest_rate=1e-2),
        "n_neurons": trial.suggest_categorical("n_neurons", [16, 32, 64]),
        "w_in_scale": trial.suggest_float("w_in_scale", 1.0, 10.0, log=True),
        "w_rec_scale": trial.suggest_float("w_rec_scale", 0.01, 2.0, log=True),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    policy = {name: stored[name] for name in ("w_in_scale", "w_rec_scale")}
    return {**on_policy.convert(stored), "policy_kwargs": {"n_neurons": [stored["n_neurons"]], **policy}}
