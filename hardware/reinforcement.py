"""How the host turns the rewards of env steps into what the chip's learning engines take as reward."""

from __future__ import annotations

from dataclasses import dataclass

from spikeloop.spiking.fields import number, set_fields

_MOST = 127  # of the reward trace, 8 bits with the sign


@dataclass(frozen=True)
class Reinforcement:
    """The third factor: the TD error of a critic that is one number, the same for all observations.

    On each env step, with ``r`` the reward and V the critic, V' = V, or 0 where the step ended in a terminal state::

        delta = r + gamma V' - V
        V    <- V + value_rate delta
        r1    = scale (1 - gamma) delta    rounded at random to an integer, within -127..127

    A critic of one number tells an end from a step that goes on, where every step's reward is alike, and needs nothing
    on the chip. With ``gamma`` 0 the third factor is the reward less its running mean; with ``value_rate`` and
    ``value`` 0 too, the reward itself.

    Args:
        gamma: Discount, 0 to below 1.
        value_rate: Rate of the critic, 0 to 1.
        scale: r1 for a third factor of 1.
        value: V; None before the first env step, whose reward r makes it ``r / (1 - gamma)``, what rewards all alike
            are worth: a policy then does not learn from the critic's own learning.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> host = Reinforcement(gamma=0.5, value_rate=0.5, scale=10, value=2.0)
        >>> host.after(1.0, terminal=False)  # 1 + 0.5 * 2 - 2 = 0: as expected
        (0.0, 2.0)
        >>> host.after(1.0, terminal=True)  # 1 - 2 = -1, times 10 * (1 - 0.5)
        (-5.0, 1.5)
    """

    gamma: float = 0.95
    value_rate: float = 0.01
    scale: float = 32.0
    value: float | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "Reinforcement"
        set_fields(
            self,
            gamma=number(me, "gamma", self.gamma, 0.0, 1 - 1e-6),
            value_rate=number(me, "value_rate", self.value_rate, 0.0, 1.0),
            scale=number(me, "scale", self.scale, 0.0, 1e6),
            value=None if self.value is None else number(me, "value", self.value, -1e30, 1e30),
        )

    def after(self, reward: float, terminal: bool) -> tuple[float, float]:
        """Return r1 before it is rounded, and the critic, after one env step."""
        value = reward / (1.0 - self.gamma) if self.value is None else self.value
        delta = reward + (0.0 if terminal else self.gamma * value) - value
        r1 = self.scale * (1.0 - self.gamma) * delta
        return min(max(r1, -_MOST), _MOST), value + self.value_rate * delta
