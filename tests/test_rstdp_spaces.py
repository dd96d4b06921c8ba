"""R-STDP in every kind of action and observation space: its network acts as it does, and what it lacks is refused."""

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from spikeloop.agents import RSTDP
from spikeloop.agents.action_neurons import head_for
from spikeloop.agents.compiled_episodes import ClosedLoop
from spikeloop.agents.line_codes import code_for
from spikeloop.agents.registry import hyperparams_file
from spikeloop.envs.tmaze import TMaze
from spikeloop.hardware import ChipWinnerTakeAll, DeployedPolicy, compile_network
from spikeloop.spiking import Network, Simulator
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.observation import flatten

VECTOR = spaces.Box(-1, 1, (2,))
ACTIONS = {
    "discrete": (spaces.Discrete(3, start=-1), {}),
    "multi_discrete": (spaces.MultiDiscrete([2, 5, 3], start=[0, 1, -2]), {}),
    "matrix": (spaces.MultiDiscrete([[2, 3], [4, 2]]), {}),
    "row": (spaces.Box(-2, 2, (1,)), {}),
    "rows": (spaces.Box(np.array([-1, 0]), np.array([1, 3]), dtype=np.float64), {"n_action_neurons": [4, 7]}),
    "population": (spaces.Box(-2, 1, (2, 2)), {"n_action_neurons": 3, "n_rows": 5}),
    "ring": (spaces.Box(-np.pi, np.pi, (2,)), {"n_action_neurons": 6, "action_rings": [1]}),
}
OBSERVATIONS = {
    "vector": VECTOR,
    "choice": spaces.Discrete(7, start=3),
    "choices": spaces.MultiDiscrete([3, 4], start=[0, -1]),
    "flags": spaces.MultiBinary(5),
    "parts": spaces.Dict({"where": VECTOR, "gear": spaces.Discrete(3), "wide": spaces.Box(-1, 1, (1,), np.float64)}),
}


class Anything(gym.Env):
    """Shows and takes what its spaces hold; rewards are drawn."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), float(self.np_random.normal()), self.np_random.random() < 0.1, False, {}


def make(observation_space=VECTOR, action_space=ACTIONS["row"][0], policy_kwargs=None, **changes):
    env = Monitor(Anything(observation_space, action_space))
    return RSTDP("WtaPolicy", env, seed=0, reward_scale=0.1, policy_kwargs=policy_kwargs, **changes)


def samples(space, n=60):
    space.seed(1)
    drawn = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([one[key] for one in drawn]) for key in space.spaces}
    return np.stack(drawn)


def first(obs):
    return {key: part[0] for key, part in obs.items()} if isinstance(obs, dict) else obs[0]


def check_network(model, obs, path):
    """Compare predict and the network's simulator, one at a time and in a batch; return the network."""
    model.to_network().save(path)
    network = Network.load(path)
    simulator = Simulator(network)
    chosen = model.predict(obs, deterministic=True)[0]
    acted = simulator.predict(obs, simulator.initial_state(len(chosen)))[0]
    np.testing.assert_array_equal(acted, chosen)
    assert acted.dtype == chosen.dtype and len(np.unique(chosen, axis=0)) > 1
    one = model.predict(first(obs), deterministic=True)[0]
    np.testing.assert_array_equal(one, chosen[0])
    assert all(model.action_space.contains(action) for action in chosen)
    return network


@pytest.mark.parametrize("name", ACTIONS)
def test_the_network_takes_the_very_actions_of_the_policy(name, tmp_path):
    space, arguments = ACTIONS[name]
    model = make(action_space=space, policy_kwargs=arguments).learn(300)
    network = check_network(model, samples(VECTOR), tmp_path / "network")
    _, _, monitor = Simulator(network).record(samples(VECTOR)[:, None])
    assert len(monitor.output.i) == 60 * model.n_ticks * len(model.policy.head.sizes)  # one spike a circuit and tick
    model.save(tmp_path / "model")
    again = RSTDP.load(tmp_path / "model")
    chosen = [one.predict(samples(VECTOR), deterministic=True)[0] for one in (model, again)]
    np.testing.assert_array_equal(*chosen)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_every_kind_of_observation_is_seen_by_policy_and_network_alike(name, tmp_path):
    space = OBSERVATIONS[name]
    model = make(space, spaces.MultiDiscrete([3, 4])).learn(300)
    check_network(model, samples(space), tmp_path / "network")
    code, parts = model.policy.coder, model.policy._parts
    rows = flatten(parts, samples(space))[0]
    spikes, _ = encode(code, rows[:, None], np.zeros((0, 1, code.n_obs)), None, 1)
    for row, line in zip(rows, spikes[:, 0], strict=True):
        np.testing.assert_array_equal(code.lines(row), np.flatnonzero(line))


