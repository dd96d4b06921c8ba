"""GLM: a probabilistic spiking network that is itself the policy, taught online by the score of its own spikes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from spikeloop.agents.check_finite import NonFiniteError, check_learnt
from spikeloop.agents.checks import COMMON, NOT_NEGATIVE, UNIT, WHOLE, Range, check_ranges
from spikeloop.agents.chip_glm_policy import ChipGlmPolicy
from spikeloop.agents.export import note_wrappers
from spikeloop.agents.glm_policy import GlmPolicy
from spikeloop.agents.local_learning import check_backend
from spikeloop.agents.stepwise_learning import StepwiseLearning
from spikeloop.agents.stretches import Stretches
from spikeloop.spiking.rules.glm import HIDDEN_GRADIENTS, RewardGlm

_RANGES = {
    **COMMON,
    **dict.fromkeys(("hidden_scale", "bias_scale", "value_scale"), NOT_NEGATIVE),
    "trace_lambda": UNIT,
    **dict.fromkeys(("reward_scale", "initial_value"), Range()),
    "n_episodes": WHOLE,
    "max_episodes": WHOLE._replace(optional=True),
}


class GLM(StepwiseLearning):
    """Policy gradient of a network of Bernoulli neurons (Rosenfeld et al. 2019; Jang et al. 2019), online and local.

    The first output spike of an env step is the action, so the network is the stochastic policy, and the score of an
    output weight is made of the spikes of its own two neurons (:mod:`spikeloop.spiking.rules.glm`). Weights change
    after every step by the TD error of a linear critic.

    Where a task's step is compiled (:data:`~spikeloop.envs.compiled.COMPILED`, or a table,
    :mod:`spikeloop.envs.compiled_tables`), and the encoder is ``population_spikes`` or the observation a choice, one
    call of a kernel takes all steps of an episode but the last. The callbacks then see each of these steps after the
    call. Any other environment is stepped as usual. Both ways learn the same bits.

    Args:
        policy: ``"GlmPolicy"``, or ``"ChipGlmPolicy"`` with a ``backend``.
        env: The environment, or its id.
        learning_rate: Rate of the output weights, or its schedule; the other rates are multiples of it. One that falls
            to 0 keeps the policy from saturating.
        hidden_scale: Rate of the hidden weights, in units of ``learning_rate``.
        bias_scale: Rate of biases, in units of that of the weights beside them.
        value_scale: Rate of the critic's weights, in units of ``learning_rate``.
        hidden_gradient: ``expected``, ``score`` or ``frozen``: how hidden neurons learn.
        gamma: Discount factor.
        trace_lambda: Decay of the traces per env step, times gamma.
        reward_scale: Factor of the reward.
        initial_value: Value of what was never seen; the best value that can be attained makes the critic optimistic.
        n_episodes: Episodes per rollout, between which the learning rate is set and callbacks begin a rollout.
        max_episodes: Learning also stops at the end of this many episodes; None for no such limit. Schedules go by
            whichever budget is nearer to its end.
        backend: Where the network draws and learns: ``float``, or what builds it, such as
            :class:`spikeloop.hardware.ChipGlm`, which has no hidden neurons and no biases that learn.
        backend_kwargs: Further arguments of what builds the network, by name.
        policy_kwargs: Arguments of the policy.
        stats_window_size: Episodes that logged means are taken over.
        tensorboard_log: Folder of the TensorBoard log; None for none.
        verbose: 0 silent, 1 progress, 2 debugging.
        seed: Seed of weights, spikes and environment.
        device: Only the CPU.

    Raises:
        ValueError: If an argument is out of range, or there is more than one environment.

    >>> ends = {"low": [-2.4, -3.0, -0.21, -3.0], "high": [2.4, 3.0, 0.21, 3.0]}
    >>> model = GLM("GlmPolicy", "CartPole-v1", max_episodes=5, seed=0, policy_kwargs={"encoder_kwargs": ends})
    >>> model = model.learn(10_000)  # stops where the fifth episode ends
    >>> len(model.ep_info_buffer)
    5
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "GlmPolicy": GlmPolicy,
        "ChipGlmPolicy": ChipGlmPolicy,
    }
    policy: GlmPolicy | ChipGlmPolicy

    def __init__(
        self,
        policy: str | type[GlmPolicy] | type[ChipGlmPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1.0,
        hidden_scale: float = 1.0,
        bias_scale: float = 0.0,
        value_scale: float = 0.04,
        hidden_gradient: str = "expected",
        gamma: float = 0.99,
        trace_lambda: float = 0.9,
        reward_scale: float = 0.01,
        initial_value: float = 0.0,
        n_episodes: int = 1,
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
        self.hidden_scale, self.bias_scale, self.value_scale, self.hidden_gradient = (
            hidden_scale,
            bias_scale,
            value_scale,
            hidden_gradient,
        )
        self.gamma, self.trace_lambda = gamma, trace_lambda
        self.reward_scale, self.initial_value = reward_scale, initial_value
        self.n_episodes, self.max_episodes = n_episodes, max_episodes
        self.backend, self.backend_kwargs = backend, backend_kwargs
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_ranges(vars(self), _RANGES)
        if self.hidden_gradient not in HIDDEN_GRADIENTS:
            names = ", ".join(HIDDEN_GRADIENTS)
            raise ValueError(f"hidden_gradient must be one of {names}, got {self.hidden_gradient!r}")
        vars(self).setdefault("backend", "float")  # which models that were saved before lack
        check_backend(self.backend)
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            **self._of_backend(ChipGlmPolicy),
            **self.policy_kwargs,
        )
        note_wrappers(self)

    def _rule(self, rate: float | None = None) -> RewardGlm:
        """Return the rule at a learning rate, that of now if None."""
        rate = float(self.lr_schedule(self._current_progress_remaining)) if rate is None else rate
        return RewardGlm(
            learning_rate=rate,
            hidden_rate=rate * self.hidden_scale,
            bias_rate=self.bias_scale,
            value_rate=rate * self.value_scale,
            gamma=self.gamma,
            trace_lambda=self.trace_lambda,
            reward_scale=self.reward_scale,
            initial_value=self.initial_value,
            hidden_gradient=self.hidden_gradient,
        )

    @contextmanager
    def _session(self) -> Iterator[Stretches | None]:
        yield Stretches.of(self.env) if self.policy.plain else None

    def _rollout(self, callback: BaseCallback, total_timesteps: int, compiled: Stretches | None) -> bool:
        before = {name: value.clone() for name, value in self.policy.state_dict().items()}
        try:
            goes_on = self._step_rollout(callback, compiled, total_timesteps)
            check_learnt(self.policy.named_parameters(), f"rollout {self._n_updates + 1}")
        except NonFiniteError:
            self.policy.load_state_dict(before)  # the last weights that can act
            raise
        self._n_updates += 1
        return goes_on

    def _own_logs(self) -> Iterator[tuple[str, Any]]:
        steps, ticks, hidden, outputs, *cut = self.policy.counts
        if steps:
            yield "spiking/ticks_per_step", ticks / steps
            yield "spiking/output_spikes_per_step", outputs / steps
            if self.policy.n_hidden:
                yield "spiking/firing_rate_0", hidden / ticks / self.policy.n_hidden
            for n in cut:  # the chip counts them
                yield "train/td_errors_cut", n / steps
        self.policy.counts[:] = 0
