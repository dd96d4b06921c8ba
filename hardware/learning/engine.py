"""The learning engine: runs a :class:`LearningRule` over the synapses of one projection, tick by tick, in integers.

Alone on spike trains::

    rule = LearningRule(dw="2^-2*x1*y0 - 2^-2*y1*x0", x1=Trace(16, 10), y1=Trace(16, 10))
    learner = Learner(rule, np.zeros((n_post, n_pre), int))
    learner.run(pre_spikes, post_spikes)
    learner.w                                                            # (n_post, n_pre)

or tick by tick, ``learner.tick(pre, post, reward)``, with lists of the neurons that spiked. An emulator does so with
the spikes of its own ticks wherever a projection of its program has a rule. The work per learning epoch is proportional
to the inputs whose traces or tags are not zero, unless the rule has a product that needs none of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spikeloop.hardware.learning import kernels
from spikeloop.hardware.learning.codegen import compiled, source_of
from spikeloop.hardware.learning.rule import (
    POST_TRACES,
    PRE_TRACES,
    TRACES,
    LearningRule,
    Trace,
    decay_per_epoch,
    grids,
    rounding,
)

if TYPE_CHECKING:
    from spikeloop.hardware.loihi.program import Projection

__all__ = ["Draws", "Learner", "LearningRule", "Trace", "no_draws", "trace_table"]

Draws = Callable[[str, tuple[int, ...]], npt.ArrayLike]
"""Hands in random draws in [0, 1): called with what they are for and their shape, when they are needed.

