"""The compiled learning engine: equal to its plain-Python definition, event-driven, resumable, strict about input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.hardware.learning.engine import Learner, no_draws
from spikeloop.hardware.learning.reference import ReferenceLearner
from spikeloop.hardware.learning.rule import TRACES, LearningRule, Trace
from spikeloop.hardware.loihi.program import Projection
from spikeloop.spiking.compiling import kernel

N_PRE, N_POST = 5, 3
ALL_TRACES = {
    "x1": Trace(64.3, 10),
    "x2": Trace(30, 2),
    "y1": Trace(60.7, 8),
    "y2": Trace(127, 0),
    "y3": Trace(3, 40),
    "r1": Trace(1.5, 3),
}
RULES = {  # every profile, gate, variable and option is in one of them
    "nengo": LearningRule(
        dw="2^-6*u1*r1*t + 2^-7*x2*y0*(y3+60)",
        dt="2^-2*x1*y0 - 2^-2*y1*x0 - 2^-3*u1*t",
        **ALL_TRACES,
    ),
    "nengo, epochs of 3 ticks": LearningRule(
        dw="2^-6*u0*r1*t", dt="2^-2*x1*y0 - 2^-2*y2*x0 + u0*x2", dd="2^-2*x2*y0 - x0*x0", epoch=3, **ALL_TRACES
    ),
    "lava, epochs of 4 ticks": LearningRule(
        dw="x1*y0 - 2^-5*y1*x0*(x2-10)", dt="3*2^-2*u0*sgn(w-4)*y2", epoch=4, profile="lava", **ALL_TRACES
    ),
    "brian": LearningRule(dw="2*x1*y0 - 2^-6*y1*x0*x2*y0 + 2^-3*u1*w", profile="brian", **ALL_TRACES),
    "extensions": LearningRule(
        dw="2^-11*u0*r1*t",
        dt="100*2^-13*x1*y0 - 13*2^-7*u0*t + 2^1*y0",
        wide_shift=True,
        residue_bits=4,
        **ALL_TRACES,
    ),
}


def assert_same(learner, reference):
    for name in ("w", "t", "d", "residue"):
        np.testing.assert_array_equal(getattr(learner, name), getattr(reference, name), err_msg=name)
    for name in TRACES:
        np.testing.assert_array_equal(learner.trace(name), reference.traces[name], err_msg=name)
    assert learner.r1 == reference.r1


def spikes(rng, n, rate):
    return np.flatnonzero(rng.random(n) < rate).astype(np.int32)


def drive(rng, rule, n_ticks):
    """Yield arguments of ``tick``: random spikes, some rewards, now and then traces that the neurons write."""
    for _ in range(n_ticks):
        reward = int(rng.integers(-40, 41)) if rng.random() < 0.5 else 0
        written = rng.integers(-60, 100, (3, N_POST)).astype(np.int32) if rng.random() < 0.1 else None
        if rule.profile == "brian":
            written = None
        yield spikes(rng, N_PRE, 0.2), spikes(rng, N_POST, 0.3), reward, written


def start(rng, learner_class, rule, sign_mode, **options):
    low, high, step = {"mixed": (-254, 254, 2), "excitatory": (0, 255, 1), "inhibitory": (-255, 0, 1)}[sign_mode]
    first = step * rng.integers(-(-low // step), high // step + 1, (N_POST, N_PRE))
    tags = rng.integers(-256, 256, (N_POST, N_PRE)) if "t" in rule.variables() else None
    return learner_class(rule, first, tags=tags, sign_mode=sign_mode, **options)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=15)
@given(data=st.data())
def test_compiled_equals_the_definition(name, data):
    rule = RULES[name]
    mode = data.draw(st.sampled_from(["mixed", "excitatory", "inhibitory"]) if name == "nengo" else st.just("mixed"))
    seed = data.draw(st.integers(0, 2**63 - 1))
    learner = start(np.random.default_rng(seed % 1000), Learner, rule, mode, seed=seed)
    reference = start(np.random.default_rng(seed % 1000), ReferenceLearner, rule, mode, seed=seed)
    for arguments in drive(np.random.default_rng(data.draw(st.integers(0, 1000))), rule, 12):
        learner.tick(*arguments)
        reference.tick(*arguments)
        assert_same(learner, reference)


def products(draw, profile):
    """Return the text of a rule's side: one to three products."""
    variables = ["x1", "x2", "y1", "y2", "y3", "w"] + (["r1", "t", "d"] if profile != "brian" else [])
    terms = []
    for _ in range(draw(st.integers(1, 3))):
        factors = draw(st.lists(st.sampled_from(variables), max_size=2))
        constants = [draw(st.none() | st.integers(-128, 127)) for _ in factors]
        signs = [draw(st.booleans()) for _ in factors]
        pieces = [
            f"({draw(st.integers(-8, 7))})",
            f"2^{draw(st.integers(-7, 3))}",
            draw(st.sampled_from(["x0", "y0", "u1"])),
        ]
        for variable, constant, sign in zip(factors, constants, signs, strict=True):
            inside = variable if constant is None else f"{variable}{constant:+d}"
            pieces.append(f"{'sgn' if sign else ''}({inside})")
        terms.append("*".join(pieces))
    return " + ".join(terms)


