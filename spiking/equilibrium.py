"""Equilibrium propagation: units settle to the minimum of an energy; how a small force shifts it gives the gradient.

Hidden units ``h`` and outputs ``o`` are connected by one matrix W, the same in both directions. They descend the energy
of Scellier & Bengio (2017), where inputs x are constant and ``0 <= h <= 1``,

    E = |h|^2 / 2 + |o|^2 / 2 - h W_in x - o W h - b h - c o

In the *free phase* every unit moves towards its input (all of them at once, from one and the same state):

    h <- clip(h + step (W_in x + b + W' o - h))          o <- o + step (W h + c - o)

A loss L is then computed from the values at which the units settle, and g is its gradient by these values, for each
sample. In two *nudged phases* the units go on from there: in one under the small force ``-beta g / |g|``, in the other
under ``+beta g / |g|``. Let ``h+, o+`` be the values that they reach with the first force, ``h-, o-`` those with the
second. Then

    dL/dW_in = |g| / (2 beta) (h- - h+) x'      dL/dW = |g| / (2 beta) (o- h-' - o+ h+')

and likewise for the biases. A synapse needs the values of its two units, and ``|g|``, one number for all synapses. The
error of these gradients goes to 0 with beta, and grows if the phases are too short to settle.

If the largest singular value of W is below 1, E is strictly convex: units settle at the same values, whatever the
start. Above 1 there may be two minima, and a policy may jump from one to the other.

With ``code = "rate"`` units send their values, real numbers, as above. With ``code = "sigma_delta"`` they send one bit
per step, a spike or none (O'Connor et al. 2019). The bits encode changes of a unit's value, and receivers add them up:

    phi <- phi + (u - (1 - lam) u_last) / lam      q = [phi > 1/2]      phi <- phi - q
    v <- (1 - lam) v + lam W q                     u <- clip(u + step (v + b - u))

where ``step`` and ``lam`` shrink, ``step / t^step_decay`` and ``lam / t^lam_decay`` in step t = 1, 2, ...; they go on
shrinking through the nudged phase. Outputs are clipped too, start at 1/2, and units are read as the mean of their last
``n_average`` values. Inputs are analog. About half of all bits are spikes, so this code does not save energy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from spikeloop.spiking import equilibrium_kernels
from spikeloop.spiking.engine import products
from spikeloop.spiking.fields import array_of, check_choice, number, set_fields, whole
from spikeloop.spiking.limits import MAX_NEURONS, MAX_TICKS

CODES = ("rate", "sigma_delta")
STATE_ROWS = ("u", "last", "phi", "v")  # value, last value encoded, remainder of the code, what was received


def settle(
    drive: np.ndarray,
    w: np.ndarray,
    bias_out: np.ndarray,
    force: np.ndarray,
    steps: np.ndarray,
    lams: np.ndarray,
    n_average: int,
    state: np.ndarray,
    spikes: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let units settle. This is the definition, in plain array operations; the kernel is tested against it.

    Args:
        drive: Input of the hidden units, ``W_in x + b``, shape (B, H).
        w: Weights from hidden units to outputs, and back, shape (O, H).
        bias_out: Constant input of the outputs, shape (O,).
        force: Subtracted from the input of each unit, shape (B, H + O); hidden units come first, as in all such arrays.
        steps: How far units move in each step, shape (T,).
        lams: ``lam`` of each step, shape (T,); 1 for ``rate``.
        n_average: Number of last steps whose values are averaged.
        state: Rows :data:`STATE_ROWS` before the first step, shape (4, B, H + O).
        spikes: Whether units send bits.

    Returns:
        The mean values, shape (B, H + O), the new state, and the spikes, bool, shape (T, B, H + O).

    >>> state = np.zeros((4, 1, 2))  # one hidden unit, one output, weight 1/2: h = 0.4 + o / 2, o = h / 2
    >>> numbers = np.full(60, 0.5), np.ones(60), 1, state, False
    >>> settle(np.array([[0.4]]), np.array([[0.5]]), np.zeros(1), np.zeros((1, 2)), *numbers)[0].round(6).tolist()
    [[0.533333, 0.266667]]
    """
    n_hidden = drive.shape[1]
    u, last, phi, v = (row.copy() for row in state)
    constant = np.concatenate([drive, np.broadcast_to(bias_out, (len(drive), len(bias_out)))], axis=1) - force
    values, bits = [], []
    for step, lam in zip(steps, lams, strict=True):
        q = u
        if spikes:
            phi = phi + (u - (1 - lam) * last) / lam
            q = (phi > 0.5).astype(u.dtype)
            phi, last = phi - q, u
        arrived = np.concatenate([q[:, n_hidden:] @ w, q[:, :n_hidden] @ w.T], axis=1)
        v = (1 - lam) * v + lam * arrived
        u = u + step * (constant + v - u)
        bounded = u if spikes else u[:, :n_hidden]
        np.clip(bounded, 0, 1, out=bounded)
        values.append(u)
        bits.append((q > 0.5) if spikes else np.zeros(q.shape, bool))
    return np.mean(values[-n_average:], axis=0), np.stack([u, last, phi, v]), np.stack(bits)