def test_parts_behind_a_normaliser_are_carried(tmp_path):
    space = OBSERVATIONS["parts"]
    env = VecNormalize(DummyVecEnv([lambda: Monitor(Anything(space, spaces.Discrete(4)))]), norm_obs_keys=["where"])
    ends = {"where": {"low": [-3, -3], "high": [3, 3]}}
    model = RSTDP("WtaPolicy", env, seed=0, reward_scale=0.1, policy_kwargs={"encoder_kwargs": ends}).learn(300)
    env.training = False
    obs = samples(space)
    simulator = Simulator(model.to_network())
    acted = simulator.predict(obs, simulator.initial_state(60))[0]
    np.testing.assert_array_equal(acted, model.predict(env.normalize_obs(obs), deterministic=True)[0])


class Plain(gym.Wrapper):
    """Changes nothing, but is not known to."""


@pytest.mark.parametrize("backend", ["float", ChipWinnerTakeAll])
@pytest.mark.parametrize("name", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_the_compiled_loop_does_what_the_ordinary_one_does(name, backend):
    codes = {"Pendulum-v1": {"components": [[0, 1], 2]}, "MountainCarContinuous-v0": {}}
    arguments = {"encoder_kwargs": codes[name], "n_action_neurons": 3, "n_rows": 3}
    models = [
        RSTDP("WtaPolicy", Monitor(env), seed=0, n_ticks=4, backend=backend, policy_kwargs=arguments)
        for env in (gym.make(name), Plain(gym.make(name)))
    ]
    loops = [ClosedLoop.of(m.get_env(), m.policy.network, m.policy.coder, m.policy.head) for m in models]
    assert [bool(loop) for loop in loops] == [True, False]
    weights = [model.learn(1500).policy.network.state_dict() for model in models]
    for key, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][key])
    returns = [[episode["r"] for episode in model.ep_info_buffer] for model in models]
    assert returns[0] == returns[1]


def test_a_chip_learns_in_several_circuits_what_each_is_rewarded_for():
    class Match(Anything):
        def step(self, action):
            reward = float(np.mean(action == np.array([self.seen % 2, self.seen % 3])))
            self.seen = self.observation_space.sample()
            return self.seen, reward, True, False, {}

        def reset(self, *, seed=None, options=None):
            self.seen, info = super().reset(seed=seed)
            return self.seen, info

    wanted = np.array([[seen % 2, seen % 3] for seen in range(6)])
    for backend in ("float", ChipWinnerTakeAll):
        env = Monitor(Match(spaces.Discrete(6), spaces.MultiDiscrete([2, 3])))
        model = RSTDP("WtaPolicy", env, seed=0, n_ticks=4, reward_scale=1.0, backend=backend)
        model.learn(3000)
        np.testing.assert_array_equal(model.predict(np.arange(6), deterministic=True)[0], wanted)


def test_a_policy_of_several_circuits_is_deployed():
    space, arguments = ACTIONS["population"]
    model = make(action_space=space, policy_kwargs=arguments).learn(300)
    network = model.to_network()
    deployed = DeployedPolicy(compile_network(network, "loihi1"))
    obs = samples(VECTOR)
    acted = deployed.predict(obs, deployed.initial_state(60))[0]
    chosen = model.predict(obs, deterministic=True)[0]
    assert acted.shape == chosen.shape and np.mean(acted == chosen) > 0.9  # but for rounded weights


def test_a_row_ends_at_the_bounds_and_a_ring_comes_round():
    box = spaces.Box(-np.pi, np.pi, (2,), np.float64)
    row, ring = np.split(head_for(box, 4, rings=[1]).values, 2)
    np.testing.assert_allclose(row, np.linspace(-np.pi, np.pi, 4))
    np.testing.assert_allclose(ring, np.linspace(-np.pi, np.pi, 5)[:-1])


def test_a_number_is_the_mean_of_what_the_winners_of_its_rows_stand_for():
    head = head_for(spaces.Box(-1, 1, (1,)), n_action_neurons=3, n_rows=4)
    winners = np.array([[0, 2, 2, 1]])
    assert head.action(winners).tolist() == [[0.25]]
    spikes = np.eye(3)[winners[0]].reshape(1, -1)
    assert head(spikes).tolist() == [[0.25]]


