"""Neurons draw and learn from their score on the chip; the compiled loop is a host in Python beside an emulator."""

import copy
import warnings
from dataclasses import replace
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest

from spikeloop.agents.critic_code import critic_code
from spikeloop.agents.encoders import encoder_for
from spikeloop.envs.compiled import compiled_of
from spikeloop.hardware import ChipGlm, Emulator, Interpreter, Learner, LearningRule
from spikeloop.hardware.learning.score import impulse_of, loss_of, score_rule, step_of, tag_of
from spikeloop.hardware.loihi import glm_learner_kernels as kernels
from spikeloop.hardware.loihi.glm_program import ChipGlmParameters, noise_chances, spike_chances
from spikeloop.spiking.encoders.population_kernels import population_spikes
from spikeloop.spiking.rules.glm import RewardGlm

ENDS = {"low": np.array([-2.4, -3.0, -0.21, -3.0]), "high": np.array([2.4, 3.0, 0.21, 3.0])}
KEEP = np.arange(4)
RULE = {"learning_rate": 2.0, "value_rate": 0.1, "reward_scale": 0.05, "initial_value": 0.5}


@pytest.fixture(scope="module")
def task():
    env = gym.make("CartPole-v1")
    compiled = compiled_of(env)
    code = critic_code("tiles", {"n_tiles": 3, **ENDS}, False, env.observation_space)
    return compiled.step, compiled.body(env), code, encoder_for("population_spikes", 4, {**ENDS, "n": 5})


def new(task, seed=0, rule=(), network=ChipGlm, **options):
    rule = RewardGlm(**{**RULE, **dict(rule)})
    return network(20, 2, task[2].n_channels, rule, np.random.default_rng(seed), **{"n_ticks": 5, **options})


def starts_of(seed, n_episodes):
    return np.random.default_rng(seed).uniform(-0.05, 0.05, (n_episodes, 4)).astype(np.float32).astype(float)


def learn(task, seed=0, n_episodes=4, compiled=True, **options):
    """Learn in a few episodes of 30 steps at most, by stretches of a compiled task or step by step."""
    step, body, code, encoder = task
    network, steps, key = new(task, seed, **options), [], np.array([5.0])
    network.reset()
    x, obs = np.zeros((5, 20)), np.empty(4)
    for state in starts_of(seed, n_episodes):
        shown, reward, terminated, t = state.copy(), 0.0, False, 0
        while not terminated and t < 30:
            population_spikes(encoder.table, shown, key, x)
            action = network.act(x, code.lines(shown), reward, 0.5)
            if compiled:
                rewards = np.empty(29 - t)
                where = step, state, body, obs, KEEP, shown, encoder.table, key, code.table, x
                n, action = network.stretch(*where, action, rewards, 0.5)
                t += n
            reward, terminated = step(state, action, body, obs)
            shown, t = obs.copy(), t + 1
        network.end(code.lines(shown), reward, not terminated, 0.5)
        steps.append(t)
    return network, steps


