"""A spiking network as a value: frozen, validated descriptions that every engine runs, saved without pickle.

A :class:`Network` is ``observation -> Normalizer -> Encoder -> Layer ... Layer -> Readout -> ActionHead``.
The dynamics are defined in :mod:`spikeloop.spiking.reference`.

State is one packed array ``(n_rows, B, width)``, all zeros at rest. Its rows are listed by :func:`state_rows`:
first the encoder's memory (if it has any), then ``v``, ``a``, ``z``, ``refractory`` for each layer, then the readout
trace ``y``. ``width`` is that of the widest row; the rest of a narrower row stays zero.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.storage import load_parts, save_parts

FORMAT_VERSION = 1
ENCODERS = ("direct", "population", "rate", "latency", "delta")
LAYER_ROWS = ("v", "a", "z", "refractory")
HEADS = ("discrete", "multi_discrete", "multi_binary", "box")


def decay(tau: npt.ArrayLike, dt: float = 1.0) -> np.ndarray:
    """Return the factor per tick ``exp(-dt / tau)`` of a time constant; ``tau = 0`` means no memory, factor 0.

    Args:
        tau: Time constant in ms, any shape, >= 0.
        dt: Length of a tick in ms.
    """
    tau = np.asarray(tau, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.where(tau > 0, np.exp(-dt / np.where(tau > 0, tau, 1.0)), 0.0)


def _array(
    owner: str, name: str, value: Any, shape: tuple[int | None, ...], dtype: npt.DTypeLike | None = None
) -> np.ndarray:
    """Return ``value`` as a read-only, C-contiguous array of the given shape, or raise naming the field."""
    try:
        array = np.asarray(value)
        if dtype is None:
            dtype = np.float64 if array.dtype == np.float64 else np.float32
        array = np.array(array, dtype=dtype, order="C", copy=True)
    except (TypeError, ValueError):
        raise ValueError(f"{owner}.{name} must be an array of numbers, got {value!r}") from None
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"{owner}.{name} must have shape {wanted}, got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{owner}.{name} must be finite, found {array[~np.isfinite(array)].flat[0]}")
    array.setflags(write=False)
    return array


def _choice(owner: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{owner}.{name} must be one of {allowed}, got {value!r}")


def _number(owner: str, name: str, value: float, low: float, high: float = math.inf) -> None:
    if not (isinstance(value, (int, float, np.number)) and math.isfinite(value) and low <= value <= high):
        bound = f">= {low}" if high == math.inf else f"within [{low}, {high}]"
        raise ValueError(f"{owner}.{name} must be a finite number {bound}, got {value!r}")


def _set(instance: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(instance, name, value)


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

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = type(self).__name__
        n = np.shape(self.tau_m)[0] if np.ndim(self.tau_m) == 1 else None
        for name in ("tau_m", "v_th", "tau_a", "beta"):
            array = _array(me, name, getattr(self, name), (n,))
            if np.any(array < 0) or (name == "v_th" and np.any(array == 0)):
                raise ValueError(f"{me}.{name} must be {'> 0' if name == 'v_th' else '>= 0'}, found {array.min()}")
            _set(self, **{name: array})
        refractory = _array(me, "refractory", self.refractory, (n,), np.float64)
        if np.any(refractory % 1) or np.any(refractory < 0) or np.any(refractory >= 2**24):
            raise ValueError(f"{me}.refractory must be whole ticks >= 0 that float32 can count, got {refractory!r}")
        _set(self, refractory=_array(me, "refractory", refractory, (n,), np.int32))
        _choice(me, "reset", self.reset, ("subtract", "zero"))
        _choice(me, "adaptation", self.adaptation, ("threshold", "ahp"))

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
        w_in = _array("Layer", "w_in", self.w_in, (n, None))
        if w_in.size == 0:
            raise ValueError(f"Layer.w_in must have at least one neuron and one input, got shape {w_in.shape}")
        _set(self, w_in=w_in, bias=_array("Layer", "bias", self.bias, (n,), w_in.dtype))
        if self.w_rec is not None:
            _set(self, w_rec=_array("Layer", "w_rec", self.w_rec, (n, n), w_in.dtype))
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
class Normalizer:
    """Running-mean observation normalisation, frozen: ``clip((x - mean) / sqrt(var + epsilon), -clip, clip)``.

    Args:
        mean: Shape (n_obs,).
        var: Variance, shape (n_obs,), >= 0.
        epsilon: Added to the variance, > 0 (VecNormalize's default).
        clip: Bound on the normalised value, > 0.
    """

    mean: np.ndarray
    var: np.ndarray
    epsilon: float = 1e-8
    clip: float = 10.0

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        n = np.size(self.mean)
        mean = _array("Normalizer", "mean", self.mean, (n,), np.float64)
        var = _array("Normalizer", "var", self.var, (n,), np.float64)
        if np.any(var < 0):
            raise ValueError(f"Normalizer.var must be >= 0, found {var.min()}")
        _number("Normalizer", "epsilon", self.epsilon, 1e-30)
        _number("Normalizer", "clip", self.clip, 1e-30)
        _set(self, mean=mean, var=var)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Return the normalised observations, shape (..., n_obs), float32, with VecNormalize's own arithmetic."""
        scaled = (obs - self.mean) / np.sqrt(self.var + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)


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
        _choice("Encoder", "kind", self.kind, ENCODERS)
        if not (isinstance(self.n_obs, (int, np.integer)) and self.n_obs > 0):
            raise ValueError(f"Encoder.n_obs must be a positive integer, got {self.n_obs!r}")
        n = int(self.n_obs)
        if self.kind == "population":
            centers = _array("Encoder", "centers", self.centers, (n, None))
            if centers.size == 0:
                raise ValueError("Encoder.centers must have at least one neuron per observation")
            widths = _array("Encoder", "widths", self.widths, centers.shape)
            if np.any(widths <= 0):
                raise ValueError(f"Encoder.widths must be > 0, found {widths.min()}")
            _set(self, centers=centers, widths=widths)
        if self.kind in ("rate", "latency"):
            low, high = _array("Encoder", "low", self.low, (n,)), _array("Encoder", "high", self.high, (n,))
            if np.any(high <= low):
                raise ValueError(f"Encoder.high must be above Encoder.low, got low {low} and high {high}")
            _set(self, low=low, high=high)
            _number("Encoder", "gain", self.gain, 1e-9, 1.0 if self.kind == "rate" and not self.poisson else math.inf)
        if self.kind in ("latency", "delta"):
            _number("Encoder", "threshold", self.threshold, 1e-9)
        if self.kind == "latency":
            _number("Encoder", "tau", self.tau, 1e-9)
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
class Readout:
    """Linear map of a leaky filter of the last layer's spikes; the value read at the end of an env step.

    Args:
        w_out: Shape (n_outputs, N).
        b_out: Shape (n_outputs,).
        tau_out: Time constant of the filter in ms; 0 reads the spikes of the step's last tick.
        count: Read the mean number of spikes per tick of the step instead of the leaky filter.
        first_spike: Inference of discrete actions only: each output integrates ``w_out z + b_out`` from 0 over the
            ticks of the step, and the values are read when the first one exceeds ``v_th_out`` (at the last tick if
            none does), so that the largest of them is the first unit to spike.
        v_th_out: Threshold of those units.

    Raises:
        ValueError: If shapes disagree or a value is out of range.
    """

    w_out: np.ndarray
    b_out: np.ndarray
    tau_out: float = 0.0
    count: bool = False
    first_spike: bool = False
    v_th_out: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        w_out = _array("Readout", "w_out", self.w_out, (None, None))
        _set(self, w_out=w_out, b_out=_array("Readout", "b_out", self.b_out, (w_out.shape[0],), w_out.dtype))
        _number("Readout", "tau_out", self.tau_out, 0.0)
        _number("Readout", "v_th_out", self.v_th_out, 1e-9)

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
        low: ``box``: lower bounds, of that shape.
        high: ``box``: upper bounds.
        squash: ``box``: outputs pass tanh and are scaled to the bounds (gSDE with ``squash_output``).
    """

    kind: str
    sizes: tuple[int, ...]
    shape: tuple[int, ...] = ()
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    squash: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        _choice("ActionHead", "kind", self.kind, HEADS)
        if not self.sizes or any(int(n) < 1 for n in self.sizes):
            raise ValueError(f"ActionHead.sizes must be positive, got {self.sizes!r}")
        _set(self, sizes=tuple(int(n) for n in self.sizes), shape=tuple(int(n) for n in self.shape))
        if math.prod(self.shape) != len(self.sizes):
            raise ValueError(f"ActionHead.shape {self.shape} does not hold {len(self.sizes)} actions")
        only = {"multi_binary": 2, "box": 1}.get(self.kind)
        if only is not None and set(self.sizes) != {only}:
            raise ValueError(f"ActionHead.sizes must all be {only} for kind {self.kind!r}, got {self.sizes}")
        if self.kind == "box":
            for name in ("low", "high"):
                bound = np.array(getattr(self, name), dtype=np.float32)
                if bound.shape != self.shape or np.any(np.isnan(bound)):
                    raise ValueError(f"ActionHead.{name} must have shape {self.shape}, got {getattr(self, name)!r}")
                bound.setflags(write=False)
                _set(self, **{name: bound})
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
            return outputs.argmax(axis=1)
        if self.kind == "multi_discrete":
            groups = np.split(outputs, np.cumsum(self.sizes)[:-1], axis=1)
            return np.stack([group.argmax(axis=1) for group in groups], axis=1).reshape(-1, *self.shape)
        if self.kind == "multi_binary":
            # SB3 takes round(sigmoid(x)), which is 0 at exactly x = 0.
            return (outputs > 0).astype(np.int8).reshape(-1, *self.shape)
        actions = outputs.reshape(-1, *self.shape)
        assert self.low is not None and self.high is not None
        if self.squash:
            return self.low + 0.5 * (np.tanh(actions) + 1.0) * (self.high - self.low)
        return np.clip(actions, self.low, self.high)


@dataclass(frozen=True, eq=False)
class Network:
    """A complete spiking policy: what is trained, run, saved and deployed.

    Args:
        encoder: Observation to input.
        layers: One or more layers, each fed by the one before.
        readout: Spikes of the last layer to output values.
        head: Output values to an action; None for a network that is not a policy.
        normalizer: Observation normalisation before the encoder; None for none.
        n_ticks: Ticks per env step, >= 1.
        dt: Length of a tick in ms.
        latency: Ticks a spike takes between layers and to the readout: 0, or 1 as on a chip (recurrent spikes
            take one tick in either case).
        metadata: Free text pairs, saved along (training command, versions).

    Raises:
        ValueError: If the parts do not fit together.
    """

    encoder: Encoder
    layers: tuple[Layer, ...]
    readout: Readout
    head: ActionHead | None = None
    normalizer: Normalizer | None = None
    n_ticks: int = 1
    dt: float = 1.0
    latency: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate that the parts fit together."""
        _set(self, layers=tuple(self.layers), metadata={str(k): str(v) for k, v in self.metadata.items()})
        if not self.layers:
            raise ValueError("Network.layers must hold at least one layer")
        if not (isinstance(self.n_ticks, (int, np.integer)) and self.n_ticks >= 1):
            raise ValueError(f"Network.n_ticks must be an integer >= 1, got {self.n_ticks!r}")
        if self.latency not in (0, 1):
            raise ValueError(f"Network.latency must be 0 or 1, got {self.latency!r}")
        _number("Network", "dt", self.dt, 1e-9)
        sizes = [self.encoder.n_channels, *(layer.n_neurons for layer in self.layers)]
        for i, (layer, n) in enumerate(zip(self.layers, sizes[:-1], strict=True)):
            if layer.n_inputs != n:
                raise ValueError(f"Network.layers[{i}].w_in must take {n} inputs, has {layer.n_inputs}")
        if self.readout.w_out.shape[1] != sizes[-1]:
            raise ValueError(f"Network.readout.w_out must take {sizes[-1]} inputs, has {self.readout.w_out.shape[1]}")
        if self.head is not None and self.head.n_outputs != self.readout.n_outputs:
            raise ValueError(f"Network.head needs {self.head.n_outputs} outputs, readout has {self.readout.n_outputs}")
        if self.readout.first_spike and (self.head is None or self.head.kind != "discrete"):
            raise ValueError("Readout.first_spike needs a head of kind 'discrete'")
        if self.normalizer is not None and self.normalizer.mean.size != self.encoder.n_obs:
            n = self.normalizer.mean.size
            raise ValueError(f"Network.normalizer must take {self.encoder.n_obs} observations, takes {n}")
        if len({part.dtype for part in (*(layer.w_in for layer in self.layers), self.readout.w_out)}) > 1:
            raise ValueError("Network weights must all be float32 or all float64")
        if fault := blind(self.encoder, self.n_ticks, self.dt):
            warnings.warn(fault, stacklevel=3)  # it runs, and LSNN refuses to train it

    @property
    def state_shape(self) -> tuple[int, int]:
        """``(n_rows, width)`` of the packed state."""
        return packed_shape(self.encoder, tuple(layer.n_neurons for layer in self.layers))

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
    return (*network.encoder.memory_rows, *layers, "y")


_PARTS = (NeuronParameters, Layer, Normalizer, Encoder, Readout, ActionHead, Network)