Profiles nengo and brian ask for "x1", "x2", "y1", "y2", "y3" (one draw per neuron, for traces with an impulse), then
for "w", "t", "d", shape (n_pre, n_post), if the rule changes them in this learning epoch. Profile lava asks, with
shape (), for "y_impulse_mid" on every tick and, at the end of one, "x_decay", "x_impulse", "y_decay", "y_impulse" and
"synapse".
"""

_LAVA_DRAWS = ("x_decay", "x_impulse", "y_decay", "y_impulse", "y_impulse_mid", "synapse")
_NOT_WRITTEN = np.zeros((0, 0), np.int32)


class Learner:
    """A learning engine over all synapses from n_pre inputs to n_post neurons.

    The arrays ``w, t, d, residue, x1, x2, y1, y2, y3`` are views of its state: they follow it, and may be written to
    between ticks through :meth:`write`.

    Args:
        rule: What to learn.
        weights: First weights, integers on the chip's grid, shape (n_post, n_pre).
        tags: First tags, the same shape; None: zeros.
        delays: First delays, the same shape; None: zeros.
        sign_mode: "mixed", "excitatory" or "inhibitory".
        bits: Weight bits, 1..8.
        seed: Of the random numbers of rounding: one counter-based draw per synapse, variable and learning epoch.
        draws: Random numbers instead, for instance those of another simulator.

    Raises:
        ValueError: If a shape or value does not fit.

    Example:
        Two inputs and one neuron; an input that spikes before the neuron gets a larger weight:

        >>> import numpy as np
        >>> rule = LearningRule(dw="2^-2*x1*y0", x1=Trace(impulse=64, tau=10))
        >>> learner = Learner(rule, weights=[[0, 0]])
        >>> learner.run(pre_spikes=[[1, 0], [0, 0]], post_spikes=[[0], [1]])
        >>> int(learner.trace("x1")[0]), learner.w.tolist()
        (58, [[14, 0]])
    """

    def __init__(
        self,
        rule: LearningRule,
        weights: npt.ArrayLike,
        *,
        tags: npt.ArrayLike | None = None,
        delays: npt.ArrayLike | None = None,
        sign_mode: str = "mixed",
        bits: int = 8,
        seed: int = 0,
        draws: Draws | None = None,
    ) -> None:
        if sign_mode not in ("mixed", "excitatory", "inhibitory"):
            raise ValueError(f"sign_mode must be 'mixed', 'excitatory' or 'inhibitory', got {sign_mode!r}")
        if bits not in (1, 2, 3, 4, 5, 6, 8):
            raise ValueError(f"bits must be 1..6 or 8, got {bits}")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed must be 0..2^63-1, got {seed}")
        first = np.asarray(weights)
        if first.ndim != 2 or first.size == 0:
            raise ValueError(f"weights must have shape (n_post, n_pre), got {first.shape}")
        self.rule, self.n_post, self.n_pre = rule, *first.shape
        self._grids, self._draws = grids(rule, sign_mode, bits), draws
        self.source = source_of(rule, sign_mode, bits, draws is not None)
        self.kernel = compiled(self.source)
        self._synapses = np.zeros((self.n_pre, 4, self.n_post), np.int32)
        self._x = np.zeros((self.n_pre, kernels.HISTORY + 2 * (rule.epoch + 1)), np.int32)
        self._y = np.zeros((4, self.n_post), np.int32)
        self._hy = np.zeros((rule.epoch + 1, 3, self.n_post), np.int32)
        self._rows = np.zeros(2 * self.n_pre + 1, np.int32)
        self._scalars = np.zeros(kernels.N_SCALARS, np.int64)
        self._scalars[kernels.SEED] = seed
        self._traces = trace_table(rule)
        self._pre_end, self._post_end, self._reward = (np.zeros(1, np.int64) for _ in range(3))
        self._no_draws = no_draws(rule)
        self.write("w", first)
        for name, values in (("t", tags), ("d", delays)):
            if values is not None:
                self.write(name, values)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: all but the kernel, which was written for this process."""
        return {name: value for name, value in vars(self).items() if name != "kernel"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a learner of the same rule and state."""
        self.__dict__.update(state)
        self.kernel = compiled(self.source)

    def __copy__(self) -> Learner:
        """Return a learner of its own, as ``copy.deepcopy`` does: its arrays are its state."""
        return copy.deepcopy(self)

    @classmethod
    def for_projection(cls, rule: LearningRule, projection: Projection, **options: Any) -> Learner:
        """Return a learner over the synapses of a projection of a chip program; options as in the constructor."""
        return cls(rule, projection.weights, sign_mode=projection.sign_mode, bits=projection.bits, **options)

    # --- state

    @property
    def w(self) -> np.ndarray:
        """Weights, (n_post, n_pre)."""
        return self._synapses[:, 0].T

    @property
    def t(self) -> np.ndarray:
        """Tags, (n_post, n_pre)."""
        return self._synapses[:, 1].T

    @property
    def d(self) -> np.ndarray:
        """Delays, (n_post, n_pre)."""
        return self._synapses[:, 2].T

    @property
    def residue(self) -> np.ndarray:
        """What the second synapse of each weight holds, in 1/16 of a step of the first, (n_post, n_pre)."""
        return self._synapses[:, 3].T

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The learner's state as ``kernel`` takes it, for compiled code that calls it tick after tick.

        ``kernel(*arrays, pre, pre_end, post, post_end, rewards, written, trace_draws, synapse_draws)`` runs as many
        ticks as ``pre_end`` (int64) has entries, each the end of that tick's part of ``pre`` (int32), and returns False
        if a spike index is out of range. ``rewards`` is int64 (n_ticks,); ``written`` int32 (3, n_post), or (0, 0).
        ``no_draws(rule)`` gives the last two, unless draws are handed in. Layouts stand in kernels.py.
        """
        return self._synapses, self._x, self._y, self._hy, self._rows, self._scalars, self._traces

    @property
    def r1(self) -> int:
        """Reward trace."""
        return int(self._scalars[kernels.REWARD_TRACE])

    @property
    def ticks(self) -> int:
        """Ticks run so far."""
        return int(self._scalars[kernels.TICK])

    @property
    def updates(self) -> int:
        """Synapses that learning phases have computed so far: those for which a product could be other than zero."""
        return int(self._scalars[kernels.UPDATES])

    @property
    def active_rows(self) -> int:
        """Inputs that hold a trace or a tag: those that cost time."""
        return int(self._scalars[kernels.N_ROWS])

    def trace(self, name: str) -> np.ndarray:
        """Return the trace "x1", "x2" (n_pre,), "y1", "y2" or "y3" (n_post,), a view."""
        if name not in TRACES:
            raise ValueError(f"trace must be one of {', '.join(TRACES)}, got {name!r}")
        return (self._x.T if name[0] == "x" else self._y)[int(name[1]) - 1]

    def write(self, name: str, values: npt.ArrayLike) -> None:
        """Write "w", "t" or "d" (n_post, n_pre) or a trace, as the host can; a single number fills all.

        Raises:
            ValueError: If the shape does not fit or a value is not one that the chip can hold.
        """
        array = np.asarray(values)
        if not np.array_equal(array, np.round(array)):
            raise ValueError(f"{name} must be integers")
        if name in self._grids:
            low, high, step = self._grids[name]
            target = self._synapses[:, "wtd".index(name)].T
        else:
            low, high, step, target = -128, 127, 1, self.trace(name)
        if array.shape not in ((), target.shape):
            raise ValueError(f"{name} must have shape {target.shape}, got {array.shape}")
        wrong = array[(array < low) | (array > high) | (array % step != 0)]
        if wrong.size:
            raise ValueError(f"{name} must be {low}..{high} in steps of {step}, got {wrong[0]}")
        target[:] = array
        if name == "w":
            self._synapses[:, 3] = 0
        elif name not in POST_TRACES:
            self._list_rows()

    def clear(self) -> None:
        """Forget traces, tags, rewards and spikes, as at an episode's start; weights and delays stay."""
        for array in (self._synapses[:, 1], self._x, self._y, self._hy):
            array[:] = 0
        self._scalars[[kernels.REWARD_TRACE, kernels.REWARD, kernels.N_ROWS]] = 0

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of everything that a later :meth:`load_state_dict` needs to go on exactly from here."""
        return {
            "synapses": self._synapses.copy(),
            "x": self._x.copy(),
            "y": self._y.copy(),
            "scalars": self._scalars.copy(),
        }

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        mine: dict[str, np.ndarray] = {"synapses": self._synapses, "x": self._x, "y": self._y, "scalars": self._scalars}
        for name, array in mine.items():
            values = np.asarray(state[name])
            if values.shape != array.shape:
                raise ValueError(f"{name} must have shape {array.shape}, got {values.shape}")
            array[:] = values
        self._list_rows()

    def _list_rows(self) -> None:
        """Build the list of the rows that hold anything."""
        tagged = self._synapses[:, 1].any(axis=1)
        listed = tagged | self._x[:, : kernels.LISTED].any(axis=1)
        self._x[:, kernels.LISTED], self._x[:, kernels.TAGGED] = listed, tagged
        indices = np.flatnonzero(listed)
        self._rows[: indices.size] = indices
        self._scalars[kernels.N_ROWS] = indices.size

    # --- running

    def tick(
        self,
        pre: np.ndarray,
        post: np.ndarray,
        reward: int = 0,
        post_traces: np.ndarray | None = None,
    ) -> None:
        """Run one tick, with a learning phase if a learning epoch ends.

        Args:
            pre: Inputs that spiked, int32 indices without repetition.
            post: Neurons that spiked, likewise.
            reward: Added to the rewards of the learning epoch, which enter r1 at its end.
            post_traces: y1, y2, y3 as the neurons or the host write them on this tick, int32 (3, n_post), -128..127; on
                the last tick of a learning epoch given, the traces neither decay nor take impulses.

        Raises:
            ValueError: If an index is out of range, or the reward is no integer.
        """
        if int(reward) != reward:
            raise ValueError(f"reward must be an integer, got {reward!r}")
        if post_traces is not None and self.rule.profile == "brian":
            raise ValueError("post_traces must be None in profile 'brian', whose traces nobody writes")
        if post_traces is not None and (post_traces.shape != (3, self.n_post) or post_traces.dtype != np.int32):
            raise ValueError(f"post_traces must be int32 of shape (3, {self.n_post}), got {post_traces.shape}")
        self._pre_end[0], self._post_end[0], self._reward[0] = len(pre), len(post), reward
        self._run(pre, post, _NOT_WRITTEN if post_traces is None else post_traces)

    def run(
        self,
        pre_spikes: npt.ArrayLike,
        post_spikes: npt.ArrayLike,
        rewards: npt.ArrayLike | None = None,
    ) -> None:
        """Run many ticks over spike trains.

        Args:
            pre_spikes: 0 or 1, shape (n_ticks, n_pre).
            post_spikes: 0 or 1, shape (n_ticks, n_post).
            rewards: Integers, shape (n_ticks,); None: none.

        Raises:
            ValueError: If the shapes do not fit, a train is not 0 and 1, or a reward is no integer.
        """
        trains = np.asarray(pre_spikes), np.asarray(post_spikes)
        for name, train, n in zip(("pre_spikes", "post_spikes"), trains, (self.n_pre, self.n_post), strict=True):
            if train.shape != (len(trains[0]), n):
                raise ValueError(f"{name} must have shape ({len(trains[0])}, {n}), got {train.shape}")
            if not np.all((train == 0) | (train == 1)):
                raise ValueError(f"{name} must be 0 or 1, found {train[(train != 0) & (train != 1)][0]}")
        wanted = np.zeros(len(trains[0])) if rewards is None else np.asarray(rewards)
        if not np.all(wanted == np.round(wanted)):
            raise ValueError(f"rewards must be integers, found {wanted[wanted != np.round(wanted)][0]}")
        given = wanted.astype(np.int64)
        if given.shape != (len(trains[0]),):
            raise ValueError(f"rewards must have shape ({len(trains[0])},), got {given.shape}")
        if self._draws is not None:
            for pre, post, reward in zip(*trains, given, strict=True):
                self.tick(np.flatnonzero(pre).astype(np.int32), np.flatnonzero(post).astype(np.int32), int(reward))
            return
        self._reward, kept = given, (self._pre_end, self._post_end, self._reward)
        self._pre_end, self._post_end = (np.cumsum(np.count_nonzero(t, axis=1)) for t in trains)
        pre, post = (np.nonzero(t)[1].astype(np.int32) for t in trains)
        self._run(pre, post, _NOT_WRITTEN)
        self._pre_end, self._post_end, self._reward = kept

    def _run(self, pre: np.ndarray, post: np.ndarray, written: np.ndarray) -> None:
        trace_draws, synapse_draws = self._no_draws if self._draws is None else self._given_draws(self._draws)
        events = (pre, self._pre_end, post, self._post_end, self._reward)
        fine = self.kernel(*self.arrays, *events, written, trace_draws, synapse_draws)
        if not fine:
            raise ValueError(
                f"spike indices must be 0..{self.n_pre - 1} before and 0..{self.n_post - 1} after the synapse"
            )

    def _given_draws(self, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Ask for the draws of the next tick."""
        tick, rule = self.ticks + 1, self.rule
        phase = tick % rule.epoch == 0
        if rule.profile == "lava":
            for number, name in enumerate(_LAVA_DRAWS):
                if phase or name == "y_impulse_mid":
                    self._no_draws[0][0, number] = draws(name, ())
            return self._no_draws
        trace_draws = np.zeros((5, max(self.n_pre, self.n_post)))
        synapse_draws = np.zeros((3, self.n_pre, self.n_post), np.int32)
        if phase:
            for name in (*PRE_TRACES, *POST_TRACES):
                if getattr(rule, name).impulse:
                    n = self.n_pre if name in PRE_TRACES else self.n_post
                    trace_draws[TRACES.index(name), :n] = draws(name, (n,))
            for name in rule.changed_at(tick):
                values = np.asarray(draws(name, (self.n_pre, self.n_post)))
                n = rounding(rule, name, self._grids[name]).draw_bits
                synapse_draws["wtd".index(name)] = np.floor(2**n * values)
        return trace_draws, synapse_draws


def no_draws(rule: LearningRule) -> tuple[np.ndarray, np.ndarray]:
    """Return the draws that a kernel takes which draws its own: nothing, or room for Lava's shared ones."""
    room = (1, len(_LAVA_DRAWS)) if rule.profile == "lava" else (0, 0)
    return np.zeros(room), np.zeros((0, 0, 0), np.int32)


def trace_table(rule: LearningRule) -> np.ndarray:
    """Return decay, decay of the integer part and impulse of x1 x2 y1 y2 y3 r1, shape (6, 3)."""
    table = np.zeros((6, 3))
    for row, name in enumerate((*TRACES, "r1")):
        trace = getattr(rule, name)
        decay = decay_per_epoch(trace, rule)
        if name == "r1" and rule.profile == "lava":
            decay = decay**rule.epoch
        # Brian2 prints the factor with 15 digits into the code of its state updater: 48 * 23/24 is then 45, not 46.
        table[row] = decay, float(f"{decay:.15g}") if rule.profile == "brian" else decay, trace.impulse
    return table
