"""Layers of spiking neurons as torch modules: what is trained, saved and moved between devices of a Layer."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from spikeloop.spiking.engine import any_kernels, sequences
from spikeloop.spiking.fields import parts_of
from spikeloop.spiking.initial import per_neuron
from spikeloop.spiking.metrics import Synapses
from spikeloop.spiking.network import Layer
from spikeloop.spiking.neurons import Neurons
from spikeloop.spiking.neurons.lsnn import LsnnNeurons

if TYPE_CHECKING:
    from spikeloop.spiking.gradients.surrogate import Surrogate


class SpikingLayer(nn.Module):
    """One layer: its weights are parameters, the numbers of its neurons buffers.

    Args:
        layer: What it is at first.

    Attributes:
        w_in: Input weights, shape (N, n_inputs), post x pre.
        w_rec: Recurrent weights, shape (N, N), of which the diagonal counts for nothing; None for none.
        bias: Constant current, shape (N,).
        kind: Class of the neurons. Each of its fields with one number per neuron is a buffer of that name, shape (N,).
        options: Its other fields, which hold for all neurons.

    >>> from spikeloop.spiking.neurons.izhikevich import Izhikevich
    >>> layer = SpikingLayer(Layer(np.ones((2, 3)), np.zeros(2), Izhikevich(c=np.array([-65.0, -50.0]))))
    >>> layer.c
    tensor([-65., -50.], dtype=torch.float64)
    >>> layer.value.neurons.c.tolist()
    [-65.0, -50.0]
    """

    w_rec: nn.Parameter | None

    def __init__(self, layer: Layer):
        super().__init__()
        self.kind: type[Neurons] = type(layer.neurons)
        fields = dataclasses.fields(layer.neurons)  # type: ignore[arg-type]
        self.array_names = per_neuron(self.kind)
        self.options = {f.name: getattr(layer.neurons, f.name) for f in fields if f.name not in self.array_names}
        # in this order, in which the optimizers of saved models keep their state
        self.w_in = _by_input(layer.w_in)
        self.register_parameter("w_rec", None if layer.w_rec is None else _by_input(layer.w_rec))
        self.bias = nn.Parameter(torch.tensor(layer.bias))
        for name in self.array_names:
            value = torch.tensor(getattr(layer.neurons, name))
            # whole numbers too, such as refractory ticks, meet the state, which is of the weights' type
            self.register_buffer(name, value if value.is_floating_point() else value.to(self.bias.dtype))

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        return len(self.bias)

    @property
    def neurons(self) -> Neurons:
        """The neurons as a value."""
        arrays = {name: _numpy(getattr(self, name)) for name in self.array_names}
        return self.kind(**arrays, **self.options)

    @property
    def synapses(self) -> Synapses:
        """The weights as arrays."""
        w_rec = None if self.w_rec is None else np.array(_numpy(self.w_rec))
        if w_rec is not None:
            np.fill_diagonal(w_rec, 0)
        return Synapses(_numpy(self.w_in), w_rec)

    @property
    def value(self) -> Layer:
        """The layer as a value."""
        w_in, w_rec = self.synapses
        return Layer(w_in, _numpy(self.bias), self.neurons, w_rec)

    def weights(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return input weights, bias, and recurrent weights without self-connections, or None."""
        if self.w_rec is None:
            return self.w_in, self.bias, None
        mask = 1 - torch.eye(self.n_neurons, dtype=self.bias.dtype, device=self.bias.device)
        return self.w_in, self.bias, self.w_rec * mask

    def constants(self, dt: float) -> Any:
        """Return the constants of a tick of ``dt`` ms, as tensors beside the weights."""
        dtype = _numpy(self.bias).dtype
        found = self.neurons.constants(dt, dtype)
        device = self.bias.device
        tensors = (torch.from_numpy(c).to(device) if isinstance(c, np.ndarray) else c for c in found)
        return found._make(tensors)


