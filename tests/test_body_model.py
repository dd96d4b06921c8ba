"""A host's model of a body: fitted to what was observed, and a search for corrections of sensors in it."""

from dataclasses import replace

import numpy as np
import pytest
from deployable import exact_network
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.hardware import DeployedPolicy, body_model, compile_network
from spikeloop.hardware.body_model import BodyModel, Episode, best_shift
from spikeloop.hardware.experience import Experience
from spikeloop.hardware.sensors import corrected, seen_by
from spikeloop.hardware.weight_search import Verdict, WeightSearch
from spikeloop.spiking import ActionHead, Encoder, Layer, LsnnNeurons, Network, Normalizer, Readout
from spikeloop.spiking.observation import ObservationPart


def affine_body(n, n_actions, rng):
    """Return the next observation and the reward of an affine body, one row each."""
    matrices, added = 0.3 * rng.standard_normal((n_actions, n, n)), rng.standard_normal((n_actions, n))
    rewards = rng.standard_normal((n_actions, n))

    def step(rows, actions):
        after = np.einsum("bij,bj->bi", matrices[actions], rows) + added[actions]
        return after, (rewards[actions] * rows).sum(axis=1)

    return step


def seen(step, n, actions, rng):
    rows = [rng.standard_normal(n)]
    for action in actions[:-1]:
        rows.append(step(rows[-1][None], np.array([action]))[0][0])
    rewards = step(np.array(rows), actions)[1]
    return Episode(np.array(rows), actions, rewards)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_the_model_of_an_affine_body_is_that_body(n, n_actions, seed):
    rng = np.random.default_rng(seed)
    step = affine_body(n, n_actions, rng)
    episodes = [seen(step, n, rng.integers(n_actions, size=40), rng) for _ in range(10)]
    model = BodyModel.fitted(episodes, episodes[0].observations[:1], n_actions)
    rows, actions = episodes[0].observations, episodes[0].actions
    after, rewards, ended = model.step(rows, actions, rng)
    scale = model.deviation.max()
    np.testing.assert_allclose(after, step(rows, actions)[0], atol=0.02 * scale)
    np.testing.assert_allclose(rewards, step(rows, actions)[1], atol=0.02 * (1 + scale))
    assert not ended[:-1].any()


def test_an_action_that_was_never_tried_counts_as_one_like_the_others():
    rng = np.random.default_rng(0)
    episode = seen(affine_body(2, 1, rng), 2, np.zeros(40, int), rng)
    model = BodyModel.fitted([episode], episode.observations[:1], 2)
    after, rewards, _ = model.step(np.ones((2, 2)), np.array([0, 1]), np.random.default_rng(1))
    np.testing.assert_allclose(after[0], after[1], atol=0.01 * np.ptp(episode.observations))
    np.testing.assert_allclose(rewards[0], rewards[1], atol=0.01 * np.ptp(episode.rewards))


def test_an_imagined_episode_ends_where_nobody_has_been():
    rows = np.linspace(-1.0, 1.0, 41)[:, None]  # to the right, step by step
    model = BodyModel.fitted([Episode(rows, np.zeros(41, int), np.ones(41))], rows[:1], 1)
    ended = model.step(np.array([[0.0], [0.96], [0.98], [-1.4]]), np.zeros(4, int), np.random.default_rng(0))[2]
    assert ended.tolist() == [False, False, True, True]


def test_imagined_episodes_begin_around_new_starts_and_scatter_as_old_ones():
    rng = np.random.default_rng(0)
    old = rng.normal([5.0, 0.0], [0.1, 0.3], (400, 2))
    episodes = [Episode(np.array([[1.0, -1.0], [0.0, 0.0]]), np.zeros(2, int), np.ones(2)) for _ in range(2)]
    starts = BodyModel.fitted(episodes, old, 1).start(4000, rng)
    np.testing.assert_allclose(starts.mean(axis=0), [1.0, -1.0], atol=0.02)
    np.testing.assert_allclose(starts.std(axis=0), [0.1, 0.3], rtol=0.1)
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.1


