"""LSNN modules, sequences that they run on, and the gradients found there."""

import numpy as np
import torch

from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.module import LSNN

N_OBS = 3
LOW, HIGH = -np.ones(N_OBS), np.ones(N_OBS)
CENTERS = np.tile([-1.0, 0.0, 1.0], (N_OBS, 1))
ENCODERS = {
    "direct": Encoder("direct", N_OBS),
    "population": Encoder("population", N_OBS, centers=CENTERS, widths=np.full((N_OBS, 3), 0.5)),
    "rate": Encoder("rate", N_OBS, low=LOW, high=HIGH, gain=0.7),
    "latency": Encoder("latency", N_OBS, low=LOW, high=HIGH, gain=4.0),
    "delta": Encoder("delta", N_OBS, threshold=0.25),
}


def make_lsnn(n_neurons=(20,), encoder="direct", dtype=torch.float32, seed=0, **options):
    """Return a module for observations of ``N_OBS`` numbers, excited enough to spike."""
    generator = torch.Generator().manual_seed(seed)
    lsnn = LSNN(ENCODERS[encoder], n_neurons, generator=generator, **options).to(dtype)
    with torch.no_grad():
        for i in range(lsnn.n_layers):
            lsnn.layers[i].w_in.mul_(2)
            lsnn.layers[i].bias.normal_(0.25, 0.1, generator=generator)
    return lsnn


def make_sequence(lsnn, n_steps=9, n_envs=11, seed=1, warm=5):
    """Features, a state some steps into an episode, and episode starts."""
    generator = torch.Generator().manual_seed(seed)
    dtype = lsnn.layers[0].bias.dtype
    features = torch.randn(n_steps, n_envs, N_OBS, generator=generator, dtype=dtype)
    start = (torch.rand(n_steps, n_envs, generator=generator) < 0.15).float()
    state = torch.from_numpy(lsnn.initial_state(n_envs, np.random.default_rng(seed)))
    with torch.no_grad():
        before = torch.randn(warm, n_envs, N_OBS, generator=generator, dtype=dtype)
        _, state = lsnn(before, state, torch.zeros(warm, n_envs))
    lsnn.reset_counts()
    return features, state, start


def gradients(run, lsnn, features, state, start):
    """Readout trace, new state, and gradients of a weighted sum of the trace."""
    features = features.clone().requires_grad_()
    lsnn.zero_grad(set_to_none=True)
    y, new = run(features, state, start)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=y.dtype)
    y.backward(weights)
    grads = {name: parameter.grad for name, parameter in lsnn.named_parameters()}
    return y.detach(), new, {**grads, "features": features.grad}


def assert_gradients_agree(found, expected, tolerance):
    """Check that no gradient is off by more than ``tolerance`` of the largest number in the expected one."""
    for name, want in expected.items():
        if want is None:
            assert found[name] is None or not found[name].any()
        else:
            error = (found[name] - want).abs().max() / want.abs().max().clamp(min=1e-30)
            assert error <= tolerance, (name, float(error))
