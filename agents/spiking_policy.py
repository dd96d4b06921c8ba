"""What SB3 policies with a spiking actor share, whatever its core; the critic is an ordinary MLP on the observation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from spikeloop.agents.action_distributions import drawn_actions, without_graph
from spikeloop.agents.actor import SpikingActor, fixed_scaler, head_for, in_one_order, units_for_every_tick
from spikeloop.agents.check_finite import check_predicted
from spikeloop.agents.checks import WHOLE, check_carried, check_ranges
from spikeloop.agents.export import check_unchanged, inputs_of, policy_steps
from spikeloop.agents.frames import check_frames, critic_view
from spikeloop.agents.initial_firing import fingerprint
from spikeloop.agents.known_arguments import KnownArguments, arguments_of
from spikeloop.agents.one_thread import one_thread_up_to, weights_per_row
from spikeloop.agents.policy_arguments import check_readout, check_spaces, default_extractor, from_zero, mlp_layers
from spikeloop.agents.silence import Coverage
from spikeloop.spiking.constrained_weights import ConstrainedWeights
from spikeloop.spiking.core import Core
from spikeloop.spiking.network import Network
from spikeloop.spiking.readout_kinds import READOUTS
from spikeloop.spiking.stateless import StatelessWarning
from spikeloop.spiking.threads import torch_on_one_thread
from spikeloop.spiking.tick_readout import TickReadout


class SpikingPolicy(KnownArguments, RecurrentActorCriticPolicy):
    """Actor-critic policy whose actor is a spiking core, for SpikingPPO and SpikingA2C.

    The actor is a :class:`~spikeloop.agents.actor.SpikingActor` around a :class:`~spikeloop.spiking.core.Core`, whose
    state is carried across env steps. The critic is an MLP on the features, as only the actor is deployed. All
    observations go through SB3's features extractors. A subclass chooses the core: it has a constructor with the core's
    arguments, :meth:`_make_core`, and a line in :data:`~spikeloop.agents.policies.POLICIES`.

    Args:
        observation_space: Observation space.
        action_space: Action space: Box, Discrete, MultiDiscrete or MultiBinary.
        lr_schedule: Learning rate schedule.
        core_arguments: What the subclass was given for its core, by name.
        trained_behind: Names of the wrappers of the VecEnv that change what is observed; algorithms fill them in, and
            :meth:`to_network` wants the environments that have them.
        obs_scale: What a vector observation is multiplied by, one factor or one per value, instead of VecNormalize. Its
            running statistics move on while a policy drifts, and what was learnt moves with them; fixed factors do not.
        critic_frames: How many frames the critic sees, the last of which is what the actor sees. With several it can
            tell a velocity that one does not show. A frame is the features of an observation; frames from before the
            episode are 0. As the actor alone is deployed, more frames cost nothing there.
        critic_reads_actor: Also give the critic the actor's readout trace, without its gradient: a memory for tasks
            whose observation does not tell the state.
        net_arch: ``dict(pi=[...], vf=[...])``: MLP layers after the spiking actor (none) and of the critic ([64, 64]);
            what is left out keeps these defaults. SB3's short form, one list for both, is refused: whoever gives it
            hardly means layers behind the actor.
        features_extractor_class: SB3 features extractor; chosen by the observation space if None.
        optimizer_class: Optimizer; Adam runs fused with eps 1e-5 unless ``optimizer_kwargs`` says otherwise.
        optimizer_kwargs: Its keyword arguments.
        kwargs: Any option of SB3's ``ActorCriticPolicy`` (``activation_fn``, ``ortho_init``, ``log_std_init``, ...).

    Raises:
        TypeError: If an option belongs neither to this class nor to SB3's.
        ValueError: If a value is out of range.
    """

    lstm_actor: Core  # type: ignore[assignment]  # under the name contrib's algorithm looks for
    actor: SpikingActor
    constraint: ConstrainedWeights | None  # what weights of the core must be
    critic_frames: int
    critic_reads_actor: bool
    calibrate_init: bool | float = False  # whether layers that start silent are helped
    of_kwargs = arguments_of(ActorCriticPolicy)

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        core_arguments: Mapping[str, Any],
        /,
        *,
        obs_scale: float | Sequence[float] | None = None,
        trained_behind: Sequence[str] = (),
        critic_frames: int = 1,
        critic_reads_actor: bool = False,
        net_arch: dict[str, list[int]] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        check_spaces(observation_space, action_space)
        self._core_arguments = dict(core_arguments)
        own: dict[str, Any] = dict(critic_frames=critic_frames, critic_reads_actor=critic_reads_actor)
        check_ranges(own, {"critic_frames": WHOLE})
        self.critic_frames, self.critic_reads_actor = own.values()
        self._obs_scale, self.trained_behind = obs_scale, tuple(trained_behind)
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 1e-5, "fused": True} if optimizer_class is th.optim.Adam else {}
        # contrib's constructor would build LSTMs only to throw them away
        ActorCriticPolicy.__init__(
            self,
            observation_space,
            action_space,
            lr_schedule,
            net_arch=mlp_layers(net_arch),
            features_extractor_class=features_extractor_class or default_extractor(observation_space),
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            **kwargs,
        )
        self.reset_rollout_counts()
        self._key_rng = np.random.default_rng(int(th.randint(2**31, ())))
        self._note_state = StatelessWarning("model")
        self.coverage = Coverage(self.lstm_actor.encoder)
        self.as_drawn = fingerprint(self.lstm_actor)

    def _make_core(self, arguments: dict[str, Any]) -> Core:
        """Return the core for ``features_dim`` values, made with the arguments that the constructor got."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its core is")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of copies what the last pass left in the distribution."""
        return {**self.__dict__, "action_dist": without_graph(self.action_dist)}

    def _build(self, lr_schedule: Schedule) -> None:
        with torch_on_one_thread():  # the initial weights of SB3 are orthogonalised
            self._build_parts(lr_schedule)
        self._weights_per_row = weights_per_row(self)

    def _build_parts(self, lr_schedule: Schedule) -> None:
        scaler = fixed_scaler(self._obs_scale, self.observation_space)
        if scaler is not None and self.features_extractor_class is not FlattenExtractor:
            raise ValueError(f"obs_scale is for observations as they are, not for {self.features_extractor_class}")
        self.constraint = None
        self.lstm_actor = self._make_core(dict(self._core_arguments))
        check_readout(self)
        # contrib sizes its LSTM buffers by these; SpikingPPO keeps the packed state in a buffer of its own
        self.lstm_actor.num_layers = self.lstm_actor.hidden_size = 0  # type: ignore[attr-defined]
        super()._build(lr_schedule)
        with th.no_grad():
            seen = self.critic_frames * self.features_dim
            self._critic_weights()[:, seen:] = 0.0  # so that the value is first learnt from the observation
        check_frames(self.critic_frames, self.features_extractor)
        if type(self.action_net) is nn.Linear:  # gSDE may clip its mean with a further module
            by_tick = READOUTS[self.lstm_actor.readout].decide is not None
            self.action_net = (
                units_for_every_tick(self.action_net, self.lstm_actor) if by_tick else in_one_order(self.action_net)
            )
        # Its parts are registered above, under the names that SB3 and saved models have for them, so it is not itself.
        self.__dict__["actor"] = SpikingActor(
            self.lstm_actor,
            self.mlp_extractor.policy_net,
            self.action_net,
            head_for(self.action_space, squash=self.squash_output),
            scaler,
        )

    def _critic_weights(self) -> nn.Parameter:
        """Return the weights that the critic's inputs meet, shape (n, n_inputs)."""
        first = next(iter(self.mlp_extractor.value_net), self.value_net)
        return first.get_parameter("weight")

    def one_thread(self, n_rows: int) -> AbstractContextManager[None]:
        """Return a context in which a pass of so many observations has the same bits whatever torch's thread count.

        It leaves torch its threads where they save time: for a large critic, and for one with convolutions.
        """
        return one_thread_up_to(n_rows * self._weights_per_row)

    def _build_mlp_extractor(self) -> None:
        assert isinstance(self.net_arch, dict)
        make = partial(MlpExtractor, activation_fn=self.activation_fn, device=self.device)
        actor = make(self.lstm_actor.n_neurons[-1], {"pi": self.net_arch["pi"], "vf": []})
        self.mlp_extractor = make(self._critic_dim, {"pi": [], "vf": self.net_arch["vf"]})
        self.mlp_extractor.policy_net, self.mlp_extractor.latent_dim_pi = actor.policy_net, actor.latent_dim_pi

    @property
    def _critic_dim(self) -> int:
        """Numbers that the critic sees."""
        return self.critic_frames * self.features_dim + self.critic_reads_actor * self.lstm_actor.n_neurons[-1]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "share_features_extractor": self.share_features_extractor,
            "normalize_images": self.normalize_images,
            "trained_behind": self.trained_behind,
            "obs_scale": self._obs_scale,
            "critic_frames": self.critic_frames,
            "critic_reads_actor": self.critic_reads_actor,
            **self._core_arguments,
        }

    def initial_state(self, n_envs: int = 1) -> np.ndarray:
        """Return the actor's resting packed state, shape (n_rows, n_envs, width)."""
        return self.lstm_actor.initial_state(n_envs, self._key_rng)

    def reset_rollout_counts(self) -> None:
        """Begin to count the spikes of a rollout."""
        self.rollout_counts = tuple(np.zeros(n, np.int64) for n in self.lstm_actor.n_neurons), 0
        self.rollout_ticks = np.zeros(2)  # env steps, and the sum of their mean ticks until an output spike

    @contextmanager
    def _counting_rollout(self) -> Iterator[None]:
        """Count the spikes of passes in this context for the rollout, and no others, such as an evaluation's."""
        actor = self.lstm_actor
        others = actor.spike_counts, actor.n_counted
        actor.spike_counts, actor.n_counted = self.rollout_counts
        yield
        self.rollout_counts = actor.spike_counts, actor.n_counted
        actor.spike_counts, actor.n_counted = others

    def rollout_figures(self) -> dict[str, float]:
        """Return further figures of the rollout's spikes to be logged, by name."""
        steps, ticks = self.rollout_ticks.tolist()
        return {"ticks_per_step": ticks / steps} if steps else {}

    def _act(self, y: th.Tensor) -> Distribution:
        """Return the action distribution for readout traces, shape (..., N)."""
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(y))

    def _value(self, features: th.Tensor, y: th.Tensor) -> th.Tensor:
        """Return the critic's values, shape (B, 1), for what it sees (B, frames * F) and readout traces (B, N)."""
        if self.critic_reads_actor:
            features = th.cat([features, y.detach()], dim=-1)
        return self.value_net(self.mlp_extractor.forward_critic(features))

    def _features(self, obs: Any) -> tuple[th.Tensor, th.Tensor]:
        """Return the features of actor and critic, each (B, F)."""
        features = self.extract_features(from_zero(obs, self.observation_space))
        actor, critic = (features, features) if isinstance(features, th.Tensor) else features
        scaled = self.actor.scaled(actor)
        return scaled, scaled if critic is actor else self.actor.scaled(critic)

    def forward(
        self,
        obs: th.Tensor | dict[str, th.Tensor],
        lstm_states: RNNStates,
        episode_starts: th.Tensor,
        deterministic: bool = False,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, RNNStates]:
        """Sample actions in a rollout; call it without gradients.

        Args:
            obs: Observations, shape (B, ...).
            lstm_states: ``pi[0]`` is the packed state, shape (n_rows, B, width), and ``vf[1]`` the critic's frames,
                shape (critic_frames - 1, B, F).
            episode_starts: 1 where a new episode begins, shape (B,).
            deterministic: Take the most likely action.

        Returns:
            Actions (B, ...), values (B, 1), log-probabilities (B,), new states.
        """
        with self.one_thread(len(episode_starts)):
            pi_features, vf_features = self._features(obs)
            with self._counting_rollout():
                y, state = self.actor.step(pi_features, lstm_states.pi[0], episode_starts)
            distribution = self._act(y)
            if isinstance(self.action_net, TickReadout) and self.action_net.kind.draws:
                self.rollout_ticks += (len(y), self.action_net.ticks(y).sum())
            actions = distribution.get_actions(deterministic=deterministic)
            log_prob = distribution.log_prob(actions)
            seen, frames = critic_view(self.critic_frames, vf_features[None], lstm_states.vf[1], episode_starts[None])
            values = self._value(seen[0], y)
        states = RNNStates((state,), (state, frames))  # contrib cuts both of the critic's to pieces at timeouts
        return actions.reshape((-1, *self.action_space.shape)), values, log_prob, states  # type: ignore[misc]

    def get_distribution(
        self, obs: Any, lstm_states: tuple[th.Tensor, ...], episode_starts: th.Tensor
    ) -> tuple[Distribution, tuple[th.Tensor, ...]]:
        """Return the action distribution and the new state, without gradients."""
        y, state = self.actor.step(self._features(obs)[0], lstm_states[0], episode_starts)
        return self._act(y), (state,)

    def predict_values(self, obs: Any, lstm_states: tuple[th.Tensor, ...], episode_starts: th.Tensor) -> th.Tensor:
        """Return the critic's values, shape (B, 1), from the actor's state and the frames before, ``lstm_states``."""
        with self.one_thread(len(episode_starts)):
            pi_features, vf_features = self._features(obs)
            seen = vf_features[None]
            if self.critic_frames > 1:
                seen, _ = critic_view(self.critic_frames, seen, lstm_states[1], episode_starts[None])
            if not self.critic_reads_actor:
                return self._value(seen[0], seen[0])
            return self._value(seen[0], self.actor.step(pi_features, lstm_states[0], episode_starts)[0])

    def evaluate_actions(
        self, obs: Any, actions: th.Tensor, lstm_states: RNNStates, episode_starts: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Run the actor over sequences, with gradients.

        Args:
            obs: Observations of ``n_seq`` sequences of length L, one after the other, shape (n_seq * L, ...).
            actions: Actions taken, shape (n_seq * L, ...).
            lstm_states: ``pi[0]`` is the packed state at the start of each sequence, shape (n_rows, n_seq, width), and
                ``vf[1]`` the critic's frames, shape (critic_frames - 1, n_seq, F).
            episode_starts: 1 where a new episode begins, shape (n_seq * L,).

        Returns:
            Values (n_seq * L, 1), log-probabilities and entropies (n_seq * L,).
        """
        pi_features, vf_features = self._features(obs)
        state = lstm_states.pi[0]
        n_seq = state.shape[1]
        sequences = pi_features.reshape(n_seq, -1, pi_features.shape[-1]).transpose(0, 1)  # (L, n_seq, F)
        starts = episode_starts.reshape(n_seq, -1).transpose(0, 1)
        y, _ = self.actor(sequences, state, starts)
        y = y.transpose(0, 1).flatten(0, 1)  # (n_seq * L, N)
        distribution = self._act(y)
        if self.critic_frames > 1:
            seen = vf_features.reshape(n_seq, -1, vf_features.shape[-1]).transpose(0, 1)
            view, _ = critic_view(self.critic_frames, seen, lstm_states.vf[1], starts)
            vf_features = view.transpose(0, 1).flatten(0, 1)
        values = self._value(vf_features, y)
        return values, distribution.log_prob(actions), distribution.entropy()  # type: ignore[return-value]

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions; pass the returned state to the next call, and ``episode_start`` where an episode begins.

        Args:
            observation: One observation or a batch of them.
            state: What the previous call returned; None starts from rest.
            episode_start: Shape (B,), true where the state is to be cleared first.
            deterministic: Take the most likely action.

        Returns:
            The actions, and the new state: a tuple of the packed state, shape (n_rows, B, width).

        Raises:
            ValueError: If a shape is wrong or an observation is not finite.
        """
        check_predicted(observation)
        self._note_state(state is None and episode_start is None)
        if self.training:
            self.set_training_mode(False)
        obs, vectorized = self.obs_to_tensor(observation)
        with th.no_grad():
            features = self._features(obs)[0]
            self.coverage.warn_of_observation(features)
            n_envs = len(features)
            packed = self.initial_state(n_envs) if state is None else np.asarray(state[0], np.float32)
            check_carried(packed, self.lstm_actor.state_shape, episode_start, n_envs)
            starts = np.zeros(n_envs) if episode_start is None else np.asarray(episode_start)
            y, new = self.actor.step(
                features,
                th.from_numpy(packed).to(features.device),
                th.from_numpy(starts.astype(np.float32).reshape(n_envs)).to(features.device),
            )
            # what the head reads off the outputs is the mode of the distribution, which need not be built
            actions = self.actor.best(y) if deterministic else drawn_actions(self._act(y), self)
        return actions if vectorized else actions.squeeze(axis=0), (new.cpu().numpy(),)

    def to_network(self, env: VecEnv | None = None, metadata: Mapping[str, str] | None = None) -> Network:
        """Return the actor as a value: what it observes, encoder, neurons, readout and action head.

        Args:
            env: The environments the policy was trained in, with their wrappers; None if none of these changes what is
                observed. ``model.to_network()`` finds them by itself.
            metadata: Text pairs to keep with the network.

        Raises:
            ValueError: If a part of the policy or a wrapper has no place in a Network, or ``env`` lacks wrappers that
                the policy was trained behind.
        """
        check_unchanged(self, SpikingPolicy, ("predict", "extract_features", "obs_to_tensor", "_features"))
        inputs = inputs_of(self.observation_space, env, policy_steps(self), self.trained_behind)
        return self.actor.to_network(inputs.preprocessing, inputs.observation, metadata)
