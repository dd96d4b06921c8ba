"""`spikeloop benchmark NAME --against TREE` measures two source trees in turn."""

from pathlib import Path

import numpy as np
import pytest

from spikeloop.scripts.bench import timing
from spikeloop.scripts.benchmark import BENCHMARKS, main

ROOT = Path(__file__).parents[1]


def test_a_tree_is_as_fast_as_itself(capfd):
    assert main(["learning", "--against", str(ROOT), "--blocks", "3", "--seconds", "0.01"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"this: {ROOT}, other: {ROOT}"
    rows = [line.split() for line in lines if line.startswith(("tick ", "run "))]
    assert len(rows) == 6  # two of each of three tables, beside "tick, every input"
    for _, this, other, speed in rows:
        assert float(this) > 0 and float(other) > 0 and 0.3 < float(speed) < 3
    assert lines[-1].startswith("lowest speed, this / other: ")


@pytest.mark.parametrize("name", ["sequence", "step", "train", "chip", "learning"])
def test_tables_of_speed_can_be_compared(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert "--against TREE" in capsys.readouterr().out


def test_a_folder_that_is_no_source_tree_is_refused_in_one_line(tmp_path, capsys):
    assert main(["learning", "--against", str(tmp_path)]) == 2
    assert f"--against takes the root of a source tree of spikeloop, got {tmp_path}" in capsys.readouterr().err


def test_flags_without_meaning_beside_it_are_refused_in_one_line(capsys):
    assert main(["chip", "--against", str(ROOT), "--growth"]) == 2
    assert "without --growth" in capsys.readouterr().err


def test_every_row_is_measured_once_a_block():
    order = []
    contenders = {name: lambda name=name: order.append(name) for name in "ab"}
    times = timing.alternate(contenders, blocks=3, seconds=0)
    assert "".join(order) == "aabb" + "ababab"  # two to warm up
    assert {name: values.shape for name, values in times.items()} == {"a": (3,), "b": (3,)}


def test_a_ratio_is_the_median_over_blocks():
    assert timing.ratio(np.array([2.0, 4.0, 60.0]), np.array([1.0, 2.0, 3.0])) == 2.0


def test_every_benchmark_has_a_module():
    for name in BENCHMARKS:
        assert (ROOT / "scripts" / "bench" / f"{name.replace('-', '_')}.py").is_file()
