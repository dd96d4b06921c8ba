"""R-STDP on the chip: the network behind the protocol, its sums in the emulator, its rules, and that it learns."""

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as at_most
from hypothesis import strategies as st
from stable_baselines3.common.monitor import Monitor

from spikeloop.agents import RSTDP
from spikeloop.agents.compiled_episodes import ClosedLoop
from spikeloop.agents.registry import hyperparams_file
from spikeloop.hardware import ChipWinnerTakeAll, Emulator
from spikeloop.hardware.learning.reference import ReferenceLearner
from spikeloop.hardware.loihi.resources import check_limits
from spikeloop.scripts import benchmark, rollout, train
from spikeloop.scripts.hyperparameters import check_hyperparameters
from spikeloop.spiking import WinnerTakeAll, WinnerTakeAllParameters
from spikeloop.spiking.rules.plastic_network import PlasticNetwork

PRESETS = yaml.safe_load(hyperparams_file("rstdp_chip").read_text("utf-8"))
N_TICKS = 4


def chip(n_inputs=20, n_outputs=3, seed=0, parameters=None, **options):
    parameters = parameters or WinnerTakeAllParameters()
    return ChipWinnerTakeAll(n_inputs, n_outputs, parameters, np.random.default_rng(seed), **options)


def model(name="CartPole-v1", seed=0, env=None, **changes):
    hyperparams = {key: value for key, value in {**PRESETS[name], **changes}.items() if key != "n_timesteps"}
    return RSTDP(env=Monitor(env or gym.make(name)), seed=seed, backend=ChipWinnerTakeAll, **hyperparams)


def weights(learner):
    return {name: value.numpy().copy() for name, value in learner.policy.state_dict().items()}


def assert_same(one, other):
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array)


def random_weights(network, rng):
    state = network.state_dict()
    for name in ("w", "v"):
        state[name] = 2 * rng.integers(-127, 128, state[name].shape)
        state[f"{name}_residue"] = rng.integers(0, 16, state[name].shape)
    return state


def bandit(network, n_epochs=400):
    """Teach which of three lines wants which action."""
    for _ in range(n_epochs):
        line = network.rng.integers(3)
        network.reset()
        _, last, value = network.run(np.array([line]), N_TICKS)
        network.reinforce(0.0)
        network.run(np.array([], int), N_TICKS)
        network.reinforce(0.3 * ((1.0 if last.argmax() == line else -1.0) - value))
    return network


def test_it_is_a_plastic_network():
    assert isinstance(chip(), PlasticNetwork)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_learns_on_alike_and_shares_nothing(how):
    network = bandit(chip(3), 20)
    twin, before = how(network), network.state_dict()
    assert_same(before, twin.state_dict())
    bandit(twin, 30)
    assert_same(before, network.state_dict())
    bandit(network, 30)
    assert_same(network.state_dict(), twin.state_dict())
    assert any(np.any(before[name] != array) for name, array in network.state_dict().items())


@pytest.mark.parametrize("options", [{}, {"residue": False}, {"wide_shift": True}])
def test_it_learns_and_the_same_seed_gives_the_same_bits(options):
    one, same, other = (bandit(chip(3, seed=seed, **options)) for seed in (0, 0, 1))
    one.learning = one.exploring = False
    assert [int(one.run(np.array([line]), N_TICKS)[1].argmax()) for line in range(3)] == [0, 1, 2]
    assert_same(one.state_dict(), same.state_dict())
    assert np.any(one.state_dict()["w"] != other.state_dict()["w"])


def test_cartpole_is_learnt_far_above_random_in_seconds():
    learner = model(n_episodes=60)
    learner.learn(100_000)
    assert np.mean(learner.get_env().envs[0].get_wrapper_attr("get_episode_rewards")()[-20:]) > 100  # random: 22


def test_an_evaluation_in_the_middle_of_an_episode_changes_nothing():
    networks = [chip(), chip()]
    for step in range(8):
        for network in networks:
            network.run(np.array([step, step + 1]), N_TICKS)
        networks[0].learning = networks[0].exploring = False
        networks[0].run(np.array([0, 7]), N_TICKS)
        networks[0].learning = networks[0].exploring = True
        for network in networks:
            network.reinforce(0.1 * step)
    assert_same(networks[0].state_dict(), networks[1].state_dict())


# ---- the same as the chip's own parts


