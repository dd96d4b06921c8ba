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
from typing import Literal

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.fields import array_of, check_choice, check_number, set_fields
from spikeloop.spiking.observation import (
    FrameStack,
    Normalizer,
    ObservationPart,
    Preprocessor,
    Reorder,
    n_frames,
)
from spikeloop.spiking.storage import load_parts, save_parts

FORMAT_VERSION = 2
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
        me = type(self).__name__
        n = np.shape(self.tau_m)[0] if np.ndim(self.tau_m) == 1 else None
        for name in ("tau_m", "v_th", "tau_a", "beta"):
            array = array_of(me, name, getattr(self, name), (n,))
            if np.any(array < 0) or (name == "v_th" and np.any(array == 0)):
                raise ValueError(f"{me}.{name} must be {'> 0' if name == 'v_th' else '>= 0'}, found {array.min()}")
            set_fields(self, **{name: array})
        refractory = array_of(me, "refractory", self.refractory, (n,), np.float64)
        if np.any(refractory % 1) or np.any(refractory < 0) or np.any(refractory >= 2**24):
            raise ValueError(f"{me}.refractory must be whole ticks >= 0 that float32 can count, got {refractory!r}")
        set_fields(self, refractory=array_of(me, "refractory", refractory, (n,), np.int32))
        check_choice(me, "reset", self.reset, ("subtract", "zero"))
        check_choice(me, "adaptation", self.adaptation, ("threshold", "ahp"))
        if self.hold not in (False, True) or (self.hold and self.reset != "zero"):
            raise ValueError(
                f"{me}.hold must be False, or True with reset 'zero', got {self.hold!r} and {self.reset!r}"
            )

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
        if not (isinstance(self.n_obs, (int, np.integer)) and self.n_obs > 0):
            raise ValueError(f"Encoder.n_obs must be a positive integer, got {self.n_obs!r}")
        n = int(self.n_obs)
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
                raise ValueError(f"Encoder.high must be above Encoder.low, got low {low} and high {high}")
            set_fields(self, low=low, high=high)
            check_number(
                "Encoder", "gain", self.gain, 1e-9, 1.0 if self.kind == "rate" and not self.poisson else math.inf
            )
        if self.kind in ("latency", "delta"):
            check_number("Encoder", "threshold", self.threshold, 1e-9)
        if self.kind == "latency":
            check_number("Encoder", "tau", self.tau, 1e-9)
            if self.gain <= self.threshold:
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
        w_out = array_of("Readout", "w_out", self.w_out, (None, None))
        set_fields(self, w_out=w_out, b_out=array_of("Readout", "b_out", self.b_out, (w_out.shape[0],), w_out.dtype))
        check_number("Readout", "tau_out", self.tau_out, 0.0)
        check_number("Readout", "v_th_out", self.v_th_out, 1e-9)
        set_fields(self, dense=tuple(self.dense))
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
        if not self.sizes or any(int(n) < 1 for n in self.sizes):
            raise ValueError(f"ActionHead.sizes must be positive, got {self.sizes!r}")
        set_fields(self, sizes=tuple(int(n) for n in self.sizes), shape=tuple(int(n) for n in self.shape))
        if math.prod(self.shape) != len(self.sizes):
            raise ValueError(f"ActionHead.shape {self.shape} does not hold {len(self.sizes)} actions")
        only = {"multi_binary": 2, "box": 1}.get(self.kind)
        if only is not None and set(self.sizes) != {only}:
            raise ValueError(f"ActionHead.sizes must all be {only} for kind {self.kind!r}, got {self.sizes}")
        start = tuple(int(n) for n in self.start) or (0,) * len(self.sizes)
        if len(start) != len(self.sizes) or (any(start) and self.kind not in ("discrete", "multi_discrete")):
            raise ValueError(f"ActionHead.start must be {len(self.sizes)} whole numbers, got {self.start!r}")
        set_fields(self, start=start)
        if self.kind == "box":
            self._check_bounds()

    def _check_bounds(self) -> None:
        for name in ("low", "high"):
            value = np.asarray(getattr(self, name))
            bound = np.array(value, np.float64 if value.dtype == np.float64 else np.float32, order="C")
            if bound.shape != self.shape or np.any(np.isnan(bound)):
                raise ValueError(f"ActionHead.{name} must have shape {self.shape}, got {getattr(self, name)!r}")
            bound.setflags(write=False)
            set_fields(self, **{name: bound})
        if np.any(self.low > self.high):  # type: ignore[operator]
            raise ValueError(f"ActionHead.high must be at least low, got low {self.low} and high {self.high}")
        if self.squash and not (np.all(np.isfinite(self.low)) and np.all(np.isfinite(self.high))):  # type: ignore[arg-type]
            raise ValueError(f"ActionHead.squash needs finite bounds, got low {self.low} and high {self.high}")

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
        n_ticks: Ticks per env step, >= 1.
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
        set_fields(self, layers=tuple(self.layers), metadata={str(k): str(v) for k, v in self.metadata.items()})
        if not self.layers:
            raise ValueError("Network.layers must hold at least one layer")
        if not (isinstance(self.n_ticks, (int, np.integer)) and self.n_ticks >= 1):
            raise ValueError(f"Network.n_ticks must be an integer >= 1, got {self.n_ticks!r}")
        if self.latency not in (0, 1):
            raise ValueError(f"Network.latency must be 0 or 1, got {self.latency!r}")
        check_number("Network", "dt", self.dt, 1e-9)
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
        self._check_preprocessing()
        if len({part.dtype for part in (*(layer.w_in for layer in self.layers), self.readout.w_out)}) > 1:
            raise ValueError("Network weights must all be float32 or all float64")
        if fault := blind(self.encoder, self.n_ticks, self.dt):
            warnings.warn(fault, stacklevel=3)  # it runs, and LSNN refuses to train it

    def _check_preprocessing(self) -> None:
        set_fields(self, preprocessing=tuple(self.preprocessing), observation=tuple(self.observation))
        steps = self.preprocessing
        if not all(isinstance(step, (Normalizer, FrameStack, Reorder)) for step in steps):
            raise ValueError(f"Network.preprocessing takes Normalizer, FrameStack and Reorder, got {steps}")
        if sum(isinstance(step, FrameStack) for step in steps) > 1:
            raise ValueError("Network.preprocessing must hold one FrameStack at most")
        keys = [part.key for part in self.observation]
        if len(set(keys)) < len(keys) or ("" in keys and len(keys) > 1):
            raise ValueError(f"Network.observation must have a key for each of its parts, got {keys}")
        n = self.n_obs
        for i, step in enumerate(steps):
            if step.n_in != n:
                raise ValueError(f"Network.preprocessing[{i}] must take {n} values, takes {step.n_in}")
            n = step.n_out
        if n != self.encoder.n_obs:
            raise ValueError(f"Network.encoder must take {n} values, takes {self.encoder.n_obs}")

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
        save_parts(path, "spikeloop.network", FORMAT_VERSION, self)

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
