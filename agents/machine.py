"""What the last bits of a training depend on beside its seed: processor, versions, threads."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch as th

PACKAGES = ("gymnasium", "numba", "numpy", "rl_zoo3", "sb3_contrib", "stable_baselines3", "torch")


@cache
def versions() -> tuple[tuple[str, str], ...]:
    """Return the versions of Python and of the packages that results depend on."""
    found = [("python", ".".join(platform.python_version_tuple()[:2]))]
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # RL Zoo is an extra
            found.append((name, importlib.metadata.version(name)))
    return tuple(found)


@cache
def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def this_machine() -> dict[str, Any]:
    """Return processor, threads and versions, by what to call them."""
    return {"processor": processor(), "torch threads": th.get_num_threads(), **dict(versions())}


def differences(there: Mapping[str, Any]) -> list[str]:
    """Return in words what differs from another machine, or from this one at another time."""
    here = this_machine()
    return [f"{name} {there.get(name)}, here {here[name]}" for name in here if there.get(name) != here[name]]
