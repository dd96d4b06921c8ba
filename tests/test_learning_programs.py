"""Programs that learn are frozen, copied, written to and saved by their host; what is wrong is refused."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from learners_on_chip import N, learning_program, signals, synapses

from spikeloop.hardware import Compartments, Emulator, Interpreter, LearningRule, Program
from spikeloop.hardware.loihi.chip import PROFILES


@pytest.mark.parametrize("delayed", [False, True])
def test_frozen_it_is_bit_for_bit_the_program_without_rules(delayed):
    delays = np.random.default_rng(0).integers(0, 3, (N, N)) if delayed else None
    program = learning_program(delays=delays)
    plain = replace(program, projections=tuple(replace(p, learning=None, plastic=False) for p in program.projections))
    emulator, other = Emulator(program), Emulator(plain)
    before = emulator.state_dict()
    x = (np.random.default_rng(2).random((40, 3, N)) < 0.3).astype(int)
    outputs, state = emulator.run(emulator.initial_state(3), 40, x, learning=False)
    expected, same = other.run(other.initial_state(3), 40, x)
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(state, same)
    for name, array in emulator.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e)), "state", "program"])
def test_what_has_learned_goes_on_exactly_elsewhere(how):
    program = learning_program(delays=np.ones((N, N)), dd="2^-3*x0*y1 - 2^-1*u0")
    emulator, rng = Emulator(program), np.random.default_rng(0)
    _, state = emulator.run(emulator.initial_state(), 21, **signals(rng, program, 21))
    if how == "state":
        twin = Emulator(program)
        twin.load_state_dict(emulator.state_dict())
    elif how == "program":
        twin = Emulator(emulator.program_now())
    else:
        twin = how(emulator)
        np.testing.assert_array_equal(twin.counts.learned, emulator.counts.learned)
    given = signals(rng, program, 20)
    kept = emulator.state_dict()
    expected = twin.run(state, 20, **given)
    for name, array in emulator.state_dict().items():
        np.testing.assert_array_equal(array, kept[name])
    found = emulator.run(state, 20, **given)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    for name, array in twin.state_dict().items():
        if how == "program" and name.endswith("scalars"):
            continue  # updates are counted from the start
        np.testing.assert_array_equal(array, emulator.state_dict()[name])


def test_the_host_can_write_weights_between_runs():
    emulator = Emulator(learning_program())
    new = np.full((N, 2), 40)
    emulator.update_weights(0, new, pre=[1, 3])
    np.testing.assert_array_equal(emulator.weights(0)[:, [1, 3]], new)
    x = np.zeros((2, 1, N), int)
    x[0, 0, 1] = 1
    v = emulator.run(emulator.initial_state(), 2, x, learning=False)[0][1, 0]
    np.testing.assert_array_equal(v, 40 * 64)
    with pytest.raises(ValueError, match=r"w must be -254..254 in steps of 2, got 41"):
        emulator.update_weights(0, new + 1, pre=[1, 3])


def test_a_projection_with_a_rule_is_plastic():
    assert synapses().plastic and synapses().learning.rule.dw == "x0"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"weights": [[1, 2]]}, r"'w'.weights must be -254..254 in steps of 2 where a rule of .*'nengo'.* found 1"),
        ({"weights": [[2, -4]], "sign_mode": "excitatory"}, "weights must be within"),
        ({"tags": [[0, 300]]}, r"'w'.learning.tags must be -256..255 in steps of 1 .* found 300"),
        ({"tags": [[0]]}, r"tags must have shape \(1, 2\), got \(1, 1\)"),
        ({"tags": [[0.5, 0]]}, "Learning.tags must hold whole numbers"),
        ({"bits": 7, "weights": [[4, 4]]}, r"bits must be one of \(1, 2, 3, 4, 5, 6, 8\) where a rule"),
        ({"seed": -1}, "Learning.seed must be an integer >= 0"),
        ({"rule": "x0"}, "Learning.rule must be of type LearningRule, got 'x0'"),
    ],
)
def test_what_the_learning_engine_cannot_hold_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        synapses(**fields)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_rule_in_another_arithmetic_than_the_chips_is_refused(profile):
    rule = LearningRule(dw="x0", profile="brian" if profile == "nengo" else "nengo")
    with pytest.raises(ValueError, match=rf"'w'.learning must be a rule of profile .*, got one of '{rule.profile}'"):
        Program("loihi1", profile, 2, Compartments.build(1), (synapses(rule),), [])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rewards": [1, 2]}, r"rewards must have shape \(1,\), got \(2,\)"),
        ({"rewards": [0.5]}, "rewards must be integers"),
        ({"rewards": [2**40]}, r"rewards must be within .* found 1099511627776"),
        ({"post_spikes": [[2]]}, r"post_spikes must be within \[0, 1\], found 2"),
        ({"post_traces": np.full((1, 3, 1), 200)}, r"post_traces must be within \[-128, 127\], found 200"),
        ({"rewards": [1], "learning": False}, "rewards must be None with learning=False"),
    ],
)
@pytest.mark.parametrize("engine", [Emulator, Interpreter])
def test_what_nothing_learns_from_is_refused(engine, arguments, message):
    program = Program("loihi1", "nengo", 2, Compartments.build(1), (synapses(),), [])
    runs = engine(program)
    with pytest.raises(ValueError, match=message):
        runs.run(runs.initial_state(), 1, **arguments)


@pytest.mark.parametrize("engine", [Emulator, Interpreter])
def test_two_copies_of_the_chip_do_not_learn_at_once(engine):
    program = Program("loihi1", "nengo", 2, Compartments.build(1), (synapses(),), [])
    runs = engine(program)
    with pytest.raises(ValueError, match=r"must be of one copy of the chip, .* got 2"):
        runs.run(runs.initial_state(2), 1)
    assert runs.run(runs.initial_state(2), 1, learning=False)[1].shape[0] == 2
    with pytest.raises(ValueError, match="rewards must be None with a program without learning rules"):
        plain = engine(Program("loihi1", "nengo", 0, Compartments.build(1), (), []))
        plain.run(plain.initial_state(), 1, rewards=[1])


def test_only_a_projection_with_a_rule_has_a_learning_engine():
    emulator = Emulator(learning_program())
    assert emulator.learner(1).rule.epoch == 2
    with pytest.raises(ValueError, match="'stays' has no learning rule"):
        emulator.learner(2)
    with pytest.raises(ValueError, match="the state must hold"):
        emulator.load_state_dict({})


def test_a_learning_program_survives_its_file(tmp_path):
    program = learning_program("lava", np.ones((N, N)), dd="x0 - 2^-1*u0")
    tagged = replace(program.projections[1], learning=replace(program.projections[1].learning, tags=np.full((N, N), 7)))
    program = replace(program, projections=(program.projections[0], tagged, program.projections[2]))
    program.save(tmp_path / "program.safetensors")
    loaded = Program.load(tmp_path / "program.safetensors")
    for one, other in zip(program.projections, loaded.projections, strict=True):
        assert (one.learning is None) == (other.learning is None)
        if one.learning is not None:
            assert one.learning.rule == other.learning.rule and one.learning.seed == other.learning.seed
    np.testing.assert_array_equal(loaded.projections[1].learning.tags, 7)
    x = (np.random.default_rng(0).random((9, 1, N)) < 0.4).astype(int)
    first, second = Emulator(program), Emulator(loaded)
    for a, b in zip(first.run(first.initial_state(), 9, x), second.run(second.initial_state(), 9, x), strict=True):
        np.testing.assert_array_equal(a, b)
