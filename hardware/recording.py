"""Spikes of a deployed policy over a sequence of observations, as the simulator records those of a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikeloop.hardware.deployed import DeployedPolicy
from spikeloop.hardware.deployment import Deployment
from spikeloop.hardware.target import Machine
from spikeloop.spiking.monitor import Monitor, per_tick


class _Recorder:
    """A machine that keeps the spikes of each tick that it runs."""

    def __init__(self, machine: Machine):
        self._machine, self.spikes = machine, list[tuple[np.ndarray, ...]]()
        self.input, self.read = list[np.ndarray](), list[np.ndarray]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def run(self, state: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        read, state = self._machine.run(state, x, self.spikes)
        self.input.append(x)
        self.read.append(read)
        return read, state


def record(deployment: Deployment, obs: np.ndarray, rng: np.random.Generator | None = None) -> Monitor:
    """Run a deployment from rest and return its spikes: of its neurons, layer by layer, of input and output units.

    Args:
        deployment: The compiled network.
        obs: Raw observations, shape (L, B, n_obs).
        rng: Source of the start keys of a ``rate`` encoder; seeded with 0 if None.

    Raises:
        ValueError: If the shape is wrong, or there is no step.

    Example:
        >>> import numpy as np
        >>> from spikeloop.spiking import ActionHead, Encoder, Layer, Network, LsnnNeurons, Readout
        >>> ones = np.ones(4)
        >>> layer = Layer(np.eye(4), 0 * ones, LsnnNeurons(4 * ones, ones, ones, 0 * ones, 0 * ones))
        >>> readout, head = Readout(np.eye(4), 0 * ones), ActionHead("discrete", (4,))
        >>> network = Network(Encoder("direct", 4), (layer,), readout, head, n_ticks=4, latency=1)
        >>> from spikeloop.hardware import compile_network
        >>> monitor = record(compile_network(network, "loihi1"), np.ones((5, 1, 4)))
        >>> monitor.n_neurons, monitor.rates[0]
        ((4,), array([0.7, 0.7, 0.7, 0.7]))
    """
    if np.ndim(obs) != 3 or not len(obs):
        raise ValueError(f"obs must have shape (L, B, n_obs) with L >= 1, got {np.shape(obs)}")
    policy = DeployedPolicy(deployment, rng)
    recorder: Any = _Recorder(policy.machine)
    policy.machine = recorder
    state = policy.initial_state(obs.shape[1])
    for x in obs:
        _, state = policy.step(x, state)
    layers = [np.concatenate(steps) for steps in zip(*recorder.spikes, strict=True)]
    host, of_input, of_units = deployment.host, None, None
    if host.encoder.spikes:
        of_input = per_tick(np.stack(recorder.input) != 0, host.n_ticks)
    if host.readout.spikes and not host.readout.draws:  # of units that draw, values are exact probabilities
        assert host.head is not None
        units = [host.readout.decide(policy.membranes(read), host.head.sizes)[1] for read in recorder.read]
        of_units = np.concatenate(units)
    return Monitor.from_dense(layers, None, host.n_ticks, host.dt, of_input, of_units)
