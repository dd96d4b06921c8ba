"""R-STDP that solves tasks: a winner-take-all actor and a graded critic, taught by one modulator.

An env step is K ticks with the same input lines active on each of them, x_i = 1, all others silent. In code order, for
weights w_ji of line i onto action neuron j, critic weights v_i, and Gaussian noise ξ of variance 1:

    run         u_j = Σ_i w_ji x_i + σ ξ        on every tick; in each circuit the largest u_j spikes and inhibits
                                                the others
                V   = V0 + Σ_i v_i x_i
                y_j = spikes of j in the env step / K,   z_j = 1 for the last tick's winner, which is the action
    reinforce   w_ji <- clip(w_ji + η M e_ji, -w_max, w_max)        M: the modulator of the action before
                v_i  <- v_i + η_v M f_i
                e_ji <- d e_ji,  f_i <- d f_i;  both 0 where f_i < floor
                e_ji <- clip(e_ji + x_i (z_j - y_j), -1, 1)         x_i z_j: potentiation, -x_i y_j: depression
                f_i  <- min(f_i + x_i, 1)

Three factors change a weight: a spike before, a spike after, and a modulator that all synapses share (Florian 2007,
Izhikevich 2007); with a TD error for the modulator it is an actor-critic (Barto, Sutton & Anderson 1983; Frémaux,
Sprekeler & Gerstner 2013). It is a rule of rates: input lines are active on all ticks, u neither integrates nor resets,
and the order of the ticks before the last changes nothing. Populations that spike, and learn from when they do, are in
:mod:`spikeloop.spiking.rules.populations`.

For independent ticks the mean of z_j - y_j given the action is (1 - 1/K) (1[action = j] - π_j), with π_j the chance
to win a tick, so K = 1 cannot learn. That has the form of the score of a softmax; as the noise is Gaussian, π is a
probit. |e_ji| <= f_i at all times, so one floor serves both.

There may be several circuits of action neurons, side by side: each has a winner of its own, and all share the lines,
the noise's strength and the modulator. So a policy chooses several actions at once, each by the equations above.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from spikeloop.spiking import checks
from spikeloop.spiking.encoders import tile_kernels
from spikeloop.spiking.neurons.base import Neurons
from spikeloop.spiking.rules import winner_take_all_kernels
from spikeloop.spiking.rules.base import Post, typed
from spikeloop.spiking.rules.plastic_network import active_lines, check_code, runs_compiled_tasks


@dataclass(frozen=True)
class WinnerTakeAllParameters:
    """The numbers of the rule.

    Args:
        learning_rate: η, step of the actor's weights.
        value_learning_rate: η_v, step of the critic's weights.
        eligibility_decay: d, decay of the eligibilities per env step; γ λ in an actor-critic.
        noise: σ, standard deviation of the noise of a tick, in units of u.
        value_offset: V0, the value where nothing was learnt; the best attainable one makes the critic optimistic.
        w_max: Bound of the actor's weights.
        eligibility_floor: What decays below it becomes zero. The time of an env step grows with the number of input
            lines whose eligibility is not zero, so a floor keeps it short.

    Raises:
        ValueError: If a number is out of range.

    >>> WinnerTakeAllParameters(eligibility_decay=2)
    Traceback (most recent call last):
    ValueError: eligibility_decay must be between 0 and 1, got 2
    """

    learning_rate: float = 0.1
    value_learning_rate: float = 0.0375
    eligibility_decay: float = 0.8
    noise: float = 0.3
    value_offset: float = 0.0
    w_max: float = 1.0
    eligibility_floor: float = 1e-3

    def __post_init__(self) -> None:
        """Validate the fields."""
        for name in ("learning_rate", "value_learning_rate", "noise"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)}")
        if not 0 <= self.eligibility_decay <= 1:
            raise ValueError(f"eligibility_decay must be between 0 and 1, got {self.eligibility_decay}")
        if not np.isfinite(self.value_offset):
            raise ValueError(f"value_offset must be finite, got {self.value_offset}")
        if not self.w_max > 0:
            raise ValueError(f"w_max must be > 0, got {self.w_max}")
        if not 0 < self.eligibility_floor < 1:
            raise ValueError(f"eligibility_floor must be between 0 and 1, got {self.eligibility_floor}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over the fields of a pickle; those of earlier versions called the eligibilities tags."""
        former = {"tag_decay": "eligibility_decay", "tag_floor": "eligibility_floor"}
        vars(self).update({former.get(name, name): value for name, value in state.items()})


