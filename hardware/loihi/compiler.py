"""Compiles a Network for a chip: lowered to its neurons, weights quantised, placed on cores; the rest for the host."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikeloop.hardware.calibration import observe
from spikeloop.hardware.host import Compiled, Host
from spikeloop.hardware.loihi.chip import CHIPS, PROFILES, Profile
from spikeloop.hardware.loihi.lowered import APPROXIMATIONS, NEEDS_CONSENT, NEURON_PROGRAMS, Lowered
from spikeloop.hardware.loihi.lowering import check_neurons, lower
from spikeloop.hardware.loihi.placement import place
from spikeloop.hardware.loihi.plan import Integers, Plan
from spikeloop.hardware.loihi.program import Program
from spikeloop.hardware.loihi.quantize import check_bits
from spikeloop.spiking.network import Network


def compile_for(
    chip: str,
    network: Network,
    calibration: np.ndarray,
    *,
    bits: int = 8,
    strict: bool = False,
    approximate: bool = False,
    profile: str | None = None,
    limits: bool = True,
    neurons: str = NEURON_PROGRAMS[0],
) -> Compiled:
    """Compile a network for a chip of the family.

    A network with ``latency=1``, and on ``loihi1`` one without a moving threshold over ``reset="zero"``, loses
    only quantisation. Anything else is lowered to what the chip has, with one warning for each change
    (:data:`~spikeloop.hardware.loihi.lowered.APPROXIMATIONS` names them). What is known to cost most of a return
    (``NEEDS_CONSENT`` there) is refused unless ``approximate`` is set. Weights that lose much by quantisation are
    warned of, and so are biases above what the chip holds, hundreds of thresholds.

    Args:
        chip: Key in :data:`~spikeloop.hardware.loihi.chip.CHIPS`.
        network: The network.
        calibration: Raw observations in order, shape (L, B, n_obs) or (L, n_obs).
        bits: Bits of a weight, sign included: 2 to 6, or 8.
        strict: Refuse instead of approximating.
        approximate: Approximate even what is known to cost most of a return.
        profile: Arithmetic profile; the chip's own if None.
        limits: Refuse what takes more cores than the chip has.
        neurons: The neurons' program on ``loihi2``: ``"lsnn"``, ours, which runs every network, or ``"slayer_alif"``,
            lava-dl's, for networks whose neurons reset by subtraction, adapt by ``ahp`` or not at all, and have no
            refractory ticks.

    Raises:
        ValueError: If the network does not fit the chip, or would have to be approximated and ``strict`` is set.
    """
    check_bits(bits)
    check_neurons(network, chip)
    profile = CHIPS[chip].profile if profile is None else profile
    if profile not in tuple(PROFILES):
        raise ValueError(f"profile must be one of {tuple(PROFILES)}, got {profile!r}")
    seen = observe(network, calibration)
    lowered = lower(network, chip, seen.adaptation, neurons)
    _check_refractory(lowered, chip, PROFILES[profile])
    warnings = []
    for note in lowered.approximations:
        what = f"{note} ({APPROXIMATIONS[note]})"
        if strict:
            raise ValueError(f"{chip} cannot run this network as it is: {what}")
        if note in NEEDS_CONSENT and not approximate:
            raise ValueError(
                f"{chip} cannot run this network as it is: {what}; train with the chip's own form "
                "(`spikeloop train --chip-ready` does), or allow it: approximate=True, `spikeloop deploy --approximate`"
            )
        warnings.append(f"lowered for {chip}: {what}")
    plan = Plan(network, lowered, PROFILES[profile], bits, seen)
    integers = plan.integers(chip)
    warnings += [f"quantised to {bits} bits, {cost}" for cost in integers.costs if cost.is_large]
    warnings += plan.clipped_biases(integers.scales)
    program = place(integers.program, limits)
    host = _host(plan, program, integers)
    return Compiled(program, host, lowered.approximations, integers.costs, tuple(warnings))


def _check_refractory(lowered: Lowered, chip: str, profile: Profile) -> None:
    """Refuse neurons that are refractory for longer than the chip's counter can tell."""
    for group in lowered.groups:
        ticks = 0 if group.refractory is None else int(group.refractory.max())
        if ticks >= profile.max_refractory:
            raise ValueError(
                f"{group.name} has up to {ticks} refractory ticks; {chip} counts at most {profile.max_refractory - 1} "
                f"in profile {profile.name!r}"
            )


def _host(plan: Plan, program: Program, integers: Integers) -> Host:
    """Return what stays beside the chip."""
    network, lowered = plan.network, plan.lowered
    readout = network.readout
    starts = {name: start for name, start, _ in program.groups}
    on_chip = replace(readout, w_out=np.zeros((readout.n_outputs, 0), readout.w_out.dtype), dense=())
    written = network.layers[0] if lowered.input == "bias" else None
    input_scale = integers.scales[0] if written else 2.0**integers.payload_bits
    return Host(
        encoder=network.encoder,
        readout=readout if lowered.reads_spikes else on_chip,
        n_ticks=int(network.n_ticks),
        dt=float(network.dt),
        input=lowered.input,
        input_scale=input_scale,
        output_scale=readout.filter(network.n_ticks, network.dt).gain / integers.scales[-1],
        w_in=written.w_in if written else None,
        bias=written.bias if written else None,
        first_target=starts[lowered.target] if written else 0,
        first_source=starts[lowered.sources[-1]] if lowered.sources else 0,
        preprocessing=network.preprocessing,
        observation=network.parts,
        latency=network.latency,
        head=network.head,
        n_parts=lowered.n_parts,
        clears=network.clears,
    )
