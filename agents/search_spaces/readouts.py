"""What is searched for policies whose outputs are looked at on every tick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeloop.agents.search_spaces import on_policy

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return {
        **on_policy.sample(trial, highest_rate=1e-2),
        "n_neurons": trial.suggest_categorical("n_neurons", [32, 64, 128]),
        "tau_m": trial.suggest_float("tau_m", 1.0, 20.0, log=True),
        "tau_out": trial.suggest_float("tau_out", 1.0, 20.0, log=True),
    }


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    policy = {name: stored[name] for name in ("tau_m", "tau_out")}
    return {**on_policy.convert(stored), "policy_kwargs": {"n_neurons": [stored["n_neurons"]], **policy}}
