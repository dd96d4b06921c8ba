"""STDP and R-STDP: kernels equal the equations, runs can be cut anywhere, windows are exponential, bounds hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.spiking.rules.base import Post, run
from spikeloop.spiking.rules.rstdp import RewardSTDP, RewardSTDPState, reward_stdp
from spikeloop.spiking.rules.stdp import STDP, Traces, stdp

TAUS = st.floats(0.2, 2000.0)
AMPLITUDES = st.floats(0.0, 0.3)
STDP_RULES = st.builds(
    STDP,
    tau_plus=TAUS,
    tau_minus=TAUS,
    a_plus=AMPLITUDES,
    a_minus=AMPLITUDES,
    mu=st.sampled_from([0.0, 0.4, 1.0]),
    w_min=st.just(-0.5),
    w_max=st.just(1.5),
)
RATES = st.floats(-1.0, 1.0)
FREE = st.builds(
    RewardSTDP, tau_plus=TAUS, tau_minus=TAUS, tau_e=TAUS, a_plus=AMPLITUDES, a_minus=AMPLITUDES, learning_rate=RATES
)
BOUNDED = st.builds(
    RewardSTDP,
    tau_plus=TAUS,
    tau_minus=TAUS,
    tau_e=TAUS,
    a_plus=AMPLITUDES,
    a_minus=AMPLITUDES,
    learning_rate=RATES,
    w_min=st.sampled_from([-math.inf, 0.2]),
    w_max=st.sampled_from([math.inf, 0.8]),
    e_max=st.sampled_from([0.05, 0.5]),
)


@st.composite
def trains(draw):
    """Two spike trains, a reward and weights within 0.2 and 0.8; long enough for several blocks."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_t, n_pre, n_post = draw(st.integers(0, 150)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rate = draw(st.sampled_from([0.02, 0.1, 0.6]))
    pre, post = rng.random((n_t, n_pre)) < rate, rng.random((n_t, n_post)) < rate
    return pre, post, rng.normal(size=n_t), rng.uniform(0.2, 0.8, (n_post, n_pre))


def counted_in(result):
    """Count the spikes of the last tick into the traces, as the kernel does."""
    w, (x, y, s, z) = result
    return w, Traces(x + s, y + z, 0 * s, 0 * z)


