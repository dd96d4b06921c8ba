"""The compiled emulator against the plain-Python interpreter, and what it promises about state, counts and writes."""

import copy
import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.hardware.loihi.chip import CHIPS, EMULATOR_MAX, PROFILES
from spikeloop.hardware.loihi.emulator import Emulator
from spikeloop.hardware.loihi.fixed_point import bias_fits, weight_range, weight_step
from spikeloop.hardware.loihi.interpreter import Interpreter
from spikeloop.hardware.loihi.program import MODELS, Compartments, Program, Projection
from spikeloop.spiking.neurons.lsnn import LsnnConstants, LsnnNeurons
from spikeloop.spiking.reference import heaviside, tick


def any_compartments(rng, chip, n, narrow):
    """Return compartments with values from all over their ranges, some of them trees."""
    model = rng.integers(0, len(MODELS) if chip == "loihi2" else 1, n)
    model = np.sort(model) if rng.random() < 0.5 else model
    fires = rng.random(n) < 0.8
    parent = np.where(fires, -1, rng.integers(0, n, n))
    parent[parent <= np.arange(n)] = -1
    for i in range(n):  # at most two children
        parent[np.flatnonzero(parent == i)[2:]] = -1
    bias = rng.integers(-4096, 4096, n) << rng.integers(0, 8, n)
    return Compartments.build(
        n,
        model=model,
        decay_u=rng.choice([0, 1, 500, 2000, 4095, 4096], n),
        decay_v=rng.choice([0, 1, 500, 2000, 4095, 4096], n),
        v_th=rng.choice([0, 1, 50, 400, 131071], n) * 64,
        bias=bias * (rng.random(n) < 0.3),
        refractory=np.where(model == 1, 1, rng.integers(1, 5, n)) if rng.random() < 0.5 else 1,
        v_min=-(2 ** rng.choice([0, 10, 23], n)) + 1 if narrow else -(2**23) + 1,
        v_max=rng.choice([511, 2**17 - 1, 2**23 - 1], n) if narrow else 2**23 - 1,
        parent=parent,
        decay_a=rng.choice([0, 5, 4000, 4096], n),
        step_a=rng.integers(0, 200, n) * 64,
        decay_r=rng.choice([0, 5, 4000, 4096], n),
        subtract=rng.integers(0, 2, n) * (model == 2),
        fires=fires,
        noise=rng.integers(0, 2, n) if rng.random() < 0.3 else 0,
    )


