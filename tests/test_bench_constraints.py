"""The benchmark of constraints: every row is there, and its controls differ where they say so."""

import numpy as np

from spikeloop.scripts.bench import constraints, presets
from spikeloop.scripts.benchmark import main


def test_every_row_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(presets, "EPISODES", 2)
    assert main(["constraints", "--seeds", "0", "--n-timesteps", "512"]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][1:]
    memory = {row[0]: float(row[7].rstrip("%")) for row in printed}
    assert list(memory) == list(constraints.ROWS)
    assert memory["no recurrence"] == 0.0 < memory["deep_r"] < 35.0 < memory["dense"] <= 100.0


def test_the_control_differs_in_rewiring_alone():
    deep_r, static = (constraints.ROWS[name].policy for name in ("deep_r", "static"))
    assert {**deep_r, "constraint": "static"} == static
    for policy in (deep_r, static):
        model = presets.trained(constraints.ALGO, constraints.ENV, policy, 0, 512)
        assert int(model.policy.constraint.active[0].sum()) == round(0.1 * 128 * 127)


def test_rows_without_adaptation_differ_in_that_alone():
    for name, row in constraints.ROWS.items():
        if "beta = 0" in name:
            assert row.policy == {**constraints.ROWS[name.removesuffix(", beta = 0")].policy, "beta": 0.0}


def test_binary_weights_and_their_controls():
    rows = {name: row for name, row in constraints.ROWS.items() if name.startswith("CartPole, ")}
    model, budget = presets.untrained(constraints.ALGO, "CartPole-v1", rows["CartPole, binary"].policy, 0, 512)
    drawn, dense = model.to_network(), presets.untrained(constraints.ALGO, "CartPole-v1", {}, 0, 256)[0].to_network()
    (layer,), (same,) = drawn.layers, constraints.binary_after_training(dense).layers
    assert not np.array_equal(dense.layers[0].w_in, layer.w_in)
    np.testing.assert_array_equal(same.w_in, layer.w_in)
    np.testing.assert_array_equal(same.w_rec, layer.w_rec)
    for w in model.policy.constraint.weights:
        w.requires_grad_(False)
    (frozen,) = model.learn(budget).to_network().layers
    np.testing.assert_array_equal(frozen.w_rec, layer.w_rec)
    assert frozen.bias.any()
