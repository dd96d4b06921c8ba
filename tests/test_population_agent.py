"""R-STDP of spiking populations is an SB3 algorithm, learns, and its policy without noise is a Network."""

import warnings

import gymnasium as gym
import numba
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from rstdp_models import Plain
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from spikeloop.agents import RSTDP
from spikeloop.agents.compiled_episodes import ClosedLoop
from spikeloop.agents.population_policy import PopulationPolicy
from spikeloop.agents.registry import hyperparams_file
from spikeloop.spiking import Network, Simulator

PRESETS = yaml.safe_load(hyperparams_file("rstdp_populations").read_text("utf-8"))
CLASSIC = ["CartPole-v1", "MountainCar-v0", "Acrobot-v1"]
SMALL = {"encoder_kwargs": {"n_tiles": 3, "low": [-2.4, -3.0, -0.2, -3.0], "high": [2.4, 3.0, 0.2, 3.0]}}
NEURONS = [
    {},
    {"critic": "spiking", "n_critic": 7},
    {"trains": "regular", "refractory": 2},
    {"beta": 0.3, "tau_a": 50.0, "n_neurons": 3},
    {"a_minus": 0.5, "centred": False},
]


def make(name="CartPole-v1", compiled=True, seed=0, population_kwargs=(), **changes):
    settings = {key: value for key, value in {**PRESETS[name], **changes}.items() if key != "n_timesteps"}
    settings["policy_kwargs"] = {**settings["policy_kwargs"], "population_kwargs": dict(population_kwargs)}
    env = gym.make(name)
    return RSTDP(env=Monitor(env if compiled else Plain(env)), seed=seed, **settings)


def weights(model):
    return {name: value.numpy().copy() for name, value in model.policy.state_dict().items()}


def assert_same(one, other):
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array)


def test_cartpole_is_learnt_by_the_preset():
    model = make(seed=1)
    model.learn(100_000)
    assert model._episode_num == 200
    assert evaluate_policy(model, model.get_env(), 10)[0] >= 475


@pytest.mark.parametrize("population_kwargs", NEURONS)
def test_the_compiled_loop_does_bit_for_bit_what_the_ordinary_one_does(population_kwargs):
    models = [make(compiled=compiled, population_kwargs=population_kwargs) for compiled in (True, False)]
    loops = [ClosedLoop.of(m.get_env(), m.policy.network, m.policy.coder) for m in models]
    assert [loop is not None for loop in loops] == [True, False]
    for model in models:
        model.learn(700)
    assert_same(*map(weights, models))
    assert models[0]._value == models[1]._value


def test_a_policy_that_overrides_step_alone_is_refused():
    class Own(PopulationPolicy):
        def step(self, obs):
            return super().step(obs)

    with pytest.raises(ValueError, match="Own must override evaluate and act, the halves of step"):
        RSTDP(Own, "CartPole-v1", policy_kwargs=SMALL)


@pytest.mark.parametrize("name", CLASSIC)
def test_both_loops_agree_in_each_task(name):
    models = [make(name, compiled) for compiled in (True, False)]
    for model in models:
        model.learn(250)
    for one, other in zip(*(weights(model).values() for model in models), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)  # Acrobot's dynamics differ in the last bit


@pytest.mark.parametrize("population_kwargs", NEURONS)
def test_the_policy_without_noise_is_its_network(population_kwargs, tmp_path):
    model = make(population_kwargs=population_kwargs)
    model.learn(1500)
    model.to_network().save(tmp_path / "policy.safetensors")
    simulator = Simulator(Network.load(tmp_path / "policy.safetensors"))
    rng, state, other = np.random.default_rng(0), None, None
    chosen = []
    for step in range(60):
        obs, start = rng.uniform(-0.2, 0.2, (3, 4)).astype(np.float32), np.full(3, step == 0)
        actions, state = model.predict(obs, state, start, deterministic=True)
        expected, other = simulator.predict(obs, other, start)
        np.testing.assert_array_equal(actions, expected)
        np.testing.assert_array_equal(state[0], other)
        chosen.append(actions)
    assert set(np.ravel(chosen)) == {0, 1}


