"""The winner-take-all actor-critic rule as rule text, in a form Loihi 1 could hold and in one with named extensions.

Eligibility, third factor and weights (Frémaux, Sprekeler & Gerstner 2013; Barto, Sutton & Anderson 1983)::

    actor    e_ji <- clip(gamma lambda e_ji + x_i (z_j - y_j), -1, 1)      dw_ji = eta delta e_ji
    critic   e_i  <- min(gamma lambda e_i + x_i, 1)                        dv_i  = eta delta e_i

x_i: the input spikes; z_j: neuron j won the last tick of the env step; y_j: share of the ticks that it won.

On the chip, with learning epochs of one tick and 2^k ticks per env step, every product gated by u_k, so that the rules
act on the last tick of a step:

- x = ``x1`` and z = ``y2``: traces with impulse 127 and tau 0, which hold the spike of this very tick;
- y = ``y1``: a running mean of the winner that forgets within an env step: what is left of the last step's winners
  biases the tags. That z is in it too only shrinks z - y;
- e = the tag, 254 for 1. Its saturation at the ends of 9 bits is the clip;
- delta = ``r1``, ``reward_scale`` for 1: the host gives it as the reward of a step's last tick. ``dw`` reads the tags
  from before that tick's update, those of the env step before: delta may thus contain the value of the new state;
- the critic's eligibility is a tag as well: a trace x2 would have taken in the new state's spikes already.

At an episode's end run 2^k more ticks without spikes, with the last delta on their last, then ``Learner.clear()``.

The terms of ``dt`` stand in an order that matters: the 16-bit register, which holds a full tag and little more,
saturates after each product. Decay comes first, then the loss to y, then the gain from z, so that it only cuts where a
neuron wins against a tag near -1.

Products of two factors are scaled down by 2^-2 (two traces) or 2^-3 (trace and tag) in profile nengo. Smaller learning
rates than 2^-10 take a constant as third factor, ``(y3+C)`` with y3 idle: C * 2^-17.
"""

from __future__ import annotations

import math
from dataclasses import replace

from spikeloop.hardware.learning.rule import LearningRule, Trace

TAG_ONE = 254  # tag that stands for an eligibility of 1
WEIGHT_ONE = 254  # weight that stands for an actor's weight of 1
_SPIKE, _NONE = Trace(127, 0), Trace()


def actor_rule(
    learning_rate: float,
    reward_scale: float,
    eligibility_decay: float,
    *,
    k: int = 2,
    tau_y: float | None = None,
    extended: bool = False,
) -> LearningRule:
    """Return the actor's rule.

    Args:
        learning_rate: eta, for weights whose 1 is ``WEIGHT_ONE``.
        reward_scale: r1 for a delta of 1.
        eligibility_decay: 1 - gamma lambda, per env step.
        k: An env step is 2^k ticks, k >= 1: a single tick has no z - y to learn from.
        tau_y: Time constant of the winner's running mean, in ticks; None: a quarter of an env step, of which the next
            step finds 2 % left.
        extended: Use ``wide_shift`` and ``residue_bits=4``, which no Loihi has: exact rates and 12-bit weights.

    Raises:
        ValueError: If a value is out of range or the rate is one that the chip cannot hold.
    """
    _check(learning_rate, reward_scale, eligibility_decay, k)
    tau_y = 2**k / 4 if tau_y is None else tau_y
    if not tau_y > 0:
        raise ValueError(f"tau_y must be > 0 ticks, got {tau_y}")
    e = -6 if extended else -4  # 127 * 127 * 2^-6 = 252; the chip's own scaling gives 2^-2 of it
    return _rule(
        learning_rate / reward_scale,
        f"- 2^{e}*u{k}*x1*y1 + 2^{e}*u{k}*x1*y2",
        eligibility_decay,
        k,
        extended,
        y1=Trace(127 * (1 - math.exp(-1 / tau_y)), tau_y),
        y2=_SPIKE,
    )


