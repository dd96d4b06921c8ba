"""How to install the libraries that only some of spikeloop needs, for error messages."""

from __future__ import annotations

from pathlib import Path


def install_hint(extra: str) -> str:
    """Return the shell command that installs an extra of this project, such as ``plot``.

    A clone is installed from its folder: pip finds nothing called spikeloop in the package index.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        return f'pip install "spikeloop[{extra}]"'
    folder = "." if root == Path.cwd() else root
    return f'pip install -e "{folder}[{extra}]"'
