"""What holds for every local rule in the registry, and for one that a test adds: a new rule is tested by existing."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from triplet_stdp import TripletSTDP

from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.rules import RULES
from spikeloop.spiking.rules.base import CompiledRule, Post, run

SCALES = st.sampled_from([0.25, 1.0, 1.0, 3.0])


@st.composite
def variants(draw, kind):
    """A rule with its default numbers, some of them smaller or larger."""

    def scaled(rule):
        changes = {}
        for field in dataclasses.fields(rule):
            value = getattr(rule, field.name)
            if dataclasses.is_dataclass(value):
                changes[field.name] = scaled(value)
            elif type(value) is float and np.isfinite(value):
                changes[field.name] = value * draw(SCALES)
        try:
            return dataclasses.replace(rule, **changes)
        except ValueError:  # out of the rule's range
            assume(False)

    return scaled(kind())


class Run:
    """Activity of two small populations, a signal, and weights; the membranes belong to the spikes."""

    def __init__(self, seed, n_ticks, n_pre, n_post, rate):
        rng = np.random.default_rng(seed)
        self.pre = (rng.random((n_ticks, n_pre)) < rate).astype(float)
        u = rng.normal(-0.5, 0.7, (n_ticks, n_post))
        free = rng.random(u.shape) < 0.9
        self.post = Post(((u > 0) & free).astype(float), u, free)
        self.signal = rng.normal(size=n_ticks)
        self.w = rng.uniform(0.1, 0.2, (n_post, n_pre))
        self.neurons = LsnnNeurons(
            tau_m=np.full(n_post, 4.0),
            v_th=rng.uniform(0.8, 1.2, n_post),
            tau_a=rng.uniform(20.0, 200.0, n_post),
            beta=rng.choice([0.0, 0.3], n_post),
            refractory=np.zeros(n_post),
        )

    def learn(self, rule, ticks=slice(None), **changes):
        """Return weights and traces after some of the ticks, with some of the arguments changed."""
        post = Post(*(array[ticks] for array in changes.pop("post", self.post)))
        arguments = {"pre": self.pre, "signal": self.signal, "w": self.w, "neurons": self.neurons, **changes}
        arguments["pre"], arguments["signal"] = arguments["pre"][ticks], arguments["signal"][ticks]
        return run(rule, post=post, **arguments)


RUNS = st.builds(
    Run,
    seed=st.integers(0, 2**32),
    n_ticks=st.integers(0, 150),  # several blocks of the kernels
    n_pre=st.integers(1, 6),
    n_post=st.integers(2, 6),
    rate=st.sampled_from([0.02, 0.1, 0.6]),
)


def same(one, other, atol=1e-11):
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=atol)


def its_kernel_computes_its_equations(rule, one, cut):
    if not isinstance(rule, CompiledRule):
        return
    for dt in (0.5, 1.0):
        for dtype, atol in ((np.float64, 1e-11), (np.float32, 1e-4)):
            w, traces = one.w.astype(dtype), None
            for ticks in (slice(cut), slice(cut, None)):
                w, traces = rule.compiled(one.pre[ticks], one.post.z[ticks], one.signal[ticks], w, traces, dt)
            assert w.dtype == dtype
            same(w, one.learn(rule, dt=dt)[0], atol)


def a_run_can_be_cut_anywhere(rule, one, cut):
    w, traces = one.learn(rule, slice(cut))
    w, _ = one.learn(rule, slice(cut, None), w=w, traces=traces)
    np.testing.assert_array_equal(w, one.learn(rule)[0])


def a_weight_depends_on_its_own_two_neurons_alone(rule, one, cut):
    w, _ = one.learn(rule)
    pre, post = one.pre.copy(), Post(*(array.copy() for array in one.post))
    i, j = cut % pre.shape[1], cut % post.z.shape[1]
    pre[:, i] = 1 - pre[:, i]
    post.z[:, j], post.u[:, j] = 1 - post.z[:, j], -post.u[:, j]
    other, _ = one.learn(rule, pre=pre, post=post)
    rows, columns = np.arange(len(w)) != j, np.arange(w.shape[1]) != i
    np.testing.assert_array_equal(other[rows][:, columns], w[rows][:, columns])


def nothing_that_was_given_is_modified(rule, one, cut):
    _, traces = one.learn(rule, slice(cut))
    given = [one.pre, *one.post, one.signal, one.w, *(array for array in traces if isinstance(array, np.ndarray))]
    kept = [array.copy() for array in given]
    one.learn(rule, slice(cut, None), traces=traces)
    for array, before in zip(given, kept, strict=True):
        np.testing.assert_array_equal(array, before)


def silent_inputs_teach_nothing(rule, one, cut):
    np.testing.assert_array_equal(one.learn(rule, pre=np.zeros_like(one.pre))[0], one.w)


def without_its_signal_a_three_factor_rule_teaches_nothing(rule, one, cut):
    w, _ = one.learn(rule, signal=np.zeros_like(one.signal))
    assert rule.n_factors == 2 or np.array_equal(w, one.w)


def weights_keep_their_dtype(rule, one, cut):
    w, traces = one.learn(rule, w=one.w.astype(np.float32))
    assert w.dtype == np.float32
    assert all(array.dtype != np.float64 for array in traces[:1])  # one float64 constant would widen it


HOLDS = [
    its_kernel_computes_its_equations,
    a_run_can_be_cut_anywhere,
    a_weight_depends_on_its_own_two_neurons_alone,
    nothing_that_was_given_is_modified,
    silent_inputs_teach_nothing,
    without_its_signal_a_three_factor_rule_teaches_nothing,
    weights_keep_their_dtype,
]


def check(name, holds):
    """Check a property on many rules of a kind, and many runs."""

    @settings(max_examples=15)
    @given(variants(RULES[name]), RUNS, st.integers(0, 150))
    def property_holds(rule, one, cut):
        holds(rule, one, cut)

    property_holds()


@pytest.mark.parametrize("holds", HOLDS, ids=lambda holds: holds.__name__)
@pytest.mark.parametrize("name", RULES)
def test_every_rule(name, holds):
    check(name, holds)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_teaches_something(name):
    one = Run(0, 150, 5, 4, 0.3)
    w, _ = one.learn(RULES[name]())
    assert np.abs(w - one.w).max() > 1e-6


def test_a_new_rule_is_one_file_and_one_line(monkeypatch):
    monkeypatch.setitem(RULES, "triplet_stdp", TripletSTDP)
    for holds in HOLDS:
        check("triplet_stdp", holds)
    test_every_rule_teaches_something("triplet_stdp")


def test_the_triplet_rule_potentiates_more_at_high_rates():
    """The figure of Pfister & Gerstner: pairs 10 ms apart, post after pre, at 1 and at 50 Hz."""
    changes = []
    for period in (1000, 20):
        pre, z = np.zeros((60 * period, 1)), np.zeros((60 * period, 1))
        pre[::period], z[10::period] = 1, 1
        w, _ = run(TripletSTDP(), pre, Post(z), np.zeros(len(z)), np.zeros((1, 1)))
        changes.append(float(w[0, 0]))
    assert changes[0] < 0.1 * changes[1] and changes[1] > 0


class LooksAtAllInputs(TripletSTDP):
    """Is not local: depression counts the spikes of all presynaptic neurons."""

    @staticmethod
    def tick(pre, post, traces, c):
        return TripletSTDP.tick(np.full_like(pre, pre.mean()), post, traces, c)


def test_a_rule_that_is_not_local_is_found():
    with pytest.raises(AssertionError):
        a_weight_depends_on_its_own_two_neurons_alone(LooksAtAllInputs(), Run(0, 60, 3, 3, 0.3), 1)
