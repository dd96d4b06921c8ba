"""The format of files, on values of its own: what is kept, what older versions may hold, what is refused."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from spikeloop.spiking.storage import load_parts, save_parts


@dataclass(frozen=True)
class Round:
    radius: float
    weights: np.ndarray


@dataclass(frozen=True)
class Square:
    side: float
    weights: np.ndarray


@dataclass(frozen=True)
class Shape:  # what Round and Square were called before they were two
    kind: str
    size: float
    weights: np.ndarray


@dataclass(frozen=True)
class Drawing:
    shapes: tuple
    title: str = "untitled"


def of_version_2(kind, size, weights):
    if kind not in ("round", "square"):
        raise ValueError(f"Shape.kind must be 'round' or 'square', got {kind!r}")
    return Round(size, weights) if kind == "round" else Square(size, weights)


CLASSES = (Round, Square, Drawing)
FORMER = {2: {"Shape": of_version_2}, 1: {"Shape": of_version_2, "Drawing": lambda forms: Drawing(forms, "old")}}


def load(path, former=FORMER):
    return load_parts(path, "drawing", 3, CLASSES, former, checksums_since=2)


def same(one, other):
    return type(one) is type(other) and np.array_equal(one.weights, other.weights)


def test_what_is_saved_is_loaded(tmp_path):
    save_parts(tmp_path / "file", "drawing", 3, Drawing((Round(1.5, np.arange(3.0)), Square(2.0, np.ones(2)))))
    drawing = load(tmp_path / "file")
    assert drawing.title == "untitled" and drawing.shapes[0].radius == 1.5
    assert same(drawing.shapes[0], Round(1.5, np.arange(3.0))) and same(drawing.shapes[1], Square(2.0, np.ones(2)))


def test_a_name_of_an_older_version_becomes_the_part_of_today(tmp_path):
    save_parts(tmp_path / "file", "drawing", 2, Drawing((Shape("square", 2.0, np.ones(2)), Round(1.0, np.ones(1)))))
    square, other = load(tmp_path / "file").shapes
    assert same(square, Square(2.0, np.ones(2))) and square.side == 2.0
    assert type(other) is Round  # a name that meant then what it means now


def test_two_versions_back_are_read_with_names_of_their_own(tmp_path):
    parts = {"part": "Drawing", "forms": [{"part": "Shape", "kind": "round", "size": 1.0, "weights": {"array": "w"}}]}
    header = {"format": "drawing", "format_version": 1, "parts": parts}
    (tmp_path / "file").write_bytes(save({"w": np.ones(3)}, metadata={"spikeloop": json.dumps(header)}))
    with pytest.warns(UserWarning, match=r"version 1, without a checksum.*saved again, it has one"):
        drawing = load(tmp_path / "file")
    assert drawing.title == "old" and same(drawing.shapes[0], Round(1.0, np.ones(3)))


def test_a_former_name_means_nothing_in_a_file_of_today(tmp_path):
    save_parts(tmp_path / "file", "drawing", 3, Drawing((Shape("square", 2.0, np.ones(2)),)))
    with pytest.raises(ValueError, match=r"does not describe a 'drawing' \(KeyError: 'Shape'\)"):
        load(tmp_path / "file")


def test_what_a_former_part_refuses_is_refused_in_one_line(tmp_path):
    save_parts(tmp_path / "file", "drawing", 2, Drawing((Shape("flat", 2.0, np.ones(2)),)))
    with pytest.raises(ValueError, match=r"does not describe a 'drawing': Shape.kind must be 'round' or .*'flat'$"):
        load(tmp_path / "file")


@pytest.mark.parametrize(
    ("version", "former", "message"),
    [
        (0, FORMER, "version 0; this spikeloop reads versions 1, 2 and 3: export it anew"),
        (4, FORMER, "version 4; this spikeloop reads versions 1, 2 and 3: update spikeloop"),
        (2, {1: {}}, "version 2; this spikeloop reads versions 1 and 3: export it anew"),
        (2, None, "version 2; this spikeloop reads version 3: export it anew"),
        (True, FORMER, "version True; this spikeloop reads versions 1, 2 and 3: export it anew"),
    ],
)
def test_a_version_that_is_not_read_is_refused_with_those_that_are(version, former, message, tmp_path):
    save_parts(tmp_path / "file", "drawing", version, Drawing(()))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "file", former)


def test_the_header_is_readable_json(tmp_path):
    save_parts(tmp_path / "file", "drawing", 3, Drawing((Round(1.5, np.arange(3.0)),)))
    with safe_open(tmp_path / "file", framework="numpy") as file:
        header = json.loads(file.metadata()["spikeloop"])
    assert header["parts"]["shapes"][0] == {"part": "Round", "radius": 1.5, "weights": {"array": "shapes.0.weights"}}
