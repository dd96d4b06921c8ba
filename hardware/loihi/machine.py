"""The host's side of an emulated chip: what it writes and sends before the ticks of an env step, and what it reads."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np

from spikeloop.hardware.figures import ChipFigures
from spikeloop.hardware.host import Host
from spikeloop.hardware.learning.perturbation import ticks_of_trial
from spikeloop.hardware.loihi.emulator import Counts, Emulator
from spikeloop.hardware.loihi.figures import chip_figures
from spikeloop.hardware.loihi.interpreter import Interpreter
from spikeloop.hardware.loihi.layout import layout_of
from spikeloop.hardware.loihi.program import Program
from spikeloop.hardware.loihi.quantize import MAX_BIAS, quantize_bias
from spikeloop.hardware.loihi.worst_case import largest_payload
from spikeloop.hardware.weight_search import Verdict

BIAS, PAYLOAD = "bias written by the host", "payload sent by the host"
_LARGEST = 1e30  # an infinite input is computed with as this: as good as infinite, and its multiples are numbers
_COUNTING = threading.Lock()  # of what is clipped; shared by all machines, since that is rare


class LoihiMachine:
    """An emulated chip with its host: a :class:`~spikeloop.hardware.target.Machine`.

    Args:
        program: What to run.
        host: What stays beside it.
        interpreted: Run the plain-Python interpreter instead of the emulator; slow, and it does not count.

    Attributes:
        emulator: What runs the program.
        learning: Whether the program's learning rules run, one environment at a time; at first they do not.
        clipped: How many values were too large on their way to the chip: currents that a bias cannot hold, which are
            written as the largest, and inputs with which a sum on the chip could wrap. All channels of that environment
            are then scaled down by one factor.

    Example:
        >>> import numpy as np
        >>> from spikeloop.spiking import ActionHead, Encoder, Layer, Network, LsnnNeurons, Readout
        >>> ones = np.ones(4)
        >>> layer = Layer(np.eye(4), 0 * ones, LsnnNeurons(4 * ones, ones, ones, 0 * ones, 0 * ones))
        >>> readout, head = Readout(np.eye(4), 0 * ones), ActionHead("discrete", (4,))
        >>> network = Network(Encoder("direct", 4), (layer,), readout, head, n_ticks=4, latency=1)
        >>> from spikeloop.hardware import compile_network
        >>> deployment = compile_network(network, "loihi1")
        >>> machine = LoihiMachine(deployment.program, deployment.host)
        >>> read, state = machine.run(machine.initial_state(), np.array([[0.1, 0.9, 0.3, 0.2]]))
        >>> (read * deployment.host.output_scale)[-1]  # one of the four neurons has fired
        array([[0., 1., 0., 0.]])
    """

    def __init__(self, program: Program, host: Host, interpreted: bool = False):
        self.program, self.host = program, host
        self.emulator: Any = Interpreter(program) if interpreted else Emulator(program)
        self.clipped = {BIAS: 0, PAYLOAD: 0}
        self.learning = False
        self._kept: dict[int, np.ndarray] = {}  # weights that a search keeps, by projection
        self._reward: tuple[int, int | None] | None = None  # r1 and winner of the latest env step, for the next ticks
        self._any_clipped = False
        self._largest_payload = largest_payload(program) if host.input == "graded" else 1
        layout = layout_of(program)
        self._n_read = host.readout.n_neurons
        self._clears = not self._n_read and host.readout.clears
        self._read_v, self._read_u = (_as_slice(layout.start(name) + program.outputs) for name in ("v", "u"))
        first = layout.start("z") + host.first_source
        self._read_z = slice(first, first + self._n_read)
        if host.input == "bias":
            assert host.w_in is not None and host.bias is not None
            self._w = np.ascontiguousarray(host.w_in.T, np.float64) * host.input_scale
            self._b = host.bias.astype(np.float64) * host.input_scale
            self._program_bias = program.compartments.bias
            self._targets = slice(host.first_target, host.first_target + len(host.bias))

    @property
    def overflowed(self) -> str:
        """Where values have left their range so far; empty if nowhere."""
        if self._any_clipped:
            return "on the way to the chip"
        return "on the chip" if self.emulator.overflowed else ""

    @property
    def counts(self) -> Counts:
        """What the emulator has counted so far.

        Raises:
            ValueError: If the program is interpreted.
        """
        if isinstance(self.emulator, Interpreter):
            raise ValueError("only the emulator counts, this program is interpreted")
        return self.emulator.counts

    def initial_state(self, n_envs: int = 1) -> np.ndarray:
        """Return the resting state of ``n_envs`` chips, int32 of shape (n_envs, W)."""
        return self.emulator.initial_state(n_envs)

    def run(
        self, state: np.ndarray, x: np.ndarray, spikes: list[tuple[np.ndarray, ...]] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run the ticks of one env step; arguments and results are those of a machine of any target."""
        inputs, bias = self.to_chip(x)
        if self._clears:
            state = state.copy()
            state[:, self._read_v] = state[:, self._read_u] = 0
        if self._n_read:
            return self._tick_by_tick(state, inputs, bias, spikes)
        signals = self._signals()
        if spikes is None:
            v, state = self.emulator.run(state, self.host.n_ticks, inputs, bias, **signals)
        else:
            v, state, recorded = self.emulator.run(state, self.host.n_ticks, inputs, bias, record=True, **signals)
            spikes.append(self._by_layer(recorded.z))
        n_parts = self.host.n_parts
        return (v if n_parts == 1 else v.reshape(*v.shape[:2], n_parts, -1).sum(axis=2)), state

    def _tick_by_tick(
        self,
        state: np.ndarray,
        inputs: np.ndarray | None,
        bias: np.ndarray | None,
        spikes: list[tuple[np.ndarray, ...]] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run the chip tick by tick; return the spikes that the host receives on each, and the state."""
        n_ticks, late, read_z, run = self.host.n_ticks, self.host.latency, self._read_z, self.emulator.run
        arrived = np.empty((n_ticks, len(state), self._n_read))
        recorded, signals = [], self._signals()
        for t in range(n_ticks):
            before = state
            now = {name: signal if signal is False else signal[t : t + 1] for name, signal in signals.items()}
            state = run(state, 1, None if inputs is None else inputs[t : t + 1], bias, **now)[1]
            arrived[t] = (before if late else state)[:, read_z]
            if spikes is not None:
                recorded.append(self.emulator.read(state, "z").copy())
        if spikes is not None:
            spikes.append(self._by_layer(np.stack(recorded)))
        return arrived, state

    def _signals(self) -> dict[str, Any]:
        """Return what the learning engines get in an env step's ticks: the winner first, the reward last."""
        if not self.learning:
            return {"learning": False}
        n_ticks = self.host.n_ticks
        rewards = np.zeros(n_ticks, np.int64)
        post_spikes = np.zeros((n_ticks, self.program.compartments.n), np.int32)
        if self._reward is not None:
            rewards[-1], winner = self._reward
            if winner is not None and self.program.outputs.size:
                post_spikes[0, self.program.outputs.reshape(self.host.n_parts, -1)[:, winner]] = 1
            self._reward = None
        return {"rewards": rewards, "post_spikes": post_spikes}

    def reinforce(self, r1: int, winner: int | None) -> None:
        """Keep what the latest env step was worth, and which output won it, for the ticks of the next."""
        self._reward = r1, winner

    def end_episode(self) -> None:
        """Let the chip learn from the last env step in ticks without spikes, then forget traces and tags."""
        if self._reward is not None:
            quiet = np.zeros((1, self.program.compartments.n), np.int32)
            self.emulator.run(self.initial_state(), self.host.n_ticks, None, quiet, **self._signals())
        for learner in self._learners():
            learner.clear()

    def change_weights(self, verdict: Verdict) -> None:
        """Do with the weights that learn what a search wants: keep them, write others, make a trial."""
        deployed = {i: p.weights for i, p in enumerate(self.program.projections) if p.learning is not None}
        if verdict.keep or not self._kept:
            self._kept = {i: self.emulator.weights(i).copy() for i in deployed}
        if verdict.restore:
            self._kept = deployed
        if verdict.first or verdict.restore or verdict.back:
            for i, weights in (deployed if verdict.first else self._kept).items():
                self.emulator.update_weights(i, weights)
        ticks = ticks_of_trial(verdict.size, verdict.reverse, verdict.turn)
        if ticks:
            quiet = np.zeros((1, self.program.compartments.n), np.int32)
            traces = np.zeros((len(ticks), 3, quiet.size), np.int32)
            traces[:, 0], traces[:, 1] = (np.array([[tick[k]] for tick in ticks]) for k in range(2))
            rewards = [tick.reward for tick in ticks]
            self.emulator.run(self.initial_state(), len(ticks), None, quiet, rewards=rewards, post_traces=traces)

    def kept_program(self) -> Program:
        """Return the program with the weights that a search keeps."""
        now = self.emulator.program_now()
        kept = (
            replace(p, weights=self._kept.get(i, p.weights), learning=p.learning and replace(p.learning, tags=None))
            for i, p in enumerate(now.projections)
        )
        return replace(now, projections=tuple(kept))

    def _learners(self) -> list[Any]:
        if isinstance(self.emulator, Interpreter):
            raise ValueError("only the emulator forgets, this program is interpreted")
        return [self.emulator.learner(i) for i, p in enumerate(self.program.projections) if p.learning is not None]

    def program_now(self) -> Program:
        """Return the program with the weights of now."""
        return self.emulator.program_now()

    def changes(self) -> dict[str, dict[str, float]]:
        """Return, of each projection that learns, its weights, how many changed, and the mean size over all of them."""
        sizes = {
            p.name: abs(self._kept.get(i, self.emulator.weights(i)).astype(np.int64) - p.weights)
            for i, p in enumerate(self.program.projections)
            if p.learning is not None
        }
        return {
            name: {"weights": size.size, "changed": int(np.count_nonzero(size)), "mean": float(size.mean())}
            for name, size in sizes.items()
        }

    def to_chip(self, x: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return what the chip gets for an encoder's output: payloads (n_ticks, B, n_channels) or biases (B, C).

        Raises:
            ValueError: If one of the numbers is none.
        """
        if self.host.input == "spikes":
            spikes = x.astype(np.int32)
            return np.repeat(spikes[None], self.host.n_ticks, axis=0) if self.host.encoder.held else spikes, None
        if self.host.input == "graded":
            sent = np.rint(self._payloads(x)).astype(np.int32)
            return np.repeat(sent[None], self.host.n_ticks, axis=0), None
        current = x @ self._w + self._b
        if not abs(current).max() <= MAX_BIAS:  # larger, or no number
            current = _finite(x) @ self._w + self._b
            self._count(BIAS, int((abs(current) > MAX_BIAS).sum()))
        bias = np.empty((len(x), self._program_bias.size), np.int32)
        bias[:] = self._program_bias
        bias[:, self._targets] = quantize_bias(current)
        return None, bias

    def _payloads(self, x: np.ndarray) -> np.ndarray:
        """Return inputs in units of payloads, (B, n_channels), scaled down per environment where one is too large.

        All channels are scaled alike: of currents far beyond the threshold only the signs count, and those stay.
        """
        sent, limit = x * np.float64(self.host.input_scale), self._largest_payload
        if abs(sent).max() <= limit:
            return sent
        sent = _finite(sent)
        self._count(PAYLOAD, int((abs(sent) > limit).sum()))
        return sent * np.minimum(1.0, limit / np.maximum(abs(sent).max(axis=1, keepdims=True), 1.0))

    def _count(self, kind: str, n: int) -> None:
        with _COUNTING:
            self.clipped[kind] += n
            self._any_clipped = self._any_clipped or n > 0

    def _by_layer(self, z: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return spikes of all compartments, (n_ticks, B, C), as those of each group that fires."""
        fires = self.program.compartments.fires
        return tuple(z[:, :, start:stop] for _, start, stop in self.program.groups if fires[start])

    def firing_rates(self) -> list[float]:
        """Return the spikes per neuron and tick of each layer so far."""
        counts = self.counts
        layers = self._by_layer(counts.spikes[None, None])
        return [float(spikes.mean()) / max(counts.n_ticks, 1) for spikes in layers]

    def figures(self) -> ChipFigures:
        """Return what the program takes of the chip, and what has happened so far."""
        return chip_figures(self.program, self.counts, self.host.input == "graded", self.clipped)


def _as_slice(columns: np.ndarray) -> np.ndarray | slice:
    """Return columns as a slice, which indexes faster, where they follow each other."""
    consecutive = columns.size and np.array_equal(columns, columns[0] + np.arange(columns.size))
    return slice(int(columns[0]), int(columns[-1]) + 1) if consecutive else columns


def _finite(x: np.ndarray) -> np.ndarray:
    """Return numbers with infinite ones made very large; raise ``ValueError`` where one is no number."""
    if np.isnan(x).any():
        raise ValueError("input must hold numbers, got nan")
    return np.clip(x, -_LARGEST, _LARGEST)
