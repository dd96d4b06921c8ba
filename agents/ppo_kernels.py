"""PPO of a spiking policy in numba: the policy's pass over rows, the loss and its gradient, and Adam's step.

Layers run forward and backward in the kernels of :mod:`spikeloop.spiking.engine`; here is what stands around them. All
numbers of a policy lie in one float32 vector, and so do its gradients and Adam's moments: actor first, then critic.
:mod:`spikeloop.agents.compiled_policy` lays them out, with rows padded to whole vector panels by zeros, which stay so.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.engine import vectors
from spikeloop.spiking.engine.lsnn_kernels import KEEP_NOTHING, KEEP_TAPE, backward_rows, count_spikes, forward_rows
from spikeloop.spiking.engine.products import (
    all_finite,
    copy_row,
    fill,
    is_sparse,
    linear_rows,
    outer,
    pack,
    product,
    sparse_outer,
    sparse_product,
)
from spikeloop.spiking.engine.vectors import (
    PANEL_VECTORS,
    fma,
    lanes_of,
    load,
    select,
    splat,
    square_root,
    store,
    sum_of,
)

CATEGORICAL, BERNOULLI, GAUSSIAN = 0, 1, 2  # heads
TANH, RELU = 0, 1  # activations of the critic
LOG_2PI = math.log(2 * math.pi)
# columns of what is told of a minibatch
STATISTICS = (
    "policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "loss", "actor_grad_norm",
    "critic_grad_norm",
)  # fmt: skip
OF_LOSS = 6  # so many of these are sums over a minibatch, to which each share adds; the norms are of all shares
DONE, STOPPED, NOT_FINITE = 0, 1, 2  # how epochs end
COMPILED_IN = 45  # seconds, on a core of 3 GHz: what a SpikingPPO compiles before its first update is done
PANEL = vectors.panel(np.float32)  # vectors of parameters hold whole panels


class Sizes(NamedTuple):
    """Sizes of a policy and of its sequences, and where its vectors begin in the parameters and in the scratch."""

    n_steps: Any  # env steps of a sequence
    n_ticks: Any
    n_state: Any  # rows of the packed state
    state_width: Any
    n_outputs: Any
    n_action: Any  # numbers of an action
    head: Any
    width: Any  # padded neurons of the last layer
    n_read: Any  # neurons that the critic reads beside the features
    n_features: Any  # features that the critic sees
    critic_stride: Any  # both, padded
    activation: Any
    split: Any  # the actor's parameters end here
    w_out: Any
    b_out: Any
    log_std: Any
    w_value: Any
    b_value: Any
    # in the scratch
    x: Any
    state: Any
    new_state: Any
    y: Any
    grad_y: Any
    critic_x: Any
    outputs: Any
    grad_outputs: Any  # of categorical actions first the probabilities
    by_log_prob: Any  # log-probabilities, and then their gradients
    value: Any
    grad_value: Any
    column: Any  # advantages, returns, old values, old log-probabilities
    action: Any


class LayerAt(NamedTuple):
    """A spiking layer: its sizes, and where what it has begins, in parameters or scratch."""

    n: Any
    n_inputs: Any
    width: Any
    n_recurrent: Any  # n, or 0
    keeps_membrane: Any
    w_in: Any
    bias: Any
    w_rec: Any
    rows: Any
    psi: Any
    membrane: Any
    packed_in: Any
    packed_rec: Any
    grad_z: Any
    rate_grad: Any
    spikes: Any
    ptr: Any
    counts: Any


class DenseAt(NamedTuple):
    """A layer of the critic, likewise."""

    n_in: Any
    in_stride: Any
    n_out: Any
    width: Any
    w: Any
    b: Any
    h: Any
    grad: Any
    packed: Any


class Loss(NamedTuple):
    """Numbers of the loss and of the optimizer."""

    clip_range: Any
    clip_range_vf: Any  # negative for none
    ent_coef: Any
    vf_coef: Any
    max_grad_norm: Any
    target_kl: Any  # negative for none
    normalize: Any
    rate_coef: Any
    target_rate: Any
    learning_rate: Any
    beta1: Any
    beta2: Any
    eps: Any


class Scratch(NamedTuple):
    """Memory that the kernels use again and again."""

    numbers: Any  # float32
    spikes: Any  # uint16
    limits: Any  # int64
    starts: Any  # uint8


class Rollout(NamedTuple):
    """What was collected, in Q sequences of L env steps."""

    x: Any  # encoded, (Q, L or L n_ticks, n_inputs)
    features: Any  # what the critic sees, (Q, L, n_features)
    start: Any  # uint8, (Q, L)
    states: Any  # at the start of each sequence, (Q, n_state, state_width)
    actions: Any  # (Q, L, n_action)
    advantages: Any  # (Q, L), as all that follow
    returns: Any
    values: Any
    log_probs: Any


@kernel(forceinline=True)
def layer_at(row):
    """Return a row of integers by their names."""
    return LayerAt(
        row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10], row[11], row[12],
        row[13], row[14], row[15], row[16], row[17],
    )  # fmt: skip


@kernel(forceinline=True)
def dense_at(row):
    """Return a row of integers by their names."""
    return DenseAt(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8])


@kernel
def tanh_rows(h, h0, n):
    """Apply tanh to n numbers, whole vectors: Eigen's rational approximation, within 4e-7 of it."""
    lanes = lanes_of(h)
    number = h.dtype.type
    most, least = splat(number(7.90531110763549805)), splat(number(-7.90531110763549805))
    p1, p3, p5 = splat(number(4.89352455891786e-03)), splat(number(6.37261928875436e-04)), number(1.48572235717979e-05)
    p7, p9, p11 = number(5.12229709037114e-08), number(-8.60467152213735e-11), number(2.00018790482477e-13)
    q0, q2 = splat(number(4.89352518554385e-03)), splat(number(2.26843463243900e-03))
    q4, q6 = splat(number(1.18534705686654e-04)), splat(number(1.19825839466702e-06))
    p13, v5, v7, v9, v11 = splat(number(-2.76076847742355e-16)), splat(p5), splat(p7), splat(p9), splat(p11)
    for j in range(h0, h0 + n, lanes):
        x = load(h, j)
        x = select(x > most, most, x)
        x = select(least > x, least, x)
        s = x * x
        p = fma(fma(fma(fma(fma(fma(s, p13, v11), s, v9), s, v7), s, v5), s, p3), s, p1)
        q = fma(fma(fma(s, q6, q4), s, q2), s, q0)
        store(h, j, x * p / q)


