"""Izhikevich neurons fire as their paper shows (Izhikevich 2003, fig. 2): patterns from its a, b, c, d and currents."""

import numpy as np
import pytest

from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.network import Layer, Network
from spikeloop.spiking.neurons.izhikevich import Izhikevich
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.reference import heaviside

PAPER = {
    "regular spiking": (0.02, 0.2, -65.0, 8.0),
    "intrinsically bursting": (0.02, 0.2, -55.0, 4.0),
    "chattering": (0.02, 0.2, -50.0, 2.0),
    "fast spiking": (0.1, 0.2, -65.0, 2.0),
    "low-threshold spiking": (0.02, 0.25, -65.0, 2.0),
    "thalamo-cortical": (0.02, 0.25, -65.0, 0.05),
    "resonator": (0.1, 0.26, -65.0, 2.0),
}


def membrane_and_spikes(pattern, currents):
    """Return v in mV after each tick of 1 ms, from rest, and the ticks of the spikes."""
    neurons = Izhikevich(*(np.array([value]) for value in PAPER[pattern]), gain=1.0)
    z, state, v, spikes = np.zeros(1), (np.zeros(1), np.zeros(1)), [], []
    for t, current in enumerate(currents):
        z, state = neurons.tick(np.array([current]), z, state, neurons.constants(1.0, np.float64), heaviside)
        v.append(state[0][0] + neurons.rest[0][0])
        spikes += [t] * int(z[0])
    return np.array(v), spikes


def step_of_10(n_ticks=400):
    return np.where(np.arange(n_ticks) < 50, 0.0, 10.0)


def paper_program(pattern, currents):
    """Return the spikes of the program at the end of the paper, in plain floats, v cut off at the peak."""
    a, b, c, d = PAPER[pattern]
    v = ((b - 5) - ((5 - b) ** 2 - 0.16 * 140) ** 0.5) / 0.08
    u, spikes = b * v, []
    for t, current in enumerate(currents):
        if v >= 30:
            v, u = c, u + d
        for _ in range(2):
            v = min(v + 0.5 * (0.04 * v**2 + 5 * v + 140 - u + current), 30.0)
        u += a * (b * v - u)
        spikes += [t] * int(v >= 30)
    return spikes


@pytest.mark.parametrize("pattern", PAPER)
def test_spikes_are_those_of_the_papers_program(pattern):
    currents = step_of_10()
    assert membrane_and_spikes(pattern, currents)[1] == paper_program(pattern, currents)


def intervals(pattern, currents=None):
    return np.diff(membrane_and_spikes(pattern, step_of_10() if currents is None else currents)[1])


def test_regular_spiking_begins_fast_and_adapts():
    found = intervals("regular spiking")
    assert found[0] < 0.6 * found[-1] and np.ptp(found[2:]) <= 2 and 5 <= len(found) <= 10


def test_intrinsically_bursting_begins_with_a_burst_and_goes_on_with_single_spikes():
    found = intervals("intrinsically bursting")
    assert (found[:2] <= 10).all() and (found[2:] >= 25).all() and len(found) >= 7


def test_chattering_repeats_bursts():
    found = intervals("chattering")
    assert (found <= 6).sum() >= 12 and (found >= 30).sum() >= 4 and not ((found > 6) & (found < 30)).any()


def test_fast_spiking_is_fast_and_does_not_adapt():
    found = intervals("fast spiking")
    assert len(found) >= 25 and (found[1:] <= 13).all() and np.ptp(found[1:]) <= 2


def test_low_threshold_spiking_is_fast_and_adapts_and_needs_less_current():
    found = intervals("low-threshold spiking")
    assert found[0] <= 5 and found[-1] >= 14 and len(found) >= 15
    weak = np.where(np.arange(400) < 50, 0.0, 2.0)
    assert len(membrane_and_spikes("low-threshold spiking", weak)[1]) > 0
    assert len(membrane_and_spikes("fast spiking", weak)[1]) == 0


def test_thalamo_cortical_fires_tonically_from_rest_and_rebounds_from_hyperpolarisation():
    mild = np.where(np.arange(400) < 50, 0.0, 2.0)
    assert (np.diff(membrane_and_spikes("thalamo-cortical", mild)[1])[3:] >= 10).all()
    inhibited = np.where((np.arange(400) >= 50) & (np.arange(400) < 250), -20.0, 0.0)
    v, spikes = membrane_and_spikes("thalamo-cortical", inhibited)
    assert v[200] < -80 and len(spikes) >= 2 and min(spikes) >= 250
    assert np.diff(spikes).min() <= 8  # a burst


def test_a_resonator_answers_a_second_pulse_that_comes_at_its_own_period():
    def spikes(*intervals):
        currents = np.zeros(200)
        for start in (50, *(50 + interval for interval in intervals)):
            currents[start : start + 2] = 1.2
        return len(membrane_and_spikes("resonator", currents)[1])

    assert spikes() == 0 and spikes(3) == 1  # one pulse is not enough, two at once are
    answers = {interval for interval in range(15, 80) if spikes(interval)}
    assert answers == set(range(min(answers), max(answers) + 1)) and 36 <= min(answers) < max(answers) <= 48


def test_the_membrane_is_held_between_its_peak_and_its_floor():
    v, _ = membrane_and_spikes("regular spiking", [1e30, -1e30, 1e30, 0.0, -1e30])
    assert v.min() >= -100 and v.max() <= 30 + 1e-9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"a": 2.0}, "a must be within"),
        ({"a": np.ones(2)}, "must have shape"),
        ({"c": np.nan}, "c must be finite"),
        ({"b": 0.3}, "resting point"),
        ({"background": 5.0}, "resting point"),
    ],
)
def test_wrong_parameters_are_refused_by_name(options, words):
    with pytest.raises(ValueError, match=f"Izhikevich.*{words}"):
        Izhikevich(**{"d": np.full(3, 8.0), **options})


def test_some_field_says_how_many_neurons_there_are():
    with pytest.raises(ValueError, match=r"Izhikevich.a must have shape \(any\)"):
        Izhikevich(a=0.02)


def test_a_network_refuses_ticks_too_long_for_the_equations():
    layer = Layer(np.ones((1, 1)), np.zeros(1), Izhikevich(a=np.array([0.02])))
    with pytest.raises(ValueError, match="Izhikevich neurons take ticks dt of at most 1 ms, got 2"):
        Network(Encoder("direct", 1), (layer,), Readout(np.ones((1, 1)), np.zeros(1)), dt=2.0)
