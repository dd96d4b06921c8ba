"""Populations on the chip are a program that the emulator runs, learn in the ways of their float form, and are kept."""

import copy
import dataclasses
import warnings

import gymnasium as gym
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rstdp_models import Plain
from stable_baselines3.common.monitor import Monitor

from spikeloop.agents import RSTDP
from spikeloop.agents.compiled_episodes import ClosedLoop
from spikeloop.agents.registry import hyperparams_file
from spikeloop.hardware import ChipPopulations, Interpreter
from spikeloop.hardware.learning.reward_stdp import reward_stdp_rule
from spikeloop.hardware.loihi.population_program import (
    ACTOR,
    CRITIC,
    ChipOptions,
    population_program,
)
from spikeloop.scripts.bench import chip_populations as benchmark
from spikeloop.scripts.bench.chip_learning import Lab
from spikeloop.spiking.rules.population_parameters import PopulationParameters

PRESETS = yaml.safe_load(hyperparams_file("rstdp_populations_chip").read_text("utf-8"))
SMALL = PopulationParameters(
    n_ticks=8,
    n_neurons=2,
    centred=False,
    learning_rate=0.02,
    value_learning_rate=0.05,
    w_start=0.1,
    w_max=0.2,
    input_rate=400.0,
    a_minus=0.3,
    critic="spiking",
    n_critic=6,
)
N_INPUTS, N_ACTIONS = 9, 2


def network(seed=0, changes=None, **options):
    parameters = dataclasses.replace(SMALL, **(changes or {}))
    return ChipPopulations(N_INPUTS, N_ACTIONS, parameters, np.random.default_rng(seed), **options)


def make(name="CartPole-v1", compiled=True, seed=0, **changes):
    hyperparams = {key: value for key, value in {**PRESETS[name], **changes}.items() if key != "n_timesteps"}
    env = gym.make(name)
    return RSTDP(env=Monitor(env if compiled else Plain(env)), seed=seed, backend=ChipPopulations, **hyperparams)


def weights(model):
    return {name: value.numpy().copy() for name, value in model.policy.state_dict().items()}


def assert_same(one, other):
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), residue=st.booleans(), epoch=st.sampled_from([2, 4]))
def test_its_env_steps_are_ticks_of_its_program(seed, residue, epoch):
    chip, rng = network(seed, residue=residue, epoch=epoch), np.random.default_rng(seed)
    interpreter, state = Interpreter(chip.program), chip._state.copy()
    for _ in range(6):
        chip.evaluate(np.sort(rng.choice(N_INPUTS, 4, replace=False)))
        chip.reinforce(float(rng.normal()))
        inputs, rewards = chip._host.inputs.copy(), chip._host.rewards.copy()
        chip.act()
        outputs, state = interpreter.run(state, SMALL.n_ticks, inputs=inputs, rewards=rewards)
        np.testing.assert_array_equal(chip._host.outputs, outputs)
    np.testing.assert_array_equal(chip._state, state)
    for i, learner in interpreter.learners.items():
        assert np.any(learner.w != chip.emulator.program.projections[i].weights)
        np.testing.assert_array_equal(chip.emulator.weights(i), learner.w)


@pytest.mark.parametrize("epoch", [2, 4])
def test_its_critic_fires_in_proportion_to_the_sum_of_its_weights(epoch):
    n, lines = 120, np.arange(5)
    chip = network(changes={"n_critic": n, "value_offset": 1.0, "value_gain": 2.0, "value_rate": 700.0}, epoch=epoch)
    fired = chip._loaded.spikes[-n:]  # the emulator's counts of spikes
    apart = 2.0 / (n * (epoch - 1))  # levels, which lie closer than multiples of what an exponent reaches
    for weight in (-254, -230, *range(-100, 100, 6), 120, 150, 254):  # values from below -0.4 to above 1.6, the range
        chip.emulator.update_weights(CRITIC, np.full((n, N_INPUTS), weight))
        wanted = np.clip(1.0 + len(lines) * weight * chip.options.value_unit, -0.4, 1.6)
        before = fired.copy()
        assert chip.evaluate(lines) == pytest.approx(wanted, abs=1.1 * apart)
        chip.act()
        most = (fired - before).max()  # it is silent for the rest of the env step
        assert most <= epoch - 1 and (most > 0) == (wanted > -0.4)
        chip.reset()


