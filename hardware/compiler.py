"""Compiles a Network for a chip: lowered to its neurons, weights quantised, placed on cores; the rest for the host."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloop.hardware.calibration import Observed, observe, sample_observations
from spikeloop.hardware.chip import CHIPS, PROFILES, Profile
from spikeloop.hardware.deployed import Deployment, Host
from spikeloop.hardware.lowering import APPROXIMATIONS, INPUT, READOUT, Group, Link, Lowered, lower
from spikeloop.hardware.placement import place
from spikeloop.hardware.program import MODELS, Compartments, Program, Projection
from spikeloop.hardware.quantize import (
    EXPONENTS,
    Bounds,
    Synapses,
    check_bits,
    check_chip,
    choose_scale,
    quantize_bias,
    quantize_decay,
    quantize_threshold,
    quantize_weights,
    quantizer,
)
from spikeloop.spiking.network import Network, Readout, decay

__all__ = ["compile_network", "quantizer"]

V_RANGE = 2**23 - 1
MAX_SUM = 2**30  # of mantissas times payloads, before the exponent shifts it: half of what 32 bits hold
LEAST_V_TH = 1024  # chip units: synapses are multiples of 64
_FAR_CURRENT, _FAR_MEMBRANE = 256.0, 1024.0  # thresholds; beyond, a neuron fires on every tick or not for long
_MARGIN = 2.0  # between what was seen in calibration and what must fit
_SYNAPTIC_MARGIN = 8.0  # the same for a sum of spikes, where the worst case would ask for more


def compile_network(
    network: Network,
    chip: str = "loihi1",
    *,
    bits: int = 8,
    profile: str | None = None,
    calibration: np.ndarray | None = None,
    limits: bool = True,
    strict: bool = False,
) -> Deployment:
    """Compile a network for a chip.

    A network with ``latency=1``, and on ``loihi1`` one without a moving threshold over ``reset="zero"``, loses
    only quantisation. Anything else is lowered to what the chip has, with one warning for each change
    (:data:`~spikeloop.hardware.lowering.APPROXIMATIONS` names them).

    Args:
        network: The network.
        chip: ``"loihi1"`` or ``"loihi2"``.
        bits: Bits of a weight, sign included: 2 to 6, or 8.
        profile: Arithmetic profile; the chip's own if None.
        calibration: Recorded raw observations, shape (L, B, n_obs) or (L, n_obs), in order; noise if None.
        limits: Refuse what takes more cores than the chip has.
        strict: Refuse instead of approximating.

    Returns:
        The program, and what stays on the host.

    Raises:
        ValueError: If the network does not fit the chip, or would have to be approximated and ``strict`` is set.
    """
    check_chip(chip)
    check_bits(bits)
    profile = CHIPS[chip].profile if profile is None else profile
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {tuple(PROFILES)}, got {profile!r}")
    if calibration is None:
        calibration = sample_observations(network, np.random.default_rng(0))
    seen = observe(network, calibration[:, None] if np.ndim(calibration) == 2 else calibration)
    lowered = lower(network, chip, seen.adaptation)
    for note in lowered.approximations:
        what = f"{note} ({APPROXIMATIONS[note]})"
        if strict:
            raise ValueError(f"{chip} cannot run this network as it is: {what}")
        warnings.warn(f"lowered for {chip}: {what}", stacklevel=2)
    plan = _Plan(network, lowered, PROFILES[profile], bits, seen)
    scales = [plan.scale(domain) for domain in range(len(network.layers) + 1)]
    program = place(plan.program(chip, scales), limits)
    metadata = {**network.metadata, "bits": str(bits)}
    host = _host(plan, program, scales)
    return Deployment(program, host, lowered.approximations, metadata)


@dataclass(frozen=True, eq=False)
class _Plan:
    """A lowered network on its way to integers."""

    network: Network
    lowered: Lowered
    profile: Profile
    bits: int
    seen: Observed

    def synapses(self, link: Link) -> Synapses:
        """Return a link's weights with what weighs their errors: never zero, as calibration does not see everything."""
        graded = link.pre == INPUT and self.lowered.input == "graded"
        rates = self.seen.inputs if link.pre == INPUT else self.seen.rates[self.lowered.sources.index(link.pre)]
        return Synapses(np.asarray(link.weights, np.float64), rates + 0.05 * rates.mean() + 1e-3, graded)

    def scale(self, domain: int) -> float:
        """Return the scale of a layer, or of the readout."""
        groups = [group for group in self.lowered.groups if group.domain == domain]
        if not groups:
            return 1.0
        into = [link for link in self.lowered.links if link.post in {group.name for group in groups}]
        v_th = np.concatenate([group.v_th[np.isfinite(group.v_th)] for group in groups])
        synapses = [self.synapses(link) for link in into]
        if groups[0].name == READOUT:
            return choose_scale(synapses, v_th, self.readout_bounds(groups[0], into), self.bits)
        scale = choose_scale(synapses, v_th, self.bounds(domain, groups, into, float(v_th.max())), self.bits)
        if v_th.min() * scale < LEAST_V_TH:
            largest = max(float(abs(link.weights).max()) for link in into)
            raise ValueError(
                f"layer {domain} cannot be represented: beside weights up to {largest:.3g} and thresholds up to "
                f"{v_th.max():.3g}, a threshold of {v_th.min():.3g} becomes {v_th.min() * scale:.0f} chip units, "
                f"and {LEAST_V_TH} are needed"
            )
        return scale

    def bounds(self, domain: int, groups: Sequence[Group], into: Sequence[Link], v_th: float) -> Bounds:
        """Return what must fit for a layer whose largest threshold is ``v_th``; what is far beyond it may saturate."""
        seen = self.seen
        largest = {INPUT: _MARGIN * seen.largest_input if self.lowered.input == "graded" else 1.0}
        worst = max(
            sum(largest.get(link.pre, 1.0) * _one_sided(link.weights) for link in into if link.post == group.name)
            for group in groups
        )
        likely = _SYNAPTIC_MARGIN * seen.synaptic[domain] + sum(
            float(abs(link.weights).max()) * largest.get(link.pre, 1.0) for link in into
        )
        written = _MARGIN * seen.current if domain == 0 and self.lowered.input == "bias" else 0.0
        bias = max(written, *(float(abs(group.bias).max()) for group in groups))
        return Bounds(
            min(bias, _FAR_CURRENT * v_th),
            (min(worst, likely), self.largest_input),
            (min(_MARGIN * seen.membrane[domain], _FAR_MEMBRANE * v_th), float(V_RANGE)),
        )

    def readout_bounds(self, group: Group, into: Sequence[Link]) -> Bounds:
        """Return what must fit for the readout: every neuron firing on every tick."""
        worst = sum(_one_sided(link.weights) for link in into)
        memory = 1.0 / max(1.0 - float(group.alpha[0]), 1e-9)
        held = self.network.n_ticks if self.network.readout.count or self.network.readout.first_spike else memory
        return Bounds(0.0, (worst, self.largest_input), (worst * min(held, memory), float(V_RANGE)))

    @property
    def largest_input(self) -> float:
        """Largest synaptic input of one tick that does not wrap."""
        return 2.0**self.profile.input_bits - 1

    def payload_bits(self, scale: float) -> int:
        """Return the bits behind the point that a graded spike carries: all that exponent and accumulator leave."""
        link = next(link for link in self.lowered.links if link.pre == INPUT)
        quantized = quantize_weights(self.synapses(link), scale, self.bits)
        worst = _one_sided(quantized.mantissas.astype(np.float64)) * _MARGIN * self.seen.largest_input
        return max(min(quantized.exponent - EXPONENTS[0], int(np.log2(MAX_SUM / max(worst, 1.0)))), 0)

    def program(self, chip: str, scales: Sequence[float]) -> Program:
        """Return the program, not yet placed."""
        groups = self.lowered.groups
        stops = np.cumsum([group.n for group in groups]).tolist()
        starts = dict(zip((group.name for group in groups), [0, *stops[:-1]], strict=True))
        parts = [self.compartments(group, scales[group.domain], starts) for group in groups]
        domains = {group.name: group.domain for group in groups}
        return Program(
            chip=chip,
            profile=self.profile.name,
            n_inputs=0 if self.lowered.input == "bias" else self.network.encoder.n_channels,
            compartments=Compartments(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}),
            projections=tuple(
                self.projection(link, scales[domains[link.post]], starts)
                for link in self.lowered.links
                if np.any(link.weights)
            ),
            outputs=np.arange(starts.get(READOUT, stops[-1]), stops[-1]),
            groups=tuple((group.name, starts[group.name], starts[group.name] + group.n) for group in groups),
            input_latency=0,
            spike_outputs=starts[self.lowered.sources[-1]] + np.arange(self.n_read),
        )

    @property
    def n_read(self) -> int:
        """How many neurons' spikes the host reads: the last layer's where it computes the readout."""
        return self.network.readout.w_out.shape[1] if self.lowered.reads_spikes else 0

    def compartments(self, group: Group, scale: float, starts: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return the fields of a group's compartments, arrays of shape (n,)."""
        decay_v, decay_u = quantize_decay(group.alpha), quantize_decay(np.asarray(_or(group.kappa, 0.0)))
        if any(np.any(quantize_decay(other.alpha) == 4096) for other in self.lowered.groups):
            decay_v = np.maximum(decay_v, 1)  # one offset bit per core: 4096 on it makes 0 impossible
        values: dict[str, Any] = {
            "model": MODELS.index(group.model),
            "decay_u": np.maximum(decay_u, 1),
            "decay_v": decay_v,
            "v_th": quantize_threshold(group.v_th, scale),
            "bias": quantize_bias(group.bias * scale),
            "refractory": 1 + _or(group.refractory, 0),
            "v_min": -V_RANGE,
            "v_max": V_RANGE,
            "parent": -1 if group.parent is None else starts[group.parent[0]] + group.parent[1],
            "decay_a": 0 if group.rho is None else quantize_decay(group.rho),
            "step_a": np.rint(scale * _or(group.beta, 0.0)),
            "decay_r": 0,
            "subtract": group.subtract,
            "fires": group.fires,
            "noise": 0,
            "core": 0,
        }
        return {name: np.broadcast_to(np.asarray(value, np.int64), (group.n,)) for name, value in values.items()}

    def projection(self, link: Link, scale: float, starts: Mapping[str, int]) -> Projection:
        """Return a link's quantised synapses."""
        quantized = quantize_weights(self.synapses(link), scale, self.bits)
        exponent = quantized.exponent
        if link.pre == INPUT and self.lowered.input == "graded":
            exponent -= self.payload_bits(scale)
        n_post, n_pre = link.weights.shape
        return Projection(
            name=link.name,
            from_input=link.pre == INPUT,
            pre=starts.get(link.pre, 0) + np.arange(n_pre),
            post=starts[link.post] + np.arange(n_post),
            weights=quantized.mantissas,
            exponent=exponent,
            bits=self.bits,
            sign_mode=quantized.sign_mode,  # type: ignore[arg-type]
        )


def _host(plan: _Plan, program: Program, scales: Sequence[float]) -> Host:
    """Return what stays beside the chip."""
    network, lowered = plan.network, plan.lowered
    first, readout = network.layers[0], network.readout
    starts = {name: start for name, start, _ in program.groups}
    on_chip = Readout(
        np.zeros((readout.n_outputs, 0), readout.w_out.dtype),
        readout.b_out,
        readout.tau_out,
        readout.count,
        readout.first_spike,
        readout.v_th_out,
    )
    if readout.first_spike:
        share = 1.0
    else:
        share = 1.0 / network.n_ticks if readout.count else 1.0 - float(decay(readout.tau_out, network.dt))
    written = lowered.input == "bias"
    input_scale = scales[0] if written else 1.0
    if lowered.input == "graded":
        input_scale = 2.0 ** plan.payload_bits(scales[0])
    return Host(
        encoder=network.encoder,
        readout=readout if lowered.reads_spikes else on_chip,
        n_ticks=int(network.n_ticks),
        dt=float(network.dt),
        input=lowered.input,
        input_scale=input_scale,
        output_scale=share / scales[-1],
        w_in=first.w_in if written else None,
        bias=first.bias if written else None,
        first_target=starts[lowered.target] if written else 0,
        first_source=starts[lowered.sources[-1]],
        normalizer=network.normalizer,
        head=network.head,
    )


def _or(values: np.ndarray | None, default: float) -> np.ndarray | float:
    return default if values is None else values


def _one_sided(weights: np.ndarray) -> float:
    """Return the largest sum of weights of one sign that a neuron can receive on one tick."""
    return float(max(np.maximum(weights, 0).sum(axis=1).max(), np.maximum(-weights, 0).sum(axis=1).max()))
