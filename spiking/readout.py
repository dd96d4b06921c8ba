"""What is read from the spikes of the last layer: output units of several kinds, and dense layers before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from spikeloop.spiking.fields import array_of, check_choice, flag, number, parts_of, set_fields
from spikeloop.spiking.limits import MAX_NUMBER, MAX_TIME
from spikeloop.spiking.readout_kinds import READOUTS, Filter

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "identity": lambda x: x,
}


@dataclass(frozen=True, eq=False)
class Dense:
    """An ordinary layer between the readout trace and the output map: ``activation(w y + b)``.

    Args:
        w: Weights, shape (n_out, n_in).
        b: Biases, shape (n_out,).
        activation: One of :data:`ACTIVATIONS`.

    Raises:
        ValueError: If shapes disagree or the activation is unknown.
    """

    w: np.ndarray
    b: np.ndarray
    activation: str = "tanh"

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        w = array_of("Dense", "w", self.w, (None, None))
        if w.size == 0:
            raise ValueError(f"Dense.w must have at least one input and one output, got shape {w.shape}")
        set_fields(self, w=w, b=array_of("Dense", "b", self.b, (w.shape[0],), w.dtype))
        check_choice("Dense", "activation", self.activation, tuple(ACTIVATIONS))


@dataclass(frozen=True, eq=False, init=False)
class Readout:
    """Output units that the last layer's spikes reach through ``w_out``, and what is read of them at a step's end.

    Args:
        w_out: Shape (n_outputs, N), or (n_outputs, width of the last dense layer) if there are any.
        b_out: Shape (n_outputs,).
        tau_out: ``leaky``, ``bernoulli``, ``max`` and ``mean``: time constant of the filter in ms; with 0 a unit keeps
            nothing of earlier ticks, and ``leaky`` reads the spikes of the step's last tick.
        count: True stands for the kind ``count``.
        first_spike: True stands for the kind ``first_spike``.
        v_th_out: ``first_spike``: threshold of the units.
        dense: Ordinary layers between the filter and the map: an MLP after a spiking actor. Beside a chip, the host
            computes them. Kinds that use their units' membranes on every tick cannot have them.
        kind: One of :data:`~spikeloop.spiking.readout_kinds.READOUTS`: ``leaky`` (the default); ``count``, the mean
            number of spikes per tick; ``max`` and ``mean``, a unit's largest and its mean membrane in the step;
            ``slope``, how fast the unit's sum of spikes grows, by least squares over all ticks;
            ``first_spike``, units that race to a threshold; ``bernoulli``, units that spike at random and race to be
            first; or ``winner``, a circuit in which one unit spikes on every tick and inhibits the others. Units of
            the last three kinds choose discrete actions; those of ``winner`` also several actions at once, or numbers
            along rows of units, with a circuit for each group of the head.

    Raises:
        ValueError: If shapes disagree or a value is out of range.

    >>> Readout(np.ones((2, 5)), np.zeros(2), count=True).kind
    'count'
    >>> Readout(np.ones((2, 5)), np.zeros(2), kind="winner").spikes
    True
    """

    w_out: np.ndarray
    b_out: np.ndarray
    tau_out: float
    v_th_out: float
    dense: tuple[Dense, ...]
    kind: str

    def __init__(
        self,
        w_out: np.ndarray,
        b_out: np.ndarray,
        tau_out: float = 0.0,
        count: bool = False,
        first_spike: bool = False,
        v_th_out: float = 1.0,
        dense: tuple[Dense, ...] = (),
        kind: str | None = None,
    ):
        me = "Readout"
        flagged = (
            "first_spike" if flag(me, "first_spike", first_spike) else "count" if flag(me, "count", count) else None
        )
        kind = kind if kind is not None else flagged or "leaky"
        check_choice(me, "kind", kind, tuple(READOUTS))
        if flagged not in (None, kind):
            raise ValueError(f"Readout.{flagged} must be False beside kind {kind!r}")
        w_out = array_of(me, "w_out", w_out, (None, None))
        b_out = array_of(me, "b_out", b_out, (w_out.shape[0],), w_out.dtype)
        if b_out.size == 0:
            raise ValueError("Readout.b_out must have at least one output, got none")
        set_fields(
            self,
            w_out=w_out,
            b_out=b_out,
            tau_out=number(me, "tau_out", tau_out, 0.0, MAX_TIME),
            v_th_out=number(me, "v_th_out", v_th_out, 1e-9, MAX_NUMBER),
            dense=parts_of(me, "dense", dense, Dense),
            kind=kind,
        )
        if self.every_tick and self.dense:
            raise ValueError(f"Readout.dense must be empty with kind {kind!r}, whose units take spikes")
        for (n, _), (_, n_in) in pairwise([*(layer.w.shape for layer in self.dense), w_out.shape]):
            if n_in != n:
                raise ValueError(f"Readout.dense gives {n} values to weights that take {n_in}")
        if any(layer.w.dtype != w_out.dtype for layer in self.dense):
            raise ValueError(f"Readout.dense must be {w_out.dtype} as w_out is")

    @property
    def every_tick(self) -> bool:
        """Whether values depend on the units' membranes on every tick of the step, not only on the last tick."""
        return READOUTS[self.kind].decide is not None

    @property
    def spikes(self) -> bool:
        """Whether output units spike, which chooses an action."""
        return READOUTS[self.kind].fires

    @property
    def draws(self) -> bool:
        """Whether its units draw their spikes: the output values are then logarithms of the actions' probabilities."""
        return READOUTS[self.kind].draws

    @property
    def clears(self) -> bool:
        """Whether its units begin every env step anew."""
        return READOUTS[self.kind].clears

    @property
    def count(self) -> bool:
        """Whether it reads the mean number of spikes per tick of the step."""
        return self.kind == "count"

    def filter(self, n_ticks: int, dt: float) -> Filter:
        """Return the numbers of its units' filter."""
        return READOUTS[self.kind].filter(self.tau_out, n_ticks, dt)

    def decide(self, v: np.ndarray, sizes: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return values and spikes of output units, for kinds that use the membranes of every tick.

        Args:
            v: Their membranes after each tick of a step, shape (n_ticks, B, n_outputs).
            sizes: Units of each group of the action head; None for one group of all.

        Returns:
            The output values, shape (B, n_outputs), and the spikes, shape (n_ticks, B, n_outputs).
        """
        decide = READOUTS[self.kind].decide
        assert decide is not None
        return decide(v, self.v_th_out, (self.n_outputs,) if sizes is None else sizes)

    def membranes(self, drive: np.ndarray, dt: float = 1.0) -> np.ndarray:
        """Return output units' membranes from the drive of each tick, both (n_ticks, ...); kinds as in ``decide``."""
        return READOUTS[self.kind].membranes(drive, self.b_out, self.filter(len(drive), dt))

    @property
    def n_neurons(self) -> int:
        """Number of neurons N whose spikes it reads."""
        return self.weights[0].shape[1]

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """All its matrices in their order, each (n_out, n_in): the first meets the spikes, the last is ``w_out``."""
        return (*(layer.w for layer in self.dense), self.w_out)

    @property
    def n_outputs(self) -> int:
        """Number of output values."""
        return self.w_out.shape[0]
