"""Policies of Stable-Baselines3 as layers: SB3 itself is the oracle, and what does not fit is refused in one line."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from spikeloop.agents.distillation import distilled
from spikeloop.agents.relu_layers import check_outputs, inputs, layers_of
from spikeloop.spiking.conversion import forward

RELU = dict(activation_fn=nn.ReLU)


class Task(gym.Env):
    """Shows and takes what it is told to."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


VECTOR, IMAGE = spaces.Box(-1, 1, (5,), np.float32), spaces.Box(0, 255, (36, 36, 1), np.uint8)
DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-2, 2, (2,), np.float32)


class Custom(BaseFeaturesExtractor):
    """Batch norms and a max-pool before and behind ReLUs."""

    def __init__(self, space):
        super().__init__(space, 4 * 4 * 4)
        self.cnn = nn.Sequential(
            nn.Conv2d(space.shape[0], 4, 5, 2), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.MaxPool2d(2, 2),
            nn.Flatten(), nn.Dropout(0.5),
        )  # fmt: skip

    def forward(self, x):
        return self.cnn(x)


class Doubling(BaseFeaturesExtractor):
    """Does what no module of it says."""

    def __init__(self, space):
        super().__init__(space, space.shape[0])

    def forward(self, x):
        return 2 * x


class Gelu(Doubling):
    def __init__(self, space):
        super().__init__(space)
        self.net = nn.Sequential(nn.Linear(space.shape[0], space.shape[0]), nn.GELU())


def small(cls):
    return {} if cls in (PPO, A2C) else {"buffer_size": 10}


CASES = {
    "ppo": (PPO, VECTOR, DISCRETE, dict(policy_kwargs=RELU)),
    "a2c": (A2C, VECTOR, spaces.MultiDiscrete([2, 3]), dict(policy_kwargs=RELU)),
    "gaussian": (PPO, VECTOR, BOX, dict(policy_kwargs={**RELU, "net_arch": dict(pi=[7], vf=[9, 9])})),
    "gsde": (PPO, VECTOR, BOX, dict(use_sde=True, policy_kwargs={**RELU, "squash_output": True})),
    "binary": (A2C, VECTOR, spaces.MultiBinary(3), dict(policy_kwargs=RELU)),
    "dqn": (DQN, VECTOR, DISCRETE, {}),
    "one-hot": (DQN, spaces.Discrete(6), DISCRETE, {}),
    "qrdqn": (QRDQN, VECTOR, DISCRETE, dict(policy_kwargs=dict(n_quantiles=7))),
    "sac": (SAC, VECTOR, BOX, {}),
    "nature": (PPO, IMAGE, DISCRETE, {}),
    "nature-dqn": (DQN, IMAGE, DISCRETE, {}),
    "custom": (PPO, IMAGE, DISCRETE, dict(policy_kwargs=dict(features_extractor_class=Custom, net_arch=[]))),
    "tanh": (PPO, VECTOR, DISCRETE, {}),
}


def model_of(cls, observation_space, action_space, options):
    policy = "CnnPolicy" if observation_space is IMAGE else "MlpPolicy"
    if isinstance(observation_space, spaces.Dict):
        policy = "MultiInputPolicy"
    env = Task(observation_space, action_space)
    return cls(policy, env, seed=0, device="cpu", **{**small(cls), **options})


@pytest.mark.parametrize("name", CASES)
def test_the_layers_compute_what_the_policy_does_and_the_head_takes_its_actions(name):
    model = model_of(*CASES[name])
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1 * th.randn(parameter.shape, generator=th.Generator().manual_seed(1)))
        for module in model.policy.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    ann = layers_of(model)
    assert ann.convertible == (name != "tanh")
    model.observation_space.seed(1)
    seen = np.stack([model.observation_space.sample() for _ in range(20)])
    outputs = forward(ann.layers, inputs(ann, model.observation_space, seen))[-1]
    expected = model.predict(seen, deterministic=True)[0]
    np.testing.assert_allclose(ann.head(outputs), expected, atol=2e-3)
    check_outputs(model, ann, seen)


def test_84_by_84_is_too_large_and_said_so():
    model = model_of(PPO, IMAGE, DISCRETE, {})
    assert [layer.w.shape[0] for layer in layers_of(model).layers] == [2048, 576, 64, 512, 3]
    atari = PPO("CnnPolicy", Task(spaces.Box(0, 255, (84, 84, 4), np.uint8), DISCRETE), device="cpu")
    with pytest.raises(ValueError, match=r"12800 neurons on 28224 inputs would have 361,267,200 weights"):
        layers_of(atari)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecurrentPPO("MlpLstmPolicy", Task(VECTOR, DISCRETE), n_steps=8), "ActorCriticPolicy is recurrent"),
        (lambda: model_of(TQC, VECTOR, BOX, {}), "of PPO, A2C, DQN, SAC and QRDQN, this one is a TQCPolicy"),
        (
            lambda: model_of(DQN, VECTOR, spaces.Discrete(2, start=1), {}),
            r"the policy has Discrete\(2, start=1",
        ),
        (
            lambda: model_of(PPO, spaces.Dict({"a": VECTOR, "b": VECTOR}), DISCRETE, {}),
            r"takes observations of one part, the policy has Dict\(.* \(MultiInput\)",
        ),
        (
            lambda: model_of(PPO, VECTOR, DISCRETE, dict(policy_kwargs=dict(activation_fn=nn.ELU))),
            r"the policy has ELU\(",
        ),
        (lambda: model_of(PPO, VECTOR, DISCRETE, dict(policy_kwargs=dict(net_arch=[]))), "is a linear map alone"),
        (
            lambda: model_of(PPO, VECTOR, DISCRETE, dict(policy_kwargs={**RELU, "features_extractor_class": Doubling})),
            "its outputs are off by .*: ActorCriticPolicy or its Doubling does something else",
        ),
        (
            lambda: model_of(PPO, VECTOR, DISCRETE, dict(policy_kwargs={**RELU, "features_extractor_class": Gelu})),
            "conversion knows Linear, Conv2d.* and ReLU, the policy has GELU",
        ),
        (lambda: model_of(SAC, VECTOR, BOX, dict(use_sde=True)), "the policy has Hardtanh"),
    ],
)
def test_what_does_not_convert_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as refused:
        layers_of(make())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["tanh", "box", "multi", "binary"])
def test_distillation_takes_the_teachers_actions(name):
    actions = dict(tanh=DISCRETE, box=BOX, multi=spaces.MultiDiscrete([2, 3]), binary=spaces.MultiBinary(2))[name]
    ann = layers_of(model_of(PPO, VECTOR, actions, dict(policy_kwargs=dict(net_arch=[16]))))
    x = np.random.default_rng(0).normal(size=(4000, 5)).astype(np.float32)
    sharp = [*ann.layers[:-1], type(ann.layers[-1])(100 * ann.layers[-1].w, ann.layers[-1].b, "identity")]
    layers = distilled(x, forward(sharp, x)[-1], [32], ann.head, ann.soft)
    assert [layer.activation for layer in layers] == ["relu", "identity"]
    fresh = np.random.default_rng(1).normal(size=(1000, 5)).astype(np.float32)
    mine, theirs = (ann.head(forward(one, fresh)[-1]).reshape(1000, -1) for one in (layers, sharp))
    if name == "box":
        assert abs(mine - theirs).mean() < 0.15
    else:
        assert np.all(mine == theirs, axis=1).mean() > 0.85
    again = distilled(x, forward(sharp, x)[-1], [32], ann.head, ann.soft)
    np.testing.assert_array_equal(again[0].w, layers[0].w)
