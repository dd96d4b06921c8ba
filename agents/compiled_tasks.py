"""Collecting a rollout in tasks whose dynamics are compiled: policy and environments take their steps in one kernel.

What ends an episode is left to the environments themselves, but for a step that cannot be taken back, and so are
resets: monitors, time limits and random starts are the real ones. Callbacks are called for every step, after the
stretch of steps it belongs to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from spikeloop.agents import rollout_kernels
from spikeloop.agents.check_finite import CheckFinite
from spikeloop.agents.compiled_episodes import telling
from spikeloop.agents.compiled_policy import CompiledPolicy
from spikeloop.agents.compiled_rollout import draw_noise, looks_nowhere
from spikeloop.agents.failures import NonFiniteError
from spikeloop.agents.rollout_kernels import ACT, Eyes, Filled, Normalization, Tasks
from spikeloop.envs.compiled import compiled_of, shown_components
from spikeloop.envs.compiled_box2d import lander_of
from spikeloop.envs.compiled_continuous import continuous_of
from spikeloop.envs.compiled_drawn import drawn_of
from spikeloop.envs.compiled_mujoco import mujoco_of
from spikeloop.envs.wrappers import HideVelocity
from spikeloop.spiking.encoders.values import Direct, Population

if TYPE_CHECKING:
    from spikeloop.agents.spiking_ppo import SpikingPPO

NO_LIMIT = 1 << 60


class WrappedTask:
    """An environment with its wrappers, and how they are told of steps that they have not seen."""

    def __init__(self, env: gym.Env):
        self.outermost, self.wrappers, task = env, [], env
        while isinstance(task, gym.Wrapper):
            told = (lambda wrapper, rewards: None) if type(task) is HideVelocity else telling(task)
            if told is None:
                break
            self.wrappers.append((task, told))
            task = task.env
        self.task: Any = task
        patched = any("step" in vars(one) for one in (task, *(wrapper for wrapper, _ in self.wrappers)))
        self.skippable = task is task.unwrapped and task.render_mode != "human" and not patched
        self.synced = 0

    def left(self) -> int:
        """Return how many steps come before the one that a time limit ends."""
        limits: list[Any] = [wrapper for wrapper, _ in self.wrappers if isinstance(wrapper, TimeLimit)]
        return min((one._max_episode_steps - (one._elapsed_steps or 0) - 1 for one in limits), default=NO_LIMIT)

    def step(self, action: Any, taken: tuple[Any, ...] | None) -> tuple[Any, ...]:
        """Take a step; if the task has taken it already, let the wrappers take theirs with what it came to."""
        if taken is None:
            return self.outermost.step(action)
        self.task.step = lambda action: taken
        try:
            return self.outermost.step(action)
        finally:
            del self.task.step

    def tell(self, compiled: Any, state: np.ndarray, rewards: np.ndarray) -> None:
        """Bring task and wrappers to where steps led that they have not seen."""
        if len(rewards):
            compiled.set_state(self.task, state, len(rewards))
            for wrapper, told in self.wrappers:
                told(wrapper, rewards)


def _layers_of(venv: VecEnv) -> tuple[VecNormalize | None, DummyVecEnv | None]:
    """Return the normalisation and the environments; None for these if there is more around them."""
    normalization = None
    while type(venv) in (CheckFinite, VecNormalize):
        if type(venv) is VecNormalize:
            if normalization is not None:
                return None, None
            normalization = venv
        venv = venv.venv  # type: ignore[attr-defined]
    return normalization, venv if type(venv) is DummyVecEnv else None


def tasks_of(model: SpikingPPO, venv: VecEnv | None) -> tuple[list[WrappedTask], list[Any]] | str:
    """Return the tasks of environments and their compiled forms; in words, what stands in the way.

    >>> from spikeloop.agents.spiking_ppo import SpikingPPO
    >>> model = SpikingPPO("LsnnPolicy", "CartPole-v1", n_steps=32, batch_size=32)
    >>> tasks_of(model, model.env)[1][0].n_obs
    4
    """
    policy, space = model.policy, model.action_space
    if type(policy.lstm_actor.encoder) not in (Direct, Population):
        return f"its encoder is {policy.lstm_actor.encoder.kind}"
    if type(policy.features_extractor) is not FlattenExtractor or len(policy.observation_space.shape or ()) != 1:
        return "its observations are no vectors"
    discrete = isinstance(space, spaces.Discrete) and space.start == 0
    if not discrete and not isinstance(space, spaces.Box):
        return f"its actions are {type(space).__name__}"
    normalization, base = (None, None) if venv is None else _layers_of(venv)
    if base is None:
        return f"its environments are in or behind a {type(venv).__name__}"
    if normalization is not None and not isinstance(normalization.observation_space, spaces.Box):
        return "its observations are no vectors"
    tasks = [WrappedTask(env) for env in base.envs]
    forms: list[Any] = []
    for one in tasks:
        form: Any = None
        if one.skippable and discrete:
            form = compiled_of(one.task) or drawn_of(one.task) or lander_of(one.task)
        elif one.skippable:
            form = continuous_of(one.task) or mujoco_of(one.task) or lander_of(one.task)
        if form is None or isinstance(form, str):
            return form or f"{type(one.task).__name__} has no compiled dynamics here"
        forms.append(form)
    if len({(id(form.step), form.n_obs, len(form.body(t.task))) for form, t in zip(forms, tasks, strict=True)}) > 1:
        return "its environments differ"
    return tasks, forms


class CompiledTasks:
    """Environments that take their steps in a kernel together with the policy.

    Args:
        model: The model.
        compiled: Its policy.
        venv: Its environments.
        tasks: What :func:`tasks_of` returned for them.
    """

    def __init__(
        self, model: SpikingPPO, compiled: CompiledPolicy, venv: VecEnv, tasks: tuple[list[WrappedTask], list[Any]]
    ):
        self.model, self.compiled, (self.tasks, self.forms) = model, compiled, tasks
        self.normalization, self.base = _layers_of(venv)
        assert self.base is not None
        self.dtype = self.base.observation_space.dtype
        normal = self.normalization is not None and self.normalization.norm_obs
        self.shown_dtype = np.dtype(np.float32) if normal else self.dtype  # of what callbacks see
        self.n_envs = n_envs = len(self.tasks)
        policy, form, sizes, space = model.policy, self.forms[0], compiled.sizes, model.action_space
        encoder, scaler = compiled.policy.lstm_actor._encoder, policy.actor.scaler
        n_obs = policy.features_dim
        none = np.zeros((0, n_obs))
        self.eyes = Eyes(
            shown_components(self.tasks[0].outermost, form.n_obs),
            none if scaler is None else np.stack([scaler.mean, scaler.std, np.broadcast_to(scaler.clip, n_obs)]),
            *(
                (encoder.centers.astype(np.float64), encoder.widths.astype(np.float64))
                if isinstance(encoder, Population)
                else (np.zeros((0, 0)), np.zeros((0, 0)))
            ),
        )
        self.states = Tasks(
            states=np.zeros((n_envs, form.n_state)),
            bodies=np.zeros((n_envs, len(form.body(self.tasks[0].task)))),
            whole=np.zeros((n_envs, form.n_obs)),
            left=np.zeros(n_envs, np.int64),
            raw=np.zeros((n_envs, n_obs)),
            last=np.zeros((n_envs, n_obs)),
            done=np.zeros(n_envs, np.uint8),
            truncated=np.zeros(n_envs, np.uint8),
            pending=np.zeros(n_envs, np.uint8),
            before=np.zeros(form.n_state),
        )
        box = isinstance(space, spaces.Box)
        n_action = sizes.n_action
        self.bounds = np.stack([space.low.ravel(), space.high.ravel()]).astype(float) if box else np.zeros((2, 0))  # type: ignore[attr-defined]
        self.chosen = np.zeros((n_envs, n_action)) if box else np.zeros(n_envs, np.int64)
        scratch = (
            (n_envs, n_obs),
            (n_envs, sizes.n_features),
            (n_envs, 1, encoder.n_channels),
            (n_envs, n_obs),
            (3, n_envs * n_action),
        )
        self.scratch = [np.zeros(shape, np.float32) for shape in scratch]

    def _refresh(self, i: int) -> None:
        """Read an environment anew."""
        one, form = self.tasks[i], self.forms[i]
        state = form.state(one.task)
        self.states.left[i] = 0 if state is None else one.left()  # a step that is not compiled is left to it, too
        if state is not None:
            self.states.states[i] = state
            self.states.bodies[i] = form.body(one.task)

    def _take_steps_left(self, filled: Filled, t: int) -> dict[int, dict[str, Any]]:
        """Let the environments take the step that is left to them, and start new episodes; return their infos."""
        infos, space, base = {}, self.model.action_space, self.base
        assert base is not None
        for i in np.flatnonzero(self.states.pending).tolist():
            one = self.tasks[i]
            self._tell(i, filled, t)
            action: Any = self.chosen[i]
            if isinstance(space, spaces.Box):
                action = action.astype(space.dtype).reshape(space.shape)
            # where none is left, the kernel has not taken the step: a time limit ends it, or it is not compiled
            taken = self.forms[i].finish(one.task, self.states.whole[i]) if self.states.left[i] > 0 else None
            obs, reward, terminated, truncated, info = one.step(action, taken)
            one.synced = t + 1
            cut = bool(truncated and not terminated)
            info["TimeLimit.truncated"] = cut
            self.states.done[i], self.states.truncated[i] = terminated or truncated, cut
            filled.paid[t, i] = reward
            if terminated or truncated:
                info["terminal_observation"] = obs
                self.states.last[i] = obs
                obs, base.reset_infos[i] = one.outermost.reset()
            self.states.raw[i] = obs
            self._refresh(i)
            infos[i] = info
        return infos

    def _tell(self, i: int, filled: Filled, t: int) -> None:
        one = self.tasks[i]
        one.tell(self.forms[i], self.states.states[i], filled.paid[one.synced : t, i])
        one.synced = t

    def _shown(self, obs: np.ndarray) -> np.ndarray:
        """Return observations in the dtype that the environments have for them, though of the policy's float32."""
        return obs.astype(self.shown_dtype, copy=False)

    def _statistics(self) -> Normalization:
        vec, n = self.normalization, self.n_envs
        if vec is None:
            none = np.zeros(0)
            return Normalization(none, none, np.zeros(2), np.zeros(2), np.zeros(n), 0, 0, 0, 0.0, 0.0, 0.0, 0.0)
        rms: Any = vec.obs_rms if vec.norm_obs else None
        mean, var, count = (np.zeros(0), np.zeros(0), 0.0) if rms is None else (rms.mean, rms.var, rms.count)
        return Normalization(
            np.array(mean, np.float64), np.array(var, np.float64), np.array([count, vec.ret_rms.count], np.float64),
            np.array([vec.ret_rms.mean, vec.ret_rms.var], np.float64), np.array(vec.returns, np.float64),
            int(vec.training), int(vec.norm_obs), int(vec.norm_reward), float(vec.epsilon), float(vec.clip_obs),
            float(vec.clip_reward), float(vec.gamma),
        )  # fmt: skip

    def _give_statistics(self, norm: Normalization, paid: np.ndarray) -> None:
        vec = self.normalization
        if vec is None:
            return
        if vec.training and vec.norm_obs:
            rms: Any = vec.obs_rms
            rms.mean, rms.var, rms.count = norm.mean.copy(), norm.var.copy(), float(norm.counts[0])
        if vec.training:
            vec.ret_rms.mean, vec.ret_rms.var = map(np.array, norm.return_moments)
            vec.ret_rms.count = float(norm.counts[1])
            vec.returns = norm.running.copy()
        vec.old_obs, vec.old_reward = self.states.raw.astype(self.dtype), paid.astype(np.float32)

    def collect(self, callback: BaseCallback, buffer: Any, n_steps: int) -> bool:
        """Collect a rollout; callbacks find the names among the locals that RecurrentPPO's has.

        The last observations of episodes in the infos are normalised with the statistics after the stretch of steps.

        Returns:
            Whether the training goes on.

        Raises:
            NonFiniteError: If a number is not finite.
        """
        model, compiled, n_envs = self.model, self.compiled, self.n_envs
        model.policy.set_training_mode(False)
        buffer.reset()
        callback.on_rollout_start()
        compiled.take()
        noise, n_action = draw_noise(compiled, n_steps, n_envs), compiled.sizes.n_action
        filled = Filled(
            buffer.observations, np.zeros((n_steps, n_envs * n_action), np.float32),
            np.zeros((n_steps, n_envs)), buffer.rewards, buffer.episode_starts, buffer.values,
            buffer.log_probs, buffer.start_states, buffer.start_frames,
        )  # fmt: skip
        carried: Any = model._last_lstm_states
        state, obs = carried.pi[0].numpy().copy(), np.array(model._last_obs, np.float32)
        frames = carried.vf[1].numpy().copy()
        new_state, uncounted = np.zeros_like(state), np.zeros_like(compiled.totals)
        starts = np.array(model._last_episode_starts, np.uint8)[:, None].copy()
        norm = self._statistics()
        for i, one in enumerate(self.tasks):
            one.synced = 0
            self._refresh(i)  # not before: a run that goes on is put where it was as its first rollout starts
        t, phase, told, silent = 0, ACT, 0, looks_nowhere(callback)
        infos: dict[int, dict[int, dict[str, Any]]] = {}  # of steps with an end of an episode
        try:
            while told < n_steps:
                t, phase, finite = rollout_kernels.advance(
                    self.forms[0].step, compiled.sizes, compiled.layers, compiled.dense, compiled.groups,
                    compiled.options, compiled.rows, compiled.parameters, compiled.scratch, self.eyes, norm,
                    self.states, filled, t, phase, float(model.gamma), obs, starts, state, new_state, frames, noise,
                    self.bounds, self.chosen, *self.scratch, compiled.totals, uncounted,
                )  # fmt: skip
                if not finite:
                    raise NonFiniteError(f"the observations {obs} led to a state that is not finite")
                self._give_statistics(norm, filled.paid[min(t, n_steps - 1)])
                while told < t:
                    if silent and told + 1 < n_steps and told not in infos:
                        model.num_timesteps += n_envs
                        callback.n_calls += 1
                    elif not self._replay(callback, filled, told, infos.pop(told, {}), obs, starts):
                        if phase != ACT:  # some environments have taken the step, and cannot take it again
                            self._take_steps_left(filled, t)
                            rollout_kernels.normalized(norm, self.states.raw, obs)
                            starts[:, 0] = self.states.done
                            norm.running[self.states.done != 0] = 0.0
                            self._give_statistics(norm, filled.paid[t])
                            t += 1
                        return False
                    told += 1
                if phase != ACT:
                    infos[t] = self._take_steps_left(filled, t)
        finally:
            for i in range(n_envs):
                self._tell(i, filled, max(t, self.tasks[i].synced))
            model.policy.rollout_counts = tuple(compiled.counted()), t * n_envs * model.policy.lstm_actor.n_ticks
            packed = th.from_numpy(state)
            model._last_lstm_states = RNNStates((packed,), (packed, th.from_numpy(frames)))  # type: ignore[assignment]
            model._last_obs, model._last_episode_starts = self._shown(obs), starts[:, 0] != 0
        buffer.actions[:] = filled.actions.reshape(buffer.actions.shape)
        buffer.pos, buffer.full = n_steps, True
        self._finish(buffer, obs, starts, state, new_state, frames.copy(), uncounted)
        callback.on_rollout_end()
        return True

    def _finish(
        self,
        buffer: Any,
        obs: np.ndarray,
        starts: np.ndarray,
        state: np.ndarray,
        new: np.ndarray,
        frames: np.ndarray,
        uncounted: np.ndarray,
    ) -> None:
        """Value what comes after the rollout, and compute the advantages."""
        from spikeloop.agents.ppo_kernels import policy_step

        c, (features, seen, x, _, nothing) = self.compiled, self.scratch
        rollout_kernels.see(self.eyes, obs, features, x)
        rollout_kernels.look_back(frames, features, starts, seen)
        policy_step(
            c.sizes, c.layers, c.dense, c.groups, c.options, c.rows, c.parameters, c.scratch, x, seen, starts,
            state, new, np.zeros_like(nothing[0]), uncounted, nothing[0], nothing[1], nothing[2],
        )  # fmt: skip
        rollout_kernels.advantages(
            buffer.rewards, buffer.values, buffer.episode_starts, nothing[1], starts[:, 0].astype(np.float32),
            float(buffer.gamma), float(buffer.gae_lambda), buffer.advantages, buffer.returns,
        )  # fmt: skip

    def _replay(
        self,
        callback: BaseCallback,
        filled: Filled,
        t: int,
        ended: dict[int, dict[str, Any]],
        obs: np.ndarray,
        starts: np.ndarray,
    ) -> bool:
        """Tell the callbacks of a step; return whether the training goes on."""
        model, last = self.model, t + 1 == len(filled.values)
        infos = [ended.get(i) or {"TimeLimit.truncated": False} for i in range(self.n_envs)]
        if self.normalization is not None:
            for info in ended.values():
                if "terminal_observation" in info:
                    info["terminal_observation"] = self.normalization.normalize_obs(info["terminal_observation"])
        dones = (starts[:, 0] if last else filled.starts[t + 1]) != 0
        actions = filled.actions[t].reshape(self.n_envs, -1)
        actions = actions[:, 0].astype(np.int64) if self.chosen.ndim == 1 else actions
        clipped = actions if self.chosen.ndim == 1 else np.clip(actions, *self.bounds.astype(np.float32))
        model.num_timesteps += self.n_envs
        callback.update_locals(
            dict(
                self=model, env=self.base, callback=callback, rollout_buffer=model.rollout_buffer, n_steps=t,
                n_rollout_steps=len(filled.values), new_obs=self._shown(obs if last else filled.observations[t + 1]),
                rewards=filled.rewards[t], dones=dones, infos=infos, actions=actions, clipped_actions=clipped,
                values=th.from_numpy(filled.values[t])[:, None], log_probs=th.from_numpy(filled.log_probs[t]),
            )
        )  # fmt: skip
        if not callback.on_step():
            return False
        if ended:
            model._update_info_buffer(infos, dones)
        return True
