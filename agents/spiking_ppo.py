"""Proximal policy optimisation of spiking policies: sb3-contrib's RecurrentPPO over chunks of spiking sequences."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from spikeloop.agents.check_finite import CheckFinite, all_small, check_first, check_learnt, is_checked
from spikeloop.agents.checks import COMMON, NOT_NEGATIVE, POSITIVE, UNIT, WHOLE, Range, check_ranges, in_words
from spikeloop.agents.compilable import torch_reason
from spikeloop.agents.compiled_policy import CompiledPolicy, shares_of
from spikeloop.agents.compiled_rollout import collect, watches
from spikeloop.agents.compiled_update import update_compiled
from spikeloop.agents.export import model_to_network, note_wrappers
from spikeloop.agents.initial_firing import calibrate, fingerprint, starts_silent
from spikeloop.agents.policies import POLICIES, LsnnPolicy
from spikeloop.agents.ppo_update import update
from spikeloop.agents.rollout_buffer import ChunkedDictRolloutBuffer, ChunkedRolloutBuffer, limits_of
from spikeloop.agents.seeding import reseed
from spikeloop.agents.silence import warn_of_silence
from spikeloop.agents.spiking_policy import SpikingPolicy
from spikeloop.spiking.metrics import accumulates
from spikeloop.spiking.module import LSNN
from spikeloop.spiking.network import Network

Self = TypeVar("Self", bound="SpikingPPO")
_MOST_ROWS = 2048  # env steps of the first rollout that silent layers are brought to fire on

_RANGES = {
    **COMMON,
    **dict.fromkeys(("n_steps", "seq_len", "n_epochs"), WHOLE),
    "batch_size": WHOLE._replace(optional=True),
    "gae_lambda": UNIT,
    "clip_range": POSITIVE._replace(schedule=True),
    "clip_range_vf": POSITIVE._replace(schedule=True, optional=True),
    **dict.fromkeys(("ent_coef", "vf_coef"), NOT_NEGATIVE),
    "max_grad_norm": Range(0, math.inf, above=True),
    "target_kl": POSITIVE._replace(optional=True),
    "sde_sample_freq": Range(-1, whole=True),
}


class ShiftActions(VecEnvWrapper):
    """Environments whose discrete actions count from 0, as the policy's do, in place of the space's own start."""

    def step_async(self, actions: np.ndarray) -> None:
        """Hand on the actions as the space counts them."""
        self.venv.step_async(actions + self.action_space.start)  # type: ignore[attr-defined]

    def step_wait(self) -> VecEnvStepReturn:
        """Return the result of the step."""
        return self.venv.step_wait()

    def reset(self) -> VecEnvObs:
        """Reset the environments."""
        return self.venv.reset()


class SpikingPPO(RecurrentPPO):
    """PPO (Schulman et al. 2017) of a spiking policy, trained through surrogate gradients.

    Loss, advantage estimation and collection are those of ``sb3_contrib.RecurrentPPO``, whose other arguments it
    takes (``learning_rate``, ``n_steps``, ``batch_size``, ``n_epochs``, ``gamma``, ``clip_range``, ``target_kl``,
    ``use_sde``, ``policy_kwargs``, ...). ``max_grad_norm`` bounds the gradient of the actor, that of the critic, and
    that of a features extractor which both read, each for itself.

    Args:
        policy: A name in :data:`~spikeloop.agents.policies.POLICIES`, such as ``"LsnnPolicy"``, or a subclass of
            :class:`~spikeloop.agents.spiking_policy.SpikingPolicy`.
        env: The environment, or its id.
        args: Further positional arguments of ``RecurrentPPO``, in its order.
        seq_len: Env steps per training sequence, a divisor of ``n_steps``. Gradients through time stop at its
            start, so memory tasks want it as long as what is to be remembered.
        compiled: Whether updates and the policy's steps run in numba instead of torch: ``"auto"`` where that can be,
            ``True`` to be refused where not, ``False`` for never. Either way gives the same up to rounding; the log
            of ``verbose=1`` names which it is, and why.
        kwargs: Further keyword arguments of ``RecurrentPPO``.

    Raises:
        ValueError: If an argument is out of range, ``seq_len`` does not divide ``n_steps`` and ``batch_size``, or the
            advantages of a single step were to be normalised,
            or ``compiled=True`` cannot be.

    >>> model = SpikingPPO("LsnnPolicy", "CartPole-v1", n_steps=32, batch_size=32, policy_kwargs={"n_neurons": 16})
    >>> network = model.learn(32).to_network()  # what is saved, simulated and deployed
    >>> network.layers[0].n_neurons, network.head.kind
    (16, 'discrete')
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES
    policy: SpikingPolicy

    def __init__(
        self,
        policy: str | type[SpikingPolicy],
        env: GymEnv | str | None,
        *args: Any,
        seq_len: int = 16,
        compiled: bool | str = "auto",
        _init_setup_model: bool = True,
        **kwargs: Any,
    ):
        super().__init__(policy, env, *args, **kwargs, _init_setup_model=False)  # type: ignore[arg-type, misc]
        if compiled not in ("auto", True, False):
            raise ValueError(f"compiled must be 'auto', True or False, got {compiled!r}")
        self.seq_len, self.compiled = seq_len, compiled
        self._compiled_policy: CompiledPolicy | None = None
        self._learning = False  # whether learn() calls collect_rollouts() and train() in turn
        self._ready: CompiledPolicy | None = None  # of a rollout whose update comes next, with nobody in between
        self._path_said = ""  # what the log says of where the training runs
        self._looked = False  # whether the first rollout was looked at for a network that sees or says nothing
        if _init_setup_model:
            self._setup_model()
            self._check_training()
            self._torch_reason()

    def _setup_model(self) -> None:
        check_ranges(vars(self), _RANGES)
        self._check_sizes()
        super()._setup_model()
        note_wrappers(self)
        is_dict = isinstance(self.observation_space, spaces.Dict)
        state_shape = self.policy.lstm_actor.state_shape
        n_frames, n_features = self.policy.critic_frames - 1, self.policy.features_dim
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
            frames_shape=(n_frames, n_features),
        )
        state = th.from_numpy(self.policy.initial_state(self.n_envs)).to(self.device)
        frames = th.zeros((n_frames, self.n_envs, n_features), device=self.device)
        self._last_lstm_states = RNNStates((state,), (state, frames))  # type: ignore[assignment]

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

    def _check_sizes(self) -> None:
        n_steps, seq_len = self.n_steps, self.seq_len
        if n_steps % seq_len:
            divisors = [n for n in range(1, n_steps + 1) if n_steps % n == 0]
            raise ValueError(f"seq_len={seq_len} must divide n_steps={n_steps}: one of {divisors}")

    def _check_training(self) -> None:
        """Look at what only training minds: a model that is loaded may be there to play, in fewer environments."""
        space, n_steps, batch_size, total = self.action_space, self.n_steps, self.batch_size, self.n_steps * self.n_envs
        if self.policy.squash_output and (np.any(space.low != -1) or np.any(space.high != 1)):  # type: ignore[attr-defined]
            raise ValueError(
                f"squash_output needs actions between -1 and 1 (RescaleAction makes them so), got {in_words(space)}"
            )
        if batch_size is not None and batch_size % self.seq_len:
            raise ValueError(f"batch_size={batch_size} must be a multiple of seq_len={self.seq_len}: chunks stay whole")
        if self.normalize_advantage and min(total, batch_size or total) == 1:
            raise ValueError(
                f"normalize_advantage needs more than one step in a minibatch, got n_steps={n_steps} in {self.n_envs} "
                f"environments with batch_size={batch_size}"
            )
        if batch_size is not None and total > batch_size and total % batch_size:
            warnings.warn(
                f"batch_size={batch_size} does not divide the {total} steps of a rollout (n_steps={n_steps} in "
                f"{self.n_envs} environments): its last minibatch holds {total % batch_size}",
                stacklevel=3,
            )

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all random numbers, those of the policy too."""
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "policy"):
            reseed(self.policy, seed)
            if self.policy.constraint is not None:
                self.policy.constraint.reseed(seed)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect a rollout as RecurrentPPO does, and log its spikes and accumulates per env step, layer by layer."""
        # only here, as its compiled tasks take half a second to load, for which who plays a policy has no use
        from spikeloop.agents.compiled_tasks import CompiledTasks, tasks_of

        assert self._last_obs is not None
        check_first(env, self._last_obs)
        if n_rollout_steps != rollout_buffer.buffer_size:
            raise ValueError(
                f"n_steps must stay what the model was made with, {rollout_buffer.buffer_size}, got {n_rollout_steps}"
            )
        reason, tasks, watcher = self._torch_reason(), tasks_of(self, env), watches(callback)
        if watcher:
            tasks = f"the callback {watcher} may look at them"
        self._say_path(reason, tasks)
        self.policy.reset_rollout_counts()
        compiled = None if reason else self._compiled()
        if compiled and not isinstance(tasks, str):
            go_on = CompiledTasks(self, compiled, env, tasks).collect(callback, rollout_buffer, n_rollout_steps)
        else:
            if np.any(getattr(self.action_space, "start", 0)):
                env = ShiftActions(env)
            if not is_checked(env):
                env = CheckFinite(env)
            if compiled:
                go_on = collect(self, compiled, env, callback, rollout_buffer, n_rollout_steps)
            else:
                go_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        self._log_spikes()
        self._ready = compiled if go_on and self._looked and self._learning and not watcher else None
        if go_on and not self._looked:
            self._look()
        return go_on

    def _look(self) -> None:
        """After the first rollout, let silent layers fire, and warn of a network that sees or says nothing."""
        self._looked = True
        seen = self.rollout_buffer.observations
        first = {k: _rows(v) for k, v in seen.items()} if isinstance(seen, dict) else _rows(seen)
        with th.no_grad():
            self.policy.coverage.warn_of_rollout(self.policy._features(obs_as_tensor(first, self.device))[0])
        if not self.policy.lstm_actor.layers.graded:
            warn_of_silence(*self._calibrated())

    def _calibrated(self) -> tuple[Sequence[np.ndarray], float]:
        """Let layers fire that start silent (``calibrate_init``); return the spikes of layers, and ticks they fell in.

        The rollout is still learnt from. Its log-probabilities are those of the policy that played, as PPO wants them.
        """
        policy, actor, counted = self.policy, self.policy.lstm_actor, self.policy.rollout_counts
        target = policy.calibrate_init
        silent = any(starts_silent(i, count, counted[1]) for i, count in enumerate(counted[0]))
        wanted = silent if target is True else bool(target)
        if not wanted or not isinstance(actor, LSNN) or fingerprint(actor) != policy.as_drawn:
            return counted
        n_steps = min(self.n_steps, max(1, _MOST_ROWS // self.n_envs))
        buffer: Any = self.rollout_buffer
        seen = buffer.observations
        shown = {k: _flat(v[:n_steps]) for k, v in seen.items()} if isinstance(seen, dict) else _flat(seen[:n_steps])
        with th.no_grad():
            features = policy._features(obs_as_tensor(shown, self.device))[0]
        factors, counts, n_counted = calibrate(
            actor,
            features.reshape(n_steps, self.n_envs, -1),
            th.from_numpy(buffer.start_states[:, 0].swapaxes(0, 1).copy()).to(self.device),
            th.from_numpy(buffer.episode_starts[:n_steps]).to(self.device),
            None if target is True else target,
            policy.constraint,
        )
        for i, factor in factors.items():
            self.logger.record(f"spiking/init_scale_{i}", factor)
        return counts, n_counted

    def _log_spikes(self) -> None:
        actor, (counts, n_counted) = self.policy.lstm_actor, self.policy.rollout_counts
        if actor.layers.graded:  # nothing spikes, so there is nothing to count
            return
        rates = [count.mean() / n_counted for count in counts]
        synapses, w_out = [layer.synapses for layer in actor.layers], self.policy.actor.readout_weights()
        operations = accumulates(synapses, counts, n_counted, n_ticks=actor.n_ticks, w_out=w_out)
        for i, (rate, synops) in enumerate(zip(rates, operations, strict=True)):
            self.logger.record(f"spiking/firing_rate_{i}", float(rate))
            self.logger.record(f"spiking/sparsity_{i}", 1.0 - float(rate))
            self.logger.record(f"spiking/synops_{i}", synops)
        for name, figure in self.policy.rollout_figures().items():
            self.logger.record(f"spiking/{name}", figure)

    def train(self) -> None:
        """Update the policy from the rollout.

        Raises:
            NonFiniteError: If that leads to parameters that are not finite.
        """
        total = self.n_steps * self.n_envs
        compiled, self._ready = self._ready, None
        if compiled is None and not self._torch_reason():
            compiled = self._compiled()
            compiled.take()
        try:
            with self.policy.one_thread(min(self.batch_size or total, total)):
                if compiled is None:
                    update(self)
                else:
                    update_compiled(self, compiled)
                    if all_small(compiled.parameters):
                        return
        except ValueError:  # torch's, where a minibatch meets what the one before made NaN
            check_learnt(self.policy.named_parameters(), f"update {self._n_updates + 1}")
            raise
        check_learnt(self.policy.named_parameters(), f"update {self._n_updates}")

    def _compiled(self) -> CompiledPolicy:
        """Return the policy as the kernels take it."""
        policy, n_sequences = self.policy, self.n_steps // self.seq_len * self.n_envs
        assert isinstance(policy, LsnnPolicy)  # as torch_reason says of others
        sizes = np.diff(limits_of(n_sequences, self.seq_len, self.batch_size))
        most = int(sizes.max())
        shape = self.seq_len, most, self.n_envs, shares_of(policy, self.seq_len, most)
        if self._compiled_policy is None or not self._compiled_policy.fits(policy, *shape):
            self._compiled_policy = CompiledPolicy(policy, *shape)
        return self._compiled_policy

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of copies what the kernels compute in: its views would no longer be of the same memory."""
        return {**self.__dict__, "_compiled_policy": None, "_ready": None, "_learning": False}

    def _torch_reason(self) -> str | None:
        """Say why the training runs in torch; None if it runs compiled.

        Raises:
            ValueError: If it was to run compiled and cannot.
        """
        if self.compiled is False:
            return "compiled=False"
        reason = torch_reason(self.policy)
        if reason and self.compiled is True:
            raise ValueError(f"compiled=True cannot be, as {reason}: 'auto' trains it in torch")
        return reason

    def _say_path(self, reason: str | None, tasks: Any) -> None:
        """Print where the training runs, and why, unless that has been said; callbacks may have had a part in it."""
        python = f", the environments in Python: {tasks}" if isinstance(tasks, str) else ""
        line = f"Training runs in torch: {reason}" if reason else f"Training runs compiled{python}"
        if self.verbose >= 1 and line != self._path_said:
            print(line)
        self._path_said = line

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_compiled_policy", "_ready", "_learning", "_path_said"]

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
        note_wrappers(self, learns=True)
        self._path_said, self._learning = "", True
        try:
            return super().learn(
                total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
            )
        finally:
            self._learning, self._ready = False, None


def _flat(observations: np.ndarray) -> np.ndarray:
    """Return the observations of a rollout, one below the other."""
    return observations.reshape(-1, *observations.shape[2:])


def _rows(observations: np.ndarray) -> np.ndarray:
    """Return the observations of a rollout, one below the other, some of them where there are many."""
    rows = _flat(observations)
    return rows[:: 1 + len(rows) // 512]
