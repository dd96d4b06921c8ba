"""EProp: an actor-critic whose recurrent spiking network learns by eligibility propagation, with no backpropagation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from spikeloop.agents.check_finite import NonFiniteError, check_learnt
from spikeloop.agents.checks import COMMON, NOT_NEGATIVE, POSITIVE, UNIT, WHOLE, Range, check_ranges
from spikeloop.agents.chip_eprop_policy import ChipEpropPolicy
from spikeloop.agents.compiled_episodes import DrawnEpisodes
from spikeloop.agents.eprop_policy import EpropPolicy
from spikeloop.agents.export import note_wrappers
from spikeloop.agents.local_learning import check_backend
from spikeloop.agents.silence import warn_of_silence
from spikeloop.agents.stepwise_learning import StepwiseLearning
from spikeloop.agents.stretches import Stretches
from spikeloop.spiking.rules import eprop_kernels
from spikeloop.spiking.rules.reward_eprop import OPTIMIZERS, TAU_RATE, RewardEprop

_RANGES = {
    **COMMON,
    **dict.fromkeys(("actor_scale", "value_scale", "value_coef", "rate_coef"), NOT_NEGATIVE),
    **dict.fromkeys(("trace_lambda", "target_rate"), UNIT),
    **dict.fromkeys(("reward_scale", "initial_value"), Range()),
    "trace_max": POSITIVE._replace(optional=True),
    "n_episodes": WHOLE,
    "max_episodes": WHOLE._replace(optional=True),
}


class EProp(StepwiseLearning):
    """Reward-based e-prop (Bellec et al. 2020) on one environment: weights change after every step, online.

    Where the environment hands out whole episodes (:class:`~spikeloop.envs.compiled.DrawsEpisodes`, as
    ``spikeloop/TMaze-v0`` does), a rollout of episodes is one call of a compiled kernel. Where a task's step is
    compiled (:data:`~spikeloop.envs.compiled.COMPILED`), all of an episode but its last step is one, if actions are
    discrete and the policy's encoder is ``direct``. The callbacks then see each of these steps after the call. Any
    other environment is stepped as usual. All learn the same bits.

    Args:
        policy: ``"EpropPolicy"``, or ``"ChipEpropPolicy"`` with a ``backend``.
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
        reward_scale: Factor of the reward.
        initial_value: Value of what was never seen; the best attainable one makes the critic optimistic.
        trace_max: Bound at which the traces of hidden synapses saturate; None for none.
        optimizer: ``"sgd"``, or ``"adam"``: each hidden and action synapse divides its steps by the root of their
            running mean square (:class:`~spikeloop.spiking.rules.reward_eprop.RewardEprop`). Value weights do not.
        n_episodes: Episodes per rollout, between which the learning rate is set and callbacks begin a rollout. Episodes
            that an environment hands out are always finished.
        max_episodes: Learning also stops at the end of this many episodes; None for no such limit. Schedules go by
            whichever budget is nearer to its end.
        backend: Where the network learns: ``float``, or what builds it, such as :class:`spikeloop.hardware.ChipLsnn`.
            Learning rates are then in units of its own, and what it has no place for must be off.
        backend_kwargs: Further arguments of what builds the network, by name.
        policy_kwargs: Arguments of the policy.
        stats_window_size: Episodes that logged means are taken over.
        tensorboard_log: Folder of the TensorBoard log; None for none.
        verbose: 0 silent, 1 progress, 2 debugging.
        seed: Seed of weights, actions and environment.
        device: Only the CPU.

    Raises:
        ValueError: If an argument is out of range, or there is more than one environment.

    >>> import spikeloop.envs  # registers the task
    >>> model = EProp("EpropPolicy", "spikeloop/TMaze-v0", n_episodes=4, seed=0)
    >>> model = model.learn(104)  # four episodes of 26 steps
    >>> [info["l"] for info in model.ep_info_buffer]
    [26, 26, 26, 26]
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "EpropPolicy": EpropPolicy,
        "ChipEpropPolicy": ChipEpropPolicy,
    }
    policy: EpropPolicy | ChipEpropPolicy

    def __init__(
        self,
        policy: str | type[EpropPolicy] | type[ChipEpropPolicy],
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
        reward_scale: float = 1.0,
        initial_value: float = 0.0,
        trace_max: float | None = None,
        optimizer: str = "sgd",
        n_episodes: int = 20,
        max_episodes: int | None = None,
        backend: str | Callable[..., Any] = "float",
        backend_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
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
            device=device,
            seed=seed,
        )
        self.actor_scale, self.value_scale, self.train_hidden = actor_scale, value_scale, train_hidden
        self.gamma, self.trace_lambda, self.value_coef = gamma, trace_lambda, value_coef
        self.rate_coef, self.target_rate, self.n_episodes = rate_coef, target_rate, n_episodes
        self.reward_scale, self.initial_value, self.trace_max = reward_scale, initial_value, trace_max
        self.optimizer, self.max_episodes = optimizer, max_episodes
        self.backend, self.backend_kwargs = backend, backend_kwargs
        self._looked = False  # whether the first rollout was looked at for a network that says nothing
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_ranges(vars(self), _RANGES)
        if not isinstance(self.train_hidden, (bool, np.bool_)):
            raise ValueError(f"train_hidden must be true or false, got {self.train_hidden!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {OPTIMIZERS}, got {self.optimizer!r}")
        vars(self).setdefault("backend", "float")  # which models that were saved before lack
        check_backend(self.backend)
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        own = self._of_backend(ChipEpropPolicy) or {"optimizer": self.optimizer}
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            **own,
            **self.policy_kwargs,
        )
        self.policy.rate.fill_(self.target_rate)
        note_wrappers(self)

    def _rule(self, rate: float | None = None) -> RewardEprop:
        """Return the rule at a learning rate, that of now if None."""
        rate = float(self.lr_schedule(self._current_progress_remaining)) if rate is None else rate
        return RewardEprop(
            gamma=self.gamma,
            trace_lambda=self.trace_lambda,
            learning_rate=rate * self.train_hidden,
            actor_rate=rate * self.actor_scale,
            value_rate=rate * self.value_scale,
            value_coef=self.value_coef,
            rate_coef=self.rate_coef,
            target_rate=self.target_rate,
            reward_scale=self.reward_scale,
            initial_value=self.initial_value,
            trace_max=self.trace_max,
            optimizer=self.optimizer,
        )

    @contextmanager
    def _session(self) -> Iterator[DrawnEpisodes | Stretches | None]:
        policy = self.policy
        yield (self._drawn() or Stretches.of(self.env)) if policy.plain else None

    def _drawn(self) -> DrawnEpisodes | None:
        """Return the environment as one that hands out episodes; None if it does not, or the critic has a code."""
        return DrawnEpisodes.of(self.env) if self.policy.critic is None else None

    def _own_logs(self) -> Iterator[tuple[str, Any]]:
        yield "spiking/firing_rate_0", float(self.policy.rate.mean())

    def _rollout(
        self, callback: BaseCallback, total_timesteps: int, compiled: DrawnEpisodes | Stretches | None
    ) -> bool:
        rate, begin = self.policy.rate.numpy().copy(), self.num_timesteps
        before = {name: value.clone() for name, value in self.policy.state_dict().items()}
        try:
            if isinstance(compiled, DrawnEpisodes):
                goes_on = self._drawn_rollout(callback, compiled, total_timesteps, before)
            else:
                goes_on = self._step_rollout(callback, compiled, total_timesteps)
            check_learnt(self.policy.named_parameters(), f"rollout {self._n_updates + 1}")
        except NonFiniteError:
            self.policy.load_state_dict(before)  # the last that can act
            raise
        self._n_updates += 1
        if goes_on and not self._looked:
            self._looked = True
            n_ticks = (self.num_timesteps - begin) * self.policy.n_ticks
            warn_of_silence([self._spikes(rate, n_ticks)], n_ticks)
        return goes_on

    def _spikes(self, rate: np.ndarray, n_ticks: int) -> np.ndarray:
        """Return the spikes of each neuron in so many ticks; ``rate`` is the running mean of its rate before them."""
        kept = (1 - 1 / TAU_RATE) ** n_ticks  # of the running mean before
        return np.maximum((self.policy.rate.numpy() - kept * rate) / (1 - kept), 0.0) * n_ticks

    def _drawn_rollout(
        self, callback: BaseCallback, drawn: DrawnEpisodes, total_timesteps: int, before: dict[str, th.Tensor]
    ) -> bool:
        """Learn from whole episodes in one call, then walk through their steps with the callbacks.

        A callback that stops it leaves the policy as the last whole episode before left it.
        """
        n_episodes = min(self._rollout_length(), -(-(total_timesteps - self.num_timesteps) // drawn.task.n_steps))
        observations, paid = drawn.draw(n_episodes)
        n_steps = observations.shape[1]
        uniform = self.policy.rng.random((n_episodes, n_steps)).astype(np.float32)
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
                infos[0] = {"episode": drawn.log(float(returns[episode]), n_steps)} if ends else {}
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
        policy, (n_episodes, n_steps) = self.policy, uniform.shape
        assert isinstance(policy, EpropPolicy)  # others have a critic with a code
        x = policy.with_constant(policy.features(observations.reshape(n_episodes * n_steps, -1)))
        returns = np.empty(n_episodes, np.float32)
        eprop_kernels.reward_eprop_episodes(
            x.reshape(n_episodes, n_steps, -1),
            paid,
            uniform,
            policy.n_ticks,
            policy.learner(self._rule()),
            returns,
        )
        return returns

    def _in_space(self, action: Any) -> np.ndarray:
        """Return an action as the environment takes it, shape (1, ...)."""
        if self.policy.log_std is None:
            return super()._in_space(action)
        return self.policy.head(action[None])  # whose bounds it is rounded into
