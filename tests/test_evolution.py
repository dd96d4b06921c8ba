"""Evolution: what evolves, its two ways of playing, and the SB3 model."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import Noise
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

pytest.importorskip("optuna")
pytest.importorskip("scipy")

import spikeloop.envs  # noqa: F401  registers tasks
from spikeloop.agents import RSTDP, Evolution, SpikingPPO
from spikeloop.agents.evolution_policy import EvolutionPolicy
from spikeloop.agents.evolved import Evolved
from spikeloop.agents.failures import NonFiniteError
from spikeloop.agents.playing import CompiledTask, FloatPlayer, play_compiled, play_steps
from spikeloop.spiking import Network, Simulator

METHODS = {
    "es": {"n_members": 4},
    "cma": {"n_members": 4},
    "perturbation": {},
    "bayes": {"n_random": 2, "n_dims": 2},
    "random": {},
}
SMALL = {"n_neurons": 8, "n_ticks": 2}
COMPILED = ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "spikeloop/CartPoleNoVel-v0", "spikeloop/TMaze-v0"]


def make(env="CartPole-v1", policy_kwargs=SMALL, **kwargs):
    return Evolution("EvolutionPolicy", env, policy_kwargs=dict(policy_kwargs), **{"seed": 0, **kwargs})


def vector(model):
    return model.to_network().to_vector()


# ---- what evolves


@given(
    names=st.sets(st.sampled_from(["weights", "tau_m", "v_th", "tau_a", "beta"]), min_size=1),
    n=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
def test_zeros_are_the_start_and_only_what_is_named_moves(names, n, seed):
    policy = EvolutionPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), n_neurons=(n, 5))
    evolved = Evolved(policy.network, tuple(sorted(names)))
    assert evolved.network(np.zeros(evolved.n)).to_bytes() == policy.network.to_bytes()
    moved = evolved.network(np.random.default_rng(seed).normal(size=evolved.n))
    assert np.array_equal(moved.to_vector(), policy.network.to_vector()) == ("weights" not in names)
    for name in ("tau_m", "v_th", "tau_a", "beta"):
        pairs = [
            (getattr(a.neurons, name), getattr(b.neurons, name))
            for a, b in zip(moved.layers, policy.network.layers, strict=True)
        ]
        assert all(np.array_equal(a, b) for a, b in pairs) == (name not in names)
        assert all(np.array_equal(a == 0, b == 0) for a, b in pairs)


def test_what_cannot_evolve_is_refused_by_name():
    for evolved, words in (("delays", "'delays'"), ((), "one or more"), (("weights", "weights"), "each once")):
        with pytest.raises(ValueError, match=words):
            make(evolved=evolved)
    with pytest.raises(ValueError, match="beta is above 0"):
        make(evolved=("weights", "beta"), policy_kwargs={**SMALL, "beta": 0.0})


def test_time_constants_and_thresholds_evolve():
    model = make(evolved=["weights", "tau_m", "v_th", "tau_a", "beta"], n_members=8)
    before = model.to_network().layers[0].neurons
    after = model.learn(3000).to_network().layers[0].neurons
    assert all((getattr(after, name) != getattr(before, name)).any() for name in ("tau_m", "v_th", "tau_a", "beta"))


# ---- playing


@pytest.mark.parametrize("env_id", COMPILED)
def test_compiled_episodes_have_the_returns_of_gymnasiums(env_id):
    venv = make_vec_env(env_id, n_envs=2)
    kwargs = {"n_neurons": 8, "n_ticks": 2, "obs_scale": 2.0}
    networks = [EvolutionPolicy(venv.observation_space, venv.action_space, **kwargs).network for _ in range(3)]
    task, seeds = CompiledTask.of(venv), [5, 6, 7]
    players = [FloatPlayer(network) for network in networks]
    assert task is not None and all(player.whole for player in players)
    compiled = list(play_compiled(players, task.begin(seeds)))
    stepped = sorted(play_steps(venv, players, seeds, lambda *_, **__: True))
    for mine, theirs in zip(compiled, stepped, strict=True):
        assert mine[:4] == theirs[:4]
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-12)
        np.testing.assert_allclose(mine.square, theirs.square, rtol=1e-9)
    env = gym.make(env_id)  # and Gymnasium's own loop
    simulator, state, total, done = Simulator(networks[1]), None, 0.0, False
    obs, _ = env.reset(seed=6)
    while not done:
        action, state = simulator.predict(obs, state, np.array([state is None]))
        obs, reward, terminated, truncated, _ = env.step(action)
        total, done = total + float(np.float32(reward)), terminated or truncated
    assert total == compiled[4].total


CIRCUITS = {  # policies of R-STDP: environment and arguments
    "tiles": ("CartPole-v1", {"encoder_kwargs": {"low": [-2.4, -3, -0.2, -3], "high": [2.4, 3, 0.2, 3]}}),
    "places": ("MountainCar-v0", {"encoder": "places", "encoder_kwargs": {"n_inputs": 50}}),
    "recruited": ("CartPole-v1", {"encoder": "auto", "encoder_kwargs": {"n_measured": 50, "n_active_pairs": 1}}),
    "box": ("Pendulum-v1", {"n_action_neurons": 5, "encoder_kwargs": {"components": [[0, 1], 2]}}),
}


@pytest.mark.parametrize("case", CIRCUITS)
def test_circuits_on_lines_play_compiled_episodes_as_the_simulator_does(case):
    env_id, kwargs = CIRCUITS[case]
    venv = make_vec_env(env_id)
    network = RSTDP("WtaPolicy", venv, seed=0, policy_kwargs=kwargs).learn(300).to_network()
    rng = np.random.default_rng(0)
    weights = [network.to_vector(), *rng.normal(size=(2, network.to_vector().size))]
    weights.append(np.zeros_like(weights[0]))  # all units are alike: the first wins
    players = [FloatPlayer(network.with_vector(one)) for one in weights]
    assert all(player.whole for player in players)
    compiled = list(play_compiled(players, CompiledTask.of(venv).begin([5, 6])))
    stepped = list(play_steps(venv, players, [5, 6], lambda *_, **__: True))
    assert [one[:4] for one in compiled] == [one[:4] for one in stepped]
    np.testing.assert_allclose([one.mean for one in compiled], [one.mean for one in stepped], rtol=1e-9)


class Unknown(gym.Wrapper):
    """Changes nothing, but the compiled tasks do not know that."""


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_learnt_is_the_same_compiled_or_not_and_in_any_number_of_environments(method, n_envs):
    compiled = make(make_vec_env("CartPole-v1"), method=method, max_generations=4, **METHODS[method]).learn(10_000)
    stepped = make(
        make_vec_env("CartPole-v1", n_envs, wrapper_class=Unknown), method=method, max_generations=4, **METHODS[method]
    )
    assert CompiledTask.of(stepped.env) is None and CompiledTask.of(compiled.env) is not None
    stepped.learn(10_000)
    np.testing.assert_array_equal(vector(stepped), vector(compiled))
    assert stepped.num_timesteps == compiled.num_timesteps and stepped._episode_num == compiled._episode_num


def test_processes_and_threads_make_no_difference(monkeypatch):
    def learnt(venv_class=DummyVecEnv, n_envs=1, n_threads=1):
        monkeypatch.setattr("spikeloop.agents.playing.kernel_threads", lambda: n_threads)
        venv = make_vec_env("CartPole-v1", n_envs, vec_env_cls=venv_class)
        model = make(venv, n_members=6, max_generations=3).learn(10_000)
        found = vector(model)
        venv.close()
        return found

    one = learnt()
    np.testing.assert_array_equal(learnt(n_threads=3), one)
    np.testing.assert_array_equal(learnt(SubprocVecEnv, 2), one)


def test_normalisation_stands_still_within_a_generation_and_learns_from_all_of_it():
    def model(wrapper=None, n_envs=1):
        venv = VecNormalize(make_vec_env("CartPole-v1", n_envs, wrapper_class=wrapper), norm_reward=False)
        return make(venv, n_members=4, max_generations=3).learn(10_000)

    compiled, stepped = model(), model(Unknown, 2)
    np.testing.assert_array_equal(vector(compiled), vector(stepped))
    for name in ("mean", "var", "count"):
        mine, theirs = (getattr(one.get_vec_normalize_env().obs_rms, name) for one in (compiled, stepped))
        np.testing.assert_allclose(mine, theirs, rtol=1e-9)
    assert compiled.get_vec_normalize_env().obs_rms.count == pytest.approx(compiled.num_timesteps + 1e-4, abs=20)
    (normalizer,) = compiled.to_network().preprocessing
    np.testing.assert_array_equal(normalizer.mean, compiled.get_vec_normalize_env().obs_rms.mean)


def test_frames_are_stacked_and_parts_of_a_dict_are_taken():
    stacked = make(VecFrameStack(make_vec_env("CartPole-v1"), 2), n_members=4, max_generations=2).learn(5000)
    assert stacked.to_network().n_obs == 4
    space = spaces.Dict(pose=spaces.Box(-1, 1, (2,), np.float32), gear=spaces.Discrete(3))
    model = make(
        VecNormalize(DummyVecEnv([lambda: Noise(space)]), norm_obs_keys=["pose"]), n_members=4, max_generations=2
    )
    model.learn(5000)
    assert model.to_network().n_obs == 5


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.Box(-1, 1, (2,), np.float32),
    ],
    ids=str,
)
def test_all_kinds_of_actions(space):
    model = make(Noise(action_space=space), n_members=4, max_generations=2).learn(1000)
    assert all(space.contains(action) for action in model.env.envs[0].unwrapped.seen)


def test_the_budget_is_kept_and_a_generation_that_it_cuts_teaches_nothing():
    model = make(n_members=4).learn(777)
    assert model.num_timesteps == 777
    n_whole = model._n_updates
    again = make(n_members=4, max_generations=n_whole).learn(100_000)
    assert again.num_timesteps <= 777
    np.testing.assert_array_equal(vector(again), vector(model))


class Resets(gym.Wrapper):
    """Notes the seeds of resets."""

    def __init__(self, env):
        super().__init__(env)
        self.seeds = []

    def reset(self, *, seed=None, options=None):
        self.seeds += [] if seed is None else [seed]
        return super().reset(seed=seed, options=options)


def test_all_members_play_the_same_episodes_each_another_and_in_the_next_generation_others():
    venv = make_vec_env("CartPole-v1", wrapper_class=Resets)
    make(venv, n_members=4, n_episodes=3, max_generations=2).learn(100_000)
    seeds = np.reshape(venv.envs[0].get_wrapper_attr("seeds")[-24:], (2, 4, 3))
    assert (seeds == seeds[:, :1]).all() and len(np.unique(seeds)) == 6


def test_env_steps_are_those_of_all_members():
    venv = make_vec_env("CartPole-v1", wrapper_class=Unknown)
    taken = []
    step = venv.step_async
    venv.step_async = lambda actions: (taken.append(len(actions)), step(actions))[1]
    model = make(venv, n_members=4, max_generations=2).learn(100_000)
    assert model.num_timesteps == sum(taken) == sum(venv.envs[0].get_wrapper_attr("episode_lengths"))


def test_compiled_episodes_are_in_the_monitor():
    venv = make_vec_env("CartPole-v1")
    model = make(venv, n_members=4, max_generations=2).learn(100_000)
    monitor = venv.envs[0]
    assert len(monitor.get_episode_rewards()) == model._episode_num == 16
    assert sum(monitor.get_episode_lengths()) == model.num_timesteps == monitor.get_total_steps()
    assert [info["r"] for info in model.ep_info_buffer] == monitor.get_episode_rewards()


# ---- an SB3 model


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_model_goes_on_bit_for_bit(method, tmp_path):
    model = make(method=method, max_generations=3, **METHODS[method]).learn(10_000)
    model.save(tmp_path / "model")
    loaded = Evolution.load(tmp_path / "model", env=make_vec_env("CartPole-v1"))
    np.testing.assert_array_equal(vector(loaded), vector(model))
    loaded.policy.rng.bit_generator.state = model.policy.rng.bit_generator.state
    for one in (model, loaded):
        one.max_generations = 6
        one.learn(10_000, reset_num_timesteps=False)
    np.testing.assert_array_equal(vector(loaded), vector(model))


def test_the_exported_network_acts_as_the_model_does(tmp_path):
    model = make(n_members=8).learn(5000)
    model.to_network().save(tmp_path / "policy.safetensors")
    simulator = Simulator(Network.load(tmp_path / "policy.safetensors"))
    venv, state, packed = make_vec_env("CartPole-v1", seed=3), None, None
    obs, start = venv.reset(), np.ones(1, bool)
    for _ in range(200):
        action, state = model.predict(obs, state, start)
        same, packed = simulator.predict(obs, packed, start)
        assert action == same
        obs, _, start, _ = venv.step(action)


def test_it_learns():
    model = make(policy_kwargs={"n_ticks": 4, "obs_scale": [1, 1, 10, 1], "count": True}, seed=3)
    before = evaluate_policy(model, make_vec_env("CartPole-v1", seed=9), 10)[0]
    model.learn(120_000)
    assert evaluate_policy(model, make_vec_env("CartPole-v1", seed=9), 10)[0] > before + 150


def test_it_starts_from_what_gradients_have_learnt_and_goes_back(tmp_path):
    from spikeloop.agents import load_network

    venv = VecNormalize(make_vec_env("CartPole-v1", n_envs=2), norm_reward=False)
    ppo = SpikingPPO("LsnnPolicy", venv, n_steps=32, batch_size=32, seed=0, policy_kwargs={"n_neurons": 8}).learn(200)
    ppo.save(tmp_path / "ppo")
    venv.training = False
    model = Evolution.load(tmp_path / "ppo.zip", env=venv, method="es", n_members=4)
    assert model.to_network().to_bytes() == ppo.to_network().to_bytes()
    model.learn(1000)
    load_network(ppo.policy, model.to_network())
    np.testing.assert_array_equal(ppo.to_network().to_vector(), vector(model))
    with pytest.raises(ValueError, match="wrappers VecNormalize"):
        Evolution.load(tmp_path / "ppo.zip", env=make_vec_env("CartPole-v1"), method="es")


def by_file(policy, tmp_path):
    policy.save(tmp_path / "policy.pt")
    return EvolutionPolicy.load(tmp_path / "policy.pt")


@pytest.mark.parametrize("way", [lambda p, _: copy.deepcopy(p), lambda p, _: pickle.loads(pickle.dumps(p)), by_file])
def test_a_policy_can_be_copied(way, tmp_path):
    policy = make(n_members=4, evolved=["weights", "tau_a"]).learn(500).policy
    again, obs = way(policy, tmp_path), np.random.default_rng(0).normal(size=(20, 4))
    for name, value in policy.state_dict().items():
        assert np.array_equal(again.state_dict()[name], value)
    start = np.ones(20, bool)
    np.testing.assert_array_equal(again.predict(obs, None, start)[0], policy.predict(obs, None, start)[0])


def test_a_seed_that_is_set_later_makes_trainings_the_same():
    found = []
    for seed in (5, 5, 6):
        model = make(n_members=4, seed=1)
        model.set_random_seed(seed)
        found.append(vector(model.learn(500)))
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("wrapper", [None, Unknown])
def test_the_last_episode_that_is_wanted_is_the_last(wrapper):
    model = make(make_vec_env("CartPole-v1", wrapper_class=wrapper)).learn(10_000, StopTrainingOnMaxEpisodes(3))
    assert model._episode_num == len(model.ep_info_buffer) == 3
    assert model.num_timesteps == sum(info["l"] for info in model.ep_info_buffer)
    assert not model.policy.z.any()  # of a generation that was stopped nothing is learnt
    model.learn(1000, reset_num_timesteps=False)


def test_a_learning_rate_may_be_a_schedule_and_0_teaches_nothing():
    frozen, warming = (make(n_members=4, learning_rate=rate) for rate in (0.0, lambda left: 0.1 * (1 - left)))
    assert not frozen.learn(1000).policy.z.any() and warming.learn(1000).policy.z.any()


@pytest.mark.parametrize("shape", [(3,), (1, 5), (2, 2, 4)])
def test_predict_refuses_observations_of_another_shape_and_what_is_not_finite(shape):
    with pytest.raises(ValueError, match="shape"):
        make().predict(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="finite observation"):
        make().predict(np.full(4, np.nan, np.float32))


@pytest.mark.parametrize("fault", [{"observation": np.float32([0, np.nan, 0])}, {"reward": float("nan")}])
def test_an_environment_that_returns_nan_is_named(fault):
    env = Noise()
    env.faults[5] = fault
    with pytest.raises(NonFiniteError, match="from env 0 is nan"):
        make(env).learn(1000)


BAD = [
    ({"method": "ga"}, "method must be one of es"),
    ({"sigma": 0.0}, "sigma must be a number > 0"),
    ({"n_members": 3}, "n_members must be even"),
    ({"n_members": 1}, "n_members must be"),
    ({"method": "cma", "n_members": 3}, "n_members must be at least 4"),
    ({"n_episodes": 0}, "n_episodes must be"),
    ({"method": "cma", "learning_rate": 0.1}, "learning_rate must be left out with method='cma'"),
    ({"method": "bayes", "weight_decay": 0.1}, "weight_decay must be left out"),
    ({"reevaluate": True}, "reevaluate must be left out with method='es'"),
    ({"method": "perturbation", "reevaluate": 2}, "reevaluate must be true or false"),
    ({"max_generations": 0}, "max_generations must be"),
    ({"backend": "chip"}, "backend must be one of float or make a player"),
    ({"backend_kwargs": {"bits": 8}}, "backend_kwargs must be left out"),
    ({"policy_kwargs": {"learn_encoder": True}}, "no argument 'learn_encoder'"),
    ({"policy_kwargs": {"n_neurons": 0}}, "n_neurons must be whole numbers"),
]


@pytest.mark.parametrize(("kwargs", "words"), BAD, ids=str)
def test_bad_arguments_are_refused_in_one_line(kwargs, words):
    with pytest.raises((ValueError, TypeError), match=words) as refused:
        make(**kwargs)
    assert "\n" not in str(refused.value)


def test_a_network_for_other_spaces_is_refused():
    network = EvolutionPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2)).network
    with pytest.raises(ValueError, match="must take the 6 values"):
        make("Acrobot-v1", policy_kwargs={"network": network})
    with pytest.raises(ValueError, match="must give actions"):
        make(Noise(spaces.Box(-1, 1, (4,), np.float32)), policy_kwargs={"network": network})
    with pytest.raises(ValueError, match="n_neurons must be left out"):
        make(policy_kwargs={"network": network, "n_neurons": 4})


def test_a_search_that_leaves_the_range_of_numbers_is_said_so():
    with pytest.raises(NonFiniteError, match="a lower sigma may help"):
        make(sigma=1e38).learn(10_000)


def test_wrappers_of_all_environments_that_would_see_nothing_are_refused():
    env = VecMonitor(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    with pytest.raises(ValueError, match="VecMonitor would see nothing of members that play: wrap each environment in"):
        Evolution("EvolutionPolicy", env)


def test_environments_that_differ_are_played_step_by_step():
    alike = make_vec_env("CartPole-v1", n_envs=2)
    assert CompiledTask.of(alike) is not None
    alike.envs[1].unwrapped.length = 1.0
    assert CompiledTask.of(alike) is None


def test_a_network_of_choices_acts_on_choices():
    space = spaces.Discrete(4), spaces.Discrete(2)
    network = EvolutionPolicy(spaces.Box(0.0, 1.0, (4,)), space[1], lambda _: 0.0, n_neurons=4).network
    policy = EvolutionPolicy(*space, lambda _: 0.0, network=network)
    assert policy.predict(np.int64(2))[0] in (0, 1)
