"""A compiled network: its program, what stays on the host, and a policy that steps both as SB3 expects."""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, NamedTuple

import numpy as np

from spikeloop.hardware.loihi.emulator import Emulator
from spikeloop.hardware.loihi.interpreter import Interpreter
from spikeloop.hardware.loihi.layout import layout_of
from spikeloop.hardware.loihi.lowering import APPROXIMATIONS
from spikeloop.hardware.loihi.program import PARTS, Program
from spikeloop.hardware.loihi.quantize import MAX_BIAS, QuantizationCost, quantize_bias
from spikeloop.hardware.loihi.worst_case import largest_payload
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders.encoder import Encoder
from spikeloop.spiking.encoders.encoding import encode, new_keys
from spikeloop.spiking.fields import (
    array_of,
    check_choice,
    check_part,
    number,
    parts_of,
    set_fields,
    shown,
    texts,
    whole,
)
from spikeloop.spiking.limits import MAX_TICKS, MAX_TIME
from spikeloop.spiking.network import HOST_PARTS, check_size, checked_preprocessing
from spikeloop.spiking.observation import (
    MAX_OBS,
    FrameStack,
    ObservationPart,
    Preprocessor,
    flatten,
    n_frames,
    preprocess,
)
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.reference import first_spike_outputs, read, readout_tick, values_at_first_spike
from spikeloop.spiking.stateless import StatelessWarning
from spikeloop.spiking.storage import load_parts, save_parts

FORMAT_VERSION = 3
KIND = "spikeloop.deployment"
INPUTS = ("bias", "spikes", "graded")
_SCALES = 1e-60, 1e60  # least and largest: products of three, and of the largest input, are still numbers
_LARGEST = 1e30  # an infinite input is computed with as this: as good as infinite, and its multiples are numbers


@dataclass(frozen=True, eq=False)
class Host:
    """What is computed beside the chip on every env step: input before its ticks, action after them.

    Args:
        observation: Parts of an observation as the environment shows it.
        encoder: Observation to input.
        readout: How output values are read. Where the chip holds its weights, ``w_out`` is empty, shape (n_outputs, 0);
            else the host receives the last layer's spikes.
        n_ticks: Ticks per env step.
        dt: Length of a tick in ms.
        input: ``"bias"`` writes currents ``w_in x + bias`` once per env step, ``"spikes"`` sends spikes on each
            tick, ``"graded"`` sends values as payloads on each tick.
        input_scale: Chip units per unit of current, or payload per unit of input.
        output_scale: Value per chip unit of v of a readout compartment.
        w_in: ``bias`` only: input weights, shape (N, n_channels).
        bias: ``bias`` only: constant current, shape (N,).
        first_target: ``bias`` only: the compartment that takes the first current; the others follow it.
        first_source: The compartment of the last layer's first neuron; the others follow it.
        preprocessing: Steps between the observation and the encoder, in their order.
        latency: Ticks until a readout on the host meets a spike, 0 or 1.
        head: Output values to an action; None for a network that is not a policy.

    Raises:
        ValueError: If a choice is unknown or shapes disagree.
    """

    observation: tuple[ObservationPart, ...]
    encoder: Encoder
    readout: Readout
    n_ticks: int
    dt: float
    input: Literal["bias", "spikes", "graded"]
    input_scale: float
    output_scale: float
    w_in: np.ndarray | None = None
    bias: np.ndarray | None = None
    first_target: int = 0
    first_source: int = 0
    preprocessing: tuple[Preprocessor, ...] = ()
    latency: int = 0
    head: ActionHead | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "Host"
        check_part(me, "encoder", self.encoder, Encoder)
        check_part(me, "readout", self.readout, Readout)
        check_part(me, "head", self.head, ActionHead, NoneType)
        check_choice(me, "input", self.input, INPUTS)
        set_fields(
            self,
            n_ticks=whole(me, "n_ticks", self.n_ticks, 1, MAX_TICKS),
            dt=number(me, "dt", self.dt, 1e-9, MAX_TIME),
            latency=whole(me, "latency", self.latency, 0, 1),
            input_scale=number(me, "input_scale", self.input_scale, *_SCALES),
            output_scale=number(me, "output_scale", self.output_scale, *_SCALES),
            first_target=whole(me, "first_target", self.first_target, 0, MAX_OBS),
            first_source=whole(me, "first_source", self.first_source, 0, MAX_OBS),
            **checked_preprocessing(me, self.observation, self.preprocessing, self.encoder),
        )
        if not self.observation:
            raise ValueError("Host.observation must have at least one part, got none")
        if self.encoder.per_tick != (self.input == "spikes"):
            wanted = "'spikes'" if self.encoder.per_tick else "'bias' or 'graded'"
            raise ValueError(f"Host.input must be {wanted} with encoder {self.encoder.kind!r}, got {self.input!r}")
        if self.input == "bias":
            w_in = array_of(me, "w_in", self.w_in, (None, self.encoder.n_channels))
            bias = array_of(me, "bias", self.bias, (len(w_in),))
            set_fields(self, w_in=w_in, bias=bias)
            largest = float(max(abs(w_in).max(initial=0.0), abs(bias).max(initial=0.0)))
            if largest > _SCALES[1]:
                raise ValueError(f"Host.w_in and Host.bias must lie within +-{_SCALES[1]:g}, found {largest:g}")
        elif self.w_in is not None or self.bias is not None:
            raise ValueError(f"Host.w_in and Host.bias must be None where input is {self.input!r}")
        if self.head is not None and self.head.n_outputs != self.readout.n_outputs:
            raise ValueError(f"Host.head needs {self.head.n_outputs} outputs, readout has {self.readout.n_outputs}")
        if self.readout.first_spike and (self.head is None or self.head.kind != "discrete"):
            raise ValueError("Readout.first_spike needs a head of kind 'discrete'")
        sent = 0 if self.input == "bias" else self.encoder.n_channels
        received = self.readout.n_neurons if self.reads_spikes else self.readout.n_outputs
        check_size(me, self.n_ticks, 8 * max(sent, received), self.memory_shape)

    @property
    def reads_spikes(self) -> bool:
        """Whether the readout is computed here, from spikes that leave the chip."""
        return self.readout.n_neurons > 0

    @property
    def n_obs(self) -> int:
        """Numbers that an observation becomes before any preprocessing."""
        return sum(part.n_values for part in self.observation)

    @property
    def memory_shape(self) -> tuple[int, int]:
        """Rows and width of what the host remembers between env steps: past frames, and the encoder's memory."""
        frames = [step for step in self.preprocessing if isinstance(step, FrameStack)]
        width = max([self.encoder.n_obs, *(step.n_in for step in frames)])
        return n_frames(frames) + len(self.encoder.memory_rows), width


