"""An update of PPO's policy from a rollout: sb3-contrib's RecurrentPPO, with actor and critic clipped apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import explained_variance
from torch import nn

from spikeloop.agents.spiking_policy import SpikingPolicy

if TYPE_CHECKING:
    from spikeloop.agents.spiking_ppo import SpikingPPO


def parts_of(policy: SpikingPolicy) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of ``actor``, ``critic`` and what both read, ``shared``; each parameter is in one of them.

    Shared are the weights of a features extractor, if it has any and there is one for both.

    >>> from spikeloop.agents import LsnnPolicy
    >>> space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)
    >>> {name: len(part) for name, part in parts_of(LsnnPolicy(*space, lambda _: 3e-4)).items()}
    {'actor': 5, 'critic': 6, 'shared': 0}
    """
    seen, valued = (
        set(extractor.parameters()) for extractor in (policy.pi_features_extractor, policy.vf_features_extractor)
    )
    shared = seen & valued
    critic = valued.union(policy.mlp_extractor.value_net.parameters(), policy.value_net.parameters()) - shared
    parts: dict[str, list[nn.Parameter]] = {"actor": [], "critic": [], "shared": []}
    for p in policy.parameters():
        parts["shared" if p in shared else "critic" if p in critic else "actor"].append(p)
    return parts


def begin_update(model: SpikingPPO) -> tuple[float, float | None]:
    """Set the learning rate of now; return the clip ranges of now, of ratios and of values."""
    model.policy.set_training_mode(True)
    model._update_learning_rate(model.policy.optimizer)
    clip_range, clip_range_vf = (
        None if schedule is None else schedule(model._current_progress_remaining)  # type: ignore[operator]
        for schedule in (model.clip_range, model.clip_range_vf)
    )
    return clip_range, clip_range_vf  # type: ignore[return-value]


def update(model: SpikingPPO) -> None:
    """Run the epochs of an update over the rollout, and log what RecurrentPPO logs.

    One bound on the norm of all gradients together would tie the actor to the scale of the returns: the critic's
    gradient grows with them, and where it is hundreds of times too large, what is left of the actor's lies below Adam's
    eps. So each part of :func:`parts_of` has ``max_grad_norm`` for itself. The norms before the clip are logged.
    """
    policy, (clip_range, clip_range_vf) = model.policy, begin_update(model)
    parts = {name: part for name, part in parts_of(policy).items() if part}
    logged: dict[str, list[float]] = defaultdict(list)
    divergences: list[float] = []
    goes_on = True
    for epoch in range(model.n_epochs):
        divergences = []
        for batch in model.rollout_buffer.get(model.batch_size):
            actions = batch.actions
            if isinstance(model.action_space, spaces.Discrete):
                actions = actions.long().flatten()
            state, starts = batch.lstm_states, batch.episode_starts  # type: ignore[attr-defined]
            values, log_prob, entropy = policy.evaluate_actions(batch.observations, actions, state, starts)
            values = values.flatten()
            advantages = batch.advantages
            if model.normalize_advantage:
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            log_ratio = log_prob - batch.old_log_prob
            ratio = th.exp(log_ratio)
            clipped = advantages * th.clamp(ratio, 1 - clip_range, 1 + clip_range)
            policy_loss = -th.mean(th.min(advantages * ratio, clipped))
            if clip_range_vf is not None:
                values = batch.old_values + th.clamp(values - batch.old_values, -clip_range_vf, clip_range_vf)
            value_loss = th.mean((batch.returns - values) ** 2)
            entropy_loss = -th.mean(-log_prob if entropy is None else entropy)
            loss = policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss
            with th.no_grad():
                divergence = th.mean((th.exp(log_ratio) - 1) - log_ratio).item()
                divergences.append(divergence)
                logged["policy_gradient_loss"].append(policy_loss.item())
                logged["clip_fraction"].append(th.mean((th.abs(ratio - 1) > clip_range).float()).item())
                logged["value_loss"].append(value_loss.item())
                logged["entropy_loss"].append(entropy_loss.item())
            if model.target_kl is not None and divergence > 1.5 * model.target_kl:
                goes_on = False
                if model.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
                break
            policy.optimizer.zero_grad()
            loss.backward()
            if policy.constraint is not None:
                policy.constraint.mask_gradients()
            for name, part in parts.items():
                logged[f"{name}_grad_norm"].append(nn.utils.clip_grad_norm_(part, model.max_grad_norm).item())
            policy.optimizer.step()
            if policy.constraint is not None:
                policy.constraint.after_step(policy.optimizer)
        model._n_updates += 1
        if not goes_on:
            break
    means = {name: np.mean(numbers) for name, numbers in logged.items()}
    log_update(model, means, np.mean(divergences), loss.item(), clip_range, clip_range_vf)


def log_update(
    model: SpikingPPO,
    means: Mapping[str, Any],
    divergence: Any,
    loss: float,
    clip_range: float,
    clip_range_vf: float | None,
) -> None:
    """Log what RecurrentPPO logs of an update, and what else there is a mean of.

    Args:
        model: The model.
        means: By name, means over the minibatches.
        divergence: Mean of the approximate divergences of the minibatches of the last epoch.
        loss: Loss of the last minibatch.
        clip_range: The clip range.
        clip_range_vf: That of the values; None for none.
    """
    record = model.logger.record
    for name, mean in means.items():
        record(f"train/{name}", mean)
    record("train/approx_kl", divergence)
    record("train/loss", loss)
    buffer = model.rollout_buffer
    record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
    if hasattr(model.policy, "log_std"):
        record("train/std", th.exp(model.policy.log_std).mean().item())
    record("train/n_updates", model._n_updates, exclude="tensorboard")
    record("train/clip_range", clip_range)
    if clip_range_vf is not None:
        record("train/clip_range_vf", clip_range_vf)
