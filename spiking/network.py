"""A spiking network as a value: frozen, validated descriptions that every engine runs, saved without pickle.

A :class:`Network` is ``observation -> preprocessing -> Encoder -> Layer ... Layer -> Readout -> ActionHead``.
The dynamics are defined in :mod:`spikeloop.spiking.reference`, what stands before the encoder in
:mod:`spikeloop.spiking.observation`.

State is one packed array ``(n_rows, B, width)``, all zeros at rest. Its rows are listed by :func:`state_rows`:
first past frames and the encoder's memory (where there are any), then ``v``, ``a``, ``z``, ``refractory`` for each
layer, then the readout trace ``y``. ``width`` is that of the widest row; the rest of a narrower row stays zero.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import NoneType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.fields import (
    array_of,
    check_choice,
    check_part,
    flag,
    number,
    parts_of,
    set_fields,
    shown,
    texts,
    whole,
    wholes,
)
from spikeloop.spiking.observation import (
    MAX_OBS,
    MAX_START,
    FrameStack,
    Normalizer,
    ObservationPart,
    Preprocessor,
    Reorder,
    largest_value,
    n_frames,
    shape_of,
)
from spikeloop.spiking.storage import load_parts, pack_parts, write_atomically

FORMAT_VERSION = 3
MAX_NEURONS = 2**16 - 1  # of a layer: what numbers a spike
MAX_TICKS = 10_000  # of an env step
MAX_BYTES_OF_STEP = 2**28  # of what an env step computes for all its ticks at once, for one environment
MAX_VALUES_OF_STATE = 2**24  # of one environment
MAX_NUMBER = 1e30  # of gains and thresholds: within float32
MAX_TIME = 1e9  # ms
MIN_THRESHOLD = 1e-30  # so that float32 holds 1 / v_th
ENCODERS = ("direct", "population", "rate", "latency", "delta")
LAYER_ROWS = ("v", "a", "z", "refractory")
HEADS = ("discrete", "multi_discrete", "multi_binary", "box")
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "identity": lambda x: x,
}


def decay(tau: npt.ArrayLike, dt: float = 1.0) -> np.ndarray:
    """Return the factor per tick ``exp(-dt / tau)`` of a time constant; ``tau = 0`` means no memory, factor 0.

    Args:
        tau: Time constant in ms, any shape, >= 0.
        dt: Length of a tick in ms.
    """
    tau = np.asarray(tau, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.where(tau > 0, np.exp(-dt / np.where(tau > 0, tau, 1.0)), 0.0)


@dataclass(frozen=True, eq=False)
class NeuronParameters:
    """LSNN neurons of one layer; a neuron with ``beta = 0`` is a plain LIF (population R), others adapt (A).

    Args:
        tau_m: Membrane time constant in ms, shape (N,), >= 0.
        v_th: Threshold in units of v, shape (N,), > 0.
        tau_a: Adaptation time constant in ms, shape (N,), >= 0.
        beta: Adaptation strength in units of v per unit of ``a``, shape (N,), >= 0.
        refractory: Ticks a neuron is held silent after a spike, shape (N,), integers >= 0.
        reset: ``"subtract"`` takes ``v_th`` off the membrane on the tick after a spike, ``"zero"`` clears it.
        adaptation: ``"threshold"`` raises the threshold by ``beta * a``; ``"ahp"`` keeps the threshold and
            feeds ``-beta * a`` into the membrane, the form Loihi 1 has.
        hold: Keep the membrane at 0 while a neuron is refractory, as Loihi does; needs reset ``"zero"``. Otherwise it
            integrates meanwhile.

    Raises:
        ValueError: If a field has a wrong shape or a value out of range.
    """

    tau_m: np.ndarray
    v_th: np.ndarray
    tau_a: np.ndarray
    beta: np.ndarray
    refractory: np.ndarray
    reset: Literal["subtract", "zero"] = "subtract"
    adaptation: Literal["threshold", "ahp"] = "threshold"
    hold: bool = False

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me, n = type(self).__name__, None
        for name, least in (("tau_m", 0.0), ("v_th", MIN_THRESHOLD), ("tau_a", 0.0), ("beta", 0.0)):
            array = array_of(me, name, getattr(self, name), (n,))
            n = array.size
            if np.any(array < least):
                bound = f"> 0, at least {least:g}" if name == "v_th" else ">= 0"
                raise ValueError(f"{me}.{name} must be {bound}, found {array.min()}")
            set_fields(self, **{name: array})
        if not 1 <= self.n_neurons <= MAX_NEURONS:
            raise ValueError(f"{me} must be of 1 to {MAX_NEURONS} neurons, got {self.n_neurons}")
        refractory = array_of(me, "refractory", self.refractory, (n,), np.float64)
        if np.any(refractory % 1) or np.any(refractory < 0) or np.any(refractory >= 2**24):
            found = shown(self.refractory)
            raise ValueError(f"{me}.refractory must be whole ticks >= 0 that float32 can count, got {found}")
        set_fields(self, refractory=array_of(me, "refractory", refractory, (n,), np.int32))
        check_choice(me, "reset", self.reset, ("subtract", "zero"))
        check_choice(me, "adaptation", self.adaptation, ("threshold", "ahp"))
        set_fields(self, hold=flag(me, "hold", self.hold))
        if self.hold and self.reset != "zero":
            raise ValueError(f"{me}.hold must be False, or True with reset 'zero', got True and {self.reset!r}")

    @property
    def n_neurons(self) -> int:
        """Number of neurons N."""
        return self.tau_m.shape[0]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of LSNN neurons.

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
    neurons: NeuronParameters
    w_rec: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        check_part("Layer", "neurons", self.neurons, NeuronParameters)
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
class Encoder:
    """How an observation becomes the input of the first layer (functions in :mod:`spikeloop.spiking.encoding`).

    Args:
        kind: ``direct`` (values are currents held over the step), ``population`` (Gaussian tuning curves, held),
            ``rate`` (random spikes, new on every tick), ``latency`` (one spike, earlier for larger values),
            ``delta`` (signed change events against a remembered level).
        n_obs: Length of the observation vector.
        centers: ``population``: shape (n_obs, n), in units of the observation.
        widths: ``population``: standard deviations, shape (n_obs, n), > 0.
        low: ``rate`` and ``latency``: value mapped to intensity 0, shape (n_obs,).
        high: ``rate`` and ``latency``: value mapped to intensity 1, shape (n_obs,), > low.
        gain: ``rate``: spikes per tick at intensity 1, in (0, 1] for Bernoulli; ``latency``: input current at
            intensity 1, > threshold.
        poisson: ``rate``: spike probability ``1 - exp(-gain * intensity)`` instead of ``gain * intensity``.
        tau: ``latency``: membrane time constant of the charging RC circuit in ms.
        threshold: ``latency``: its threshold; ``delta``: change that makes one event.

    Raises:
        ValueError: If a field that the kind needs is missing, of wrong shape or out of range.
    """

    kind: str
    n_obs: int
    centers: np.ndarray | None = None
    widths: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    gain: float = 1.0
    poisson: bool = False
    tau: float = 5.0
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields that the kind uses."""
        check_choice("Encoder", "kind", self.kind, ENCODERS)
        n = whole("Encoder", "n_obs", self.n_obs, 1, MAX_OBS)
        set_fields(self, n_obs=n, poisson=flag("Encoder", "poisson", self.poisson))
        for name, most in (("gain", MAX_NUMBER), ("tau", MAX_TIME), ("threshold", MAX_NUMBER)):
            set_fields(self, **{name: number("Encoder", name, getattr(self, name), 1e-9, most)})
        for name in ("centers", "widths", "low", "high"):
            value = getattr(self, name)
            if value is not None:  # nor may what the kind does not use be just anything
                set_fields(self, **{name: array_of("Encoder", name, value, (None,) * np.ndim(value))})
        if self.kind == "population":
            centers = array_of("Encoder", "centers", self.centers, (n, None))
            if centers.size == 0:
                raise ValueError("Encoder.centers must have at least one neuron per observation")
            widths = array_of("Encoder", "widths", self.widths, centers.shape)
            if np.any(widths <= 0):
                raise ValueError(f"Encoder.widths must be > 0, found {widths.min()}")
            set_fields(self, centers=centers, widths=widths)
        if self.kind in ("rate", "latency"):
            low, high = array_of("Encoder", "low", self.low, (n,)), array_of("Encoder", "high", self.high, (n,))
            if np.any(high <= low):
                raise ValueError(f"Encoder.high must be above Encoder.low, got low {shown(low)} and high {shown(high)}")
            set_fields(self, low=low, high=high)
        if self.kind == "rate" and not self.poisson:
            number("Encoder", "gain", self.gain, 1e-9, 1.0)
        if self.kind == "latency" and self.gain <= self.threshold:
            raise ValueError(f"Encoder.gain must exceed threshold={self.threshold} to ever spike, got {self.gain}")

    @property
    def n_channels(self) -> int:
        """Number of inputs the first layer sees."""
        if self.kind == "population":
            assert self.centers is not None
            return self.centers.size
        return 2 * self.n_obs if self.kind == "delta" else self.n_obs

    @property
    def per_tick(self) -> bool:
        """Whether the input differs from tick to tick within a step."""
        return self.kind in ("rate", "latency", "delta")

    @property
    def memory_rows(self) -> tuple[str, ...]:
        """Names of the state rows the encoder keeps: the random stream's key, or the remembered level."""
        return {"rate": ("key",), "delta": ("level",)}.get(self.kind, ())


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


