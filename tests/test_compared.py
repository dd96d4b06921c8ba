"""What a chip kept, and how often it agrees: by hand, and undefined where chance does as well."""

from dataclasses import replace

import numpy as np
import pytest
from deployable import exact_network, observations
from gymnasium import spaces

from spikeloop.hardware import compile_network
from spikeloop.scripts.bench import deploy
from spikeloop.scripts.bench.returns import Row
from spikeloop.scripts.compared import (
    PERTURBATION,
    action_agreement,
    bootstrap_interval,
    kept,
    kept_in_words,
    raise_membranes,
)
from spikeloop.scripts.players import Recorded
from spikeloop.spiking import Simulator
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.network import state_rows


def test_kept_is_the_share_of_what_is_beyond_chance():
    found = kept({"float": [10.0, 14.0], "chip": [8.0, 12.0], "random": [2.0, 2.0]})
    assert found["kept"] == pytest.approx((10 - 2) / (12 - 2)) and found["gained"] == 10
    assert found["mean_returns"] == {"float": 12.0, "chip": 10.0, "random": 2.0}
    assert found["kept_interval"] == pytest.approx([6 / 8, 10 / 12])  # either episode twice
    assert found["gained_interval"] == pytest.approx([8, 12])
    assert kept_in_words(found) == "80.0% (95% interval 75.0% to 83.3%, bootstrapped over episodes)"


def test_the_interval_is_that_of_the_percentile_bootstrap():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    float_, random = rng.normal(100, 20, 40), rng.normal(20, 5, 40)
    chip = float_ - rng.exponential(10, 40)

    def ratio(a, b, c, axis=-1):
        return (np.mean(b, axis) - np.mean(c, axis)) / (np.mean(a, axis) - np.mean(c, axis))

    expected = stats.bootstrap((float_, chip, random), ratio, paired=True, method="percentile", rng=0)
    found = kept({"float": float_, "chip": chip, "random": random})
    assert found["kept_interval"] == pytest.approx(list(expected.confidence_interval), abs=0.005)
    assert kept({"float": float_, "chip": chip, "random": random}) == found  # seeded


@pytest.mark.parametrize(
    "float_, random, words",
    [
        ([1.0, 3.0, 2.0], [3.0, 1.0, 2.0], "not above chance (float - random: 95% interval -2.00 to 2.00)"),
        ([1.0, 1.0], [5.0, 5.0], "not above chance (float - random: 95% interval -4.00 to -4.00)"),
        ([2.0, 2.0], [2.0, 2.0], "not above chance"),
        ([5.0], [1.0], "one episode gives no interval"),
    ],
)
def test_kept_is_undefined_where_the_float_network_is_not_above_chance(float_, random, words):
    found = kept({"float": float_, "chip": float_, "random": random})
    assert found["kept"] is None and found["kept_interval"] is None
    assert kept_in_words(found).startswith("undefined: ") and words in kept_in_words(found)


def test_an_interval_leaves_out_what_is_undefined():
    low, high = bootstrap_interval(4, lambda drawn: np.where(drawn[:, 0] == 3, np.nan, drawn[:, 0]))
    assert (low, high) == (0.0, 2.0)


def test_a_recorded_player_keeps_its_first_steps_only():
    player = Recorded(lambda obs, state, starts: (obs[:, 0], (state or 0) + 1), 2)
    obs, state = np.ones((1, 2, 3)), None
    for _ in range(3):
        action, state = player(obs, state, np.array([state is None]))
    assert state == 3 and action.shape == (1, 3)
    obs[:] = 0
    assert [(seen.tolist(), start.tolist()) for seen, start in player.steps] == [
        ([[[1.0] * 3] * 2], [True]),
        ([[[1.0] * 3] * 2], [False]),
    ]


def steps():
    obs = observations(n_steps=60)[0][:, :1]
    return [(x, np.array([i % 20 == 0])) for i, x in enumerate(obs)]


