"""The benchmark of encoder 'auto': every code runs, and the control has as many cells, placed by no rule."""

import gymnasium as gym
import numpy as np

from spikeloop.scripts.bench import auto
from spikeloop.scripts.benchmark import main
from spikeloop.spiking.encoders.recruited_cells import RecruitingCells


def test_every_code_has_its_row(monkeypatch, capsys):
    monkeypatch.setattr(auto, "RANDOM_STEPS", 1000)
    few = ["--episodes", "2", "--seeds", "0", "1", "--set", "n_episodes=8", "--auto", "n_inputs=300", "n_measured=100"]
    assert main(["auto", "--tasks", "cartpole", *few]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| CartPole")]
    assert [row[1].strip() for row in rows] == list(auto.CODES)
    assert all(len(row[7].split(",")) == 2 and int(row[2]) == 8 for row in rows)


def test_pendulum_has_a_row_of_action_neurons_and_acrobot_shows_its_raw_numbers():
    assert len(auto.model_of(auto.TASKS["pendulum"], 0, {}, "auto", {}).policy.head.values) == 3
    model = auto.model_of(auto.TASKS["acrobot"], 0, {}, "auto", {})
    assert len(model.policy.coder.cells.mean) == 6 and model.n_episodes == 300 and model.gamma == 0.99


def test_random_cells_stand_at_observations_and_recruit_none(monkeypatch):
    monkeypatch.setattr(auto, "RANDOM_STEPS", 500)
    coder = RecruitingCells(2, n_inputs=60)
    auto.place_at_random(coder, np.array([3, 5, 20]), lambda: gym.make("MountainCar-v0"), seed=1)
    assert coder.cells.counts.tolist() == [3, 5, 20] and len(np.unique(coder.cells.centers[40:60], axis=0)) == 20
    lines = coder.lines(np.array([0.5, 0.07]), learning=True)
    assert coder.cells.counts.tolist() == [3, 5, 20] and len(lines) == 3 + 4 + 4


def test_random_cells_of_a_pair_stand_at_its_two_numbers(monkeypatch):
    monkeypatch.setattr(auto, "RANDOM_STEPS", 500)
    coder = RecruitingCells(3, n_inputs=30, n_active_pairs=1, n_inputs_pair=10)
    auto.place_at_random(coder, np.array([0, 0, 10, 0, 10, 0]), lambda: gym.make("Pendulum-v1"), seed=1)
    whole, pair = coder.cells.centers[20:30], coder.cells.centers[40:50]  # the pair is cosine and speed
    assert np.all(pair[:, 2] == 0) and np.all(np.ptp(pair[:, :2], axis=0) > 0) and np.all(np.ptp(whole, axis=0) > 0)
