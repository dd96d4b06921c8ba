"""The policy of probabilistic spiking networks whose neurons draw and learn by themselves, as on an emulated chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule

from spikeloop.agents.checks import check_carried, check_not_empty, in_words
from spikeloop.agents.chip_policy import ChipPolicy, built, check_options, check_value, progress_of
from spikeloop.agents.glm_codes import ObservationRows, glm_codes, is_plain
from spikeloop.agents.glm_learning import StepInput
from spikeloop.agents.stretches import Stretches
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.rules.glm import RewardGlm


class ChipGlmPolicy(ChipPolicy):
    """Outputs that a backend builds, and that draw their spikes and learn there; a critic on an input code of its own.

    The first output spike of an env step is the action. Arguments that
    :class:`~spikeloop.agents.glm_policy.GlmPolicy` has too mean the same.

    Args:
        observation_space: A vector (Box), or choices (Discrete, MultiDiscrete, MultiBinary).
        action_space: Discrete.
        lr_schedule: Not used: what learns are the network's own rules.
        backend: What builds the network (:class:`spikeloop.hardware.ChipGlm`): called with the numbers of input lines,
            of actions and of the critic's lines, ``rule``, a generator, and options by name.
        backend_kwargs: Further options of it, such as ``noise_exponent``, ``n_noise``, ``n_copies``, ``residue``.
        rule: Learning rates at their highest, discount and so on; GLM fills it in.
        n_ticks: Ticks per env step, at most.
        tau_s: Time constant of membranes in ticks.
        bias: Bias of the outputs, below 0: a threshold, which does not learn.
        encoder: How observations become spikes.
        encoder_kwargs: Its options.
        critic: ``tiles`` or ``places``.
        critic_kwargs: Options of the code.
        trained_behind: Names of the wrappers of the VecEnv that change what is observed; GLM fills them in.

    Raises:
        ValueError: If a space is of another kind, an argument is out of range, or there is no backend.
    """

    n_hidden = 0

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule | None = None,
        *,
        backend: Callable[..., Any] | None = None,
        backend_kwargs: Mapping[str, Any] | None = None,
        rule: RewardGlm | None = None,
        n_ticks: int = 8,
        tau_s: float = 2.0,
        bias: float = -1.5,
        encoder: str | None = None,
        encoder_kwargs: Mapping[str, Any] | None = None,
        critic: str = "tiles",
        critic_kwargs: Mapping[str, Any] | None = None,
        trained_behind: Sequence[str] = (),
    ):
        super().__init__(observation_space, action_space)
        if backend is None or rule is None:
            raise ValueError("ChipGlmPolicy needs a backend that builds its network, such as ChipGlm, got none")
        check_not_empty("observation", observation_space)
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"ChipGlmPolicy needs a Discrete action space, got {in_words(action_space)}")
        network: dict[str, Any] = {"n_ticks": n_ticks, "tau_s": tau_s, "bias": bias}
        codes: dict[str, Any] = {
            "encoder": encoder,
            "encoder_kwargs": dict(encoder_kwargs or {}),
            "critic": critic,
            "critic_kwargs": dict(critic_kwargs or {}),
        }
        self._arguments = {"backend": backend, "backend_kwargs": dict(backend_kwargs or {}), "rule": rule}
        self._arguments |= {**network, **codes}
        check_options(network, backend_kwargs)
        self.n_ticks, self.trained_behind = n_ticks, tuple(trained_behind)
        n_actions = int(action_space.n)
        self.head = ActionHead("discrete", (n_actions,), start=(int(action_space.start),))
        self._rows = ObservationRows(observation_space)
        # Draws input spikes and ties, and rounds; seeds the chip's noise. Checkpoints find it by its type.
        self.rng = np.random.default_rng(int(th.randint(2**31, ())))
        if isinstance(n_ticks, bool) or not isinstance(n_ticks, int) or n_ticks < 1:
            raise ValueError(f"n_ticks must be a whole number >= 1, got {n_ticks!r}")
        self.encoder, self.critic = glm_codes(type(self).__name__, observation_space, n_ticks, **codes)
        numbers = self.encoder.n_channels, n_actions, self.critic.n_inputs, rule, self.rng
        self.network = built(backend, numbers, {**network, **(backend_kwargs or {})})

    @property
    def plain(self) -> bool:
        """Whether the kernels of compiled tasks know the input code."""
        return is_plain(self.encoder, self.observation_space)

    @property
    def counts(self) -> np.ndarray:
        """Env steps, ticks, 0, output spikes and cut TD errors of learning since the last log, shape (5,)."""
        return self.network.counts

    def learning(self, rule: RewardGlm) -> ChipGlmLearning:
        """Return what runs and teaches the network, at rest, at the rates of now."""
        return ChipGlmLearning(self, rule)

    def rows(self, observation: Any) -> np.ndarray:
        """Return observations as rows of numbers, shape (B, n_obs)."""
        return self._rows(observation)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions, without learning; pass the returned state to the next call, as with recurrent policies.

        Args:
            observation: Observations, of the space's shape or a batch of them.
            state: What the previous call returned, which holds the chips' membranes and noise, and the key of the
                input's random spikes; None draws both and starts from rest.
            episode_start: True where the membranes are cleared first, shape (B,).
            deterministic: Take the most likely action, given the input's spikes, in an env step of all ticks, instead
                of the first to spike.

        Returns:
            The actions, and the new state, shape (1, B, W).

        Raises:
            ValueError: If a shape is wrong or an observation is not finite.
        """
        rows, one = self._rows.of_predict(observation)
        packed = self._rest(len(rows)) if state is None else np.asarray(state[0], np.float64)
        n_rows, n_obs, width = len(self.encoder.memory_rows), self.encoder.n_obs, self.network.state_width
        check_carried(packed, (1, width + n_rows * n_obs), episode_start, len(rows))
        starts = np.zeros(len(rows), bool) if episode_start is None else np.reshape(episode_start, -1) != 0
        memory = packed[0, :, width:].reshape(len(rows), n_rows, n_obs).swapaxes(0, 1)
        x, memory = encode(self.encoder, rows[None], memory, starts[None], self.n_ticks)
        ticks = x if self.encoder.held else x[0]  # (1 or K, B, C)
        chips = self.network.cleared(packed[0, :, :width].astype(np.int32), starts)
        if deterministic:
            chances, chips = self.network.chances(ticks, chips)
            chosen = chances.argmax(axis=1)
        else:
            chosen, chips = self.network.play(ticks, chips, self.rng)
        actions = self.head.action(chosen[:, None])
        new = np.concatenate((chips, np.swapaxes(memory, 0, 1).reshape(len(rows), -1)), axis=1)[None]
        return actions[0] if one else actions, (new,)

    def _rest(self, n: int) -> np.ndarray:
        memory = self.encoder.initial_memory(n, self.rng)
        chips = self.network.rest(n, self.rng)
        return np.concatenate((chips, np.swapaxes(memory, 0, 1).reshape(n, -1)), axis=1)[None].astype(np.float64)


