"""Random spikes of tuning curves: as many as the curves say, and the kernel's are the encoder's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.agents.encoders import encoder_for
from spikeloop.spiking.encoders import encode, population_kernels
from spikeloop.spiking.encoders.population_spikes import PopulationSpikes


@given(seed=st.integers(0, 10_000), n_obs=st.integers(1, 4), n_ticks=st.integers(1, 9), clips=st.booleans())
def test_the_kernel_draws_the_encoders_spikes(seed, n_obs, n_ticks, clips):
    rng = np.random.default_rng(seed)
    encoder = PopulationSpikes(n_obs, rng.normal(size=(n_obs, 5)), rng.uniform(0.2, 1, (n_obs, 5)), clips)
    memory, obs = encoder.initial_memory(1, rng), rng.normal(0, 1.5, (4, 1, n_obs)).astype(np.float32)
    wanted, after = encode(encoder, obs, memory, None, n_ticks)
    key, x = memory[0, :, 0].astype(np.float64), np.zeros((n_ticks, encoder.n_channels))
    for step, seen in enumerate(obs):
        population_kernels.population_spikes(encoder.table, seen[0].astype(np.float64), key, x)
        np.testing.assert_array_equal(x, wanted[step, :, 0])
    assert key[0] == after[0, 0, 0]


def test_neurons_fire_as_often_as_their_curves_say():
    encoder = encoder_for("population_spikes", 2, {"low": -1, "high": 1, "n": 4, "width": 0.8})
    obs, n_ticks = np.array([[[0.3, -0.9]]], np.float32), 20_000
    x, _ = encode(encoder, obs, encoder.initial_memory(1, np.random.default_rng(0)), None, n_ticks)
    p = np.exp(-0.5 * ((obs[0, 0, :, None] - encoder.centers) / encoder.widths) ** 2).ravel()
    assert np.abs(x[0, :, 0].mean(axis=0) - p).max() < 4 * np.sqrt(0.25 / n_ticks)


def test_beyond_the_outermost_centres_a_value_is_the_nearest_of_them_or_leaves_no_spikes():
    for clips, most in ((True, 1.0), (False, 0.0)):
        curves = PopulationSpikes.over(np.array([-1.0]), np.array([1.0]), n=3)
        encoder = PopulationSpikes(1, curves.centers, curves.widths, clips)
        memory = encoder.initial_memory(1, np.random.default_rng(0))
        x, _ = encode(encoder, np.full((1, 1, 1), 50.0), memory, None, 10)
        assert x[0, :, 0, -1].mean() == most


def test_a_line_per_option_is_the_number_of_the_choice():
    x = np.ones((1, 4))
    population_kernels.population_spikes(population_kernels.one_line(), np.array([2.0]), np.zeros(1), x)
    assert x.tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": np.zeros((1, 2))}, r"PopulationSpikes.widths must be > 0, found 0"),
        ({"centers": np.zeros((1, 0)), "widths": np.zeros((1, 0))}, "must have at least one neuron per observation"),
        ({"widths": np.ones((1, 3))}, r"PopulationSpikes.widths"),
    ],
)
def test_curves_that_are_none_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PopulationSpikes(**{"n_obs": 1, "centers": np.zeros((1, 2)), "widths": np.ones((1, 2)), **changes})
