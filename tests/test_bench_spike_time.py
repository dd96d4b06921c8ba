"""The benchmark of exact spike times: a row tells what it can of its kind of network, on the chip too."""

from spikeloop.scripts.bench import presets
from spikeloop.scripts.benchmark import main


def test_rows_tell_what_there_is_of_their_network(monkeypatch, capsys):
    monkeypatch.setattr(presets, "EPISODES", 2)
    rows = ["CartPole", "CartPole, LSNN", "CartPole, EventProp"]
    assert main(["spike-time", "--rows", *rows, "--seeds", "0", "--n-timesteps", "512"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    head, *printed = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in printed}
    assert list(cells) == rows
    decided, deployed = ("decision after", "in time"), ("same action", "ties")
    for name, row in cells.items():
        assert all(bool(row[column]) == (name == "CartPole") for column in (*decided, *deployed))
    assert 0 <= float(cells["CartPole"]["ties"].rstrip("%")) <= 100
