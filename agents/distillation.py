"""Distils a network into one of ReLU layers, on inputs that it met: ReLU layers convert, tanh layers do not.

Choices are learnt from the teacher's probabilities (Rusu et al. 2016, policy distillation): its soft-max if its
outputs are logits, otherwise 1 for the action that it takes. Numbers are learnt by their squared error.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch as th
from torch import nn

from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.readout import Dense

EPOCHS, BATCH, LEARNING_RATE = 60, 256, 2e-3


def distilled(
    x: np.ndarray, outputs: np.ndarray, widths: Sequence[int], head: ActionHead, soft: bool, seed: int = 0
) -> tuple[Dense, ...]:
    """Return ReLU layers and a linear map that give what a network gave.

    Args:
        x: Inputs that the network met, shape (n, n_inputs).
        outputs: What it gave for them, shape (n, n_outputs).
        widths: Neurons of each ReLU layer.
        head: Makes an action of the outputs.
        soft: Whether the outputs are logits.
        seed: Of the initial weights, and of the order of the inputs.

    >>> x = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    >>> head = ActionHead("box", (1,), (1,), -np.ones(1), np.ones(1))
    >>> layers = distilled(x, np.tanh(x) @ np.array([[1.0], [-1.0]]), [32], head, soft=False)
    >>> [layer.activation for layer in layers]
    ['relu', 'identity']
    """
    generator = th.Generator().manual_seed(seed)
    mean, sd = x.mean(axis=0, dtype=np.float64), np.maximum(x.std(axis=0, dtype=np.float64), 1e-6)
    shown = th.from_numpy(((x - mean) / sd).astype(np.float32))
    wanted = th.from_numpy(outputs.astype(np.float32))
    scale = wanted.std() if head.kind == "box" and not head.squash else th.ones(())
    sizes = [x.shape[1], *widths, outputs.shape[1]]
    linear = [_linear(n_in, n_out, generator) for n_in, n_out in pairwise(sizes)]
    student = nn.Sequential(*(part for one in linear for part in (one, nn.ReLU())))[:-1]
    optimizer = th.optim.Adam(student.parameters(), LEARNING_RATE)
    n_steps = EPOCHS * max(len(x) // BATCH, 1)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for step in range(n_steps):
        if step % max(len(x) // BATCH, 1) == 0:
            order = th.randperm(len(x), generator=generator)
        batch = order.roll(-(step * BATCH) % len(x))[:BATCH]
        loss = _loss(student(shown[batch]), wanted[batch] / scale, head, soft)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return _layers(linear, mean, sd, float(scale))


def _linear(n_in: int, n_out: int, generator: th.Generator) -> nn.Linear:
    linear = nn.utils.skip_init(nn.Linear, n_in, n_out)
    with th.no_grad():
        nn.init.orthogonal_(linear.weight, 2**0.5, generator=generator)
        linear.bias.zero_()
    return linear


def _loss(y: th.Tensor, wanted: th.Tensor, head: ActionHead, soft: bool) -> th.Tensor:
    """Return how far outputs are from what is wanted: mean squared error, or cross entropy of each group's choice."""
    if head.kind == "box":
        return nn.functional.mse_loss(y.tanh(), wanted.tanh()) if head.squash else nn.functional.mse_loss(y, wanted)
    if head.kind == "multi_binary":
        return nn.functional.binary_cross_entropy_with_logits(y, th.sigmoid(wanted) if soft else (wanted > 0).float())
    losses = []
    for mine, theirs in zip(y.split(head.sizes, dim=1), wanted.split(head.sizes, dim=1), strict=True):
        losses.append(nn.functional.cross_entropy(mine, theirs.softmax(dim=1) if soft else theirs.argmax(dim=1)))
    return th.stack(losses).mean()


def _layers(linear: Sequence[nn.Linear], mean: np.ndarray, sd: np.ndarray, scale: float) -> tuple[Dense, ...]:
    """Return linear maps as layers that take inputs as they are and give outputs in their own units."""
    arrays = [(one.weight.detach().numpy().astype(np.float64), one.bias.detach().numpy()) for one in linear]
    w, b = arrays[0]
    arrays[0] = w / sd, b - (w / sd) @ mean
    w, b = arrays[-1]
    arrays[-1] = w * scale, b * scale
    kinds = ["relu"] * (len(arrays) - 1) + ["identity"]
    return tuple(
        Dense(w.astype(np.float32), b.astype(np.float32), kind) for (w, b), kind in zip(arrays, kinds, strict=True)
    )
