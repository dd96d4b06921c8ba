"""Kept benchmark results are found again only by what made them: settings, code and versions."""

import dataclasses

import pytest

from spikeloop.scripts import kept_results
from spikeloop.scripts.bench import returns
from spikeloop.scripts.bench.returns import ROWS, SEEDS, Row, threads_of

CODE = '"""A module."""\n\n\ndef double(x):\n    """Return twice x."""\n    return 2 * x  # the whole of it\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_results, "ROOT", tmp_path)
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "one.py").write_text(CODE)
    kept_results.code_digest.cache_clear()
    yield tmp_path / "agents"
    kept_results.code_digest.cache_clear()


@pytest.mark.parametrize(
    ("new", "same"),
    [
        (CODE.replace("  # the whole of it", ""), True),
        (CODE.replace("Return twice x", "Return 2 x"), True),
        (CODE.replace("\n\n\ndef", "\n\ndef"), True),
        (CODE.replace("2 * x", "3 * x"), False),
    ],
    ids=["comment", "docstring", "layout", "code"],
)
def test_only_what_code_does_counts(new, same, folder):
    before = kept_results.digest("settings", ["agents"])
    (folder / "one.py").write_text(new)
    kept_results.code_digest.cache_clear()
    assert (kept_results.digest("settings", ["agents"]) == before) is same


def test_of_a_single_file_the_others_do_not_count(folder):
    def both():
        kept_results.code_digest.cache_clear()
        return kept_results.digest("settings", ["agents"]), kept_results.digest("settings", ["agents/one.py"])

    whole, one = both()
    (folder / "two.py").write_text("x = 1\n")
    assert both()[0] != whole and both()[1] == one
    (folder / "one.py").write_text("x = 1\n")
    assert both()[1] != one


def test_settings_versions_and_new_files_count(folder, monkeypatch):
    digests = {kept_results.digest("settings", ["agents"]), kept_results.digest("others", ["agents"])}
    (folder / "two.py").write_text("x = 1\n")
    kept_results.code_digest.cache_clear()
    digests.add(kept_results.digest("settings", ["agents"]))
    monkeypatch.setattr(kept_results, "versions", lambda: (("torch", "0.0"),))
    digests.add(kept_results.digest("settings", ["agents"]))
    assert len(digests) == 4


def test_a_changed_preset_is_another_run(monkeypatch):
    row = ROWS["cartpole"][0]
    before = row.folder
    preset = row.preset()
    monkeypatch.setattr(Row, "preset", lambda self: {**preset, "gamma": 0.5})
    assert row.folder != before


def test_every_row_has_a_folder_of_its_own_and_seeds_use_two_thread_counts():
    rows = [row for of_task in ROWS.values() for row in of_task]
    rows += [dataclasses.replace(row, chip_ready=True) for row in rows]
    assert len({row.folder for row in rows}) == len(rows)
    assert len(SEEDS) == 10 and [threads_of(seed) for seed in SEEDS].count(1) == 5


def test_the_table_shows_mean_worst_rate_and_every_seed():
    results = [{"mean_return": value, "firing_rates": [0.1]} for value in (500.0, 400.0)]
    line = " | ".join(returns._cells(ROWS["cartpole"][0], results))
    assert "450.0 ± 70.7 | 400.0 | 495 | 50% | 500.0, 400.0" in line