def test_a_critic_that_one_core_does_not_hold_is_spread_over_several():
    small, large = (network(changes={"n_critic": n}) for n in (6, 1500))
    assert [chip.program.compartments.core.max() for chip in (small, large)] == [2, 3]
    for chip in (small, large):
        for _ in range(2):
            chip.run(np.arange(4), SMALL.n_ticks)
        updates = [chip.emulator.learner(i).updates for i in (ACTOR, CRITIC)]
        assert chip.updates_per_core.tolist()[0] == updates[0] and chip.updates_per_core[1:].sum() == updates[1] > 0
    assert large.updates_per_core.shape == (3,) and np.ptp(large.updates_per_core[1:]) == 0


def test_the_first_reward_of_an_episode_finds_no_tags():
    chip = network()
    before = [chip.emulator.weights(i).copy() for i in range(2)]
    for modulator, changes in ((1.0, False), (1.0, True)):
        chip.evaluate(np.arange(9))
        chip.reinforce(modulator)
        chip.act()
        found = [np.any(chip.emulator.weights(i) != before[i]) for i in range(2)]
        assert found == [changes, changes]
    chip.reset()
    assert not chip.emulator.learner(ACTOR).t.any()


def test_what_is_frozen_learns_nothing_and_disturbs_nothing():
    chips = network(), network()
    for step in range(6):
        chips[0].learning = chips[0].exploring = False
        chips[0].run(np.array([0, 7]), SMALL.n_ticks)
        chips[0].learning = chips[0].exploring = True
        for chip in chips:
            chip.evaluate(np.array([1, step % 4 + 2]))
            chip.reinforce(0.3)
            chip.act()
    assert_same(chips[0].state_dict(), chips[1].state_dict())


@pytest.mark.parametrize("options", [{}, {"residue": True}])
def test_a_copy_and_what_is_loaded_go_on_alike(options):
    chip = network(**options)
    for _ in range(3):
        chip.run(np.arange(5), SMALL.n_ticks)
        chip.reset()
    twin, loaded = copy.deepcopy(chip), network(**options)
    loaded.load_state_dict(chip.state_dict())
    loaded.rng.bit_generator.state = chip.rng.bit_generator.state
    for one in (chip, twin, loaded):
        one.evaluate(np.arange(5))
        one.reinforce(-0.2)
        one.act()
        one.run(np.arange(3), SMALL.n_ticks)
    assert_same(chip.state_dict(), loaded.state_dict())
    for one in (chip, twin):
        one.reset()  # which draws the noise of the next episode
        one.evaluate(np.arange(5))
        one.act()
    assert_same(chip.state_dict(), twin.state_dict())
    with pytest.raises(ValueError, match="must have shapes"):
        network(changes={"n_critic": 5}).load_state_dict(chip.state_dict())


def test_predictions_in_the_middle_of_a_training_do_not_change_it():
    models = [make(), make()]
    models[0].learn(100)
    models[0].predict(np.zeros((2, 4), np.float32), deterministic=False, episode_start=np.ones(2, bool))
    before = models[0].policy.network.rng.bit_generator.state
    models[0].predict(np.zeros((3, 4), np.float32), deterministic=True)
    assert models[0].policy.network.rng.bit_generator.state == before


