"""e-prop for a recurrent LSNN layer: eligibility propagation with a given learning signal.

Bellec et al. 2020, "A solution to the learning dilemma for recurrent networks of spiking neurons". Everything a synapse
needs is at the synapse, except one learning signal per neuron. The form that makes these signals of rewards is
:mod:`spikeloop.spiking.rules.reward_eprop`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking import checks
from spikeloop.spiking.decay import decay
from spikeloop.spiking.network import Layer
from spikeloop.spiking.neurons.base import Neurons
from spikeloop.spiking.neurons.lsnn import LsnnNeurons, only_lsnn
from spikeloop.spiking.rules import eprop_kernels
from spikeloop.spiking.rules.base import Post
from spikeloop.spiking.rules.eprop_kernels import EpropNeurons, EpropState
from spikeloop.spiking.rules.spike_trains import check_rule

DAMPING, WIDTH = 0.3, 1.0  # of the pseudo-derivative, as in the paper


class EpropTraces(NamedTuple):
    """What the synapses of e-prop remember: how their weight has moved the membrane and the adaptation behind them."""

    eps: np.ndarray
    """Eligibility of the membrane, the same for all neurons, shape (n_pre,)."""
    eps_a: np.ndarray
    """Eligibility of the adaptation, shape (n_post, n_pre)."""
    e_bar: np.ndarray
    """Eligibility trace, low-passed as the readout is, shape (n_post, n_pre)."""


class EpropConstants(NamedTuple):
    """Constants of a tick of e-prop."""

    neurons: EpropNeurons
    learning_rate: Any  # a number in the dtype of the weights


@dataclass(frozen=True)
class SignalEprop:
    """e-prop with a given learning signal: one number per neuron and tick that says which way its spikes should go.

    Args:
        learning_rate: Weight change per unit of signal and of eligibility trace.
        tau_out: Time constant of the readout trace in ms, >= 0.
        damping: Height of the triangular pseudo-derivative, > 0.
        width: Its half-width in units of v_th, > 0.

    Raises:
        ValueError: If a value is out of range; with :meth:`constants`, if the neurons have what e-prop does not know.

    >>> neurons = LsnnNeurons(*(np.full(2, number) for number in (4.0, 1.0, 100.0, 0.0, 0)))
    >>> rule = SignalEprop(tau_out=10.0)
    >>> c, traces = rule.constants(1.0, np.float64, neurons), rule.begin(2, 3, np.float64)
    >>> near, far = 0.0, -2.0  # a membrane at its threshold and one that no small change of a weight brings there
    >>> post = Post(np.zeros(2), np.array([near, far]), np.ones(2, bool))
    >>> traces = rule.tick(np.array([1.0, 0.0, 1.0]), post, traces, c)
    >>> traces.e_bar > 0  # where both sides were active
    array([[ True, False,  True],
           [False, False, False]])
    """

    n_factors: ClassVar[int] = 3

    learning_rate: float = 0.01
    tau_out: float = 0.0
    damping: float = DAMPING
    width: float = WIDTH

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_rule(self, ("damping", "width"), ("tau_out",))

    def constants(self, dt: float, dtype: npt.DTypeLike, neurons: Neurons | None = None) -> EpropConstants:
        """Return the constants of a tick of ``dt`` ms for LSNN neurons with one ``tau_m``."""
        if neurons is None:
            raise ValueError("e-prop needs the postsynaptic neurons: it looks at their membranes")
        of_neurons = eprop_neurons(only_lsnn(neurons, "e-prop"), self.tau_out, dtype, dt, self.damping, self.width)
        return EpropConstants(of_neurons, np.array(self.learning_rate, dtype)[()])

    def begin(self, n_post: int, n_pre: int, dtype: npt.DTypeLike) -> EpropTraces:
        """Return the traces of a layer at rest."""
        return EpropTraces(*(np.zeros(shape, dtype) for shape in (n_pre, (n_post, n_pre), (n_post, n_pre))))

    @staticmethod
    def tick(pre: np.ndarray, post: Post, traces: EpropTraces, c: EpropConstants) -> EpropTraces:
        """Advance the eligibilities by one tick (Bellec et al. 2020, Methods).

        In code order, with s what arrived in this tick (inputs, and spikes that neurons sent in the tick before), u the
        distance of the membrane from its threshold, and alpha, rho, beta of the neurons:

            eps <- alpha eps + s                                     d v / d w
            psi = damping max(0, 1 - |u| / width) / v_th             d z / d v; 0 while refractory
            e = psi (eps - beta eps_a)                               d z / d w through the neuron itself
            eps_a <- rho eps_a + e                                   d a / d w of the next tick
            e_bar <- kappa e_bar + (1 - kappa) e                     d y / d w, y the readout trace
        """
        n = c.neurons
        if post.u is None or post.free is None:
            raise ValueError("e-prop needs the membranes of the postsynaptic neurons, got their spikes alone")
        eps = n.alpha * traces.eps + pre
        psi = np.where(post.free, n.damping * np.maximum(0, 1 - abs(post.u) / n.width) / n.v_th, 0)
        e = psi[:, None] * (eps - n.beta[:, None] * traces.eps_a)
        eps_a = n.rho[:, None] * traces.eps_a + e
        return EpropTraces(eps, eps_a, n.kappa * traces.e_bar + (1 - n.kappa) * e)

    @staticmethod
    def change(w: np.ndarray, traces: EpropTraces, signal: Any, c: EpropConstants) -> np.ndarray:
        """Return ``w + learning_rate signal_j e_bar_ji``."""
        return w + c.learning_rate * np.reshape(signal, (-1, 1)) * traces.e_bar


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

    >>> rng = np.random.default_rng(0)
    >>> neurons = LsnnNeurons(*(np.full(5, number) for number in (4.0, 1.0, 100.0, 0.2, 0)))
    >>> layer = Layer(rng.normal(size=(5, 3)), np.zeros(5), neurons, np.zeros((5, 5)))
    >>> result = eprop(rng.random((20, 3)), layer, signal=np.ones((20, 5)), tau_out=10.0)
    >>> result.dw_in.shape, result.dw_rec.shape, result.spikes.shape
    ((5, 3), (5, 5), (20, 5))
    """
    dtype, n = layer.w_in.dtype, layer.n_neurons
    if layer.w_rec is None or np.any(layer.bias):
        raise ValueError("e-prop needs a layer with recurrent weights and without bias")
    neurons = eprop_neurons(only_lsnn(layer.neurons, "e-prop"), tau_out, dtype, dt, damping, width)
    inputs = finite_array("x", x, ("T", layer.n_inputs), dtype)
    signals = finite_array("signal", signal, (len(inputs), n), dtype)
    w = np.concatenate((layer.w_in, layer.w_rec), axis=1)
    now = rest(n, w.shape[1], dtype)
    if state is not None:
        now = EpropState(*arrays_like("state", state, now))
        checks.spikes("state.z", now.z, (n,))
        if np.any(now.refractory % 1) or np.any(now.refractory < 0):
            raise ValueError(f"state.refractory must be whole ticks >= 0, got {now.refractory}")
    dw, spikes = np.zeros_like(w), np.empty_like(signals)
    eprop_kernels.eprop(inputs, signals, w, neurons, now, dw, spikes)
    dw_rec = np.ascontiguousarray(dw[:, layer.n_inputs :])
    np.fill_diagonal(dw_rec, 0)
    return EpropResult(np.ascontiguousarray(dw[:, : layer.n_inputs]), dw_rec, spikes, now)


