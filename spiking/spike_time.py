"""Exact spike times: neurons that spike at most once in an env step, at a time that has a closed form.

A neuron starts each env step at rest. With the times ``t_i`` of its inputs' spikes, in units of ``tau``, its membrane
is ``V(t) = sum over t_i < t of w_i kappa(t - t_i)``, and it spikes when V first reaches the threshold ``v_th``. Between
two inputs, with sums over those that have come:

    alpha         kappa(s) = s exp(-s)                       tau_m = tau_s = tau (Comsa et al. 2019)
                  t = B/A - W0(-v_th/A exp(B/A))             A = sum w_i exp(t_i), B = sum w_i t_i exp(t_i)
    exponential   kappa(s) = 1 - exp(-s)                     no leak, tau_s = tau (Mostafa 2017)
                  exp(t) = A / (sum w_i - v_th)
    double        kappa(s) = 2 (exp(-s/2) - exp(-s))         tau_m = 2 tau_s = 2 tau (Goeltz et al. 2021)
                  exp(-t/2) = (C + sqrt(C^2 - 2 A v_th)) / (2 A)      C = sum w_i exp(t_i/2)

Such a t is the spike time if A > 0, the root exists, and t lies between this input and the next; otherwise the next
input comes first. W0 is the principal branch of Lambert's W. Implicit differentiation of ``V(t) = v_th`` (SpikeProp,
Bohte et al. 2002) gives

    dt/dw_i = -kappa(t - t_i) / V'(t)       dt/dt_i = w_i kappa'(t - t_i) / V'(t)       V' = sum w_i kappa'(t - t_i)

and for alpha ``V' = A exp(-t) (1 + W)``. V' is 0 where V only touches the threshold, so it counts as at least
``floor * max(A exp(-t), v_th)``. A silent neuron has no gradient: where the loss asks it to spike earlier, its weights
grow by a fixed share (``silent``) of the loss's gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from spikeloop.spiking import spike_time_kernels
from spikeloop.spiking.fields import array_of, check_choice, number, set_fields
from spikeloop.spiking.limits import MAX_NEURONS, MAX_NUMBER, MAX_TIME, MIN_THRESHOLD

KERNELS = ("alpha", "exponential", "double")  # in the order of the kernels' numbers
MAX_WINDOW = 500.0  # units of tau: its exponential is within float64


def lambert_w0(x: np.ndarray) -> np.ndarray:
    """Return the principal branch of Lambert's W for x within [-1/e, 0], by bisection: ``w exp(w) = x``.

    >>> float(lambert_w0(np.array([-0.25]))[0].round(12))
    -0.357402956181
    """
    low, high = np.full_like(x, -1.0), np.zeros_like(x)
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = middle * np.exp(middle) > x
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return 0.5 * (low + high)


def spike_times(times: np.ndarray, w: np.ndarray, v_th: float, window: float, kernel: str = "alpha") -> np.ndarray:
    """Return when each neuron spikes. This is the definition, in plain array operations; kernels are tested against it.

    Args:
        times: Of the inputs' spikes, in units of tau, shape (B, n_inputs); ``window`` and later is no spike.
        w: Weights, shape (N, n_inputs).
        v_th: Threshold.
        window: Length of the env step, in units of tau.
        kernel: One of :data:`KERNELS`.

    Returns:
        Shape (B, N), in units of tau; ``window`` where a neuron is silent.

    >>> t = spike_times(np.array([[0.0, 0.5]]), np.array([[1.0, 1.0], [0.1, 0.1]]), v_th=0.4, window=5.0)
    >>> t.round(6).tolist()  # the second neuron does not reach its threshold
    [[0.581302, 5.0]]
    """
    order = np.argsort(times, axis=1, kind="stable")
    t_in = np.take_along_axis(times, order, axis=1)[:, None]  # (B, 1, n_inputs)
    last = np.minimum(t_in.max(axis=2, keepdims=True), window)  # times are taken relative to it
    sorted_w = np.where(t_in < window, w[:, order].transpose(1, 0, 2), 0.0)  # (B, N, n_inputs)
    relative = t_in - last
    a = np.cumsum(sorted_w * np.exp(relative), axis=2)
    with np.errstate(all="ignore"):  # results that are not numbers are discarded below
        if kernel == "alpha":
            ratio = np.cumsum(sorted_w * relative * np.exp(relative), axis=2) / a
            x = -v_th / a * np.exp(ratio)
            found = np.where(x >= -1 / np.e, ratio - lambert_w0(np.clip(x, -1 / np.e, 0.0)), np.nan)
        elif kernel == "exponential":
            found = np.log(a / (np.cumsum(sorted_w, axis=2) - v_th))
        else:
            c = np.cumsum(sorted_w * np.exp(relative / 2), axis=2)
            found = -2 * np.log((c + np.sqrt(c * c - 2 * a * v_th)) / (2 * a))
        until = np.concatenate([t_in[:, :, 1:], np.full_like(t_in[:, :, :1], window)], axis=2)
        t = found + last
        taken = (a > 0) & (t >= t_in) & (t <= until) & (t < window)
    return np.where(taken, t, window).min(axis=2)


@dataclass(frozen=True, eq=False)
class SpikeTimeLayer:
    """One layer of neurons that spike at most once in an env step, each at its exact time.

    Beside the spikes of the layer before, every neuron gets pulses. The weights of some are trained and serve as its
    bias. The weight of one, the deadline, is fixed, so that neurons which nothing else has driven spike soon after it.

    Args:
        w_in: Input weights, shape (N, n_inputs), post x pre.
        w_pulse: Weights of the pulses, shape (N, n_pulses).
        t_pulse: When the pulses come, in ms, shape (n_pulses,).
        w_deadline: Weight of the deadline's pulse; 0 for none.
        deadline: When it comes, in ms.
        v_th: Threshold.
        tau: Unit of time in ms: the synaptic time constant of the kernel.
        kernel: One of :data:`KERNELS`.

    Raises:
        ValueError: If shapes disagree or a value is out of range.

    >>> layer = SpikeTimeLayer(np.ones((1, 2)), np.zeros((1, 1)), np.zeros(1), w_deadline=2.5, deadline=1.6)
    >>> layer.run(np.array([[0.0, 0.5], [5.0, 5.0]]), window=5.0).round(3).tolist()  # without input, after the deadline
    [[0.581], [1.794]]
    """

    trained: ClassVar[tuple[str, ...]] = ("w_in", "w_pulse")
    n_ticks: ClassVar[int] = 1
    graded: ClassVar[bool] = False

    w_in: np.ndarray
    w_pulse: np.ndarray
    t_pulse: np.ndarray
    w_deadline: float = 2.5
    deadline: float = 1.6
    v_th: float = 0.4
    tau: float = 1.0
    kernel: str = "alpha"

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "SpikeTimeLayer"
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
            t_pulse=t_pulse,
            w_deadline=number(me, "w_deadline", self.w_deadline, 0.0, MAX_NUMBER),
            deadline=number(me, "deadline", self.deadline, 0.0, MAX_TIME),
            v_th=number(me, "v_th", self.v_th, MIN_THRESHOLD, MAX_NUMBER),
            tau=number(me, "tau", self.tau, 1e-9, MAX_TIME),
        )

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
        return self.w_in, self.w_pulse

    def check(self, window: float, encoder: Any = None) -> None:
        """Raise ``ValueError`` if an env step of ``window`` ms is too long for it, or an encoder gives no times."""
        if encoder is not None and encoder.kind != "first_spikes":
            raise ValueError(f"Network.encoder must be 'first_spikes' before SpikeTimeLayer, got {encoder.kind!r}")
        if not window <= MAX_WINDOW * self.tau:
            raise ValueError(
                f"Network.dt must be at most {MAX_WINDOW:g} tau of its layers, {self.tau:g}, got {window:g}"
            )

    def run(self, x: np.ndarray, window: float, counts: np.ndarray | None = None) -> np.ndarray:
        """Return when each neuron spikes in ms, ``window`` where it does not, shape (B, N), given the inputs' times.

        Spikes are added to ``counts``, shape (N,).
        """
        w = np.concatenate((self.w_in, self.w_pulse, np.full((self.n_neurons, 1), self.w_deadline)), axis=1)
        y = with_pulses(self.kernel, x, self.t_pulse, self.deadline, w, self.v_th, window, self.tau)[0]
        if counts is not None:
            counts += np.count_nonzero(y < window, axis=0)
        return y

    def spikes(self, x: np.ndarray, window: float) -> np.ndarray:
        """Return when each neuron spikes in ms, infinity where it does not, shape (B, N, 1)."""
        y = self.run(x, window)
        return np.where(y < window, y, np.inf)[..., None]


def with_pulses(
    kernel: str,
    x: np.ndarray,
    t_pulse: np.ndarray,
    deadline: float,
    w: np.ndarray,
    v_th: float,
    window: float,
    tau: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Run the kernel for a layer's inputs, pulses and deadline, all in ms.

    Args:
        kernel: One of :data:`KERNELS`.
        x: Times of the inputs, shape (B, n_inputs).
        t_pulse: Of the pulses, shape (n_pulses,).
        deadline: Of the deadline's pulse.
        w: Weights of all three, shape (N, n_inputs + n_pulses + 1).
        v_th: Threshold.
        window: Length of the env step.
        tau: Unit of time.

    Returns:
        When each neuron spikes, of the type of ``x``; and what went to the kernel and came from it, in units of tau:
        the times of all inputs, the weights, and the neurons' times, float64.
    """
    n, n_rows = x.shape[1], len(x)
    times = np.empty((n_rows, w.shape[1]))
    times[:, :n], times[:, n:-1], times[:, -1] = x, t_pulse, deadline
    times /= tau
    weights, out = np.ascontiguousarray(w, np.float64), np.empty((n_rows, len(w)))
    spike_time_kernels.spike_times(KERNELS.index(kernel), times, weights, v_th, window / tau, out)
    return (out * tau).astype(x.dtype), times, weights, out


def decision_times(t: np.ndarray, sizes: tuple[int, ...], window: float) -> np.ndarray:
    """Return when the action of each step was known, in ms: when every group of outputs had its first spike.

    Args:
        t: When the outputs spiked, shape (B, n_outputs).
        sizes: Outputs of each group of the action head.
        window: Length of an env step in ms, which is when the action is known if none spikes.

    >>> decision_times(np.array([[0.5, 1.0, 2.0, np.inf], [np.inf] * 4]), (2, 2), window=5.0).tolist()
    [2.0, 5.0]
    """
    groups = np.split(t, np.cumsum(sizes)[:-1], axis=1)
    return np.minimum(np.max([group.min(axis=1) for group in groups], axis=0), window)
