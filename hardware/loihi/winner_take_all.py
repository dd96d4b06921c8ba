"""The winner-take-all actor-critic on the emulated chip: neuro-cores learn by rule text, the host forms the TD error.

An env step is 2^k ticks, with the same input lines active on each. What happens where:

- Neuro-cores hold the synapses and learn (:mod:`spikeloop.hardware.learning.actor_critic` has the rules). A plastic
  synapse list takes two of a core's 4096 input axons, so the lines are split into parts of 2048; each part has a core
  with one compartment per action, and a core with one for the critic. They never fire: v is the sum of the tick's
  weights.
- The embedded CPU reads these partial sums on every tick, adds those of all parts, adds noise to the actions' (the sum
  of two uniform integers, its own: a compartment's noise would grow with the number of parts), and sends the spike of
  the largest back to the actor's learning engines as the postsynaptic spike. At the end of the env step it reads the
  critic, forms the TD error and sends it, rounded at random to r1's 8 bits, as the reward of the last tick.

That the CPU can raise the posttraces of a compartment that does not fire is an assumption. All parts share one engine
here: the draws that round y1 are theirs in common, where each core would have its own.

Sums are computed here for the lines that are active only; ``program`` is the same as a chip program, whose sums in the
emulator are the same numbers. Weights are 8 bits, ``residue`` gives each four more that only learning sees, and
``wide_shift`` products that keep all their bits: extensions that no Loihi has.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from spikeloop.hardware.learning.actor_critic import WEIGHT_ONE, actor_rule, critic_rule
from spikeloop.hardware.learning.c_functions import c_function
from spikeloop.hardware.learning.engine import Learner, no_draws
from spikeloop.hardware.learning.kernels import SEED, TICK
from spikeloop.hardware.loihi import winner_take_all_kernels as kernels
from spikeloop.hardware.loihi.chip import CHIPS, PROFILES
from spikeloop.hardware.loihi.program import Compartments, Program, Projection
from spikeloop.hardware.loihi.resources import check_limits
from spikeloop.spiking.checks import arrays_like
from spikeloop.spiking.rules.plastic_network import active_lines, runs_compiled_tasks
from spikeloop.spiking.rules.winner_take_all import WinnerTakeAllParameters, first_neurons

CHIP = "loihi1"
_WEIGHT_MAX, _STEP, _RESIDUE = 254, 2, 16  # mixed 8-bit weights are even; the residue is in 1/16 of their step
_STREAM = [TICK, SEED]  # of a learner's scalars: where its counter-based random numbers stand
_MOST_ACTIVE = 2 ** (PROFILES[CHIPS[CHIP].profile].input_bits - 6) // _WEIGHT_MAX  # lines whose sum cannot wrap


@runs_compiled_tasks
class ChipWinnerTakeAll:
    """The rule's network on the chip: a :class:`~spikeloop.spiking.rules.plastic_network.PlasticNetwork`.

    Args:
        n_inputs: Number of input lines.
        n_outputs: Number of actions.
        parameters: The rule's numbers; ``eligibility_floor`` does not apply, tags end where their bits do.
        rng: Source of the noise, of the modulator's rounding and of the learning engines' seeds.
        n_ticks: Ticks per env step, a power of 2 from 2 to 64: the rules act on every 2^k-th.
        residue: Whether each weight has a second synapse with four more bits. No Loihi has.
        wide_shift: Whether products keep all their bits. No Loihi does.
        w_max: Weight of the actor that is stored as 254, the largest; that of the parameters if None.
        value_unit: Value of one unit of the critic's weights, of which there are 254.
        r1_scale: r1 for a modulator of 1; beyond 127 it saturates.
        tau_y: Time constant of a winner's running mean, in ticks.
        circuits: Neurons of each winner-take-all circuit, one after another; None for one circuit of all.

    Attributes:
        actor: The actor's learning engine.
        critic: The critic's.

    Raises:
        ValueError: If a number is out of range, the chip cannot hold the rule, or has too few cores for the lines.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        parameters: WinnerTakeAllParameters,
        rng: np.random.Generator,
        *,
        n_ticks: int = 4,
        residue: bool = True,
        wide_shift: bool = False,
        w_max: float | None = None,
        value_unit: float = 2.0**-10,
        r1_scale: float = 256.0,
        tau_y: float = 2.0,
        circuits: Sequence[int] | None = None,
    ):
        if n_inputs < 1 or n_outputs < 1:
            raise ValueError(f"n_inputs and n_outputs must be at least 1, got {n_inputs} and {n_outputs}")
        w_max = parameters.w_max if w_max is None else w_max
        if n_ticks not in (2, 4, 8, 16, 32, 64):
            raise ValueError(f"n_ticks must be a power of 2 from 2 to 64 on the chip, got {n_ticks}")
        for name, number in (("w_max", w_max), ("value_unit", value_unit), ("r1_scale", r1_scale)):
            if not 0 < number < np.inf:
                raise ValueError(f"{name} must be a number > 0, got {number}")
        k, p = n_ticks.bit_length() - 1, parameters
        common: dict[str, Any] = {"k": k, "extended": wide_shift}
        lr, value_lr = p.learning_rate / w_max, p.value_learning_rate
        actor = actor_rule(lr or 1.0, r1_scale, 1 - p.eligibility_decay, tau_y=tau_y, **common)
        critic = critic_rule(value_lr or 1.0, r1_scale, 1 - p.eligibility_decay, value_unit, **common)
        rules = (
            replace(rule, residue_bits=4 if residue else 0) if rate else replace(rule, residue_bits=0, dw="")
            for rule, rate in ((actor, lr), (critic, value_lr))
        )
        seeds = rng.integers(0, 2**62, 2).tolist()
        self.actor, self.critic = (
            Learner(rule, np.zeros((n, n_inputs), int), seed=seed)
            for rule, n, seed in zip(rules, (n_outputs, 1), seeds, strict=True)
        )
        self.rng, self.residue, self.w_max = rng, residue, w_max
        self.circuits, self.n_ticks = first_neurons(circuits, n_outputs), n_ticks
        self.learning = self.exploring = True
        self._engines = _engine(self.actor), _engine(self.critic)
        self._epoch = kernels.Epoch(
            lines=np.zeros(n_inputs, np.int32),
            n_lines=np.zeros(1, np.int64),
            winners=np.zeros(n_ticks * (len(self.circuits) - 1), np.int32),
            counts=np.zeros(n_outputs, np.int64),
        )
        deviation = WEIGHT_ONE * p.noise / w_max
        self._host = kernels.Host(
            noise=round((np.sqrt(1 + 6 * deviation**2) - 1) / 2),  # of two uniforms: variance 2/3 noise (noise + 1)
            value_offset=float(p.value_offset),
            value_unit=float(value_unit),
            r1_scale=float(r1_scale),
        )
        check_limits(self.program)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: all but the kernels, and the engines, which are the learners' arrays."""
        return {name: value for name, value in vars(self).items() if name not in ("_learn", "_engines")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a network with the same weights, tags, traces and random streams."""
        self.__dict__.update(state)
        self._engines = _engine(self.actor), _engine(self.critic)
        if "circuits" not in state:  # a copy of before
            self.circuits, self.n_ticks = first_neurons(None, self.actor.n_post), len(self._epoch.winners)

    def __copy__(self) -> ChipWinnerTakeAll:
        """Return a network of its own, as ``copy.deepcopy`` does: its arrays are its state."""
        return copy.deepcopy(self)

    @cached_property
    def _learn(self) -> tuple[Any, Any]:
        """The learning engines' kernels; compiled for what learns, not for what only acts."""
        return c_function(self.actor.source), c_function(self.critic.source)

    # --- the protocol

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Clear tags and traces, as an episode begins; the only environment may be spared by ``mask``."""
        if mask is None or np.all(mask):
            self.actor.clear()
            self.critic.clear()

    def run(self, x: np.ndarray, n_ticks: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Run one env step.

        Args:
            x: The lines that spike on every tick, each once, shape (n_active,).
            n_ticks: Ticks of the env step; those that the rules are made for.

        Returns:
            Spikes of each action in the env step, on its last tick, and the value.

        Raises:
            ValueError: If a line does not exist or stands there twice, too many are active, or the number of ticks is
                another.
        """
        lines = active_lines(x, self.actor.n_pre)
        if n_ticks != self.n_ticks:
            raise ValueError(f"n_ticks must be the chip's {self.n_ticks}, got {n_ticks}")
        if lines.size > _MOST_ACTIVE:
            raise ValueError(f"at most {_MOST_ACTIVE} lines may be active, or sums wrap; got {lines.size}")
        state = (*self._engines, self._epoch, self._host, self.circuits)
        winners = np.empty(len(self.circuits) - 1, np.int64)
        value = kernels.run(*state, lines, self.learning, self.exploring, self.rng, winners)
        last = np.zeros(self.actor.n_post, np.int64)
        last[self.circuits[:-1] + winners] = 1
        return self._epoch.counts.copy(), last, value

    def reinforce(self, modulator: float) -> None:
        """Learn from the modulator of the action before, and tag the synapses of the latest one."""
        engines = (*self._learn, *self._engines, self._epoch, self._host)
        kernels.reinforce(*engines, self.n_ticks, float(modulator), self.rng)

    def closed_loop(
        self,
        step: Any,
        state: np.ndarray,
        body: np.ndarray,
        obs: np.ndarray,
        coder: Any,
        n_ticks: int,
        modulation: tuple[int, float, float, float, float],
        baseline: np.ndarray,
        action: np.ndarray | int,
        value: float,
        rewards: np.ndarray,
        values: np.ndarray | None = None,
        n_rows: int = 1,
    ) -> tuple[int, np.ndarray, float]:
        """Act in a compiled task; see :meth:`spikeloop.spiking.rules.winner_take_all.WinnerTakeAll.closed_loop`."""
        engines = (*self._learn, *self._engines, self._epoch, self._host, self.circuits)
        network = (*engines, self.learning, self.exploring, self.rng)
        winners = np.array(action, np.int64, ndmin=1)
        n_steps, value = kernels.closed_loop(
            step, state, body, obs, coder, *network, modulation, baseline, values, n_rows, winners, value, rewards
        )
        return n_steps, winners, value

    # --- weights

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what was learnt: ``w`` (n_outputs, n_inputs), ``v`` (n_inputs,), residues, and the random streams."""
        state = {}
        for name, learner in (("w", self.actor), ("v", self.critic)):
            weights, residue = learner.w, learner.residue
            state[name] = (weights if name == "w" else weights[0]).astype(np.int16)
            state[f"{name}_residue"] = (residue if name == "w" else residue[0]).astype(np.int16)
            state[f"{name}_stream"] = learner.arrays[5][_STREAM].copy()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the tags are not among it.

        Raises:
            ValueError: If an array is missing or its shape is not that of this network.
        """
        found = arrays_like(self.state_dict(), state)
        for name, learner in (("w", self.actor), ("v", self.critic)):
            learner.write("w", found[name].reshape(learner.w.shape))
            learner.residue[:] = found[f"{name}_residue"].reshape(learner.w.shape)
            learner.arrays[5][_STREAM] = found[f"{name}_stream"]

    def load_float(self, state: Mapping[str, Any]) -> None:
        """Take over a :class:`~spikeloop.spiking.rules.winner_take_all.WinnerTakeAll`'s weights, rounded to the chip's.

        Args:
            state: Its ``state_dict()``; weights beyond the chip's largest become the largest.

        Raises:
            ValueError: If an array is missing or its shape is not that of this network.
        """
        units = WEIGHT_ONE / self.w_max, 1 / self._host.value_unit
        for name, learner, unit in zip(("w", "v"), (self.actor, self.critic), units, strict=True):
            exact = np.asarray(state[name], np.float64)
            if exact.shape != (learner.w.shape if name == "w" else learner.w.shape[1:]):
                raise ValueError(f"{name} must be of the network's {learner.w.shape}, got {exact.shape}")
            finest = _RESIDUE if self.residue else 1
            steps = np.round(exact.reshape(learner.w.shape) * unit / _STEP * finest).astype(np.int64)
            most = _WEIGHT_MAX // _STEP * finest
            steps = np.clip(steps, -most, most)
            learner.write("w", steps // finest * _STEP)
            learner.residue[:] = steps % finest

    @property
    def updates_per_core(self) -> np.ndarray:
        """Synapses that learning has computed so far, for each core that learns.

        :func:`~spikeloop.hardware.energy.learning_cost` takes it. The counts of actor and critic are exact; each is
        assumed to be spread evenly over its cores.
        """
        n_parts = -(-self.actor.n_pre // (CHIPS[CHIP].input_axons // 2))
        return np.repeat([self.actor.updates / n_parts, self.critic.updates / n_parts], n_parts)

    @property
    def program(self) -> Program:
        """The network as a chip program with its weights of now; one part of the lines after another, actor first."""
        n_inputs, n_outputs = self.actor.n_pre, self.actor.n_post
        n_lines = CHIPS[CHIP].input_axons // 2
        learners = {"actor": self.actor, "critic": self.critic}
        projections: list[Projection] = []
        groups: list[tuple[str, int, int]] = []
        core: list[int] = []
        for part, first in enumerate(range(0, n_inputs, n_lines)):
            lines = np.arange(first, min(first + n_lines, n_inputs))
            for name, learner in learners.items():
                post = len(core) + np.arange(learner.n_post)
                weights = learner.w[:, lines]
                projections.append(Projection(f"{name} {part}", True, lines, post, weights, plastic=True))
                groups.append((f"{name} {part}", int(post[0]), int(post[-1]) + 1))
                core += [2 * part + (name == "critic")] * learner.n_post
        compartments = Compartments.build(len(core), decay_v=4096, fires=0, core=core)
        return Program(
            chip=CHIP,
            profile=CHIPS[CHIP].profile,
            n_inputs=n_inputs,
            compartments=compartments,
            projections=tuple(projections),
            outputs=np.arange(len(core)),
            groups=tuple(groups),
            input_latency=0,
            metadata={"n_actions": str(n_outputs), "actor": _text(self.actor), "critic": _text(self.critic)},
        )


def _text(learner: Learner) -> str:
    return f"dw = {learner.rule.dw}; dt = {learner.rule.dt}"


def _engine(learner: Learner) -> kernels.Engine:
    nothing_written = np.zeros((0, 0), np.int32)
    return kernels.Engine._make((*learner.arrays, nothing_written, *no_draws(learner.rule)))
