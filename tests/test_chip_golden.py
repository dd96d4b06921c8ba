"""The emulator's kernel reproduces, bit for bit, what independent simulators computed (see golden/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest

from spikeloop.hardware.loihi.chip import EMULATOR_MAX, PROFILES
from spikeloop.hardware.loihi.emulator import Emulator, Recording
from spikeloop.hardware.loihi.fixed_point import drop_low_bits
from spikeloop.hardware.loihi.program import Compartments, Program, Projection

GOLDEN = Path(__file__).parent / "golden"
WIDE = {"v_min": -EMULATOR_MAX, "v_max": EMULATOR_MAX}


def load(name):
    """Return the arrays of a golden file cut into its cases, and the cases' parameters."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    cases = json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
    return [({key: array[i].astype(np.int64) for key, array in arrays.items()}, case) for i, case in enumerate(cases)]


def cases(name):
    return [pytest.param(arrays, case, id=f"{name}-{case['case']}") for arrays, case in load(name)]


def program(chip, profile, n_inputs, compartments, projections):
    return Program(chip, profile, n_inputs, compartments, tuple(projections), np.arange(compartments.n))


def one_to_one(n):
    """Return synapses through which a payload of x is an input of x, in units of 64."""
    return Projection("in", True, np.arange(n), np.arange(n), np.eye(n, dtype=int), sign_mode="excitatory")


def run_on_currents(profile, compartments, a_in, u0=0, v0=0, bias=None):
    """Run with the dendritic inputs of each tick, shape (T, n), which graded spikes one tick earlier bring."""
    emulator = Emulator(program("loihi2", profile, compartments.n, compartments, [one_to_one(compartments.n)]))
    payloads = np.concatenate([a_in, np.zeros((1, compartments.n), int)])[:, None]
    nothing = np.zeros((1, compartments.n), int)
    _, state = emulator.run(emulator.initial_state(), 1, payloads[:1], nothing)
    state = emulator.write(state, "u", np.arange(compartments.n), u0)
    state = emulator.write(state, "v", np.arange(compartments.n), v0)
    return emulator, emulator.run(state, len(a_in), payloads[1:], record=True)[2]


def run_on_spikes(emulator, x):
    return emulator.run(emulator.initial_state(), len(x), x[:, None], record=True)[2]


def assert_equal(recorded, **expected):
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(recorded, name)[:, 0], values, err_msg=name)


@pytest.mark.parametrize("arrays, case", cases("lava_lif"))
def test_lava_neuron(arrays, case):
    compartments = Compartments.build(
        6,
        decay_u=case["du"] + 1,
        decay_v=case["dv"],
        v_th=case["vth"] * 64,
        bias=arrays["bias_mant"] << case["bias_exp"],
    )
    _, recorded = run_on_currents("lava", compartments, arrays["a_in"], arrays["u0"], arrays["v0"])
    assert_equal(recorded, u=arrays["u"], v=arrays["v"], z=arrays["s"])


@pytest.mark.parametrize("arrays, case", cases("lava_lif_edges"))
def test_lava_neuron_at_the_edges_of_its_registers(arrays, case):
    compartments = Compartments.build(14, decay_u=case["du"] + 1, decay_v=case["dv"], v_th=case["vth"] * 64)
    emulator, recorded = run_on_currents("lava", compartments, arrays["a_in"])
    assert_equal(recorded, u=arrays["u"], v=arrays["v"], z=arrays["s"])
    assert emulator.counts.overflows["u"] > 0


@pytest.mark.parametrize("arrays, case", cases("lava_lif_refractory_float"))
def test_lava_refractory_period_is_one_tick_longer_than_the_chips(arrays, case):
    compartments = Compartments.build(
        4, decay_u=4096, decay_v=0, v_th=case["vth"] * 64, refractory=case["refractory_period"] + 1
    )
    _, recorded = run_on_currents("lava", compartments, arrays["a_in"])
    assert_equal(recorded, u=arrays["u"] * 64, v=arrays["v"] * 64, z=arrays["s"])


@pytest.mark.parametrize("arrays, case", cases("lava_dense_lif"))
def test_lava_weights_into_neurons(arrays, case):
    compartments = Compartments.build(6, decay_u=case["du"] + 1, decay_v=case["dv"], v_th=case["vth"] * 64)
    mode, bits = case["sign_mode"].lower(), case["num_weight_bits"]
    np.testing.assert_array_equal(drop_low_bits(arrays["w"], bits, mode, PROFILES["lava"]), arrays["w_eff"])
    synapses = Projection("in", True, np.arange(10), np.arange(6), arrays["w_eff"], case["weight_exp"], bits, mode)
    emulator = Emulator(program("loihi2", "lava", 10, compartments, [synapses]))
    assert_equal(run_on_spikes(emulator, arrays["x"]), u=arrays["u"], v=arrays["v"], z=arrays["s"])