@kernel
def _activate(h, h0, n, activation):
    if activation == TANH:
        tanh_rows(h, h0, n)
        return
    zero = splat(h.dtype.type(0))
    for j in range(h0, h0 + n, lanes_of(h)):
        v = load(h, j)
        store(h, j, select(zero > v, zero, v))


@kernel
def _through_activation(g, g0, h0, n, activation):
    """Multiply gradients of outputs by the derivative of the activation, which the outputs at h0 tell."""
    one, zero = splat(g.dtype.type(1)), splat(g.dtype.type(0))
    for j in range(0, n, lanes_of(g)):
        h, d = load(g, h0 + j), load(g, g0 + j)
        store(g, g0 + j, d * (one - h * h) if activation == TANH else select(h > zero, d, zero))


@kernel
def critic_forward(sizes, dense, parameters, f, n):
    """Write the values of n rows of ``critic_x`` to ``value``."""
    panel = PANEL_VECTORS * lanes_of(f)
    at, stride = sizes.critic_x, sizes.critic_stride
    for i in range(dense.shape[0]):
        layer = dense_at(dense[i])
        for r in range(n):
            copy_row(parameters, layer.b, f, layer.h + r * layer.width, layer.width)
        w = parameters[layer.w : layer.w + layer.n_in * layer.width]
        if i == 0 and is_sparse(f, at, stride, n, layer.n_in):  # what spiked, and tasks that show spikes
            sparse_product(f, at, stride, n, w, f, layer.h, layer.width, layer.width)
        else:
            product(f, at, stride, n, layer.n_in, w, panel, layer.width, f, layer.h, layer.width, layer.width)
        _activate(f, layer.h, n * layer.width, sizes.activation)
        at, stride = layer.h, layer.width
    bias = parameters[sizes.b_value]
    for r in range(n):
        total = splat(f.dtype.type(0))
        for j in range(0, stride, lanes_of(f)):
            total = fma(load(f, at + r * stride + j), load(parameters, sizes.w_value + j), total)
        f[sizes.value + r] = sum_of(total) + bias


@kernel
def _critic_backward(sizes, dense, parameters, gradients, f, n):
    """Add to the critic's gradients what the gradients of n values are."""
    panel, lanes = PANEL_VECTORS * lanes_of(f), lanes_of(f)
    last = dense.shape[0] - 1
    at, stride = sizes.critic_x, sizes.critic_stride
    if last >= 0:
        top = dense_at(dense[last])
        at, stride = top.h, top.width
    for r in range(n):
        gradients[sizes.b_value] += f[sizes.grad_value + r]
    outer(gradients, sizes.w_value, stride, f, sizes.grad_value, 1, 1, f, at, stride, n, 0, stride)
    if last >= 0:
        grad, w = dense_at(dense[last]).grad, parameters[sizes.w_value : sizes.w_value + stride]
        fill(f, grad, n * stride, f.dtype.type(0))
        product(f, sizes.grad_value, 1, n, 1, w, panel, stride, f, grad, stride, stride)
    for i in range(last, -1, -1):
        layer = dense_at(dense[i])
        _through_activation(f, layer.grad, layer.h, n * layer.width, sizes.activation)
        below = sizes.critic_x if i == 0 else dense_at(dense[i - 1]).h
        grad_w = gradients[layer.w : layer.w + layer.n_in * layer.width]
        if i == 0 and is_sparse(f, below, layer.in_stride, n, layer.n_in):
            sparse_outer(grad_w, layer.width, f, below, layer.in_stride, f, layer.grad, n)
        else:
            outer(
                grad_w, 0, layer.width, f, below, layer.in_stride, layer.n_in, f, layer.grad, layer.width, n, 0,
                layer.width,
            )  # fmt: skip
        for j in range(0, layer.width, lanes):
            total = load(gradients, layer.b + j)
            for r in range(n):
                total = total + load(f, layer.grad + r * layer.width + j)
            store(gradients, layer.b + j, total)
        if i > 0:
            grad_below = dense_at(dense[i - 1]).grad
            n_panels = layer.in_stride // panel
            packed = f[layer.packed : layer.packed + n_panels * layer.n_out * panel]
            w = parameters[layer.w : layer.w + layer.n_in * layer.width].reshape((layer.n_in, layer.width))
            pack(w, layer.n_in, layer.width, packed.reshape((n_panels, layer.n_out, panel)))
            fill(f, grad_below, n * layer.in_stride, f.dtype.type(0))
            product(
                f, layer.grad, layer.width, n, layer.n_out, packed, layer.n_out * panel, panel, f, grad_below,
                layer.in_stride, layer.in_stride,
            )  # fmt: skip


