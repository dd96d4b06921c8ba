"""The LSNN as a torch module: sequences of env steps with the state carried, in and out of a Network.

How a sequence is run is a gradient's affair (:mod:`spikeloop.spiking.gradients`). With LSNN neurons on the CPU it is
one call of the numba kernels per layer, forward and backward, and :meth:`LSNN.step` gives the same bits without torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from spikeloop.spiking import checks
from spikeloop.spiking.encoders import Encoder, encode, values
from spikeloop.spiking.engine import lsnn_kernels, sequences
from spikeloop.spiking.former_names import FormerNames
from spikeloop.spiking.gradients import Gradient, Surrogate
from spikeloop.spiking.gradients.base import Run
from spikeloop.spiking.gradients.penalty import RatePenalty
from spikeloop.spiking.gradients.population import population_input
from spikeloop.spiking.initial import drawn_layers, neuron_maker
from spikeloop.spiking.network import Layer, Network, packed_shape
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.readout_kinds import READOUTS, trained_kind
from spikeloop.spiking.spiking_layer import SpikingLayers, by_tick
from spikeloop.spiking.tensor_checks import check_sequence, check_shapes, finite


class LSNN(FormerNames):
    """Layers of LSNN neurons behind an encoder, read out through a leaky filter of the last layer's spikes.

    The dynamics are those of :mod:`spikeloop.spiking.reference`. In each layer the last
    ``round(adaptive_fraction * N)`` neurons adapt (population A of Bellec et al. 2018), the others are plain LIF.

    With ``rate_coef`` the backward pass adds the gradient of a rate penalty, mean over layers of
    ``rate_coef / 2 * sum_j max(0, r_j - target_rate)^2`` (after Bellec et al. 2020, there two-sided), where ``r_j``
    is the neuron's mean of spikes per tick over the sequences of the forward pass.

    Neurons of another model than LSNN run by their equations under autograd, and in :meth:`step` by the same compiled,
    which agree to rounding.

    Args:
        encoder: How features become input.
        n_neurons: Neurons in each layer.
        recurrent: Whether layers have recurrent weights.
        neurons: Model of the neurons, one of :data:`~spikeloop.spiking.neurons.NEURONS`.
        neuron_kwargs: Parameters of neurons other than ``"lsnn"``, whose are the arguments ``tau_m`` to ``hold`` below.
            A number holds for all neurons; a pair (low, high) draws one per neuron, log-uniformly between bounds above
            zero, uniformly if low is negative.
        w_in_scale: Standard deviation of the initial input weights times ``sqrt(n_inputs)``. If None, twice
            ``1 - exp(-dt / tau_m)`` for LSNN neurons, 1 for others.
        w_rec_scale: That of the initial recurrent weights times ``sqrt(N)``.
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
        count: True stands for the readout ``count``.
        readout: Kind of the readout, one of :data:`~spikeloop.spiking.readout_kinds.READOUTS` that gradients train;
            None for ``leaky``. Of ``max``, ``mean`` and ``bernoulli``, whose units take the spikes of every tick, the
            trace is these spikes.
        clears: Begin every env step at rest, as :class:`~spikeloop.spiking.network.Network` does with ``clears``.
        gradient: How gradients reach the weights.
        learn_encoder: Train centres and widths of a ``population`` encoder.
        rate_coef: Weight of the rate penalty, >= 0; 0 for graded neurons, which do not spike.
        target_rate: Spikes per tick above which it acts.
        generator: Source of the initial weights; torch's default if None.

    Attributes:
        timing: Ticks, latency and readout, the same for all layers.
        layers: The layers, one :class:`~spikeloop.spiking.spiking_layer.SpikingLayer` each.
        state_shape: ``(n_rows, width)`` of the packed state (see :mod:`spikeloop.spiking.network`).
        spike_counts: Per layer the spikes of each neuron since :meth:`reset_counts`, int64, shape (N,); zeros where
            neurons are graded.
        n_counted: Number of (environment, tick) pairs they are counted over.

    Raises:
        ValueError: If an argument is out of range.

    >>> lsnn = LSNN(Encoder("direct", 3), [20, 10], n_ticks=4, tau_out=5.0)
    >>> features, start = torch.randn(7, 2, 3), torch.zeros(7, 2)  # seven env steps of two environments
    >>> y, state = lsnn(features, torch.from_numpy(lsnn.initial_state(2)), start)
    >>> y.shape, lsnn.n_counted
    (torch.Size([7, 2, 10]), 56)
    >>> y.sum().backward()
    >>> lsnn.layers[0].w_rec.grad.shape
    torch.Size([20, 20])
    """

    def __init__(
        self,
        encoder: Encoder,
        n_neurons: Sequence[int],
        *,
        recurrent: bool = True,
        neurons: str = "lsnn",
        neuron_kwargs: Mapping[str, Any] | None = None,
        w_in_scale: float | None = None,
        w_rec_scale: float = 0.5,
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
        readout: str | None = None,
        clears: bool = False,
        gradient: Gradient = Surrogate(),  # noqa: B008 - frozen
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
        if fault := encoder.blind(int(n_ticks), float(dt)):
            raise ValueError(fault)
        self.n_layers = len(self.n_neurons)
        self.readout = trained_kind(readout, bool(count))
        self.every_tick = READOUTS[self.readout].decide is not None
        numbers = int(n_ticks), float(dt), int(latency), float(tau_out)
        self.timing = sequences.Timing(*numbers, self.readout == "count", encoder.held)
        self.clears = bool(clears)
        self.gradient, self.rate_coef, self.target_rate = gradient, float(rate_coef), float(target_rate)
        self._encoder, self._n_memory = encoder, len(encoder.memory_rows)
        self.centers: nn.Parameter | None = None
        self.log_widths: nn.Parameter | None = None
        if learn_encoder and isinstance(encoder, values.Population):
            self.centers = nn.Parameter(torch.tensor(encoder.centers, dtype=torch.float32))
            self.log_widths = nn.Parameter(torch.tensor(np.log(encoder.widths), dtype=torch.float32))
        options: dict[str, Any] = dict(tau_m=tau_m, v_th=v_th, tau_a=tau_a, beta=beta, refractory=refractory)
        options |= dict(adaptive_fraction=adaptive_fraction, reset=reset, adaptation=adaptation, hold=hold)
        defaults = {name: inspect.signature(LSNN.__init__).parameters[name].default for name in options}
        make = neuron_maker(neurons, options, defaults, neuron_kwargs or {}, generator)
        sizes, scales = (encoder.n_channels, self.n_neurons), (w_in_scale, w_rec_scale)
        self._hold(drawn_layers(*sizes, make, recurrent, *scales, dt, generator))

    def _hold(self, layers: Sequence[Layer]) -> None:
        """Take these layers for one's own."""
        self.layers = SpikingLayers(layers)
        if self.layers.graded and self.rate_coef:
            raise ValueError(f"rate_coef must be 0 for graded neurons, which do not spike, got {self.rate_coef}")
        self.spike_counts: tuple[np.ndarray, ...] = ()
        self.reset_counts()
        self.state_shape = packed_shape(self._encoder, [layer.neurons for layer in layers])
        self._network(layers)  # validates what the constructor took on trust

    @property
    def n_ticks(self) -> int:
        """Ticks per env step."""
        return self.timing.n_ticks

    @property
    def dt(self) -> float:
        """Length of a tick in ms."""
        return self.timing.dt

    @property
    def latency(self) -> int:
        """Ticks a spike takes between layers and to the readout."""
        return self.timing.latency

    @property
    def count(self) -> bool:
        """Whether the readout is the mean number of spikes per tick of a step."""
        return self.timing.count_spikes

    @property
    def tau_out(self) -> float:
        """Time constant of the readout filter in ms."""
        return self.timing.tau_out

    def _network(self, layers: Sequence[Layer]) -> Network:
        """Return these layers behind the encoder as a network without a policy's outputs."""
        readout = Readout(np.zeros((1, self.n_neurons[-1]), self._dtype), np.zeros(1), self.tau_out, self.count)
        timing: dict[str, Any] = dict(n_ticks=self.n_ticks, dt=self.dt, latency=self.latency, clears=self.clears)
        return Network(self.encoder, tuple(layers), readout, **timing)

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(np.float64 if self.layers[0].bias.dtype == torch.float64 else np.float32)

    def current_encoder(self) -> Encoder:
        """Return the encoder, with the current centres and widths where they are learned."""
        if self.centers is None or self.log_widths is None:
            return self._encoder
        centers, log_widths = self.centers.detach().cpu().numpy(), self.log_widths.detach().cpu().numpy()
        return values.Population(self._encoder.n_obs, centers, np.exp(log_widths))

    encoder = property(current_encoder)

    def reset_counts(self) -> None:
        """Set the spike counts to zero."""
        self.spike_counts = tuple(np.zeros(n, dtype=np.int64) for n in self.n_neurons)
        self.n_counted = 0

    def initial_state(self, n_envs: int = 1, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return the resting state, shape (n_rows, n_envs, width); a ``rate`` encoder draws its keys from ``rng``."""
        rows, width = self.state_shape
        state = np.zeros((rows, n_envs, width), dtype=self._dtype)
        if self._n_memory:
            memory = self._encoder.initial_memory(n_envs, rng if rng is not None else np.random.default_rng())
            state[: self._n_memory, :, : self._encoder.n_obs] = memory
        return state

    def network_layers(self) -> tuple[Layer, ...]:
        """Return the layers as values for a :class:`~spikeloop.spiking.network.Network`."""
        return self.layers.values

    @classmethod
    def from_network(cls, network: Network, gradient: Gradient = Surrogate(), **kwargs: Any) -> LSNN:  # noqa: B008
        """Return a module that computes what ``network`` computes up to its readout trace.

        Args:
            network: The network; its layers need not be of one kind.
            gradient: How gradients reach the weights.
            kwargs: ``learn_encoder``, ``rate_coef``, ``target_rate``.

        Raises:
            ValueError: If the network has no layers, or ``rate_coef`` is given and a layer is graded.

        >>> layers = LSNN(Encoder("direct", 2), [3]).network_layers()
        >>> zeros = np.zeros((1, 3), np.float32)
        >>> network = Network(Encoder("direct", 2), layers, Readout(zeros, zeros[0, :1]))
        >>> LSNN.from_network(network, rate_coef=0.1).n_neurons
        (3,)
        """
        lsnn = cls(
            network.encoder,
            [layer.n_neurons for layer in network.layers],
            n_ticks=network.n_ticks,
            latency=network.latency,
            dt=network.dt,
            tau_out=network.readout.tau_out,
            readout=network.readout.kind if READOUTS[network.readout.kind].trains else None,
            clears=network.clears,
            gradient=gradient,
            generator=torch.Generator(),  # what it draws is not kept
            **kwargs,
        )
        lsnn._hold(network.layers)
        return lsnn.double() if network.layers[0].w_in.dtype == np.float64 else lsnn

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
            The readout trace at the end of each step, shape (L, B, N of the last layer), and the new state. Where the
            readout takes every tick, the trace is what reaches it on each, shape (L, B, n_ticks, N).

        Raises:
            ValueError: If a shape or a dtype is wrong, or features or state are not finite.
        """
        run = self.run(features, state, episode_start)
        return run.y, run.state

    def run(self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor) -> Run:
        """Do as :meth:`forward` does, whose arguments it takes, and return all that the gradient tells of the run."""
        shapes = features.shape, state.shape, episode_start.shape
        check_shapes(3, self._encoder.n_obs, self.state_shape, *shapes)
        # plain look-ups: torch's search for the attributes of a module takes as long as some of the work here
        layers: SpikingLayers = self._modules["layers"]  # type: ignore[assignment]
        first = layers._modules["0"]._parameters
        check_sequence(features, state, episode_start, first["bias"].dtype)  # type: ignore[union-attr]
        x, memory = self._encode(features, state, episode_start)
        state = state[self._n_memory :] if self._n_memory else state
        start = torch.ones_like(episode_start) if self.clears else episode_start
        timing = self.timing
        if self.every_tick:
            x, start, timing = by_tick(x, start, timing)
        run = self.gradient.run(layers, x, state.detach(), start, timing)
        if not finite(run.state):
            raise ValueError(f"the sequence left the range of {state.dtype}: its features or weights are too large")
        for total, count in zip(self.spike_counts, run.counts, strict=True):
            lsnn_kernels.add_counts(count, total)
        self._count(episode_start.numel() * self.timing.n_ticks)
        y = run.y
        if self.rate_coef and y.requires_grad:
            y = RatePenalty.apply(y, self.rate_coef, self.target_rate, *run.rates())
        if self.every_tick:
            y = y.reshape(-1, self.n_ticks, *y.shape[1:]).transpose(1, 2)
        new = torch.cat((memory, run.state)) if self._n_memory else run.state
        return run._replace(y=y, state=new)

    def _count(self, n: int) -> None:
        """Add to ``n_counted``; written so that no other Python thread comes between reading and writing it."""
        self.__dict__["n_counted"] += n

    def _encode(
        self, features: torch.Tensor, state: torch.Tensor, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        memory = state[: self._n_memory].detach()
        if self._encoder.identity:
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
        if isinstance(encoder, values.Population):
            x = population_input(encoder, features.to(state.dtype), x, self.centers, self.log_widths)
        return x, torch.from_numpy(new).to(state)

    def step(self, features: np.ndarray, state: np.ndarray, episode_start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run one env step without gradients, numpy in and out; the same bits as :meth:`forward`.

        Args:
            features: Shape (B, F).
            state: Packed state, shape (n_rows, B, width); not modified.
            episode_start: 1 where the state is cleared first, shape (B,).

        Returns:
            The readout trace, shape (B, N of the last layer), and the new state; the trace without L as in forward().

        Raises:
            ValueError: If a shape or a dtype is wrong, or features or state are not finite.
        """
        shapes = features.shape, state.shape, episode_start.shape
        check_shapes(2, self._encoder.n_obs, self.state_shape, *shapes)
        if episode_start.dtype.kind not in "biuf":
            checks.real("episode_start", episode_start)
        # self.layers, less the search that torch makes for the attributes of a module
        layers: SpikingLayers = self._modules["layers"]  # type: ignore[assignment]
        timing = self.timing
        weights, n_memory = layers.engine_weights(), self._n_memory
        dtype = weights[0].bias.dtype
        if self._encoder.identity:
            x = sequences.writable("features", features, dtype)[:, None]  # (B, 1, F)
        else:
            memory = state[:n_memory]
            x, memory = encode(
                self.current_encoder(), features[None], memory, episode_start[None], timing.n_ticks, timing.dt
            )
            x = sequences.batch_first(x).astype(dtype, copy=False)
        starts = ((episode_start.reshape(-1, 1) != 0) | self.clears).view(np.uint8)
        whole = state
        state = sequences.writable("state", state[n_memory:] if n_memory else state, dtype)
        self._count(len(starts) * timing.n_ticks)
        run = layers.ticks if self.every_tick else layers.step
        y, new, finite = run(weights, x, state, starts, timing, self.spike_counts)
        if not finite:
            sequences.refuse_step("features", x[:, 0], whole, starts[:, 0] != 0)
        if n_memory:
            new = np.concatenate((memory, new), dtype=dtype)
        return y, new
