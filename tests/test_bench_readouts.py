"""The benchmark of readouts: every row is there, and its controls differ where they say so."""

import gymnasium as gym
import numpy as np
import pytest

from spikeloop.scripts.bench import readouts
from spikeloop.scripts.benchmark import main


@pytest.mark.filterwarnings("ignore:quantised to 8 bits")
def test_every_row_is_printed_and_finished_runs_are_kept(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(readouts, "EPISODES", 1)
    arguments = ["readouts", "--seeds", "0", "1", "--n-timesteps", "256", "--output", str(tmp_path)]
    printed = []
    for _ in range(2):
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        printed.append(
            [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][1:]
        )
    assert printed[0] == printed[1] and len(list(tmp_path.iterdir())) == 2 * len(readouts.ROWS)
    assert [row[0] for row in printed[0]] == list(readouts.ROWS)
    for name, _, _, each, drawn, ticks, spikes, on_chip, *_ in printed[0]:
        assert len(each.split(",")) == 2
        assert (drawn != "") == (ticks != "") == (name == "first spike")
        assert (on_chip != "") == name.startswith("patterns") != (spikes != "")


def test_the_rows_differ_in_what_they_say():
    kinds = {name: readouts.preset_of(row)["policy_kwargs"]["readout"] for name, row in readouts.ROWS.items()}
    assert [kinds[name] for name in ("first spike", "max", "mean", "leaky", "count")] == [
        *("bernoulli", "max", "mean", "leaky", "count"),
    ]
    plain = readouts.preset_of(readouts.ROWS["patterns, max"])
    mean = readouts.preset_of(readouts.ROWS["patterns, mean"])
    assert mean == {**plain, "policy_kwargs": {**plain["policy_kwargs"], "readout": "mean"}}
    one, other = (readouts.train(readouts.ROWS["patterns, max"], seed, 256) for seed in (0, 1))
    patterns = [model.env.get_attr("patterns")[0] for model in (one, other)]
    assert not np.array_equal(*patterns) and one.policy.lstm_actor.network_layers() == ()


@pytest.mark.parametrize("shuffled", ["lines", "times"])
def test_shuffled_trials_keep_one_spike_on_each_line(shuffled):
    env = gym.make("spikeloop/LatencyPatterns-v0", shuffled=shuffled)
    task, seen = env.unwrapped, set()
    for seed in range(20):
        times, info = env.reset(seed=seed)
        pattern = task.patterns[info["pattern"]]
        assert not np.array_equal(times, pattern)
        same = np.array_equal(np.sort(times), np.sort(pattern))
        assert same == (shuffled == "lines") and np.all((times >= 0) & (times < 50))
        seen.add(info["pattern"])
        assert env.step(task.classes[info["pattern"]])[1] == 1.0
    assert len(seen) > 5


def test_patterns_are_those_of_their_seed_and_half_of_each_class():
    plain, same, other = (gym.make("spikeloop/LatencyPatterns-v0", pattern_seed=n).unwrapped for n in (3, 3, 4))
    np.testing.assert_array_equal(plain.patterns, same.patterns)
    assert not np.array_equal(plain.patterns, other.patterns) and plain.classes.sum() == 15
    for arguments, message in (
        ({"n_patterns": 3}, "n_patterns must be even.*got 3"),
        ({"n_lines": 0}, "n_lines must be a whole number >= 1, got 0"),
        ({"duration": 0}, "duration must be a finite number of ms > 0, got 0"),
        ({"shuffled": True}, "shuffled must be one of .*, got True"),
        ({"pattern_seed": -1}, "pattern_seed must be a whole number >= 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            gym.make("spikeloop/LatencyPatterns-v0", **arguments)
