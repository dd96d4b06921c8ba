"""The chips of the Loihi family as targets of the compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spikeloop.hardware.energy import COSTS, CostModel
from spikeloop.hardware.loihi.chip import PROFILES
from spikeloop.hardware.loihi.lowered import APPROXIMATIONS, NEURON_PROGRAMS
from spikeloop.hardware.loihi.program import PARTS, Program
from spikeloop.hardware.loihi.quantize import quantizer
from spikeloop.spiking.fields import shown

if TYPE_CHECKING:
    from spikeloop.hardware.host import Compiled, Host
    from spikeloop.hardware.loihi.machine import LoihiMachine
    from spikeloop.spiking.network import Network


@dataclass(frozen=True)
class LoihiTarget:
    """An emulated chip of the family: a :class:`~spikeloop.hardware.target.Target`.

    What takes long to import, kernels above all, is imported by the methods that need it: the command line asks
    targets for their names.

    Args:
        name: Key in :data:`~spikeloop.hardware.loihi.chip.CHIPS`.
        costs_note: What a reader of modelled figures should know of the constants.

    Example:
        >>> LOIHI1.options["profile"]
        ('nengo', 'lava', 'brian', 'slayer')
    """

    name: str
    costs_note: str = ""
    program: ClassVar[type] = Program
    parts: ClassVar[tuple[type, ...]] = PARTS
    costs: ClassVar[Mapping[str, CostModel]] = COSTS
    approximations: ClassVar[Mapping[str, str]] = APPROXIMATIONS
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"profile": tuple(PROFILES), "neurons": NEURON_PROGRAMS}

    def compile(
        self, network: Network, calibration: np.ndarray, *, bits: int, strict: bool, approximate: bool, **options: Any
    ) -> Compiled:
        """Compile a network; the options are those of :func:`~spikeloop.hardware.loihi.compiler.compile_for`."""
        from spikeloop.hardware.loihi.compiler import compile_for

        return compile_for(
            self.name, network, calibration, bits=bits, strict=strict, approximate=approximate, **options
        )

    def check(self, program: Program, host: Host) -> None:
        """Raise ``ValueError`` where a program and what stays beside it do not fit."""
        n = program.compartments.n
        if host.input == "graded" and not program.chip_spec.graded_spikes:
            raise ValueError(
                f"Deployment.host.input must not be 'graded' on {program.chip}, which has no graded spikes"
            )
        if np.any(program.compartments.noise):
            raise ValueError("Deployment.program must be without noise, as compiled networks are")
        if not np.any(program.compartments.fires) and not (host.encoder.spikes and host.readout.every_tick):
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
        n_outputs = 0 if host.reads_spikes else host.n_parts * host.readout.n_outputs
        if program.outputs.size != n_outputs:
            raise ValueError(f"Deployment.program must have {n_outputs} outputs, has {program.outputs.size}")
        lengths = {"target": 0 if host.bias is None else len(host.bias), "source": host.readout.n_neurons}
        for name, length in lengths.items():
            first = getattr(host, f"first_{name}")
            if not first <= n - length:
                raise ValueError(f"Deployment.host.first_{name} must be within [0, {n - length}], got {first!r}")

    def load(self, program: Program, host: Host, interpreted: bool = False) -> LoihiMachine:
        """Return the emulator that runs a program, or its interpreter, with the host's side of both."""
        from spikeloop.hardware.loihi.machine import LoihiMachine

        return LoihiMachine(program, host, interpreted)

    def teach(
        self, program: Program, host: Host, rule: Any, projection: str | None = None, seed: int = 0, **options: Any
    ) -> Program:
        """Return a program in which a projection learns; arguments are those of ``Deployment.taught``."""
        from spikeloop.hardware.learning.perturbation import perturbation_rule
        from spikeloop.hardware.learning.rstdp import reward_modulated_rule
        from spikeloop.hardware.learning.rule import LearningRule
        from spikeloop.hardware.loihi.lowered import READOUT
        from spikeloop.hardware.loihi.program import LEARNING_PROFILES
        from spikeloop.hardware.loihi.teach import teach

        profile = LEARNING_PROFILES[program.profile]
        if rule == "rstdp":
            if host.head is None or host.head.kind != "discrete":
                raise ValueError("'rstdp' learns which of the discrete actions to take, this policy has none")
            rule = reward_modulated_rule(profile, host.n_ticks)
        elif rule == "perturbation":
            rule = perturbation_rule(profile)
        elif isinstance(rule, str):
            rule = LearningRule(dw=rule, profile=profile, **options)
        return teach(program, rule, READOUT if projection is None else projection, seed, host.n_parts)

    def quantizer(self, bits: int = 8) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function that puts one weight matrix on the chip's grid; the weights of both chips are alike."""
        return quantizer(bits)


LOIHI1 = LoihiTarget("loihi1")
LOIHI2 = LoihiTarget("loihi2", " (constants of the first chip: none are published for the second)")
