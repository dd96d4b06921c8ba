"""The spiking actor: the part of a policy that acts, and that is deployed. What trains it may be any algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn

from spikeloop.agents.checks import in_words
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.core import Core
from spikeloop.spiking.engine.sequences import dense_layers
from spikeloop.spiking.first_to_spike import bias_of_silence
from spikeloop.spiking.network import Network
from spikeloop.spiking.observation import Normalizer, ObservationPart, Preprocessor
from spikeloop.spiking.readout import Dense, Readout
from spikeloop.spiking.row_linear import RowLinear
from spikeloop.spiking.tick_readout import TickReadout

_ACTIVATIONS: dict[type, str] = {nn.Tanh: "tanh", nn.ReLU: "relu", nn.Identity: "identity"}


class SpikingActor(nn.Module):
    """Spiking layers and what makes actions of their spikes.

    ``features -> scaler -> spiking layers -> readout trace y -> MLP -> action net -> head``. An algorithm trains what
    the action net gives: logits, means, or values of actions.

    Args:
        spiking: Encoder and spiking layers, the core.
        mlp: Layers between trace and action net; empty for none.
        action_net: Map to the outputs.
        head: From the outputs to the most likely action.
        scaler: Fixed factors on the features; None for none.

    >>> import torch
    >>> from spikeloop.spiking import LSNN, ActionHead, Encoder
    >>> spiking = LSNN(Encoder("direct", 4), [16], generator=torch.Generator().manual_seed(0))
    >>> actor = SpikingActor(spiking, nn.Sequential(), RowLinear(16, 2), ActionHead("discrete", (2,)))
    >>> features, state, start = torch.ones(5, 3, 4), torch.zeros(5, 3, 16), torch.zeros(5, 3)
    >>> y, state = actor(features, state, start)  # five env steps of three environments
    >>> y.shape, actor.action_net(actor.mlp(y)).shape
    (torch.Size([5, 3, 16]), torch.Size([5, 3, 2]))
    >>> [round(rate, 1) for rate in actor.firing_rates()]
    [0.1]
    >>> actor.to_network().head.kind
    'discrete'
    """

    def __init__(
        self,
        spiking: Core,
        mlp: nn.Sequential,
        action_net: nn.Module,
        head: ActionHead,
        scaler: Normalizer | None = None,
    ):
        super().__init__()
        self.spiking, self.mlp, self.action_net = spiking, mlp, action_net
        self.head, self.scaler = head, scaler
        self._has_mlp = len(mlp) > 0  # asked on every env step, where torch's search for a module's attributes counts

    def scaled(self, features: th.Tensor) -> th.Tensor:
        """Return the features times the fixed factors, (..., F), as a Network computes them."""
        if self.scaler is None:
            return features
        return th.from_numpy(self.scaler(features.detach().cpu().numpy())).to(features.device)

    def forward(self, features: th.Tensor, state: th.Tensor, start: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Run a sequence of env steps, with gradients.

        Args:
            features: Scaled features, shape (L, B, F).
            state: Packed state before the first step, shape (n_rows, B, width).
            start: 1 where the state is cleared before a step, shape (L, B).

        Returns:
            The readout trace at the end of each step, shape (L, B, N), and the new state. For kinds of readout that
            take every tick, the spikes that arrive on each, (L, B, n_ticks, N); likewise in :meth:`step`.
        """
        return self.spiking(features, state, start)

    def step(self, features: th.Tensor, state: th.Tensor, start: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Run one env step without gradients; on the CPU to the bits of :meth:`forward`, if all neurons are LSNN.

        Args:
            features: Scaled features, shape (B, F).
            state: Packed state, shape (n_rows, B, width).
            start: 1 where the state is cleared first, shape (B,).

        Returns:
            The readout trace, shape (B, N), and the new state.
        """
        if features.device.type == "cpu":
            y, new = self.spiking.step(features.detach().numpy(), state.numpy(), start.numpy())
            return th.from_numpy(y), th.from_numpy(new)
        with th.no_grad():
            trace, after = self.spiking(features[None], state, start[None])
        return trace[0], after

    def best(self, y: th.Tensor) -> np.ndarray:
        """Return the most likely actions, shape (B, ...), for traces, shape (B, N), to the bits of a Network's."""
        return self.head(self.action_net(self._after_spikes(y)).cpu().numpy())

    def _after_spikes(self, y: th.Tensor) -> th.Tensor:
        """Return what the MLP makes of traces, with a Network's arithmetic where it has that."""
        if not self._has_mlp:
            return y
        layers = self.dense()
        if layers is None:
            return self.mlp(y)
        return th.from_numpy(dense_layers(layers, y.cpu().numpy())).to(y.device)

    def dense(self) -> tuple[Dense, ...] | None:
        """Return the MLP as parts of a Network; None if it has others than linear maps each with an activation."""
        modules, layers = list(self.mlp), []
        for linear, activation in zip(modules[::2], modules[1::2], strict=False):
            if type(linear) is not nn.Linear or type(activation) not in _ACTIVATIONS:
                return None
            w, b = (p.detach().cpu().numpy() for p in (linear.weight, linear.bias))
            layers.append(Dense(w, b, _ACTIVATIONS[type(activation)]))
        return tuple(layers) if len(modules) == 2 * len(layers) else None

    def firing_rates(self) -> tuple[float, ...]:
        """Return the spikes per neuron and tick of each layer since ``spiking.reset_counts()``; NaN before any tick."""
        n = self.spiking.n_counted
        return tuple(float(count.mean() / n) if n else float("nan") for count in self.spiking.spike_counts)

    def readout_weights(self) -> np.ndarray | None:
        """Return the weights that the last layer's spikes meet, shape (n_outputs, N); None if an MLP follows."""
        if len(self.mlp) or not isinstance(self.action_net, nn.Linear):
            return None
        return self.action_net.weight.detach().cpu().numpy()

    def to_network(
        self,
        preprocessing: Sequence[Preprocessor] = (),
        observation: Sequence[ObservationPart] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> Network:
        """Return the actor as a value.

        Args:
            preprocessing: What stands between the environment and the actor.
            observation: Parts of an observation.
            metadata: Text pairs to keep with the network.

        Raises:
            ValueError: If the MLP or the action net has no place in a Network.
        """
        dense, last = self.dense(), self.action_net
        if dense is None or not isinstance(last, (RowLinear, TickReadout)):
            raise ValueError(
                f"a Network takes tanh and ReLU layers after the actor and a linear map, this policy has "
                f"{in_words(self.mlp)} and {in_words(last)}"
            )
        weight, bias = (p.detach().cpu().numpy() for p in (last.weight, last.bias))
        spiking = self.spiking
        return Network(
            encoder=spiking.current_encoder(),
            layers=spiking.network_layers(),
            readout=Readout(weight, bias, tau_out=spiking.tau_out, dense=dense, kind=spiking.readout),
            head=self.head,
            preprocessing=(*preprocessing, *([] if self.scaler is None else [self.scaler])),
            observation=tuple(observation),
            n_ticks=spiking.n_ticks,
            dt=spiking.dt,
            latency=spiking.latency,
            clears=spiking.clears,
            metadata=metadata or {},
        )


def in_one_order(linear: nn.Linear) -> RowLinear:
    """Return a linear map with the same parameters that is summed in one order whatever the batch.

    A rollout's log-probabilities thus come out again exactly.
    """
    rows = RowLinear(linear.in_features, linear.out_features)
    rows.weight, rows.bias = linear.weight, linear.bias
    return rows


def units_for_every_tick(linear: nn.Linear, core: Core) -> TickReadout:
    """Return output units with the parameters of a linear map, for a core whose readout takes every tick.

    The bias of units that draw is set so that no unit spikes in a tenth of the env steps: from 0 on, almost every step
    would be decided on its first ticks, before the hidden neurons have spoken.
    """
    units = TickReadout(linear.in_features, linear.out_features, core.readout, core.tau_out, core.n_ticks, core.dt)
    units.weight, units.bias = linear.weight, linear.bias
    if units.kind.draws:
        with th.no_grad():
            units.bias.fill_(bias_of_silence(linear.out_features, core.n_ticks))
    return units


def fixed_scaler(scale: float | Sequence[float] | None, space: spaces.Space) -> Normalizer | None:
    """Return fixed factors on a vector observation as a normaliser; None for none.

    Raises:
        ValueError: If the observation is no vector, or the factors are not positive, one or one per value.
    """
    if scale is None:
        return None
    if not isinstance(space, spaces.Box) or is_image_space(space):
        raise ValueError(f"obs_scale is for a vector observation, the policy takes {in_words(space)}")
    n, factors = spaces.flatdim(space), np.atleast_1d(np.asarray(scale, np.float64))
    if factors.shape not in ((1,), (n,)) or not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ValueError(f"obs_scale must be > 0, one number or {n}, got {scale!r}")
    return Normalizer(np.zeros(n), np.broadcast_to(1.0 / factors, (n,)), rounds=True)


def head_for(space: spaces.Space, squash: bool = False) -> ActionHead:
    """Return the head that makes actions of a space.

    Args:
        space: Box, Discrete, MultiDiscrete or MultiBinary.
        squash: Whether continuous outputs pass a tanh first.

    Raises:
        ValueError: If continuous actions are no floating-point numbers.
    """
    if isinstance(space, spaces.Discrete):
        return ActionHead("discrete", (int(space.n),), start=(int(space.start),))
    if isinstance(space, spaces.MultiDiscrete):
        return ActionHead("multi_discrete", tuple(space.nvec.ravel()), space.shape, start=tuple(space.start.ravel()))
    if isinstance(space, spaces.MultiBinary):
        return ActionHead("multi_binary", (2,) * int(np.prod(space.shape)), space.shape)
    assert isinstance(space, spaces.Box)
    if space.dtype not in (np.float32, np.float64):
        raise ValueError(f"continuous actions are float32 or float64, the environment takes {in_words(space)}")
    return ActionHead("box", (1,) * int(np.prod(space.shape)), space.shape, space.low, space.high, bool(squash))
