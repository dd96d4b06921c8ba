"""What an emulated chip is loaded with: compartments, projections and placement as frozen, validated arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spikeloop.hardware.loihi.chip import CHIPS, EMULATOR_MAX, MAX_REFRACTORY, MAX_V_TH, PROFILES, Chip, Profile
from spikeloop.hardware.loihi.fixed_point import bias_fits, weight_range, weight_step
from spikeloop.spiking.fields import (
    check_choice,
    check_part,
    flag,
    parts_of,
    set_fields,
    shown,
    text,
    texts,
    whole,
    wholes,
)
from spikeloop.spiking.storage import load_parts, save_parts

FORMAT_VERSION = 2
MAX_INPUTS = 2**20  # input lines; a chip has 2^19 lists of synapses for them
MAX_CORE = 2**12 - 1  # 32 chips' worth, for programs that leave the limits of one out of account
MODELS = ("cuba", "slayer_alif", "lsnn")
SIGN_MODES = ("mixed", "excitatory", "inhibitory")
NOISE_AT = ("current", "membrane")


def shortened(values: Any) -> str:
    """Return how values are written in a message: the first and the last of many, with their number."""
    array = np.asarray(values)
    if array.size <= 12:
        return shown(values.tolist() if isinstance(values, np.ndarray) else values)
    ends = ", ".join(str(x) for x in array.flat[:3]), ", ".join(str(x) for x in array.flat[-3:])
    return f"[{ends[0]}, ..., {ends[1]}] ({array.size} values)"


def _array(owner: str, name: str, value: Any, shape: tuple[int | None, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Return ``value`` as a read-only integer array of the given shape and dtype, or raise naming the field."""
    try:
        array = np.asarray(value)
        whole = array.dtype.kind in "iub" or bool(np.all(array == np.round(array)))
        info = np.iinfo(dtype)
        inside = array.size == 0 or bool(np.all((array >= info.min) & (array <= info.max)))
    except (TypeError, ValueError):
        raise ValueError(f"{owner}.{name} must be an array of integers, got {shortened(value)}") from None
    if not (whole and inside):
        raise ValueError(f"{owner}.{name} must hold whole numbers that fit {np.dtype(dtype)}, got {shortened(value)}")
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"{owner}.{name} must have shape {wanted}, got {array.shape}")
    array = np.array(array, dtype=dtype, order="C", copy=True)
    array.setflags(write=False)
    return array


def _within(owner: str, name: str, array: np.ndarray, low: int, high: int) -> None:
    if array.size and (array.min() < low or array.max() > high):
        found = array.min() if array.min() < low else array.max()
        raise ValueError(f"{owner}.{name} must be within [{low}, {high}], found {found}")


_DTYPES = {"model": np.uint8, "subtract": np.uint8, "fires": np.uint8, "noise": np.uint8}
_DEFAULTS = {
    "decay_u": 4096,
    "v_th": 64,
    "refractory": 1,
    "v_min": -(2**23) + 1,
    "v_max": 2**23 - 1,
    "parent": -1,
    "fires": 1,
}


