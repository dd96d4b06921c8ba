"""From an environment's action space to the action neurons of a local learner, and what each of them stands for.

A circuit of neurons, one of which wins, chooses one thing: the action of a Discrete space, one of several choices
(MultiDiscrete), or a number along a row of neurons (Box). On a ring, the row of an angle, the ends are neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from spikeloop.agents.checks import in_words
from spikeloop.spiking.action_head import ActionHead


def head_for(
    space: spaces.Space, n_action_neurons: int | Sequence[int] = 9, n_rows: int = 1, rings: Sequence[int] = ()
) -> ActionHead:
    """Return what reads an action from the neurons that win; its ``sizes`` are the circuits.

    Args:
        space: Discrete, MultiDiscrete, or Box with finite bounds.
        n_action_neurons: Box: neurons of a row, at least 2; one number, or one for each number of an action.
        n_rows: Box: rows for each number of an action, whose mean it is.
        rings: Box: places of the numbers that are angles, in an action that is laid in a row.

    Raises:
        ValueError: If the space is another, or an argument is out of range.

    >>> head_for(spaces.Box(-2, 2, (1,)), n_action_neurons=5).values.tolist()
    [-2.0, -1.0, 0.0, 1.0, 2.0]
    >>> head_for(spaces.Box(-1, 1, (1,)), n_action_neurons=4, rings=[0]).values.tolist()
    [-1.0, -0.5, 0.0, 0.5]
    """
    if isinstance(space, spaces.Discrete):
        return ActionHead("discrete", (int(space.n),), start=(int(space.start),))
    if isinstance(space, spaces.MultiDiscrete) and space.shape:
        sizes, start = (tuple(np.ravel(a).tolist()) for a in (space.nvec, space.start))
        return ActionHead("multi_discrete", sizes, space.shape, start=start)
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"R-STDP needs Discrete, MultiDiscrete or Box actions, the environment takes {in_words(space)}"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"R-STDP needs bounds of Box actions that are finite, the environment takes {in_words(space)}")
    n = int(np.prod(space.shape))
    each = (n_action_neurons,) * n if isinstance(n_action_neurons, int) else tuple(n_action_neurons)
    if len(each) != n or min(each, default=2) < 2:
        raise ValueError(f"n_action_neurons must be {n} numbers of at least 2, or one for all, got {n_action_neurons}")
    if not all(0 <= ring < n for ring in rings):
        raise ValueError(f"action_rings must be places in an action of {n} numbers, got {rings}")
    if n_rows < 1 or (n_rows > 1 and rings):
        raise ValueError(f"n_rows must be at least 1, and 1 with action_rings, got {n_rows}")
    low, high = space.low, space.high.copy()
    for ring in rings:  # the turn ends where it began, one place beyond the last neuron
        high.flat[ring] -= (high.flat[ring] - low.flat[ring]) / each[ring]
    sizes = tuple(np.repeat(each, n_rows).tolist())
    return ActionHead("box", sizes, space.shape, low=low, high=high)