class SpikingLayers(nn.ModuleList):
    """The layers of a network, each fed by the one before, and what the engine reads of them.

    Args:
        layers: What they are at first.

    Attributes:
        on_engine: Whether the numba kernels run them, which know LSNN neurons only.
        graded: Whether an output of theirs is a number, not a spike.
    """

    def __init__(self, layers: Sequence[Layer]):
        super().__init__(SpikingLayer(layer) for layer in parts_of("LSNN", "layers", layers, Layer))
        self.on_engine = all(layer.kind is LsnnNeurons for layer in self)
        self.graded = any(layer.kind.graded for layer in self)
        self._views: tuple[list[int], list[sequences.Weights]] | None = None
        self._prepared: tuple[list[Any], list[int], Any, Any] | None = None
        self._table: tuple[Any, ...] | None = None  # and the weights, constants and counts whose addresses it holds

    def __iter__(self) -> Iterator[SpikingLayer]:
        return iter(self._modules.values())  # type: ignore[arg-type]

    @property
    def values(self) -> tuple[Layer, ...]:
        """The layers as values for a :class:`~spikeloop.spiking.network.Network`."""
        return tuple(layer.value for layer in self)

    def engine_weights(self) -> list[sequences.Weights]:
        """Return the live parameters as numpy views, pre x post.

        Raises:
            ValueError: If they are not all float32 or all float64.
        """
        key = [p.data_ptr() for layer in self for p in layer._parameters.values() if p is not None]
        views = self._views  # another thread may replace it meanwhile
        if views is None or views[0] != key:
            # The views keep the memory they show alive, so an equal address means the same memory.
            dtypes = {parameter.dtype for parameter in self.parameters()}
            if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
                raise ValueError(f"parameters must all be float32 or all float64 on the CPU, got {dtypes}")
            layers = []
            for layer in self:
                w_in, bias = layer.w_in.detach().t().numpy(), layer.bias.detach().numpy()
                no_weights = np.empty((0, len(bias)), bias.dtype)
                w_rec = no_weights if layer.w_rec is None else layer.w_rec.detach().t().numpy()
                layers.append(sequences.Weights(w_in, bias, w_rec))
            views = self._views = key, layers
        return views[1]

    def engine_constants(self, timing: sequences.Timing, surrogate: Surrogate | None) -> list[sequences.Constants]:
        """Return the constants for the kernels of LSNN neurons.

        Args:
            timing: Ticks, latency and readout.
            surrogate: What stands in for the spike's derivative; None where nothing goes backward.
        """

        def make() -> list[sequences.Constants]:
            last, dtype = len(self) - 1, self.engine_weights()[0].bias.dtype
            return [
                sequences.constants(layer.neurons, timing, i, 0, i == last, surrogate, dtype)
                for i, layer in enumerate(self)
            ]

        return self._kept((timing, surrogate), make)

    def _any_prepared(self, timing: sequences.Timing) -> any_kernels.Prepared:
        """Return what the kernels of neurons of any kind run, where nothing goes backward."""

        def make() -> any_kernels.Prepared:
            neurons = [layer.neurons for layer in self]
            return any_kernels.prepare(neurons, timing, 0, self.engine_weights()[0].bias.dtype)

        return self._kept(timing, make)

    def _kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what ``make`` makes of the numbers of the neurons, anew when they or the key have changed."""
        buffers = [buffer for layer in self for buffer in layer._buffers.values()]
        versions = [buffer._version for buffer in buffers]  # type: ignore[union-attr]  # no buffer is None
        known = self._prepared
        if known is None or known[1] != versions or known[2] != key or not all(map(operator.is_, known[0], buffers)):
            known = self._prepared = buffers, versions, key, make()
        return known[3]

    def step(
        self,
        weights: list[sequences.Weights],
        x: np.ndarray,
        state: np.ndarray,
        start: np.ndarray,
        timing: sequences.Timing,
        counts: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Run one env step without gradients.

        Args:
            weights: :meth:`engine_weights`.
            x: Input, shape (B, 1 or n_ticks, n_inputs).
            state: Packed state of the layers and the readout, shape (n_rows, B, width).
            start: 1 where the state is cleared first, uint8, shape (B, 1).
            timing: Ticks, latency and readout.
            counts: Spike counts that are added to, one per layer, int64, shape (N,).

        Returns:
            The readout trace, shape (B, N of the last layer), the new state, and whether that is finite.
        """
        if not self.on_engine:
            y, new, _, finite = any_kernels.run(self._any_prepared(timing), weights, x, state, start, counts)
            return y[:, 0], new, finite
        constants, table = self.engine_constants(timing, None), self._table
        if table is None or table[1] is not weights or table[2] is not constants or table[3] is not counts:
            table = self._table = sequences.address_table(weights, constants, counts), weights, constants, counts
        return sequences.step(weights, constants, table[0], x, state, start, counts)

    def ticks(
        self,
        weights: list[sequences.Weights],
        x: np.ndarray,
        state: np.ndarray,
        start: np.ndarray,
        timing: sequences.Timing,
        counts: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Run one env step without gradients, and return what its last layer's spikes were on each tick.

        Args:
            weights: As of :meth:`step`, like those that follow.
            x: Input.
            state: Packed state.
            start: Where it is cleared.
            timing: Ticks and latency.
            counts: Spike counts that are added to.

        Returns:
            What reaches the readout on each tick, shape (B, n_ticks, N), the new state, and whether that is finite.
        """
        x = np.repeat(x, timing.n_ticks, axis=1) if timing.held else np.ascontiguousarray(x)
        starts = np.zeros((len(start), timing.n_ticks), np.uint8)
        starts[:, :1] = start
        timing = of_one_tick(timing)
        if not self.on_engine:
            y, new, _, finite = any_kernels.run(self._any_prepared(timing), weights, x, state, starts, counts)
            return y, new, finite
        y, new, _ = sequences.forward(weights, self.engine_constants(timing, None), x, state, starts, counts)
        return y, new, bool(np.isfinite(new).all())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_views": None, "_prepared": None, "_table": None}  # addresses mean nothing in a copy


def of_one_tick(timing: sequences.Timing) -> sequences.Timing:
    """Return the timing of the same ticks as so many steps of one tick, whose trace is the spikes that arrive."""
    return timing._replace(n_ticks=1, tau_out=0.0, count_spikes=False, held=True)


def by_tick(
    x: torch.Tensor, start: torch.Tensor, timing: sequences.Timing
) -> tuple[torch.Tensor, torch.Tensor, sequences.Timing]:
    """Return a sequence of env steps as one of steps of one tick, as a gradient's ``run`` takes it.

    Args:
        x: Input, shape (L, B, n_inputs) where it is held over a step, else (L, n_ticks, B, n_inputs).
        start: 1 where the state is cleared before a step, shape (L, B).
        timing: Ticks, latency and readout.

    Returns:
        Input, starts and timing of the ticks: the first two of shapes (L * n_ticks, B, ...).
    """
    x = x.repeat_interleave(timing.n_ticks, dim=0) if timing.held else x.flatten(0, 1)
    starts = start.new_zeros((len(x), start.shape[1]))
    starts[:: timing.n_ticks] = start
    return x, starts, of_one_tick(timing)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _by_input(weights: np.ndarray) -> nn.Parameter:
    """Return weights, shape (n, n_inputs), stored input by input: the rows the kernels read are contiguous."""
    return nn.Parameter(torch.tensor(weights.T.copy()).t())
