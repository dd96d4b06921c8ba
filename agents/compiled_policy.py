"""A policy laid out for the compiled path: one vector of parameters, one of gradients, two of Adam's moments.

Parameters and optimizer stay torch's; :meth:`CompiledPolicy.take` copies them in before kernels run, and
:meth:`CompiledPolicy.give_back` copies them out, so that whatever saves, loads, plays or exports a policy knows nothing
of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from spikeloop.agents import ppo_kernels
from spikeloop.agents.compilable import ACTIVATIONS, critic_layers, known_parameters
from spikeloop.agents.policies import LsnnPolicy
from spikeloop.agents.ppo_kernels import DenseAt, LayerAt, Scratch, Sizes
from spikeloop.spiking.engine import shares, vectors
from spikeloop.spiking.engine.sequences import padded_size

# A share of a minibatch has at least so many products of weights and inputs: what a share costs by itself, and threads
# that start, is little beside that.
SHARE_PRODUCTS = 3_500_000
MOST_SHARES = 16


def shares_of(policy: LsnnPolicy, n_steps: int, n_sequences: int) -> int:
    """Return in how many shares a minibatch is computed, each by one thread: 1 if it is small, else a power of two.

    The order of sums depends on it, so that it must not depend on the number of threads. That is mostly a power of two,
    by which threads get equal numbers of shares.

    Args:
        policy: The policy.
        n_steps: Env steps of a sequence.
        n_sequences: Sequences of the largest minibatch; a smaller one may leave shares empty.

    >>> space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)
    >>> [shares_of(LsnnPolicy(*space, lambda _: 3e-4, n_neurons=n), 32, 8) for n in (64, 512)]
    [1, 8]
    """
    spiking = sum(p.numel() for p in policy.lstm_actor.parameters()) * policy.lstm_actor.n_ticks
    products = n_sequences * n_steps * (spiking + policy._weights_per_row)
    most = int(min(n_sequences, MOST_SHARES, max(1, products // SHARE_PRODUCTS)))
    return 1 << (most.bit_length() - 1)


@dataclass(eq=False)
class _Places:
    """Hands out places in a vector, whole vector panels each."""

    n: int = 0

    def take(self, n: int) -> int:
        first = self.n
        self.n += padded_size(int(n), np.float32)
        return first


class CompiledPolicy:
    """The arrays that the kernels of :mod:`spikeloop.agents.ppo_kernels` take for a policy.

    Args:
        policy: A policy for which :func:`torch_reason` is None.
        n_steps: Env steps of a sequence.
        n_sequences: Sequences at a time, at most.
        n_envs: Environments that it acts in.
        n_shares: Shares that sequences are dealt out in, as :func:`shares_of` tells.

    >>> space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)
    >>> compiled = CompiledPolicy(LsnnPolicy(*space, lambda _: 3e-4, n_neurons=20), 16, 4, 8)
    >>> compiled.sizes.n_outputs, len(compiled.vectors)  # parameters, gradients, and two moments
    (2, 4)
    """

    def __init__(self, policy: LsnnPolicy, n_steps: int, n_sequences: int, n_envs: int, n_shares: int = 1):
        self.policy, self.optimizer = policy, policy.optimizer
        self._shape = n_steps, n_sequences, n_envs, n_shares
        lsnn, space = policy.lstm_actor, policy.action_space
        n_mine = -(-n_sequences // n_shares)  # sequences of a share, at most
        n_rows, at_once = max(n_mine * n_steps, n_envs), max(n_mine, n_envs)
        n_state, state_width = lsnn.state_shape[0] - lsnn._n_memory, lsnn.state_shape[1]
        places, scratch, spikes, limits, counts = (_Places() for _ in range(5))
        views: list[tuple[int, tuple[int, int], int, bool]] = []  # place, padded shape, columns in use, transposed

        def weights(n: int, width: int, used: int, transposed: bool = False) -> int:
            place = places.take(n * width)
            views.append((place, (n, width), used, transposed))
            return place

        width_of = lambda n: padded_size(n, np.float32)  # noqa: E731
        layers, rows, n_ticks = [], _Places(), lsnn.n_ticks
        n_below, width_below = lsnn._encoder.n_channels, 0
        n_t = n_rows * n_ticks  # ticks of all sequences
        for layer in lsnn.layers:
            n, width = layer.n_neurons, width_of(layer.n_neurons)
            keeps = layer.options["reset"] == "zero"
            w_in, bias = weights(n_below, width, n, True), weights(1, width, n)
            w_rec = weights(n, width, n, True) if layer.w_rec is not None else places.n
            layers.append(
                LayerAt(
                    n=n,
                    n_inputs=n_below,
                    width=width,
                    n_recurrent=n if layer.w_rec is not None else 0,
                    keeps_membrane=int(keeps),
                    w_in=w_in,
                    bias=bias,
                    w_rec=w_rec,
                    rows=rows.take(9 * width),
                    psi=scratch.take(n_t * width),
                    membrane=scratch.take(n_t * width if keeps else 0),
                    packed_in=scratch.take(width_below * n),
                    packed_rec=scratch.take(width * n),
                    grad_z=scratch.take(n_t * width_below),
                    rate_grad=scratch.take(width),
                    spikes=spikes.take((n_t + at_once) * n),
                    ptr=limits.take(n_t + 2 * at_once),
                    counts=counts.n,
                )
            )
            counts.n += n
            n_below, width_below = n, width
        outputs = int(policy.action_net.out_features)  # type: ignore[arg-type]
        gaussian = isinstance(space, spaces.Box)
        w_out, b_out = weights(outputs, width_below, n_below), weights(1, width_of(outputs), outputs)
        log_std = weights(1, width_of(outputs), outputs) if gaussian else b_out
        split, dense = places.n, []
        n_features, n_read = policy.critic_frames * policy.features_dim, n_below if policy.critic_reads_actor else 0
        stride = critic_stride = width_of(n_features + n_read)
        linear = critic_layers(policy) or []
        n_in, critic_x = n_features + n_read, scratch.take(n_rows * stride)
        for one in linear:
            n_out, width = one.out_features, width_of(one.out_features)
            dense.append(
                DenseAt(
                    n_in=n_in,
                    in_stride=stride,
                    n_out=n_out,
                    width=width,
                    w=weights(n_in, width, n_out, True),
                    b=weights(1, width, n_out),
                    h=scratch.take(n_rows * width),
                    grad=scratch.take(n_rows * width),
                    packed=scratch.take(stride * n_out),
                )
            )
            n_in, stride = n_out, width
        w_value, b_value = weights(1, stride, n_in), weights(1, width_of(1), 1)
        head, groups = _head_of(space, outputs)
        n_action = len(groups) if head == ppo_kernels.CATEGORICAL else outputs
        n_x = (1 if lsnn._encoder.held else n_ticks) * lsnn._encoder.n_channels
        packed = n_state * at_once * state_width
        take = scratch.take
        self.sizes = Sizes(
            n_steps=n_steps,
            n_ticks=n_ticks,
            n_state=n_state,
            state_width=state_width,
            n_outputs=outputs,
            n_action=n_action,
            head=head,
            width=width_below,
            n_read=n_read,
            n_features=n_features,
            critic_stride=critic_stride,
            activation=ACTIVATIONS[type(policy.mlp_extractor.value_net[1])] if linear else 0,
            split=split,
            w_out=w_out,
            b_out=b_out,
            log_std=log_std,
            w_value=w_value,
            b_value=b_value,
            x=take(n_rows * n_x),
            state=take(packed),
            new_state=take(packed),
            y=take(n_rows * width_below),
            grad_y=take(n_rows * width_below),
            critic_x=critic_x,
            outputs=take(n_rows * outputs),
            grad_outputs=take(n_rows * outputs),
            by_log_prob=take(n_rows),
            value=take(n_rows),
            grad_value=take(n_rows),
            column=take(4 * n_rows),
            action=take(n_rows * n_action),
        )
        integers = lambda rows, n: np.array(rows, np.int64).reshape(len(rows), n)  # noqa: E731
        self.layers = integers(layers, len(LayerAt._fields))
        self.dense = integers(dense, len(DenseAt._fields))
        self.groups = np.array(groups, np.int64)
        panel = vectors.panel(np.float32)
        self.windows = np.concatenate([shares.windows(layer.width, 1, panel) for layer in layers])
        self.rows = np.zeros(rows.n, np.float32)
        self.shares = Scratch(
            np.zeros((n_shares, scratch.n), np.float32),
            np.zeros((n_shares, spikes.n), np.uint16),
            np.zeros((n_shares, limits.n), np.int64),
            np.zeros((n_shares, n_rows), np.uint8),
        )
        self.scratch = Scratch(*(share[0] for share in self.shares))
        self.counts, self.totals = np.zeros((n_shares, counts.n), np.int64), np.zeros(counts.n, np.int64)
        self.gradients = np.zeros((n_shares, places.n), np.float32)
        parameters, first, second = (np.zeros(places.n, np.float32) for _ in range(3))
        self.vectors = [parameters, self.gradients[0], first, second]
        self.known, self._where = known_parameters(policy), views
        self._views = [self.views_of(vector) for vector in self.vectors]
        self._constants: Any = None
        self.options = np.zeros((0, 0), np.intp)

    def fits(self, policy: LsnnPolicy, *shape: int) -> bool:
        """Return whether this is of a policy as it is now, its modules and its optimizer, and made with this shape."""
        same = self.policy is policy and self.optimizer is policy.optimizer
        parts = zip(self.known, known_parameters(policy), strict=True)
        return same and self._shape == shape and all(mine is its for mine, its in parts)

    def views_of(self, vector: np.ndarray) -> list[th.Tensor]:
        """Return the places of ``known`` parameters in a vector as tensors of their shapes."""
        return [_view(vector, *where, p) for where, p in zip(self._where, self.known, strict=True)]

    @property
    def parameters(self) -> np.ndarray:
        """All parameters in a row, float32."""
        return self.vectors[0]

    def take(self) -> None:
        """Copy the parameters, and the constants of the neurons, to where the kernels read them."""
        lsnn = self.policy.lstm_actor
        with th.no_grad():
            th._foreach_copy_(self._views[0], self.known)
        for layer in self.layers:
            at = LayerAt(*layer.tolist())
            if at.n_recurrent:
                w_rec = self.parameters[at.w_rec : at.w_rec + at.n * at.width].reshape(at.n, at.width)
                np.fill_diagonal(w_rec, 0)  # which counts for nothing
        constants = lsnn.layers.engine_constants(lsnn.timing, lsnn.gradient)  # type: ignore[arg-type]
        if constants is not self._constants:
            self._constants, self.options = constants, np.array([one.options for one in constants], np.intp)
            for layer, one in zip(self.layers, constants, strict=True):
                first = LayerAt(*layer.tolist()).rows
                self.rows[first : first + one.rows.size] = one.rows.ravel()

    def take_optimizer(self) -> int:
        """Copy Adam's moments to where the kernels read them; return how many steps it took."""
        state = self.optimizer.state
        for p in self.known:
            if not state[p]:  # as torch begins
                state[p]["step"] = th.zeros((), dtype=th.float32)
                for name in ("exp_avg", "exp_avg_sq"):
                    state[p][name] = th.zeros_like(p, memory_format=th.preserve_format)
        with th.no_grad():
            for views, moments in zip(self._views[2:], self._moments(), strict=True):
                th._foreach_copy_(views, moments)
        return int(state[self.known[0]]["step"])

    def _moments(self) -> list[list[th.Tensor]]:
        return [[self.optimizer.state[p][name] for p in self.known] for name in ("exp_avg", "exp_avg_sq")]

    def give_back(self, n_steps: int) -> None:
        """Copy parameters, gradients and moments back to torch, after so many steps of Adam."""
        with th.no_grad():
            for p in self.known:
                if p.grad is None:
                    p.grad = th.zeros_like(p)
            gradients: list[Any] = [p.grad for p in self.known]
            th._foreach_copy_(self.known, self._views[0])
            th._foreach_copy_(gradients, self._views[1])
            for moments, views in zip(self._moments(), self._views[2:], strict=True):
                th._foreach_copy_(moments, views)
            th._foreach_add_([self.optimizer.state[p]["step"] for p in self.known], n_steps)

    def counted(self) -> list[np.ndarray]:
        """Return the spikes of each neuron since this was last asked, int64, one array per layer."""
        found, totals, first = [], self.totals.copy(), 0
        for n in self.policy.lstm_actor.n_neurons:
            found.append(totals[first : first + n])
            first += n
        self.totals[:] = 0
        return found


def _view(
    vector: np.ndarray, place: int, shape: tuple[int, int], used: int, transposed: bool, p: th.Tensor
) -> th.Tensor:
    """Return the place of a parameter in a vector as a tensor of its shape."""
    block = th.from_numpy(vector[place : place + shape[0] * shape[1]].reshape(shape))[:, :used]
    return block[0] if p.ndim == 1 else block.t() if transposed else block


def _head_of(space: spaces.Space, n_outputs: int) -> tuple[int, list[int]]:
    if isinstance(space, spaces.Discrete):
        return ppo_kernels.CATEGORICAL, [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return ppo_kernels.CATEGORICAL, space.nvec.ravel().tolist()
    if isinstance(space, spaces.MultiBinary):
        return ppo_kernels.BERNOULLI, [2] * n_outputs
    return ppo_kernels.GAUSSIAN, [1] * n_outputs
