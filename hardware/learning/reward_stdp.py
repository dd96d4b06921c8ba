"""Reward-modulated STDP with a critic on the chip, as rule text that a chip could hold.

:class:`~spikeloop.spiking.rules.rstdp.RewardSTDP` of an env step of ``epoch * 2^k`` ticks (Frémaux, Sprekeler &
Gerstner 2013), with learning epochs of ``epoch`` ticks::

    t_ji <- t_ji + a_plus x_i   on a spike of neuron j       x_i: trace of the presynaptic spikes, tau_plus long
    t_ji <- t_ji - a_minus y_j  on a spike of line i         y_j: trace of the postsynaptic spikes, tau_minus long
    t_ji <- gamma lambda t_ji   once in an env step
    w_ji <- w_ji + eta r1 t_ji  on the same tick, with the tag from before that tick's epoch

The chip decides what of these happens when: an engine sees the last spike of each neuron in a learning epoch, and the
tags that ``dw`` reads are those from before the epoch. Spikes that come in the epoch of the reward, which are of a new
env step already, thus get no share of it.
"""

from __future__ import annotations

import math

from spikeloop.hardware.learning.actor_critic import decay_terms
from spikeloop.hardware.learning.rule import LearningRule, Trace

_EXPONENTS = range(-7, 9)  # of 2 in a product of a rule
_TAG = 16.0  # about what a tag of an eligibility of 1 is; tags reach 255


def reward_stdp_rule(
    learning_rate: float,
    reward_scale: float,
    eligibility_decay: float,
    *,
    k: int,
    epoch: int = 1,
    tau_plus: float = 10.0,
    tau_minus: float = 20.0,
    a_plus: float = 1.0,
    a_minus: float = 0.0,
    residue_bits: int = 0,
) -> LearningRule:
    """Return the rule.

    Args:
        learning_rate: eta, in units of the stored weight per modulator and eligibility; 0: weights stay.
        reward_scale: r1 for a modulator of 1.
        eligibility_decay: 1 - gamma lambda, per env step.
        k: An env step is 2^k learning epochs.
        epoch: Ticks of a learning epoch.
        tau_plus: Window of potentiation, in ticks.
        tau_minus: Window of depression, in ticks.
        a_plus: Eligibility of a pair pre before post.
        a_minus: Of a pair post before pre, which is subtracted.
        residue_bits: 4 for weights with a second synapse, which no Loihi has.

    Raises:
        ValueError: If a value is out of range or the rate is one that the chip cannot hold.

    >>> reward_stdp_rule(4.0, 256.0, 0.2, k=2, epoch=4).dw
    '2^-7*u2*r1*t'
    >>> reward_stdp_rule(4.0, 256.0, 0.2, k=2, epoch=4).dt
    '-6*2^-5*u2*t -2*2^-7*u2*t + 2^-1*x1*y0'
    """
    if not 0 < eligibility_decay < 1:
        raise ValueError(f"eligibility_decay must be between 0 and 1, got {eligibility_decay}")
    if not (learning_rate >= 0 and reward_scale > 0):
        raise ValueError(f"learning_rate must be >= 0, reward_scale > 0, got {learning_rate} and {reward_scale}")
    dw, tag = "", _TAG
    if learning_rate:
        # A power of 2 for dw, of which profile nengo keeps 2^-3 of a product of two; the rest is the unit of the tags.
        exponent = round(math.log2(learning_rate / reward_scale / _TAG)) + 3
        if exponent not in _EXPONENTS:
            raise ValueError(
                f"a learning rate of {learning_rate:.3g} stored units at a reward scale of {reward_scale:g} is out of "
                f"the chip's reach, about {_reach(0, reward_scale):.3g} to {_reach(-1, reward_scale):.3g}"
            )
        dw, tag = f"2^{exponent}*u{k}*r1*t", learning_rate / reward_scale / 2.0 ** (exponent - 3)
    texts, x1, y1 = [decay_terms(eligibility_decay, k)], Trace(), Trace()
    if a_plus:
        exponent, impulse = _split(a_plus * tag)
        texts.append(f"+ 2^{exponent}*x1*y0")
        x1 = Trace(impulse, tau_plus)
    if a_minus:
        exponent, impulse = _split(a_minus * tag)
        texts.append(f"- 2^{exponent}*y1*x0")
        y1 = Trace(impulse, tau_minus)
    return LearningRule(dw=dw, dt=" ".join(texts), x1=x1, y1=y1, epoch=epoch, residue_bits=residue_bits if dw else 0)


def _split(size: float) -> tuple[int, float]:
    """Return an exponent of 2 and an impulse of 20 to 40, a few of which fit a trace, whose product is a size."""
    exponent = math.ceil(math.log2(size / 40.0))
    return exponent, size / 2.0**exponent


def _reach(end: int, reward_scale: float) -> float:
    """Return the least, or with ``end`` -1 the largest rate that a power of 2 in a rule stands for."""
    return 2.0 ** (_EXPONENTS[end] - 3) * _TAG * reward_scale
