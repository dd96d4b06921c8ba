"""Small layers and weights for the tests of e-prop."""

import numpy as np

from spikeloop.spiking.network import Layer
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.rules.eprop_kernels import EpropWeights


def parameters(n, beta=0.3, refractory=0, **kwargs):
    return LsnnNeurons(
        tau_m=np.full(n, 4.0),
        v_th=np.linspace(0.8, 1.2, n),
        tau_a=np.linspace(20.0, 200.0, n),
        beta=np.where(np.arange(n) % 2, beta, 0.0),
        refractory=np.full(n, refractory),
        **kwargs,
    )


def small_layer(rng, n=5, n_in=4, **kwargs):
    w_rec = rng.normal(0, 0.7, (n, n))
    np.fill_diagonal(w_rec, 0)
    return Layer(rng.normal(0, 0.9, (n, n_in)), np.zeros(n), parameters(n, **kwargs), w_rec)


def some_weights(rng, n=5, n_in=4, n_actions=3, symmetric=True, biased=False):
    w = rng.normal(0, 0.8, (n, n_in + n))
    np.fill_diagonal(w[:, n_in:], 0)
    w_out = rng.normal(0, 0.5, (n_actions + 1, n + biased))
    return EpropWeights(w, w_out, w_out if symmetric else rng.normal(size=w_out.shape), np.full(n, 0.1))
