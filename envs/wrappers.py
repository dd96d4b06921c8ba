"""Wrappers that turn an existing task into a harder one."""

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class HideVelocity(gym.ObservationWrapper[np.ndarray, gym.core.ActType, np.ndarray], gym.utils.RecordConstructorArgs):
    """Shows only some components of a vector observation, usually the positions without the velocities.

    What is hidden can then only be inferred from the past, so a policy needs memory.

    Args:
        env: Environment with a one-dimensional `Box` observation space.
        keep: Indices of the components that stay visible, in the order in which they are shown.

    Attributes:
        keep: Those indices.

    Raises:
        ValueError: If the observation space is not a vector, or `keep` does not index into it.
    """

    def __init__(self, env: gym.Env[np.ndarray, gym.core.ActType], keep: Sequence[int]) -> None:
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"HideVelocity needs a one-dimensional Box observation space, not {space}.")
        size = space.shape[0]
        if not keep or not all(0 <= index < size for index in keep):
            raise ValueError(f"keep={keep!r} must name at least one of the {size} components, as 0 to {size - 1}.")
        gym.utils.RecordConstructorArgs.__init__(self, keep=keep)  # lets an EnvSpec rebuild the wrapper
        gym.ObservationWrapper.__init__(self, env)
        self.keep = list(keep)
        self.observation_space = spaces.Box(space.low[self.keep], space.high[self.keep], dtype=space.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Returns the visible components, shape (len(keep),)."""
        return observation[self.keep]