class Host:
    """Does in plain Python, beside an emulator or an interpreter, what the kernels do."""

    def __init__(self, task, network, chip):
        self.network, self.p, self.rule, self.rng = network, network.parameters, network.rule, network.rng
        self.chip, self.state, self.code = chip, network._state, task[2]
        self.values, self.traces, self.before = np.zeros(self.code.n_channels), np.zeros(self.code.n_channels), None
        self.signals = []  # of each tick: input, score, whether the step's first

    def whole(self, value):
        return int(np.clip(np.floor(value + self.rng.random()), -127, 127))

    def tick(self, x, y1, y3, r1):
        """Run a tick; return the membranes and the spikes after it."""
        written, n = np.zeros((1, 3, self.network.program.compartments.n), int), len(y3)
        written[0, 0, :n], written[0, 2, :n] = y1, y3
        v, self.state = self.chip.run(self.state, 1, x[None, None].astype(int), rewards=[r1], post_traces=written)
        return v[0, 0], np.array(self.state[0, 3 + 4 * len(written[0, 0]) :][self.p.n_noise * n :][:n])

    def env_step(self, x, lines, reward, ending, progress):
        value, r1 = 0.0 if ending == "terminated" else self.rule.initial_value + self.values[lines].sum(), 0
        if self.before is not None:
            delta = self.rule.reward_scale * reward + self.rule.gamma * value - self.before
            self.values += progress * self.rule.value_rate * delta * self.traces
            r1 = self.whole(progress * self.network._host.r1_scale * delta)
        y3, loss = np.zeros(2, int), loss_of(self.rule.gamma * self.rule.trace_lambda)
        if ending is not None:
            self.tick(np.zeros(20), loss, y3, r1)
            return None
        self.before = self.rule.initial_value + self.values[lines].sum()
        self.traces *= self.rule.gamma * self.rule.trace_lambda
        self.traces[self.traces < 1e-4] = 0
        self.traces[lines] = 1
        _, scores = spike_chances(self.p)
        for k in range(self.p.n_ticks):
            v, z = self.tick(x[k], loss * (k == 0), y3, r1 * (k == 0))
            at = np.clip((self.p.v_th - v) // self.p.unit + self.p.most + 1, 0, scores.shape[1] - 1)
            y3 = np.array([self.whole(127 / self.p.score_max * scores[z[j], at[j]]) for j in range(2)])
            self.signals.append((x[k].copy(), y3, k == 0))
            if z.any():
                break
        candidates = np.flatnonzero(z) if z.any() else np.arange(2)
        action = int(candidates[int(self.rng.random() * len(candidates))])
        self.tick(np.zeros(20), 0, y3, 0)
        self.signals.append((np.zeros(20), np.zeros(2), False))
        return action

    def episode(self, task, state, key, most_steps):
        step, body, code, encoder = task
        self.before, self.traces[:] = None, 0
        x, obs, shown, reward, terminated, t = np.zeros((5, 20)), np.empty(4), state.copy(), 0.0, False, 0
        while not terminated and t < most_steps:
            population_spikes(encoder.table, shown, key, x)
            action = self.env_step(x, code.lines(shown), reward, None, 0.5)
            reward, terminated = step(state, action, body, obs)
            shown, t = obs.copy(), t + 1
        self.env_step(x, code.lines(shown), reward, "terminated" if terminated else "cut", 0.5)
        return t


@pytest.mark.parametrize(
    "options",
    [{}, {"n_copies": 2, "residue": True, "noise_exponent": 13}, {"n_noise": 1, "bias": -0.5}, {"n_noise": 3}],
    ids=str,
)
def test_the_compiled_loop_is_a_host_beside_an_emulator(task, options):
    network, steps = learn(task, **options)
    fresh, _ = learn(task, n_episodes=0, **options)
    emulator, key, expected = Emulator(fresh.program, fresh.rng), np.array([5.0]), []
    host = Host(task, fresh, emulator)
    for state in starts_of(0, 4):
        expected.append(host.episode(task, state, key, 30))
        emulator.clear_learning()
        host.state = emulator.initial_state()
    assert steps == expected and max(steps) > 8
    for i in range(len(network.program.projections)):
        for name in ("w", "residue"):
            found = getattr(network.emulator.learner(i), name)
            np.testing.assert_array_equal(found, getattr(emulator.learner(i), name), err_msg=name)
        assert np.any(network.emulator.weights(i) != 0)
    np.testing.assert_allclose(network._host.v, host.values, atol=1e-12)


def test_the_interpreter_computes_the_same_episode(task):
    network, steps = learn(task, n_episodes=1)
    fresh, _ = learn(task, n_episodes=0)
    interpreter = Interpreter(fresh.program, fresh.rng)
    assert [Host(task, fresh, interpreter).episode(task, starts_of(0, 1)[0], np.array([5.0]), 30)] == steps
    np.testing.assert_array_equal(interpreter.learners[0].w, network.emulator.weights(0))


def test_single_steps_learn_the_same_bits_as_stretches_of_a_compiled_task(task):
    one, other = (learn(task, compiled=compiled)[0].state_dict() for compiled in (True, False))
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)


