"""What a Network does on recorded observations: the figures by which the compiler chooses scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spikeloop.spiking.decay import decay
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.observation import FrameStack, Normalizer, n_frames, preprocess
from spikeloop.spiking.simulator import Simulator

N_STEPS, N_ENVS = 200, 4


@dataclass(frozen=True, eq=False)
class Observed:
    """Figures of one run, one entry per layer unless said otherwise; currents and membranes in units of v.

    Args:
        rates: Spikes per tick of each neuron, arrays (N,).
        mean_squares: Mean square input of each channel of the first layer, shape (n_channels,).
        largest_input: Largest absolute input of any channel.
        current: Largest absolute current ``w_in x + bias`` of the first layer, a number; 0 without layers.
        membrane: Largest absolute membrane.
        adaptation: Mean of ``a`` at a neuron's own spikes, arrays (N,); 0 where neurons are no LSNN neurons.

    Example:
        >>> import numpy as np
        >>> from spikeloop.spiking import ActionHead, Encoder, Layer, Network, LsnnNeurons, Readout
        >>> ones = np.ones(4)
        >>> layer = Layer(np.eye(4), 0 * ones, LsnnNeurons(4 * ones, ones, ones, 0 * ones, 0 * ones))
        >>> readout, head = Readout(np.eye(4), 0 * ones), ActionHead("discrete", (4,))
        >>> network = Network(Encoder("direct", 4), (layer,), readout, head, n_ticks=4, latency=1)
        >>> seen = observe(network, np.ones((5, 1, 4)))
        >>> seen.current, seen.rates[0]
        (1.0, array([0.7, 0.7, 0.7, 0.7]))
    """

    rates: tuple[np.ndarray, ...]
    mean_squares: np.ndarray
    largest_input: float
    current: float
    membrane: tuple[float, ...]
    adaptation: tuple[np.ndarray, ...]


def sample_observations(network: Network, rng: np.random.Generator) -> np.ndarray:
    """Return made-up observations where none were recorded, shape (L, B, n_obs).

    Slow noise about the range that encoder and normalisation are made for, and random choices where these are one-hot.
    """
    encoder = network.encoder
    middle, spread = np.zeros(encoder.n_obs), np.ones(encoder.n_obs)
    if encoder.expected is not None:
        low, high = encoder.expected
        middle, spread = (low + high) / 2, (high - low) / 2
    for step in reversed(network.preprocessing):
        if isinstance(step, Normalizer):
            middle, spread = step.mean + step.std * middle, step.std * spread
        elif isinstance(step, FrameStack):  # the newest frame
            middle, spread = middle[-step.n_in :], spread[-step.n_in :]
        else:
            back = np.argsort(step.order)
            middle, spread = middle[back], spread[back]
    noise = rng.normal(size=(N_STEPS, N_ENVS, network.n_obs))
    for t in range(1, N_STEPS):
        noise[t] = 0.95 * noise[t - 1] + np.sqrt(1 - 0.95**2) * noise[t]
    obs = middle + spread * noise
    first = 0
    for part in network.parts:
        for size in part.sizes:
            obs[:, :, first : first + size] = np.eye(size)[rng.integers(size, size=obs.shape[:2])]
            first += size
        first += 0 if part.sizes else part.n_values
    return obs


def observe(network: Network, obs: np.ndarray) -> Observed:
    """Run a network over raw observations, shape (L, B, n_obs) or (L, n_obs), from rest.

    Raises:
        ValueError: If the observations are not of that shape, or not finite numbers.
    """
    n_obs = network.n_obs
    try:
        obs = np.asarray(obs, None if np.asarray(obs).dtype.kind in "fiub" else np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"calibration must be an array of numbers, got {type(obs).__name__}") from None
    obs = obs[:, None] if obs.ndim == 2 else obs
    if obs.ndim != 3 or obs.shape[2] != n_obs or not obs.size:
        raise ValueError(
            f"calibration must have shape (L, B, {n_obs}) or (L, {n_obs}) and not be empty, got {obs.shape}"
        )
    if not np.all(np.isfinite(obs)):
        step, env, i = np.argwhere(~np.isfinite(obs))[0].tolist()
        raise ValueError(f"calibration must be finite, found {obs[step, env, i]} in observation {i} of step {step}")
    simulator = Simulator(network)
    state = simulator.initial_state(obs.shape[1])
    _, _, monitor = simulator.record(obs, state, membranes=True)
    assert monitor.v is not None
    spikes = [np.zeros(v.shape, np.float32) for v in monitor.v]  # (T, B, N)
    for z, found in zip(spikes, monitor.layers, strict=True):
        z[np.rint(found.t / network.dt).astype(int), found.env, found.i] = 1
    k = n_frames(network.preprocessing)
    memory = state[k : k + len(network.encoder.memory_rows)]
    seen, _ = preprocess(network.preprocessing, obs, state[:k], None)
    x = encode(network.encoder, seen, memory, np.zeros(obs.shape[:2], bool), network.n_ticks, network.dt)[0]
    adaptation = [
        _mean_at_spikes(z, decay(layer.neurons.tau_a, network.dt))
        if isinstance(layer.neurons, LsnnNeurons)
        else np.zeros(layer.n_neurons)
        for z, layer in zip(spikes, network.layers, strict=True)
    ]
    return Observed(
        tuple(rates.astype(np.float64) for rates in monitor.rates),
        np.mean(x.reshape(-1, x.shape[-1]).astype(np.float64) ** 2, axis=0),
        float(abs(x).max()),
        max((float(abs(x @ first.w_in.T + first.bias).max()) for first in network.layers[:1]), default=0.0),
        tuple(float(abs(v).max()) for v in monitor.v),
        tuple(adaptation),
    )


def _mean_at_spikes(z: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Return the mean of ``a <- rho a + z_before`` on the ticks where z, shape (T, B, N), is 1."""
    a, total = np.zeros(z.shape[1:]), np.zeros(z.shape[2])
    for t in range(1, len(z)):
        a = rho * a + z[t - 1]
        total += (a * z[t]).sum(axis=0)
    return total / np.maximum(z.sum(axis=(0, 1)), 1)
