"""An environment that does one thing wrong; in a module of its own, which worker processes import quickly."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

DICT = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)])})
GOOD = {"a": np.zeros(2, np.float32), "b": (1, np.zeros(2, np.int8))}


class Scripted(gym.Env):
    """Returns what it is told to, or raises it, in its third step and from then on in resets."""

    action_space = spaces.Discrete(2)

    def __init__(self, space=None, **told):
        self.observation_space = spaces.Box(-1, 1, (4,)) if space is None else space
        self.count, self.told = 0, told

    def reset(self, *, seed=None, options=None):
        obs = np.zeros(4, np.float32) if isinstance(self.observation_space, spaces.Box) else GOOD
        results = self.told.get("reset", (obs, {}))
        if self.count >= 3 and isinstance(results, BaseException):
            raise results
        return results if self.count >= 3 else (obs, {})

    def step(self, action):
        self.count += 1
        obs = np.zeros(4, np.float32) if isinstance(self.observation_space, spaces.Box) else GOOD
        results = {"obs": obs, "reward": 0.5, "terminated": False, "truncated": False, "info": {}}
        if self.count == 3:
            action = self.told.get("do")
            if isinstance(action, BaseException):
                raise action
            if action is not None:
                action()
            results |= {key: value for key, value in self.told.items() if key in results}
        return self.told["all"] if self.count == 3 and "all" in self.told else tuple(results.values())


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__("it cannot be unpickled")


def stumble(*where):
    raise Unpicklable(*where)
