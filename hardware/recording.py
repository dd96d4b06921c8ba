"""Spikes of a deployed policy over a sequence of observations, as the simulator records those of a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikeloop.hardware.deployed import DeployedPolicy, Deployment
from spikeloop.spiking.monitor import Monitor


class _RecordingEngine:
    """An engine that keeps the spikes of each tick it runs."""

    def __init__(self, engine: Any):
        self.engine, self.spikes = engine, list[np.ndarray]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def run(self, *args: Any) -> tuple[np.ndarray, np.ndarray]:
        outputs, state, recorded = self.engine.run(*args, record=True)
        self.spikes.append(recorded.z)
        return outputs, state


def record(deployment: Deployment, obs: np.ndarray, rng: np.random.Generator | None = None) -> Monitor:
    """Run a deployment from rest and return the spikes of its neurons, one layer per group that fires.

    Args:
        deployment: The compiled network.
        obs: Raw observations, shape (L, B, n_obs).
        rng: Source of the start keys of a ``rate`` encoder; seeded with 0 if None.

    Raises:
        ValueError: If the shape is wrong, or there is no step.
    """
    if np.ndim(obs) != 3 or not len(obs):
        raise ValueError(f"obs must have shape (L, B, n_obs) with L >= 1, got {np.shape(obs)}")
    policy = DeployedPolicy(deployment, rng)
    engine = policy.engine = _RecordingEngine(policy.engine)
    state = policy.initial_state(obs.shape[1])
    for x in obs:
        _, state = policy.step(x, state)
    spikes, program, host = np.concatenate(engine.spikes), deployment.program, deployment.host
    fires = program.compartments.fires
    layers = [spikes[:, :, start:stop] for _, start, stop in program.groups if fires[start]]
    return Monitor.from_dense(layers, n_ticks=host.n_ticks, dt=host.dt)
