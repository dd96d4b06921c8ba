"""The algorithms at their smallest, and an environment of any spaces to learn in."""

import copy

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spikeloop.agents import GLM, RSTDP, EProp, SpikingA2C, SpikingPPO
from spikeloop.hardware import ChipGlm, ChipLsnn

OBSERVATION = spaces.Box(-1, 1, (3,), np.float32)
ACTION = spaces.Discrete(3)
_SMALL = {"n_neurons": [8], "net_arch": {"vf": [8]}}
_LEARNERS = {
    "spiking_ppo": (SpikingPPO, "LsnnPolicy", {"n_steps": 16, "batch_size": 8, "seq_len": 8, "n_epochs": 1}, _SMALL),
    "spiking_a2c": (SpikingA2C, "LifPolicy", {"n_steps": 8}, _SMALL),
    "eprop": (EProp, "EpropPolicy", {"n_episodes": 2}, {"n_neurons": 8, "n_ticks": 2}),
    "eprop_chip": (
        EProp,
        "ChipEpropPolicy",
        {"n_episodes": 2, "value_coef": 0.0, "rate_coef": 0.0, "actor_scale": 0.4, "backend": ChipLsnn},
        {"n_neurons": 8, "critic_kwargs": {"n_tiles": 2}},
    ),
    "rstdp": (RSTDP, "WtaPolicy", {}, {"encoder_kwargs": {"n_tiles": 2}}),
    "rstdp_populations": (RSTDP, "PopulationPolicy", {}, {"encoder_kwargs": {"n_tiles": 2}}),
    "glm": (GLM, "GlmPolicy", {}, {"n_ticks": 4, "critic_kwargs": {"n_tiles": 2}}),
    "glm_chip": (GLM, "ChipGlmPolicy", {"backend": ChipGlm}, {"n_ticks": 4, "critic_kwargs": {"n_tiles": 2}}),
}
LEARNERS = list(_LEARNERS)
BY_GRADIENT = LEARNERS[:2]


class Noise(gym.Env):
    """Shows and pays noise, whatever is done; an episode is cut after ``length`` steps.

    Attributes:
        seen: The actions taken.
        faults: What to hand out in place of observation or reward, by the number of the step since it was made.
    """

    def __init__(self, observation_space=OBSERVATION, action_space=ACTION, length=20):
        self.observation_space, self.action_space = copy.deepcopy((observation_space, action_space))  # they hold draws
        self.length = length
        self.seen, self.faults = [], {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.seen.append(np.array(action))
        self.t += 1
        result = {"observation": self.observation_space.sample(), "reward": float(self.np_random.random())}
        result |= self.faults.get(len(self.seen), {})
        return result["observation"], result["reward"], False, self.t >= self.length, {}


def make(name, env=None, policy_kwargs=(), **kwargs):
    """Return a learner in ``env``, or in :class:`Noise`."""
    algorithm, policy, settings, small = _LEARNERS[name]
    policy_kwargs = {**small, **dict(policy_kwargs)}
    settings = {"seed": 0, "device": "cpu", **settings, **kwargs}
    return algorithm(policy, Noise() if env is None else env, policy_kwargs=policy_kwargs, **settings)


def weights(model):
    """Return a copy of what was learnt, by name."""
    return {name: value.numpy().copy() for name, value in model.policy.state_dict().items()}