def bounded_coupling(w: np.ndarray, most: float) -> np.ndarray:
    """Return the nearest matrix to ``w`` whose largest singular value, squared, is at most ``most``.

    >>> bounded_coupling(np.diag([2.0, 0.5]), 0.81).round(6).tolist()
    [[0.9, 0.0], [0.0, 0.5]]
    """
    if np.square(w, dtype=np.float64).sum() <= most:  # the sum of all squared singular values
        return w
    left, values, right = np.linalg.svd(w.astype(np.float64), full_matrices=False)
    if values[0] ** 2 <= most:
        return w
    return ((left * np.minimum(values, np.sqrt(most))) @ right).astype(w.dtype)


@dataclass(frozen=True, eq=False)
class EquilibriumLayer:
    """Hidden units and outputs that settle together in every env step, always from the same state.

    The layer's neurons are the hidden units, then the outputs. A step of settling is a tick of the network.

    Args:
        w_in: Input weights of the hidden units, shape (H, n_inputs), post x pre.
        bias: Their constant input, shape (H,).
        w_out: Weights between hidden units and outputs, in both directions, shape (O, H).
        bias_out: Constant input of the outputs, shape (O,).
        code: What units send, one of :data:`CODES`.
        n_ticks: Steps of the free phase.
        step: How far a unit moves towards its input in the first step, at most 1.
        step_decay: Exponent with which ``step`` decays.
        lam: ``sigma_delta``: share of new bits in what a unit has received, in the first step.
        lam_decay: Exponent with which ``lam`` decays.
        n_average: Number of last steps whose values are averaged.

    Raises:
        ValueError: If shapes disagree or a value is out of range.

    >>> layer = EquilibriumLayer(np.ones((2, 1)), np.zeros(2), np.full((1, 2), 0.5), np.zeros(1), n_ticks=200)
    >>> layer.run(np.array([[0.1], [0.3], [2.0]]), 200.0).round(3).tolist()  # two hidden units, one output
    [[0.2, 0.2, 0.2], [0.6, 0.6, 0.6], [1.0, 1.0, 1.0]]
    """

    trained: ClassVar[tuple[str, ...]] = ("w_in", "bias", "w_out", "bias_out")

    w_in: np.ndarray
    bias: np.ndarray
    w_out: np.ndarray
    bias_out: np.ndarray
    code: str = "rate"
    n_ticks: int = 20
    step: float = 0.5
    step_decay: float = 0.0
    lam: float = 0.832
    lam_decay: float = 0.584
    n_average: int = 1

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "EquilibriumLayer"
        w_in = array_of(me, "w_in", self.w_in, (None, None))
        w_out = array_of(me, "w_out", self.w_out, (None, None if w_in.size == 0 else len(w_in)), w_in.dtype)
        if w_in.size == 0 or w_out.size == 0 or len(w_in) + len(w_out) > MAX_NEURONS:
            raise ValueError(
                f"{me} must have an input, a hidden unit and an output, and at most {MAX_NEURONS} units, got w_in "
                f"{w_in.shape} and w_out {w_out.shape}"
            )
        check_choice(me, "code", self.code, CODES)
        n_ticks = whole(me, "n_ticks", self.n_ticks, 1, MAX_TICKS)
        set_fields(
            self,
            w_in=w_in,
            bias=array_of(me, "bias", self.bias, (len(w_in),), w_in.dtype),
            w_out=w_out,
            bias_out=array_of(me, "bias_out", self.bias_out, (len(w_out),), w_in.dtype),
            n_ticks=n_ticks,
            step=number(me, "step", self.step, 1e-6, 1.0),
            step_decay=number(me, "step_decay", self.step_decay, 0.0, 1.0),
            lam=number(me, "lam", self.lam, 1e-6, 1.0),
            lam_decay=number(me, "lam_decay", self.lam_decay, 0.0, 1.0),
            n_average=whole(me, "n_average", self.n_average, 1, n_ticks),
        )

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return self.w_in.shape[1]

    @property
    def n_neurons(self) -> int:
        """Number of units, hidden units and outputs."""
        return len(self.w_in) + len(self.w_out)

    @property
    def matrices(self) -> tuple[np.ndarray, ...]:
        """The weight matrices, those of the inputs and those between hidden units and outputs."""
        return self.w_in, self.w_out

    @property
    def graded(self) -> bool:
        """Whether units send numbers, not spikes."""
        return self.code == "rate"

    @property
    def w_rec(self) -> np.ndarray:
        """The weights between units, shape (N, N): from hidden units to outputs, and from outputs to hidden units."""
        n = len(self.w_in)
        w = np.zeros((self.n_neurons, self.n_neurons), self.w_in.dtype)
        w[n:, :n], w[:n, n:] = self.w_out, self.w_out.T
        return w

    def check(self, window: float, encoder: Any = None) -> None:
        """Raise ``ValueError`` if ``encoder`` does not hold its values over an env step, or layers come before."""
        if encoder is None:
            raise ValueError("Network.layers must hold one EquilibriumLayer alone: it has its hidden units within")
        if not encoder.held or encoder.memory_rows:
            raise ValueError(
                f"Network.encoder must hold its values over the env step and remember nothing before "
                f"EquilibriumLayer, got {encoder.kind!r}"
            )

    def run(self, x: np.ndarray, window: float, counts: np.ndarray | None = None) -> np.ndarray:
        """Return settled values (B, N) for inputs (B, n_inputs); each unit's spikes are added to ``counts`` (N,)."""
        return free_phase(self, weights_of(self), x, counts)[0]

    def spikes(self, x: np.ndarray, window: float) -> np.ndarray:
        """Return spike times in ms, (B, N, n_ticks), infinity where a tick has none; (B, N, 0) with code ``rate``."""
        if self.graded:
            return np.empty((len(x), self.n_neurons, 0), x.dtype)
        sent = np.zeros((len(x), self.n_neurons, self.n_ticks), np.uint8)
        free_phase(self, weights_of(self), x, None, sent)
        return np.where(sent, np.arange(self.n_ticks) * (window / self.n_ticks), np.inf)


