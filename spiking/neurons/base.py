"""What a neuron model is to the rest of the library: constants of a tick, and what one tick does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.fields import array_of, set_fields
from spikeloop.spiking.limits import MAX_NEURONS


class Neurons(Protocol):
    """The neurons of one layer: a frozen dataclass of parameters, and the equations of their model.

    Fields annotated ``np.ndarray`` hold one number per neuron, shape (N,), others are one value for all neurons; a
    default that is a number is that of every neuron.

    The equations are written once, in :meth:`tick`, and every engine runs them: numpy arrays, torch tensors under
    autograd, and numba, which compiles them for vectors of neurons. So ``tick`` uses nothing but ``+ - * /``, ``abs``,
    comparisons whose result is multiplied by an array, and ``spike``. Numbers may be written out, and are of the type
    of the arrays they meet. Where ``tick`` branches, it branches on a constant that is one value for all neurons.
    Written so, numpy and numba compute the same bits from the same currents.

    Attributes:
        rows: Names of the state variables, each one row of the packed state; ``"z"``, the output, is among them, and
            ``"v"``, the membrane, is what :meth:`spikeloop.spiking.simulator.Simulator.record` shows. All zeros is
            rest: without current they stay zeros. A model that rests elsewhere holds its distance from there.
        graded: Whether the output is a number, not 0 or 1. What is counted as a spike of such a neuron is its output
            crossing 1/2 upwards.
    """

    rows: ClassVar[tuple[str, ...]]
    graded: ClassVar[bool]

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        ...

    def constants(self, dt: float, dtype: npt.DTypeLike) -> NamedTuple:
        """Return the constants of a tick of ``dt`` ms: arrays of shape (N,) in ``dtype``; bools and ints, one for all.

        Raises:
            ValueError: If the equations cannot be run in ticks of that length.
        """
        ...

    @staticmethod
    def tick(
        i: Any, z: Any, state: tuple[Any, ...], c: Any, spike: Callable[[Any], Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Advance the neurons by one tick.

        Args:
            i: Input current of the tick, shape (..., N).
            z: Output of the tick before.
            state: The other rows, in the order of ``rows``.
            c: What :meth:`constants` returned.
            spike: ``u -> 0 or 1``: 1 where u > 0; differentiable through a surrogate where that is wanted.

        Returns:
            The new output, and the other rows.
        """
        ...

    def largest_state(self, current: float, n_ticks: int) -> float:
        """Return a bound of what the state can reach from rest in ``n_ticks`` ticks with currents up to ``current``."""
        ...


def usually(value: float) -> Any:
    """Return the default of a field with one number per neuron, for the class body of a model."""
    return field(default=value)


def check_parameters(neurons: Any, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Check the fields of a neuron model while it is being built, and make them read-only arrays of shape (N,).

    A number stands for all neurons; one field at least is an array, which says how many there are.

    Args:
        neurons: The frozen dataclass.
        bounds: Least and largest value of each field that has one number per neuron.

    Raises:
        ValueError: If a field is neither, or holds what is not finite or out of its bounds.
    """
    me = type(neurons).__name__
    n = next((np.size(value) for name in bounds if np.ndim(value := getattr(neurons, name)) == 1), None)
    for name, (low, high) in bounds.items():
        value = getattr(neurons, name)
        array = array_of(me, name, value if n is None or np.ndim(value) else np.full(n, value), (n,), np.float64)
        if not 1 <= array.size <= MAX_NEURONS:
            raise ValueError(f"{me} must be of 1 to {MAX_NEURONS} neurons, got {array.size}")
        outside = array[(array < low) | (array > high)]
        if outside.size:
            raise ValueError(f"{me}.{name} must be within [{low:g}, {high:g}], found {outside[0]:g}")
        set_fields(neurons, **{name: array})