def test_a_value_that_leaves_the_range_is_warned_of_once():
    chip = network()
    chip.evaluate(np.arange(9))
    chip._loaded.counters[0] += 1
    with pytest.warns(UserWarning, match="a value left the chip's range"):
        chip.act()
    assert chip.emulator.overflowed and chip.emulator.counts.overflows["input"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chip.run(np.arange(9), SMALL.n_ticks)


def test_an_env_step_that_was_not_ended_leaves_no_spikes():
    chip = network()
    chip.evaluate(np.arange(9))
    chip.reset()
    assert not chip._host.inputs.any()


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCar-v0"])
def test_the_compiled_loop_does_bit_for_bit_what_the_ordinary_one_does(name):
    models = [make(name, compiled) for compiled in (True, False)]
    loops = [ClosedLoop.of(m.get_env(), m.policy.network, m.policy.coder) for m in models]
    assert [loop is not None for loop in loops] == [True, False]
    for model in models:
        model.learn(300)
    assert_same(*map(weights, models))
    assert models[0]._value == models[1]._value


def test_cartpole_is_learnt_by_the_preset():
    model = make(n_episodes=100)
    model.learn(100_000)
    assert np.mean([info["r"] for info in list(model.ep_info_buffer)[-20:]]) > 100


def test_predictions_carry_the_chip_s_state_and_are_repeated_where_they_are_deterministic(tmp_path):
    model = make()
    model.learn(600)
    model.save(tmp_path / "model")
    loaded = RSTDP.load(tmp_path / "model")
    assert_same(weights(model), weights(loaded))
    obs = np.random.default_rng(0).uniform(-0.1, 0.1, (20, 3, 4)).astype(np.float32)

    def played(policy):
        state, actions = None, []
        for row in obs:
            starts = np.array([state is None, False, len(actions) == 9])
            action, state = policy.predict(row, state, starts, deterministic=True)
            actions.append(action)
        return np.array(actions)

    found = played(model)
    np.testing.assert_array_equal(found, played(loaded))
    np.testing.assert_array_equal(found, played(model))
    state = None
    for i, row in enumerate(obs[9:, 2]):  # alone as in the batch, from the start of its episode on
        action, state = model.predict(row, state, np.array([i == 0]), deterministic=True)
        assert action == found[9 + i, 2]
    with pytest.raises(ValueError, match="is a program of its chip"):
        model.to_network()


@pytest.mark.parametrize(
    ("changes", "options", "named"),
    [
        ({"centred": True}, {}, "centred must be False on the chip, got True"),
        ({"normalized": True}, {}, "normalized must be False"),
        ({"beta": 0.1}, {}, "beta must be 0.0 on the chip, got 0.1"),
        ({"readout": "count", "critic": "graded"}, {}, "readout must be rate"),
        ({"critic": "graded"}, {}, "critic must be spiking on the chip, got graded"),
        ({"w_min": 0.0}, {}, "w_min must be -0.2"),
        ({"n_ticks": 20}, {}, "n_ticks must be epoch = 4 times a power of 2 from 1 to 64 on the chip, got 20"),
        ({"learning_rate": 1e-9}, {}, "out of the chip's reach"),
        ({}, {"epoch": 1}, "ChipOptions.epoch must be"),
        ({}, {"wide_shift": True}, "wide_shift"),
        ({"n_neurons": 9}, {}, "8 thresholds; core 0 needs 9"),
        ({"noise": 1.5e-5}, {}, r"noise must be 0, or between 1\.8e-05 and 1\.5e\+02 on the chip, got 1\.5e-05"),
        ({"noise": 1e3}, {}, "noise must be 0, or between .* on the chip, got 1000"),
    ],
)
def test_what_the_chip_does_not_have_is_refused(changes, options, named):
    parameters = PopulationParameters(**{**vars(SMALL), **changes})
    with pytest.raises((ValueError, TypeError), match=named):
        ChipPopulations(N_INPUTS, N_ACTIONS, parameters, np.random.default_rng(0), **options)


def test_the_noise_is_said_that_stands_on_the_chip_for_the_one_that_was_asked_for():
    for asked in (0.03, 0.05, 0.07, 0.1):
        chip, double = (network(changes={"noise": noise}) for noise in (asked, 2 * asked))
        assert 2**-0.5 <= chip.noise / asked <= 2**0.5
        assert double.noise == pytest.approx(2 * chip.noise)
        assert double.emulator.program.noise_exponent == chip.emulator.program.noise_exponent + 1
        exact = network(changes={"noise": chip.noise})
        assert exact.noise == chip.noise
        assert exact.emulator.program.noise_exponent == chip.emulator.program.noise_exponent
    assert network(changes={"noise": 0.0}).noise == 0.0
    assert round(make().policy.network.noise, 2) == 0.13  # of a preset, which asks for 0.1


def test_more_lines_than_a_core_has_axons_for_are_refused():
    with pytest.raises(ValueError, match="a core of loihi1 has 4096 input axons; core 0 needs 4104 for group 'actor'"):
        population_program(2050, N_ACTIONS, SMALL, ChipOptions(), (0, 1))


@pytest.mark.parametrize("kind", list(benchmark.KINDS))
def test_every_row_of_the_benchmark_fits_its_chip(kind, tmp_path):
    for env_id in benchmark.BARS:
        settings, network = benchmark.settings_of(Lab(tmp_path), env_id, kind)
        benchmark.model_of(env_id, 0, settings, network)  # or it is refused


def test_rates_of_learning_keep_their_product_with_the_unit_of_tags():
    for rate in (3.0, 40.0, 700.0):
        rule = reward_stdp_rule(rate, 256.0, 0.2, k=1)
        exponent = int(rule.dw[2:].split("*")[0])
        impulse, by = rule.x1.impulse, int(rule.dt.split("+ 2^")[1].split("*")[0])
        assert 2.0 ** (exponent - 3) * 256 * impulse * 2.0**by == pytest.approx(rate, rel=1e-2)
