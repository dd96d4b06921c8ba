"""R-STDP as an SB3 algorithm: it acts, and its synapses learn by themselves; no backpropagation, replay or batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule

from spikeloop.agents.check_finite import NonFiniteError, check_step
from spikeloop.agents.checks import COMMON, NOT_NEGATIVE, POSITIVE, UNIT, WHOLE, Range, check_ranges
from spikeloop.agents.compiled_episodes import ClosedLoop
from spikeloop.agents.export import note_wrappers
from spikeloop.agents.local_learning import LocalLearning, check_backend, nominal_rate
from spikeloop.agents.modulators import Modulator
from spikeloop.agents.population_policy import PopulationPolicy
from spikeloop.agents.wta_policy import Backend, WtaPolicy

_RANGES = {
    **COMMON,
    "value_learning_rate": NOT_NEGATIVE,
    "trace_lambda": UNIT,
    "n_ticks": WHOLE,
    "noise": NOT_NEGATIVE,
    "reward_scale": Range(),
    "initial_value": Range(),
    "baseline_rate": UNIT,
    "w_max": POSITIVE._replace(optional=True),
    "eligibility_floor": Range(0, 1, above=True, optional=True),
    "n_episodes": WHOLE._replace(optional=True),
}


class RSTDP(LocalLearning):
    """Reward-modulated STDP: an actor-critic of three-factor synapses that learns while it acts.

    ``"PopulationPolicy"`` has populations of LIF neurons, whose synapses learn by the windows and eligibilities of
    R-STDP from the spikes of their neurons (:mod:`spikeloop.spiking.rules.populations`). ``"WtaPolicy"`` is its
    rate-based relative: a winner-take-all actor-critic with three factors, whose eligibilities hold counts of an env
    step and no timing (:mod:`spikeloop.spiking.rules.winner_take_all`).

    Every env step is one of a :class:`~spikeloop.spiking.rules.plastic_network.PlasticNetwork`. Where the task is
    compiled (:mod:`spikeloop.envs.compiled`) and nothing else stands in the way, whole episodes run in one kernel, and
    callbacks are then called for their steps when it returns: once for each step, in order, as otherwise.

    Args:
        policy: ``"PopulationPolicy"`` or ``"WtaPolicy"``.
        env: One environment, or its id.
        learning_rate: η, the actor's; or its schedule, which scales the critic's as well. This, ``n_ticks``, ``noise``
            and the next one have units of the policy's own, and its defaults where they are None: 0.1, 5, 0.3 and
            0.0375 for ``"WtaPolicy"``, 0.0018, 20, 0.05 and 0.0007 for ``"PopulationPolicy"``.
        value_learning_rate: The critic's; under a schedule, that at the beginning, or at the highest learning rate
            where it begins with 0.
        gamma: Discount factor.
        trace_lambda: λ: eligibilities decay by gamma λ per env step.
        n_ticks: Ticks per env step.
        noise: Width of the noise that explores: a standard deviation, or that of escape in units of the threshold.
        reward_scale: Factor of the reward.
        initial_value: Value of what was never seen; the best attainable one makes the critic optimistic.
        modulator: ``td_error``, ``reward_baseline`` or ``reward`` (:mod:`spikeloop.agents.modulators`).
        baseline_rate: Rate of the running mean of ``reward_baseline``.
        w_max: Bound of the actor's weights, 1 if None. With few active lines, as in a table, a choice may need more.
        eligibility_floor: Share of an eligibility below which it is forgotten, 0.001 if None.
        n_episodes: Learning also stops at the end of this many episodes; None for no such limit. ``log_interval`` of
            ``learn`` counts episodes.
        backend: Where the network learns: ``float``, or what builds another network, such as one on a chip.
        backend_kwargs: Further arguments of what builds the network, by name.
        policy_kwargs: Further arguments of the policy: ``encoder``, ``encoder_kwargs``, ``n_action_neurons``,
            ``n_rows``, ``action_rings``.
        stats_window_size: Episodes over which return and length are averaged in the log.
        tensorboard_log: Folder for TensorBoard; None for none.
        verbose: 0, 1 or 2.
        device: Only the CPU.
        seed: Seed of all random numbers.
        core: Former name of ``backend``.
        core_kwargs: Former name of ``backend_kwargs``.
        _init_setup_model: Whether to build the network now.

    Raises:
        ValueError: If there is more than one environment, its spaces are others, or a number is out of range.

    >>> encoder = {"n_tiles": 3, "low": [-2.4, -3.0, -0.2, -3.0], "high": [2.4, 3.0, 0.2, 3.0]}
    >>> model = RSTDP("WtaPolicy", "CartPole-v1", n_episodes=5, seed=0, policy_kwargs={"encoder_kwargs": encoder})
    >>> model = model.learn(10_000)  # stops where the fifth episode ends
    >>> len(model.ep_info_buffer)
    5
    >>> action, _ = model.predict(np.zeros(4, np.float32), deterministic=True)
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "WtaPolicy": WtaPolicy,
        "PopulationPolicy": PopulationPolicy,
    }
    policy: WtaPolicy | PopulationPolicy
    value_learning_rate: float
    n_ticks: int
    noise: float

    def __init__(
        self,
        policy: str | type[WtaPolicy] | type[PopulationPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule | None = None,
        value_learning_rate: float | None = None,
        gamma: float = 0.99,
        trace_lambda: float = 0.8,
        n_ticks: int | None = None,
        noise: float | None = None,
        reward_scale: float = 0.01,
        initial_value: float = 0.0,
        modulator: str = "td_error",
        baseline_rate: float = 0.01,
        w_max: float | None = None,
        eligibility_floor: float | None = None,
        n_episodes: int | None = None,
        backend: str | Backend = "float",
        backend_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        device: th.device | str = "auto",
        seed: int | None = None,
        core: str | Backend | None = None,
        core_kwargs: dict[str, Any] | None = None,
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            0.0 if learning_rate is None else learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
        )
        backend = backend if core is None else core
        check_backend(backend)
        self.gamma, self.trace_lambda, self.initial_value = gamma, trace_lambda, initial_value
        self.reward_scale, self.n_episodes, self.backend = reward_scale, n_episodes, backend
        self.backend_kwargs = backend_kwargs if core_kwargs is None else core_kwargs
        self.modulator, self.baseline_rate = modulator, baseline_rate
        given = {
            "learning_rate": learning_rate,
            "value_learning_rate": value_learning_rate,
            "n_ticks": n_ticks,
            "noise": noise,
        }
        defaults = self.policy_class.defaults  # type: ignore[attr-defined]
        vars(self).update({name: defaults[name] if value is None else value for name, value in given.items()})
        self.w_max, self.eligibility_floor = w_max, eligibility_floor
        # for the last observation: the neuron that won in each circuit, and the value
        self._action, self._value = np.zeros(1, np.int64), 0.0
        self._outcome: dict[str, Any] = {}  # of the last step, for callbacks
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        for former in ("core", "core_kwargs"):  # in models that were saved before
            if former in vars(self):
                setattr(self, former.replace("core", "backend"), vars(self).pop(former))
        check_ranges(vars(self), _RANGES)
        self.set_random_seed(self.seed)
        self.lr_schedule = FloatSchedule(self.learning_rate)
        # what the network is built with and the schedule is relative to
        self._nominal_rate = nominal_rate(self.lr_schedule)
        modulator = Modulator(self.modulator, self.gamma, self.baseline_rate)
        parameters = self.policy_class.parameters_class(  # type: ignore[attr-defined]
            learning_rate=self._nominal_rate,
            value_learning_rate=self.value_learning_rate,
            eligibility_decay=self.gamma * self.trace_lambda,
            noise=self.noise,
            value_offset=self.initial_value,
            **self._bounds(),
        )
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            backend=None if self.backend == "float" else self.backend,
            backend_kwargs=self.backend_kwargs,
            parameters=parameters,
            modulator=modulator,
            n_ticks=self.n_ticks,
            **self.policy_kwargs,
        )
        note_wrappers(self)

    def _bounds(self) -> dict[str, float]:
        """Return the bounds that were given, by name; not every policy has them."""
        given = {"w_max": self.w_max, "eligibility_floor": self.eligibility_floor}
        found = {name: value for name, value in given.items() if value is not None}
        if others := sorted(found.keys() - set(self.policy_class.bounds)):  # type: ignore[attr-defined]
            raise ValueError(f"{others[0]} must be None for {self.policy_class.__name__}, got {found[others[0]]}")
        return found

    @contextmanager
    def _session(self) -> Iterator[ClosedLoop | None]:
        assert self.env is not None
        network = self.policy.network
        network.learning = network.exploring = True
        try:
            yield ClosedLoop.of(self.env, network, self.policy.coder, self.policy.head)
        finally:
            network.learning = network.exploring = False

    @property
    def _n_rollouts(self) -> int:
        return self._episode_num

    def budget_is_spent(self) -> bool:
        """Return whether all of ``n_episodes`` are done."""
        return self.n_episodes is not None and self._episode_num >= self.n_episodes

    def _progress(self, total_timesteps: int) -> tuple[int, int]:
        if self.n_episodes is not None:
            return self._episode_num, self.n_episodes
        return super()._progress(total_timesteps)

    def _own_logs(self) -> Iterator[tuple[str, Any]]:
        yield "time/episodes", self._episode_num

    def _rollout(self, callback: BaseCallback, total_timesteps: int, compiled: ClosedLoop | None) -> bool:
        """Learn to the end of an episode, or of the budget; return False if a callback wants to stop."""
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", learning_rate)
        scale = learning_rate / self._nominal_rate if self._nominal_rate else 0.0
        assert self._last_obs is not None and self._last_episode_starts is not None
        if self._last_episode_starts[0]:
            self.policy.network.reset()
            self._value = self.policy.evaluate(_first(self._last_obs))
            self.policy.network.reinforce(0.0)
            self._action = self.policy.act()
        done = False
        while not done and self.num_timesteps < total_timesteps:
            left = total_timesteps - self.num_timesteps - 1
            if compiled is not None and not self._run_ahead(callback, compiled, scale, left):
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
        self._action = np.atleast_1d(self._action)  # a number in models that were saved before
        new_obs, rewards, dones, infos = self.env.step(self.policy.action(self._action[None]))
        self.num_timesteps += 1
        if self._checks:
            check_step(self.env, new_obs, rewards, dones, infos)
        done = bool(dones[0])
        terminated = done and not infos[0].get("TimeLimit.truncated", False)
        obs = infos[0]["terminal_observation"] if done else _first(new_obs)
        value = self.policy.evaluate(obs)
        modulator = self.policy.modulator(self.reward_scale * float(rewards[0]), self._value, value, terminated)
        if not np.isfinite(modulator):
            raise NonFiniteError(f"learning led to a modulator of {modulator}: a lower value_learning_rate may help")
        self.policy.network.reinforce(scale * modulator)
        self._action, self._value = self.policy.act(), value
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


def _first(obs: Any) -> Any:
    """Return the observation of the only environment."""
    return {key: part[0] for key, part in obs.items()} if isinstance(obs, dict) else obs[0]
