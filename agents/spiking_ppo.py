"""Proximal policy optimisation of spiking policies: sb3-contrib's RecurrentPPO over chunks of spiking sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents.export import model_to_network, note_wrappers
from spikeloop.agents.policies import LifPolicy, LsnnPolicy
from spikeloop.agents.rollout_buffer import ChunkedDictRolloutBuffer, ChunkedRolloutBuffer
from spikeloop.spiking.metrics import accumulates
from spikeloop.spiking.network import Network

Self = TypeVar("Self", bound="SpikingPPO")


class SpikingPPO(RecurrentPPO):
    """PPO (Schulman et al. 2017) of a spiking policy, trained through surrogate gradients.

    Loss, advantage estimation and collection are those of ``sb3_contrib.RecurrentPPO``, whose other arguments it
    takes (``learning_rate``, ``n_steps``, ``batch_size``, ``n_epochs``, ``gamma``, ``clip_range``, ``target_kl``,
    ``use_sde``, ``policy_kwargs``, ...).

    Args:
        policy: ``"LsnnPolicy"``, ``"LifPolicy"`` or a subclass of :class:`~spikeloop.agents.policies.LsnnPolicy`.
        env: The environment, or its id.
        args: Further positional arguments of ``RecurrentPPO``, in its order.
        seq_len: Env steps per training sequence, a divisor of ``n_steps``. Gradients through time stop at its
            start, so memory tasks want it as long as what is to be remembered.
        kwargs: Further keyword arguments of ``RecurrentPPO``.

    Raises:
        ValueError: If ``seq_len`` does not divide ``n_steps``, or exceeds ``batch_size``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"LsnnPolicy": LsnnPolicy, "LifPolicy": LifPolicy}
    policy: LsnnPolicy

    def __init__(
        self,
        policy: str | type[LsnnPolicy],
        env: GymEnv | str | None,
        *args: Any,
        seq_len: int = 16,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ):
        super().__init__(policy, env, *args, **kwargs, _init_setup_model=False)  # type: ignore[arg-type, misc]
        self.seq_len = seq_len
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.seq_len < 1 or self.n_steps % self.seq_len:
            divisors = [n for n in range(1, self.n_steps + 1) if self.n_steps % n == 0]
            raise ValueError(f"seq_len={self.seq_len} must divide n_steps={self.n_steps}: one of {divisors}")
        if self.batch_size is not None and self.batch_size < self.seq_len:
            raise ValueError(f"batch_size={self.batch_size} must hold at least one sequence of seq_len={self.seq_len}")
        super()._setup_model()
        note_wrappers(self)
        is_dict = isinstance(self.observation_space, spaces.Dict)
        state_shape = self.policy.lstm_actor.state_shape
        self.rollout_buffer = (ChunkedDictRolloutBuffer if is_dict else ChunkedRolloutBuffer)(
            self.n_steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
            seq_len=self.seq_len,
            state_shape=state_shape,
        )
        state = th.from_numpy(self.policy.initial_state(self.n_envs)).to(self.device)
        self._last_lstm_states = RNNStates((state,), (state, state[:0]))  # type: ignore[assignment]

    def to_network(self, metadata: Mapping[str, str] | None = None) -> Network:
        """Return the trained actor as a value, with all that stands between it and the environment.

        Normalisation, frame stack and preprocessing become parts of the network; its metadata names the environment.

        Args:
            metadata: Text pairs to keep with the network.

        Raises:
            ValueError: If something has no place in a Network.
        """
        return model_to_network(self, metadata)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Learn in other environments from now on; the arguments are SB3's."""
        super().set_env(env, force_reset)
        note_wrappers(self)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect a rollout as RecurrentPPO does, and log its spikes and accumulates per env step, layer by layer."""
        actor = self.policy.lstm_actor
        actor.reset_counts()
        go_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        rates = [counts.mean() / actor.n_counted for counts in actor.spike_counts]
        operations = accumulates(
            actor.network_layers(),
            actor.spike_counts,
            actor.n_counted,
            n_ticks=actor.n_ticks,
            w_out=self.policy.readout_weights(),
        )
        for i, (rate, synops) in enumerate(zip(rates, operations, strict=True)):
            self.logger.record(f"spiking/firing_rate_{i}", float(rate))
            self.logger.record(f"spiking/sparsity_{i}", 1.0 - float(rate))
            self.logger.record(f"spiking/synops_{i}", synops)
        return go_on

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "SpikingPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for ``total_timesteps`` env steps; the arguments are SB3's."""
        note_wrappers(self)
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
