"""Seals: how a file shows that this user's own training wrote it, on this machine.

Models, checkpoints and normalisation statistics hold pickles, which can run code, and the settings of a run name
modules to import. Training ends each such file with a line that only the holder of a secret key can make for its
contents. The line is part of the file, so it moves, is copied and is replaced with it, and no kill can part the two.
What others read in the file is not touched: a YAML file ends in a comment, a zip file too, and unpickling stops before.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import sys
from functools import lru_cache
from pathlib import Path

from spikeloop.spiking.storage import write_atomically

_MARK = b"\n# spikeloop-seal "
_KEY_SIZE = 32
_ZIP_END, _ZIP_END_SIZE = b"PK\5\6", 22  # the record at the end of a zip file, whose last two bytes count the comment


def key_file() -> Path:
    """Return where the key is: SPIKELOOP_KEY, or a file in the user's folder for what belongs to one machine."""
    states = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(os.environ.get("SPIKELOOP_KEY") or Path(states, "spikeloop", "key"))


def sealed(data: bytes, suffix: str) -> bytes:
    """Return the contents of a file with their seal; as they are, and said so once, if there can be no key.

    Args:
        data: The contents.
        suffix: How the file's name ends, such as ".zip": no other kind of file can be made of these contents.
    """
    try:
        key = _key() or _new_key()
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        _say_once(f"files are not sealed, and will need --trust: {error}; SPIKELOOP_KEY names another file for the key")
        return data
    size = len(_MARK) + 2 * hmac.new(key, digestmod="sha256").digest_size + 1
    if data[-_ZIP_END_SIZE:].startswith(_ZIP_END):
        data = data[:-2] + size.to_bytes(2, "little")
    return data + _MARK + _seal(key, data, suffix) + b"\n"


def seal(path: Path) -> None:
    """Seal a file that this process has just written; say so if it could not be sealed."""
    try:
        write_atomically(path, sealed(path.read_bytes(), path.suffix))
    except OSError as error:
        print(f"{path} is not sealed, and will need --trust: {error}", file=sys.stderr)


def is_sealed(path: Path) -> bool:
    """Return whether a file is what this user's training wrote on this machine."""
    try:
        key = _key()
        contents, _, line = path.read_bytes().rpartition(_MARK)
    except (OSError, RuntimeError):
        return False
    return key is not None and hmac.compare_digest(_seal(key, contents, path.suffix) + b"\n", line)


def _seal(key: bytes, data: bytes, suffix: str) -> bytes:
    return hmac.new(key, suffix.encode() + b"\0" + data, "sha256").hexdigest().encode()


def _key() -> bytes | None:
    """Return the key; None if there is none yet.

    Raises:
        OSError: If it cannot be read, or is none.
    """
    try:
        key = key_file().read_bytes()
    except FileNotFoundError:
        return None
    if len(key) != _KEY_SIZE:  # a short one could be guessed
        raise OSError(f"the key in {key_file()} must have {_KEY_SIZE} bytes, it has {len(key)}")
    return key


def _new_key() -> bytes:
    path = key_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_SIZE))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # never in place of a key that another process has just made
    finally:
        temporary.unlink(missing_ok=True)
    return path.read_bytes()


@lru_cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)
