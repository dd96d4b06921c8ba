"""What policies share that answer by ``predict`` alone, without a forward pass that torch differentiates."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy

from spikeloop.agents.known_arguments import KnownArguments


class PredictingPolicy(KnownArguments, BasePolicy):
    """A policy whose actions are those of its own ``predict``, which a subclass has."""

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return th.as_tensor(self.predict(observation.cpu().numpy(), deterministic=deterministic)[0])

    def forward(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        """Return the actions for a batch of observations."""
        return self._predict(observation, deterministic)
