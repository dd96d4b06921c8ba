"""What a constraint on weights is to the rest of the library, and what a matrix of weights begins with under one.

A weight is ``w = sign * theta`` with ``theta >= 0`` where its sign is given; a synapse that is not there has weight 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from spikeloop.spiking.fields import number, set_fields

AWAKE = 1e-12  # size of a weight that is there and not yet anything: LSNN-official's epsilon


class Synapses(NamedTuple):
    """A matrix of weights, post x pre: which synapses there are, and their signs."""

    w: np.ndarray  # float32 or float64, 0 where no synapse is
    sign: np.ndarray  # int8: 1 excites, -1 inhibits, 0 may be either, or is where no synapse can be (the diagonal)
    active: np.ndarray  # bool, true where a synapse is; others have no gradient


class Constraint(Protocol):
    """What weights of spiking layers must be, before training and after each of its steps.

    Biases, readout and critic are free, and so are the input weights of the first layer unless ``input_connectivity``
    is below 1 or ``acting`` is given. With ``inhibitory`` each neuron has one sign for all synapses that it sends, to
    its own layer and to the next one (Dale's law).

    Attributes:
        draws_signs: Whether synapses whose neuron has no sign draw one each, which they keep.
    """

    draws_signs: ClassVar[bool]

    @property
    def connectivity(self) -> float:
        """Share of recurrent synapses that there are, of those between different neurons."""

    @property
    def input_connectivity(self) -> float:
        """Share of the input synapses of each layer; 1 leaves them alone."""

    @property
    def inhibitory(self) -> float | None:
        """Share of neurons that inhibit; None for neurons that may do both."""

    @property
    def acting(self) -> Callable[[Synapses], np.ndarray] | None:
        """Function of latent weights that returns those that layers act with; None where these are learnt themselves.

        Layers, and the network that is exported, have the weights that act. Their gradient moves the latent ones:
        ``after_step`` is given, and returns, latent weights.
        """

    def after_step(self, synapses: Synapses, rate: float, rng: np.random.Generator) -> tuple[Synapses, np.ndarray]:
        """Bring weights that a step of the optimizer has moved back to what they must be.

        Args:
            synapses: The weights after the step, and synapses and signs from before it.
            rate: Learning rate of the step.
            rng: Source of what is drawn.

        Returns:
            The synapses from now on, and which of them are still the same, bool, post x pre: the others' moments in the
            optimizer are cleared.
        """
        ...


def check_shares(constraint: Any, *names: str) -> None:
    """Refuse shares of a constraint that are none; ``inhibitory`` may also be None.

    Raises:
        ValueError: If one is out of range.
    """
    owner = type(constraint).__name__
    for name in names:
        value = getattr(constraint, name)
        if name != "inhibitory":
            set_fields(constraint, **{name: number(owner, name, value, 1e-6, 1.0)})
        elif value is not None:
            set_fields(constraint, inhibitory=number(owner, name, value, 0.0, 1.0))


def held(synapses: Synapses) -> np.ndarray:
    """Return the weights with 0 where no synapse is, and where one has come to the wrong side of its sign.

    >>> ones = np.ones((1, 3), bool)
    >>> held(Synapses(np.array([[0.5, -0.5, -0.5]]), np.array([[1, 1, 0]], np.int8), ones))
    array([[ 0.5,  0. , -0.5]])
    """
    w, sign, active = synapses
    return np.where(active & (sign * w >= 0), w, w.dtype.type(0))


def begin(
    constraint: Constraint, w: np.ndarray, senders: np.ndarray | None, recurrent: bool, rng: np.random.Generator
) -> Synapses:
    """Return what a matrix of drawn weights becomes under a constraint, before training.

    Synapses are drawn uniformly, and weights divided by the root of their share, so that currents keep their size. The
    weights of neurons with one sign take it, and those that inhibit are scaled until the weights onto each neuron sum
    to zero (LSNN-official, ``balance_matrix_per_neuron``); a neuron that has synapses of one sign only begins with all
    of them at 1e-12.

    Args:
        constraint: The constraint.
        w: The weights, post x pre.
        senders: Sign of each presynaptic neuron, 1 or -1, shape (n_pre,); None where they have none.
        recurrent: Whether pre- and postsynaptic neurons are the same; none then has a synapse onto itself.
        rng: Source of what is drawn.

    >>> from spikeloop.spiking.constraints.dale import Dale
    >>> begin(Dale(), np.array([[0.0, 2.0, -2.0, 1.0]] * 4), np.array([1, 1, 1, -1]), False, None).w[0]
    array([ 0.,  2.,  2., -4.])
    """
    possible = ~np.eye(len(w), dtype=bool) if recurrent else np.ones(w.shape, bool)
    share = constraint.connectivity if recurrent else constraint.input_connectivity
    if senders is not None:
        sign = np.broadcast_to(senders, w.shape).astype(np.int8)
    elif constraint.draws_signs:
        sign = rng.choice(np.array([-1, 1], np.int8), w.shape)
    else:
        sign = np.zeros(w.shape, np.int8)
    sign[~possible] = 0
    active = possible
    if share < 1:
        places = np.flatnonzero(possible)
        active = np.zeros(w.shape, bool)
        active.flat[rng.choice(places, max(1, round(share * len(places))), replace=False)] = True
    w = np.where(sign == 0, w, sign * abs(w)) / w.dtype.type(math.sqrt(share))
    w = np.where(active, w, w.dtype.type(0))
    return Synapses(w if senders is None else _balanced(w, sign, active), sign, active)


def _balanced(w: np.ndarray, sign: np.ndarray, active: np.ndarray) -> np.ndarray:
    excites, inhibits = (np.where(sign == s, abs(w), 0).sum(axis=1, keepdims=True) for s in (1, -1))
    both = (excites > 0) & (inhibits > 0)
    factor = np.divide(excites, inhibits, out=np.ones_like(excites), where=both)
    balanced = np.where(sign < 0, factor * w, w)
    return np.where(both, balanced, active * sign * AWAKE).astype(w.dtype)
