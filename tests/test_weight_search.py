"""A deployed policy that tries other weights when its returns fall: when it does, what it does, and what is kept."""

import numpy as np
import pytest
from deployable import exact_network, observations
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.hardware import DeployedPolicy, Deployment, compile_network
from spikeloop.hardware.learning.engine import Learner
from spikeloop.hardware.learning.perturbation import perturbation_rule, ticks_of_trial
from spikeloop.hardware.learning.reference import ReferenceLearner
from spikeloop.hardware.reinforcement import Reinforcement
from spikeloop.hardware.weight_search import SIZES, WeightSearch

N_STEPS = 20


def deployment(**search):
    plain = compile_network(exact_network(beta=0.0), "loihi1")
    return plain.taught("perturbation", reinforcement=WeightSearch(n_record=3, **search))


def weights(policy):
    return policy.machine.emulator.weights(len(policy.deployment.program.projections) - 1)


def episode(policy, wanted=None):
    """Play the same observations once; return the actions, rewarded where they are the wanted ones."""
    state, actions = None, []
    for t, x in enumerate(observations(7, N_STEPS, 1)[0]):
        action, state = policy.predict(x[0], state, np.array([t == 0]))
        actions.append(int(action))
        if policy.learning:
            policy.reinforce(float(wanted is not None and action == wanted[t]), truncated=t == N_STEPS - 1)
    return actions


def went(search, *returns):
    """Return the search after episodes with these returns, and the last verdict."""
    for episode_return in returns:
        search, verdict = search.after(episode_return)
    return search, verdict


@given(st.floats(-1e6, 1e6), st.integers(3, 40))
def test_returns_that_stay_what_they_were_change_nothing(mean, n):
    search = WeightSearch(n_record=3)
    for _ in range(n):
        search, verdict = search.after(mean)
        assert not any(verdict) and search.surprise == 0


def test_returns_that_scatter_as_on_record_hardly_ever_open_the_gate():
    rng, opened = np.random.default_rng(0), 0
    for _ in range(100):
        search, _ = went(WeightSearch(n_record=20), *(100 + 10 * rng.standard_normal(20)))
        opened += any((search := search.after(100 + 10 * x)[0]).trying for x in rng.standard_normal(100))
    assert opened <= 10


def test_a_single_bad_episode_is_borne_and_two_are_not():
    search, _ = went(WeightSearch(n_record=3), 100, 100, 100, 0)
    assert search.phase == "quiet"
    assert went(search, 100)[0].phase == "quiet"
    search, verdict = search.after(0)
    assert search.phase == "turned" and verdict.turn


@given(st.lists(st.floats(-200, 200), min_size=8, max_size=40), st.integers(0, 9))
def test_a_search_keeps_what_was_better_and_writes_back_what_was_not(returns, seed):
    search, _ = went(WeightSearch(n_record=3, seed=seed), 100, 100, 100, 0, 0)
    for episode_return in returns:
        before = search
        search, verdict = before.after(episode_return)
        assert verdict.keep == (before.trying and episode_return > before.score)
        assert verdict.back == (before.trying and not verdict.keep)
        assert search.phase != "quiet" or before.phase == "quiet" or search.score >= search.bar
        assert (verdict.size in SIZES) == (search.phase == "trying")
        assert verdict.turn == (search.phase == "turned") and verdict.reverse == (search.phase == "reversed")


@given(st.integers(0, 2**31), st.sampled_from(SIZES))
def test_a_trial_is_drawn_added_and_taken_off_by_the_learning_engine(seed, size):
    first = 2 * np.random.default_rng(seed).integers(-20, 21, (2, 6))
    learner = Learner(perturbation_rule("nengo"), first, seed=seed)
    reference, none = ReferenceLearner(perturbation_rule("nengo"), first, seed=seed), np.zeros(0, np.int32)

    def make(**trial):
        for tick in ticks_of_trial(**trial):
            written = np.zeros((3, 2), np.int32)
            written[0], written[1] = tick.y1, tick.y2
            learner.tick(none, none, tick.reward, written)
            reference.tick([], [], tick.reward, written)
        np.testing.assert_array_equal(learner.w, reference.w)
        np.testing.assert_array_equal(learner.t, reference.t)

    make(size=size)
    tags = learner.t.copy()
    assert abs(tags).max() <= 2**size and np.unique(tags).size > 2
    np.testing.assert_array_equal(learner.w, np.clip(first + 2 * tags, -254, 254))
    learner.write("w", first)
    reference.w = first.copy()
    make(reverse=True)
    np.testing.assert_array_equal(learner.w, np.clip(first - 2 * tags, -254, 254))
    now = learner.w.copy()
    make(turn=True)
    np.testing.assert_array_equal(learner.w, -now)


def test_while_returns_are_those_on_record_the_policy_is_bit_for_bit_the_frozen_one():
    policy, frozen = DeployedPolicy(deployment(), learning=True), DeployedPolicy(deployment())
    wanted, before = episode(frozen), weights(policy).copy()
    for _ in range(6):
        assert episode(policy, wanted) == wanted
    np.testing.assert_array_equal(weights(policy), before)
    assert policy.machine.emulator.counts.learned.sum() == 0 and policy.reinforcement.phase == "quiet"


@pytest.mark.filterwarnings("ignore:values left")
def test_turned_actions_are_recovered_from():
    policy = DeployedPolicy(deployment(), learning=True)
    wanted = episode(DeployedPolicy(deployment()))
    for _ in range(3):
        episode(policy, wanted)
    turned = [1 - action for action in wanted]
    for _ in range(40):
        episode(policy, turned)
    assert policy.machine.emulator.counts.learned.sum() > 0
    found = np.mean(np.equal(episode(DeployedPolicy(policy.learned())), turned))
    assert found > 0.9 > np.mean(np.equal(wanted, turned))


def test_a_file_saved_within_a_trial_holds_the_weights_that_are_kept(tmp_path):
    policy = DeployedPolicy(deployment(), learning=True)
    wanted, before = episode(DeployedPolicy(deployment())), weights(policy).copy()
    for k in range(5):
        episode(policy, wanted if k < 3 else None)
    assert policy.reinforcement.trying and np.any(weights(policy) != before)
    policy.save(tmp_path / "search.safetensors")
    again = DeployedPolicy(Deployment.load(tmp_path / "search.safetensors"), learning=True)
    np.testing.assert_array_equal(weights(again), before)
    assert again.reinforcement == policy.reinforcement.without_trial()
    assert again.deployment.program.projections[-1].learning.state.ticks > 0  # no trial is drawn twice
    episode(again, None)
    assert again.reinforcement.n_episodes == 6


@pytest.mark.filterwarnings("ignore:lowered")
def test_what_cannot_be_searched_is_refused():
    with pytest.raises(ValueError, match=r"profile must be 'nengo', .* got 'lava'"):
        perturbation_rule("lava")
    plain = compile_network(exact_network(beta=0.0), "loihi1")
    with pytest.raises(ValueError, match="must be a WeightSearch for the rule 'perturbation', got a Reinforcement"):
        plain.taught("perturbation", reinforcement=Reinforcement())
    with pytest.raises(ValueError, match="must be a Reinforcement for the rule 'rstdp', got a WeightSearch"):
        plain.taught("rstdp", reinforcement=WeightSearch())
    with pytest.raises(ValueError, match="phase must be one of"):
        WeightSearch(phase="resting")
