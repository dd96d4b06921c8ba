"""Reinforcement-learning tasks, registered in Gymnasium when this package is imported.

`import spikeloop.envs` once and then `gym.make("spikeloop/CartPoleNoVel-v0")`, or, where no import can be written,
`gym.make("spikeloop.envs:spikeloop/CartPoleNoVel-v0")`. Each task stands in a module of its own, whose docstring
describes it.
"""

from spikeloop.envs import (  # noqa: F401  imported to register the tasks
    cartpole_no_vel,
    latency_patterns,
    pendulum_no_vel,
    repeat,
    spike_order,
    tmaze,
    windy_gridworld,
)
from spikeloop.envs.bodies import ChangeBody
from spikeloop.envs.wrappers import HideVelocity

__all__ = ["ChangeBody", "HideVelocity"]
