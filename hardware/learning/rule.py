"""What a learning rule is: texts, traces, learning epoch and arithmetic, checked against what a chip could hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.hardware.learning.rule_text import Product, parse

PRE_TRACES, POST_TRACES = ("x1", "x2"), ("y1", "y2", "y3")
TRACES = (*PRE_TRACES, *POST_TRACES)
SYNAPSE_VARIABLES = ("w", "t", "d")
REGISTER_BITS = 31  # of the multiplier in every published emulator, sign apart
FRACTION, WIDE_FRACTION = 7, 16  # fraction bits of an accumulator, and with wide shifts


@dataclass(frozen=True)
class Trace:
    """A trace that a spike raises and that decays in between, 7 bits.

    Args:
        impulse: What a spike adds, 0..127, with a fraction. For the reward trace: what one unit of reward adds. It is
            rounded down to what the registers hold, multiples of 1/128; profile ``lava`` has a grid of its own.
        tau: Time constant in ticks; 0: the trace holds nothing but the impulses of its own learning epoch.
    """

    impulse: float = 0.0
    tau: float = 0.0


@dataclass(frozen=True)
class Arithmetic:
    """How one profile computes products; see hardware/README.md for who says what.

    Args:
        synapse_bits: Magnitude bits that w, t and d count for in a product.
        mantissa_bits: Bits that the mantissa counts for.
        scaled: Whether products are shifted down to 15 bits.
        low_tag: Smallest tag.
        high_delay: Largest delay.
        even: Whether learned weights keep to the grid of the weight bits.
    """

    synapse_bits: int
    mantissa_bits: int
    scaled: bool
    low_tag: int
    high_delay: int
    even: bool


ARITHMETICS = {
    "nengo": Arithmetic(synapse_bits=8, mantissa_bits=3, scaled=True, low_tag=-256, high_delay=63, even=True),
    "lava": Arithmetic(synapse_bits=9, mantissa_bits=4, scaled=True, low_tag=-257, high_delay=255, even=False),
    "brian": Arithmetic(synapse_bits=8, mantissa_bits=3, scaled=False, low_tag=0, high_delay=0, even=True),
}


@dataclass(frozen=True)
class LearningRule:
    """What a learning engine does to every synapse of one projection.

    Args:
        dw: Text of the weight's rule; "" leaves it alone.
        dt: Text of the tag's rule.
        dd: Text of the delay's rule.
        x1: First presynaptic trace.
        x2: Second presynaptic trace.
        y1: First postsynaptic trace.
        y2: Second postsynaptic trace.
        y3: Third postsynaptic trace.
        r1: Reward trace, signed 8 bits; ``impulse`` is what one unit of reward adds.
        epoch: Ticks per learning epoch, 1..63.
        profile: Whose arithmetic: "nengo", "lava" or "brian".
        rounding: "stochastic", or "nearest" (which no chip offers).
        residue_bits: 4 gives each weight a second synapse that holds four more bits and carries into the first, which
            alone acts on the neuron. An extension that no Loihi has. 0: none.
        wide_shift: Products keep all their bits, mantissas are 8 bits and exponents -16..8, and only the sum is
            rounded. An extension that no Loihi has.

    Raises:
        ValueError: If the chip could not hold the rule; the message names the term.

    Example:
        Pairwise STDP, which strengthens a synapse whose source fired before its target, and weakens the reverse:

        >>> stdp = LearningRule(dw="2^-2*x1*y0 - 2^-2*y1*x0", x1=Trace(16, 10), y1=Trace(16, 10))
        >>> sorted(stdp.variables())
        ['w', 'x0', 'x1', 'y0', 'y1']
        >>> LearningRule(dw="x1*y1")
        Traceback (most recent call last):
        ...
        ValueError: dw, term 'x1*y1': no dependency; it needs x0, y0 or u0, u1, ...
    """

    dw: str = ""
    dt: str = ""
    dd: str = ""
    x1: Trace = field(default_factory=Trace)
    x2: Trace = field(default_factory=Trace)
    y1: Trace = field(default_factory=Trace)
    y2: Trace = field(default_factory=Trace)
    y3: Trace = field(default_factory=Trace)
    r1: Trace = field(default_factory=lambda: Trace(1.0))
    epoch: int = 1
    profile: str = "nengo"
    rounding: str = "stochastic"
    residue_bits: int = 0
    wide_shift: bool = False

    def __post_init__(self) -> None:
        if self.profile not in ARITHMETICS:
            raise ValueError(f"profile must be one of {', '.join(ARITHMETICS)}, got {self.profile!r}")
        if isinstance(self.epoch, bool) or not isinstance(self.epoch, int) or not 1 <= self.epoch <= 63:
            raise ValueError(f"epoch must be an integer, 1..63 ticks, got {self.epoch!r}")
        if self.rounding not in ("stochastic", "nearest"):
            raise ValueError(f"rounding must be 'stochastic' or 'nearest', got {self.rounding!r}")
        if self.residue_bits not in (0, 4):
            raise ValueError(f"residue_bits must be 0 or 4, got {self.residue_bits}")
        for name in (*TRACES, "r1"):
            trace = getattr(self, name)
            if not 0 <= trace.impulse <= 127:
                raise ValueError(f"impulse of {name} must be 0..127, got {trace.impulse}")
            if not trace.tau >= 0:
                raise ValueError(f"tau of {name} must be >= 0 ticks, got {trace.tau}")
            if self.profile != "lava":
                whole, fraction = impulse_to_register(trace.impulse)
                object.__setattr__(self, name, replace(trace, impulse=float(whole + fraction / 128)))
        if self.profile == "brian":
            self._check_brian()
        if not self.products():
            raise ValueError("a learning rule needs dw, dt or dd")
        self._check_products()

    def products(self) -> tuple[tuple[str, Product], ...]:
        """Return (variable that it changes, product) for all products, w before t before d."""
        return tuple((z, p) for z in SYNAPSE_VARIABLES for p in parse(getattr(self, f"d{z}"), z, self.wide_shift))

    def products_of(self, z: str) -> tuple[Product, ...]:
        """Return the products that change variable ``z``: "w", "t" or "d"."""
        return tuple(product for target, product in self.products() if target == z)

    def variables(self) -> set[str]:
        """Return the names of all variables and gates that the rule reads ("u" for every u_k) or changes."""
        names = set()
        for z, product in self.products():
            names |= {z, product.gate, *(f.variable for f in product.factors)}
        return names

    @property
    def k(self) -> int:
        """The k that all u of the rule share; 0 if it has none."""
        return max((p.k for _, p in self.products()), default=0)

    @property
    def fraction(self) -> int:
        """Fraction bits of an accumulator, in units of the variable."""
        return WIDE_FRACTION if self.wide_shift else FRACTION

    def evaluates_u(self, tick: int) -> bool:
        """Return whether products gated by u_k are evaluated when a learning epoch ends at ``tick``, counted from 1."""
        now = tick - 1 if self.profile == "brian" else tick // self.epoch
        return now % 2**self.k == 0

    def changed_at(self, tick: int) -> list[str]:
        """Return which of w, t, d may change as a learning epoch ends at ``tick``: those not waiting for their u_k."""
        u = self.evaluates_u(tick)
        return [z for z in SYNAPSE_VARIABLES if any(v == z and (u or p.gate != "u") for v, p in self.products())]

    def width(self, product: Product) -> int:
        """Return the magnitude bits that the factors of ``product`` count for, its mantissa left out."""
        bits = ARITHMETICS[self.profile].synapse_bits
        widths = {"x0": 1, "y0": 1, "w": bits, "t": bits, "d": bits}
        return sum(widths.get(f.variable, 7) for f in product.factors)

    def overflow(self, product: Product) -> int:
        """Return how many bits ``product`` is shifted down by to fit the 15 bits of an accumulator."""
        arithmetic = ARITHMETICS[self.profile]
        if self.wide_shift or not arithmetic.scaled:
            return 0
        return max(0, self.width(product) + arithmetic.mantissa_bits - 15)

    def _check_brian(self) -> None:
        extensions = self.wide_shift or self.residue_bits or self.rounding != "stochastic"
        if self.dt or self.dd or "r1" in self.variables() or self.epoch != 1 or extensions:
            raise ValueError("profile 'brian' knows dw without r1, t or d, epochs of one tick, and no extensions")

    def _check_products(self) -> None:
        found: dict[int, str] = {}
        for z, product in self.products():
            if product.gate == "u":
                found.setdefault(product.k, f"d{z}: {product.text}")
            mantissa_bits = 7 if self.wide_shift else ARITHMETICS[self.profile].mantissa_bits
            if (bits := self.width(product) + mantissa_bits) > REGISTER_BITS:
                raise ValueError(
                    f"d{z}, term {product.text!r}: the product takes {bits} bits, the register holds {REGISTER_BITS}"
                )
        if len(found) > 1:
            names = " and ".join(f"u{k} ({text})" for k, text in sorted(found.items()))
            raise ValueError(f"all u of a rule must share one epoch, got {names}")


def decay_per_epoch(trace: Trace, rule: LearningRule) -> float:
    """Return the factor of a trace's decay: per tick in Lava and Brian2Loihi, per learning epoch in nengo."""
    if trace.tau == 0:
        return 0.0
    if rule.profile == "brian":
        return 1 - 1 / trace.tau
    return math.exp(-(rule.epoch if rule.profile == "nengo" else 1) / trace.tau)