def test_the_model_is_given_how_episodes_began_before_something_surprised(monkeypatch):
    experience = Experience(compile_network(two_neurons(), "loihi1").host)
    for first in (0.1, 0.3):
        experience.saw(np.array([first]), 0)
        experience.rewarded(1.0)
        experience.ended()
        experience.calm(anew=False)
    experience.saw(np.array([0.8]), 1)
    experience.rewarded(1.0)
    experience.ended()
    given = []

    def fitted(episodes, starts, n_actions):
        given.append(starts)
        raise InterruptedError

    monkeypatch.setattr(body_model.BodyModel, "fitted", fitted)
    for _ in range(2):
        with pytest.raises(InterruptedError):
            experience.best_correction([None], np.zeros(2), (0, 0))
        experience.starts.clear()
    np.testing.assert_array_equal(given[0], [[0.1], [0.3]])
    np.testing.assert_array_equal(given[1], [[0.8]])  # nothing is known from before


class Counting:
    """The state of a policy that counts its steps, so that it is noticed where states get mixed up."""

    def __init__(self, counts):
        self.counts = counts

    def of(self, mask):
        return Counting(self.counts[mask])


def counting(rows, state, starts):
    counts = np.where(starts, 0, 0 if state is None else state.counts)
    return (rows[:, 0] * 4 + counts).astype(int) % 3 % 2, Counting(counts + 1)


def test_episodes_that_end_leave_the_others_as_they_are():
    model = BodyModel(
        mean=np.zeros(1),
        deviation=np.ones(1),
        weights=np.array([[[0.25, 1.0], [0.0, 0.5]], [[-0.5, 2.0], [0.0, 0.0]]]),
        residuals=np.zeros((1, 2)),
        low=np.array([-2.0]),
        high=np.array([2.0]),
        starts=np.linspace(-1.0, 1.0, 9)[:, None],
    )
    candidates = np.array([[[1.0], [0.0]], [[2.0], [0.5]], [[0.25], [-0.25]]])
    together = model.returns(counting, candidates, 4, np.random.default_rng(5))
    starts = model.start(4, np.random.default_rng(5))
    alone = []
    for gain, added in candidates:
        for row in starts:
            total, now, count = 0.0, row[0], 0
            for _ in range(500):
                action = int((gain[0] * now + added[0]) * 4 + count) % 3 % 2
                (constant, reward), (slope, of_reward) = model.weights[action]
                total, now, count = total + reward + of_reward * now, now + constant + slope * now, count + 1
                if abs(now) > 2:
                    break
            alone.append(total)
    np.testing.assert_allclose(together, np.reshape(alone, (3, 4)).mean(axis=1))


@given(st.integers(0, 99), st.booleans())
def test_candidates_see_what_a_corrected_host_would_take_in(seed, normalised):
    rng, host = np.random.default_rng(seed), compile_network(exact_network(beta=0.0), "loihi1").host
    if normalised:
        host = replace(host, preprocessing=(Normalizer(rng.standard_normal(3), rng.uniform(0.5, 2, 3), clip=2.0),))
    shifts, rows = rng.standard_normal((5, 6)), rng.standard_normal((4, 3))
    for shift, (gain, added) in zip(shifts, seen_by(host, shifts), strict=True):
        as_seen = gain * rows + added
        for step in host.preprocessing:
            as_seen = step(as_seen)
        expected = rows
        for step in corrected(host, shift).preprocessing:
            expected = step(expected)
        np.testing.assert_allclose(as_seen, expected, atol=1e-5)


def two_neurons():
    """Return a policy that goes right where its one number is below -0.2, and left where it is not."""
    ones = np.ones(2)
    layer = Layer(np.array([[-5.0], [5.0]]), 0 * ones, LsnnNeurons(4 * ones, ones, ones, 0 * ones, 0 * ones))
    head = ActionHead("discrete", (2,))
    return Network(
        Encoder("direct", 1),
        (layer,),
        Readout(np.array([[-1.0, 1.0], [1.0, -1.0]]), 0 * ones),
        head,
        n_ticks=2,
        latency=1,
    )


def lived(policy, n_episodes, offset, rng):
    """Return how long episodes are in which a point is pushed away from 0 and from which it must not be 1 away."""
    lengths = []
    for _ in range(n_episodes):
        x, state = rng.uniform(-0.1, 0.1), None
        for t in range(60):
            action, state = policy.predict(np.array([x + offset]), state, np.array([t == 0]))
            x = 1.1 * x + (0.1 if action else -0.1) + 0.01
            out = abs(x) > 1
            if policy.learning:
                policy.reinforce(1.0, bool(out), t == 59)
            if out:
                break
        lengths.append(t + 1)
    return lengths