def critic_rule(
    learning_rate: float,
    reward_scale: float,
    eligibility_decay: float,
    value_unit: float,
    *,
    k: int = 2,
    epoch: int = 1,
    extended: bool = False,
) -> LearningRule:
    """Return the critic's rule, for one graded readout neuron that never spikes.

    Args:
        learning_rate: eta, for V = V0 + value_unit * sum_i w_i x_i.
        reward_scale: r1 for a delta of 1.
        eligibility_decay: 1 - gamma lambda, per env step.
        value_unit: Value of one weight unit.
        k: An env step is 2^k learning epochs.
        epoch: Ticks of a learning epoch.
        extended: Use ``wide_shift`` and ``residue_bits=4``, which no Loihi has.

    Raises:
        ValueError: If a value is out of range or the rate is one that the chip cannot hold.
    """
    _check(learning_rate, reward_scale, eligibility_decay, k)
    if not value_unit > 0:
        raise ValueError(f"value_unit must be > 0, got {value_unit}")
    rate = learning_rate / (TAG_ONE * value_unit * reward_scale)
    return replace(_rule(rate, f"+ 2^1*u{k}*x1", eligibility_decay, k, extended), epoch=epoch)


def _check(learning_rate: float, reward_scale: float, eligibility_decay: float, k: int) -> None:
    for name, value in (("learning_rate", learning_rate), ("reward_scale", reward_scale)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be > 0, got {value}")
    if not 0 < eligibility_decay < 1:
        raise ValueError(f"eligibility_decay must be between 0 and 1, got {eligibility_decay}")
    if not 1 <= k <= 6:
        raise ValueError(f"k must be 1..6 (2 to 64 ticks per env step), got {k}")


def _rule(
    rate: float, growth: str, decay: float, k: int, extended: bool, y1: Trace = _NONE, y2: Trace = _NONE
) -> LearningRule:
    """Return dw = rate * r1 * t, dt = -decay * t + growth, all on u_k."""
    scale = _wide_scale(rate) if extended else _scale(rate)
    return LearningRule(
        dw=f"{scale}*u{k}*r1*t",
        dt=f"{decay_terms(decay, k)} {growth}",
        x1=_SPIKE,
        y1=y1,
        y2=y2,
        residue_bits=4 if extended else 0,
        wide_shift=extended,
    )


def _scale(rate: float) -> str:
    """Return mantissa, power of 2 and possibly the constant factor that make r1 * t ``rate`` in profile nengo."""
    plain = [(m * 2.0 ** (e - 3), f"{m}*2^{e}") for m in range(1, 8) for e in range(-7, 9)]
    small = [(c * 2.0**-17, f"2^-7*(y3+{c})") for c in range(1, 128)]

    def error(option: tuple[float, str]) -> float:
        return abs(math.log(option[0] / rate))

    best = min(plain, key=error)
    if error(best) > 0.02:
        best = min([*plain, *small], key=error)
    if error(best) > 0.1:
        raise ValueError(f"a rate of {rate:.3g} per unit of r1 and tag is out of the chip's reach, 2^-17 to 1792")
    return best[1]


def _wide_scale(rate: float) -> str:
    """Return mantissa of 8 bits and power of 2 for ``rate``."""
    exponent = max(-16, math.ceil(math.log2(rate / 127)))
    mantissa = round(rate * 2.0**-exponent)
    if exponent > 8 or not 1 <= mantissa <= 127:
        raise ValueError(f"a rate of {rate:.3g} per unit of r1 and tag is out of reach, 2^-16 to 2^15")
    return f"{mantissa}*2^{exponent}"


def decay_terms(decay: float, k: int) -> str:
    """Return terms that shrink the tag by ``decay``, to the nearest 1/128, each with a mantissa of 4 bits."""
    left, terms = max(1, round(128 * decay)), []
    while left:
        shift = max(0, left.bit_length() - 3)
        mantissa = left >> shift
        terms.append(f"-{mantissa}*2^{shift - 7}*u{k}*t")
        left -= mantissa << shift
    return " ".join(terms)
