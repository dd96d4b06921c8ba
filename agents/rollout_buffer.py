"""Rollout buffers that cut each environment's row into equal sequences, with the state at their start; no padding."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from types import EllipsisType
from typing import Any

import numpy as np
import torch as th
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.type_aliases import RecurrentRolloutBufferSamples, RNNStates
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

_COLUMNS = ("actions", "values", "log_probs", "advantages", "returns", "episode_starts")


class Unpadded:
    """The mask of a batch without padding.

    sb3-contrib selects the unpadded entries of a tensor with ``x[mask > 1e-8]``; here that is ``x[...]``,
    everything, which costs neither a copy nor an ``index_put`` in the backward pass.

    >>> Unpadded() > 1e-8
    Ellipsis
    """

    def __gt__(self, other: float) -> EllipsisType:
        """Select everything."""
        return ...


def limits_of(n_sequences: int, seq_len: int, batch_size: int | None) -> np.ndarray:
    """Return where minibatches begin and end within an order of sequences, as a buffer of chunks cuts them.

    >>> limits_of(10, 16, 64).tolist()
    [0, 4, 8, 10]
    """
    per_batch = max(1, (batch_size or n_sequences * seq_len) // seq_len)
    limits = [*range(0, n_sequences, per_batch), n_sequences]
    if seq_len == 1 and per_batch > 1 and len(limits) > 2 and limits[-1] - limits[-2] == 1:
        del limits[-2]  # the advantage of a single step has no spread to be normalised by
    return np.array(limits, np.int64)


class _Chunks:
    """What the two buffers below share.

    Each environment's row of ``n_steps`` is cut into ``n_steps / seq_len`` chunks. A minibatch is a random set of
    whole chunks, flattened chunk by chunk: entry ``c * seq_len + t`` is step ``t`` of chunk ``c``. Only the states
    at chunk starts are kept, and the frames that the critic remembers there.

    Args:
        seq_len: Steps per chunk, a divisor of the buffer's size; gradients do not pass beyond a chunk.
        state_shape: ``(n_rows, width)`` of the packed state.
        frames_shape: ``(n_frames, F)`` of the frames; no frames by default.
    """

    generator_ready: bool

    def __init__(
        self,
        *args: Any,
        seq_len: int,
        state_shape: tuple[int, int],
        frames_shape: tuple[int, int] = (0, 0),
        **kwargs: Any,
    ):
        self.seq_len = seq_len
        self.state_shape, self.frames_shape = state_shape, frames_shape
        super().__init__(*args, hidden_state_shape=(0, 0, 0, 0), **kwargs)  # type: ignore[call-arg]

    def reset(self) -> None:
        """Empty the buffer."""
        super().reset()  # type: ignore[misc]
        n_chunks = self.n_envs, self.buffer_size // self.seq_len  # type: ignore[attr-defined]
        self.start_states = np.zeros((*n_chunks, *self.state_shape), np.float32)
        self.start_frames = np.zeros((*n_chunks, *self.frames_shape), np.float32)

    def _keep_state(self, states: RNNStates) -> None:
        chunk, offset = divmod(self.pos, self.seq_len)  # type: ignore[attr-defined]
        if offset == 0:
            self.start_states[:, chunk] = states.pi[0].transpose(0, 1).cpu().numpy()  # (n_envs, n_rows, width)
            if self.frames_shape[0]:
                self.start_frames[:, chunk] = states.vf[1].transpose(0, 1).cpu().numpy()  # (n_envs, n_frames, F)

    def _in_chunks(self, array: np.ndarray) -> th.Tensor:
        """(n_steps, n_envs, ...) -> (n_envs * n_chunks, seq_len, ...)."""
        array = np.swapaxes(array, 0, 1)
        array = array.reshape(-1, self.seq_len, *array.shape[2:])
        if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float32)  # as SB3's own buffer does for the actions
        return self.to_torch(array)  # type: ignore[attr-defined]

    def get(self, batch_size: int | None = None) -> Generator[RecurrentRolloutBufferSamples, None, None]:
        """Yield minibatches of ``batch_size`` steps (all of them if None), in random order of chunks.

        The last one is smaller where they do not come out even. A single step, whose advantage has no spread to be
        normalised by, joins the minibatch before.
        """
        assert self.full, "the rollout buffer must be full before sampling from it"  # type: ignore[attr-defined]
        if not self.generator_ready:
            self._columns = {name: self._in_chunks(getattr(self, name)) for name in _COLUMNS}
            self._columns["actions"] = self._columns["actions"].float()  # those of a float64 space were float32 too
            obs = self.observations  # type: ignore[attr-defined]
            is_dict = isinstance(obs, dict)
            self._obs = {k: self._in_chunks(v) for k, v in obs.items()} if is_dict else self._in_chunks(obs)
            self._states = self.to_torch(self.start_states).flatten(0, 1)  # type: ignore[attr-defined]
            self._frames = self.to_torch(self.start_frames).flatten(0, 1)  # type: ignore[attr-defined]
            self.generator_ready = True
        n_chunks = len(self._states)
        limits = limits_of(n_chunks, self.seq_len, batch_size)
        if len(limits) == 2:
            yield self._samples(None)  # one batch holds everything: no order to shuffle, nothing to copy
            return
        order = th.randperm(n_chunks).to(self._states.device)
        for first, stop in pairwise(limits.tolist()):
            yield self._samples(order[first:stop])

    def _samples(self, ids: th.Tensor | None) -> RecurrentRolloutBufferSamples:
        def take(chunks: th.Tensor) -> th.Tensor:
            return (chunks if ids is None else chunks.index_select(0, ids)).flatten(0, 1)

        column = {name: take(chunks) for name, chunks in self._columns.items()}
        obs = {k: take(v) for k, v in self._obs.items()} if isinstance(self._obs, dict) else take(self._obs)
        states, frames = (
            (chunks if ids is None else chunks.index_select(0, ids)).transpose(0, 1)  # (n_rows, n_seq, width)
            for chunks in (self._states, self._frames)
        )
        return RecurrentRolloutBufferSamples(
            observations=obs,  # type: ignore[arg-type]
            actions=column["actions"],
            old_values=column["values"],
            old_log_prob=column["log_probs"],
            advantages=column["advantages"],
            returns=column["returns"],
            lstm_states=RNNStates((states,), (states, frames)),
            episode_starts=column["episode_starts"],
            mask=Unpadded(),  # type: ignore[arg-type]
        )


class ChunkedRolloutBuffer(_Chunks, RecurrentRolloutBuffer):  # type: ignore[misc]
    """Chunked buffer of array observations."""

    def add(self, *args: Any, lstm_states: RNNStates, **kwargs: Any) -> None:
        """Store one step of every environment; contrib's four LSTM states are not kept."""
        self._keep_state(lstm_states)
        RolloutBuffer.add(self, *args, **kwargs)


class ChunkedDictRolloutBuffer(_Chunks, RecurrentDictRolloutBuffer):  # type: ignore[misc]
    """Chunked buffer of Dict observations."""

    def add(self, *args: Any, lstm_states: RNNStates, **kwargs: Any) -> None:
        """Store one step of every environment; contrib's four LSTM states are not kept."""
        self._keep_state(lstm_states)
        DictRolloutBuffer.add(self, *args, **kwargs)
