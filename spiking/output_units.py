"""Output units that are looked at on every tick: what the spikes of the last layer make of them, in numpy."""

from __future__ import annotations

import numpy as np

from spikeloop.spiking.network import Network
from spikeloop.spiking.readout_kernels import drive


class OutputUnits:
    """Runs the output units of a network whose readout takes every tick (``network.readout.every_tick``).

    Args:
        network: The network.

    >>> from spikeloop.spiking import ActionHead, Encoder, Readout
    >>> readout = Readout(np.eye(2), np.zeros(2), tau_out=2.0, kind="max")
    >>> encoder = Encoder("rate", 2, low=np.zeros(2), high=np.ones(2))
    >>> units = OutputUnits(Network(encoder, (), readout, ActionHead("discrete", (2,)), n_ticks=3))
    >>> spikes = np.float32([[1, 0], [1, 1], [0, 0]])  # of both lines on three ticks
    >>> values, _ = units(spikes.reshape(1, 3, 1, 2))  # their largest membranes: two spikes in a row add up
    >>> values.round(2)
    array([[[1.74, 1.  ]]])
    """

    def __init__(self, network: Network):
        self.network, readout = network, network.readout
        # np.array: the kernels are compiled for arrays that may be written, and a Network's may not
        self._w, self._bias = np.array(readout.w_out.T, order="C"), np.array(readout.b_out, network.dtype)

    def arrived(self, z: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return what reaches the units, shape (L, n_ticks, B, N).

        Args:
            z: What the last layer sent, shape (1 + T, B, N); entry 0 is the tick before.
            starts: Whether an episode starts, shape (L, B): then nothing of the tick before arrives late.
        """
        n_ticks, arrived = self.network.n_ticks, z[1:]
        if self.network.latency:
            arrived = z[:-1].copy()  # a recording shows the spikes that arrive too late, too
            arrived[::n_ticks][starts] = 0
        return arrived.reshape(len(starts), n_ticks, *arrived.shape[1:])

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the units.

        Args:
            z: The spikes that reach them, shape (L, n_ticks, B, N), or (L, 1, B, N) where those are held.

        Returns:
            The output values, shape (L, B, n_outputs), and their spikes, shape (T, B, n_outputs).
        """
        network, (n_steps, n_rows, n_batch, n) = self.network, z.shape
        n_ticks, n_outputs = network.n_ticks, len(self._bias)
        sums = np.empty((n_steps * n_rows * n_batch, n_outputs), network.dtype)
        drive(np.ascontiguousarray(z).reshape(len(sums), n), self._w, self._bias, sums)
        by_tick = sums.reshape(n_steps, n_rows, n_batch, n_outputs).swapaxes(0, 1)
        by_tick = np.broadcast_to(by_tick, (n_ticks, n_steps, n_batch, n_outputs))
        v = network.readout.membranes(by_tick.reshape(n_ticks, n_steps * n_batch, n_outputs), network.dt)
        values, spikes = network.readout.decide(v, None if network.head is None else network.head.sizes)
        spikes = spikes.reshape(n_ticks, n_steps, n_batch, n_outputs).swapaxes(0, 1)
        return values.reshape(n_steps, n_batch, n_outputs), spikes.reshape(n_steps * n_ticks, n_batch, n_outputs)
