"""The policy of R-STDP: an input code, and the plastic network that acts on it and learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents.action_neurons import head_for
from spikeloop.agents.check_finite import check_predicted
from spikeloop.agents.checks import check_not_empty, rows_of
from spikeloop.agents.export import check_unchanged, exact_inputs_of, observation_parts
from spikeloop.agents.learnt_arrays import add_learnt, find_learnt
from spikeloop.agents.line_codes import check_observed, code_for
from spikeloop.agents.modulators import Modulator
from spikeloop.agents.predicting_policy import PredictingPolicy
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.encoders.recruited_cells import RecruitingCells
from spikeloop.spiking.network import Network
from spikeloop.spiking.observation import flatten
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.rules.plastic_network import PlasticNetwork
from spikeloop.spiking.rules.winner_take_all import WinnerTakeAll, WinnerTakeAllParameters

# What builds a network: of so many input lines and action neurons, with these numbers and this source of noise, and
# options of its own by name; `circuits` is one of these where the neurons are not all of one circuit.
Backend = Callable[..., PlasticNetwork]


class WtaPolicy(PredictingPolicy):
    """An input code and the plastic network behind it.

    Args:
        observation_space: A vector (Box), choices (Discrete, MultiDiscrete, MultiBinary), or a Dict of these.
        action_space: Discrete, MultiDiscrete, or Box with finite bounds.
        lr_schedule: Not used: what learns are the network's own rules.
        backend: What builds the network, if not ``WinnerTakeAll``: called with the numbers of lines and action neurons,
            ``parameters`` and a generator.
        backend_kwargs: Its further arguments, by name.
        parameters: Numbers of the rule.
        modulator: Reward to modulator, whose running mean is saved along.
        n_ticks: Ticks per env step.
        encoder: ``tiles``, ``places``, or ``auto``: cells that are recruited while it learns, and need no ranges.
        encoder_kwargs: Arguments of :class:`~spikeloop.spiking.encoders.tile_coding.Tiles` or ``PlaceCells`` and of
            their ``Dimensions``; ends that are left out are those of the observation space. Of ``auto`` those of
            :class:`~spikeloop.spiking.encoders.recruited_cells.RecruitingCells`. Of a Dict these by key; choices have
            a line for each option, and no arguments.
        n_action_neurons: Box actions: neurons in the row that stands for each number, or one such number for each.
        n_rows: Box actions: rows for each number, which is the mean of what their winners stand for.
        action_rings: Box actions: places of numbers that are angles, whose rows are rings.
        trained_behind: Names of the wrappers of the VecEnv that change what is observed; the algorithm fills them in,
            and :meth:`to_network` wants the environments that have them.
        core: Former name of ``backend``, in files of policies.
        core_kwargs: Former name of ``backend_kwargs``.

    Raises:
        ValueError: If the spaces are others, or an argument is unknown or missing.
    """

    parameters_class: ClassVar[type] = WinnerTakeAllParameters
    bounds: ClassVar[tuple[str, ...]] = ("w_max", "eligibility_floor")
    defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 0.1,
        "value_learning_rate": 0.0375,
        "n_ticks": 5,
        "noise": 0.3,
    }

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule | None = None,
        backend: Backend | None = None,
        backend_kwargs: Mapping[str, Any] | None = None,
        parameters: WinnerTakeAllParameters | None = None,
        modulator: Modulator | None = None,
        n_ticks: int = 5,
        encoder: str = "tiles",
        encoder_kwargs: Mapping[str, Any] | None = None,
        n_action_neurons: int | Sequence[int] = 9,
        n_rows: int = 1,
        action_rings: Sequence[int] = (),
        trained_behind: Sequence[str] = (),
        core: Backend | None = None,
        core_kwargs: Mapping[str, Any] | None = None,
    ):
        super().__init__(observation_space, action_space)
        self.trained_behind = tuple(trained_behind)
        check_observed(observation_space)
        check_not_empty("observation", observation_space)
        self.head = head_for(action_space, n_action_neurons, n_rows, action_rings)
        if n_ticks < 2:  # a neuron learns from how the last tick differs from the mean of all
            raise ValueError(f"n_ticks must be at least 2, as nothing is learned from a single tick, got {n_ticks}")
        self.n_ticks = n_ticks
        self.parameters_of_rule = parameters or WinnerTakeAllParameters()
        self.modulator = modulator or Modulator()
        self.coder = code_for(encoder, encoder_kwargs or {}, observation_space)
        self._parts, self._is_vector = observation_parts(observation_space), isinstance(observation_space, spaces.Box)
        self.rng = np.random.default_rng(int(th.randint(2**31, ())))  # checkpoints find it by its type
        build: Backend = core or backend or WinnerTakeAll
        backend, backend_kwargs = build, core_kwargs or backend_kwargs
        numbers = self.coder.n_inputs, self.head.n_outputs, self.parameters_of_rule, self.rng
        circuits = {"circuits": self.head.sizes} if len(self.head.sizes) > 1 else {}
        try:
            self.network = build(*numbers, **circuits, **(backend_kwargs or {}))
        except TypeError as error:  # an argument it does not know
            raise ValueError(f"backend_kwargs: {error}") from None
        self.network.learning = self.network.exploring = False
        self._arguments = {
            "backend": backend,
            "backend_kwargs": dict(backend_kwargs or {}),
            "n_ticks": n_ticks,
            "encoder": encoder,
            "encoder_kwargs": dict(encoder_kwargs or {}),
            "n_action_neurons": n_action_neurons,
            "n_rows": n_rows,
            "action_rings": tuple(action_rings),
        }

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces_only = {"observation_space": self.observation_space, "action_space": self.action_space}
        rule = {"parameters": self.parameters_of_rule, "modulator": self.modulator}
        return {**spaces_only, **rule, **self._arguments, "trained_behind": self.trained_behind}

    def to_network(self, env: VecEnv | None = None, metadata: Mapping[str, str] | None = None) -> Network:
        """Return the policy without its noise as a value: the input code, and the action neurons as a readout.

        The network has no layers: input lines reach the action neurons, circuits in each of which the one with the
        largest sum spikes (kind ``winner``). The critic, which only teaches, is left out.

        Args:
            env: The environments the policy was trained in, with their wrappers; None if none of these changes what is
                observed. ``model.to_network()`` finds them by itself.
            metadata: Text pairs to keep with the network.

        Raises:
            ValueError: If a wrapper has no place in a Network, or ``env`` lacks one that the policy was trained behind.
        """
        check_unchanged(self, WtaPolicy, ("predict", "step", "action", "evaluate", "act"))
        inputs = exact_inputs_of(self.observation_space, env, self.trained_behind)
        weights = np.asarray(self.network.state_dict()["w"], np.float64)  # (n_actions, n_lines)
        encoder: Encoder
        if isinstance(self.coder, RecruitingCells):
            encoder, lines = self.coder.recruited()
            weights = weights[:, lines]
        else:
            encoder = self.coder
        return Network(
            encoder=encoder,
            layers=(),
            readout=Readout(weights, np.zeros(len(weights)), kind="winner"),
            head=self.head,
            preprocessing=inputs.preprocessing,
            observation=inputs.observation,
            n_ticks=self.n_ticks,
            metadata=metadata or {},
        )

    def evaluate(self, obs: Any) -> float:
        """Run the network for one env step.

        Args:
            obs: One observation, as the environment shows it.

        Returns:
            The value.
        """
        self._winners, value = self.step(obs)
        return value

    def act(self) -> np.ndarray:
        """Return the neuron that won in each circuit in the env step of :meth:`evaluate`, shape (n_circuits,)."""
        return self._winners

    def step(self, obs: Any) -> tuple[np.ndarray, float]:
        """Run the network for one env step.

        Args:
            obs: One observation, as the environment shows it.

        Returns:
            The neuron that won the last tick in each circuit, counted from its first, shape (n_circuits,), and the
            value.
        """
        return self._run(obs if self._is_vector else flatten(self._parts, obs)[0][0])

    def _run(self, row: np.ndarray) -> tuple[np.ndarray, float]:
        coder = self.coder
        lines = coder.lines(row, self.network.learning) if isinstance(coder, RecruitingCells) else coder.lines(row)
        _, last, value = self.network.run(lines, self.n_ticks)
        return self.head.chosen(last[None])[0], value

    def action(self, winners: np.ndarray) -> np.ndarray:
        """Return the actions, shape (B, *shape), of the neurons that won in each circuit, shape (B, n_circuits)."""
        return self.head.action(winners)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions, without learning; nothing is carried from one env step to the next.

        Args:
            observation: One observation, or a batch of them.
            state: Returned as it is.
            episode_start: Not needed.
            deterministic: Without noise.

        Returns:
            The actions and ``state``.

        Raises:
            ValueError: If a shape is wrong or an observation is not finite.
        """
        if self._is_vector:
            rows, single = rows_of(observation, self.observation_space)
            check_predicted(rows)
        else:
            check_predicted(observation)
            rows, single = flatten(self._parts, observation)
        network = self.network
        before = network.learning, network.exploring
        network.learning, network.exploring = False, not deterministic
        try:
            actions = self.action(np.array([self._run(row)[0] for row in rows]))
        finally:
            network.learning, network.exploring = before
        return actions[0] if single else actions, state

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        add_learnt(destination, prefix, self._learnt())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        arrays = find_learnt(state_dict, prefix, self._learnt())
        self.modulator.baseline[:] = arrays.pop("modulator.baseline")
        if isinstance(self.coder, RecruitingCells):
            self.coder.load_state_dict({name: arrays.pop(f"encoder.{name}") for name in self.coder.state_dict()})
        self.network.load_state_dict({name.removeprefix("network."): array for name, array in arrays.items()})

    def _learnt(self) -> dict[str, np.ndarray]:
        weights = {f"network.{name}": array for name, array in self.network.state_dict().items()}
        cells = self.coder.state_dict() if isinstance(self.coder, RecruitingCells) else {}
        encoder = {f"encoder.{name}": array for name, array in cells.items()}
        return {**weights, **encoder, "modulator.baseline": self.modulator.baseline}
