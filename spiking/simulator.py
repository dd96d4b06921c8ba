"""Runs a Network in numpy and numba, without torch: sequences, single policy steps, recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spikeloop.spiking import checks
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.engine import any_kernels, lsnn_kernels, products, sequences, shares, step_kernels
from spikeloop.spiking.monitor import Monitor, per_tick
from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.observation import Normalizer, flatten, n_frames, preprocess
from spikeloop.spiking.output_units import OutputUnits
from spikeloop.spiking.stateless import StatelessWarning
from spikeloop.spiking.step_layers import StepRun, monitor_of

_NO_START = np.zeros((1, 1), np.uint8)


class Simulator:
    """Runs a network. State is a value: it is handed in and returned, never kept.

    Outputs and actions are, bit for bit, those of the policy the network was exported from. Several Python threads may
    use one simulator at once.

    Args:
        network: The network.
        rng: Source of the start keys of encoders that draw, and of actions that are drawn; seeded with 0 if None.
        n_threads: Threads over the batch for long sequences, at most; None for numba's number.

    Attributes:
        spike_counts: Per layer the spikes of each neuron since :meth:`reset_counts`, int64, shape (N,). Of a neuron
            whose output is graded, they are the times it crossed 1/2 upwards.
        n_counted: Number of (environment, tick) pairs they are counted over.
        steps: What runs layers that answer steps (:class:`~spikeloop.spiking.step_layers.StepRun`); None for others.

    Raises:
        ValueError: If ``n_threads`` is not a number >= 1.

    >>> import numpy as np
    >>> from spikeloop.spiking import ActionHead, Encoder, Layer, Network, Readout
    >>> from spikeloop.spiking.neurons.izhikevich import Izhikevich
    >>> layer = Layer(np.eye(2), np.zeros(2), Izhikevich(c=np.array([-65.0, -50.0]), d=np.array([8.0, 2.0])))
    >>> network = Network(
    ...     Encoder("direct", 2), (layer,), Readout(np.eye(2), np.zeros(2)), ActionHead("discrete", (2,)), n_ticks=100
    ... )
    >>> simulator = Simulator(network)
    >>> action, state = simulator.predict(np.array([1.0, 1.0]))
    >>> action, state = simulator.predict(np.array([1.0, 1.0]), state)  # the state goes on
    >>> simulator.spike_counts  # in 200 ms of regular spiking, and of chattering
    (array([ 5, 17]),)
    """

    def __init__(self, network: Network, rng: np.random.Generator | None = None, n_threads: int | None = None):
        if n_threads is not None and n_threads < 1:
            raise ValueError(f"n_threads must be at least 1, got {n_threads}")
        self.network = network
        self.rng = rng if rng is not None else np.random.default_rng(0)
        self.n_threads = n_threads
        self.dtype = network.dtype
        encoder, readout = network.encoder, network.readout
        timing = sequences.Timing(
            network.n_ticks, network.dt, network.latency, readout.tau_out, readout.count, encoder.held
        )
        self._n_frames, last = n_frames(network.preprocessing), len(network.layers) - 1
        self._n_memory = self._n_frames + len(encoder.memory_rows)
        self.steps = StepRun(network) if network.answers_steps else None
        in_ticks = () if self.steps else network.layers
        all_neurons = [layer.neurons for layer in in_ticks]
        # LSNN layers have kernels of their own, layers of other neurons are run by their equations, all in one network
        self._has_engine = not self.steps and all(isinstance(neurons, LsnnNeurons) for neurons in all_neurons)
        # np.array: the kernels are compiled for arrays that may be written, and a Network's may not
        self._weights = [
            sequences.padded(
                sequences.Weights(
                    np.array(layer.w_in.T, order="C"),
                    np.array(layer.bias),
                    np.empty((0, layer.n_neurons), self.dtype)
                    if layer.w_rec is None
                    else np.array(layer.w_rec.T, order="C"),
                ),
                sequences.padded_size(layer.n_neurons, self.dtype),
            )
            for layer in in_ticks
        ]
        self._w_out, self._b_out = np.array(readout.w_out, self.dtype), np.array(readout.b_out, self.dtype)
        self._units = OutputUnits(network) if readout.every_tick else None
        self.spike_counts = tuple(np.zeros(layer.n_neurons, np.int64) for layer in network.layers)
        self.n_counted = 0
        steps = network.preprocessing
        normalizer = steps[0] if len(steps) == 1 and isinstance(steps[0], Normalizer) else None
        plain = steps == () or normalizer is not None
        self._fused = self._has_engine and encoder.identity and plain and not readout.every_tick and not readout.dense
        if in_ticks and self._has_engine:  # otherwise input reaches the output units, or layers that answer steps
            self._constants = [
                sequences.constants(neurons, timing, i, self._n_memory, i == last, None, self.dtype)
                for i, neurons in enumerate(all_neurons)
            ]
            self._table = self._step_table(normalizer)
        elif in_ticks:
            self._prepared = any_kernels.prepare(all_neurons, timing, self._n_memory, self.dtype)
        part = network.parts[0]
        # what needs no look at its parts: one vector of numbers
        self._vector = not part.key and not part.sizes and len(part.shape) == 1
        self._n_obs, (self._n_rows, self._width) = network.n_obs, network.state_shape
        self._n_outputs = readout.n_outputs
        self._discrete = network.head is not None and network.head.kind == "discrete"
        self._first_choice = network.head.start[0] if network.head is not None else 0
        self._remembers, self._note_state = network.remembers, StatelessWarning("simulator")

    def _step_table(self, normalizer: Normalizer | None) -> np.ndarray:
        """Return the table of :func:`step_kernels.act`, and keep alive what it holds the addresses of."""
        addresses = [array.ctypes.data for array in (self._w_out, self._b_out)] + [0, 0, 0]
        if normalizer is not None:
            self._mean, self._scale = np.array(normalizer.mean), np.append(normalizer.std, normalizer.clip)
            addresses[2:] = self._mean.ctypes.data, self._scale.ctypes.data, normalizer.rounds
        table = sequences.address_table(self._weights, self._constants, self.spike_counts)
        self._kept = self.spike_counts  # like the weights, alive as long as their addresses are in the table
        return np.vstack((table, [*self._w_out.shape, *addresses, 0])).astype(np.intp)

    def __reduce__(self) -> tuple[Any, ...]:
        counts = self.spike_counts, self.n_counted
        return type(self), (self.network, self.rng, self.n_threads), counts  # the addresses mean nothing in a copy

    def __setstate__(self, counts: tuple[tuple[np.ndarray, ...], int]) -> None:
        for total, count in zip(self.spike_counts, counts[0], strict=True):
            total[:] = count
        self.n_counted = counts[1]

    @property
    def table(self) -> np.ndarray | None:
        """What :func:`~spikeloop.spiking.engine.step_kernels.act` takes of the network; None if it cannot run it.

        It holds addresses, and is good for as long as the simulator is there.
        """
        return self._table if self._fused else None

    def reset_counts(self) -> None:
        """Set the spike counts to zero, in place."""
        for count in self.spike_counts:
            count[:] = 0
        if self.steps:
            self.steps.reset_counts()
        self.n_counted = 0

    def initial_state(self, n_envs: int = 1) -> np.ndarray:
        """Return the resting state, shape (n_rows, n_envs, width); a ``rate`` encoder draws its keys."""
        state, encoder = self.network.initial_state(n_envs), self.network.encoder
        if self._n_memory > self._n_frames:
            memory = encoder.initial_memory(n_envs, self.rng)
            state[self._n_frames : self._n_memory, :, : encoder.n_obs] = memory
        return state

    def run(
        self, obs: np.ndarray, state: np.ndarray | None = None, episode_start: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run a sequence of env steps.

        Args:
            obs: Raw observations as rows (:func:`~spikeloop.spiking.observation.flatten`), shape (L, B, n_obs).
            state: Packed state before the first step, shape (n_rows, B, width); None for rest. Not modified.
            episode_start: True where the state is cleared before the step, shape (L, B); None for nowhere.

        Returns:
            The output values, shape (L, B, n_outputs), and the new state.

        Raises:
            ValueError: If a shape is wrong, or observations or state are no finite numbers. An infinite observation is
                taken where the network's normaliser clips it.
        """
        outputs, new, *_ = self._run(obs, state, episode_start, any_kernels.KEEP_NOTHING)
        return outputs, new

    def record(
        self,
        obs: np.ndarray,
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
        membranes: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, Monitor]:
        """Do as :meth:`run` does, and return what happened on the way too: spikes of all that spikes.

        Args:
            obs: As in :meth:`run`.
            state: As in :meth:`run`.
            episode_start: As in :meth:`run`.
            membranes: Record the membranes, not only the spikes.

        Returns:
            The outputs, the new state, and a monitor of all ticks; of layers that answer steps, of exact times.

        Raises:
            ValueError: As :meth:`run`, and if membranes are wanted of layers that have none on ticks.
        """
        if membranes and self.steps:
            raise ValueError(f"{self.steps.name} has no membranes on ticks: leave membranes out")
        keep = any_kernels.KEEP_MEMBRANE if membranes else any_kernels.KEEP_OUTPUTS
        outputs, new, tapes, x, of_units = self._run(obs, state, episode_start, keep)
        if self.steps:
            return outputs, new, monitor_of(tapes, x.shape[1], self.network.n_ticks, self.network.dt)
        network, layers, v = self.network, self.network.layers, None
        if network.clears:
            episode_start = np.ones(outputs.shape[:2], bool)
        spikes = [self._spikes(i, tape, episode_start) for i, tape in enumerate(tapes)]
        if membranes:
            v = [
                tape.membrane[:, :, : layer.n_neurons].transpose(1, 0, 2).copy()
                for tape, layer in zip(tapes, layers, strict=True)
            ]
        of_input = per_tick(x != 0, network.n_ticks) if network.encoder.spikes else None
        if network.readout.draws or not network.readout.spikes:
            of_units = None  # values are exact probabilities, no unit's spikes were drawn for them; or no unit spikes
        return outputs, new, Monitor.from_dense(spikes, v, network.n_ticks, network.dt, of_input, of_units)

    def _outputs(self, layer: int, tape: sequences.Tape | any_kernels.Tape) -> np.ndarray:
        """Return what a layer sent, shape (1 + T, B, N); entry 0 is the tick before the run."""
        if isinstance(tape, any_kernels.Tape):
            return tape.outputs.transpose(1, 0, 2)
        return sequences.dense(tape.spikes, self.network.layers[layer].n_neurons, self.dtype)

    def _spikes(
        self, layer: int, tape: sequences.Tape | any_kernels.Tape, episode_start: np.ndarray | None
    ) -> np.ndarray:
        """Return where a layer's neurons spiked, shape (T, B, N): where a graded output crossed 1/2 upwards."""
        z = self._outputs(layer, tape)
        if not self.network.layers[layer].neurons.graded:
            return z[1:]
        before = z[:-1] > 0.5
        if episode_start is not None:
            before[:: self.network.n_ticks][np.asarray(episode_start, bool)] = False  # cleared
        return (z[1:] > 0.5) & ~before

    def predict(
        self,
        observation: Any,
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose actions, as SB3's ``predict`` does.

        Args:
            observation: Observations as the environment shows them, one or a batch: shape (B, ...) or (...) of each
                part, a mapping of parts where the network has several; or flat, (B, n_obs) or (n_obs,).
            state: What the previous call returned; None starts from rest.
            episode_start: True where the state is cleared first, shape (B,).
            deterministic: Take the most likely action. False draws one, where the readout's units draw their spikes
                (kind ``bernoulli``); other networks hold no distribution.

        Returns:
            The actions, shape (B, ...) or that of one action, and the new state.

        Raises:
            ValueError: If the network has no action head, a shape is wrong, the action is to be sampled, or
                observations or state are no finite numbers.
        """
        head = self.network.head
        if head is None or not (deterministic or self.network.readout.draws):
            what = "has no action head" if head is None else "holds no distribution: predict with deterministic=True"
            raise ValueError(f"the network {what}")
        if self._vector:
            obs = observation if type(observation) is np.ndarray else checks.real("observation", observation)
            if (obs.ndim != 1 and obs.ndim != 2) or obs.shape[-1] != self._n_obs:
                wanted = f"({self._n_obs},) or (B, {self._n_obs})"
                raise ValueError(f"observation must have shape {wanted}, got {obs.shape}")
            single = obs.ndim == 1
            rows = obs[None] if single else obs
        else:
            rows, single = flatten(self.network.parts, observation)
        self._note_state(self._remembers and state is None and episode_start is None)
        if self._fused:
            outputs, new, best = self._act(rows, state, episode_start)
            if self._discrete and single:
                return np.int64(best + self._first_choice), new  # type: ignore[return-value]
        else:
            starts = None if episode_start is None else _starts(episode_start, len(rows))[None]
            sequence, new, *_ = self._run(rows[None], state, starts, any_kernels.KEEP_NOTHING)
            outputs = sequence[0]
            if not deterministic:  # they are logarithms of probabilities: the largest sum is drawn by these
                outputs = outputs + self.rng.gumbel(size=outputs.shape)
        actions = head(outputs)
        return (actions[0] if single else actions), new

    def _act(
        self, obs: np.ndarray, state: np.ndarray | None, episode_start: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Run one step of ``direct`` input in one kernel call: outputs (B, n_outputs), state, best output of row 0."""
        n_batch = len(obs)
        if state is None:
            state = self.initial_state(n_batch)
        elif type(state) is not np.ndarray or state.shape != (self._n_rows, n_batch, self._width):
            state = checks.shaped("state", state, (self._n_rows, n_batch, self._width))
        obs = sequences.writable("observation", obs, np.float32 if obs.dtype == np.float32 else np.float64)
        if self.network.clears:
            start = np.ones((n_batch, 1), np.uint8)
        elif episode_start is None:
            start = _NO_START if n_batch == 1 else np.zeros((n_batch, 1), np.uint8)
        else:
            start = _starts(episode_start, n_batch)[:, None].view(np.uint8)
        state = sequences.writable("state", state, self.dtype)
        new = np.zeros(state.shape, self.dtype)
        outputs = np.empty((n_batch, self._n_outputs), self.dtype)
        self.n_counted += n_batch * self.network.n_ticks
        best = step_kernels.act(self._table, obs, state, start, new, outputs)
        if best < 0:
            with np.errstate(over="ignore"):  # what becomes infinite is refused as such
                seen = preprocess(self.network.preprocessing, obs[None], state[:0], None)[0][0].astype(np.float32)
            sequences.refuse_step("observation", seen, state, start[:, 0] != 0)
        return outputs, new, best

    def _run(
        self, obs: np.ndarray, state: np.ndarray | None, episode_start: np.ndarray | None, keep: int
    ) -> tuple[np.ndarray, np.ndarray, Sequence[Any], np.ndarray, np.ndarray | None]:
        """Return outputs (L, B, O), the new state, the layers' tapes, the input, and spikes of the output units."""
        network = self.network
        obs = checks.shaped("obs", obs, ("L", "B", self._n_obs))
        n_steps, n_batch = obs.shape[:2]
        if state is None:
            state = self.initial_state(n_batch)
        state = checks.shaped("state", state, (self._n_rows, n_batch, self._width))
        state = sequences.writable("state", state, self.dtype)
        starts = np.zeros((n_steps, n_batch), bool)
        if episode_start is not None:
            starts = checks.flags("episode_start", episode_start, (n_steps, n_batch))
        cleared = starts[0] if n_steps else np.zeros(n_batch, bool)
        checks.finite("state", state if not cleared.any() else np.where(cleared[:, None], 0, state))
        frames, memory = state[: self._n_frames], state[self._n_frames : self._n_memory]
        with np.errstate(over="ignore"):  # what becomes infinite is refused as such
            seen, frames = preprocess(network.preprocessing, obs, frames, starts)
        x, memory = encode(network.encoder, seen, memory, starts, network.n_ticks, network.dt)
        self.n_counted += n_steps * n_batch * network.n_ticks
        if not network.layers:
            new = np.zeros_like(state)
            new[: self._n_frames], new[self._n_frames : self._n_memory] = frames, memory
            assert self._units is not None
            outputs, spikes = self._units(x[:, None] if network.encoder.held else x)
            return outputs, new, (), x, spikes
        if self.steps:
            y, new, times = self.steps(x, state, frames, self.spike_counts, keep != any_kernels.KEEP_NOTHING)
            return self._read(y).reshape(n_steps, n_batch, self._n_outputs), new, times, x, None
        if network.clears:
            starts = np.ones_like(starts)
        by_row = sequences.batch_first(x).astype(self.dtype, copy=False)
        by_env = np.ascontiguousarray(starts.T).view(np.uint8)
        y, new, tapes = self._forward(by_row, state, by_env, keep)
        new[: self._n_frames], new[self._n_frames : self._n_memory] = frames, memory
        if not np.isfinite(new).all():
            sequences.refuse_step("obs", seen[-1].astype(np.float32), state, cleared)
        if self._units is not None:
            outputs, spikes = self._units(self._units.arrived(self._outputs(len(tapes) - 1, tapes[-1]), starts))
            return outputs, new, tapes, x, spikes
        outputs = self._read(np.ascontiguousarray(y).reshape(n_batch * n_steps, y.shape[2]))
        return outputs.reshape(n_batch, n_steps, self._n_outputs).swapaxes(0, 1), new, tapes, x, None

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Return the output values, shape (R, n_outputs), of traces, shape (R, N)."""
        outputs = np.empty((len(rows), self._n_outputs), self.dtype)
        read = sequences.dense_layers(self.network.readout.dense, rows)
        products.linear_rows(read, self._w_out, self._b_out, outputs)
        return outputs

    def _forward(
        self, x: np.ndarray, state: np.ndarray, start: np.ndarray, keep: int
    ) -> tuple[np.ndarray, np.ndarray, Sequence[sequences.Tape | any_kernels.Tape]]:
        """Run the layers: the readout trace, the new state, and what is kept of each layer."""
        if not self._has_engine:
            keep = max(keep, any_kernels.KEEP_OUTPUTS) if self.network.readout.every_tick else keep
            return any_kernels.run(self._prepared, self._weights, x, state, start, self.spike_counts, keep)[:3]
        kept = lsnn_kernels.KEEP_MEMBRANE if keep == any_kernels.KEEP_MEMBRANE else lsnn_kernels.KEEP_NOTHING
        n_threads = shares.max_threads() if self.n_threads is None else min(self.n_threads, shares.max_threads())
        return sequences.forward(self._weights, self._constants, x, state, start, self.spike_counts, kept, n_threads)


def _starts(episode_start: Any, n_batch: int) -> np.ndarray:
    """Return whether each environment is cleared before a step, bool, shape (B,); one environment may give a scalar."""
    started = episode_start if type(episode_start) is np.ndarray else checks.real("episode_start", episode_start)
    if started.dtype == np.bool_ and started.shape == (n_batch,):
        return started
    return checks.flags("episode_start", np.atleast_1d(started) if n_batch == 1 else started, (n_batch,))
