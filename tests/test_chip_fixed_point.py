"""Integer arithmetic and formats against golden vectors, and properties of them on any integers."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.hardware.learning.rule import impulse_to_register
from spikeloop.hardware.loihi import fixed_point as fp
from spikeloop.hardware.loihi import interpreter
from spikeloop.hardware.loihi.chip import PROFILES

GOLDEN = Path(__file__).parent / "golden"
MODES = ("mixed", "excitatory", "inhibitory")


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key].astype(float if file[key].dtype.kind == "f" else np.int64) for key in file.files}


decay = np.vectorize(interpreter.decay)


@pytest.fixture(scope="module")
def nengo():
    return load("nengo_arith")


def test_decay_is_nengos_at_random_and_at_edges(nengo):
    x, d = nengo["decay_x"], nengo["decay_d"]
    np.testing.assert_array_equal(decay(x, d), nengo["decay_off0"])
    np.testing.assert_array_equal(decay(x, d + 1), nengo["decay_off1"])
    for key, e in (("edge_d1", 1), ("edge_d2048", 2048), ("edge_d4095", 4095), ("edge_d4095_off1", 4096)):
        np.testing.assert_array_equal(decay(nengo["edge_x"], e), nengo[key])


@pytest.mark.parametrize("bits", [7, 21, 23])
def test_wrap_is_nengos(nengo, bits):
    np.testing.assert_array_equal(np.vectorize(interpreter.wrap)(nengo["of_x"], bits), nengo[f"of_{bits}"])


def test_registers_are_nengos(nengo):
    mantissa, exponent = fp.bias_to_register(nengo["bias"])
    np.testing.assert_array_equal(mantissa, nengo["bias_man"])
    np.testing.assert_array_equal(exponent, nengo["bias_exp"])
    assert fp.bias_fits(mantissa << exponent).all()
    np.testing.assert_array_equal(fp.threshold_to_register(nengo["vth"]), nengo["vth_man"])
    assert np.all(nengo["vth_exp"] == 6)  # the same for all: thresholds are in units of 64
    with pytest.raises(ValueError, match=r"within \+-524160"):
        fp.bias_to_register([0, 600000])
    with pytest.raises(ValueError, match=r"within \[0, 8388544\], got -128"):
        fp.threshold_to_register([-128.0])


def test_impulses_of_traces_are_split_as_nengos(nengo):
    whole, fraction = impulse_to_register(nengo["mag"])
    np.testing.assert_array_equal(whole, nengo["mag_int"])
    np.testing.assert_array_equal(fraction, nengo["mag_frac"])


def test_halving_is_slayers():
    file = load("slayer_shift")
    x, bits, y = (file[name][file["bits"] <= 12] for name in ("x", "bits", "y"))  # beyond, no decay halves so often
    np.testing.assert_array_equal(decay(x, 4096 - (4096 >> bits)), y)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("mode", MODES)
def test_lava_drops_low_bits(mode, bits):
    file = load("lava_weights")
    dropped = fp.drop_low_bits(file["w_in"], bits, mode, PROFILES["lava"])
    np.testing.assert_array_equal(dropped, file[f"trunc_{mode.upper()}"][bits - 1])


@pytest.mark.parametrize("mode", MODES)
def test_lava_clips_mantissas(mode):
    file = load("lava_weights")
    clipped = fp.clip_mantissas(file["w_in"], mode, PROFILES["lava"])
    np.testing.assert_array_equal(clipped, file[f"clip_{mode.upper()}"])
    # A setting of Lava's clip function stops at 254. Its learning does not use it: learned weights of 255 occur there.
    highest = 254 if mode == "mixed" else 255
    np.testing.assert_array_equal(np.minimum(clipped, highest), file[f"clip_learn_{mode.upper()}"])


@pytest.mark.parametrize("bits", range(1, 9))
def test_lava_stores_weights_without_a_sign_mode_as_excitatory_ones(bits):
    file = load("lava_weights")
    dropped = fp.drop_low_bits(file["w_in"], bits, "excitatory", PROFILES["lava"])
    np.testing.assert_array_equal(dropped, file["trunc_NULL"][bits - 1])
    clipped = fp.clip_mantissas(file["w_in"], "excitatory", PROFILES["lava"])
    np.testing.assert_array_equal(clipped, file["clip_NULL"])
    np.testing.assert_array_equal(clipped, file["clip_learn_NULL"])


def test_lava_stores_a_matrix_in_the_fewest_bits():
    file = load("lava_weights")
    stored = json.loads((GOLDEN / "lava_weights.json").read_text())["optimize_cases"]
    for case, before, after in zip(stored, file["opt_in"], file["opt_out"], strict=True):
        mantissas, exponent, bits = fp.optimize_weight_bits(before, case["sign_mode"].lower())
        np.testing.assert_array_equal(mantissas, after)
        assert (exponent, bits) == (case["weight_exp"], case["num_weight_bits"])
    with pytest.raises(ValueError, match="zeros"):
        fp.optimize_weight_bits(np.zeros((2, 2), int), "mixed")


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("mode", MODES)
def test_brian_actual_weights(mode, bits):
    file = load("brian_weights")
    for exponent in range(-8, 8):
        actual = fp.discretize_weights(file[f"w_{mode.upper()}"], exponent, bits, mode, PROFILES["brian"])
        np.testing.assert_array_equal(actual, file[f"act_{mode.upper()}"][bits - 1, exponent + 8])


@pytest.mark.parametrize("code, bits", [(7, 8), (6, 6), (5, 5), (3, 3), (1, 1)])
def test_nengo_actual_weights(code, bits):
    file = load("nengo_weights")
    w, profile = file["w"], PROFILES["nengo"]
    for exponent in range(-7, 8):
        mixed = fp.discretize_weights(w, exponent, bits, "mixed", profile)
        np.testing.assert_array_equal(mixed, file[f"wb{code}_fan1"][exponent + 7])
        by_sign = [fp.discretize_weights(w, exponent, bits, mode, profile) for mode in ("excitatory", "inhibitory")]
        np.testing.assert_array_equal(sum(by_sign), file[f"wb{code}_fan2"][exponent + 7])


def test_synaptic_memory_is_nengos():
    file = load("nengo_weights")
    for (compression, n_synapses, weight, index, delay, tag), row in zip(
        file["mem_cfg"], file["mem_bits"], strict=True
    ):
        for n, expected in zip((1, 5, 10, 64, 100, 128, 500, 1024), row, strict=True):
            found = fp.synapse_memory_bits(
                n,
                weight_bits=fp.field_bits("weight", weight),
                index_bits=0 if compression else fp.field_bits("index", index),
                delay_bits=int(delay),
                tag_bits=int(tag),
                entry=int(n_synapses) + 1,
            )
            assert found == expected


@given(st.integers(-(2**40), 2**40), st.integers(0, 4096))
def test_decay_takes_away_what_is_rounded_up(x, e):
    away = -(-abs(x) * e // 4096)  # M22's form: the decrement, rounded away from zero
    assert interpreter.decay(x, e) == np.sign(x) * (abs(x) - away)


@given(st.integers(-(2**40), 2**40), st.integers(1, 31))
def test_wrap_changes_only_what_does_not_fit(x, bits):
    y = interpreter.wrap(x, bits)
    assert -(2**bits) <= y < 2**bits and (y - x) % 2 ** (bits + 1) == 0


@pytest.mark.parametrize("profile", PROFILES)
@given(weights=st.lists(st.integers(-300, 300), min_size=1), bits=st.sampled_from([1, 2, 3, 4, 5, 6, 8]))
def test_stored_mantissas_are_stored_again_as_they_are(profile, weights, bits):
    for mode in MODES:
        stored = fp.drop_low_bits(weights, bits, mode, PROFILES[profile])
        low, high = fp.weight_range(mode)
        assert np.all((stored >= low) & (stored <= high) & (stored % fp.weight_step(bits, mode) == 0))
        np.testing.assert_array_equal(
            fp.drop_low_bits(stored, bits, mode, PROFILES[profile])[stored != -256], stored[stored != -256]
        )
