"""Files that are damaged, hostile or of another version, of every kind that spikeloop reads without pickle."""

import hashlib
import json
import math
import os
import random
import tracemalloc

import numpy as np
import pytest

from spikeloop.hardware import DeployedPolicy, Emulator, Program
from spikeloop.hardware.deployment import Deployment
from spikeloop.spiking import ActionHead, Encoder, Layer, LsnnNeurons, Network, Readout, Simulator
from spikeloop.spiking.observation import Normalizer, ObservationPart

LOADERS = {"network": Network.load, "deployment": Deployment.load, "program": Program.load}
NASTY = [
    *(None, True, False, -1, 0, 1, 2, 7, 2**31, 2**40, 2**63, 10**30, 0.0, 0.5, 1e-320, 1e308, math.nan, math.inf),
    *("", "x", "direct", "\ud800", "x" * 3000, [], [[]], {}, [1], [-1], [2**62], [1.5], [None], [[2**62, 2]]),
    *(
        {"part": "Network"},
        {"part": "os"},
        {"part": ["Layer"]},
        {"array": "x"},
        {"array": []},
        {"map": {}},
        {"map": "ab"},
    ),
    *({"part": "Encoder", "kind": kind, "n_obs": n} for kind in ("direct", "delta") for n in (2, 10**9, 2**40)),
]
NUMBERS = (
    np.array([math.nan, math.inf, 1e38, -1e38, 1e-45, 0.0, -1.0], "<f4"),
    np.array([-(2**31), 2**31 - 1, -1], "<i4"),
)


def split(data):
    n = 8 + int.from_bytes(data[:8], "little")
    outer = json.loads(data[8:n])
    return outer, json.loads(outer["__metadata__"]["spikeloop"]), data[n:]


def join(outer, header, body):
    """Return a file whose checksum is right, as that of a hostile file is."""
    header = header if isinstance(header, str) else json.dumps({**header, "sha256": "0" * 64})
    outer = {**outer, "__metadata__": {"spikeloop": header}}
    return sign(pack(json.dumps(outer), body))


def pack(text, body):
    text = text.encode()
    return len(text).to_bytes(8, "little") + text + body


def sign(data):
    zeros = b'sha256\\": \\"' + b"0" * 64
    return data.replace(zeros, zeros[:-64] + hashlib.sha256(data).hexdigest().encode(), 1)


def places(tree, path=()):
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


