"""What is computed beside a chip on every env step, and what a compiler returns."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, NamedTuple

import numpy as np

from spikeloop.hardware.quantization import QuantizationCost
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders import ENCODERS, Encoder
from spikeloop.spiking.fields import array_of, check_choice, check_part, flag, number, set_fields, whole
from spikeloop.spiking.limits import MAX_TICKS, MAX_TIME, check_size
from spikeloop.spiking.network import check_head, checked_preprocessing
from spikeloop.spiking.observation import MAX_OBS, FrameStack, ObservationPart, Preprocessor, n_frames
from spikeloop.spiking.readout import Readout

INPUTS = ("bias", "spikes", "graded")
_SCALES = 1e-60, 1e60  # least and largest: products of three, and of the largest input, are still numbers


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
        n_parts: Parts of a readout on the chip that more sources reach than a core has axons. Each part has a
            compartment for each output, and the host adds what they hold.
        clears: Whether the host sets the chip, and its own readout, to rest before every env step.

    Raises:
        ValueError: If a choice is unknown or shapes disagree.

    Example:
        >>> from spikeloop.spiking import ActionHead, Encoder, Readout
        >>> from spikeloop.spiking.observation import ObservationPart
        >>> import numpy as np
        >>> readout = Readout(np.zeros((2, 0)), np.zeros(2))  # its weights are on the chip
        >>> encoder, head = Encoder("direct", 3), ActionHead("discrete", (2,))
        >>> host = Host((ObservationPart((3,)),), encoder, readout, 4, 1.0, "graded", 16.0, 0.01, head=head)
        >>> host.n_obs, host.reads_spikes
        (3, False)
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
    n_parts: int = 1
    clears: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "Host"
        check_part(me, "encoder", self.encoder, *ENCODERS.values())
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
            n_parts=whole(me, "n_parts", self.n_parts, 1, MAX_OBS),
            clears=flag(me, "clears", self.clears),
            **checked_preprocessing(me, self.observation, self.preprocessing, self.encoder),
        )
        if not self.observation:
            raise ValueError("Host.observation must have at least one part, got none")
        if self.encoder.spikes != (self.input == "spikes"):
            wanted = "'spikes'" if self.encoder.spikes else "'bias' or 'graded'"
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
        check_head(me, self.readout, self.head)
        sent = 0 if self.input == "bias" else self.encoder.n_channels
        received = self.readout.n_neurons if self.reads_spikes else self.n_parts * self.readout.n_outputs
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


class Compiled(NamedTuple):
    """What a :class:`~spikeloop.hardware.target.Target` makes of a network.

    Example:
        >>> Compiled("a program", "a host", warnings=("weights lost much",)).approximations
        ()
    """

    program: Any  # what the chip is loaded with, of the target's class of programs
    host: Host
    approximations: tuple[str, ...] = ()  # in what the chip differs from the network: keys of the target's
    quantization: tuple[QuantizationCost, ...] = ()
    warnings: tuple[str, ...] = ()  # what the user should know of this network on this chip


def refuse_nan(obs: np.ndarray) -> None:
    """Raise ``ValueError`` where an observation, shape (B, n_obs), is no number."""
    if np.isnan(obs).any():
        env, i = np.argwhere(np.isnan(obs))[0].tolist()
        raise ValueError(f"observation must hold numbers, got nan as value {i} of environment {env}")
