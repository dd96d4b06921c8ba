"""What a learner that acts drives: a network whose weights change where it runs, in float or on a chip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from spikeloop.spiking.encoders import tile_kernels

Class = TypeVar("Class", bound=type)

RUNS_COMPILED_TASKS: set[type] = set()
"""Networks with a ``closed_loop`` that does in a compiled task what ``run`` and ``reinforce`` do, step by step."""


def runs_compiled_tasks(network: Class) -> Class:
    """Add a class to :data:`RUNS_COMPILED_TASKS`, as its decorator.

    It holds for this very class: what a subclass changes, the loop of its base does not know of.
    """
    RUNS_COMPILED_TASKS.add(network)
    return network


def active_lines(x: np.ndarray, n_inputs: int) -> np.ndarray:
    """Return the numbers of input lines as kernels take them, int64: these read and write without looking at bounds.

    Raises:
        ValueError: If a line does not exist or stands there twice.

    >>> active_lines([0, 7], 5)
    Traceback (most recent call last):
    ValueError: x must be numbers of lines below 5, each once, got [0 7]
    """
    lines = np.asarray(x)
    if lines.ndim != 1 or (lines.size and lines.dtype.kind not in "iu"):
        raise ValueError(f"x must be whole numbers of lines, shape (n_active,), got {lines.dtype} {lines.shape}")
    numbers = set(lines.tolist())
    if (numbers and not 0 <= min(numbers) <= max(numbers) < n_inputs) or len(numbers) != len(lines):
        raise ValueError(f"x must be numbers of lines below {n_inputs}, each once, got {lines}")
    return np.ascontiguousarray(lines, dtype=np.int64)


def check_code(coder: tile_kernels.Coder, obs: np.ndarray, n_inputs: int) -> None:
    """Refuse an input code that a loop cannot run: more lines than a network has, or numbers that ``obs`` lacks."""
    n_lines = len(coder.centers) or len(coder.offsets) * int(np.prod(coder.sizes))
    if n_lines > n_inputs:
        raise ValueError(f"the code has {n_lines} lines, the network {n_inputs}")
    if obs.ndim != 1 or len(obs) <= coder.sources.max():
        raise ValueError(f"obs must have shape ({coder.sources.max() + 1},) or more, got {obs.shape}")


@runtime_checkable
class PlasticNetwork(Protocol):
    """A network that learns by itself from its spikes and a modulator.

    An env step is ``n_ticks`` ticks: :meth:`run`, whose last spikes are the action, and, if the network is learning,
    :meth:`reinforce`. What the action was worth is known one env step later, from the reward and the value that is read
    out then, so a modulator concerns all env steps before the latest:

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
        """Run one env step.

        Args:
            x: Input of the env step; the numbers of the input lines that spike on every tick, shape (n_active,).
            n_ticks: Number of ticks.

        Returns:
            Spikes of each output neuron in the env step, its spikes on the last tick, both of shape (n_outputs,), and
            the value that the critic reads out.
        """
        ...

    def reinforce(self, modulator: float) -> None:
        """Change the weights by the modulator and the eligibilities of earlier env steps, then count the latest in."""
        ...

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what was learnt, as copies."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        ...


@runtime_checkable
class ActsLast(Protocol):
    """A plastic network that reads out the value first, learns next, and acts with the weights that it then has.

    ``evaluate(x)``, ``reinforce(modulator)`` and ``act()`` make an env step, in which :meth:`PlasticNetwork.run` is the
    first and the last, without learning between them. On a chip this keeps the modulator apart from the spikes of the
    step in which it is sent, which it says nothing about.
    """

    def evaluate(self, x: np.ndarray) -> float:
        """Begin an env step in which the input lines ``x``, shape (n_active,), are active; return the value."""
        ...

    def act(self) -> tuple[np.ndarray, np.ndarray]:
        """Run the rest of the env step; return what :meth:`PlasticNetwork.run` does, without the value."""
        ...
