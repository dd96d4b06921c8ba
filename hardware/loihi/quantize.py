"""Floats onto the chip's grids: weights as mantissa and exponent, thresholds, decays, biases, the scale of a layer.

A synapse adds ``J = w 2^(6 + e)`` to the current, ``w`` an integer mantissa of which the lowest ``s`` bits are zero and
``e`` the exponent its projection shares. The compiler chooses per layer one scale ``S``, chip units per unit of v, so
that every float weight becomes ``J = round(S weight / unit) unit`` with ``unit = 2^(6 + e + s)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from spikeloop.hardware.loihi.chip import MAX_V_TH
from spikeloop.hardware.loihi.fixed_point import threshold_to_register, weight_step

MAX_BIAS = 4095 << 7
EXPONENTS = (-8, 7)
BITS = (2, 3, 4, 5, 6, 8)  # the register has no code for 7, and of 1 nothing is left beside the sign
MAX_SUM = 2**30  # of mantissas times payloads, before the exponent shifts it: half of what 32 bits hold
_CANDIDATES = 32  # scales tried within an octave
_SAMPLE = 2**16  # weights of a matrix, about, whose errors are compared


class Synapses(NamedTuple):
    """Float weights on their way to the chip.

    Args:
        weights: Shape (Q, P), in units of v.
        mean_squares: Of what each source sends per tick, shape (P,): errors of its weights count so much. Of spikes it
            is their rate.
        graded: Whether sources send integers, which may stand for any power of two (:func:`choose_payload_bits`): the
            exponent then has no bounds.

    Example:
        >>> Synapses(np.array([[0.5, -0.25]]), np.array([0.1, 0.1])).graded
        False
    """

    weights: np.ndarray
    mean_squares: np.ndarray
    graded: bool = False


class Quantized(NamedTuple):
    """Weights of one projection as the chip stores them: mantissas int16 (Q, P), exponent, sign mode.

    Example:
        >>> stored = quantize_weights(Synapses(np.array([[0.5, -0.25]]), np.array([0.1, 0.1])), scale=4096.0, bits=8)
        >>> stored.mantissas, stored.exponent, stored.chip_units() / 4096
        (array([[ 64, -32]], dtype=int16), -1, array([[ 0.5 , -0.25]]))
    """

    mantissas: np.ndarray
    exponent: int
    sign_mode: str

    def chip_units(self) -> np.ndarray:
        """Return what each synapse adds to the current, shape (Q, P), float64."""
        return self.mantissas * 2.0 ** (6 + self.exponent)


def largest_scale(bounds: Iterable[tuple[float, float]]) -> float:
    """Return the largest scale that keeps figures, in units of v, within their limits in chip units; 1 without any."""
    scales = [limit / figure for figure, limit in bounds if figure > 0]
    return min(scales, default=1.0)


def check_bits(bits: int) -> None:
    """Raise ``ValueError`` unless signed weights can have that many bits."""
    if not isinstance(bits, (int, np.integer)) or bits not in BITS:
        raise ValueError(f"bits must be one of {BITS}, sign included (the chips have no 7), got {bits!r}")


def sign_mode(weights: np.ndarray) -> str:
    """Return the narrowest sign mode that holds the weights."""
    lowest, highest = weights.min(initial=0.0), weights.max(initial=0.0)
    return "mixed" if lowest < 0 < highest else "inhibitory" if lowest < 0 else "excitatory"


def _largest(bits: int, mode: str) -> int:
    """Return the largest magnitude of a mantissa, in steps."""
    return 256 // weight_step(bits, mode) - 1


def quantize_weights(synapses: Synapses, scale: float, bits: int, least_exponent: int | None = None) -> Quantized:
    """Round weights to the nearest mantissas, with the exponent that costs least.

    Two exponents are tried: the one that holds the largest weight, and the next lower, which clips but is finer.

    Args:
        synapses: The weights, with what each counts.
        scale: Chip units per unit of v, > 0.
        bits: Bits of a weight, sign included.
        least_exponent: The least to use; None for the least that shifts no bit of a mantissa out.

    Raises:
        ValueError: If the largest weight lies above what the largest exponent can hold.
    """
    mode = sign_mode(synapses.weights)
    step, most = weight_step(bits, mode), _largest(bits, mode)
    target = synapses.weights * scale
    peak = float(abs(target).max(initial=0.0))
    lowest: float = 1 - step.bit_length() if least_exponent is None else least_exponent
    lowest = -math.inf if synapses.graded else lowest
    holds = math.ceil(math.log2(peak / (most * step)) - 6 - 1e-12) if peak else EXPONENTS[0]
    if holds > EXPONENTS[1] and not synapses.graded:
        raise ValueError(f"a weight of {peak:.0f} chip units exceeds what {bits} bits and exponent {EXPONENTS[1]} hold")
    best: tuple[float, Quantized] | None = None
    for exponent in sorted({max(holds, lowest), max(holds - 1, lowest)}, reverse=True):
        unit = step * 2.0 ** (6 + exponent)
        q = np.clip(np.rint(target / unit), -most, most)
        error = float(np.sum((q * unit - target) ** 2 @ synapses.mean_squares))
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

    :func:`~spikeloop.hardware.loihi.fixed_point.bias_to_register` says the same; this runs on every env step.
    """
    bias = np.minimum(np.maximum(bias, -MAX_BIAS), MAX_BIAS)
    fraction, exponent = np.frexp(
        bias * (1.0 / 4095)
    )  # |fraction| in [1/2, 1): 1/2 is a power of two, held by one less
    step = np.ldexp(1.0, np.maximum(exponent - (np.abs(fraction) == 0.5), 0))
    return (np.rint(bias / step) * step).astype(np.int32)


