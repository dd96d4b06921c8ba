"""Say whether files are whole: networks, deployments and programs by checksum and content, zips by their CRCs."""

from __future__ import annotations

import argparse
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

from spikeloop.scripts.cli import Parser, run

EPILOG = """\
FILE may be a run folder: its .safetensors, .zip and .pkl files are looked at. Nothing in a file is run. Zips of
models and checkpoints hold pickles, which can run code, and are not opened further than their CRCs need;
vecnormalize.pkl is a pickle, and has nothing to check it by. A right checksum says that a file is as it was written,
not who wrote it.
Exit status: 0 all are sound, 1 one is not, 2 a wrong request.
"""
SUFFIXES = (".safetensors", ".zip", ".pkl")


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run("verify", verify, argv)


def verify(argv: list[str]) -> int:
    """Print a line for each file that the arguments name."""
    parser = Parser(
        "spikeloop verify",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="file, or run folder")
    status = 0
    for file in (file for path in parser.parse_args(argv).files for file in _files(path)):
        sound, line = _line(file)
        print(line, flush=True)
        status = status if sound else 1
    return status


def _files(path: Path) -> list[Path]:
    """Return what is to be looked at: the file, or the files in a folder."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) or [path]


def _line(file: Path) -> tuple[bool, str]:
    """Return whether a file is sound, and the line that says so."""
    name = str(file).encode(errors="backslashreplace").decode()
    try:
        if file.is_dir():
            raise ValueError(f"a folder without {' and '.join(SUFFIXES)} files")
        return True, f"{name}: {_described(file)}"
    except (ValueError, OSError) as error:
        return False, f"{name}: NOT SOUND: {' '.join(str(error).split()).removeprefix(f'{file} ')}"


def _described(path: Path) -> str:
    """Return what a file is, in one line.

    Raises:
        ValueError: If it is not sound.
        OSError: If it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    if path.suffix == ".zip":
        return _zip(path)
    if path.suffix == ".pkl":
        return "pickle, which can run code and was not opened; has no checksum"
    from spikeloop.hardware.deployment import Deployment
    from spikeloop.hardware.loihi.program import Program
    from spikeloop.spiking.fields import shown
    from spikeloop.spiking.network import Network
    from spikeloop.spiking.storage import read_contents

    contents = read_contents(path)
    loaders: dict[Any, Any] = {
        "spikeloop.network": Network.load,
        "spikeloop.deployment": Deployment.load,
        "spikeloop.chip_program": Program.load,
    }
    if contents.kind not in tuple(loaders):
        raise ValueError(f"holds a {shown(contents.kind)}, which this spikeloop does not know")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missing checksum is said below; other warnings do not concern the file
        found = loaders[contents.kind](path)
    checksum = "checksum ok" if contents.has_checksum else "no checksum, so damage may go unnoticed"
    n = sum(array.size for array in contents.tensors.values())
    size = f"{n} numbers, {path.stat().st_size} bytes"
    return f"{_content(found)}; format version {contents.version}, {checksum}; {size}"


def _content(found: Any) -> str:
    """Say what a network, deployment or program consists of."""
    from spikeloop.hardware.loihi.program import Program

    if hasattr(found, "layers"):
        layers = " + ".join(str(layer.n_neurons) for layer in found.layers)
        layers = f"{layers} neurons" if layers else f"{found.readout.n_outputs} output units, {found.readout.kind}"
        head = "no action head" if found.head is None else f"{found.head.kind} actions"
        return f"network, {found.n_obs} observed -> {found.encoder.kind} -> {layers} -> {head}"
    program = getattr(found, "program", found)
    content = f"{'program' if found is program else 'deployment'} for {program.chip}"
    if not isinstance(program, Program):  # but one of another family of chips
        return content
    n_synapses, n_cores = sum(int(p.synapses.sum()) for p in program.projections), len(set(program.compartments.core))
    return f"{content}, {program.compartments.n} compartments, {n_synapses} synapses, {n_cores} cores"


def _zip(path: Path) -> str:
    """Say what a zip is, without opening what stands in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = {entry.filename for entry in entries}
            if sum(entry.compress_size for entry in entries) > path.stat().st_size or len(names) < len(entries):
                raise ValueError("entries of the zip overlap or share a name")
            if not {entry.compress_type for entry in entries} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise ValueError("no zip of a model: it is compressed in another way")
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"no whole zip ({error})") from None
    if bad is not None:
        raise ValueError(f"the CRC of its entry {bad!r} does not match")
    if "data" not in names:
        raise ValueError("no zip of a model: it has no entry 'data'")
    return f"zip of a model, {len(entries)} entries, CRCs ok; holds pickles, which can run code and were not opened"


if __name__ == "__main__":
    sys.exit(main())
