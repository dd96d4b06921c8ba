"""Collecting a rollout with the whole step of the policy in one call of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    ConvertCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents import ppo_kernels
from spikeloop.agents.compiled_policy import CompiledPolicy
from spikeloop.agents.frames import critic_view
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.engine.sequences import batch_first, refuse_step

if TYPE_CHECKING:
    from spikeloop.agents.policies import LsnnPolicy
    from spikeloop.agents.spiking_ppo import SpikingPPO


def features_of(policy: LsnnPolicy) -> Callable[[Any], np.ndarray]:
    """Return what makes features, float32, shape (B, F), of observations as environments return them.

    Vectors need none of torch's operations, which take longer than all the rest of a step.
    """
    space, scaler = policy.observation_space, policy.actor.scaler
    if (
        isinstance(space, spaces.Box)
        and not is_image_space(space)
        and type(policy.features_extractor) is FlattenExtractor
    ):

        def scaled(obs: np.ndarray) -> np.ndarray:
            rows = obs.reshape(len(obs), -1).astype(np.float32, copy=False)
            return rows if scaler is None else scaler(rows)

        return scaled

    def extracted(obs: Any) -> np.ndarray:
        with th.no_grad():
            return policy._features(obs_as_tensor(obs, policy.device))[0].numpy()

    return extracted


def encoded(
    policy: LsnnPolicy, features: np.ndarray, states: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the first layer sees of sequences, and the encoder's memory after them.

    Args:
        policy: The policy.
        features: Shape (Q, L, F).
        states: Packed states at their starts, shape (n_rows, Q, width).
        start: Where the state is cleared, shape (L, Q).

    Returns:
        Input, shape (Q, L or L * n_ticks, n_inputs), and memory, shape (n_memory, Q, n_obs).
    """
    lsnn = policy.lstm_actor
    memory = states[: lsnn._n_memory]
    if lsnn._encoder.identity:
        return features, memory
    x, memory = encode(lsnn._encoder, features.transpose(1, 0, 2), memory, start, lsnn.n_ticks, lsnn.dt)
    return batch_first(x).astype(np.float32, copy=False), memory


class Actor:
    """Steps of a policy through :func:`~spikeloop.agents.ppo_kernels.policy_step`.

    Args:
        compiled: The policy.
        n_envs: Environments that it acts in.
    """

    def __init__(self, compiled: CompiledPolicy, n_envs: int):
        self.compiled, self.policy = compiled, compiled.policy
        self.features_of = features_of(self.policy)
        self.n_action, self.n_memory = compiled.sizes.n_action, self.policy.lstm_actor._n_memory
        self._unused = np.zeros(n_envs * self.n_action, np.float32)
        self._uncounted = np.zeros_like(compiled.totals)

    def act(
        self, obs: Any, states: RNNStates, start: np.ndarray, noise: np.ndarray, totals: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, RNNStates]:
        """Return actions (B * n_action,), values (B,), log-probabilities (B,), and the new states.

        Args:
            obs: Observations of B environments.
            states: As the policy's ``forward`` takes them: packed state, and the critic's frames.
            start: Where it is cleared first, shape (B,).
            noise: What actions are drawn by, float32, shape (B * n_action,).
            totals: Spikes of each neuron; added to.

        Raises:
            ValueError: If the new state is not finite.
        """
        features, state = np.ascontiguousarray(self.features_of(obs)), states.pi[0].numpy()
        starts = np.ascontiguousarray(start != 0).view(np.uint8)[:, None]
        x, memory = encoded(self.policy, features[:, None], state, start[None])
        new, n_memory, compiled = np.zeros_like(state), self.n_memory, self.compiled
        new[:n_memory, :, : memory.shape[2]] = memory
        actions = np.empty(len(noise), np.float32)
        values, log_probs = np.empty(len(start), np.float32), np.empty(len(start), np.float32)
        seen, frames = features, states.vf[1]
        if self.policy.critic_frames > 1:
            of_step = th.from_numpy(features)[None], frames, th.from_numpy(starts.T)
            view, frames = critic_view(self.policy.critic_frames, *of_step)
            seen = view[0].contiguous().numpy()
        finite = ppo_kernels.policy_step(
            compiled.sizes, compiled.layers, compiled.dense, compiled.groups, compiled.options, compiled.rows,
            compiled.parameters, compiled.scratch, np.ascontiguousarray(x), seen, starts,
            np.ascontiguousarray(state[n_memory:]), new[n_memory:], noise, totals, actions, values, log_probs,
        )  # fmt: skip
        if not finite:
            refuse_step("features", features, state, starts[:, 0] != 0)
        packed = th.from_numpy(new)
        return actions, values, log_probs, RNNStates((packed,), (packed, frames))

    def values(self, obs: Any, states: RNNStates, start: np.ndarray) -> np.ndarray:
        """Return the values of observations, shape (B,); the other arguments are those of :meth:`act`."""
        return self.act(obs, states, start, self._unused[: len(start) * self.n_action], self._uncounted)[1]


def looks_nowhere(callback: BaseCallback) -> bool:
    """Return whether it is what SB3 makes of no callback, which need not be called for each step."""
    return isinstance(callback, ConvertCallback) and callback.callback is None


