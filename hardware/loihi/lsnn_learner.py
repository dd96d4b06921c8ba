"""An LSNN that learns on the emulated chip, from input spikes to outputs, and the host beside it.

========================================== ==========================================================
the chip, in integers                      the host, in floating point
========================================== ==========================================================
membranes, adaptation, spikes              observation -> input spikes (sigma-delta, two lines a number)
traces of every neuron's spikes            softmax of the outputs' v, the draw of the action
tags: eligibility, signal, decay           errors ``1[a = k] - pi_k`` and ``L_j = sum_k B_kj error_k``, written to y3
weights: input, recurrent, readout         critic on input lines, TD error, r1
========================================== ==========================================================

No number of a neuron's inside reaches the host: it reads v of the output compartments, which never fire. Rules are in
:mod:`spikeloop.hardware.learning.three_factor_lsnn`. That a host may write y3 of a compartment and leave y1 to the
chip is our assumption; nengo-loihi's PES writes an error into a posttrace in that way.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikeloop.hardware.learning.three_factor_lsnn import hidden_rule, readout_rule
from spikeloop.hardware.loihi import lsnn_learner_kernels as kernels
from spikeloop.hardware.loihi.chip import PROFILES
from spikeloop.hardware.loihi.emulator import Emulator
from spikeloop.hardware.loihi.interpreter import OVERFLOWS
from spikeloop.hardware.loihi.placement import place
from spikeloop.hardware.loihi.program import Compartments, Learning, Program, Projection
from spikeloop.spiking.decay import decay
from spikeloop.spiking.rules.eprop_kernels import LineCritic

_LARGEST, _STEP = 254, 2  # of weights of 8 bits with a sign
_COARSEST = 8  # least threshold, in units of the stored weight


@dataclass(frozen=True)
class ChipLsnnParameters:
    """Numbers of the network, of its rule and of the host.

    Args:
        n_neurons: LSNN neurons N; with their lines 128 at most, or their share where a weight is several synapses.
        n_ticks: Ticks per env step, a power of 2 from 4 to 64; the host reads the outputs before the last.
        tau_m: Membrane time constant in ticks.
        tau_a: Time constant of adaptation and of the slow trace x2 in ticks.
        beta: What a spike adds to the adaptation, in units of the threshold; 0: no neuron adapts.
        tau_out: Time constant of the outputs and of the fast traces x1 and y1 in ticks.
        w_max: Largest input or recurrent weight, stored as 254 in each of its synapses, in units of the threshold.
        w_out_max: Largest readout weight; a weight is the logit of a neuron that spikes on every tick.
        w_in_scale: Standard deviation of a number's weights at first, times sqrt(n_obs), in units of the threshold.
        bias_scale: Neurons' weights from the line that spikes on every tick are at first uniform from 0 to this.
        gamma: Discount; with ``trace_lambda`` for the critic alone, as the chip's tags decay by 0.109 per env step.
        trace_lambda: Decay of the critic's traces beside gamma.
        value_rate: Rate of the critic.
        reward_scale: Factor of rewards.
        initial_value: Value of what was never seen.
        r1_scale: r1 for a TD error of 1: the rate of all weights; 0 and nothing is learned.
        signal_scale: y3 for a learning signal of 1: the rate of the input and recurrent weights.
        slow: Whether the slow trace is part of the hidden rule.
        train_hidden: Whether input and recurrent synapses learn; off, their rule has no dw (a control).
        n_copies: Synapses that each weight is the sum of, which learn alike: rounding at random, which they do apart,
            makes them noisy, and the noise of their mean is the less the more they are.
        residue: Whether each weight has a second synapse with four more bits; no Loihi has.

    Raises:
        ValueError: If a number is out of range.

    >>> ChipLsnnParameters(n_ticks=3)
    Traceback (most recent call last):
    ...
    ValueError: n_ticks must be one of (4, 8, 16, 32, 64), got 3
    """

    n_neurons: int = 16
    n_ticks: int = 4
    tau_m: float = 2.0
    tau_a: float = 20.0
    beta: float = 0.4
    tau_out: float = 2.0
    w_max: float = 2.0
    w_out_max: float = 6.0
    w_in_scale: float = 2.0
    bias_scale: float = 0.5
    gamma: float = 0.99
    trace_lambda: float = 0.9
    value_rate: float = 0.1
    reward_scale: float = 0.01
    initial_value: float = 1.0
    r1_scale: float = 256.0
    signal_scale: float = 64.0
    slow: bool = True
    train_hidden: bool = True
    n_copies: int = 1
    residue: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.n_ticks not in (4, 8, 16, 32, 64):
            raise ValueError(f"n_ticks must be one of (4, 8, 16, 32, 64), got {self.n_ticks!r}")
        if not (isinstance(self.n_neurons, int) and 1 <= self.n_neurons <= 256):
            raise ValueError(f"n_neurons must be a whole number within 1 and 256, got {self.n_neurons!r}")
        if not (isinstance(self.n_copies, int) and 1 <= self.n_copies <= 16):
            raise ValueError(f"n_copies must be a whole number within 1 and 16, got {self.n_copies!r}")
        for name in ("tau_m", "tau_a", "tau_out", "w_max", "w_out_max"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be a number > 0, got {getattr(self, name)!r}")
        for name in ("beta", "w_in_scale", "bias_scale", "value_rate", "r1_scale", "signal_scale"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)!r}")
        for name in ("gamma", "trace_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0 and 1, got {getattr(self, name)!r}")
        for name in ("reward_scale", "initial_value"):
            if not abs(getattr(self, name)) < np.inf:
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)!r}")


class ChipLsnn:
    """One LSNN layer and its readout, whose synapses all learn on the chip; for tasks with a compiled step.

    Neurons are the chip's own, cleared by a spike, with an auxiliary compartment each for the adaptation; outputs are
    compartments that never fire. Synapses of a neuron onto itself are plastic as all others are.

    Args:
        n_outputs: Actions.
        scale: Factors of the observed numbers, shape (n_obs,): they are cut at -1 and 1 after them.
        n_lines: Lines of the critic's input code.
        parameters: The numbers.
        rng: Draws first weights, seeds of the learning engines, actions and the host's rounding.

    Raises:
        ValueError: If the network is so large that the sums of its synapses could wrap.

    Attributes:
        program: The chip program with its first weights.
        emulator: The chip.
        feedback: B, from outputs back to neurons, shape (n_outputs, N): the readout's first weights, which stay.

    >>> network = ChipLsnn(2, [1.0, 12.0], 2592, ChipLsnnParameters(), np.random.default_rng(0))
    >>> [(p.name, p.weights.shape) for p in network.program.projections if p.learning]
    [('input', (16, 5)), ('recurrent', (16, 16)), ('readout', (2, 16))]
    """

    def __init__(
        self,
        n_outputs: int,
        scale: Any,
        n_lines: int,
        parameters: ChipLsnnParameters,
        rng: np.random.Generator,
    ) -> None:
        p, n, factors = parameters, parameters.n_neurons, np.array(scale, np.float64)
        self.parameters, self.rng = p, rng
        w_in = rng.normal(0, p.w_in_scale / np.sqrt(factors.size), (n, factors.size))
        w_in = np.stack((w_in, -w_in), axis=2).reshape(n, -1)
        w_in = np.concatenate((w_in, rng.uniform(0, p.bias_scale, (n, 1))), axis=1)
        w_rec = rng.normal(0, 0.5 / np.sqrt(n), (n, n))
        np.fill_diagonal(w_rec, 0)
        self.feedback = rng.normal(0, 3 / np.sqrt(n), (n_outputs, n))
        self.program = _program(p, w_in, w_rec, self.feedback, rng.integers(0, 2**62, 3 * p.n_copies).tolist())
        self.emulator = Emulator(self.program)
        self._loaded, self._state = self.emulator.loaded(), self.emulator.initial_state()
        lines = np.zeros(n_lines), np.zeros(n_lines), np.zeros(n_lines, np.int64), np.zeros(1, np.int64)
        self._host = kernels.Host(
            scale=factors,
            feedback=self.feedback,
            output_scale=float((1 - decay(np.float64(p.tau_out), 1.0)) * p.w_out_max / (_LARGEST * p.n_copies) / 64),
            signal_scale=float(p.signal_scale),
            r1_scale=float(p.r1_scale),
            gamma=float(p.gamma),
            trace_decay=float(p.gamma * p.trace_lambda),
            value_rate=float(p.value_rate),
            reward_scale=float(p.reward_scale),
            initial_value=float(p.initial_value),
            carry=np.zeros(factors.size),
            last=np.zeros(2),
            critic=LineCritic(*lines),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: all but views of the emulator's arrays."""
        return {name: value for name, value in vars(self).items() if name != "_loaded"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a network with the same weights, traces and random streams."""
        self.__dict__.update(state)
        self._loaded = self.emulator.loaded()

    def learn_episode(
        self,
        step: Any,
        state: np.ndarray,
        body: np.ndarray,
        keep: np.ndarray,
        coder: Any,
        changes: bool,
        most_steps: int,
        progress: float = 1.0,
    ) -> tuple[int, float]:
        """Learn in one episode of a compiled task; return its steps and the sum of its rewards.

        Args:
            step: The task's step, a C function (:data:`spikeloop.envs.compiled.STEP`).
            state: State of the task to begin with, of which the observation is a part.
            body: Its constants.
            keep: Which numbers of the state are observed, int64, shape (n_obs,).
            coder: Tables of the critic's input code (:class:`~spikeloop.spiking.encoders.tile_coding.Tiles`).
            changes: Whether that code is also of the change of each number since the step before.
            most_steps: After so many env steps the episode is cut off.
            progress: Factor of all learning rates, by which they go down over a training.
        """
        result = kernels.episode(
            step,
            np.array(state, np.float64),
            body,
            keep,
            coder,
            changes,
            most_steps,
            self.parameters.n_ticks,
            float(progress),
            self._loaded,
            self._state,
            *self.emulator.learners_for(True),
            self._host,
            self.rng,
        )
        self._state[:] = 0
        self.emulator.clear_learning()
        if not self.emulator.overflowed and self._loaded.counters[: len(OVERFLOWS)].any():
            self.emulator.overflowed = True
            warnings.warn(
                "a value left the chip's range: emulator.counts.overflows says how often which did", stacklevel=2
            )
        return result

    def program_now(self) -> Program:
        """Return the program with the weights of now, which a :class:`FrozenChipLsnn` plays."""
        return self.emulator.program_now()


class FrozenChipLsnn:
    """Plays what a :class:`ChipLsnn` has learned on an emulator whose learning engines stand still, greedily.

    Args:
        network: What has learned; what it learns later is not played.
    """

    def __init__(self, network: ChipLsnn) -> None:
        self.emulator = Emulator(network.program_now())
        self._scale, self._n_ticks = network._host.scale.copy(), network.parameters.n_ticks

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, np.ndarray] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Return actions for observations, shape (B, n_obs), and the state, as SB3's policies do."""
        if not deterministic:
            raise ValueError("predict with deterministic=True: the draw of an action belongs to learning")
        n_envs = len(observation)
        chip, carry = state or (self.emulator.initial_state(n_envs), np.zeros((n_envs, self._scale.size)))
        chip, carry = chip.copy(), carry.copy()
        if episode_start is not None:
            starts = np.reshape(episode_start, -1) != 0
            chip[starts], carry[starts] = 0, 0
        inputs = np.empty((n_envs, self._n_ticks, 1, 2 * self._scale.size + 1), np.int32)
        for b in range(n_envs):
            kernels.send(np.asarray(observation[b], np.float64), self._scale, carry[b], inputs[b])
        sent = np.ascontiguousarray(inputs[:, :, 0].swapaxes(0, 1))
        v, chip = self.emulator.run(chip, self._n_ticks, sent, learning=False)
        return np.argmax(v[-2], axis=1), (chip, carry)


def _program(
    p: ChipLsnnParameters, w_in: np.ndarray, w_rec: np.ndarray, w_out: np.ndarray, seeds: list[int]
) -> Program:
    """Return the chip program: compartments of adaptation, neurons and outputs, and what joins them."""
    n_outputs, n = w_out.shape
    k, unit = p.n_ticks.bit_length() - 1, _LARGEST * p.n_copies / p.w_max
    hidden = hidden_rule(k, p.tau_out, p.tau_a if p.slow else None, p.residue)
    if not p.train_hidden:
        hidden = replace(hidden, dw="", residue_bits=0)
    readout = readout_rule(k, p.tau_out, p.residue)
    if unit < _COARSEST:
        raise ValueError(f"w_max must be at most {_LARGEST * p.n_copies / _COARSEST:g} thresholds, got {p.w_max}")
    most = (2 ** (PROFILES["nengo"].input_bits - 6) - 1) // (_LARGEST * p.n_copies)
    if w_in.shape[1] + n > most:
        raise ValueError(
            f"at most {most} lines and neurons may reach a neuron by {p.n_copies} synapses each, or sums wrap; got "
            f"{w_in.shape[1] + n}"
        )
    slow, neurons, outputs = np.arange(n), n + np.arange(n), 2 * n + np.arange(n_outputs)
    sizes = n, n, n_outputs
    kept = np.repeat([float(decay(np.float64(tau), 1.0)) for tau in (p.tau_a, p.tau_m, p.tau_out)], sizes)
    compartments = Compartments.build(
        2 * n + n_outputs,
        decay_v=np.rint(4096 * (1 - kept)).astype(int),
        v_th=np.repeat([64, 64 * round(unit), 64], sizes),
        fires=np.repeat([0, 1, 0], sizes),
        parent=np.concatenate((neurons, np.full(n + n_outputs, -1))),
    )
    kinds = (
        ("input", True, np.arange(w_in.shape[1]), neurons, w_in * _LARGEST / p.w_max, hidden),
        ("recurrent", False, neurons, neurons, w_rec * _LARGEST / p.w_max, hidden),
        ("readout", False, neurons, outputs, w_out * _LARGEST / p.w_out_max, readout),
    )
    projections, seed = [], iter(seeds)
    for name, from_input, pre, post, weights, rule in kinds:
        for copy in range(p.n_copies):
            called = name if p.n_copies == 1 else f"{name} {copy}"
            learning = Learning(rule, next(seed))
            projections.append(Projection(called, from_input, pre, post, _mantissas(weights), learning=learning))
    if p.beta:
        exponent = max(0, int(np.ceil(np.log2(p.beta * unit / _LARGEST))))
        jump = _mantissas(np.diag(np.full(n, -p.beta * unit / 2**exponent)))
        projections.append(Projection("adaptation", False, neurons, slow, jump, exponent))
    groups = (("adaptation", 0, n), ("neurons", n, 2 * n), ("outputs", 2 * n, 2 * n + n_outputs))
    program = Program(
        "loihi1", "nengo", w_in.shape[1], compartments, tuple(projections), outputs, groups, input_latency=0
    )
    return place(program)


def _mantissas(weights: np.ndarray) -> np.ndarray:
    """Return weights as mantissas of 8 bits with a sign."""
    return np.clip(_STEP * np.rint(weights / _STEP), -_LARGEST, _LARGEST).astype(np.int64)