def assert_same(result, expected, rtol=1e-10):
    np.testing.assert_allclose(result[0], expected[0], rtol, 1e-11)
    for one, other in zip(result[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol, 1e-11)


@given(trains(), FREE | BOUNDED, STDP_RULES, st.sampled_from([0.5, 1.0]))
def test_kernels_compute_the_equations_over_the_whole_range_of_parameters(data, rule, stdp_rule, dt):
    """Wider than the properties of every rule: bounds of each kind, and ranges of each parameter."""
    pre, post, reward, w = data
    assert_same(stdp(pre, post, w, stdp_rule, dt=dt), counted_in(run(stdp_rule, pre, Post(post), reward, w, dt=dt)))
    assert_same(reward_stdp(pre, post, reward, w, rule, dt=dt), run(rule, pre, Post(post), reward, w, dt=dt))


@settings(max_examples=30)
@given(trains(), st.integers(0, 150), FREE | BOUNDED, STDP_RULES)
def test_a_run_can_be_cut_anywhere(data, cut, rule, stdp_rule):
    pre, post, reward, w = data
    first, state = reward_stdp(pre[:cut], post[:cut], reward[:cut], w, rule)
    assert_same(
        reward_stdp(pre[cut:], post[cut:], reward[cut:], first, rule, state), reward_stdp(pre, post, reward, w, rule)
    )
    first, traces = stdp(pre[:cut], post[:cut], w, stdp_rule)
    assert_same(stdp(pre[cut:], post[cut:], first, stdp_rule, traces), stdp(pre, post, w, stdp_rule))


def test_in_float32_the_closed_form_rounds_less_than_the_dense_pass():
    rng = np.random.default_rng(0)
    pre, post = rng.random((3000, 64)) < 0.07, rng.random((3000, 64)) < 0.065
    reward, w = rng.normal(size=3000), rng.random((64, 64))
    exact, _ = reward_stdp(pre, post, reward, w, RewardSTDP())
    closed, _ = reward_stdp(pre, post, reward, w.astype(np.float32), RewardSTDP())
    dense, _ = reward_stdp(pre, post, reward, w.astype(np.float32), RewardSTDP(e_max=1e6))
    assert closed.dtype == np.float32
    assert abs(closed - exact).max() < abs(dense - exact).max() < 1e-5


@pytest.mark.parametrize("delay", [1, 7, 40])
def test_windows_of_stdp_are_exponential(delay):
    pre, post = np.zeros((60, 1)), np.zeros((60, 1))
    pre[5], post[5 + delay] = 1, 1
    w, _ = stdp(pre, post, [[0.5]], STDP(a_plus=0.1))
    assert w[0, 0] == pytest.approx(0.5 + 0.1 * math.exp(-delay / 16.8))
    w, _ = stdp(post, pre, [[0.5]], STDP(a_minus=0.1))
    assert w[0, 0] == pytest.approx(0.5 - 0.1 * math.exp(-delay / 33.7))


def test_spikes_of_the_same_tick_make_no_pair():
    w, _ = stdp(np.ones((1, 1)), np.ones((1, 1)), [[0.5]])
    assert w[0, 0] == 0.5


def test_multiplicative_stdp_slows_down_towards_its_bounds():
    pre, post = np.zeros((2, 3)), np.zeros((2, 1))
    pre[0], post[1] = 1, 1
    w, _ = stdp(pre, post, [[0.0, 0.5, 1.0]], STDP(mu=1.0, a_plus=0.1))
    steps = w[0] - [0.0, 0.5, 1.0]
    np.testing.assert_allclose(steps, 0.1 * math.exp(-1 / 16.8) * np.array([1.0, 0.5, 0.0]), atol=1e-12)


def test_a_late_reward_pays_for_the_pair_before_it():
    """The distal reward of Izhikevich 2007: the eligibility still knows which synapse it was."""
    pre, post, reward = np.zeros((200, 2)), np.zeros((200, 1)), np.zeros(200)
    pre[3, 0], post[6], pre[9, 1] = 1, 1, 1
    reward[150] = 1
    w, _ = reward_stdp(pre, post, reward, [[0.5, 0.5]], RewardSTDP(tau_e=100.0, learning_rate=1.0))
    assert w[0, 0] == pytest.approx(0.5 + 0.01 * math.exp(-3 / 16.8) * math.exp(-144 / 100))
    assert w[0, 1] < 0.5
    w, _ = reward_stdp(pre, post, -reward, [[0.5, 0.5]], RewardSTDP(tau_e=100.0, learning_rate=1.0))
    assert w[0, 0] < 0.5 < w[0, 1]


def test_former_names_are_found():
    import spikeloop.spiking
    from spikeloop.spiking import RSTDP, rstdp

    assert RSTDP is RewardSTDP and rstdp is reward_stdp
    assert "RSTDP" not in dir(spikeloop.spiking)  # one name of it is shown


def test_inputs_are_not_modified():
    rng = np.random.default_rng(1)
    pre, post, w = rng.random((50, 3)) < 0.3, rng.random((50, 2)) < 0.3, np.full((2, 3), 0.5)
    _, state = reward_stdp(pre, post, np.ones(50), w)
    kept = [array.copy() for array in state]
    reward_stdp(pre, post, np.ones(50), w, state=state)
    assert np.all(w == 0.5) and all(np.array_equal(a, b) for a, b in zip(kept, state, strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: STDP(tau_plus=0), "STDP.tau_plus must be > 0, got 0"),
        (lambda: STDP(a_minus=-1), "STDP.a_minus must be >= 0, got -1"),
        (lambda: STDP(w_max=math.inf), "STDP.w_max must be finite"),
        (lambda: STDP(w_min=2.0), "w_min must be below"),
        (lambda: RewardSTDP(e_max=0), "RewardSTDP.e_max must be > 0"),
        (lambda: RewardSTDP(tau_e=math.nan), "must be a number"),
        (lambda: RewardSTDP(learning_rate=math.inf), "must be finite"),
        (lambda: stdp(np.zeros((3, 2)), np.zeros((4, 2)), np.zeros((2, 2))), "as many ticks, got 3 and 4"),
        (lambda: stdp(np.zeros(3), np.zeros((3, 2)), np.zeros((2, 2))), "pre must have shape"),
        (lambda: stdp(np.zeros((3, 2)), np.zeros((3, 1)), np.zeros((2, 1))), r"w must have shape \(1, 2\)"),
        (lambda: stdp(np.zeros((3, 1)), np.zeros((3, 1)), [[2.0]]), "must lie within"),
        (lambda: reward_stdp(np.zeros((3, 1)), np.zeros((3, 1)), [1.0], [[2.0]]), "reward must have shape"),
        (lambda: stdp(np.zeros((3, 1)), np.zeros((3, 1)), [[0.5]], dt=0), "dt must be a number > 0"),
        (
            lambda: reward_stdp(
                [[0]],
                [[0]],
                [0],
                [[0.5]],
                RewardSTDP(e_max=0.1),
                RewardSTDPState(np.ones((1, 1)), np.zeros(1), np.zeros(1)),
            ),
            "state.e must lie within -0.1 and 0.1, found 1.0",
        ),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("wrong", [-1.0, math.nan, 0.3, 3.0, math.inf])
@pytest.mark.parametrize("name", ["pre", "post"])
@pytest.mark.parametrize("rule", [stdp, lambda pre, post, w: reward_stdp(pre, post, np.zeros(3), w)])
def test_a_train_of_something_else_than_spikes_is_refused(rule, name, wrong):
    trains = {"pre": np.zeros((3, 2)), "post": np.zeros((3, 2))}
    trains[name][1, 0] = wrong
    with pytest.raises(ValueError, match=rf"{name} must hold spikes, 0 or 1, found {wrong} at index \(1, 0\)"):
        rule(trains["pre"], trains["post"], np.full((2, 2), 0.5))


@pytest.mark.parametrize("kind", [bool, int, np.uint8, np.float16, ">f4", np.float64])
def test_a_train_may_be_of_any_real_dtype_and_layout(kind):
    rng = np.random.default_rng(2)
    pre, post = rng.random((50, 3)) < 0.3, rng.random((50, 2)) < 0.3
    right, _ = stdp(pre, post, np.full((2, 3), 0.5))
    found, _ = stdp(np.asfortranarray(pre.astype(kind)), post.astype(kind)[::-1][::-1], np.full((2, 3), 0.5))
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["w", "reward", "e", "x", "y"])
def test_numbers_that_are_not_finite_are_refused(name, wrong):
    values = {
        "w": np.full((1, 1), 0.5),
        "reward": np.zeros(3),
        "e": np.zeros((1, 1)),
        "x": np.zeros(1),
        "y": np.zeros(1),
    }
    values[name].flat[0] = wrong
    with pytest.raises(ValueError, match=f"{name} must be finite, found {wrong}"):
        state = RewardSTDPState(values["e"], values["x"], values["y"])
        reward_stdp(np.zeros((3, 1)), np.zeros((3, 1)), values["reward"], values["w"], state=state)


@pytest.mark.parametrize("wrong", [np.zeros((1, 1), complex), [["1"]], [[0.5], [0.5, 0.5]], [[None]]])
def test_weights_that_are_no_real_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="w must be an array of real numbers"):
        stdp(np.zeros((3, 1)), np.zeros((3, 1)), wrong)


