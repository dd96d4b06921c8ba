"""What networks that learn on the emulated chip say where a value has left its range."""

from __future__ import annotations

import warnings

from spikeloop.hardware.loihi.emulator import Emulator
from spikeloop.hardware.loihi.interpreter import OVERFLOWS
from spikeloop.hardware.loihi.kernel_arguments import Loaded


def warn_of_overflow(emulator: Emulator, loaded: Loaded) -> None:
    """Warn once, on behalf of the method's caller, where a sum has wrapped or a membrane has met its bound.

    Args:
        emulator: The chip, which remembers that it has been said.
        loaded: What compiled code runs of it, with its counts.
    """
    if not emulator.overflowed and loaded.counters[: len(OVERFLOWS)].any():
        emulator.overflowed = True
        warnings.warn(
            "a value left the chip's range: policy.network.emulator.counts.overflows says how often which did",
            stacklevel=3,
        )