class WinnerTakeAllTraces(NamedTuple):
    """What the synapses of the rule remember; the last of their neurons is the critic."""

    e: np.ndarray
    """Eligibilities, those of the critic in the last row, shape (n_actions + 1, n_inputs)."""
    x: np.ndarray
    """Lines that spike in the latest env step, shape (n_inputs,)."""
    n_spikes: np.ndarray
    """Spikes of each neuron in the latest env step, shape (n_actions + 1,)."""
    z: np.ndarray
    """Spikes of the last tick, shape (n_actions + 1,)."""
    tick: int
    """Ticks of the latest env step, 0 where the next one begins."""


class WinnerTakeAllConstants(NamedTuple):
    """Constants of the rule's equations."""

    learning_rate: float
    value_learning_rate: float
    eligibility_decay: float
    eligibility_floor: float
    w_max: float
    n_ticks: int


@dataclass(frozen=True)
class WinnerTakeAllRule:
    """The rule's equations on one projection: from the input lines onto the action neurons and, last, the critic.

    The signal is the modulator, given on the last tick of an env step, 0 on all others. It concerns the env steps
    before the latest, which is counted in when the next one begins.

    Args:
        parameters: The rule's numbers.
        n_ticks: Ticks K of an env step.

    >>> rule = WinnerTakeAllRule(n_ticks=2)
    >>> c, traces = rule.constants(1.0, np.float64), rule.begin(3, 1, np.float64)  # two actions, the critic, one line
    >>> for z in ([1, 0, 0], [0, 1, 0], [0, 1, 0]):  # an env step that the second neuron ends, and the next one's begin
    ...     traces = rule.tick(np.ones(1), Post(np.array(z)), traces, c)
    >>> traces.e.T
    array([[-0.5,  0.5,  1. ]])
    """

    n_factors: ClassVar[int] = 3

    parameters: WinnerTakeAllParameters = WinnerTakeAllParameters()
    n_ticks: int = 5

    def constants(self, dt: float, dtype: npt.DTypeLike, neurons: Neurons | None = None) -> WinnerTakeAllConstants:
        """Return the constants; a decay per env step does not depend on the length of a tick."""
        c = typed(WinnerTakeAllConstants, {**vars(self.parameters), "n_ticks": self.n_ticks}, dtype)
        return c._replace(n_ticks=self.n_ticks)

    def begin(self, n_post: int, n_pre: int, dtype: npt.DTypeLike) -> WinnerTakeAllTraces:
        """Return the traces where an episode begins."""
        e, x, n_spikes, z = (np.zeros(shape, dtype) for shape in ((n_post, n_pre), n_pre, n_post, n_post))
        return WinnerTakeAllTraces(e, x, n_spikes, z, 0)

    @staticmethod
    def tick(
        pre: np.ndarray, post: Post, traces: WinnerTakeAllTraces, c: WinnerTakeAllConstants
    ) -> WinnerTakeAllTraces:
        """Count the spikes of a tick and, on the first of an env step, the step before into the eligibilities.

        e_ji <- d e_ji;  0 where d f_i < floor                      f: the critic's row of e
        e_ji <- clip(e_ji + x_i (z_j - y_j), -1, 1)                 y_j = spikes of j in the step before / K
        f_i  <- min(f_i + x_i, 1)
        """
        if traces.tick > 0:
            return traces._replace(
                x=pre, n_spikes=traces.n_spikes + post.z, z=post.z, tick=(traces.tick + 1) % c.n_ticks
            )
        decayed = c.eligibility_decay * traces.e
        kept = np.where(decayed[-1] >= c.eligibility_floor, decayed, 0)
        surprise = traces.z - traces.n_spikes / c.n_ticks
        surprise[-1] = 1  # the critic does not spike: whatever it values is eligible
        e = np.clip(kept + surprise[:, None] * traces.x, -1, 1)
        return WinnerTakeAllTraces(e, pre, 0 + post.z, post.z, 1 % c.n_ticks)

    @staticmethod
    def change(w: np.ndarray, traces: WinnerTakeAllTraces, signal: float, c: WinnerTakeAllConstants) -> np.ndarray:
        """Return the weights after the modulator M.

        w_ji <- clip(w_ji + η M e_ji, -w_max, w_max)
        v_i  <- v_i + η_v M f_i                                     v: the critic's row of w
        """
        actor = np.clip(w[:-1] + c.learning_rate * signal * traces.e[:-1], -c.w_max, c.w_max)
        return np.concatenate((actor, w[-1:] + c.value_learning_rate * signal * traces.e[-1:]))


