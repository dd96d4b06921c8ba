"""Finished benchmark runs, kept under a digest of all that could change them: settings, code, versions.

A run that was made with other settings or other code lies under another name and is not taken for this one.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from spikeloop.agents.machine import versions

ROOT = Path(__file__).resolve().parent.parent


def digest(what: Any, folders: Sequence[str]) -> str:
    """Return a short name for a run.

    Args:
        what: Its settings: anything JSON holds.
        folders: The folders and files of the repository whose code it runs.
    """
    whole = {"what": what, "code": {folder: code_digest(folder) for folder in folders}, "versions": versions()}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:12]


@cache
def code_digest(folder: str) -> str:
    """Return a digest of what the Python files of a folder, or one file, do: comments and layout do not count."""
    found, root = hashlib.sha256(), ROOT / folder
    for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(ROOT)).encode())
        found.update(ast.dump(_without_docstrings(ast.parse(path.read_text(encoding="utf-8")))).encode())
    return found.hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                node.body = node.body[1:] or [ast.Pass()]
    return tree