@dataclass(frozen=True, eq=False)
class ActionHead:
    """How output values become a deterministic action of a Gymnasium space.

    Args:
        kind: ``discrete`` and ``multi_discrete`` take the largest value of each group, ``multi_binary`` the sign,
            ``box`` the values themselves, clipped to the bounds.
        sizes: Choices per group: (n,) for ``discrete``, nvec for ``multi_discrete``, all 2 for ``multi_binary``,
            all 1 for ``box``.
        shape: Shape of one action.
        low: ``box``: lower bounds, of that shape; kept in float64 if they come so, as the actions then are.
        high: ``box``: upper bounds.
        squash: ``box``: outputs pass tanh and are scaled to the bounds (gSDE with ``squash_output``).
        start: ``discrete`` and ``multi_discrete``: number of each group's first choice; 0 for all if empty.

    Raises:
        ValueError: If a field does not fit the kind.
    """

    kind: str
    sizes: tuple[int, ...]
    shape: tuple[int, ...] = ()
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    squash: bool = False
    start: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_choice("ActionHead", "kind", self.kind, HEADS)
        set_fields(
            self,
            sizes=wholes("ActionHead", "sizes", self.sizes, 1, MAX_OBS),
            shape=shape_of("ActionHead", "shape", self.shape),
            squash=flag("ActionHead", "squash", self.squash),
        )
        if math.prod(self.shape) != len(self.sizes):
            raise ValueError(f"ActionHead.shape {self.shape} does not hold {len(self.sizes)} actions")
        only = {"multi_binary": 2, "box": 1}.get(self.kind)
        if only is not None and set(self.sizes) != {only}:
            raise ValueError(f"ActionHead.sizes must all be {only} for kind {self.kind!r}, got {shown(self.sizes)}")
        start = wholes("ActionHead", "start", self.start, -MAX_START, MAX_START) or (0,) * len(self.sizes)
        if len(start) != len(self.sizes) or (any(start) and self.kind not in ("discrete", "multi_discrete")):
            raise ValueError(f"ActionHead.start must be {len(self.sizes)} whole numbers, got {shown(self.start)}")
        set_fields(self, start=start)
        if self.kind == "box":
            self._check_bounds()

    def _check_bounds(self) -> None:
        for name in ("low", "high"):
            value = np.asarray(getattr(self, name))
            if value.shape != self.shape or value.dtype.kind not in "fiu" or np.any(np.isnan(value)):
                raise ValueError(f"ActionHead.{name} must have shape {self.shape}, got {shown(getattr(self, name))}")
            with np.errstate(over="ignore"):  # a bound beyond float32 is none
                bound = np.array(value, np.float64 if value.dtype == np.float64 else np.float32, order="C")
            bound.setflags(write=False)
            set_fields(self, **{name: bound})
        if np.any(self.low > self.high):  # type: ignore[operator]
            raise ValueError(
                f"ActionHead.high must be at least low, got low {shown(self.low)} and high {shown(self.high)}"
            )
        if self.squash and not (np.all(np.isfinite(self.low)) and np.all(np.isfinite(self.high))):  # type: ignore[arg-type]
            raise ValueError(
                f"ActionHead.squash needs finite bounds, got low {shown(self.low)} and high {shown(self.high)}"
            )

    @property
    def n_outputs(self) -> int:
        """Number of output values the head reads."""
        return len(self.sizes) if self.kind in ("box", "multi_binary") else sum(self.sizes)

    def __call__(self, outputs: np.ndarray) -> np.ndarray:
        """Return the actions, shape (B, *shape), for output values of shape (B, n_outputs)."""
        if self.kind == "discrete":
            return outputs.argmax(axis=1) + self.start[0]
        if self.kind == "multi_discrete":
            groups = np.split(outputs, np.cumsum(self.sizes)[:-1], axis=1)
            choices = np.stack([group.argmax(axis=1) for group in groups], axis=1)
            return (choices + np.array(self.start)).reshape(-1, *self.shape)
        if self.kind == "multi_binary":
            # SB3 takes round(sigmoid(x)), which is 0 at exactly x = 0.
            return (outputs > 0).astype(np.int8).reshape(-1, *self.shape)
        actions = outputs.reshape(-1, *self.shape)
        assert self.low is not None and self.high is not None
        if self.squash:
            actions = self.low + 0.5 * (np.tanh(actions) + 1.0) * (self.high - self.low)  # may round beyond a bound
        return np.clip(actions, self.low, self.high)


