"""EProp: an actor-critic whose recurrent spiking network learns by eligibility propagation, with no backpropagation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from spikeloop.agents.check_finite import check_first, check_learnt, check_step
from spikeloop.agents.checks import COMMON, NOT_NEGATIVE, UNIT, WHOLE, check_ranges
from spikeloop.agents.compiled_episodes import DrawnEpisodes
from spikeloop.agents.eprop_policy import EpropPolicy
from spikeloop.agents.export import note_wrappers
from spikeloop.agents.local_learning import LocalLearning
from spikeloop.agents.silence import warn_of_silence
from spikeloop.spiking.rules import eprop_kernels
from spikeloop.spiking.rules.eprop import rest
from spikeloop.spiking.rules.reward_eprop import TAU_RATE, RewardEprop, no_memory

_RANGES = {
    **COMMON,
    **dict.fromkeys(("actor_scale", "value_scale", "value_coef", "rate_coef"), NOT_NEGATIVE),
    **dict.fromkeys(("trace_lambda", "target_rate"), UNIT),
    "n_episodes": WHOLE,
}


class EProp(LocalLearning):
    """Reward-based e-prop (Bellec et al. 2020) on one environment: weights change after every step, online.

    Where the environment hands out whole episodes (:class:`~spikeloop.envs.compiled.DrawsEpisodes`, as
    ``spikeloop/TMaze-v0`` does), a rollout of episodes is one call of a compiled kernel; the callbacks then see each of
    its steps after it. Any other environment is stepped as usual. Both learn the same bits.

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
        n_episodes: Episodes per rollout, between which the learning rate is set and callbacks begin a rollout. Episodes
            that an environment hands out are always finished.
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

    @contextmanager
    def _session(self) -> Iterator[DrawnEpisodes | None]:
        yield DrawnEpisodes.of(self.env)

    @property
    def _n_rollouts(self) -> int:
        return self._n_updates

    def _own_logs(self) -> Iterator[tuple[str, Any]]:
        yield "spiking/firing_rate_0", float(self.policy.rate.mean())

    def _rollout(self, callback: BaseCallback, total_timesteps: int, compiled: DrawnEpisodes | None) -> bool:
        rate, begin = self.policy.rate.numpy().copy(), self.num_timesteps
        if compiled is None:
            goes_on = self._step_rollout(callback, total_timesteps)
        else:
            goes_on = self._drawn_rollout(callback, compiled, total_timesteps)
        self._n_updates += 1
        check_learnt(self.policy.named_parameters(), f"rollout {self._n_updates}")
        if goes_on and not self._looked:
            self._looked = True
            n_ticks = (self.num_timesteps - begin) * self.policy.n_ticks
            warn_of_silence([self._spikes(rate, n_ticks)], n_ticks)
        return goes_on

    def _spikes(self, rate: np.ndarray, n_ticks: int) -> np.ndarray:
        """Return the spikes of each neuron in so many ticks; ``rate`` is the running mean of its rate before them."""
        kept = (1 - 1 / TAU_RATE) ** n_ticks  # of the running mean before
        return np.maximum((self.policy.rate.numpy() - kept * rate) / (1 - kept), 0.0) * n_ticks

    def _rollout_length(self) -> int:
        """Return the episodes of the rollout that begins; one at a learning rate of 0, which a schedule may leave."""
        return self.n_episodes if self.lr_schedule(self._current_progress_remaining) else 1

    def _drawn_rollout(self, callback: BaseCallback, drawn: DrawnEpisodes, total_timesteps: int) -> bool:
        """Learn from whole episodes in one call, then walk through their steps with the callbacks.

        A callback that stops it leaves the policy as the last whole episode before left it.
        """
        n_episodes = min(self._rollout_length(), -(-(total_timesteps - self.num_timesteps) // drawn.task.n_steps))
        observations, paid = drawn.draw(n_episodes)
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
