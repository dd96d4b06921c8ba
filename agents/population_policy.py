"""The policy of R-STDP with spiking populations: an input code, whose lines spike in trains, and the populations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents.check_finite import check_predicted
from spikeloop.agents.checks import check_carried, check_not_empty, in_words, rows_of
from spikeloop.agents.encoders import encoder_for
from spikeloop.agents.export import check_unchanged, exact_inputs_of
from spikeloop.agents.learnt_arrays import add_learnt, find_learnt
from spikeloop.agents.line_codes import coder_for
from spikeloop.agents.modulators import Modulator
from spikeloop.agents.predicting_policy import PredictingPolicy
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.decay import decay
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.encoders.spike_times import SpikeTimes
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.rules.plastic_network import ActsLast
from spikeloop.spiking.rules.population_parameters import DT, PopulationParameters
from spikeloop.spiking.rules.populations import SpikingPopulations
from spikeloop.spiking.stateless import StatelessWarning

Backend = Callable[..., SpikingPopulations]

_ACTIVE = {"tiles": {"n_grids": 32}, "places": {"n_active": 32}}

_LARGEST_TIME = 1e6  # ms; a space without an end has one beyond it
# arguments of the algorithm itself, under the names that the populations have for them
_OF_THE_ALGORITHM = ("learning_rate", "value_learning_rate", "eligibility_decay", "noise", "value_offset", "n_ticks")


class PopulationPolicy(PredictingPolicy):
    """An input code, and populations of LIF neurons that act and learn (:mod:`spikeloop.spiking.rules.populations`).

    Args:
        observation_space: A vector.
        action_space: Discrete.
        lr_schedule: Not used: what learns are the network's own rules.
        backend: What builds the network, if not ``SpikingPopulations``: called with the numbers of lines and actions,
            ``parameters`` and a generator.
        backend_kwargs: Its further arguments, by name.
        parameters: Numbers that the algorithm itself takes; the others are those of ``population_kwargs``.
        modulator: Reward to modulator, whose running mean is saved along.
        n_ticks: Ticks per env step.
        encoder: ``tiles`` or ``places``, whose active lines spike at ``input_rate``; or ``spike_times``, where the
            observation says when each line spikes.
        encoder_kwargs: Arguments of :class:`~spikeloop.spiking.encoders.tile_coding.Tiles` or ``PlaceCells`` and of
            their ``Dimensions``; ends that are left out are those of the observation space. 32 lines are active unless
            ``n_grids`` or ``n_active`` says otherwise: ``w_start`` and the learning rates are meant for that many.
            Or ``delays`` of :class:`~spikeloop.spiking.encoders.spike_times.SpikeTimes`.
        go_line: With ``spike_times``: the last number observed is no line's, but the time from which on spikes of the
            populations count for the action.
        population_kwargs: Fields of :class:`~spikeloop.spiking.rules.population_parameters.PopulationParameters` that
            are not arguments of the algorithm: ``n_neurons``, ``tau_m``, ``beta``, ``critic`` and so on.
        trained_behind: Names of the wrappers of the VecEnv that change what is observed; the algorithm fills them in,
            and :meth:`to_network` wants the environments that have them.

    Raises:
        ValueError: If the spaces are others, or an argument is unknown, missing or out of range.
    """

    parameters_class: ClassVar[type] = PopulationParameters
    bounds: ClassVar[tuple[str, ...]] = ()  # population_kwargs have them
    defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": PopulationParameters.learning_rate,
        "value_learning_rate": PopulationParameters.value_learning_rate,
        "n_ticks": PopulationParameters.n_ticks,
        "noise": PopulationParameters.noise,
    }

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule | None = None,
        backend: Backend | None = None,
        backend_kwargs: Mapping[str, Any] | None = None,
        parameters: PopulationParameters | None = None,
        modulator: Modulator | None = None,
        n_ticks: int | None = None,
        encoder: str = "tiles",
        encoder_kwargs: Mapping[str, Any] | None = None,
        go_line: bool = False,
        population_kwargs: Mapping[str, Any] | None = None,
        trained_behind: Sequence[str] = (),
    ):
        super().__init__(observation_space, action_space)
        mine = type(self)
        if mine.step is not PopulationPolicy.step and mine.evaluate is PopulationPolicy.evaluate:
            raise ValueError(
                f"{mine.__name__} must override evaluate and act, the halves of step, which learning takes"
            )
        self.trained_behind = tuple(trained_behind)
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(
                f"R-STDP needs a vector observation (Box), the environment shows {in_words(observation_space)}"
            )
        check_not_empty("observation", observation_space)
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"R-STDP needs discrete actions, the environment takes {in_words(action_space)}")
        self.parameters_of_rule = _with(parameters or PopulationParameters(), n_ticks, population_kwargs or {})
        self.n_ticks = self.parameters_of_rule.n_ticks
        self.modulator = modulator or Modulator()
        if go_line not in (True, False) or (go_line and encoder != "spike_times"):
            raise ValueError(f"go_line must be a flag, and False unless encoder is 'spike_times', got {go_line!r}")
        self.go_line = go_line
        if encoder == "spike_times":
            self.coder: Any = self._spike_times(encoder_kwargs or {})
        else:
            self.coder = coder_for(encoder, {**_ACTIVE.get(encoder, {}), **(encoder_kwargs or {})}, observation_space)
            self._check_drive()
        self.rng = np.random.default_rng(int(th.randint(2**31, ())))  # checkpoints find it by its type
        numbers = self.coder.n_channels, int(action_space.n), self.parameters_of_rule, self.rng
        try:
            self.network = (backend or SpikingPopulations)(*numbers, **(backend_kwargs or {}))
        except TypeError as error:  # an argument it does not know
            raise ValueError(f"backend_kwargs: {error}") from None
        if encoder == "spike_times" and isinstance(self.network, ActsLast):
            raise ValueError(f"encoder must be 'tiles' or 'places' for {type(self.network).__name__}, got {encoder!r}")
        self.network.learning = self.network.exploring = False
        self._arguments = {
            "backend": backend,
            "backend_kwargs": dict(backend_kwargs or {}),
            "encoder": encoder,
            "encoder_kwargs": dict(encoder_kwargs or {}),
            "go_line": go_line,
        }
        n_actions, n_neurons = int(action_space.n), self.parameters_of_rule.n_neurons
        self._members = np.repeat(np.eye(n_actions), n_neurons, axis=1)  # of each population, (n_actions, N)
        self.head = ActionHead("discrete", (n_actions,), start=(int(action_space.start),))
        self._note_state = StatelessWarning("policy")

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces_only = {"observation_space": self.observation_space, "action_space": self.action_space}
        rule = {"parameters": self.parameters_of_rule, "modulator": self.modulator}
        return {**spaces_only, **rule, **self._arguments, "trained_behind": self.trained_behind}

    def to_network(self, env: VecEnv | None = None, metadata: Mapping[str, str] | None = None) -> Network:
        """Return the policy without its noise as a value: the action neurons, driven by the mean of the trains.

        The input code is held over the ticks, and its weights are scaled by the mean number of spikes per tick; the
        neurons are an LSNN layer whose recurrent weights are the lateral inhibition; a leaky readout adds up the
        filtered rates of each population. The critic, which only teaches, is left out.

        Args:
            env: The environments the policy was trained in, with their wrappers; None if none of these changes what is
                observed. ``model.to_network()`` finds them by itself.
            metadata: Text pairs to keep with the network.

        Raises:
            ValueError: If a wrapper has no place in a Network, or ``env`` lacks one that the policy was trained behind.
        """
        check_unchanged(self, PopulationPolicy, ("predict", "step", "evaluate", "act"))
        if not isinstance(self.network, SpikingPopulations):
            raise ValueError(
                f"a policy of {type(self.network).__name__} is a program of its chip, policy.network.program, "
                "and not a Network"
            )
        inputs = exact_inputs_of(self.observation_space, env, self.trained_behind)
        c, w = self.network.constants, self.network.synapses.w
        if self.go_line:
            raise ValueError("a Network reads all spikes of an env step: it has no place for go_line")
        n_actions, n = self._members.shape
        p = self.parameters_of_rule
        gain = 1.0 if isinstance(self.coder, SpikeTimes) else c.p_spike
        counts = p.readout == "count"
        others = 1.0 - self._members.T @ self._members  # whether two neurons are of different populations, (N, N)
        layer = Layer(gain * w[:, :n].T, np.zeros(n), p.neurons(n), -c.inhibition * others)
        return Network(
            encoder=self.coder,
            layers=(layer,),
            readout=Readout(self._members, np.zeros(n_actions), 0.0 if counts else p.tau_out, count=counts),
            head=self.head,
            preprocessing=inputs.preprocessing,
            observation=inputs.observation,
            n_ticks=self.n_ticks,
            metadata=metadata or {},
        )

    def _spike_times(self, encoder_kwargs: Mapping[str, Any]) -> SpikeTimes:
        n_lines = self.observation_space.shape[0] - self.go_line  # type: ignore[index]
        if n_lines < 1:
            raise ValueError(
                f"go_line needs a line beside it, the environment shows {in_words(self.observation_space)}"
            )
        times = encoder_for("spike_times", n_lines, encoder_kwargs)
        if blind := times.blind(self.n_ticks, DT):
            raise ValueError(blind)
        latest = float(self.observation_space.high.max())  # type: ignore[attr-defined]
        if self.n_ticks * DT < latest < _LARGEST_TIME:
            raise ValueError(
                f"n_ticks must be at least {math.ceil(latest / DT)} for spikes up to {latest:g} ms, got {self.n_ticks}"
            )
        return times  # type: ignore[return-value]

    def _check_drive(self) -> None:
        """Warn of populations that begin silent: nothing can be explored or learnt."""
        p = self.parameters_of_rule
        drive = self.coder.n_active * p.input_rate * DT / 1000.0 * p.w_start / (1.0 - float(decay(p.tau_m, DT)))
        least = float(p.neurons(p.n_neurons).v_th.min())
        if drive < 0.5 * least:
            warnings.warn(
                f"the lines drive the populations to {drive:.2g}, thresholds begin at {least:.2g}: they begin silent "
                "and learn nothing; raise w_start, input_rate or the number of active lines",
                stacklevel=4,
            )

    def step(self, obs: np.ndarray) -> tuple[np.ndarray, float]:
        """Run the network for one env step; return the number of the population that won, shape (1,), and the value.

        Learning takes :meth:`evaluate` and :meth:`act`, the halves of it, apart.
        """
        value = self.evaluate(obs)
        return self.act(), value

    def evaluate(self, obs: np.ndarray) -> float:
        """Begin an env step; return the value of an observation."""
        if isinstance(self.network, ActsLast):
            return self.network.evaluate(self.coder.lines(obs))
        if isinstance(self.coder, SpikeTimes):
            _, self._last, value = self.network.run_trains(*self._trains(obs))
        else:
            _, self._last, value = self.network.run(self.coder.lines(obs), self.n_ticks)
        return value

    def act(self) -> np.ndarray:
        """End the env step that :meth:`evaluate` began; return the number of the population that won, shape (1,)."""
        last = self.network.act()[1] if isinstance(self.network, ActsLast) else self._last
        return self.head.chosen(last[None])[0]

    def action(self, winners: np.ndarray) -> np.ndarray:
        """Return the actions, shape (B,), of the populations that won, shape (B, 1)."""
        return self.head.action(winners)

    def _trains(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the lines that spike, shape (n_active,), their spikes, (n_active, n_ticks), and when to read out."""
        times, read_from = (obs[:-1], int(obs[-1] // DT)) if self.go_line else (obs, 0)
        x, _ = encode(self.coder, times[None, None], np.zeros((0, 1, 0)), None, self.n_ticks, DT)
        lines = np.flatnonzero(x[0, :, 0].any(axis=0))
        return lines, np.ascontiguousarray(x[0, :, 0].T[lines], np.uint8), read_from

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions, without learning; pass the returned state to the next call, as with recurrent policies.

        Args:
            observation: One observation, or a batch of them.
            state: What the previous call returned; None starts from rest.
            episode_start: True where the state is cleared first, shape (B,).
            deterministic: By the mean of the trains and without escape noise: the actions of :meth:`to_network`.

        Returns:
            The actions, and the new state: a tuple of the network's packed state, shape (R, B, W): 5 rows, a neuron
            each column, of populations in float, one row of a chip's.

        Raises:
            ValueError: If a shape is wrong or an observation is not finite.
        """
        obs, single = rows_of(observation, self.observation_space)
        check_predicted(obs)
        self._note_state(state is None and episode_start is None)
        network = self.network
        rest = network.rest(len(obs))
        packed = rest if state is None else np.asarray(state[0], rest.dtype)
        check_carried(packed, (rest.shape[0], rest.shape[2]), episode_start, len(obs))
        starts = np.zeros(len(obs), bool) if episode_start is None else np.reshape(episode_start, -1) != 0
        new = np.where(starts[:, None], rest, packed)
        for b, row in enumerate(obs):
            if isinstance(self.coder, SpikeTimes):
                lines, spikes, read_from = self._trains(row)
                new[:, b] = network.advance(lines, new[:, b], not deterministic, spikes, read_from)
            else:
                new[:, b] = network.advance(self.coder.lines(row), new[:, b], noise=not deterministic)
        outputs = network.rates(new)
        actions = self.head(outputs)
        return actions[0] if single else actions, (new,)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        add_learnt(destination, prefix, self._learnt())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        arrays = find_learnt(state_dict, prefix, self._learnt())
        self.modulator.baseline[:] = arrays.pop("modulator.baseline")
        self.network.load_state_dict({name.removeprefix("network."): array for name, array in arrays.items()})

    def _learnt(self) -> dict[str, np.ndarray]:
        weights = {f"network.{name}": array for name, array in self.network.state_dict().items()}
        return {**weights, "modulator.baseline": self.modulator.baseline}


def _with(
    parameters: PopulationParameters, n_ticks: int | None, population_kwargs: Mapping[str, Any]
) -> PopulationParameters:
    allowed = [field.name for field in fields(PopulationParameters) if field.name not in _OF_THE_ALGORITHM]
    for name in population_kwargs:
        if name not in allowed:
            raise ValueError(f"population_kwargs must be among {', '.join(allowed)}, got {name!r}")
    return replace(parameters, **population_kwargs, n_ticks=parameters.n_ticks if n_ticks is None else n_ticks)