@st.composite
def rules(draw):
    profile = draw(st.sampled_from(["nengo", "lava", "brian"]))
    learnable = st.just("") if profile == "brian" else st.just("") | st.composite(products)(profile)
    options = {}
    if profile != "brian":
        options["epoch"] = draw(st.integers(1, 3))
        options["rounding"] = draw(st.sampled_from(["stochastic", "nearest"]))
        options["residue_bits"] = draw(st.sampled_from([0, 4]))
        options["wide_shift"] = draw(st.booleans())
    sides = {"dw": draw(st.composite(products)(profile)), "dt": draw(learnable), "dd": draw(learnable)}
    return LearningRule(**sides, profile=profile, **ALL_TRACES, **options)


@settings(max_examples=60)
@given(rule=rules(), seed=st.integers(0, 2**40), bits=st.sampled_from([8, 4]))
def test_any_rule_equals_the_definition(rule, seed, bits):
    zeros = np.zeros((N_POST, N_PRE), int)
    learner = Learner(rule, zeros, seed=seed, bits=bits)
    learner.kernel = getattr(learner.kernel, "py_func", learner.kernel)  # compiling each would take seconds
    reference = ReferenceLearner(rule, zeros, seed=seed, bits=bits)
    with np.errstate(over="ignore"):  # hashing multiplies modulo 2^32
        for arguments in drive(np.random.default_rng(seed), rule, 6):
            learner.tick(*arguments)
            reference.tick(*arguments)
            assert_same(learner, reference)


def test_inputs_that_hold_nothing_cost_nothing():
    learner = Learner(RULES["nengo"], np.zeros((N_POST, 1000), int))
    assert learner.active_rows == 0
    learner.tick(np.array([3, 700], np.int32), np.array([1], np.int32))
    assert learner.active_rows == 2
    nothing = np.zeros(0, np.int32)
    for _ in range(400):
        learner.tick(nothing, nothing)
    assert learner.active_rows == 0
    assert not learner.t.any()
    assert not learner.trace("x1").any()


def test_run_is_tick_by_tick():
    rng = np.random.default_rng(0)
    pre, post = rng.random((50, N_PRE)) < 0.2, rng.random((50, N_POST)) < 0.2
    rewards = rng.integers(-20, 20, 50)
    whole, by_tick = (start(np.random.default_rng(1), Learner, RULES["nengo"], "mixed") for _ in range(2))
    whole.run(pre, post, rewards)
    for t in range(50):
        by_tick.tick(np.flatnonzero(pre[t]).astype(np.int32), np.flatnonzero(post[t]).astype(np.int32), int(rewards[t]))
    np.testing.assert_array_equal(whole.w, by_tick.w)
    np.testing.assert_array_equal(whole.t, by_tick.t)
    assert whole.ticks == by_tick.ticks == 50
    whole.tick(np.array([0], np.int32), np.array([0], np.int32))
    assert whole.ticks == 51


