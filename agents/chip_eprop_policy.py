"""The policy of e-prop where the network is one that learns by itself, such as an LSNN on an emulated chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule

from spikeloop.agents.actor import fixed_scaler, head_for
from spikeloop.agents.check_finite import check_predicted
from spikeloop.agents.checks import check_carried, check_not_empty, in_words, rows_of
from spikeloop.agents.chip_policy import ChipPolicy, built, check_options, check_value, progress_of
from spikeloop.agents.critic_code import critic_code
from spikeloop.agents.stretches import Stretches
from spikeloop.spiking.rules.reward_eprop import TAU_RATE, RewardEprop

CRITICS = ("tiles", "places")


class ChipEpropPolicy(ChipPolicy):
    """Actor that a backend builds and that learns there, and a critic on an input code of its own.

    Arguments that :class:`~spikeloop.agents.eprop_policy.EpropPolicy` has too mean the same.

    Args:
        observation_space: A vector.
        action_space: Discrete.
        lr_schedule: Not used: what learns are the network's own rules.
        backend: What builds the network (:class:`spikeloop.hardware.ChipLsnn`): called with the numbers of actions, the
            factors of observations, the number of the critic's lines, ``rule``, a generator, and options by name.
        backend_kwargs: Further options of it, such as ``w_max``, ``pseudo_derivative``, ``n_copies``, ``residue``.
        rule: Learning rates at their highest, discount and so on; EProp fills it in.
        n_neurons: Neurons N.
        n_ticks: Ticks per env step.
        tau_m: Membrane time constant in ticks.
        tau_a: Time constant of adaptation in ticks.
        beta: What a spike adds to the adaptation, in units of the threshold.
        tau_out: Time constant of the outputs in ticks.
        w_in_scale: Standard deviation of the input weights at first, times sqrt(n_obs).
        bias_scale: Neurons' weights from the line that always spikes are at first uniform from 0 to this.
        obs_scale: What observations are multiplied by before they are cut at -1 and 1; None for nothing.
        critic: ``tiles`` or ``places``: a linear map of such a code's lines, which the host computes.
        critic_kwargs: Options of the code (:func:`~spikeloop.agents.line_codes.coder_for`).
        critic_sees_changes: Whether the code is also of how the observation changed since the step before.
        trained_behind: Names of the wrappers of the VecEnv that change what is observed; EProp fills them in.

    Raises:
        ValueError: If a space is of another kind, an argument is out of range, or there is no backend.
    """

    rate: th.Tensor
    log_std: ClassVar[None] = None
    plain = True  # whether the kernels of compiled tasks know encoder and head

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule | None = None,
        *,
        backend: Callable[..., Any] | None = None,
        backend_kwargs: Mapping[str, Any] | None = None,
        rule: RewardEprop | None = None,
        n_neurons: int = 16,
        n_ticks: int = 4,
        tau_m: float = 2.0,
        tau_a: float = 20.0,
        beta: float = 0.4,
        tau_out: float = 2.0,
        w_in_scale: float = 2.0,
        bias_scale: float = 0.5,
        obs_scale: float | Sequence[float] | None = None,
        critic: str = "tiles",
        critic_kwargs: Mapping[str, Any] | None = None,
        critic_sees_changes: bool = False,
        trained_behind: Sequence[str] = (),
    ):
        super().__init__(observation_space, action_space)
        if backend is None or rule is None:
            raise ValueError("ChipEpropPolicy needs a backend that builds its network, such as ChipLsnn, got none")
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(f"ChipEpropPolicy needs a vector observation (Box), got {in_words(observation_space)}")
        check_not_empty("observation", observation_space)
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"ChipEpropPolicy needs discrete actions, got {in_words(action_space)}")
        if critic not in CRITICS:
            raise ValueError(f"critic must be one of {CRITICS} where the network is a backend's, got {critic!r}")
        if not isinstance(critic_sees_changes, (bool, np.bool_)):
            raise ValueError(f"critic_sees_changes must be true or false, got {critic_sees_changes!r}")
        network = {
            "n_neurons": n_neurons,
            "n_ticks": n_ticks,
            "tau_m": tau_m,
            "tau_a": tau_a,
            "beta": beta,
            "tau_out": tau_out,
            "w_in_scale": w_in_scale,
            "bias_scale": bias_scale,
        }
        self._arguments = {
            "backend": backend,
            "backend_kwargs": dict(backend_kwargs or {}),
            "rule": rule,
            **network,
            "obs_scale": obs_scale,
            "critic": critic,
            "critic_kwargs": dict(critic_kwargs or {}),
            "critic_sees_changes": critic_sees_changes,
        }
        self.critic_sees_changes, self.n_ticks, self.trained_behind = (
            critic_sees_changes,
            n_ticks,
            tuple(trained_behind),
        )
        code: Any = critic_code(critic, critic_kwargs or {}, critic_sees_changes, observation_space)
        self.critic = code
        self.head, scaler = head_for(action_space), fixed_scaler(obs_scale, observation_space)
        scale = np.ones(observation_space.shape) if scaler is None else 1.0 / scaler.std
        # Draws the weights now and the actions later; checkpoints find it by its type.
        self.rng = np.random.default_rng(int(th.randint(2**31, ())))
        numbers = int(action_space.n), scale, code.n_channels, rule, self.rng
        check_options(network, backend_kwargs)
        self.network = built(backend, numbers, {**network, **(backend_kwargs or {})})
        self.register_buffer("rate", th.zeros(n_neurons))  # running mean of each neuron's spikes per tick

    def learning(self, rule: RewardEprop) -> ChipLearning:
        """Return what runs and teaches the network, at rest, at the rates of now."""
        return ChipLearning(self, rule)

    def critic_lines(self, obs: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return the active lines of the critic's code for an observation and the one before."""
        now = np.asarray(obs, np.float64).reshape(-1)
        if self.critic_sees_changes:
            now = np.concatenate((now, now - np.asarray(before, np.float64).reshape(-1)))
        return self.critic.lines(now)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions, without learning; pass the returned state to the next call, as with recurrent policies.

        Args:
            observation: One observation, or a batch of them.
            state: What the previous call returned; None starts from rest.
            episode_start: True where the state is cleared first, shape (B,).
            deterministic: Take the most likely action instead of drawing one.

        Returns:
            The actions, and the new state: of chip and host, shape (1, B, W).

        Raises:
            ValueError: If a shape is wrong or an observation is not finite.
        """
        obs, single = rows_of(observation, self.observation_space)
        check_predicted(obs)
        rest = self.network.rest(len(obs))
        packed = rest if state is None else np.asarray(state[0], rest.dtype)
        check_carried(packed, (rest.shape[0], rest.shape[2]), episode_start, len(obs))
        starts = np.zeros(len(obs), bool) if episode_start is None else np.reshape(episode_start, -1) != 0
        logits, new = self.network.advance(obs, np.where(starts[:, None], rest, packed))
        if not deterministic:
            logits = logits + self.rng.gumbel(size=logits.shape)  # its largest sum with x is drawn by softmax(x)
        actions = self.head(logits)
        return actions[0] if single else actions, (new,)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.rate.copy_(state_dict[f"{prefix}rate"])


class ChipLearning:
    """Runs and teaches a network that learns by itself, at rest at first.

    What :class:`~spikeloop.agents.eprop_learning.FloatLearning` is to the float simulator.

    Args:
        policy: Its policy.
        rule: The rule at the rates of now.
    """

    def __init__(self, policy: ChipEpropPolicy, rule: RewardEprop):
        self.policy, self._network = policy, policy.network
        self._progress = progress_of(rule, self._network, ("learning_rate", "actor_rate", "value_rate"))
        self._network.reset()
        self._counts, self._n_steps = self._network.spike_counts, 0

    def act(self, obs: Any, before: Any, reward: Any, starts: bool) -> int:
        """Run the network for an env step, learn from the step before, and return the action."""
        lines = self.policy.critic_lines(obs, before)
        self._n_steps += 1
        shown = np.asarray(obs, np.float64).reshape(-1)
        action = self._network.act(shown, lines, reward, self._progress)
        check_value(self._network)
        return action

    def end(self, last: Any, before: Any, reward: Any, truncated: bool) -> None:
        """Learn from the last reward of an episode, and return to rest; note how often neurons have spiked."""
        self._network.end(self.policy.critic_lines(last, before), reward, truncated, self._progress)
        counts, n_ticks = self._network.spike_counts, (self._n_steps + 1) * self.policy.n_ticks
        kept = (1 - 1 / TAU_RATE) ** n_ticks
        spiked = th.from_numpy((counts - self._counts) / n_ticks).float()
        self.policy.rate.mul_(kept).add_((1 - kept) * spiked)
        self._counts, self._n_steps = counts, 0

    def stretch(
        self, task: Stretches, state: np.ndarray, shown: np.ndarray, action: int, rewards: np.ndarray
    ) -> tuple[int, int]:
        """Act and learn in a compiled task until the next step would end the episode."""
        compiled, code = task.compiled, self.policy.critic
        body, obs, changes = compiled.body(task.task), np.empty(compiled.n_obs), self.policy.critic_sees_changes
        where = compiled.step, state, body, obs, task.keep, shown, code.table, changes
        n_steps, action = self._network.stretch(*where, action, rewards, self._progress)
        self._n_steps += n_steps
        check_value(self._network)
        return n_steps, action
