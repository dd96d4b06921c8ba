"""EProp: an actor-critic whose recurrent spiking network learns by eligibility propagation, with no backpropagation."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from spikeloop.agents.check_finite import CheckFinite, NonFiniteError, check_first, check_learnt, check_step, is_checked
from spikeloop.agents.checks import COMMON, NOT_NEGATIVE, UNIT, WHOLE, check_ranges
from spikeloop.agents.eprop_policy import EpropPolicy
from spikeloop.agents.export import model_to_network, note_wrappers
from spikeloop.agents.guarded_env import GuardedEnv, call_guarded
from spikeloop.agents.seeding import reseed
from spikeloop.agents.silence import warn_of_silence
from spikeloop.spiking.network import Network
from spikeloop.spiking.rules import eprop_kernels
from spikeloop.spiking.rules.eprop import rest
from spikeloop.spiking.rules.reward_eprop import TAU_RATE, RewardEprop, no_memory

Self = TypeVar("Self", bound="EProp")

_RANGES = {
    **COMMON,
    **dict.fromkeys(("actor_scale", "value_scale", "value_coef", "rate_coef"), NOT_NEGATIVE),
    **dict.fromkeys(("trace_lambda", "target_rate"), UNIT),
    "n_episodes": WHOLE,
}


class EProp(BaseAlgorithm):
    """Reward-based e-prop (Bellec et al. 2020) on one environment: weights change after every step, online.

    Where what is observed does not depend on the actions and the environment hands out whole episodes
    (``draw_episodes``, as ``spikeloop/TMaze-v0`` does), a rollout of episodes is one call of a compiled kernel; the
    callbacks then see each of its steps after it. Any other environment is stepped as usual. Both learn the same bits.

    Args:
        policy: ``"EpropPolicy"`` or a subclass.
        env: The environment, or its id.
        learning_rate: Rate of the hidden weights, or its schedule; the other rates are multiples of it.
        actor_scale: Rate of the action weights, in units of ``learning_rate``.
        value_scale: Rate of the value weights, in units of ``learning_rate``.
        train_hidden: Let the input and recurrent weights learn; off, only the readout does (a control).
        gamma: Discount factor.
        trace_lambda: Decay of the traces per env step beside gamma.
        value_coef: Weight of the value in the learning signal of the hidden layer.
        rate_coef: Weight of the pull of each neuron's firing rate towards ``target_rate``.
        target_rate: Wanted spikes per neuron and tick.
        n_episodes: Episodes per rollout, between which the learning rate is set and callbacks begin a rollout.
        policy_kwargs: Arguments of the policy.
        stats_window_size: Episodes that logged means are taken over.
        tensorboard_log: Folder of the TensorBoard log; None for none.
        verbose: 0 silent, 1 progress, 2 debugging.
        seed: Seed of weights, actions and environment.
        device: Only the CPU.

    Raises:
        ValueError: If an argument is out of range, or there is more than one environment.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"EpropPolicy": EpropPolicy}
    policy: EpropPolicy

    def __init__(
        self,
        policy: str | type[EpropPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 0.01,
        actor_scale: float = 10.0,
        value_scale: float = 5.0,
        train_hidden: bool = True,
        gamma: float = 0.99,
        trace_lambda: float = 0.0,
        value_coef: float = 0.5,
        rate_coef: float = 0.1,
        target_rate: float = 0.05,
        n_episodes: int = 20,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        if th.device("cpu" if device == "auto" else device).type != "cpu":
            raise ValueError(f"EProp runs on the CPU, got device={device!r}")
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device="cpu",
            support_multi_env=False,
            monitor_wrapper=True,
            seed=seed,
        )
        self.actor_scale, self.value_scale, self.train_hidden = actor_scale, value_scale, train_hidden
        self.gamma, self.trace_lambda, self.value_coef = gamma, trace_lambda, value_coef
        self.rate_coef, self.target_rate, self.n_episodes = rate_coef, target_rate, n_episodes
        self._looked = False  # whether the first rollout was looked at for a network that says nothing
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_ranges(vars(self), _RANGES)
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        )
        self.policy.rate.fill_(self.target_rate)
        note_wrappers(self)

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

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all random numbers, those of the policy too."""
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "policy"):
            reseed(self.policy, seed)

    def _rule(self) -> RewardEprop:
        """Return the rule at the learning rate of now."""
        rate = float(self.lr_schedule(self._current_progress_remaining))
        return RewardEprop(
            gamma=self.gamma,
            trace_lambda=self.trace_lambda,
            learning_rate=rate * self.train_hidden,
            actor_rate=rate * self.actor_scale,
            value_rate=rate * self.value_scale,
            value_coef=self.value_coef,
            rate_coef=self.rate_coef,
            target_rate=self.target_rate,
        )

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "EProp",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for ``total_timesteps`` env steps; the arguments are SB3's.

        Episodes that an environment hands out are always finished. ``log_interval`` counts rollouts of ``n_episodes``
        episodes.
        """
        note_wrappers(self, learns=True)
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        assert self.env is not None
        self._checks = not is_checked(self.env)
        if self._last_obs is not None:
            check_first(self.env, self._last_obs)
        callback.on_training_start(locals(), globals())
        drawn = _drawn_task(self.env)
        goes_on = True
        while goes_on and self.num_timesteps < total_timesteps:
            callback.on_rollout_start()
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            rate, begin = self.policy.rate.numpy().copy(), self.num_timesteps
            if drawn is None:
                goes_on = self._step_rollout(callback, total_timesteps)
            else:
                goes_on = self._drawn_rollout(callback, drawn, total_timesteps)
            self._n_updates += 1
            check_learnt(self.policy.named_parameters(), f"rollout {self._n_updates}")
            if goes_on and not self._looked:
                self._look(rate, self.num_timesteps - begin)
            if log_interval is not None and self._n_updates % log_interval == 0:
                self._log()
            callback.on_rollout_end()
        callback.on_training_end()
        return self

    def _look(self, rate: np.ndarray, n_steps: int) -> None:
        """Warn, after the first rollout, of neurons that say nothing; ``rate`` is their running mean before it."""
        self._looked = True
        n_ticks = n_steps * self.policy.n_ticks
        kept = (1 - 1 / TAU_RATE) ** n_ticks  # of the running mean before
        mean = (self.policy.rate.numpy() - kept * rate) / (1 - kept)
        warn_of_silence([np.maximum(mean, 0.0) * n_ticks], n_ticks)

    def _rollout_length(self) -> int:
        """Return the episodes of the rollout that begins; one at a learning rate of 0, which a schedule may leave."""
        return self.n_episodes if self.lr_schedule(self._current_progress_remaining) else 1

    def _drawn_rollout(self, callback: BaseCallback, task: gym.Env, total_timesteps: int) -> bool:
        """Learn from whole episodes in one call, then walk through their steps with the callbacks.

        A callback that stops it leaves the policy as the last whole episode before left it.
        """
        env: Any = task.unwrapped
        n_episodes = min(self._rollout_length(), -(-(total_timesteps - self.num_timesteps) // env.n_steps))
        observations, paid = call_guarded(type(env).__name__, env.draw_episodes, env.np_random, n_episodes)
        _check_episodes(observations, paid)
        n_steps = observations.shape[1]
        uniform = self.policy.rng.random((n_episodes, n_steps)).astype(np.float32)
        before = {name: value.clone() for name, value in self.policy.state_dict().items()}
        returns = self._learn_episodes(observations, paid, uniform)
        self._last_obs = None  # whoever steps the environment next starts an episode
        infos: list[dict[str, Any]] = [{}]
        dones, rewards = np.zeros(1, bool), np.zeros(1, np.float32)
        callback.update_locals(locals())
        for episode in range(n_episodes):
            for t in range(n_steps):
                self.num_timesteps += 1
                ends = t == n_steps - 1
                dones[0], rewards[0] = ends, returns[episode] if ends else 0.0
                infos[0] = {"episode": _log_episode(task, float(returns[episode]), n_steps)} if ends else {}
                if ends:
                    self._episode_num += 1
                    self._update_info_buffer(infos, dones)
                if not callback.on_step():
                    self.policy.load_state_dict(before)
                    if whole := episode + ends:
                        self._learn_episodes(observations[:whole], paid[:whole], uniform[:whole])
                    return False
        return True

    def _learn_episodes(self, observations: np.ndarray, paid: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Learn from drawn episodes and return what each of them paid, shape (E,)."""
        n_episodes, n_steps = uniform.shape
        weights, neurons = self.policy.plastic()
        returns, state, memory = np.empty(n_episodes, np.float32), *self._at_rest()
        eprop_kernels.reward_eprop_episodes(
            observations.reshape(n_episodes, n_steps, -1),
            paid,
            uniform,
            self.policy.n_ticks,
            weights,
            neurons,
            state,
            memory,
            self._rule().constants(np.float32),
            returns,
        )
        return returns

    def _step_rollout(self, callback: BaseCallback, total_timesteps: int) -> bool:
        """Learn from episodes of the environment, step by step."""
        assert self.env is not None
        weights, neurons = self.policy.plastic()
        state, memory = self._at_rest()
        c, n_ticks = self._rule().constants(np.float32), self.policy.n_ticks
        outputs, reward, episodes = np.empty(len(weights.w_out), np.float32), np.float32(0), 0
        first = int(self.action_space.start)  # type: ignore[attr-defined]
        if self._last_obs is None:
            self._last_obs = self.env.reset()  # type: ignore[assignment]
            check_first(self.env, self._last_obs)
        n_episodes = self._rollout_length()
        while episodes < n_episodes and self.num_timesteps < total_timesteps:
            x = self._input(self._last_obs)
            uniform = np.float32(self.policy.rng.random())
            action = eprop_kernels.reward_eprop_act(
                x, reward, uniform, n_ticks, weights, neurons, state, memory, c, outputs
            )
            new_obs, rewards, dones, infos = self.env.step(np.array([first + action]))
            if self._checks:
                check_step(self.env, new_obs, rewards, dones, infos)
            reward, self._last_obs = np.float32(rewards[0]), new_obs  # type: ignore[assignment]
            self.num_timesteps += 1
            if dones[0]:
                last = self._input(infos[0]["terminal_observation"])
                cut = bool(infos[0].get("TimeLimit.truncated", False))
                eprop_kernels.reward_eprop_end(last, reward, cut, n_ticks, weights, neurons, state, memory, c, outputs)
                episodes += 1
                self._episode_num += 1
            callback.update_locals(locals())
            self._update_info_buffer(infos, dones)
            if not callback.on_step():
                self._last_obs = None  # an episode that is cut short is not gone on with
                return False
        if not dones[0]:
            self._last_obs = None
        return True

    def _input(self, observation: Any) -> np.ndarray:
        return np.ascontiguousarray(observation, np.float32).reshape(-1)

    def _at_rest(self) -> tuple[Any, Any]:
        n, m = self.policy.w.shape
        return rest(n, m, np.float32), no_memory(len(self.policy.w_out), n, m, np.float32)

    def _log(self) -> None:
        seconds = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        record = self.logger.record
        if self.ep_info_buffer:
            record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds))
        record("time/time_elapsed", int(seconds), exclude="tensorboard")
        record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        record("train/learning_rate", float(self.lr_schedule(self._current_progress_remaining)))
        record("spiking/firing_rate_0", float(self.policy.rate.mean()))
        self.logger.dump(step=self.num_timesteps)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions; see :meth:`~spikeloop.agents.eprop_policy.EpropPolicy.predict`."""
        return self.policy.predict(observation, state, episode_start, deterministic)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy"], []


def _drawn_task(env: VecEnv | None) -> gym.Env | None:
    """Return the one environment if it hands out whole episodes and nothing around it changes what it shows."""
    while isinstance(env, CheckFinite):
        env = env.venv
    if type(env) is not DummyVecEnv or not hasattr(env.envs[0].unwrapped, "draw_episodes"):
        return None
    task = env.envs[0]
    while isinstance(task, GuardedEnv):
        task = task.env
    inner = task
    while isinstance(inner, (Monitor, OrderEnforcing, PassiveEnvChecker)):
        inner = inner.env
    return task if inner is inner.unwrapped else None


def _check_episodes(observations: np.ndarray, paid: np.ndarray) -> None:
    for what, array in (("observations", observations), ("rewards", paid)):
        if not np.isfinite(array).all():
            raise NonFiniteError(f"draw_episodes() returned {what} that are not all finite")


def _log_episode(task: gym.Env, episode_return: float, length: int) -> dict[str, Any]:
    """Return the record of an episode that no step of the environment has seen, and add it to the monitor's file."""
    monitor = task if isinstance(task, Monitor) else None
    since = time.time() - monitor.t_start if monitor is not None else 0.0
    episode = {"r": round(episode_return, 6), "l": length, "t": round(since, 6)}
    if monitor is not None and monitor.results_writer is not None:
        monitor.results_writer.write_row(episode)
    return episode
