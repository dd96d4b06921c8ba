"""What a probabilistic spiking policy does in an env step of training: the kernels' arrays, and calls of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikeloop.agents.stretches import Stretches
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.encoders.population_kernels import one_line, population_spikes
from spikeloop.spiking.encoders.population_spikes import PopulationSpikes
from spikeloop.spiking.rules import glm_kernels
from spikeloop.spiking.rules.glm import RewardGlm, new_learner


class StepInput:
    """Input spikes of one env step after another.

    Args:
        policy: Whose encoder, ticks and generator these are.

    Attributes:
        x: Spikes of the env step, shape (n_ticks, n_channels), or (1, n_channels) where they are held.
        key: Key of the next spikes, shape (1,), where the encoder draws.
        curves: The tuning curves, as the kernels take them.
    """

    def __init__(self, policy: Any):
        self._policy, encoder = policy, policy.encoder
        self.curves = encoder.table if type(encoder) is PopulationSpikes else one_line()
        self.x = np.zeros((1 if encoder.held else policy.n_ticks, encoder.n_channels))
        self._memory = encoder.initial_memory(1, policy.rng)
        self.key = np.array(self._memory[:, 0, 0], np.float64)  # (1,) where the encoder draws, else (0,)

    def see(self, row: np.ndarray, starts: bool) -> None:
        """Write the input of an env step in which ``row``, shape (1, n_obs), is observed."""
        policy = self._policy
        if type(policy.encoder) is PopulationSpikes:  # by the kernel, as in compiled tasks: the same last bits
            population_spikes(self.curves, np.array(row[0], np.float64), self.key, self.x)
            return
        x, self._memory = encode(policy.encoder, row[None], self._memory, np.array([[starts]]), policy.n_ticks)
        self.x[:] = x.reshape(self.x.shape)

    def for_kernel(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """Return what the kernels of compiled tasks take: curves, key and room for the input."""
        return self.curves, self.key if len(self.key) else np.zeros(1), self.x


class GlmLearning:
    """Runs and teaches the network of a :class:`~spikeloop.agents.glm_policy.GlmPolicy`.

    Its methods are those of :class:`~spikeloop.agents.stepwise_learning.Learning`.

    Args:
        policy: The policy, whose parameters change in place.
        rule: The rule.
    """

    def __init__(self, policy: Any, rule: RewardGlm):
        self.policy = policy
        self._c = rule.constants(policy.kappa, policy.n_ticks)
        w_hidden, w_out, values = policy.arrays()
        self._learner = new_learner(w_hidden, w_out, values, policy.counts)
        self.input = StepInput(policy)

    def act(self, obs: Any, before: Any, reward: Any, starts: bool) -> int:
        """Learn from the step before, run the network for an env step, and return the action."""
        policy, row = self.policy, self.policy.rows(obs)
        self._see(row, starts)
        lines = policy.critic.lines(row[0])
        return glm_kernels.act(self.input.x, lines, float(reward), starts, self._learner, self._c, policy.rng)

    def _see(self, row: np.ndarray, starts: bool) -> None:
        """Write the input of an env step."""
        self.input.see(row, starts)

    def end(self, last: Any, before: Any, reward: Any, truncated: bool) -> None:
        """Learn from the last reward of an episode, and forget its traces."""
        lines = self.policy.critic.lines(self.policy.rows(last)[0])
        glm_kernels.end(lines, float(reward), truncated, self._learner, self._c)

    def stretch(
        self, task: Stretches, state: np.ndarray, shown: np.ndarray, action: int, rewards: np.ndarray
    ) -> tuple[int, int]:
        """Act and learn in a compiled task until the next step would end the episode."""
        policy, compiled = self.policy, task.compiled
        curves, key, x = self.input.for_kernel()
        return glm_kernels.stretch(
            compiled.step,
            state,
            compiled.body(task.task),
            np.empty(compiled.n_obs),
            task.keep,
            shown,
            curves,
            key,
            policy.critic.table,
            x,
            self._learner,
            self._c,
            policy.rng,
            action,
            rewards,
        )