@at_most(max_examples=10)
@given(n_inputs=st.sampled_from([5, 2048, 5000]), seed=st.integers(0, 2**32))
def test_the_emulator_sums_what_the_kernel_sums(n_inputs, seed):
    rng = np.random.default_rng(seed)
    network = chip(n_inputs, 3)
    network.load_state_dict(random_weights(network, rng))
    network.exploring = False
    lines = rng.choice(n_inputs, 5, replace=False)
    counts, last, value = network.run(lines, N_TICKS)
    emulator = Emulator(network.program)
    inputs = np.zeros((2, 1, n_inputs), int)
    inputs[:, :, lines] = 1
    v = emulator.run(emulator.initial_state(), 2, inputs)[0][1, 0] // 64
    parts = v.reshape(-1, 4).sum(axis=0)  # of each part of the lines three actions, then the critic
    assert len(v) == 4 * -(-n_inputs // 2048)
    assert last.argmax() == parts[:3].argmax() and counts[last.argmax()] == N_TICKS
    assert value == parts[3] * 2.0**-10


def test_what_it_learns_is_what_the_plain_learning_engine_does():
    network, rng = chip(6, 2), np.random.default_rng(3)
    plain = []
    for learner in (network.actor, network.critic):
        plain.append(ReferenceLearner(learner.rule, learner.w.copy(), seed=int(learner.arrays[5][4])))
    for _ in range(30):
        lines = rng.choice(6, 2, replace=False)
        network.run(lines, N_TICKS)
        modulator = int(rng.integers(-127, 128))
        network.reinforce(modulator / 256)  # a whole number in r1: nothing to round
        for learner, has_spikes in zip(plain, (True, False), strict=True):
            for tick, winner in enumerate(network._epoch.winners):
                learner.tick(lines, [winner] if has_spikes else [], modulator if tick == N_TICKS - 1 else 0)
    for learner, reference in zip((network.actor, network.critic), plain, strict=True):
        assert reference.w.any()
        np.testing.assert_array_equal(learner.w, reference.w)
        np.testing.assert_array_equal(learner.residue, reference.residue)
        np.testing.assert_array_equal(learner.t, reference.t)


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCar-v0", "Acrobot-v1"])
def test_presets_fit_the_chip_and_their_rules_use_no_extension_but_the_residue(name):
    learner = model(name)
    check_hyperparameters(RSTDP, PRESETS[name])
    network = learner.policy.network
    check_limits(network.program)
    n_parts = -(-network.actor.n_pre // 2048)
    assert set(network.program.compartments.core) == set(range(2 * n_parts))
    for engine in (network.actor, network.critic):
        assert (engine.rule.residue_bits, engine.rule.wide_shift, engine.rule.rounding) == (4, False, "stochastic")
        replace(engine.rule, residue_bits=0)  # the text is one that Loihi 1 could hold


def test_more_lines_than_the_chip_has_axons_for_are_refused():
    with pytest.raises(ValueError, match="128 cores"):
        chip(65 * 2048)


def test_the_compiled_loop_does_what_the_ordinary_one_does():
    class Plain(gym.Wrapper):
        """Changes nothing, but is not known to."""

    models = model(), model(env=Plain(gym.make("CartPole-v1")))
    loops = [ClosedLoop.of(m.get_env(), m.policy.network, m.policy.coder) for m in models]
    assert [loop is not None for loop in loops] == [True, False]
    for learner in models:
        learner.learn(1500)
    assert_same(weights(models[0]), weights(models[1]))


def test_the_compiled_loop_is_taken_under_the_zoos_time_limit_too():
    pytest.importorskip("rl_zoo3")  # puts a wrapper of its own in Gymnasium's place
    learner = model()
    assert ClosedLoop.of(learner.get_env(), learner.policy.network, learner.policy.coder) is not None


# ---- weights that come and go


@pytest.mark.parametrize("residue", [True, False])
def test_float_weights_are_rounded_to_the_chips(residue):
    rng = np.random.default_rng(0)
    source = WinnerTakeAll(50, 2, WinnerTakeAllParameters(), rng)
    given = {"w": rng.uniform(-1.1, 1.1, (2, 50)), "v": rng.uniform(-0.2, 0.2, 50)}
    source.load_state_dict(given)
    network = chip(50, 2, residue=residue)
    network.load_float(source.state_dict())
    state = network.state_dict()
    for name, unit, most in (("w", 1 / 254, 1), ("v", 2.0**-10, 254 / 1024)):
        found = (state[name] + state[f"{name}_residue"] / 8) * unit
        error = (1 / 16 if residue else 1) * unit * 1.01
        np.testing.assert_allclose(found, np.clip(given[name], -most, most), atol=error)
    with pytest.raises(ValueError, match="w must be of"):
        network.load_float({"w": np.zeros((3, 50)), "v": np.zeros(50)})


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        chip(5).load_state_dict(chip(6).state_dict())


def test_save_and_load_go_on_to_the_same_bits(tmp_path):
    learner = model(n_episodes=10)
    learner.learn(100_000)
    learner.save(tmp_path / "model")
    runs = []
    for _ in range(2):
        loaded = RSTDP.load(tmp_path / "model", env=gym.make("CartPole-v1"))
        assert_same(weights(learner), weights(loaded))
        loaded.n_episodes = None
        loaded.policy.rng.bit_generator.state = learner.policy.rng.bit_generator.state
        loaded.get_env().seed(1)
        loaded.learn(300, reset_num_timesteps=False)
        runs.append(weights(loaded))
    assert_same(*runs)
    assert np.any(runs[0]["network.w"] != weights(learner)["network.w"])


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"n_ticks": 5}, "n_ticks must be a power of 2 from 2 to 64 on the chip, got 5"),
        ({"w_max": 0}, "w_max must be a number > 0, got 0"),
        ({"value_unit": -1}, "value_unit"),
        ({"r1_scale": 0}, "r1_scale"),
        ({"r1_scale": 1e9}, "out of the chip's reach"),
        ({"n_inputs": 0}, "at least 1"),
    ],
)
def test_wrong_numbers_are_refused_by_name(options, answer):
    with pytest.raises(ValueError, match=answer):
        chip(**options)


