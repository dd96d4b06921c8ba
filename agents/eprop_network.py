"""The network that e-prop teaches: its neurons as they are drawn, and its arrays as parts of a Network and back.

Each row of ``w`` holds a neuron's input weights, its bias where there are biases, and its recurrent weights: shape
(N, n_inputs + biased + N). Each row of ``w_out`` holds an output's weights, and its bias: (n_outputs, N + biased).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spikeloop.agents.checks import NOT_NEGATIVE, POSITIVE
from spikeloop.spiking.network import Layer
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.readout import Readout


def initial_neurons(
    rng: np.random.Generator,
    n_neurons: int,
    tau_m: float,
    tau_a: float | Sequence[float],
    beta: float,
    adaptive_fraction: float,
    refractory: int,
) -> LsnnNeurons:
    """Return neurons of which the first ``adaptive_fraction`` adapt.

    Args:
        rng: Draws time constants.
        n_neurons: Their number.
        tau_m: Time constant of the membranes, in ms.
        tau_a: Of adaptation; two are the ends of a range from which each neuron's is drawn log-uniformly.
        beta: Strength of adaptation.
        adaptive_fraction: Share of neurons that adapt.
        refractory: Ticks of silence after a spike.

    Raises:
        ValueError: If ``tau_a`` is neither, or a number is one that no neuron can have.

    >>> neurons = initial_neurons(np.random.default_rng(0), 4, 4.5, (10.0, 200.0), 0.3, 0.75, 0)
    >>> neurons.beta.tolist(), neurons.tau_a.round().tolist()
    ([0.3, 0.3, 0.3, 0.0], [67.0, 22.0, 11.0, 11.0])
    """
    return LsnnNeurons(
        tau_m=np.full(n_neurons, tau_m),
        v_th=np.ones(n_neurons),
        tau_a=_time_constants(rng, tau_a, n_neurons),
        beta=np.where(np.arange(n_neurons) < round(adaptive_fraction * n_neurons), beta, 0.0),
        refractory=np.full(n_neurons, refractory),
    )


def _time_constants(rng: np.random.Generator, tau: float | Sequence[float], n: int) -> np.ndarray:
    if NOT_NEGATIVE.holds(tau):
        return np.full(n, tau)
    pair = tau if isinstance(tau, (list, tuple)) and len(tau) == 2 else ()
    if not pair or not all(map(POSITIVE.holds, pair)) or pair[0] > pair[1]:
        raise ValueError(f"tau_a must be a number >= 0, or two > 0 in ascending order, got {tau!r}")
    return np.exp(rng.uniform(np.log(pair[0]), np.log(pair[1]), n))


def parts_of(
    w: np.ndarray, w_out: np.ndarray, n_inputs: int, neurons: LsnnNeurons, tau_out: float
) -> tuple[Layer, Readout]:
    """Return layer and readout for e-prop's arrays; the opposite of :func:`arrays_of`."""
    n, biased = len(w), w_out.shape[1] > len(w)
    bias = w[:, n_inputs] if biased else np.zeros(n, np.float32)
    b_out = w_out[:, n] if biased else np.zeros(len(w_out), np.float32)
    return Layer(w[:, :n_inputs], bias, neurons, w[:, -n:]), Readout(w_out[:, :n], b_out, tau_out=tau_out)


def arrays_of(layer: Layer, readout: Readout, biased: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return e-prop's ``w`` and ``w_out`` for a recurrent layer and its readout; without ``biased``, less the biases.

    >>> rng = np.random.default_rng(0)
    >>> neurons = initial_neurons(rng, 4, 4.5, 100.0, 0.3, 0.5, 0)
    >>> w, w_out = rng.random((4, 3 + 1 + 4), np.float32), rng.random((2, 4 + 1), np.float32)
    >>> w[:, 4:][np.eye(4, dtype=bool)] = 0  # no neuron reaches itself
    >>> [np.array_equal(*pair) for pair in zip((w, w_out), arrays_of(*parts_of(w, w_out, 3, neurons, 6.0), True))]
    [True, True]
    """
    assert layer.w_rec is not None
    w = np.concatenate((layer.w_in, layer.bias[:, None][:, :biased], layer.w_rec), axis=1)
    return w, np.concatenate((readout.w_out, readout.b_out[:, None][:, :biased]), axis=1)
