"""EventProp: recurrent neurons that spike several times in an env step at exact times, and their exact gradients.

Leaky integrate-and-fire neurons with exponential synapses. Times are in units of ``tau``, the synaptic time constant:

    V' = -V / tau_m + I          I' = -I          V = I = 0 as the env step begins
    an input i spikes            I_j <- I_j + w_ji                     for every neuron j
    V_n reaches v_th             n spikes: V_n <- 0, and I_j <- I_j + w_jn    for every neuron j, itself included

A spike arrives at once. Only currents jump, and no membrane does, so it never makes another neuron spike at the same
instant, and the order of events is well defined without a delay. A neuron spikes at most ``max_spikes`` times in an
env step and is silent from then on, as one of :mod:`spikeloop.spiking.spike_time` is after its first spike. Without
such a bound neurons that excite each other would spike ever faster.

After a time s without events, ``V(s) = V exp(-s/tau_m) + I kappa(s)``, with the ``kappa`` of one of the
``KERNELS`` there: ``alpha`` has tau_m = 1, ``exponential`` no leak, and ``double`` tau_m = 2. For these three, the time
at which V reaches the threshold has a closed form, so that no step of time and no search for roots stands between one
event and the next. The answer of a neuron is its trace, the integral over the step, which ends at T, of a membrane
that gets its spikes and never spikes itself:

    r_j = sum over spikes t of j of K(T - t)          K(s) = integral of kappa from 0 to s

An earlier spike makes it larger, wherever in the step it is. It does not jump where a spike comes in at the end of the
step or leaves there, as K(0) = 0.

The gradient is that of the adjoint equations (Wunderlich & Pehle 2021), which run backward in time. ``l^V`` and ``l^I``
are the derivatives of the loss by V and I. Between events, over a time s,

    l^I <- l^I exp(-s) + l^V kappa(s)          l^V <- l^V exp(-s/tau_m)          both are 0 at T

At an event, with x for the input or the neuron it comes from,

    dL/dw_jx += l^I_j          dL/dt = sum_j w_jx (l^I_j - l^V_j)
    for a neuron n also        dL/dt -= l^V_n I_n + dL/dr_n kappa(T - t),   then   l^V_n <- -(dL/dt) / V_n'

with I_n and ``V_n' = I_n - v_th/tau_m`` just before its spike. It is exact as long as no spike comes or goes; where a
membrane only touches the threshold, V' is 0, and so it counts as at least ``floor max(I, v_th)``. A silent neuron has
no gradient: where the loss asks for a larger trace, the weights of its inputs grow by a fixed share (``silent``) of
the loss's gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from spikeloop.spiking import event_prop_kernels
from spikeloop.spiking.fields import array_of, check_choice, number, set_fields, whole
from spikeloop.spiking.limits import MAX_NEURONS, MAX_NUMBER, MAX_TIME, MIN_THRESHOLD
from spikeloop.spiking.spike_time import KERNELS, MAX_WINDOW

MAX_SPIKES = 1000  # of a neuron in an env step
_TAU_M = {"alpha": 1.0, "exponential": np.inf, "double": 2.0}


def _kappa(kernel: str, s: Any) -> Any:
    if kernel == "alpha":
        return s * np.exp(-s)
    if kernel == "exponential":
        return 1.0 - np.exp(-s)
    return 2.0 * (np.exp(-s / 2) - np.exp(-s))


def _first_crossing(kernel: str, v: np.ndarray, i: np.ndarray, v_th: float, within: float) -> np.ndarray:
    """Return after how long each membrane reaches the threshold, by bisection; infinity if not in that time."""
    with np.errstate(all="ignore"):  # V has one hump if I > 0, with this top; neurons without are taken out below
        tops = {
            "alpha": 1.0 - v / i,
            "exponential": np.inf,
            "double": -2.0 * np.log((i + v / 2) / (2 * i)),
        }
    at = np.clip(np.where(i > 0, np.nan_to_num(tops[kernel], nan=0.0, posinf=within, neginf=0.0), 0.0), 0.0, within)

    def above(s: np.ndarray) -> np.ndarray:
        return v * np.exp(-s / _TAU_M[kernel]) + i * _kappa(kernel, s) >= v_th

    reached, low, high = above(at), np.zeros_like(v), at
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = np.where(above(middle), low, middle), np.where(above(middle), middle, high)
    return np.where(reached, high, np.inf)


def spike_trains(
    times: np.ndarray,
    w: np.ndarray,
    w_rec: np.ndarray,
    v_th: float,
    window: float,
    kernel: str = "double",
    max_spikes: int = 8,
) -> np.ndarray:
    """Return when each neuron spikes. This is the definition, in plain array operations; kernels are tested against it.

    Args:
        times: Of the inputs' spikes, in units of tau, shape (n_inputs,); ``window`` and later is no spike.
        w: Weights, shape (N, n_inputs), post x pre.
        w_rec: Weights between neurons, shape (N, N), post x pre.
        v_th: Threshold.
        window: Length of the env step, in units of tau.
        kernel: One of :data:`~spikeloop.spiking.spike_time.KERNELS`.
        max_spikes: Spikes of a neuron at most.

    Returns:
        Shape (N, max_spikes), in units of tau, infinity for no spike.

    >>> w, w_rec = np.array([[2.0], [0.0]]), np.array([[0.0, -1.0], [0.8, 0.0]])  # the second neuron stops the first
    >>> spike_trains(np.array([0.0]), w, w_rec, v_th=0.4, window=5.0, max_spikes=3).round(3).tolist()
    [[0.239, 0.563, inf], [0.74, 1.244, inf]]
    """
    found, n_spikes = np.full((len(w), max_spikes), np.inf), np.zeros(len(w), int)
    v, i, t = np.zeros(len(w)), np.zeros(len(w)), 0.0
    inputs = [(times[k], k) for k in np.argsort(times, kind="stable") if times[k] < window]
    while True:
        wait = max((inputs[0][0] if inputs else window) - t, 0.0)
        after = np.where(n_spikes < max_spikes, _first_crossing(kernel, v, i, v_th, wait), np.inf)
        n = int(np.argmin(after))
        spikes = after[n] < wait
        if not (spikes or inputs):
            return found
        s = after[n] if spikes else wait
        v = np.where(after == s, v_th, v * np.exp(-s / _TAU_M[kernel]) + i * _kappa(kernel, s))
        i = i * np.exp(-s)
        if spikes:
            t += s
            found[n, n_spikes[n]], v[n] = t, 0.0
            n_spikes[n] += 1
            i = i + w_rec[:, n]
        else:
            t, k = inputs.pop(0)
            i = i + w[:, k]


class Events(NamedTuple):
    """What happened in env steps, in units of tau: results of ``event_prop_kernels.run_events``, row by row."""

    when: np.ndarray
    source: np.ndarray
    current: np.ndarray
    n_events: np.ndarray
    fired: np.ndarray
    trace: np.ndarray


@dataclass(frozen=True, eq=False)
class EventPropLayer:
    """A layer of recurrent neurons that spike up to ``max_spikes`` times in an env step, from rest, at exact times.

    Beside the inputs' spikes every neuron gets pulses at fixed times, whose weights serve as its bias.

    Args:
        w_in: Input weights, shape (N, n_inputs), post x pre.
        w_pulse: Weights of the pulses, shape (N, n_pulses).
        w_rec: Weights between neurons, shape (N, N), post x pre; a neuron may have a synapse onto itself.
        t_pulse: When the pulses come, in ms, shape (n_pulses,).
        v_th: Threshold.
        tau: Unit of time in ms: the synaptic time constant.
        kernel: One of :data:`~spikeloop.spiking.spike_time.KERNELS`.
        max_spikes: Spikes of a neuron in an env step at most; it is silent afterwards.

    Raises:
        ValueError: If shapes disagree or a value is out of range.

    >>> w_rec = np.array([[0.0, -1.0], [0.8, 0.0]])
    >>> layer = EventPropLayer(np.array([[2.0], [0.0]]), np.zeros((2, 0)), w_rec, np.zeros(0), max_spikes=3)
    >>> layer.spikes(np.array([[0.0]]), window=5.0).round(3).tolist()
    [[[0.239, 0.563, inf], [0.74, 1.244, inf]]]
    >>> layer.run(np.array([[0.0]]), window=5.0).round(4).tolist()  # their traces
    [[3.2357, 2.9882]]
    """

    trained: ClassVar[tuple[str, ...]] = ("w_in", "w_pulse", "w_rec")
    graded: ClassVar[bool] = False

    w_in: np.ndarray
    w_pulse: np.ndarray
    w_rec: np.ndarray
    t_pulse: np.ndarray
    v_th: float = 0.4
    tau: float = 1.0
    kernel: str = "double"
    max_spikes: int = 8

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "EventPropLayer"
        w_in = array_of(me, "w_in", self.w_in, (None, None))
        if w_in.size == 0 or len(w_in) > MAX_NEURONS:
            raise ValueError(f"{me}.w_in must have 1 to {MAX_NEURONS} neurons and an input, got shape {w_in.shape}")
        w_pulse = array_of(me, "w_pulse", self.w_pulse, (len(w_in), None), w_in.dtype)
        t_pulse = array_of(me, "t_pulse", self.t_pulse, (w_pulse.shape[1],), w_in.dtype)
        if t_pulse.size and t_pulse.min() < 0:
            raise ValueError(f"{me}.t_pulse must be >= 0, found {t_pulse.min()}")
        check_choice(me, "kernel", self.kernel, KERNELS)
        set_fields(
            self,
            w_in=w_in,
            w_pulse=w_pulse,
            w_rec=array_of(me, "w_rec", self.w_rec, (len(w_in), len(w_in)), w_in.dtype),
            t_pulse=t_pulse,
            v_th=number(me, "v_th", self.v_th, MIN_THRESHOLD, MAX_NUMBER),
            tau=number(me, "tau", self.tau, 1e-9, MAX_TIME),
            max_spikes=whole(me, "max_spikes", self.max_spikes, 1, MAX_SPIKES),
        )

    @property
    def n_ticks(self) -> int:
        """Chances of a neuron to spike in an env step, which a network of this layer calls its ticks."""
        return self.max_spikes

    @property
    def n_inputs(self) -> int:
        """Number of inputs, without the pulses."""
        return self.w_in.shape[1]

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        return self.w_in.shape[0]

    @property
    def matrices(self) -> tuple[np.ndarray, ...]:
        """The weights that spikes meet."""
        return self.w_in, self.w_pulse, self.w_rec

    def check(self, window: float, encoder: Any = None) -> None:
        """Raise ``ValueError`` if an env step of ``window`` ms is too long, or ``encoder`` gives no times."""
        if encoder is None:
            raise ValueError("Network.layers must hold one EventPropLayer alone: its traces are no spike times")
        if encoder.kind != "first_spikes":
            raise ValueError(f"Network.encoder must be 'first_spikes' before EventPropLayer, got {encoder.kind!r}")
        if not window <= MAX_WINDOW * self.tau:
            longest = MAX_WINDOW * self.tau
            raise ValueError(
                f"Network.n_ticks times dt must be at most {MAX_WINDOW:g} tau, {longest:g}, got {window:g}"
            )

    def run(self, x: np.ndarray, window: float, counts: np.ndarray | None = None) -> np.ndarray:
        """Return the neurons' traces, shape (B, N), given the inputs' times in ms, shape (B, n_inputs).

        Spikes are added to ``counts``, shape (N,).
        """
        events = run_events(self, (self.w_in, self.w_pulse, self.w_rec), x, window)[2]
        if counts is not None:
            counts += events.fired.sum(axis=0)
        return events.trace.astype(x.dtype)

    def spikes(self, x: np.ndarray, window: float) -> np.ndarray:
        """Return when each neuron spikes in ms, infinity where it does not, shape (B, N, max_spikes)."""
        times, _, events = run_events(self, (self.w_in, self.w_pulse, self.w_rec), x, window)
        found, n = np.full((len(x), self.n_neurons, self.max_spikes), np.inf, x.dtype), times.shape[1]
        so_far = np.zeros((len(x), self.n_neurons), np.int64)
        for row, n_events in enumerate(events.n_events):
            for t, source in zip(events.when[row, :n_events], events.source[row, :n_events] - n, strict=True):
                if source >= 0:
                    found[row, source, so_far[row, source]] = t * self.tau
                    so_far[row, source] += 1
        return found


def run_events(
    layer: EventPropLayer, weights: tuple[np.ndarray, ...], x: np.ndarray, window: float
) -> tuple[np.ndarray, np.ndarray, Events]:
    """Run env steps from rest.

    Args:
        layer: The layer, whose own weights are not used.
        weights: Its ``w_in``, ``w_pulse`` and ``w_rec``, or others of their shapes.
        x: Times of the inputs in ms, shape (B, n_inputs).
        window: Length of the env step in ms.

    Returns:
        The times of inputs and pulses in units of tau, (B, n); the weights by their sources, (n + N, N); and what
        happened.
    """
    n_inputs, n_pulses, n_neurons = layer.n_inputs, len(layer.t_pulse), layer.n_neurons
    times = np.empty((len(x), n_inputs + n_pulses))
    times[:, :n_inputs], times[:, n_inputs:] = x, layer.t_pulse
    times /= layer.tau
    w = np.ascontiguousarray(np.concatenate(weights, axis=1).T, np.float64)
    shape = len(x), times.shape[1] + n_neurons * layer.max_spikes
    events = Events(
        np.empty(shape), np.empty(shape, np.int64), np.empty(shape), np.empty(len(x), np.int64),
        np.empty((len(x), n_neurons), np.int64), np.empty((len(x), n_neurons)),
    )  # fmt: skip
    event_prop_kernels.run_events(
        KERNELS.index(layer.kernel), times, w, layer.v_th, window / layer.tau, layer.max_spikes, *events
    )
    return times, w, events


def backward(
    layer: EventPropLayer,
    times: np.ndarray,
    w: np.ndarray,
    window: float,
    events: Events,
    grad: np.ndarray,
    floor: float = 0.1,
    silent: float = 0.05,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss's gradient by the times of inputs and pulses, per tau, and by the weights: EventProp.

    Args:
        layer: The layer, whose own weights are not used.
        times: As :func:`run_events` returned it.
        w: As it returned it.
        window: Length of the env step in ms.
        events: As it returned it.
        grad: The loss's gradient by the traces, shape (B, N).
        floor: Least slope of a membrane at its spike, as a share of the current, or of the threshold if that is more.
        silent: The weights of a silent neuron's inputs grow by this share of the gradient.

    Returns:
        Shapes (B, n) and (n + N, N), as ``times`` and ``w``.
    """
    grad_times, grad_w = np.zeros_like(times), np.zeros_like(w)
    event_prop_kernels.run_adjoint(
        KERNELS.index(layer.kernel), w, layer.v_th, window / layer.tau, *events[:5],
        np.ascontiguousarray(grad, np.float64), floor, silent, times.shape[1], grad_times, grad_w,
    )  # fmt: skip
    return grad_times, grad_w
