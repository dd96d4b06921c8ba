"""Benchmark runs: several processes share them, and a run that was cut short goes on."""

import argparse
import json

import pytest

pytest.importorskip("rl_zoo3")

from spikeloop.scripts.bench import returns
from spikeloop.scripts.bench.returns import Row, for_all, trained
from spikeloop.scripts.run_folder import Busy, sole_writer

ROW = Row("spiking_ppo", "CartPole-v1", 64)


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have been run; a training leaves its folder."""
    given = []

    def run(arguments, output, threads=1, lock=None):
        given.append(arguments)
        if "-f" in arguments:
            (output.parent / "spiking_ppo" / "CartPole-v1_1").mkdir(parents=True)
        output.write_text(json.dumps({"mean_return": 1.0}))
        return 3.0

    monkeypatch.setattr(returns, "spikeloop", run)
    return given


def test_a_run_that_another_process_works_on_is_left_until_the_rest_is_done():
    done = []

    def work(row, seed):
        if seed == 0 and not done:
            raise Busy("by another process")
        done.append(seed)
        return seed

    args = argparse.Namespace(seeds=[0, 1, 2, 4], jobs=1)
    assert for_all([ROW], args, work) == {ROW: [0, 1, 2, 4]}
    assert done == [2, 4, 0, 1]


def test_a_run_is_trained_once(commands, tmp_path):
    assert trained(ROW, 0, tmp_path) == trained(ROW, 0, tmp_path) == {"mean_return": 1.0}
    assert [command[0] for command in commands] == ["train", "rollout"]


def test_a_run_with_a_checkpoint_goes_on_and_one_without_begins_anew(commands, tmp_path):
    for seed, name in ((0, "checkpoint.zip"), (2, "0.monitor.csv")):
        run = tmp_path / ROW.folder / f"seed{seed}" / "spiking_ppo" / "CartPole-v1_1"
        run.mkdir(parents=True)
        (run / name).touch()
        trained(ROW, seed, tmp_path)
    first, _, second, _ = commands
    assert first[:2] == ["train", "--resume"] and "--resume" not in second


def test_a_run_whose_starter_was_killed_is_left_to_its_training(commands, tmp_path):
    folder = tmp_path / ROW.folder / "seed0"
    folder.mkdir(parents=True)
    with sole_writer(folder), pytest.raises(Busy):  # which holds on to the lock
        trained(ROW, 0, tmp_path)
    assert not commands


def test_a_row_of_frames_has_a_folder_of_its_own_and_stacks_them(commands, tmp_path):
    frames = Row("spiking_ppo", "CartPole-v1", 64, n_frames=4)
    trained(frames, 0, tmp_path)
    assert frames.folder != ROW.folder and frames.digest() != ROW.digest()
    assert "frame_stack:4" in commands[0] and "frames" not in ROW.folder


def test_episodes_below_a_return_are_counted_over_all_runs():
    assert returns.failed_share(-500.0, [{"returns": [-120.0, -700.0]}, {"returns": [-130.0, -500.0]}]) == 0.25
