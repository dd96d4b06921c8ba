"""An LSNN that learns on the emulated chip, from input spikes to outputs, and the host beside it.

``EProp("ChipEpropPolicy", env, backend=ChipLsnn)`` trains it, as ``spikeloop train --algo eprop --backend chip`` does.

========================================== ==========================================================
the chip, in integers                      the host, in floating point
========================================== ==========================================================
membranes, adaptation, spikes              observation -> input spikes (sigma-delta, two lines a number)
traces of every neuron's spikes            softmax of the outputs' v, the draw of the action
tags: eligibility, signal, decay           errors ``1[a = k] - pi_k`` and ``L_j = sum_k B_kj error_k``, written to y3
weights: input, recurrent, readout         critic on input lines, TD error, r1
========================================== ==========================================================

The host reads v of the output compartments, which never fire. With ``pseudo_derivative="membrane"`` it reads v of the
neurons, too, and writes ``L_j psi_j``::

    psi_j = max(0, 1 - |v_j - v_th| / v_th), but 1/2 where v_j = 0, as a spike leaves it

No rule can read v; the host stands in for what the rule lacks, and the rest of the tag is made on the chip. Else no
number of a neuron's inside reaches the host. Rules are in :mod:`spikeloop.hardware.learning.three_factor_lsnn`. That a
host may write y3 of a compartment and leave y1 to the chip is our assumption; nengo-loihi's PES writes an error into a
posttrace in that way.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from spikeloop.hardware.learning.three_factor_lsnn import rates_of
from spikeloop.hardware.loihi import lsnn_learner_kernels as kernels
from spikeloop.hardware.loihi.emulator import Emulator
from spikeloop.hardware.loihi.lsnn_program import LARGEST, ChipLsnnParameters, lsnn_program
from spikeloop.hardware.loihi.overflows import warn_of_overflow
from spikeloop.hardware.loihi.program import Program
from spikeloop.spiking.checks import arrays_like
from spikeloop.spiking.decay import decay
from spikeloop.spiking.rules.eprop_kernels import LineCritic
from spikeloop.spiking.rules.reward_eprop import RewardEprop

_SIGNAL = 127  # largest y3
# Numbers of the rule that mean nothing here, and what they must be.
_ABSENT = {"value_coef": 0.0, "rate_coef": 0.0, "trace_max": None, "optimizer": "sgd"}


class _Scales(NamedTuple):
    """What the host multiplies by before it rounds."""

    r1: float  # of a TD error of 1
    signal: float  # y3 of a learning signal of 1


class ChipLsnn:
    """One LSNN layer and its readout, whose synapses all learn on the chip.

    Neurons are the chip's own, cleared by a spike, with an auxiliary compartment each for the adaptation; outputs are
    compartments that never fire. Synapses of a neuron onto itself are plastic as all others are.

    An episode is :meth:`act` for each observation but the last, then :meth:`end`. In a compiled task :meth:`stretch`
    does the same, bit for bit.

    Args:
        n_outputs: Actions.
        scale: Factors of the observed numbers, shape (n_obs,): they are cut at -1 and 1 after them.
        n_lines: Lines of the critic's input code.
        rule: Learning rates, discount and so on. ``learning_rate`` is in thresholds per TD error and eligibility, the
            product of the learning signal, of x1 and of y1, each 1 where a neuron spikes on every tick, or of psi in
            place of y1; ``actor_rate`` is in logits likewise. What the chip has no place for must be off:
            ``value_coef``, ``rate_coef``, ``trace_max``, ``optimizer``.
        rng: Draws first weights, seeds of the learning engines, actions and the host's rounding.
        options: Fields of :class:`ChipLsnnParameters`, by name.

    Raises:
        ValueError: If a number is out of range or of the chip's reach, or the network is so large that the sums of its
            synapses could wrap.

    Attributes:
        program: The chip program with its first weights.
        emulator: The chip.
        feedback: B, from outputs back to neurons, shape (n_outputs, N): the readout's first weights, which stay.

    >>> rule = RewardEprop(learning_rate=0.5, actor_rate=0.2, value_coef=0.0, rate_coef=0.0)
    >>> network = ChipLsnn(2, [1.0, 12.0], 2592, rule, np.random.default_rng(0))
    >>> [(p.name, p.weights.shape) for p in network.program.projections if p.learning]
    [('input', (16, 5)), ('recurrent', (16, 16)), ('readout', (2, 16))]
    >>> network.act(np.zeros(2), np.arange(8), 0.0) in (0, 1)
    True
    """

    def __init__(
        self, n_outputs: int, scale: Any, n_lines: int, rule: RewardEprop, rng: np.random.Generator, **options: Any
    ) -> None:
        p = self.parameters = ChipLsnnParameters(**options)
        n, factors = p.n_neurons, np.array(scale, np.float64)
        self.rule, self.rng = rule, rng
        scales = _scales(p, rule)
        w_in = rng.normal(0, p.w_in_scale / np.sqrt(factors.size), (n, factors.size))
        w_in = np.stack((w_in, -w_in), axis=2).reshape(n, -1)
        w_in = np.concatenate((w_in, rng.uniform(0, p.bias_scale, (n, 1))), axis=1)
        w_rec = rng.normal(0, 0.5 / np.sqrt(n), (n, n))
        np.fill_diagonal(w_rec, 0)
        self.feedback = rng.normal(0, 3 / np.sqrt(n), (n_outputs, n))
        self.program = lsnn_program(
            p, rule, w_in, w_rec, self.feedback, rng.integers(0, 2**62, 3 * p.n_copies).tolist()
        )
        self.emulator = Emulator(self.program)
        self._loaded, self._state = self.emulator.loaded(), self.emulator.initial_state()
        lines = np.zeros(n_lines), np.zeros(n_lines), np.zeros(n_lines, np.int64), np.zeros(1, np.int64)
        self._host = kernels.Host(
            n_hidden=2 * p.n_copies,
            scale=factors,
            feedback=self.feedback,
            output_scale=float((1 - decay(np.float64(p.tau_out), 1.0)) * p.w_out_max / (LARGEST * p.n_copies) / 64),
            signal_scale=scales.signal,
            r1_scale=scales.r1,
            v_th=float(self.program.compartments.v_th[n]) if p.reads_membranes else 0.0,
            gamma=float(rule.gamma),
            trace_decay=float(rule.gamma * rule.trace_lambda),
            value_rate=float(rule.value_rate),
            reward_scale=float(rule.reward_scale),
            initial_value=float(rule.initial_value),
            carry=np.zeros(factors.size),
            last=np.zeros(2),
            critic=LineCritic(*lines),
            inputs=np.zeros((p.n_ticks, 1, 2 * factors.size + 1), np.int32),
            outputs=np.zeros((p.n_ticks, 1, self.program.outputs.size), np.int32),
            rewards=np.zeros(p.n_ticks, np.int64),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: all but views of the emulator's arrays."""
        return {name: value for name, value in vars(self).items() if name != "_loaded"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a network with the same weights, traces and random streams."""
        self.__dict__.update(state)
        self._loaded = self.emulator.loaded()

    def __copy__(self) -> ChipLsnn:
        """Return a network of its own, as ``copy.deepcopy`` does: its arrays are its state."""
        return copy.deepcopy(self)

    def reset(self) -> None:
        """Forget the episode: membranes, traces, tags, and what the host remembers."""
        kernels.forget(self._host)
        self._state[:] = 0
        self.emulator.clear_learning()

    def act(self, obs: np.ndarray, lines: np.ndarray, reward: float, progress: float = 1.0) -> int:
        """Run one env step and learn from the one before; return the action.

        Args:
            obs: What is observed, float64, shape (n_obs,).
            lines: Active lines of the critic, int64.
            reward: Reward of the step before; unused on the first of an episode.
            progress: Factor of all learning rates, by which they go down over a training.
        """
        return self._env_step(obs, lines, reward, kernels.GOES_ON, progress)

    def end(self, lines: np.ndarray, reward: float, truncated: bool, progress: float = 1.0) -> None:
        """Learn from the last reward of an episode, and forget the episode.

        Args:
            lines: Active lines of the critic for the last observation, only looked at if ``truncated``.
            reward: Last reward.
            truncated: Whether a time limit ended the episode, so that its last value counts.
            progress: Factor of all learning rates.
        """
        self._env_step(self._host.carry, lines, reward, kernels.CUT if truncated else kernels.TERMINATED, progress)
        self.reset()
        warn_of_overflow(self.emulator, self._loaded)

    def _env_step(self, obs: np.ndarray, lines: np.ndarray, reward: float, ending: int, progress: float) -> int:
        chip = self._loaded, self._state, *self.emulator.learners_for(True), self._host, self.rng
        return kernels.env_step(obs, lines, float(reward), ending, float(progress), *chip)

    def stretch(
        self,
        step: Any,
        state: np.ndarray,
        body: np.ndarray,
        obs: np.ndarray,
        keep: np.ndarray,
        shown: np.ndarray,
        coder: Any,
        changes: bool,
        action: int,
        rewards: np.ndarray,
        progress: float = 1.0,
    ) -> tuple[int, int]:
        """Act and learn in a compiled task until the next step would end the episode.

        Args:
            step: The task's step, a C function (:data:`spikeloop.envs.compiled.STEP`).
            state: State of the task, changed in place.
            body: Its constants.
            obs: Written with the last observation, shape (n_obs of the task,).
            keep: Which components of it are shown, int64.
            shown: What was shown last, float64, shape (n_obs,), changed in place.
            coder: Tables of the critic's input code (:class:`~spikeloop.spiking.encoders.tile_coding.Tiles`).
            changes: Whether that code is also of the change of each number since the step before.
            action: The action chosen last.
            rewards: Written with the reward of each step; its length is the most steps to take.
            progress: Factor of all learning rates.

        Returns:
            The number of steps, and the action chosen after them.
        """
        task = step, state, body, obs, keep, shown, coder, changes, float(progress)
        chip = self._loaded, self._state, *self.emulator.learners_for(True), self._host, self.rng
        return kernels.stretch(*task, *chip, action, rewards)

    # --- without learning

    def rest(self, n: int) -> np.ndarray:
        """Return the state of n chips at rest, and of the hosts' carries, float64, shape (1, n, W + n_obs)."""
        return np.zeros((1, n, self._state.shape[1] + self._host.scale.size))

    def advance(self, obs: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run an env step of some chips with the weights of now, without learning.

        Args:
            obs: Observations, shape (B, n_obs).
            state: From :meth:`rest` or this method, shape (1, B, W + n_obs).

        Returns:
            Logits of the actions, shape (B, n_outputs), and the new state.
        """
        width, n_ticks, scale = self._state.shape[1], self.parameters.n_ticks, self._host.scale
        inputs, carry = np.empty((len(obs), n_ticks, 1, 2 * scale.size + 1), np.int32), state[0, :, width:].copy()
        for b in range(len(obs)):
            kernels.send(np.asarray(obs[b], np.float64), scale, carry[b], inputs[b])
        sent = np.ascontiguousarray(inputs[:, :, 0].swapaxes(0, 1))
        v, chips = self.emulator.run(state[0, :, :width].astype(np.int32), n_ticks, sent, learning=False)
        return self._host.output_scale * v[-2, :, : len(self.feedback)], np.concatenate((chips, carry), axis=1)[None]

    @property
    def value(self) -> float:
        """The critic's value on the step before."""
        return float(self._host.last[0])

    @property
    def spike_counts(self) -> np.ndarray:
        """Spikes of each neuron so far, shape (N,)."""
        n = self.parameters.n_neurons
        return self.emulator.counts.spikes[n : 2 * n]

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return all that learning goes on from between two episodes, as copies."""
        own = {"feedback": self.feedback.copy(), "values": self._host.critic.w.copy()}
        return {**self.emulator.state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned.

        Raises:
            ValueError: If an array is missing or its shape is not that of this network.
        """
        found = arrays_like(self.state_dict(), state)
        self.reset()
        self.feedback[:], self._host.critic.w[:] = found.pop("feedback"), found.pop("values")
        self.emulator.load_state_dict(found)

    def program_now(self) -> Program:
        """Return the program with the weights of now."""
        return self.emulator.program_now()


def _scales(p: ChipLsnnParameters, rule: RewardEprop) -> _Scales:
    """Return by what the host brings about the rates of a rule; y3 of the readout's errors is always as large."""
    for name, value in _ABSENT.items():
        if getattr(rule, name) != value:
            raise ValueError(f"{name} must be {value} on the chip, got {getattr(rule, name)!r}")
    hidden, readout = (p.w_max, p.w_out_max) * np.array(rates_of(1.0, 1.0, p.reads_membranes))
    r1 = rule.actor_rate / readout if rule.actor_rate else rule.learning_rate / hidden / (_SIGNAL / 2)
    signal = rule.learning_rate / hidden / r1 if r1 else 0.0
    if signal > _SIGNAL:
        most = rule.learning_rate * _SIGNAL / signal
        raise ValueError(
            f"learning_rate must be at most {most:.3g} on the chip, as y3 has 7 bits and actor_rate is "
            f"{rule.actor_rate:.3g}; got {rule.learning_rate:.3g}"
        )
    return _Scales(float(r1), float(signal))