def weights_of(layer: EquilibriumLayer) -> tuple[np.ndarray, ...]:
    """Return copies of a layer's weights: kernels are compiled for writable arrays."""
    return tuple(np.array(getattr(layer, name), order="C") for name in layer.trained)


def schedule(layer: EquilibriumLayer, before: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``step`` and ``lam`` of ``n`` steps that come after ``before`` earlier ones, each shape (n,).

    >>> layer = EquilibriumLayer(np.ones((1, 1)), np.zeros(1), np.ones((1, 1)), np.zeros(1), step=0.8, step_decay=0.5)
    >>> schedule(layer, 3, 2)[0].round(3).tolist()
    [0.4, 0.358]
    """
    t, dtype = np.arange(before + 1.0, before + n + 1.0), layer.w_in.dtype
    lams = np.ones(n) if layer.graded else layer.lam / t**layer.lam_decay
    return (layer.step / t**layer.step_decay).astype(dtype), lams.astype(dtype)


def free_phase(
    layer: EquilibriumLayer,
    weights: tuple[np.ndarray, ...],
    x: np.ndarray,
    counts: np.ndarray | None = None,
    sent: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let units settle from rest.

    Args:
        layer: The layer, whose own weights are not used.
        weights: Those of :func:`weights_of`, or others of the same shapes.
        x: Inputs, shape (B, n_inputs), of the weights' type.
        counts: The number of spikes of each unit is added to it, int64, shape (N,); None if they are not counted.
        sent: Set to 1 where a unit spikes in a step, uint8, shape (B, N, n_ticks); None if spikes are not recorded.

    Returns:
        The settled values, (B, N), the state after the last step, (4, B, N), and the input of the hidden units, (B, H).
    """
    w_in, bias, w_out, bias_out = weights
    drive = np.empty((len(x), len(w_in)), w_in.dtype)
    products.linear_rows(np.ascontiguousarray(x), w_in, bias, drive)
    state = np.zeros((len(STATE_ROWS), len(x), layer.n_neurons), w_in.dtype)
    if not layer.graded:
        state[0, :, len(w_in) :] = 0.5
    y = np.empty(state.shape[1:], w_in.dtype)
    equilibrium_kernels.settle(
        not layer.graded, drive, w_out, w_out, bias_out, np.zeros_like(y), *schedule(layer, 0, layer.n_ticks),
        layer.n_average, state, y, np.zeros(layer.n_neurons, np.int64) if counts is None else counts,
        np.empty((0, 0, 0), np.uint8) if sent is None else sent,
    )  # fmt: skip
    return y, state, drive


def nudged_phases(
    layer: EquilibriumLayer,
    weights: tuple[np.ndarray, ...],
    drive: np.ndarray,
    state: np.ndarray,
    grad: np.ndarray,
    beta: float,
    n_nudged: int,
    w_back: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let settled units settle again under a force against a loss's gradient, and under one in its direction.

    Args:
        layer: The layer, whose own weights are not used.
        weights: As for :func:`free_phase`.
        drive: Input of the hidden units, as :func:`free_phase` returns it.
        state: State after the free phase, as :func:`free_phase` returns it; not modified.
        grad: The loss's gradient by the units' values, shape (B, N).
        beta: Length of the force, the same for every sample.
        n_nudged: Steps of each phase.
        w_back: A control: weights that carry the outputs' shift to the hidden units in place of W, shape (O, H).

    Returns:
        The values reached against the gradient and along it, each (B, N), and ``|grad| / (2 beta)``, shape (B, 1).
    """
    _, _, w_out, bias_out = weights
    size = np.sqrt(np.square(grad, dtype=np.float64).sum(axis=1, keepdims=True))
    force = (beta * grad / np.maximum(size, np.finfo(np.float64).tiny)).astype(grad.dtype)
    if w_back is not None:  # hidden units keep their input of the free phase; only its changes pass through w_back
        n, state = drive.shape[1], state.copy()
        back = state[0, :, n:] @ w_back
        drive, state[3, :, :n] = drive + state[3, :, :n] - back, back
    settled = []
    for nudge in (force, -force):
        y, moved = np.empty_like(grad), state.copy()
        equilibrium_kernels.settle(
            not layer.graded, drive, w_out, w_out if w_back is None else w_back, bias_out, nudge,
            *schedule(layer, layer.n_ticks, n_nudged), min(layer.n_average, n_nudged), moved, y,
            np.zeros(layer.n_neurons, np.int64), np.empty((0, 0, 0), np.uint8),
        )  # fmt: skip
        settled.append(y)
    return settled[0], settled[1], (size / (2 * beta)).astype(grad.dtype)
