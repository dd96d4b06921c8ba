"""What learners without gradients share as SB3 algorithms: the loop over rollouts, its checks, log and seeds.

SB3 works by inheritance: callbacks, RL Zoo and ``load`` take what derives from ``BaseAlgorithm``, and expect its
attributes. So this is a class between that one and the learners, the only kind of base class in this library.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents.check_finite import check_first, check_learnt, is_checked
from spikeloop.agents.checks import in_words
from spikeloop.agents.export import model_to_network, note_wrappers
from spikeloop.agents.seeding import reseed
from spikeloop.spiking.network import Network

Self = TypeVar("Self", bound="LocalLearning")

BACKENDS = ("float",)


def check_backend(backend: Any) -> None:
    """Refuse a backend by a name that is not in :data:`BACKENDS`.

    Raises:
        ValueError: If it is such a name.
    """
    if isinstance(backend, str) and backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)} or build a network, got {backend!r}")


def nominal_rate(schedule: Callable[[float], Any]) -> float:
    """Return the learning rate that a schedule begins with; if that is 0, the highest it comes to.

    >>> nominal_rate(lambda left: left * (1 - left))
    0.25
    """
    return float(schedule(1.0)) or max(map(float, map(schedule, np.linspace(0.0, 1.0, 101).tolist())))


class LocalLearning(BaseAlgorithm, ABC):
    """A learner of local rules in one environment, on the CPU.

    A subclass learns in :meth:`_rollout`, between what :meth:`_session` sets up and puts back.

    Args:
        policy: The policy's class or its name.
        env: The environment, or its id.
        learning_rate: Learning rate or its schedule.
        device: Only ``cpu``; ``auto`` is that too.
        kwargs: Further arguments of ``BaseAlgorithm``.

    Raises:
        ValueError: If there is more than one environment, or the device is another.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        device: th.device | str = "auto",
        **kwargs: Any,
    ):
        if th.device("cpu" if device == "auto" else device).type != "cpu":
            raise ValueError(f"{type(self).__name__} runs on the CPU, got device={device!r}")
        # several environments are refused below, in our words
        try:
            super().__init__(policy, env, learning_rate, device="cpu", support_multi_env=True, **kwargs)
        except AssertionError:  # SB3 has one here, about Box actions
            space = in_words(self.action_space)
            raise ValueError(f"{type(self).__name__} needs Box actions with finite bounds, got {space}") from None
        self._checks = True  # whether nobody else looks for NaN in what the environment returns
        self._check_env(self.env)

    def _check_env(self, env: VecEnv | None) -> None:
        if env is not None and env.num_envs != 1:
            name = type(self).__name__
            raise ValueError(f"{name} learns in one environment at a time, got {env.num_envs}; set n_envs to 1")

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Learn in another environment from now on; the arguments are SB3's."""
        env = self._wrap_env(env, self.verbose)
        self._check_env(env)
        super().set_env(env, force_reset)
        note_wrappers(self)

    def to_network(self, metadata: Mapping[str, str] | None = None) -> Network:
        """Return the trained actor as a value, with all that stands between it and the environment.

        Its actions are those of ``predict(..., deterministic=True)``. Normalisation, frame stack and the like become
        parts of the network; its metadata names the environment.

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

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 10,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for ``total_timesteps`` env steps, or until the budget of episodes is spent if that comes first.

        The arguments are SB3's; ``log_interval`` counts rollouts, None is for no log, and ``tb_log_name`` is the
        algorithm's name if None.
        """
        name = tb_log_name or type(self).__name__
        note_wrappers(self, learns=True)
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, name, progress_bar
        )
        assert self.env is not None
        self._checks = not is_checked(self.env)
        if self._last_obs is not None:
            check_first(self.env, self._last_obs)
        with self._session() as compiled:
            callback.on_training_start(locals(), globals())
            while self.num_timesteps < total_timesteps and not self.budget_is_spent():
                callback.on_rollout_start()
                self._update_current_progress_remaining(*self._progress(total_timesteps))
                if not self._rollout(callback, total_timesteps, compiled):
                    break
                callback.on_rollout_end()
                if log_interval and self._n_rollouts % log_interval == 0:
                    self.dump_logs()
        check_learnt(self.policy.state_dict().items(), "learning")
        callback.on_training_end()
        return self

    @abstractmethod
    def _session(self) -> contextlib.AbstractContextManager[Any]:
        """Prepare for learning in the environment; the value goes to each rollout: its compiled form, or None."""

    @abstractmethod
    def _rollout(self, callback: BaseCallback, total_timesteps: int, compiled: Any) -> bool:
        """Learn in one rollout, up to ``total_timesteps`` at most; return False if a callback wants to stop."""

    @property
    @abstractmethod
    def _n_rollouts(self) -> int:
        """Rollouts so far, as the log counts them."""

    def budget_is_spent(self) -> bool:
        """Return whether a budget other than that of env steps is spent: R-STDP may be given one in episodes."""
        return False

    def _progress(self, total_timesteps: int) -> tuple[int, int]:
        """Return what is done and what there is to do, for schedules."""
        return self.num_timesteps, total_timesteps

    def dump_logs(self) -> None:
        """Write what the log holds."""
        record = self.logger.record
        if self.ep_info_buffer:
            for name, key in (("ep_rew_mean", "r"), ("ep_len_mean", "l")):
                record(f"rollout/{name}", safe_mean([info[key] for info in self.ep_info_buffer]))
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds))
        record("time/time_elapsed", int(seconds), exclude="tensorboard")
        record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        record("train/learning_rate", float(self.lr_schedule(self._current_progress_remaining)))
        for name, value in self._own_logs():
            record(name, value, exclude="tensorboard" if name.startswith("time/") else None)
        self.logger.dump(step=self.num_timesteps)

    def _own_logs(self) -> Iterator[tuple[str, Any]]:
        """Yield what this learner logs beside what all do, by name."""
        return iter(())
