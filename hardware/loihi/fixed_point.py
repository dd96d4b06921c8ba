"""Formats of the chips in numpy: biases, thresholds and weights in their registers, synaptic memory in bits.

Every function takes and returns integers and is exact for any value its docstring allows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from spikeloop.hardware.loihi.chip import Profile

_RANGES = {"mixed": (-256, 255), "excitatory": (0, 255), "inhibitory": (-256, 0)}
_FIELD_BITS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 8}  # the register's codes for weight bits
_INDEX_BITS = {0: 0, 1: 6, 2: 7, 3: 8, 4: 9, 5: 10, 6: 11, 7: 12}  # and for bits of a sparse index
_WORD = 64


def bias_fits(bias: npt.ArrayLike) -> np.ndarray:
    """Return where a bias is a 13-bit signed mantissa times 2^0..2^7."""
    bias = np.asarray(bias, dtype=np.int64)
    fits = np.zeros(bias.shape, dtype=bool)
    for exponent in range(8):
        mantissa = bias >> exponent
        fits |= (mantissa << exponent == bias) & (mantissa >= -4096) & (mantissa <= 4095)
    return fits


def bias_to_register(bias: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return mantissas and exponents nearest to biases in units of v, ties to even, as NGO rounds.

    Args:
        bias: Real or whole numbers, |bias| <= 4095 * 2^7.

    Raises:
        ValueError: If a bias is too large for any exponent.
    """
    bias = np.asarray(bias, dtype=np.float64)
    exponent = np.ceil(np.log2(np.maximum(np.abs(bias) / 4095, 1))).astype(np.int64)
    if np.any(exponent > 7):
        raise ValueError(f"a bias must be within +-{4095 << 7}, got {bias.flat[np.argmax(np.abs(bias))]:g}")
    return np.round(bias / (1 << exponent)).astype(np.int64), exponent


def threshold_to_register(v_th: npt.ArrayLike) -> np.ndarray:
    """Return the mantissas, units of 64, nearest to thresholds in units of v, ties to even.

    Raises:
        ValueError: If one is below 0 or above 131071 * 64.
    """
    mantissa = np.round(np.asarray(v_th, dtype=np.float64) / 64)
    if np.any((mantissa < 0) | (mantissa > 131071)):
        bad = mantissa.flat[np.argmax(np.abs(mantissa))] * 64
        raise ValueError(f"a threshold must be within [0, {131071 * 64}], got {bad:g}")
    return mantissa.astype(np.int64)


# --- weights


def weight_step(bits: int, sign_mode: str) -> int:
    """Return the distance between mantissas that ``bits`` can tell apart."""
    return 1 << (8 - bits + (sign_mode == "mixed"))


def weight_range(sign_mode: str) -> tuple[int, int]:
    """Return the least and the largest mantissa that any source stores in a sign mode."""
    return _RANGES[sign_mode]


def clip_mantissas(weights: npt.ArrayLike, sign_mode: str, profile: Profile) -> np.ndarray:
    """Return whole mantissas clipped to what the profile stores in a sign mode, before any low bits are dropped."""
    low, high = {"mixed": (-256, profile.mixed_max), "excitatory": (0, 255), "inhibitory": (-256, 0)}[sign_mode]
    if profile.low_bits == "floor" and sign_mode == "inhibitory":
        low = -255
    return np.clip(np.asarray(weights, dtype=np.int64), low, high)


def drop_low_bits(weights: npt.ArrayLike, bits: int, sign_mode: str, profile: Profile) -> np.ndarray:
    """Return mantissas clipped to their range and brought to what ``bits`` can hold, as the profile rounds.

    Args:
        weights: Whole mantissas; real numbers too in a profile that rounds to nearest. Any shape.
        bits: Bits of a weight, 1 to 8.
        sign_mode: ``"mixed"``, ``"excitatory"`` or ``"inhibitory"``.
        profile: Says how the low bits go.
    """
    step = weight_step(bits, sign_mode)
    if profile.low_bits == "nearest":
        reduced = np.round(np.asarray(weights, dtype=np.float64) / step)
        most = 256 // step - 1
        low, high = {"mixed": (-most, most), "excitatory": (0, most), "inhibitory": (-most, 0)}[sign_mode]
        return (np.clip(reduced, low, high) * step).astype(np.int64)
    clipped = clip_mantissas(weights, sign_mode, profile)
    if profile.low_bits == "floor" and sign_mode != "inhibitory":
        return clipped & -step
    return np.sign(clipped) * (np.abs(clipped) & -step)


