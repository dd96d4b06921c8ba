"""`spikeloop benchmark body`: what it plays, and what it calls recovered."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
from deployable import exact_network

from spikeloop.hardware import compile_network
from spikeloop.scripts.bench import body
from spikeloop.spiking import Encoder


@pytest.fixture
def subject(monkeypatch, tmp_path):
    """Return an shuffled policy for CartPole, and short lives."""
    for name, n in {"EPISODES": 4, "LONG_EPISODES": 5, "OLD_EPISODES": 3, "JUDGED": 2}.items():
        monkeypatch.setattr(body, name, n)
    three = exact_network(beta=0.0)
    layer = replace(three.layers[0], w_in=np.pad(three.layers[0].w_in, ((0, 0), (0, 1)), "edge"))
    deployment = compile_network(replace(three, encoder=Encoder("direct", 4), layers=(layer,)), "loihi1")
    monkeypatch.setattr(body.Subject, "deployment", lambda self: deployment)
    return body.Subject("CartPole-v1", 3, tmp_path)


@pytest.mark.filterwarnings("ignore:values left")
def test_a_life_without_a_change_is_the_frozen_one(subject):
    old = subject.old()
    assert len(old["record"]) == 20 and len(old["life"]) == 3
    assert old["life"] == old["frozen"] and len(old["chance"]) == 2
    assert subject.share(np.mean(old["frozen"])) == 1 and subject.share(np.mean(old["chance"])) == 0
    assert subject.frozen("") == body.judged(subject.deployment(), subject, "")


@pytest.mark.filterwarnings("ignore:values left")
def test_scratch_shuffles_the_layer_which_a_random_readout_leaves_as_trained(subject):
    taught = subject.deployment().taught("perturbation")
    other = body.from_scratch(taught, 0)
    assert abs(body.weights(other)).max() <= 64 and np.any(body.weights(other) != body.weights(taught))
    np.testing.assert_array_equal(other.program.projections[0].weights, taught.program.projections[0].weights)
    whole = body.from_scratch(taught, 0, hidden=True)
    for before, after in zip(taught.program.projections, whole.program.projections, strict=True):
        if before.name == "layer 0 recurrent":
            np.testing.assert_array_equal(np.sort(after.weights, axis=None), np.sort(before.weights, axis=None))
            np.testing.assert_array_equal(np.diagonal(after.weights), np.diagonal(before.weights))
        assert np.any(after.weights != before.weights) == (before.name in ("layer 0 recurrent", "readout"))
    np.testing.assert_array_equal(np.sort(whole.host.w_in, axis=None), np.sort(taught.host.w_in, axis=None))
    assert np.any(whole.host.w_in != taught.host.w_in)
    two = replace(taught.program.projections[0], name="layer 0 to 1")
    with pytest.raises(ValueError, match="in one recurrent layer, got a projection 'layer 0 to 1'"):
        body.from_scratch(replace(taught, program=replace(taught.program, projections=(two,))), 0, hidden=True)
    for scratch, hidden, most in ((0, False, 5), (3, False, 3), (3, True, 3)):
        life = subject.life("action_sign", scratch, hidden)
        assert life[0][0] == 0 and all(n <= most for n, _ in life)
    assert {path.name.split("-seed")[0] for path in subject.output.glob("*action_sign*")} == {
        f"CartPole-v1-{how}-action_sign" for how in ("learning", "scratch3", "shuffled3")
    }


def test_scratch_lives_three_times_as_long_as_it_took_and_not_at_all_where_that_was_never(subject, monkeypatch):
    lives = {0: [(0, 10), (4, 95)], 12: [(0, 10), (11, 95)]}
    shuffled = {12: [(0, 10), (9, 95)]}
    monkeypatch.setattr(body.Subject, "share", lambda self, mean: mean / 100)
    monkeypatch.setattr(
        body.Subject, "life", lambda self, text, scratch=0, hidden=False: (shuffled if hidden else lives)[scratch]
    )
    cells = body._learned([subject], "length=20")
    assert cells == ["95.0", "1/1", "0/1", "0/1", "1/1", "4: 95", "1/1: 9", "1/1: 11"]
    shuffled[12] = [(0, 10), (11, 80)]
    assert body._learned([subject], "length=20")[2] == "1/1"
    lives[0] = [(0, 10), (4, 80)]
    assert body._learned([subject], "length=20")[1:] == ["0/1", "0/1", "0/1", "0/1", "-: 80", *["0/0: not run"] * 2]


def test_recovered_is_who_stays_so(subject, monkeypatch):
    monkeypatch.setattr(body.Subject, "share", lambda self, mean: mean / 100)
    assert body._recovered(subject, [(0, 20), (7, 95), (9, 50), (12, 91)], 50) == 12
    assert body._recovered(subject, [(0, 20), (7, 95), (9, 50), (12, 91)], 10) == np.inf
    assert body._first(subject, [(0, 20), (7, 95), (9, 50)]) == 7
    assert body._end([(0, 20), (7, 95), (60, 50)], 50) == 95


@pytest.mark.filterwarnings("ignore:values left")
def test_the_tables_show_every_seed(subject, monkeypatch, capsys):
    monkeypatch.setattr(body, "COSTS", 100.0)
    body.run(
        argparse.Namespace(
            envs=["CartPole-v1"],
            bodies=["action_sign"],
            seeds=[3, 4],
            output=subject.output,
            weights_alone=True,
            without_model=False,
        )
    )
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| action_sign")]
    assert len(rows) == 1 and rows[0][-4].count(":") == 2 and len(rows[0]) == 13
