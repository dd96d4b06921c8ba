"""What an emulator holds beside its synapse table where a program has learning rules, and what a run hands to them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from spikeloop.hardware.learning.c_functions import c_function
from spikeloop.hardware.learning.engine import Learner, no_draws
from spikeloop.hardware.learning.kernels import REWARD, REWARD_TRACE, TICK
from spikeloop.hardware.loihi import learning_kernels as k
from spikeloop.hardware.loihi.fixed_point import weight_step
from spikeloop.hardware.loihi.program import Program, Projection
from spikeloop.hardware.loihi.projection import LearningState
from spikeloop.hardware.loihi.synapse_table import Views

_X_KEPT = 3  # columns of a learner's x: traces and the tick of the last spike; the others follow from these


class Learners:
    """The learning engines of a program, one for each projection that has a rule.

    Args:
        program: The rules.
        views: Where the synapses of each projection stand in the synapse table, which the engines change.

    Attributes:
        of: Projection to its learning engine.
        longest_epoch: In ticks; 0 without rules.
        lock: Held by a run that learns, as two at once would change the same weights.
    """

    def __init__(self, program: Program, views: Sequence[Views]) -> None:
        self.of = {i: new_learner(p) for i, p in enumerate(program.projections) if p.learning is not None}
        self.engines = tuple(
            _engine(program, program.projections[i], learner, views[i]) for i, learner in self.of.items()
        )
        self.longest_epoch = max((learner.rule.epoch for learner in self.of.values()), default=0)
        self.lock = threading.Lock()
        self._addresses: np.ndarray | None = None
        self._not_counted = dict.fromkeys(self.of, 0)

    @property
    def addresses(self) -> np.ndarray:
        """Where the engines' kernels stand in memory, (E,) int64; compiled when something first learns."""
        if self._addresses is None:
            self._kernels = [c_function(learner.source) for learner in self.of.values()]  # keeps them in memory
            self._addresses = np.array([kernel.address for kernel in self._kernels], np.int64)
        return self._addresses

    def updates(self, n_projections: int) -> np.ndarray:
        """Return how many synapses of each projection learning has computed since the counts were reset."""
        updates = np.zeros(n_projections, np.int64)
        for i, learner in self.of.items():
            updates[i] = learner.updates - self._not_counted[i]
        return updates

    def reset_counts(self) -> None:
        """Count from now on."""
        self._not_counted = {i: learner.updates for i, learner in self.of.items()}

    def count(self, updates: np.ndarray) -> None:
        """Count on from numbers that :meth:`updates` returned."""
        self._not_counted = {i: learner.updates - int(updates[i]) for i, learner in self.of.items()}

    def write(self, i: int, weights: np.ndarray) -> None:
        """Write the weights of a projection, shape (Q, P), as the host can; tags, traces and delays stay."""
        self.of[i].write("w", weights)

    def clear(self) -> None:
        """Forget traces, tags, rewards and spikes; weights and delays stay."""
        for learner in self.of.values():
            learner.clear()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all that a later :meth:`load_state_dict` needs to go on exactly from here."""
        return {f"{i}.{name}": array for i, learner in self.of.items() for name, array in learner.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Go on from what :meth:`state_dict` returned; the counts stay as they are."""
        counted = self.updates(max(self.of, default=-1) + 1)
        for i, learner in self.of.items():
            learner.load_state_dict({name: state[f"{i}.{name}"] for name in learner.state_dict()})
            self._not_counted[i] = learner.updates - int(counted[i])
        for e in self.engines:
            everyone = np.arange(len(e.x), dtype=np.int32)
            k.store(e.synapses, everyone, e.table_weights, e.table_delays, e.actual, e.constants[k.LONGEST_DELAY])


def new_learner(projection: Projection) -> Learner:
    """Return the learning engine of a projection, with its first weights, tags and delays."""
    assert projection.learning is not None
    rule, state = projection.learning.rule, projection.learning.state
    learner = Learner(
        rule,
        projection.weights,
        tags=projection.learning.tags,
        delays=projection.delays if "d" in rule.variables() else None,
        sign_mode=projection.sign_mode,
        bits=projection.bits,
        seed=projection.learning.seed,
    )
    if state is not None:
        arrays = learner.state_dict()
        arrays["synapses"][:, 3] = state.residue.T
        arrays["x"][:, :_X_KEPT], arrays["y"][:] = state.x, state.y
        arrays["scalars"][[TICK, REWARD_TRACE, REWARD]] = state.ticks, state.r1, state.reward
        learner.load_state_dict(arrays)
    return learner


def state_of(learner: Learner) -> LearningState:
    """Return where a learning engine stands."""
    arrays = learner.state_dict()
    ticks, r1, reward = arrays["scalars"][[TICK, REWARD_TRACE, REWARD]].tolist()
    return LearningState(learner.residue, arrays["x"][:, :_X_KEPT], arrays["y"], ticks, r1, reward)


def _engine(program: Program, projection: Projection, learner: Learner, views: Views) -> k.Engine:
    p, epoch = projection, learner.rule.epoch
    place = np.full(program.n_inputs + program.compartments.n, -1, np.int32)
    place[p.pre + (0 if p.from_input else program.n_inputs)] = np.arange(p.pre.size)
    of_projection = {
        "place": place,
        "post": p.post.astype(np.int64),
        "pre_spikes": np.zeros(p.pre.size * epoch, np.int32),
        "post_spikes": np.zeros(p.post.size * epoch, np.int32),
        "ends": np.zeros((2, epoch), np.int64),
        "written": np.zeros((3, p.post.size), np.int32),
        "table_weights": views.weights,
        "table_delays": views.delayed if p.learns_delays else views.delayed[:0],
        "actual": conversion(program, p),
        "constants": np.array([p.from_input, program.longest_delay(p), epoch], np.int64),
    }
    return k.Engine._make((*learner.arrays, *no_draws(learner.rule), *of_projection.values()))


def conversion(program: Program, projection: Projection) -> np.ndarray:
    """Return the steps from a mantissa to what a spike adds, which ``fixed_point.synaptic_input`` defines."""
    p, profile = projection, program.arithmetic
    drop = by = append = 0
    least, most = -(2**15) + (profile.low_bits == "zero"), 2**15 - 1
    if p.exponent >= 0:
        append = p.exponent
    elif profile.exponent_on == "synapse":
        drop = -p.exponent
        if profile.low_bits == "nearest":
            step = weight_step(p.bits, p.sign_mode)
            drop = step.bit_length() - 1
            append, by = max(drop + p.exponent, 0), max(-drop - p.exponent, 0)
            if by:
                largest = 256 // step - 1
                least, most = -largest >> by, largest >> by
    return np.array([drop, by, append, least, most], np.int32)
