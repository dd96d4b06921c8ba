"""Exact spike times in ticks: the network of neurons with a current and a membrane that stands for one of such layers.

With T ticks per tau, the kernels of :mod:`spikeloop.spiking.spike_time` are responses of neurons that lose a fixed
share of current and membrane on every tick (:class:`~spikeloop.spiking.neurons.current_lif.CurrentLif`). k ticks after
a spike, their membrane is the kernel at ``(k + 1) / T`` over a gain:

    alpha         tau_m = tau_s = tau           gain = exp(-1/T) / T
    exponential   no leak, tau_s = tau          gain = 1 - exp(-1/T)
    double        tau_m = 2 tau, tau_s = tau    gain = 2 (exp(-1/(2T)) - exp(-1/T))

So weights stay, thresholds are divided by the gain, and nothing is approximated but the times of spikes:

- An input at time t comes on tick ``round(T t)``, and a membrane passes its threshold on the tick in which it would in
  continuous time. Its spike stands for half a tick later on average, and takes a whole tick to the next layer. So what
  comes to layer L is ``L / 2`` ticks late, and the step is longer by a tick for each layer.
- Pulses keep their times: one between two ticks comes on both, with weights whose responses add up to its own on every
  tick. The first weight is ``w kappa(b) / kappa(1/T)``, b being the time to the second tick. To round such times would
  cost more: outputs often decide by whether a hump of the membrane reaches the threshold, which a pulse makes.
- Input lines reach the first layer only. A pulse to a later layer goes through a neuron of each layer before it, which
  spikes on the tick on which the pulse comes.
- Pulses often weigh more than all else, and one matrix has one step on a chip. A pulse comes on as many lines as it
  takes for none to weigh more than the layer's other inputs, 16 at most.
- A neuron is refractory for ``REFRACTORY`` ticks. In a longer step it may spike twice, but never before tick
  ``REFRACTORY + 1``: a decision that has been made by then is that of neurons which spike once.
- The first output spike decides. Of several on one tick it is that of the lowest index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from spikeloop.spiking.encoders.first_spikes_in_ticks import FirstSpikesInTicks
from spikeloop.spiking.fields import whole
from spikeloop.spiking.limits import MAX_TIME
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.current_lif import CurrentLif
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.spike_time import SpikeTimeLayer

REFRACTORY = 62  # ticks, the most that a counter of Loihi's holds
MAX_TICKS_PER_TAU = 1000
_MAX_LINES = 16


class _Line(NamedTuple):
    """A line of the host that brings a pulse: to which layer, on which tick, and its weights, shape (N,)."""

    layer: int
    tick: int
    weights: np.ndarray


def spike_times_in_ticks(network: Network, ticks_per_tau: int = 16) -> Network:
    """Return the network in ticks.

    Args:
        network: A policy of :class:`~spikeloop.spiking.spike_time.SpikeTimeLayer` whose first output spike acts.
        ticks_per_tau: Ticks T per tau of the first layer, 4 to 1000.

    Raises:
        ValueError: If it acts in another way, or a number is out of range.

    >>> from spikeloop.spiking import ActionHead, Encoder, Readout
    >>> first = SpikeTimeLayer(np.ones((3, 4)), np.ones((3, 1)), np.zeros(1))
    >>> second = SpikeTimeLayer(np.ones((2, 3)), np.ones((2, 1)), np.ones(1), deadline=2.6)
    >>> encoder, head = Encoder("first_spikes", 2, middle=[0.0, 0.0], scale=[1.0, 1.0]), ActionHead("discrete", (2,))
    >>> network = Network(encoder, (first, second), Readout(-np.eye(2), np.zeros(2)), head, dt=5.0)
    >>> ticks = spike_times_in_ticks(network)
    >>> ticks.n_ticks, ticks.dt, [layer.n_neurons for layer in ticks.layers], ticks.encoder.n_channels
    (82, 0.0625, [9, 2], 15)
    """
    layers: Sequence[SpikeTimeLayer] = network.layers
    whole("spike_times_in_ticks", "ticks_per_tau", ticks_per_tau, 4, MAX_TICKS_PER_TAU)
    _check(network)
    dt = layers[0].tau / ticks_per_tau
    lines = [line for i, layer in enumerate(layers) for line in _lines(i, layer, dt)]
    code = network.encoder
    encoder = FirstSpikesInTicks(
        code.n_obs,
        code.middle,  # type: ignore[attr-defined]
        code.scale,  # type: ignore[attr-defined]
        code.t_last,  # type: ignore[attr-defined]
        np.array([(line.tick - line.layer) * dt for line in lines]),
    )
    n = layers[-1].n_neurons
    return replace(
        network,
        encoder=encoder,
        layers=tuple(_in_ticks(i, layer, dt, lines) for i, layer in enumerate(layers)),
        readout=Readout(np.eye(n, dtype=network.dtype), np.zeros(n, network.dtype), kind="first_spike", v_th_out=0.5),
        n_ticks=math.ceil(network.n_ticks * network.dt / dt - 1e-9) + len(layers),
        dt=dt,
        latency=1,
        clears=True,
    )


def _check(network: Network) -> None:
    readout, head = network.readout, network.head
    if head is None or head.kind != "discrete":
        raise ValueError(
            f"SpikeTimeLayer in ticks needs a head of kind 'discrete', whose first output spike acts, got "
            f"{None if head is None else head.kind!r}"
        )
    steepness = -readout.w_out[0, 0]
    by_first = not readout.dense and np.array_equal(readout.w_out, -steepness * np.eye(len(readout.w_out)))
    if not by_first or steepness <= 0 or np.any(readout.b_out):
        raise ValueError(
            "SpikeTimeLayer in ticks acts by its first output spike: Network.readout.w_out must be -c times the "
            "identity, c > 0, without biases and dense layers"
        )


def _lines(index: int, layer: SpikeTimeLayer, dt: float) -> Iterator[_Line]:
    """Yield the lines that bring a layer its pulses."""
    most = float(np.abs(layer.w_in).max())
    deadline = np.full(layer.n_neurons, layer.w_deadline, layer.w_in.dtype)
    for time, weights in zip((*layer.t_pulse, layer.deadline), (*layer.w_pulse.T, deadline), strict=True):
        for tick, share in _on_ticks(float(time) / dt + 0.5 * index, layer.kernel, dt / layer.tau):
            largest = float(np.abs(weights).max()) * share
            n_lines = math.ceil(min(largest / most, _MAX_LINES)) if most else bool(largest)
            if n_lines:  # none comes before the neurons on its way can hand it on
                yield from [_Line(index, max(tick, index), weights * (share / n_lines))] * n_lines


def _on_ticks(at: float, kernel: str, tick: float) -> tuple[tuple[int, float], ...]:
    """Return the ticks on which a pulse comes, with its share on each.

    Args:
        at: When, in ticks.
        kernel: One of the kernels of :mod:`spikeloop.spiking.spike_time`.
        tick: Length of a tick in tau.
    """
    first = math.floor(at + 1e-5)  # times are float32
    left = (1.0 - max(at - first, 0.0)) * tick  # until the next tick
    if at - first < 1e-5:
        return ((first, 1.0),)
    unit = _response(kernel, tick)
    share = _response(kernel, left) / unit
    return (first, share), (first + 1, (_response(kernel, tick + left) - share * _response(kernel, 2 * tick)) / unit)


def _response(kernel: str, s: float) -> float:
    """Return the kernel s tau after a spike."""
    if kernel == "alpha":
        return s * math.exp(-s)
    return 1.0 - math.exp(-s) if kernel == "exponential" else 2.0 * (math.exp(-s / 2) - math.exp(-s))


def _in_ticks(index: int, layer: SpikeTimeLayer, dt: float, lines: Sequence[_Line]) -> Layer:
    """Return a layer's neurons, and behind them those that hand pulses on to later layers."""
    own = [line.weights for line in lines if line.layer == index]
    n_later = sum(line.layer > index for line in lines)
    n, n_before = layer.w_in.shape
    weight = float(np.abs(layer.w_in).max()) or 1.0
    w_in = np.zeros((n + n_later, n_before + len(own) + n_later), layer.w_in.dtype)
    w_in[:n, :n_before] = layer.w_in
    for k, weights in enumerate(own, start=n_before):
        w_in[:n, k] = weights
    w_in[n:, n_before + len(own) :] = weight * np.eye(n_later)
    tau_m = {"alpha": layer.tau, "exponential": MAX_TIME, "double": 2.0 * layer.tau}[layer.kernel]
    gain = _response(layer.kernel, dt / layer.tau)
    neurons = CurrentLif(
        v_th=np.repeat([layer.v_th / gain, 0.5 * weight], [n, n_later]),
        tau_m=tau_m,  # type: ignore[arg-type]
        tau_s=layer.tau,  # type: ignore[arg-type]
        refractory=REFRACTORY,  # type: ignore[arg-type]
    )
    return Layer(w_in, np.zeros(n + n_later, layer.w_in.dtype), neurons)
