"""The policy that evolution searches: a Network, and where in the space of its parameters the search now stands."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from spikeloop.agents.actor import SpikingActor, fixed_scaler, head_for
from spikeloop.agents.check_finite import check_predicted
from spikeloop.agents.checks import check_ranges, in_words
from spikeloop.agents.encoders import encoder_for
from spikeloop.agents.evolved import WEIGHTS, Evolved, names_of
from spikeloop.agents.export import check_unchanged, inputs_of, observation_parts
from spikeloop.agents.learnt_arrays import add_learnt, find_learnt
from spikeloop.agents.policy_arguments import LSNN_OPTIONS, RANGES, check_spaces, sizes_of
from spikeloop.agents.predicting_policy import PredictingPolicy
from spikeloop.spiking.module import LSNN
from spikeloop.spiking.network import Network
from spikeloop.spiking.row_linear import RowLinear
from spikeloop.spiking.simulator import Simulator


class EvolutionPolicy(PredictingPolicy):
    """A spiking network whose parameters are searched; it always acts deterministically.

    Args:
        observation_space: Observations, laid in a row: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these.
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        lr_schedule: Not used: there is no optimizer here.
        n_neurons: Neurons in each layer.
        encoder: A name in :data:`~spikeloop.spiking.encoders.ENCODERS`.
        encoder_kwargs: Its options (:func:`~spikeloop.agents.encoders.encoder_for`).
        obs_scale: Factor of a vector observation before the encoder, one or one per value; None for none.
        evolved: What evolves, one or more of :data:`~spikeloop.agents.evolved.PARAMETERS`: the weights, and of LSNN
            neurons ``tau_m``, ``v_th``, ``tau_a`` and ``beta``.
        network: The network to start from, instead of one that is drawn: any that takes these observations and gives
            these actions. The arguments above, all but ``evolved``, must then be left out.
        grid: Moves a network's weights to values that the chip can hold; Evolution fills it in.
        trained_behind: Names of the wrappers of the VecEnv that change what is observed; the algorithm fills them in.
        kwargs: Any option of :class:`~spikeloop.spiking.module.LSNN` (``tau_m``, ``beta``, ``n_ticks``, ...), less
            those of its gradient.

    Raises:
        TypeError: If an option is unknown.
        ValueError: If an argument is out of range, or the network has other observations or actions.

    >>> policy = EvolutionPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), n_neurons=16, n_ticks=4)
    >>> action, state = policy.predict(np.zeros(4, np.float32))
    >>> action, state = policy.predict(np.ones(4, np.float32), state)  # goes on from that state
    >>> policy.evolved.n  # 16 x 4 and 16, 16 x 15 recurrent, 2 x 16 and 2
    354
    """

    of_kwargs = set(LSNN_OPTIONS) - {"learn_encoder", "rate_coef", "target_rate"}

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule | None = None,
        *,
        n_neurons: int | Sequence[int] = (16,),
        encoder: str = "direct",
        encoder_kwargs: Mapping[str, Any] | None = None,
        obs_scale: float | Sequence[float] | None = None,
        evolved: str | Sequence[str] = (WEIGHTS,),
        network: Network | None = None,
        grid: Callable[[Network], Network] | None = None,
        trained_behind: Sequence[str] = (),
        **kwargs: Any,
    ):
        super().__init__(observation_space, action_space)
        check_spaces(observation_space, action_space)
        self.trained_behind, self.names, self.grid = tuple(trained_behind), names_of(evolved), grid
        drawn = dict(n_neurons=n_neurons, encoder=encoder, encoder_kwargs=encoder_kwargs, obs_scale=obs_scale, **kwargs)
        self._arguments = {**drawn, "evolved": self.names, "network": network, "grid": grid}
        if network is None:
            network = _drawn_network(observation_space, action_space, drawn)
        else:
            _check_alone(drawn)
            network = replace(network, metadata={})
        self.rng = np.random.default_rng(int(th.randint(2**31, ())))  # checkpoints find it by its type
        self.start_from(network)

    def start_from(self, network: Network) -> None:
        """Search from this network from now on.

        Args:
            network: Takes the observations and gives the actions of this policy's spaces.

        Raises:
            ValueError: If it does not, or has none of the parameters that evolve.
        """
        _check_fits(network, self.observation_space, self.action_space)
        network = replace(network, observation=observation_parts(self.observation_space))  # by which predict flattens
        self.evolved = Evolved(network, self.names)
        self.move_to(np.zeros(self.evolved.n))

    def move_to(self, z: np.ndarray) -> None:
        """Become the network at displacements ``z`` from the start, shape (n,)."""
        self.z, self.network = np.array(z, np.float64), self.network_at(z)
        self.simulator = Simulator(self.network, self.rng)

    def network_at(self, z: np.ndarray) -> Network:
        """Return the network at displacements ``z`` from the start, shape (n,), on the chip's grid if there is one.

        Raises:
            ValueError: If a membrane may leave its range there.
        """
        network = self.evolved.network(z)
        return network if self.grid is None else self.grid(network)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces_only = {"observation_space": self.observation_space, "action_space": self.action_space}
        return {**spaces_only, **self._arguments, "trained_behind": self.trained_behind}

    def to_network(self, env: VecEnv | None = None, metadata: Mapping[str, str] | None = None) -> Network:
        """Return the policy as a value.

        Args:
            env: The environments the policy was trained in, with their wrappers; None if none of these changes what is
                observed. ``model.to_network()`` finds them by itself.
            metadata: Text pairs to keep with the network.

        Raises:
            ValueError: If a wrapper has no place in a Network, or ``env`` lacks one that the policy was trained behind.
        """
        check_unchanged(self, EvolutionPolicy, ("predict",))
        return self.exported(self.network, env, metadata)

    def exported(self, network: Network, env: VecEnv | None, metadata: Mapping[str, str] | None = None) -> Network:
        """Return a network that fits this policy, with everything between it and the environments added."""
        inputs = inputs_of(self.observation_space, env, network.preprocessing, self.trained_behind)
        return replace(
            network,
            preprocessing=inputs.preprocessing,
            observation=inputs.observation,
            metadata=metadata or {},
        )

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions, as SB3's recurrent policies do.

        Args:
            observation: Observations, of the space's shape or a batch of them.
            state: What the previous call returned; None starts from rest.
            episode_start: True where the state is cleared first, shape (B,).
            deterministic: Makes no difference.

        Returns:
            The actions, and the new state.

        Raises:
            ValueError: If a shape is wrong or an observation is not finite.
        """
        check_predicted(observation)
        actions, new = self.simulator.predict(observation, None if state is None else state[0], episode_start)
        return actions, (new,)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        start = np.frombuffer(self.evolved.start.to_bytes(), np.uint8)
        add_learnt(destination, prefix, {"start": start, "z": self.z})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = find_learnt(state_dict, prefix, ("start", "z"))
        self.start_from(_from_bytes(found["start"].tobytes()))
        self.move_to(found["z"])


