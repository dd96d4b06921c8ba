"""Programs as values: what is refused and how, files, limits of cores and chips."""

import numpy as np
import pytest

from spikeloop.hardware import CHIPS, Compartments, Emulator, Program, Projection
from spikeloop.hardware.loihi.resources import check_limits, use


def projection(**fields):
    return Projection(**{"name": "w", "from_input": True, "pre": [0, 1], "post": [0], "weights": [[2, -4]], **fields})


def program(n=3, projections=None, **fields):
    base = {
        "chip": "loihi1",
        "profile": "nengo",
        "n_inputs": 2,
        "compartments": Compartments.build(n, v_th=640),
        "projections": (projection(),) if projections is None else projections,
        "outputs": [n - 1],
        "groups": (("cells", 0, n),),
    }
    return Program(**{**base, **fields})


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"decay_u": 4098}, r"decay_u must be within \[0, 4097\], found 4098"),
        ({"decay_v": -1}, r"decay_v must be within \[0, 4096\], found -1"),
        ({"v_th": 100}, "v_th must be multiples of 64, found 100"),
        ({"v_th": 131072 * 64}, r"v_th must be within \[0, 8388544\]"),
        ({"bias": 4097}, r"bias must be a 13-bit mantissa times 2\^0..2\^7, found 4097"),
        ({"refractory": 0}, r"refractory must be within \[1, 64\], found 0"),
        ({"decay_v": 0.5}, "decay_v must hold whole numbers"),
        ({"decay_v": "much"}, "decay_v must be an array of integers"),
        ({"parent": [2, -1, 1], "fires": 0}, "parent must be -1 or a later compartment, found 1 at index 2"),
        ({"parent": [2, -1, -1]}, "fires must be 0 where a compartment has a parent"),
        ({"parent": [3, 3, 3, -1], "fires": 0}, "at most 2 children each, 3 has more"),
        ({"parent": [2, -1, -1], "fires": 0, "core": [0, 1, 1]}, "core must be the same for a compartment and its"),
        ({"subtract": 1}, "subtract needs model 'lsnn'"),
        ({"model": 1, "refractory": 2}, "refractory must be 1 with model 'slayer_alif'"),
        ({"tau": 3}, "no field 'tau'"),
    ],
)
def test_compartments_refuse_what_registers_cannot_hold(fields, message):
    with pytest.raises(ValueError, match=message):
        Compartments.build(4 if len(np.atleast_1d(fields.get("parent", 0))) == 4 else 3, **fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"weights": [[2, -3]]}, "weights must be multiples of 2 at 8 bits mixed, found -3"),
        ({"weights": [[2, 300]]}, r"weights must be within \[-256, 255\], found 300"),
        ({"sign_mode": "excitatory"}, r"weights must be within \[0, 255\], found -4"),
        ({"weights": [[2]]}, r"weights must have shape \(1, 2\), got \(1, 1\)"),
        ({"bits": 9}, "bits must be an integer >= 1 and <= 8, got 9"),
        ({"exponent": 8}, r"exponent must be an integer >= -8 and <= 7, got 8"),
        ({"delays": [[0, 64]]}, r"delays must be within \[0, 63\], found 64"),
        ({"pre": [0, 0]}, "pre must hold at least one id >= 0, each once"),
        (
            {"pre": [*range(5000), 0], "weights": np.ones((1, 5001))},
            r"pre must .* got \[0, 1, 2, ..., 4998, 4999, 0\] \(5001 val",
        ),
        ({"sign_mode": "both"}, "sign_mode must be one of"),
    ],
)
def test_projections_refuse_what_synapses_cannot_hold(fields, message):
    with pytest.raises(ValueError, match=f"Projection 'w'.{message}"):
        projection(**fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"chip": "loihi3"}, r"chip must be one of \('loihi1', 'loihi2'\), got 'loihi3'"),
        ({"profile": "norse"}, "profile must be one of"),
        ({"n_inputs": 1}, r"'w'.pre must be within \[0, 0\], found 1"),
        ({"projections": (projection(post=[3]),)}, r"'w'.post must be within \[0, 2\], found 3"),
        ({"outputs": [3]}, r"outputs must be within \[0, 2\]"),
        ({"groups": (("cells", 0, 4),)}, "groups must be an integer >= 0 and <= 3, got 4"),
        ({"compartments": Compartments.build(3, model=[0, 2, 0])}, "loihi1 has no neuron model 'lsnn', which group"),
        ({"compartments": Compartments.build(3, v_min=-5)}, "v_min must be a value the register has"),
        ({"compartments": Compartments.build(3, decay_u=4097)}, "decay_u must be at most 4096 in profile 'nengo'"),
        (
            {"compartments": Compartments.build(3, refractory=64)},
            "refractory must be at most 63 in profile 'nengo', found",
        ),
        ({"projections": (projection(exponent=-8),)}, r"'w'.exponent must be within \[-7, 7\] in profile 'nengo'"),
        ({"projections": (projection(delays=[[0, 63]]),)}, r"'w'.delays must be within \[0, 62\] in profile 'nengo'"),
        ({"projections": (projection(bits=7, weights=[[4, -4]]),)}, r"'w'.bits must be one of \(1, 2, .* found 7"),
        ({"noise_exponent": 24}, r"noise_exponent must be an integer >= 1 and <= 23"),
        ({"noise_exponent": 23, "noise_mantissa": 200}, r"keep noise within 2\^26"),
        ({"noise_at": "soma"}, "noise_at must be one of"),
    ],
)
def test_programs_refuse_what_does_not_fit_together(fields, message):
    with pytest.raises(ValueError, match=message):
        program(**fields)


