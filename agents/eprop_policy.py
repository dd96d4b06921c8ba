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
from spikeloop.agents.export import Inputs, check_unchanged, inputs_of
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders.values import Direct
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.rules.eprop import eprop_neurons
from spikeloop.spiking.rules.eprop_kernels import EpropNeurons, EpropWeights
from spikeloop.spiking.rules.reward_eprop import initial_weights
from spikeloop.spiking.simulator import Simulator

FEEDBACK = ("symmetric", "random")
_RANGES = {
    **dict.fromkeys(("n_neurons", "n_ticks"), WHOLE),
    "adaptive_fraction": UNIT,
    **dict.fromkeys(("tau_m", "tau_a", "beta", "tau_out", "w_in_scale", "w_rec_scale"), NOT_NEGATIVE),
    "refractory": Range(0, whole=True),
}


class EpropPolicy(BasePolicy):
    """Actor and critic on one recurrent LSNN layer; what is observed is held as a current over the ticks of a step.

    Args:
        observation_space: Observation space: Box or MultiBinary, taken as a vector.
        action_space: Action space: Discrete.
        lr_schedule: Not used: the learning rule has no optimizer.
        n_neurons: Neurons N.
        adaptive_fraction: Share of neurons with an adaptive threshold (population A).
        n_ticks: Ticks per env step.
        tau_m: Membrane time constant in ms.
        tau_a: Time constant of adaptation in ms.
        beta: Adaptation strength; with 0 no neuron adapts, and the network forgets within a few ticks.
        tau_out: Time constant of the readout trace in ms.
        refractory: Ticks a neuron is held silent after a spike.
        w_in_scale: Standard deviation of the input weights at first, times sqrt(inputs).
        w_rec_scale: Standard deviation of the recurrent weights at first, times sqrt(N).
        trained_behind: Names of the wrappers of the VecEnv that change what is observed; EProp fills them in.
        feedback: Learning signals come back through the ``symmetric`` readout weights, or through ``random`` ones.
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
        tau_a: float = 100.0,
        beta: float = 0.3,
        tau_out: float = 6.0,
        refractory: int = 0,
        w_in_scale: float = 0.9,
        w_rec_scale: float = 0.5,
        feedback: str = "symmetric",
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
            "feedback": feedback,
        }
        super().__init__(observation_space, action_space, **kwargs)
        check_ranges(self._own_arguments, _RANGES)
        check_not_empty("observation", observation_space)
        if not isinstance(observation_space, (spaces.Box, spaces.MultiBinary)):
            raise ValueError(f"EpropPolicy needs a Box or MultiBinary observation, got {in_words(observation_space)}")
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"EpropPolicy needs a Discrete action space, got {in_words(action_space)}")
        if feedback not in FEEDBACK:
            raise ValueError(f"feedback must be one of {FEEDBACK}, got {feedback!r}")
        self.n_ticks, self.tau_out, self.trained_behind = n_ticks, tau_out, tuple(trained_behind)
        adapts = np.arange(n_neurons) < round(adaptive_fraction * n_neurons)
        self.neurons = LsnnNeurons(
            tau_m=np.full(n_neurons, tau_m),
            v_th=np.ones(n_neurons),
            tau_a=np.full(n_neurons, tau_a),
            beta=np.where(adapts, beta, 0.0),
            refractory=np.full(n_neurons, refractory),
        )
        self.n_inputs = int(np.prod(observation_space.shape))
        # Draws the weights now and the actions later; checkpoints keep it.
        self.rng = np.random.default_rng(int(th.randint(2**31, ())))
        symmetric = feedback == "symmetric"
        first = initial_weights(
            self.rng, self.n_inputs, n_neurons, int(action_space.n), w_in_scale, w_rec_scale, symmetric
        )
        self.w, self.w_out, self.rate = (_parameter(array) for array in (first.w, first.w_out, first.rate))
        self.feedback = None if symmetric else _parameter(first.feedback)
        self._simulator: Simulator | None = None
        self._simulated: tuple[np.ndarray, ...] = ()  # the weights that it has

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

    def _simulator_of_now(self) -> Simulator:
        """Return a simulator with the weights of now, which any rule may have changed in place since the last call."""
        now = self.w.detach().numpy(), self.w_out.detach().numpy()
        if self._simulator is None or not all(map(np.array_equal, now, self._simulated)):
            self._simulated = tuple(array.copy() for array in now)
            # of rows: a single row of a space of shape (1, n) would be taken for one observation, not for a batch
            self._simulator = Simulator(self._network(Inputs((), ())))
        return self._simulator

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
        inputs = inputs_of(self.observation_space, env, (), self.trained_behind)
        return self._network(inputs, metadata)

    def _network(self, inputs: Inputs, metadata: Mapping[str, str] | None = None) -> Network:
        w, w_out = self.w.detach().numpy(), self.w_out.detach().numpy()[:-1]
        bias, no_bias = np.zeros(len(w), np.float32), np.zeros(len(w_out), np.float32)
        layer = Layer(w[:, : self.n_inputs], bias, self.neurons, w[:, self.n_inputs :])
        return Network(
            encoder=Direct(self.n_inputs),
            layers=(layer,),
            readout=Readout(w_out, no_bias, tau_out=self.tau_out),
            head=ActionHead("discrete", (len(w_out),), start=(int(self.action_space.start),)),  # type: ignore[attr-defined]
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
        rows = np.asarray(obs, np.float32).reshape(len(obs), self.n_inputs)
        packed = None if state is None else np.asarray(state[0])
        check_carried(packed, simulator.network.state_shape, episode_start, len(rows))
        if deterministic:
            actions, new = simulator.predict(rows, packed, episode_start)
        else:
            starts = None if episode_start is None else np.reshape(episode_start, (1, -1))
            preferences, new = simulator.run(rows[None], packed, starts)
            noise = self.rng.gumbel(size=preferences[0].shape)  # its largest sum with x is drawn by softmax(x)
            actions = (preferences[0] + noise).argmax(axis=1) + int(self.action_space.start)  # type: ignore[attr-defined]
        return actions[0] if one else actions, (new,)


def _parameter(values: np.ndarray) -> nn.Parameter:
    """Return a parameter that SB3 saves and no gradient reaches."""
    return nn.Parameter(th.from_numpy(values), requires_grad=False)