def any_projection(rng, name, n_inputs, n, profile):
    from_input = bool(rng.integers(0, 2))
    pre = rng.permutation(n_inputs if from_input else n)[: rng.integers(1, n)]
    post = rng.permutation(n)[: rng.integers(1, n)] if rng.random() < 0.5 else np.arange(rng.integers(1, n), n)
    mode, bits = str(rng.choice(["mixed", "excitatory", "inhibitory"])), int(rng.choice([1, 3, 5, 8]))
    step, (low, high) = weight_step(bits, mode), weight_range(mode)
    shape = (post.size, pre.size)
    weights = rng.integers(-(-low // step), high // step + 1, shape) * step * (rng.random(shape) < rng.random())
    delays = rng.integers(0, rng.integers(1, 9), shape) if rng.random() < 0.5 else None
    low, high = profile.exponents
    return Projection(name, from_input, pre, post, weights, int(rng.integers(low, high + 1)), bits, mode, delays)


def any_program(seed):
    """Return a random program of either chip, in any profile."""
    rng = np.random.default_rng(seed)
    chip = str(rng.choice(list(CHIPS)))
    n, n_inputs = int(rng.integers(2, 40)), int(rng.integers(2, 40))
    profile = str(rng.choice(list(PROFILES)))
    compartments = any_compartments(rng, chip, n, narrow=profile != "lava" and rng.random() < 0.5)
    projections = tuple(any_projection(rng, str(i), n_inputs, n, PROFILES[profile]) for i in range(rng.integers(0, 5)))
    loudness = {"noise_exponent": int(rng.integers(1, 18)), "noise_mantissa": int(rng.integers(-3, 4))}
    at = str(rng.choice(["current", "membrane"]))
    outputs = rng.permutation(n)[: rng.integers(0, n)]
    return Program(chip, profile, n_inputs, compartments, projections, outputs, **loudness, noise_at=at), rng


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_emulator_is_the_interpreter_bit_for_bit(seed):
    program, rng = any_program(seed)
    n_envs, n_ticks = int(rng.integers(1, 3)), 12
    emulator, interpreter = Emulator(program, np.random.default_rng(seed)), Interpreter(program)
    state = emulator.initial_state(n_envs)
    if rng.random() < 0.5:  # anywhere, edges included
        everyone, shape, most = np.arange(program.compartments.n), (n_envs, program.compartments.n), EMULATOR_MAX
        widths = (
            {"u": 2**23, "v": 2**23, "a": most} if program.profile in ("nengo", "lava") else dict.fromkeys("uva", most)
        )
        for name, width in widths.items():
            state = emulator.write(state, name, everyone, rng.integers(-width, width, shape))
        r = rng.integers(0, most, shape) * (program.compartments.model == MODELS.index("slayer_alif"))
        state = emulator.write(state, "r", everyone, r)
    same = state
    bias = np.where(rng.random((n_envs, program.compartments.n)) < 0.3, 640, 0)
    for new_bias in (None, bias):
        x = (rng.random((n_ticks, n_envs, program.n_inputs)) < 0.3).astype(np.int32)
        if program.chip_spec.graded_spikes:
            x *= rng.integers(-300, 300, x.shape, dtype=np.int32)
        outputs, state = emulator.run(state, n_ticks, x, new_bias)
        expected, same = interpreter.run(same, n_ticks, x, new_bias)
        np.testing.assert_array_equal(outputs, expected)
        np.testing.assert_array_equal(state, same)
    assert emulator.counts.overflows == interpreter.overflows
    assert emulator.counts.updates == interpreter.updates


def chain(**fields):
    """Return input 0 -> compartment 0 -> compartment 1, which integrates; compartment 1 is read."""
    compartments = Compartments.build(2, **{"v_th": 64, "decay_v": [4096, 0], "fires": [1, 0], **fields})
    return Program(
        "loihi1",
        "nengo",
        1,
        compartments,
        (Projection("in", True, [0], [0], [[2]]), Projection("out", False, [0], [1], [[100]])),
        [1],
        (("neuron", 0, 1), ("readout", 1, 2)),
    )


def test_a_spike_takes_one_tick_per_projection_and_a_bias_none():
    emulator = Emulator(chain())
    outputs, _ = emulator.run(emulator.initial_state(), 4, [[[1]], [[0]], [[0]], [[0]]])
    assert outputs[:, 0, 0].tolist() == [0, 0, 6400, 6400]
    outputs, _ = emulator.run(emulator.initial_state(), 3, bias=[[128, 0]])
    assert outputs[:, 0, 0].tolist() == [0, 6400, 12800]


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_the_lsnn_neuron_computes_the_equations_of_a_layer(reset):
    n, one, n_ticks = 6, 2**18, 9  # factors are powers of two: so long, integers are as exact as floats
    current = np.array([3000, 2400, 1700, 900, -500, 3900]) << 7
    refractory, step = np.array([0, 1, 2, 0, 1, 0]), np.array([0, 1, 0, 2, 1, 0.5])
    compartments = Compartments.build(
        n,
        model=MODELS.index("lsnn"),
        decay_v=2048,
        v_th=one,
        bias=current,
        refractory=refractory + 1,
        decay_a=2048,
        step_a=(step * one).astype(int),
        subtract=reset == "subtract",
    )
    emulator = Emulator(Program("loihi2", "slayer", 0, compartments, (), []))
    recorded = emulator.run(emulator.initial_state(), n_ticks, record=True)[2]
    half, ones = np.full(n, 0.5), np.ones(n)
    constants = LsnnConstants(half, half, ones, step, refractory, reset == "zero", False)
    state = tuple(np.zeros((1, n)) for _ in range(4))
    for t in range(n_ticks):
        state = tick(LsnnNeurons, current[None] / one, state, None, constants, heaviside)
        v, a, z, _ = state
        np.testing.assert_array_equal(recorded.z[t], z)
        np.testing.assert_array_equal(recorded.v[t], v * one)
        np.testing.assert_array_equal(recorded.a[t], a * step * one)
    assert recorded.z.sum() > n


def test_state_is_a_value_and_runs_can_be_cut_anywhere():
    program, rng = any_program(7)
    emulator = Emulator(program, rng)
    start = emulator.initial_state(3)
    kept = start.copy()
    x = rng.integers(0, 2, (9, 3, program.n_inputs))
    whole, end = emulator.run(start, 9, x)
    first, state = emulator.run(start, 4, x[:4])
    second, state = emulator.run(state, 5, x[4:])
    np.testing.assert_array_equal(start, kept)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    np.testing.assert_array_equal(state, end)


def test_counts_are_those_of_the_spikes():
    compartments = Compartments.build(4, decay_v=4096, v_th=64, core=[0, 0, 5, 40])
    synapses = (
        Projection("in", True, [0, 1], [0, 1], [[2, 2], [2, 0]]),
        Projection("out", False, [0], [1, 2, 3], [[0], [2], [2]]),
    )
    emulator = Emulator(Program("loihi1", "nengo", 2, compartments, synapses, []))
    emulator.run(emulator.initial_state(), 3, [[[1, 1]], [[0, 0]], [[0, 0]]])
    counts = emulator.counts
    assert counts.n_ticks == 3
    assert counts.input_spikes.tolist() == [1, 1]
    assert counts.spikes.tolist() == [1, 1, 1, 1]  # 0 gets 4, 1 gets 2, each above 1; both targets of 0 follow
    assert counts.synaptic_ops == 3 + 2
    assert (counts.input_packets, counts.packets) == (2, 2)
    assert (counts.hops_x, counts.hops_y) == (0 + 2, 1 + 2)  # tile (0, 0) to core 5 at (0, 1) and core 40 at (2, 2)
    emulator.reset_counts()
    assert emulator.counts.n_ticks == 0 and not emulator.counts.spikes.any()


def test_overflows_are_counted():
    compartments = Compartments.build(1, decay_u=0, v_max=511, v_th=131071 * 64)
    synapses = (Projection("in", True, range(80), [0], np.full((1, 80), 254), exponent=7),)
    emulator = Emulator(Program("loihi1", "nengo", 80, compartments, synapses, [0]))
    x = np.zeros((12, 1, 80), int)
    x[0], x[1:, :, 0] = 1, 1
    emulator.run(emulator.initial_state(), 12, x)
    assert emulator.counts.overflows["input"] == 1  # 80 * 254 * 2^13 is beyond 21 bits
    assert emulator.counts.overflows["v above"] > 0


def test_the_host_writes_variables_and_weights():
    program = chain()
    plastic = Projection("out", False, [0], [1], [[0]], plastic=True)
    program = Program("loihi1", "nengo", 1, program.compartments, (program.projections[0], plastic), [1])
    emulator = Emulator(program)
    x = [[[1]], [[0]], [[0]]]
    outputs, state = emulator.run(emulator.initial_state(), 3, x)
    assert outputs[-1, 0, 0] == 0
    emulator.update_weights(1, [[-7]])
    outputs, state = emulator.run(state, 3, x)
    assert outputs[-1, 0, 0] == -7 * 64
    assert emulator.weights(1).tolist() == [[-7]]
    cleared = emulator.write(state, "v", [1], 0)
    assert emulator.read(cleared, "v")[0, 1] == 0
    assert emulator.read(state, "v")[0, 1] == -7 * 64


@pytest.mark.parametrize("delayed", [False, True])
def test_learned_weights_reach_listed_and_dense_synapses(delayed):
    rng = np.random.default_rng(3)
    delays = rng.integers(0, 3, (5, 6)) if delayed else None
    synapses = Projection("in", True, range(6), range(5), np.zeros((5, 6)), delays=delays, plastic=True)
    emulator = Emulator(Program("loihi1", "nengo", 6, Compartments.build(5, v_th=2**20), (synapses,), range(5)))
    weights = rng.integers(-256, 256, (5, 6))
    emulator.update_weights(0, weights[:, :4], pre=[0, 1, 2, 3])
    emulator.update_weights(0, weights[:, 4:], pre=[4, 5])
    x = np.zeros((4, 1, 6), int)
    x[0] = 1
    outputs, _ = emulator.run(emulator.initial_state(), 4, x)
    np.testing.assert_array_equal(outputs[-1, 0], weights.sum(axis=1) * 64)


def test_noise_comes_from_the_given_generator_and_has_its_distribution():
    compartments = Compartments.build(50, decay_v=4096, v_th=2**20, noise=1)
    program = Program("loihi1", "nengo", 0, compartments, (), range(50), noise_exponent=7, noise_mantissa=1)
    emulator = Emulator(program, np.random.default_rng(0))
    outputs, _ = emulator.run(emulator.initial_state(2), 500)
    again = Emulator(program, np.random.default_rng(0))
    np.testing.assert_array_equal(again.run(again.initial_state(2), 500)[0], outputs)
    assert not np.array_equal(outputs[:, 0], outputs[:, 1])
    draws, variance = outputs - 64, (255**2 - 1) / 12
    assert draws.min() == -127 and draws.max() == 127
    assert abs(draws.mean()) < 4 * np.sqrt(variance / draws.size)
    assert abs(draws.var() / variance - 1) < 4 * np.sqrt(0.8 / draws.size)  # kurtosis of a uniform distribution 1.8
    with pytest.raises(ValueError, match="give a numpy Generator"):
        Emulator(program).initial_state()


@pytest.mark.parametrize(
    "run, message",
    [
        (lambda e, s: e.run(s, 1, [[[2]]]), "no graded spikes"),
        (lambda e, s: e.run(s, 1, [[[0.5]]]), "inputs must be integers"),
        (lambda e, s: e.run(s, 1, [[[1, 1]]]), r"inputs must have shape \(1, 1, 1\)"),
        (lambda e, s: e.run(s, 1, bias=[[1]]), r"bias must have shape \(1, 2\)"),
        (lambda e, s: e.run(s, 1, bias=[[4097, 0]]), "13-bit signed mantissas"),
        (lambda e, s: e.run(s, 1, [[[2**40]]]), "inputs must hold integers of 32 bits"),
        (lambda e, s: e.run(s, 1, bias=[[2**40, 0]]), "bias must hold integers of 32 bits"),
        (lambda e, s: e.run(s, -1), "n_ticks must be an integer >= 0, got -1"),
        (lambda e, s: e.run(s, True), "n_ticks must be an integer >= 0, got True"),
        (lambda e, s: e.run(s, 2.0), r"n_ticks must be an integer >= 0, got 2\.0"),
        (lambda e, s: e.run(s[:, :3], 1), "state must be int32"),
        (lambda e, s: e.run(s.astype(np.int64), 1), "state must be int32"),
        (lambda e, s: e.run(s.tolist(), 1), r"state must be int32 .* got list"),
        (lambda e, s: e.run(s + 1, 1), "state is none of this emulator's"),
        (lambda e, s: e.run(s - 1, 1), "state is none of this emulator's"),
        (lambda e, s: e.read(s[0], "v"), "state must be int32"),
        (lambda e, s: e.write(s[0], "v", [0], 0), "state must be int32"),
        (lambda e, s: e.write(s, "u", [2], 7), r"compartments must be ids within \[0, 1\], shape \(K,\), got \[2\]"),
        (lambda e, s: e.write(s, "u", [-1], 7), "compartments must be ids"),
        (lambda e, s: e.write(s, "u", [0.5], 7), "compartments must be ids"),
        (lambda e, s: e.write(s, "u", [True, False], 7), "compartments must be ids"),
        (lambda e, s: e.write(s, "u", [0], 7.5), "values of 'u' must be whole numbers"),
        (lambda e, s: e.write(s, "u", [0], np.nan), "values of 'u' must be whole numbers"),
        (lambda e, s: e.write(s, "v", [0, 1], [1, 2, 3]), "values of 'v' must be whole numbers for 2 compartments"),
        (lambda e, s: e.write(s, "v", [0, 1], [0, 2**23]), r"'v' of compartment 1 must be within .* got 8388608"),
        (lambda e, s: e.write(s, "u", [0], 2**40), "'u' of compartment 0 must be within"),
        (lambda e, s: e.write(s, "r", [0], 64), r"'r' of compartment 0 must be within \[0, 63\], got 64"),
        (lambda e, s: e.write(s, "z", [0], 2), r"'z' of compartment 0 must be within \[0, 1\], got 2"),
        (lambda e, s: e.write(s, "w", [0], 0), "name must be one of"),
        (lambda e, s: e.update_weights(0, [[2]]), "not plastic"),
        (lambda e, s: e.update_weights(1, [[2]], [1]), r"pre must be ids within \[0, 0\], shape \(K,\), got \[1\]"),
        (lambda e, s: e.update_weights(1, [[2]], [-1]), "pre must be ids within"),
    ],
)
def test_bad_input_is_named(run, message):
    program = chain()
    learns = dataclasses.replace(program.projections[1], plastic=True)
    emulator = Emulator(dataclasses.replace(program, projections=(program.projections[0], learns)))
    with pytest.raises(ValueError, match=message):
        run(emulator, emulator.initial_state())


def test_every_profile_is_exercised_by_the_generated_programs():
    assert {any_program(seed)[0].profile for seed in range(40)} == set(PROFILES)
    assert all(np.all(bias_fits(any_program(seed)[0].compartments.bias)) for seed in range(5))


@pytest.mark.parametrize("interpreted", [False, True])
def test_a_run_may_have_no_ticks_and_its_state_any_order(interpreted):
    program = chain()
    engine = Interpreter(program) if interpreted else Emulator(program)
    state = engine.initial_state(3)
    outputs, same = engine.run(np.asfortranarray(state), 0)
    assert outputs.shape == (0, 3, 1) and np.array_equal(same, state)
    with pytest.raises(ValueError, match="n_ticks must be"):
        engine.run(state, -1)


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_copied_emulator_goes_on_alike_and_shares_nothing(how, delayed):
    rng = np.random.default_rng(3)
    delays = rng.integers(0, 3, (5, 6)) if delayed else None
    synapses = Projection("in", True, range(6), range(5), np.zeros((5, 6)), delays=delays, plastic=True)
    compartments = Compartments.build(5, v_th=2**14, noise=1)
    program = Program("loihi1", "nengo", 6, compartments, (synapses,), range(5), noise_exponent=7)
    emulator = Emulator(program, np.random.default_rng(0))
    weights, x = rng.integers(-255, 256, (5, 6)), rng.integers(0, 2, (9, 2, 6))
    emulator.update_weights(0, weights)
    state = emulator.initial_state(2)
    _, state = emulator.run(state, 9, x)
    twin = how(emulator)
    assert np.array_equal(twin.counts.spikes, emulator.counts.spikes) and twin.counts.n_ticks == 18
    np.testing.assert_array_equal(twin.run(state, 9, x)[0], emulator.run(state, 9, x)[0])
    np.testing.assert_array_equal(twin.initial_state(2), emulator.initial_state(2))
    twin.update_weights(0, -weights)
    twin.run(state, 9, x)
    np.testing.assert_array_equal(emulator.weights(0), weights)
    assert emulator.counts.n_ticks == 36 and twin.counts.n_ticks == 54
    late, changed = emulator.run(state, 9, x)[0], twin.run(state, 9, x)[0]
    twin.update_weights(0, weights)
    np.testing.assert_array_equal(twin.run(state, 9, x)[0], late)
    assert not np.array_equal(changed, late)


def test_threads_that_run_one_emulator_get_what_one_thread_gets():
    rng = np.random.default_rng(0)
    n = 300
    synapses = Projection("w", False, range(n), range(n), rng.integers(-60, 60, (n, n)) * 2)
    compartments = Compartments.build(n, decay_v=400, v_th=64 * 90, bias=rng.integers(0, 4000, n))
    emulator = Emulator(Program("loihi1", "nengo", 0, compartments, (synapses,), range(n)))

    def play(seed):
        state = emulator.write(
            emulator.initial_state(), "v", range(n), np.random.default_rng(seed).integers(0, 5000, n)
        )
        results = []
        for _ in range(60):
            outputs, state = emulator.run(state, 5)
            results.append(outputs)
        return np.array(results)

    expected, counts = [play(seed) for seed in range(6)], emulator.counts
    emulator.reset_counts()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(play, range(6)))
    np.testing.assert_array_equal(found, expected)
    together = emulator.counts
    np.testing.assert_array_equal(together.spikes, counts.spikes)
    assert (together.n_ticks, together.synaptic_ops, together.updates) == (1800, counts.synaptic_ops, counts.updates)


@pytest.mark.parametrize("engine", [Emulator, Interpreter])
def test_a_compartment_that_never_fires_stays_at_the_largest_threshold(engine):
    compartments = Compartments.build(1, fires=0, v_th=131071 * 64, bias=4095 << 7)
    runs = engine(Program("loihi1", "nengo", 0, compartments, (), [0]))
    outputs, _ = runs.run(runs.initial_state(), 20)
    assert outputs.max() == 131071 * 64 and runs.overflowed
