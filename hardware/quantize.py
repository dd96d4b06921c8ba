"""Floats onto the chip's grids: weights as mantissa and exponent, thresholds, decays, biases, the scale of a layer.

A synapse adds ``J = w 2^(6 + e)`` to the current, ``w`` an integer mantissa of which the lowest ``s`` bits are zero and
``e`` the exponent its projection shares. The compiler chooses per layer one scale ``S``, chip units per unit of v, so
that every float weight becomes ``J = round(S weight / unit) unit`` with ``unit = 2^(6 + e + s)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from spikeloop.hardware.chip import CHIPS, MAX_V_TH
from spikeloop.hardware.fixed_point import threshold_to_register, weight_step

MAX_BIAS = 4095 << 7
EXPONENTS = (-8, 7)
BITS = (2, 3, 4, 5, 6, 8)  # the register has no code for 7, and of 1 nothing is left beside the sign
_CANDIDATES = 32  # scales tried within an octave
_SAMPLE = 2**16  # weights of a matrix, about, whose errors are compared


class Synapses(NamedTuple):
    """Float weights on their way to the chip.

    Args:
        weights: Shape (Q, P), in units of v.
        rates: Mean square of what each source sends per tick, shape (P,): what weighs the errors of its weights.
        graded: Whether sources send integers, which may stand for any power of two: the exponent then has no bounds.
    """

    weights: np.ndarray
    rates: np.ndarray
    graded: bool = False


class Quantized(NamedTuple):
    """Weights of one projection as the chip stores them: mantissas int16 (Q, P), exponent, sign mode."""

    mantissas: np.ndarray
    exponent: int
    sign_mode: str

    def chip_units(self) -> np.ndarray:
        """Return what each synapse adds to the current, shape (Q, P), float64."""
        return self.mantissas * 2.0 ** (6 + self.exponent)


class Bounds(NamedTuple):
    """Figures of a layer, in units of v, and the largest chip units that they may become.

    Args:
        bias: Largest current that is written as a bias.
        synaptic: Largest synaptic input of one tick, and where the chip wraps it.
        membrane: Largest membrane, and where the chip clips it.
    """

    bias: float
    synaptic: tuple[float, float]
    membrane: tuple[float, float]

    def largest_scale(self) -> float:
        """Return the largest scale that keeps all of them."""
        pairs = ((self.bias, float(MAX_BIAS)), self.synaptic, self.membrane)
        return min(limit / max(figure, 1e-9) for figure, limit in pairs)


def check_bits(bits: int) -> None:
    """Raise ``ValueError`` unless signed weights can have that many bits."""
    if bits not in BITS:
        raise ValueError(f"bits must be one of {BITS}, sign included (the chips have no 7), got {bits!r}")


def sign_mode(weights: np.ndarray) -> str:
    """Return the narrowest sign mode that holds the weights."""
    lowest, highest = weights.min(initial=0.0), weights.max(initial=0.0)
    return "mixed" if lowest < 0 < highest else "inhibitory" if lowest < 0 else "excitatory"


def _largest(bits: int, mode: str) -> int:
    """Return the largest magnitude of a mantissa, in steps."""
    return 256 // weight_step(bits, mode) - 1


def quantize_weights(synapses: Synapses, scale: float, bits: int) -> Quantized:
    """Round weights to the nearest mantissas, with the exponent that costs least.

    Two exponents are tried: the one that holds the largest weight, and the next lower, which clips but is finer.

    Args:
        synapses: The weights, with what each counts.
        scale: Chip units per unit of v, > 0.
        bits: Bits of a weight, sign included.

    Raises:
        ValueError: If the largest weight lies above what the largest exponent can hold.
    """
    mode = sign_mode(synapses.weights)
    step, most = weight_step(bits, mode), _largest(bits, mode)
    target = synapses.weights * scale
    peak = float(abs(target).max(initial=0.0))
    # below it, the shift by 6 + e would lose bits of the mantissa
    lowest = -math.inf if synapses.graded else 1 - step.bit_length()
    holds = math.ceil(math.log2(peak / (most * step)) - 6 - 1e-12) if peak else EXPONENTS[0]
    if holds > EXPONENTS[1] and not synapses.graded:
        raise ValueError(f"a weight of {peak:.0f} chip units exceeds what {bits} bits and exponent {EXPONENTS[1]} hold")
    best: tuple[float, Quantized] | None = None
    for exponent in sorted({max(holds, lowest), max(holds - 1, lowest)}, reverse=True):
        unit = step * 2.0 ** (6 + exponent)
        q = np.clip(np.rint(target / unit), -most, most)
        error = float(np.sum((q * unit - target) ** 2 @ synapses.rates))
        if best is None or error < best[0]:
            best = error, Quantized((q * step).astype(np.int16), int(exponent), mode)
    assert best is not None
    return best[1]


def quantize_threshold(v_th: np.ndarray, scale: float) -> np.ndarray:
    """Return thresholds in chip units: multiples of 64, int32; infinite ones become the largest."""
    return (threshold_to_register(np.clip(v_th * scale, 64, MAX_V_TH)) * 64).astype(np.int32)


def quantize_decay(factor: np.ndarray) -> np.ndarray:
    """Return the effective decays 0..4096 of factors per tick in [0, 1], int32."""
    return np.rint(4096 * (1.0 - np.asarray(factor, np.float64))).astype(np.int32)


def quantize_bias(bias: np.ndarray) -> np.ndarray:
    """Return currents, in chip units, as the nearest ``mantissa 2^exponent``, int32; too large ones saturate.

    :func:`~spikeloop.hardware.fixed_point.bias_to_register` says the same in the open; this runs on every env step.
    """
    bias = np.minimum(np.maximum(bias, -MAX_BIAS), MAX_BIAS)
    fraction, exponent = np.frexp(
        bias * (1.0 / 4095)
    )  # |fraction| in [1/2, 1): 1/2 is a power of two, held by one less
    step = np.ldexp(1.0, np.maximum(exponent - (np.abs(fraction) == 0.5), 0))
    return (np.rint(bias / step) * step).astype(np.int32)


def choose_scale(synapses: Sequence[Synapses], v_th: np.ndarray, bounds: Bounds, bits: int) -> float:
    """Return the scale of a layer: the one whose weights and thresholds err least, as far up as nothing overflows.

    Weights only depend on the fraction of an octave the scale takes, since exponents shift them; thresholds, biases
    and the rounding of decays want it large.

    Args:
        synapses: All projections into the layer.
        v_th: Its finite thresholds, in units of v.
        bounds: What must not overflow.
        bits: Bits of a weight.
    """
    limits = [bounds.largest_scale(), MAX_V_TH / max(float(v_th.max(initial=0.0)), 1e-9)]
    for part in synapses:
        if part.graded:
            continue
        mode = sign_mode(part.weights)
        largest = _largest(bits, mode) * weight_step(bits, mode) * 2.0 ** (6 + EXPONENTS[1])
        limits.append(largest / max(float(abs(part.weights).max(initial=0.0)), 1e-9))
    top = min(limits)
    candidates = top * 2.0 ** -(np.arange(_CANDIDATES) / _CANDIDATES)
    typical = float(np.median(v_th)) if v_th.size else 0.0
    if typical * top > 2 * 64:
        candidates = np.floor(candidates * typical / 64) * 64 / typical  # exact thresholds
    candidates = np.append(candidates, 2.0 ** math.floor(math.log2(top)))  # weights that are on a grid already
    sample = [part._replace(weights=part.weights[:: -(-part.weights.size // _SAMPLE)]) for part in synapses]
    errors = [_error(sample, v_th, float(scale), bits) for scale in candidates]
    return float(candidates[int(np.argmin(errors))])


def _error(synapses: Sequence[Synapses], v_th: np.ndarray, scale: float, bits: int) -> float:
    """Return the mean square error per neuron and tick that rounding at this scale makes, in units of v."""
    total = 0.0
    for part in synapses:
        error = quantize_weights(part, scale, bits).chip_units() / scale - part.weights
        total += float(np.sum(error**2 @ part.rates)) / len(part.weights)
    return total + float(np.mean((quantize_threshold(v_th, scale) / scale - v_th) ** 2)) if v_th.size else total


def quantizer(chip: str = "loihi1", bits: int = 8) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that puts one weight matrix on the chip's grid, for quantisation-aware training.

    Its steps are powers of two, so that all matrices of a layer share a scale, which the compiler finds again without
    error. The function can be pickled.

    Args:
        chip: ``loihi1`` or ``loihi2``; their weights are alike.
        bits: Bits of a weight, sign included.

    Raises:
        ValueError: If there is no such chip or number of bits.
    """
    check_chip(chip)
    check_bits(bits)
    return partial(_on_grid, bits=bits)


def check_chip(chip: str) -> None:
    """Raise ``ValueError`` unless there is a chip of that name."""
    if chip not in CHIPS:
        raise ValueError(f"chip must be one of {tuple(CHIPS)}, got {chip!r}")


def _on_grid(weights: np.ndarray, bits: int) -> np.ndarray:
    """Return the weights rounded to the nearest step, the power of two that the largest of them needs.

    Nothing is clipped: in training, a step that goes back and forth between two sizes does more harm than a coarse one.
    """
    peak = float(abs(weights).max(initial=0.0))
    if peak == 0.0:
        return weights.copy()
    step = 2.0 ** math.ceil(math.log2(peak / _largest(bits, "mixed")) - 1e-12)
    return (np.rint(weights / step) * step).astype(weights.dtype)