@kernel
def layers_forward(keep, sizes, layers, options, rows, parameters, scratch, x, start, state, new_state, y, counts):
    """Run all layers over sequences; the arrays from x to y are those of the engine's ``forward_rows``.

    Returns:
        Whether the new state is finite.
    """
    f = scratch.numbers
    n_batch, n_t = state.shape[1], start.shape[1] * sizes.n_ticks
    source, below, below_ptr = x, scratch.spikes[0:0], np.empty((0, 0), np.int64)
    for i in range(layers.shape[0]):
        at = layer_at(layers[i])
        n, width = at.n, at.width
        spikes = scratch.spikes[at.spikes : at.spikes + n_batch * (n_t + 1) * n]
        ptr = scratch.limits[at.ptr : at.ptr + n_batch * (n_t + 2)].reshape((n_batch, n_t + 2))
        n_tape = n_batch * n_t * width if keep == KEEP_TAPE else 0
        psi = f[at.psi : at.psi + n_tape].reshape((n_batch, n_t if n_tape else 0, width))
        n_kept = n_tape if at.keeps_membrane else 0
        membrane = f[at.membrane : at.membrane + n_kept].reshape((n_batch, n_t if n_kept else 0, width))
        n_inputs = at.n_inputs
        forward_rows(
            0, n_batch, keep, source,
            parameters[at.w_in : at.w_in + n_inputs * width].reshape((n_inputs, width)),
            parameters[at.bias : at.bias + width],
            parameters[at.w_rec : at.w_rec + at.n_recurrent * width].reshape((at.n_recurrent, width)),
            rows[at.rows : at.rows + 9 * width].reshape((9, width)), options[i],
            below, below_ptr, state, start, new_state, y, psi, membrane, spikes, ptr,
        )  # fmt: skip
        count_spikes(spikes, ptr, counts[at.counts : at.counts + n])
        below, below_ptr = spikes, ptr
        if i == 0 and layers.shape[0] > 1:
            source = np.empty((n_batch, 1, 0), x.dtype)
    return all_finite(new_state)


