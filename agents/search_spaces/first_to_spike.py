"""What is searched for policies whose first output spike is the action."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeloop.agents.search_spaces import tempotron

if TYPE_CHECKING:
    from optuna import Trial


def sample(trial: Trial) -> dict[str, Any]:
    """Draw what one trial stores."""
    return tempotron.sample(trial)


def convert(stored: dict[str, Any]) -> dict[str, Any]:
    """Turn what a trial stores into hyperparameters."""
    found = tempotron.convert(stored)
    return {**found, "policy_kwargs": {**found["policy_kwargs"], "readout": "bernoulli"}}
