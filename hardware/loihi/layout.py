"""How an emulator's state is packed: one row of int32 per environment, all zeros at rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spikeloop.hardware.loihi.chip import EMULATOR_MAX, MAX_REFRACTORY
from spikeloop.hardware.loihi.program import MODELS, Program, Projection

VARIABLES = ("u", "v", "a", "r", "z")


@dataclass(frozen=True)
class Layout:
    """Columns of a packed state row.

    Column 0 is the input slot that is read next, columns 1 and 2 the random stream (low, high half). Then C columns
    each of ``u``, ``v``, ``a`` (adaptation), ``r`` (ticks still to be silent; the refractory term of ``slayer_alif``)
    and ``z`` (spikes of the last tick). Then ``slots`` times C of input on its way, in units of 64. Last the sums that
    an exponent shifts as a whole, used within a tick and zero between ticks.

    Args:
        n: Number of compartments C.
        slots: Input slots, the longest delay and one.
        staged: ``(projection, delay)`` to the first of the projection's sums, counted after the input slots.
        width: Columns of a row, W.
    """

    n: int
    slots: int
    staged: dict[tuple[int, int], int]
    width: int

    def start(self, name: str) -> int:
        """Return the first column of a variable."""
        return 3 + VARIABLES.index(name) * self.n

    @property
    def pending(self) -> int:
        """First column of the input slots."""
        return 3 + len(VARIABLES) * self.n


def layout_of(program: Program) -> Layout:
    """Return how the state of a program is packed."""
    n = program.compartments.n
    longest = [program.longest_delay(p) for p in program.projections]
    slots = max(longest, default=0) + 1
    staged, n_sums = {}, 0
    for i, p in enumerate(program.projections):
        if p.exponent < 0 and program.arithmetic.exponent_on == "sum":
            for delay in _delays(p, longest[i]):
                staged[i, delay] = n_sums
                n_sums += p.post.size
    return Layout(n, slots, staged, 3 + (len(VARIABLES) + slots) * n + n_sums)


def _delays(p: Projection, longest: int) -> list[int]:
    """Return the delays for which a projection needs sums of its own: if plastic, all up to its longest."""
    if p.plastic:
        return list(range(longest + 1))
    return [0] if p.delays is None else np.unique(p.delays).tolist()


def check_state(layout: Layout, state: np.ndarray) -> None:
    """Raise ``ValueError`` unless the state is one of this layout, int32 of shape (B, W)."""
    if not (
        isinstance(state, np.ndarray) and state.ndim == 2 and state.shape[1] == layout.width and state.dtype == np.int32
    ):
        found = f"{state.dtype} {state.shape}" if isinstance(state, np.ndarray) else type(state).__name__
        raise ValueError(f"state must be int32 of shape (B, {layout.width}), got {found}")


def register_range(program: Program, name: str, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest value that a variable of these compartments can have, each shape (K,)."""
    profile = program.arithmetic
    model = program.compartments.model[columns]
    low, high = {
        "u": (-(2**profile.u_bits), 2**profile.u_bits - (profile.u_wrap == "twos_complement")),
        "v": (-(2**23), 2**23 - 1) if profile.v_max_values else (-EMULATOR_MAX, EMULATOR_MAX),
        "a": (-EMULATOR_MAX, EMULATOR_MAX),
        "r": (0, MAX_REFRACTORY - 1),
        "z": (0, 1),
    }[name]
    if name == "r":  # slayer_alif keeps its refractory term there
        alif = model == MODELS.index("slayer_alif")
        return np.where(alif, -EMULATOR_MAX, low), np.where(alif, EMULATOR_MAX, high)
    return np.full(columns.size, low), np.full(columns.size, high)
