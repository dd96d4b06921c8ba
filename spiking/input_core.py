"""A core without layers: the encoder's spikes themselves reach the output units, which alone are trained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from spikeloop.spiking.encoders import Encoder, encode
from spikeloop.spiking.fixed_encoder_core import FixedEncoderCore
from spikeloop.spiking.metrics import Synapses
from spikeloop.spiking.network import Layer, packed_shape
from spikeloop.spiking.readout_kinds import READOUTS


class InputLines:
    """The encoder's channels, as far as their spikes are counted.

    Args:
        n: Number of channels.
    """

    w_in, w_rec = None, None

    def __init__(self, n: int):
        self.synapses = Synapses(np.zeros((n, 0)), None)


class NoLayers:
    """What a core without layers has in their place.

    Args:
        n: Number of the encoder's channels.
    """

    graded = False

    def __init__(self, n: int):
        self._lines = InputLines(n)

    def __iter__(self) -> Iterator[InputLines]:
        yield self._lines


class InputCore(FixedEncoderCore):
    """An encoder whose spikes reach output units that are looked at on every tick.

    It has the members of :class:`~spikeloop.spiking.core.Core`. Nothing of it is trained, and what it counts are the
    spikes of the encoder's channels.

    Args:
        encoder: How features become spikes.
        n_ticks: Ticks per env step.
        dt: Length of a tick in ms.
        tau_out: Time constant of the readout filter in ms.
        readout: Kind of the output units.

    Raises:
        ValueError: If the encoder sends no spikes, can never spike within a step, or the units are read otherwise.

    >>> from spikeloop.spiking.encoders import Encoder
    >>> core = InputCore(Encoder("spike_times", 3), n_ticks=5, tau_out=2.0, readout="max")
    >>> features, start = torch.full((7, 2, 3), 1.5), torch.zeros(7, 2)  # seven env steps of two environments
    >>> z, state = core(features, torch.from_numpy(core.initial_state(2)), start)
    >>> z.shape, z[0, 0, :, 0].tolist()
    (torch.Size([7, 2, 5, 3]), [0.0, 1.0, 0.0, 0.0, 0.0])
    """

    latency, clears = 0, False

    def __init__(
        self, encoder: Encoder, *, n_ticks: int = 1, dt: float = 1.0, tau_out: float = 0.0, readout: str = "max"
    ):
        by_tick = tuple(name for name, kind in READOUTS.items() if kind.decide is not None and kind.trains)
        if not encoder.spikes or readout not in by_tick:
            raise ValueError(
                f"n_neurons=[] needs an encoder that spikes and a readout of {by_tick}, got encoder {encoder.kind!r} "
                f"and readout {readout!r}"
            )
        if fault := encoder.blind(int(n_ticks), float(dt)):
            raise ValueError(fault)
        n = encoder.n_channels
        super().__init__(encoder, (n,), packed_shape(encoder, []), int(n_ticks), float(dt))
        self.tau_out, self.readout, self.layers = float(tau_out), readout, NoLayers(n)

    def network_layers(self) -> tuple[Layer, ...]:
        """Return no layers."""
        return ()

    def forward(
        self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a sequence of env steps; arguments and errors as of :meth:`~spikeloop.spiking.core.Core.__call__`.

        Returns:
            The spikes of each tick, shape (L, B, n_ticks, n_channels), and the new state.
        """
        self._check_sequence(features, state, episode_start)
        arrays = (tensor.detach().cpu().numpy() for tensor in (features, state, episode_start))
        z, new = self._run(*arrays)
        return torch.from_numpy(z).to(features.device), torch.from_numpy(new).to(features.device)

    def step(self, features: np.ndarray, state: np.ndarray, episode_start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run one env step; shapes as of :meth:`forward`, without L."""
        self._check_step(features, state, episode_start)
        z, new = self._run(features[None], state, episode_start[None])
        return z[0], new

    def _run(self, features: np.ndarray, state: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, memory = encode(self._encoder, features, state[: self._n_memory], start, self.n_ticks, self.dt)
        if self._encoder.held:
            x = np.repeat(x[:, None], self.n_ticks, axis=1)
        z = np.ascontiguousarray(x.transpose(0, 2, 1, 3), np.float32)  # (L, B, n_ticks, n_channels)
        new = np.zeros_like(state)
        new[: self._n_memory] = memory
        total = self.spike_counts[0]
        total += np.count_nonzero(z, axis=(0, 1, 2))
        self.n_counted += start.size * self.n_ticks
        return z, new