def _drawn_network(observation_space: spaces.Space, action_space: spaces.Space, arguments: dict[str, Any]) -> Network:
    """Return a network with random weights, drawn from torch's generator."""
    options = dict(arguments)
    if any(map(is_image_space, getattr(observation_space, "spaces", {"": observation_space}).values())):
        raise ValueError(
            f"a drawn network takes no images, give it a network of your own: {in_words(observation_space)}"
        )
    sizes = sizes_of("n_neurons", options.pop("n_neurons"))
    check_ranges(options, RANGES)
    scaler = fixed_scaler(options.pop("obs_scale"), observation_space)
    parts = observation_parts(observation_space)
    n_obs = sum(part.n_values for part in parts)
    encoder = encoder_for(options.pop("encoder"), n_obs, options.pop("encoder_kwargs"))
    head = head_for(action_space)
    action_net = RowLinear(sizes[-1], head.n_outputs)
    with th.no_grad():
        action_net.weight.normal_(0.0, sizes[-1] ** -0.5)
        action_net.bias.zero_()
    actor = SpikingActor(LSNN(encoder, sizes, **options), nn.Sequential(), action_net, head, scaler)
    return actor.to_network(observation=parts)


def _check_alone(drawn: Mapping[str, Any]) -> None:
    """Refuse arguments of a drawn network beside one that is given."""
    defaults = {"n_neurons": (16,), "encoder": "direct", "encoder_kwargs": None, "obs_scale": None}
    for name, value in drawn.items():
        if name not in defaults or value != defaults[name]:
            raise ValueError(f"{name} must be left out where a network is given, got {value!r}")


def _check_fits(network: Network, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    wanted = sum(part.n_values for part in observation_parts(observation_space))
    if network.n_obs != wanted:
        raise ValueError(
            f"the network must take the {wanted} values of {in_words(observation_space)}, it takes {network.n_obs}"
        )
    if not isinstance(action_space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise ValueError(f"actions must be Box, Discrete, MultiDiscrete or MultiBinary, got {in_words(action_space)}")
    head, own = network.head, head_for(action_space)
    same = head is not None and (head.kind, head.shape, head.start) == (own.kind, own.shape, own.start)
    if same and own.kind != "box":
        same = head.sizes == own.sizes  # type: ignore[union-attr]
    if same and own.kind == "box":
        same = np.array_equal(head.low, own.low) and np.array_equal(head.high, own.high)  # type: ignore[union-attr, arg-type]
    if not same:
        raise ValueError(f"the network must give actions of {in_words(action_space)}, its head is {head}")


def _from_bytes(data: bytes) -> Network:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.safetensors")
        path.write_bytes(data)
        return Network.load(path)
