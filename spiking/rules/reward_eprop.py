"""Reward-based e-prop: an actor-critic whose hidden layer is taught by the TD error through eligibility traces.

Bellec et al. 2020, "A solution to the learning dilemma for recurrent networks of spiking neurons", deep RL section. The
kernels run single env steps and whole trainings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from spikeloop.spiking import checks
from spikeloop.spiking.rules import eprop_kernels
from spikeloop.spiking.rules.base import typed
from spikeloop.spiking.rules.eprop import arrays_like, finite_array, rest
from spikeloop.spiking.rules.eprop_kernels import EpropNeurons, EpropWeights, RewardConstants, RewardState

TAU_RATE = 10_000.0  # ticks over which a neuron's firing rate is averaged


@dataclass(frozen=True)
class RewardEprop:
    """Actor-critic e-prop: the third factor is the TD error ``delta = r + gamma V(s') - V(s)``.

    It is no :class:`~spikeloop.spiking.rules.base.Rule` of one projection: it teaches hidden layer and readout at once,
    and the learning signals of the hidden layer are made of the readout's weights and the action that was drawn.
    :meth:`remember` and :meth:`change` are its equations, on top of the eligibility traces of
    :class:`~spikeloop.spiking.rules.eprop.SignalEprop`.

    Args:
        gamma: Discount factor per env step, within [0, 1].
        trace_lambda: Decay of the traces per env step beside gamma, within [0, 1]; 0 is one-step credit.
        learning_rate: Rate of the input and recurrent weights, >= 0; 0 freezes the hidden layer.
        actor_rate: Rate of the action weights, >= 0.
        value_rate: Rate of the value weights, >= 0.
        value_coef: Weight of the value in the learning signal, >= 0.
        rate_coef: Weight of the pull towards the target rate, >= 0.
        target_rate: Wanted spikes per neuron and tick, within [0, 1].

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

    def __post_init__(self) -> None:
        """Validate the fields."""
        for field in fields(self):
            value = getattr(self, field.name)
            high = 1.0 if field.name in ("gamma", "trace_lambda", "target_rate") else math.inf
            number = isinstance(value, (int, float, np.integer, np.floating))
            if not (number and 0 <= value <= high and math.isfinite(value)):
                raise ValueError(f"RewardEprop.{field.name} must be a number within [0.0, {high}], got {value!r}")

    def constants(self, dtype: npt.DTypeLike) -> RewardConstants:
        """Return the constants of the kernels."""
        derived = {"trace_decay": self.gamma * self.trace_lambda, "rate_step": 1 / TAU_RATE}
        return typed(RewardConstants, {**vars(self), **derived}, dtype)

    def remember(
        self, action: int, pi: np.ndarray, y: np.ndarray, e_bar: np.ndarray, weights: EpropWeights, memory: RewardState
    ) -> RewardState:
        """Return the traces after an env step, with B the feedback weights, whose last row is the value's.

            L_j = sum_k B_kj (1[k = action] - pi_k) + value_coef B_value,j          learning signal
            trace_ji <- gamma lambda trace_ji + L_j e_bar_ji
            trace_out_k <- gamma lambda trace_out_k + (1[k = action] - pi_k) y,     for the value + y

        Args:
            action: The action that was drawn.
            pi: Probabilities of the actions, shape (n_actions,).
            y: Readout trace, shape (N,).
            e_bar: Eligibility traces, shape (N, M).
            weights: The weights, of which feedback is looked at.
            memory: The traces before.
        """
        decayed = self.gamma * self.trace_lambda
        errors = np.append(-pi, 1.0)
        errors[action] += 1
        signal = errors[:-1] @ weights.feedback[:-1] + self.value_coef * weights.feedback[-1]
        return memory._replace(
            trace=decayed * memory.trace + signal[:, None] * e_bar,
            trace_out=decayed * memory.trace_out + np.outer(errors, y),
        )

    def change(self, delta: float, e_bar: np.ndarray, weights: EpropWeights, memory: RewardState) -> EpropWeights:
        """Return the weights after the TD error of an env step; a frozen hidden layer is left as it is.

        w_ji     <- w_ji + learning_rate (delta trace_ji + rate_coef (target_rate - rate_j) e_bar_ji)
        w_out_k  <- w_out_k + actor_rate delta trace_out_k          value: value_rate
        """
        rates = np.full((len(weights.w_out), 1), self.actor_rate)
        rates[-1] = self.value_rate
        w_out = weights.w_out + rates * delta * memory.trace_out
        w = weights.w
        if self.learning_rate > 0:
            pull = self.rate_coef * (self.target_rate - weights.rate)[:, None] * e_bar
            w = w + self.learning_rate * (delta * memory.trace + pull)
            np.fill_diagonal(w[:, w.shape[1] - len(w) :], 0)  # no neuron is its own presynaptic one
        symmetric = weights.feedback is weights.w_out
        return weights._replace(w=w, w_out=w_out, feedback=w_out if symmetric else weights.feedback)


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
        rule: Parameters; the defaults if None.
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
    dtype, n_out = weights.w.dtype, len(checks.shaped("weights.w_out", weights.w_out, ("n_actions + 1", n)))
    if dtype not in (np.float32, np.float64) or m < n or n_out < 2:
        found = f"{dtype} {weights.w.shape} and {weights.w_out.shape}"
        raise ValueError(
            f"weights must be float32 or float64, w (N, n_inputs + N), w_out (n_actions + 1, N), got {found}"
        )
    if not (isinstance(n_ticks, (int, np.integer)) and n_ticks >= 1):
        raise ValueError(f"n_ticks must be a whole number of at least 1, got {n_ticks}")
    drawn = finite_array("uniform", uniform, ("E", "T"), dtype)
    if np.any(drawn < 0) or np.any(drawn > 1):
        raise ValueError(f"uniform must lie within 0 and 1, found {drawn.min()} to {drawn.max()}")
    inputs = finite_array("x", x, (*drawn.shape, m - n), dtype)
    paid = finite_array("rewards", rewards, (*drawn.shape, n_out - 1), dtype)
    zeros = EpropWeights(*(np.zeros(shape, dtype) for shape in ((n, m), (n_out, n), (n_out, n), (n,))))
    new = EpropWeights(*arrays_like("weights", weights, zeros))
    if weights.feedback is weights.w_out:
        new = new._replace(feedback=new.w_out)
    like = EpropNeurons._make(np.zeros(shape, dtype) for shape in ((n,), (n,), (n,), (n,), (), (), (), ()))
    neurons = EpropNeurons._make(arrays_like("neurons", neurons, like))
    returns, c = np.empty(len(drawn), dtype), (rule or RewardEprop()).constants(dtype)
    state, memory = rest(n, m, dtype), no_memory(n_out, n, m, dtype)
    eprop_kernels.reward_eprop_episodes(inputs, paid, drawn, n_ticks, new, neurons, state, memory, c, returns)
    return new, returns


def initial_weights(
    rng: np.random.Generator,
    n_inputs: int,
    n_neurons: int,
    n_actions: int,
    w_in_scale: float = 0.9,
    w_rec_scale: float = 0.5,
    symmetric: bool = True,
    rate: float = 0.05,
    dtype: npt.DTypeLike = np.float32,
) -> EpropWeights:
    """Draw weights to begin with; all actions are nearly equally likely, and all values 0.

    Args:
        rng: Source of randomness.
        n_inputs: Inputs.
        n_neurons: Neurons N.
        n_actions: Actions.
        w_in_scale: Standard deviation of the input weights times sqrt(n_inputs).
        w_rec_scale: Standard deviation of the recurrent weights times sqrt(N).
        symmetric: Feed learning signals back through the readout weights themselves, not through random ones.
        rate: What the running means of the firing rates begin with.
        dtype: float32 or float64.
    """
    w_in = rng.normal(0, w_in_scale / math.sqrt(n_inputs), (n_neurons, n_inputs))
    w_rec = rng.normal(0, w_rec_scale / math.sqrt(n_neurons), (n_neurons, n_neurons))
    np.fill_diagonal(w_rec, 0)
    w_out = rng.normal(0, 0.1, (n_actions + 1, n_neurons)).astype(dtype)
    w_out[-1] = 0
    feedback = w_out if symmetric else rng.normal(0, 0.3, w_out.shape).astype(dtype)
    return EpropWeights(
        np.concatenate((w_in, w_rec), axis=1).astype(dtype), w_out, feedback, np.full(n_neurons, rate, dtype)
    )


def no_memory(n_out: int, n: int, m: int, dtype: npt.DTypeLike) -> RewardState:
    """Return empty traces of reward-based e-prop."""
    return RewardState(np.zeros((n, m), dtype), np.zeros((n_out, n), dtype), np.zeros(2, dtype))