@dataclass(frozen=True, eq=False)
class Compartments:
    """Every compartment of a program, one entry each in arrays of shape (C,); children stand before their parents.

    An emulator is quickest where neighbours in these arrays have the same model and where all children of a group of
    neurons stand before all their parents, instead of child, parent, child, parent.

    Args:
        model: Index into ``MODELS``: 0 ``cuba``, 1 ``slayer_alif``, 2 ``lsnn``; the interpreter
            has their equations.
        decay_u: Effective current decay, 0 (keeps) to 4096 (forgets), the register's offset included; 4097 exists
            only in profile ``lava``, whose adaptive neuron can ask for it.
        decay_v: Effective voltage decay, 0 to 4096.
        v_th: Threshold in units of v: mantissa 0..131071 times 64.
        bias: Added to v on every tick: 13-bit signed mantissa times 2^0..2^7.
        refractory: The earliest next spike after one at t is at t + refractory; 1..64, 1 means none.
        v_min: Lowest v.
        v_max: Highest v.
        parent: Compartment to whose v this one's v is added on each tick (ADD join), or -1. One with a parent
            must not fire.
        decay_a: Decay of the adaptation, 0 to 4096.
        step_a: What a spike adds to the adaptation, in units of v.
        decay_r: Decay of the refractory term of ``slayer_alif``, 0 to 4096.
        subtract: 1 where a spike takes ``v_th`` off v instead of clearing it; only with model ``lsnn``.
        fires: 0 where the compartment never spikes. Where v has registers for its bounds, such a compartment has the
            largest threshold there is, and v is kept at or below it.
        noise: 1 where the core's noise is added.
        core: The core it is placed on.

    Raises:
        ValueError: If shapes differ or a value is out of range.
    """

    model: np.ndarray
    decay_u: np.ndarray
    decay_v: np.ndarray
    v_th: np.ndarray
    bias: np.ndarray
    refractory: np.ndarray
    v_min: np.ndarray
    v_max: np.ndarray
    parent: np.ndarray
    decay_a: np.ndarray
    step_a: np.ndarray
    decay_r: np.ndarray
    subtract: np.ndarray
    fires: np.ndarray
    noise: np.ndarray
    core: np.ndarray

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "Compartments"
        n = np.shape(self.model)[0] if np.ndim(self.model) == 1 else None
        for f in fields(self):
            array = _array(me, f.name, getattr(self, f.name), (n,), _DTYPES.get(f.name, np.int32))
            object.__setattr__(self, f.name, array)
        if self.n == 0:
            raise ValueError("Compartments must hold at least one compartment")
        _within(me, "model", self.model, 0, len(MODELS) - 1)
        _within(me, "decay_u", self.decay_u, 0, 4097)
        for name in ("decay_v", "decay_a", "decay_r"):
            _within(me, name, getattr(self, name), 0, 4096)
        _within(me, "v_th", self.v_th, 0, MAX_V_TH)
        if np.any(self.v_th % 64):
            raise ValueError(f"Compartments.v_th must be multiples of 64, found {self.v_th[self.v_th % 64 != 0][0]}")
        if not np.all(bias_fits(self.bias)):
            bad = self.bias[~bias_fits(self.bias)][0]
            raise ValueError(f"Compartments.bias must be a 13-bit mantissa times 2^0..2^7, found {bad}")
        _within(me, "refractory", self.refractory, 1, MAX_REFRACTORY)
        _within(me, "v_min", self.v_min, -EMULATOR_MAX, 0)
        _within(me, "v_max", self.v_max, 1, EMULATOR_MAX)
        _within(me, "step_a", self.step_a, -(2**23), 2**23)
        for name in ("subtract", "fires", "noise"):
            _within(me, name, getattr(self, name), 0, 1)
        self._check_trees()
        alif = self.model == MODELS.index("slayer_alif")
        if np.any(self.refractory[alif] != 1):
            raise ValueError("Compartments.refractory must be 1 with model 'slayer_alif', whose decay_r does that")
        if np.any(self.subtract & (self.model != MODELS.index("lsnn"))):
            raise ValueError("Compartments.subtract needs model 'lsnn': the chip's own neuron resets to zero")
        _within(me, "core", self.core, 0, MAX_CORE)

    def _check_trees(self) -> None:
        joined = np.flatnonzero(self.parent != -1)
        parent = self.parent[joined]
        if np.any((parent <= joined) | (parent >= self.n)):
            bad = joined[(parent <= joined) | (parent >= self.n)][0]
            raise ValueError(
                f"Compartments.parent must be -1 or a later compartment, found {self.parent[bad]} at index {bad}"
            )
        if np.any(self.fires[joined]):
            raise ValueError("Compartments.fires must be 0 where a compartment has a parent")
        if joined.size and np.bincount(parent).max() > 2:
            raise ValueError(f"Compartments.parent: at most 2 children each, {np.bincount(parent).argmax()} has more")
        if np.any(self.core[joined] != self.core[parent]):
            raise ValueError("Compartments.core must be the same for a compartment and its parent")

    @property
    def n(self) -> int:
        """Number of compartments C."""
        return self.model.shape[0]

    @staticmethod
    def build(n: int, **values: npt.ArrayLike) -> Compartments:
        """Return ``n`` compartments; each given field is a number for all or an array (n,), the rest neutral.

        Neutral is: model ``cuba``, u without memory, v without leak, lowest threshold, no bias, no refractory ticks,
        widest bounds, no tree, fires, core 0.
        """
        unknown = set(values) - {f.name for f in fields(Compartments)}
        if unknown:
            raise ValueError(f"Compartments has no field {sorted(unknown)[0]!r}")
        return Compartments(
            **{
                f.name: np.broadcast_to(np.asarray(values.get(f.name, _DEFAULTS.get(f.name, 0))), (n,))
                for f in fields(Compartments)
            }
        )


