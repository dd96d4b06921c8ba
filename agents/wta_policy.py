"""The policy of R-STDP: an input code, and the plastic network that acts on it and learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents.check_finite import check_predicted
from spikeloop.agents.checks import check_not_empty, in_words, rows_of
from spikeloop.agents.export import check_unchanged, inputs_of
from spikeloop.agents.modulators import Modulator
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.encoders.recruited_cells import RecruitingCells
from spikeloop.spiking.encoders.tile_coding import Dimensions, PlaceCells, Tiles
from spikeloop.spiking.network import Network
from spikeloop.spiking.observation import FrameStack
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.rules.plastic_network import PlasticNetwork
from spikeloop.spiking.rules.winner_take_all import WinnerTakeAll, WinnerTakeAllParameters

# What builds a network: of so many input lines and actions, with these numbers and this source of noise, and options
# of its own by name.
Backend = Callable[..., PlasticNetwork]

LINE_ENCODERS: dict[str, type[Tiles] | type[PlaceCells]] = {"tiles": Tiles, "places": PlaceCells}
_LARGEST_END = 1e6  # beyond, the end of a range stands for none


class WtaPolicy(BasePolicy):
    """An input code and the plastic network behind it.

    Args:
        observation_space: A vector.
        action_space: Discrete.
        lr_schedule: Not used: what learns are the network's own rules.
        backend: What builds the network, if not ``WinnerTakeAll``: called with the numbers of lines and actions,
            ``parameters`` and a generator.
        backend_kwargs: Its further arguments, by name.
        parameters: Numbers of the rule.
        modulator: Reward to modulator, whose running mean is saved along.
        n_ticks: Ticks per env step.
        encoder: ``tiles``, ``places``, or ``auto``: cells that are recruited while it learns, and need no ranges.
        encoder_kwargs: Arguments of :class:`~spikeloop.spiking.encoders.tile_coding.Tiles` or ``PlaceCells`` and of
            their ``Dimensions``; ends that are left out are those of the observation space. Of ``auto`` those of
            :class:`~spikeloop.spiking.encoders.recruited_cells.RecruitingCells`.
        trained_behind: Names of the wrappers of the VecEnv that change what is observed; the algorithm fills them in,
            and :meth:`to_network` wants the environments that have them.
        core: Former name of ``backend``, in files of policies.
        core_kwargs: Former name of ``backend_kwargs``.

    Raises:
        ValueError: If the spaces are others, or an argument is unknown or missing.
    """

    parameters_class: ClassVar[type] = WinnerTakeAllParameters
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
        trained_behind: Sequence[str] = (),
        core: Backend | None = None,
        core_kwargs: Mapping[str, Any] | None = None,
    ):
        super().__init__(observation_space, action_space)
        self.trained_behind = tuple(trained_behind)
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(
                f"R-STDP needs a vector observation (Box), the environment shows {in_words(observation_space)}"
            )
        check_not_empty("observation", observation_space)
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"R-STDP needs discrete actions, the environment takes {in_words(action_space)}")
        if n_ticks < 1:
            raise ValueError(f"n_ticks must be at least 1, got {n_ticks}")
        self.n_ticks = n_ticks
        self.parameters_of_rule = parameters or WinnerTakeAllParameters()
        self.modulator = modulator or Modulator()
        code = encoder_kwargs or {}
        self.coder = (
            _recruiting(code, observation_space) if encoder == "auto" else coder_for(encoder, code, observation_space)
        )
        self.rng = np.random.default_rng(int(th.randint(2**31, ())))  # checkpoints find it by its type
        backend, backend_kwargs = core or backend or WinnerTakeAll, core_kwargs or backend_kwargs
        numbers = self.coder.n_inputs, int(action_space.n), self.parameters_of_rule, self.rng
        try:
            self.network = backend(*numbers, **(backend_kwargs or {}))
        except TypeError as error:  # an argument it does not know
            raise ValueError(f"backend_kwargs: {error}") from None
        self.network.learning = self.network.exploring = False
        self._arguments = {
            "backend": backend,
            "backend_kwargs": dict(backend_kwargs or {}),
            "n_ticks": n_ticks,
            "encoder": encoder,
            "encoder_kwargs": dict(encoder_kwargs or {}),
        }

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces_only = {"observation_space": self.observation_space, "action_space": self.action_space}
        rule = {"parameters": self.parameters_of_rule, "modulator": self.modulator}
        return {**spaces_only, **rule, **self._arguments, "trained_behind": self.trained_behind}

    def to_network(self, env: VecEnv | None = None, metadata: Mapping[str, str] | None = None) -> Network:
        """Return the policy without its noise as a value: the input code, and the action neurons as a readout.

        The network has no layers: input lines reach the action neurons, a circuit of which the one with the largest
        sum spikes (kind ``winner``). The critic, which only teaches, is left out.

        Args:
            env: The environments the policy was trained in, with their wrappers; None if none of these changes what is
                observed. ``model.to_network()`` finds them by itself.
            metadata: Text pairs to keep with the network.

        Raises:
            ValueError: If a wrapper has no place in a Network, or ``env`` lacks one that the policy was trained behind.
        """
        check_unchanged(self, WtaPolicy, ("predict", "step"))
        space = self.observation_space
        inputs = inputs_of(space, env, (), self.trained_behind)
        if any(isinstance(step, FrameStack) for step in inputs.preprocessing) and space.dtype == np.float64:
            raise ValueError(
                "a Network keeps past frames in float32, this policy tells float64 values apart: make the "
                "environment's space float32"
            )
        weights = np.asarray(self.network.state_dict()["w"], np.float64)  # (n_actions, n_lines)
        encoder: Encoder
        if isinstance(self.coder, RecruitingCells):
            encoder, lines = self.coder.recruited()
            weights = weights[:, lines]
        else:
            encoder = self.coder
        start = int(self.action_space.start)  # type: ignore[attr-defined]
        return Network(
            encoder=encoder,
            layers=(),
            readout=Readout(weights, np.zeros(len(weights)), kind="winner"),
            head=ActionHead("discrete", (len(weights),), start=(start,)),
            preprocessing=inputs.preprocessing,
            observation=inputs.observation,
            n_ticks=self.n_ticks,
            metadata=metadata or {},
        )

    def step(self, obs: np.ndarray) -> tuple[int, float]:
        """Run the network for one env step; return the number of the neuron that won the last tick, and the value."""
        coder = self.coder
        lines = coder.lines(obs, self.network.learning) if isinstance(coder, RecruitingCells) else coder.lines(obs)
        _, last, value = self.network.run(lines, self.n_ticks)
        return int(last.argmax()), value

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
        obs, single = rows_of(observation, self.observation_space)
        check_predicted(obs)
        network = self.network
        before = network.learning, network.exploring
        network.learning, network.exploring = False, not deterministic
        start = int(self.action_space.start)  # type: ignore[attr-defined]
        try:
            actions = np.array([start + self.step(row)[0] for row in obs])
        finally:
            network.learning, network.exploring = before
        return actions[0] if single else actions, state

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return th.as_tensor(self.predict(observation.cpu().numpy(), deterministic=deterministic)[0])

    def forward(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        """Return the actions for a batch of observations."""
        return self._predict(observation, deterministic)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, array in self._learnt().items():
            destination[prefix + name] = th.from_numpy(np.array(array))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = {name: state_dict.get(prefix + name) for name in self._learnt()}
        missing = [name for name, array in found.items() if array is None]
        if missing:
            raise ValueError(f"the saved policy lacks {', '.join(missing)}")
        arrays = {name: array.cpu().numpy() for name, array in found.items()}  # type: ignore[union-attr]
        self.modulator.baseline[:] = arrays.pop("modulator.baseline")
        if isinstance(self.coder, RecruitingCells):
            self.coder.load_state_dict({name: arrays.pop(f"encoder.{name}") for name in self.coder.state_dict()})
        self.network.load_state_dict({name.removeprefix("network."): array for name, array in arrays.items()})

    def _learnt(self) -> dict[str, np.ndarray]:
        weights = {f"network.{name}": array for name, array in self.network.state_dict().items()}
        cells = self.coder.state_dict() if isinstance(self.coder, RecruitingCells) else {}
        encoder = {f"encoder.{name}": array for name, array in cells.items()}
        return {**weights, **encoder, "modulator.baseline": self.modulator.baseline}


def _recruiting(kwargs: Mapping[str, Any], space: spaces.Box) -> RecruitingCells:
    try:
        return RecruitingCells(space.shape[0], **kwargs)
    except TypeError as error:  # an argument it does not know
        raise ValueError(f"encoder_kwargs of 'auto': {error}") from None


def coder_for(kind: str, kwargs: Mapping[str, Any], space: spaces.Box) -> Tiles | PlaceCells:
    """Return an input code for a vector space.

    Args:
        kind: One of :data:`LINE_ENCODERS`, of whose lines few spike at a time.
        kwargs: Its arguments and those of ``Dimensions``; ``n_tiles`` may be one number for all dimensions.
        space: Gives the ends that are left out.

    Raises:
        ValueError: If an argument is unknown, or an end is neither given nor finite in the space.
    """
    if kind not in LINE_ENCODERS:
        raise ValueError(
            f"encoder must be one of {', '.join(LINE_ENCODERS)}, or 'auto' with \"WtaPolicy\", got {kind!r}"
        )
    own = {name: value for name, value in kwargs.items() if name not in ("low", "high", "components", "wraps")}
    components = list(kwargs.get("components", range(space.shape[0])))
    if any(not 0 <= index < space.shape[0] for index in np.hstack(components)):
        raise ValueError(f"components must be indices into {space.shape[0]} numbers, got {components}")
    ends = {}
    for name, bound, turn in (("low", space.low, -np.pi), ("high", space.high, np.pi)):
        default = [bound[part] if isinstance(part, int) else turn for part in components]
        ends[name] = kwargs.get(name, default)
        if np.any(np.abs(ends[name]) > _LARGEST_END):
            raise ValueError(
                f"encoder_kwargs needs low and high: of {in_words(space)} not all ends are finite; "
                "`spikeloop calibrate ENV` proposes them, and \"WtaPolicy\" with encoder 'auto' needs none"
            )
    dimensions = Dimensions(**ends, components=components, wraps=kwargs.get("wraps", ()), n_obs=space.shape[0])
    if kind == "tiles" and isinstance(own.get("n_tiles", 6), int):
        own["n_tiles"] = [own.get("n_tiles", 6)] * len(components)
    try:
        return LINE_ENCODERS[kind](dimensions, **own)
    except TypeError as error:  # an argument it does not know
        raise ValueError(f"encoder_kwargs of {kind!r}: {error}") from None
