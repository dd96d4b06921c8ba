"""The winner-take-all learner: its kernels compute what the plain rule says, in the rows that are active."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.spiking.encoders.tile_coding import Dimensions, PlaceCells, Tiles
from spikeloop.spiking.rules import winner_take_all_kernels
from spikeloop.spiking.rules.base import Post
from spikeloop.spiking.rules.plastic_network import PlasticNetwork, check_code
from spikeloop.spiking.rules.winner_take_all import WinnerTakeAll, WinnerTakeAllParameters, WinnerTakeAllRule

N_INPUTS, N_OUTPUTS = 12, 3

parameters = st.builds(
    WinnerTakeAllParameters,
    learning_rate=st.floats(0, 2),
    value_learning_rate=st.floats(0, 1),
    eligibility_decay=st.floats(0, 1),
    noise=st.floats(0, 1),
    value_offset=st.floats(-1, 1),
    w_max=st.floats(0.01, 1),
    eligibility_floor=st.sampled_from([1e-6, 1e-3, 0.3]),
)
steps = st.lists(
    st.tuples(st.sets(st.integers(0, N_INPUTS - 1), max_size=4), st.floats(-3, 3), st.booleans()), max_size=30
)


def run_plainly(w, x, n_ticks, parameters, rng):
    """Return the spikes of an env step, shape (n_ticks, n_actions), and its value, in plain numpy over all lines."""
    z = np.zeros((n_ticks, len(w) - 1))
    for tick in range(n_ticks):
        u = w[:-1] @ x + parameters.noise * rng.standard_normal(len(w) - 1)
        z[tick, np.argmax(u)] = 1
    return z, parameters.value_offset + float(w[-1] @ x)


@given(parameters=parameters, steps=steps, n_ticks=st.integers(1, 7), seed=st.integers(0, 2**32))
def test_kernels_compute_what_the_rule_says(parameters, steps, n_ticks, seed):
    network = WinnerTakeAll(N_INPUTS, N_OUTPUTS, parameters, np.random.default_rng(seed))
    rule, rng = WinnerTakeAllRule(parameters, n_ticks), np.random.default_rng(seed)
    size = N_OUTPUTS + 1, N_INPUTS  # the critic is the last
    c, w, traces = rule.constants(1.0, np.float64), np.zeros(size), rule.begin(*size, np.float64)
    for lines, modulator, ends in steps:
        x = np.isin(np.arange(N_INPUTS), list(lines)).astype(float)
        counts, last, value = network.run(np.flatnonzero(x), n_ticks)
        z, expected = run_plainly(w, x, n_ticks, parameters, rng)
        np.testing.assert_array_equal(counts, z.sum(axis=0))
        np.testing.assert_array_equal(last, z[-1])
        assert value == pytest.approx(expected, abs=1e-9)
        for tick in z:
            traces = rule.tick(x, Post(np.append(tick, 0)), traces, c)
        network.reinforce(modulator)
        w = rule.change(w, traces, modulator, c)
        np.testing.assert_allclose(network.state_dict()["w"], w[:-1], atol=1e-9)
        np.testing.assert_allclose(network.state_dict()["v"], w[-1], atol=1e-9)
        e = rule.tick(x, Post(np.zeros(N_OUTPUTS + 1)), traces, c).e  # the network counts the step in at once
        np.testing.assert_allclose(network.arrays.e_w.T, e[:-1], atol=1e-9)
        live = network.arrays.live[: network.arrays.n_live[0]]
        assert sorted(live) == sorted(np.flatnonzero(e[-1]))
        if ends:
            network.reset()
            traces = rule.begin(*size, np.float64)


def test_parameters_of_before_are_taken_from_their_pickle():
    former = {"learning_rate": 0.2, "value_learning_rate": 0.1, "tag_decay": 0.5, "noise": 0.1, "value_offset": 1.0}
    found = object.__new__(WinnerTakeAllParameters)
    found.__setstate__({**former, "w_max": 2.0, "tag_floor": 0.01})
    assert found == WinnerTakeAllParameters(0.2, 0.1, 0.5, 0.1, 1.0, 2.0, 0.01)
    assert pickle.loads(pickle.dumps(found)) == found


def learned(seed=0):
    network = WinnerTakeAll(N_INPUTS, 2, WinnerTakeAllParameters(), np.random.default_rng(seed))
    for _ in range(2000):
        x = network.rng.choice(N_INPUTS // 2, 1) * 2
        network.reset()
        _, last, _ = network.run(x, 5)
        network.reinforce(0.0)
        network.run(x, 5)
        network.reinforce(1.0 if last.argmax() == x[0] // 2 % 2 else -1.0)
    return network


def test_it_is_a_plastic_network():
    assert isinstance(WinnerTakeAll(2, 2, WinnerTakeAllParameters(), np.random.default_rng(0)), PlasticNetwork)


def test_it_learns_which_action_is_rewarded_and_leaves_silent_lines_alone():
    network = learned()
    network.learning = network.exploring = False
    choices = [network.run(np.array([line]), 1)[1].argmax() for line in range(0, N_INPUTS, 2)]
    assert choices == [0, 1, 0, 1, 0, 1]
    assert not network.state_dict()["w"][:, 1::2].any()


def test_the_same_seed_gives_the_same_bits():
    np.testing.assert_array_equal(learned(3).state_dict()["w"], learned(3).state_dict()["w"])


def test_an_evaluation_in_the_middle_of_an_episode_changes_nothing():
    networks = [WinnerTakeAll(N_INPUTS, 2, WinnerTakeAllParameters(), np.random.default_rng(0)) for _ in range(2)]
    for step in range(5):
        for network in networks:
            network.run(np.array([step, step + 1]), 5)
        networks[0].learning = networks[0].exploring = False
        networks[0].run(np.array([0, 7]), 5)
        networks[0].learning = networks[0].exploring = True
        for network in networks:
            network.reinforce(0.1 * step)
    np.testing.assert_array_equal(networks[0].state_dict()["w"], networks[1].state_dict()["w"])


def test_without_noise_all_ticks_are_won_by_the_largest_weight():
    network = WinnerTakeAll(2, 3, WinnerTakeAllParameters(), np.random.default_rng(0))
    network.load_state_dict({"w": [[0.1, 0], [0.3, 0], [0.2, 0]], "v": [1, 2]})
    network.exploring = False
    counts, last, value = network.run(np.array([0]), 4)
    assert list(counts) == [0, 4, 0] and list(last) == [0, 1, 0] and value == 1


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        ({"learning_rate": -1}, "learning_rate must be a number >= 0, got -1"),
        ({"eligibility_decay": 2}, "eligibility_decay must be between 0 and 1, got 2"),
        ({"w_max": 0}, "w_max must be > 0, got 0"),
        ({"eligibility_floor": 0}, "eligibility_floor"),
        ({"value_offset": np.nan}, "value_offset"),
    ],
)
def test_wrong_numbers_are_refused_by_name(wrong, answer):
    with pytest.raises(ValueError, match=answer):
        WinnerTakeAllParameters(**wrong)


def test_lines_and_weights_that_do_not_fit_are_refused():
    network = WinnerTakeAll(2, 3, WinnerTakeAllParameters(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="below 2"):
        network.run(np.array([2]), 1)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        network.run(np.array([1]), 0)
    with pytest.raises(ValueError, match="2 lines and 3 actions"):
        network.load_state_dict({"w": np.zeros((2, 3)), "v": np.zeros(2)})


# ---- input lines

SQUARE = Dimensions((0, 0), (1, 2))


@given(obs=st.tuples(st.floats(-3, 3), st.floats(-3, 3)), n=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_tiles_are_those_of_displaced_grids(obs, n):
    tiles = Tiles(SQUARE, n)
    expected = []
    for t in range(8):
        place = np.clip(np.array(obs) / [1, 2], 0, 1) * n + np.array([t % 8, 3 * t % 8]) / 8
        expected.append(t * (n[0] + 1) * (n[1] + 1) + int(place[0]) * (n[1] + 1) + int(place[1]))
    active = tiles.lines(np.array(obs))
    np.testing.assert_array_equal(active, expected)
    assert active.max() < tiles.n_inputs == 8 * (n[0] + 1) * (n[1] + 1)


@given(angle=st.floats(-10, 10), speed=st.floats(-1, 1))
def test_angles_wrap_whether_given_raw_or_as_cosine_and_sine(angle, speed):
    raw = Tiles(Dimensions((-np.pi, -1), (np.pi, 1), wraps=(0,)), (5, 7))
    pair = Tiles(Dimensions((-np.pi, -1), (np.pi, 1), components=((0, 1), 2)), (5, 7))
    assert raw.shape == pair.shape == (5, 8)
    obs = np.array([angle, speed])
    assert raw.lines(obs).max() < raw.n_inputs
    place = (angle + np.pi) * 5 / (2 * np.pi) * 8
    if abs(place - round(place)) > 1e-6:  # not on an edge
        np.testing.assert_array_equal(raw.lines(obs), raw.lines(np.add(obs, [2 * np.pi, 0])))
        np.testing.assert_array_equal(raw.lines(obs), pair.lines(np.array([np.cos(angle), np.sin(angle), speed])))


@given(obs=st.tuples(st.floats(-1, 2), st.floats(-np.pi, np.pi)))
def test_place_cells_are_the_nearest(obs):
    cells = PlaceCells(Dimensions((0, -np.pi), (1, np.pi), wraps=(1,)), n_inputs=50, n_active=5)
    place = np.array([np.clip(obs[0], 0, 1), (obs[1] + np.pi) / (2 * np.pi)])
    d = place - cells.table.centers
    d[:, 1] -= np.floor(d[:, 1] + 0.5)
    distances = (d**2).sum(axis=1)
    found = np.sort(distances[cells.lines(np.array(obs))])
    np.testing.assert_allclose(found, np.sort(distances)[:5], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("coder", [Tiles(SQUARE, (3, 3)), PlaceCells(SQUARE, 20)])
def test_an_infinite_observation_is_taken_for_the_end_and_nan_is_refused(coder):
    np.testing.assert_array_equal(coder.lines(np.array([np.inf, -np.inf])), coder.lines(np.array([1e9, -1e9])))
    for wrong in ([np.nan, 0.5], [0.5, 1j], ["a", "b"]):
        with pytest.raises(ValueError, match="an observation must be"):
            coder.lines(np.array(wrong))


def test_an_infinite_angle_is_refused():
    coder = Tiles(Dimensions((0, -np.pi), (1, np.pi), wraps=(1,)), (3, 3))
    with pytest.raises(ValueError, match=r"must be finite, found inf at index \(1,\)"):
        coder.lines(np.array([0.5, np.inf]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: n.run(np.array([0.5]), 3), "whole numbers of lines"),
        (lambda n: n.run(np.array([True, False]), 3), "whole numbers of lines"),
        (lambda n: n.run(np.array([[1]]), 3), "whole numbers of lines"),
        (lambda n: n.run(np.array([1, 1]), 3), "each once"),
        (lambda n: n.run(np.array([1]), 2.5), "n_ticks must be a whole number"),
        (lambda n: n.reinforce(np.nan), "modulator must be finite, got nan"),
        (lambda n: n.reinforce(np.inf), "modulator must be finite, got inf"),
        (lambda n: n.load_state_dict({"w": np.full((2, 4), np.nan), "v": np.zeros(4)}), "w must be finite"),
        (lambda n: n.load_state_dict({"w": np.zeros((2, 4)), "v": np.full(4, np.inf)}), "v must be finite"),
        (lambda n: check_code(Tiles(SQUARE, (3, 3)).table, np.zeros(2), 4), "the code has 128 lines, the network 4"),
        (lambda n: check_code(PlaceCells(SQUARE, 4, 1).table, np.zeros(1), 4), r"obs must have shape \(2,\)"),
    ],
)
def test_a_learner_refuses_what_it_cannot_learn_from(call, message):
    with pytest.raises(ValueError, match=message):
        call(WinnerTakeAll(4, 2, WinnerTakeAllParameters(), np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda: Dimensions((0,), (1, 2)), "one length"),
        (lambda: Dimensions((1,), (1,)), "low below high"),
        (lambda: Dimensions((0,), (np.inf,)), "finite"),
        (lambda: Dimensions((0,), (1,), components=((0, 1),)), "2 pi"),
        (lambda: Dimensions((0,), (1,), wraps=(1,)), "wraps"),
        (lambda: Tiles(SQUARE, (3,)), "n_tiles must be 2 numbers"),
        (lambda: Tiles(SQUARE, (3, 3), 0), "n_grids"),
        (lambda: PlaceCells(SQUARE, 5, 6), "n_active"),
        (lambda: Tiles(SQUARE, (3, 3)).lines(np.zeros(1)), "2 components"),
    ],
)
def test_wrong_codes_are_refused(make, answer):
    with pytest.raises(ValueError, match=answer):
        make()


def test_numbers_of_the_design_for_classic_control():
    n = Tiles(Dimensions((-2.4, -2.5, -0.2095, -2.5), (2.4, 2.5, 0.2095, 2.5)), (3, 3, 6, 6)).n_inputs
    assert n == 8 * 4 * 4 * 7 * 7


def test_the_closed_loop_does_what_single_calls_do():
    from spikeloop.envs.compiled import compiled_of

    env = gym.make("CartPole-v1").unwrapped
    compiled = compiled_of(env)
    tiles = Tiles(Dimensions((-2.4, -2.5, -0.2095, -2.5), (2.4, 2.5, 0.2095, 2.5)), (3, 3, 6, 6))
    networks = [WinnerTakeAll(tiles.n_inputs, 2, WinnerTakeAllParameters(), np.random.default_rng(1)) for _ in range(2)]
    for seed in range(20):
        obs = env.reset(seed=seed)[0].astype(float)
        first = [network.run(tiles.lines(obs), 5) for network in networks]
        for network in networks:
            network.reinforce(0.0)
        state, rewards, baseline = np.array(env.state), np.empty(5000), np.zeros(1)
        n, action, value = networks[0].closed_loop(
            compiled.step,
            state,
            compiled.body(env),
            obs.copy(),
            tiles.table,
            5,
            (winner_take_all_kernels.TD_ERROR, 0.99, 0.0, 0.01, 1.0),
            baseline,
            first[0][1].argmax(),
            first[0][2],
            rewards,
        )
        (_, last, before), terminated, steps = first[1], False, 0
        while True:
            obs, reward, terminated, _, _ = env.step(int(last.argmax()))
            if terminated:
                break
            _, last, now = networks[1].run(tiles.lines(obs), 5)
            networks[1].reinforce(0.01 * reward + 0.99 * now - before)
            before, steps = now, steps + 1
        assert (n, action, value) == (steps, last.argmax(), before)
        for network in networks:
            network.reset()
    np.testing.assert_allclose(networks[0].state_dict()["w"], networks[1].state_dict()["w"], atol=1e-12)
    assert networks[0].state_dict()["w"].any()