@kernel
def _layers_backward(
    sizes, layers, options, rows, windows, parameters, gradients, scratch, x, start, y, grad_y, counts, n_counted, loss
):  # fmt: skip
    """Add to the gradients of all layers; ``counts`` holds the spikes of the minibatch, in ``n_counted`` ticks."""
    f = scratch.numbers
    panel = PANEL_VECTORS * lanes_of(f)
    n_batch, n_t, n_layers = start.shape[0], start.shape[1] * sizes.n_ticks, layers.shape[0]
    n_rows = n_batch * n_t
    none, no_currents = np.empty((0, 0, 0), f.dtype), f[0:0]
    empty = np.empty((n_batch, 1, 0), f.dtype)
    grad_z = none
    for i in range(n_layers - 1, -1, -1):
        at = layer_at(layers[i])
        n, width, n_inputs = at.n, at.width, at.n_inputs
        rate_grad = f[at.rate_grad : at.rate_grad + width]
        for j in range(n):
            excess = counts[at.counts + j] / n_counted - loss.target_rate
            rate_grad[j] = loss.rate_coef / n_layers * max(excess, 0.0) / n_counted
        packed_rec, packed_in, grad_below = none, none, none
        if at.n_recurrent > 0:
            packed_rec = f[at.packed_rec : at.packed_rec + width * n].reshape((width // panel, n, panel))
            w_rec = parameters[at.w_rec : at.w_rec + n * width].reshape((n, width))
            pack(w_rec, n, width, packed_rec)
        below, below_ptr = scratch.spikes[0:0], np.empty((0, 0), np.int64)
        if i > 0:
            under = layer_at(layers[i - 1])
            below = scratch.spikes[under.spikes : under.spikes + n_batch * (n_t + 1) * under.n]
            below_ptr = scratch.limits[under.ptr : under.ptr + n_batch * (n_t + 2)].reshape((n_batch, n_t + 2))
            packed_in = f[at.packed_in : at.packed_in + under.width * n].reshape((under.width // panel, n, panel))
            w_in = parameters[at.w_in : at.w_in + n_inputs * width].reshape((n_inputs, width))
            pack(w_in, n_inputs, width, packed_in)
            grad_below = f[at.grad_z : at.grad_z + n_rows * under.width].reshape((n_batch, n_t, under.width))
        n_kept = n_rows * width if at.keeps_membrane else 0
        grad_rec = gradients[at.w_rec : at.w_rec + at.n_recurrent * width].reshape((at.n_recurrent, width))
        backward_rows(
            0, n_batch, windows[i], x if i == 0 else empty, packed_in, packed_rec,
            rows[at.rows : at.rows + 9 * width].reshape((9, width)), options[i], below, below_ptr, start,
            f[at.psi : at.psi + n_rows * width].reshape((n_batch, n_t, width)),
            f[at.membrane : at.membrane + n_kept].reshape((n_batch, n_t if n_kept else 0, width)),
            scratch.spikes[at.spikes : at.spikes + n_batch * (n_t + 1) * n],
            scratch.limits[at.ptr : at.ptr + n_batch * (n_t + 2)].reshape((n_batch, n_t + 2)),
            grad_y, grad_z, rate_grad, grad_below, no_currents,
            gradients[at.w_in : at.w_in + n_inputs * width].reshape((n_inputs, width)),
            gradients[at.bias : at.bias + width], grad_rec,
        )  # fmt: skip
        for j in range(at.n_recurrent):
            grad_rec[j, j] = 0
        grad_z = grad_below


@kernel(forceinline=True)
def softplus(x):
    """Return log(1 + exp(x))."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@kernel(forceinline=True)
def _log_softmax(f, logit, p, n):
    """Write to n logits what their log-probabilities are, and the probabilities at p; return the entropy."""
    most = f[logit]
    for k in range(1, n):
        most = max(most, f[logit + k])
    total = 0.0
    for k in range(n):
        e = math.exp(f[logit + k] - most)
        f[p + k] = e
        total += e
    shift, scale, entropy = most + math.log(total), 1.0 / total, 0.0
    for k in range(n):
        f[logit + k] -= shift
        f[p + k] *= scale
        entropy -= np.float64(f[p + k]) * f[logit + k]
    return entropy


# Each kind of head has loops over rows of its own: in one loop for all of them a row would take twice as long.


@kernel
def log_softmax_rows(sizes, groups, f, n):
    """Write to the logits of n rows what their log-probabilities are, and probabilities where gradients will be.

    Returns:
        The sum of the entropies.
    """
    entropies, stride = 0.0, sizes.n_outputs
    for r in range(n):
        first = r * stride
        for i in range(len(groups)):
            entropies += _log_softmax(f, sizes.outputs + first, sizes.grad_outputs + first, groups[i])
            first += groups[i]
    return entropies


@kernel
def log_probs_of(sizes, groups, parameters, f, n, action, a0, log_prob, l0):
    """Write the log-probabilities of the actions of n rows; those of categorical ones from :func:`log_softmax_rows`.

    Returns:
        The sum of the entropies where the actions are not categorical.
    """
    entropies, stride, n_action, outputs = 0.0, sizes.n_outputs, sizes.n_action, sizes.outputs
    if sizes.head == CATEGORICAL:
        for r in range(n):
            total, first = 0.0, outputs + r * stride
            for i in range(len(groups)):
                total += f[first + int(action[a0 + r * n_action + i])]
                first += groups[i]
            log_prob[l0 + r] = total
    elif sizes.head == BERNOULLI:
        for r in range(n):
            total = 0.0
            for k in range(stride):
                logit = np.float64(f[outputs + r * stride + k])
                total += action[a0 + r * n_action + k] * logit - softplus(logit)
                entropies += softplus(logit) - logit / (1.0 + math.exp(-logit))
            log_prob[l0 + r] = total
    else:
        for r in range(n):
            total = 0.0
            for k in range(stride):
                log_std = np.float64(parameters[sizes.log_std + k])
                moved = np.float64(action[a0 + r * n_action + k]) - f[outputs + r * stride + k]
                u = moved * math.exp(-log_std)
                total -= 0.5 * u * u + log_std + 0.5 * LOG_2PI
                entropies += 0.5 + 0.5 * LOG_2PI + log_std
            log_prob[l0 + r] = total
    return entropies


@kernel
def _outputs_backward(sizes, groups, parameters, gradients, f, n, by_entropy):
    """Write the gradients of the outputs of n rows, given those of the log-probabilities, and of each entropy.

    Those of logits take the place of their probabilities.
    """
    stride, n_action, by_log_prob = sizes.n_outputs, sizes.n_action, sizes.by_log_prob
    outputs, grad, action = sizes.outputs, sizes.grad_outputs, sizes.action
    if sizes.head == CATEGORICAL:
        for r in range(n):
            first, by = r * stride, np.float64(f[by_log_prob + r])
            for i in range(len(groups)):
                chosen, entropy = int(f[action + r * n_action + i]), 0.0
                for k in range(first, first + groups[i]):
                    entropy -= np.float64(f[grad + k]) * f[outputs + k]
                for k in range(first, first + groups[i]):
                    p = np.float64(f[grad + k])
                    hit = 1.0 if k - first == chosen else 0.0
                    f[grad + k] = by * (hit - p) - by_entropy * p * (f[outputs + k] + entropy)
                first += groups[i]
    elif sizes.head == BERNOULLI:
        for r in range(n):
            by = np.float64(f[by_log_prob + r])
            for k in range(stride):
                logit = np.float64(f[outputs + r * stride + k])
                p = 1.0 / (1.0 + math.exp(-logit))
                f[grad + r * stride + k] = by * (f[action + r * n_action + k] - p) - by_entropy * logit * p * (1.0 - p)
    else:
        for r in range(n):
            by = np.float64(f[by_log_prob + r])
            for k in range(stride):
                inverse = math.exp(-np.float64(parameters[sizes.log_std + k]))
                u = (np.float64(f[action + r * n_action + k]) - f[outputs + r * stride + k]) * inverse
                f[grad + r * stride + k] = by * u * inverse
                gradients[sizes.log_std + k] += by * (u * u - 1.0) + by_entropy


@kernel
def _scale_of(loss, advantages, order):
    """Return mean and deviation by which the advantages of the sequences that ``order`` names are normalised."""
    mean, deviation, n = 0.0, 1.0, len(order) * advantages.shape[1]
    if loss.normalize != 0:
        for q in order:
            for t in range(advantages.shape[1]):
                mean += advantages[q, t]
        mean /= n
        squares = 0.0
        for q in order:
            for t in range(advantages.shape[1]):
                squares += (advantages[q, t] - mean) ** 2
        deviation = math.sqrt(squares / (n - 1)) + 1e-8
    return mean, deviation


@kernel
def _losses(sizes, groups, loss, parameters, gradients, f, n, n_all, mean, deviation, statistics):
    """Write the gradients of outputs and values of n of ``n_all`` env steps, and their part of what the loss is."""
    entropies = log_softmax_rows(sizes, groups, f, n) if sizes.head == CATEGORICAL else 0.0
    entropies += log_probs_of(sizes, groups, parameters, f, n, f, sizes.action, f, sizes.by_log_prob)
    advantage, target, old_value, old_log_prob = (
        sizes.column, sizes.column + n, sizes.column + 2 * n, sizes.column + 3 * n,
    )  # fmt: skip
    low, high, weight, scale = 1.0 - loss.clip_range, 1.0 + loss.clip_range, 1.0 / n_all, 1.0 / deviation
    policy_loss, value_loss, divergence, clipped = 0.0, 0.0, 0.0, 0.0
    for r in range(n):
        a = (f[advantage + r] - mean) * scale
        log_ratio = np.float64(f[sizes.by_log_prob + r]) - f[old_log_prob + r]
        ratio = math.exp(log_ratio)
        policy_loss -= min(a * ratio, a * min(max(ratio, low), high))
        divergence += (ratio - 1.0) - log_ratio
        clipped += 1.0 if abs(ratio - 1.0) > loss.clip_range else 0.0
        free = ratio <= high if a > 0 else ratio >= low
        f[sizes.by_log_prob + r] = -a * ratio * weight if free else 0.0
        moved, free = np.float64(f[sizes.value + r]) - f[old_value + r], True
        value = np.float64(f[sizes.value + r])
        if loss.clip_range_vf >= 0:
            free = abs(moved) <= loss.clip_range_vf
            value = f[old_value + r] + min(max(moved, -loss.clip_range_vf), loss.clip_range_vf)
        error = value - f[target + r]
        value_loss += error * error
        f[sizes.grad_value + r] = loss.vf_coef * 2.0 * error * weight if free else 0.0
    _outputs_backward(sizes, groups, parameters, gradients, f, n, -loss.ent_coef * weight)
    policy_loss, value_loss, entropies = policy_loss * weight, value_loss * weight, entropies * weight
    statistics[0], statistics[1], statistics[2] = policy_loss, value_loss, -entropies
    statistics[3], statistics[4] = divergence * weight, clipped * weight
    statistics[5] = policy_loss - loss.ent_coef * entropies + loss.vf_coef * value_loss


@kernel
def _readout_backward(sizes, parameters, gradients, f, n):
    """Add to the gradients of the readout, and write that of the trace."""
    width, n_outputs, panel = sizes.width, sizes.n_outputs, PANEL_VECTORS * lanes_of(f)
    for r in range(n):
        for k in range(n_outputs):
            gradients[sizes.b_out + k] += f[sizes.grad_outputs + r * n_outputs + k]
    outer(
        gradients, sizes.w_out, width, f, sizes.grad_outputs, n_outputs, n_outputs, f, sizes.y, width, n, 0, width,
    )  # fmt: skip
    w_out = parameters[sizes.w_out : sizes.w_out + n_outputs * width]
    fill(f, sizes.grad_y, n * width, f.dtype.type(0))
    product(f, sizes.grad_outputs, n_outputs, n, n_outputs, w_out, panel, width, f, sizes.grad_y, width, width)


@kernel
def _norm(a, first, end):
    total = 0.0
    for j in range(first, end, 512):  # in parts, whose sums stay accurate
        part = splat(a.dtype.type(0))
        for k in range(j, min(j + 512, end), lanes_of(a)):
            v = load(a, k)
            part = fma(v, v, part)
        total += np.float64(sum_of(part))
    return math.sqrt(total)


@kernel
def _adam(parameters, gradients, first, second, start, end, scale, loss, n_updates):
    """Scale gradients from start to end and take a step of Adam (Kingma & Ba 2015) with them."""
    number = parameters.dtype.type
    c1, c2 = 1.0 - loss.beta1**n_updates, 1.0 - loss.beta2**n_updates
    b1, b2 = splat(number(loss.beta1)), splat(number(loss.beta2))
    rest1, rest2 = splat(number(1.0 - loss.beta1)), splat(number(1.0 - loss.beta2))
    rate, root, eps = splat(number(loss.learning_rate / c1)), splat(number(1 / math.sqrt(c2))), splat(number(loss.eps))
    factor = splat(number(scale))
    for j in range(start, end, lanes_of(parameters)):
        g = load(gradients, j) * factor
        store(gradients, j, g)
        m = fma(b1, load(first, j), rest1 * g)
        v = fma(b2, load(second, j), rest2 * (g * g))
        store(first, j, m)
        store(second, j, v)
        store(parameters, j, load(parameters, j) - rate * m / fma(square_root(v), root, eps))


@kernel
def _gather(sizes, rollout, order, f, start):
    """Copy the sequences that ``order`` names to the scratch."""
    n_batch, n_steps = len(order), sizes.n_steps
    n = n_batch * n_steps
    row = rollout.x.shape[1] * rollout.x.shape[2]
    for b in range(n_batch):
        q = order[b]
        copy_row(rollout.x, q * row, f, sizes.x + b * row, row)
        for i in range(sizes.n_state):
            width = sizes.state_width
            copy_row(rollout.states, (q * sizes.n_state + i) * width, f, sizes.state + (i * n_batch + b) * width, width)
        source, to = q * n_steps, b * n_steps
        copy_row(rollout.advantages, source, f, sizes.column + to, n_steps)
        copy_row(rollout.returns, source, f, sizes.column + n + to, n_steps)
        copy_row(rollout.values, source, f, sizes.column + 2 * n + to, n_steps)
        copy_row(rollout.log_probs, source, f, sizes.column + 3 * n + to, n_steps)
        n_action, n_features, stride = sizes.n_action, sizes.n_features, sizes.critic_stride
        copy_row(rollout.actions, source * n_action, f, sizes.action + to * n_action, n_steps * n_action)
        for t in range(n_steps):
            start[b, t] = rollout.start[q, t]
            features, seen = (source + t) * n_features, sizes.critic_x + (to + t) * stride
            copy_row(rollout.features, features, f, seen, n_features)


@kernel
def read_trace(sizes, parameters, f, n):
    """Write outputs and, where the critic reads the actor, its input, from the traces of n env steps."""
    width, n_outputs = sizes.width, sizes.n_outputs
    linear_rows(
        f[sizes.y : sizes.y + n * width].reshape((n, width)),
        parameters[sizes.w_out : sizes.w_out + n_outputs * width].reshape((n_outputs, width)),
        parameters[sizes.b_out : sizes.b_out + n_outputs],
        f[sizes.outputs : sizes.outputs + n * n_outputs].reshape((n, n_outputs)),
    )  # fmt: skip
    for r in range(n):
        to = sizes.critic_x + r * sizes.critic_stride + sizes.n_features
        copy_row(f, sizes.y + r * width, f, to, sizes.n_read)


@kernel
def _views(sizes, rollout, scratch, n_batch):
    """Return where input, starts, states, trace and its gradient of so many sequences lie in the scratch."""
    f, n, width = scratch.numbers, n_batch * sizes.n_steps, sizes.width
    n_x = rollout.x.shape[1] * rollout.x.shape[2]
    shape = (sizes.n_state, n_batch, sizes.state_width)
    n_packed = shape[0] * shape[1] * shape[2]
    return (
        f[sizes.x : sizes.x + n_batch * n_x].reshape((n_batch, rollout.x.shape[1], rollout.x.shape[2])),
        scratch.starts[:n].reshape((n_batch, sizes.n_steps)),
        f[sizes.state : sizes.state + n_packed].reshape(shape),
        f[sizes.new_state : sizes.new_state + n_packed].reshape(shape),
        f[sizes.y : sizes.y + n * width].reshape((n_batch, sizes.n_steps, width)),
        f[sizes.grad_y : sizes.grad_y + n * width].reshape((n_batch, sizes.n_steps, width)),
    )


@kernel
def _play(
    sizes, layers, dense, groups, options, rows, loss, rollout, order, n_all, mean, deviation, parameters, gradients,
    scratch, counts, statistics
):  # fmt: skip
    """Run a share of a minibatch forward, to the gradients of outputs and values; return whether it stayed finite."""
    f, n = scratch.numbers, len(order) * sizes.n_steps
    x, start, state, new_state, y, _ = _views(sizes, rollout, scratch, len(order))
    _gather(sizes, rollout, order, f, start)
    for j in range(counts.shape[0]):
        counts[j] = 0
    finite = layers_forward(
        KEEP_TAPE, sizes, layers, options, rows, parameters, scratch, x, start, state, new_state, y, counts
    )
    if finite:
        read_trace(sizes, parameters, f, n)
        critic_forward(sizes, dense, parameters, f, n)
        fill(gradients, 0, gradients.shape[0], gradients.dtype.type(0))
        _losses(sizes, groups, loss, parameters, gradients, f, n, n_all, mean, deviation, statistics)
    return finite


@kernel
def _go_back(
    sizes, layers, dense, options, rows, windows, loss, rollout, n_batch, n_all, parameters, gradients, scratch, counts
):  # fmt: skip
    """Go back through what :func:`_play` ran, of which the whole minibatch has ``n_all`` env steps."""
    f, n = scratch.numbers, n_batch * sizes.n_steps
    x, start, _, _, y, grad_y = _views(sizes, rollout, scratch, n_batch)
    _readout_backward(sizes, parameters, gradients, f, n)
    _layers_backward(
        sizes, layers, options, rows, windows, parameters, gradients, scratch, x, start, y, grad_y, counts,
        n_all * sizes.n_ticks, loss,
    )  # fmt: skip
    _critic_backward(sizes, dense, parameters, gradients, f, n)


@kernel
def _add_up(gradients, first, end):
    """Add all rows of gradients to the first one, from first to end."""
    for c in range(1, gradients.shape[0]):
        for j in range(first, end, lanes_of(gradients)):
            store(gradients, j, load(gradients, j) + load(gradients, c * gradients.shape[1] + j))


@kernel(forceinline=True)
def _share_of(scratch, c):
    """Return the scratch of one share."""
    return Scratch(scratch.numbers[c], scratch.spikes[c], scratch.limits[c], scratch.starts[c])


def _compiled_epochs(in_threads):  # type: ignore[no-untyped-def]
    """Compile :func:`epochs`: shares of a minibatch one after the other, or in threads; the bits are the same."""

    @kernel(parallel=in_threads, seconds=COMPILED_IN)
    def epochs(
        n_threads, sizes, layers, dense, groups, options, rows, windows, loss, rollout, orders, limits, parameters,
        gradients, mask, first, second, n_updates, scratch, counts, totals, statistics
    ):  # fmt: skip
        """Update the parameters from a rollout, minibatch after minibatch, each in S shares.

        Args:
            n_threads: Threads to use; only 1 if they are not to be started.
            sizes: :class:`Sizes`.
            layers: Rows of :class:`LayerAt`.
            dense: Rows of :class:`DenseAt`.
            groups: Choices of each categorical distribution.
            options: The engine's integers of each layer.
            rows: The engine's constants of each layer, one after the other.
            windows: Where each layer adds gradients of weights.
            loss: :class:`Loss`.
            rollout: :class:`Rollout`.
            orders: Order of the sequences in each epoch, shape (n_epochs, Q).
            limits: Limits of the minibatches within an order, shape (n_minibatches + 1,).
            parameters: All parameters; changed.
            gradients: Written, shape (S, n): in the first row those of the last step of Adam, clipped.
            mask: What each gradient is multiplied by before it is clipped; of length 0 if by nothing.
            first: Adam's first moments.
            second: Adam's second moments.
            n_updates: Adam's steps before.
            scratch: :class:`Scratch` with an axis of shares before the others.
            counts: Scratch for the spikes of each neuron, int64, shape (S, sum of N).
            totals: Spikes of each neuron; added to.
            statistics: Written: a row of ``STATISTICS`` for each minibatch.

        Returns:
            How many minibatches were looked at, and how it ended; one that ended it has not moved the parameters.
        """
        n_threads = n_threads if in_threads else 1
        n_shares, n_panels = counts.shape[0], parameters.shape[0] // PANEL
        told, finite = np.zeros((n_shares, OF_LOSS)), np.ones(n_shares, np.uint8)
        n_done = 0
        for epoch in range(orders.shape[0]):
            for m in range(len(limits) - 1):
                begin, n_batch = limits[m], limits[m + 1] - limits[m]
                n_all, order = n_batch * sizes.n_steps, orders[epoch, begin : begin + n_batch]
                mean, deviation = _scale_of(loss, rollout.advantages, order)
                for thread in prange(n_threads):
                    for c in range(n_shares * thread // n_threads, n_shares * (thread + 1) // n_threads):
                        mine = order[n_batch * c // n_shares : n_batch * (c + 1) // n_shares]
                        finite[c] = _play(
                            sizes, layers, dense, groups, options, rows, loss, rollout, mine, n_all, mean, deviation,
                            parameters, gradients[c], _share_of(scratch, c), counts[c], told[c],
                        )  # fmt: skip
                row = statistics[n_done]
                for c in range(n_shares):
                    if finite[c] == 0:
                        return n_done, NOT_FINITE
                    for k in range(OF_LOSS):
                        row[k] += told[c, k]
                    for j in range(totals.shape[0]):
                        totals[j] += counts[c, j]
                        counts[0, j] += counts[c, j] if c > 0 else 0
                n_done += 1
                if loss.target_kl >= 0 and row[3] > 1.5 * loss.target_kl:
                    return n_done, STOPPED
                for thread in prange(n_threads):
                    for c in range(n_shares * thread // n_threads, n_shares * (thread + 1) // n_threads):
                        n_mine = n_batch * (c + 1) // n_shares - n_batch * c // n_shares
                        _go_back(
                            sizes, layers, dense, options, rows, windows, loss, rollout, n_mine, n_all, parameters,
                            gradients[c], _share_of(scratch, c), counts[0],
                        )  # fmt: skip
                for thread in prange(n_threads):
                    from_, to = n_panels * thread // n_threads * PANEL, n_panels * (thread + 1) // n_threads * PANEL
                    _add_up(gradients, from_, to)
                n_updates += 1
                summed = gradients[0]
                for j in range(mask.shape[0]):
                    summed[j] *= mask[j]
                row[6], row[7] = _norm(summed, 0, sizes.split), _norm(summed, sizes.split, len(summed))
                for thread in prange(n_threads):
                    from_, to = n_panels * thread // n_threads * PANEL, n_panels * (thread + 1) // n_threads * PANEL
                    middle = min(max(from_, sizes.split), to)
                    for part in range(2):
                        scale = min(1.0, loss.max_grad_norm / (row[6 + part] + 1e-6))
                        lo, hi = (from_, middle) if part == 0 else (middle, to)
                        _adam(parameters, summed, first, second, lo, hi, scale, loss, n_updates)
        return n_done, DONE

    return epochs


epochs = _compiled_epochs(False)
epochs_in_threads = _compiled_epochs(True)


@kernel(seconds=COMPILED_IN)
def policy_step(
    sizes, layers, dense, groups, options, rows, parameters, scratch, x, features, start, state, new_state, noise,
    totals, actions, values, log_probs
):  # fmt: skip
    """Act on one observation of each environment: sample from the policy, and value it.

    Args:
        sizes: As for :func:`epochs`.
        layers: As for :func:`epochs`.
        dense: As for :func:`epochs`.
        groups: As for :func:`epochs`.
        options: As for :func:`epochs`.
        rows: As for :func:`epochs`.
        parameters: As for :func:`epochs`.
        scratch: As for :func:`epochs`.
        x: Encoded observations, shape (B, 1 or n_ticks, n_inputs).
        features: What the critic sees, shape (B, n_features).
        start: 1 where the state is cleared first, uint8, shape (B, 1).
        state: Packed state, shape (n_state, B, state_width).
        new_state: Written.
        noise: Uniform numbers from 0 to 1, for a Gaussian normal ones, float32, shape (B * n_action,).
        totals: Spikes of each neuron; added to.
        actions: Written, float32, shape (B * n_action,).
        values: Written, shape (B,).
        log_probs: Written, shape (B,).

    Returns:
        Whether the new state is finite.
    """
    f, n = scratch.numbers, state.shape[1]
    y = f[sizes.y : sizes.y + n * sizes.width].reshape((n, 1, sizes.width))
    finite = layers_forward(
        KEEP_NOTHING, sizes, layers, options, rows, parameters, scratch, x, start, state, new_state, y, totals
    )
    for r in range(n):
        copy_row(features, r * sizes.n_features, f, sizes.critic_x + r * sizes.critic_stride, sizes.n_features)
    read_trace(sizes, parameters, f, n)
    critic_forward(sizes, dense, parameters, f, n)
    if sizes.head == CATEGORICAL:
        log_softmax_rows(sizes, groups, f, n)
    for r in range(n):
        values[r] = f[sizes.value + r]
        first, a0 = r * sizes.n_outputs, r * sizes.n_action
        for k in range(sizes.n_action):
            if sizes.head == CATEGORICAL:
                # the first choice whose cumulated probability passes the uniform number
                left, choice = np.float64(noise[a0 + k]), groups[k] - 1
                for c in range(groups[k] - 1):
                    left -= f[sizes.grad_outputs + first + c]
                    if left < 0:
                        choice = c
                        break
                actions[a0 + k] = choice
                first += groups[k]
            elif sizes.head == BERNOULLI:
                actions[a0 + k] = 1.0 if noise[a0 + k] < 1.0 / (1.0 + math.exp(-f[sizes.outputs + first + k])) else 0.0
            else:
                actions[a0 + k] = f[sizes.outputs + first + k] + noise[a0 + k] * math.exp(parameters[sizes.log_std + k])
    log_probs_of(sizes, groups, parameters, f, n, actions, 0, log_probs, 0)
    return finite
