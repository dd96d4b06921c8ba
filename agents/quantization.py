"""Quantisation-aware training: the actor computes with weights on a grid while the optimizer moves finer ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from spikeloop.agents.policies import LsnnPolicy


class QuantizeWeights(BaseCallback):
    """Puts the actor's weights on a grid after every optimizer step, straight-through.

    Rollouts, gradients and whatever is saved use the weights on the grid; each step's change is added to weights of
    full precision behind them (Courbariaux et al. 2015, BinaryConnect). Those live in the optimizer's state, which SB3
    and our checkpoints save, so a run that resumes goes on with them.

    Args:
        quantize: Takes a weight matrix (post, pre) and returns it on the grid, same shape and dtype.

    Raises:
        ValueError: When training starts, if the policy is not of LSNN layers, or has a constraint.

    >>> from spikeloop.agents import SpikingPPO
    >>> model = SpikingPPO("LsnnPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0)
    >>> _ = model.learn(32, callback=QuantizeWeights(lambda w: np.round(w * 64) / 64))
    >>> bool((model.policy.action_net.weight * 64 % 1 == 0).all())
    True
    """

    def __init__(self, quantize: Callable[[np.ndarray], np.ndarray]):
        super().__init__()
        self.quantize = quantize
        self._weights: list[th.Tensor] = []

    def _on_training_start(self) -> None:
        policy = self.model.policy
        if not isinstance(policy, LsnnPolicy):
            raise ValueError(f"only a policy of LSNN layers is quantised, the policy is {type(policy).__name__}")
        if policy.constraint is not None:
            what = type(policy.constraint.constraint).__name__
            raise ValueError(f"quantised weights cannot be trained under a constraint, the policy has {what}")
        self._weights = [w for layer in policy.lstm_actor.layers for w in (layer.w_in, layer.w_rec) if w is not None]
        if isinstance(policy.action_net, th.nn.Linear):
            self._weights.append(policy.action_net.weight)
        self._hook = policy.optimizer.register_step_post_hook(self._project)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._hook.remove()

    @th.no_grad()
    def _project(self, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for weight in self._weights:
            state = optimizer.state[weight]
            # the step moved the weight from where it lay on the grid
            fine = state["fine"] + (weight - state["grid"]) if "fine" in state else weight.clone()
            grid = th.from_numpy(np.asarray(self.quantize(fine.cpu().numpy()))).to(weight)
            state["fine"], state["grid"] = fine, grid
            weight.copy_(grid)