@pytest.mark.parametrize("name", ["nengo", "extensions"])
def test_a_saved_state_goes_on_exactly(name):
    rule = RULES[name]
    first, other = (start(np.random.default_rng(1), Learner, rule, "mixed", seed=5) for _ in range(2))
    other.clear()
    for arguments in drive(np.random.default_rng(0), rule, 30):
        first.tick(*arguments)
    other.load_state_dict(first.state_dict())
    for arguments in drive(np.random.default_rng(2), rule, 30):
        first.tick(*arguments)
        other.tick(*arguments)
    np.testing.assert_array_equal(first.w, other.w)
    np.testing.assert_array_equal(first.t, other.t)


def test_same_seed_same_weights():
    rule, learners = RULES["nengo"], []
    for seed in (0, 0, 1):
        learners.append(Learner(rule, np.zeros((N_POST, N_PRE), int), seed=seed))
        for arguments in drive(np.random.default_rng(0), rule, 60):
            learners[-1].tick(*arguments)
    assert np.array_equal(learners[0].w, learners[1].w)
    assert not np.array_equal(learners[0].t, learners[2].t)


def test_clearing_keeps_the_weights():
    learner = start(np.random.default_rng(1), Learner, RULES["nengo"], "mixed")
    for arguments in drive(np.random.default_rng(0), learner.rule, 20):
        learner.tick(*arguments)
    w = learner.w.copy()
    learner.clear()
    np.testing.assert_array_equal(learner.w, w)
    assert not learner.t.any()
    assert not any(learner.trace(name).any() for name in TRACES)
    assert (learner.r1, learner.active_rows) == (0, 0)


def test_the_residue_carries_what_eight_bits_lose():
    """With rounding to nearest, 0.25 of a step is lost every time, unless a second synapse keeps it."""
    spike, nothing = np.zeros(1, np.int32), np.zeros(0, np.int32)
    found = []
    for residue_bits in (0, 4):
        rule = LearningRule(dw="2^-1*x0", rounding="nearest", residue_bits=residue_bits)  # a step is 2
        learner = Learner(rule, [[0]])
        for _ in range(8):
            learner.tick(spike, nothing)
        found.append((int(learner.w[0, 0]), int(learner.residue[0, 0])))
    assert found == [(0, 0), (4, 0)]


def test_stochastic_rounding_keeps_the_mean():
    learner = Learner(LearningRule(dw="2^-1*x0"), np.zeros((500, 8), int))
    learner.tick(np.arange(8, dtype=np.int32), np.zeros(0, np.int32))
    assert set(np.unique(learner.w)) == {0, 2}
    assert abs(learner.w.mean() - 0.5) < 4 * np.sqrt(2**2 * 0.25 * 0.75 / 4000)


@kernel
def run_compiled(learn, arrays, pre, post, end, rewards, written, trace_draws, synapse_draws):
    for t in range(pre.size):
        learn(*arrays, pre[t : t + 1], end, post[t : t + 1], end, rewards, written, trace_draws, synapse_draws)


def test_compiled_code_can_drive_it():
    rng = np.random.default_rng(0)
    pre, post = rng.integers(0, N_PRE, 40, dtype=np.int32), rng.integers(0, N_POST, 40, dtype=np.int32)
    first, other = (Learner(RULES["nengo"], np.zeros((N_POST, N_PRE), int)) for _ in range(2))
    written, one = np.zeros((0, 0), np.int32), np.ones(1, np.int64)
    run_compiled(first.kernel, first.arrays, pre, post, one, 7 * one, written, *no_draws(first.rule))
    for t in range(40):
        other.tick(pre[t : t + 1], post[t : t + 1], 7)
    np.testing.assert_array_equal(first.w, other.w)
    np.testing.assert_array_equal(first.t, other.t)


