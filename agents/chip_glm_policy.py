"""The policy of probabilistic spiking networks whose neurons draw and learn by themselves, as on an emulated chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents.check_finite import NonFiniteError, check_predicted
from spikeloop.agents.checks import check_carried, check_not_empty, in_words, rows_of
from spikeloop.agents.export import observation_parts
from spikeloop.agents.glm_codes import glm_codes, is_vector
from spikeloop.agents.glm_learning import StepInput
from spikeloop.agents.learnt_arrays import add_learnt, find_learnt
from spikeloop.agents.stretches import Stretches
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.encoders.population_spikes import PopulationSpikes
from spikeloop.spiking.network import Network
from spikeloop.spiking.observation import flatten
from spikeloop.spiking.rules.glm import RewardGlm


class ChipGlmPolicy(BasePolicy):
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
        if both := network.keys() & (backend_kwargs or {}):
            raise ValueError(f"backend_kwargs must not hold {min(both)}, which is one of policy_kwargs")
        self.n_ticks, self.trained_behind = n_ticks, tuple(trained_behind)
        n_actions = int(action_space.n)
        self.head = ActionHead("discrete", (n_actions,), start=(int(action_space.start),))
        self._parts, self._is_vector = observation_parts(observation_space), is_vector(observation_space)
        # Draws input spikes and ties, and rounds; seeds the chip's noise. Checkpoints find it by its type.
        self.rng = np.random.default_rng(int(th.randint(2**31, ())))
        if isinstance(n_ticks, bool) or not isinstance(n_ticks, int) or n_ticks < 1:
            raise ValueError(f"n_ticks must be a whole number >= 1, got {n_ticks!r}")
        self.encoder, self.critic = glm_codes(type(self).__name__, observation_space, n_ticks, **codes)
        numbers = self.encoder.n_channels, n_actions, self.critic.n_inputs, rule, self.rng
        try:
            self.network = backend(*numbers, **network, **(backend_kwargs or {}))
        except TypeError as error:  # an argument it does not know
            raise ValueError(f"backend_kwargs: {error}") from None

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces_only = {"observation_space": self.observation_space, "action_space": self.action_space}
        return {**spaces_only, **self._arguments, "trained_behind": self.trained_behind}

    @property
    def plain(self) -> bool:
        """Whether the kernels of compiled tasks know the input code."""
        return type(self.encoder) is PopulationSpikes or isinstance(self.observation_space, spaces.Discrete)

    @property
    def counts(self) -> np.ndarray:
        """Env steps, ticks, 0 and output spikes of learning since the last log, shape (4,)."""
        return self.network.counts

    def learning(self, rule: RewardGlm) -> ChipGlmLearning:
        """Return what runs and teaches the network, at rest, at the rates of now."""
        return ChipGlmLearning(self, rule)

    def rows(self, observation: Any) -> np.ndarray:
        """Return observations as rows of numbers, shape (B, n_obs)."""
        if self._is_vector:
            return np.asarray(observation).reshape(-1, self.encoder.n_obs)
        return flatten(self._parts, observation)[0]

    def to_network(self, env: VecEnv | None = None, metadata: Mapping[str, str] | None = None) -> Network:
        """Refuse to: the policy is a program of its chip.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"a policy of {type(self.network).__name__} is a program of its chip, policy.network.program_now(), "
            "and not a Network"
        )

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
        if self._is_vector:
            obs, one = rows_of(observation, self.observation_space)
            check_predicted(obs)
            rows = obs.reshape(len(obs), -1)
        else:
            check_predicted(observation)
            rows, one = flatten(self._parts, observation)
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

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return th.as_tensor(self.predict(observation.cpu().numpy(), deterministic=deterministic)[0])

    def forward(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        """Return the actions for a batch of observations."""
        return self._predict(observation, deterministic)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        add_learnt(destination, f"{prefix}network.", self.network.state_dict())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.network.load_state_dict(find_learnt(state_dict, f"{prefix}network.", self.network.state_dict()))


class ChipGlmLearning:
    """Runs and teaches a network that draws and learns by itself, at rest at first.

    Its methods are those of :class:`~spikeloop.agents.stepwise_learning.Learning`.

    Args:
        policy: Its policy.
        rule: The rule at the rates of now.
    """

    def __init__(self, policy: ChipGlmPolicy, rule: RewardGlm):
        self.policy, self._network, self.input = policy, policy.network, StepInput(policy)
        full = policy.network.rule
        rates = [(getattr(rule, name), getattr(full, name)) for name in ("learning_rate", "value_rate")]
        self._progress = max((now / then for now, then in rates if then), default=0.0)  # they change alike
        self._network.reset()

    def act(self, obs: Any, before: Any, reward: Any, starts: bool) -> int:
        """Run the network for an env step, learn from the step before, and return the action."""
        row = self.policy.rows(obs)
        self.input.see(row, starts)
        lines = self.policy.critic.lines(row[0])
        action = self._network.act(self.input.x, lines, float(reward), self._progress)
        self._check()
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
        self._check()
        return n_steps, action

    def _check(self) -> None:
        if not np.isfinite(value := self._network.value):
            raise NonFiniteError(f"learning led to a value of {value}: a lower value_scale or learning_rate may help")
