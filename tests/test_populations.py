"""Spiking populations: their synapses follow RewardSTDP, their neurons are LSNN neurons, and all is kept in check."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.spiking.rules import base
from spikeloop.spiking.rules.base import Post
from spikeloop.spiking.rules.population_parameters import PopulationParameters
from spikeloop.spiking.rules.populations import SpikingPopulations

N_INPUTS, N_ACTIONS, N_TICKS = 9, 2, 6
PARAMETERS = PopulationParameters(
    n_ticks=N_TICKS,
    n_neurons=2,
    learning_rate=0.01,
    w_start=0.1,
    w_max=0.2,
    a_minus=0.3,
    centred=False,
    trace_floor=0.0,
    input_rate=400.0,
)


def run_steps(network, n_steps, rng):
    """Run env steps of random lines; return the spikes before and behind the synapses and the third factor."""
    pre, post, signal = [], [], []
    for _ in range(n_steps):
        lines = np.sort(rng.choice(N_INPUTS, 3, replace=False))
        spikes = rng.random((3, N_TICKS)) < 0.4
        network.run_trains(lines, spikes)
        modulator = float(rng.normal())
        network.reinforce(modulator)  # of the step before
        dense = np.zeros((N_TICKS, N_INPUTS))
        dense[:, lines] = spikes.T
        pre.append(dense)
        post.append(network.spikes)
        signal.append(modulator)
    third = np.zeros((n_steps, N_TICKS))
    third[:-1, -1] = signal[1:]  # given on the last tick of a step, known when the next one is over
    return np.concatenate(pre), np.concatenate(post), third.ravel()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_steps=st.integers(1, 12),
    decay=st.floats(0.05, 1.0),
    a_minus=st.floats(0.0, 2.0),
    learning_rate=st.floats(0.0, 0.5),
    taus=st.tuples(st.floats(1.0, 50.0), st.floats(1.0, 50.0)),
)
def test_weights_are_those_of_the_rule_on_the_spikes_there_were(seed, n_steps, decay, a_minus, learning_rate, taus):
    parameters = dataclasses.replace(
        PARAMETERS,
        eligibility_decay=decay,
        a_minus=a_minus,
        learning_rate=learning_rate,
        tau_plus=taus[0],
        tau_minus=taus[1],
    )
    network = SpikingPopulations(N_INPUTS, N_ACTIONS, parameters, np.random.default_rng(seed))
    w = network.state_dict()["w"]
    pre, post, signal = run_steps(network, n_steps, np.random.default_rng(seed))
    expected, traces = base.run(parameters.rule, pre, Post(post), signal, w)
    np.testing.assert_allclose(network.state_dict()["w"], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(network.synapses.e.T, traces.e, rtol=0, atol=1e-10)
    np.testing.assert_allclose(network.synapses.x, traces.x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(network.synapses.y, traces.y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("critic", ["graded", "spiking"])
def test_centred_changes_add_up_to_zero_over_the_action_neurons_of_a_line(critic):
    parameters = dataclasses.replace(PARAMETERS, centred=True, critic=critic, n_critic=3, w_max=10.0)
    network = SpikingPopulations(N_INPUTS, N_ACTIONS, parameters, np.random.default_rng(0))
    run_steps(network, 10, np.random.default_rng(0))
    change = network.state_dict()["w"] - parameters.w_start
    assert np.abs(change[:4]).max() > 1e-3
    np.testing.assert_allclose(change[:4].sum(axis=0), 0.0, atol=1e-12)


def test_a_spiking_critic_begins_near_the_value_that_nothing_was_learnt_of():
    parameters = PopulationParameters(critic="spiking", trains="regular", value_offset=1.0)
    network = SpikingPopulations(64, N_ACTIONS, parameters, np.random.default_rng(0))
    assert set(network.state_dict()["w"][:, 0]) == {parameters.w_start, parameters.value_w_start}
    values = [network.run(np.arange(32), parameters.n_ticks)[2] for _ in range(50)]
    assert abs(np.mean(values[5:]) - 1.0) < 0.02 and np.std(values[5:]) < 0.02


@pytest.mark.parametrize("changes", [{}, {"critic": "spiking", "n_critic": 3}, {"trains": "regular"}])
def test_a_line_whose_traces_died_away_is_forgotten_and_costs_nothing(changes):
    parameters = dataclasses.replace(PARAMETERS, trace_floor=1e-2, **changes)
    network = SpikingPopulations(N_INPUTS, N_ACTIONS, parameters, np.random.default_rng(0))
    run_steps(network, 20, np.random.default_rng(0))
    assert network.synapses.n_live[0] > 0
    for _ in range(100):
        network.run(np.empty(0, np.int64), N_TICKS)
        network.reinforce(0.0)
    assert network.synapses.n_live[0] == 0
    assert not network.synapses.e.any() and not network.synapses.x.any()


def test_what_is_not_learning_leaves_all_that_learning_depends_on_as_it_was():
    network = SpikingPopulations(N_INPUTS, N_ACTIONS, PARAMETERS, np.random.default_rng(0))
    run_steps(network, 5, np.random.default_rng(0))
    before = [np.copy(array) for array in (*network.synapses, *network.state, network.spikes)]
    network.learning = False
    for _ in range(5):
        network.run(np.array([1, 2, 3]), N_TICKS)
    for one, other in zip(before, (*network.synapses, *network.state, network.spikes), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau_m", -1.0),
        ("tau_plus", 0.0),
        ("input_rate", 1001.0),
        ("n_neurons", 0),
        ("n_ticks", 2.5),
        ("noise", np.nan),
        ("w_start", 1.0),
        ("w_max", 0.0),
        ("eligibility_decay", 0.0),
        ("trains", "bursts"),
        ("critic", "none"),
        ("refractory", -1),
        ("centred", 2),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(PARAMETERS, **{name: value})


def test_weights_of_a_critic_that_does_not_spike_need_not_lie_within_bounds():
    assert PopulationParameters(w_max=0.05).value_w_start > 0.05
    with pytest.raises(ValueError, match=r"value_w_start must lie within -0\.05 and 0\.05, got 0\.06"):
        PopulationParameters(w_max=0.05, critic="spiking")


@pytest.mark.parametrize("lines", [[9], [-1], [1, 1], [0.5]])
def test_lines_that_do_not_exist_are_refused(lines):
    network = SpikingPopulations(N_INPUTS, N_ACTIONS, PARAMETERS, np.random.default_rng(0))
    with pytest.raises(ValueError, match="lines"):
        network.run(np.array(lines), N_TICKS)
    with pytest.raises(ValueError, match="n_ticks must be 6"):
        network.run(np.array([1]), 5)