@pytest.mark.filterwarnings("ignore:values left")
def test_a_sensor_that_is_off_is_corrected_within_a_few_episodes_and_what_is_found_can_be_repeated():
    def life():
        search = WeightSearch(n_record=3)
        taught = compile_network(two_neurons(), "loihi1").taught("perturbation", reinforcement=search)
        policy, rng = DeployedPolicy(taught, learning=True), np.random.default_rng(0)
        before = lived(policy, 5, 0.0, rng)
        after = lived(policy, 14, 0.7, rng)
        frozen = lived(DeployedPolicy(compile_network(two_neurons(), "loihi1")), 20, 0.7, rng)
        return before, after, lived(DeployedPolicy(policy.learned()), 20, 0.7, rng), frozen, policy

    before, after, kept, frozen, policy = life()
    assert before == [60] * 5 and np.mean(frozen) < 20 and np.mean(kept) > 45
    assert policy.changes()["sensors"]["changed"] == 2
    assert life()[1] == after


@pytest.mark.parametrize("shape, start", [((1, 2), 0), ((2,), 5)])
def test_what_is_found_is_tried_and_else_a_drawn_shift(shape, start, monkeypatch):
    network = two_neurons()
    layer = replace(network.layers[0], w_in=np.array([[-5.0, 0.0], [5.0, 0.0]]))
    head = ActionHead("discrete", (2,), start=(start,))
    network = replace(
        network, encoder=Encoder("direct", 2), layers=(layer,), head=head, observation=(ObservationPart(shape),)
    )
    search = WeightSearch(n_record=3)
    policy = DeployedPolicy(
        compile_network(network, "loihi1").taught("perturbation", reinforcement=search), learning=True
    )
    rng = np.random.default_rng(0)
    for _ in range(60):
        obs = rng.uniform(-1, 1, shape)
        action, _ = policy.predict(obs, None, np.ones(1, bool))
        assert action - start in (0, 1) and policy._experience._now[1] == action - start
        policy.reinforce(1.0)
    policy._experience.ended()
    shift = np.array([0.1, 0.0, 0.2, 0.0])
    acted = []
    monkeypatch.setattr(
        body_model.BodyModel,
        "returns",
        lambda self, act, seen, n, rng: (
            acted.append(act(self.start(len(seen), rng), None, np.ones(len(seen), bool))[0])
            or -np.abs(seen[:, 0] - 2).sum(axis=1)
        ),
    )
    policy._change_sensors(Verdict(modelled=True, shift=tuple(shift)))
    assert set(np.concatenate(acted)) <= {0, 1} and len(acted[0]) > 1
    assert np.all(policy._shift[2:] > 0.3) and not policy._kept_shift.any()
    monkeypatch.setattr(body_model.BodyModel, "returns", lambda self, act, seen, n, rng: np.zeros(len(seen)))
    policy._change_sensors(Verdict(back=True, modelled=True, shift=tuple(shift)))
    np.testing.assert_array_equal(policy._shift, shift)


def test_in_the_model_act_the_kept_weights_and_the_search_begins_at_the_kept_sensors(monkeypatch):
    plain = compile_network(two_neurons(), "loihi1")
    policy = DeployedPolicy(plain.taught("perturbation", reinforcement=WeightSearch(n_record=3)), learning=True)
    policy.machine.change_weights(Verdict(turn=True))
    policy.machine.change_weights(Verdict(keep=True))
    policy._change_sensors(Verdict(shift=(0.25, 0.5)))
    policy._change_sensors(Verdict(keep=True))
    asked = []
    monkeypatch.setattr(policy._experience, "best_correction", lambda *arguments: asked.append(arguments))
    policy._change_sensors(Verdict(modelled=True))
    policy.reinforcement = replace(policy.reinforcement, n_episodes=7)
    policy._change_sensors(Verdict(modelled=True))
    ((step, turned), first, seed), (_, _, later) = asked
    np.testing.assert_array_equal(first, [0.25, 0.5])
    assert seed != later
    rows = np.array([[0.9], [-0.9]])  # not corrected: what the model is asked about is corrected already
    deployed = DeployedPolicy(plain).step(rows)[0]
    kept, other = (act(rows, None, np.ones(2, bool))[0] for act in (step, turned))
    assert deployed.argmax(axis=1).tolist() == other.argmax(axis=1).tolist() == [0, 1]
    assert kept.argmax(axis=1).tolist() == [1, 0]


