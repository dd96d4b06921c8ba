import errno
import json
import math
import os
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from safetensors.numpy import save

from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.decay import decay
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.network import Layer, Network, Normalizer, state_rows
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.reference import decide
from spikeloop.spiking.storage import save_parts, write_atomically

LOW, HIGH = np.array([-1.0, 0.0]), np.array([1.0, 2.0])
ENCODERS = {
    "direct": Encoder("direct", 2),
    "population": Encoder("population", 2, centers=[[0, 1, 2], [3, 4, 5]], widths=np.full((2, 3), 0.5)),
    "rate": Encoder("rate", 2, low=LOW, high=HIGH, gain=0.5, poisson=True),
    "latency": Encoder("latency", 2, low=LOW, high=HIGH, gain=4.0, tau=3.0, threshold=0.9),
    "delta": Encoder("delta", 2, threshold=0.125),
}
HEADS = {
    "none": None,
    "discrete": ActionHead("discrete", (4,)),
    "multi_discrete": ActionHead("multi_discrete", (3, 1), (2,)),
    "multi_binary": ActionHead("multi_binary", (2,) * 4, (2, 2)),
    "box": ActionHead("box", (1,) * 4, (4,), low=np.full(4, -2.0), high=np.full(4, np.inf), squash=False),
}


