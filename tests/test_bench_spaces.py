"""The benchmark of spaces: every learner of every task has its row."""

import pytest

from spikeloop.scripts.bench import spaces
from spikeloop.scripts.benchmark import main


@pytest.mark.parametrize("task", spaces.TASKS)
def test_every_learner_has_its_row(task, monkeypatch, capsys):
    monkeypatch.setattr(spaces, "EPISODES", 1)
    budget = spaces._preset

    def short(name, env_id):
        return {**budget(name, env_id), "n_timesteps": 300}

    monkeypatch.setattr(spaces, "_preset", short)
    assert main(["spaces", "--tasks", task, "--seeds", "0", "1", "--learners", *spaces.LEARNERS]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "| 300 |" in line]
    assert sorted(row[1].strip() for row in rows) == sorted(spaces.LEARNERS)
    assert all(len(row[6].split(",")) == 2 for row in rows)
