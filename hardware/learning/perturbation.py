"""Weight perturbation as rule text: the engine's own rounding draws the trial, and tags hold it.

A learning epoch is a tick, and the host writes y1, y2 and the reward between two episodes; products of two such factors
are scaled down by 8::

    t_ji <- t_ji + y1 t_ji / 8 + y1 / 16     y1 = -8 clears a tag but for one random bit, y1 = 8 doubles it and adds one
    w_ji <- w_ji + r1 t_ji / 4               r1 = 8 adds twice the tag to the weight, r1 = -8 takes it off
          + y2 w_ji / 8                      y2 = -16 turns the sign of a weight

A half is rounded up or down at random, for each synapse by itself: after a clearing tick and n doubling ones the tags
are uniform over -2^n to 2^n - 1. No spike takes part in this, nor a trace of one: the eligibility is the trial itself.
"""

from __future__ import annotations

from typing import NamedTuple

from spikeloop.hardware.learning.rule import LearningRule, Trace


class Tick(NamedTuple):
    """What the host gives the learning engine on one tick: two posttraces of all neurons, and the reward."""

    y1: int = 0
    y2: int = 0
    reward: int = 0


def perturbation_rule(profile: str) -> LearningRule:
    """Return the rule, in a profile's arithmetic.

    Raises:
        ValueError: If the profile is another than "nengo": in lava all synapses are rounded by the same draw, and in
            brian there are neither tags nor rewards.

    Example:
        >>> rule = perturbation_rule("nengo")
        >>> rule.dt, rule.dw
        ('u0*y1*t + 2^-4*u0*y1', '2^1*u0*r1*t + u0*y2*w')
    """
    if profile != "nengo":
        raise ValueError(
            f"profile must be 'nengo', whose synapses are rounded each by a draw of its own, got {profile!r}"
        )
    return LearningRule(dw="2^1*u0*r1*t + u0*y2*w", dt="u0*y1*t + 2^-4*u0*y1", r1=Trace(1.0, 0.0), profile=profile)


def ticks_of_trial(size: int = 0, reverse: bool = False, turn: bool = False) -> list[Tick]:
    """Return what the host gives, tick by tick, to make a trial of the weights of now.

    Args:
        size: Bits of the tags to draw and add; 0: none.
        reverse: Take the tags of now off.
        turn: Turn the sign of the weights.

    Example:
        >>> [tuple(tick) for tick in ticks_of_trial(size=2)]
        [(-8, 0, 0), (8, 0, 0), (8, 0, 0), (0, 0, 8)]
    """
    ticks = [Tick(y1=-8), *[Tick(y1=8)] * size, Tick(reward=8)] if size else []
    ticks += [Tick(reward=-8)] if reverse else []
    return ticks + ([Tick(y2=-16)] if turn else [])