@pytest.mark.parametrize("arrays, case", cases("lava_delay"))
def test_lava_delays(arrays, case):
    compartments = Compartments.build(4, decay_u=case["du"] + 1, decay_v=case["dv"], v_th=case["vth"] * 64)
    synapses = Projection(
        "in", True, np.arange(5), np.arange(4), arrays["w"], case["weight_exp"], delays=arrays["delay"]
    )
    emulator = Emulator(program("loihi2", "lava", 5, compartments, [synapses]))
    assert_equal(run_on_spikes(emulator, arrays["x"]), u=arrays["u"], v=arrays["v"], z=arrays["s"])


def two_populations(chip, profile, a, b, w_in, w_rec, w_ab, delays=(0, 0, 0), **fields):
    """Return inputs -> A (recurrent) -> B; ``a`` and ``b`` are the fields of their compartments."""
    n_a, n_b = w_in.shape[0], w_ab.shape[0]
    both = {key: np.repeat([a[key], b[key]], [n_a, n_b]) for key in a}
    compartments = Compartments.build(n_a + n_b, **both, **fields)
    of_a, of_b = np.arange(n_a), n_a + np.arange(n_b)
    ends = (("in", True, np.arange(w_in.shape[1]), of_a), ("rec", False, of_a, of_a), ("ab", False, of_a, of_b))
    projections = [
        part
        for (name, from_input, pre, post), w, delay in zip(ends, (w_in, w_rec, w_ab), delays, strict=True)
        for part in in_mantissas(name, w, pre, post, from_input, delay)
    ]
    return Emulator(program(chip, profile, w_in.shape[1], compartments, projections))


def together(arrays, u="u"):
    return {
        "u": np.concatenate([arrays[f"{u}a"], arrays[f"{u}b"]], axis=1),
        "v": np.concatenate([arrays["va"], arrays["vb"]], axis=1),
        "z": np.concatenate([arrays["sa"], arrays["sb"]], axis=1),
    }


@pytest.mark.parametrize("arrays, case", cases("lava_net"))
def test_lava_network(arrays, case):
    a, b = ({"decay_u": c["du"] + 1, "decay_v": c["dv"], "v_th": c["vth"] * 64} for c in (case["A"], case["B"]))
    emulator = two_populations("loihi2", "lava", a, b, arrays["w1"], arrays["wr"], arrays["w2"])
    assert_equal(run_on_spikes(emulator, arrays["x"]), **together(arrays))


@pytest.mark.parametrize("arrays, case", cases("lava_atrlif"))
def test_lava_adaptive_neuron(arrays, case):
    compartments = Compartments.build(
        4,
        model=1,
        decay_u=4096 * case["delta_i"] + 1,
        decay_v=4096 * case["delta_v"],
        decay_a=4096 * case["delta_theta"],
        decay_r=4096 * case["delta_r"],
        v_th=case["theta_0"] * 64,
        step_a=case["theta_step"] * 64,
        bias=case["bias_mant"] << case["bias_exp"],
    )
    _, recorded = run_on_currents("lava", compartments, arrays["a_in"])
    theta = arrays["theta"] - case["theta_0"] * 64
    assert_equal(recorded, u=arrays["i"], v=arrays["v"], z=arrays["s"], a=theta, r=arrays["r"])


def in_mantissas(name, w, pre, post, from_input=True, delay=0):
    """Return projections that store actual weights, in units of 64: one exponent, and each sign by itself."""
    exponent = 0
    while w.max() > 255 or w.min() < -256:
        assert not np.any(w % 2)
        w, exponent = w // 2, exponent + 1
    return [
        Projection(
            f"{name} {mode}",
            from_input,
            pre,
            post,
            np.where(mine, w, 0),
            exponent,
            sign_mode=mode,
            delays=np.full(w.shape, delay),
        )
        for mode, mine in (("excitatory", w > 0), ("inhibitory", w < 0))
        if mine.any()
    ]