class ChipGlmLearning:
    """Runs and teaches a network that draws and learns by itself, at rest at first.

    Its methods are those of :class:`~spikeloop.agents.stepwise_learning.Learning`.

    Args:
        policy: Its policy.
        rule: The rule at the rates of now.
    """

    def __init__(self, policy: ChipGlmPolicy, rule: RewardGlm):
        self.policy, self._network, self.input = policy, policy.network, StepInput(policy)
        self._progress = progress_of(rule, self._network, ("learning_rate", "value_rate"))
        self._network.reset()

    def act(self, obs: Any, before: Any, reward: Any, starts: bool) -> int:
        """Run the network for an env step, learn from the step before, and return the action."""
        row = self.policy.rows(obs)
        self.input.see(row, starts)
        lines = self.policy.critic.lines(row[0])
        action = self._network.act(self.input.x, lines, float(reward), self._progress)
        check_value(self._network)
        return action

    def end(self, last: Any, before: Any, reward: Any, truncated: bool) -> None:
        """Learn from the last reward of an episode, and return to rest."""
        lines = self.policy.critic.lines(self.policy.rows(last)[0])
        self._network.end(lines, float(reward), truncated, self._progress)

    def stretch(
        self, task: Stretches, state: np.ndarray, shown: np.ndarray, action: int, rewards: np.ndarray
    ) -> tuple[int, int]:
        """Act and learn in a compiled task until the next step would end the episode."""
        compiled, (curves, key, x) = task.compiled, self.input.for_kernel()
        where = compiled.step, state, compiled.body(task.task), np.empty(compiled.n_obs), task.keep, shown
        codes = curves, key, self.policy.critic.table, x
        n_steps, action = self._network.stretch(*where, *codes, action, rewards, self._progress)
        check_value(self._network)
        return n_steps, action
