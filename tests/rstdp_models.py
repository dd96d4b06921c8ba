"""R-STDP with the settings of its presets, in compiled and in ordinary tasks."""

import gymnasium as gym
import yaml
from stable_baselines3.common.monitor import Monitor

from spikeloop.agents import RSTDP
from spikeloop.agents.registry import hyperparams_file

PRESETS = yaml.safe_load(hyperparams_file("rstdp").read_text("utf-8"))
CLASSIC = ["CartPole-v1", "MountainCar-v0", "Acrobot-v1"]


class Plain(gym.Wrapper):
    """Changes nothing, but is not known to."""


def make(name="CartPole-v1", compiled=True, seed=0, **changes):
    """Return an untrained agent with the preset of a task; only a task behind no wrapper is compiled."""
    settings = {key: value for key, value in {**PRESETS[name], **changes}.items() if key != "n_timesteps"}
    env = gym.make(name)
    return RSTDP(env=Monitor(env if compiled else Plain(env)), seed=seed, **settings)