def get(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def mutated(data, rng):
    """Return a file that differs from a good one in its header, its arrays or their descriptions, rightly signed."""
    outer, header, body = split(data)
    what = rng.choice(("value", "value", "value", "lose", "move", "numbers", "numbers", "dtype", "shape", "rename"))
    path = rng.choice([path for path in places(header) if path])
    if what == "value":
        get(header, path[:-1])[path[-1]] = rng.choice(NASTY)
    elif what == "lose":
        del get(header, path[:-1])[path[-1]]
    elif what == "move":
        get(header, path[:-1])[path[-1]] = json.loads(json.dumps(get(header, rng.choice(list(places(header))))))
    name = rng.choice([name for name in outer if name != "__metadata__"])
    entry = outer[name]
    begin, end = entry["data_offsets"]
    if what == "numbers":
        number = rng.choice([number for some in NUMBERS for number in some]).tobytes()
        at = rng.randrange(begin, end) if end > begin else 0
        body = (body[:at] + number + body[at + 4 :])[: len(body)]
    elif what == "dtype":
        entry["dtype"] = rng.choice(
            ["F64", "F32", "F16", "BF16", "I64", "U64", "I32", "U32", "I16", "I8", "BOOL", "C64"]
        )
    elif what == "shape":
        shape = entry["shape"]
        entry["shape"] = rng.choice([[], [0], [0, 2**40], [2**62], [-1], [1, *shape], shape[::-1], [1] * 80])
    elif what == "rename":
        outer[rng.choice(["", "x", *outer])] = outer.pop(name)
    return join(outer, header, body)


def play(kind, value):
    """Take three steps, as whoever loads a file does first."""
    if kind == "program":
        engine = Emulator(value)
        engine.run(engine.initial_state(), 3)
        return
    policy = Simulator(value) if kind == "network" else DeployedPolicy(value)
    parts = value.parts if kind == "network" else value.host.observation
    obs = {part.key: np.reshape(part.starts, part.shape) if part.sizes else np.full(part.shape, 0.5) for part in parts}
    state = None
    for _ in range(3):
        _, state = policy.predict(obs.get("", obs), state)


def is_legal(kind, error):
    return (kind != "program" and "no action head" in str(error)) or "the program has noise" in str(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_a_hostile_file_is_refused_at_once_or_plays(files, seed, tmp_path):
    rng, path, names, played = random.Random(seed), tmp_path / "file", sorted(files), 0
    for case in range(250):
        kind, name = rng.choice(names)
        path.write_bytes(mutated(files[kind, name], rng))
        try:
            value = LOADERS[kind](path)
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, (case, kind, name)
            continue
        try:
            play(kind, value)
            played += 1
        except ValueError as error:
            assert is_legal(kind, error), (case, kind, name, error)
    assert played > 5


def test_every_changed_byte_is_refused(files, tmp_path):
    rng, path = random.Random(0), tmp_path / "file"
    for (kind, _), data in files.items():
        header = 8 + int.from_bytes(data[:8], "little")
        for place in [
            *range(0, 8),
            *(rng.randrange(header) for _ in range(10)),
            *(rng.randrange(len(data)) for _ in range(10)),
        ]:
            changed = bytearray(data)
            changed[place] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(ValueError):
                LOADERS[kind](path)
        blank = data.index(b", ") + 1
        longer = len(data[8:header]) + 1
        for other in (
            data + b"\0",
            data[:-1],
            longer.to_bytes(8, "little") + data[8:header] + b" " + data[header:],
            longer.to_bytes(8, "little") + data[8:blank] + b" " + data[blank:],
        ):
            path.write_bytes(other)
            with pytest.raises(ValueError):
                LOADERS[kind](path)


def test_a_checksum_cannot_be_left_out(files, tmp_path):
    data, path = files["network", "direct"], tmp_path / "file"
    outer, header, body = split(data)
    del header["sha256"]
    path.write_bytes(pack(json.dumps({**outer, "__metadata__": {"spikeloop": json.dumps(header)}}), body))
    with pytest.raises(ValueError, match="damaged: it has format version 5 and no checksum"):
        Network.load(path)
    header["format_version"] = 2
    path.write_bytes(join(outer, header, body))
    with pytest.raises(ValueError, match="damaged: it has format version 2 and a checksum"):
        Network.load(path)


@pytest.mark.parametrize(("kind", "older"), [("network", 2), ("deployment", 2), ("program", 1)])
def test_a_file_of_the_version_without_checksums_is_read_with_a_warning(files, kind, older, tmp_path):
    path = tmp_path / "file"
    outer, header, body = split(next(data for (k, _), data in files.items() if k == kind))
    del header["sha256"]
    header["format_version"] = older
    path.write_bytes(pack(json.dumps({**outer, "__metadata__": {"spikeloop": json.dumps(header)}}), body))
    with pytest.warns(UserWarning, match=f"version {older}, without a checksum.*saved again, it has one") as caught:
        value = LOADERS[kind](path)
    assert caught[0].filename == __file__
    value.save(path)
    LOADERS[kind](path)


def test_a_key_that_stands_twice_is_refused(files, tmp_path):
    path, (outer, header, body) = tmp_path / "file", split(files["network", "direct"])
    text = json.dumps({**header, "sha256": "0" * 64})
    path.write_bytes(join(outer, text.replace('"n_ticks": 4', '"n_ticks": 3, "n_ticks": 4'), body))
    with pytest.raises(ValueError, match=r"damaged header .*stands twice"):
        Network.load(path)
    outer["__metadata__"] = {"spikeloop": text}
    twice = json.dumps(outer)[:-1] + f', "layers.0.bias": {json.dumps(outer["layers.0.bias"])}}}'
    path.write_bytes(sign(pack(twice, body)))
    with pytest.raises(ValueError, match="stands twice"):
        Network.load(path)


@pytest.mark.parametrize("what", ["named twice", "of no part"])
def test_every_array_is_used_once(files, what, tmp_path):
    path, (outer, header, body) = tmp_path / "file", split(files["network", "direct"])
    neurons = header["parts"]["layers"][0]["neurons"]
    if what == "named twice":
        neurons["tau_a"] = neurons["tau_m"]
    else:
        outer["more"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
        body += b"\0" * 4
    path.write_bytes(join(outer, header, body))
    with pytest.raises(ValueError, match=r"does not describe a 'spikeloop\.network'"):
        Network.load(path)


SIZES = {
    "Network.n_ticks must be an integer >= 1 and <= 10000": ("network", "direct", {"n_ticks": 10**12}),
    "Delta.n_obs must be an integer >= 1 and <= ": ("network", "delta", {"encoder.n_obs": 10**9}),
    "Network.layers[0].w_in must take 3000000 inputs, has 3": ("network", "direct", {"encoder.n_obs": 3 * 10**6}),
    "ObservationPart.shape must hold": ("network", "all parts", {"observation.0.shape": [2**12, 2**13]}),
    "FrameStack.n_stack must be": ("network", "all parts", {"preprocessing.1.n_stack": 10**9}),
    "Host.n_ticks must be an integer": ("deployment", "rate on loihi1", {"host.n_ticks": 10**9}),
    "Program.n_inputs must be an integer >= 0 and <= 1048576": ("program", "rate on loihi1", {"n_inputs": 10**9}),
    "Deployment.program must have 3 inputs": ("deployment", "rate on loihi1", {"program.n_inputs": 10**6}),
    "Host.n_ticks must be at most 127": (
        "deployment",
        "population on loihi2",
        {
            "program.n_inputs": 2**18,
            "host.n_ticks": 128,
            "host.encoder": {"part": "Direct", "n_obs": 2**18 + 1},
            "host.observation.0.shape": [2**18 + 1],
        },
    ),
    "Host.n_ticks must be at most 64": (
        "deployment",
        "delta on loihi2",
        {
            "program.n_inputs": 2**19,
            "host.n_ticks": 10_000,
            "host.encoder.n_obs": 2**18,
            "host.observation.0.shape": [2**18],
        },
    ),
}


@pytest.mark.parametrize("message", SIZES)
def test_a_small_file_cannot_ask_for_much_memory(files, message, tmp_path):
    kind, name, changes = SIZES[message]
    outer, header, body = split(files[kind, name])
    for place, value in changes.items():
        *path, last = (int(key) if key.isdecimal() else key for key in place.split("."))
        get(header["parts"], path)[last] = value
    (tmp_path / "file").write_bytes(join(outer, header, body))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            LOADERS[kind](tmp_path / "file")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert message in str(caught.value)


def one_layer(encoder, n, n_ticks=1, weight=1.0, **more):
    ones = np.ones(n, "f4")
    w_in = np.full((n, encoder.n_channels), weight, "f4")
    layer = Layer(w_in, ones, LsnnNeurons(ones, ones, ones, ones, ones))
    return Network(encoder, (layer,), Readout(np.ones((2, n), "f4"), np.zeros(2)), n_ticks=n_ticks, **more)


def test_sizes_that_are_in_use_are_allowed():
    image = 84 * 84 * 4
    one_layer(Encoder("direct", image), 512, 1000)
    one_layer(Encoder("rate", image, low=np.zeros(image), high=np.ones(image)), 16, 1000)
    one_layer(Encoder("direct", 4), 65_535, 2000)
    centers = np.tile(np.linspace(-1, 1, 32, dtype="f4"), (400, 1))
    one_layer(Encoder("population", 400, centers=centers, widths=np.ones_like(centers)), 64, 10_000)


def test_what_is_no_file_is_said_to_be_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nothing", "/dev/zero"):
        for load in LOADERS.values():
            with pytest.raises(FileNotFoundError, match="no file at"):
                load(path)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        Network.load(tmp_path / "empty")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Network(*([None] * 4)),
        lambda: Network(Encoder("direct", 1), 3, Readout(np.ones((1, 1)), np.ones(1))),
        lambda: Encoder(["direct"], 1),
        lambda: Encoder("direct", 2.0),
        lambda: ActionHead("discrete", 3),
        lambda: ActionHead("discrete", (math.inf,)),
        lambda: ActionHead("multi_binary", (2,), (1,) * 100),
        lambda: ActionHead("discrete", (2,), start=(2**70,)),
        lambda: ObservationPart((-1, -1)),
        lambda: ObservationPart((1,), "\ud800"),
        lambda: one_layer(Encoder("direct", 1), 1, preprocessing=(Normalizer(np.zeros(1), np.full(1, 5e-324)),)),
        lambda: one_layer(Encoder("direct", 1), 1, weight=1e38),
        lambda: Readout(np.ones((1, 1)), np.ones(1), count="yes"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_refused_in_one_line(make):
    with pytest.raises(ValueError) as caught:
        make()
    assert "\n" not in str(caught.value)
