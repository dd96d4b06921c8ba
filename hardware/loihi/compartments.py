"""The compartments of a program: the chip's neurons, or parts of them, as frozen, validated arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from spikeloop.hardware.loihi.chip import EMULATOR_MAX, MAX_REFRACTORY, MAX_V_TH
from spikeloop.hardware.loihi.fixed_point import bias_fits
from spikeloop.hardware.loihi.integers import check_within, integers

MAX_CORE = 2**12 - 1  # 32 chips' worth, for programs that leave the limits of one out of account
MODELS = ("cuba", "slayer_alif", "lsnn")

_DTYPES = {"model": np.uint8, "subtract": np.uint8, "fires": np.uint8, "noise": np.uint8}
_DEFAULTS = {
    "decay_u": 4096,
    "v_th": 64,
    "refractory": 1,
    "v_min": -(2**23) + 1,
    "v_max": 2**23 - 1,
    "parent": -1,
    "fires": 1,
}


@dataclass(frozen=True, eq=False)
class Compartments:
    """Every compartment of a program, one entry each in arrays of shape (C,); children stand before their parents.

    An emulator is quickest where neighbours in these arrays have the same model and where all children of a group of
    neurons stand before all their parents, instead of child, parent, child, parent.

    Args:
        model: Index into ``MODELS``: 0 ``cuba``, 1 ``slayer_alif``, 2 ``lsnn``; the interpreter
            has their equations.
        decay_u: Effective current decay, 0 (keeps) to 4096 (forgets), the register's offset included; 4097 exists
            only in profile ``lava``, whose adaptive neuron can ask for it.
        decay_v: Effective voltage decay, 0 to 4096.
        v_th: Threshold in units of v: mantissa 0..131071 times 64.
        bias: Added to v on every tick: 13-bit signed mantissa times 2^0..2^7.
        refractory: The earliest next spike after one at t is at t + refractory; 1..64, 1 means none.
        v_min: Lowest v.
        v_max: Highest v.
        parent: Compartment to whose v this one's v is added on each tick (ADD join), or -1. One with a parent
            must not fire.
        decay_a: Decay of the adaptation, 0 to 4096.
        step_a: What a spike adds to the adaptation, in units of v.
        decay_r: Decay of the refractory term of ``slayer_alif``, 0 to 4096.
        subtract: 1 where a spike takes ``v_th`` off v instead of clearing it; only with model ``lsnn``.
        fires: 0 where the compartment never spikes. Where v has registers for its bounds, such a compartment has the
            largest threshold there is, and v is kept at or below it.
        noise: 1 where the core's noise is added.
        core: The core it is placed on.

    Raises:
        ValueError: If shapes differ or a value is out of range.
    """

    model: np.ndarray
    decay_u: np.ndarray
    decay_v: np.ndarray
    v_th: np.ndarray
    bias: np.ndarray
    refractory: np.ndarray
    v_min: np.ndarray
    v_max: np.ndarray
    parent: np.ndarray
    decay_a: np.ndarray
    step_a: np.ndarray
    decay_r: np.ndarray
    subtract: np.ndarray
    fires: np.ndarray
    noise: np.ndarray
    core: np.ndarray

    def __post_init__(self) -> None:
        """Validate the fields and make the arrays read-only."""
        me = "Compartments"
        n = np.shape(self.model)[0] if np.ndim(self.model) == 1 else None
        for f in fields(self):
            array = integers(me, f.name, getattr(self, f.name), (n,), _DTYPES.get(f.name, np.int32))
            object.__setattr__(self, f.name, array)
        if self.n == 0:
            raise ValueError("Compartments must hold at least one compartment")
        check_within(me, "model", self.model, 0, len(MODELS) - 1)
        check_within(me, "decay_u", self.decay_u, 0, 4097)
        for name in ("decay_v", "decay_a", "decay_r"):
            check_within(me, name, getattr(self, name), 0, 4096)
        check_within(me, "v_th", self.v_th, 0, MAX_V_TH)
        if np.any(self.v_th % 64):
            raise ValueError(f"Compartments.v_th must be multiples of 64, found {self.v_th[self.v_th % 64 != 0][0]}")
        if not np.all(bias_fits(self.bias)):
            bad = self.bias[~bias_fits(self.bias)][0]
            raise ValueError(f"Compartments.bias must be a 13-bit mantissa times 2^0..2^7, found {bad}")
        check_within(me, "refractory", self.refractory, 1, MAX_REFRACTORY)
        check_within(me, "v_min", self.v_min, -EMULATOR_MAX, 0)
        check_within(me, "v_max", self.v_max, 1, EMULATOR_MAX)
        check_within(me, "step_a", self.step_a, -(2**23), 2**23)
        for name in ("subtract", "fires", "noise"):
            check_within(me, name, getattr(self, name), 0, 1)
        self._check_trees()
        alif = self.model == MODELS.index("slayer_alif")
        if np.any(self.refractory[alif] != 1):
            raise ValueError("Compartments.refractory must be 1 with model 'slayer_alif', whose decay_r does that")
        if np.any(self.subtract & (self.model != MODELS.index("lsnn"))):
            raise ValueError("Compartments.subtract needs model 'lsnn': the chip's own neuron resets to zero")
        check_within(me, "core", self.core, 0, MAX_CORE)

    def _check_trees(self) -> None:
        joined = np.flatnonzero(self.parent != -1)
        parent = self.parent[joined]
        if np.any((parent <= joined) | (parent >= self.n)):
            bad = joined[(parent <= joined) | (parent >= self.n)][0]
            raise ValueError(
                f"Compartments.parent must be -1 or a later compartment, found {self.parent[bad]} at index {bad}"
            )
        if np.any(self.fires[joined]):
            raise ValueError("Compartments.fires must be 0 where a compartment has a parent")
        if joined.size and np.bincount(parent).max() > 2:
            raise ValueError(f"Compartments.parent: at most 2 children each, {np.bincount(parent).argmax()} has more")
        if np.any(self.core[joined] != self.core[parent]):
            raise ValueError("Compartments.core must be the same for a compartment and its parent")

    @property
    def n(self) -> int:
        """Number of compartments C."""
        return self.model.shape[0]

    @staticmethod
    def build(n: int, **values: npt.ArrayLike) -> Compartments:
        """Return ``n`` compartments; each given field is a number for all or an array (n,), the rest neutral.

        Neutral is: model ``cuba``, u without memory, v without leak, lowest threshold, no bias, no refractory ticks,
        widest bounds, no tree, fires, core 0.
        """
        unknown = set(values) - {f.name for f in fields(Compartments)}
        if unknown:
            raise ValueError(f"Compartments has no field {sorted(unknown)[0]!r}")
        return Compartments(
            **{
                f.name: np.broadcast_to(np.asarray(values.get(f.name, _DEFAULTS.get(f.name, 0))), (n,))
                for f in fields(Compartments)
            }
        )
