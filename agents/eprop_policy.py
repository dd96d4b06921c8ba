"""The policy that e-prop trains: one recurrent LSNN layer whose readout holds action preferences and the value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from spikeloop.agents.actor import fixed_scaler, head_for
from spikeloop.agents.check_finite import check_predicted
from spikeloop.agents.checks import (
    NOT_NEGATIVE,
    UNIT,
    WHOLE,
    Range,
    check_carried,
    check_not_empty,
    check_ranges,
    in_words,
    rows_of,
)
from spikeloop.agents.critic_code import critic_code
from spikeloop.agents.encoders import encoder_for
from spikeloop.agents.eprop_learning import FloatLearning
from spikeloop.agents.eprop_network import initial_neurons, parts_of
from spikeloop.agents.export import Inputs, check_unchanged, inputs_of
from spikeloop.agents.known_arguments import KnownArguments
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.observation import Normalizer
from spikeloop.spiking.rules.eprop import eprop_neurons
from spikeloop.spiking.rules.eprop_kernels import EpropNeurons, EpropWeights, Moments, RewardLearner
from spikeloop.spiking.rules.reward_eprop import FEEDBACK, RewardEprop, initial_weights, new_learner, no_moments
from spikeloop.spiking.simulator import Simulator

NEURON_ARRAYS = ("tau_m", "v_th", "tau_a", "beta", "refractory")  # one number per neuron, saved with the weights
_RANGES = {
    **dict.fromkeys(("n_neurons", "n_ticks"), WHOLE),
    "adaptive_fraction": UNIT,
    **dict.fromkeys(("tau_m", "beta", "tau_out", "w_in_scale", "w_rec_scale", "w_out_std"), NOT_NEGATIVE),
    "bias_scale": NOT_NEGATIVE._replace(optional=True),
    "refractory": Range(0, whole=True),
    "log_std_init": Range(-20, 20),
}


class EpropPolicy(KnownArguments, BasePolicy):
    """Actor on one recurrent LSNN layer, and a critic on the same layer or on an input code of its own.

    Args:
        observation_space: Observation space: Box or MultiBinary, taken as a vector.
        action_space: Action space: Discrete, whose actions are drawn by a softmax of the readout, or Box, whose
            numbers are drawn from Gaussians around it and cut at the bounds.
        lr_schedule: Not used: the learning rule has no optimizer.
        n_neurons: Neurons N.
        adaptive_fraction: Share of neurons with an adaptive threshold (population A).
        n_ticks: Ticks per env step.
        tau_m: Membrane time constant in ms.
        tau_a: Time constant of adaptation in ms; a pair (low, high) draws one per neuron, log-uniformly.
        beta: Adaptation strength; with 0 no neuron adapts, and the network forgets within a few ticks.
        tau_out: Time constant of the readout trace in ms.
        refractory: Ticks a neuron is held silent after a spike.
        w_in_scale: Standard deviation of the input weights at first, times sqrt(inputs).
        w_rec_scale: Standard deviation of the recurrent weights at first, times sqrt(N).
        w_out_std: Standard deviation of the action weights at first.
        bias_scale: Neurons have biases, at first uniformly from 0 to this, and readouts too, at first 0; they learn as
            the weights do. None for none.
        feedback: Learning signals come back through the ``symmetric`` readout weights, through these as they are at
            first (``initial``), or through ``random`` ones; the latter two never change.
        encoder: How observations become input, a name in :data:`~spikeloop.spiking.encoders.ENCODERS`.
        encoder_kwargs: Its options (:func:`~spikeloop.agents.encoders.encoder_for`).
        obs_scale: What observations are multiplied by before, one factor or one per value; None for nothing.
        critic: ``trace``: a row of the readout; ``tiles`` or ``places``: a linear map of such a code's lines.
        critic_kwargs: Options of the code (:func:`~spikeloop.agents.line_codes.coder_for`), in units of what is
            observed.
        critic_sees_changes: Whether the code is of what is observed and of how it changed since the step before, as if
            the observation had twice as many numbers. Only for critics with a code.
        log_std_init: Box actions: logarithm of their standard deviation, in the action's units.
        optimizer: The rule's; EProp fills it in. With ``adam`` the running means of each synapse are saved along.
        trained_behind: Names of the wrappers of the VecEnv that change what is observed; EProp fills them in.
        kwargs: Further keyword arguments of ``BasePolicy``.

    Raises:
        ValueError: If an argument is out of range or a space is of another kind.

    >>> policy = EpropPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), n_neurons=10)
    >>> action, state = policy.predict(np.zeros(4, np.float32), deterministic=True)
    >>> action, state = policy.predict(np.ones(4, np.float32), state, deterministic=True)  # goes on from that state
    >>> policy.to_network().layers[0].n_neurons
    10
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule | None = None,
        *,
        n_neurons: int = 40,
        adaptive_fraction: float = 0.75,
        n_ticks: int = 4,
        tau_m: float = 4.5,
        tau_a: float | Sequence[float] = 100.0,
        beta: float = 0.3,
        tau_out: float = 6.0,
        refractory: int = 0,
        w_in_scale: float = 0.9,
        w_rec_scale: float = 0.5,
        w_out_std: float = 0.1,
        bias_scale: float | None = None,
        feedback: str = "symmetric",
        encoder: str = "direct",
        encoder_kwargs: Mapping[str, Any] | None = None,
        obs_scale: float | Sequence[float] | None = None,
        critic: str = "trace",
        critic_kwargs: Mapping[str, Any] | None = None,
        critic_sees_changes: bool = False,
        log_std_init: float = 0.0,
        optimizer: str = "sgd",
        trained_behind: Sequence[str] = (),
        **kwargs: Any,
    ):
        self._own_arguments = {
            "n_neurons": n_neurons,
            "adaptive_fraction": adaptive_fraction,
            "n_ticks": n_ticks,
            "tau_m": tau_m,
            "tau_a": tau_a,
            "beta": beta,
            "tau_out": tau_out,
            "refractory": refractory,
            "w_in_scale": w_in_scale,
            "w_rec_scale": w_rec_scale,
            "w_out_std": w_out_std,
            "bias_scale": bias_scale,
            "feedback": feedback,
            "encoder": encoder,
            "encoder_kwargs": dict(encoder_kwargs or {}),
            "obs_scale": obs_scale,
            "critic": critic,
            "critic_kwargs": dict(critic_kwargs or {}),
            "critic_sees_changes": critic_sees_changes,
            "log_std_init": log_std_init,
            "optimizer": optimizer,
        }
        super().__init__(observation_space, action_space, **kwargs)
        check_ranges(self._own_arguments, _RANGES)
        check_not_empty("observation", observation_space)
        if not isinstance(observation_space, (spaces.Box, spaces.MultiBinary)):
            raise ValueError(f"EpropPolicy needs a Box or MultiBinary observation, got {in_words(observation_space)}")
        if not isinstance(action_space, (spaces.Discrete, spaces.Box)):
            raise ValueError(f"EpropPolicy needs a Discrete or Box action space, got {in_words(action_space)}")
        check_not_empty("action", action_space)
        if feedback not in FEEDBACK:
            raise ValueError(f"feedback must be one of {FEEDBACK}, got {feedback!r}")
        self.n_ticks, self.tau_out, self.trained_behind = n_ticks, tau_out, tuple(trained_behind)
        if not isinstance(critic_sees_changes, (bool, np.bool_)):
            raise ValueError(f"critic_sees_changes must be true or false, got {critic_sees_changes!r}")
        self.critic_sees_changes, self.feedback_kind = critic_sees_changes, feedback
        self.head, self.scaler = head_for(action_space), fixed_scaler(obs_scale, observation_space)
        self.encoder = encoder_for(encoder, int(np.prod(observation_space.shape)), encoder_kwargs)
        if fault := self.encoder.blind(n_ticks, 1.0):
            raise ValueError(fault)
        self.critic = critic_code(critic, critic_kwargs or {}, critic_sees_changes, observation_space)
        # Draws the weights now and the actions later; checkpoints keep it.
        self.rng = np.random.default_rng(int(th.randint(2**31, ())))
        neurons = initial_neurons(self.rng, n_neurons, tau_m, tau_a, beta, adaptive_fraction, refractory)
        for name in NEURON_ARRAYS:
            self.register_buffer(name, th.from_numpy(np.array(getattr(neurons, name), np.float64)))
        first = initial_weights(
            self.rng,
            self.encoder.n_channels,
            n_neurons,
            self.head.n_outputs,
            w_in_scale,
            w_rec_scale,
            feedback,
            w_out_std=w_out_std,
            bias_scale=bias_scale,
        )
        if self.critic is not None and feedback == "random":
            first.feedback[-1] = 0.0  # of the readout's value, which such a critic leaves unused
        self.w, self.w_out, self.rate = (_parameter(array) for array in (first.w, first.w_out, first.rate))
        self.feedback = None if feedback == "symmetric" else _parameter(first.feedback)
        self.values = None if self.critic is None else _parameter(np.zeros(self.critic.n_inputs, np.float32))
        is_box = isinstance(action_space, spaces.Box)
        self.log_std = _parameter(np.full(self.head.n_outputs, log_std_init, np.float32)) if is_box else None
        if optimizer != "sgd":
            for name, array in no_moments(first, optimizer)._asdict().items():
                self.register_buffer(f"adam_{name}", th.from_numpy(array))
        self._simulator: Simulator | None = None
        self._simulated: tuple[np.ndarray, ...] = ()  # the weights that it has

    @property
    def neurons(self) -> LsnnNeurons:
        """The neurons as a value."""
        return LsnnNeurons(**{name: getattr(self, name).numpy() for name in NEURON_ARRAYS})

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest numbers of Box actions, each of shape (n_outputs,)."""
        assert self.head.low is not None and self.head.high is not None
        return self.head.low.ravel(), self.head.high.ravel()

    @property
    def plain(self) -> bool:
        """Whether the kernels of compiled tasks know encoder and head."""
        return self.encoder.identity and self.log_std is None

    @property
    def biased(self) -> bool:
        """Whether neurons and readout have biases."""
        return self._own_arguments["bias_scale"] is not None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in NEURON_ARRAYS:  # which files of former versions lack: there they follow from the arguments
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._simulator = None  # whose neurons may have been others

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "trained_behind": self.trained_behind,
            **self._own_arguments,
        }

    def plastic(self) -> tuple[EpropWeights, EpropNeurons]:
        """Return what the kernels learn, in the memory of the policy's own parameters, and the neurons' constants."""
        w, w_out, rate = (parameter.detach().numpy() for parameter in (self.w, self.w_out, self.rate))
        feedback = w_out if self.feedback is None else self.feedback.detach().numpy()
        return EpropWeights(w, w_out, feedback, rate), eprop_neurons(self.neurons, self.tau_out, w.dtype)

    def learner(self, rule: RewardEprop) -> RewardLearner:
        """Return what the kernels change, at rest, in the memory of the policy's own parameters."""
        moments = None
        if rule.optimizer != "sgd":
            moments = Moments(*(getattr(self, f"adam_{name}").numpy() for name in Moments._fields))
        values = None if self.values is None else self.values.detach().numpy()
        return new_learner(*self.plastic(), rule, moments, values)

    def learning(self, rule: RewardEprop) -> FloatLearning:
        """Return what runs and teaches the network, at rest."""
        return FloatLearning(self, rule)

    def input(self, obs: np.ndarray, memory: np.ndarray, start: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the input of an env step as the kernels take it, and what the encoder remembers after it.

        Args:
            obs: One observation.
            memory: What the encoder remembers, shape (n_memory_rows, 1, n_obs).
            start: Whether an episode begins.

        Returns:
            The input, shape (1, n_channels) if it is held over the step, else (n_ticks, n_channels), with a constant
            channel more for biases; and the memory.
        """
        values = self.features(np.reshape(obs, (1, -1)))
        if not self.encoder.identity:
            x, memory = encode(self.encoder, values[None], memory, np.array([[start]]), self.n_ticks)
            values = x.reshape(-1, self.encoder.n_channels)  # (1, 1, C) if held, else (1, n_ticks, 1, C)
        return self.with_constant(values), memory

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Return observations as the encoder takes them, shape (B, n_obs), for rows of their numbers."""
        values = np.ascontiguousarray(rows, np.float32)
        return values if self.scaler is None else self.scaler(values)

    def with_constant(self, x: np.ndarray) -> np.ndarray:
        """Return inputs, shape (T, n_channels), with the channel that is always 1 for biases, where there are any."""
        return np.pad(x, ((0, 0), (0, 1)), constant_values=1.0) if self.biased else x

    def critic_lines(self, obs: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return the active lines of the critic's code for an observation and the one before; none without a code."""
        if self.critic is None:
            return np.empty(0, np.int64)
        now = np.asarray(obs, np.float64).reshape(-1)
        if self.critic_sees_changes:
            now = np.concatenate((now, now - np.asarray(before, np.float64).reshape(-1)))
        return self.critic.lines(now)

    def _simulator_of_now(self) -> Simulator:
        """Return a simulator with the weights of now, which any rule may have changed in place since the last call."""
        now = self.w.detach().numpy(), self.w_out.detach().numpy()
        if self._simulator is None or not all(map(np.array_equal, now, self._simulated)):
            self._simulated = tuple(array.copy() for array in now)
            # of rows: a single row of a space of shape (1, n) would be taken for one observation, not for a batch
            self._simulator = Simulator(self.own_network())
        return self._simulator

    @property
    def _own_steps(self) -> tuple[Normalizer, ...]:
        return () if self.scaler is None else (self.scaler,)

    def to_network(self, env: VecEnv | None = None, metadata: Mapping[str, str] | None = None) -> Network:
        """Return the actor as a value; the critic's row of the readout is left out.

        Args:
            env: The environments the policy was trained in, with their wrappers; None if none of these changes what is
                observed. ``model.to_network()`` finds them by itself.
            metadata: Text pairs to keep with the network.

        Raises:
            ValueError: If a wrapper has no place in a Network, or ``env`` lacks one that the policy was trained behind.
        """
        check_unchanged(self, EpropPolicy, ("predict",))
        inputs = inputs_of(self.observation_space, env, self._own_steps, self.trained_behind)
        return self._network(inputs, metadata)

    def own_network(self) -> Network:
        """Return the actor as a value for rows of numbers as the policy sees them."""
        return self._network(Inputs((), self._own_steps))

    def _network(self, inputs: Inputs, metadata: Mapping[str, str] | None = None) -> Network:
        w, w_out = self.w.detach().numpy(), self.w_out.detach().numpy()[:-1]
        layer, readout = parts_of(w, w_out, self.encoder.n_channels, self.neurons, self.tau_out)
        return Network(
            encoder=self.encoder,
            layers=(layer,),
            readout=readout,
            head=self.head,
            preprocessing=inputs.preprocessing,
            observation=inputs.observation,
            n_ticks=self.n_ticks,
            metadata=metadata or {},
        )

    def _predict(self, observation: th.Tensor, deterministic: bool = False) -> th.Tensor:
        return th.as_tensor(self.predict(observation.numpy(), deterministic=deterministic)[0])

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
            deterministic: Take the most likely action instead of drawing one.

        Returns:
            The actions, and the new state.

        Raises:
            ValueError: If a shape is wrong or an observation is not finite.
        """
        simulator = self._simulator_of_now()
        obs, one = rows_of(observation, self.observation_space)
        check_predicted(obs)
        rows = np.asarray(obs, np.float32).reshape(len(obs), self.encoder.n_obs)
        packed = self._packed(simulator, len(rows)) if state is None else np.asarray(state[0])
        check_carried(packed, simulator.network.state_shape, episode_start, len(rows))
        if deterministic:
            actions, new = simulator.predict(rows, packed, episode_start)
        else:
            starts = None if episode_start is None else np.reshape(episode_start, (1, -1))
            outputs, new = simulator.run(rows[None], packed, starts)
            actions = self.head(outputs[0] + self._noise(outputs[0].shape))
        return actions[0] if one else actions, (new,)

    def _noise(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return what makes the head's choice a draw from the policy."""
        if self.log_std is None:
            return self.rng.gumbel(size=shape)  # its largest sum with x is drawn by softmax(x)
        return np.exp(self.log_std.numpy()) * self.rng.standard_normal(shape).astype(np.float32)

    def _packed(self, simulator: Simulator, n_envs: int) -> np.ndarray | None:
        """Return the state to begin with; None for rest, where the encoder has no random keys to draw."""
        if not self.encoder.memory_rows:
            return None
        packed, n_rows = simulator.network.initial_state(n_envs), len(self.encoder.memory_rows)
        packed[:n_rows, :, : self.encoder.n_obs] = self.encoder.initial_memory(n_envs, self.rng)
        return packed


def _parameter(values: np.ndarray) -> nn.Parameter:
    """Return a parameter that SB3 saves and no gradient reaches."""
    return nn.Parameter(th.from_numpy(values), requires_grad=False)
