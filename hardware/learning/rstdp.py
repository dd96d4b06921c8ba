"""Reward-modulated STDP for a readout whose winner the host picks, as rule text that a chip could hold.

Eligibility and third factor (Florian 2007; Frémaux & Gerstner 2016), with learning epochs of one tick::

    x_i   trace of the presynaptic spikes, 32 per spike, over about an env step
    t_ji <- t_ji - t_ji / 16 + x_i / 2    where j is the winner    the tag is the eligibility, some 16 ticks long
    w_ji <- w_ji + 2^-10 r1 t_ji          on a tick with a reward

The host sends the winner's spike on the first tick of the next env step, while x still holds the spikes that chose it,
and the third factor as the reward of that step's last tick, when the tag has taken the winner in.
"""

from __future__ import annotations

from spikeloop.hardware.learning.rule import LearningRule, Trace


def reward_modulated_rule(profile: str, n_ticks: int) -> LearningRule:
    """Return the rule, in a profile's arithmetic.

    Args:
        profile: "nengo" or "lava"; "brian" has neither tags nor rewards.
        n_ticks: Ticks per env step, at least 2: the winner's spike comes before the reward.

    Raises:
        ValueError: If the profile or a step of one tick has no such rule.

    Example:
        >>> reward_modulated_rule("nengo", n_ticks=4).dw
        '2^-7*u0*r1*t'
    """
    if profile not in ("nengo", "lava"):
        raise ValueError(f"profile must be 'nengo' or 'lava', got {profile!r}")
    if n_ticks < 2:
        raise ValueError(f"n_ticks must be at least 2 for a winner's spike before its reward, got {n_ticks}")
    exponent = {"nengo": -7, "lava": -5}[profile]  # products of two such factors are shifted by 3 bits, and by 5
    return LearningRule(
        dw=f"2^{exponent}*u0*r1*t",
        dt="2^-1*x1*y0 - 2^-4*u0*t",
        x1=Trace(32, float(n_ticks)),
        r1=Trace(1.0, 0.0),
        profile=profile,
    )
