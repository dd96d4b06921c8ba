"""Reward-based e-prop: an actor-critic whose hidden layer is taught by the TD error through eligibility traces.

Bellec et al. 2020, "A solution to the learning dilemma for recurrent networks of spiking neurons", deep RL section. The
kernels run single env steps and whole trainings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeloop.spiking import checks
from spikeloop.spiking.rules import eprop_kernels
from spikeloop.spiking.rules.base import typed
from spikeloop.spiking.rules.eprop import arrays_like, finite_array, rest
from spikeloop.spiking.rules.eprop_kernels import (
    ADAM_DECAYS,
    ADAM_EPS,
    EpropNeurons,
    EpropWeights,
    LineCritic,
    Moments,
    RewardConstants,
    RewardLearner,
    RewardState,
)

TAU_RATE = 10_000.0  # ticks over which a neuron's firing rate is averaged
FEEDBACK = ("symmetric", "initial", "random")
OPTIMIZERS = ("sgd", "adam")
# Largest and smallest value of each number of the rule that may not be anything from 0 on.
_HIGHEST = {"gamma": 1.0, "trace_lambda": 1.0, "target_rate": 1.0}
_LOWEST = {"reward_scale": -math.inf, "initial_value": -math.inf}


@dataclass(frozen=True)
class RewardEprop:
    """Actor-critic e-prop: the third factor is the TD error ``delta = r + gamma V(s') - V(s)``.

    It is no :class:`~spikeloop.spiking.rules.base.Rule` of one projection: it teaches hidden layer and readout at once,
    and the learning signals of the hidden layer are made of the readout's weights and the action that was drawn.
    :meth:`remember` and :meth:`change` are its equations, on top of the eligibility traces of
    :class:`~spikeloop.spiking.rules.eprop.SignalEprop`. Everything in them but delta and L_j is known at the synapse.

    Args:
        gamma: Discount factor per env step, within [0, 1].
        trace_lambda: Decay of the traces per env step beside gamma, within [0, 1]; 0 is one-step credit.
        learning_rate: Rate of the input and recurrent weights and of the biases, >= 0; 0 freezes the hidden layer.
        actor_rate: Rate of the action weights, >= 0.
        value_rate: Rate of the value weights, >= 0.
        value_coef: Weight of the value in the learning signal, >= 0.
        rate_coef: Weight of the pull towards the target rate, >= 0.
        target_rate: Wanted spikes per neuron and tick, within [0, 1].
        reward_scale: Factor of the reward.
        initial_value: Value of what was never seen; the best attainable one makes the critic optimistic.
        trace_max: Bound of the hidden weights' traces, > 0, at which they saturate; None for none.
        optimizer: ``"sgd"`` changes weights by their step times the rate; ``"adam"`` divides the steps of each hidden
            and action synapse by the root of a running mean of their squares, which it keeps for itself.

    Raises:
        ValueError: If a value is out of range.

    >>> RewardEprop(gamma=0.9, trace_lambda=0.5).constants(np.float64).trace_decay
    np.float64(0.45)
    """

    gamma: float = 0.99
    trace_lambda: float = 0.0
    learning_rate: float = 0.01
    actor_rate: float = 0.1
    value_rate: float = 0.05
    value_coef: float = 0.5
    rate_coef: float = 0.1
    target_rate: float = 0.05
    reward_scale: float = 1.0
    initial_value: float = 0.0
    trace_max: float | None = None
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"RewardEprop.optimizer must be one of {OPTIMIZERS}, got {self.optimizer!r}")
        if self.trace_max is not None and not (is_number(self.trace_max) and 0 < self.trace_max < math.inf):
            raise ValueError(f"RewardEprop.trace_max must be a number > 0 or None, got {self.trace_max!r}")
        for name in (field.name for field in fields(self) if field.name not in ("optimizer", "trace_max")):
            value, low, high = getattr(self, name), _LOWEST.get(name, 0.0), _HIGHEST.get(name, math.inf)
            if not (is_number(value) and low <= value <= high and math.isfinite(value)):
                raise ValueError(f"RewardEprop.{name} must be a number within [{low}, {high}], got {value!r}")

    def constants(self, dtype: npt.DTypeLike) -> RewardConstants:
        """Return the constants of the kernels."""
        derived = {
            "trace_decay": self.gamma * self.trace_lambda,
            "rate_step": 1 / TAU_RATE,
            "trace_max": math.inf if self.trace_max is None else self.trace_max,
            "adam": float(self.optimizer == "adam"),
        }
        return typed(RewardConstants, {**vars(self), **derived}, dtype)

    def remember(
        self, errors: np.ndarray, y: np.ndarray, e_bar: np.ndarray, weights: EpropWeights, memory: RewardState
    ) -> RewardState:
        """Return the traces after an env step, with B the feedback weights, whose last row is the value's.

            L_j = sum_k B_kj error_k + value_coef B_value,j                         learning signal
            trace_ji <- gamma lambda trace_ji + L_j e_bar_ji,                       then cut at +-trace_max
            trace_out_k <- gamma lambda trace_out_k + error_k y,                    for the value + y

        Args:
            errors: The derivative of the log-probability of the action that was drawn, shape (n_outputs,):
                ``1[k = action] - pi_k`` for discrete actions; for Gaussian ones ``(action_k - mean_k) / std_k^2``
                within their bounds, and that of the tail's probability at them (``cut_gaussian`` of the kernels).
            y: Readout trace, shape (N,), or (N + 1,) with the constant 1 that biases of the readout meet.
            e_bar: Eligibility traces, shape (N, M).
            weights: The weights, of which feedback is looked at.
            memory: The traces before.
        """
        decayed, n = self.gamma * self.trace_lambda, len(e_bar)
        signal = errors @ weights.feedback[:-1, :n] + self.value_coef * weights.feedback[-1, :n]
        trace = decayed * memory.trace + signal[:, None] * e_bar
        return memory._replace(
            trace=trace if self.trace_max is None else np.clip(trace, -self.trace_max, self.trace_max),
            trace_out=decayed * memory.trace_out + np.outer(np.append(errors, 1.0), y),
        )

    def change(
        self, delta: float, e_bar: np.ndarray, weights: EpropWeights, memory: RewardState, moments: Moments
    ) -> tuple[EpropWeights, Moments]:
        """Return weights and running means after the TD error of an env step; a frozen hidden layer is left as it is.

            w_ji     <- w_ji + learning_rate f(delta trace_ji + rate_coef (target_rate - rate_j) e_bar_ji)
            w_out_k  <- w_out_k + actor_rate f(delta trace_out_k)       value: value_rate delta trace_out

        f is the identity with ``"sgd"``. With ``"adam"``, for the n-th step g of a synapse:

            first    <- 0.9 first + 0.1 g
            second   <- 0.999 second + 0.001 g^2
            f        =  first / (1 - 0.9^n) / (sqrt(second / (1 - 0.999^n)) + 1e-8)
        """
        moments = moments._replace(n=moments.n + 1)
        w, w_out = weights.w, weights.w_out.copy()
        pull = self.rate_coef * (self.target_rate - weights.rate)[:, None] * e_bar
        if self.learning_rate > 0:
            step, *means = self._scaled(delta * memory.trace + pull, moments.first, moments.second, moments.n)
            moments = moments._replace(first=means[0], second=means[1])
            w = w + self.learning_rate * step
            np.fill_diagonal(w[:, w.shape[1] - len(w) :], 0)  # no neuron is its own presynaptic one
        actor, first, second = delta * memory.trace_out[:-1], moments.first_out[:-1], moments.second_out[:-1]
        actor, *means = self._scaled(actor, first, second, moments.n)
        w_out[:-1] += self.actor_rate * actor
        w_out[-1] += self.value_rate * delta * memory.trace_out[-1]
        if self.optimizer == "adam":
            out = (np.vstack((mean, np.zeros_like(w_out[:1]))) for mean in means)
            moments = moments._replace(first_out=next(out), second_out=next(out))
        symmetric = weights.feedback is weights.w_out
        return weights._replace(w=w, w_out=w_out, feedback=w_out if symmetric else weights.feedback), moments

    def _scaled(self, step: np.ndarray, first: np.ndarray, second: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return f(step) and the running means after it."""
        if self.optimizer == "sgd":
            return step, first, second
        decay_1, decay_2 = ADAM_DECAYS
        first, second = decay_1 * first + (1 - decay_1) * step, decay_2 * second + (1 - decay_2) * step**2
        return first / (1 - decay_1**n) / (np.sqrt(second / (1 - decay_2**n)) + ADAM_EPS), first, second


def is_number(value: Any) -> bool:
    """Return whether a value is a real number and no truth value."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def reward_eprop(
    x: npt.ArrayLike,
    rewards: npt.ArrayLike,
    uniform: npt.ArrayLike,
    weights: EpropWeights,
    neurons: EpropNeurons,
    rule: RewardEprop | None = None,
    n_ticks: int = 1,
) -> tuple[EpropWeights, np.ndarray]:
    """Train on whole episodes whose inputs are known beforehand, as in delayed-response tasks.

    Args:
        x: Inputs, held over the ticks of a step, shape (E, T, n_inputs).
        rewards: Reward for each action that could be taken, shape (E, T, n_actions).
        uniform: Numbers drawn uniformly from [0, 1), which choose the actions, shape (E, T).
        weights: Weights before, not modified, see :func:`initial_weights`; feedback that is ``weights.w_out`` itself
            stays symmetric.
        neurons: Constants, see :func:`~spikeloop.spiking.rules.eprop.eprop_neurons`.
        rule: Parameters; the defaults if None. The running means of Adam begin anew.
        n_ticks: Ticks per env step.

    Returns:
        New weights, and the return of each episode, shape (E,).

    Raises:
        ValueError: If shapes disagree or a number is not finite or out of range.

    >>> from spikeloop.spiking.neurons.lsnn import LsnnNeurons
    >>> from spikeloop.spiking.rules.eprop import eprop_neurons
    >>> rng, n = np.random.default_rng(0), 8
    >>> parameters = LsnnNeurons(*(np.full(n, number) for number in (4.0, 1.0, 100.0, 0.2, 0)))
    >>> weights, neurons = initial_weights(rng, 3, n, n_actions=2), eprop_neurons(parameters, 10.0, np.float32)
    >>> x, rewards, uniform = rng.random((10, 6, 3)), rng.random((10, 6, 2)), rng.random((10, 6))
    >>> weights, returns = reward_eprop(x, rewards, uniform, weights, neurons)
    >>> returns.shape
    (10,)
    """
    n, m = checks.shaped("weights.w", weights.w, ("N", "n_inputs + N")).shape
    n_out, n_read = checks.shaped("weights.w_out", weights.w_out, ("n_actions + 1", "N or N + 1")).shape
    dtype = weights.w.dtype
    if dtype not in (np.float32, np.float64) or m < n or n_out < 2 or n_read not in (n, n + 1):
        found = f"{dtype} {weights.w.shape} and {weights.w_out.shape}"
        raise ValueError(
            "weights must be float32 or float64, w (N, n_inputs + N), w_out (n_actions + 1, N) or, with biases, "
            f"(n_actions + 1, N + 1), got {found}"
        )
    if not (isinstance(n_ticks, (int, np.integer)) and n_ticks >= 1):
        raise ValueError(f"n_ticks must be a whole number of at least 1, got {n_ticks}")
    drawn = finite_array("uniform", uniform, ("E", "T"), dtype)
    if np.any(drawn < 0) or np.any(drawn > 1):
        raise ValueError(f"uniform must lie within 0 and 1, found {drawn.min()} to {drawn.max()}")
    inputs = finite_array("x", x, (*drawn.shape, m - n), dtype)
    paid = finite_array("rewards", rewards, (*drawn.shape, n_out - 1), dtype)
    zeros = EpropWeights(*(np.zeros(shape, dtype) for shape in ((n, m), (n_out, n_read), (n_out, n_read), (n,))))
    new = EpropWeights(*arrays_like("weights", weights, zeros))
    if weights.feedback is weights.w_out:
        new = new._replace(feedback=new.w_out)
    like = EpropNeurons._make(np.zeros(shape, dtype) for shape in ((n,), (n,), (n,), (n,), (), (), (), ()))
    neurons = EpropNeurons._make(arrays_like("neurons", neurons, like))
    learner = new_learner(new, neurons, rule or RewardEprop())
    returns = np.empty(len(drawn), dtype)
    eprop_kernels.reward_eprop_episodes(inputs, paid, drawn, n_ticks, learner, returns)
    return new, returns


def initial_weights(
    rng: np.random.Generator,
    n_inputs: int,
    n_neurons: int,
    n_actions: int,
    w_in_scale: float = 0.9,
    w_rec_scale: float = 0.5,
    feedback: str = "symmetric",
    rate: float = 0.05,
    dtype: npt.DTypeLike = np.float32,
    w_out_std: float = 0.1,
    bias_scale: float | None = None,
) -> EpropWeights:
    """Draw weights to begin with; all actions are nearly equally likely, and all values the initial one.

    Args:
        rng: Source of randomness.
        n_inputs: Inputs.
        n_neurons: Neurons N.
        n_actions: Actions, or numbers of an action.
        w_in_scale: Standard deviation of the input weights times sqrt(n_inputs).
        w_rec_scale: Standard deviation of the recurrent weights times sqrt(N).
        feedback: Learning signals come back through the readout weights themselves (``"symmetric"``), through these
            as they are drawn here (``"initial"``), or through weights of their own (``"random"``); all but the first
            never change.
        rate: What the running means of the firing rates begin with.
        dtype: float32 or float64.
        w_out_std: Standard deviation of the readout weights.
        bias_scale: Largest bias of a neuron; they are drawn uniformly from 0 on. The readout's are 0. None for no
            biases at all.

    Raises:
        ValueError: If ``feedback`` is none of these.
    """
    if feedback not in FEEDBACK:
        raise ValueError(f"feedback must be one of {FEEDBACK}, got {feedback!r}")
    w_in = rng.normal(0, w_in_scale / math.sqrt(n_inputs), (n_neurons, n_inputs))
    w_rec = rng.normal(0, w_rec_scale / math.sqrt(n_neurons), (n_neurons, n_neurons))
    np.fill_diagonal(w_rec, 0)
    w_out = rng.normal(0, w_out_std, (n_actions + 1, n_neurons)).astype(dtype)
    w_out[-1] = 0
    back = rng.normal(0, 0.3, w_out.shape).astype(dtype) if feedback == "random" else w_out
    bias = np.empty((n_neurons, 0))
    if bias_scale is not None:
        bias = rng.uniform(0, bias_scale, (n_neurons, 1))
        w_out, back = (np.pad(array, ((0, 0), (0, 1))) for array in (w_out, back))
    w = np.concatenate((w_in, bias, w_rec), axis=1).astype(dtype)
    back = {"symmetric": w_out, "initial": w_out.copy(), "random": back}[feedback]
    return EpropWeights(w, w_out, back, np.full(n_neurons, rate, dtype))


def new_learner(
    weights: EpropWeights,
    neurons: EpropNeurons,
    rule: RewardEprop,
    moments: Moments | None = None,
    values: np.ndarray | None = None,
) -> RewardLearner:
    """Return a learner at rest, in the memory of what it is given.

    Args:
        weights: Weights.
        neurons: Constants of the neurons.
        rule: The rule.
        moments: Running means of Adam; new ones if None.
        values: Weights of a critic on the lines of an input code, shape (n_lines,); None for one on the readout trace.
    """
    (n, m), (n_out, n_read), dtype = weights.w.shape, weights.w_out.shape, weights.w.dtype
    memory = RewardState(np.zeros((n, m), dtype), np.zeros((n_out, n_read), dtype), np.zeros(2, dtype))
    lines = np.zeros(0, dtype) if values is None else values
    critic = LineCritic(lines, np.zeros_like(lines), np.zeros(len(lines), np.int64), np.zeros(1, np.int64))
    moments = no_moments(weights, rule.optimizer) if moments is None else moments
    state = rest(n, m, dtype, biased=n_read > n)
    return RewardLearner(weights, neurons, state, memory, moments, critic, rule.constants(dtype))


def no_moments(weights: EpropWeights, optimizer: str) -> Moments:
    """Return the running means of Adam before the first update; empty ones without it."""
    if optimizer == "sgd":
        none = np.zeros((0, 0), weights.w.dtype)
        return Moments(none, none, none, none, np.zeros(1))
    w, w_out = weights.w, weights.w_out
    return Moments(np.zeros_like(w), np.zeros_like(w), np.zeros_like(w_out), np.zeros_like(w_out), np.zeros(1))
