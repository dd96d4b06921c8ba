"""SB3's action distributions: what may be copied of one, and the actions that are drawn from it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution


def without_graph(distribution: Distribution) -> Distribution:
    """Return a copy without what the last pass left in a distribution: it belongs to a graph, and is made anew."""
    left = copy.copy(distribution)
    for name, value in list(vars(left).items()):
        if isinstance(value, th.Tensor):
            setattr(left, name, value.detach())
        elif name in ("distribution", "weights_dist"):
            setattr(left, name, None)
    return left


def drawn_actions(distribution: Distribution, policy: Any) -> np.ndarray:
    """Return actions drawn from a policy's distribution of B, within its action space, shape (B, ...)."""
    space = policy.action_space
    actions = distribution.get_actions().cpu().numpy().reshape((-1, *space.shape))
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return actions + space.start
    if not isinstance(space, spaces.Box):
        return actions
    return np.clip(policy.unscale_action(actions) if policy.squash_output else actions, space.low, space.high)
