"""What the emulated chips are: limits and register ranges with their sources, and arithmetic profiles.

Sources, by their short names: D18 = Davies et al. 2018, IEEE Micro 38(1); D21 = Davies et al. 2021, Proc. IEEE 109(5);
O21 = Orchard et al. 2021, arXiv 2111.03746; NGO = nengo-loihi 1.1.0; B2L = brian2-loihi
0.5.2; LAVA = lava-nc 0.10.0; DL = lava-dl 0.6.0; NRC = intel-nrc-ecosystem/models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EMULATOR_BITS = 28  # of u and v where a profile names no width: the emulator's own, so that sums of a few fit 32 bits
EMULATOR_MAX = 2**EMULATOR_BITS - 1
MAX_V_TH = 131071 * 64  # the threshold register's largest value, in units of v
MAX_REFRACTORY = 64  # ticks from a spike to the earliest next one
REGISTER_V_MIN = tuple(-(2**n) + 1 for n in range(24))  # negVmLimit n; NGO hardware/builder.py
REGISTER_V_MAX = tuple(2 ** (9 + 2 * p) - 1 for p in range(8))  # posVmLimit p; the same


@dataclass(frozen=True)
class Profile:
    """Integer arithmetic where public sources disagree; every edge is a named field.

    Args:
        name: Key in :data:`PROFILES`.
        source: Whose arithmetic it is exact to.
        decay_u_offset: Effective current decay less the register's value. A register of a real core may set it (NRC).
        input_bits: The synaptic input of one tick wraps at this many bits and a sign.
        u_bits: u wraps at this many bits and a sign.
        u_wrap: ``"twos_complement"``, or ``"once"``: one correction by 2^24, which leaves +2^23 and maps -2^23 to it.
        wrap_v_input: Whether ``u + bias + v of children`` wraps at 23 bits and a sign before it meets v.
        v_min_values: What the lower bound of v may be; empty for anything.
        v_max_values: What the upper bound may be; empty for anything.
        exponent_on: A weight exponent shifts each ``"synapse"``, or, if negative, the ``"sum"`` of what a projection's
            spikes of one tick bring with one delay.
        low_bits: How dropped low bits of a mantissa round: ``"nearest"`` (ties to even), ``"floor"``, ``"zero"``.
        mixed_max: Largest mantissa in mode ``mixed`` before low bits are dropped.
        input_latency: Ticks from an input spike to u; spikes between compartments always take 1, and delays add.
        late_reset: Whether a ``cuba`` neuron keeps the v that crossed until its next update, and is cleared there.
        exponents: Least and largest weight exponent.
        max_refractory: Most ticks from a spike to the earliest next one.
        max_delay: Most ticks of a synapse's delay (62: B2L, and D18 p. 92).
        weight_bits: What the bits of a weight may be.

    Example:
        >>> PROFILES["nengo"].exponents, PROFILES["lava"].low_bits
        ((-7, 7), 'floor')
    """

    name: str
    source: str
    decay_u_offset: Literal[0, 1] = 1
    input_bits: int = EMULATOR_BITS
    u_bits: int = EMULATOR_BITS
    u_wrap: Literal["twos_complement", "once"] = "twos_complement"
    wrap_v_input: bool = False
    v_min_values: tuple[int, ...] = ()
    v_max_values: tuple[int, ...] = ()
    exponent_on: Literal["synapse", "sum"] = "synapse"
    low_bits: Literal["nearest", "floor", "zero"] = "nearest"
    mixed_max: int = 254
    input_latency: Literal[0, 1] = 1
    late_reset: bool = False
    exponents: tuple[int, int] = (-8, 7)
    max_refractory: int = MAX_REFRACTORY
    max_delay: int = 62
    weight_bits: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8)  # the register has no code for 7


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "nengo",
            "NGO's emulator, compared with silicon by its authors",
            input_bits=21,
            u_bits=23,
            wrap_v_input=True,
            v_min_values=REGISTER_V_MIN,
            v_max_values=REGISTER_V_MAX,
            exponents=(-7, 7),
            max_refractory=63,
        ),
        Profile(
            "lava",
            "LAVA's bit-accurate process models",
            u_bits=23,
            u_wrap="once",
            v_min_values=(-(2**23) + 1,),
            v_max_values=(2**23 - 1,),
            exponent_on="sum",
            low_bits="floor",
            mixed_max=255,
            max_delay=63,
            weight_bits=(1, 2, 3, 4, 5, 6, 7, 8),
        ),
        Profile("brian", "B2L", decay_u_offset=0, low_bits="zero", input_latency=0),
        Profile(
            "slayer",
            "DL's neurons, whose networks run on Loihi 2",
            decay_u_offset=0,
            exponent_on="sum",
            low_bits="floor",
            mixed_max=255,
            late_reset=True,
        ),
    )
}


@dataclass(frozen=True)
class Chip:
    """Limits of a chip; ``None`` is no limit of its own.

    Args:
        name: Key in :data:`CHIPS`.
        profile: Arithmetic it runs with unless asked otherwise.
        models: Neuron models it has.
        graded_spikes: Whether a spike may carry an integer payload.
        cores: Neuro-cores of a chip.
        cores_per_tile: Cores that share a router.
        tile_columns: Tiles in x; tile index = ``tile_rows * x + y``.
        tile_rows: Tiles in y.
        compartments: Per core.
        input_axons: Per core: lists of synapses that an arriving spike can name; a plastic one takes two.
        output_axons: Per core: pairs of a source and a list it reaches.
        memory_words: 64-bit words of synaptic memory per core.
        state_words: 64-bit words of that memory that one compartment takes.
        delay_slots: Compartments times input slots per core, slots a power of two, at least 8.
        compartment_profiles: Distinct settings of decays, refractory period and joins per core.
        threshold_profiles: Distinct thresholds per core.
        synapse_formats: Distinct formats of synapses per core.

    Example:
        >>> CHIPS["loihi2"].compartments, CHIPS["loihi1"].tile(6)  # core 6 is one of the second tile's four
        (8192, (0, 1))
    """

    name: str
    profile: str
    models: tuple[str, ...]
    graded_spikes: bool
    cores: int = 128
    cores_per_tile: int = 4
    tile_columns: int = 8
    tile_rows: int = 4
    compartments: int = 1024
    input_axons: int = 4096
    output_axons: int = 4096
    memory_words: int = 16384
    state_words: int = 0
    delay_slots: int | None = 8192
    compartment_profiles: int | None = 32
    threshold_profiles: int | None = 8
    synapse_formats: int | None = 8

    def tile(self, core: int) -> tuple[int, int]:
        """Return the tile coordinates (x, y) of a core."""
        return divmod(core // self.cores_per_tile, self.tile_rows)


CHIPS = {
    chip.name: chip
    for chip in (
        # D18 constraints 2-4 and p. 92: cores, compartments, axons, memory, delay slots; NGO, NRC: profiles and formats
        Chip("loihi1", "nengo", ("cuba",), graded_spikes=False),
        # O21 and Intel's technology brief: 128 cores, up to 8192 neurons each, 192 KB per core for synapses, neuron
        # state and routing. Axon limits are not published: the first chip's are kept. Two words of state are our guess.
        Chip(
            "loihi2",
            "slayer",
            ("cuba", "slayer_alif", "lsnn"),
            graded_spikes=True,
            compartments=8192,
            memory_words=24576,
            state_words=2,
            delay_slots=None,
            compartment_profiles=None,
            threshold_profiles=None,
            synapse_formats=None,
        ),
    )
}
