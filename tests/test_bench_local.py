"""The benchmark of R-STDP on tasks: its figures are what they are called, and every learner runs."""

from dataclasses import replace

import numpy as np
import pytest

from spikeloop.scripts.bench import local
from spikeloop.scripts.benchmark import main
from spikeloop.spiking import PlasticNetwork, PopulationParameters, SpikingPopulations, WinnerTakeAllParameters


def test_solved_is_where_the_mean_of_the_last_episodes_reaches_the_bar():
    returns = np.r_[np.zeros(20), np.ones(30)]
    steps = np.arange(1, 51) * 10
    assert local.solved_at(steps, returns, 1.0) == 400
    assert local.solved_at(steps, returns, 0.5) == 300
    assert np.isnan(local.solved_at(steps, returns, 1.1))
    assert np.isnan(local.solved_at(steps[:5], returns[-5:], 0.0))


def test_the_tabular_learner_is_a_softmax_actor_critic():
    network = local.TabularActorCritic(4, 2, WinnerTakeAllParameters(0.5, 0.25, 0.5), np.random.default_rng(0))
    assert isinstance(network, PlasticNetwork)
    x = np.array([0, 2])
    _, last, value = network.run(x, 5)
    network.reinforce(0.0)
    assert value == 0
    network.run(np.array([1]), 5)
    network.reinforce(1.0)
    np.testing.assert_allclose(network.w[x], np.tile(0.5 * (last - 0.5), (2, 1)))
    np.testing.assert_allclose(network.v, [0.25, 0, 0.25, 0])
    np.testing.assert_allclose(network.v_traces, [0.5, 1, 0.5, 0])


def test_populations_have_their_rows_without_and_with_noise(monkeypatch, capsys):
    monkeypatch.setattr(local, "EPISODES", 2)
    few = ["--tasks", "cartpole", "--seeds", "0", "1", "--set", "n_episodes=5"]
    assert main(["local", "--policy", "populations", *few]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| CartPole")]
    names = [
        "populations",
        "no learning",
        "post before pre",
        "shuffled ticks",
        "no competition",
        "regular trains",
        "spiking critic",
    ]
    assert [row[1].strip() for row in rows[:7]] == names
    assert all(len(row[6].split(",")) == len(row[11].split(",")) == 2 for row in rows[:7])


def test_turned_windows_with_the_other_sign_of_all_rewards_potentiate_pairs_post_before_pre():
    changes = local.POLICIES["populations"].learners["post before pre"]
    assert changes["sign"] == -1
    parameters = PopulationParameters(**changes["population_kwargs"], n_ticks=2, learning_rate=0.01, centred=False)
    network = SpikingPopulations(1, 1, replace(parameters, w_start=0.1, noise=0.0), np.random.default_rng(0))
    network.state.v[:] = 10.0  # spikes on the first tick, the line on the second
    network.run_trains(np.array([0]), np.array([[0, 1]]))
    network.reinforce(0.0)
    network.reinforce(-1.0)  # what a reward of 1 becomes
    assert (network.state_dict()["w"] > 0.1).all()


@pytest.mark.parametrize("ordinary", [[], ["--ordinary"]])
def test_every_learner_has_its_row(ordinary, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(local, "EPISODES", 2)
    curves = ["--curves", str(tmp_path / "curves.png")]
    few = ["--tasks", "cartpole", "--seeds", "0", "1", "--set", "n_episodes=25"]
    assert main(["local", *few, *ordinary, *curves]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| CartPole")]
    assert [row[1].strip() for row in rows] == ["rstdp", "no learning", "tabular", "rstdp", "tabular"]
    assert all(len(row[6].split(",")) == 2 for row in rows[:3])
    assert (tmp_path / "curves.png").stat().st_size > 1000
