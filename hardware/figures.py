"""What a machine says of its chip when it is asked for a report: cores in use, events, modelled costs."""

from __future__ import annotations

from typing import Any, NamedTuple

from spikeloop.hardware.energy import Cost


class CoreFigures(NamedTuple):
    """What a program takes of one core.

    Args:
        use: A dataclass of plain numbers, ``core`` among them: how the core stands in a report's JSON.
        needs: Of each limited resource, by name, what is used and how much there is; None is no limit.
        place: Row and column in a picture of the chip.

    Example:
        >>> from types import SimpleNamespace
        >>> core = CoreFigures(SimpleNamespace(core=0), {"neurons": (64, 256), "synapses": (900, None)}, (0, 0))
        >>> core.share
        0.25
    """

    use: Any
    needs: dict[str, tuple[int, int | None]]
    place: tuple[int, int]

    @property
    def share(self) -> float:
        """The share in use of the core's scarcest resource."""
        return max(need / most for need, most in self.needs.values() if most is not None)


class ChipFigures(NamedTuple):
    """What a program takes of a chip, and what happened there over a whole run.

    Args:
        profile: Name of the chip's arithmetic.
        cores: The cores in use.
        limits: What a chip, and a core of it, has of each resource, for a report's JSON; ``"cores"`` is among them.
        grid: Rows and columns of a picture that has all cores in it.
        events: How often each kind of event happened, by name.
        overflows: How often values left their range, by kind.
        modelled: Energy and time of all events, by source of the constants.
        spikes_sent: Spikes that the host sent.
        spikes_read: Spikes that left the chip for the host.
        n_weights: Weights that the program's synapses stand for, zeros included.
        n_nonzero: Those of them that are not zero.
        effective_macs: Multiply-accumulates that met neither a zero input nor a zero weight.
        effective_acs: The same of accumulates, where the input is a spike.
        activation_sparsity: Share of neurons and ticks without a spike.
        memory_bytes: Memory of synapses and of the state of neurons.

    Example:
        >>> from types import SimpleNamespace
        >>> core = CoreFigures(SimpleNamespace(core=0), {"neurons": (64, 256)}, (0, 0))
        >>> of_chip = {"profile": "8 bits", "cores": (core,), "limits": {"cores": 1, "neurons": 256}, "grid": (1, 1)}
        >>> counted = {"events": {"spikes": 12.0}, "overflows": {}, "modelled": {}, "spikes_sent": 0, "spikes_read": 0}
        >>> weights = {"n_weights": 900, "n_nonzero": 800, "effective_macs": 0.0, "effective_acs": 40.0}
        >>> ChipFigures(**of_chip, **counted, **weights, activation_sparsity=0.97, memory_bytes=1412).cores[0].share
        0.25
    """

    profile: str
    cores: tuple[CoreFigures, ...]
    limits: dict[str, int | None]
    grid: tuple[int, int]
    events: dict[str, float]
    overflows: dict[str, int]
    modelled: dict[str, Cost]
    spikes_sent: float
    spikes_read: float
    n_weights: int
    n_nonzero: int
    effective_macs: float
    effective_acs: float
    activation_sparsity: float
    memory_bytes: int
