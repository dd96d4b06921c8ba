"""The benchmark of probabilistic networks on the chip: every row is there, and its controls are what they say."""

import numpy as np

from spikeloop.scripts.bench import chip_glm
from spikeloop.scripts.benchmark import main
from spikeloop.spiking.rules.glm import RewardGlm


def test_every_row_is_printed(monkeypatch, capsys):
    monkeypatch.setattr("spikeloop.scripts.bench.glm.EPISODES", 1)
    rows = [row._replace(n_seeds=1, changes={**row.changes, "n_timesteps": 60}) for row in chip_glm.ROWS]
    monkeypatch.setattr(chip_glm, "ROWS", rows)
    assert main(["chip-glm", "--seeds", "1"]) == 0
    printed = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in printed[1:]] == [row.name for row in rows]


def test_a_shuffled_td_error_reaches_the_chip_and_not_the_critic():
    rule = RewardGlm(learning_rate=2.0, value_rate=0.1)
    plain, shuffled = (
        network(6, 2, 20, rule, np.random.default_rng(0)) for network in (chip_glm.ChipGlm, chip_glm.ShuffledTd)
    )
    rng, sent = np.random.default_rng(1), []
    for step in range(200):
        lines, reward = rng.choice(20, 3, replace=False), float(rng.normal())
        ending = 0 if step < 199 else 2
        sent.append([network.criticise(lines, reward, ending, 1.0) for network in (plain, shuffled)])
        plain.rng.bit_generator.state = shuffled.rng.bit_generator.state  # so that both round alike
    np.testing.assert_array_equal(plain._host.v, shuffled._host.v)
    one, other = np.array(sent).T
    assert np.any(one != other) and set(other) <= set(one)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.3
