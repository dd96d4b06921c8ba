"""The emulator: runs a program's compartments and synapses in integers, many copies of the chip at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeloop.hardware.learning.engine import Learner
from spikeloop.hardware.loihi import emulator_kernels as k
from spikeloop.hardware.loihi.counts import Counts, Recording, Work
from spikeloop.hardware.loihi.integers import ids_of
from spikeloop.hardware.loihi.interpreter import OVERFLOWS, check_run, resting_state, whole_numbers
from spikeloop.hardware.loihi.kernel_arguments import Loaded, constants_of, options_of, runs_of, stages_of
from spikeloop.hardware.loihi.layout import VARIABLES, check_state, layout_of, register_range
from spikeloop.hardware.loihi.learners import Learners, state_of
from spikeloop.hardware.loihi.learning_kernels import Engine, run_and_learn
from spikeloop.hardware.loihi.program import Program
from spikeloop.hardware.loihi.resources import routes
from spikeloop.hardware.loihi.signals import signals_of
from spikeloop.hardware.loihi.synapse_table import actual_weights, build_table


class Emulator:
    """Runs a program; exact to the profile it names, and to :class:`~spikeloop.hardware.loihi.interpreter.Interpreter`.

    State is a value: it goes in and comes out of :meth:`run`, one row per copy of the chip, random stream included.
    What accumulates in the emulator is only the counts, weights changed by :meth:`update_weights`, and what learning
    changes: weights, delays, tags, traces and its random streams, which :meth:`state_dict` returns. Several threads
    may run one emulator at once. A copy or pickle is an emulator of its own, which starts with the same weights,
    learning and counts.

    Where projections have learning rules, their learning engines see the spikes of each tick at its end, and change
    weights there when a learning epoch ends. A neuron whose synapse grows with each spike it receives::

        >>> from spikeloop.hardware import Compartments, Emulator, Learning, LearningRule, Program, Projection
        >>> neuron = Compartments.build(1, decay_v=4096, v_th=64 * 100)
        >>> synapse = Projection("in", True, [0], [0], [[10]], learning=Learning(LearningRule(dw="2*x0")))
        >>> emulator = Emulator(Program("loihi1", "nengo", 1, neuron, (synapse,), outputs=[0]))
        >>> v, state = emulator.run(emulator.initial_state(), 4, inputs=[[[1]]] * 4)
        >>> (v[:, 0, 0] // 64).tolist()  # the spike of tick 0 arrives on tick 1, with the weight before it
        [0, 10, 12, 14]
        >>> emulator.weights(0).tolist()
        [[18]]

    An input spike at tick t reaches u at tick ``t + input_latency`` of the profile (1; ``brian`` 0) plus its delay, a
    spike of a compartment at t + 1 plus its delay. A bias acts on v in the same tick.

    Args:
        program: What to run.
        rng: Seeds the noise of each copy in :meth:`initial_state`; needed if the program uses noise.

    Attributes:
        overflowed: Whether a value has left its range since the counts were reset.
    """

    _run_and_learn = staticmethod(run_and_learn)

    def __init__(self, program: Program, rng: np.random.Generator | None = None) -> None:
        self.program, self.layout = program, layout_of(program)
        self._rng = rng
        n = program.compartments.n
        # writeable copies: for arrays that are read-only the kernels would be compiled once more
        self._bias, self._outputs_of = program.compartments.bias.reshape(1, n).copy(), program.outputs.copy()
        self._options, self._constants = options_of(program, self.layout.slots), constants_of(program)
        self._runs, self._children, self._parents = runs_of(program)
        self._staged, self._staged_post = stages_of(program, self.layout)
        self._weights = [p.weights for p in program.projections]
        self._table, self._views = build_table(program, self.layout, self._weights)
        self._learners, self._learns = Learners(program, self._views), program.learns
        self._routes = routes(program)
        self._all_work: list[Work] = []
        self._idle_work: list[Work] = []  # a run takes one and puts it back, so that threads never share one
        self.overflowed = False
        self._no_inputs = np.zeros((0, 0, 0), np.int32)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made from; it builds its own tables, which hold views of one another."""
        return {
            "program": self.program,
            "rng": self._rng,
            "learned": self.state_dict(),
            "sums": (*self._sums(), self._learners.updates(len(self._weights))),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become an emulator of the same program; no array that may change is shared with the original."""
        self.__init__(state["program"], copy.deepcopy(state["rng"]))  # type: ignore[misc]
        self._learners.count(state["sums"][2])
        self.load_state_dict(state["learned"])
        work = self._new_work()
        for mine, theirs in zip((work.counters, work.spikes), state["sums"][:2], strict=True):
            mine[:] = theirs
        self.overflowed = bool(work.counters[: len(OVERFLOWS)].any())

    def _new_work(self) -> Work:
        n, n_sources = self.program.compartments.n, self.program.n_inputs + self.program.compartments.n
        epoch = self._learners.longest_epoch
        work = Work(
            np.zeros((3 + epoch, n), np.int32),
            np.zeros((1 + epoch, 2, n_sources + 2), np.int32),
            np.zeros(k.N_COUNTERS, np.int64),
            np.zeros(n_sources, np.int64),
        )
        self._all_work.append(work)
        return work

    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Return counters and spikes over all work so far, int64, copies."""
        n_sources = self.program.n_inputs + self.program.compartments.n
        counters, spikes = np.zeros(k.N_COUNTERS, np.int64), np.zeros(n_sources, np.int64)
        for work in self._all_work:
            counters += work.counters
            spikes += work.spikes
        return counters, spikes

    def seed_noise(self, rng: np.random.Generator) -> None:
        """Take the seeds of the noise from this generator from now on."""
        self._rng = rng

    def initial_state(self, n_envs: int = 1) -> np.ndarray:
        """Return the resting state of ``n_envs`` copies of the chip, int32 of shape (n_envs, W)."""
        return resting_state(self.program, n_envs, self._rng)

    def run(
        self,
        state: np.ndarray,
        n_ticks: int,
        inputs: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        record: bool = False,
        *,
        rewards: npt.ArrayLike | None = None,
        post_spikes: npt.ArrayLike | None = None,
        post_traces: npt.ArrayLike | None = None,
        learning: bool = True,
    ) -> tuple:
        """Run for some ticks.

        Args:
            state: From :meth:`initial_state`, :meth:`run` or :meth:`write`, shape (B, W); left as it is.
            n_ticks: Ticks, >= 0.
            inputs: Payloads, shape (n_ticks, B, n_inputs), integers: 0 no spike, 1 a spike; others only on a chip
                with graded spikes, whose weights they multiply. None for no spikes.
            bias: Instead of the program's, for all of these ticks, shape (B, C), integers: as a host would write.
            record: Whether to return the variables of every tick too.
            rewards: Added on each tick to the rewards of its learning epoch, integers, shape (n_ticks,); None: none.
            post_spikes: Spikes, 0 or 1, that the host sends to the learning engines for compartments as if they had
                fired, shape (n_ticks, C); None: none.
            post_traces: y1, y2 and y3 of all compartments as the host writes them on each tick, -128..127, shape
                (n_ticks, 3, C); None: it writes none.
            learning: Whether the learning engines run. If not, they stand still: weights, tags, traces and their random
                streams are what they were.

        Returns:
            ``(outputs, state)``, and a :class:`Recording` if asked: v of ``program.outputs`` after each tick, shape
            (n_ticks, B, O), and the new state.

        Raises:
            ValueError: If a shape is wrong, a payload is none the chip has, a bias none its registers hold, or if
                several copies of the chip would learn, each of which would need weights of its own.
        """
        program = self.program
        inputs, bias = check_run(program, self.layout, state, n_ticks, inputs, bias)
        signals = None
        if self._learns or not (rewards is post_spikes is post_traces is None):
            signals = signals_of(program, len(state), n_ticks, rewards, post_spikes, post_traces, learning)
        if inputs is None:
            inputs = self._no_inputs
        n_envs, n = state.shape[0], program.compartments.n
        state = np.array(state, order="C")
        outputs = np.empty((n_ticks, n_envs, program.outputs.size), np.int32)
        recorded = np.empty((n_ticks, n_envs, len(VARIABLES) * n) if record else (0, 0, 0), np.int32)
        try:
            work = self._idle_work.pop()
        except IndexError:
            work = self._new_work()
        arguments = (
            state,
            inputs,
            self._bias if bias is None else bias,
            bias is not None,
            self._options,
            self._constants,
            self._runs,
            self._children,
            self._parents,
            work.scratch,
            work.sources,
            self._staged,
            self._staged_post,
            *self._table,
            self._outputs_of,
            outputs,
            work.counters,
            work.spikes,
            recorded,
        )
        if signals is None:
            status = k.run(*arguments)
        else:
            with self._learners.lock:
                status = self._run_and_learn(*arguments, self._learners.addresses, self._learners.engines, *signals)
        self._idle_work.append(work)
        if status == k.OVERFLOWED:
            self.overflowed = True
        if status == k.BAD_PAYLOAD:
            raise ValueError(f"inputs must hold 0 and 1 only: {program.chip} has no graded spikes")
        if status == k.BAD_BIAS:
            raise ValueError("bias must hold 13-bit signed mantissas times 2^0..2^7")
        if status == k.BAD_STATE:
            raise ValueError("state is none of this emulator's: its first column or its spikes are out of range")
        if record:
            parts = recorded.reshape(n_ticks, n_envs, len(VARIABLES), n)
            return outputs, state, Recording(*(parts[:, :, i] for i in range(len(VARIABLES))))
        return outputs, state

    def loaded(self) -> Loaded:
        """Return what compiled code needs to run this program itself, with counts that are added to the emulator's."""
        work, nothing = self._new_work(), np.empty((0, 0, 0), np.int32)
        return Loaded(
            self._bias, self._options, self._constants, self._runs, self._children, self._parents, work.scratch,
            work.sources, self._staged, self._staged_post, *self._table, self._outputs_of, work.counters,
            work.spikes, nothing,
        )  # fmt: skip

    def learners_for(self, learning: bool) -> tuple[np.ndarray, tuple[Engine, ...]]:
        """Return the addresses of the learning engines' kernels, or 0 for what only runs, and their arrays."""
        learners = self._learners
        return learners.addresses if learning else np.zeros(len(learners.of), np.int64), learners.engines

    def write(self, state: np.ndarray, name: str, compartments: npt.ArrayLike, values: npt.ArrayLike) -> np.ndarray:
        """Return a copy of the state in which the host has written a variable, ``u``, ``v``, ``a``, ``r`` or ``z``.

        Args:
            state: Shape (B, W).
            name: The variable.
            compartments: Ids, shape (K,).
            values: A number, or an array that broadcasts to (B, K); whole numbers.

        Raises:
            ValueError: If there is no such variable or compartment, or a register cannot hold a value.
        """
        check_state(self.layout, state)
        columns = self._columns(name, compartments)
        try:
            new = np.broadcast_to(whole_numbers("values", values), (len(state), columns.size))
        except ValueError as error:
            raise ValueError(
                f"values of {name!r} must be whole numbers for {columns.size} compartments: {error}"
            ) from None
        low, high = register_range(self.program, name, columns)
        if np.any(outside := (new < low) | (new > high)):
            where = int(np.argmax(outside.any(axis=0)))
            raise ValueError(
                f"{name!r} of compartment {columns[where]} must be within [{low[where]}, {high[where]}], "
                f"got {new[outside][0]}"
            )
        state = state.copy()
        state[:, self.layout.start(name) + columns] = new
        return state

    def read(self, state: np.ndarray, name: str) -> np.ndarray:
        """Return a variable of all compartments, a view of the state, shape (B, C)."""
        check_state(self.layout, state)
        self._columns(name, ())
        start = self.layout.start(name)
        return state[:, start : start + self.layout.n]

    def _columns(self, name: str, compartments: npt.ArrayLike) -> np.ndarray:
        """Return compartments as an array of ids, shape (K,), if they and the variable exist."""
        if name not in VARIABLES:
            raise ValueError(f"name must be one of {VARIABLES}, got {name!r}")
        return ids_of("compartments", compartments, self.layout.n)

    def weights(self, projection: int) -> np.ndarray:
        """Return the mantissas that a projection has now, shape (Q, P)."""
        learner = self._learners.of.get(projection)
        return self._weights[projection] if learner is None else learner.w

    def learner(self, projection: int) -> Learner:
        """Return the learning engine of a projection: its traces, tags and delays, for the host to read.

        Raises:
            ValueError: If the projection has no rule.
        """
        if projection not in self._learners.of:
            raise ValueError(f"Projection {self.program.projections[projection].name!r} has no learning rule")
        return self._learners.of[projection]

    def clear_learning(self) -> None:
        """Forget traces, tags and rewards, as at an episode's start; weights and delays stay."""
        self._learners.clear()

    def program_now(self) -> Program:
        """Return the program with the weights of now, and all that its learning needs to go on exactly from here."""
        projections = []
        for i, p in enumerate(self.program.projections):
            learner = self._learners.of.get(i)
            if learner is None or p.learning is None:
                projections.append(replace(p, weights=self._weights[i]))
                continue
            longest = self.program.longest_delay(p)
            learning = replace(p.learning, tags=learner.t, state=state_of(learner))
            delays = np.minimum(learner.d, longest) if p.learns_delays else p.delays
            projections.append(replace(p, weights=learner.w, delays=delays, learning=learning))
        return replace(self.program, projections=tuple(projections))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all that running changes in the emulator, less its counts.

        These are the weights of plastic projections, and of those with rules tags, delays, traces and random streams.
        """
        weights = {
            f"{i}.weights": self._weights[i].copy()
            for i, p in enumerate(self.program.projections)
            if p.plastic and p.learning is None
        }
        return weights | self._learners.state_dict()

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Go on exactly from where :meth:`state_dict` was called, on this emulator or another of the same program.

        Raises:
            ValueError: If the state is one of another program.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(f"the state must hold {sorted(self.state_dict())}, got {sorted(state)}")
        for i, p in enumerate(self.program.projections):
            if p.plastic and p.learning is None:
                self.update_weights(i, state[f"{i}.weights"])
        self._learners.load_state_dict(state)

    def update_weights(self, projection: int, weights: npt.ArrayLike, pre: npt.ArrayLike | None = None) -> None:
        """Change the mantissas of a plastic projection.

        Args:
            projection: Its index in the program.
            weights: New mantissas, shape (Q, P), or (Q, K) for the K columns named by ``pre``.
            pre: Columns to change; None for all.

        Raises:
            ValueError: If the projection is not plastic, or a mantissa is out of range.
        """
        p = self.program.projections[projection]
        if not p.plastic:
            raise ValueError(f"Projection {p.name!r} is not plastic")
        columns = np.arange(p.pre.size) if pre is None else ids_of("pre", pre, p.pre.size)
        new = np.asarray(weights)
        if new.shape != (p.post.size, columns.size):
            raise ValueError(f"weights must have shape {(p.post.size, columns.size)}, got {new.shape}")
        if p.learning is not None:
            changed = self.weights(projection).copy()
            changed[:, columns] = new
            self._learners.write(projection, changed)
        else:
            p.check_weights(new)
            if self._weights[projection] is p.weights:
                self._weights[projection] = p.weights.copy()
            self._weights[projection][:, columns] = new
        self._views[projection].weights[columns] = actual_weights(self.program, p, new).T

    @property
    def table_bytes(self) -> int:
        """Memory of the synapse table, in bytes."""
        return self._table.n_bytes

    @property
    def counts(self) -> Counts:
        """What happened since :meth:`reset_counts`, a snapshot."""
        n_inputs, to = self.program.n_inputs, self._routes
        counters, spikes = self._sums()
        of_inputs, of_compartments = spikes[:n_inputs], spikes[n_inputs:]
        return Counts(
            n_ticks=int(counters[k.TICKS]),
            spikes=of_compartments,
            input_spikes=of_inputs,
            synaptic_ops=int(spikes @ to.synapses),
            updates=int(counters[k.UPDATES]),
            packets=int(of_compartments @ to.packets[n_inputs:]),
            input_packets=int(of_inputs @ to.packets[:n_inputs]),
            hops_x=int(of_compartments @ to.hops_x),
            hops_y=int(of_compartments @ to.hops_y),
            overflows=dict(zip(OVERFLOWS, counters[: len(OVERFLOWS)].tolist(), strict=True)),
            learned=self._learners.updates(len(self._weights)) if self.program.learns else np.zeros(0, np.int64),
        )

    def reset_counts(self) -> None:
        """Set all counts to zero."""
        for work in self._all_work:
            work.counters[:] = 0
            work.spikes[:] = 0
        self._learners.reset_counts()
        self.overflowed = False