def test_a_network_that_the_chip_holds_exactly_agrees_with_it_on_every_step():
    network = exact_network()
    found = action_agreement(network, compile_network(network, calibration=observations()[0]), steps(), None)
    assert found["chip"] == 1.0 and found["steps"] == 60 and 0.5 < found["baseline"] <= 1.0
    assert found["measure"] == "share of steps with the same action"


def test_the_share_counts_steps_on_which_all_of_an_action_is_the_same():
    network, other = exact_network(), exact_network(seed=4)
    exact = Simulator(network), Simulator(other)
    states, same = [None, None], []
    for x, start in steps():
        actions = []
        for i, simulator in enumerate(exact):
            action, states[i] = simulator.predict(x, None if start[0] else states[i], start)
            actions.append(action)
        same.append(np.array_equal(*actions))
    found = action_agreement(network, compile_network(other, calibration=observations()[0]), steps(), None)
    assert 0 < np.mean(same) < 1 and found["chip"] == pytest.approx(np.mean(same))


@pytest.mark.parametrize("low, high, share", [(-2.0, 2.0, 4.0), (-np.inf, np.inf, 1.0)])
def test_box_actions_are_compared_by_their_difference(low, high, share):
    head = ActionHead("box", (1, 1), (2,), low=np.full(2, low, "f4"), high=np.full(2, high, "f4"))
    networks = [replace(exact_network(seed=seed), head=head) for seed in (3, 4)]
    deployment = compile_network(networks[1], calibration=observations()[0])
    space = spaces.Box(low, high, (2,), np.float32)
    found = action_agreement(networks[0], deployment, steps(), space)
    actions = []
    for network in networks:
        simulator, state, of_network = Simulator(network), None, []
        for x, start in steps():
            action, state = simulator.predict(x, None if start[0] else state, start)
            of_network.append(action[0])
        actions.append(np.array(of_network))
    expected = abs(actions[0] - actions[1]).mean() / share
    assert found["chip"] == pytest.approx(expected, rel=1e-5) and found["chip"] > found["baseline"] >= 0
    assert ("share of the actions' range" in found["measure"]) == np.isfinite(high)


def test_membranes_alone_are_raised_each_by_its_own_threshold():
    network = exact_network(sizes=(12, 8))
    state = Simulator(network).initial_state(2)
    raised = raise_membranes(network, state)
    for i, name in enumerate(state_rows(network)):
        expected = np.zeros((2, 12))
        if name.endswith(".v"):
            layer = network.layers[int(name[0])]
            expected[:, : layer.n_neurons] = PERTURBATION * layer.neurons.v_th
        np.testing.assert_allclose(raised[i], expected, rtol=1e-6)
    assert not state.any()


def test_the_table_of_deployments_shows_both_energies_and_what_is_undefined():
    def result(values):
        modelled = {"sanafe": {"dynamic": 31e-9, "static": 440e-9, "time": 4.2e-6}}
        means = {name: float(np.mean(of)) for name, of in values.items()}
        return {"returns": values, "mean_returns": means, "report": {"modelled": modelled}}

    good = result({"float": [10.0, 14.0], "chip": [8.0, 12.0], "random": [2.0, 2.0]})
    best = result({"float": [10.0, 14.0], "chip": [10.0, 14.0], "random": [2.0, 2.0]})
    poor = result({"float": [1.0, 3.0], "chip": [1.0, 3.0], "random": [3.0, 1.0]})
    row = Row("spiking_ppo", "Task-v0", 1)
    line = " | ".join(deploy._cells(row, "loihi1", [good, best, poor]))
    start = "Task-v0 | loihi1 | 8.7 | 8.0 | 2.0 | 90.0% [80.0%, 100.0%], 2 of 3 seeds | 80.0% |"
    assert line == f"{start} 80.0%, 100.0%, undefined | 31 + 440 nJ, 4.2 µs"
    assert deploy._cells(row, "loihi1", [poor])[5:8] == ["undefined"] * 3
