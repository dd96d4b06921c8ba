"""The benchmark of probabilistic networks: every row is there, and its controls differ where they say so."""

import numpy as np
import pytest

from spikeloop.scripts.bench import glm
from spikeloop.scripts.benchmark import main


@pytest.mark.parametrize("task", glm.BARS)
def test_every_row_is_printed(task, monkeypatch, capsys):
    monkeypatch.setattr(glm, "EPISODES", 1)
    rows = [row._replace(n_seeds=2, changes={**row.changes, "n_timesteps": 60}) for row in glm.ROWS if row.task == task]
    monkeypatch.setattr(glm, "ROWS", rows)
    assert main(["glm", "--tasks", task, "--seeds", "0", "1"]) == 0
    printed = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {task}")]
    assert [row[1].strip() for row in printed] == [row.name for row in rows]
    assert all(len(row[6].split(",")) == 2 for row in printed)


@pytest.mark.filterwarnings("ignore:quantised to 8 bits")
def test_the_network_is_played_on_a_chip_too(monkeypatch):
    monkeypatch.setattr(glm, "EPISODES", 1)
    row = glm.Row(glm.WINDY, "glm")
    assert np.isfinite(glm.train_one(row, 0, {"n_timesteps": 60}, "loihi1").on_chip)


def test_frozen_weights_play_as_the_policy_predicts():
    row = glm.Row(glm.CARTPOLE, "glm")
    model = glm.GLM(glm.GlmPolicy, glm.Monitor(glm.gym.make(row.task)), seed=0, max_episodes=60, **{
        "policy_kwargs": {"encoder_kwargs": {"low": [-2.4, -3, -0.21, -3], "high": [2.4, 3, 0.21, 3]}},
    }).learn(10**6)  # fmt: skip
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    predicted = glm._greedy(model, row.task, 0, deterministic=False)
    played = glm.play(model, row.task, 0, 100)
    assert all((value == before[name]).all() for name, value in model.policy.state_dict().items())
    assert played == pytest.approx(predicted, rel=0.3)


def test_shuffled_input_has_as_many_spikes():
    kwargs = {"policy_kwargs": {"encoder_kwargs": {"low": -1, "high": 1}}}
    model = glm.GLM(glm.ShuffledPolicy, glm.Monitor(glm.gym.make(glm.ACROBOT)), seed=0, **kwargs)
    plain, shuffled = glm.GlmLearning(model.policy, model._rule()), glm.Shuffled(model.policy, model._rule())
    plain.input.key[:] = shuffled.input.key[:] = 5
    row = np.zeros((1, 6))
    plain._see(row, True)
    shuffled._see(row, True)
    assert not np.array_equal(plain.input.x, shuffled.input.x)
    np.testing.assert_array_equal(np.sort(plain.input.x.sum(axis=0)), np.sort(shuffled.input.x.sum(axis=0)))
    np.testing.assert_array_equal(plain.input.x.sum(axis=1), shuffled.input.x.sum(axis=1))


def test_a_shuffled_td_error_that_is_the_last_one_is_the_rule_itself(monkeypatch):
    monkeypatch.setattr(glm, "RECENT", 1)
    learnt = []
    for policy in (glm.GlmPolicy, glm.ShuffledTdPolicy):
        env = glm.Monitor(glm.gym.make(glm.WINDY))
        model = glm.GLM(policy, env, seed=2, gamma=0.9, reward_scale=0.1, value_scale=0.2).learn(300)
        learnt.append((model.policy.w_out.numpy(), model.policy.values.numpy()))
    for one, other in zip(*learnt, strict=True):
        assert np.ptp(one) > 0.1
        np.testing.assert_allclose(one, other, atol=1e-9)
    monkeypatch.setattr(glm, "RECENT", 1000)
    model = glm.GLM(glm.ShuffledTdPolicy, glm.Monitor(glm.gym.make(glm.WINDY)), seed=2, gamma=0.9).learn(300)
    assert not np.allclose(model.policy.w_out.numpy(), learnt[0][0], atol=1e-3)