def choose_scale(
    synapses: Sequence[Synapses], v_th: np.ndarray, bounds: Iterable[tuple[float, float]], bits: int
) -> float:
    """Return the scale of a layer with which weights and thresholds err least, among those with which all fits.

    Weights only depend on the fraction of an octave the scale takes, since exponents shift them; thresholds, biases
    and the rounding of decays want it large.

    Args:
        synapses: All projections into the layer.
        v_th: Its finite thresholds, in units of v.
        bounds: Figures in units of v, and the largest chip units that they may become.
        bits: Bits of a weight.
    """
    bounds = [*bounds, (float(v_th.max(initial=0.0)), float(MAX_V_TH))]
    for part in synapses:
        if not part.graded:
            mode = sign_mode(part.weights)
            largest = _largest(bits, mode) * weight_step(bits, mode) * 2.0 ** (6 + EXPONENTS[1])
            bounds.append((float(abs(part.weights).max(initial=0.0)), largest))
    top = largest_scale(bounds)
    candidates = top * 2.0 ** -(np.arange(_CANDIDATES) / _CANDIDATES)
    typical = float(np.median(v_th)) if v_th.size else 0.0
    if typical * top > 2 * 64:
        candidates = np.floor(candidates * typical / 64) * 64 / typical  # exact thresholds
    of_grid = 2.0 ** math.floor(math.log2(top))  # for weights that are on a grid already
    candidates = np.append(candidates, of_grid)
    sample = [part._replace(weights=part.weights[:: -(-part.weights.size // _SAMPLE)]) for part in synapses]
    if any(part.weights.any() for part in sample) and _error(sample, v_th, of_grid, bits) == 0.0:
        return of_grid
    errors = [_error(sample, v_th, float(scale), bits) for scale in candidates]
    return float(candidates[int(np.argmin(errors))])


def choose_payload_bits(
    synapses: Synapses, scale: float, bits: int, largest: float, exponents: tuple[int, int], on_sum: bool
) -> int:
    """Return the binary places ``p`` of a graded spike: x is sent as ``round(2^p x)``.

    Weight times payload has a least unit, so finer payloads mean coarser weights: the two errors are balanced. Where
    exponents shift sums, a sum has eight binary places more, and both can be fine.

    Args:
        synapses: The weights.
        scale: Chip units per unit of v.
        bits: Bits of a weight.
        largest: Largest magnitude of x that must fit.
        exponents: Least and largest weight exponent.
        on_sum: Whether negative exponents shift the sum of a tick, and not each weight.
    """
    mode = sign_mode(synapses.weights)
    full = float(_largest(bits, mode) * weight_step(bits, mode))
    peak = float(abs(synapses.weights).max())
    least = exponents[0] if on_sum else 1 - weight_step(bits, mode).bit_length()
    whole = math.ceil(math.log2(peak) + math.log2(scale / full) - 6 - 1e-12) - least  # the weights keep all their bits
    per_row = float(abs(synapses.weights).sum(axis=1).max()) / peak * full
    fits = math.floor(math.log2(MAX_SUM) - math.log2(per_row) - math.log2(max(largest, 1e-300)))
    if fits <= whole:
        return fits
    parts = synapses._replace(graded=False)
    square = float(np.sum(synapses.weights**2))

    def error(p: int) -> float:
        stored = quantize_weights(parts, scale * 2.0**-p, bits, least).chip_units() * 2.0**p / scale
        of_weights = float(np.sum((stored - synapses.weights) ** 2 @ synapses.mean_squares))
        return of_weights + square * 4.0**-p / 12

    return min(range(whole, whole + bits), key=error)


def _error(synapses: Sequence[Synapses], v_th: np.ndarray, scale: float, bits: int) -> float:
    """Return the mean square error per neuron and tick that rounding at this scale makes, in units of v."""
    total = 0.0
    for part in synapses:
        error = quantize_weights(part, scale, bits).chip_units() / scale - part.weights
        total += float(np.sum(error**2 @ part.mean_squares)) / len(part.weights)
    return total + float(np.mean((quantize_threshold(v_th, scale) / scale - v_th) ** 2)) if v_th.size else total


def quantizer(bits: int = 8) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that puts one weight matrix on the chips' grid, for quantisation-aware training.

    Its steps are powers of two, so that all matrices of a layer share a scale, which the compiler finds again without
    error. The function can be pickled.

    Args:
        bits: Bits of a weight, sign included.

    Raises:
        ValueError: If weights cannot have so many bits.
    """
    check_bits(bits)
    return partial(_on_grid, bits=bits)


def _on_grid(weights: np.ndarray, bits: int) -> np.ndarray:
    """Return the weights rounded to the nearest step, the power of two that the largest of them needs.

    Nothing is clipped: in training, a step that goes back and forth between two sizes does more harm than a coarse one.
    """
    peak = float(abs(weights).max(initial=0.0))
    if peak == 0.0:
        return weights.copy()
    step = 2.0 ** math.ceil(math.log2(peak / _largest(bits, "mixed")) - 1e-12)
    return (np.rint(weights / step) * step).astype(weights.dtype)
