"""A spiking network as a value: frozen, validated descriptions that every engine runs, saved without pickle.

A :class:`Network` is ``observation -> preprocessing -> Encoder -> Layer ... Layer -> Readout -> ActionHead``.
The dynamics are defined in :mod:`spikeloop.spiking.reference`, what stands before the encoder in
:mod:`spikeloop.spiking.observation`.

State is one packed array ``(n_rows, B, width)``, all zeros at rest. Its rows are listed by :func:`state_rows`:
first past frames and the encoder's memory (where there are any), then the rows of each layer's neurons (``v``, ``a``,
``z``, ``refractory`` of LSNN neurons), then the readout trace ``y``. ``width`` is that of the widest row; the rest of
a narrower row stays zero.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any

import numpy as np

from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders import ENCODERS, Dimensions, Encoder
from spikeloop.spiking.fields import array_of, check_part, flag, number, parts_of, set_fields, shown, texts, whole
from spikeloop.spiking.former import FORMER, normalizer_of_version_1
from spikeloop.spiking.limits import MAX_TICKS, MAX_TIME, check_size
from spikeloop.spiking.neurons import NEURONS, Neurons
from spikeloop.spiking.observation import (
    FrameStack,
    Normalizer,
    ObservationPart,
    Preprocessor,
    Reorder,
    largest_value,
    n_frames,
)
from spikeloop.spiking.readout import Dense, Readout
from spikeloop.spiking.readout_kinds import READOUTS
from spikeloop.spiking.step_layers import STEP_LAYERS, check_steps, trained_arrays
from spikeloop.spiking.storage import load_parts, pack_parts, write_atomically

FORMAT_VERSION = 5


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of neurons.

    Args:
        w_in: Input weights, shape (N, n_inputs), post x pre.
        bias: Constant current, shape (N,).
        neurons: Parameters of the N neurons.
        w_rec: Recurrent weights, shape (N, N), zero diagonal; None for a feed-forward layer.

    Raises:
        ValueError: If shapes disagree, a weight is not finite, or a neuron connects to itself.
    """

    w_in: np.ndarray
    bias: np.ndarray
    neurons: Neurons
    w_rec: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        check_part("Layer", "neurons", self.neurons, *NEURONS.values())
        n = self.neurons.n_neurons
        w_in = array_of("Layer", "w_in", self.w_in, (n, None))
        if w_in.size == 0:
            raise ValueError(f"Layer.w_in must have at least one neuron and one input, got shape {w_in.shape}")
        set_fields(self, w_in=w_in, bias=array_of("Layer", "bias", self.bias, (n,), w_in.dtype))
        if self.w_rec is not None:
            set_fields(self, w_rec=array_of("Layer", "w_rec", self.w_rec, (n, n), w_in.dtype))
            if np.any(np.diagonal(self.w_rec)):
                raise ValueError("Layer.w_rec must have a zero diagonal (self-connections are masked)")

    @property
    def n_inputs(self) -> int:
        """Number of presynaptic channels."""
        return self.w_in.shape[1]

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        return self.w_in.shape[0]


