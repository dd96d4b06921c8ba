"""An LSNN learns on the chip by rules of traces, and what the compiled loop does is what a host beside it would do."""

import copy
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents.critic_code import critic_code
from spikeloop.envs.compiled import compiled_of
from spikeloop.hardware.learning.engine import Learner
from spikeloop.hardware.learning.three_factor_lsnn import hidden_rule, rates_of, readout_rule
from spikeloop.hardware.loihi import lsnn_learner_kernels as kernels
from spikeloop.hardware.loihi.emulator import Emulator
from spikeloop.hardware.loihi.lsnn_learner import ChipLsnn
from spikeloop.hardware.loihi.lsnn_program import ChipLsnnParameters
from spikeloop.hardware.loihi.program import LearningRule, Trace
from spikeloop.spiking.rules.reward_eprop import RewardEprop

KEEP = np.array([0, 2])
SCALE = np.array([1.0, 12.0])


@pytest.fixture(scope="module")
def task():
    env = gym.make("spikeloop/CartPoleNoVel-v0")
    low, high = [-2.4, -0.2, -0.05, -0.05], [2.4, 0.2, 0.05, 0.05]
    code = critic_code("tiles", {"n_tiles": 3, "low": low, "high": high}, True, env.observation_space)
    compiled = compiled_of(env)
    return compiled.step, compiled.body(env), code


RULE = {
    "learning_rate": 0.5,
    "actor_rate": 0.2,
    "value_rate": 0.1,
    "trace_lambda": 0.9,
    "reward_scale": 0.01,
    "initial_value": 1.0,
    "value_coef": 0.0,
    "rate_coef": 0.0,
}


def new(code, seed=0, rule=(), **options):
    rule = RewardEprop(**{**RULE, **dict(rule)})
    return ChipLsnn(2, SCALE, code.n_channels, rule, np.random.default_rng(seed), **options)


def lines_of(code, shown, before):
    return code.lines(np.concatenate((shown, shown - before)))


def learn(task, seed=0, n_episodes=4, compiled=True, **options):
    """Learn in a few episodes of 30 steps at most, by stretches of a compiled task or step by step."""
    step, body, code = task
    network, steps = new(code, seed, **options), []
    starts = np.random.default_rng(seed).uniform(-0.05, 0.05, (n_episodes, 4)).astype(np.float32).astype(float)
    for state in starts.copy():
        obs, shown, before, reward, terminated, t = np.empty(4), state[KEEP], state[KEEP], 0.0, False, 0
        while not terminated and t < 30:
            action = network.act(shown, lines_of(code, shown, before), reward, 0.5)
            if compiled:
                rewards, shown = np.empty(29 - t), shown.copy()
                n, action = network.stretch(step, state, body, obs, KEEP, shown, code.table, True, action, rewards, 0.5)
                t += n
            reward, terminated = step(state, action, body, obs)
            before, shown, t = shown, obs[KEEP], t + 1
        network.end(lines_of(code, shown, before), reward, not terminated, 0.5)
        steps.append(t)
    return network, starts, steps


def plain_host(task, network, starts, most_steps, progress):
    """Do in Python, on an Emulator, what the compiled loop does; return the emulator and the steps."""
    step, body, code = task
    p, rule, rng, host = network.parameters, network.rule, network.rng, network._host
    emulator, n_ticks = Emulator(network.program), p.n_ticks
    scale = np.exp(-1 / p.tau_out)
    values, traces, n_steps = np.zeros(code.n_channels), np.zeros(code.n_channels), []
    for task_state in starts.copy():
        state, carry, last, traces[:] = emulator.initial_state(), np.zeros(2), None, 0
        obs, shown, changes = np.empty(4), task_state[KEEP], np.zeros(2)
        reward, terminated, t = 0.0, False, 0
        while True:
            lines = code.lines(np.concatenate((shown, changes)))
            ends = terminated or t == most_steps
            inputs = np.zeros((n_ticks, 1, 5), np.int32)
            for tick in range(n_ticks * (not ends)):
                carry += np.clip(shown * SCALE, -1, 1)
                up, down = carry >= 0.5, carry <= -0.5
                inputs[tick, 0] = [up[0], down[0], up[1], down[1], 1]
                carry -= up.astype(float) - down
            read, state = emulator.run(state, n_ticks - 1, inputs[:-1])
            v, membranes = np.split(read[-1, 0], [2])
            value, r1 = 0.0 if terminated else rule.initial_value + values[lines].sum(), 0
            if last is not None:
                delta = rule.reward_scale * reward + rule.gamma * value - last
                values += progress * rule.value_rate * delta * traces
                r1 = whole(progress * host.r1_scale * delta, rng)
            if not ends:
                logits = v * (1 - scale) * p.w_out_max / (254 * p.n_copies) / 64
                probability = np.exp(logits - logits.max())
                probability /= probability.sum()
                action = int(rng.random() >= probability[0])
                errors = (np.arange(2) == action) - probability
                written = [whole(127 * error, rng) for error in errors]
                signals = network.feedback.T @ errors
                if p.pseudo_derivative == "membrane":
                    v_th = network.program.compartments.v_th[p.n_neurons]
                    signals *= np.where(membranes == 0, 0.5, np.maximum(0, 1 - np.abs(membranes - v_th) / v_th))
                signal = [whole(host.signal_scale * signal, rng) for signal in signals]
                for i in range(3 * p.n_copies):
                    emulator.learner(i).write("y3", written if i >= 2 * p.n_copies else signal)
                traces *= rule.gamma * rule.trace_lambda
                traces[traces < 1e-3 / lines.size] = 0
                traces[lines] = 1 / lines.size
                last = value
            _, state = emulator.run(state, 1, inputs[-1:], rewards=[r1])
            if ends:
                break
            reward, terminated = step(task_state, action, body, obs)
            changes, shown = obs[KEEP] - shown, obs[KEEP]
            t += 1
        emulator.clear_learning()
        n_steps.append(t)
    return emulator, n_steps


