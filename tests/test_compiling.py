"""The cache of compiled kernels: broken files are misses, and a change in a called file is noticed."""

import os
import subprocess
import sys

import pytest

from spikeloop.spiking import compiling

CALLEE = "from spikeloop.spiking.compiling import kernel\n@kernel\ndef inner(x):\n    return x + {}\n"
CALLER = (
    "from spikeloop.spiking.compiling import kernel\nfrom small.linked.callee import inner\n"
    "@kernel\ndef outer(x):\n    return inner(x)\n"
)
PROGRAM = "from small.caller import outer; print(outer(1), sum(outer.stats.cache_hits.values()))"
C_CALLER = (
    "from numba import int64\nfrom spikeloop.spiking.compiling import c_function\n"
    "from small.linked.callee import inner\ndef outer(x):\n    return inner(x)\n"
    "outer = c_function(outer, int64(int64))"
)
C_PROGRAM = "from small.caller import outer; print(outer.ctypes(1), outer.cache_hits)"


@pytest.mark.parametrize(("caller", "program"), [(CALLER, PROGRAM), (C_CALLER, C_PROGRAM)], ids=["njit", "cfunc"])
def test_a_change_in_a_called_file_is_noticed_and_a_broken_cache_survived(tmp_path, caller, program):
    package, elsewhere, cache = tmp_path / "small", tmp_path / "elsewhere", tmp_path / "cache"
    for folder in (package, elsewhere):
        folder.mkdir()
        (folder / "__init__.py").touch()
    (package / "linked").symlink_to(elsewhere)  # as the packages of a checkout are
    (package / "caller.py").write_text(caller)
    (elsewhere / "callee.py").write_text(CALLEE.format(1))
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": paths}

    def run():
        ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        return tuple(map(int, ran.stdout.split()))

    assert run() == (2, 0)
    assert run() == (2, 1)
    (elsewhere / "callee.py").write_text(CALLEE.format(2))
    assert run() == (3, 0)
    for path in cache.rglob("*.nb?"):
        path.write_bytes(b"")
    assert run() == (3, 0)
    assert run() == (3, 1)


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "damage",
    [lambda d: b"", lambda d: d[: len(d) // 2], lambda d: bytes(len(d)), lambda d: d[:-40] + bytes(40)],
    ids=["empty", "half", "zeros", "zeros at the end"],
)
def test_a_damaged_file_is_a_miss_that_the_next_save_mends(tmp_path, kind, damage, monkeypatch, capsys):
    monkeypatch.setattr(compiling, "_said", set())
    compiling._CacheFile(str(tmp_path), "f", "stamp").save("key", {"code": bytes(range(200))})
    (path,) = tmp_path.glob(f"*.{kind}")
    path.write_bytes(damage(path.read_bytes()))
    cache = compiling._CacheFile(str(tmp_path), "f", "stamp")
    whole = kind == "nbi" and cache.load("key")  # an index of which only the digest is damaged still reads
    if not whole:
        assert cache.load("key") is None
        assert capsys.readouterr().err.count("is damaged") == 1
    cache.save("key", 2)
    assert compiling._CacheFile(str(tmp_path), "f", "stamp").load("key") == 2


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiling, "_said", set())
    cache = compiling._CacheFile(str(tmp_path / "missing"), "f", "stamp")
    cache.save("key", 1)
    cache.save("key", 1)
    assert capsys.readouterr().err.count("cannot be written") == 1
    assert cache.load("key") is None


def test_without_numbas_private_attributes_a_kernel_is_left_as_it_is():
    dispatcher = object()
    assert compiling._mend_cache(dispatcher, len, False) is dispatcher