def test_the_weights_are_turned_where_that_is_best_in_the_model_and_turned_back_where_it_fails(monkeypatch):
    taught = compile_network(two_neurons(), "loihi1").taught("perturbation", reinforcement=WeightSearch(n_record=3))
    policy = DeployedPolicy(taught, learning=True)
    at = len(taught.program.projections) - 1
    before = policy.machine.emulator.weights(at).copy()
    shift = np.array([0.1, 0.2])
    for turned in (1, 0):
        monkeypatch.setattr(policy._experience, "best_correction", lambda *_, turned=turned: (turned, shift))
        policy._change_sensors(Verdict(modelled=True))
        np.testing.assert_array_equal(policy.machine.emulator.weights(at), (1 - 2 * turned) * before)
        np.testing.assert_array_equal(policy._shift, shift)
        policy.machine.change_weights(Verdict(back=True))
        policy._change_sensors(Verdict(back=True))
        np.testing.assert_array_equal(policy.machine.emulator.weights(at), before)
        assert not policy._shift.any()


@pytest.mark.parametrize("turned", [False, True])
def test_the_best_of_several_policies_is_found_with_its_correction_or_none_where_that_is_what_is_kept(turned):
    experience, rng = Experience(compile_network(two_neurons(), "loihi1").host), np.random.default_rng(0)
    for _ in range(6):
        x = rng.uniform(-0.1, 0.1)
        for _ in range(9):
            action = int(rng.integers(2))
            experience.saw(np.array([x]), action)
            experience.rewarded(1.0)
            x = 0.9 * x + (0.1 if (action == 1) != turned else -0.1)
        experience.ended()

    def balances(sign):
        def step(rows, state, starts):
            return sign * np.stack([rows[:, 0], -rows[:, 0]], axis=1), Counting(starts)

        return step

    steps = [balances(1.0), balances(-1.0)]
    found = experience.best_correction(steps, np.zeros(2), (0, 0))
    assert (found is None) != turned and (not turned or found[0] == 1)


@given(st.integers(0, 99), st.sampled_from(["direct", "rate", "delta"]))
def test_the_state_of_some_environments_is_theirs(seed, kind):
    rng = np.random.default_rng(seed)
    options = {"delta": {"threshold": 0.3}, "rate": {"low": np.zeros(3), "high": np.ones(3)}}
    encoder = Encoder(kind, 3, **options.get(kind, {}))
    n_channels = encoder.n_channels
    base = exact_network(beta=0.0)
    layer = replace(base.layers[0], w_in=np.resize(base.layers[0].w_in, (base.layers[0].n_neurons, n_channels)))
    policy = DeployedPolicy(compile_network(replace(base, encoder=encoder, layers=(layer,)), "loihi1"))
    obs = rng.uniform(0, 1, (2, 5, 3))
    _, state = policy.step(obs[0], None, np.ones(5, bool))
    together, _ = policy.step(obs[1], state)
    mask = rng.random(5) < 0.6
    mask[0] = True
    some, _ = policy.step(obs[1][mask], state.of(mask))
    np.testing.assert_array_equal(some, together[mask])


def test_a_model_is_fitted_where_numbers_are_observed_one_action_is_chosen_and_no_reward_is_negative():
    host = compile_network(two_neurons(), "loihi1").host

    def after(host, reward=1.0, n=9, row=0.5):
        experience = Experience(host)
        for t in range(n):
            experience.saw(np.full(host.n_obs, row), 0)
            experience.rewarded(reward if reward is not None else float(t == n - 1))
        experience.ended()
        return experience

    assert after(host).modelled
    assert not after(host, n=8).modelled and not after(host, reward=-0.1).modelled
    assert not after(host, row=np.nan).modelled
    assert not after(host, reward=None).modelled  # a reward at the end alone is in no transition
    choices = replace(
        compile_network(exact_network(beta=0.0), "loihi1").host, observation=(ObservationPart((), "", (3,)),)
    )
    assert choices.n_obs == 3 and not after(choices, n=40).modelled
    many = replace(host, observation=(ObservationPart((65,)),), encoder=Encoder("direct", 65), w_in=np.ones((2, 65)))
    assert not after(many, n=700).modelled and not after(many).episodes
    assert len(after(host, n=3000).episodes[0].rewards) == 2000
    calm = after(host)
    calm.calm(anew=False)
    calm.calm(anew=False)
    assert not calm.modelled and len(calm.starts) == 1
    calm.calm(anew=True)
    assert not calm.starts


def test_the_search_begins_where_it_is_told_and_is_repeated_by_its_seed():
    def returns(shifts, n_episodes=1):
        return -np.abs(shifts - 0.5).sum(axis=1)

    (found, mean), (again, _) = (best_shift(returns, np.full(4, 3.0), np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(found, again)
    assert mean == returns(found[None])[0] > returns(np.full((1, 4), 3.0))[0] / 2
