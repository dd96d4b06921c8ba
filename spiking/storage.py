"""Trees of frozen dataclasses as safetensors files with a JSON header: no pickle, so loading never runs code.

The header holds the SHA-256 of the file: of its exact bytes, with zeros where the checksum itself stands. So no byte
changes unnoticed, nor one that parsers pass over, such as blanks, escapes and the order of keys; a checksum of what was
parsed would miss those, and would hold only while every version of every parser reads and writes alike.

It finds damage. It is no signature: who makes a file makes its checksum too. Against that stand the classes that a file
is built of, which validate their fields, and the rule that each array of a file is used once.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spikeloop.spiking.fields import in_one_line, shown

_MAX_HEADER = 100_000_000  # bytes, as in the safetensors library
_KEYS = {"format", "format_version", "parts"}  # of a header; "sha256" beside them since there are checksums
_UNKNOWN = "0" * 64  # stands in the place of the checksum while that is computed


def write_atomically(path: str | os.PathLike[str], data: bytes, previous: Path | None = None) -> None:
    """Write ``data`` under a temporary name beside ``path``, sync it to disk, then rename it into place.

    A crash or a full disk leaves either the old file or the new one under ``path``, never half of one.

    Args:
        path: The file.
        data: Its contents.
        previous: Where to keep the file that is replaced, if it is to be kept.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # mkstemp's would be readable by its owner only
    try:
        write_hidden(temporary, data)
        if previous is not None and path.exists():
            _link(path, previous)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_hidden(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk, so that a rename afterwards puts a whole file in place."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: syncing a renamed file does not sync its new name."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _link(path: Path, other: Path) -> None:
    """Give a file a second name, in place of the file that has that name: a copy that takes no room."""
    temporary = other.with_name(f".{other.name}.{secrets.token_hex(4)}")
    try:
        os.link(path, temporary)
    except OSError:  # not every file system has links
        write_atomically(other, path.read_bytes())
        return
    try:
        os.replace(temporary, other)
    finally:
        temporary.unlink(missing_ok=True)  # a rename onto the same file leaves it


def sync_files(paths: Iterable[Path]) -> None:
    """Wait until what was appended to files is on the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())


class Contents(NamedTuple):
    """What a file holds, before anything is built of it."""

    kind: Any  # text and an integer, if the file is sound
    version: Any
    has_checksum: bool  # if it has one, it has been compared
    tree: Any
    tensors: dict[str, np.ndarray]


def save_parts(path: str | os.PathLike[str], kind: str, version: int, parts: Any) -> None:
    """Write a tree of dataclasses, arrays, tuples, string maps and plain values to one safetensors file.

    >>> import tempfile
    >>> from spikeloop.spiking import Normalizer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_parts(f"{folder}/file", "example", 1, Normalizer(np.zeros(2), np.ones(2), clip=5.0))
    ...     load_parts(f"{folder}/file", "example", 1, (Normalizer,)).clip
    array([5., 5.])
    """
    write_atomically(path, pack_parts(kind, version, parts))


def pack_parts(kind: str, version: int, parts: Any) -> bytes:
    """Return the contents of the file that :func:`save_parts` writes."""
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {}
    tree = _to_tree(parts, "", tensors)
    header = {"format": kind, "format_version": version, "sha256": _UNKNOWN, "parts": tree}
    data = save(tensors, metadata={"spikeloop": json.dumps(header)})
    at = _place_of(_UNKNOWN, data)
    assert at is not None
    return data[:at] + _checksum(data, at).encode() + data[at + len(_UNKNOWN) :]


def load_parts(
    path: str | os.PathLike[str],
    kind: str,
    version: int,
    classes: Iterable[type],
    former: Mapping[int, Mapping[str, Callable[..., Any]]] | None = None,
    checksums_since: int = 1,
) -> Any:
    """Read what :func:`save_parts` wrote; only the given classes and functions are ever called.

    A file names the class of each part. Where a class has changed since an older version of the format, ``former``
    says what its name stood for: a function that takes the fields the file holds, by name and already built, and
    returns the part of today. So files that hold ``Encoder(kind="direct", n_obs=4)`` can go on loading when each
    encoder has a class of its own::

        former = {3: {"Encoder": encoder_of_version_3}, 2: {"Encoder": encoder_of_version_3}}

    Args:
        path: The file.
        kind: What it must hold, such as ``"spikeloop.network"``.
        version: The version of the format that is written today.
        classes: Classes of the parts, each found under its own name.
        former: The older versions that are read too, each with the names that meant something else in it.
        checksums_since: The first version whose files hold a checksum; one of an older version is read with a warning.

    Raises:
        ValueError: If the file is truncated, changed, not ours, of another kind or version, or describes nothing valid.
        FileNotFoundError: If there is no such file.
    """
    former = former or {}
    contents = read_contents(path)
    if contents.kind != kind:
        raise ValueError(f"{path} holds a {shown(contents.kind)}, not a {kind!r}")
    _check_version(path, contents, sorted({*former, version}), checksums_since)
    builders: dict[str, Callable[..., Any]] = {part.__name__: part for part in classes}
    builders.update(former.get(contents.version, {}))
    tensors = dict(contents.tensors)
    try:
        value = _from_tree(contents.tree, tensors, builders)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(
            f"{path} does not describe a {kind!r} ({type(error).__name__}: {in_one_line(error)})"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} does not describe a {kind!r}: {in_one_line(error)}") from None
    if tensors:
        raise ValueError(f"{path} does not describe a {kind!r} (no part of it has the array {shown(min(tensors))})")
    return value


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Read a file and compare its checksum, if it has one; nothing is built of it.

    Raises:
        ValueError: If it is truncated, changed or not ours.
        FileNotFoundError: If there is no such file.
    """
    data, text = _read(path)
    tensors = _tensors(path, data)
    try:
        header = _parse(text)
        kind, version, tree = header["format"], header["format_version"], header["parts"]
        if set(header) not in (_KEYS, _KEYS | {"sha256"}):
            raise ValueError("other keys than this spikeloop knows")
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has a damaged header ({in_one_line(error)})") from None
    if "sha256" in header:
        at = _place_of(header["sha256"], data)
        if at is None or _checksum(data, at) != header["sha256"]:
            raise ValueError(f"{path} is damaged: its bytes do not match its checksum")
    return Contents(kind, version, "sha256" in header, tree, tensors)


def _check_version(path: str | os.PathLike[str], contents: Contents, versions: list[int], checksums_since: int) -> None:
    """Refuse versions that are not read, the newest last, and warn of those without a checksum."""
    found = contents.version
    if type(found) is not int or found not in versions:
        *older, newest = versions
        read = f"versions {', '.join(map(str, older))} and {newest}" if older else f"version {newest}"
        advice = "update spikeloop" if type(found) is int and found > newest else "export it anew"
        raise ValueError(f"{path} has format version {shown(found)}; this spikeloop reads {read}: {advice}")
    if contents.has_checksum != (found >= checksums_since):
        has = "a checksum, which that version does not have" if contents.has_checksum else "no checksum"
        raise ValueError(f"{path} is damaged: it has format version {found} and {has}")
    if not contents.has_checksum:
        what = f"{path} has format version {found}, without a checksum, so damage may go unnoticed"
        warnings.warn(f"{what}; saved again, it has one", stacklevel=4)


def _read(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """Return the bytes of a file and its header, if it has one of ours."""
    if not Path(path).is_file():  # reading a pipe or a device might never end
        raise FileNotFoundError(f"no file at {path}")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(8)
        length = int.from_bytes(data, "little")
        try:
            if not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise ValueError(f"{size} bytes, of them {length} of header")
            metadata = dict(_parse(file.read(length).decode())).get("__metadata__")
        except (RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is truncated or not a safetensors file ({in_one_line(error)})") from None
        # refused before the rest is read, which may be large
        if not isinstance(metadata, dict) or "spikeloop" not in metadata:
            raise ValueError(f"{path} is a safetensors file, but not one of spikeloop's")
        file.seek(0)
        try:
            return file.read(size), metadata["spikeloop"]
        except MemoryError:
            raise ValueError(f"{path} has {size} bytes, more than the memory that is left") from None


def _parse(text: str) -> Any:
    """Return what a JSON text says, if it says everything once."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"one of the keys {shown(sorted(found))} stands twice")
    return found


def _tensors(path: str | os.PathLike[str], data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a file, which the safetensors library checks to lie in it one after the other."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that numpy does not have
        raise ValueError(f"{path} is truncated or not a safetensors file ({in_one_line(error)})") from None
    for name, array in tensors.items():
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{path} is damaged: its array {shown(name)} is of type {array.dtype}")
    return tensors


def _place_of(checksum: Any, data: bytes) -> int | None:
    """Return where a checksum stands in a file; None if it is not once in its header, as :func:`save_parts` puts it."""
    before, field = (json.dumps(text)[1:-1].encode() for text in ('"sha256": "', f'"sha256": "{checksum}"'))
    end = 8 + int.from_bytes(data[:8], "little")
    return data.index(field, 8, end) + len(before) if data.count(field, 8, end) == 1 else None


def _checksum(data: bytes, at: int) -> str:
    """Return the checksum of a file in which it stands, or will stand, at the given place."""
    whole = memoryview(data)
    digest = hashlib.sha256(whole[:at])
    digest.update(_UNKNOWN.encode())
    digest.update(whole[at + len(_UNKNOWN) :])
    return digest.hexdigest()


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


def _from_tree(tree: Any, tensors: dict[str, np.ndarray], builders: Mapping[str, Callable[..., Any]]) -> Any:
    """Invert :func:`_to_tree`; arrays that it uses are taken out of ``tensors``."""
    if isinstance(tree, list):
        return tuple(_from_tree(item, tensors, builders) for item in tree)
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return tensors.pop(tree["array"])  # so that no file gets larger by naming one twice
    if "map" in tree:
        return dict(tree["map"])
    items = {key: _from_tree(item, tensors, builders) for key, item in tree.items() if key != "part"}
    return builders[tree["part"]](**items)
