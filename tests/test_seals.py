"""A seal shows that this user's training wrote a file here, and nothing else can make one."""

import os
import pickle
import stat
import zipfile

import pytest
import yaml

from spikeloop.agents import seals
from spikeloop.agents.seals import is_sealed, key_file, seal, sealed


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    """A key file that is not there yet."""
    seals._say_once.cache_clear()
    monkeypatch.setenv("SPIKELOOP_KEY", str(tmp_path / "a" / "key"))
    return tmp_path / "a" / "key"


def written(tmp_path, name="x.pkl", data=b"contents"):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def test_a_sealed_file_is_known_wherever_it_is(tmp_path):
    file = written(tmp_path)
    assert not is_sealed(file)
    seal(file)
    assert is_sealed(file) and is_sealed(file.rename(tmp_path / "moved.pkl"))


def test_looking_makes_no_key(tmp_path, key):
    assert not is_sealed(written(tmp_path)) and not is_sealed(tmp_path / "none") and not key.exists()


def test_a_seal_is_of_one_key_one_kind_and_all_bytes(tmp_path, monkeypatch):
    file = written(tmp_path)
    seal(file)
    data = file.read_bytes()
    for other in (data[1:], b"x" + data, data + b"x", data + b"\n", data.replace(b"n", b"m", 1), data[:-2], data[8:]):
        assert not is_sealed(written(tmp_path, "other.pkl", other)), other
    assert not is_sealed(written(tmp_path, "x.zip", data))
    monkeypatch.setenv("SPIKELOOP_KEY", str(tmp_path / "b"))
    seal(written(tmp_path, "y.pkl"))
    assert not is_sealed(file)


def test_the_key_is_the_users_alone_and_is_made_once(tmp_path, key):
    first = sealed(b"x", ".zip")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == 32
    assert [path.name for path in key.parent.iterdir()] == ["key"]
    assert sealed(b"x", ".zip") == first
    assert seals._new_key() == key.read_bytes()  # of another process, made in between


def test_what_others_read_in_a_file_is_not_touched(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", b"b" * 1000)
    seal(archive)
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None and file.read("a") == b"b" * 1000
        assert archive.read_bytes().endswith(file.comment) and b"seal" in file.comment
    assert pickle.loads(sealed(pickle.dumps([1, 2]), ".pkl")) == [1, 2]
    assert yaml.safe_load(sealed(b"a: 1\n", ".yml")) == yaml.safe_load(sealed(b"a: 1", ".yml")) == {"a": 1}


@pytest.mark.parametrize("key_is", ["short", "in no folder"])
def test_without_a_key_files_are_left_unsealed_and_it_is_said_once(key_is, tmp_path, monkeypatch, capsys):
    place = written(tmp_path, "key", b"guess me")
    monkeypatch.setenv("SPIKELOOP_KEY", str(place if key_is == "short" else place / "key"))
    file = written(tmp_path)
    seal(file)
    seal(file)
    assert file.read_bytes() == b"contents" and not is_sealed(file)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("files are not sealed, and will need --trust: ") and str(place) in line


def test_a_seal_that_cannot_be_written_is_told(tmp_path, capsys):
    seal(tmp_path / "none.pkl")
    assert "none.pkl is not sealed, and will need --trust" in capsys.readouterr().err


def test_the_key_has_its_place_in_the_users_state(monkeypatch, tmp_path):
    monkeypatch.delenv("SPIKELOOP_KEY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert key_file() == tmp_path / "spikeloop" / "key"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_file() == tmp_path / os.path.join(".local", "state", "spikeloop", "key")