class State(NamedTuple):
    """State of a deployed policy between env steps.

    ``chip``: the emulator's, int32 (B, W); ``memory``: past frames and the encoder's memory, (n_rows, B, width);
    ``trace``: the readout's, (B, N) where the host computes it, else (B, 0).
    """

    chip: np.ndarray
    memory: np.ndarray
    trace: np.ndarray


@dataclass(frozen=True, eq=False)
class Deployment:
    """A network compiled for a chip, as a value.

    Args:
        program: What the chip is loaded with.
        host: What stays beside it.
        approximations: In what the chip differs from the network, beside rounding: keys of ``APPROXIMATIONS``.
        metadata: Free text pairs, those of the network among them.
        quantization: What the weights of each projection lost; empty in files saved before this was recorded.

    Raises:
        ValueError: If program and host do not fit together.
    """

    program: Program
    host: Host
    approximations: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    quantization: tuple[QuantizationCost, ...] = ()

    def __post_init__(self) -> None:
        """Validate that the parts fit together."""
        me = "Deployment"
        check_part(me, "program", self.program, Program)
        check_part(me, "host", self.host, Host)
        set_fields(
            self,
            approximations=parts_of(me, "approximations", self.approximations, str),
            metadata=texts(me, "metadata", self.metadata),
            quantization=parts_of(me, "quantization", self.quantization, QuantizationCost),
        )
        host, program, n = self.host, self.program, self.program.compartments.n
        for note in self.approximations:
            check_choice(me, "approximations", note, tuple(APPROXIMATIONS))
        if host.input == "graded" and not program.chip_spec.graded_spikes:
            raise ValueError(
                f"Deployment.host.input must not be 'graded' on {program.chip}, which has no graded spikes"
            )
        if np.any(program.compartments.noise):
            raise ValueError("Deployment.program must be without noise, as compiled networks are")
        if not np.any(program.compartments.fires):
            raise ValueError("Deployment.program must have a compartment that fires, found none")
        n_inputs = 0 if host.input == "bias" else host.encoder.n_channels
        if program.n_inputs != n_inputs:
            raise ValueError(f"Deployment.program must have {n_inputs} inputs, has {program.n_inputs}")
        read = host.first_source + np.arange(host.readout.n_neurons)
        if not np.array_equal(program.spike_outputs, read):
            raise ValueError(
                f"Deployment.program must have spike_outputs {shown(read)}, has {shown(program.spike_outputs)}; "
                "if an older spikeloop wrote the file, compile the network again"
            )
        n_outputs = 0 if host.reads_spikes else host.readout.n_outputs
        if program.outputs.size != n_outputs:
            raise ValueError(f"Deployment.program must have {n_outputs} outputs, has {program.outputs.size}")
        lengths = {"target": 0 if host.bias is None else len(host.bias), "source": host.readout.n_neurons}
        for name, length in lengths.items():
            first = getattr(host, f"first_{name}")
            if not first <= n - length:
                raise ValueError(f"Deployment.host.first_{name} must be within [0, {n - length}], got {first!r}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one safetensors file; it appears under its name only when it is complete."""
        save_parts(path, KIND, FORMAT_VERSION, self)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Deployment:
        """Read what :meth:`save` wrote. Runs no code from the file.

        Raises:
            ValueError: If the file is truncated, not ours, of another version, or does not hold a valid deployment.
            FileNotFoundError: If there is no such file.
        """
        classes = (*PARTS, Deployment, Host, *HOST_PARTS, QuantizationCost)
        deployment = load_parts(path, KIND, FORMAT_VERSION, classes, former={2: {}}, checksums_since=3)
        if not isinstance(deployment, Deployment):
            raise ValueError(f"{path} does not describe a deployment")
        return deployment


class DeployedPolicy:
    """Steps a deployment as SB3's policies are stepped. State is a value: it is handed in and returned, never kept.

    Several threads may step one policy at once. A copy or pickle is a policy of its own, which starts with the same
    counts. Values that leave their range, on the chip or on the way to it, are counted, and the first is warned of.

    Args:
        deployment: The compiled network.
        rng: Source of the start keys of a ``rate`` encoder; seeded with 0 if None.
        interpreted: Run the plain-Python interpreter instead of the emulator; slow.

    Attributes:
        engine: What runs the program; its ``counts`` tell what happened.
        n_steps: Pairs of environment and env step so far.
        clipped_biases: How many currents exceeded what a bias can hold, and were written as the largest.
        clipped_payloads: How many inputs were too large to be sent, as a sum on the chip could have wrapped. All
            channels of that environment were then scaled down by one factor.
    """

    def __init__(self, deployment: Deployment, rng: np.random.Generator | None = None, interpreted: bool = False):
        self.deployment = deployment
        self.rng = rng if rng is not None else np.random.default_rng(0)
        program, host = deployment.program, deployment.host
        self.engine: Any = Interpreter(program) if interpreted else Emulator(program)
        self.n_steps = self.clipped_biases = self.clipped_payloads = 0
        self._lock, self._told = threading.Lock(), False
        self._largest_payload = largest_payload(program) if host.input == "graded" else 1
        self._n_frames = n_frames(host.preprocessing)
        self._b_out = host.readout.b_out.astype(np.float64)
        layout = layout_of(program)
        self._clears = not host.reads_spikes and (host.readout.count or host.readout.first_spike)
        self._read_v = layout.start("v") + program.outputs
        self._n_read = host.readout.n_neurons
        self._read_z = slice(
            layout.start("z") + host.first_source, layout.start("z") + host.first_source + self._n_read
        )
        if host.input == "bias":
            assert host.w_in is not None and host.bias is not None
            self._w = np.ascontiguousarray(host.w_in.T, np.float64) * host.input_scale
            self._b = host.bias.astype(np.float64) * host.input_scale
            self._targets = slice(host.first_target, host.first_target + len(host.bias))
        self._rest = self.engine.initial_state(1)  # no compiled network has noise: rest is the same for all
        self._note_state = StatelessWarning("policy")

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: all but the lock."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a policy of the same deployment, random stream and counts."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __copy__(self) -> DeployedPolicy:
        """Return a policy of its own, as ``copy.deepcopy`` does."""
        return copy.deepcopy(self)

    def initial_state(self, n_envs: int = 1) -> State:
        """Return the resting state of ``n_envs`` chips and encoders."""
        host, chip = self.deployment.host, self.engine.initial_state(n_envs)
        n_rows, width = host.memory_shape
        memory = np.zeros((n_rows, n_envs, width), np.float32)
        if host.encoder.kind == "rate":
            memory[self._n_frames, :, 0] = new_keys(self.rng, n_envs)
        return State(chip, memory, np.zeros((n_envs, self._n_read)))

    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, State]:
        """Choose actions, as SB3's ``predict`` does.

        Args:
            observation: Observations as the environment shows them, one or a batch: shape (B, ...) or (...) of each
                part, a mapping of parts where there are several; or flat, (B, n_obs) or (n_obs,).
            state: What the previous call returned; None starts from rest.
            episode_start: True where the state is cleared first, shape (B,).
            deterministic: Only True: a chip holds no distribution to sample from.

        Returns:
            The actions, shape (B, ...) or that of one action, and the new state.

        Raises:
            ValueError: If the network has no action head, the action is to be sampled, or as :meth:`step` says.
        """
        head = self.deployment.host.head
        if head is None or not deterministic:
            what = "has no action head" if head is None else "holds no distribution: predict with deterministic=True"
            raise ValueError(f"the deployed network {what}")
        self._note_state(state is None and episode_start is None)
        rows, single = flatten(self.deployment.host.observation, observation)
        values, new = self.step(rows, state, episode_start)
        actions = head(values.astype(self.deployment.host.readout.b_out.dtype))
        return (actions[0] if single else actions), new

    def step(
        self, obs: np.ndarray, state: State | None = None, episode_start: np.ndarray | None = None
    ) -> tuple[np.ndarray, State]:
        """Run one env step.

        Args:
            obs: Raw observations as rows, shape (B, n_obs).
            state: As in :meth:`predict`.
            episode_start: As in :meth:`predict`.

        Returns:
            The output values, shape (B, n_outputs), float64, and the new state.

        Raises:
            ValueError: If a shape is wrong, an observation is no number, or the state is not of this policy; or if
                an observation is infinite, unless a normaliser clips it or the encoder is ``direct``: it then counts
                as the largest input that the chip takes.
        """
        obs = np.asarray(obs)
        n_obs = self.deployment.host.n_obs
        if obs.ndim != 2 or obs.shape[1] != n_obs or not len(obs):
            raise ValueError(f"observations must have {n_obs} values, got shape {obs.shape}")
        if obs.dtype.kind not in "fiub":
            raise ValueError(f"observations must be numbers, got {obs.dtype}")
        host, n_batch = self.deployment.host, len(obs)
        state = self.initial_state(n_batch) if state is None else self._checked(state, n_batch)
        chip, memory, trace = state
        starts = None
        if episode_start is not None:
            starts = np.asarray(episode_start)
            if starts.size != n_batch or starts.dtype.kind not in "biuf":
                raise ValueError(f"episode_start must have shape ({n_batch},), got {starts.dtype} {starts.shape}")
            starts = starts.reshape(n_batch) != 0
            if starts.any():
                chip = np.where(starts[:, None], self._rest, chip)
                trace = np.where(starts[:, None], 0.0, trace)
        if self._clears:
            chip = chip.copy()
            chip[:, self._read_v] = 0
        with np.errstate(over="ignore", invalid="ignore"):
            x, memory = self._encode(obs, memory, starts)
            inputs, bias = self._to_chip(x, obs)
        if host.reads_spikes:
            values, chip, trace = self._run_and_read_spikes(chip, inputs, bias, trace)
        else:
            v, chip = self.engine.run(chip, host.n_ticks, inputs, bias)[:2]
            values = self._read(v)
        with self._lock:
            self.n_steps += n_batch
        if self.engine.overflowed and not self._told:
            self._tell("on the chip")
        return values, State(chip, memory, trace)

    def _checked(self, state: State, n_batch: int) -> State:
        """Return the state if its parts have the shapes of this policy and batch; the emulator checks its own part."""
        n_rows, width = self.deployment.host.memory_shape
        shapes = (n_batch, self._rest.shape[1]), (n_rows, n_batch, width), (n_batch, self._n_read)
        try:
            chip, memory, trace = state
            found = chip.shape, memory.shape, trace.shape
        except (AttributeError, TypeError, ValueError):
            found = type(state).__name__  # type: ignore[assignment]
        if found != shapes:
            raise ValueError(
                f"state must be that of {n_batch} environments, with parts of shapes {shapes}, got {found}"
            )
        return state

    def _encode(self, obs: np.ndarray, memory: np.ndarray, starts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the encoder's output, (B, n_channels) or (n_ticks, B, n_channels), and its memory."""
        host = self.deployment.host
        by_step = None if starts is None else starts[None]
        seen, frames = preprocess(host.preprocessing, obs[None], memory[: self._n_frames], by_step)
        if host.encoder.kind == "direct":  # what is infinite may saturate on the way to the chip
            return seen[0].astype(np.float32), frames
        _refuse_nan(obs)
        x, level = encode(host.encoder, seen, memory[self._n_frames :], by_step, host.n_ticks, host.dt)
        return x[0], np.concatenate([frames, level]) if self._n_frames else level

    def _tell(self, where: str) -> None:
        """Warn, the first time, that values have left their range."""
        with self._lock:
            first, self._told = not self._told, True
        if first:
            warnings.warn(
                f"values left their range {where}, so the chip may do otherwise than the network; they are "
                "counted in report(policy).overflows. Calibrate with observations as large as those of the task",
                stacklevel=4,
            )

    def _to_chip(self, x: np.ndarray, obs: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return what the chip gets for an encoder's output: payloads (n_ticks, B, n_channels) or biases (B, C).

        Raises:
            ValueError: If the observation that it comes from is no number.
        """
        host, program = self.deployment.host, self.deployment.program
        if host.input == "spikes":
            return x.astype(np.int32), None
        if host.input == "graded":
            sent = np.rint(self._payloads(x, obs)).astype(np.int32)
            return np.repeat(sent[None], host.n_ticks, axis=0), None
        current = x @ self._w + self._b
        if not abs(current).max() <= MAX_BIAS:  # larger, or no number
            _refuse_nan(obs)
            current = np.clip(x, -_LARGEST, _LARGEST) @ self._w + self._b
            self._count("clipped_biases", int((abs(current) > MAX_BIAS).sum()))
        bias = np.repeat(program.compartments.bias[None], len(x), axis=0)
        bias[:, self._targets] = quantize_bias(current)
        return None, bias

    def _payloads(self, x: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """Return inputs in units of payloads, (B, n_channels), scaled down per environment where one is too large.

        All channels are scaled alike: of currents far beyond the threshold only the signs count, and those stay.
        """
        sent, limit = x * np.float64(self.deployment.host.input_scale), self._largest_payload
        if abs(sent).max() <= limit:
            return sent
        _refuse_nan(obs)
        sent = np.clip(sent, -_LARGEST, _LARGEST)
        self._count("clipped_payloads", int((abs(sent) > limit).sum()))
        return sent * np.minimum(1.0, limit / np.maximum(abs(sent).max(axis=1, keepdims=True), 1.0))

    def _count(self, name: str, n: int) -> None:
        with self._lock:
            setattr(self, name, getattr(self, name) + n)
        if n and not self._told:
            self._tell("on the way to the chip")

    def _read(self, v: np.ndarray) -> np.ndarray:
        """Return the output values, (B, O), of what the readout compartments held, (n_ticks, B, O)."""
        readout, scale = self.deployment.host.readout, self.deployment.host.output_scale
        if not readout.first_spike:
            return v[-1] * scale + self._b_out
        ticks = np.arange(1, len(v) + 1)[:, None, None]
        return values_at_first_spike(v * scale + ticks * self._b_out, readout.v_th_out)

    def _run_and_read_spikes(
        self, chip: np.ndarray, inputs: np.ndarray | None, bias: np.ndarray | None, trace: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run the chip tick by tick and compute the readout from the spikes of each."""
        host = self.deployment.host
        arrived = np.empty((host.n_ticks, len(chip), self._n_read))
        for t in range(host.n_ticks):
            fired_before = chip[:, self._read_z]
            chip = self.engine.run(chip, 1, None if inputs is None else inputs[t : t + 1], bias)[1]
            arrived[t] = fired_before if host.latency else chip[:, self._read_z]
            trace = readout_tick(trace, arrived[t], host.readout, host.n_ticks, t == 0, host.dt)
        if host.readout.first_spike:
            return first_spike_outputs(arrived, host.readout), chip, trace
        return read(trace, host.readout), chip, trace

    def firing_rates(self) -> list[float]:
        """Return the spikes per neuron and tick of each layer so far."""
        counts, program = self.engine.counts, self.deployment.program
        fires = program.compartments.fires
        groups = [slice(start, stop) for _, start, stop in program.groups if fires[start]]
        return [float(counts.spikes[group].mean()) / max(counts.n_ticks, 1) for group in groups]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the deployment to one safetensors file."""
        self.deployment.save(path)

    @staticmethod
    def load(path: str | os.PathLike[str], rng: np.random.Generator | None = None) -> DeployedPolicy:
        """Read a deployment and return the policy that steps it; errors as in :meth:`Deployment.load`."""
        return DeployedPolicy(Deployment.load(path), rng)


def _refuse_nan(obs: np.ndarray) -> None:
    """Raise ``ValueError`` where an observation, shape (B, n_obs), is no number."""
    if np.isnan(obs).any():
        env, i = np.argwhere(np.isnan(obs))[0].tolist()
        raise ValueError(f"observation must hold numbers, got nan as value {i} of environment {env}")
