"""Reward to modulator: the third factor, one number per step, that all plastic synapses share."""

from __future__ import annotations

import numpy as np

from spikeloop.spiking.rules import winner_take_all_kernels

MODULATORS = {
    "td_error": winner_take_all_kernels.TD_ERROR,
    "reward_baseline": winner_take_all_kernels.REWARD_BASELINE,
    "reward": winner_take_all_kernels.REWARD,
}


class Modulator:
    """Turns the outcome of a step into a modulator M, from the scaled reward r and the critic's values.

    ====================  ==================================================================================
    ``td_error``          M = r + gamma V(s') - V(s), with V(s') = 0 where the episode terminated; a time
                          limit is no termination (Barto, Sutton & Anderson 1983; Frémaux et al. 2013)
    ``reward_baseline``   M = r - b, then b <- b + rate M: reward beyond its running mean (Williams 1992)
    ``reward``            M = r (Florian 2007)
    ====================  ==================================================================================

    Without a critic, ``reward_baseline`` and ``reward`` credit a reward to the env steps whose eligibility is left,
    about 1 / (1 - gamma lambda) of them. They learn bandits and the like; a task whose rewards come late, or are all
    the same until it ends, such as CartPole, is for ``td_error``.

    Args:
        kind: One of :data:`MODULATORS`.
        gamma: Discount factor.
        baseline_rate: Rate of the running mean.

    Attributes:
        baseline: The running mean b, shape (1,), part of what was learnt.

    Raises:
        ValueError: If the kind is unknown or a number out of range.

    >>> modulator = Modulator("td_error", gamma=0.5)
    >>> modulator(1.0, value=3.0, next_value=2.0, terminated=False)  # 1 + 0.5 * 2 - 3
    -1.0
    >>> modulator(1.0, value=3.0, next_value=2.0, terminated=True)
    -2.0
    """

    def __init__(self, kind: str = "td_error", gamma: float = 0.99, baseline_rate: float = 0.01):
        if kind not in MODULATORS:
            raise ValueError(f"modulator must be one of {', '.join(MODULATORS)}, got {kind!r}")
        for name, value in (("gamma", gamma), ("baseline_rate", baseline_rate)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        self.kind, self.gamma, self.baseline_rate = kind, float(gamma), float(baseline_rate)
        self.baseline = np.zeros(1)

    def __call__(self, reward: float, value: float, next_value: float, terminated: bool) -> float:
        """Return M, and move the running mean on."""
        return winner_take_all_kernels.modulator_of(
            *self.numbers, self.baseline, float(reward), float(value), float(next_value), terminated
        )

    @property
    def numbers(self) -> tuple[int, float, float]:
        """Kind, gamma and rate as the kernels take them."""
        return MODULATORS[self.kind], self.gamma, self.baseline_rate
