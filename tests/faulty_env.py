"""A tiny task that goes wrong when told to, for training scripts in this or another process (`--gym-packages`)."""

import errno
import os
import signal
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class FaultyEnv(gym.Env):
    """Move towards zero; at step `at` of the first instance to get there something happens, once per working folder."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault: str = "", at: int = 0, render_mode: str | None = None):
        self.fault, self.at, self.count = fault, at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=2).astype(np.float32)
        self.left = int(self.np_random.integers(5, 12))
        return self.x.copy(), {}

    def step(self, action):
        self.count += 1
        self.left -= 1
        self.x += np.float32([0.1, -0.1][action]) + self.np_random.normal(size=2).astype(np.float32) * 0.1
        happens = self.count == self.at and not Path("happened").exists()
        if happens:
            Path("happened").touch()
        if happens and self.fault.startswith("SIG"):
            for name in self.fault.split("+"):
                os.kill(os.getpid(), getattr(signal, name))
        if happens and self.fault == "raise":
            raise RuntimeError("the robot\nfell over")
        if happens and self.fault == "die":
            os._exit(3)
        if happens and self.fault == "no room":
            raise OSError(errno.ENOSPC, "No space left on device")
        if happens and self.fault == "short":
            return self.x[:1], 0.0, False, False, {}
        if happens and self.fault == "huge":
            return self.x, 1e300, False, False, {}
        obs = np.full_like(self.x, np.nan) if happens and self.fault == "nan" else self.x.copy()
        reward = np.inf if happens and self.fault == "inf" else -float(abs(self.x[0]))
        return obs, reward, self.left == 0, False, {}


gym.register("Faulty-v0", entry_point=FaultyEnv)