def test_lines_and_ticks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="below 20"):
        chip().run(np.array([20]), N_TICKS)
    with pytest.raises(ValueError, match="each once"):
        chip().run(np.array([3, 3]), N_TICKS)
    with pytest.raises(ValueError, match="n_ticks must be the chip's 4, got 5"):
        chip().run(np.array([1]), 5)
    with pytest.raises(ValueError, match="at most 129 lines"):
        chip(200).run(np.arange(130), N_TICKS)
    with pytest.raises(ValueError, match=r"backend_kwargs: .*residu"):
        model(backend_kwargs={"residu": 1})


# ---- the scripts


def start(script, *args):
    try:
        return script.main([str(arg) for arg in args])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


FAULTY = ["--algo", "rstdp", "--backend", "chip", "--env", "Faulty-v0", "--gym-packages", "faulty_env"]
ENCODER = "policy_kwargs:dict(encoder_kwargs=dict(n_tiles=4, low=[-2, -2], high=[2, 2]))"


def test_a_killed_run_goes_on_and_twice_to_the_same_bits_and_rolls_out(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rl_zoo3")
    monkeypatch.chdir(tmp_path)
    kill = ["-n", 512, "--verbose", 0, "--env-kwargs", "fault:'SIGKILL'", "at:300", "--checkpoint-freq", 100]
    settings = [*FAULTY, *kill, "--eval-freq", 100, "--seed", 3, "--hyperparams", ENCODER]
    command = [sys.executable, train.__file__, *settings]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    killed = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    assert killed.returncode == -9, killed.stderr
    run, results = Path("logs/rstdp/Faulty-v0_1"), []
    subprocess.run(["cp", "-r", run, "again"], check=True)
    for folder in (run, Path("again")):
        assert start(train, "--resume", folder) == 0
        learner = RSTDP.load(folder / "Faulty-v0.zip")
        assert learner.num_timesteps == 512 and type(learner.policy.network) is ChipWinnerTakeAll
        results.append((weights(learner), (folder / "learning_curve.csv").read_bytes()))
    assert_same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1] and results[0][0]["network.w"].any()
    assert start(rollout, run, "-n", 1, "--json") == 0
    assert '"policy": "rstdp on Faulty-v0"' in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--backend", "--core"])  # its former name
def test_the_backend_is_for_what_learns_where_it_runs(option, capsys):
    assert start(train, "--algo", "spiking_ppo", option, "chip") == 2
    assert "--backend is for --algo eprop or rstdp" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{"backend": "chip"}, {"core": "chip"}])
def test_a_run_goes_on_where_it_learnt_whatever_its_checkpoint_calls_that(settings):
    pytest.importorskip("rl_zoo3")
    from spikeloop.scripts.experiment import _backend_of

    assert _backend_of(settings) == "chip" and _backend_of({}) is None


def test_the_benchmark_keeps_finished_seeds(tmp_path, capsys):
    arguments = ["--tasks", "cartpole", "--synapses", "8-bit + residue", "--seeds", 0, "--adaptation-seeds"]
    arguments = ["chip-learning", *arguments, "--set", "n_episodes=2", "-o", tmp_path]
    tables = []
    for _ in range(2):
        assert start(benchmark, *arguments) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] and "| CartPole-v1 | 8-bit + residue |" in tables[0]
    assert len(list(tmp_path.iterdir())) == 1