@dataclass(frozen=True, eq=False)
class Projection:
    """Synapses from some sources to some compartments; a weight mantissa of 0 is no synapse, unless ``plastic``.

    One spike adds ``w * 2^(6 + exponent)`` to u of the target; how low bits are lost is the profile's business.

    Args:
        name: For messages and reports.
        from_input: Whether ``pre`` counts input lines; else compartments.
        pre: Sources, shape (P,), each at most once.
        post: Target compartments, shape (Q,), each at most once.
        weights: Mantissas as the chip stores them, shape (Q, P): multiples of ``2^(8 - bits)``, twice that if mixed.
        exponent: wgtExp, -8..7, of all synapses; the program's profile may have fewer.
        bits: Bits of a weight, 1..8 (7 exists in profile ``lava`` only); in mode ``mixed`` one of them is the sign.
        sign_mode: ``"mixed"``, ``"excitatory"`` or ``"inhibitory"``.
        delays: Ticks beyond the one that every spike takes, shape (Q, P), 0..62, in profile ``lava`` 63; None for none.
        plastic: Whether the weights may be changed while running; any mantissa in range may then occur.

    Raises:
        ValueError: If shapes differ or a value is out of range.
    """

    name: str
    from_input: bool
    pre: np.ndarray
    post: np.ndarray
    weights: np.ndarray
    exponent: int = 0
    bits: int = 8
    sign_mode: Literal["mixed", "excitatory", "inhibitory"] = "mixed"
    delays: np.ndarray | None = None
    plastic: bool = False

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = f"Projection {text('Projection', 'name', self.name)!r}"
        pre, post = _array(me, "pre", self.pre, (None,), np.int32), _array(me, "post", self.post, (None,), np.int32)
        weights = _array(me, "weights", self.weights, (post.size, pre.size), np.int16)
        for name, array in (("pre", pre), ("post", post)):
            if array.size == 0 or np.unique(array).size < array.size or array.min() < 0:
                raise ValueError(f"{me}.{name} must hold at least one id >= 0, each once, got {shortened(array)}")
        check_choice(me, "sign_mode", self.sign_mode, SIGN_MODES)
        set_fields(
            self,
            from_input=flag(me, "from_input", self.from_input),
            bits=whole(me, "bits", self.bits, 1, 8),
            exponent=whole(me, "exponent", self.exponent, -8, 7),
            plastic=flag(me, "plastic", self.plastic),
        )
        self.check_weights(weights)
        if self.delays is not None:
            delays = _array(me, "delays", self.delays, weights.shape, np.uint8)
            _within(me, "delays", delays, 0, max(profile.max_delay for profile in PROFILES.values()))
            set_fields(self, delays=delays)
        set_fields(self, pre=pre, post=post, weights=weights)

    def check_weights(self, weights: np.ndarray) -> None:
        """Raise ValueError unless the mantissas, shape (Q, P), can be stored in this projection's format."""
        low, high = weight_range(self.sign_mode)
        _within(f"Projection {self.name!r}", "weights", weights, low, high)
        step = 1 if self.plastic else weight_step(self.bits, self.sign_mode)
        if np.any(weights % step):
            bad = weights[weights % step != 0][0]
            raise ValueError(
                f"Projection {self.name!r}.weights must be multiples of {step} at {self.bits} bits {self.sign_mode}, "
                f"found {bad}"
            )

    @property
    def synapses(self) -> np.ndarray:
        """Where there is a synapse, bool of shape (Q, P)."""
        return np.ones(self.weights.shape, dtype=bool) if self.plastic else self.weights != 0


