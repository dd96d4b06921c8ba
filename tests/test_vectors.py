"""A network as one vector of all its weights, and back."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.spiking import LSNN, ActionHead, Dense, Dimensions, Encoder, Network, Readout, Simulator, Tiles
from spikeloop.spiking.neurons import NEURONS

ARRAYS = ["w_in", "bias", "w_rec"]


def network_of(neurons, sizes, recurrent, n_dense, seed):
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    encoder = Encoder("direct", 3)
    lsnn = LSNN(encoder, sizes, neurons=neurons, recurrent=recurrent, n_ticks=2, generator=generator)
    widths = [sizes[-1], *range(2, 2 + n_dense), 4]
    maps = [
        (rng.normal(size=(n_out, n)).astype(np.float32), rng.normal(size=n_out).astype(np.float32))
        for n, n_out in pairwise(widths)
    ]
    readout = Readout(*maps[-1], dense=tuple(Dense(w, b) for w, b in maps[:-1]))
    return Network(encoder, lsnn.network_layers(), readout, ActionHead("discrete", (4,)), n_ticks=2)


networks = st.builds(
    network_of,
    st.sampled_from(sorted(NEURONS)),
    st.lists(st.integers(1, 5), min_size=1, max_size=2),
    st.booleans(),
    st.integers(0, 2),
    st.integers(0, 99),
)


@settings(max_examples=25, deadline=None)
@given(networks, st.integers(0, 99))
def test_a_network_goes_to_a_vector_and_back(network, seed):
    rng = np.random.default_rng(seed)
    vector = network.to_vector()
    obs, start = rng.normal(size=(5, 2, 3)), np.zeros((5, 2), bool)
    for one in (vector, rng.normal(size=vector.size).astype(np.float32)):
        again = network.with_vector(one)
        np.testing.assert_array_equal(again.to_vector(), one)
        assert [type(layer.neurons) for layer in again.layers] == [type(layer.neurons) for layer in network.layers]
    same = [Simulator(each).run(obs, episode_start=start)[0] for each in (network, network.with_vector(vector))]
    np.testing.assert_array_equal(*same)


def test_the_order_is_that_of_the_documentation():
    network = network_of("lsnn", [2, 3], True, 1, 0)
    vector = np.arange(network.to_vector().size, dtype=np.float32)
    numbered, first = network.with_vector(vector), 0
    arrays = [getattr(layer, name) for layer in numbered.layers for name in ARRAYS]
    arrays += [numbered.readout.dense[0].w, numbered.readout.dense[0].b, numbered.readout.w_out, numbered.readout.b_out]
    for i, array in enumerate(arrays):
        is_rec = i in (2, 5)
        found = array[~np.eye(len(array), dtype=bool)] if is_rec else array.ravel()
        np.testing.assert_array_equal(found, vector[first : first + found.size])
        first += found.size
    assert first == vector.size


@pytest.mark.parametrize(
    "spoil", [lambda v: v[1:], lambda v: np.append(v, 0.0), lambda v: v[None], lambda v: v * np.nan]
)
def test_a_vector_that_does_not_fit_is_refused(spoil):
    network = network_of("lsnn", [2], True, 0, 0)
    with pytest.raises(ValueError, match=r"Network\.vector must"):
        network.with_vector(spoil(network.to_vector()))


def test_a_network_without_layers_has_the_vector_of_its_readout():
    tiles = Tiles(Dimensions((0.0,), (1.0,)), (3,), n_grids=1)
    readout = Readout(np.ones((2, tiles.n_channels)), np.zeros(2), kind="winner")
    network = Network(tiles, (), readout, ActionHead("discrete", (2,)))
    vector = np.arange(network.to_vector().size)
    np.testing.assert_array_equal(network.with_vector(vector).to_vector(), vector)
