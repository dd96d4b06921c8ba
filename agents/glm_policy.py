"""The policy of probabilistic spiking networks: drawn input spikes, Bernoulli neurons, a race of the outputs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from spikeloop.agents.checks import (
    NOT_NEGATIVE,
    WHOLE,
    Range,
    check_carried,
    check_not_empty,
    check_ranges,
    in_words,
)
from spikeloop.agents.export import Inputs, check_unchanged, inputs_of
from spikeloop.agents.glm_codes import ObservationRows, glm_codes, is_plain
from spikeloop.agents.glm_learning import GlmLearning
from spikeloop.agents.predicting_policy import PredictingPolicy
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.decay import decay
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.first_to_spike import spike_probability
from spikeloop.spiking.network import Network
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.rules.glm import RewardGlm
from spikeloop.spiking.simulator import Simulator

_RANGES = {
    "n_hidden": Range(0, whole=True),
    "n_ticks": WHOLE,
    **dict.fromkeys(("tau_s", "w_hidden_std", "w_out_std"), NOT_NEGATIVE),
    **dict.fromkeys(("bias", "hidden_bias"), Range(-30, 30)),
}
_MOST_SILENT = 0.5  # of env steps


class GlmPolicy(PredictingPolicy):
    """Bernoulli neurons whose first output spike is the action, and a linear critic on an input code of its own.

    The network itself is stochastic (:mod:`spikeloop.spiking.rules.glm`): there is no noise to be added and no softmax.
    Without hidden neurons its distribution over actions, given the input's spikes, has a closed form
    (:mod:`spikeloop.spiking.first_to_spike`).

    Args:
        observation_space: A vector (Box), or choices (Discrete, MultiDiscrete, MultiBinary).
        action_space: Discrete.
        lr_schedule: Not used: the learning rule has no optimizer.
        n_hidden: Hidden neurons; 0 lets the input's spikes reach the outputs.
        n_ticks: Ticks per env step, at most.
        tau_s: Time constant in ms with which a synapse filters spikes; a tick is 1 ms.
        bias: Initial bias of the outputs. If it is too low, none spikes and actions are uniform; if it is too high,
            every env step ends on its first tick, before much of the input has come.
        w_hidden_std: Standard deviation of the initial hidden weights.
        hidden_bias: Mean of the hidden neurons' initial biases, whose standard deviation is 1.
        w_out_std: Standard deviation of the initial output weights.
        encoder: How observations become spikes: a name in :data:`~spikeloop.spiking.encoders.ENCODERS` whose input is
            spikes. None for ``population_spikes`` if the observation is a vector, and for a line per option if it is
            choices.
        encoder_kwargs: Its options (:func:`~spikeloop.agents.encoders.encoder_for`); if ``low`` or ``high`` is left
            out, the observation space's is taken.
        critic: ``tiles`` or ``places``: the code that the linear critic reads. Choices have a line per option.
        critic_kwargs: Options of the code (:func:`~spikeloop.agents.line_codes.coder_for`); if ``low`` or ``high`` is
            left out, that of ``encoder_kwargs`` is taken.
        trained_behind: Names of the wrappers of the VecEnv that change what is observed; GLM fills them in.
        kwargs: Further keyword arguments of ``BasePolicy``.

    Raises:
        ValueError: If an argument is out of range or a space is of another kind.

    >>> policy = GlmPolicy(spaces.Box(-1, 1, (2,)), spaces.Discrete(3))
    >>> action, state = policy.predict(np.zeros(2, np.float32), deterministic=True)
    >>> action, state = policy.predict(np.ones(2, np.float32), state)  # the key of its random spikes is in the state
    >>> policy.to_network().readout.kind
    'bernoulli'
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule | None = None,
        *,
        n_hidden: int = 0,
        n_ticks: int = 8,
        tau_s: float = 2.0,
        bias: float = -1.5,
        w_hidden_std: float = 2.0,
        hidden_bias: float = -1.0,
        w_out_std: float = 0.01,
        encoder: str | None = None,
        encoder_kwargs: Mapping[str, Any] | None = None,
        critic: str = "tiles",
        critic_kwargs: Mapping[str, Any] | None = None,
        trained_behind: Sequence[str] = (),
        **kwargs: Any,
    ):
        self._own_arguments = {
            "n_hidden": n_hidden,
            "n_ticks": n_ticks,
            "tau_s": tau_s,
            "bias": bias,
            "w_hidden_std": w_hidden_std,
            "hidden_bias": hidden_bias,
            "w_out_std": w_out_std,
            "encoder": encoder,
            "encoder_kwargs": dict(encoder_kwargs or {}),
            "critic": critic,
            "critic_kwargs": dict(critic_kwargs or {}),
        }
        super().__init__(observation_space, action_space, **kwargs)
        check_ranges(self._own_arguments, _RANGES)
        check_not_empty("observation", observation_space)
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"GlmPolicy needs a Discrete action space, got {in_words(action_space)}")
        self.n_ticks, self.tau_s, self.trained_behind = n_ticks, tau_s, tuple(trained_behind)
        self.kappa = float(decay(tau_s, 1.0))
        n_actions = int(action_space.n)
        self.head = ActionHead("discrete", (n_actions,), start=(int(action_space.start),))
        self._rows = ObservationRows(observation_space)
        self.encoder, self.critic = glm_codes(
            type(self).__name__, observation_space, n_ticks, encoder, encoder_kwargs or {}, critic, critic_kwargs or {}
        )
        self._warn_of_silence(n_actions, bias)
        self.rng = np.random.default_rng(int(th.randint(2**31, ())))  # checkpoints keep it
        n_inputs, rng = self.encoder.n_channels, self.rng
        w_hidden = rng.normal(0.0, w_hidden_std, (n_hidden, n_inputs + 1))
        w_hidden[:, -1] = rng.normal(hidden_bias, 1.0, n_hidden)
        w_out = rng.normal(0.0, w_out_std, (n_actions, (n_hidden or n_inputs) + 1))
        w_out[:, -1] = bias
        values = np.zeros(self.critic.n_inputs)
        self.w_hidden, self.w_out, self.values = (
            nn.Parameter(th.from_numpy(array), requires_grad=False) for array in (w_hidden, w_out, values)
        )
        self.counts = np.zeros(4)  # env steps, ticks, hidden spikes and output spikes of learning since the last log
        self._simulator: Simulator | None = None
        self._simulated = np.empty(0)  # the weights that the simulator has

    def _warn_of_silence(self, n_actions: int, bias: float) -> None:
        silent = float((1.0 - spike_probability(np.array(bias))) ** (n_actions * self.n_ticks))
        if silent > _MOST_SILENT:
            warnings.warn(
                f"with bias={bias} and n_ticks={self.n_ticks} no output spikes in {silent:.0%} of env steps, whose "
                "actions are uniform and teach nothing; raise one of them",
                stacklevel=3,
            )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "trained_behind": self.trained_behind,
            **self._own_arguments,
        }

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._simulator = None

    @property
    def n_hidden(self) -> int:
        """Number of hidden neurons."""
        return len(self.w_hidden)

    @property
    def plain(self) -> bool:
        """Whether the kernels of compiled tasks know the input code."""
        return is_plain(self.encoder, self.observation_space)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return hidden weights, output weights and the critic's, in the memory of the policy's own parameters."""
        w_hidden, w_out, values = (p.detach().numpy() for p in (self.w_hidden, self.w_out, self.values))
        return w_hidden, w_out, values

    def learning(self, rule: RewardGlm) -> GlmLearning:
        """Return what runs and teaches the network, with nothing eligible yet."""
        return GlmLearning(self, rule)

    def rows(self, observation: Any) -> np.ndarray:
        """Return observations as rows of numbers, shape (B, n_obs)."""
        return self._rows(observation)

    def to_network(self, env: VecEnv | None = None, metadata: Mapping[str, str] | None = None) -> Network:
        """Return the actor as a value, whose readout of kind ``bernoulli`` is the outputs.

        Its values are logarithms of the actions' probabilities given the input's spikes. ``Simulator.predict`` takes
        the most likely action, or draws one with ``deterministic=False``.

        Args:
            env: The environments the policy was trained in, with their wrappers; None if none of these changes what is
                observed. ``model.to_network()`` finds them by itself.
            metadata: Text pairs to keep with the network.

        Raises:
            ValueError: If there are hidden neurons, a wrapper has no place in a Network, or ``env`` lacks one that the
                policy was trained behind.
        """
        check_unchanged(self, GlmPolicy, ("predict",))
        if self.n_hidden:
            raise ValueError(
                f"a Network has no place for hidden neurons that draw their spikes, this policy has {self.n_hidden}"
            )
        return self._network(inputs_of(self.observation_space, env, (), self.trained_behind), metadata)

    def _network(self, inputs: Inputs, metadata: Mapping[str, str] | None = None) -> Network:
        w_out = self.w_out.detach().numpy()
        return Network(
            encoder=self.encoder,
            layers=(),
            readout=Readout(w_out[:, :-1], w_out[:, -1], tau_out=self.tau_s, kind="bernoulli"),
            head=self.head,
            preprocessing=inputs.preprocessing,
            observation=inputs.observation,
            n_ticks=self.n_ticks,
            metadata=metadata or {},
        )

    def _simulator_of_now(self) -> Simulator:
        """Return a simulator of rows with the current weights; the rule changes the policy's in place."""
        now = self.w_out.detach().numpy()
        if self._simulator is None or not np.array_equal(now, self._simulated):
            self._simulated = now.copy()
            self._simulator = Simulator(self._network(Inputs((), ())))
        return self._simulator

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
            state: What the previous call returned, which holds the key of the input's random spikes; None draws one.
            episode_start: True where an episode begins, shape (B,).
            deterministic: Take the most likely action, given the input's spikes, instead of drawing one. Hidden neurons
                then send their spike probabilities instead of spikes.

        Returns:
            The actions, and the new state.

        Raises:
            ValueError: If a shape is wrong or an observation is not finite.
        """
        rows, one = self._rows.of_predict(observation)
        shape = (len(self.encoder.memory_rows), self.encoder.n_obs)
        if not self.n_hidden:
            shape = self._simulator_of_now().network.state_shape
        packed = self._packed(shape, len(rows)) if state is None else np.asarray(state[0])
        check_carried(packed, shape, episode_start, len(rows))
        starts = None if episode_start is None else np.reshape(episode_start, (1, -1)) != 0
        if self.n_hidden:
            values, new = self._run_hidden(rows[None], packed, starts, deterministic)
        else:
            outputs, new = self._simulator_of_now().run(rows[None], packed, starts)
            values = outputs[0]
        if not deterministic:  # the largest of logarithms plus Gumbel noise is a draw by their probabilities
            values = values + self.rng.gumbel(size=values.shape)
        actions = self.head(values)
        return actions[0] if one else actions, (new,)

    def _packed(self, shape: tuple[int, int], n_envs: int) -> np.ndarray:
        """Return the state to begin with, with keys that are drawn, shape (n_rows, n_envs, width)."""
        packed, n_rows = np.zeros((shape[0], n_envs, shape[1])), len(self.encoder.memory_rows)
        if n_rows:
            packed[:n_rows, :, : self.encoder.n_obs] = self.encoder.initial_memory(n_envs, self.rng)
        return packed

    def _run_hidden(
        self, rows: np.ndarray, memory: np.ndarray, starts: np.ndarray | None, deterministic: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return logarithms of the actions' probabilities given all spikes before the outputs, and the new state."""
        x, memory = encode(self.encoder, rows, memory, starts, self.n_ticks)
        ticks = np.broadcast_to(x[0], (self.n_ticks, *x.shape[1:])) if self.encoder.held else x[0]  # (K, B, C)
        (w, w_out, _), kappa = self.arrays(), self.kappa
        s, h = np.zeros(ticks.shape[1:]), np.zeros((ticks.shape[1], self.n_hidden))
        v = np.empty((self.n_ticks, len(h), len(w_out)))
        for k, of_tick in enumerate(ticks):
            s = kappa * s + (1 - kappa) * of_tick
            p = spike_probability(s @ w[:, :-1].T + w[:, -1])
            h = kappa * h + (1 - kappa) * (p if deterministic else self.rng.random(p.shape) < p)
            v[k] = h @ w_out[:, :-1].T + w_out[:, -1]
        readout = Readout(w_out[:, :-1], w_out[:, -1], tau_out=self.tau_s, kind="bernoulli")
        return readout.decide(v)[0], memory
