"""The benchmark of evolution: every row and every way of fine-tuning has its line."""

import pytest

pytest.importorskip("cmaes")
pytest.importorskip("optuna")

from spikeloop.scripts.bench import evolution
from spikeloop.scripts.benchmark import main


def test_every_row_has_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evolution, "EPISODES", 2)
    preset = evolution._preset

    def short(name, env_id, algorithm, policy):
        settings = preset(name, env_id, algorithm, policy)
        if name == "rstdp_chip":
            return {**settings, "n_episodes": 3}
        return {**settings, "n_timesteps": 250} | ({"max_generations": 2} if "max_generations" in settings else {})

    monkeypatch.setattr(evolution, "_preset", short)
    assert main(["evolution", "--seeds", "0", "1", "-o", str(tmp_path)]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line and line[0] in {row.env for row in evolution.ROWS}]
    assert [(line[0], line[1]) for line in rows] == [(row.env, row.name) for row in evolution.ROWS]
    tuned = [line[0] for line in lines if line and line[0] in evolution.FINE_TUNING]
    assert tuned == list(evolution.FINE_TUNING)
    assert len(list(tmp_path.glob("*.json"))) == 2 * (len(rows) + len(tuned))