def whole(value, rng):
    return int(np.clip(np.floor(value + rng.random()), -127, 127))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"residue": True, "n_ticks": 8, "slow": False, "n_copies": 2},
        {"pseudo_derivative": "membrane", "n_copies": 2},
    ],
)
def test_the_compiled_loop_is_a_host_beside_an_emulator(task, parameters):
    network, starts, steps = learn(task, **parameters)
    fresh, _, _ = learn(task, n_episodes=0, **parameters)
    emulator, expected = plain_host(task, fresh, starts, 30, 0.5)
    assert steps == expected and max(steps) > 8
    for i, learner in network.emulator._learners.of.items():
        assert np.array_equal(learner.w, emulator.weights(i)) and np.array_equal(
            learner.residue, emulator.learner(i).residue
        )
        assert np.any(learner.w != network.program.projections[i].weights)


def test_single_steps_learn_the_same_bits_as_stretches_of_a_compiled_task(task):
    one, other = (learn(task, compiled=compiled)[0].state_dict() for compiled in (True, False))
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)


def test_thresholds_that_weights_are_coarse_beside_are_refused(task):
    with pytest.raises(ValueError, match=r"w_max must be at most 31\.75 thresholds, got 40"):
        learn(task, w_max=40.0)


def test_what_a_copy_learns_reaches_its_own_chip(task):
    network = copy.deepcopy(learn(task, n_episodes=1)[0])
    table = network.emulator.learners_for(False)[1][0].table_weights
    assert np.shares_memory(network._loaded.weights, table)


def test_controls_learn_nothing_where_they_are_not_to(task):
    frozen = learn(task, rule={"learning_rate": 0.0})[0]
    for i, changes in ((0, False), (1, False), (2, True)):
        assert np.any(frozen.emulator.weights(i) != frozen.program.projections[i].weights) == changes
    unrewarded = learn(task, rule={"learning_rate": 0.0, "actor_rate": 0.0})[0]
    assert all(
        np.array_equal(unrewarded.emulator.weights(i), unrewarded.program.projections[i].weights) for i in range(3)
    )


def test_tags_are_eligibility_times_signal():
    """One synapse whose ends spike on every tick: tag <- 0.891 tag + 2^-14 y1 y3 (x1 - x2 / 2)."""
    rule = hidden_rule(2, 2.0, 20.0)
    learner, expected, both = Learner(rule, [[0]]), 0.0, np.array([0], np.int32)
    for step in range(200):
        learner.write("y3", [50 if step < 100 else -50])
        for _ in range(4):
            learner.tick(both, both)
        x1, x2, y1 = (float(learner.trace(name)[0]) for name in ("x1", "x2", "y1"))
        expected = 0.890625 * expected + learner.trace("y3")[0] * y1 * (x1 - x2 / 2) / 2**14
        assert abs(learner.t[0, 0] - expected) < 8
    assert expected < -100


def test_a_target_that_never_spikes_tags_no_hidden_synapse():
    for rule, tagged in ((hidden_rule(2, 2.0, None), False), (readout_rule(2, 2.0), True)):
        learner = Learner(rule, [[0]])
        learner.write("y3", [100])
        for _ in range(8):
            learner.tick(np.array([0], np.int32), np.array([], np.int32))
        assert bool(learner.t.any()) == tagged


def test_rules_are_such_as_loihi_1_could_hold():
    for rule in (hidden_rule(2, 2.0, 20.0), hidden_rule(2, 2.0, 20.0, membrane=True), readout_rule(3, 2.0)):
        assert isinstance(rule, LearningRule) and rule.residue_bits == 0 and not rule.wide_shift
        assert rule.profile == "nengo" and rule.y3 == Trace(0.0, float("inf"))


def test_what_was_kept_is_all_that_another_network_learns_on_from(task):
    network, other = learn(task)[0], new(task[2], seed=7)
    other.load_state_dict(network.state_dict())
    for name, array in network.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array, err_msg=name)
    with pytest.raises(ValueError, match="arrays must have shapes"):
        other.load_state_dict({**network.state_dict(), "feedback": np.zeros(3)})


