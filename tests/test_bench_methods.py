"""The table of methods: what a curve, a run and a row of it come to."""

import json

import numpy as np
import pytest

pytest.importorskip("rl_zoo3")

from spikeloop.scripts.bench import convert, methods, returns
from spikeloop.scripts.bench.methods import Found
from spikeloop.scripts.bench.returns import Row


def test_a_run_is_trained_played_and_deployed_and_its_figures_are_read(monkeypatch, tmp_path):
    given = []

    def command(arguments, output, threads=1, lock=None):
        given.append(arguments[0])
        if arguments[0] == "train":
            run = output.parent / "rstdp" / "CartPole-v1_1"
            run.mkdir(parents=True)
            (run / "learning_curve.csv").write_text(
                "timesteps,episode_return,episode_length\n" + "".join(f"{500 * n},500.0,500\n" for n in range(1, 31))
            )
        played = {"float": [500.0] * 4, "chip": [490.0] * 4, "random": [20.0] * 4}
        report = {"events": {"spikes": 2.0, "input spikes": 40.0}}
        output.write_text(json.dumps({"mean_return": 500.0, "returns": played, "report": report}))
        return 7.0

    monkeypatch.setattr(returns, "spikeloop", command)
    monkeypatch.setattr(methods, "spikeloop", command)
    found = methods._found(tmp_path, True, Row("rstdp", "CartPole-v1", 64), 0)
    assert given == ["train", "rollout", "deploy"]
    assert found == Found(500.0, 10_000.0, 7.0, 42.0, pytest.approx(470 / 480))


def test_a_median_needs_more_than_half_of_the_seeds():
    solved = [Found(500.0, steps, 1.0, np.nan, np.nan) for steps in (100.0, 300.0, np.inf)]
    assert "300 (2 of 3)" in methods._cells("a method", 1000, solved)
    assert "- (1 of 3)" in methods._cells("a method", 1000, [solved[0], solved[2], solved[2]])
    assert methods._cells("a method", 1000, [Found(500.0, np.nan, np.nan, 3.0, np.nan)])[5] == ""


def test_the_converted_row_is_read_from_what_the_benchmark_of_conversion_measures(monkeypatch, tmp_path):
    figures = {"kept": 0.5, "spikes_per_decision": 70.0}
    played = [*(f"{n} ticks" for n in convert.TICKS), f"loihi1, {convert.CHIP_TICKS} ticks"]
    measured = dict.fromkeys(played, figures) | {"means": {"random": 20.0, "ann": 500.0}}
    monkeypatch.setattr(convert, "measured", lambda task, seed, output: measured)
    found = methods._converted(0, tmp_path)
    assert (found.mean_return, found.spikes, found.kept) == (260.0, 70.0, 0.5)
