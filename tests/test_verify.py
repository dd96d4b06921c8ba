"""What ``spikeloop verify`` says of sound and of damaged files, of every kind and in folders."""

import zipfile

import pytest

from spikeloop.scripts import verify
from spikeloop.spiking.storage import write_atomically


def verified(capsys, *arguments):
    status = verify.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out.splitlines(), output.err


def test_verify_says_what_each_file_is(files, tmp_path, capsys):
    for i, ((kind, name), data) in enumerate(files.items()):
        path = tmp_path / f"{i}.safetensors"
        path.write_bytes(data)
        status, (line,), _ = verified(capsys, path)
        assert status == 0 and line.startswith(f"{path}: {kind}")
        assert f"format version {3 if kind == 'program' else 5}, checksum ok; " in line
        if kind != "network":
            assert f"{kind} for {name.split()[-1]}, " in line


def test_verify_looks_through_a_folder(files, tmp_path, capsys):
    (tmp_path / "best_model").mkdir()
    (tmp_path / "policy.safetensors").write_bytes(files["network", "direct"])
    with zipfile.ZipFile(tmp_path / "best_model" / "model.zip", "w") as archive:
        archive.writestr("data", b"cos\nsystem\n(S'false'\ntR.")
    (tmp_path / "vecnormalize.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (tmp_path / "args.yml").write_bytes(b"")
    status, lines, _ = verified(capsys, tmp_path)
    assert status == 0 and len(lines) == 3
    assert "zip of a model, 1 entries, CRCs ok; holds pickles, which can run code and were not opened" in lines[0]
    assert lines[2].endswith("pickle, which can run code and was not opened; has no checksum")


def test_verify_names_the_file_that_is_not_sound(files, tmp_path, capsys):
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    good.write_bytes(files["network", "direct"])
    bad.write_bytes(files["network", "direct"][:-1] + b"\x07")
    missing = tmp_path / "none.safetensors"
    status, lines, _ = verified(capsys, good, bad, missing)
    assert status == 1 and len(lines) == 3 and "checksum ok" in lines[0]
    assert lines[1] == f"{bad}: NOT SOUND: is damaged: its bytes do not match its checksum"
    assert lines[2].startswith(f"{missing}: NOT SOUND: no file at")


@pytest.mark.parametrize("damage", ["CRC", "cut", "text", "other"])
def test_verify_finds_damage_in_a_zip(damage, tmp_path, capsys):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data" if damage != "other" else "picture.png", b"weights" * 100)
    data = path.read_bytes()
    write_atomically(
        path, {"CRC": data.replace(b"weights", b"height!", 1), "cut": data[:-30], "text": b"a,b"}.get(damage, data)
    )
    status, (line,), _ = verified(capsys, path)
    assert status == 1 and ": NOT SOUND: " in line


def test_a_wrong_verify_request_is_answered_in_one_line(capsys):
    assert verified(capsys)[0] == 2
    assert verified(capsys, "--wrong", "x")[0] == 2