def impulse_to_register(impulse: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return whole part and fraction, in 1/128 rounded down, that the registers of a trace's impulse hold (NGO).

    Args:
        impulse: What a spike adds to a trace, 0 to below 128.
    """
    parts = np.floor(np.asarray(impulse, dtype=np.float64) * 128).astype(np.int64)
    return parts >> 7, parts & 127


class Grid(NamedTuple):
    """What values a synaptic variable may have: multiples of ``step`` from ``low`` to ``high``."""

    low: int
    high: int
    step: int


class Rounding(NamedTuple):
    """How an accumulator becomes a stored value.

    Args:
        fraction: Fraction bits of the accumulator, counted in units of the grid's step.
        residue: Of these, the bits that a second synapse keeps.
    """

    fraction: int
    residue: int

    @property
    def draw_bits(self) -> int:
        """Bits of the random number that rounds: 16, or as many as are rounded away, so that rounding has no bias."""
        return max(16, self.fraction - self.residue)


def weight_grid(rule: LearningRule, sign_mode: str, bits: int) -> Grid:
    """Return the grid of learned weights.

    Args:
        rule: For its profile.
        sign_mode: "mixed", "excitatory" or "inhibitory".
        bits: Weight bits, 1..8.
    """
    mixed = sign_mode == "mixed"
    step = 1 << (8 - bits + mixed)
    if rule.profile == "lava":
        return {"mixed": Grid(-256, 255, 1), "excitatory": Grid(0, 255, 1), "inhibitory": Grid(-255, 0, 1)}[sign_mode]
    if rule.profile == "brian":  # Brian2Loihi itself lets a weight rise to 254, which fewer than 8 bits cannot hold
        high = 0 if sign_mode == "inhibitory" else 256 - step
        return Grid(0 if sign_mode == "excitatory" else -256, high, step)
    top = 256 - step if mixed or bits < 8 else 255
    return Grid(0 if sign_mode == "excitatory" else -top, 0 if sign_mode == "inhibitory" else top, step)


def grids(rule: LearningRule, sign_mode: str, bits: int) -> dict[str, Grid]:
    """Return the grids of w, t and d."""
    arithmetic = ARITHMETICS[rule.profile]
    return {
        "w": weight_grid(rule, sign_mode, bits),
        "t": Grid(arithmetic.low_tag, 255, 1),
        "d": Grid(0, arithmetic.high_delay, 1),
    }


def rounding(rule: LearningRule, z: str, grid: Grid) -> Rounding:
    """Return how the accumulator of variable ``z`` is rounded."""
    fraction = rule.fraction + grid.step.bit_length() - 1
    return Rounding(fraction, rule.residue_bits if z == "w" else 0)
