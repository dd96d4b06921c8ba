"""e-prop for a recurrent LSNN layer: eligibility propagation with a given learning signal, and its reward-based form.

Bellec et al. 2020, "A solution to the learning dilemma for recurrent networks of spiking neurons". Everything a synapse
needs is at the synapse, except one learning signal per neuron. What one tick does is written in
:mod:`spikeloop.spiking.rules.reference`; the kernels run whole sequences and whole trainings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking import checks
from spikeloop.spiking.decay import decay
from spikeloop.spiking.network import Layer
from spikeloop.spiking.neurons.lsnn import NeuronParameters, only_lsnn
from spikeloop.spiking.rules import eprop_kernels
from spikeloop.spiking.rules.eprop_kernels import EpropNeurons, EpropState, EpropWeights, RewardState

DAMPING, WIDTH = 0.3, 1.0  # of the pseudo-derivative, as in the paper


@dataclass(frozen=True)
class RewardEprop:
    """Actor-critic e-prop: the third factor is the TD error ``delta = r + gamma V(s') - V(s)``.

    After each env step

        w_ji     <- w_ji + learning_rate (delta trace_ji + rate_coef (target_rate - rate_j) e_bar_ji)
        w_out_k  <- w_out_k + actor_rate delta trace_out_k          value: value_rate

    with the traces of :func:`~spikeloop.spiking.rules.reference.reward_eprop_traces`.

    Args:
        gamma: Discount factor per env step, within [0, 1].
        trace_lambda: Decay of the traces per env step beside gamma, within [0, 1]; 0 is one-step credit.
        learning_rate: Rate of the input and recurrent weights, >= 0; 0 freezes the hidden layer.
        actor_rate: Rate of the action weights, >= 0.
        value_rate: Rate of the value weights, >= 0.
        value_coef: Weight of the value in the learning signal, >= 0.
        rate_coef: Weight of the pull towards the target rate, >= 0.
        target_rate: Wanted spikes per neuron and tick, within [0, 1].
        tau_rate: Ticks over which a neuron's rate is averaged, >= 1.

    Raises:
        ValueError: If a value is out of range.
    """

    gamma: float = 0.99
    trace_lambda: float = 0.0
    learning_rate: float = 0.01
    actor_rate: float = 0.1
    value_rate: float = 0.05
    value_coef: float = 0.5
    rate_coef: float = 0.1
    target_rate: float = 0.05
    tau_rate: float = 10_000.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        for field in fields(self):
            value = getattr(self, field.name)
            low = 1.0 if field.name == "tau_rate" else 0.0
            high = 1.0 if field.name in ("gamma", "trace_lambda", "target_rate") else math.inf
            if not (
                isinstance(value, (int, float, np.integer, np.floating))
                and low <= value <= high
                and math.isfinite(value)
            ):
                raise ValueError(f"RewardEprop.{field.name} must be a number within [{low}, {high}], got {value!r}")

    def constants(self, dtype: npt.DTypeLike) -> np.ndarray:
        """Return the kernels' ``REWARD_CONSTANTS``."""
        derived = {"trace_decay": self.gamma * self.trace_lambda, "rate_step": 1 / self.tau_rate}
        values = {**vars(self), **derived}
        return np.array([values[name] for name in eprop_kernels.REWARD_CONSTANTS], dtype)


class EpropResult(NamedTuple):
    """What e-prop makes of a sequence."""

    dw_in: np.ndarray  # sum over ticks of signal times eligibility trace, (N, n_inputs)
    dw_rec: np.ndarray  # (N, N), zero diagonal
    spikes: np.ndarray  # (T, N)
    state: EpropState  # to go on from


def eprop(
    x: npt.ArrayLike,
    layer: Layer,
    signal: npt.ArrayLike,
    tau_out: float = 0.0,
    state: EpropState | None = None,
    dt: float = 1.0,
    damping: float = DAMPING,
    width: float = WIDTH,
) -> EpropResult:
    """Run a layer on a sequence and return the weight changes of e-prop for a given learning signal.

    With ``signal_j(t) = -dE/dy_j(t)``, y the readout trace, the result is the step down the error's gradient that
    ignores how a spike reaches its own neuron again through others.

    Args:
        x: Input of each tick, shape (T, n_inputs).
        layer: Weights and neurons: one ``tau_m`` for all, no bias, reset "subtract", adaptation "threshold".
        signal: Learning signal of each tick, shape (T, N).
        tau_out: Time constant of the readout trace in ms.
        state: State of an earlier result, to go on from; None for rest. Not modified.
        dt: Length of a tick in ms.
        damping: Height of the triangular pseudo-derivative.
        width: Its half-width in units of v_th.

    Raises:
        ValueError: If shapes disagree, a number is not finite or the layer has what e-prop does not know.
    """
    dtype, n = layer.w_in.dtype, layer.n_neurons
    if layer.w_rec is None or np.any(layer.bias):
        raise ValueError("e-prop needs a layer with recurrent weights and without bias")
    neurons = eprop_neurons(only_lsnn(layer.neurons, "e-prop"), tau_out, dtype, dt, damping, width)
    inputs = _numbers("x", x, ("T", layer.n_inputs), dtype)
    signals = _numbers("signal", signal, (len(inputs), n), dtype)
    w = np.concatenate((layer.w_in, layer.w_rec), axis=1)
    now = rest(n, w.shape[1], dtype)
    if state is not None:
        now = EpropState(*_like("state", state, now))
        checks.spikes("state.z", now.z, (n,))
        if np.any(now.refractory % 1) or np.any(now.refractory < 0):
            raise ValueError(f"state.refractory must be whole ticks >= 0, got {now.refractory}")
    dw, spikes = np.zeros_like(w), np.empty_like(signals)
    eprop_kernels.eprop(inputs, signals, w, neurons, now, dw, spikes)
    dw_rec = np.ascontiguousarray(dw[:, layer.n_inputs :])
    np.fill_diagonal(dw_rec, 0)
    return EpropResult(np.ascontiguousarray(dw[:, : layer.n_inputs]), dw_rec, spikes, now)


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
        neurons: Constants, see :func:`eprop_neurons`.
        rule: Parameters; the defaults if None.
        n_ticks: Ticks per env step.

    Returns:
        New weights, and the return of each episode, shape (E,).

    Raises:
        ValueError: If shapes disagree or a number is not finite or out of range.
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
    drawn = _numbers("uniform", uniform, ("E", "T"), dtype)
    if np.any(drawn < 0) or np.any(drawn > 1):
        raise ValueError(f"uniform must lie within 0 and 1, found {drawn.min()} to {drawn.max()}")
    inputs = _numbers("x", x, (*drawn.shape, m - n), dtype)
    paid = _numbers("rewards", rewards, (*drawn.shape, n_out - 1), dtype)
    zeros = EpropWeights(*(np.zeros(shape, dtype) for shape in ((n, m), (n_out, n), (n_out, n), (n,))))
    new = EpropWeights(*_like("weights", weights, zeros))
    if weights.feedback is weights.w_out:
        new = new._replace(feedback=new.w_out)
    four = EpropNeurons(*(np.zeros(size, dtype) for size in (n, n, n, n, 4)))
    neurons = EpropNeurons(*_like("neurons", neurons, four))
    returns, c = np.empty(len(drawn), dtype), (rule or RewardEprop()).constants(dtype)
    state, memory = rest(n, m, dtype), no_memory(n_out, n, m, dtype)
    eprop_kernels.reward_eprop_episodes(inputs, paid, drawn, n_ticks, new, neurons, state, memory, c, returns)
    return new, returns


def eprop_neurons(
    neurons: NeuronParameters,
    tau_out: float,
    dtype: npt.DTypeLike,
    dt: float = 1.0,
    damping: float = DAMPING,
    width: float = WIDTH,
) -> EpropNeurons:
    """Return the kernels' constants of neurons, whose readout trace has the time constant ``tau_out`` in ms.

    Raises:
        ValueError: If the neurons have what e-prop does not know.
    """
    if neurons.reset != "subtract" or neurons.adaptation != "threshold" or len(np.unique(neurons.tau_m)) > 1:
        raise ValueError("e-prop needs one tau_m for all neurons, reset 'subtract' and adaptation 'threshold'")
    for name, value in (("damping", damping), ("width", width), ("dt", dt)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a number > 0, got {value}")
    if not 0 <= tau_out < math.inf:
        raise ValueError(f"tau_out must be a number >= 0, got {tau_out}")
    scalars = (float(decay(neurons.tau_m[0], dt)), float(decay(tau_out, dt)), damping, width)
    arrays = (decay(neurons.tau_a, dt), neurons.beta, neurons.v_th, neurons.refractory, np.array(scalars))
    return EpropNeurons(*(np.array(array, dtype) for array in arrays))


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


def _numbers(name: str, value: npt.ArrayLike, shape: tuple[int | str, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Return a contiguous array of finite numbers of the given shape."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return checks.finite(name, np.ascontiguousarray(checks.shaped(name, value, shape), dtype))


def _like(name: str, given: Any, wanted: Any) -> list[np.ndarray]:
    """Return copies of a tuple's arrays, which must have the shapes of those of ``wanted``, in the dtypes of those."""
    if len(given) != len(wanted):
        raise ValueError(f"{name} must hold {wanted._fields}, got {len(given)} arrays")
    pairs = zip(wanted._fields, given, wanted, strict=True)
    return [_numbers(f"{name}.{field}", array, like.shape, like.dtype).copy() for field, array, like in pairs]


def rest(n: int, m: int, dtype: npt.DTypeLike) -> EpropState:
    """Return the state at rest of n neurons with m presynaptic channels."""
    return EpropState(*(np.zeros(shape, dtype) for shape in (n, n, n, n, n, m, (n, m), (n, m))))


def no_memory(n_out: int, n: int, m: int, dtype: npt.DTypeLike) -> RewardState:
    """Return empty traces of reward-based e-prop."""
    return RewardState(np.zeros((n, m), dtype), np.zeros((n_out, n), dtype), np.zeros(2, dtype))
