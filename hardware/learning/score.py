"""The text of a learning rule: synapses learn from the score of neurons that draw their spikes, and from a TD error.

The policy gradient of Bernoulli neurons (:mod:`spikeloop.spiking.rules.glm`) has three factors. Let s be the filtered
spikes of a synapse's source, z a neuron's spike on a tick and p the probability of that spike. The ``score`` is the
derivative of ``log P(z)`` by the membrane, which is ``z - p`` for logistic neurons. Then::

    tag_ji <- tag_ji + score_j s_i                     on each tick
    tag_ji <- gamma lambda tag_ji                      once in an env step
    w_ji   <- w_ji + eta delta tag_ji                  once in an env step

A rule of the chip cannot read p. So the host writes the score of a tick into ``y3`` after that tick, and the learning
engine reads it on the next tick. By then trace ``x1`` has decayed once and may have a new spike added. Trace ``x2``
holds only the newest spike, and is subtracted::

    x1(k + 1) - x2(k + 1) = kappa x1(k)

So each score is multiplied by the s of its own tick, times kappa. A learning epoch is one tick, because an env step
ends with the first output spike and not after 2^k ticks. Two things happen once in an env step, on its first tick. Tags
decay, because the host writes 128 (1 - gamma lambda) into ``y1``. Weights change, because the host sends the TD error
as a reward, which ``r1`` holds for that tick only. ``dw`` reads the tags as they were before that tick.
"""

from __future__ import annotations

import math

from spikeloop.hardware.learning.rule import LearningRule, Trace

_HELD = Trace(0.0, math.inf)  # a value that the host writes stays until the host writes another
_TAG = -7  # a product x y3 of 1 adds 2^_TAG to a tag; profile nengo subtracts 2 from the exponent in the rule's text
_STEP = -7  # a product r1 t of 1 adds 2^_STEP to a weight; profile nengo subtracts 3 from the exponent in the text


def impulse_of(tau: float) -> int:
    """Return what a spike adds to x1, for a time constant of ``tau`` ticks: x1 never exceeds 127.

    >>> impulse_of(2.0)
    49
    """
    return math.floor(127 * (1 - math.exp(-1 / tau)))


def tag_of(tau: float, y3: float) -> float:
    """Return the tag after one tick with s = 1 and a score that the host writes as ``y3``.

    >>> round(tag_of(2.0, 127.0), 1)
    74.9
    """
    kappa = math.exp(-1 / tau)
    return kappa * impulse_of(tau) / (1 - kappa) * y3 * 2.0**_TAG


def step_of(r1: float, tag: float) -> float:
    """Return the change of a stored weight, for a TD error written as ``r1`` and a tag.

    >>> step_of(64.0, 2.0)
    1.0
    """
    return r1 * tag * 2.0**_STEP


def loss_of(trace_decay: float) -> int:
    """Return the y1 that lowers a tag by its share ``1 - trace_decay``, to the nearest 1/128; at most 127 (7 bits).

    >>> loss_of(0.891), loss_of(0.0)
    (14, 127)
    """
    return min(127, round(128 * (1 - trace_decay)))


def score_rule(tau: float, learns: bool = True, residue: bool = False) -> LearningRule:
    """Return the learning rule. Its products are not rounded before they are added up.

    Args:
        tau: Time constant of x1 in ticks, equal to the membrane's.
        learns: Whether weights change.
        residue: Whether each weight has a second synapse that holds four more bits; no Loihi has this.

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
