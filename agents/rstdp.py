"""R-STDP as an SB3 algorithm: it acts, and its synapses learn by themselves; no backpropagation, replay or batches."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, safe_mean

from spikeloop.agents.check_finite import NonFiniteError, check_first, check_learnt, check_step, is_checked
from spikeloop.agents.checks import COMMON, NOT_NEGATIVE, UNIT, WHOLE, Range, check_ranges
from spikeloop.agents.closed_loop import ClosedLoop
from spikeloop.agents.export import model_to_network, note_wrappers
from spikeloop.agents.modulators import Modulator
from spikeloop.agents.seeding import reseed
from spikeloop.agents.wta_policy import Core, WtaPolicy
from spikeloop.spiking.network import Network
from spikeloop.spiking.rules.winner_take_all import WinnerTakeAll, WinnerTakeAllParameters

Self = TypeVar("Self", bound="RSTDP")

CORES: dict[str, Core] = {"float": WinnerTakeAll}
_RANGES = {
    **COMMON,
    "value_learning_rate": NOT_NEGATIVE,
    "trace_lambda": UNIT,
    "n_ticks": WHOLE,
    "noise": NOT_NEGATIVE,
    "reward_scale": Range(),
    "initial_value": Range(),
    "baseline_rate": UNIT,
    "n_episodes": WHOLE._replace(optional=True),
}


class RSTDP(BaseAlgorithm):
    """Reward-modulated STDP: an actor-critic of spiking neurons that learns by local rules while it acts.

    Every env step is an epoch of a :class:`~spikeloop.spiking.rules.plastic_network.PlasticNetwork`; the equations
    stand in :mod:`spikeloop.spiking.rules.winner_take_all`. Where the task's dynamics are compiled
    (:mod:`spikeloop.envs.dynamics`) and nothing else stands in the way, whole episodes run in one kernel, and callbacks
    are then called for their steps when it returns: once for each step, in order, as otherwise.

    Args:
        policy: ``"WtaPolicy"``.
        env: One environment, or its id.
        learning_rate: η, the actor's; or its schedule, which scales the critic's as well.
        value_learning_rate: The critic's; under a schedule, that at the beginning, or at the highest learning rate
            where it begins with 0.
        gamma: Discount factor.
        trace_lambda: λ: tags decay by gamma λ per env step.
        n_ticks: Ticks per env step.
        noise: Standard deviation of the noise that explores.
        reward_scale: Factor of the reward.
        initial_value: Value of what was never seen; the best attainable one makes the critic optimistic.
        modulator: ``td_error``, ``reward_baseline`` or ``reward`` (:mod:`spikeloop.agents.modulators`).
        baseline_rate: Rate of the running mean of ``reward_baseline``.
        n_episodes: Learning also stops at the end of this many episodes; None for no such limit.
        core: ``float``, or what builds another network, such as one on a chip.
        core_kwargs: Further arguments of what builds the network, by name.
        policy_kwargs: Further arguments of the policy: ``encoder``, ``encoder_kwargs``.
        stats_window_size: Episodes over which return and length are averaged in the log.
        tensorboard_log: Folder for TensorBoard; None for none.
        verbose: 0, 1 or 2.
        device: Only ``cpu`` makes sense.
        seed: Seed of all random numbers.
        _init_setup_model: Whether to build the network now.

    Raises:
        ValueError: If there is more than one environment, its spaces are others, or a number is out of range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"WtaPolicy": WtaPolicy}
    policy: WtaPolicy

    def __init__(
        self,
        policy: str | type[WtaPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 0.1,
        value_learning_rate: float = 0.0375,
        gamma: float = 0.99,
        trace_lambda: float = 0.8,
        n_ticks: int = 5,
        noise: float = 0.3,
        reward_scale: float = 0.01,
        initial_value: float = 0.0,
        modulator: str = "td_error",
        baseline_rate: float = 0.01,
        n_episodes: int | None = None,
        core: str | Core = "float",
        core_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        device: th.device | str = "cpu",
        seed: int | None = None,
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device="cpu",
            support_multi_env=True,  # refused below in our words
            seed=seed,
        )
        if isinstance(core, str) and core not in CORES:
            raise ValueError(f"core must be one of {', '.join(CORES)} or build a network, got {core!r}")
        self.value_learning_rate, self.gamma, self.trace_lambda = value_learning_rate, gamma, trace_lambda
        self.n_ticks, self.noise, self.initial_value = n_ticks, noise, initial_value
        self.reward_scale, self.n_episodes, self.core = reward_scale, n_episodes, core
        self.core_kwargs = core_kwargs
        self.modulator, self.baseline_rate = modulator, baseline_rate
        self._action, self._value = 0, 0.0  # of the last observation
        self._outcome: dict[str, Any] = {}  # of the last step, for callbacks
        self._checks = True  # whether nobody else looks for NaN in what the environment returns
        self._check_env()
        if _init_setup_model:
            self._setup_model()

    def _check_env(self) -> None:
        if self.env is not None and self.env.num_envs != 1:
            raise ValueError(f"R-STDP learns in one environment at a time, got {self.env.num_envs}; set n_envs to 1")

    def _setup_model(self) -> None:
        check_ranges(vars(self), _RANGES)
        self.set_random_seed(self.seed)
        self.lr_schedule = schedule = FloatSchedule(self.learning_rate)
        # what the network is built with and the schedule is relative to
        self._nominal_rate = schedule(1.0) or max(map(schedule, np.linspace(0.0, 1.0, 101).tolist()))
        modulator = Modulator(self.modulator, self.gamma, self.baseline_rate)
        parameters = WinnerTakeAllParameters(
            learning_rate=self._nominal_rate,
            value_learning_rate=self.value_learning_rate,
            eligibility_decay=self.gamma * self.trace_lambda,
            noise=self.noise,
            value_offset=self.initial_value,
        )
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            core=CORES[self.core] if isinstance(self.core, str) else self.core,
            core_kwargs=self.core_kwargs,
            parameters=parameters,
            modulator=modulator,
            n_ticks=self.n_ticks,
            **self.policy_kwargs,
        )
        note_wrappers(self)

    def to_network(self, metadata: Mapping[str, str] | None = None) -> Network:
        """Return the trained actor as a value, with all that stands between it and the environment.

        Its actions are those of ``predict(..., deterministic=True)``. Normalisation and the like become parts of the
        network; its metadata names the environment.

        Args:
            metadata: Text pairs to keep with the network.

        Raises:
            ValueError: If something has no place in a Network.
        """
        return model_to_network(self, metadata)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all random numbers, those of the policy too."""
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "policy"):
            reseed(self.policy, seed)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Learn in another environment from now on; the arguments are SB3's."""
        env = self._wrap_env(env, self.verbose)
        if env.num_envs != 1:
            raise ValueError(f"R-STDP learns in one environment at a time, got {env.num_envs}")
        super().set_env(env, force_reset)
        note_wrappers(self)

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "RSTDP",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for ``total_timesteps`` env steps, or to the end of the last of ``n_episodes`` if that comes first.

        The arguments are SB3's; ``log_interval`` counts episodes.
        """
        note_wrappers(self, learns=True)
        total, callback = self._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        assert self.env is not None
        network = self.policy.network
        loop = ClosedLoop.of(self.env, network, self.policy.coder)
        self._checks = not is_checked(self.env)
        check_first(self.env, self._last_obs)
        network.learning = network.exploring = True
        callback.on_training_start(locals(), globals())
        try:
            while self.num_timesteps < total and not self._budget_is_spent():
                callback.on_rollout_start()
                if not self._episode(callback, loop, total):
                    break
                callback.on_rollout_end()
                if log_interval and self._episode_num % log_interval == 0:
                    self.dump_logs()
        finally:
            network.learning = network.exploring = False
        check_learnt(self.policy.state_dict().items(), "learning")
        callback.on_training_end()
        return self

    def dump_logs(self) -> None:
        """Write what the log holds."""
        if self.ep_info_buffer:
            for name, key in (("ep_rew_mean", "r"), ("ep_len_mean", "l")):
                self.logger.record(f"rollout/{name}", safe_mean([info[key] for info in self.ep_info_buffer]))
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds))
        self.logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def _budget_is_spent(self) -> bool:
        return self.n_episodes is not None and self._episode_num >= self.n_episodes

    def _learning_rate_scale(self, total: int) -> float:
        if self.n_episodes is not None:
            self._update_current_progress_remaining(self._episode_num, self.n_episodes)
        else:
            self._update_current_progress_remaining(self.num_timesteps, total)
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", learning_rate)
        return learning_rate / self._nominal_rate if self._nominal_rate else 0.0

    def _episode(self, callback: BaseCallback, loop: ClosedLoop | None, total: int) -> bool:
        """Learn to the end of an episode, or of the budget; return False if a callback wants to stop."""
        scale = self._learning_rate_scale(total)
        assert self._last_obs is not None and self._last_episode_starts is not None
        if self._last_episode_starts[0]:
            self.policy.network.reset()
            self._action, self._value = self.policy.epoch(self._last_obs[0])  # type: ignore[index]
            self.policy.network.reinforce(0.0)
        done = False
        while not done and self.num_timesteps < total:
            if loop is not None and not self._run_ahead(callback, loop, scale, total - self.num_timesteps - 1):
                return False
            done = self._step(scale)
            callback.update_locals(self._outcome)
            if not callback.on_step():
                return False
        if not np.isfinite(self._value):
            raise NonFiniteError(f"learning led to a value of {self._value}: a lower value_learning_rate may help")
        return True

    def _step(self, scale: float) -> bool:
        """Take one step and learn; return whether the episode has ended."""
        assert self.env is not None
        start = int(self.action_space.start)  # type: ignore[attr-defined]
        new_obs, rewards, dones, infos = self.env.step(np.array([start + self._action]))
        self.num_timesteps += 1
        if self._checks:
            check_step(self.env, new_obs, rewards, dones, infos)
        done = bool(dones[0])
        terminated = done and not infos[0].get("TimeLimit.truncated", False)
        obs = infos[0]["terminal_observation"] if done else new_obs[0]  # type: ignore[index]
        self._action, value = self.policy.epoch(obs)
        modulator = self.policy.modulator(self.reward_scale * float(rewards[0]), self._value, value, terminated)
        if not np.isfinite(modulator):
            raise NonFiniteError(f"learning led to a modulator of {modulator}: a lower value_learning_rate may help")
        self.policy.network.reinforce(scale * modulator)
        self._value = value
        self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
        self._episode_num += done
        self._update_info_buffer(infos, dones)
        self._outcome = {"new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos}
        return done

    def _run_ahead(self, callback: BaseCallback, loop: ClosedLoop, scale: float, most_steps: int) -> bool:
        """Take up to so many steps in the kernel; return False if a callback wants to stop."""
        assert isinstance(self._last_obs, np.ndarray)
        rewards, obs, self._action, self._value = loop.advance(
            self._last_obs[0],
            self._action,
            self._value,
            self.n_ticks,
            self.policy.modulator,
            self.reward_scale,
            scale,
            most_steps,
        )
        if len(rewards) == 0:
            return True
        self._last_obs, self._last_episode_starts = obs[None], np.zeros(1, bool)
        end = self.num_timesteps + len(rewards)
        outcome = {"new_obs": self._last_obs, "dones": self._last_episode_starts, "infos": [{}]}
        for reward in rewards[:, None]:
            self.num_timesteps += 1
            callback.update_locals({**outcome, "rewards": reward})
            if not callback.on_step():
                self.num_timesteps = end  # the kernel has gone there
                return False
        return True
