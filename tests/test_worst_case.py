"""What is said to be the largest input of a compartment is what the emulator gets when all sources work together."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spikeloop.hardware.loihi.chip import PROFILES
from spikeloop.hardware.loihi.emulator import Emulator
from spikeloop.hardware.loihi.fixed_point import weight_range, weight_step
from spikeloop.hardware.loihi.program import Compartments, Program, Projection
from spikeloop.hardware.loihi.worst_case import largest_input, largest_payload

programs = st.tuples(st.integers(0, 2**32 - 1), st.sampled_from(list(PROFILES)), st.sampled_from([2, 4, 6, 8]))


def two_projections(seed, profile, bits):
    """Return a program whose even and odd input lines reach the same compartments by two projections."""
    rng = np.random.default_rng(seed)
    n, n_inputs = int(rng.integers(1, 6)), int(rng.integers(2, 12))
    projections = []
    for name, pre in (("even", np.arange(0, n_inputs, 2)), ("odd", np.arange(1, n_inputs, 2))):
        mode = str(rng.choice(["mixed", "excitatory", "inhibitory"]))
        step, (low, high) = weight_step(bits, mode), weight_range(mode)
        weights = rng.integers(-(-low // step), high // step + 1, (n, pre.size)) * step
        exponent = int(rng.integers(PROFILES[profile].exponents[0], 3))
        projections.append(Projection(name, True, pre, np.arange(n), weights, exponent, bits, mode))
    return Program("loihi2", profile, n_inputs, Compartments.build(n, fires=False), tuple(projections), np.arange(0))


def play(program, inputs):
    """Return the largest u of each compartment, whatever its sign, and what left its range."""
    emulator = Emulator(program)
    sequence = np.stack([inputs, np.zeros_like(inputs)]).astype(np.int32)  # input may arrive a tick later
    recorded = emulator.run(emulator.initial_state(len(inputs)), 2, sequence, record=True)[2]
    return abs(recorded.u).max(axis=(0, 1)), emulator.counts.overflows


def signs(program):
    """Return the signs of the weights from each input line to each compartment, shape (n, n_inputs)."""
    found = np.zeros((program.compartments.n, program.n_inputs), np.int64)
    for p in program.projections:
        found[:, p.pre] = np.sign(p.weights)
    return found


@settings(max_examples=60)
@given(programs)
def test_the_largest_input_is_that_of_all_spikes_of_one_sign(options):
    program = two_projections(*options)
    largest, overflows = play(program, np.concatenate([signs(program) > 0, signs(program) < 0]))
    assert not any(overflows.values())
    np.testing.assert_array_equal(largest, largest_input(program, graded=False))


@settings(max_examples=60)
@given(programs)
@example((0, "lava", 2))  # a negative sum that an exponent shifts is rounded down to the first that wraps
def test_no_sum_wraps_at_the_largest_payload(options):
    program = two_projections(*options)
    payload = largest_payload(program)
    assert payload > 1
    _, overflows = play(program, payload * np.concatenate([signs(program), -signs(program)]))
    assert (overflows["input"], overflows["u"]) == (0, 0)
