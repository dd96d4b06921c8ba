"""Advantage actor-critic of spiking policies: PPO with one epoch over the whole rollout and no clipping."""

from __future__ import annotations

from typing import Any, TypeVar

from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from spikeloop.agents.spiking_policy import SpikingPolicy
from spikeloop.agents.spiking_ppo import SpikingPPO

Self = TypeVar("Self", bound="SpikingA2C")


class SpikingA2C(SpikingPPO):
    """A2C (Mnih et al. 2016) of a spiking policy, trained through surrogate gradients.

    A2C is PPO with a single epoch, one batch and no clipping: the ratio is then 1 where its gradient is taken
    (Huang et al. 2022, "A2C is a special case of PPO"). The arguments and defaults are those of SB3's ``A2C``, except
    ``n_steps``, which is also how far gradients pass back through time, and ``use_rms_prop``: its RMSprop starts from
    squared gradients of 1, which the small gradients of a spiking actor take a whole short training to forget.

    Args:
        policy: A name in :data:`~spikeloop.agents.policies.POLICIES`, such as ``"LsnnPolicy"``, or a subclass of
            :class:`~spikeloop.agents.spiking_policy.SpikingPolicy`.
        env: The environment, or its id.
        learning_rate: Learning rate, or its schedule.
        n_steps: Env steps per update and environment, and the length of the training sequences.
        gamma: Discount factor.
        gae_lambda: Factor of the generalised advantage estimator; 1 is the classic advantage.
        ent_coef: Weight of the entropy in the loss.
        vf_coef: Weight of the value loss.
        max_grad_norm: Bound on the norm of the gradient, of the actor's and of the critic's each.
        rms_prop_eps: Epsilon of RMSprop.
        use_rms_prop: Use RMSprop (as TensorFlow had it); Adam otherwise.
        normalize_advantage: Normalise the advantages of each batch.
        policy_kwargs: Arguments of the policy.
        kwargs: Further keyword arguments of ``RecurrentPPO`` (``use_sde``, ``tensorboard_log``, ``seed``, ...).

    >>> model = SpikingA2C("LifPolicy", "CartPole-v1", n_steps=8, policy_kwargs={"n_neurons": 16})
    >>> model.learn(16).num_timesteps
    16
    """

    def __init__(
        self,
        policy: str | type[SpikingPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 16,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = False,
        normalize_advantage: bool = False,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        policy_kwargs = dict(policy_kwargs or {})
        if use_rms_prop and "optimizer_class" not in policy_kwargs:
            policy_kwargs["optimizer_class"] = RMSpropTFLike
            policy_kwargs["optimizer_kwargs"] = {"alpha": 0.99, "eps": rms_prop_eps, "weight_decay": 0}
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            seq_len=n_steps,
            batch_size=None,
            n_epochs=1,
            clip_range=1e9,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            normalize_advantage=normalize_advantage,
            policy_kwargs=policy_kwargs,
            **kwargs,
        )

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "SpikingA2C",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for ``total_timesteps`` env steps; the arguments are SB3's."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
