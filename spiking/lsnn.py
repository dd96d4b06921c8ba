"""The LSNN as a torch module: sequences of env steps with the state carried, in and out of a Network.

On the CPU a sequence is one call of the numba kernels per layer, forward and backward, and :meth:`LSNN.step` gives the
same bits without torch. Elsewhere the same equations (:func:`spikeloop.spiking.reference.tick`) run under autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from spikeloop.spiking import reference
from spikeloop.spiking.encoding import encode, new_keys
from spikeloop.spiking.network import (
    LAYER_ROWS,
    Encoder,
    Layer,
    Network,
    NeuronParameters,
    Readout,
    decay,
    packed_shape,
)
from spikeloop.spiking.surrogate import Surrogate


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, surrogate: Surrogate) -> torch.Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        (u,) = ctx.saved_tensors
        return grad * ctx.surrogate.derivative(u), None


class _Attach(torch.autograd.Function):
    """Identity on ``y`` whose backward also seeds ``penalty`` with 1, which adds it to whatever the loss is."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        return grad, grad.new_ones(())


class _Population(torch.autograd.Function):
    """Gaussian tuning curves: forward is the numpy encoder (rollouts and training see the same bits)."""

    @staticmethod
    def forward(
        ctx: Any, features: torch.Tensor, centers: torch.Tensor, log_widths: torch.Tensor, x: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(features, centers, log_widths, x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        features, centers, log_widths, x = ctx.saved_tensors
        widths = log_widths.exp()
        u = (features[..., None] - centers) / widths  # (L, B, n_obs, n)
        slope = (grad * x).reshape(u.shape) * u / widths  # dL/dc
        return -slope.sum(-1), slope.sum((0, 1)), (slope * u * widths).sum((0, 1)), None


class LSNN(nn.Module):
    """Layers of LSNN neurons behind an encoder, read out through a leaky filter of the last layer's spikes.

    The dynamics are those of :mod:`spikeloop.spiking.reference`. In each layer the last
    ``round(adaptive_fraction * N)`` neurons adapt (population A of Bellec et al. 2018), the others are plain LIF.

    With ``rate_coef`` the backward pass adds the gradient of a rate penalty, mean over layers of
    ``rate_coef / 2 * sum_j max(0, r_j - target_rate)^2`` (after Bellec et al. 2020, there two-sided), where ``r_j``
    is the neuron's mean of spikes per tick over the sequences of the forward pass.

    Args:
        encoder: How features become input.
        n_neurons: Neurons in each layer.
        recurrent: Whether layers have recurrent weights.
        tau_m: Membrane time constant in ms.
        v_th: Threshold in units of v.
        tau_a: Adaptation time constant in ms; a pair (low, high) draws one per neuron, log-uniformly.
        beta: Adaptation strength of the adaptive neurons, in units of v.
        adaptive_fraction: Fraction of neurons that adapt.
        refractory: Ticks a neuron is silent after a spike.
        reset: ``"subtract"`` or ``"zero"``.
        adaptation: ``"threshold"`` or ``"ahp"``.
        n_ticks: Ticks per env step.
        latency: Ticks a spike takes between layers and to the readout, 0 or 1.
        dt: Length of a tick in ms.
        tau_out: Time constant of the readout filter in ms.
        count: Read the mean number of spikes per tick of the step instead.
        surrogate: Surrogate derivative of the spike.
        learn_encoder: Train centres and widths of a ``population`` encoder.
        rate_coef: Weight of the rate penalty, >= 0.
        target_rate: Spikes per tick above which it acts.
        generator: Source of the initial weights; torch's default if None.

    Attributes:
        state_shape: ``(n_rows, width)`` of the packed state (see :mod:`spikeloop.spiking.network`).
        spike_counts: Per layer the spikes of each neuron since :meth:`reset_counts`, int64, shape (N,).
        n_counted: Number of (environment, tick) pairs they are counted over.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        n_neurons: Sequence[int],
        *,
        recurrent: bool = True,
        tau_m: float = 4.0,
        v_th: float = 1.0,
        tau_a: float | tuple[float, float] = 100.0,
        beta: float = 0.2,
        adaptive_fraction: float = 0.5,
        refractory: int = 0,
        reset: str = "subtract",
        adaptation: str = "threshold",
        n_ticks: int = 1,
        latency: int = 0,
        dt: float = 1.0,
        tau_out: float = 0.0,
        count: bool = False,
        surrogate: Surrogate = Surrogate(),  # noqa: B008 - frozen
        learn_encoder: bool = False,
        rate_coef: float = 0.0,
        target_rate: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.n_neurons = tuple(int(n) for n in n_neurons)
        if not self.n_neurons or min(self.n_neurons) < 1:
            raise ValueError(f"n_neurons must be positive, got {n_neurons!r}")
        if not 0 <= adaptive_fraction <= 1:
            raise ValueError(f"adaptive_fraction must be within [0, 1], got {adaptive_fraction!r}")
        if rate_coef < 0:
            raise ValueError(f"rate_coef must be >= 0, got {rate_coef!r}")
        self.n_layers = len(self.n_neurons)
        self.n_ticks, self.latency, self.dt = int(n_ticks), int(latency), float(dt)
        self.tau_out, self.count = float(tau_out), bool(count)
        self.recurrent, self.reset, self.adaptation = bool(recurrent), reset, adaptation
        self.surrogate, self.rate_coef, self.target_rate = surrogate, float(rate_coef), float(target_rate)
        self._encoder = encoder
        self.state_shape = packed_shape(encoder, self.n_neurons)
        self.centers: nn.Parameter | None = None
        self.log_widths: nn.Parameter | None = None
        if learn_encoder and encoder.kind == "population":
            assert encoder.centers is not None and encoder.widths is not None
            self.centers = nn.Parameter(torch.tensor(encoder.centers, dtype=torch.float32))
            self.log_widths = nn.Parameter(torch.tensor(np.log(encoder.widths), dtype=torch.float32))
        alpha = float(decay(tau_m, dt))
        for i, (n_inputs, n) in enumerate(zip((encoder.n_channels, *self.n_neurons), self.n_neurons, strict=False)):
            n_adaptive = round(adaptive_fraction * n)
            betas = torch.zeros(n)
            betas[n - n_adaptive :] = beta
            tau = torch.full((n,), float(tau_a)) if isinstance(tau_a, (int, float)) else _log_uniform(tau_a, n, generator)
            constants = {
                "tau_m": torch.full((n,), float(tau_m)),
                "v_th": torch.full((n,), float(v_th)),
                "tau_a": tau,
                "beta": betas,
                "refractory": torch.full((n,), float(refractory)),
            }
            for name, value in constants.items():
                self.register_buffer(f"{name}_{i}", value)
            w_in = _normal(n, n_inputs, 2 * (1 - alpha) / math.sqrt(n_inputs), generator)
            self.register_parameter(f"w_in_{i}", w_in)
            if recurrent:
                w_rec = _normal(n, n, 0.5 / math.sqrt(n), generator)
                w_rec.data.fill_diagonal_(0.0)
                self.register_parameter(f"w_rec_{i}", w_rec)
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(n)))
        self.spike_counts: list[np.ndarray] = []
        self.reset_counts()
        # validates what the constructor took on trust
        Network(self.encoder, self.network_layers(), self._unit_readout(), None, None, self.n_ticks, self.dt, latency)

    @property
    def encoder(self) -> Encoder:
        """The encoder, with the current centres and widths where they are learned."""
        return self.current_encoder()

    def _unit_readout(self) -> Readout:
        n = self.n_neurons[-1]
        return Readout(np.zeros((1, n)), np.zeros(1), self.tau_out, self.count)

    def current_encoder(self) -> Encoder:
        """Return the encoder, with the current centres and widths where they are learned."""
        if self.centers is None or self.log_widths is None:
            return self._encoder
        centers, log_widths = self.centers.detach().cpu().numpy(), self.log_widths.detach().cpu().numpy()
        return Encoder("population", self._encoder.n_obs, centers=centers, widths=np.exp(log_widths))

    def reset_counts(self) -> None:
        """Set the spike counts to zero."""
        self.spike_counts = [np.zeros(n, dtype=np.int64) for n in self.n_neurons]
        self.n_counted = 0

    def initial_state(self, n_envs: int = 1, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return the resting state, shape (n_rows, n_envs, width); a ``rate`` encoder draws its keys from ``rng``."""
        rows, width = self.state_shape
        dtype = torch.empty(0, dtype=self.get_parameter("bias_0").dtype).numpy().dtype
        state = np.zeros((rows, n_envs, width), dtype=dtype)
        if self._encoder.kind == "rate":
            state[0, :, 0] = new_keys(rng if rng is not None else np.random.default_rng(), n_envs)
        return state

    def network_layers(self) -> tuple[Layer, ...]:
        """Return the layers as values for a :class:`~spikeloop.spiking.network.Network`."""
        return tuple(self._layer(i) for i in range(self.n_layers))

    def _layer(self, i: int) -> Layer:
        def array(name: str) -> np.ndarray:
            return getattr(self, f"{name}_{i}").detach().cpu().numpy()

        names = ("tau_m", "v_th", "tau_a", "beta", "refractory")
        neurons = NeuronParameters(*(array(n) for n in names), reset=self.reset, adaptation=self.adaptation)  # type: ignore[arg-type]
        w_rec = None
        if self.recurrent:
            w_rec = array("w_rec") * (1 - np.eye(self.n_neurons[i], dtype=array("w_rec").dtype))
        return Layer(array("w_in"), array("bias"), neurons, w_rec)

    @classmethod
    def from_network(cls, network: Network, surrogate: Surrogate = Surrogate(), **kwargs: Any) -> LSNN:  # noqa: B008
        """Return a module that computes what ``network`` computes up to its readout trace.

        Args:
            network: The network; its layers must agree in reset, adaptation and being recurrent or not.
            surrogate: Surrogate derivative for training.
            kwargs: ``learn_encoder``, ``rate_coef``, ``target_rate``.

        Raises:
            ValueError: If the layers disagree.
        """
        kinds = {(layer.w_rec is not None, layer.neurons.reset, layer.neurons.adaptation) for layer in network.layers}
        if len(kinds) > 1:
            raise ValueError(f"all layers must have the same (recurrent, reset, adaptation), got {sorted(kinds)}")
        ((recurrent, reset, adaptation),) = kinds
        lsnn = cls(
            network.encoder,
            [layer.n_neurons for layer in network.layers],
            recurrent=recurrent,
            reset=reset,
            adaptation=adaptation,
            n_ticks=network.n_ticks,
            latency=network.latency,
            dt=network.dt,
            tau_out=network.readout.tau_out,
            count=network.readout.count,
            surrogate=surrogate,
            **kwargs,
        )
        if network.layers[0].w_in.dtype == np.float64:
            lsnn.double()
        with torch.no_grad():
            for i, layer in enumerate(network.layers):
                values: dict[str, Any] = {"w_in": layer.w_in, "bias": layer.bias, "w_rec": layer.w_rec}
                values |= {name: getattr(layer.neurons, name) for name in ("tau_m", "v_th", "tau_a", "beta")}
                values["refractory"] = layer.neurons.refractory
                for name, value in values.items():
                    if value is not None:
                        getattr(lsnn, f"{name}_{i}").copy_(torch.from_numpy(value.copy()))
        return lsnn

    def forward(
        self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a sequence of env steps.

        Differentiable with respect to parameters and, through ``direct`` and ``population`` encoders, features; not to
        ``state`` (gradients stop at the start of a sequence).

        Args:
            features: Shape (L, B, F).
            state: Packed state before the first step, shape (n_rows, B, width).
            episode_start: 1 where the state is cleared before the step, shape (L, B).

        Returns:
            The readout trace at the end of each step, shape (L, B, N of the last layer), and the new state.
        """
        x, memory = self._encode(features, state, episode_start)
        return self._forward_torch(x, memory, state, episode_start)

    def _encode(
        self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n_memory = len(self._encoder.memory_rows)
        memory = state[:n_memory].detach()
        if self._encoder.kind == "direct":
            return features.to(state.dtype), memory
        encoder = self.current_encoder()
        array, new = encode(
            encoder,
            features.detach().cpu().numpy(),
            memory.cpu().numpy(),
            episode_start.detach().cpu().numpy(),
            self.n_ticks,
            self.dt,
        )
        x = torch.from_numpy(array).to(state)
        if encoder.kind == "population":
            centers = torch.as_tensor(encoder.centers.copy()).to(state) if self.centers is None else self.centers  # type: ignore[union-attr]
            log_widths = (
                torch.as_tensor(np.log(encoder.widths)).to(state) if self.log_widths is None else self.log_widths  # type: ignore[arg-type]
            )
            x = _Population.apply(features.to(state.dtype), centers, log_widths, x)
        return x, torch.from_numpy(new).to(state)

    def _forward_torch(
        self, x: torch.Tensor, memory: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = state.detach()[len(memory) :]
        layers = [
            reference.LayerState(*(rows[len(LAYER_ROWS) * i + k, :, :n] for k in range(len(LAYER_ROWS))))
            for i, n in enumerate(self.n_neurons)
        ]
        y = rows[-1, :, : self.n_neurons[-1]]
        constants = [self._torch_constants(i) for i in range(self.n_layers)]
        weights = [self._torch_weights(i) for i in range(self.n_layers)]
        readout, ys = self._unit_readout(), []
        zs: list[list[torch.Tensor]] = [[] for _ in layers]
        for step in range(len(x)):
            keep = (1.0 - episode_start[step].to(state.dtype))[:, None]  # (B, 1)
            layers = [reference.LayerState(*(keep * value for value in layer)) for layer in layers]
            y = keep * y
            for k in range(self.n_ticks):
                before = [layer.z for layer in layers]
                spikes = x[step, k] if self._encoder.per_tick else x[step]
                for i, (w_in, bias, w_rec) in enumerate(weights):
                    current = functional.linear(spikes, w_in, bias)
                    layers[i] = reference.tick(current, layers[i], w_rec, constants[i], self._spike)
                    zs[i].append(layers[i].z)
                    spikes = before[i] if self.latency else layers[i].z
                y = reference.readout_tick(y, spikes, readout, self.n_ticks, k == 0, self.dt)
            ys.append(y)
        rates = [torch.stack(z).mean((0, 1)) for z in zs]
        self._count([rate.detach() * len(zs[0]) * state.shape[1] for rate in rates], len(zs[0]) * state.shape[1])
        out = torch.stack(ys)
        if self.rate_coef and torch.is_grad_enabled():
            excess = [0.5 * (rate - self.target_rate).clamp(min=0).square().sum() for rate in rates]
            out = _Attach.apply(out, self.rate_coef * torch.stack(excess).mean())
        new = torch.zeros_like(state)
        new[: len(memory)] = memory
        for i, (layer, n) in enumerate(zip(layers, self.n_neurons, strict=True)):
            new[len(memory) + len(LAYER_ROWS) * i :][: len(LAYER_ROWS), :, :n] = torch.stack(layer).detach()
        new[-1, :, : self.n_neurons[-1]] = y.detach()
        return out, new

    def _spike(self, u: torch.Tensor) -> torch.Tensor:
        return _Spike.apply(u, self.surrogate)  # type: ignore[no-any-return]

    def _torch_constants(self, i: int) -> reference.LayerConstants:
        def column(name: str) -> torch.Tensor:
            return getattr(self, f"{name}_{i}")

        def decays(name: str) -> torch.Tensor:
            return torch.from_numpy(decay(column(name).cpu().numpy(), self.dt)).to(column(name))

        return reference.LayerConstants(
            decays("tau_m"),
            decays("tau_a"),
            column("v_th"),
            column("beta"),
            column("refractory"),
            self.reset == "zero",
            self.adaptation == "ahp",
        )

    def _torch_weights(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        w_rec = None
        if self.recurrent:
            w_rec = self.get_parameter(f"w_rec_{i}")
            w_rec = w_rec * (1 - torch.eye(len(w_rec), dtype=w_rec.dtype, device=w_rec.device))
        return self.get_parameter(f"w_in_{i}"), self.get_parameter(f"bias_{i}"), w_rec

    def _count(self, counts: Sequence[torch.Tensor], n: int) -> None:
        for total, count in zip(self.spike_counts, counts, strict=True):
            total += count.cpu().numpy().round().astype(np.int64)
        self.n_counted += n

    def step(
        self, features: np.ndarray, state: np.ndarray, episode_start: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run one env step without gradients, numpy in and out; the same bits as :meth:`forward`.

        Args:
            features: Shape (B, F).
            state: Packed state, shape (n_rows, B, width); not modified.
            episode_start: 1 where the state is cleared first, shape (B,).

        Returns:
            The readout trace, shape (B, N of the last layer), and the new state.
        """
        with torch.no_grad():
            arrays = (torch.from_numpy(np.asarray(array)) for array in (features, state, episode_start))
            features_, state_, start = arrays
            y, new = self.forward(features_[None], state_, start[None])
        return y[0].numpy(), new.numpy()


class RowLinear(nn.Linear):
    """A linear map that sums each row in one fixed order on the CPU, so that the bits do not depend on the batch."""


def _normal(n: int, n_inputs: int, scale: float, generator: torch.Generator | None) -> nn.Parameter:
    """Return normal weights of shape (n, n_inputs), stored input by input: the rows the kernels read are contiguous."""
    return nn.Parameter((torch.randn(n, n_inputs, generator=generator) * scale).t().contiguous().t())


def _log_uniform(bounds: tuple[float, float], n: int, generator: torch.Generator | None) -> torch.Tensor:
    low, high = (math.log(bound) for bound in bounds)
    return torch.exp(low + (high - low) * torch.rand(n, generator=generator))