@dataclass(frozen=True, eq=False)
class Program:
    """A whole chip's configuration.

    Args:
        chip: ``"loihi1"`` or ``"loihi2"``.
        profile: Arithmetic profile, a key of :data:`spikeloop.hardware.loihi.chip.PROFILES`.
        n_inputs: Number of input lines.
        compartments: All compartments.
        projections: All synapses.
        outputs: Compartments whose v the host reads, shape (O,).
        groups: ``(name, start, stop)`` of compartments, for messages and reports.
        noise_exponent: Noise is ``trunc((U + 64 * noise_mantissa) * 2^(noise_exponent - 7))``, U from -127..127.
        noise_mantissa: See there.
        noise_at: Where noise is added, ``"current"`` or ``"membrane"``.
        input_latency: Ticks from an input spike to u: 0 where the host hands spikes over before the tick on which they
            arrive, 1 as from a spike generator; None as the profile says.
        metadata: Free text pairs.
        spike_outputs: Compartments whose spikes the host reads: they leave the chip, one packet each, shape (S,).

    Raises:
        ValueError: If the parts do not fit together, or need what the chip's neurons do not have.
    """

    chip: str
    profile: str
    n_inputs: int
    compartments: Compartments
    projections: tuple[Projection, ...]
    outputs: np.ndarray
    groups: tuple[tuple[str, int, int], ...] = ()
    noise_exponent: int = 1
    noise_mantissa: int = 0
    noise_at: Literal["current", "membrane"] = "current"
    input_latency: Literal[0, 1] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    spike_outputs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def __post_init__(self) -> None:
        """Validate that the parts fit together and that the chip can express them."""
        me = "Program"
        check_choice(me, "chip", self.chip, tuple(CHIPS))
        check_choice(me, "profile", self.profile, tuple(PROFILES))
        check_choice(me, "noise_at", self.noise_at, NOISE_AT)
        check_part(me, "compartments", self.compartments, Compartments)
        set_fields(
            self,
            n_inputs=whole(me, "n_inputs", self.n_inputs, 0, MAX_INPUTS),
            noise_exponent=whole(me, "noise_exponent", self.noise_exponent, 1, 23),
            noise_mantissa=whole(me, "noise_mantissa", self.noise_mantissa, -256, 255),
            projections=parts_of(me, "projections", self.projections, Projection),
            metadata=texts(me, "metadata", self.metadata),
        )
        if self.input_latency is not None:
            set_fields(self, input_latency=whole(me, "input_latency", self.input_latency, 0, 1))
        loudest = (127 + 64 * abs(self.noise_mantissa)) << self.noise_exponent >> 7
        if loudest > 2**26:
            raise ValueError(
                f"Program.noise_exponent and noise_mantissa must keep noise within 2^26, they make {loudest}"
            )
        for name in ("outputs", "spike_outputs"):
            set_fields(self, **{name: _array(me, name, getattr(self, name), (None,), np.int32)})
        n = self.compartments.n
        set_fields(
            self, groups=tuple(self._group(group, n) for group in parts_of(me, "groups", self.groups, tuple, list))
        )
        _within("Program", "outputs", self.outputs, 0, n - 1)
        _within("Program", "spike_outputs", self.spike_outputs, 0, n - 1)
        for p in self.projections:
            _within(f"Projection {p.name!r}", "pre", p.pre, 0, (self.n_inputs if p.from_input else n) - 1)
            _within(f"Projection {p.name!r}", "post", p.post, 0, n - 1)
        self._check_neurons()

    @staticmethod
    def _group(group: Any, n: int) -> tuple[str, int, int]:
        """Return a group of ``n`` compartments, or raise ``ValueError``."""
        if len(group) != 3:
            raise ValueError(f"Program.groups must be of (name, start, stop), got {shown(group)}")
        name, start, stop = text("Program", "groups", group[0]), *wholes("Program", "groups", group[1:], 0, n)
        if not start < stop:
            raise ValueError(f"Program.groups: {name!r} must be a range of the {n} compartments, got {start, stop}")
        return name, start, stop

    def _check_neurons(self) -> None:
        """Refuse neuron models and register values that the chip or the profile does not have."""
        chip, profile, c = CHIPS[self.chip], PROFILES[self.profile], self.compartments
        for i, name in enumerate(MODELS):
            if name not in chip.models and np.any(c.model == i):
                where = self.group_of(int(np.argmax(c.model == i)))
                raise ValueError(f"{self.chip} has no neuron model {name!r}, which {where} needs")
        highest = 4096 + (profile.name == "lava")
        if c.decay_u.max() > highest:
            raise ValueError(f"Compartments.decay_u must be at most {highest} in profile {profile.name!r}")
        for name, allowed in (("v_min", profile.v_min_values), ("v_max", profile.v_max_values)):
            values = getattr(c, name)
            if allowed and not np.all(np.isin(values, allowed)):
                bad = values[~np.isin(values, allowed)][0]
                raise ValueError(f"Compartments.{name} must be a value the register has, {allowed}, found {bad}")
        if c.refractory.max() > profile.max_refractory:
            where = self.group_of(int(c.refractory.argmax()))
            raise ValueError(
                f"Compartments.refractory must be at most {profile.max_refractory} in profile {profile.name!r}, "
                f"found {c.refractory.max()} in {where}"
            )
        for p in self.projections:
            self._check_synapses(p, profile)

    def _check_synapses(self, p: Projection, profile: Profile) -> None:
        """Refuse exponents, delays and bits of weights that the profile does not have."""
        low, high = profile.exponents
        delay = 0 if p.delays is None else int(p.delays.max())
        for name, value, fits, allowed in (
            ("exponent", p.exponent, low <= p.exponent <= high, f"within [{low}, {high}]"),
            ("delays", delay, delay <= profile.max_delay, f"within [0, {profile.max_delay}]"),
            ("bits", p.bits, p.bits in profile.weight_bits, f"one of {profile.weight_bits}"),
        ):
            if not fits:
                raise ValueError(
                    f"Projection {p.name!r}.{name} must be {allowed} in profile {profile.name!r}, found {value}"
                )

    @property
    def chip_spec(self) -> Chip:
        """The chip's limits and constants."""
        return CHIPS[self.chip]

    @property
    def arithmetic(self) -> Profile:
        """The arithmetic profile."""
        profile = PROFILES[self.profile]
        return profile if self.input_latency is None else replace(profile, input_latency=self.input_latency)

    @property
    def highest_v(self) -> np.ndarray:
        """The v at which each compartment saturates, shape (C,)."""
        c = self.compartments
        silent = (c.fires == 0) & bool(self.arithmetic.v_max_values)
        return np.where(silent, np.minimum(c.v_max, MAX_V_TH), c.v_max)

    def group_of(self, compartment: int) -> str:
        """Return the name of the group that holds a compartment, or ``compartment N``."""
        for name, start, stop in self.groups:
            if start <= compartment < stop:
                return f"group {name!r}"
        return f"compartment {compartment}"

    def check_limits(self) -> None:
        """Raise ``ValueError`` naming limit, need and group where a core or the chip is too small."""
        from spikeloop.hardware.loihi.resources import check_limits

        check_limits(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the program to one safetensors file; the file appears under its name only when it is complete."""
        save_parts(path, "spikeloop.chip_program", FORMAT_VERSION, self)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Program:
        """Read a program written by :meth:`save`. Runs no code from the file.

        Raises:
            ValueError: If the file is truncated, not ours, of another version, or does not hold a valid program.
            FileNotFoundError: If there is no such file.
        """
        program = load_parts(path, "spikeloop.chip_program", FORMAT_VERSION, PARTS, former={1: {}}, checksums_since=2)
        if not isinstance(program, Program):
            raise ValueError(f"{path} does not describe a chip program")
        return program


PARTS = (Compartments, Projection, Program)  # what a file may hold
