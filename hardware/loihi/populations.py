"""Populations of spiking neurons on the emulated chip, whose synapses its learning engines change while they act.

The program is one like any other, and the emulator runs it as it is. An env step is ``epoch * 2^k`` ticks. What
happens where:

- *Actor core*: the populations of :mod:`spikeloop.spiking.rules.populations`, as the chip's own neurons (v is cleared
  by a spike), with noise on their membranes and synapses that inhibit the other populations. The input lines' synapses
  learn by reward-modulated STDP (:mod:`spikeloop.hardware.learning.reward_stdp`).
- *Readout core*: one compartment for each action, which never fires: v is the filtered number of its population's
  spikes.
- *Critic cores*: ``n_critic`` neurons without memory, v being the sum of the tick's weights, that all learn the same
  value, each with a rounding of its own. Active lines spike on each of the first ``epoch - 1`` ticks, and with them a
  line of the tick's, which shifts what a neuron's sum must exceed, by another amount for each neuron and tick: the
  number of spikes of all neurons and ticks is a value that is finer than 8 bits. The synapses learn from r1 and from
  tags of the lines that were active, whether the neuron fired or not: pairs of spikes would leave neurons that are
  silent nothing to learn from.
- *Host*: turns an observation into spikes of the lines; counts the critic's spikes; forms the TD error and sends it,
  rounded at random to r1's 8 bits, as the reward of the first epoch's last tick; picks the largest of the readout.

So the TD error comes in the first learning epoch of an env step. The weights change by the tags from before that epoch,
then the tags take in the epoch's pairs: the spikes of the new step get no share of what the one before was worth.

A plastic synapse takes two of a core's input axons, and the inhibition one for each neuron: that leaves about 2,040
lines, as all synapses of a neuron are on its core.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from spikeloop.hardware.loihi import populations_kernels as kernels
from spikeloop.hardware.loihi.emulator import Emulator
from spikeloop.hardware.loihi.emulator_kernels import NOISE_AT
from spikeloop.hardware.loihi.interpreter import resting_state
from spikeloop.hardware.loihi.overflows import warn_of_overflow
from spikeloop.hardware.loihi.population_program import (
    ACTOR,
    CRITIC,
    ChipOptions,
    chip_noise,
    most_lines,
    population_program,
)
from spikeloop.hardware.loihi.program import Program
from spikeloop.spiking.checks import arrays_like
from spikeloop.spiking.encoders import tile_kernels
from spikeloop.spiking.rules.plastic_network import active_lines, check_code, runs_compiled_tasks
from spikeloop.spiking.rules.population_parameters import DT, PopulationParameters
from spikeloop.spiking.rules.populations_kernels import write_trains

_NOISE_OF_PREDICTIONS = 0  # a seed


@runs_compiled_tasks
class ChipPopulations:
    """Populations that act and learn on the chip.

    A network that acts last (:class:`~spikeloop.spiking.rules.plastic_network.ActsLast`).

    Args:
        n_inputs: Number of input lines.
        n_outputs: Number of actions.
        parameters: Their numbers. ``trace_floor`` does not apply, traces and tags end where their bits do; nor does
            ``value_w_start``: the critic's weights begin at 0 and its rate at ``value_rate``.
        rng: Source of the trains, of the noise, of r1's rounding and of the learning engines' seeds.
        options: Fields of :class:`ChipOptions`, by name.

    Attributes:
        emulator: The chip.
        learning: While it is off, a second copy of the neurons acts, and the learning engines stand still.
        noise: Width of the escape noise that the chip's stands for: the nearest to that of ``parameters`` in steps of a
            factor of 2.
        exploring: Whether membranes are noisy; without, the lines' trains are also evenly spread instead of drawn.

    Raises:
        ValueError: If a number is out of range, or the chip cannot hold the lines or has no such neurons or rule.

    >>> p = PopulationParameters(n_ticks=16, centred=False, w_start=0.06, critic="spiking")
    >>> network = ChipPopulations(10, 2, p, np.random.default_rng(0))
    >>> value = network.evaluate(np.arange(10))
    >>> network.reinforce(0.0)  # no action before this one
    >>> rates, last = network.act()
    >>> int(last.sum())  # the action, one-hot
    1
    """

    def __init__(
        self, n_inputs: int, n_outputs: int, parameters: PopulationParameters, rng: np.random.Generator, **options: Any
    ) -> None:
        if n_inputs < 1 or n_outputs < 1:
            raise ValueError(f"n_inputs and n_outputs must be at least 1, got {n_inputs} and {n_outputs}")
        self.parameters, self.rng, self.options = parameters, rng, ChipOptions(**options)
        first, second = rng.integers(0, 2**62, 2).tolist()
        program = population_program(n_inputs, n_outputs, parameters, self.options, (first, second))
        self.emulator, self.noise = Emulator(program, rng), chip_noise(parameters)[1]
        self.n_inputs, self.n_actions = n_inputs, n_outputs
        self.learning = self.exploring = True
        # so that the engines' clock is at the last epoch of a step where one begins
        state = self.emulator.initial_state()
        self._state = self.emulator.run(state, parameters.n_ticks - self.options.epoch)[1]
        self._aside = self.emulator.initial_state()
        self._load()

    def _load(self) -> None:
        """Set up what the kernels take."""
        p, n, n_valuing = self.parameters, self.n_inputs, self.options.n_valuing
        self._loaded = self.emulator.loaded()
        quiet = self._loaded.options.copy()
        quiet[NOISE_AT] = 0
        self._quiet = self._loaded._replace(options=quiet)
        self._host = kernels.Host(
            n_lines=n,
            n_actions=self.n_actions,
            n_valuing=n_valuing,
            n_critic=p.n_critic,
            value_of_silence=p.value_offset - p.value_gain * p.resting_rate,
            value_of_spike=p.value_gain / (n_valuing * p.n_critic),
            r1_scale=self.options.r1_scale,
            p_spike=p.input_rate * DT / 1000.0,
            regular=p.trains == "regular",
            inputs=np.zeros((p.n_ticks, 1, 2 * n + n_valuing), np.int32),
            outputs=np.zeros((p.n_ticks, 1, self.n_actions), np.int32),
            rewards=np.zeros(p.n_ticks, np.int64),
            no_spikes=np.zeros((1, 0), np.int32),
            no_traces=np.zeros((1, 3, 0), np.int32),
        )
        self._lines = np.empty(0, np.int64)
        self._most_lines = most_lines(self.n_actions, p, self.options)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: all but views of the emulator's arrays."""
        return {name: value for name, value in vars(self).items() if name not in ("_loaded", "_quiet", "_host")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a network with the same weights, traces and random streams."""
        self.__dict__.update(state)
        self.emulator.seed_noise(self.rng)
        self._load()

    def __copy__(self) -> ChipPopulations:
        """Return a network of its own, as ``copy.deepcopy`` does: its arrays are its state."""
        return copy.deepcopy(self)

    @property
    def program(self) -> Program:
        """The program with the weights of now."""
        return self.emulator.program_now()

    @property
    def updates_per_core(self) -> np.ndarray:
        """Synapses that learning has computed so far, for each core that learns: the actor's, then the critic's.

        :func:`~spikeloop.hardware.energy.learning_cost` takes it.
        """
        actor, critic = (self.emulator.learner(i).updates for i in (ACTOR, CRITIC))
        cores = self.emulator.program.compartments.core[self.emulator.program.projections[CRITIC].post]
        n_neurons = np.bincount(cores - cores.min())  # of which every active line has one synapse each
        return np.array([actor, *(critic // len(cores) * n_neurons)])

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Forget the episode: membranes, traces and tags; the only environment may be spared by ``mask``."""
        if mask is None or np.all(mask):
            self._state, self._aside = self.emulator.initial_state(), self.emulator.initial_state()
            self.emulator.clear_learning()
            self._host.inputs[:] = 0  # of an env step that was not ended

    # --- an env step

    def evaluate(self, x: np.ndarray) -> float:
        """Begin an env step: show the active lines to the critic.

        Args:
            x: The active lines, each once, int64, shape (n_active,).

        Returns:
            The value.

        Raises:
            ValueError: If a line does not exist or stands there twice, or sums could leave the chip's range.
        """
        self._lines = active_lines(x, self.n_inputs)
        self._check_sums(len(self._lines))
        spikes = np.empty((len(self._lines), self.parameters.n_ticks), np.uint8)
        if self.exploring:
            write_trains(spikes, self._host.p_spike, self._host.regular, self.rng)
        else:
            kernels.write_even_trains(spikes, self._host.p_spike)
        return kernels.evaluate(*self._chip(), self._row(), self._lines, spikes, self.learning)

    def reinforce(self, modulator: float) -> None:
        """Learn from the modulator of the action before, in the rest of this env step.

        Raises:
            ValueError: If the modulator is not finite.
        """
        if not math.isfinite(modulator):
            raise ValueError(f"modulator must be finite, got {modulator}")
        kernels.reinforce(self._host, float(modulator), self.rng)

    def act(self) -> tuple[np.ndarray, np.ndarray]:
        """Run the rest of the env step.

        Returns:
            Filtered rates of the populations as the host reads them, shape (n_actions,), and the action as one-hot
            vector.
        """
        last = np.zeros(self.n_actions, np.int64)
        last[kernels.act(*self._chip(), self._row(), self._lines, self.learning)] = 1
        warn_of_overflow(self.emulator, self._loaded)
        return self._host.outputs[-1, 0, : self.n_actions].copy(), last

    def run(self, x: np.ndarray, n_ticks: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Run one env step without a modulator; see :meth:`evaluate` and :meth:`act`.

        Raises:
            ValueError: If the number of ticks is another than that of the parameters.
        """
        self._check_ticks(n_ticks)
        value = self.evaluate(x)
        return (*self.act(), value)

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
        check_code(coder, obs, self.n_inputs)
        self._check_sums(len(coder.offsets))
        task = step, state, body, obs, coder
        options = self.learning, self.exploring, self.rng, modulation, baseline, action, value, rewards
        result = kernels.closed_loop(*task, *self._chip(), self._row(), *options)
        warn_of_overflow(self.emulator, self._loaded)
        return result

    def advance(
        self, lines: np.ndarray, state: np.ndarray, noise: bool, trains: np.ndarray | None = None, read_from: int = 0
    ) -> np.ndarray:
        """Return the state of a chip after one env step, without learning; no trains are given to it.

        Args:
            lines: The active lines, int64, shape (n_active,).
            state: From :meth:`rest` or this method, int32, shape (1, W).
            noise: Whether membranes are noisy and trains drawn; otherwise trains are evenly spread.
            trains: None.
            read_from: 0.

        Returns:
            The new state, of the same shape.
        """
        if trains is not None or read_from:
            raise ValueError("trains must be None and read_from 0 on the chip: its lines spike as an encoder says")
        before = self.learning, self.exploring, self._aside
        try:
            self.learning, self.exploring, self._aside = False, noise, np.array(state, np.int32)
            self.run(lines, self.parameters.n_ticks)
            return self._aside
        finally:
            self.learning, self.exploring, self._aside = before

    def rest(self, n: int) -> np.ndarray:
        """Return the state of n chips at rest, int32, shape (1, n, W).

        The noise of each is another, and always the same: predictions in the middle of a training must not change it.
        """
        return resting_state(self.emulator.program, n, np.random.default_rng(_NOISE_OF_PREDICTIONS))[None]

    def rates(self, states: np.ndarray) -> np.ndarray:
        """Return the filtered rates of the populations, shape (n, n_actions), of chips, shape (1, n, W)."""
        outputs = self.emulator.program.outputs[: self.n_actions]
        return self.emulator.read(states[0], "v")[:, outputs].astype(np.float64)

    def _chip(self) -> tuple[Any, ...]:
        loaded = self._loaded if self.exploring else self._quiet
        return loaded, *self.emulator.learners_for(self.learning), self._host

    def _row(self) -> np.ndarray:
        return self._state if self.learning else self._aside

    def _check_sums(self, n_active: int) -> None:
        if n_active > self._most_lines:
            raise ValueError(
                f"at most {self._most_lines} lines may be active on the chip, or sums wrap; got {n_active}"
            )

    def _check_ticks(self, n_ticks: int) -> None:
        if n_ticks != self.parameters.n_ticks:
            raise ValueError(f"n_ticks must be {self.parameters.n_ticks} as in the parameters, got {n_ticks}")

    # --- weights

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return all that learning goes on from exactly: the engines' arrays, and the chip's state, as copies."""
        return {**self.emulator.state_dict(), "chip": self._state.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned.

        Raises:
            ValueError: If an array is missing or its shape is not that of this network.
        """
        found = arrays_like(self.state_dict(), state)
        self._state = np.array(found.pop("chip"), np.int32)
        self.emulator.load_state_dict(found)