@pytest.mark.parametrize("bound", [0.1, 0.3, np.float64(0.1), np.float32(0.1), np.float16(0.1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("then", [np.float32, np.float64])
def test_what_a_call_returned_is_taken_back(bound, dtype, then):
    rng = np.random.default_rng(0)
    pre, post, reward = rng.random((300, 5)) < 0.3, rng.random((300, 4)) < 0.3, np.ones(300)
    rule = STDP(w_min=-bound, w_max=bound, a_plus=0.05, a_minus=0.001)
    w, traces = stdp(pre, post, np.zeros((4, 5), dtype), rule)
    w, _ = stdp(pre, post, w.astype(then), rule, traces)
    assert np.all(np.abs(w) <= then(bound))
    rule = RewardSTDP(e_max=bound, a_plus=0.1, w_min=-1.0, w_max=1.0)
    w, state = reward_stdp(pre, post, reward, np.zeros((4, 5), dtype), rule)
    assert state.e.max() == dtype(bound)
    _, state = reward_stdp(pre, post, reward, w.astype(then), rule, state)
    assert state.e.max() == then(bound)


def test_bounds_that_float32_cannot_tell_apart_are_refused():
    with pytest.raises(ValueError, match="no two finite bounds in float32"):
        stdp([[0]], [[0]], np.full((1, 1), 0.5, np.float32), STDP(w_min=0.5, w_max=0.5 + 1e-12))
