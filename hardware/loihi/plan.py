"""Turns a lowered network into integers: first the scale of each layer, then compartments and projections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from spikeloop.hardware.calibration import Observed
from spikeloop.hardware.loihi.chip import EMULATOR_MAX, MAX_V_TH, Profile
from spikeloop.hardware.loihi.lowered import ADAPTATION, INPUT, READOUT, Group, Link, Lowered
from spikeloop.hardware.loihi.program import MODELS, Compartments, Program, Projection
from spikeloop.hardware.loihi.quantize import (
    MAX_BIAS,
    Quantized,
    Synapses,
    choose_payload_bits,
    choose_scale,
    quantize_bias,
    quantize_decay,
    quantize_threshold,
    quantize_weights,
)
from spikeloop.hardware.loihi.worst_case import input_per_payload, largest_input
from spikeloop.hardware.quantization import QuantizationCost, quantization_cost
from spikeloop.spiking.network import Network

V_RANGE = 2**23 - 1
# Of compartments that are added to another where that sum wraps at 23 bits: u, bias and one of these always fit.
CHILD_V_MIN, CHILD_V_MAX = -(2**22) + 1, 2**21 - 1
LEAST_V_TH = 1024  # chip units: synapses are multiples of 64
_FAR_CURRENT, _FAR_MEMBRANE = 256.0, 1024.0  # thresholds; beyond, a neuron fires on every tick or not for long
_FAR_CLEARED = 256.0  # of membranes that begin each env step at rest: their thresholds need the room more
_NEAR_MEMBRANE = 16.0  # thresholds that a membrane may always reach; 64 cost 0.4 % of the actions
_MARGIN = 2.0  # between what was seen in calibration and what must fit, where the worst case is not known or is absurd


class Integers(NamedTuple):
    """A lowered network in integers.

    Args:
        program: The program, not yet placed.
        scales: Chip units per unit of v, of each layer and of the readout.
        payload_bits: Binary places of a graded spike: x is sent as ``round(2^payload_bits x)``. 0 without graded input.
        costs: What quantisation cost each projection.

    Example:
        See :class:`Plan`.

        >>> Integers._fields
        ('program', 'scales', 'payload_bits', 'costs')
    """

    program: Program
    scales: list[float]
    payload_bits: int
    costs: tuple[QuantizationCost, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """A lowered network, what it did in calibration, and the arithmetic it is for.

    Example:
        >>> import numpy as np
        >>> from spikeloop.spiking import ActionHead, Encoder, Layer, Network, LsnnNeurons, Readout
        >>> ones = np.ones(4)
        >>> layer = Layer(np.eye(4), 0 * ones, LsnnNeurons(4 * ones, ones, ones, 0 * ones, 0 * ones))
        >>> readout, head = Readout(np.eye(4), 0 * ones), ActionHead("discrete", (4,))
        >>> network = Network(Encoder("direct", 4), (layer,), readout, head, n_ticks=4, latency=1)
        >>> from spikeloop.hardware.calibration import observe
        >>> from spikeloop.hardware.loihi.chip import PROFILES
        >>> from spikeloop.hardware.loihi.lowering import lower
        >>> seen = observe(network, np.ones((5, 1, 4)))
        >>> plan = Plan(network, lower(network, "loihi1", seen.adaptation), PROFILES["nengo"], 8, seen)
        >>> integers = plan.integers("loihi1")
        >>> [projection.name for projection in integers.program.projections], integers.payload_bits
        (['layer 0 reset', 'readout'], 0)
    """

    network: Network
    lowered: Lowered
    profile: Profile
    bits: int
    seen: Observed

    def integers(self, chip: str) -> Integers:
        """Return the network in integers.

        Scales are chosen for the weights before rounding. Where rounding makes a worst case exceed its limit, they are
        chosen again, smaller.

        Raises:
            ValueError: If a layer's numbers lie too far apart.
        """
        room = np.ones(len(self.network.layers) + 1)
        while True:
            scales = [self.scale(domain, room[domain]) for domain in range(room.size)]
            payload_bits = self.payload_bits(scales[0]) if self.graded else 0
            links = [(link, scales[domain]) for domain in range(room.size) for link in self.links_into(domain)]
            stored = [(link, self.quantize(link, scale, payload_bits), scale) for link, scale in links]
            program = self.program(chip, scales, [(link, quantized) for link, quantized, _ in stored])
            excess = self.excess(program, scales, payload_bits)
            if np.all(excess <= 1):
                break
            room /= np.where(excess > 1, 1.001 * excess, 1.0)
        costs = tuple(
            quantization_cost(link.name, link.weights, quantized.chip_units() / self.unit(link, scale, payload_bits))
            for link, quantized, scale in stored
        )
        return Integers(program, scales, payload_bits, costs)

    @property
    def n_read(self) -> int:
        """How many neurons' spikes the host reads: the last layer's where it computes the readout."""
        return self.network.readout.n_neurons if self.lowered.reads_spikes else 0

    # --- scales

    @property
    def graded(self) -> bool:
        """Whether input lines send payloads."""
        return self.lowered.input == "graded"

    @property
    def largest_sent(self) -> float:
        """Largest input of a channel that must fit; beyond it, the host sends the largest payload."""
        return _MARGIN * self.seen.largest_input

    def synapses(self, link: Link) -> Synapses:
        """Return a link's weights and the mean square of what each source sends: never 0, calibration may miss some."""
        graded = link.pre == INPUT and self.graded
        sent = self.seen.mean_squares if link.pre == INPUT else self.seen.rates[self.lowered.sources.index(link.pre)]
        return Synapses(np.asarray(link.weights, np.float64), sent + (0.05 * sent.mean() or 1.0), graded)

    def links_into(self, domain: int) -> list[Link]:
        """Return the links, other than empty ones, into a layer or the readout."""
        names = {group.name for group in self.lowered.groups if group.domain == domain}
        return [link for link in self.lowered.links if link.post in names and np.any(link.weights)]

    def scale(self, domain: int, room: float) -> float:
        """Return the scale of a layer, or of the readout, that leaves the given share of every limit."""
        groups = [group for group in self.lowered.groups if group.domain == domain]
        if not groups:
            return 1.0
        into = self.links_into(domain)
        v_th = np.concatenate([group.v_th[np.isfinite(group.v_th)] for group in groups])
        of_readout = groups[0].name == READOUT
        found = self.readout_bounds(groups[0], into) if of_readout else self.bounds(domain, groups, into)
        bounds = [(figure, room * limit) for figure, limit in found]
        scale = choose_scale([self.synapses(link) for link in into], v_th, bounds, self.bits)
        if v_th.size and v_th.min() * scale < LEAST_V_TH:
            largest = max((float(abs(link.weights).max()) for link in into), default=0.0)
            raise ValueError(
                f"layer {domain} cannot be represented: beside weights up to {largest:.3g}, sums of them up to "
                f"{self.worst(into):.3g} on a tick, and thresholds up to {v_th.max():.3g}, a threshold of "
                f"{v_th.min():.3g} becomes {v_th.min() * scale:.3g} chip units, and {LEAST_V_TH} are needed"
            )
        return scale

    def worst(self, into: Sequence[Link]) -> float:
        """Return the largest synaptic input of one tick: every source of one sign at once."""
        sums: dict[str, float] = {}
        for link in into:
            by_payload = link.pre == INPUT and self.graded
            most = (self.largest_sent if by_payload else 1.0) * _largest_sum(link.weights, both_signs=by_payload)
            sums[link.post] = sums.get(link.post, 0.0) + most
        return max(sums.values(), default=0.0)

    def bounds(self, domain: int, groups: Sequence[Group], into: Sequence[Link]) -> Iterator[tuple[float, float]]:
        """Yield what must fit for a layer: figures in units of v, and what they may become in chip units.

        What wraps (sums of synapses, u) is bounded by its worst case. What saturates (membranes, biases) is bounded by
        what calibration saw. Saturating beyond that, or far beyond the threshold, changes little, and is counted.
        """
        v_th = max(float(group.v_th[np.isfinite(group.v_th)].max(initial=0.0)) for group in groups)
        yield self.worst(into), self.largest_input
        written = _MARGIN * self.seen.current if domain == 0 and self.lowered.input == "bias" else 0.0
        bias = max(written, *(float(abs(group.bias).max()) for group in groups))
        yield min(bias, _FAR_CURRENT * v_th), float(MAX_BIAS)
        far = (_FAR_CLEARED if self.network.clears else _FAR_MEMBRANE) * v_th
        for group in groups:
            own = [link for link in into if link.post == group.name]
            likely = 0.0 if group.name.endswith(ADAPTATION) else _MARGIN * self.seen.membrane[domain]
            if group.model == "slayer_alif":  # its v is not reset: what a spike takes off stands in r, up to this
                likely += 2.0 * v_th * _memory(group.alpha)
            near = min(self.worst(own) * _memory(group.alpha), _NEAR_MEMBRANE * v_th)
            low, high = self.v_range(group)
            never_positive = bool(own) and all(np.all(link.weights <= 0) for link in own)
            yield min(max(likely, near), far), float(-low if never_positive else high)
            if group.beta is not None and group.rho is not None:
                step = float(group.beta.max())
                yield step, 2.0**23  # the register of a step
                yield min(step * _memory(group.rho), _FAR_MEMBRANE * v_th), float(EMULATOR_MAX)
            if group.kappa is not None:
                yield self.worst(own) * self.held_current(group), self.largest_current(group)

    def near_child(self, group: Group) -> bool:
        """Return whether u stays near 0 as the v that is added to it is kept small: it is a moving threshold.

        Only the neuron's own spikes make it negative, and below the least such v the neuron cannot spike.
        """
        return self.profile.wrap_v_input and any(
            other.parent is not None and other.parent[0] == group.name for other in self.lowered.groups
        )

    def largest_current(self, group: Group) -> float:
        """Return the largest u with a memory that a group may have."""
        return 2.0**self.profile.u_bits - 1 - (CHILD_V_MAX if self.near_child(group) else 0)

    def readout_bounds(self, group: Group, into: Sequence[Link]) -> Iterator[tuple[float, float]]:
        """Yield what must fit for the readout: every neuron firing on every tick."""
        yield self.worst(into) * self.held_current(group), self.largest_input
        yield self.worst(into) * self.held(group), float(MAX_V_TH)

    def held(self, group: Group) -> float:
        """Return how many times itself a steady input adds up to in a readout, at most."""
        readout, n_ticks = self.network.readout, self.network.n_ticks
        if group.kappa is not None:
            filtered = readout.filter(n_ticks, self.network.dt)
            return float(filtered.response(n_ticks).sum() / filtered.gain)
        return min(n_ticks, _memory(group.alpha)) if readout.clears else _memory(group.alpha)

    def held_current(self, group: Group) -> float:
        """Return how many times itself a steady input adds up to in a synaptic current, which may have a memory."""
        if group.kappa is None or self.near_child(group):
            return 1.0
        from_rest = self.network.clears or (group.name == READOUT and self.network.readout.clears)
        return min(self.network.n_ticks, _memory(group.kappa)) if from_rest else _memory(group.kappa)

    @property
    def largest_input(self) -> float:
        """Largest synaptic input of one tick that wraps neither as a sum nor as u."""
        return 2.0 ** min(self.profile.input_bits, self.profile.u_bits) - 1

    def excess(self, program: Program, scales: Sequence[float], payload_bits: int) -> np.ndarray:
        """Return worst case over limit of the rounded weights, for each layer and the readout; above 1 it may wrap."""
        worst = largest_input(program, self.graded)
        if self.graded:
            worst += self.largest_sent * 2.0**payload_bits * input_per_payload(program)
        excess = np.zeros(len(scales))
        for group, (_, start, stop) in zip(self.lowered.groups, program.groups, strict=True):
            most = float(worst[start:stop].max())
            share = most / self.largest_input
            if group.name == READOUT:
                share = max(share * self.held_current(group), most * self.held(group) / MAX_V_TH)
            elif group.kappa is not None:
                share = max(share, most * self.held_current(group) / self.largest_current(group))
            excess[group.domain] = max(excess[group.domain], share)
        return excess

    def payload_bits(self, scale: float) -> int:
        """Return the binary places of a graded spike: x is sent as ``round(2^p x)``."""
        link = next(link for link in self.lowered.links if link.pre == INPUT)
        if not np.any(link.weights):
            return 0
        on_sum = self.profile.exponent_on == "sum"
        return choose_payload_bits(
            self.synapses(link), scale, self.bits, self.largest_sent, self.profile.exponents, on_sum
        )

    # --- integers

    def v_range(self, group: Group) -> tuple[int, int]:
        """Return the least and the largest v of a group."""
        small = group.parent is not None and self.profile.wrap_v_input
        return (CHILD_V_MIN, CHILD_V_MAX) if small else (-V_RANGE, V_RANGE)

    def unit(self, link: Link, scale: float, payload_bits: int) -> float:
        """Return what a link's synapses add to u, in chip units, for a weight of 1 and a spike or a payload of 1."""
        return scale * 2.0**-payload_bits if link.pre == INPUT and self.graded else scale

    def quantize(self, link: Link, scale: float, payload_bits: int) -> Quantized:
        """Return a link's weights as the chip stores them."""
        synapses, unit = self.synapses(link), self.unit(link, scale, payload_bits)
        if not synapses.graded:
            return quantize_weights(synapses, unit, self.bits)
        least = self.profile.exponents[0] if self.profile.exponent_on == "sum" else None
        return quantize_weights(synapses._replace(graded=False), unit, self.bits, least)

    def clipped_biases(self, scales: Sequence[float]) -> Iterator[str]:
        """Yield a line for each group with constant currents that are larger than a bias can be.

        Those that the host writes on each step are not among them: it counts what it clips.
        """
        for group in self.lowered.groups:
            written = self.lowered.input == "bias" and group.name == self.lowered.target
            largest = MAX_BIAS / scales[group.domain]
            n_larger = int(np.count_nonzero(abs(group.bias) > largest))
            if n_larger and not written:
                yield (
                    f"{group.name}: {n_larger} of {group.n} biases, up to {abs(group.bias).max():.3g}, are larger than "
                    f"a bias can be beside these thresholds, and become {largest:.3g}"
                )

    def program(self, chip: str, scales: Sequence[float], stored: Sequence[tuple[Link, Quantized]]) -> Program:
        """Return the program, not yet placed, for given scales and what the chip stores of each link."""
        groups = self.lowered.groups
        stops = np.cumsum([group.n for group in groups]).tolist()
        starts = dict(zip((group.name for group in groups), [0, *stops[:-1]], strict=True))
        parts = [self.compartments(group, scales[group.domain], starts) for group in groups]
        return Program(
            chip=chip,
            profile=self.profile.name,
            n_inputs=0 if self.lowered.input == "bias" else self.network.encoder.n_channels,
            compartments=Compartments(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}),
            projections=tuple(self.projection(link, quantized, starts) for link, quantized in stored),
            outputs=np.arange(starts.get(READOUT, stops[-1]), stops[-1]),
            groups=tuple((group.name, starts[group.name], starts[group.name] + group.n) for group in groups),
            input_latency=0,
            spike_outputs=(starts[self.lowered.sources[-1]] if self.n_read else 0) + np.arange(self.n_read),
        )

    def compartments(self, group: Group, scale: float, starts: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return the fields of a group's compartments, arrays of shape (n,)."""
        decay_v, decay_u = quantize_decay(group.alpha), quantize_decay(np.asarray(_or(group.kappa, 0.0)))
        if any(np.any(quantize_decay(other.alpha) == 4096) for other in self.lowered.groups):
            decay_v = np.maximum(decay_v, 1)  # one offset bit per core: 4096 on it makes 0 impossible
        v_min, v_max = self.v_range(group)
        values: dict[str, Any] = {
            "model": MODELS.index(group.model),
            "decay_u": np.maximum(decay_u, 1),
            "decay_v": decay_v,
            "v_th": quantize_threshold(group.v_th, scale),
            "bias": quantize_bias(group.bias * scale),
            "refractory": 1 + _or(group.refractory, 0),
            "v_min": v_min,
            "v_max": v_max,
            "parent": -1 if group.parent is None else starts[group.parent[0]] + group.parent[1],
            "decay_a": 0 if group.rho is None else quantize_decay(group.rho),
            "step_a": np.rint(scale * _or(group.beta, 0.0)),
            "decay_r": decay_v if group.model == "slayer_alif" else 0,
            "subtract": group.subtract,
            "fires": group.fires,
            "noise": 0,
            "core": 0,
        }
        return {name: np.broadcast_to(np.asarray(value, np.int64), (group.n,)) for name, value in values.items()}

    def projection(self, link: Link, quantized: Quantized, starts: Mapping[str, int]) -> Projection:
        """Return a link's quantised synapses."""
        n_post, n_pre = link.weights.shape
        return Projection(
            name=link.name,
            from_input=link.pre == INPUT,
            pre=starts.get(link.pre, 0) + np.arange(n_pre),
            post=starts[link.post] + np.arange(n_post),
            weights=quantized.mantissas,
            exponent=quantized.exponent,
            bits=self.bits,
            sign_mode=quantized.sign_mode,  # type: ignore[arg-type]
        )


def _or(values: np.ndarray | None, default: float) -> np.ndarray | float:
    return default if values is None else values


def _memory(factor: np.ndarray) -> float:
    """Return ``1 / (1 - factor)`` of the slowest leak: a steady input adds up to so many times itself."""
    return 1.0 / max(1.0 - float(factor.max()), 1e-9)


def _largest_sum(weights: np.ndarray, both_signs: bool) -> float:
    """Return the largest sum of weights that a neuron can receive on one tick, of one sign or whatever the sign."""
    weights = np.asarray(weights, np.float64)
    parts = [abs(weights)] if both_signs else [np.maximum(weights, 0), np.maximum(-weights, 0)]
    return max(float(part.sum(axis=1).max()) for part in parts)