@dataclass(frozen=True, eq=False)
class Network:
    """A complete spiking policy: what is trained, run, saved and deployed.

    Args:
        encoder: Observation to input.
        layers: Layers, each fed by the one before: all of :class:`Layer`, which run in ticks, or all of a class in
            :data:`~spikeloop.spiking.step_layers.STEP_LAYERS`, which answer an env step of ``dt`` ms as a whole.
            There may be none between an encoder and a readout that both spike: then the output units take the input's
            spikes, on the tick they come.
        readout: Spikes of the last layer to output values.
        head: Output values to an action; None for a network that is not a policy.
        preprocessing: Steps between the observation and the encoder, in their order: :class:`Normalizer`,
            :class:`FrameStack` (one at most), :class:`Reorder`.
        n_ticks: Ticks per env step, 1 to 10,000.
        dt: Length of a tick in ms.
        latency: Ticks a spike takes between layers and to the readout: 0, or 1 as on a chip (recurrent spikes
            take one tick in either case).
        observation: Parts of an observation as the environment shows it; one vector if empty.
        metadata: Free text pairs, saved along (environment, training command, versions).
        clears: Whether layers and readout begin every env step at rest, as at an episode's start: they then answer each
            observation anew. Past frames and the encoder's memory go on.

    Raises:
        ValueError: If the parts do not fit together.

    >>> ones = np.ones(3)
    >>> neurons = NEURONS["lsnn"](tau_m=4 * ones, v_th=ones, tau_a=100 * ones, beta=0.2 * ones, refractory=0 * ones)
    >>> layer = Layer(np.ones((3, 2)), np.zeros(3), neurons)  # two inputs, three neurons
    >>> network = Network(Encoder("direct", 2), (layer,), Readout(np.ones((1, 3)), np.zeros(1)), n_ticks=5)
    >>> state_rows(network)
    ('0.v', '0.a', '0.z', '0.refractory', 'y')
    >>> network.initial_state(n_envs=4).shape
    (5, 4, 3)
    """

    encoder: Encoder
    layers: tuple[Any, ...]
    readout: Readout
    head: ActionHead | None = None
    preprocessing: tuple[Preprocessor, ...] = ()
    n_ticks: int = 1
    dt: float = 1.0
    latency: int = 0
    observation: tuple[ObservationPart, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    clears: bool = False

    def __post_init__(self) -> None:
        """Validate that the parts fit together."""
        check_part("Network", "encoder", self.encoder, *ENCODERS.values())
        check_part("Network", "readout", self.readout, Readout)
        check_part("Network", "head", self.head, ActionHead, NoneType)
        set_fields(
            self,
            layers=parts_of("Network", "layers", self.layers, Layer, *STEP_LAYERS.values()),
            n_ticks=whole("Network", "n_ticks", self.n_ticks, 1, MAX_TICKS),
            dt=number("Network", "dt", self.dt, 1e-9, MAX_TIME),
            latency=whole("Network", "latency", self.latency, 0, 1),
            metadata=texts("Network", "metadata", self.metadata),
            clears=flag("Network", "clears", self.clears),
        )
        if not self.layers and not (self.encoder.spikes and self.readout.every_tick):
            raise ValueError(
                "Network.layers must hold at least one layer, or be empty between an encoder that spikes and a readout "
                f"of units that take spikes; got encoder {self.encoder.kind!r} and readout {self.readout.kind!r}"
            )
        sizes = [self.encoder.n_channels, *(layer.n_neurons for layer in self.layers)]
        for i, (layer, n) in enumerate(zip(self.layers, sizes[:-1], strict=True)):
            if layer.n_inputs != n:
                raise ValueError(f"Network.layers[{i}].w_in must take {n} inputs, has {layer.n_inputs}")
        if self.readout.n_neurons != sizes[-1]:
            raise ValueError(f"Network.readout must take {sizes[-1]} inputs, takes {self.readout.n_neurons}")
        check_head("Network", self.readout, self.head)
        set_fields(self, **checked_preprocessing("Network", self.observation, self.preprocessing, self.encoder))
        race = max(sizes[-1], self.readout.n_outputs) * self.readout.every_tick
        bytes_of_tick = max(2 * max(sizes[1:], default=0), 8 * race, 8 * sizes[0] * (not self.encoder.held))
        check_size("Network", self.n_ticks, bytes_of_tick, self.state_shape)
        if len({part.dtype for part in (*(layer.w_in for layer in self.layers), self.readout.w_out)}) > 1:
            raise ValueError("Network weights must all be float32 or all float64")
        if self.answers_steps:
            check_steps(self)
        else:
            self._check_range()
        if fault := self.encoder.blind(self.n_ticks, self.dt):
            warnings.warn(fault, stacklevel=3)  # it runs, and LSNN refuses to train it

    def _check_range(self) -> None:
        """Refuse weights with which a membrane may leave the range of its type: the step would be refused."""
        dtype = self.dtype
        most = float(np.finfo(dtype).max) / 1e5  # room for some steps more of a membrane that forgets nothing
        largest = largest_value(self.preprocessing) if self.encoder.identity else 1.0
        for i, layer in enumerate(self.layers):
            with np.errstate(over="ignore"):
                of_tick = largest * _largest_sum(layer.w_in) + np.abs(layer.bias).max().astype(np.float64)
                of_tick += 0.0 if layer.w_rec is None else _largest_sum(layer.w_rec)
                reached = layer.neurons.largest_state(of_tick, self.n_ticks)
            layer.neurons.constants(self.dt, dtype)  # refuses ticks that are too long for its equations
            if not reached <= most:
                raise ValueError(
                    f"Network.layers[{i}] must keep its membranes within +-{most:.3g}, the range of {dtype} with room "
                    f"for more steps; observations within -1 and 1 may bring them to {reached:.3g}"
                )
            largest = reached if layer.neurons.graded else 1.0

    @property
    def answers_steps(self) -> bool:
        """Whether its layers answer an env step as a whole, and not tick by tick."""
        return any(not isinstance(layer, Layer) for layer in self.layers)

    @property
    def parts(self) -> tuple[ObservationPart, ...]:
        """Parts of an observation: those of ``observation``, or one vector."""
        n = self.preprocessing[0].n_in if self.preprocessing else self.encoder.n_obs
        return self.observation or (ObservationPart((n,)),)

    @property
    def n_obs(self) -> int:
        """Numbers that an observation of the environment becomes before any preprocessing."""
        return sum(part.n_values for part in self.parts)

    @property
    def dtype(self) -> np.dtype:
        """Type of the weights and of the state: float32 or float64."""
        return self.readout.w_out.dtype

    @property
    def state_shape(self) -> tuple[int, int]:
        """``(n_rows, width)`` of the packed state."""
        rows, width = packed_shape(self.encoder, [] if self.answers_steps else [one.neurons for one in self.layers])
        width = max([width, *(layer.n_neurons for layer in self.layers)])
        frames = [step for step in self.preprocessing if isinstance(step, FrameStack)]
        return rows + n_frames(frames), max([width, *(step.n_in for step in frames)])

    @property
    def remembers(self) -> bool:
        """Whether what it does depends on env steps before."""
        begins_anew = self.clears or self.answers_steps
        return not begins_anew or bool(self.encoder.memory_rows) or n_frames(self.preprocessing) > 0

    def initial_state(self, n_envs: int = 1) -> np.ndarray:
        """Return the resting state for ``n_envs`` environments, shape (n_rows, n_envs, width), all zeros."""
        rows, width = self.state_shape
        return np.zeros((rows, n_envs, width), dtype=self.dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to one safetensors file; the file appears under its name only when it is complete."""
        write_atomically(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the contents of the file that :meth:`save` writes."""
        return pack_parts("spikeloop.network", FORMAT_VERSION, self)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Network:
        """Read a network written by :meth:`save`. Runs no code from the file.

        Raises:
            ValueError: If the file is truncated, not ours, of another version, or does not hold a valid network.
            FileNotFoundError: If there is no such file.
        """
        parts = (*NEURONS.values(), Layer, *STEP_LAYERS.values(), *host_parts(), Network)
        version_1 = FORMER[2] | {"Normalizer": normalizer_of_version_1, "Network": _network_of_version_1}
        former = FORMER | {1: version_1}
        network = load_parts(path, "spikeloop.network", FORMAT_VERSION, parts, former, checksums_since=3)
        if not isinstance(network, Network):
            raise ValueError(f"{path} does not describe a network")
        return network

    def to_vector(self) -> np.ndarray:
        """Return all weights and biases in one vector, of their dtype: what evolution and the like search in.

        They come layer by layer, each ``w_in``, ``bias`` and, if there is one, ``w_rec`` less its diagonal, then from
        the readout ``w`` and ``b`` of each dense layer, ``w_out`` and ``b_out``; matrices row by row.

        >>> from spikeloop.spiking.neurons.izhikevich import Izhikevich
        >>> layer = Layer(np.eye(3, 2), np.zeros(3), Izhikevich(a=np.full(3, 0.02)), np.zeros((3, 3)))
        >>> network = Network(Encoder("direct", 2), (layer,), Readout(np.zeros((1, 3)), np.zeros(1)))
        >>> network.to_vector().shape  # 3 x 2 and 3 of w_in and bias, 3 x 3 - 3 of w_rec, 3 and 1 of the readout
        (19,)
        >>> network.with_vector(np.ones(19)).layers[0].w_rec.tolist()
        [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
        """
        parts = []
        for layer in self.layers:
            if self.answers_steps:
                parts += [array.ravel() for array in trained_arrays(layer)]
                continue
            parts += [layer.w_in.ravel(), layer.bias]
            if layer.w_rec is not None:
                parts.append(layer.w_rec[_off_diagonal(layer.n_neurons)])
        for dense in self.readout.dense:
            parts += [dense.w.ravel(), dense.b]
        return np.concatenate([*parts, self.readout.w_out.ravel(), self.readout.b_out])

    def with_vector(self, vector: np.ndarray) -> Network:
        """Return the same network with the weights and biases of a vector in the order of :meth:`to_vector`.

        Raises:
            ValueError: If it has another length, holds what is not finite, or a membrane may leave its range with it.
        """
        # a network of a tile code and a readout has no layers
        left = array_of("Network", "vector", vector, (self.to_vector().size,), self.readout.w_out.dtype)

        def take(like: np.ndarray) -> np.ndarray:
            nonlocal left
            taken, left = left[: like.size], left[like.size :]
            return taken.reshape(like.shape)

        layers = []
        for layer in self.layers:
            if self.answers_steps:
                layers.append(replace(layer, **{name: take(getattr(layer, name)) for name in layer.trained}))
                continue
            w_in, bias, w_rec = take(layer.w_in), take(layer.bias), None
            if layer.w_rec is not None:
                free, w_rec = _off_diagonal(layer.n_neurons), np.zeros_like(layer.w_rec)
                w_rec[free] = take(layer.w_rec[free])
            layers.append(replace(layer, w_in=w_in, bias=bias, w_rec=w_rec))
        dense = tuple(replace(one, w=take(one.w), b=take(one.b)) for one in self.readout.dense)
        readout = replace(self.readout, w_out=take(self.readout.w_out), b_out=take(self.readout.b_out), dense=dense)
        return replace(self, layers=tuple(layers), readout=readout)


def _off_diagonal(n: int) -> np.ndarray:
    """Return where an (n, n) matrix has no diagonal."""
    return ~np.eye(n, dtype=bool)


def _largest_sum(weights: np.ndarray) -> float:
    """Return the largest sum of magnitudes of a row."""
    return float(np.abs(weights).sum(axis=1, dtype=np.float64).max())


def checked_preprocessing(
    owner: str, observation: Any, preprocessing: Any, encoder: Encoder
) -> dict[str, tuple[Any, ...]]:
    """Return what stands before an encoder, as tuples by the names of their fields.

    Raises:
        ValueError: If the parts do not fit together.
    """
    steps = parts_of(owner, "preprocessing", preprocessing, Normalizer, FrameStack, Reorder)
    parts = parts_of(owner, "observation", observation, ObservationPart)
    if sum(isinstance(step, FrameStack) for step in steps) > 1:
        raise ValueError(f"{owner}.preprocessing must hold one FrameStack at most")
    keys = [part.key for part in parts]
    if len(set(keys)) < len(keys) or ("" in keys and len(keys) > 1):
        raise ValueError(f"{owner}.observation must have a key for each of its parts, got {shown(keys)}")
    n = sum(part.n_values for part in parts) or (steps[0].n_in if steps else encoder.n_obs)
    for i, step in enumerate(steps):
        if step.n_in != n:
            raise ValueError(f"{owner}.preprocessing[{i}] must take {n} values, takes {step.n_in}")
        n = step.n_out
    if n != encoder.n_obs:
        raise ValueError(f"{owner}.encoder must take {n} values, takes {encoder.n_obs}")
    if not math.isfinite(largest_value(steps)):
        raise ValueError(f"{owner}.preprocessing must keep observations within -1 and 1 within the range of float32")
    return {"observation": parts, "preprocessing": steps}


def check_head(owner: str, readout: Readout, head: ActionHead | None) -> None:
    """Raise ValueError unless an action head reads what the readout gives; there may be none if that is values."""
    if head is not None and head.n_outputs != readout.n_outputs:
        raise ValueError(f"{owner}.head needs {head.n_outputs} outputs, readout has {readout.n_outputs}")
    if not readout.spikes:
        return
    heads = READOUTS[readout.kind].heads
    if head is None or head.kind not in heads:
        raise ValueError(f"Readout.kind {readout.kind!r} needs a head of kind {' or '.join(map(repr, heads))}")
    if head.kind == "box" and not head.rows:
        raise ValueError(f"Readout.kind {readout.kind!r} needs a box head with rows of units, got sizes all 1")


def packed_shape(encoder: Encoder, layers: Sequence[Neurons]) -> tuple[int, int]:
    """Return ``(n_rows, width)`` of the packed state of an encoder and layers of such neurons."""
    n_memory = len(encoder.memory_rows)
    width = max([encoder.n_obs if n_memory else 1, *(neurons.n_neurons for neurons in layers)])
    return n_memory + sum(len(neurons.rows) for neurons in layers) + 1, width


def state_rows(network: Network) -> tuple[str, ...]:
    """Return the name of each row of the packed state, such as ``("0.v", "0.a", "0.z", "0.refractory", "y")``."""
    in_ticks = () if network.answers_steps else network.layers
    layers = (f"{i}.{row}" for i, layer in enumerate(in_ticks) for row in layer.neurons.rows)
    frames = (f"frame_{i}" for i in range(n_frames(network.preprocessing)))
    return (*frames, *network.encoder.memory_rows, *layers, "y")


def host_parts() -> tuple[type, ...]:
    """Return the classes of what stands before and after the layers, which a chip's host holds too."""
    encoders = (*ENCODERS.values(), Dimensions)  # the registry is asked now: a member may have been added since
    return (ObservationPart, Normalizer, FrameStack, Reorder, *encoders, Dense, Readout, ActionHead)


def _network_of_version_1(normalizer: Normalizer | None, **fields: Any) -> Network:
    """Return the network that version 1 describes, in which a normaliser was all there could be before the encoder."""
    return Network(preprocessing=() if normalizer is None else (normalizer,), **fields)
