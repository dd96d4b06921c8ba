"""Whether this tree is slower than an earlier commit: the tables of speed, each for seconds, in both trees in turn.

The earlier tree is taken from git, and kept for the next time. Nothing here fails because something is slow: ratios
are for reading, and on a busy machine one of a few per cent says nothing.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import spikeloop
from spikeloop.scripts.bench.against import compare
from spikeloop.scripts.cli import UsageError

ROOT = Path(spikeloop.__file__).parents[2]
RUNS = (
    ("sequence", "--no-peers --seconds 0.02"),
    ("step", "--seconds 0.01 --ticks 1 4"),
    ("train", ""),
    ("train", "--env Pendulum-v1"),
    ("train", "--env spikeloop/CartPoleNoVel-v0"),
    ("learning", "--seconds 0.02"),
    ("chip", ""),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark guard``."""
    parser.add_argument("--commit", default="HEAD~1", help="what to compare with (default HEAD~1, the one before)")
    parser.add_argument("--trees", type=Path, default=Path("logs/trees"), help="where it is kept (default logs/trees)")
    parser.add_argument("--blocks", type=int, default=5, help="blocks per row (default 5)")


def run(args: argparse.Namespace) -> None:
    """Print every table, and the lowest ratio of all."""
    tree, lowest = tree_of(args.commit, args.trees), []
    for name, flags in RUNS:
        print(f"\n== {name} {flags}".rstrip())
        try:
            lowest.append((*compare(name, flags.split(), tree, args.blocks), name))
        except ValueError as error:  # what the tables of today call may not be there yet
            print(f"cannot be compared: {error}")
    if lowest:
        speed, row, name = min(lowest)
        print(f"\nlowest of all: {speed:.3f} ({name}: {row})")


def tree_of(commit: str, folder: Path) -> Path:
    """Return a folder with the files of a commit, which is written unless it is there.

    Raises:
        UsageError: If this is no git checkout, or has no such commit.
    """
    try:
        name = _git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
        tree = folder / name[:12]
        if not tree.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as unfinished:
                with tarfile.open(fileobj=io.BytesIO(_git("archive", name))) as archive:
                    # before Python 3.11.4 there is nothing to choose
                    chosen: Any = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
                    archive.extractall(Path(unfinished, "tree"), **chosen)
                try:
                    os.rename(Path(unfinished, "tree"), tree)
                except OSError:
                    if not tree.is_dir():  # which another guard may just have written
                        raise
        return tree
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        said = getattr(error, "stderr", b"") or str(error).encode()
        raise UsageError(f"--commit takes a commit of a git checkout, got {commit}: {said.decode().strip()}") from None


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True).stdout
