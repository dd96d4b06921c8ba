"""`spikeloop benchmark chip` runs, with and without other simulators installed."""

import pytest

from spikeloop.scripts.bench import chip
from spikeloop.scripts.benchmark import main


def test_speed_is_printed_and_what_is_missing_is_named(capsys, tmp_path):
    assert main(["chip", "--blocks", "1", "--peers", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "spikeloop Emulator" in printed
    assert "nengo-loihi: not installed, left out" in printed


@pytest.mark.parametrize("density, synapses", [("1", 64 * 64), ("0.5", 64 * 32)])
def test_growth_is_a_table_of_what_was_asked(capsys, density, synapses):
    assert main(["chip", "--growth", "--sizes", "64", "--densities", density]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split("|")
    assert row[1].strip() == "64"
    assert int(row[3]) == pytest.approx(synapses, rel=0.1)
    assert row[4].strip() == "1"  # one core holds it


def test_an_environment_that_cannot_be_made_is_left_out(capsys, tmp_path, monkeypatch):
    shim = tmp_path / "python3.10"  # as a version manager leaves them for versions it has not installed
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setattr(chip, "PEERS", {"lava": (str(shim), "numpy"), "nengo": (str(tmp_path / "none"), "numpy")})
    chip.install(tmp_path / "peers")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["lava: cannot be installed", "nengo: cannot be installed"]
    assert "status 127" in lines[0] and "No such file" in lines[1]
