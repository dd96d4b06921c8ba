"""The LSNN as a torch module: sequences of env steps with the state carried, in and out of a Network.

On the CPU a sequence is one call of the numba kernels per layer, forward and backward, and :meth:`LSNN.step` gives the
same bits without torch. Elsewhere the same equations (:mod:`spikeloop.spiking.reference`) run under autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from spikeloop.spiking import checks
from spikeloop.spiking.decay import decay
from spikeloop.spiking.encoders.encoder import Encoder, blind
from spikeloop.spiking.encoders.encoding import encode, new_keys
from spikeloop.spiking.engine import lsnn_kernels, sequences
from spikeloop.spiking.gradients.engine_sequence import EngineCall, EngineSequence
from spikeloop.spiking.gradients.equations import run_equations
from spikeloop.spiking.gradients.penalty import Attach
from spikeloop.spiking.gradients.population import Population
from spikeloop.spiking.network import Layer, Network, packed_shape
from spikeloop.spiking.neurons.lsnn import LsnnConstants, NeuronParameters, only_lsnn
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.surrogate import Surrogate


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
        tau_m: Membrane time constant in ms; a pair (low, high) draws one per neuron, log-uniformly.
        v_th: Threshold in units of v.
        tau_a: Adaptation time constant in ms, likewise.
        beta: Adaptation strength of the adaptive neurons, in units of v.
        adaptive_fraction: Fraction of neurons that adapt.
        refractory: Ticks a neuron is silent after a spike.
        reset: ``"subtract"`` or ``"zero"``.
        adaptation: ``"threshold"`` or ``"ahp"``.
        hold: Keep the membrane at 0 while a neuron is refractory; needs reset ``"zero"``.
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
        tau_m: float | tuple[float, float] = 4.0,
        v_th: float = 1.0,
        tau_a: float | tuple[float, float] = 100.0,
        beta: float = 0.2,
        adaptive_fraction: float = 0.5,
        refractory: int = 0,
        reset: str = "subtract",
        adaptation: str = "threshold",
        hold: bool = False,
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
        if fault := blind(encoder, int(n_ticks), float(dt)):
            raise ValueError(fault)
        self.n_layers = len(self.n_neurons)
        self.n_ticks, self.latency, self.dt = int(n_ticks), int(latency), float(dt)
        self.tau_out, self.count = float(tau_out), bool(count)
        self.recurrent, self.reset, self.adaptation = bool(recurrent), reset, adaptation
        self.hold = hold
        self.surrogate, self.rate_coef, self.target_rate = surrogate, float(rate_coef), float(target_rate)
        self._encoder = encoder
        self.centers: nn.Parameter | None = None
        self.log_widths: nn.Parameter | None = None
        if learn_encoder and encoder.kind == "population":
            assert encoder.centers is not None and encoder.widths is not None
            self.centers = nn.Parameter(torch.tensor(encoder.centers, dtype=torch.float32))
            self.log_widths = nn.Parameter(torch.tensor(np.log(encoder.widths), dtype=torch.float32))
        for i, (n_inputs, n) in enumerate(zip((encoder.n_channels, *self.n_neurons), self.n_neurons, strict=False)):
            n_adaptive = round(adaptive_fraction * n)
            betas = torch.zeros(n)
            betas[n - n_adaptive :] = beta
            constants = {
                "tau_m": _time_constants("tau_m", tau_m, n, generator),
                "v_th": torch.full((n,), float(v_th)),
                "tau_a": _time_constants("tau_a", tau_a, n, generator),
                "beta": betas,
                "refractory": torch.full((n,), float(refractory)),
            }
            for name, value in constants.items():
                self.register_buffer(f"{name}_{i}", value)
            gain = 2 * (1 - decay(constants["tau_m"].numpy(), dt)) / math.sqrt(n_inputs)
            w_in = _normal(n, n_inputs, torch.from_numpy(gain).float()[:, None], generator)
            self.register_parameter(f"w_in_{i}", w_in)
            if recurrent:
                w_rec = _normal(n, n, torch.tensor(0.5 / math.sqrt(n)), generator)
                w_rec.data.fill_diagonal_(0.0)
                self.register_parameter(f"w_rec_{i}", w_rec)
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(n)))
        self._weight_names = [
            f"{name}_{i}" for i in range(self.n_layers) for name in ("w_in", "bias", "w_rec")[: 3 if recurrent else 2]
        ]
        self._n_memory = len(encoder.memory_rows)
        self._views: tuple[list[int], list[sequences.Weights]] | None = None
        self._prepared: tuple[list[Any], list[sequences.Constants], list[Any]] | None = None
        self._table: tuple[Any, ...] | None = None  # and the weights, constants and counts whose addresses it holds
        self.spike_counts: tuple[np.ndarray, ...] = ()
        self.reset_counts()
        self.state_shape = packed_shape(encoder, [layer.neurons for layer in self.network_layers()])
        # validates what the constructor took on trust
        Network(
            self.encoder, self.network_layers(), self._unit_readout(), n_ticks=self.n_ticks, dt=self.dt, latency=latency
        )

    @property
    def encoder(self) -> Encoder:
        """The encoder, with the current centres and widths where they are learned."""
        return self.current_encoder()

    def _unit_readout(self) -> Readout:
        n = self.n_neurons[-1]
        zeros = np.zeros((1, n), self._dtype)
        return Readout(zeros, zeros[0, :1], self.tau_out, self.count)

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(np.float64 if self.get_parameter("bias_0").dtype == torch.float64 else np.float32)

    def current_encoder(self) -> Encoder:
        """Return the encoder, with the current centres and widths where they are learned."""
        if self.centers is None or self.log_widths is None:
            return self._encoder
        centers, log_widths = self.centers.detach().cpu().numpy(), self.log_widths.detach().cpu().numpy()
        return Encoder("population", self._encoder.n_obs, centers=centers, widths=np.exp(log_widths))

    def reset_counts(self) -> None:
        """Set the spike counts to zero."""
        self.spike_counts = tuple(np.zeros(n, dtype=np.int64) for n in self.n_neurons)
        self.n_counted = 0

    def initial_state(self, n_envs: int = 1, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return the resting state, shape (n_rows, n_envs, width); a ``rate`` encoder draws its keys from ``rng``."""
        rows, width = self.state_shape
        state = np.zeros((rows, n_envs, width), dtype=self._dtype)
        if self._encoder.kind == "rate":
            state[0, :, 0] = new_keys(rng if rng is not None else np.random.default_rng(), n_envs)
        return state

    def network_layers(self) -> tuple[Layer, ...]:
        """Return the layers as values for a :class:`~spikeloop.spiking.network.Network`."""
        return tuple(self._layer(i) for i in range(self.n_layers))

    def _layer(self, i: int) -> Layer:
        def array(name: str) -> np.ndarray:
            return getattr(self, f"{name}_{i}").detach().cpu().numpy()

        values: dict[str, Any] = {"reset": self.reset, "adaptation": self.adaptation, "hold": self.hold}
        values |= {name: array(name) for name in ("tau_m", "v_th", "tau_a", "beta", "refractory")}
        neurons = NeuronParameters(**values)
        w_rec = None
        if self.recurrent:
            w_rec = array("w_rec") * (1 - np.eye(self.n_neurons[i], dtype=array("w_rec").dtype))
        return Layer(array("w_in"), array("bias"), neurons, w_rec)

    @classmethod
    def from_network(cls, network: Network, surrogate: Surrogate = Surrogate(), **kwargs: Any) -> LSNN:  # noqa: B008
        """Return a module that computes what ``network`` computes up to its readout trace.

        Args:
            network: The network; its layers must agree in reset, adaptation, hold and being recurrent or not.
            surrogate: Surrogate derivative for training.
            kwargs: ``learn_encoder``, ``rate_coef``, ``target_rate``.

        Raises:
            ValueError: If the layers disagree.
        """
        all_neurons = [only_lsnn(layer.neurons, "LSNN") for layer in network.layers]
        kinds = {
            (layer.w_rec is not None, neurons.reset, neurons.adaptation, neurons.hold)
            for layer, neurons in zip(network.layers, all_neurons, strict=True)
        }
        if len(kinds) > 1:
            raise ValueError(f"all layers must have the same (recurrent, reset, adaptation, hold), got {sorted(kinds)}")
        ((recurrent, reset, adaptation, hold),) = kinds
        lsnn = cls(
            network.encoder,
            [layer.n_neurons for layer in network.layers],
            recurrent=recurrent,
            reset=reset,
            adaptation=adaptation,
            hold=hold,
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
            for i, (layer, neurons) in enumerate(zip(network.layers, all_neurons, strict=True)):
                values: dict[str, Any] = {"w_in": layer.w_in, "bias": layer.bias, "w_rec": layer.w_rec}
                names = ("tau_m", "v_th", "tau_a", "beta", "refractory")
                values |= {name: getattr(neurons, name) for name in names}
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

        Raises:
            ValueError: If a shape or a dtype is wrong, or features or state are not finite.
        """
        self._check(3, features.shape, state.shape, episode_start.shape)
        self._check_values(features, state, episode_start)
        x, memory = self._encode(features, state, episode_start)
        on_engine = state.device.type == "cpu" and state.dtype in (torch.float32, torch.float64)
        run = self._forward_engine if on_engine else self._forward_equations
        y, new = run(x, memory, state.detach(), episode_start)
        if not _finite(new):
            raise ValueError(f"the sequence left the range of {new.dtype}: its features or weights are too large")
        return y, new

    def _forward_engine(
        self, x: torch.Tensor, memory: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch_first = x.permute(2, 0, 1, 3).flatten(1, 2) if self._encoder.per_tick else x.transpose(0, 1)
        call = EngineCall(
            self._weights(),
            self._constants(state.numpy().dtype),
            batch_first.detach().clone(memory_format=torch.contiguous_format).numpy(),  # it may change before backward
            state.contiguous().numpy(),
            _starts(episode_start.detach().numpy()),
            self.rate_coef,
            self.target_rate,
        )
        parameters = [self._parameters[name] for name in self._weight_names]
        if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in parameters)):  # type: ignore[union-attr]
            y = EngineSequence.apply(call, x, *parameters)
        else:
            arguments = (call.weights, call.constants, call.x, call.state, call.start, call.counts)
            array, call.new_state, _ = sequences.forward(*arguments, n_threads=call.n_threads)
            y = torch.from_numpy(array).transpose(0, 1)
        for total, count in zip(self.spike_counts, call.counts, strict=True):
            lsnn_kernels.add_counts(count, total)
        self._count(call.n_counted)
        new = torch.from_numpy(call.new_state)
        if len(memory):
            new[: len(memory)] = memory
        return y, new

    def _count(self, n: int) -> None:
        """Add to ``n_counted``; written so that no other Python thread comes between reading and writing it."""
        counts = self.__dict__
        counts["n_counted"] += n

    def _forward_equations(
        self, x: torch.Tensor, memory: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, new, rates = run_equations(
            x,
            state[len(memory) :],
            episode_start,
            [self._torch_weights(i) for i in range(self.n_layers)],
            [NeuronParameters] * self.n_layers,
            [self._torch_constants(i) for i in range(self.n_layers)],
            self.surrogate,
            self._unit_readout(),
            self._timing(),
        )
        n = episode_start.numel() * self.n_ticks
        for total, rate in zip(self.spike_counts, rates, strict=True):
            total += (rate.detach() * n).cpu().numpy().round().astype(np.int64)
        self._count(n)
        if self.rate_coef and torch.is_grad_enabled():
            excess = [0.5 * (rate - self.target_rate).clamp(min=0).square().sum() for rate in rates]
            y = Attach.apply(y, self.rate_coef * torch.stack(excess).mean())
        return y, torch.cat((memory, new))

    def _check(self, n_dims: int, features: Sequence[int], state: Sequence[int], episode_start: Sequence[int]) -> None:
        """Refuse shapes that do not fit: the kernels read and write without looking at bounds."""
        rows, width = self.state_shape
        if (
            len(features) != n_dims
            or features[-1] != self._encoder.n_obs
            or tuple(state) != (rows, features[-2], width)
            or tuple(episode_start) != tuple(features[:-1])
        ):
            raise ValueError(
                f"features must be (L, B, {self._encoder.n_obs}), state ({rows}, B, {width}) and episode_start (L, B), "
                f"without L in step(); got {tuple(features)}, {tuple(state)} and {tuple(episode_start)}"
            )

    def _check_values(self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor) -> None:
        dtype = self._parameters["bias_0"].dtype  # type: ignore[union-attr]
        if features.is_complex() or state.dtype != dtype:
            raise ValueError(f"features must be real and state {dtype}, got {features.dtype} and {state.dtype}")
        if not _finite(features):
            checks.finite("features", features.detach().cpu().numpy())
        if not _finite(state):  # what is cleared first does no harm
            cleared = (episode_start[:1] != 0).any(0)[:, None]  # (B, 1); no step clears nothing
            checks.finite("state", state.detach().masked_fill(cleared, 0).cpu().numpy())

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
            x = Population.apply(features.to(state.dtype), centers, log_widths, x)
        return x, torch.from_numpy(new).to(state)

    def _torch_constants(self, i: int) -> LsnnConstants:
        def column(name: str) -> torch.Tensor:
            return getattr(self, f"{name}_{i}")

        def decays(name: str) -> torch.Tensor:
            return torch.from_numpy(decay(column(name).cpu().numpy(), self.dt)).to(column(name))

        return LsnnConstants(
            decays("tau_m"),
            decays("tau_a"),
            column("v_th"),
            column("beta"),
            column("refractory"),
            self.reset == "zero",
            self.adaptation == "ahp",
            self.hold,
        )

    def _torch_weights(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        w_in, bias = self.get_parameter(f"w_in_{i}"), self.get_parameter(f"bias_{i}")
        if not self.recurrent:
            return w_in, bias, None
        mask = 1 - torch.eye(len(bias), dtype=bias.dtype, device=bias.device)
        return w_in, bias, self.get_parameter(f"w_rec_{i}") * mask

    def step(self, features: np.ndarray, state: np.ndarray, episode_start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run one env step without gradients, numpy in and out; the same bits as :meth:`forward`.

        Args:
            features: Shape (B, F).
            state: Packed state, shape (n_rows, B, width); not modified.
            episode_start: 1 where the state is cleared first, shape (B,).

        Returns:
            The readout trace, shape (B, N of the last layer), and the new state.

        Raises:
            ValueError: If a shape or a dtype is wrong, or features or state are not finite.
        """
        self._check(2, features.shape, state.shape, episode_start.shape)
        if episode_start.dtype.kind not in "biuf":
            checks.real("episode_start", episode_start)
        weights = self._weights()
        dtype, n_memory = weights[0].bias.dtype, self._n_memory
        if self._encoder.kind == "direct":
            x = sequences.writable("features", features, dtype)[:, None]  # (B, 1, F)
        else:
            memory = state[:n_memory]
            x, memory = encode(
                self.current_encoder(), features[None], memory, episode_start[None], self.n_ticks, self.dt
            )
            x = sequences.batch_first(x).astype(dtype, copy=False)
        starts = (np.reshape(episode_start, (-1, 1)) != 0).view(np.uint8)
        state = sequences.writable("state", state, dtype)
        layers, counts = self._constants(dtype), self.spike_counts
        self._count(len(starts) * self.n_ticks)
        table = self._table
        if table is None or table[1] is not weights or table[2] is not layers or table[3] is not counts:
            table = self._table = sequences.address_table(weights, layers, counts), weights, layers, counts
        y, new, finite = sequences.step(weights, layers, table[0], x, state, starts, counts)
        if not finite:
            sequences.refuse_step("features", x[:, 0], state, starts[:, 0] != 0)
        if n_memory:
            new[:n_memory] = memory
        return y, new

    def _timing(self) -> sequences.Timing:
        held = not self._encoder.per_tick
        return sequences.Timing(self.n_ticks, self.dt, self.latency, self.tau_out, self.count, held)

    def _weights(self) -> list[sequences.Weights]:
        """Return the live parameters as numpy views, pre x post."""
        parameters = self._parameters
        key = [parameters[name].data_ptr() for name in self._weight_names]  # type: ignore[union-attr]
        views = self._views  # another thread may replace it meanwhile
        if views is None or views[0] != key:
            # The views keep the memory they show alive, so an equal address means the same memory.
            tensors = [parameters[name].detach() for name in self._weight_names]  # type: ignore[union-attr]
            if len(dtypes := {tensor.dtype for tensor in tensors}) > 1 or not dtypes <= {torch.float32, torch.float64}:
                raise ValueError(f"parameters must all be float32 or all float64 on the CPU, got {dtypes}")
            arrays = [tensor.t().numpy() for tensor in tensors]
            if self.recurrent:
                layers = [sequences.Weights(*arrays[i : i + 3]) for i in range(0, len(arrays), 3)]
            else:
                pairs = zip(arrays[::2], arrays[1::2], strict=True)
                layers = [sequences.Weights(w_in, bias, np.empty((0, len(bias)), bias.dtype)) for w_in, bias in pairs]
            views = self._views = key, layers
        return views[1]

    def _constants(self, dtype: np.dtype) -> list[sequences.Constants]:
        """Return the constants for the kernels, rebuilt when a buffer or an option has changed."""
        key: list[Any] = [(id(buffer), buffer._version) for buffer in self._buffers.values()]  # type: ignore[union-attr]
        key += (dtype, self.n_ticks, self.dt, self.latency, self.tau_out, self.count, self.surrogate)
        prepared = self._prepared
        if prepared is None or prepared[0] != key:
            last = self.n_layers - 1
            layers = [
                sequences.constants(
                    layer.neurons,
                    self._timing(),
                    i,
                    self._n_memory,
                    i == last,
                    self.surrogate,
                    dtype,
                )
                for i, layer in enumerate(self.network_layers())
            ]
            # holding the buffers keeps their ids from being given to others
            prepared = self._prepared = key, layers, list(self._buffers.values())
        return prepared[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_views": None, "_prepared": None, "_table": None}  # addresses mean nothing in a copy


def _finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity; a sum that is finite tells so in one pass."""
    return math.isfinite(tensor.detach().sum().item()) or bool(torch.isfinite(tensor).all())


def _starts(episode_start: np.ndarray) -> np.ndarray:
    """Return (L, B) flags as the kernels want them: (B, L), uint8."""
    return np.ascontiguousarray((episode_start != 0).T).view(np.uint8)


def _normal(n: int, n_inputs: int, scale: torch.Tensor, generator: torch.Generator | None) -> nn.Parameter:
    """Return normal weights of shape (n, n_inputs), stored input by input: the rows the kernels read are contiguous."""
    return nn.Parameter((torch.randn(n, n_inputs, generator=generator) * scale).t().contiguous().t())


def _time_constants(
    name: str, tau: float | tuple[float, float], n: int, generator: torch.Generator | None
) -> torch.Tensor:
    """Return ``n`` equal time constants, or as many drawn log-uniformly between two bounds."""
    if isinstance(tau, (int, float)):
        return torch.full((n,), float(tau))
    low, high = tau
    if not 0 < low <= high:
        raise ValueError(f"{name} is drawn between two bounds 0 < low <= high, got {tau!r}")
    return torch.exp(math.log(low) + math.log(high / low) * torch.rand(n, generator=generator))
