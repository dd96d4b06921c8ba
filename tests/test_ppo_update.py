"""Actor and critic are clipped apart, and without a clip an update is sb3-contrib's to the bit."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv

from spikeloop.agents import SpikingA2C, SpikingPPO
from spikeloop.agents.policies import LsnnPolicy
from spikeloop.agents.ppo_update import parts_of

RATE = 1e-3


class Scaled(gym.RewardWrapper):
    """A task that pays so many times as much."""

    def __init__(self, env, factor):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        """Return the scaled reward."""
        return self.factor * float(reward)


def trained(algorithm, env_id, scale, **kwargs):
    """Return an algorithm's model after one update, and how far weights moved in it, in units of the learning rate."""
    venv = DummyVecEnv([lambda: Scaled(gym.make(env_id), scale)] * 4)
    options = {"batch_size": 256, "n_epochs": 1} if algorithm is SpikingPPO else {"normalize_advantage": True}
    kwargs = {"learning_rate": RATE, "n_steps": 64, "policy_kwargs": {"n_neurons": 32}, **options, **kwargs}
    model = algorithm("LsnnPolicy", venv, seed=0, **kwargs)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.learn(256)
    moved = {
        name: float((p.detach() - before[name]).square().mean().sqrt()) / RATE
        for name, p in model.policy.named_parameters()
    }
    return model, moved


@pytest.mark.parametrize("scale", [1.0, 100.0, 10_000.0])
@pytest.mark.parametrize(
    ("algorithm", "env_id"), [(SpikingPPO, "CartPole-v1"), (SpikingPPO, "Pendulum-v1"), (SpikingA2C, "CartPole-v1")]
)
def test_spiking_weights_move_as_fast_as_the_readout_whatever_the_scale_of_returns(algorithm, env_id, scale):
    _, moved = trained(algorithm, env_id, scale)
    w_in, w_out = moved["lstm_actor.layers.0.w_in"], moved["action_net.weight"]
    assert w_out / 3 <= w_in <= 3 * w_out
    assert w_in > 0.3  # of the set rate: neither is held down


def test_each_part_is_clipped_by_its_own_norm_and_the_norms_are_logged():
    model, _ = trained(SpikingPPO, "CartPole-v1", 100.0)
    norms = {
        name: float(th.cat([p.grad.ravel() for p in part]).norm())
        for name, part in parts_of(model.policy).items()
        if part
    }
    logged = model.logger.name_to_value
    assert norms["critic"] == pytest.approx(0.5, rel=1e-4) and logged["train/critic_grad_norm"] > 100
    assert norms["actor"] == pytest.approx(logged["train/actor_grad_norm"], rel=1e-4) and norms["actor"] < 0.5
    assert "train/shared_grad_norm" not in logged


@pytest.mark.parametrize(
    "options", [{}, {"clip_range_vf": 0.1, "ent_coef": 0.01}, {"target_kl": 1e-4}, {"use_sde": True}]
)
def test_without_a_clip_an_update_is_sb3_contribs_to_the_bit(options, monkeypatch):
    kwargs = {"n_epochs": 3, "batch_size": 64, "seq_len": 16, "max_grad_norm": 1e30, "compiled": False, **options}
    ours, _ = trained(SpikingPPO, "Pendulum-v1", 1.0, **kwargs)
    monkeypatch.setattr(SpikingPPO, "train", RecurrentPPO.train)
    theirs, _ = trained(SpikingPPO, "Pendulum-v1", 1.0, **kwargs)
    for (name, mine), other in zip(ours.policy.named_parameters(), theirs.policy.parameters(), strict=True):
        assert th.equal(mine, other), name
    mine, other = ours.logger.name_to_value, theirs.logger.name_to_value
    assert set(mine) - set(other) == {"train/actor_grad_norm", "train/critic_grad_norm"} and set(other) <= set(mine)
    for name in (name for name in other if name.startswith("train/")):
        assert mine[name] == pytest.approx(other[name], rel=1e-6), name


@pytest.mark.parametrize("share", [True, False])
def test_the_parts_of_a_policy_are_all_it_has_and_an_extractor_belongs_to_whoever_reads_it(share):
    space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    policy = LsnnPolicy(space, spaces.Box(-1, 1, (1,)), lambda _: 1e-3, share_features_extractor=share)
    parts = parts_of(policy)
    assert sorted(id(p) for part in parts.values() for p in part) == sorted(map(id, policy.parameters()))
    assert any(p is policy.log_std for p in parts["actor"])
    extractors = {"actor": policy.pi_features_extractor, "critic": policy.vf_features_extractor}
    for name, extractor in extractors.items():
        held = {id(p) for p in parts["shared" if share else name]}
        assert {id(p) for p in extractor.parameters()} <= held
    assert bool(parts["shared"]) is share
