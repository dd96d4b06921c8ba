"""Rule text by which a recurrent layer and its readout learn from traces of spikes, an error and a TD error.

Reward-based e-prop (Bellec et al. 2020) as far as synapses of Loihi 1 can compute it. With traces of the source's and
the target's own spikes, x and y, and what the host writes into the target's third trace::

    hidden    tag_ji <- gamma lambda tag_ji + L_j y_j (x_i - c x'_i)       dw_ji = eta delta tag_ji
    readout   tag_ki <- gamma lambda tag_ki + err_k x_i                    dw_ki = eta delta tag_ki

- x_i = ``x1`` and y_j = ``y1`` are fast traces, x'_i = ``x2`` a slow one with the time constant of adaptation;
- L_j, the sum of the errors that comes back to neuron j through fixed weights, and err_k = 1[action = k] - pi_k are
  ``y3``, written by the host as a signed number, as nengo-loihi's PES writes errors;
- delta = ``r1``, the TD error of the env step *before*, as ``dw`` reads the tags from before their update.

What is not e-prop's: its pseudo-derivative is a function of the membrane, which no rule can read. Its place takes y_j,
so that a neuron that has not spiked learns nothing; or the host reads the membrane and writes L_j times the
pseudo-derivative into y3, and the rule has no y_j. And its adaptation's eligibility is one number per synapse, of which
there is room for none beside the tag: its place takes x'_i, which every synapse of a source shares.
"""

from __future__ import annotations

import math

from spikeloop.hardware.learning.actor_critic import decay_terms
from spikeloop.hardware.learning.rule import LearningRule, Trace

_HELD = Trace(0.0, float("inf"))  # what the host writes stays until it writes the next


def rates_of(r1_scale: float, signal_scale: float, membrane: bool = False) -> tuple[float, float]:
    """Return the learning rates of hidden and readout weights, in units of the largest weight.

    Where eligibilities are ``x1 y1`` and ``x1`` with traces whose 127 is taken as 1. A product of two or three keeps
    2^-3 of its size in profile nengo, as far as tags and r1 are among them, and 2^-2 and 2^-9 of traces.

    Args:
        r1_scale: r1 for a TD error of 1.
        signal_scale: y3 for a learning signal of 1; for an error of 1 of the readout it is 127.
        membrane: Whether the hidden rule is the one without y1.

    >>> hidden, readout = rates_of(128.0, 64.0)
    >>> round(2.0 * hidden, 3), round(6.0 * readout, 3)  # w_max and w_out_max
    (0.496, 0.372)
    """
    eligibility = 2.0**-7 * 127.0 if membrane else 2.0**-14 * 127.0**2
    hidden, readout = 2.0**-7 * eligibility * signal_scale, 2.0**-8 * 2.0**-9 * 127.0**2
    return r1_scale * hidden / 254, r1_scale * readout / 254


def trace_of(tau: float) -> Trace:
    """Return a trace of time constant ``tau`` ticks, > 0, that nears 127 where a neuron spikes on every tick.

    >>> round(trace_of(20.0).impulse, 2)
    6.19
    """
    return Trace(127 * (1 - math.exp(-1 / tau)), tau)


def hidden_rule(
    k: int,
    tau: float,
    tau_slow: float | None,
    residue: bool = False,
    trace_decay: float = 0.891,
    membrane: bool = False,
) -> LearningRule:
    """Return the rule of input and recurrent synapses.

    Args:
        k: An env step is 2^k ticks; synapses change on its last.
        tau: Time constant of x1 and y1 in ticks.
        tau_slow: That of x2; None leaves the slow trace out.
        residue: Whether each weight has a second synapse with four more bits, which no Loihi has.
        trace_decay: gamma lambda, to the nearest 1/128 below 1.
        membrane: Whether y3 is L_j times a pseudo-derivative, which y1 then does not stand for.

    >>> hidden_rule(2, 2.0, 20.0).dt
    '-7*2^-6*u2*t + 2^-5*u2*x1*y1*y3 - 2^-6*u2*x2*y1*y3'
    >>> hidden_rule(2, 2.0, 20.0, membrane=True).dt
    '-7*2^-6*u2*t + 2^-5*u2*x1*y3 - 2^-6*u2*x2*y3'
    """
    signal = "y3" if membrane else "y1*y3"
    slow = "" if tau_slow is None else f" - 2^-6*u{k}*x2*{signal}"
    return LearningRule(
        dt=f"{decay_terms(1 - trace_decay, k)} + 2^-5*u{k}*x1*{signal}{slow}",
        dw=f"2^-4*u{k}*r1*t",
        x1=trace_of(tau),
        x2=Trace() if tau_slow is None else trace_of(tau_slow),
        y1=Trace() if membrane else trace_of(tau),
        y3=_HELD,
        residue_bits=4 * residue,
    )


def readout_rule(k: int, tau: float, residue: bool = False, trace_decay: float = 0.891) -> LearningRule:
    """Return the rule of readout synapses, whose targets never spike; arguments as those of :func:`hidden_rule`.

    >>> readout_rule(2, 2.0).dw
    '2^-5*u2*r1*t'
    """
    return LearningRule(
        dt=f"{decay_terms(1 - trace_decay, k)} + 2^-7*u{k}*x1*y3",
        dw=f"2^-5*u{k}*r1*t",
        x1=trace_of(tau),
        y3=_HELD,
        residue_bits=4 * residue,
    )
