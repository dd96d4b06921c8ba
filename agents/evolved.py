"""What of a network evolves, chosen by name, as one vector: displacements from where a search starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.step_layers import trained_arrays

WEIGHTS = "weights"
OF_NEURONS = ("tau_m", "v_th", "tau_a", "beta")  # positive numbers, whose logarithms are searched
PARAMETERS = (WEIGHTS, *OF_NEURONS)
_MOST = 10.0  # of a displaced logarithm: a factor of 22,000


@dataclass(frozen=True, eq=False)
class Evolved:
    """The parameters of a network that evolve.

    A vector of zeros is the network at the start, to the bit. A weight becomes ``w + unit z``, where the unit of a
    matrix is the root mean square of its numbers that are not 0; a bias has the unit of the matrix to whose sums it is
    added. Other parameters become ``p exp(z)``: they stay positive, and those that are 0, such as ``beta`` of neurons
    without adaptation, stay 0.

    Args:
        start: The network at the start.
        names: What evolves, of :data:`PARAMETERS`.

    Raises:
        ValueError: If a name is unknown or there twice, or the network has nothing of that name.

    >>> from spikeloop.spiking import Encoder, Layer, Readout
    >>> ones = np.ones(3)
    >>> neurons = LsnnNeurons(tau_m=4 * ones, v_th=ones, tau_a=100 * ones, beta=[0.0, 0.2, 0.2], refractory=0 * ones)
    >>> layer = Layer(np.full((3, 2), 0.5), np.zeros(3), neurons)
    >>> start = Network(Encoder("direct", 2), (layer,), Readout(np.ones((1, 3)), np.zeros(1)))
    >>> evolved = Evolved(start, ("weights", "beta"))
    >>> evolved.n  # 3 x 2 and 3 of w_in and bias, 3 and 1 of the readout, 2 of beta
    15
    >>> moved = evolved.network(np.full(15, 0.1))
    >>> moved.layers[0].w_in[0], moved.layers[0].neurons.beta.round(3)
    (array([0.55, 0.55]), array([0.   , 0.221, 0.221]))
    """

    start: Network
    names: tuple[str, ...] = (WEIGHTS,)

    def __post_init__(self) -> None:
        """Check the names."""
        names = self.names
        if isinstance(names, str) or not names or len(set(names)) < len(names):
            raise ValueError(f"evolved must name one or more of {', '.join(PARAMETERS)}, each once, got {names!r}")
        for name in names:
            if name not in PARAMETERS:
                raise ValueError(f"evolved must be of {', '.join(PARAMETERS)}, got {name!r}")
            if name != WEIGHTS and not any(mask.any() for mask in self._free(name)):
                raise ValueError(f"evolved names {name}, the network has no LSNN neuron whose {name} is above 0")

    @cached_property
    def weights(self) -> np.ndarray:
        """The start's weights, float64, in the order of :meth:`spikeloop.spiking.network.Network.to_vector`."""
        return self.start.to_vector().astype(np.float64)

    @cached_property
    def units(self) -> np.ndarray:
        """The unit of each weight, float64, in the same order."""
        parts = []
        for layer in self.start.layers:
            if self.start.answers_steps:
                parts += [np.full(array.size, _unit(array)) for array in trained_arrays(layer)]
                continue
            unit = _unit(layer.w_in)
            parts += [np.full(layer.w_in.size, unit), np.full(layer.n_neurons, unit)]
            if layer.w_rec is not None:
                n = layer.n_neurons
                parts.append(np.full(n * (n - 1), _unit(layer.w_rec)))
        readout = self.start.readout
        for w in readout.weights:
            parts += [np.full(w.size, _unit(w)), np.full(len(w), _unit(w))]
        return np.concatenate(parts)

    @cached_property
    def n(self) -> int:
        """Length of the vector."""
        n_weights = self.weights.size if WEIGHTS in self.names else 0
        return n_weights + sum(int(mask.sum()) for name in self.names if name != WEIGHTS for mask in self._free(name))

    def network(self, z: np.ndarray) -> Network:
        """Return the network at displacements ``z``, shape (n,).

        Raises:
            ValueError: If a membrane may leave its range there.
        """
        if z.shape != (self.n,):
            raise ValueError(f"z must have shape ({self.n},), got {z.shape}")
        network, left = self.start, z
        for name in self.names:
            if name == WEIGHTS:
                moved, left = left[: self.weights.size], left[self.weights.size :]
                network = network.with_vector((self.weights + self.units * moved).astype(network.dtype))
                continue
            layers = []
            for layer, free in zip(network.layers, self._free(name), strict=True):
                if free.any():
                    moved, left = left[: free.sum()], left[free.sum() :]
                    values: Any = np.array(getattr(layer.neurons, name))
                    values[free] *= np.exp(np.clip(moved, -_MOST, _MOST))
                    layer = replace(layer, neurons=replace(layer.neurons, **{name: values}))
                layers.append(layer)
            network = replace(network, layers=tuple(layers))
        return network

    def _free(self, name: str) -> list[np.ndarray]:
        """Return for each layer which neurons' number of that name evolves, bool, shape (N,)."""
        return [
            getattr(layer.neurons, name) > 0
            if not self.start.answers_steps and isinstance(layer.neurons, LsnnNeurons)
            else np.zeros(layer.n_neurons, bool)
            for layer in self.start.layers
        ]


def _unit(w: np.ndarray) -> float:
    """Return the root mean square of what is not 0 in a matrix; 1 if all is.

    >>> round(_unit(np.array([[0.0, 3.0], [0.0, 4.0]])), 3)
    3.536
    """
    found = w[w != 0].astype(np.float64)
    return float(np.sqrt(np.mean(found**2))) if found.size else 1.0


def names_of(evolved: str | Sequence[str]) -> tuple[str, ...]:
    """Return names as a tuple; one alone may be a text.

    >>> names_of("weights"), names_of(["weights", "tau_m"])
    (('weights',), ('weights', 'tau_m'))
    """
    return (evolved,) if isinstance(evolved, str) else tuple(evolved)
