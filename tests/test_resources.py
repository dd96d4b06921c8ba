"""What programs take of a core, by hand, at the edges where one more bit takes one more word."""

import numpy as np
import pytest

from spikeloop.hardware import CHIPS, Compartments, Learning, LearningRule, Program, Projection
from spikeloop.hardware.loihi.figures import core_figures
from spikeloop.hardware.loihi.resources import check_limits, list_words, use


def one_projection(n_pre=1, n_post=1, weights=None, chip="loihi1", compartments=None, **fields):
    weights = np.full((n_post, n_pre), 2) if weights is None else weights
    compartments = Compartments.build(n_post) if compartments is None else compartments
    synapses = Projection("w", True, np.arange(n_pre), np.arange(n_post), weights, **fields)
    return Program(chip, "nengo" if chip == "loihi1" else "slayer", n_pre, compartments, (synapses,), [])


@pytest.mark.parametrize(
    "size, n_targets, bits, words",
    [
        (0, 10, 8, 0),
        (6, 6, 8, 1),  # dense: a head of 10 bits and 6 x 8
        (7, 7, 8, 2),
        (1, 300, 8, 1),  # sparse: 10 + 8 + 9 bits of an index, where dense takes 42 words
        (300, 300, 8, 42),  # dense: 4 x 64 synapses of 9 words each and 44 of 6; sparse takes 84
        (3, 1024, 8, 1),  # sparse: 10 + 3 x (8 + 10) = 64
        (3, 1025, 8, 2),  # an index of 11 bits
        (6, 64, 3, 1),  # sparse: 10 + 6 x (3 + 6) = 64
        (6, 65, 3, 2),  # an index of 7 bits
        (6, 20, 4, 2),  # an index has at least 6 bits: 10 + 6 x 10 = 70, where 5 would make 64
    ],
)
def test_a_list_is_stored_in_the_fewest_words(size, n_targets, bits, words):
    projection = one_projection(n_post=n_targets, bits=bits, weights=np.full((n_targets, 1), 128)).projections[0]
    assert list_words(projection, np.array([size]), n_targets, 0) == words
    assert list_words(projection, np.array([size, size, 0]), n_targets, 0) == 2 * words


def test_delays_and_tags_take_bits_of_each_synapse():
    def words(**fields):
        return use(one_projection(n_post=14, **fields))[0].memory_words

    assert words() == 2  # 10 + 14 x 8 = 122
    assert words(delays=np.ones((14, 1), int)) == 3  # one bit more each: 136
    assert words(plastic=True) == 4  # tags of 9 bits: 10 + 14 x 17 = 248


@pytest.mark.parametrize("delay, slots", [(0, 8), (6, 8), (7, 16), (14, 16), (15, 32), (62, 64)])
def test_delay_slots_are_a_power_of_two_that_holds_the_longest_delay(delay, slots):
    delays = np.array([[delay, 0]])
    found = use(one_projection(n_pre=2, delays=delays))[0]
    assert (found.delay_slots, found.input_slots) == (slots, slots)
    three = use(one_projection(n_pre=2, n_post=3, delays=np.repeat(delays, 3, axis=0)))[0]
    assert three.input_slots == 3 * slots


def test_state_takes_synaptic_memory_where_the_chip_says_so():
    first, second = (use(one_projection(n_post=5, chip=chip))[0].memory_words for chip in CHIPS)
    assert second == first + 5 * CHIPS["loihi2"].state_words


def test_a_sender_without_synapses_takes_no_axon():
    synapses = Projection("w", False, [0, 1, 2], [3], [[2, 0, 4]])
    program = Program("loihi1", "nengo", 0, Compartments.build(4, core=[0, 1, 2, 3]), (synapses,), [])
    assert [core.output_axons for core in use(program)] == [1, 0, 1, 0]
    assert [core.input_axons for core in use(program)] == [0, 0, 0, 2]


def test_profiles_and_thresholds_are_counted_once_each_and_thresholds_where_something_fires():
    compartments = Compartments.build(
        5, decay_v=[1, 1, 2, 2, 2], v_th=np.array([1, 2, 2, 3, 4]) * 64, fires=[1, 1, 1, 0, 0], core=[0, 0, 0, 0, 1]
    )
    first, second = use(Program("loihi1", "nengo", 0, compartments, (), []))
    assert (first.compartment_profiles, first.threshold_profiles) == (3, 2)
    assert (second.compartment_profiles, second.threshold_profiles) == (1, 0)
    joined = Compartments.build(3, parent=[1, -1, -1], fires=[0, 1, 1])
    assert use(Program("loihi1", "nengo", 0, joined, (), []))[0].compartment_profiles == 3  # child, parent, alone


@pytest.mark.parametrize(
    "program",
    [
        one_projection(n_post=1024),
        one_projection(n_pre=4096),
        one_projection(n_post=32, compartments=Compartments.build(32, decay_v=range(32))),
        one_projection(n_post=8, compartments=Compartments.build(8, v_th=np.arange(1, 9) * 64)),
    ],
    ids=["compartments", "input axons", "compartment profiles", "thresholds"],
)
def test_what_fits_exactly_is_taken(program):
    check_limits(program)
    assert core_figures(use(program), CHIPS["loihi1"])[0].share == 1.0


def learning(rule=None, **fields):
    return one_projection(weights=np.full((14, 1), 4), n_post=14, **fields, learning=Learning(rule or PLAIN))


PLAIN = LearningRule(dw="x0")


def test_a_learned_synapse_takes_two_axons_a_tag_and_room_for_what_it_may_learn():
    plain, tagged = use(one_projection(weights=np.full((14, 1), 4), n_post=14))[0], use(learning())[0]
    assert (plain.input_axons, tagged.input_axons) == (1, 2)
    assert (plain.memory_words, tagged.memory_words) == (2, 4)  # dense: 10 + 14 x 8, and 10 + 14 x (8 + 9)
    assert use(learning(LearningRule(dw="x0", residue_bits=4)))[0].memory_words == 5  # 10 + 14 x (12 + 9)
    delayed = use(learning(LearningRule(dd="x0")))[0]
    assert delayed.memory_words == 6 and delayed.delay_slots == 64  # 10 + 14 x (8 + 9 + 6), 62 ticks at most


def test_a_core_has_one_learning_epoch():
    rules = LearningRule(dw="x0", epoch=2), LearningRule(dw="x0", epoch=4)
    parts = [Projection(f"w{i}", True, [0], [i], [[2]], learning=Learning(rule)) for i, rule in enumerate(rules)]
    with pytest.raises(ValueError, match="one learning epoch; core 0 needs 2 ticks for 'w0' and 4 ticks for 'w1'"):
        check_limits(Program("loihi1", "nengo", 1, Compartments.build(2), tuple(parts), []))
    check_limits(Program("loihi1", "nengo", 1, Compartments.build(2, core=[0, 1]), tuple(parts), []))
