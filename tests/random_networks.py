"""Networks of random numbers, which a chip holds only rounded."""

import numpy as np

from spikeloop.spiking import ActionHead, Encoder, Layer, LsnnNeurons, Network, Readout


def random_network(rng, n=64, n_obs=4, adaptation="ahp", tau_a=100.0, w_rec_scale=0.5):
    """Return a network of one layer of ``n`` neurons, half of them adaptive, with weights as they are drawn."""
    neurons = LsnnNeurons(
        tau_m=np.full(n, 4.0),
        v_th=np.ones(n),
        tau_a=np.broadcast_to(tau_a, (n,)),
        beta=np.repeat([0.0, 0.05], n // 2),
        refractory=np.zeros(n),
        reset="zero",
        adaptation=adaptation,
    )
    w_rec = rng.normal(0, w_rec_scale / np.sqrt(n), (n, n)).astype("f4")
    np.fill_diagonal(w_rec, 0)
    layer = Layer(rng.normal(0, 0.3, (n, n_obs)).astype("f4"), rng.normal(0, 0.1, n).astype("f4"), neurons, w_rec)
    readout = Readout(rng.normal(size=(2, n)).astype("f4"), np.zeros(2, "f4"), count=True)
    head = ActionHead("discrete", (2,))
    return Network(Encoder("direct", n_obs), (layer,), readout, head, n_ticks=4, latency=1)


def any_network(seed, kind, size=1.0):
    """Return a random network whose numbers are no chip's, for observations of about ``1 / size``."""
    rng = np.random.default_rng(seed)
    n_obs, n = int(rng.integers(1, 6)), int(rng.choice([6, 40]))
    low, high = np.full(n_obs, -2.0 / size), np.full(n_obs, 2.0 / size)
    if kind == "population":
        centers = np.tile(np.array([-1.0, 0.0, 1.0]) / size, (n_obs, 1))
        encoder = Encoder(kind, n_obs, centers=centers, widths=np.full((n_obs, 3), 0.5 / size))
    else:
        gain, threshold = (1.0 if kind == "rate" else 3.0), (0.25 / size if kind == "delta" else 1.0)
        encoder = Encoder(kind, n_obs, low=low, high=high, gain=gain, threshold=threshold)
    reset = str(rng.choice(["zero", "subtract"]))
    v_th = 10.0 ** rng.uniform(-2, 2)
    neurons = LsnnNeurons(
        tau_m=np.full(n, rng.uniform(1, 20)),
        v_th=np.full(n, v_th),
        tau_a=np.full(n, rng.uniform(20, 500)),
        beta=v_th * np.repeat([0.0, rng.uniform(0.01, 1)], n // 2),
        refractory=np.zeros(n),
        reset=reset,
        adaptation="ahp" if reset == "zero" else str(rng.choice(["ahp", "threshold"])),
    )
    held = size if kind == "direct" else 1.0
    w_rec = v_th * rng.normal(0, rng.choice([0.3, 2.0]) / np.sqrt(n), (n, n))
    np.fill_diagonal(w_rec, 0)
    w_in = v_th * held * rng.normal(rng.choice([-0.5, 0, 0.5]), 1.0, (n, encoder.n_channels))
    layer = Layer(w_in.astype("f4"), (v_th * rng.normal(0, 0.1, n)).astype("f4"), neurons, w_rec.astype("f4"))
    kind_of_readout = [{"count": True}, {"tau_out": 5.0}, {"first_spike": True}][rng.integers(3)]
    readout = Readout(rng.normal(size=(3, n)).astype("f4"), np.zeros(3, "f4"), **kind_of_readout)
    return Network(encoder, (layer,), readout, ActionHead("discrete", (3,)), n_ticks=3, latency=1)
