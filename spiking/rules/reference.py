"""The local rules in plain numpy, one tick at a time: the definitions that the kernels are tested against.

Spikes are 0/1 arrays, weights are (post, pre), ``s`` is a presynaptic and ``z`` a postsynaptic spike. ``clip`` holds a
value within its bounds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Traces(NamedTuple):
    """Decaying traces of spike trains."""

    x: np.ndarray  # of the presynaptic spikes, (n_pre,)
    y: np.ndarray  # of the postsynaptic spikes, (n_post,)


def stdp_tick(
    s: np.ndarray,
    z: np.ndarray,
    w: np.ndarray,
    traces: Traces,
    *,
    decay_pre: float,
    decay_post: float,
    a_plus: float,
    a_minus: float,
    mu: float,
    w_min: float,
    w_max: float,
) -> tuple[np.ndarray, Traces]:
    """Advance pair STDP by one tick; every pair of spikes counts, two of the same tick do not.

    In code order, with decay_pre = exp(-dt / tau_plus) and decay_post = exp(-dt / tau_minus):

        x <- decay_pre x,  y <- decay_post y
        w <- clip(w - a_minus ((w - w_min) / (w_max - w_min))^mu y)    where pre spikes
        w <- clip(w + a_plus ((w_max - w) / (w_max - w_min))^mu x)     where post spikes
        x <- x + s,  y <- y + z
    """
    x, y = decay_pre * traces.x, decay_post * traces.y
    span = w_max - w_min
    down = a_minus * ((w - w_min) / span) ** mu * y[:, None]
    w = np.where(s, np.maximum(w - down, w_min), w)
    up = a_plus * ((w_max - w) / span) ** mu * x
    w = np.where(z[:, None], np.minimum(w + up, w_max), w)
    return w, Traces(x + s, y + z)


def rstdp_tick(
    s: np.ndarray,
    z: np.ndarray,
    reward: float,
    w: np.ndarray,
    e: np.ndarray,
    traces: Traces,
    *,
    decay_pre: float,
    decay_post: float,
    decay_tag: float,
    a_plus: float,
    a_minus: float,
    learning_rate: float,
    w_min: float,
    w_max: float,
    e_max: float,
) -> tuple[np.ndarray, np.ndarray, Traces]:
    """Advance reward-modulated STDP by one tick.

    In code order, with decay_tag = exp(-dt / tau_e):

        x <- decay_pre x,  y <- decay_post y
        e <- clip(decay_tag e + a_plus z x - a_minus y s)        within +-e_max
        w <- clip(w + learning_rate reward e)                    within w_min and w_max
        x <- x + s,  y <- y + z
    """
    x, y = decay_pre * traces.x, decay_post * traces.y
    e = np.clip(decay_tag * e + a_plus * np.outer(z, x) - a_minus * np.outer(y, s), -e_max, e_max)
    w = np.clip(w + learning_rate * reward * e, w_min, w_max)
    return w, e, Traces(x + s, y + z)


class EpropTick(NamedTuple):
    """State of an LSNN layer and of its eligibilities, M = n_inputs + N presynaptic channels."""

    v: np.ndarray  # (N,)
    a: np.ndarray  # (N,)
    z: np.ndarray  # (N,)
    refractory: np.ndarray  # (N,)
    y: np.ndarray  # (N,)
    eps: np.ndarray  # (M,)
    eps_a: np.ndarray  # (N, M)
    e_bar: np.ndarray  # (N, M)


def eprop_tick(
    x: np.ndarray,
    w: np.ndarray,
    state: EpropTick,
    *,
    alpha: float,
    rho: np.ndarray,
    beta: np.ndarray,
    v_th: np.ndarray,
    refractory: np.ndarray,
    kappa: float,
    damping: float,
    width: float,
) -> EpropTick:
    """Advance an LSNN layer and its eligibilities by one tick (Bellec et al. 2020, Methods).

    In code order, with s = (x, z), z of the tick before:

        eps <- alpha eps + s                                     d v / d w, the same for all neurons
        a <- rho a + z
        v <- alpha v + w s - v_th z
        u = (v - v_th - beta a) / v_th
        z <- 1 where u > 0 and not refractory, else 0
        psi = damping max(0, 1 - |u| / width) / v_th             0 while refractory
        e = psi (eps - beta eps_a)                               d z / d w through the neuron itself
        eps_a <- rho eps_a + e                                   d a / d w of the next tick
        e_bar <- kappa e_bar + (1 - kappa) e
        y <- kappa y + (1 - kappa) z
    """
    s = np.concatenate((x, state.z))
    eps = alpha * state.eps + s
    a = rho * state.a + state.z
    v = alpha * state.v + w @ s - v_th * state.z
    u = (v - v_th - beta * a) / v_th
    free = state.refractory == 0
    z = np.where(free & (u > 0), 1.0, 0.0)
    psi = np.where(free, damping * np.maximum(0, 1 - abs(u) / width) / v_th, 0.0)
    e = psi[:, None] * (eps - beta[:, None] * state.eps_a)
    return EpropTick(
        v,
        a,
        z,
        np.where(z > 0, refractory, np.maximum(state.refractory - 1, 0)),
        kappa * state.y + (1 - kappa) * z,
        eps,
        rho[:, None] * state.eps_a + e,
        kappa * state.e_bar + (1 - kappa) * e,
    )


def action_probabilities(preferences: np.ndarray) -> np.ndarray:
    """Return the softmax of the action preferences."""
    exponentials = np.exp(preferences - preferences.max())
    return exponentials / exponentials.sum()


def reward_eprop_traces(
    action: int,
    pi: np.ndarray,
    y: np.ndarray,
    e_bar: np.ndarray,
    feedback: np.ndarray,
    trace: np.ndarray,
    trace_out: np.ndarray,
    *,
    trace_decay: float,
    value_coef: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the traces after an env step, of the hidden weights (N, M) and of the readout (n_actions + 1, N).

    With B the feedback weights, whose last row is the value's, and trace_decay = gamma lambda:

        L_j = sum_k B_kj (1[k = action] - pi_k) + value_coef B_value,j
        trace_ji <- trace_decay trace_ji + L_j e_bar_ji
        trace_out_k <- trace_decay trace_out_k + (1[k = action] - pi_k) y,  for the value + y
    """
    errors = np.append(-pi, 1.0)
    errors[action] += 1
    signal = errors[:-1] @ feedback[:-1] + value_coef * feedback[-1]
    return (
        trace_decay * trace + signal[:, None] * e_bar,
        trace_decay * trace_out + np.outer(errors, y),
    )