def test_tags_are_the_score_times_the_filtered_spikes_of_its_own_tick(task):
    """What the float rule adds up, from the same spikes and scores, to the rounding of traces and tags."""
    fresh = new(task, n_ticks=5)
    emulator, key, p = Emulator(fresh.program, fresh.rng), np.array([5.0]), fresh.parameters
    host = Host(task, fresh, emulator)
    tags = []
    end = emulator.clear_learning
    host.env_step_of = host.env_step

    def noting(x, lines, reward, ending, progress):
        if ending is not None:
            tags.append(emulator.learner(0).t.copy())
        return host.env_step_of(x, lines, reward, ending, progress)

    host.env_step = noting
    assert host.episode(task, starts_of(0, 1)[0], key, 12) > 5
    end()
    e, s = np.zeros((2, 20)), np.zeros(20)
    loss = loss_of(0.99 * 0.9) / 128
    for x, y3, begins in host.signals:
        if begins:
            e *= 1 - loss
        s = p.kappa * s + (1 - p.kappa) * x
        e += np.outer(y3 / 127 * p.score_max, s)
    unit = tag_of(p.tau_s, 127 / p.score_max)
    assert np.abs(e * unit).max() > 30
    assert np.abs(tags[0] - e * unit).max() < 12


@pytest.mark.parametrize("n_noise", [1, 2, 3, 8])
def test_a_neuron_spikes_as_often_as_the_table_says(task, n_noise):
    network, n = new(task, n_noise=n_noise), 4_000
    p, emulator = network.parameters, network.emulator
    chances, _ = spike_chances(p)
    for share in (-0.9, -0.3, 0.0, 0.5):
        v = int(p.v_th + share * p.most * p.unit)
        state = network.rest(n, np.random.default_rng(1))
        state = emulator.write(state, "v", [0, 1], round(v / p.kappa))
        outputs, state = emulator.run(state, 1, learning=False)
        assert abs(outputs[0, 0, 0] - v) < 0.01 * p.most * p.unit
        expected = chances[(p.v_th - outputs[0, 0, 0]) // p.unit + p.most + 1]
        z = emulator.read(state, "z")[:, n_noise * 2 :]
        assert np.abs(z.mean(axis=0) - expected).max() < 4.5 * np.sqrt(0.25 / n)
        both, of_two = (z[:, 0] & z[:, 1]).mean(), z.mean(axis=0).prod()
        assert abs(both - of_two) < 4.5 * np.sqrt(0.25 / n)  # two neurons draw for themselves


@pytest.mark.parametrize("n_noise", [1, 2, 3, 8])
def test_the_score_is_the_slope_of_the_logarithm_of_a_chance(n_noise):
    p = ChipGlmParameters(n_noise=n_noise, score_max=16.0)
    (chances, scores), logit = spike_chances(p), p.unit * p.logits
    assert chances[0] == 1 and chances[-1] == 0 and np.all(np.diff(chances) <= 0)
    at = np.flatnonzero((chances > 0.02) & (chances < 0.98))[1:-1]
    mean = chances[at] * scores[1, at] + (1 - chances[at]) * scores[0, at]
    assert np.abs(mean).max() < 1e-12
    for z, of in ((1, chances), (0, 1 - chances)):
        slope = -(np.log(of[at + 1]) - np.log(of[at - 1])) / (2 * logit)
        np.testing.assert_allclose(scores[z, at], slope, rtol=0.02, atol=2e-3)
    spread = np.arange(-p.most, p.most + 1) * logit
    assert np.sqrt(noise_chances(p) @ spread**2) == pytest.approx(np.pi / np.sqrt(3))  # a logistic variate's


def test_the_threshold_is_the_bias():
    for bias in (-0.5, -1.5, -2.5):
        p = ChipGlmParameters(bias=bias, noise_exponent=15)
        at_rest = spike_chances(p)[0][p.v_th // p.unit + p.most + 1]
        assert at_rest == pytest.approx(1 / (1 + np.exp(-bias)), abs=0.03)


@pytest.mark.parametrize("n_copies", [1, 2])
def test_the_largest_weight_is_what_a_source_adds_that_spikes_on_every_tick(task, n_copies):
    network = new(task, n_copies=n_copies)
    stored = network.state_dict()
    for i in range(n_copies):
        stored[f"{i}.synapses"][3, 0, 0] = 254
    network.load_state_dict(stored)
    x = np.zeros((40, 1, 20), np.int32)
    x[:, 0, 3] = 1
    outputs, _ = network.emulator.run(network.rest(1, np.random.default_rng(0)), 40, x, learning=False)
    p = network.parameters
    assert network.weights()[0, 3] == pytest.approx(p.w_max) and not network.weights()[1].any()
    np.testing.assert_allclose(outputs[-1, 0] * p.logits, [p.w_max, 0.0], rtol=2e-3)


def test_copies_of_a_synapse_round_apart(task):
    network, _ = learn(task, n_copies=2)
    one, other = (network.emulator.weights(i) for i in range(2))
    assert np.any(one != other) and np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.5


def test_eight_variates_are_nearly_logistic_and_one_is_a_ramp():
    errors = []
    for n_noise in (1, 8):
        p = ChipGlmParameters(n_noise=n_noise)
        u = -(np.arange(2 * p.most + 2) - p.most - 0.5) * p.unit * p.logits
        errors.append(np.abs(spike_chances(p)[0] - 1 / (1 + np.exp(-u))).max())
    assert errors[0] > 0.07 and errors[1] < 0.03


def test_the_rule_is_one_that_loihi_1_could_hold_and_its_unit_is_what_is_said():
    rule = score_rule(2.0)
    assert isinstance(rule, LearningRule) and not rule.residue_bits and not rule.wide_shift and rule.profile == "nengo"
    learner = Learner(replace(rule, rounding="nearest"), [[0]])
    source, none = np.array([0], np.int32), np.array([], np.int32)
    for _ in range(40):
        learner.tick(source, none)
    assert learner.trace("x1")[0] == pytest.approx(impulse_of(2.0) / (1 - np.exp(-0.5)), abs=3) and not learner.t.any()
    learner.write("y3", [100])
    learner.tick(source, none)
    assert learner.t[0, 0] == pytest.approx(tag_of(2.0, 100.0), rel=0.06)
    learner.write("y3", [0])
    tag = int(learner.t[0, 0])
    learner.tick(none, none, 100)
    assert learner.w[0, 0] == pytest.approx(step_of(100.0, tag), abs=2) and learner.t[0, 0] == tag
    learner.tick(none, none)
    assert learner.w[0, 0] == pytest.approx(step_of(100.0, tag), abs=2)  # the reward was of one tick
    learner.write("y1", [loss_of(0.891)])
    learner.tick(none, none)
    assert learner.t[0, 0] == pytest.approx(0.891 * tag, abs=1.5)


def test_the_learning_rate_is_that_of_the_float_rule(task):
    """dw = rate * delta * eligibility, in logits."""
    for options in ({}, {"n_copies": 2}, {"noise_exponent": 15}, {"score_max": 1.0}):
        network = new(task, **options)
        p, host = network.parameters, network._host
        stored = step_of(host.r1_scale * 0.01, tag_of(p.tau_s, 127 / p.score_max * 0.5))
        assert stored * p.w_max / 254 == pytest.approx(2.0 * 0.01 * 0.5)


def test_td_errors_that_r1_cannot_hold_are_cut_and_counted(task):
    network, lines, sent = new(task, rule={"value_rate": 0.0, "gamma": 1.0}), np.arange(3), []
    largest = 127 / network._host.r1_scale  # TD error that r1 just holds
    for share in (0.0, 0.999, 1.001, -0.999, -1.001, -50.0):
        sent.append(network.criticise(lines, share * largest / RULE["reward_scale"], kernels.GOES_ON, 1.0))
    assert sent[0] == 0 and sent[1] in (126, 127) and sent[3] in (-126, -127) and sent[2::2] == [127, -127]
    assert sent[5] == -127 and network.counts[4] == 3


@pytest.mark.parametrize(("n_cut", "warns"), [(10, False), (11, True)])
def test_more_than_a_few_cut_td_errors_are_warned_of_once(task, n_cut, warns):
    network, lines, x = new(task, rule={"value_rate": 0.0}), np.arange(3), np.zeros((5, 20))
    for i in range(2):
        for step in range(n_cut + 1):
            network.act(x, lines, 1e4 * (-1) ** step)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            network.end(lines, 0.0, True)
        assert network.counts[4] == n_cut and len(caught) == (warns and i == 0)
        for warning in caught:
            assert str(warning.message).startswith("92% of TD errors are beyond the range of the chip's r1 and are cut")
            assert warning.filename == __file__
        network.counts[:] = 0


def test_without_a_learning_rate_no_weight_changes(task):
    network, _ = learn(task, rule={"learning_rate": 0.0})
    assert not network.weights().any() and network._host.v.any()


def test_predictions_are_by_the_closed_form_and_leave_what_was_learned(task):
    network, _ = learn(task)
    before, n = network.state_dict(), 4_000
    x = (np.random.default_rng(0).random((5, 1, 20)) < 0.4).astype(float)
    state = network.rest(1, np.random.default_rng(3))
    chances, _ = network.chances(x, state)
    assert chances.sum() == pytest.approx(1) and 0.05 < chances[0, 0] < 0.95
    many = network.rest(n, np.random.default_rng(4))
    actions, after = network.play(np.repeat(x, n, axis=1), many, np.random.default_rng(5))
    assert abs(np.mean(actions == 0) - chances[0, 0]) < 4.5 * np.sqrt(0.25 / n)
    cleared = network.cleared(after, np.arange(n) < 2)
    assert not cleared[:2, 3:].any() and np.array_equal(cleared[:, 1:3], after[:, 1:3])
    np.testing.assert_array_equal(cleared[2:], after[2:])
    for name, array in before.items():
        np.testing.assert_array_equal(network.state_dict()[name], array)


def test_what_was_kept_is_all_that_another_network_learns_on_from(task):
    network, other = learn(task)[0], new(task, seed=7)
    other.load_state_dict(network.state_dict())
    for name, array in network.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array, err_msg=name)
    with pytest.raises(ValueError, match="arrays must have shapes"):
        other.load_state_dict({**network.state_dict(), "values": np.zeros(3)})


def test_a_copy_learns_by_itself(task):
    network = learn(task, n_episodes=1)[0]
    other = copy.deepcopy(network)
    weights, counts = network.weights(), network.counts.copy()
    for _ in range(10):
        other.act(np.ones((5, 20)), np.arange(8), 1.0)
    assert np.array_equal(network.weights(), weights) and np.array_equal(network.counts, counts)
    assert np.any(other.weights() != weights) and np.any(other.counts != counts)


def test_finer_weights_come_with_more_noise():
    widths = [ChipGlmParameters(noise_exponent=e).w_max for e in (13, 14, 15)]
    assert all(one / other == pytest.approx(2) for one, other in pairwise(widths))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ticks": 0}, "n_ticks must be"),
        ({"tau_s": 0.0}, "tau_s must be"),
        ({"bias": 0.5}, "bias must be"),
        ({"bias": -0.01, "noise_exponent": 8}, "bias must be a threshold that the chip has"),
        ({"noise_exponent": 17}, "noise_exponent must be"),
        ({"n_noise": 0}, "n_noise must be"),
        ({"score_max": -1.0}, "score_max must be"),
        ({"n_copies": 17}, "n_copies must be"),
        ({"residue": 2}, "residue must be"),
        ({"n_copies": 7}, "at most 18 lines may reach a neuron by 7 synapses each, or sums wrap; got 20"),
        ({"rule": {"bias_rate": 0.5}}, "bias_scale must be 0.0 on the chip, whose thresholds do not learn, got 0.5"),
    ],
    ids=str,
)
def test_what_it_cannot_be_is_refused_in_one_line(task, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        new(task, **options)
    assert "\n" not in str(caught.value)
