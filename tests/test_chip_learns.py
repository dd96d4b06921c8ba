"""Programs whose synapses learn while they run: what the interpreter defines, the emulator computes in place."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from learners_on_chip import N, learning_program, signals, synapses

from spikeloop.hardware import Compartments, Emulator, Interpreter, Learning, LearningRule, Program, Projection, Trace
from spikeloop.hardware.learning.rule import TRACES, weight_grid
from spikeloop.hardware.loihi import learning_kernels
from spikeloop.hardware.loihi.chip import CHIPS, PROFILES
from spikeloop.hardware.loihi.fixed_point import weight_range, weight_step
from spikeloop.hardware.loihi.learners import conversion
from spikeloop.hardware.loihi.program import LEARNING_PROFILES
from spikeloop.hardware.loihi.synapse_table import actual_weights

GOLDEN = Path(__file__).parent / "golden"
FACTORS = {"nengo": "x1 x2 y1 y2 y3 r1 w t d", "lava": "x1 x2 y1 y2 y3 r1 w t d", "brian": "x1 x2 y1 y2 y3 w"}


@st.composite
def products(draw, profile, k):
    """The text of one product that a chip could hold."""
    gate = draw(st.sampled_from(["x0", "y0", f"u{k}"]))
    factors = draw(st.lists(st.sampled_from(FACTORS[profile].split()), max_size=2))
    texts = []
    for name in factors:
        constant = draw(st.none() | st.integers(-100, 100))
        inside = name if constant is None else f"({name}{constant:+d})"
        texts.append(f"sgn{inside if constant is not None else f'({name})'}" if draw(st.booleans()) else inside)
    sign = draw(st.sampled_from(["", "-"]))
    exponent = draw(st.integers(-7, 1))
    return sign + "*".join([str(draw(st.integers(1, 7))), f"2^{exponent}", gate, *texts])


@st.composite
def rules(draw, profile):
    """Any learning rule of a profile, with a product for at least one of weight, tag and delay."""
    k = draw(st.integers(0, 1))
    changed = draw(st.lists(st.sampled_from("w" if profile == "brian" else "wtd"), min_size=1, unique=True))
    texts = {f"d{z}": " + ".join(draw(st.lists(products(profile, k), min_size=1, max_size=3))) for z in changed}
    trace = st.builds(Trace, st.sampled_from([0, 1.5, 20, 127]), st.sampled_from([0, 3, 20]))
    traces = {name: draw(trace) for name in (*TRACES, "r1")}
    extensions = {}
    if profile == "nengo":
        extensions = {"residue_bits": draw(st.sampled_from([0, 0, 4])), "wide_shift": draw(st.booleans())}
    epoch = 1 if profile == "brian" else draw(st.integers(1, 4))
    return LearningRule(**{key: text.replace("+ -", "- ") for key, text in texts.items()}, **traces, epoch=epoch,
                        profile=profile, **extensions)  # fmt: skip


@st.composite
def projections(draw, name, profile, learns):
    """Synapses of any format, with or without delays, from input lines or compartments."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mode, bits = draw(st.sampled_from(["mixed", "excitatory", "inhibitory"])), draw(st.sampled_from([3, 8]))
    pre, post = (rng.permutation(N)[: rng.integers(1, N + 1)] for _ in range(2))
    post = np.sort(post) if rng.random() < 0.5 else np.arange(rng.integers(1, N + 1))
    shape = post.size, pre.size
    delays = rng.integers(0, rng.integers(1, 5), shape) if rng.random() < 0.5 else None
    learning, step, (low, high) = None, weight_step(bits, mode), weight_range(mode)
    if learns:
        rule = draw(rules(LEARNING_PROFILES[profile]))
        low, high, step = weight_grid(rule, mode, bits)
        tags = rng.integers(0, 100, shape) if rng.random() < 0.5 else None
        delays = None if rule.profile == "brian" and "d" in rule.variables() else delays
        learning = Learning(rule, int(rng.integers(0, 2**62)), tags)
    weights = rng.integers(-(-low // step), high // step + 1, shape) * step
    exponent = int(rng.integers(max(PROFILES[profile].exponents[0], -4), 3))
    return Projection(name, bool(rng.integers(0, 2)), pre, post, weights, exponent, bits, mode, delays, False, learning)


@st.composite
def programs(draw):
    """Small programs of either chip in any profile, in which some projections learn."""
    profile = draw(st.sampled_from(sorted(PROFILES)))
    chip = draw(st.sampled_from(sorted(CHIPS)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    compartments = Compartments.build(
        N,
        model=rng.integers(0, 3, N) if chip == "loihi2" else 0,
        decay_u=rng.choice([1000, 4096], N),
        decay_v=rng.choice([0, 1000, 4096], N),
        v_th=rng.choice([1, 50, 400], N) * 64,
        bias=rng.choice([0, 300], N) * 8,
        fires=rng.random(N) < 0.8,
    )
    parts = [draw(projections(f"learns {i}", profile, True)) for i in range(draw(st.integers(1, 2)))]
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), draw(projections("stays", profile, False)))
    return Program(chip, profile, N, compartments, tuple(parts), np.arange(N))


def interpreted(emulator):
    """Let an emulator run the Python that its kernels are compiled from: compiling each rule would take seconds."""
    learners = list(emulator._learners.of.values())
    emulator._learners._addresses = np.arange(len(learners))

    def run(*args):
        with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
            patch.setattr(learning_kernels, "function_at", lambda e: learners[e].kernel.py_func)
            for name in ("advance_and_learn", "learn_ticks"):
                patch.setattr(learning_kernels, name, getattr(learning_kernels, name).py_func)
            return learning_kernels.run_and_learn.py_func(*args)

    emulator._run_and_learn = run
    return emulator


def assert_same(emulator, interpreter):
    for i, mine in interpreter.learners.items():
        learner = emulator.learner(i)
        for name in ("w", "t", "d", "residue"):
            np.testing.assert_array_equal(getattr(learner, name), getattr(mine, name), err_msg=name)
        for name in TRACES:
            np.testing.assert_array_equal(learner.trace(name), mine.traces[name], err_msg=name)
        assert learner.r1 == mine.r1


@settings(max_examples=60)
@given(programs(), st.integers(0, 2**32))
def test_the_emulator_learns_what_the_interpreter_defines(program, seed):
    rng = np.random.default_rng(seed)
    emulator, interpreter = interpreted(Emulator(program)), Interpreter(program)
    state = same = emulator.initial_state()
    for n_ticks in (5, 1, 8):
        given = signals(rng, program, n_ticks)
        outputs, state = emulator.run(state, n_ticks, **given)
        expected, same = interpreter.run(same, n_ticks, **given)
        np.testing.assert_array_equal(outputs, expected)
        np.testing.assert_array_equal(state, same)
        assert_same(emulator, interpreter)
    assert emulator.counts.overflows == interpreter.overflows


@settings(max_examples=30)
@given(programs(), st.integers(0, 2**32))
def test_the_interpreter_goes_on_from_what_an_emulator_has_learned(program, seed):
    rng = np.random.default_rng(seed)
    emulator = interpreted(Emulator(program))
    state = emulator.run(emulator.initial_state(), 7, **signals(rng, program, 7))[1]
    longest = [program.longest_delay(p) for p in program.projections]
    assume(not any(emulator.learner(i).d.max() > longest[i] for i, p in enumerate(program.projections) if p.learning))
    interpreter, given = Interpreter(emulator.program_now()), signals(rng, program, 6)
    for mine, expected in zip(interpreter.run(state, 6, **given), emulator.run(state, 6, **given), strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert_same(emulator, interpreter)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_the_compiled_loop_learns_what_the_interpreter_defines(profile):
    delays = np.random.default_rng(0).integers(0, 3, (N, N))
    learned = {} if profile == "brian" else {"dd": "2^-1*x0*y1 - 2^-1*u0"}
    program = learning_program(profile, delays, **learned)
    emulator, interpreter = Emulator(program), Interpreter(program)
    rng, state = np.random.default_rng(3), emulator.initial_state()
    same, start = state, [emulator.weights(i).copy() for i in range(2)]
    for n_ticks in (1, 30):
        given = signals(rng, program, n_ticks)
        given.pop("post_traces", None)
        outputs, state = emulator.run(state, n_ticks, **given)
        expected, same = interpreter.run(same, n_ticks, **given)
        np.testing.assert_array_equal(outputs, expected)
        np.testing.assert_array_equal(state, same)
        assert_same(emulator, interpreter)
    assert all(np.any(emulator.weights(i) != start[i]) for i in range(2))
    assert profile == "brian" or np.any(emulator.learner(0).d != delays)


def test_a_learned_delay_delays():
    """Each spike adds a tick to the delay of the synapse that it passes, from the next spike on."""
    synapse = Projection("in", True, [0], [0], [[10]], learning=Learning(LearningRule(dd="x0")))
    program = Program("loihi1", "nengo", 1, Compartments.build(1, decay_v=4096, v_th=6400), (synapse,), [0])
    assert Emulator(program).layout.slots == 63  # the longest delay that the chip has is 62
    x = np.zeros((12, 1, 1), int)
    x[[0, 3, 6]] = 1
    for runs in (Emulator(program), Interpreter(program)):
        outputs, _ = runs.run(runs.initial_state(), 12, x)
        assert np.flatnonzero(outputs[:, 0, 0]).tolist() == [1, 5, 9]


def test_projections_of_any_shape_learn_together():
    rule = LearningRule(dd="x0", dw="2*x0")
    shapes = [(1, 1), (1, 3), (2, 2)]
    parts = tuple(
        Projection(f"{m} {n}", True, range(m), range(n), np.zeros((n, m)), learning=Learning(rule)) for m, n in shapes
    )
    emulator = Emulator(Program("loihi1", "nengo", 2, Compartments.build(3), (*parts, synapses()), []))
    emulator.run(emulator.initial_state(), 2, np.ones((2, 1, 2), int))
    for i in range(3):
        assert np.all(emulator.weights(i) == 4) and np.all(emulator.learner(i).d == 2)
    assert emulator.weights(3).tolist() != [[2, -4]]


def test_the_host_can_send_the_spike_of_a_compartment_that_never_fires():
    rule = LearningRule(dw="2^-2*x1*y0", x1=Trace(127, 0))
    synapse = Projection("in", True, [0, 1], [0, 1], np.zeros((2, 2)), learning=Learning(rule))
    program = Program("loihi1", "nengo", 2, Compartments.build(2, fires=0), (synapse,), [0, 1])
    emulator = Emulator(program)
    emulator.run(emulator.initial_state(), 1, [[[1, 0]]], post_spikes=[[0, 1]])
    assert emulator.weights(0)[1, 0] > 0 and np.count_nonzero(emulator.weights(0)) == 1


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_learned_weight_adds_what_the_profile_says(profile):
    """The kernel's steps from mantissa to weight are those of fixed_point, for every format there is."""
    low, high = PROFILES[profile].exponents
    for mode in ("mixed", "excitatory", "inhibitory"):
        mantissas = np.arange(weight_range(mode)[0], weight_range(mode)[1] + 1)
        for bits in (1, 3, 8):
            for exponent in range(low, high + 1):
                rule = LearningRule(dw="x0", profile=LEARNING_PROFILES[profile])
                n = mantissas.size
                p = Projection(
                    "w", True, [0], range(n), np.zeros((n, 1)), exponent, bits, mode, learning=Learning(rule)
                )
                program = Program("loihi1", profile, 1, Compartments.build(n), (p,), [])
                emulator = Emulator(program)
                (engine,) = emulator._learners.engines
                engine.synapses[0, 0] = mantissas
                learning_kernels.store_weights(engine.synapses[0, 0], engine.table_weights[0], engine.actual)
                expected = actual_weights(program, p, mantissas[:, None])[:, 0]
                np.testing.assert_array_equal(engine.table_weights[0], expected, err_msg=f"{mode} {bits} {exponent}")
                assert conversion(program, p).dtype == np.int32


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_recorded_learning_is_bit_for_bit_what_it_was(profile):
    """The interpreter wrote the files: a program of each profile, spikes, weights, tags and delays of 200 ticks."""
    with np.load((GOLDEN / "chip_learning").with_suffix(".npz")) as file:
        inputs, rewards, spikes = file["inputs"], file["rewards"], file[f"{profile}_spikes"]
        recorded = file[f"{profile}_w"], file[f"{profile}_t"], file[f"{profile}_d"]
    emulator = Emulator(Program.load(GOLDEN / f"learning-{profile}.safetensors"))
    state = emulator.initial_state()
    for t, x in enumerate(inputs):
        _, state = emulator.run(state, 1, x[None, None], rewards=rewards[t : t + 1])
        np.testing.assert_array_equal(emulator.read(state, "z")[0], spikes[t])
        for i in range(2):
            found = [getattr(emulator.learner(i), name) for name in ("w", "t", "d")]
            np.testing.assert_array_equal(found, [array[t, i] for array in recorded])
    again = Emulator(emulator.program)
    again.run(again.initial_state(), len(inputs), inputs[:, None], rewards=rewards)
    np.testing.assert_array_equal(again.weights(1), recorded[0][-1, 1])