def synaptic_input(weights: npt.ArrayLike, exponent: int, bits: int, sign_mode: str, profile: Profile) -> np.ndarray:
    """Return what one spike through each synapse adds to u, in units of 64; 16 bits hold it.

    In a profile whose exponent shifts the sum, a negative exponent is left out here and applied to the sum.

    Args:
        weights: Mantissas as stored.
        exponent: wgtExp, -8..7.
        bits: Bits of a weight.
        sign_mode: ``"mixed"``, ``"excitatory"`` or ``"inhibitory"``.
        profile: Says where the exponent acts and how it rounds.
    """
    w = np.asarray(weights, dtype=np.int64)
    if exponent >= 0:
        return np.clip(w << exponent, -(2**15) + (profile.low_bits == "zero"), 2**15 - 1)
    if profile.exponent_on == "sum":
        return w
    if profile.low_bits == "zero":  # B2L
        return w >> -exponent
    # NGO: the shift happens on the mantissa less its unused low bits, and the host rounds beforehand what it will lose.
    step = weight_step(bits, sign_mode)
    shift = step.bit_length() - 1 + exponent
    reduced, most = w // step, 256 // step - 1
    if shift >= 0:
        return reduced << shift
    rounded = np.round(reduced * 2.0**shift) * 2.0**-shift
    return np.trunc(np.clip(rounded, -most, most)).astype(np.int64) >> -shift


def discretize_weights(
    weights: npt.ArrayLike, exponent: int, bits: int, sign_mode: str, profile: Profile
) -> np.ndarray:
    """Return the actual weights, in units of u, that real mantissas become.

    Args:
        weights: Real mantissas, any shape.
        exponent: wgtExp, -8..7.
        bits: Bits of a weight.
        sign_mode: ``"mixed"``, ``"excitatory"`` or ``"inhibitory"``.
        profile: Its rounding.
    """
    stored = drop_low_bits(weights, bits, sign_mode, profile)
    return synaptic_input(stored, exponent, bits, sign_mode, profile) << 6


def optimize_weight_bits(weights: npt.ArrayLike, sign_mode: str) -> tuple[np.ndarray, int, int]:
    """Return ``(mantissas, exponent, bits)`` that store a whole-numbered matrix with the fewest bits, as LAVA does.

    Args:
        weights: Whole numbers, not all zero.
        sign_mode: ``"mixed"``, ``"excitatory"`` or ``"inhibitory"``.
    """
    w = np.asarray(weights, dtype=np.int64)
    mixed = sign_mode == "mixed"
    highest, lowest = int(w.max()), int(w.min())
    if highest == lowest == 0:
        raise ValueError("a matrix of zeros needs no weight bits")
    up, down = (127, -128) if mixed else (255, -255)
    scales = [limit / extreme for limit, extreme in ((up, highest), (down, lowest)) if extreme * limit > 0]
    shift = int(np.floor(np.log2(min(scales)))) + mixed
    used = int(np.bitwise_or.reduce(np.abs(w), axis=None))
    zeros = min(8, (used & -used).bit_length() - 1)  # low bits that are zero in every weight
    return (w << shift if shift >= 0 else w >> -shift), -shift, 8 - shift - (zeros - mixed)


# --- synaptic memory


def synapse_memory_bits(
    n_weights: int,
    *,
    weight_bits: int,
    index_bits: int,
    delay_bits: int = 0,
    tag_bits: int = 0,
    entry: int = 64,
) -> int:
    """Return the bits of synaptic memory that one axon's list takes, whole 64-bit words (NGO).

    Args:
        n_weights: Synapses in the list.
        weight_bits: Bits of a weight.
        index_bits: Bits of a target's index; 0 in a dense list.
        delay_bits: Bits of a delay.
        tag_bits: Bits of a learning tag.
        entry: Most synapses that share one 10-bit head.
    """
    each = weight_bits + index_bits + delay_bits + tag_bits
    full, rest = divmod(n_weights, entry)

    def words(n: int) -> int:
        return -(-(10 + n * each) // _WORD)

    return (full * words(entry) + (words(rest) if rest else 0)) * _WORD


def field_bits(kind: Literal["weight", "index"], code: int) -> int:
    """Return how many bits a register's 3-bit code for weights or indices stands for."""
    return (_FIELD_BITS if kind == "weight" else _INDEX_BITS)[code]
