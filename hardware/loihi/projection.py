"""The synapses of a program, and the learning rule that changes them while the chip runs."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Literal

import numpy as np

from spikeloop.hardware.learning.rule import LearningRule, grids
from spikeloop.hardware.loihi.chip import PROFILES
from spikeloop.hardware.loihi.fixed_point import weight_range, weight_step
from spikeloop.hardware.loihi.integers import check_within, integers, shortened
from spikeloop.spiking.fields import check_choice, check_part, flag, set_fields, text, whole

SIGN_MODES = ("mixed", "excitatory", "inhibitory")
LEARNED_BITS = (1, 2, 3, 4, 5, 6, 8)  # of a weight that a learning engine changes


@dataclass(frozen=True, eq=False)
class LearningState:
    """Where a learning engine stands, beside its weights, tags and delays: what it needs to go on exactly.

    Args:
        residue: What the second synapse of each weight holds, 0 to 15, shape (Q, P).
        x: Traces x1 and x2 of each source, and the tick of the learning epoch on which it spiked, 0 for none, (P, 3).
        y: The same of each target, y1, y2, y3 and the tick, shape (4, Q).
        ticks: Ticks so far, which count the draws that round.
        r1: Reward trace.
        reward: Rewards of the learning epoch so far.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> state = LearningState(residue=[[0, 3]], x=[[40, 0, 0], [0, 0, 0]], y=[[7], [0], [0], [0]], ticks=12)
        >>> state.residue.tolist(), state.ticks
        ([[0, 3]], 12)
    """

    residue: np.ndarray
    x: np.ndarray
    y: np.ndarray
    ticks: int = 0
    r1: int = 0
    reward: int = 0

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "LearningState"
        residue = integers(me, "residue", self.residue, (None, None), np.int16)
        x, y = integers(me, "x", self.x, (None, 3), np.int16), integers(me, "y", self.y, (4, None), np.int16)
        check_within(me, "residue", residue, 0, 15)
        for name, traces, times in (("x", x[:, :2], x[:, 2]), ("y", y[:3], y[3])):
            check_within(me, name, traces, -128, 127)
            check_within(me, f"{name}, ticks of spikes", times, 0, 63)
        set_fields(
            self,
            residue=residue,
            x=x,
            y=y,
            ticks=whole(me, "ticks", self.ticks, 0, 2**62),
            r1=whole(me, "r1", self.r1, -128, 127),
            reward=whole(me, "reward", self.reward, -(2**62), 2**62),
        )


@dataclass(frozen=True, eq=False)
class Learning:
    """What the learning engine does to the synapses of one projection, and from what it starts.

    Args:
        rule: The rule, in the arithmetic of the program's profile (``slayer`` learns in that of ``lava``).
        seed: Of the random numbers that round: one counter-based draw per synapse, variable and learning epoch.
        tags: First tags, shape (Q, P); None for zeros. First weights and delays are the projection's.
        state: Where an engine that has learned goes on; None for one at its start.

    Raises:
        ValueError: If a value is out of range.
    """

    rule: LearningRule
    seed: int = 0
    tags: np.ndarray | None = None
    state: LearningState | None = None

    def __post_init__(self) -> None:
        """Validate the fields and make the array read-only."""
        check_part("Learning", "rule", self.rule, LearningRule)
        check_part("Learning", "state", self.state, LearningState, NoneType)
        set_fields(self, seed=whole("Learning", "seed", self.seed, 0, 2**63 - 1))
        if self.tags is not None:
            set_fields(self, tags=integers("Learning", "tags", self.tags, (None, None), np.int16))


@dataclass(frozen=True, eq=False)
class Projection:
    """Synapses from some sources to some compartments; a weight mantissa of 0 is no synapse, unless ``plastic``.

    One spike adds ``w * 2^(6 + exponent)`` to u of the target; how low bits are lost is the profile's business.
    A projection with ``learning`` is changed by its rule, learning epoch by learning epoch::

        >>> from spikeloop.hardware import Learning, LearningRule, Projection, Trace
        >>> hebb = LearningRule(dw="2^-2*x1*y0", x1=Trace(impulse=16, tau=10))
        >>> synapses = Projection("in", True, pre=[0, 1], post=[0], weights=[[0, 0]], learning=Learning(hebb))
        >>> synapses.plastic
        True

    Args:
        name: For messages and reports.
        from_input: Whether ``pre`` counts input lines; else compartments.
        pre: Sources, shape (P,), each at most once.
        post: Target compartments, shape (Q,), each at most once.
        weights: Mantissas as the chip stores them, shape (Q, P): multiples of ``2^(8 - bits)``, twice that if mixed.
        exponent: wgtExp, -8..7, of all synapses; the program's profile may have fewer.
        bits: Bits of a weight, 1..8 (7 exists in profile ``lava`` only); in mode ``mixed`` one of them is the sign.
        sign_mode: ``"mixed"``, ``"excitatory"`` or ``"inhibitory"``.
        delays: Ticks beyond the one that every spike takes, shape (Q, P), 0..62, in profile ``lava`` 63; None for none.
        plastic: Whether the weights may be changed while running; any mantissa in range may then occur. True wherever
            there is a rule. A spike reaches a plastic synapse by two of a core's input axons, not by one.
        learning: The rule that changes the synapses, if any does.

    Raises:
        ValueError: If shapes differ or a value is out of range.
    """

    name: str
    from_input: bool
    pre: np.ndarray
    post: np.ndarray
    weights: np.ndarray
    exponent: int = 0
    bits: int = 8
    sign_mode: Literal["mixed", "excitatory", "inhibitory"] = "mixed"
    delays: np.ndarray | None = None
    plastic: bool = False
    learning: Learning | None = None

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = f"Projection {text('Projection', 'name', self.name)!r}"
        pre, post = integers(me, "pre", self.pre, (None,), np.int32), integers(me, "post", self.post, (None,), np.int32)
        weights = integers(me, "weights", self.weights, (post.size, pre.size), np.int16)
        for name, array in (("pre", pre), ("post", post)):
            if array.size == 0 or np.unique(array).size < array.size or array.min() < 0:
                raise ValueError(f"{me}.{name} must hold at least one id >= 0, each once, got {shortened(array)}")
        check_choice(me, "sign_mode", self.sign_mode, SIGN_MODES)
        set_fields(
            self,
            from_input=flag(me, "from_input", self.from_input),
            bits=whole(me, "bits", self.bits, 1, 8),
            exponent=whole(me, "exponent", self.exponent, -8, 7),
            plastic=flag(me, "plastic", self.plastic) or self.learning is not None,
        )
        self.check_weights(weights)
        if self.delays is not None:
            delays = integers(me, "delays", self.delays, weights.shape, np.uint8)
            check_within(me, "delays", delays, 0, max(profile.max_delay for profile in PROFILES.values()))
            set_fields(self, delays=delays)
        set_fields(self, pre=pre, post=post, weights=weights)
        check_part(me, "learning", self.learning, Learning, NoneType)
        if self.learning is not None:
            self._check_learning(self.learning)

    def check_weights(self, weights: np.ndarray) -> None:
        """Raise ValueError unless the mantissas, shape (Q, P), can be stored in this projection's format."""
        low, high = weight_range(self.sign_mode)
        check_within(f"Projection {self.name!r}", "weights", weights, low, high)
        step = 1 if self.plastic else weight_step(self.bits, self.sign_mode)
        if np.any(weights % step):
            bad = weights[weights % step != 0][0]
            raise ValueError(
                f"Projection {self.name!r}.weights must be multiples of {step} at {self.bits} bits {self.sign_mode}, "
                f"found {bad}"
            )

    def _check_learning(self, learning: Learning) -> None:
        """Refuse bits that no learned weight has, and first values that the learning engine cannot hold."""
        me = f"Projection {self.name!r}"
        if self.bits not in LEARNED_BITS:
            raise ValueError(f"{me}.bits must be one of {LEARNED_BITS} where a rule changes weights, got {self.bits}")
        ranges = grids(learning.rule, self.sign_mode, self.bits)
        delays = self.delays if self.learns_delays or "d" in learning.rule.variables() else None
        if learning.tags is not None and learning.tags.shape != self.weights.shape:
            raise ValueError(f"{me}.learning.tags must have shape {self.weights.shape}, got {learning.tags.shape}")
        if (state := learning.state) is not None:
            found = state.residue.shape, state.x.shape[0], state.y.shape[1]
            wanted = self.weights.shape, self.pre.size, self.post.size
            latest = max(state.x[:, 2].max(), state.y[3].max())
            if found != wanted or latest > learning.rule.epoch:
                raise ValueError(
                    f"{me}.learning.state must be of {wanted} synapses, sources and targets, with spikes on ticks "
                    f"up to {learning.rule.epoch}, got {found} and {latest}"
                )
        for name, values, (low, high, step) in (
            ("weights", self.weights, ranges["w"]),
            ("learning.tags", learning.tags, ranges["t"]),
            ("delays", delays, ranges["d"]),
        ):
            if values is None:
                continue
            wrong = values[(values < low) | (values > high) | (values % step != 0)]
            if wrong.size:
                raise ValueError(
                    f"{me}.{name} must be {low}..{high} in steps of {step} where a rule of profile "
                    f"{learning.rule.profile!r} changes them, found {wrong[0]}"
                )

    @property
    def learns_delays(self) -> bool:
        """Whether a rule changes the delays."""
        return self.learning is not None and bool(self.learning.rule.products_of("d"))

    @property
    def synapses(self) -> np.ndarray:
        """Where there is a synapse, bool of shape (Q, P)."""
        return np.ones(self.weights.shape, dtype=bool) if self.plastic else self.weights != 0
