"""Networks whose layers answer env steps as a whole, in ticks, as on chips; a new one is a file and a line below."""

from __future__ import annotations

from collections.abc import Callable

from spikeloop.spiking.network import Network
from spikeloop.spiking.spike_time import SpikeTimeLayer
from spikeloop.spiking.spike_time_in_ticks import spike_times_in_ticks

# The class of a network's layers -> what makes a network in ticks of it, given the ticks per time constant.
IN_TICKS: dict[type, Callable[[Network, int], Network]] = {SpikeTimeLayer: spike_times_in_ticks}


def in_ticks(network: Network, ticks_per_tau: int = 16) -> Network:
    """Return a network of layers that answer env steps as a whole as one that runs in ticks.

    Args:
        network: The network.
        ticks_per_tau: Ticks per time constant of the layers.

    Raises:
        ValueError: If such layers have no form in ticks, or the network has something that has none.
    """
    kind = type(network.layers[0])
    if kind not in IN_TICKS:
        raise ValueError(
            f"layers must have a form in ticks, as {', '.join(k.__name__ for k in IN_TICKS)}, got {kind.__name__}"
        )
    return IN_TICKS[kind](network, ticks_per_tau)
