"""Environments of EnvPool, whose steps run in C++ threads, as a vectorised environment of Stable-Baselines3.

`pip install "spikeloop[envpool]"`. EnvPool starts an episode anew one step after it ended; Stable-Baselines3 wants
its first observation at once, and the last one in ``infos``: both are given here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn


class EnvPoolVecEnv(VecEnv):
    """Environments of `EnvPool <https://envpool.readthedocs.io>`_, as SB3 and our algorithms take them.

    Wrap it in SB3's ``VecMonitor`` for returns of episodes in the log. It is for scripts: what the command line saves
    of a run's environments, EnvPool does not give.

    Args:
        task_id: EnvPool's name of the task, such as ``"CartPole-v1"``.
        n_envs: Number of environments.
        seed: Of the first one; :meth:`seed` changes it, as training with a seed does.
        **options: Of ``envpool.make``, such as ``num_threads`` or ``max_episode_steps``.

    Raises:
        ImportError: If EnvPool is not installed.
        ValueError: If it has no such task, its observations are no arrays, or steps would not be of all environments.

    >>> from stable_baselines3.common.vec_env import VecMonitor
    >>> env = VecMonitor(EnvPoolVecEnv("CartPole-v1", n_envs=8))  # doctest: +SKIP
    """

    def __init__(self, task_id: str, n_envs: int = 1, seed: int = 0, **options: Any):
        import envpool

        if task_id not in envpool.list_all_envs():
            raise ValueError(f"task_id must be one of envpool.list_all_envs(), got {task_id!r}")
        if options.get("batch_size") not in (None, 0, n_envs):
            raise ValueError(f"batch_size must be n_envs, {n_envs}, got {options['batch_size']}")
        self._make = lambda seed: envpool.make(task_id, env_type="gymnasium", num_envs=n_envs, seed=seed, **options)
        self._pool: Any = self._make(seed)
        self._next_seed: int | None = None  # that a reset is to begin with
        observations = self._pool.observation_space
        if observations.shape is None:
            raise ValueError(f"observations of {task_id} must be arrays, got {type(observations).__name__}")
        self._actions = np.zeros(0)
        super().__init__(n_envs, observations, self._pool.action_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Let the next reset make the environments anew with a seed, which EnvPool knows only when it makes them."""
        seed = int(np.random.default_rng().integers(2**31 - self.num_envs)) if seed is None else seed
        self._next_seed = seed
        return [seed + i for i in range(self.num_envs)]

    def reset(self) -> VecEnvObs:
        """Start new episodes everywhere; return their first observations."""
        if self._next_seed is not None:
            self._pool, self._next_seed = self._make(self._next_seed), None
        obs, info = self._pool.reset()
        return self._by_env(info, obs)[0]

    def step_async(self, actions: np.ndarray) -> None:
        """Take actions, shape (n_envs, ...)."""
        self._actions = np.asarray(actions, self.action_space.dtype)

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards, where episodes ended, and infos, as SB3 defines them."""
        *results, info = self._pool.step(self._actions)
        obs, rewards, terminated, truncated = self._by_env(info, *results)
        ended = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ended.any():
            obs, ids = obs.copy(), np.flatnonzero(ended)
            for i in ids:
                cut = bool(truncated[i] and not terminated[i])
                infos[i] = {"terminal_observation": obs[i].copy(), "TimeLimit.truncated": cut}
            first, info = self._pool.reset(ids.astype(np.int32))
            obs[np.asarray(info["env_id"])] = first
        return obs, rewards.astype(np.float32), ended, infos

    def _by_env(self, info: dict[str, Any], *results: np.ndarray) -> list[np.ndarray]:
        """Return results in the order of environments; EnvPool's is that in which they came."""
        order = np.argsort(info["env_id"])
        return [result[order] for result in results]

    def close(self) -> None:
        """Let the environments and their threads go."""
        self._pool.close()
        self._pool = None

    def set_options(self, options: Any = None) -> None:
        """Refuse options for resets, which EnvPool's do not take.

        Raises:
            ValueError: If there are any.
        """
        if options and any([options] if isinstance(options, dict) else options):
            raise ValueError(f"environments of EnvPool take no options when they are reset, got {options}")
        super().set_options(None)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return ``render_mode``, None for each environment; there is nothing else that one could read.

        Raises:
            AttributeError: For any other attribute.
        """
        if attr_name != "render_mode":
            raise AttributeError(f"environments of EnvPool have no attributes in Python, got {attr_name}")
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: the environments are not Python's.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"environments of EnvPool have no attributes in Python, got {attr_name}")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Refuse: the environments are not Python's.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"environments of EnvPool have no methods in Python, got {method_name}")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Return False for each environment."""
        return [False for _ in self._get_indices(indices)]
