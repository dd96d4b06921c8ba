"""Trees of frozen dataclasses as safetensors files with a JSON header: no pickle, so loading never runs code."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` under a temporary name beside ``path``, sync it to disk, then rename it into place.

    A crash or a full disk leaves either the old file or the new one under ``path``, never half of one.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # mkstemp's would be readable by its owner only
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself reaches the disk with the folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save_parts(path: str | os.PathLike[str], kind: str, version: int, parts: Any) -> None:
    """Write a tree of dataclasses, arrays, tuples, string maps and plain values to one safetensors file."""
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {}
    header = {"format": kind, "format_version": version, "parts": _to_tree(parts, "", tensors)}
    write_atomically(path, save(tensors, metadata={"spikeloop": json.dumps(header)}))


def load_parts(path: str | os.PathLike[str], kind: str, version: int, classes: tuple[type, ...]) -> Any:
    """Read what :func:`save_parts` wrote; only the given classes are ever built.

    Raises:
        ValueError: If the file is truncated, not ours, of another kind or version, or describes nothing valid.
        FileNotFoundError: If there is no such file.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "spikeloop" not in metadata:  # told before the tensors are read: they may be large, or not for numpy
                raise ValueError(f"{path} is a safetensors file, but not one of spikeloop's")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error})") from None
    try:
        header = json.loads(metadata["spikeloop"])
        found_kind, found_version, tree = header["format"], header["format_version"], header["parts"]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} has a damaged header") from None
    if found_kind != kind:
        raise ValueError(f"{path} holds a {found_kind!r}, not a {kind!r}")
    if found_version != version:
        raise ValueError(f"{path} has format version {found_version!r}; this spikeloop reads version {version}")
    try:
        return _from_tree(tree, tensors, {part.__name__: part for part in classes})
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} does not describe a {kind!r} ({type(error).__name__}: {error})") from None


def _to_tree(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """Turn a value into JSON, its arrays moved to ``tensors`` under their dotted field names."""
    if isinstance(value, np.ndarray):
        tensors[name] = np.asarray(value, order="C")  # safetensors writes memory as it lies, whatever its order
        return {"array": name}
    if is_dataclass(value):
        join = f"{name}." if name else ""
        items = {f.name: _to_tree(getattr(value, f.name), join + f.name, tensors) for f in fields(value)}
        return {"part": type(value).__name__, **items}
    if isinstance(value, tuple):
        return [_to_tree(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {"map": {str(key): str(item) for key, item in value.items()}}
    return value.item() if isinstance(value, np.generic) else value


def _from_tree(tree: Any, tensors: dict[str, np.ndarray], classes: dict[str, type]) -> Any:
    """Invert :func:`_to_tree`."""
    if isinstance(tree, list):
        return tuple(_from_tree(item, tensors, classes) for item in tree)
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return tensors[tree["array"]]
    if "map" in tree:
        return dict(tree["map"])
    items = {key: _from_tree(item, tensors, classes) for key, item in tree.items() if key != "part"}
    return classes[tree["part"]](**items)
