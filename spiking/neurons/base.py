"""What a neuron model is to the rest of the library: constants of a tick, and what one tick does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy.typing as npt


class Neurons(Protocol):
    """The neurons of one layer: a frozen dataclass of parameters, and the equations of their model.

    The equations are written once, in :meth:`tick`, and every engine runs them: numpy arrays, torch tensors under
    autograd, and numba, which compiles them for the numbers of one neuron. So ``tick`` uses nothing but ``+ - * /``,
    comparisons whose result is multiplied, and ``spike``; where it branches, it branches on a constant that is one
    number for all neurons.

    Attributes:
        rows: Names of the state variables, each one row of the packed state; ``"z"``, the output, is among them. All
            zeros is rest.
        graded: Whether the output is a number, not 0 or 1.
    """

    rows: ClassVar[tuple[str, ...]]
    graded: ClassVar[bool]

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        ...

    def constants(self, dt: float, dtype: npt.DTypeLike) -> NamedTuple:
        """Return the constants of a tick of ``dt`` ms: arrays of shape (N,) in ``dtype``, or one value for all."""
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
