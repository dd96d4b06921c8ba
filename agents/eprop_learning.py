"""What e-prop does in an env step, where the network is the float simulator's: the kernels' arrays, and calls of them.

:class:`~spikeloop.agents.chip_eprop_policy.ChipLearning` does the same for a network that learns by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spikeloop.agents.check_finite import NonFiniteError
from spikeloop.agents.stretches import Stretches
from spikeloop.spiking.encoders.dimensions import Dimensions
from spikeloop.spiking.encoders.tile_coding import Tiles
from spikeloop.spiking.rules import eprop_kernels
from spikeloop.spiking.rules.reward_eprop import RewardEprop

_NO_CODE = Tiles(Dimensions(low=[0.0], high=[1.0]), n_tiles=[1], n_grids=1)  # kernels take one, used or not


class FloatLearning:
    """Runs and teaches the network of an :class:`~spikeloop.agents.eprop_policy.EpropPolicy`, at rest at first.

    Its methods are those of :class:`~spikeloop.agents.stepwise_learning.Learning`.

    Args:
        policy: The policy, whose parameters change in place.
        rule: The rule.
    """

    def __init__(self, policy: Any, rule: RewardEprop):
        self.policy, self._learner = policy, policy.learner(rule)
        self._memory = policy.encoder.initial_memory(1, policy.rng)
        self._outputs = np.empty(len(policy.w_out), np.float32)

    def act(self, obs: Any, before: Any, reward: Any, starts: bool) -> Any:
        """Run the network for an env step, learn from the step before, and return the action.

        Raises:
            NonFiniteError: If outputs or the value are not finite any more.
        """
        policy, outputs = self.policy, self._outputs
        x, self._memory = policy.input(obs, self._memory, starts)
        lines = policy.critic_lines(obs, before)
        if policy.log_std is None:
            uniform = np.float32(policy.rng.random())
            action = eprop_kernels.reward_eprop_act(x, lines, reward, uniform, policy.n_ticks, self._learner, outputs)
        else:
            noise = policy.rng.standard_normal(len(outputs) - 1)
            gaussian = np.array((np.exp(policy.log_std.numpy()), *policy.bounds), np.float64)
            eprop_kernels.reward_eprop_act_box(
                x, lines, reward, noise, gaussian, policy.n_ticks, self._learner, outputs
            )
            action = outputs[:-1]
        if not np.isfinite(outputs).all():
            raise NonFiniteError(f"learning led to outputs and a value of {outputs}: a lower learning_rate may help")
        return action

    def end(self, last: Any, before: Any, reward: Any, truncated: bool) -> None:
        """Learn from the last reward of an episode, and return to rest."""
        x, self._memory = self.policy.input(last, self._memory, False)
        lines = self.policy.critic_lines(last, before)
        eprop_kernels.reward_eprop_end(x, lines, reward, truncated, self.policy.n_ticks, self._learner, self._outputs)

    def stretch(
        self, task: Stretches, state: np.ndarray, shown: np.ndarray, action: int, rewards: np.ndarray
    ) -> tuple[int, int]:
        """Act and learn in a compiled task until the next step would end the episode."""
        policy, compiled = self.policy, task.compiled
        return eprop_kernels.reward_eprop_stretch(
            compiled.step,
            state,
            compiled.body(task.task),
            np.empty(compiled.n_obs),
            task.keep,
            shown,
            np.ones(len(shown)) if policy.scaler is None else policy.scaler.std.copy(),
            (policy.critic or _NO_CODE).table,
            policy.critic_sees_changes,
            policy.n_ticks,
            self._learner,
            policy.rng,
            action,
            rewards,
        )