def test_profile_lava_has_delays_of_63_ticks_and_weights_of_7_bits():
    synapses = projection(delays=[[0, 63]], bits=7, weights=[[4, -4]], exponent=-8)
    late = Emulator(program(profile="lava", projections=(synapses,), compartments=Compartments.build(3, refractory=64)))
    assert late.layout.slots == 64


def test_a_program_survives_its_file(tmp_path):
    delays = np.array([[0, 3]])
    whole = program(projections=(projection(delays=delays, exponent=-1), projection(name="w2", plastic=True)))
    whole.save(tmp_path / "program.safetensors")
    loaded = Program.load(tmp_path / "program.safetensors")
    assert loaded.groups == whole.groups and loaded.projections[1].plastic
    x = np.ones((9, 1, 2), np.int32)
    for a, b in zip(*(Emulator(p).run(Emulator(p).initial_state(), 9, x) for p in (whole, loaded)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_foreign_and_truncated_files_are_refused(tmp_path):
    path = tmp_path / "program.safetensors"
    program().save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        Program.load(path)
    from spikeloop.spiking.storage import save_parts

    save_parts(path, "spikeloop.chip_program", 2, Compartments.build(1))
    with pytest.raises(ValueError, match="does not describe a chip program"):
        Program.load(path)
    save_parts(path, "spikeloop.chip_program", 4, program())
    with pytest.raises(ValueError, match="format version 4; this spikeloop reads versions 1, 2 and 3: update"):
        Program.load(path)
    with pytest.raises(FileNotFoundError):
        Program.load(tmp_path / "none")


TWO = np.full((600, 2), 2)


def dense(n_pre, n_post, core=0, **fields):
    """Return a program of ``n_post`` compartments on one core, fed by ``n_pre`` input lines."""
    weights = np.full((n_post, n_pre), 2)
    synapses = Projection("w", True, range(n_pre), range(n_post), weights)
    compartments = Compartments.build(n_post, core=core, **fields)
    return Program("loihi1", "nengo", n_pre, compartments, (synapses,), [], (("cells", 0, n_post),))


@pytest.mark.parametrize(
    "too_large, message",
    [
        (lambda: dense(1, 1025), "has 1024 compartments; core 0 needs 1025 for group 'cells'"),
        (lambda: dense(4097, 1), "has 4096 input axons; core 0 needs 4097"),
        (lambda: dense(600, 300), "has 16384 64-bit words of synaptic memory; core 0 needs"),
        (lambda: dense(1, 1, core=128), "loihi1 has 128 cores; group 'cells' is placed on core 128"),
        (lambda: dense(1, 40, decay_v=range(40)), "has 32 compartment profiles; core 0 needs 40"),
        (lambda: dense(1, 40, v_th=np.arange(40) * 64), "has 8 thresholds; core 0 needs 40"),
        (lambda: dense(1, 2, decay_v=[0, 4096]), "core 0 needs decay_v 0 and 4096: the offset"),
        (
            lambda: program(600, (projection(post=range(600), weights=TWO, delays=10 * TWO),)),
            "has 8192 compartments x delay slots; core 0 needs 19200",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_limit_need_and_group(too_large, message):
    with pytest.raises(ValueError, match=message):
        check_limits(too_large())


def test_a_message_names_a_few_of_many_compartments():
    synapses = Projection("w", True, range(4097), range(900), np.full((900, 4097), 2))
    many = Program("loihi1", "nengo", 4097, Compartments.build(900), (synapses,), [])
    with pytest.raises(ValueError, match=r"compartment 0, compartment 1, compartment 2 and 897 more$"):
        check_limits(many)


def test_use_of_cores():
    compartments = Compartments.build(4, core=[0, 0, 1, 1])
    synapses = (
        Projection("in", True, [0, 1], [0, 1, 2], [[2, 2], [2, 0], [2, 0]]),
        Projection("out", False, [0, 1], [2, 3], [[2, 2], [0, 2]], plastic=True),
    )
    first, second = use(Program("loihi1", "nengo", 2, compartments, synapses, []))
    assert (first.core, first.compartments, first.input_axons, first.output_axons) == (0, 2, 2, 4)
    assert (second.core, second.compartments, second.input_axons, second.output_axons) == (1, 2, 1 + 2 * 2, 0)
    # a list of one or two 8-bit synapses and its head of 10 bits is one word, with two 9-bit tags too
    assert (first.memory_words, second.memory_words) == (2, 3)
    assert (second.synapse_formats, first.delay_slots) == (2, 8)


def test_a_chip_knows_its_tiles():
    assert CHIPS["loihi1"].tile(0) == (0, 0)
    assert CHIPS["loihi1"].tile(41) == (2, 2)
    assert CHIPS["loihi1"].tile(127) == (7, 3)