def test_what_was_learned_plays_without_learning(task):
    network, starts, _ = learn(task)
    before, rest = network.state_dict(), network.rest(4)
    logits, state = network.advance(starts[:, KEEP], rest)
    alone, _ = network.advance(starts[2:3, KEEP], rest[:, 2:3])
    np.testing.assert_array_equal(alone, logits[2:3])
    assert np.any(network.advance(starts[:, KEEP], state)[0] != logits) and not rest.any()
    for name, array in before.items():
        np.testing.assert_array_equal(network.state_dict()[name], array)


def test_what_learned_with_membranes_plays_by_its_outputs_alone(task):
    network, starts, _ = learn(task, n_episodes=1, pseudo_derivative="membrane")
    logits, _ = network.advance(starts[:, KEEP], network.rest(1))
    assert logits.shape == (1, 2) and np.abs(logits).max() < 10


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"value_coef": 0.5}, "value_coef must be 0.0 on the chip, got 0.5"),
        ({"rate_coef": 0.1}, "rate_coef must be 0.0 on the chip, got 0.1"),
        ({"trace_max": 1.0}, "trace_max must be None on the chip, got 1.0"),
        ({"optimizer": "adam"}, "optimizer must be sgd on the chip, got 'adam'"),
        ({"learning_rate": 5.0}, r"learning_rate must be at most 0\.529 on the chip, .* got 5"),
    ],
)
def test_a_rule_that_the_chip_has_no_place_for_is_refused(task, rule, message):
    with pytest.raises(ValueError, match=message):
        new(task[2], rule=rule)


def test_rates_of_the_rule_are_those_of_the_synapses(task):
    """A tag of one synapse at rest, for spikes on every tick: dw = rate * delta * L, in thresholds."""
    host = new(task[2])._host
    hidden, readout = rates_of(host.r1_scale, host.signal_scale)
    assert 2.0 * hidden == pytest.approx(0.5) and 6.0 * readout == pytest.approx(0.2)
    rule, both = hidden_rule(2, 2.0, None), np.array([0], np.int32)
    learner = Learner(replace(rule, rounding="nearest"), [[0]])
    for tick in range(40):
        learner.write("y3", [round(host.signal_scale) if tick == 39 else 0])
        learner.tick(both, both)
    tag = 2.0**-14 * 127**2 * host.signal_scale
    assert learner.t[0, 0] == pytest.approx(tag, rel=0.06)
    learner.write("y3", [0])
    for tick in range(4):
        learner.tick(both, both, 100 if tick == 3 else 0)
    assert learner.w[0, 0] == pytest.approx(254 * hidden * 100 / host.r1_scale, abs=2)

    learner = Learner(replace(readout_rule(2, 2.0), rounding="nearest"), [[0]])
    for tick in range(40):
        learner.write("y3", [127 if tick == 39 else 0])
        learner.tick(both, both)
    assert learner.t[0, 0] == pytest.approx(2.0**-9 * 127**2, rel=0.06)
    learner.write("y3", [0])
    for tick in range(4):
        learner.tick(both, both, 100 if tick == 3 else 0)
    assert learner.w[0, 0] == pytest.approx(254 * readout * 100 / host.r1_scale, abs=2)


def test_the_pseudo_derivative_is_a_triangle_around_the_threshold_and_a_half_after_a_spike():
    found = [kernels.pseudo_derivative(v, 100.0) for v in (-10, 0, 50, 100, 150, 250)]
    assert found == [0.0, 0.5, 0.5, 1.0, 0.5, 0.0]


def test_without_y1_a_silent_target_learns_at_the_rate_of_the_rule(task):
    host = new(task[2], pseudo_derivative="membrane")._host
    assert 2.0 * rates_of(host.r1_scale, host.signal_scale, membrane=True)[0] == pytest.approx(0.5)
    rule, spikes, none = hidden_rule(2, 2.0, None, membrane=True), np.array([0], np.int32), np.array([], np.int32)
    learner = Learner(replace(rule, rounding="nearest"), [[0]])
    for tick in range(40):
        learner.write("y3", [round(host.signal_scale) if tick == 39 else 0])
        learner.tick(spikes, none)
    assert learner.t[0, 0] == pytest.approx(2.0**-7 * 127 * host.signal_scale, rel=0.06)
    learner.write("y3", [0])
    for tick in range(4):
        learner.tick(spikes, none, 100 if tick == 3 else 0)
    assert learner.w[0, 0] == pytest.approx(254 * 0.5 / 2.0 * 100 / host.r1_scale, abs=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_ticks", 3),
        ("n_neurons", 0),
        ("tau_m", 0.0),
        ("beta", -1.0),
        ("n_copies", 0),
        ("pseudo_derivative", "spike"),
    ],
)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        ChipLsnnParameters(**{name: value})


def test_a_network_whose_sums_could_wrap_is_refused(task):
    with pytest.raises(ValueError, match="sums wrap"):
        learn(task, n_neurons=64, n_copies=4)