def test_the_neurons_are_those_of_the_network():
    """Given a drive that does not vary and no escape noise, the learning network spikes as its exported twin does."""
    regular = {"trains": "regular", "input_rate": 1000.0}  # a spike on every tick is the mean drive
    model = make(noise=0.0, value_learning_rate=1e-5, population_kwargs=regular)  # the drive is 7 times the preset's
    model.learn(800)
    network = model.policy.network
    network.reset()
    network.learning = True
    simulator, state = Simulator(model.to_network()), None
    rng = np.random.default_rng(0)
    for _ in range(20):
        obs = rng.uniform(-0.2, 0.2, 4).astype(np.float32)
        lines = model.policy.coder.lines(obs)
        network.run_trains(lines, np.ones((len(lines), 20)))
        _, state, seen = simulator.record(obs[None, None], state)
        spikes = np.zeros_like(network.spikes)
        spikes[seen.layers[0].t.astype(int), seen.layers[0].i] = 1
        np.testing.assert_array_equal(network.spikes, spikes)
    assert network.spikes.any()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("population_kwargs", [{}, {"critic": "spiking", "trains": "regular"}])
def test_training_has_the_same_bits_with_one_thread_and_two(compiled, population_kwargs):
    found, before = [], (torch.get_num_threads(), numba.get_num_threads())
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
        found.append(weights(make(compiled=compiled, population_kwargs=population_kwargs).learn(500)))
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])
    assert_same(*found)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_training_in_pieces_is_the_training_in_one(compiled):
    whole, pieces = make(compiled=compiled), make(compiled=compiled)
    whole.learn(300)
    for n in (77, 1, 222):
        pieces.learn(n, reset_num_timesteps=False)
    assert_same(weights(whole), weights(pieces))


def test_predicting_in_the_middle_of_an_episode_leaves_the_neurons_and_traces_as_they_were():
    model = make()
    model.learn(100)
    network = model.policy.network
    before = [np.copy(array) for array in (*network.synapses, *network.state)]
    for deterministic in (True, False):
        model.predict(np.zeros((4, 4), np.float32), episode_start=np.ones(4), deterministic=deterministic)
    for one, other in zip(before, (*network.synapses, *network.state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_save_and_load_keep_what_was_learnt(tmp_path):
    model = make(population_kwargs={"critic": "spiking", "beta": 0.1}, modulator="reward_baseline")
    model.learn(300)
    model.save(tmp_path / "model")
    loaded = RSTDP.load(tmp_path / "model", env=gym.make("CartPole-v1"))
    assert loaded.policy.parameters_of_rule == model.policy.parameters_of_rule
    assert_same(weights(model), weights(loaded))
    loaded.learn(50, reset_num_timesteps=False)
    policy = type(model.policy)
    model.policy.save(tmp_path / "policy")
    assert_same(weights(model), {n: v.numpy() for n, v in policy.load(tmp_path / "policy").state_dict().items()})


def test_behind_vec_normalize_the_network_normalises():
    model = RSTDP("PopulationPolicy", VecNormalize(make_vec_env("CartPole-v1")), policy_kwargs=SMALL)
    model.learn(200)
    network = model.to_network()
    assert len(network.preprocessing) == 1 and network.n_ticks == 20
    assert [layer.n_neurons for layer in network.layers] == [10]


def test_predict_carries_its_state_and_says_once_if_it_is_not_carried():
    model = make()
    obs = np.zeros(4, np.float32)
    action, state = model.predict(obs)
    assert action.shape == () and state[0].shape == (5, 1, 10)
    with pytest.warns(UserWarning, match="neither state nor episode_start"):
        model.predict(obs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(obs, state)
    assert set(model.predict(np.zeros((50, 4), np.float32))[0]) == {0, 1}


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"noise": np.inf}, "noise must be"),
        ({"trace_lambda": 0.0}, "gamma \\* trace_lambda must be > 0"),
        ({"n_ticks": 0}, "n_ticks must be"),
        ({"policy_kwargs": {**SMALL, "population_kwargs": {"tau_m": -1}}}, "tau_m must be"),
        ({"policy_kwargs": {**SMALL, "population_kwargs": {"tau": 1}}}, "must be among .*tau_m.*got 'tau'"),
        ({"policy_kwargs": {**SMALL, "population_kwargs": {"noise": 0.1}}}, "must be among .*got 'noise'"),
        ({"policy_kwargs": {**SMALL, "encoder": "rate"}}, "encoder must be one of tiles, places"),
        ({"backend_kwargs": {"w": 1}}, "backend_kwargs"),
    ],
)
def test_what_cannot_be_is_refused_at_construction(changes, answer):
    with pytest.raises(ValueError, match=answer):
        RSTDP("PopulationPolicy", "CartPole-v1", **{"policy_kwargs": SMALL, **changes})


