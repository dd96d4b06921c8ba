"""The benchmark of constraints: every row is there, and its controls differ where they say so."""

import pytest

from spikeloop.scripts.bench import constraints
from spikeloop.scripts.benchmark import main


def test_every_row_is_printed_and_finished_runs_are_kept(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(constraints, "EPISODES", 1)
    monkeypatch.setattr(constraints, "CALIBRATION", 20)
    arguments = ["constraints", "--seeds", "0", "--n-timesteps", "512", "--output", str(tmp_path)]
    printed = []
    for _ in range(2):
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        printed.append(
            [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][1:]
        )
    assert printed[0] == printed[1] and len(list(tmp_path.iterdir())) == len(constraints.ROWS)
    memory = {row[0]: float(row[7].rstrip("%")) for row in printed[0]}
    assert list(memory) == list(constraints.ROWS)
    assert memory["no recurrence"] == 0.0 < memory["deep_r"] < 35.0 < memory["dense"] <= 100.0


def test_the_control_differs_in_rewiring_alone():
    deep_r, static = (constraints.preset_of(constraints.ROWS[name]) for name in ("deep_r", "static"))
    assert {**deep_r["policy_kwargs"], "constraint": "static"} == static["policy_kwargs"]
    synapses = [
        int(constraints.train(constraints.ROWS[name], 0, 512).policy.constraint.active[0].sum())
        for name in ("deep_r", "static")
    ]
    assert synapses == [round(0.1 * 128 * 127)] * 2


@pytest.mark.parametrize("name", constraints.ROWS)
def test_a_row_is_the_preset_but_for_what_it_names(name):
    row, plain = constraints.ROWS[name], constraints.preset_of(constraints.ROWS["no recurrence"])
    changed = {**plain["policy_kwargs"], **({"beta": 0.0} if "beta = 0" in name else {})}
    if row.constraint is not None:
        changed |= {"constraint": row.constraint, "constraint_kwargs": dict(row.options)}
    assert constraints.preset_of(row) == {**plain, "policy": row.policy, "policy_kwargs": changed}
