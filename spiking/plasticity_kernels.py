"""Numba kernels of the local rules: pair STDP, R-STDP in two exact forms, e-prop with and without reward.

The equations stand in :mod:`spikeloop.spiking.plasticity_reference`, the public functions in
:mod:`spikeloop.spiking.plasticity` and :mod:`spikeloop.spiking.eprop`.

Given whole spike trains, no synapse depends on another. The STDP and R-STDP kernels therefore go through time in short
blocks and, within a block, synapse row by synapse row, which keeps a row's weights and tags in the first cache. Their
arrays are (n_pre, n_post), transposed to the rest of the library, so that a presynaptic spike meets a contiguous row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikeloop.spiking.compiling import kernel

STDP_CONSTANTS = ("decay_pre", "decay_post", "a_plus", "a_minus", "mu", "w_min", "w_max")
RSTDP_CONSTANTS = (
    "decay_pre",
    "decay_post",
    "decay_tag",
    "a_plus",
    "a_minus",
    "learning_rate",
    "w_min",
    "w_max",
    "e_max",
)
BLOCK = 64  # ticks; what a block keeps of each tick must stay in the second cache


# ---- STDP


@kernel
def stdp(pre, post, w, x, y, c):
    """Run pair STDP; ``w`` (n_pre, n_post) and the traces ``x`` (n_pre,) and ``y`` (n_post,) change in place.

    Args:
        pre: Spikes, uint8, shape (T, n_pre).
        post: Spikes, uint8, shape (T, n_post).
        w: Weights.
        x: Presynaptic trace.
        y: Postsynaptic trace.
        c: ``STDP_CONSTANTS``, in the dtype of w.
    """
    n_t, n_pre = pre.shape
    n_post = post.shape[1]
    decay_pre, decay_post, a_plus, a_minus, mu, w_min, w_max = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
    span = w_max - w_min
    additive, linear = mu == 0, mu == 1
    traces = np.empty((BLOCK, n_post), w.dtype)  # y as a presynaptic spike of the tick finds it
    fired = np.empty((BLOCK, n_post), np.int64)
    n_fired = np.empty(BLOCK, np.int64)
    for begin in range(0, n_t, BLOCK):
        n = min(BLOCK, n_t - begin)
        for k in range(n):
            count = 0
            for j in range(n_post):
                y[j] *= decay_post
                traces[k, j] = y[j]
                if post[begin + k, j]:
                    y[j] += 1
                    fired[k, count] = j
                    count += 1
            n_fired[k] = count
        for i in range(n_pre):
            for k in range(n):
                x[i] *= decay_pre
                if pre[begin + k, i]:
                    for j in range(n_post):
                        before = w[i, j]
                        after = before
                        if additive:
                            after -= a_minus * traces[k, j]
                        elif linear:
                            after -= a_minus * ((before - w_min) / span) * traces[k, j]
                        else:
                            after -= a_minus * ((before - w_min) / span) ** mu * traces[k, j]
                        w[i, j] = w_min if after < w_min else after
                for q in range(n_fired[k]):
                    j = fired[k, q]
                    before = w[i, j]
                    after = before
                    if additive:
                        after += a_plus * x[i]
                    elif linear:
                        after += a_plus * ((w_max - before) / span) * x[i]
                    else:
                        after += a_plus * ((w_max - before) / span) ** mu * x[i]
                    w[i, j] = w_max if after > w_max else after
                if pre[begin + k, i]:
                    x[i] += 1


# ---- R-STDP


@kernel
def aligned(rows, like):
    """Return zeros of shape (rows, len(like)) that begin at a multiple of 64 bytes, in the dtype of ``like``.

    Wide vector loads that straddle two cache lines cost the dense pass a quarter of its speed.
    """
    n, size = len(like), like.itemsize
    buffer = np.zeros(rows * n + 64 // size, like.dtype)
    skip = (-buffer.ctypes.data % 64) // size
    return buffer[skip : skip + rows * n].reshape(rows, n)


@kernel
def rstdp_bounded(pre, post, reward, w, e, x, y, c):
    """Run R-STDP with hard bounds on weights and tags at every tick: a dense pass over all synapses.

    Args:
        pre: Spikes, uint8, shape (T, n_pre).
        post: Spikes, uint8, shape (T, n_post).
        reward: Third factor of each tick, in the dtype of w, shape (T,).
        w: Weights, shape (n_pre, n_post); like e, x and y changed in place.
        e: Tags, shape (n_pre, n_post).
        x: Presynaptic trace, shape (n_pre,).
        y: Postsynaptic trace, shape (n_post,).
        c: ``RSTDP_CONSTANTS``, in the dtype of w.
    """
    n_t, n_pre = pre.shape
    n_post = post.shape[1]
    decay_pre, decay_post, decay_tag, a_plus, a_minus = c[0], c[1], c[2], c[3], c[4]
    learning_rate, w_min, w_max, e_max = c[5], c[6], c[7], c[8]
    block = BLOCK // 4  # a row meets each tick of the block: its spikes and traces belong into the first cache
    traces, spikes = aligned(block, y), aligned(block, y)
    for begin in range(0, n_t, block):
        n = min(block, n_t - begin)
        for k in range(n):
            for j in range(n_post):
                s = w.dtype.type(post[begin + k, j])
                traces[k, j] = decay_post * y[j]
                spikes[k, j] = s
                y[j] = decay_post * y[j] + s
        for i in range(n_pre):
            k = 0
            while k < n:
                x[i] *= decay_pre
                up, step = a_plus * x[i], learning_rate * reward[begin + k]
                if pre[begin + k, i]:
                    for j in range(n_post):
                        tag = decay_tag * e[i, j] + up * spikes[k, j] - a_minus * traces[k, j]
                        tag = e_max if tag > e_max else tag
                        tag = -e_max if tag < -e_max else tag
                        e[i, j] = tag
                        weight = w[i, j] + step * tag
                        weight = w_max if weight > w_max else weight
                        w[i, j] = w_min if weight < w_min else weight
                    x[i] += 1
                    k += 1
                elif k + 1 < n and not pre[begin + k + 1, i]:
                    # Two ticks without a presynaptic spike in one pass; a tag can then only pass its upper bound.
                    x[i] *= decay_pre
                    next_up, next_step = a_plus * x[i], learning_rate * reward[begin + k + 1]
                    for j in range(n_post):
                        tag = decay_tag * e[i, j] + up * spikes[k, j]
                        tag = e_max if tag > e_max else tag
                        weight = w[i, j] + step * tag
                        weight = w_max if weight > w_max else weight
                        weight = w_min if weight < w_min else weight
                        tag = decay_tag * tag + next_up * spikes[k + 1, j]
                        tag = e_max if tag > e_max else tag
                        e[i, j] = tag
                        weight = weight + next_step * tag
                        weight = w_max if weight > w_max else weight
                        w[i, j] = w_min if weight < w_min else weight
                    k += 2
                else:
                    for j in range(n_post):
                        tag = decay_tag * e[i, j] + up * spikes[k, j]
                        tag = e_max if tag > e_max else tag
                        e[i, j] = tag
                        weight = w[i, j] + step * tag
                        weight = w_max if weight > w_max else weight
                        w[i, j] = w_min if weight < w_min else weight
                    k += 1


@kernel
def rstdp_unbounded(pre, post, reward, w, e, x, y, c):
    """Run R-STDP without bounds: a row is touched where its neuron spikes, and once more where a block ends.

    Without bounds the rule is linear, so what a presynaptic spike of tick k does until the block ends depends on the
    postsynaptic spikes z and on the reward alone, and is the same for every row. With n the last tick,

        paid(k) = rate sum_{t >= k} reward(t) decay_tag^(t-k)       what a unit of tag at tick k brings in
        to_tag_k = a_plus sum_{t > k} decay_pre^(t-k) decay_tag^(n-t) z(t) - a_minus decay_tag^(n-k) y(k)
        to_w_k   = a_plus sum_{t > k} decay_pre^(t-k) paid(t) z(t) - a_minus paid(k) y(k)

    These come from one pass back through the block, and a row adds up those of its own spikes. The trace x and the tag
    from before the block count likewise.

    Args:
        pre: Spikes, uint8, shape (T, n_pre).
        post: Spikes, uint8, shape (T, n_post).
        reward: Third factor of each tick, in the dtype of w, shape (T,).
        w: Weights, shape (n_pre, n_post); like e, x and y changed in place.
        e: Tags, shape (n_pre, n_post).
        x: Presynaptic trace, shape (n_pre,).
        y: Postsynaptic trace, shape (n_post,).
        c: ``RSTDP_CONSTANTS``, in the dtype of w; the bounds are not looked at.
    """
    n_t, n_pre = pre.shape
    n_post = post.shape[1]
    decay_pre, decay_post, decay_tag, a_plus, a_minus, rate = c[0], c[1], c[2], c[3], c[4], c[5]
    # Row 0 of what reaches the end of the block is for x from before it, row k + 1 for tick k, the last one is nothing.
    to_tag, to_w = aligned(BLOCK + 2, y), aligned(BLOCK + 2, y)
    traces, fired = aligned(BLOCK, y), aligned(BLOCK, y)
    tag_ahead, w_ahead = np.empty(n_post, w.dtype), np.empty(n_post, w.dtype)
    x_before = np.empty(n_pre, w.dtype)
    spikes, n_spikes = np.empty((n_pre, BLOCK + 4), np.int64), np.empty(n_pre, np.int64)
    for begin in range(0, n_t, BLOCK):
        n = min(BLOCK, n_t - begin)
        n_spikes[:] = 0
        x_before[:] = x
        for k in range(n):
            for j in range(n_post):
                s = w.dtype.type(post[begin + k, j])
                traces[k, j] = decay_post * y[j]
                fired[k, j] = s
                y[j] = decay_post * y[j] + s
            for i in range(n_pre):  # without a branch, which would be mispredicted at each spike
                spikes[i, n_spikes[i]] = k + 1
                n_spikes[i] += pre[begin + k, i]
            for i in range(n_pre):
                x[i] = decay_pre * x[i] + w.dtype.type(pre[begin + k, i])
        tag_ahead[:] = 0
        w_ahead[:] = 0
        kept, paid = w.dtype.type(1), w.dtype.type(0)
        for k in range(n - 1, -1, -1):
            paid = rate * reward[begin + k] + decay_tag * paid
            tag_down, w_down = a_minus * kept, a_minus * paid
            for j in range(n_post):
                trace, s = traces[k, j], fired[k, j]
                to_tag[k + 1, j] = a_plus * tag_ahead[j] - tag_down * trace
                to_w[k + 1, j] = a_plus * w_ahead[j] - w_down * trace
                tag_ahead[j] = decay_pre * (tag_ahead[j] + kept * s)
                w_ahead[j] = decay_pre * (w_ahead[j] + paid * s)
            kept *= decay_tag
        paid *= decay_tag
        for j in range(n_post):
            to_tag[0, j], to_w[0, j] = a_plus * tag_ahead[j], a_plus * w_ahead[j]
        for i in range(n_pre):
            spikes[i, n_spikes[i] : n_spikes[i] + 4] = BLOCK + 1
            k0, k1, k2, k3 = spikes[i, 0], spikes[i, 1], spikes[i, 2], spikes[i, 3]
            x0 = x_before[i]
            for j in range(n_post):
                tag = e[i, j]
                w[i, j] += paid * tag + x0 * to_w[0, j] + (to_w[k0, j] + to_w[k1, j] + to_w[k2, j] + to_w[k3, j])
                before = kept * tag + x0 * to_tag[0, j]
                e[i, j] = before + (to_tag[k0, j] + to_tag[k1, j] + to_tag[k2, j] + to_tag[k3, j])
            for q in range(4, n_spikes[i], 4):
                k0, k1, k2, k3 = spikes[i, q], spikes[i, q + 1], spikes[i, q + 2], spikes[i, q + 3]
                for j in range(n_post):
                    w[i, j] += to_w[k0, j] + to_w[k1, j] + to_w[k2, j] + to_w[k3, j]
                    e[i, j] += to_tag[k0, j] + to_tag[k1, j] + to_tag[k2, j] + to_tag[k3, j]


# ---- e-prop


class EpropNeurons(NamedTuple):
    """Constants of an LSNN layer under e-prop, in the dtype of the weights."""

    rho: np.ndarray  # (N,)
    beta: np.ndarray  # (N,)
    v_th: np.ndarray  # (N,)
    refractory: np.ndarray  # (N,)
    scalars: np.ndarray  # alpha, kappa, damping, width


class EpropState(NamedTuple):
    """State of an LSNN layer and of its eligibilities; M = n_inputs + N presynaptic channels. Zeros are rest."""

    v: np.ndarray  # (N,)
    a: np.ndarray  # (N,)
    z: np.ndarray  # (N,)
    refractory: np.ndarray  # (N,)
    y: np.ndarray  # readout trace, (N,)
    eps: np.ndarray  # eligibility of the membrane, (M,)
    eps_a: np.ndarray  # eligibility of the adaptation, (N, M)
    e_bar: np.ndarray  # eligibility trace, low-passed by kappa, (N, M)


class RewardState(NamedTuple):
    """What reward-based e-prop carries from step to step beside :class:`EpropState`."""

    trace: np.ndarray  # of the hidden weights, (N, M)
    trace_out: np.ndarray  # of the readout weights, (n_actions + 1, N)
    last: np.ndarray  # value of the last step; 1 once there is one


class EpropWeights(NamedTuple):
    """What reward-based e-prop learns; row n_actions of the readout is the value."""

    w: np.ndarray  # input and recurrent weights side by side, (N, M)
    w_out: np.ndarray  # (n_actions + 1, N)
    feedback: np.ndarray  # from the readout back to the neurons, (n_actions + 1, N); w_out itself if symmetric
    rate: np.ndarray  # running mean of the spikes per tick, (N,)


REWARD_CONSTANTS = (
    "gamma",
    "trace_decay",
    "learning_rate",
    "actor_rate",
    "value_rate",
    "value_coef",
    "rate_coef",
    "target_rate",
    "rate_step",
)


@kernel
def _drive(x, w, drive):
    """Write the input current ``w_in x`` of each neuron."""
    n = w.shape[0]
    drive[:] = 0
    for i in range(x.shape[0]):
        if x[i] != 0:
            for j in range(n):
                drive[j] += w[j, i] * x[i]


@kernel
def _eprop_tick(x, drive, w, neurons, state, eligible):
    """Advance layer and eligibilities by one tick."""
    alpha, kappa, damping, width = neurons.scalars[0], neurons.scalars[1], neurons.scalars[2], neurons.scalars[3]
    v, a, z, refractory, y, eps, eps_a, e_bar = state
    n, m = w.shape
    n_in = m - n
    new = 1 - kappa
    for i in range(n_in):
        eps[i] = alpha * eps[i] + x[i]
    for j in range(n):
        eps[n_in + j] = alpha * eps[n_in + j] + z[j]
        a[j] = neurons.rho[j] * a[j] + z[j]
        v[j] = alpha * v[j] + drive[j] - neurons.v_th[j] * z[j]
    for k in range(n):
        if z[k] > 0:
            for j in range(n):
                v[j] += w[j, n_in + k]
    for j in range(n):
        u = (v[j] - neurons.v_th[j] - neurons.beta[j] * a[j]) / neurons.v_th[j]
        psi = w.dtype.type(0)
        z[j] = 0
        if refractory[j] == 0:
            shape = 1 - abs(u) / width
            if shape > 0:
                psi = damping * shape / neurons.v_th[j]
            if u > 0:
                z[j] = 1
                refractory[j] = neurons.refractory[j]
        else:
            refractory[j] -= 1
        y[j] = kappa * y[j] + new * z[j]
        if eligible:
            beta, rho = neurons.beta[j], neurons.rho[j]
            for i in range(m):
                e = psi * (eps[i] - beta * eps_a[j, i])
                eps_a[j, i] = rho * eps_a[j, i] + e
                e_bar[j, i] = kappa * e_bar[j, i] + new * e


@kernel
def eprop(x, signal, w, neurons, state, dw, spikes):
    """Run a layer on a sequence and add ``sum_t signal_j(t) e_bar_ji(t)`` to ``dw``.

    Args:
        x: Input of each tick, shape (T, n_inputs).
        signal: Learning signal of each neuron and tick, shape (T, N).
        w: Weights, shape (N, n_inputs + N).
        neurons: Constants.
        state: State, changed in place.
        dw: Like w, added to.
        spikes: Written with the spikes, shape (T, N).
    """
    n, m = w.shape
    drive = np.empty(n, w.dtype)
    for t in range(x.shape[0]):
        _drive(x[t], w, drive)
        _eprop_tick(x[t], drive, w, neurons, state, True)
        for j in range(n):
            spikes[t, j] = state.z[j]
            for i in range(m):
                dw[j, i] += signal[t, j] * state.e_bar[j, i]


@kernel
def _forward(x, n_ticks, weights, neurons, state, c, drive, outputs):
    """Run one env step on input held over its ticks and write action preferences and value."""
    eligible = c[2] != 0
    _drive(x, weights.w, drive)
    for _ in range(n_ticks):
        _eprop_tick(x, drive, weights.w, neurons, state, eligible)
        for j in range(len(drive)):
            weights.rate[j] += c[8] * (state.z[j] - weights.rate[j])
    for k in range(len(outputs)):
        total = outputs.dtype.type(0)
        for j in range(len(drive)):
            total += weights.w_out[k, j] * state.y[j]
        outputs[k] = total


@kernel
def _apply(delta, weights, state, memory, c):
    """Change the weights by the TD error ``delta`` of the last step."""
    n, m = weights.w.shape
    n_out = len(weights.w_out)
    if c[2] != 0:
        for j in range(n):
            by_reward, by_rate = c[2] * delta, c[2] * c[6] * (c[7] - weights.rate[j])
            for i in range(m):
                weights.w[j, i] += by_reward * memory.trace[j, i] + by_rate * state.e_bar[j, i]
            weights.w[j, m - n + j] = 0
    for k in range(n_out):
        step = (c[4] if k == n_out - 1 else c[3]) * delta
        for j in range(n):
            weights.w_out[k, j] += step * memory.trace_out[k, j]


@kernel
def _remember(action, outputs, weights, state, memory, c):
    """Add the step just taken to the traces; ``outputs`` become the probabilities of the actions."""
    n, m = weights.w.shape
    n_actions = len(outputs) - 1
    for k in range(n_actions + 1):
        error = -outputs[k]
        if k == n_actions:
            error = outputs.dtype.type(1)
        elif k == action:
            error += 1
        for j in range(n):
            memory.trace_out[k, j] = c[1] * memory.trace_out[k, j] + error * state.y[j]
    if c[2] == 0:
        return
    for j in range(n):
        signal = c[5] * weights.feedback[n_actions, j]
        for k in range(n_actions):
            signal += weights.feedback[k, j] * ((1 if k == action else 0) - outputs[k])
        for i in range(m):
            memory.trace[j, i] = c[1] * memory.trace[j, i] + signal * state.e_bar[j, i]


@kernel
def reward_eprop_act(x, reward, uniform, n_ticks, weights, neurons, state, memory, c, outputs):
    """Take one env step of reward-based e-prop and return the action.

    Args:
        x: Input, held over the step, shape (n_inputs,).
        reward: Reward of the step before; unused in the first of an episode.
        uniform: A number drawn uniformly from [0, 1), which chooses the action.
        n_ticks: Ticks per env step.
        weights: Weights, changed in place.
        neurons: Constants.
        state: State of the layer, changed in place.
        memory: Traces, changed in place.
        c: ``REWARD_CONSTANTS``, in the dtype of the weights; learning_rate 0 freezes the hidden layer.
        outputs: Written with the action probabilities and the value, shape (n_actions + 1,).
    """
    n_actions = len(outputs) - 1
    _forward(x, n_ticks, weights, neurons, state, c, np.empty_like(state.v), outputs)
    if memory.last[1] != 0:
        _apply(reward + c[0] * outputs[n_actions] - memory.last[0], weights, state, memory, c)
    highest, total = outputs[:n_actions].max(), outputs.dtype.type(0)
    for k in range(n_actions):
        outputs[k] = np.exp(outputs[k] - highest)
        total += outputs[k]
    below, action = outputs.dtype.type(0), n_actions - 1
    for k in range(n_actions):
        outputs[k] /= total
    for k in range(n_actions - 1):
        below += outputs[k]
        if uniform < below:
            action = k
            break
    _remember(action, outputs, weights, state, memory, c)
    memory.last[0], memory.last[1] = outputs[n_actions], 1
    return action


@kernel
def reward_eprop_end(x, reward, truncated, n_ticks, weights, neurons, state, memory, c, outputs):
    """Learn from the last reward of an episode and return to rest.

    Args:
        x: Observation the episode was cut off at, shape (n_inputs,); only looked at if ``truncated``.
        reward: Last reward.
        truncated: Whether a time limit ended the episode, so that its last value counts.
        n_ticks: Ticks per env step.
        weights: Weights, changed in place.
        neurons: Constants.
        state: State of the layer, cleared.
        memory: Traces, cleared.
        c: ``REWARD_CONSTANTS``.
        outputs: Scratch, shape (n_actions + 1,).
    """
    delta = reward - memory.last[0]
    if truncated:
        _forward(x, n_ticks, weights, neurons, state, c, np.empty_like(state.v), outputs)
        delta += c[0] * outputs[len(outputs) - 1]
    _apply(delta, weights, state, memory, c)
    for array in (state.v, state.a, state.z, state.refractory, state.y, state.eps, memory.last):
        array[:] = 0
    for array in (state.eps_a, state.e_bar, memory.trace, memory.trace_out):
        array[:] = 0


@kernel
def reward_eprop_episodes(x, rewards, uniform, n_ticks, weights, neurons, state, memory, c, returns):
    """Run whole episodes whose observations do not depend on the actions, learning all along.

    Args:
        x: Observations, shape (E, T, n_inputs).
        rewards: Reward for each action, shape (E, T, n_actions).
        uniform: Numbers drawn uniformly from [0, 1), shape (E, T).
        n_ticks: Ticks per env step.
        weights: Weights, changed in place.
        neurons: Constants.
        state: State of the layer at rest; at rest again afterwards.
        memory: Traces, likewise.
        c: ``REWARD_CONSTANTS``.
        returns: Written with the sum of the rewards of each episode, shape (E,).
    """
    n_episodes, n_steps = uniform.shape
    outputs = np.empty(rewards.shape[2] + 1, weights.w.dtype)
    for episode in range(n_episodes):
        reward = rewards.dtype.type(0)
        returns[episode] = 0
        for t in range(n_steps):
            action = reward_eprop_act(
                x[episode, t], reward, uniform[episode, t], n_ticks, weights, neurons, state, memory, c, outputs
            )
            reward = rewards[episode, t, action]
            returns[episode] += reward
        reward_eprop_end(x[episode, 0], reward, False, n_ticks, weights, neurons, state, memory, c, outputs)