def _evaluates_there(callback: Any) -> bool:
    """Return whether a callback evaluates in environments that the training has, too, and so moves them on."""
    model = getattr(callback, "model", None)  # before a training there is none
    both = [getattr(callback, "eval_env", None), None if model is None else model.env]
    evaluated, trained = ({id(env.unwrapped) for env in getattr(v and v.unwrapped, "envs", ())} for v in both)
    return not evaluated.isdisjoint(trained)


def watches(callback: BaseCallback) -> str | None:
    """Name a callback that may look at or change something in the middle of a rollout; None if there is none.

    Callbacks of SB3, RL Zoo and this library evaluate, save, log and stop; others may do anything.

    >>> from stable_baselines3.common.callbacks import CheckpointCallback
    >>> watches(CallbackList([CheckpointCallback(100, "models")])) is None
    True
    >>> watches(ConvertCallback(print))
    'ConvertCallback'
    """
    if isinstance(callback, CallbackList):
        return next(filter(None, map(watches, callback.callbacks)), None)
    kind = type(callback)
    if looks_nowhere(callback):
        return None
    if _evaluates_there(callback):
        return f"{kind.__name__} in the environments of the training"
    known = kind.__module__.partition(".")[0] in ("stable_baselines3", "rl_zoo3", "spikeloop")
    if not known or kind in (ConvertCallback, StopTrainingOnMaxEpisodes):
        return kind.__name__
    children = (getattr(callback, name, None) for name in ("callback", "callback_after_eval", "callback_on_new_best"))
    return next(filter(None, map(watches, filter(None, children))), None)


def draw_noise(compiled: CompiledPolicy, n_steps: int, n_envs: int) -> np.ndarray:
    """Draw what the actions of a rollout are drawn by, from torch's generator, shape (n_steps, n_envs * n_action)."""
    draw = th.randn if compiled.sizes.head == ppo_kernels.GAUSSIAN else th.rand
    return draw(n_steps, n_envs * compiled.sizes.n_action).numpy()


def collect(
    model: SpikingPPO,
    compiled: CompiledPolicy,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """Collect a rollout as RecurrentPPO does; callbacks find the same names among the locals.

    The random numbers of a whole rollout are drawn from torch's generator as it begins.

    Returns:
        Whether the training goes on.
    """
    policy, space, n_envs = model.policy, model.action_space, env.num_envs
    shape: tuple[int, ...] = space.shape or ()
    policy.set_training_mode(False)
    rollout_buffer.reset()
    callback.on_rollout_start()
    compiled.take()
    actor, noise = Actor(compiled, n_envs), draw_noise(compiled, n_rollout_steps, n_envs)
    discrete, box = isinstance(space, spaces.Discrete), isinstance(space, spaces.Box)
    whole = isinstance(space, (spaces.Discrete, spaces.MultiDiscrete))
    lstm_states: Any = model._last_lstm_states
    n_steps = n_acted = 0
    watched = watches(callback) is not None
    try:
        while n_steps < n_rollout_steps:
            if watched and n_steps:
                compiled.take()  # a callback may have changed parameters
            starts = np.asarray(model._last_episode_starts)
            flat, found, chances, lstm_states = actor.act(
                model._last_obs, lstm_states, starts, noise[n_steps], compiled.totals
            )
            n_acted += n_envs
            actions = (flat.astype(np.int64) if whole else flat).reshape((n_envs, *shape))
            values, log_probs = th.from_numpy(found)[:, None], th.from_numpy(chances)
            clipped_actions = np.clip(actions, space.low, space.high) if box else actions  # type: ignore[attr-defined]
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            model.num_timesteps += n_envs
            callback.update_locals({**locals(), "self": model})
            if not callback.on_step():
                return False
            model._update_info_buffer(infos, dones)
            n_steps += 1
            for i in np.flatnonzero(dones):
                last = infos[i].get("terminal_observation")
                if last is not None and infos[i].get("TimeLimit.truncated", False):
                    single = (
                        {key: np.asarray(part)[None] for key, part in last.items()}
                        if isinstance(last, dict)
                        else np.asarray(last)[None]
                    )
                    packed, frames = (part[:, i : i + 1].contiguous() for part in lstm_states.vf)
                    one = RNNStates((packed,), (packed, frames))
                    rewards[i] += model.gamma * actor.values(single, one, np.zeros(1))[0]
            rollout_buffer.add(
                model._last_obs,  # type: ignore[arg-type]
                actions.reshape(-1, 1) if discrete else actions,
                rewards,
                model._last_episode_starts,  # type: ignore[arg-type]
                values,
                log_probs,
                lstm_states=model._last_lstm_states,  # type: ignore[call-arg]
            )
            model._last_obs, model._last_episode_starts, model._last_lstm_states = new_obs, dones, lstm_states  # type: ignore[assignment]
        last_values = th.from_numpy(actor.values(new_obs, lstm_states, dones))
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
    finally:
        policy.rollout_counts = tuple(compiled.counted()), n_acted * policy.lstm_actor.n_ticks
    callback.on_rollout_end()
    return True
