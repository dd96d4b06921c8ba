"""The score of Bernoulli neurons against all spike patterns there are, the race's closed form, kernels, equations."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.spiking.first_to_spike import first_to_spike, spike_probability
from spikeloop.spiking.rules import glm_kernels
from spikeloop.spiking.rules.glm import HIDDEN_GRADIENTS, RewardGlm, action_of, new_learner, run_step


def chances_one_by_one(p):
    """Return what :func:`first_to_spike` does, by the patterns of every tick."""
    n_ticks, n = p.shape
    chosen, alive = np.zeros(n), 1.0
    for k in range(n_ticks):
        for z in product([0, 1], repeat=n):
            if any(z):
                chosen += alive * np.prod(np.where(z, p[k], 1 - p[k])) * np.array(z) / sum(z)
        alive *= np.prod(1 - p[k])
    return chosen + alive / n


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=1, max_size=4)
    )
)
def test_the_closed_form_of_the_race_is_the_sum_over_all_patterns(p):
    found = first_to_spike(np.array(p))
    np.testing.assert_allclose(found, chances_one_by_one(np.array(p)), atol=1e-12)
    assert abs(found.sum() - 1) < 1e-12


def test_the_closed_form_is_what_happens():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.0, 0.4, (6, 5))
    z = rng.random((200_000, 6, 5)) < p
    ticks = z.any(axis=2)
    at = np.where(ticks.any(axis=1), ticks.argmax(axis=1), 0)
    last = z[np.arange(len(z)), at]
    last[~last.any(axis=1)] = True  # silence: any of them
    chosen = (rng.random(last.shape) * last).argmax(axis=1)
    share = np.bincount(chosen, minlength=5) / len(z)
    assert np.abs(share - first_to_spike(p)).max() < 4 * np.sqrt(0.25 / len(z))


def test_one_neuron_is_the_stochastic_tempotron():
    p = np.random.default_rng(0).uniform(0, 1, (4, 1))
    silent = np.append(p, np.zeros((4, 1)), axis=1)  # beside one that never spikes
    assert first_to_spike(silent)[0] == pytest.approx(1 - 0.5 * np.prod(1 - p))


class Pattern:
    """Hands out given spikes, call by call."""

    def __init__(self, spikes):
        self.left = iter(spikes)

    def __call__(self, p):
        return np.array([next(self.left) for _ in p], np.float64)


def all_steps(x, w_hidden, w_out, n_ticks, hidden_gradient="score"):
    """Yield each env step there is, and its probability: all patterns, each cut where an output spikes."""
    n = len(w_hidden) + len(w_out)
    seen = set()
    for spikes in product([0.0, 1.0], repeat=n * n_ticks):
        step = run_step(x, w_hidden, w_out, 0.6, n_ticks, Pattern(spikes), hidden_gradient)
        drawn = spikes[: n * step.n_ticks]
        if drawn not in seen:
            seen.add(drawn)
            yield step, np.exp(step.log_p)


def random_network(seed, n_hidden, n_inputs=2, n_actions=2):
    rng = np.random.default_rng(seed)
    into = n_hidden or n_inputs
    return (
        rng.uniform(0, 1, (3, n_inputs)),
        rng.normal(0, 1, (n_hidden, n_inputs + 1)),
        rng.normal(0, 1, (n_actions, into + 1)),
    )


@pytest.mark.parametrize("n_hidden", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_score_is_the_policy_gradient(seed, n_hidden):
    x, w_hidden, w_out = random_network(seed, n_hidden)
    rewards = np.random.default_rng(seed + 100).normal(size=2)

    def reward_of(step):  # ties and silence are broken uniformly
        return rewards[step.z > 0].mean() if step.z.any() else rewards.mean()

    def expected_reward(w_hidden, w_out):
        return sum(p * reward_of(step) for step, p in all_steps(x, w_hidden, w_out, 3))

    steps = list(all_steps(x, w_hidden, w_out, 3))
    assert abs(sum(p for _, p in steps) - 1) < 1e-12
    for which, w in (("score_hidden", w_hidden), ("score_out", w_out)):
        mean = sum((p * getattr(step, which) for step, p in steps), np.zeros_like(w))
        assert np.abs(mean).max(initial=0) < 1e-10
        gradient = sum((p * reward_of(step) * getattr(step, which) for step, p in steps), np.zeros_like(w))
        for at in np.ndindex(w.shape):
            h, values = 1e-3, []
            for k in (-2, -1, 1, 2):
                moved = w.copy()
                moved[at] += k * h
                pair = (moved, w_out) if which == "score_hidden" else (w_hidden, moved)
                values.append(expected_reward(*pair))
            slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)  # error of order h^4
            assert gradient[at] == pytest.approx(slope, abs=1e-10)


def test_without_hidden_neurons_the_reward_to_be_expected_is_that_of_the_closed_form():
    x, w_hidden, w_out = random_network(3, 0)
    chosen = np.zeros(2)
    for step, p in all_steps(x, w_hidden, w_out, 3):
        chosen += p * (step.z / step.z.sum() if step.z.any() else np.full(2, 0.5))
    s, v = np.zeros(2), []
    for of_tick in x:
        s = 0.6 * s + 0.4 * of_tick
        v.append(w_out[:, :-1] @ s + w_out[:, -1])
    np.testing.assert_allclose(chosen, first_to_spike(spike_probability(np.array(v))), atol=1e-12)


def test_the_expected_gradient_of_hidden_neurons_points_where_the_score_does():
    """It is biased: a hidden spike is taken for its probability. With small weights onto the outputs little is lost."""
    x, w_hidden, w_out = random_network(5, 2)
    w_out[:, :-1] *= 0.1
    rewards = np.array([1.0, -1.0])
    gradients = {}
    for kind in ("score", "expected"):
        gradients[kind] = sum(
            p * (rewards[step.z > 0].mean() if step.z.any() else 0.0) * step.score_hidden
            for step, p in all_steps(x, w_hidden, w_out, 3, kind)
        )
    one, other = (g.ravel() for g in gradients.values())
    assert one @ other / np.sqrt((one @ one) * (other @ other)) > 0.99


@given(
    seed=st.integers(0, 10_000),
    n_hidden=st.integers(0, 4),
    n_ticks=st.integers(1, 6),
    held=st.booleans(),
    kind=st.sampled_from(sorted(HIDDEN_GRADIENTS)),
)
def test_the_kernel_computes_the_equations(seed, n_hidden, n_ticks, held, kind):
    rng = np.random.default_rng(seed)
    n_inputs, n_actions = (int(n) for n in rng.integers(1, 5, 2))
    x = (rng.random((1 if held else n_ticks, n_inputs)) < 0.6).astype(np.float64)
    w_hidden = rng.normal(-0.5, 1, (n_hidden, n_inputs + 1))
    w_out = rng.normal(-1, 1, (n_actions, (n_hidden or n_inputs) + 1))
    draws = np.random.default_rng(seed + 1)
    step = run_step(x, w_hidden, w_out, 0.6, n_ticks, lambda p: 1.0 * (draws.random(len(p)) < p), kind)
    action = action_of(step.z, draws.random())
    learner, c = new_learner(w_hidden, w_out, np.zeros(1)), RewardGlm(hidden_gradient=kind).constants(0.6, n_ticks)
    scores = np.empty_like(w_hidden), np.empty_like(w_out)
    drawn = np.random.default_rng(seed + 1)
    assert glm_kernels.run_step(x, learner, c, drawn, *scores) == action
    assert drawn.random() == draws.random()  # as many numbers were drawn
    np.testing.assert_allclose(scores[0], step.score_hidden, atol=1e-12)
    np.testing.assert_allclose(scores[1], step.score_out, atol=1e-12)
    assert learner.counts[0] == 1 and learner.counts[1] == step.n_ticks and learner.counts[3] == step.z.sum()


@given(seed=st.integers(0, 10_000), n_hidden=st.integers(0, 3), truncated=st.booleans())
def test_an_episode_of_the_kernel_is_an_actor_critic_with_traces(seed, n_hidden, truncated):
    rng = np.random.default_rng(seed)
    rule = RewardGlm(0.7, 0.4, 0.3, 0.2, 0.9, 0.8, reward_scale=0.5, initial_value=0.25)
    c = rule.constants(0.5, 4)
    w_hidden, w_out = rng.normal(0, 1, (n_hidden, 3)), rng.normal(-1, 1, (2, (n_hidden or 2) + 1))
    v = rng.normal(0, 0.1, 5)
    learner = new_learner(w_hidden.copy(), w_out.copy(), v.copy())
    kernel_draws, draws = np.random.default_rng(seed), np.random.default_rng(seed)
    e_hidden, e_out, e_v, before = np.zeros_like(w_hidden), np.zeros_like(w_out), np.zeros(5), None
    rates = [np.append(np.full(w.shape[1] - 1, 1.0), 0.3) for w in (w_hidden, w_out)]  # of biases another
    for t in range(5):
        last = t == 4
        x = (rng.random((4, 2)) < 0.5).astype(np.float64)
        lines, reward = np.sort(rng.choice(5, 2, replace=False)), float(np.float32(rng.normal()))
        value = 0.25 + v[lines].sum()
        if before is not None:
            delta = 0.5 * reward + 0.9 * (value if truncated or not last else 0.0) - before
            w_hidden, w_out = w_hidden + 0.4 * delta * rates[0] * e_hidden, w_out + 0.7 * delta * rates[1] * e_out
            v = v + 0.2 * delta * e_v
        if last:
            glm_kernels.end(lines, reward, truncated, learner, c)
            break
        before = 0.25 + v[lines].sum()
        step = run_step(x, w_hidden, w_out, 0.5, 4, lambda p: 1.0 * (draws.random(len(p)) < p))
        action = action_of(step.z, draws.random())
        assert glm_kernels.act(x, lines, reward, t == 0, learner, c, kernel_draws) == action
        e_hidden, e_out, e_v = 0.72 * e_hidden + step.score_hidden, 0.72 * e_out + step.score_out, 0.72 * e_v
        e_v[lines] = 1.0
    for found, wanted in ((learner.w_hidden, w_hidden), (learner.w_out, w_out), (learner.v, v)):
        np.testing.assert_allclose(found, wanted, atol=1e-10)
    assert not learner.e_out.any() and not learner.e_v.any() and learner.n_live[0] == 0
