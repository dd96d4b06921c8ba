"""What is read from the spikes of the last layer: a leaky filter or a count, dense layers, a linear map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from spikeloop.spiking.fields import array_of, check_choice, flag, number, parts_of, set_fields
from spikeloop.spiking.limits import MAX_NUMBER, MAX_TIME

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


@dataclass(frozen=True, eq=False)
class Readout:
    """Linear map of a leaky filter of the last layer's spikes; the value read at the end of an env step.

    Args:
        w_out: Shape (n_outputs, N), or (n_outputs, width of the last dense layer) if there are any.
        b_out: Shape (n_outputs,).
        tau_out: Time constant of the filter in ms; 0 reads the spikes of the step's last tick.
        count: Read the mean number of spikes per tick of the step instead of the leaky filter.
        first_spike: Inference of discrete actions only: each output integrates ``w_out z + b_out`` from 0 over the
            ticks of the step, and the values are read when the first one exceeds ``v_th_out`` (at the last tick if
            none does), so that the largest of them is the first unit to spike.
        v_th_out: Threshold of those units.
        dense: Ordinary layers between the filter and the map: an MLP after a spiking actor. Beside a chip, the host
            computes them.

    Raises:
        ValueError: If shapes disagree or a value is out of range.
    """

    w_out: np.ndarray
    b_out: np.ndarray
    tau_out: float = 0.0
    count: bool = False
    first_spike: bool = False
    v_th_out: float = 1.0
    dense: tuple[Dense, ...] = ()

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "Readout"
        w_out = array_of(me, "w_out", self.w_out, (None, None))
        b_out = array_of(me, "b_out", self.b_out, (w_out.shape[0],), w_out.dtype)
        if b_out.size == 0:
            raise ValueError("Readout.b_out must have at least one output, got none")
        set_fields(
            self,
            w_out=w_out,
            b_out=b_out,
            tau_out=number(me, "tau_out", self.tau_out, 0.0, MAX_TIME),
            count=flag(me, "count", self.count),
            first_spike=flag(me, "first_spike", self.first_spike),
            v_th_out=number(me, "v_th_out", self.v_th_out, 1e-9, MAX_NUMBER),
            dense=parts_of(me, "dense", self.dense, Dense),
        )
        if self.first_spike and self.dense:
            raise ValueError("Readout.first_spike integrates spikes, there is no place for dense layers before it")
        for (n, _), (_, n_in) in pairwise([*(layer.w.shape for layer in self.dense), w_out.shape]):
            if n_in != n:
                raise ValueError(f"Readout.dense gives {n} values to weights that take {n_in}")
        if any(layer.w.dtype != w_out.dtype for layer in self.dense):
            raise ValueError(f"Readout.dense must be {w_out.dtype} as w_out is")

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
