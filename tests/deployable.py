"""Networks whose numbers a chip can hold exactly, so that compiled ones must do what the float ones do."""

import numpy as np

from spikeloop.spiking import ActionHead, Encoder, Layer, LsnnNeurons, Network, Readout


def factor(k):
    """Return the time constant in ms whose factor per tick is ``k / 4096``."""
    return -1 / np.log(k / 4096) if k else 0.0


def encoder_of(kind):
    n, low, high = 3, np.full(3, -2.0), np.full(3, 2.0)
    if kind == "population":
        return Encoder(kind, n, centers=np.tile([-1.0, 0.0, 1.0], (n, 1)), widths=np.full((n, 3), 0.5))
    if kind == "delta":
        return Encoder(kind, n, threshold=0.25)
    return Encoder(kind, n, low=low, high=high, gain=1.0 if kind == "rate" else 3.0)


def exact_network(
    seed=3,
    *,
    sizes=(12,),
    encoder="direct",
    reset="zero",
    adaptation="ahp",
    beta=0.25,
    refractory=0,
    hold=False,
    recurrent=True,
    latency=1,
    n_ticks=3,
    head="discrete",
    **readout,
):
    """Return a network with 8-bit weights on one grid, and decays and thresholds on the chip's."""
    rng = np.random.default_rng(seed)
    source = encoder_of(encoder)
    layers, n_inputs = [], source.n_channels
    for n in sizes:
        w_rec = None
        if recurrent:
            w_rec = (rng.integers(-127, 128, (n, n)) / 256).astype("f4")
            np.fill_diagonal(w_rec, 0)
        neurons = LsnnNeurons(
            tau_m=np.full(n, factor(3000)),
            v_th=np.full(n, 1 + 1 / 128),
            tau_a=np.full(n, factor(4000)),
            beta=np.repeat([0.0, beta], [n // 2, n - n // 2]),
            refractory=np.full(n, refractory),
            reset=reset,
            adaptation=adaptation,
            hold=hold,
        )
        w_in = (rng.integers(-127, 128, (n, n_inputs)) / 128).astype("f4")
        layers.append(Layer(w_in, (rng.integers(-8, 30, n) / 64).astype("f4"), neurons, w_rec))
        n_inputs = n
    w_out = (rng.integers(-127, 128, (2, n_inputs)) / 128).astype("f4")
    action = ActionHead("discrete", (2,)) if head == "discrete" else None
    return Network(
        source,
        tuple(layers),
        Readout(w_out, np.array([0.25, -0.125], "f4"), **readout),
        action,
        n_ticks=n_ticks,
        latency=latency,
    )


def observations(seed=7, n_steps=40, n_envs=3):
    """Return observations on a coarse grid, (L, B, 3), and episode starts, (L, B)."""
    rng = np.random.default_rng(seed)
    obs = (rng.integers(-16, 17, (n_steps, n_envs, 3)) / 8).astype("f4")
    return obs, rng.random((n_steps, n_envs)) < 0.1