@pytest.mark.parametrize("arrays, case", cases("nengo_lif"))
def test_nengo_neuron(arrays, case):
    high = arrays["bias"] & -128  # a register holds this part; a child whose v is its bias brings the rest
    compartments = Compartments.build(
        12,
        decay_u=np.repeat([4096, case["decay_u"] + 1], 6),
        decay_v=np.repeat([4096, case["decay_v"]], 6),
        v_th=case["vth_mant"] * 64,
        bias=np.concatenate([arrays["bias"] - high, high]),
        parent=np.concatenate([6 + np.arange(6), np.full(6, -1)]),
        fires=np.repeat([0, 1], 6),
        refractory=case["refract_delay"],
        v_min=-(2 ** case["neg_vm_limit"]) + 1,
        v_max=2 ** (9 + 2 * case["pos_vm_limit"]) - 1,
    )
    synapses = in_mantissas("in", arrays["w_act"] // 64, np.arange(8), 6 + np.arange(6))
    emulator = Emulator(program("loihi1", "nengo", 8, compartments, synapses))
    parents = Recording(*(x[:, :, 6:] for x in run_on_spikes(emulator, arrays["x"])))
    assert_equal(parents, u=arrays["u"], v=arrays["v"], z=arrays["s"])
    assert emulator.counts.overflows["input"] > 0 or case["regime"] != "q_wrap"


@pytest.mark.parametrize("arrays, case", cases("nengo_net"))
def test_nengo_network(arrays, case):
    a, b = (
        {
            "decay_u": c["decay_u"] + 1,
            "decay_v": c["decay_v"],
            "v_th": c["vth_mant"] * 64,
            "bias": c["bias"],
            "refractory": c["refract_delay"],
        }
        for c in (case["A"], case["B"])
    )
    w_in, w_rec, w_ab = (arrays[key] // 64 for key in ("w1", "wr", "w2"))
    emulator = two_populations("loihi1", "nengo", a, b, w_in, w_rec, w_ab)
    assert_equal(run_on_spikes(emulator, arrays["x"]), **together(arrays))


@pytest.mark.parametrize("arrays, case", cases("brian_lif"))
def test_brian_neuron(arrays, case):
    compartments = Compartments.build(
        5,
        decay_u=case["decay_I"],
        decay_v=case["decay_v"],
        v_th=case["threshold_v_mant"] * 64,
        refractory=case["refractory"],
        **WIDE,
    )
    synapses = [
        Projection("e", True, np.arange(6), np.arange(5), arrays["w_e"], sign_mode="excitatory"),
        Projection("i", True, 6 + np.arange(3), np.arange(5), arrays["w_i"], sign_mode="inhibitory"),
    ]
    emulator = Emulator(program("loihi1", "brian", 9, compartments, synapses))
    x = np.concatenate([arrays["x_e"], arrays["x_i"]], axis=1)
    assert_equal(run_on_spikes(emulator, x), u=arrays["I"], v=arrays["v"], z=arrays["s"])


@pytest.mark.parametrize("arrays, case", cases("brian_delay"))
def test_brian_delays(arrays, case):
    compartments = Compartments.build(
        3, decay_u=case["decay_I"], decay_v=case["decay_v"], v_th=case["threshold_v_mant"] * 64, **WIDE
    )
    delays = np.full((3, 4), case["delay"])
    synapses = Projection("in", True, np.arange(4), np.arange(3), arrays["w"], delays=delays)
    emulator = Emulator(program("loihi1", "brian", 4, compartments, [synapses]))
    assert_equal(run_on_spikes(emulator, arrays["x"]), u=arrays["I"], v=arrays["v"], z=arrays["s"])


@pytest.mark.parametrize("arrays, case", cases("brian_net"))
def test_brian_network(arrays, case):
    a, b = (
        {
            "decay_u": c["decay_I"],
            "decay_v": c["decay_v"],
            "v_th": c["threshold_v_mant"] * 64,
            "refractory": c["refractory"],
        }
        for c in (case["A"], case["B"])
    )
    delays = (case["delay_in"], case["delay_rec"], case["delay_ab"])
    emulator = two_populations("loihi1", "brian", a, b, arrays["w1"], arrays["wr"], arrays["w2"], delays, **WIDE)
    assert_equal(run_on_spikes(emulator, arrays["x"]), **together(arrays, u="I"))


@pytest.mark.parametrize("arrays, case", cases("slayer_cuba"))
def test_slayer_neuron_shows_the_voltage_that_crossed(arrays, case):
    compartments = Compartments.build(
        6, decay_u=case["iDecay"], decay_v=case["vDecay"], v_th=case["vThMant"] * 64, **WIDE
    )
    _, recorded = run_on_currents("slayer", compartments, arrays["a_in"])
    assert_equal(recorded, u=arrays["u"], v=arrays["v"], z=arrays["s"])


@pytest.mark.parametrize("arrays, case", cases("slayer_alif"))
def test_slayer_adaptive_neuron(arrays, case):
    threshold, step = case["vThMant"] * 64, case["vThStep"] * 64
    compartments = Compartments.build(
        6,
        model=1,
        decay_u=case["iDecay"],
        decay_v=case["vDecay"],
        decay_a=case["thDecay"],
        decay_r=case["refDecay"],
        v_th=threshold,
        step_a=step,
        **WIDE,
    )
    _, recorded = run_on_currents("slayer", compartments, arrays["a_in"])
    s = arrays["s"]  # the file shows threshold and refractory term as they were before the spike of that tick
    after = {"a": arrays["th"] - threshold + step * s, "r": arrays["ref"] + 2 * arrays["th"] * s}
    assert_equal(recorded, u=arrays["u"], v=arrays["v"], z=s, **after)
