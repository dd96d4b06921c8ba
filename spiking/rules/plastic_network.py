"""The contract between a learner that acts and a network whose weights change where it runs, in float or on a chip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class PlasticNetwork(Protocol):
    """A network that learns by itself from its spikes and a modulator.

    An env step is one epoch of ``n_ticks`` ticks: :meth:`run`, whose last spikes are the action, and, if the network is
    learning, :meth:`reinforce`. What the action was worth is known one epoch later, from the reward and the value that
    this next epoch reads out, so a modulator concerns all epochs before the latest:

        reset(); run(x_0); reinforce(0); run(x_1); reinforce(M_0); ... run(x_T); reinforce(M_(T-1)); reset(); ...

    where ``x_T`` is the last observation of the episode. The weights that choose an action therefore lack the last
    modulator, as on a chip, where reading out, acting and learning overlap.

    Attributes:
        learning: Whether weights and eligibilities change. While it is off, :meth:`run` leaves everything that learning
            depends on as it is, so that a policy can be evaluated in the middle of an episode of training.
        exploring: Whether the noise that explores is on.
    """

    learning: bool
    exploring: bool

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Forget the episode: eligibilities and neuron states, where ``mask``, shape (n_envs,), is true or None."""
        ...

    def run(self, x: np.ndarray, n_ticks: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Run one epoch.

        Args:
            x: Input of the env step; the numbers of the input lines that spike on every tick, shape (n_active,).
            n_ticks: Number of ticks.

        Returns:
            Spikes of each output neuron in the epoch, its spikes on the last tick, both of shape (n_outputs,), and the
            value that the critic reads out.
        """
        ...

    def reinforce(self, modulator: float) -> None:
        """Change the weights by the modulator and the eligibilities of earlier epochs, then count the latest in."""
        ...

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what was learnt, as copies."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        ...
