"""Every array of every golden file is read by a test: found by the strings that the reading functions name."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"
READERS = ("test_chip_fixed_point", "test_chip_golden", "test_learning_golden", "test_chip_learns")


def words(function, seen):
    """Return the strings in a function's source as patterns, those of functions and tables of its module included."""
    found, module = set(), inspect.getmodule(function)
    seen.add(function)
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(re.escape(node.value))
        elif isinstance(node, ast.JoinedStr):
            parts = [re.escape(part.value) if isinstance(part, ast.Constant) else ".+" for part in node.values]
            found.add("".join(parts))
        elif isinstance(node, (ast.Name, ast.arg)):
            value = getattr(module, node.id if isinstance(node, ast.Name) else node.arg, None)
            value = getattr(value, "__wrapped__", value)
            if isinstance(value, (tuple, dict)):
                found |= {
                    re.escape(item) for item in (*value, *getattr(value, "values", tuple)()) if isinstance(item, str)
                }
            elif inspect.isfunction(value) and value.__module__ == module.__name__ and value not in seen:
                found |= words(value, seen)
    return found


def readers(name):
    """Return the patterns of all tests that name a golden file."""
    found = set()
    for module in map(importlib.import_module, READERS):
        for test, function in inspect.getmembers(module, inspect.isfunction):
            if test.startswith("test_") and re.escape(name) in (named := words(function, set())):
                found |= named
    return found


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.npz")), ids=lambda file: file.stem)
def test_every_golden_array_is_read(file):
    patterns = re.compile("|".join(readers(file.stem)) or "(?!)")
    with np.load(file) as arrays:
        assert [key for key in arrays.files if not patterns.fullmatch(key)] == []


def test_a_test_that_names_no_array_reads_none():
    def reads_one():
        return {}["x_decay"]

    assert words(reads_one, set()) == {"x_decay"}
    assert readers("no_such_file") == set()