def test_the_bound_of_weights_and_the_floor_of_eligibilities_can_be_set():
    model = make(spaces.Discrete(3), w_max=0.02, eligibility_floor=0.5, learning_rate=1.0).learn(300)
    assert model.policy.parameters_of_rule.eligibility_floor == 0.5
    assert np.abs(model.policy.network.state_dict()["w"]).max() == 0.02
    chip = make(spaces.Discrete(3), w_max=0.5, n_ticks=4, backend=ChipWinnerTakeAll)
    assert chip.policy.network.w_max == 0.5


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            {"observation_space": spaces.Box(-1, 1, (2, 2))},
            r"needs a vector observation \(Box\), Discrete, .* shows Box",
        ),
        ({"observation_space": spaces.MultiDiscrete([[2, 3], [2, 2]])}, "the environment shows MultiDiscrete"),
        ({"action_space": spaces.MultiBinary(3)}, "Discrete, MultiDiscrete or Box actions, the environment takes M"),
        ({"action_space": spaces.Box(-1, np.inf, (1,))}, "RSTDP needs Box actions with finite bounds, got Box"),
        ({"policy_kwargs": {"n_action_neurons": 1}}, "n_action_neurons must be 1 numbers of at least 2"),
        ({"policy_kwargs": {"n_action_neurons": [3, 3]}}, "n_action_neurons must be 1 numbers of at least 2"),
        ({"policy_kwargs": {"n_rows": 0}}, "n_rows must be at least 1"),
        ({"policy_kwargs": {"n_rows": 2, "action_rings": [0]}}, "and 1 with action_rings, got 2"),
        ({"policy_kwargs": {"action_rings": [1]}}, "action_rings must be places in an action of 1 numbers"),
        (
            {"observation_space": spaces.Discrete(3), "policy_kwargs": {"encoder_kwargs": {"n_tiles": 3}}},
            "a line per opt",
        ),
        (
            {"observation_space": OBSERVATIONS["parts"], "policy_kwargs": {"encoder_kwargs": {"n_tiles": 3}}},
            r"encoder_kwargs of a Dict must be by key, for \['where', 'wide'\], got 'n_tiles'",
        ),
        ({"w_max": 0}, "w_max must be a number > 0 or None, got 0"),
        ({"eligibility_floor": 1}, "eligibility_floor must be"),
    ],
)
def test_what_there_is_no_place_for_is_refused_in_one_line(arguments, answer):
    with pytest.raises(ValueError, match=answer) as refused:
        make(**arguments)
    assert "\n" not in str(refused.value)


def test_ranges_that_are_missing_and_lines_that_are_too_many_are_told_in_plain_numbers():
    cartpole = gym.make("CartPole-v1").observation_space
    with pytest.raises(ValueError, match=r"needs low and high within \+-1e\+06, got low \[-4.8, -inf, "):
        code_for("tiles", {}, cartpole)
    with pytest.raises(ValueError, match=r"5,000,000 input lines at most: 6 tiles along each of 60 dim"):
        RSTDP("WtaPolicy", Monitor(TMaze()))


@pytest.mark.parametrize("backend", ["float", ChipWinnerTakeAll])
@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_a_compiled_table_does_what_the_environment_does(name, backend):
    arguments = {"is_slippery": False} if name == "FrozenLake-v1" else {}
    models = [
        RSTDP("WtaPolicy", Monitor(env), seed=0, n_ticks=4, backend=backend, initial_value=1.0)
        for env in (gym.make(name, **arguments), Plain(gym.make(name, **arguments)))
    ]
    loops = [ClosedLoop.of(m.get_env(), m.policy.network, m.policy.coder, m.policy.head) for m in models]
    assert [bool(loop) for loop in loops] == [True, False]
    weights = [model.learn(1500).policy.network.state_dict() for model in models]
    for key, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][key])
    one, other = (model.get_env().envs[0].unwrapped.s for model in models)
    assert one == other


@pytest.mark.parametrize("residue", [True, False])
def test_the_chip_learns_a_table_by_its_preset(residue):
    preset = dict(yaml.safe_load(hyperparams_file("rstdp_chip").read_text("utf-8"))["CliffWalking-v1"])
    budget, env = preset.pop("n_timesteps"), gym.make("CliffWalking-v1", **preset.pop("env_kwargs"))
    preset["backend_kwargs"] = {**preset["backend_kwargs"], "residue": residue}
    model = RSTDP(env=Monitor(env), seed=0, backend=ChipWinnerTakeAll, **preset).learn(budget)
    obs, total = env.reset(seed=0)[0], 0.0
    for _ in range(20):
        obs, reward, terminated, _, _ = env.step(int(model.predict(obs, deterministic=True)[0]))
        total += reward
        if terminated:
            break
    assert terminated and total >= -20


def test_a_lake_that_is_slippery_runs_in_the_ordinary_loop():
    model = RSTDP("WtaPolicy", "FrozenLake-v1", seed=0)
    assert ClosedLoop.of(model.get_env(), model.policy.network, model.policy.coder, model.policy.head) is None
    model.learn(100)