@dataclass(frozen=True, eq=False)
class Network:
    """A complete spiking policy: what is trained, run, saved and deployed.

    Args:
        encoder: Observation to input.
        layers: One or more layers, each fed by the one before.
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

    Raises:
        ValueError: If the parts do not fit together.
    """

    encoder: Encoder
    layers: tuple[Layer, ...]
    readout: Readout
    head: ActionHead | None = None
    preprocessing: tuple[Preprocessor, ...] = ()
    n_ticks: int = 1
    dt: float = 1.0
    latency: int = 0
    observation: tuple[ObservationPart, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate that the parts fit together."""
        check_part("Network", "encoder", self.encoder, Encoder)
        check_part("Network", "readout", self.readout, Readout)
        check_part("Network", "head", self.head, ActionHead, NoneType)
        set_fields(
            self,
            layers=parts_of("Network", "layers", self.layers, Layer),
            n_ticks=whole("Network", "n_ticks", self.n_ticks, 1, MAX_TICKS),
            dt=number("Network", "dt", self.dt, 1e-9, MAX_TIME),
            latency=whole("Network", "latency", self.latency, 0, 1),
            metadata=texts("Network", "metadata", self.metadata),
        )
        if not self.layers:
            raise ValueError("Network.layers must hold at least one layer")
        sizes = [self.encoder.n_channels, *(layer.n_neurons for layer in self.layers)]
        for i, (layer, n) in enumerate(zip(self.layers, sizes[:-1], strict=True)):
            if layer.n_inputs != n:
                raise ValueError(f"Network.layers[{i}].w_in must take {n} inputs, has {layer.n_inputs}")
        if self.readout.n_neurons != sizes[-1]:
            raise ValueError(f"Network.readout must take {sizes[-1]} inputs, takes {self.readout.n_neurons}")
        if self.head is not None and self.head.n_outputs != self.readout.n_outputs:
            raise ValueError(f"Network.head needs {self.head.n_outputs} outputs, readout has {self.readout.n_outputs}")
        if self.readout.first_spike and (self.head is None or self.head.kind != "discrete"):
            raise ValueError("Readout.first_spike needs a head of kind 'discrete'")
        set_fields(self, **checked_preprocessing("Network", self.observation, self.preprocessing, self.encoder))
        race = max(sizes[-1], self.readout.n_outputs) * self.readout.first_spike
        bytes_of_tick = max(2 * max(sizes[1:]), 8 * race, 8 * sizes[0] * self.encoder.per_tick)
        check_size("Network", self.n_ticks, bytes_of_tick, self.state_shape)
        if len({part.dtype for part in (*(layer.w_in for layer in self.layers), self.readout.w_out)}) > 1:
            raise ValueError("Network weights must all be float32 or all float64")
        self._check_range()
        if fault := blind(self.encoder, self.n_ticks, self.dt):
            warnings.warn(fault, stacklevel=3)  # it runs, and LSNN refuses to train it

    def _check_range(self) -> None:
        """Refuse weights with which a membrane may leave the range of its type: the step would be refused."""
        dtype = self.layers[0].w_in.dtype
        most = float(np.finfo(dtype).max) / 1e5  # room for some steps more of a membrane that forgets nothing
        largest = largest_value(self.preprocessing) if self.encoder.kind == "direct" else 1.0
        for i, layer in enumerate(self.layers):
            with np.errstate(over="ignore"):
                of_tick = largest * _largest_sum(layer.w_in) + np.abs(layer.bias).max().astype(np.float64)
                of_tick += 0.0 if layer.w_rec is None else _largest_sum(layer.w_rec)
                of_tick += self.n_ticks * layer.neurons.beta.max().astype(np.float64)
            if not self.n_ticks * of_tick <= most:
                raise ValueError(
                    f"Network.layers[{i}] must keep its membranes within +-{most:.3g}, the range of {dtype} with room "
                    f"for more steps; observations within -1 and 1 may bring them to {self.n_ticks * of_tick:.3g}"
                )
            largest = 1.0

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
    def state_shape(self) -> tuple[int, int]:
        """``(n_rows, width)`` of the packed state."""
        rows, width = packed_shape(self.encoder, tuple(layer.n_neurons for layer in self.layers))
        frames = [step for step in self.preprocessing if isinstance(step, FrameStack)]
        return rows + n_frames(frames), max([width, *(step.n_in for step in frames)])

    def initial_state(self, n_envs: int = 1) -> np.ndarray:
        """Return the resting state for ``n_envs`` environments, shape (n_rows, n_envs, width), all zeros."""
        rows, width = self.state_shape
        return np.zeros((rows, n_envs, width), dtype=self.layers[0].w_in.dtype)

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
        network = load_parts(path, "spikeloop.network", FORMAT_VERSION, _PARTS)
        if not isinstance(network, Network):
            raise ValueError(f"{path} does not describe a network")
        return network


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


def check_size(owner: str, n_ticks: int, bytes_of_tick: int, state_shape: tuple[int, int]) -> None:
    """Refuse what would take more memory than any use needs, for a few bytes of a file can ask for all there is.

    Args:
        owner: Class of what is described.
        n_ticks: Ticks per env step.
        bytes_of_tick: What each of them takes while all are computed, for one environment.
        state_shape: Rows and width of the state of one environment.

    Raises:
        ValueError: If an env step or the state takes more than ``MAX_BYTES_OF_STEP`` or ``MAX_VALUES_OF_STATE``.
    """
    if n_ticks * bytes_of_tick > MAX_BYTES_OF_STEP:
        most = MAX_BYTES_OF_STEP // bytes_of_tick
        raise ValueError(
            f"{owner}.n_ticks must be at most {most} with so many inputs, neurons and outputs, got {n_ticks}"
        )
    rows, width = state_shape
    if rows * width > MAX_VALUES_OF_STATE:
        raise ValueError(
            f"{owner} must have a state of at most {MAX_VALUES_OF_STATE} values per environment, "
            f"got {rows} rows of {width}"
        )


def blind(encoder: Encoder, n_ticks: int, dt: float) -> str | None:
    """Say why an encoder can never spike within an env step, and what would mend it; None if it can.

    Only ``latency`` can be so: at intensity 1 its circuit must pass its threshold by the step's last tick.
    """
    if encoder.kind != "latency" or n_ticks < 1 or not dt > 0:  # such ticks are refused as such
        return None
    needed = 1 + math.floor(-encoder.tau / dt * math.log1p(-encoder.threshold / encoder.gain))
    if needed <= n_ticks:
        return None
    gain = encoder.threshold / -math.expm1(-n_ticks * dt / encoder.tau)
    return (
        f"with n_ticks={n_ticks} and dt={dt} the latency encoder never spikes: with gain={encoder.gain} and "
        f"tau={encoder.tau} it needs n_ticks >= {needed}, or with these ticks a gain above {gain:.4g}"
    )


def packed_shape(encoder: Encoder, n_neurons: tuple[int, ...]) -> tuple[int, int]:
    """Return ``(n_rows, width)`` of the packed state of an encoder and layers of the given sizes."""
    n_memory = len(encoder.memory_rows)
    width = max(*n_neurons, encoder.n_obs if n_memory else 1)
    return n_memory + len(LAYER_ROWS) * len(n_neurons) + 1, width


def state_rows(network: Network) -> tuple[str, ...]:
    """Return the name of each row of the packed state, such as ``("0.v", "0.a", "0.z", "0.refractory", "y")``."""
    layers = (f"{i}.{row}" for i in range(len(network.layers)) for row in LAYER_ROWS)
    frames = (f"frame_{i}" for i in range(n_frames(network.preprocessing)))
    return (*frames, *network.encoder.memory_rows, *layers, "y")


# what stands before the encoder and after the spikes: what a chip's host holds too
HOST_PARTS = (ObservationPart, Normalizer, FrameStack, Reorder, Encoder, Dense, Readout, ActionHead)
_PARTS = (NeuronParameters, Layer, *HOST_PARTS, Network)
