"""Neurons that draw their spikes by the chip's noise and learn there from their score, and the host beside them.

``GLM("ChipGlmPolicy", env, backend=ChipGlm)`` trains them, as ``spikeloop train --algo glm --backend chip`` does.

========================================== ==========================================================
the chip, in integers                      the host, in floating point
========================================== ==========================================================
membranes: filtered spikes times weights   observation -> input spikes, drawn from tuning curves
noise, and with it the spikes of outputs   the first spike is the action; breaks ties
trace of every input's spikes              score of each output on each tick, from v and the spike: y3
tags: trace times score, their decay       when tags decay: y1
weights: r1 times tag                      critic on input lines, TD error: r1
========================================== ==========================================================

So of the three factors of the policy gradient the chip computes the source's, and their products; the host computes
the TD error, and of the target's factor the chance of a spike, by a table (:func:`~glm_program.spike_chances`). What is
drawn is drawn by the chip. Membranes and traces go on from one env step to the next, and are cleared between episodes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from spikeloop.hardware.learning.score import loss_of, step_of, tag_of
from spikeloop.hardware.loihi import glm_learner_kernels as kernels
from spikeloop.hardware.loihi.emulator import Emulator
from spikeloop.hardware.loihi.glm_program import LARGEST, ChipGlmParameters, glm_program, spike_chances
from spikeloop.hardware.loihi.interpreter import resting_state
from spikeloop.hardware.loihi.overflows import warn_of_overflow
from spikeloop.hardware.loihi.program import Program
from spikeloop.spiking.checks import arrays_like
from spikeloop.spiking.first_to_spike import first_to_spike
from spikeloop.spiking.rules.glm import RewardGlm
from spikeloop.spiking.rules.glm_kernels import forget_lines

_MOST = 127  # of y3 and r1
_FEW, _ENOUGH = 0.01, 1000  # the share of TD errors that may be cut without a warning, and env steps to tell it by


class ChipGlm:
    """Outputs that draw their spikes, whose synapses learn on the chip.

    An episode is :meth:`act` for each observation but the last, then :meth:`end`. In a compiled task :meth:`stretch`
    does the same, bit for bit.

    Args:
        n_inputs: Input lines.
        n_outputs: Actions.
        n_lines: Lines of the critic's input code.
        rule: Learning rates at their highest, discount and so on; ``bias_rate`` must be 0, as thresholds do not learn.
        rng: Seeds noise and learning engines; draws the host's rounding and ties.
        options: Fields of :class:`ChipGlmParameters`, by name.

    Raises:
        ValueError: If a number is out of range or of the chip's reach.

    Attributes:
        program: The chip program with its first weights.
        emulator: The chip.
        counts: Env steps, their ticks, 0, output spikes, and TD errors beyond r1's range, which were cut to its ends;
            since they were last set to 0, shape (5,).

    >>> network = ChipGlm(40, 2, 2592, RewardGlm(), np.random.default_rng(0))
    >>> [(p.name, p.weights.shape) for p in network.program.projections]
    [('input', (2, 40))]
    >>> network.act(np.ones((8, 40)), np.arange(8), 0.0) in (0, 1)
    True
    """

    def __init__(
        self, n_inputs: int, n_outputs: int, n_lines: int, rule: RewardGlm, rng: np.random.Generator, **options: Any
    ) -> None:
        p = self.parameters = ChipGlmParameters(**options)
        self.rule, self.rng = rule, rng
        r1_scale = _r1_scale(p, rule)
        seeds = rng.integers(0, 2**62, p.n_copies).tolist()
        self.program = glm_program(n_inputs, n_outputs, p, rule.learning_rate > 0, seeds)
        self.emulator = Emulator(self.program, rng)
        self._loaded, self._state = self.emulator.loaded(), self.emulator.initial_state()
        self._warned_of_cuts = False
        chances, scores = spike_chances(p)
        self._chances, self.counts = chances, np.zeros(5)
        self._host = kernels.Host(
            n_ticks=p.n_ticks,
            first_z=self.emulator.layout.start("z") + p.n_noise * n_outputs,
            v_th=p.v_th,
            unit=p.unit,
            most=p.most,
            scores=_MOST / p.score_max * scores,
            loss=loss_of(rule.gamma * rule.trace_lambda),
            r1_scale=r1_scale,
            gamma=float(rule.gamma),
            decay=float(rule.gamma * rule.trace_lambda),
            value_rate=float(rule.value_rate),
            reward_scale=float(rule.reward_scale),
            initial_value=float(rule.initial_value),
            v=np.zeros(n_lines),
            e_v=np.zeros(n_lines),
            live=np.zeros(n_lines, np.int64),
            n_live=np.zeros(1, np.int64),
            value=np.zeros(1),
            begun=np.zeros(1, bool),
            counts=self.counts,
            inputs=np.zeros((1, 1, n_inputs), np.int32),
            outputs=np.zeros((1, 1, n_outputs), np.int32),
            rewards=np.zeros(1, np.int64),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: all but views of the emulator's arrays."""
        return {name: value for name, value in vars(self).items() if name != "_loaded"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a network with the same weights, traces and random streams."""
        self.__dict__.update(state)
        self.emulator.seed_noise(self.rng)
        self._host = self._host._replace(counts=self.counts)
        self._loaded = self.emulator.loaded()

    def __copy__(self) -> ChipGlm:
        """Return a network of its own, as ``copy.deepcopy`` does: its arrays are its state."""
        return copy.deepcopy(self)

    def reset(self) -> None:
        """Forget the episode: membranes, traces, tags, and what the host remembers; the noise goes on anew."""
        forget_lines(self._host)
        self._host.begun[0] = False
        self._state = self.emulator.initial_state()
        self.emulator.clear_learning()

    def act(self, x: np.ndarray, lines: np.ndarray, reward: float, progress: float = 1.0) -> int:
        """Run one env step and learn from the one before; return the action.

        Args:
            x: Input spikes of each tick, 0 or 1, float64, shape (K, n_inputs), or (1, n_inputs) where they are held.
            lines: Active lines of the critic, int64.
            reward: Reward of the step before; unused on the first of an episode.
            progress: Factor of all learning rates, by which they go down over a training.
        """
        return self._env_step(x, lines, reward, kernels.GOES_ON, progress)

    def end(self, lines: np.ndarray, reward: float, truncated: bool, progress: float = 1.0) -> None:
        """Learn from the last reward of an episode, and forget the episode.

        Args:
            lines: Active lines of the critic for the last observation, only looked at if ``truncated``.
            reward: Last reward.
            truncated: Whether a time limit ended the episode, so that its last value counts.
            progress: Factor of all learning rates.
        """
        ending = kernels.CUT if truncated else kernels.TERMINATED
        self._env_step(np.zeros((1, self.program.n_inputs)), lines, reward, ending, progress)
        self.reset()
        warn_of_overflow(self.emulator, self._loaded)
        n_steps, n_cut = self.counts[[0, 4]]
        if not self._warned_of_cuts and n_cut > _FEW * max(n_steps, _ENOUGH):
            self._warned_of_cuts = True
            warnings.warn(
                f"{n_cut / n_steps:.0%} of TD errors are beyond the range of the chip's r1 and are cut: a lower "
                "learning_rate or reward_scale makes them smaller there",
                stacklevel=2,
            )

    def _env_step(self, x: np.ndarray, lines: np.ndarray, reward: float, ending: int, progress: float) -> int:
        r1 = self.criticise(lines, float(reward), ending, float(progress))
        chip = self._loaded, self._state, *self.emulator.learners_for(True), self._host, self.rng
        return kernels.env_step(x, r1, ending, *chip)

    def criticise(self, lines: np.ndarray, reward: float, ending: int, progress: float) -> int:
        """Learn the value of the step before, and return its TD error as the chip gets it."""
        return kernels.criticise(lines, reward, ending, progress, self._host, self.rng)

    def stretch(
        self,
        step: Any,
        state: np.ndarray,
        body: np.ndarray,
        obs: np.ndarray,
        keep: np.ndarray,
        shown: np.ndarray,
        curves: Any,
        key: np.ndarray,
        coder: Any,
        x: np.ndarray,
        action: int,
        rewards: np.ndarray,
        progress: float = 1.0,
    ) -> tuple[int, int]:
        """Act and learn in a compiled task until the next step would end the episode.

        Args:
            step: The task's step, a C function (:data:`spikeloop.envs.compiled.STEP`).
            state: State of the task, changed in place.
            body: Its constants.
            obs: Room for an observation of the task, shape (n_obs of the task,).
            keep: Which components of it are shown, int64.
            shown: What was shown last, float64, shape (n_obs,), changed in place.
            curves: The tuning curves of the input code.
            key: Key of the input's random spikes, shape (1,); overwritten.
            coder: Tables of the critic's input code.
            x: Room for the input, as :meth:`act` takes it.
            action: The action chosen last.
            rewards: Written with the reward of each step; its length is the most steps to take.
            progress: Factor of all learning rates.

        Returns:
            The number of steps, and the action chosen after them.
        """
        task = step, state, body, obs, keep, shown, curves, key, coder, x, float(progress)
        chip = self._loaded, self._state, *self.emulator.learners_for(True), self._host, self.rng
        return kernels.stretch(*task, *chip, action, rewards)

    # --- without learning

    @property
    def state_width(self) -> int:
        """Numbers W of a chip's state."""
        return self._state.shape[1]

    def rest(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return the state of n chips at rest, int32, shape (n, W), whose noise is seeded by a generator."""
        return resting_state(self.program, n, rng)

    def cleared(self, state: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the state of some chips, shape (B, W), those of a mask at rest; their noise goes on."""
        state = state.copy()
        state[mask, 3:] = 0
        state[mask, 0] = 0
        return state

    def play(self, x: np.ndarray, state: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Run an env step of some chips as in training, with the weights of now, without learning.

        Args:
            x: Input spikes, shape (K or 1, B, n_inputs).
            state: From :meth:`rest` or this method, shape (B, W).
            rng: Breaks ties.

        Returns:
            The actions, shape (B,), and the new state.
        """
        n_outputs, going = self.program.outputs.size, np.ones(len(state), bool)
        last = np.zeros((len(state), n_outputs), bool)
        for k in range(self.parameters.n_ticks):
            _, after = self.emulator.run(state, 1, self._ticks(x, k), learning=False)
            state = np.where(going[:, None], after, state)
            spikes = after[:, self._host.first_z : self._host.first_z + n_outputs] > 0
            last[going] = spikes[going]
            going = going & ~spikes.any(axis=1)
            if not going.any():
                break
        _, state = self.emulator.run(state, 1, learning=False)  # the tick in which training learns
        last[~last.any(axis=1)] = True
        actions = (rng.random(last.shape) * last).argmax(axis=1)
        return actions, state

    def chances(self, x: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how likely each action is given the input's spikes, in closed form, after an env step of K ticks.

        Args:
            x: Input spikes, shape (K or 1, B, n_inputs).
            state: From :meth:`rest` or this method, shape (B, W).

        Returns:
            Chances, shape (B, n_outputs), and the state after all K ticks and one more.
        """
        host, v = self._host, []
        for k in range(self.parameters.n_ticks):
            outputs, state = self.emulator.run(state, 1, self._ticks(x, k), learning=False)
            v.append(outputs[0])
        _, state = self.emulator.run(state, 1, learning=False)
        at = np.clip((host.v_th - np.array(v)) // host.unit + host.most + 1, 0, len(self._chances) - 1)
        return first_to_spike(self._chances[at]), state

    @staticmethod
    def _ticks(x: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(x[min(k, len(x) - 1)], np.int32)[None]

    @property
    def value(self) -> float:
        """The critic's value on the step before."""
        return float(self._host.value[0])

    def weights(self) -> np.ndarray:
        """Return the weights of now in logits, shape (n_outputs, n_inputs)."""
        stored = np.sum([self.emulator.weights(i) for i in range(self.parameters.n_copies)], axis=0)
        return stored * (self.parameters.w_max / (LARGEST * self.parameters.n_copies))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return all that learning goes on from between two episodes, as copies."""
        return {**self.emulator.state_dict(), "values": self._host.v.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned.

        Raises:
            ValueError: If an array is missing or its shape is not that of this network.
        """
        found = arrays_like(self.state_dict(), state)
        self.reset()
        self._host.v[:] = found.pop("values")
        self.emulator.load_state_dict(found)

    def program_now(self) -> Program:
        """Return the program with the weights of now."""
        return self.emulator.program_now()


def _r1_scale(p: ChipGlmParameters, rule: RewardGlm) -> float:
    """Return r1 for a TD error of 1 by which a rule's learning rate comes about."""
    if rule.bias_rate:
        raise ValueError(f"bias_scale must be 0.0 on the chip, whose thresholds do not learn, got {rule.bias_rate!r}")
    stored = rule.learning_rate * LARGEST / p.w_max  # of each copy, by a TD error and an eligibility of 1
    return stored / step_of(1.0, tag_of(p.tau_s, _MOST / p.score_max))