@pytest.mark.parametrize(("env", "answer"), [("Pendulum-v1", "discrete actions"), ("FrozenLake-v1", "vector obs")])
def test_spaces_that_it_has_no_place_for_are_refused(env, answer):
    with pytest.raises(ValueError, match=answer):
        RSTDP("PopulationPolicy", env)


class Signal(gym.Env):
    """Shows one of two numbers, once an episode; the right one of two actions is paid, the wrong one costs."""

    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.right = int(self.np_random.integers(2))
        return np.array([self.right - 0.5], np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0 if action == self.right else -1.0, True, False, {}


@pytest.mark.parametrize("modulator", ["td_error", "reward_baseline", "reward"])
def test_every_modulator_learns_to_answer_a_signal(modulator):
    model = RSTDP("PopulationPolicy", Signal(), modulator=modulator, reward_scale=0.1, seed=0)
    model.learn(2000)
    assert evaluate_policy(model, Monitor(Signal()), 40, deterministic=False)[0] >= 0.9
    assert evaluate_policy(model, Monitor(Signal()), 40)[0] == 1.0


CODE = {"n_tiles": 3, "low": [-2.4, -3.0, -0.2, -3.0], "high": [2.4, 3.0, 0.2, 3.0]}


def test_ticks_that_are_changed_afterwards_are_refused_in_the_compiled_loop_too():
    model = RSTDP("PopulationPolicy", "CartPole-v1", seed=0, policy_kwargs={"encoder_kwargs": CODE}).learn(50)
    model.n_ticks = 200
    with pytest.raises(ValueError, match="n_ticks must be 20 as in the parameters, got 200"):
        model.learn(50)


def test_a_bound_of_the_weights_has_one_place():
    with pytest.raises(ValueError, match=r"w_max must be None for PopulationPolicy, got 0\.5"):
        RSTDP("PopulationPolicy", "CartPole-v1", w_max=0.5, policy_kwargs={"encoder_kwargs": CODE})


def test_a_floor_that_forgets_fresh_spikes_is_refused():
    kwargs = {"encoder_kwargs": CODE, "population_kwargs": {"tau_plus": 3.0}}
    with pytest.raises(ValueError, match=r"trace_floor must be below .* = 0.00127, got 0.01"):
        RSTDP("PopulationPolicy", "CartPole-v1", policy_kwargs=kwargs)


def test_spikes_beyond_the_env_step_are_refused():
    import spikeloop.envs  # noqa: F401  # registers the task

    with pytest.raises(ValueError, match="n_ticks must be at least 250 for spikes up to 250 ms, got 20"):
        RSTDP("PopulationPolicy", "spikeloop/SpikeOrder-v0", policy_kwargs={"encoder": "spike_times"})
