"""What an emulated chip is loaded with: compartments, projections and placement as frozen, validated arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from spikeloop.hardware.learning.rule import ARITHMETICS, LearningRule, Trace
from spikeloop.hardware.loihi.chip import CHIPS, MAX_V_TH, PROFILES, Chip, Profile
from spikeloop.hardware.loihi.compartments import MODELS, Compartments
from spikeloop.hardware.loihi.integers import check_within, integers, shortened
from spikeloop.hardware.loihi.projection import SIGN_MODES, Learning, LearningState, Projection
from spikeloop.spiking.fields import (
    check_choice,
    check_part,
    parts_of,
    set_fields,
    shown,
    text,
    texts,
    whole,
    wholes,
)
from spikeloop.spiking.storage import load_parts, save_parts

__all__ = [
    "MODELS",
    "NOISE_AT",
    "PARTS",
    "SIGN_MODES",
    "Compartments",
    "Learning",
    "LearningRule",
    "LearningState",
    "Program",
    "Projection",
    "Trace",
    "shortened",
]

FORMAT_VERSION = 3
MAX_INPUTS = 2**20  # input lines; a chip has 2^19 lists of synapses for them
NOISE_AT = ("current", "membrane")
MAX_NOISE_EXPONENT = 23
LEARNING_PROFILES = {"nengo": "nengo", "lava": "lava", "brian": "brian", "slayer": "lava"}
"""Whose learning arithmetic goes with each arithmetic of neurons: lava-dl trains networks that Lava runs."""


@dataclass(frozen=True, eq=False)
class Program:
    """A whole chip's configuration: a value, which an :class:`~spikeloop.hardware.loihi.emulator.Emulator` runs.

    One input line, a neuron that fires at its second spike, and a synapse between them::

        >>> from spikeloop.hardware import Compartments, Emulator, Program, Projection
        >>> neuron = Compartments.build(1, decay_v=0, v_th=64 * 150)
        >>> synapse = Projection("in", from_input=True, pre=[0], post=[0], weights=[[100]])
        >>> program = Program("loihi1", "nengo", 1, neuron, (synapse,), outputs=[0], spike_outputs=[0])
        >>> emulator = Emulator(program)
        >>> v, state = emulator.run(emulator.initial_state(), 4, inputs=[[[1]], [[0]], [[1]], [[0]]])
        >>> v[:, 0, 0].tolist()  # a spike arrives one tick later; 200 * 64 exceeds the threshold, which clears v
        [0, 6400, 6400, 0]

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
            noise_exponent=whole(me, "noise_exponent", self.noise_exponent, 1, MAX_NOISE_EXPONENT),
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
            set_fields(self, **{name: integers(me, name, getattr(self, name), (None,), np.int32)})
        n = self.compartments.n
        set_fields(
            self, groups=tuple(self._group(group, n) for group in parts_of(me, "groups", self.groups, tuple, list))
        )
        check_within("Program", "outputs", self.outputs, 0, n - 1)
        check_within("Program", "spike_outputs", self.spike_outputs, 0, n - 1)
        for p in self.projections:
            check_within(f"Projection {p.name!r}", "pre", p.pre, 0, (self.n_inputs if p.from_input else n) - 1)
            check_within(f"Projection {p.name!r}", "post", p.post, 0, n - 1)
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
            self._check_learning(p)

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

    def _check_learning(self, p: Projection) -> None:
        """Refuse rules in another arithmetic than the program's, which one chip cannot compute in."""
        wanted = LEARNING_PROFILES[self.profile]
        if p.learning is not None and p.learning.rule.profile != wanted:
            raise ValueError(
                f"Projection {p.name!r}.learning must be a rule of profile {wanted!r} in a program of profile "
                f"{self.profile!r}, got one of {p.learning.rule.profile!r}"
            )

    def longest_delay(self, projection: Projection) -> int:
        """Return the longest delay that synapses of a projection have or may learn, in ticks.

        The learning engine's delay may be longer than any that the chip can wait for: it then acts as that one.
        """
        if projection.learns_delays:
            assert projection.learning is not None
            learned = ARITHMETICS[projection.learning.rule.profile].high_delay
            return min(learned, self.arithmetic.max_delay)
        return 0 if projection.delays is None else int(projection.delays.max())

    @property
    def learns(self) -> bool:
        """Whether a projection has a learning rule."""
        return any(p.learning is not None for p in self.projections)

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
        former: dict[int, dict[str, Any]] = {1: {}, 2: {}}  # in which no projection has a rule
        program = load_parts(path, "spikeloop.chip_program", FORMAT_VERSION, PARTS, former, checksums_since=2)
        if not isinstance(program, Program):
            raise ValueError(f"{path} does not describe a chip program")
        return program


PARTS = (Compartments, Projection, Learning, LearningState, LearningRule, Trace, Program)  # what a file may hold
