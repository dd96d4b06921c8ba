"""PPO's update in one call of a kernel: what it reads of the rollout, the order of the minibatches, and the log."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th

from spikeloop.agents import ppo_kernels
from spikeloop.agents.compiled_policy import CompiledPolicy
from spikeloop.agents.compiled_rollout import encoded, features_of
from spikeloop.agents.frames import critic_view
from spikeloop.agents.ppo_kernels import OF_LOSS, STATISTICS, Loss, Rollout
from spikeloop.agents.ppo_update import begin_update, log_update
from spikeloop.agents.rollout_buffer import limits_of
from spikeloop.spiking.threads import kernel_threads

if TYPE_CHECKING:
    from spikeloop.agents.policies import LsnnPolicy
    from spikeloop.agents.spiking_ppo import SpikingPPO


def read_rollout(model: SpikingPPO, policy: LsnnPolicy) -> Rollout:
    """Return the rollout of a model, whose policy this is, as the kernels take it."""
    buffer = model.rollout_buffer
    n_steps, n_memory = buffer.seq_len, policy.lstm_actor._n_memory  # type: ignore[attr-defined]

    def chunks(array: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
        """(n_steps, n_envs, ...) -> (Q, L, ...)."""
        return np.ascontiguousarray(np.swapaxes(array, 0, 1), dtype).reshape(-1, n_steps, *array.shape[2:])

    def rows(array: np.ndarray) -> np.ndarray:
        return np.swapaxes(array, 0, 1).reshape(-1, *array.shape[2:])

    seen = buffer.observations
    obs = {key: rows(part) for key, part in seen.items()} if isinstance(seen, dict) else rows(seen)
    start = chunks(buffer.episode_starts, np.uint8)
    states = buffer.start_states.reshape(-1, *buffer.state_shape)  # type: ignore[attr-defined]  # (Q, n_rows, width)
    features = features_of(policy)(obs).reshape(*start.shape, -1)
    x, _ = encoded(policy, features, states.transpose(1, 0, 2), start.T)
    if policy.critic_frames > 1:
        before = buffer.start_frames.reshape(-1, *buffer.frames_shape).swapaxes(0, 1)  # type: ignore[attr-defined]
        by_step = (th.from_numpy(np.ascontiguousarray(one)) for one in (features.swapaxes(0, 1), before, start.T))
        features = critic_view(policy.critic_frames, *by_step)[0].numpy().swapaxes(0, 1)
    return Rollout(
        np.ascontiguousarray(x),
        np.ascontiguousarray(features),
        start,
        np.ascontiguousarray(states[:, n_memory:]),
        chunks(buffer.actions),
        chunks(buffer.advantages),
        chunks(buffer.returns),
        chunks(buffer.values),
        chunks(buffer.log_probs),
    )


class _Held:
    """The weights that the policy's constraint is about, where the kernels have them."""

    def __init__(self, compiled: CompiledPolicy):
        self.constraint = compiled.policy.constraint
        self.mask = np.zeros(0, np.float32)  # what the kernels multiply gradients by
        if self.constraint is None:
            return
        self.mask = np.ones_like(compiled.parameters)
        weights = self.constraint.weights
        places = [next(i for i, p in enumerate(compiled.known) if p is w) for w in weights]
        parameters, _, *moments = compiled.vectors
        self._masks, self._weights, *of_moments = (
            [views[i] for i in places] for views in map(compiled.views_of, (self.mask, parameters, *moments))
        )
        self._moments = list(zip(*of_moments, strict=True))
        self._set_mask()

    def _set_mask(self) -> None:
        assert self.constraint is not None
        for mask, active in zip(self._masks, self.constraint.active, strict=True):
            mask.copy_(active)

    def after_step(self, rate: float) -> None:
        """Bring the weights back to what they must be after a step of Adam at this learning rate."""
        assert self.constraint is not None
        self.constraint.hold(self._weights, self._moments, rate)
        self._set_mask()


