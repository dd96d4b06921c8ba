"""Populations of LIF neurons that learn by reward-modulated STDP: a spiking actor, and a critic.

Each action has a population of neurons; the input lines that the encoder names spike as Poisson (or regular) trains.
In code order, for weights w_ji of line i onto neuron j, all neurons those of
:class:`~spikeloop.spiking.neurons.lsnn.LsnnNeurons` with reset by subtraction:

    run, on every tick   i_j = sum_i w_ji s_i - inhibition (spikes of other populations on the tick before)
                         neuron tick;  spikes where  v_j - v_th - beta a_j + v_th noise G > 0     G: Gumbel, see below
                         r_j <- kappa r_j + (1 - kappa) z_j                            kappa = exp(-dt / tau_out)
                         or, with readout="count",  r_j <- r_j + z_j, from 0 at the beginning of the env step
    run, at its end      action = the population with the largest sum of r
                         V = V0 + sum_i v_i x_i           or, of a critic that spikes,  V0 + gain (mean r - rate_0)
    reinforce            w_ji <- clip(w_ji + learning_rate M (e_ji - mean_j e_ji), w_min, w_max)
                         and, if "normalized",  w_ji <- clip(w_ji + mean_i (w_start - w_ji), w_min, w_max)
                         critic: v_i <- v_i + value_learning_rate M f_i, or its neurons' w_ji likewise, not centred
                         e: pairs of the step's spikes, tick by tick as in RewardSTDP
                         f_i <- gamma lambda f_i + x_i

The rule is :class:`~spikeloop.spiking.rules.rstdp.RewardSTDP` itself: x, y and e are its traces with their windows, its
third factor is M on the last tick of each env step and 0 on all others, and e decays by gamma lambda per env step,
which is ``tau_e = -n_ticks dt / log(gamma lambda)``. M of an env step is known one env step later, and so is its change
of the weights: it acts on the e that stood there then. With a TD error for M, this is TD-STDP (Frémaux, Sprekeler &
Gerstner 2013).

``log`` of an exponential variate is a Gumbel variate, so a neuron above spikes with probability
``1 - exp(-exp((v - threshold) / (v_th noise)))``: escape noise with an exponential hazard (Gerstner et al. 2014, 9.1).

Taking the mean over the action neurons off the eligibilities of a line is competition among the neurons that the line
reaches. Pairs of a Hebbian window are positive, whichever action was taken, so that a modulator that is negative on
average, as at the beginning of most tasks, makes all populations weaker; less the mean, it makes some weaker and others
stronger. This one term is not local to a synapse: a synapse has to know what happened at the other synapses of its
axon. Tasks are learnt without it as well, ``centred=False``, though not as surely.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from spikeloop.spiking import checks
from spikeloop.spiking.encoders import tile_kernels
from spikeloop.spiking.engine import products
from spikeloop.spiking.rules import populations_kernels
from spikeloop.spiking.rules.plastic_network import active_lines, check_code, runs_compiled_tasks
from spikeloop.spiking.rules.population_parameters import PopulationParameters


@runs_compiled_tasks
class SpikingPopulations:
    """Populations that act and learn, in float64: a :class:`~spikeloop.spiking.rules.plastic_network.PlasticNetwork`.

    The time of an env step grows with the lines that spike and those whose traces have not died away, not with
    ``n_inputs``. Several Python threads may use one network: one call waits for another.

    Args:
        n_inputs: Number of input lines.
        n_outputs: Number of actions.
        parameters: Their numbers.
        rng: Source of the trains and of the noise.

    Attributes:
        synapses: Weights, traces and eligibilities; the weights are ``synapses.w``, shape (n_inputs, N), those of the
            action neurons first, population by population, then those of a spiking critic.
        state: State of the neurons.
        exploring: Whether neurons escape; without, they spike where the membrane passes the threshold. The trains of
            the lines are what they are.
        learning: While it is off, :meth:`run` advances neurons that are kept aside, so that learning can go on where it
            was.

    >>> rng = np.random.default_rng(0)
    >>> network = SpikingPopulations(10, 2, PopulationParameters(w_start=0.1), rng)
    >>> counts, last, value = network.run(np.arange(10), n_ticks=20)  # all lines are active
    >>> network.reinforce(0.0)  # no action before this one
    >>> counts.tolist(), last.tolist()  # spikes of each population; the action, one-hot
    ([3, 6], [0, 1])
    """

    def __init__(self, n_inputs: int, n_outputs: int, parameters: PopulationParameters, rng: np.random.Generator):
        if n_inputs < 1 or n_outputs < 1:
            raise ValueError(f"n_inputs and n_outputs must be at least 1, got {n_inputs} and {n_outputs}")
        self.parameters, self.rng = parameters, rng
        self.learning = self.exploring = True
        starts = np.repeat(
            [parameters.w_start, parameters.value_w_start], [parameters.n_acting(n_outputs), parameters.n_valuing]
        )
        n = len(starts)
        self.synapses = populations_kernels.SynapseState(
            w=np.tile(starts, (n_inputs, 1)),
            e=np.zeros((n_inputs, n)),
            v=np.zeros(n_inputs),
            f=np.zeros(n_inputs),
            x=np.zeros(n_inputs),
            y=np.zeros(n),
            live=np.zeros(n_inputs, np.int64),
            n_live=np.zeros(1, np.int64),
            place=np.zeros(n_inputs, np.int64),
        )
        self.state, self._aside = (populations_kernels.NeuronState(*np.zeros((5, n))) for _ in range(2))
        self.constants = parameters.constants(n_inputs, n_outputs)
        self._latest = np.empty(0, np.int64), np.empty((0, parameters.n_ticks), np.uint8)
        self._z = np.zeros((parameters.n_ticks, n), np.uint8)
        self._lock = threading.Lock()  # kernels run without Python's, and write into the arrays

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def n_actions(self) -> int:
        """Number of populations."""
        return self.constants.n_actions

    @property
    def spikes(self) -> np.ndarray:
        """Spikes of all neurons in the latest env step, uint8, shape (n_ticks, N)."""
        return self._z.copy()

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Forget the episode: traces, eligibilities and membranes; the only environment may be spared by ``mask``."""
        if mask is None or np.all(mask):
            with self._lock:
                populations_kernels.reset(self.synapses, self.state)
                self._latest = self._latest[0][:0], self._latest[1][:0]
                self._z[:] = 0
                for row in self._aside:
                    row[:] = 0

    def run(self, x: np.ndarray, n_ticks: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Run one env step in which lines are active, at ``input_rate``.

        Args:
            x: The active lines, each once, int64, shape (n_active,).
            n_ticks: That of the parameters, on which the rule's constants depend.

        Returns:
            Spikes of each population, shape (n_actions,), the action as one-hot vector, and the value.

        Raises:
            ValueError: If a line does not exist or stands there twice, or the number of ticks is another.
        """
        self._check_ticks(n_ticks)
        lines, c = active_lines(x, len(self.synapses.v)), self.constants
        spikes = np.empty((len(lines), n_ticks), np.uint8)
        with self._lock:
            populations_kernels.write_trains(spikes, c.p_spike, c.regular, self.rng)
            return self._run(lines, spikes, 0)

    def _check_ticks(self, n_ticks: int) -> None:
        if n_ticks != self.parameters.n_ticks:
            raise ValueError(f"n_ticks must be {self.parameters.n_ticks} as in the parameters, got {n_ticks}")

    def run_trains(
        self, lines: np.ndarray, spikes: np.ndarray, read_from: int = 0
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Run one env step on given spikes, whatever encoder they are of.

        Args:
            lines: The lines that spike, each once, int64, shape (n_active,).
            spikes: Their spikes, 0 or 1, shape (n_active, n_ticks).
            read_from: Tick from which on spikes of the populations count for the action.

        Returns:
            As :meth:`run`.

        Raises:
            ValueError: If a line does not exist or stands there twice, or shapes disagree.
        """
        lines = active_lines(lines, len(self.synapses.v))
        trains = checks.spikes("spikes", spikes, (len(lines), self.parameters.n_ticks))
        with self._lock:
            return self._run(lines, trains, read_from)

    def _run(self, lines: np.ndarray, spikes: np.ndarray, read_from: int) -> tuple[np.ndarray, np.ndarray, float]:
        c, synapses = self.constants, self.synapses
        state, z = (self.state, self._z) if self.learning else (self._aside, np.empty_like(self._z))
        noise = c.noise if self.exploring else 0.0
        populations_kernels.run_neurons(synapses.w, 1.0, lines, spikes, state, c, noise, self.rng, z, read_from)
        n_live = synapses.n_live[0] if self.learning else 0
        value = populations_kernels.value_of(synapses, n_live, lines, spikes, state, c)
        if self.learning:
            self._latest = lines, spikes
        n_acting = c.n_actions * c.n_per_action
        counts = z[:, :n_acting].reshape(-1, c.n_actions, c.n_per_action).sum(axis=(0, 2), dtype=np.int64)
        last = np.zeros(c.n_actions, np.int64)
        last[populations_kernels.choose(state.rate, c.n_actions, c.n_per_action)] = 1
        return counts, last, value

    def reinforce(self, modulator: float) -> None:
        """Learn from the modulator of the action before, then count the pairs of the latest env step in.

        Raises:
            ValueError: If the modulator is not finite.
        """
        if not math.isfinite(modulator):
            raise ValueError(f"modulator must be finite, got {modulator}")
        with self._lock:
            populations_kernels.change_weights(self.synapses, self.constants, float(modulator))
            lines, spikes = self._latest
            c = self.constants
            populations_kernels.count_pairs(self.synapses, lines, spikes, self._z, c.rule, c.floor)

    def closed_loop(
        self,
        step: Any,
        state: np.ndarray,
        body: np.ndarray,
        obs: np.ndarray,
        coder: tile_kernels.Coder,
        n_ticks: int,
        modulation: tuple[int, float, float, float, float],
        baseline: np.ndarray,
        action: int,
        value: float,
        rewards: np.ndarray,
    ) -> tuple[int, int, float]:
        """Act in a compiled task, and learn if it is learning, until the next step would end the episode.

        Arguments, result and errors are those of
        :meth:`spikeloop.spiking.rules.winner_take_all.WinnerTakeAll.closed_loop`.
        """
        self._check_ticks(n_ticks)
        check_code(coder, obs, len(self.synapses.v))
        c = self.constants
        spikes = np.empty((len(coder.offsets), n_ticks), np.uint8)
        neurons, z = (self.state, self._z) if self.learning else (self._aside, np.empty_like(self._z))
        options = c, c.noise if self.exploring else 0.0, self.learning, self.rng
        with self._lock:
            return populations_kernels.closed_loop(
                step, state, body, obs, coder, self.synapses, neurons, *options,
                modulation, baseline, action, value, rewards, spikes, z,
            )  # fmt: skip

    def advance(
        self, lines: np.ndarray, state: np.ndarray, noise: bool, trains: np.ndarray | None = None, read_from: int = 0
    ) -> np.ndarray:
        """Return the state of action neurons after one env step, without learning.

        Args:
            lines: The active lines, int64, shape (n_active,).
            state: State of the action neurons, shape (5, N): rows of :class:`populations_kernels.NeuronState`.
            noise: Whether lines spike and neurons escape at random; otherwise lines drive by the mean of their trains.
            trains: The lines' spikes, uint8, shape (n_active, n_ticks), if they are given and not drawn.
            read_from: Tick from which on spikes of the populations count for the action.

        Returns:
            The new state, of the same shape; its last row is what actions are read from.
        """
        c, n_ticks = self.constants, self.parameters.n_ticks
        lines = active_lines(lines, len(self.synapses.v))
        new = np.array(state, np.float64, order="C")
        spikes, z = np.ones((len(lines), n_ticks), np.uint8), np.empty((n_ticks, new.shape[1]), np.uint8)
        with self._lock:
            if trains is not None:
                spikes = trains
            elif noise:
                populations_kernels.write_trains(spikes, c.p_spike, c.regular, self.rng)
            gain, width = 1.0 if noise or trains is not None else c.p_spike, c.noise if noise else 0.0
            neurons = populations_kernels.NeuronState(*new)
            populations_kernels.run_neurons(
                self.synapses.w, gain, lines, spikes, neurons, c, width, self.rng, z, read_from
            )
        return new

    def rest(self, n: int) -> np.ndarray:
        """Return the state of n copies of the action neurons at rest, shape (5, n, N)."""
        return np.zeros((5, n, self.constants.n_actions * self.constants.n_per_action))

    def rates(self, states: np.ndarray) -> np.ndarray:
        """Return what actions are chosen by: the filtered rates of the populations, added up, shape (n, n_actions)."""
        members = np.repeat(np.eye(self.n_actions), self.constants.n_per_action, axis=1)
        outputs = np.empty((states.shape[1], self.n_actions))
        products.linear_rows(states[-1], members, np.zeros(self.n_actions), outputs)
        return outputs

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the weights: ``w``, shape (N, n_inputs), and ``v``, shape (n_inputs,)."""
        return {"w": self.synapses.w.T.copy(), "v": self.synapses.v.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over weights; traces are not among them.

        Raises:
            ValueError: If the shapes are not those of this network, or a weight is not finite or out of bounds.
        """
        w, v = checks.real("w", state["w"]), checks.finite("v", checks.real("v", state["v"]))
        if w.T.shape != self.synapses.w.shape or v.shape != self.synapses.v.shape:
            n_inputs, n = self.synapses.w.shape
            raise ValueError(f"weights must be for {n_inputs} lines and {n} neurons, got {w.shape}, {v.shape}")
        with self._lock:
            self.synapses.w[:], self.synapses.v[:] = checks.within("w", w, *self.parameters.bounds).T, v
