"""The last map of a converted network, fitted to its spikes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from spikeloop.spiking import ActionHead, Simulator
from spikeloop.spiking.conversion import converted, forward
from spikeloop.spiking.readout import Dense
from spikeloop.spiking.refit import refitted


def ann(seed, n_outputs=2):
    rng = np.random.default_rng(seed)
    sizes, layers = (3, 20, 20, n_outputs), []
    for m, n in pairwise(sizes):
        layers.append(Dense(rng.normal(size=(n, m)) / np.sqrt(m), rng.normal(0, 0.3, n), "relu"))
    layers[-1] = Dense(layers[-1].w, layers[-1].b, "identity")
    return layers, rng.normal(size=(1000, 3))


def outputs(network, x):
    return Simulator(network).run(x[None].astype(np.float32))[0][0]


@pytest.mark.parametrize("latency", [0, 1])
@pytest.mark.parametrize("readout", ["count", "slope"])
def test_it_comes_nearer_to_the_ann_in_other_states(latency, readout):
    error = {"converted": 0.0, "refitted": 0.0}
    for seed in range(4):
        layers, x = ann(seed)
        network = converted(layers, x[:500], 4, latency=latency, readout=readout)
        fitted = refitted(network, layers, x[:500])
        assert fitted.layers == network.layers and fitted.readout.kind == readout
        for name, one in (("converted", network), ("refitted", fitted)):
            error[name] += np.mean((outputs(one, x[500:]) - forward(layers, x[500:])[-1]) ** 2)
    assert error["refitted"] < 0.8 * error["converted"]


def test_it_leaves_what_is_exact():
    """Activations are whole spikes, and the sum of a tick has no error."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (60, 4)) / 4
    x[:2] = [[1.0], [0.0]]
    layers = [Dense(np.eye(4), np.zeros(4), "relu"), Dense(np.ones((1, 4)), np.zeros(1), "identity")]
    network = converted(layers, x, 4, percentile=100.0, readout="count")
    fitted = refitted(network, layers, x)
    np.testing.assert_allclose(fitted.readout.w_out, network.readout.w_out, atol=1e-6)
    np.testing.assert_allclose(outputs(fitted, x), forward(layers, x)[-1], atol=1e-5)


def test_close_choices_count_most():
    layers, x = ann(1, 3)
    last = layers[-1]
    layers[-1] = Dense(last.w - last.w.mean(axis=0), last.b - last.b.mean(), "identity")  # choices are the same
    network = converted(layers, x, 4, head=ActionHead("discrete", (3,)))
    best = np.sort(forward(layers, x)[-1], axis=1)
    closest = np.argsort(best[:, -1] - best[:, -2])[:300]
    error = [
        np.mean((outputs(refitted(one, layers, x), x) - forward(layers, x)[-1])[closest] ** 2)
        for one in (network, replace(network, head=None))
    ]
    assert error[0] < 0.9 * error[1]
    alike = [refitted(one, layers, x, close=False).readout.w_out for one in (network, replace(network, head=None))]
    np.testing.assert_allclose(*alike, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:79], "x must have at least 80 states to fit 20 neurons to, got 79"),
        (lambda x: x[:, :2], r"x must be finite and of shape \(n, 3\), got \(1000, 2\)"),
        (lambda x: x * np.nan, "x must be finite"),
    ],
)
def test_states_that_do_not_suffice_are_refused_in_one_line(change, message):
    layers, x = ann(0)
    network = converted(layers, x, 4)
    with pytest.raises(ValueError, match=message):
        refitted(network, layers, change(x))
    refitted(network, layers, x[:80])


def test_all_states_count_alike_if_half_of_the_choices_are_between_equals():
    layers, x = ann(2, 3)
    last = layers[-1]
    layers[-1] = Dense(np.concatenate([last.w[:2], last.w[1:2]]), np.append(last.b[:2], last.b[1]), "identity")
    best = np.sort(forward(layers, x)[-1], axis=1)
    x = np.concatenate([x[best[:, 2] == best[:, 1]], x[best[:, 2] > best[:, 1]][:100]])
    network = converted(layers, x, 4, head=ActionHead("discrete", (3,)))
    fits = [refitted(network, layers, x, close=close).readout.w_out for close in (True, False)]
    np.testing.assert_array_equal(*fits)
