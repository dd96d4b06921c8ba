"""Rule text by which synapses learn from the score of neurons that draw their spikes, and a TD error.

The policy gradient of Bernoulli neurons (:mod:`spikeloop.spiking.rules.glm`) has three factors. With s the filtered
spikes of a synapse's source, z and p a neuron's spike and its probability on a tick, and ``score`` the derivative of
``log P(z)`` by the membrane, which is ``z - p`` for logistic neurons::

    tag_ji <- tag_ji + score_j s_i                     on each tick
    tag_ji <- gamma lambda tag_ji                      once in an env step
    w_ji   <- w_ji + eta delta tag_ji                  once in an env step

No rule reads p, so the host writes the score of a tick into ``y3``, after that tick; the engine takes it in on the next
one. By then ``x1`` has decayed once and holds a new spike, which ``x2``, a trace without memory, takes off again::

    x1(k + 1) - x2(k + 1) = kappa x1(k)

So each score meets the s of its own tick, a factor kappa smaller. A learning epoch is a tick, as an env step lasts
until the first spike of an output and not 2^k ticks. What happens once in an env step waits for what the host writes on
its first tick: ``y1``, which is 128 (1 - gamma lambda), and the reward, of which ``r1`` keeps nothing. ``dw`` reads the
tags from before that tick.
"""

from __future__ import annotations

import math

from spikeloop.hardware.learning.rule import LearningRule, Trace

_HELD = Trace(0.0, math.inf)  # what the host writes stays until it writes the next
_TAG = -7  # power of 2 of the tag of a product of 1 of x and y3, of which profile nengo takes 2 off the text's
_STEP = -7  # power of 2 of a weight's step of a product of 1 of r1 and tag, of which it takes 3 off


def impulse_of(tau: float) -> int:
    """Return what a spike adds to x1 of a time constant of ``tau`` ticks: never beyond 127, on every tick.

    >>> impulse_of(2.0)
    49
    """
    return math.floor(127 * (1 - math.exp(-1 / tau)))


def tag_of(tau: float, y3: float) -> float:
    """Return the tag that comes of a tick with s = 1 and a score that the host writes as ``y3``.

    >>> round(tag_of(2.0, 127.0), 1)
    74.9
    """
    kappa = math.exp(-1 / tau)
    return kappa * impulse_of(tau) / (1 - kappa) * y3 * 2.0**_TAG


def step_of(r1: float, tag: float) -> float:
    """Return by how much a stored weight changes.

    >>> step_of(64.0, 2.0)
    1.0
    """
    return r1 * tag * 2.0**_STEP


def loss_of(trace_decay: float) -> int:
    """Return y1 that takes ``1 - trace_decay`` off a tag, to the nearest 1/128; at most 127, which 7 bits hold.

    >>> loss_of(0.891), loss_of(0.0)
    (14, 127)
    """
    return min(127, round(128 * (1 - trace_decay)))


def score_rule(tau: float, learns: bool = True, residue: bool = False) -> LearningRule:
    """Return the rule, whose products keep all their bits.

    Args:
        tau: Time constant of x1 in ticks, that of the membrane.
        learns: Whether weights change.
        residue: Whether each weight has a second synapse with four more bits, which no Loihi has.

    >>> rule = score_rule(2.0)
    >>> rule.dt, rule.dw
    ('-2^-4*u0*y1*t + 2^-5*u0*x1*y3 - 2^-5*u0*x2*y3', '2^-4*u0*r1*t')
    """
    impulse = impulse_of(tau)
    return LearningRule(
        dt=f"-2^-4*u0*y1*t + 2^{_TAG + 2}*u0*x1*y3 - 2^{_TAG + 2}*u0*x2*y3",
        dw=f"2^{_STEP + 3}*u0*r1*t" if learns else "",
        x1=Trace(impulse, tau),
        x2=Trace(impulse, 0.0),
        y1=_HELD,
        y3=_HELD,
        r1=Trace(1.0, 0.0),
        residue_bits=4 * (residue and learns),
    )