def first_neurons(circuits: Sequence[int] | None, n_outputs: int) -> np.ndarray:
    """Return the first neuron of each winner-take-all circuit, and the end of the last, shape (n_circuits + 1,).

    >>> first_neurons([3, 2], n_outputs=5)
    array([0, 3, 5])
    """
    sizes = (n_outputs,) if circuits is None else tuple(circuits)
    if min(sizes, default=0) < 1 or sum(sizes) != n_outputs:
        raise ValueError(f"circuits must be numbers of neurons that make {n_outputs}, got {sizes}")
    return np.cumsum((0, *sizes))


@runs_compiled_tasks
class WinnerTakeAll:
    """The rule's network, in float64: a :class:`~spikeloop.spiking.rules.plastic_network.PlasticNetwork`.

    The time of an env step grows with the lines that are active and the eligibilities that are not zero, not with
    ``n_inputs``. Several Python threads may use one network: one call waits for another.

    Args:
        n_inputs: Number of input lines.
        n_outputs: Number of action neurons.
        parameters: The rule's numbers.
        rng: Source of the noise.
        circuits: Neurons of each winner-take-all circuit, one after another; None for one circuit of all.

    Attributes:
        arrays: Weights and eligibilities; the weights are ``arrays.w``, shape (n_inputs, n_outputs), and ``arrays.v``.
        constants: The rule's numbers as the kernels take them.

    >>> network = WinnerTakeAll(10, 2, WinnerTakeAllParameters(), np.random.default_rng(0))
    >>> spikes, last, value = network.run(np.array([3, 7]), n_ticks=5)  # lines 3 and 7 spike on each of five ticks
    >>> network.reinforce(0.0)  # no action before this one
    >>> _ = network.run(np.array([3, 8]), n_ticks=5)
    >>> network.reinforce(1.0)  # the first action was good
    >>> np.flatnonzero(network.state_dict()["v"])
    array([3, 7])
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        parameters: WinnerTakeAllParameters,
        rng: np.random.Generator,
        circuits: Sequence[int] | None = None,
    ):
        if n_inputs < 1 or n_outputs < 1:
            raise ValueError(f"n_inputs and n_outputs must be at least 1, got {n_inputs} and {n_outputs}")
        self.circuits = first_neurons(circuits, n_outputs)
        self.parameters = parameters
        self.rng = rng
        self.learning = self.exploring = True
        self.arrays = winner_take_all_kernels.State(
            w=np.zeros((n_inputs, n_outputs)),
            v=np.zeros(n_inputs),
            e_w=np.zeros((n_inputs, n_outputs)),
            e_v=np.zeros(n_inputs),
            live=np.zeros(n_inputs, np.int64),
            n_live=np.zeros(1, np.int64),
            latest=np.zeros(n_inputs, np.int64),
            n_latest=np.zeros(1, np.int64),
            surprise=np.zeros(n_outputs),
            counts=np.zeros(n_outputs, np.int64),
        )
        self._lock = threading.Lock()  # kernels run without Python's, and write into the arrays
        self.constants = winner_take_all_kernels.Constants(
            **{name: float(number) for name, number in asdict(parameters).items()}
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
        self.__dict__.setdefault("circuits", first_neurons(None, self.arrays.w.shape[1]))  # in copies of before

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Set all eligibilities to zero, as an episode begins; the only environment may be spared by ``mask``."""
        if mask is None or np.all(mask):
            with self._lock:
                winner_take_all_kernels.reset(self.arrays)

    def run(self, x: np.ndarray, n_ticks: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Run one env step.

        Args:
            x: The lines that spike on every tick, each once, int64, shape (n_active,).
            n_ticks: Ticks K of the env step.

        Returns:
            Spikes of each action neuron in the env step, its spikes on the last tick, and the value.

        Raises:
            ValueError: If a line does not exist or stands there twice, or there is no tick.
        """
        n_inputs, n_outputs = self.arrays.w.shape
        if not (isinstance(n_ticks, (int, np.integer)) and n_ticks >= 1):
            raise ValueError(f"n_ticks must be a whole number of at least 1, got {n_ticks}")
        active = active_lines(x, n_inputs)
        winners = np.empty(len(self.circuits) - 1, np.int64)
        with self._lock:
            noise = self.rng.standard_normal((n_ticks if self.exploring else 0, n_outputs))
            value = winner_take_all_kernels.run(
                self.arrays, self.constants, self.circuits, active, n_ticks, noise, self.learning, winners
            )
            counts = self.arrays.counts.copy()
        last = np.zeros(n_outputs, np.int64)
        last[self.circuits[:-1] + winners] = 1
        return counts, last, value

    def reinforce(self, modulator: float) -> None:
        """Learn from the modulator of the action before, and make the synapses of the latest one eligible.

        Raises:
            ValueError: If the modulator is not finite.
        """
        if not math.isfinite(modulator):
            raise ValueError(f"modulator must be finite, got {modulator}")
        with self._lock:
            winner_take_all_kernels.reinforce(self.arrays, self.constants, float(modulator))

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
        action: np.ndarray | int,
        value: float,
        rewards: np.ndarray,
        values: np.ndarray | None = None,
        n_rows: int = 1,
    ) -> tuple[int, np.ndarray, float]:
        """Act in a compiled task, and learn if it is learning, until the next step would end the episode.

        Args:
            step: Compiled ``step(state, action, body, obs)``, which overwrites state and observation and returns the
                reward and whether the episode terminated. The action is a choice, or numbers where there are
                ``values``.
            state: State of the task, float64; left where the loop ends, as is ``obs``.
            body: Constants of the task, float64.
            obs: Observation of ``state``, float64.
            coder: Tables of the input code.
            n_ticks: Ticks per step.
            modulation: Kind of modulator, gamma, rate of the baseline, factor of the reward, factor of the modulator.
            baseline: Running mean of the reward, shape (1,).
            action: Neuron of each circuit that won for ``obs``, shape (n_circuits,); a number if there is but one.
            value: Value of ``obs``.
            rewards: Where the reward of each step goes; its length is the most steps to take.
            values: What each action neuron stands for, float64, shape (n_outputs,); None for discrete actions.
            n_rows: Circuits, one after another, for each number of an action, which is the mean of their values.

        Returns:
            The number of steps taken, and the neurons that won, shape (n_circuits,), and the value then.

        Raises:
            ValueError: If the code has lines that this network lacks, or reads values that the observation lacks.
        """
        check_code(coder, obs, len(self.arrays.v))
        winners = np.array(action, np.int64, ndmin=1)
        network = self.arrays, self.constants, self.circuits, n_ticks, self.learning, self.exploring, self.rng
        with self._lock:
            n_steps, value = winner_take_all_kernels.closed_loop(
                step, state, body, obs, coder, *network, modulation, baseline, values, n_rows, winners, value, rewards
            )
        return n_steps, winners, value

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the weights: ``w``, shape (n_outputs, n_inputs), and ``v``, shape (n_inputs,)."""
        return {"w": self.arrays.w.T.copy(), "v": self.arrays.v.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over weights; the eligibilities are not among them.

        Raises:
            ValueError: If the shapes are not those of this network, or a weight is not finite.
        """
        w, v = checks.finite("w", checks.real("w", state["w"])), checks.finite("v", checks.real("v", state["v"]))
        if w.T.shape != self.arrays.w.shape or v.shape != self.arrays.v.shape:
            n_inputs, n_outputs = self.arrays.w.shape
            raise ValueError(f"weights must be for {n_inputs} lines and {n_outputs} actions, got {w.shape}, {v.shape}")
        with self._lock:
            self.arrays.w[:], self.arrays.v[:] = w.T, v