def test_a_projection_learns():
    projection = Projection("in", True, np.arange(4), np.arange(2), np.full((2, 4), 10), plastic=True)
    learner = Learner.for_projection(LearningRule(dw="2*x0"), projection, seed=3)
    learner.tick(np.array([1], np.int32), np.zeros(0, np.int32))
    np.testing.assert_array_equal(learner.w, [[10, 12, 10, 10]] * 2)


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"weights": np.zeros(3)}, "weights must have shape"),
        ({"weights": np.full((3, 5), 0.5)}, "w must be integers"),
        ({"weights": np.full((3, 5), 256)}, r"w must be -254..254 in steps of 2, got 256"),
        ({"weights": np.full((3, 5), 3)}, "got 3"),
        ({"tags": np.full((3, 5), 300)}, "t must be -256..255"),
        ({"delays": np.full((3, 5), 64)}, "d must be 0..63"),
        ({"tags": np.zeros((5, 3))}, r"t must have shape \(3, 5\)"),
        ({"sign_mode": "odd"}, "sign_mode"),
        ({"bits": 7}, "bits must be 1..6 or 8"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_starts_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        Learner(LearningRule(dw="x0"), **{"weights": np.zeros((3, 5), int), **change})


def test_bad_spikes_are_refused():
    learner, nothing = Learner(RULES["nengo"], np.zeros((N_POST, N_PRE), int)), np.zeros(0, np.int32)
    with pytest.raises(ValueError, match=r"spike indices must be 0..4 before and 0..2 after"):
        learner.tick(np.array([5], np.int32), nothing)
    with pytest.raises(ValueError, match="spike indices"):
        learner.tick(nothing, np.array([-1], np.int32))
    with pytest.raises(ValueError, match=r"post_spikes must have shape \(4, 3\)"):
        learner.run(np.zeros((4, N_PRE)), np.zeros((3, N_POST)))
    with pytest.raises(ValueError, match=r"rewards must have shape \(4,\)"):
        learner.run(np.zeros((4, N_PRE)), np.zeros((4, N_POST)), [1])
    with pytest.raises(ValueError, match=r"rewards must be integers, found 1\.7"):
        learner.run(np.zeros((2, N_PRE)), np.zeros((2, N_POST)), [0, 1.7])
    with pytest.raises(ValueError, match=r"reward must be an integer, got 1\.7"):
        learner.tick(nothing, nothing, 1.7)
    with pytest.raises(ValueError, match=r"pre_spikes must be 0 or 1, found 0\.5"):
        learner.run(np.full((2, N_PRE), 0.5), np.zeros((2, N_POST)))
    with pytest.raises(ValueError, match="trace must be one of"):
        learner.trace("x3")
    with pytest.raises(ValueError, match=r"y1 must be -128..127"):
        learner.write("y1", 128)
    with pytest.raises(ValueError, match=r"post_traces must be int32 of shape \(3, 3\)"):
        learner.tick(nothing, nothing, 0, np.zeros((3, 2), np.int32))
    with pytest.raises(ValueError, match="scalars must have shape"):
        learner.load_state_dict({**learner.state_dict(), "scalars": np.zeros(2)})


@pytest.mark.parametrize("bits", [8, 4])
def test_wide_shifts_round_the_smallest_change_without_bias(bits):
    n, n_ticks, step = 400, 200, 2 ** (9 - bits)
    learner = Learner(LearningRule(dw="2^-16*x0", wide_shift=True), np.zeros((n, n), int), bits=bits)
    for _ in range(n_ticks):
        learner.tick(np.arange(n, dtype=np.int32), np.zeros(0, np.int32))
    steps, expected = learner.w.sum() / step, n * n * n_ticks * 2.0**-16 / step
    assert abs(steps - expected) < 5 * np.sqrt(expected)
