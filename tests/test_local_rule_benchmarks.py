"""The benchmarks of the local rules run, and say which peers they had to leave out."""

import shutil

from spikeloop.scripts.bench.local_lsnn import ROWS
from spikeloop.scripts.benchmark import main


def test_tmaze_prints_a_row_for_e_prop_and_each_control(capsys):
    assert main(["tmaze", "--seeds", "0", "1", "-n", "70", "--delay", "1"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in rows[2:]] == [
        "e-prop",
        "e-prop, random feedback",
        "control: beta = 0",
        "control: frozen hidden layer",
    ]
    assert all(len(row) == 9 and len(row[5].split(",")) == 2 for row in rows[2:])


def test_local_lsnn_prints_a_row_for_each_network(capsys):
    assert main(["local-lsnn", "--seeds", "0", "1", "-n", "60"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [(row[0].strip(), row[1].strip()) for row in rows[2:]] == [(row.env, row.name) for row in ROWS]
    assert all(len(row) == 9 and len(row[5].split(",")) == 2 for row in rows[2:])


def test_local_lsnn_plays_what_it_trained_on_a_chip(capsys):
    command = ["--seeds", "0", "-n", "60", "--env", "CartPole-v1", "--rows", "16 neurons", "--chip", "loihi1"]
    assert main(["local-lsnn", *command]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 3 and rows[0][8].strip() == "on loihi1, mean ± sd"
    assert float(rows[2][10]) > 0  # return of the one seed on the chip


def test_chip_lsnn_prints_what_was_learned_and_how_fast(capsys):
    command = ["--seeds", "0", "1", "-n", "60", "--rows", "1 synapse a weight"]
    assert main(["chip-lsnn", *command]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 3 and rows[2][6].strip() == "60"
    assert len(rows[2][5].split(",")) == 2


def test_plasticity_measures_ours_alone_where_no_peer_is_installed(capsys):
    interpreter = shutil.which("false")
    arguments = ["--steps", "100", "--blocks", "1", "--bindsnet", interpreter, "--brian2", interpreter]
    assert main(["plasticity", *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.count("left out") == 6
    assert printed.count("spikeloop rstdp") == 2
