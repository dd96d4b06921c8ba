"""What a chip is to the rest of the library, and the chips there are. A new family is a folder and a line below.

A family's folder defines a :class:`Target`, which compiles networks to programs of its own and loads these into a
:class:`Machine`. Everything else, from :class:`~spikeloop.hardware.deployed.DeployedPolicy` to the command line, finds
chips in :data:`TARGETS` and knows no more of them than stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from spikeloop.hardware.energy import CostModel
from spikeloop.hardware.loihi.target import LOIHI1, LOIHI2

if TYPE_CHECKING:
    from spikeloop.hardware.figures import ChipFigures
    from spikeloop.hardware.host import Compiled, Host
    from spikeloop.spiking.network import Network


class Machine(Protocol):
    """A program that runs, on as many copies of the chip as there are environments.

    State is a value: it goes in and comes out of :meth:`run`. What a machine keeps is what it counts. Several threads
    may run one machine at once; a copy or pickle is a machine of its own, which starts with the same counts.
    """

    @property
    def overflowed(self) -> str:
        """Where values have left their range so far, such as ``"on the chip"``; empty if nowhere."""
        ...

    def initial_state(self, n_envs: int = 1) -> np.ndarray:
        """Return the resting state of ``n_envs`` chips, shape (n_envs, W), one row like the other."""
        ...

    def run(
        self, state: np.ndarray, x: np.ndarray, spikes: list[tuple[np.ndarray, ...]] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run the ticks of one env step.

        Args:
            state: Shape (B, W); left as it is.
            x: What the encoder made of the observations: (B, n_channels) where it is held for all ticks, else
                (n_ticks, B, n_channels).
            spikes: Where given, a tuple is appended: of each layer, its spikes after each tick, (n_ticks, B, N).

        Returns:
            What the host reads after each tick, and the new state. Where the chip holds the readout, its sums in units
            of ``1 / host.output_scale``, without ``b_out``, shape (n_ticks, B, n_outputs). Where the host computes the
            readout, the spikes that it receives, shape (n_ticks, B, N).

        Raises:
            ValueError: If the state is none of this machine's, or a number of ``x`` is not a number.
        """
        ...

    def firing_rates(self) -> list[float]:
        """Return the spikes per neuron and tick of each layer so far."""
        ...

    def figures(self) -> ChipFigures:
        """Return what the program takes of the chip, and what has happened so far.

        Raises:
            ValueError: If this machine does not count.
        """
        ...


class Target(Protocol):
    """A chip that networks are compiled for; its programs have an attribute ``chip``, the target's name."""

    @property
    def name(self) -> str:
        """What users call the chip."""
        ...

    @property
    def program(self) -> type:
        """The class of its programs, a frozen dataclass of parts that a file can hold."""
        ...

    @property
    def parts(self) -> tuple[type, ...]:
        """The classes of which a file may hold objects in a program, the program's among them."""
        ...

    @property
    def costs(self) -> Mapping[str, CostModel]:
        """The constants by which :meth:`Machine.figures` models energy and time, by source."""
        ...

    @property
    def costs_note(self) -> str:
        """What a reader of modelled figures should know of the constants; mostly empty."""
        ...

    @property
    def approximations(self) -> Mapping[str, str]:
        """In what ways its programs may differ from a network, beside rounding: what each name means."""
        ...

    @property
    def options(self) -> Mapping[str, tuple[str, ...]]:
        """Options of its compiler beside those of all targets, each with its choices, for the command line."""
        ...

    def compile(
        self, network: Network, calibration: np.ndarray, *, bits: int, strict: bool, approximate: bool, **options: Any
    ) -> Compiled:
        """Compile a network.

        Args:
            network: The network.
            calibration: Raw observations such as it will meet, in order, shape (L, B, n_obs) or (L, n_obs).
            bits: Bits of a weight, sign included.
            strict: Refuse what would differ from the network by more than rounding.
            approximate: Compile even what is known to cost most of a return.
            options: The target's own.

        Raises:
            ValueError: If the network does not fit the chip, or is to be refused.
        """
        ...

    def check(self, program: Any, host: Host) -> None:
        """Raise ``ValueError`` where a program, of this target's class, and what stays beside it do not fit."""
        ...

    def load(self, program: Any, host: Host, interpreted: bool = False) -> Machine:
        """Return the machine that runs a program; if ``interpreted``, a slow one that computes by definition."""
        ...

    def quantizer(self, bits: int = 8) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function that puts one weight matrix on the chip's grid; it can be pickled.

        Raises:
            ValueError: If weights cannot have so many bits.
        """
        ...


TICKS = "spike times in ticks"
OF_TICKS = {  # what is approximated before any target sees the network: the compiler puts it in ticks
    TICKS: "inputs come on the nearest tick and neurons spike on one; of outputs that spike first on the same tick the "
    "one of the lowest index decides; after 63 ticks a neuron may spike again"
}
TARGETS: dict[str, Target] = {target.name: target for target in (LOIHI1, LOIHI2)}


def approximations_of(target: Target) -> Mapping[str, str]:
    """Return in what ways a deployment may differ from its network, beside rounding: what each name means.

    >>> sorted(set(approximations_of(LOIHI1)) - set(LOIHI1.approximations))
    ['spike times in ticks']
    """
    return {**OF_TICKS, **target.approximations}


def target_of(chip: str) -> Target:
    """Return the target of a name.

    Raises:
        ValueError: If there is none.

    Example:
        >>> target_of("loihi1").name
        'loihi1'
        >>> target_of("tpu")
        Traceback (most recent call last):
        ...
        ValueError: chip must be one of ('loihi1', 'loihi2'), got 'tpu'
    """
    if chip not in tuple(TARGETS):
        raise ValueError(f"chip must be one of {tuple(TARGETS)}, got {chip!r}")
    return TARGETS[chip]