def update_compiled(model: SpikingPPO, compiled: CompiledPolicy) -> None:
    """Run the epochs of an update over the rollout, and log what RecurrentPPO logs, and norms of gradients.

    Minibatches are drawn from torch's generator as the torch path draws them. Gradients of actor and critic are clipped
    apart, each to ``max_grad_norm``. ``compiled`` has taken the parameters as they are.

    Raises:
        ValueError: If a sequence left the range of float32.
    """
    policy, (clip_range, clip_range_vf) = compiled.policy, begin_update(model)
    rollout = read_rollout(model, policy)
    n_sequences = len(rollout.x)
    limits = limits_of(n_sequences, model.seq_len, model.batch_size)
    shuffles = len(limits) > 2  # where one minibatch holds all sequences there is no order to draw
    adam, lsnn = policy.optimizer.param_groups[0], policy.lstm_actor
    numbers = (
        clip_range, -1 if clip_range_vf is None else clip_range_vf, model.ent_coef, model.vf_coef, model.max_grad_norm,
        -1 if model.target_kl is None else model.target_kl, model.normalize_advantage, lsnn.rate_coef, lsnn.target_rate,
        adam["lr"], *adam["betas"], adam["eps"],
    )  # fmt: skip
    loss = Loss(*map(float, numbers))
    first = n_updates = compiled.take_optimizer()
    parameters, _, *moments = compiled.vectors
    held = _Held(compiled)
    n_shares = len(compiled.gradients)
    n_threads = min(kernel_threads(), n_shares) if n_shares > 1 else 1
    run = ppo_kernels.epochs if n_threads == 1 else ppo_kernels.epochs_in_threads
    told, n_epochs, end = [], 0, ppo_kernels.DONE
    at_once = model.n_epochs if model.target_kl is None else 1  # an epoch that is not run draws no order
    while n_epochs < model.n_epochs and end == ppo_kernels.DONE:
        orders = np.tile(np.arange(n_sequences), (at_once, 1))
        for order in orders if shuffles else ():
            order[:] = th.randperm(n_sequences).numpy()
        statistics, n_done = np.zeros((at_once * (len(limits) - 1), len(STATISTICS))), 0
        calls = [(orders, limits)]
        if held.constraint is not None:  # which looks at the weights after every minibatch
            parts = [(order, a, b) for order in orders for a, b in pairwise(limits)]
            calls = [(order[None, a:b], np.array([0, b - a])) for order, a, b in parts]
        for order, bounds in calls:
            n, end = run(
                n_threads, compiled.sizes, compiled.layers, compiled.dense, compiled.groups, compiled.options,
                compiled.rows, compiled.windows, loss, rollout, order, bounds, parameters, compiled.gradients,
                held.mask, *moments, n_updates, compiled.shares, compiled.counts, compiled.totals, statistics[n_done:],
            )  # fmt: skip
            n_done += n
            n_updates += n - (end == ppo_kernels.STOPPED)
            if end != ppo_kernels.DONE:
                break
            if held.constraint is not None:
                held.after_step(adam["lr"])
        told.append(statistics[:n_done])
        n_epochs += at_once
        model._n_updates += at_once
    compiled.give_back(n_updates - first)
    n_seen = sum(int(np.resize(np.diff(limits), len(rows)).sum()) for rows in told)  # sequences that ran
    lsnn._count(n_seen * model.seq_len * lsnn.n_ticks)
    for total, found in zip(lsnn.spike_counts, compiled.counted(), strict=True):
        total += found
    if end == ppo_kernels.NOT_FINITE:
        raise ValueError("the sequence left the range of float32: its features or weights are too large")
    if end == ppo_kernels.STOPPED and model.verbose >= 1:
        print(f"Early stopping at step {n_epochs - 1} due to reaching max kl: {told[-1][-1, 3]:.2f}")
    rows = np.concatenate(told)
    means = dict(zip(STATISTICS, rows.mean(axis=0), strict=True))
    del means["approx_kl"], means["loss"]
    if n_updates - first < len(rows):  # a minibatch that ends the update has no gradient
        for name in STATISTICS[OF_LOSS:]:
            norms = rows[: n_updates - first, STATISTICS.index(name)]
            means[name] = norms.mean() if len(norms) else None
    per_epoch = len(limits) - 1
    divergence = rows[(len(rows) - 1) // per_epoch * per_epoch :, STATISTICS.index("approx_kl")].mean()
    ran = {name: mean for name, mean in means.items() if mean is not None}
    log_update(model, ran, divergence, rows[-1, STATISTICS.index("loss")], clip_range, clip_range_vf)
