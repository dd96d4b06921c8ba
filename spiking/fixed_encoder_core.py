"""What cores share whose encoder is not trained: its memory, the spike counts, and the checks of what they run on."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from spikeloop.spiking import checks
from spikeloop.spiking.encoders import Encoder, encode
from spikeloop.spiking.tensor_checks import check_sequence, check_shapes


class FixedEncoderCore(nn.Module):
    """An encoder of which nothing is trained, and what a core has beside the units behind it.

    A subclass has the other members of :class:`~spikeloop.spiking.core.Core`: ``layers``, ``forward``, ``step`` and so
    on. State is float32.

    Args:
        encoder: How features become what the units get.
        n_neurons: Neurons of each layer.
        state_shape: ``(n_rows, width)`` of the packed state, whose first rows are the encoder's memory.
        n_ticks: Ticks per env step.
        dt: Length of a tick in ms.

    >>> from spikeloop.spiking.encoders.values import Direct
    >>> core = FixedEncoderCore(Direct(2), (5,), (1, 5), n_ticks=20, dt=1.0)
    >>> core.initial_state(3).shape, core.spike_counts[0].shape
    ((1, 3, 5), (5,))
    """

    def __init__(
        self, encoder: Encoder, n_neurons: tuple[int, ...], state_shape: tuple[int, int], n_ticks: int, dt: float
    ):
        super().__init__()
        self._encoder, self.n_ticks, self.dt = encoder, n_ticks, dt
        self.n_neurons, self.state_shape, self._n_memory = n_neurons, state_shape, len(encoder.memory_rows)
        self.spike_counts: tuple[np.ndarray, ...] = ()
        self.reset_counts()

    @property
    def encoder(self) -> Encoder:
        """How features become what the units get."""
        return self._encoder

    def current_encoder(self) -> Encoder:
        """Return the encoder: nothing of it is trained."""
        return self._encoder

    def reset_counts(self) -> None:
        """Set the spike counts to zero."""
        self.spike_counts = tuple(np.zeros(n, np.int64) for n in self.n_neurons)
        self.n_counted = 0

    def initial_state(self, n_envs: int = 1, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return the resting state, shape (n_rows, n_envs, width): the encoder's memory, and zeros."""
        rows, width = self.state_shape
        state = np.zeros((rows, n_envs, width), np.float32)
        if self._n_memory:
            memory = self._encoder.initial_memory(n_envs, rng if rng is not None else np.random.default_rng())
            state[: self._n_memory, :, : self._encoder.n_obs] = memory
        return state

    def _check_sequence(self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor) -> None:
        """Refuse arguments of ``forward`` whose shapes do not fit, or that are not real and finite."""
        shapes = features.shape, state.shape, episode_start.shape
        check_shapes(3, self._encoder.n_obs, self.state_shape, *shapes)
        check_sequence(features, state, episode_start, torch.float32)

    def _check_step(self, features: np.ndarray, state: np.ndarray, episode_start: np.ndarray) -> None:
        """Refuse arguments of ``step`` whose shapes do not fit, or features that are not finite."""
        shapes = features.shape, state.shape, episode_start.shape
        check_shapes(2, self._encoder.n_obs, self.state_shape, *shapes)
        checks.finite("features", features)

    def _held(self, features: np.ndarray) -> np.ndarray:
        """Return what an encoder without memory holds over the step, (L * B, n_inputs), of features, (L, B, F)."""
        none = np.zeros((0, features.shape[1], 1), np.float32)
        x, _ = encode(self._encoder, features, none, None, self.n_ticks, self.dt)
        return x.reshape(-1, x.shape[-1])
