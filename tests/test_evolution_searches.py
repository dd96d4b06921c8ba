"""The searches of evolution against what they are of: gradients, ranks, hills, the library's CMA-ES."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("optuna")
pytest.importorskip("scipy")

from test_evolution import METHODS, SMALL, make

from spikeloop.agents.evolution_searches import (
    BayesianOptimisation,
    CovarianceMatrixAdaptation,
    EvolutionStrategy,
    Perturbation,
    RandomSearch,
    estimated_gradient,
    ranked,
    rarity,
)


@given(n=st.integers(1, 12), sigma=st.floats(1e-3, 10.0), seed=st.integers(0, 2**16))
def test_the_gradient_of_a_quadratic_is_exact_over_opposite_pairs_along_all_axes(n, sigma, seed):
    rng = np.random.default_rng(seed)
    a, b, x = rng.normal(size=(n, n)), rng.normal(size=n), rng.normal(size=n)
    a = a + a.T
    noise = np.linalg.qr(rng.normal(size=(n, n)))[0] * np.sqrt(n)  # as normal noise has it in expectation: E[e e'] = 1
    noise = np.concatenate([noise, -noise])
    points = x + sigma * noise
    values = 0.5 * np.einsum("ki,ij,kj->k", points, a, points) + points @ b
    np.testing.assert_allclose(
        estimated_gradient(values, noise, sigma), a @ x + b, atol=1e-6 * (1 + abs(values).max() / sigma)
    )


def test_the_expected_update_of_a_quadratic_is_its_gradient():
    rng, x, centre = np.random.default_rng(0), np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.0])
    noise = rng.normal(size=(200_000, 3))
    noise = np.concatenate([noise, -noise])
    values = -((x + 0.1 * noise - centre) ** 2).sum(axis=1)
    np.testing.assert_allclose(estimated_gradient(values, noise, 0.1), -2 * (x - centre), atol=0.06)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=30))
def test_ranks_are_centred_and_equals_share_theirs(values):
    from scipy.stats import rankdata

    returns = np.array(values, float)
    expected = (rankdata(returns) - 1) / (len(returns) - 1) - 0.5
    np.testing.assert_allclose(ranked(returns), expected, atol=1e-12)


@given(n=st.integers(5, 200), seed=st.integers(0, 99))
def test_rarity_is_of_ranks_alone_and_the_best_return_towers_above_the_rest(n, seed):
    returns = np.random.default_rng(seed).permutation(n).astype(float)
    found = rarity(returns)
    np.testing.assert_array_equal(rarity(1000.0 * returns**3 - 7.0), found)
    np.testing.assert_allclose(found[[returns.argmin(), returns.argmax()]], [0.0, np.log(n)], atol=1e-12)
    above, below = found.max() - np.median(found), np.median(found) - found.min()
    assert above > below and np.array_equal(found.argsort(), returns.argsort())
    np.testing.assert_array_equal(np.unique(rarity(np.full(n, 3.0))).size, 1)


def test_members_that_all_return_the_same_teach_nothing():
    search, rng = EvolutionStrategy(5, 0.1, 8, 0.0), np.random.default_rng(0)
    search.tell(search.ask(rng), np.full(8, 500.0), 0.1)
    assert not search.point.any()


def test_members_of_an_evolution_strategy_are_opposite_pairs_about_its_point():
    search = EvolutionStrategy(5, 0.1, 8, 0.0)
    search.point = np.arange(5.0)
    members = search.ask(np.random.default_rng(0))
    assert len(np.unique(members[:, 0])) == 8
    np.testing.assert_allclose(members[:4] + members[4:], np.tile(2 * search.point, (4, 1)), atol=1e-12)


def test_a_point_falls_back_towards_the_start_by_weight_decay_times_the_rate():
    search = make(n_members=4, weight_decay=0.5).search
    search.point[:] = 1.0
    search.tell(search.ask(np.random.default_rng(0)), np.full(4, 500.0), 0.1)
    np.testing.assert_allclose(search.point, 0.95)


def best_on_sphere(search, n_evaluations, n, rate=0.1, noise=0.0):
    rng, done = np.random.default_rng(1), 0
    while done < n_evaluations:
        members = search.ask(rng)
        returns = -((members - 1.0) ** 2).sum(axis=1) + noise * rng.normal(size=len(members))
        search.tell(members, returns, rate)
        done += len(members)
    return float(((search.point - 1.0) ** 2).sum() / n)


@pytest.mark.parametrize("n", [2, 10, 40])
def test_every_search_gets_nearer_and_random_draws_are_the_worst(n):
    searches = {
        "es": EvolutionStrategy(n, 0.1, 16, 0.0),
        "cma": CovarianceMatrixAdaptation(n, 0.3, 16),
        "perturbation": Perturbation(n, 0.1, True),
        "random": RandomSearch(n, 1.0),
    }
    reached = {name: best_on_sphere(search, 1600, n) for name, search in searches.items()}
    assert reached["es"] < 0.1 and reached["cma"] < 0.1 and reached["perturbation"] < 0.25, reached
    if n > 2:
        assert reached["random"] > 2 * max(reached["es"], reached["cma"], reached["perturbation"]), reached


def test_the_evolution_strategy_is_as_good_as_its_peer_on_an_ill_conditioned_valley_from_afar():
    scale = 10.0 ** np.linspace(0, 1, 10)

    def value(x):
        return -(scale * (x - 1.0) ** 2).sum(axis=1)

    reached = []
    for search in (EvolutionStrategy(10, 0.1, 20, 0.0), CovarianceMatrixAdaptation(10, 0.3, 20)):
        rng = np.random.default_rng(0)
        for _ in range(150):
            members = search.ask(rng)
            search.tell(members, value(members), 0.05)
        reached.append(-value(search.point[None])[0] / 10)
    assert max(reached) < 0.2  # 3.9 at the start


def test_cma_is_the_librarys():
    import cmaes

    search, peer = CovarianceMatrixAdaptation(4, 0.5, 6), cmaes.CMA(mean=np.zeros(4), sigma=0.5, population_size=6)
    rng, also = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(5):
        members = search.ask(rng)
        peer.reseed_rng(int(also.integers(2**31)))
        theirs = np.array([peer.ask() for _ in range(6)])
        np.testing.assert_array_equal(members, theirs)
        values = (members**2).sum(axis=1)
        search.tell(members, -values, 0.0)
        peer.tell(list(zip(theirs, values.tolist(), strict=True)))
    np.testing.assert_array_equal(search.point, peer.mean)


def test_a_lucky_score_is_forgotten_or_played_again():
    kept, again = Perturbation(3, 0.1, False), Perturbation(3, 0.1, True)
    rng = np.random.default_rng(0)
    for search in (kept, again):
        search.tell(search.ask(rng), np.full(1 + search.reevaluate, 500.0), 0.0)  # luck
    point = kept.point.copy()
    for i in range(1700):  # in truth they are worth 100, and so is every step
        kept.tell(kept.ask(rng), np.array([100.0]), 0.0)
        if i == 1000:
            assert np.array_equal(kept.point, point)
    assert not np.array_equal(kept.point, point)
    point = again.point.copy()
    again.tell(again.ask(rng), np.array([100.0, 100.0]), 0.0)
    assert not np.array_equal(again.point, point)  # at once


@pytest.mark.parametrize("returns", [-500.0, 500.0])
def test_a_score_falls_whatever_its_sign(returns):
    search, rng = Perturbation(3, 0.1, False), np.random.default_rng(0)
    search.tell(search.ask(rng), np.array([returns]), 0.0)
    search.tell(search.ask(rng), np.array([returns - 100]), 0.0)
    assert search.score < returns


def test_the_best_of_many_draws_is_played_again_before_it_counts():
    search, rng = RandomSearch(2, 1.0), np.random.default_rng(0)
    first = search.ask(rng)
    search.tell(first, np.array([500.0]), 0.0)
    for _ in range(search.n_confirmed - 1):
        again = search.ask(rng)
        np.testing.assert_array_equal(again, first)
        search.tell(again, np.array([0.0]), 0.0)
    assert not np.array_equal(search.ask(rng), first)


def test_bayes_finds_a_hill_that_random_draws_do_not():
    rng, values = np.random.default_rng(0), {}
    bayes = BayesianOptimisation(20, 1.0, 4, 6, np.random.default_rng(5))
    top = bayes.embedding @ np.array([0.3, -0.4, 0.2, 0.6])
    for name, search in (("bayes", bayes), ("random", RandomSearch(20, 1.0))):
        search.n_confirmed = 1  # there is no luck here
        for _ in range(45):
            members = search.ask(rng)
            search.tell(members, -((members - top) ** 2).sum(axis=1), 0.0)
        values[name] = ((search.point - top) ** 2).sum()
    assert values["bayes"] < 0.3 * values["random"]


@pytest.mark.parametrize("method", METHODS)
def test_a_search_goes_on_from_what_it_remembers(method):
    one, other = (make(method=method, **METHODS[method], policy_kwargs={**SMALL, "n_neurons": 2}) for _ in range(2))
    rng = np.random.default_rng(0)
    for _ in range(4):
        members = one.search.ask(rng)
        one.search.tell(members, members.sum(axis=1), 0.1)
    other.search.load_state_dict(one.search.state_dict())
    for search in (one.search, other.search):
        rng = np.random.default_rng(7)
        for _ in range(3):
            members = search.ask(rng)
            search.tell(members, members.sum(axis=1), 0.1)
    np.testing.assert_array_equal(one.search.point, other.search.point)