def eprop_neurons(
    neurons: LsnnNeurons,
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
    of_all = (decay(neurons.tau_m[0], dt), decay(tau_out, dt), damping, width)
    of_each = (decay(neurons.tau_a, dt), neurons.beta, neurons.v_th, neurons.refractory)
    return EpropNeurons._make(np.array(value, dtype)[()] for value in (*of_each, *of_all))  # [()]: numbers stay so


def finite_array(name: str, value: npt.ArrayLike, shape: tuple[int | str, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Return a contiguous array of finite numbers of the given shape."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return checks.finite(name, np.asarray(checks.shaped(name, value, shape), dtype, order="C"))


def arrays_like(name: str, given: Any, wanted: Any) -> list[np.ndarray]:
    """Return copies of a tuple's arrays, which must have the shapes of those of ``wanted``, in the dtypes of those."""
    if len(given) != len(wanted):
        raise ValueError(f"{name} must hold {wanted._fields}, got {len(given)} arrays")
    pairs = zip(wanted._fields, given, wanted, strict=True)
    return [finite_array(f"{name}.{field}", array, like.shape, like.dtype).copy()[()] for field, array, like in pairs]


def rest(n: int, m: int, dtype: npt.DTypeLike, biased: bool = False) -> EpropState:
    """Return the state at rest of n neurons with m presynaptic channels, ``biased`` where the readout is."""
    state = EpropState(*(np.zeros(shape, dtype) for shape in (n, n, n, n, n + biased, m, (n, m), (n, m))))
    state.y[n:] = 1
    return state
