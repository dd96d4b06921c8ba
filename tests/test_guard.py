"""`spikeloop benchmark guard` takes an earlier commit from git and compares every table of speed with it."""

import subprocess
from pathlib import Path

import pytest

from spikeloop.scripts.bench import guard
from spikeloop.scripts.benchmark import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    root = tmp_path / "checkout"
    root.mkdir()
    monkeypatch.setattr(guard, "ROOT", root)
    for line in ("init -q", "config user.name n", "config user.email e@e"):
        subprocess.run(["git", *line.split()], cwd=root, check=True)
    for text in ("first", "second"):
        (root / "file").write_text(text)
        subprocess.run(["git", "add", "file"], cwd=root, check=True)
        subprocess.run(["git", "commit", "-qm", text], cwd=root, check=True)
    return root


def test_the_tree_of_the_commit_before_is_written_once_and_whole(checkout, tmp_path):
    tree = guard.tree_of("HEAD~1", tmp_path / "trees")
    assert (tree / "file").read_text() == "first"
    assert [*(tmp_path / "trees").iterdir()] == [tree]
    (tree / "file").write_text("kept")
    assert (guard.tree_of("HEAD~1", tmp_path / "trees") / "file").read_text() == "kept"


def test_a_commit_that_is_not_there_is_refused_in_one_line(checkout, tmp_path, capsys):
    assert main(["guard", "--commit", "HEAD~7", "--trees", str(tmp_path / "trees")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--commit takes a commit of a git checkout, got HEAD~7" in line


def test_tables_are_compared_and_one_that_cannot_be_is_named(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(guard, "tree_of", lambda commit, trees: ROOT)
    monkeypatch.setattr(guard, "RUNS", [("learning", "--seconds 0.01"), ("train", "--env No-v0")])
    assert main(["guard", "--blocks", "1"]) == 0
    out = capfd.readouterr().out
    assert "cannot be compared: the worker" in out
    assert "lowest of all: " in out.splitlines()[-1] and "(learning: " in out.splitlines()[-1]