def make_neurons(n=3, **changes):
    values = {
        "tau_m": np.linspace(0, 8, n),
        "v_th": np.linspace(0.8, 1.2, n),
        "tau_a": np.linspace(20, 100, n),
        "beta": np.where(np.arange(n) < n // 2, 0.0, 0.3),
        "refractory": np.arange(n) % 3,
    }
    return LsnnNeurons(**{**values, **changes})


def make_layer(rng, n_in, n, dtype=np.float32, recurrent=True, **changes):
    w_rec = rng.normal(0, 0.4, (n, n)).astype(dtype)
    np.fill_diagonal(w_rec, 0.0)
    w_in, bias = rng.normal(0, 0.7, (n, n_in)).astype(dtype), rng.normal(0.1, 0.1, n).astype(dtype)
    return Layer(w_in, bias, make_neurons(n, **changes), w_rec if recurrent else None)


def make_network(encoder="direct", dtype=np.float32, seed=0, neurons=None, readout=None, **changes):
    rng = np.random.default_rng(seed)
    encoder = ENCODERS[encoder]
    layers = (
        make_layer(rng, encoder.n_channels, 5, dtype, **(neurons or {})),
        make_layer(rng, 5, 3, dtype, recurrent=False, **(neurons or {})),
    )
    w_out, b_out = rng.normal(size=(4, 3)).astype(dtype), rng.normal(size=4).astype(dtype)
    return Network(encoder, layers, Readout(w_out, b_out, **(readout or {})), **changes)


def assert_same(one, other):
    """Assert equality of two trees of dataclasses, down to the dtype and the bits of each array."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


# Validation


WRONG = {
    "LsnnNeurons.tau_m must be >= 0": lambda: make_neurons(tau_m=[1, -1, 1]),
    "LsnnNeurons.tau_m must have shape": lambda: make_neurons(tau_m=4.0),
    "LsnnNeurons.v_th must be > 0": lambda: make_neurons(v_th=[1, 0, 1]),
    "LsnnNeurons.v_th must have shape (3)": lambda: make_neurons(v_th=np.ones(2)),
    "LsnnNeurons.tau_a must be finite": lambda: make_neurons(tau_a=[1, np.inf, 1]),
    "LsnnNeurons.beta must be >= 0": lambda: make_neurons(beta=[0, 0, -0.1]),
    "LsnnNeurons.beta must be an array of numbers": lambda: make_neurons(beta="strong"),
    "LsnnNeurons.refractory must be whole ticks": lambda: make_neurons(refractory=[0, 1.5, 0]),
    "LsnnNeurons.refractory must be whole ticks >= 0": lambda: make_neurons(refractory=[0, -1, 0]),
    "LsnnNeurons.refractory must be whole ticks >= 0 that": lambda: make_neurons(refractory=[0, 1e12, 0]),
    "LsnnNeurons.hold must be False, or True with reset 'zero'": lambda: make_neurons(hold=True, reset="subtract"),
    "LsnnNeurons.refractory must be an array of numbers": lambda: make_neurons(refractory="long"),
    "LsnnNeurons.reset must be one of": lambda: make_neurons(reset="hard"),
    "LsnnNeurons.adaptation must be one of": lambda: make_neurons(adaptation="alif"),
    "Layer.w_in must have shape (3, any)": lambda: Layer(np.ones((2, 2)), np.zeros(3), make_neurons()),
    "Layer.w_in must be finite, found nan": lambda: Layer(np.full((3, 2), np.nan), np.zeros(3), make_neurons()),
    "Layer.bias must have shape (3)": lambda: Layer(np.ones((3, 2)), np.zeros(2), make_neurons()),
    "Layer.w_rec must have shape (3, 3)": lambda: Layer(np.ones((3, 2)), np.zeros(3), make_neurons(), np.ones((3, 2))),
    "Layer.w_rec must have a zero diagonal": lambda: Layer(np.ones((3, 2)), np.zeros(3), make_neurons(), np.eye(3)),
    "Encoder.kind must be one of": lambda: Encoder("phase", 2),
    "Direct.n_obs must be an integer >= 1": lambda: Encoder("direct", 0),
    "Population.centers must have shape (2, any)": lambda: Encoder("population", 2, centers=[1], widths=[1]),
    "Population.widths must have shape (2, 1)": lambda: Encoder("population", 2, centers=[[1], [2]], widths=[[1]]),
    "Population.widths must be > 0": lambda: Encoder("population", 1, centers=[[1]], widths=[[0]]),
    "encoder 'rate': Rate.__init__() missing 1": lambda: Encoder("rate", 2, high=HIGH),
    "encoder 'rate' has no field 'colour'": lambda: Encoder("rate", 2, low=LOW, high=HIGH, colour="blue"),
    "Latency.high must be above Latency.low": lambda: Encoder("latency", 2, low=HIGH, high=HIGH),
    "Rate.gain must be a finite number within": lambda: Encoder("rate", 2, low=LOW, high=HIGH, gain=1.5),
    "Latency.tau must be a finite number": lambda: replace(ENCODERS["latency"], tau=0.0),
    "Delta.threshold must be a finite number": lambda: Encoder("delta", 2, threshold=math.nan),
    "Normalizer.mean must have shape": lambda: Normalizer(np.zeros((2, 2)), np.ones(2)),
    "Normalizer.std must be > 0": lambda: Normalizer(np.zeros(2), np.array([1, 0])),
    "Normalizer.clip must be": lambda: Normalizer(np.zeros(2), np.ones(2), clip=-1.0),
    "Readout.w_out must have shape (any, any)": lambda: Readout(np.ones(3), np.ones(1)),
    "Readout.b_out must have shape (4)": lambda: Readout(np.ones((4, 3)), np.ones(3)),
    "Readout.tau_out must be": lambda: Readout(np.ones((4, 3)), np.ones(4), tau_out=-1.0),
    "Readout.v_th_out must be": lambda: Readout(np.ones((4, 3)), np.ones(4), v_th_out=0.0),
    "ActionHead.kind must be one of": lambda: ActionHead("gaussian", (1,)),
    "ActionHead.sizes must be an integer >= 1": lambda: ActionHead("multi_discrete", (2, 0), (2,)),
    "ActionHead.shape (3,) does not hold 2 actions": lambda: ActionHead("multi_discrete", (2, 2), (3,)),
    "ActionHead.low must have shape (1,)": lambda: ActionHead("box", (1,), (1,), low=[0, 0], high=[1]),
    "ActionHead.high must have shape (1,)": lambda: ActionHead("box", (1,), (1,), low=[0], high=[np.nan]),
    "Network.layers must hold at least one layer": lambda: replace(make_network(), layers=()),
    "Network.layers[0].w_in must take 4 inputs, has 2": lambda: replace(make_network(), encoder=ENCODERS["delta"]),
    "Network.readout must take 3 inputs": lambda: replace(make_network(), readout=Readout(np.ones((4, 5)), np.ones(4))),
    "Network.head needs 3 outputs, readout has 4": lambda: make_network(head=ActionHead("discrete", (3,))),
    "Network.encoder must take 3 values, takes 2": lambda: make_network(
        preprocessing=(Normalizer(np.zeros(3), np.ones(3)),)
    ),
    "Network.n_ticks must be an integer >= 1": lambda: make_network(n_ticks=0),
    "Network.latency must be 0 or 1": lambda: make_network(latency=2),
    "Network.dt must be a finite number": lambda: make_network(dt=0.0),
    "Readout.kind 'first_spike' needs a head": lambda: make_network(readout={"first_spike": True}),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(message):
    with pytest.raises(ValueError) as caught:
        WRONG[message]()
    assert str(caught.value).startswith(message)


def test_arrays_are_copied_and_read_only():
    w_in = np.ones((3, 2), dtype=np.float32)
    layer = Layer(w_in, np.zeros(3), make_neurons())
    w_in[:] = 5.0
    assert np.all(layer.w_in == 1.0)
    with pytest.raises(ValueError, match="read-only"):
        layer.w_in[:] = 2.0
    with pytest.raises(AttributeError):
        layer.w_in = w_in


@pytest.mark.parametrize(("given", "kept"), [("f4", "f4"), ("f8", "f8"), ("f2", "f4"), ("i8", "f4")])
def test_weights_are_float32_unless_given_as_float64(given, kept):
    layer = Layer(np.ones((3, 2), dtype=given), np.zeros(3), make_neurons())
    assert layer.w_in.dtype == np.dtype(kept)


def test_decay():
    assert decay(4.0) == math.exp(-0.25)
    np.testing.assert_array_equal(decay([0.0, 2.0], dt=0.5), [0.0, math.exp(-0.25)])


@pytest.mark.parametrize("kind", ENCODERS)
def test_packed_state_has_a_row_per_quantity(kind):
    network = make_network(kind)
    rows = state_rows(network)
    layers = [f"{i}.{row}" for i in (0, 1) for row in ("v", "a", "z", "refractory")]
    assert list(rows) == [*network.encoder.memory_rows, *layers, "y"]
    assert network.state_shape == (len(rows), 5)
    assert network.initial_state(7).shape == (len(rows), 7, 5)


def test_state_is_as_wide_as_the_encoders_memory():
    layer = Layer(np.ones((3, 20)), np.zeros(3), make_neurons())
    network = Network(Encoder("delta", 10), (layer,), Readout(np.ones((1, 3)), np.zeros(1)))
    assert network.state_shape == (6, 10)


def test_normalizer_is_the_arithmetic_of_vec_normalize():
    normalizer = Normalizer(np.array([1.0, 0.0]), np.sqrt(np.array([4.0, 0.01]) + 1e-8), clip=3.0)
    got = normalizer(np.array([[5.0, 0.1], [-9.0, 7.0]]))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [[2.0, 1.0], [-3.0, 3.0]], rtol=1e-5)


def test_heads_choose_the_action():
    outputs = np.array([[0.1, 0.7, -1.0, 0.0], [3.0, -0.5, 2.0, 9.0]])
    assert HEADS["discrete"](outputs).tolist() == [1, 3]
    assert HEADS["multi_discrete"](outputs).tolist() == [[1, 0], [0, 0]]
    assert HEADS["multi_binary"](outputs).tolist() == [[[1, 1], [0, 0]], [[1, 0], [1, 1]]]
    np.testing.assert_array_equal(HEADS["box"](outputs * 4), np.maximum(outputs * 4, -2.0))
    squashed = ActionHead("box", (1,), (1,), low=[-1.0], high=[3.0], squash=True)
    np.testing.assert_allclose(squashed(np.array([[0.0], [50.0], [-50.0]])), [[1.0], [3.0], [-1.0]])


# Files


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ENCODERS)
def test_every_encoder_survives_the_file(tmp_path, kind, dtype):
    network = make_network(kind, dtype)
    network.save(tmp_path / "policy.safetensors")
    assert_same(Network.load(tmp_path / "policy.safetensors"), network)


@pytest.mark.parametrize("head", HEADS)
def test_every_other_part_survives_the_file(tmp_path, head):
    network = make_network(
        neurons={"reset": "zero", "adaptation": "ahp"},
        readout={"tau_out": 12.5, "count": True, "first_spike": head == "discrete", "v_th_out": 2.0},
        head=HEADS[head],
        preprocessing=(Normalizer(np.array([0.1, 0.2]), np.array([1.0, 3.0]), clip=5.0),),
        n_ticks=4,
        dt=0.5,
        latency=1,
        metadata={"command": "spikeloop train", "μ": "naïve\nlines"},
    )
    network.save(str(tmp_path / "policy"))
    assert_same(Network.load(str(tmp_path / "policy")), network)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "policy.safetensors"
    make_network().save(path)
    return path


def test_a_truncated_file_is_refused_wherever_it_ends(saved):
    data = saved.read_bytes()
    for length in [*range(0, 40), *range(40, len(data), 97), len(data) - 1]:
        saved.write_bytes(data[:length])
        with pytest.raises(ValueError, match="truncated or not a safetensors file"):
            Network.load(saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        Network.load(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError):
        Network.load(tmp_path)


def test_a_foreign_safetensors_file_is_refused(saved):
    saved.write_bytes(save({"w": np.ones(3)}, metadata={"format": "pt"}))
    with pytest.raises(ValueError, match="not one of spikeloop's"):
        Network.load(saved)
    header = b'{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'  # a type numpy has not
    saved.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(ValueError, match="not one of spikeloop's"):
        Network.load(saved)


@pytest.mark.parametrize(
    ("version", "advice"), [(0, "export it"), (6, "update spikeloop"), ("5", "export"), (None, "export")]
)
def test_another_version_is_refused_by_number(saved, version, advice):
    save_parts(saved, "spikeloop.network", version, make_network())
    with pytest.raises(
        ValueError, match=f"format version {version!r}; this spikeloop reads versions 1, 2, 3, 4 and 5: {advice}"
    ):
        Network.load(saved)


def test_another_kind_is_refused_by_name(saved):
    save_parts(saved, "spikeloop.chip_program", 1, make_network())
    with pytest.raises(ValueError, match=r"holds a 'spikeloop.chip_program', not a 'spikeloop.network'"):
        Network.load(saved)


def test_another_part_than_a_network_is_refused(saved):
    save_parts(saved, "spikeloop.network", 5, ENCODERS["direct"])
    with pytest.raises(ValueError, match="does not describe a network"):
        Network.load(saved)


@pytest.mark.parametrize(
    "parts",
    [
        '{"part": "os.system", "command": "true"}',
        '{"part": "Network"}',
        '{"part": "Encoder", "kind": "direct", "n_obs": 2, "colour": "blue"}',
        '{"part": ["Network"]}',
        '{"array": "absent"}',
        '{"map": 5}',
        "{}",
        "null",
        "[" * 900 + "]" * 900,
        "[" * 100_000 + "]" * 100_000,
        "{",
    ],
)
@pytest.mark.filterwarnings("ignore:.*without a checksum")
def test_a_damaged_header_is_a_value_error(saved, parts):
    header = f'{{"format": "spikeloop.network", "format_version": 2, "parts": {parts}}}'
    saved.write_bytes(save({"w": np.ones(3)}, metadata={"spikeloop": header}))
    with pytest.raises(ValueError, match=r"damaged header|does not describe"):
        Network.load(saved)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_other(saved, monkeypatch, call):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        make_network(seed=1).save(saved)
    assert os.listdir(saved.parent) == [saved.name]
    assert saved.read_bytes() == before


def test_a_write_appears_under_its_name_only_when_it_is_on_disk(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    write_atomically(path, b"old")
    fsync = os.fsync

    def look(handle):
        seen.append(path.read_bytes())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", look)
    write_atomically(path, b"new")
    assert seen[0] == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_a_saved_file_has_the_permissions_of_any_new_file(saved):
    other = saved.with_name("other")
    other.touch()
    assert saved.stat().st_mode == other.stat().st_mode


def test_header_is_readable_json(saved):
    from safetensors import safe_open

    with safe_open(saved, framework="numpy") as file:
        header = json.loads(file.metadata()["spikeloop"])
    assert (header["format"], header["format_version"]) == ("spikeloop.network", 5)
    assert header["parts"]["layers"][0]["w_in"] == {"array": "layers.0.w_in"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActionHead("discrete", (2, 3)), "does not hold"),
        (lambda: ActionHead("multi_binary", (2, 3), (2,)), "must all be 2"),
        (lambda: ActionHead("box", (1,), (1,), np.ones(1), -np.ones(1)), "at least low"),
        (lambda: ActionHead("box", (1,), (1,), np.full(1, -np.inf), np.ones(1), squash=True), "finite bounds"),
        (lambda: Encoder("latency", 1, low=np.zeros(1), high=np.ones(1), gain=1.0), "gain must exceed threshold"),
        (lambda: Encoder("population", 1, centers=np.zeros((1, 0)), widths=np.ones((1, 0))), "at least one neuron"),
    ],
)
def test_a_part_that_could_not_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_first_spike_reads_the_outputs_when_the_first_one_crosses():
    readout = Readout(np.eye(2), np.zeros(2), first_spike=True, v_th_out=1.5)
    spikes = np.array([[[1, 0]], [[0, 1]], [[0, 1]], [[1, 0]], [[1, 0]]], dtype=float)  # (n_ticks, 1, 2)
    np.testing.assert_array_equal(decide(spikes, readout)[0], [[1.0, 2.0]])
    np.testing.assert_array_equal(decide(spikes[:2], readout)[0], [[1.0, 1.0]])
