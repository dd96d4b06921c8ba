"""What e-prop and probabilistic spiking networks share: rollouts of whole episodes, learnt from on each step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy

from spikeloop.agents.check_finite import check_first, check_step
from spikeloop.agents.local_learning import LocalLearning, nominal_rate
from spikeloop.agents.stretches import Stretches


class Learning(Protocol):
    """Runs and teaches the network of a policy."""

    def act(self, obs: Any, before: Any, reward: Any, starts: bool) -> Any:
        """Learn from the step before, run the network for an env step, and return the action.

        Args:
            obs: What is observed, shape (1, ...).
            before: What was observed on the step before; on the first step of an episode, the same as ``obs``.
            reward: Reward of the step before.
            starts: Whether an episode begins.
        """
        ...

    def end(self, last: Any, before: Any, reward: Any, truncated: bool) -> None:
        """Learn from the last reward of an episode.

        Args:
            last: Its last observation.
            before: That of the step before.
            reward: Last reward.
            truncated: Whether a time limit ended the episode.
        """
        ...

    def stretch(
        self, task: Stretches, state: np.ndarray, shown: np.ndarray, action: int, rewards: np.ndarray
    ) -> tuple[int, int]:
        """Act and learn in a compiled task until the next step would end the episode.

        Args:
            task: The task.
            state: Its state, changed in place.
            shown: What was observed last, float64, changed in place.
            action: The action chosen last.
            rewards: Written with the reward of each step; its length is the most steps to take.

        Returns:
            The number of steps, and the action chosen after them.
        """
        ...


class StepwiseLearning(LocalLearning):
    """A learner that acts and learns step by step by its policy's ``learning(rule)``, in rollouts of whole episodes.

    A subclass sets ``n_episodes``, ``max_episodes``, ``backend`` and ``backend_kwargs``, and calls
    :meth:`_step_rollout`.
    """

    policy: Any
    backend: Any
    backend_kwargs: dict[str, Any] | None
    n_episodes: int
    max_episodes: int | None

    @abstractmethod
    def _rule(self, rate: float | None = None) -> Any:
        """Return the rule at a learning rate, that of now if None."""

    def _of_backend(self, needs_one: type[BasePolicy]) -> dict[str, Any]:
        """Return what a policy that has a backend takes from the algorithm; nothing for others.

        Args:
            needs_one: The policy that needs a backend other than float, and it alone.

        Raises:
            ValueError: If the policy has a backend of another kind than it needs, or there are options of float.
        """
        on_backend = issubclass(self.policy_class, needs_one)
        if on_backend == (self.backend == "float"):
            wanted = "build a network" if on_backend else "be float"
            raise ValueError(f"backend must {wanted} for {self.policy_class.__name__}, got {self.backend!r}")
        if not on_backend and self.backend_kwargs:
            raise ValueError(
                f"backend_kwargs are of a backend that builds a network, not of float: {self.backend_kwargs}"
            )
        if not on_backend:
            return {}
        rule = self._rule(nominal_rate(self.lr_schedule))
        return {"backend": self.backend, "backend_kwargs": self.backend_kwargs, "rule": rule}

    @property
    def _n_rollouts(self) -> int:
        return self._n_updates

    def budget_is_spent(self) -> bool:
        """Return whether all of ``max_episodes`` are done."""
        return self.max_episodes is not None and self._episode_num >= self.max_episodes

    def _progress(self, total_timesteps: int) -> tuple[int, int]:
        steps = super()._progress(total_timesteps)
        episodes = (0, 1) if self.max_episodes is None else (self._episode_num, self.max_episodes)
        return max(steps, episodes, key=lambda done: done[0] / done[1])

    def _rollout_length(self) -> int:
        """Return the episodes of the next rollout; one if the learning rate is 0, as a schedule may raise it again."""
        length = self.n_episodes if self.lr_schedule(self._current_progress_remaining) else 1
        return length if self.max_episodes is None else min(length, self.max_episodes - self._episode_num)

    def _step_rollout(self, callback: BaseCallback, stretches: Stretches | None, total_timesteps: int) -> bool:
        """Learn from episodes of the environment, step by step, or by stretches of a compiled task."""
        assert self.env is not None
        episodes, starts = 0, True
        learning, reward = self.policy.learning(self._rule()), np.float32(0)
        if self._last_obs is None:
            self._last_obs = self.env.reset()  # type: ignore[assignment]
            check_first(self.env, self._last_obs)
        obs: Any = self._last_obs
        before: Any = obs  # what was observed on the step before
        n_episodes = self._rollout_length()
        while episodes < n_episodes and self.num_timesteps < total_timesteps:
            action = learning.act(obs, before, reward, starts)
            if stretches is not None:
                left = total_timesteps - self.num_timesteps - 1
                obs, action, goes_on = self._stretch(callback, stretches, obs, action, left, learning)
                if not goes_on:
                    self._last_obs = None
                    return False
            new_obs, rewards, dones, infos = self.env.step(self._in_space(action))
            if self._checks:
                check_step(self.env, new_obs, rewards, dones, infos)
            reward, starts = np.float32(rewards[0]), bool(dones[0])
            self.num_timesteps += 1
            if starts:
                last, cut = infos[0]["terminal_observation"], bool(infos[0].get("TimeLimit.truncated", False))
                learning.end(last, obs, reward, cut)
                episodes += 1
                self._episode_num += 1
            before = new_obs if starts else obs
            obs = self._last_obs = new_obs  # type: ignore[assignment]
            callback.update_locals(locals())
            self._update_info_buffer(infos, dones)
            if not callback.on_step():
                self._last_obs = None  # an episode that is cut short is not continued
                return False
        if not starts:
            self._last_obs = None
        return True

    def _in_space(self, action: Any) -> np.ndarray:
        """Return an action as the environment takes it, shape (1, ...)."""
        return np.array([int(self.action_space.start) + action])  # type: ignore[attr-defined]

    def _stretch(
        self, callback: BaseCallback, stretches: Stretches, obs: Any, action: int, most_steps: int, learning: Learning
    ) -> tuple[Any, int, bool]:
        """Take up to so many steps in the kernel.

        Returns:
            The observation after these steps, shape (1, n_obs), the action chosen for it, and False if a callback wants
            to stop.
        """
        rewards = np.empty(stretches.longest(most_steps))
        state, shown = stretches.state(), np.array(obs[0], np.float64, ndmin=1)
        if state is None:
            return obs, action, True
        n_steps, action = learning.stretch(stretches, state, shown, action, rewards)
        rewards = rewards[:n_steps]
        stretches.tell(state, rewards)
        obs, end = shown.astype(obs.dtype).reshape(obs.shape), self.num_timesteps + n_steps
        outcome = {"new_obs": obs, "dones": np.zeros(1, bool), "infos": [{}]}
        for reward in rewards[:, None]:
            self.num_timesteps += 1
            callback.update_locals({**outcome, "rewards": reward})
            if not callback.on_step():
                self.num_timesteps = end  # the kernel has gone there
                return obs, action, False
        return obs, action, True
