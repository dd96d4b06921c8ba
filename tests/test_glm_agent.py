"""GLM as users meet it: compiled and step by step it learns the same, and its Network acts as it does."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TransformReward
from learners import Noise, make
from shell import start
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

import spikeloop.envs  # noqa: F401  registers the tasks
from spikeloop.agents import GLM
from spikeloop.agents.export import why_no_network
from spikeloop.agents.glm_policy import GlmPolicy
from spikeloop.envs.windy_gridworld import GOAL, START
from spikeloop.hardware import DeployedPolicy, compile_network
from spikeloop.hardware.recording import record
from spikeloop.scripts import rollout
from spikeloop.spiking import Network, Simulator
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.first_to_spike import first_to_spike, spike_probability

ENDS = {"low": [-2.4, -3.0, -0.21, -3.0], "high": [2.4, 3.0, 0.21, 3.0]}
CARTPOLE = {"encoder_kwargs": {**ENDS, "n": 6}, "critic_kwargs": {"n_tiles": 4, "n_grids": 4}}
ACROBOT = {"critic_kwargs": {"n_tiles": 3, "n_grids": 4}}
TASKS = {
    "CartPole-v1": {"policy_kwargs": CARTPOLE},
    "CartPole-v1, hidden": {"policy_kwargs": {**CARTPOLE, "n_hidden": 6}, "bias_scale": 0.5},
    "Acrobot-v1": {"policy_kwargs": ACROBOT},
    "spikeloop/WindyGridworld-v0": {"gamma": 1.0},
}


@pytest.mark.parametrize("task", TASKS)
def test_compiled_stretches_and_single_steps_learn_the_same_bits(task):
    def train(wrap):
        env = Monitor(wrap(gym.make(task.partition(",")[0])))
        model = GLM("GlmPolicy", env, seed=3, learning_rate=lambda progress: 0.5 * progress, **TASKS[task])
        with model._session() as compiled:
            assert (compiled is not None) == (wrap is not stepped)
        model.learn(1_500)
        return model, env.get_episode_lengths()

    def stepped(env):
        return TransformReward(env, float)

    (one, lengths), (other, also) = train(lambda env: env), train(stepped)
    assert lengths == also and one.num_timesteps == other.num_timesteps
    before = GLM("GlmPolicy", Monitor(gym.make(task.partition(",")[0])), seed=3, **TASKS[task]).policy.state_dict()
    for name, value in one.policy.state_dict().items():
        assert th.equal(value, other.policy.state_dict()[name])
        assert th.equal(value, before[name]) == (name == "w_hidden" and not len(value))


def trained(**kwargs):
    return GLM("GlmPolicy", Monitor(gym.make("CartPole-v1")), seed=0, policy_kwargs=CARTPOLE, **kwargs).learn(3_000)


def test_the_network_acts_as_the_policy_does(tmp_path):
    model = trained()
    model.to_network().save(tmp_path / "policy")
    network = Network.load(tmp_path / "policy")
    assert network.metadata["env"] and network.readout.kind == "bernoulli"
    simulator, obs = Simulator(network), np.random.default_rng(0).uniform(-0.2, 0.2, (50, 4)).astype(np.float32)
    _, (state,) = model.predict(obs, deterministic=True)
    for _ in range(5):  # the key in the state says which spikes come
        wanted, (after,) = model.predict(obs, (state,), deterministic=True)
        actions, state = simulator.predict(obs, state)
        np.testing.assert_array_equal(actions, wanted)
        np.testing.assert_array_equal(state, after)


def test_drawn_actions_are_of_the_closed_form_in_training_in_predict_and_in_the_simulator():
    model, n = trained(), 4_000
    obs = np.repeat(np.random.default_rng(1).uniform(-0.2, 0.2, (1, 4)).astype(np.float32), n, axis=0)
    simulator = Simulator(model.to_network(), np.random.default_rng(2))
    state = simulator.initial_state(n)
    x, _ = encode(model.policy.encoder, obs[None], state[:1], None, model.policy.n_ticks)
    (_, w, _), kappa, s, v = model.policy.arrays(), model.policy.kappa, np.zeros(x.shape[2:]), []
    for of_tick in x[0]:
        s = kappa * s + (1 - kappa) * of_tick
        v.append(s @ w[:, :-1].T + w[:, -1])
    chances = first_to_spike(spike_probability(np.array(v)))
    values = simulator.run(obs[None], state)[0][0]
    np.testing.assert_allclose(np.exp(values), chances, atol=1e-12)
    expected = chances.mean(axis=0)[1]
    learning = model.policy.learning(model._rule())
    shares = [
        np.mean(model.predict(obs)[0]),
        np.mean(simulator.predict(obs, state, deterministic=False)[0]),
        np.mean([learning.act(obs[:1], obs[:1], 0.0, True) for _ in range(n)]),
    ]
    assert np.abs(np.array(shares) - expected).max() < 4 * np.sqrt(0.25 / n) * np.sqrt(2)


def test_hidden_neurons_draw_their_spikes_and_have_no_place_in_a_network():
    model = make("glm", policy_kwargs={"n_hidden": 5}).learn(40)
    assert "no place for hidden neurons that draw their spikes, this policy has 5" in why_no_network(model)
    obs = np.zeros((400, 3), np.float32)
    drawn = np.bincount(model.predict(obs)[0], minlength=3) / len(obs)
    assert (drawn > 0).all()


def test_observations_behind_vec_normalize_go_into_the_network():
    env = VecNormalize(make_vec_env("CartPole-v1", seed=0), norm_reward=False)
    model = GLM("GlmPolicy", env, seed=0, policy_kwargs={**CARTPOLE, "encoder_kwargs": {"low": -3, "high": 3}})
    network = model.learn(200).to_network()
    env.training = False
    raw = np.random.default_rng(0).uniform(-0.1, 0.1, (20, 4)).astype(np.float32)
    _, (state,) = model.predict(env.normalize_obs(raw), deterministic=True)
    wanted = model.predict(env.normalize_obs(raw), (state,), deterministic=True)[0]
    np.testing.assert_array_equal(Simulator(network).predict(raw, state)[0], wanted)


def test_a_file_of_it_is_rolled_out_with_drawn_actions_too(tmp_path, capsys):
    trained().to_network().save(tmp_path / "policy.safetensors")
    for options in ([], ["--stochastic"]):
        assert start(rollout, tmp_path / "policy.safetensors", "-n", 2, "--env", "CartPole-v1", *options) == 0
    assert "2 episodes, stochastic" in capsys.readouterr().out


def test_the_chip_holds_the_outputs_membranes_and_the_host_reads_their_race():
    network = trained().to_network()
    policy = DeployedPolicy(compile_network(network, "loihi1"), np.random.default_rng(0))
    obs = np.random.default_rng(0).uniform(-0.2, 0.2, (200, 4)).astype(np.float32)
    simulator = Simulator(network, np.random.default_rng(0))
    chip, state = policy.initial_state(len(obs)), simulator.initial_state(len(obs))
    values, expected = policy.step(obs, chip)[0], simulator.run(obs[None], state)[0][0]
    np.testing.assert_allclose(values, expected, atol=0.1)
    again = policy.step(obs, policy.step(obs, policy.initial_state(len(obs)))[1])[0]
    assert np.isfinite(again).all()
    drawn = policy.predict(obs, policy.initial_state(len(obs)), deterministic=False)[0]
    assert abs(drawn.mean() - np.exp(expected)[:, 1].mean()) < 0.2


def test_choices_have_a_line_per_option_and_take_no_codes():
    model = make("glm", Noise(spaces.MultiDiscrete([2, 3])), policy_kwargs={"critic_kwargs": {}}).learn(40)
    assert model.policy.encoder.n_channels == 5 and model.to_network().encoder.kind == "binary"
    assert make("glm", Noise(spaces.Discrete(4, start=1)), policy_kwargs={"critic_kwargs": {}}).learn(40)
    with pytest.raises(ValueError, match="encoder and the options of codes must be left out for Discrete"):
        make("glm", Noise(spaces.Discrete(4)), policy_kwargs={"encoder": "rate", "critic_kwargs": {}})


@pytest.mark.parametrize(
    ("spaces_of", "message"),
    [
        ({"action_space": spaces.Box(-1, 1, (2,))}, r"needs a Discrete action space, got Box"),
        ({"action_space": spaces.MultiDiscrete([2, 2])}, r"needs a Discrete action space, got MultiDiscrete"),
        ({"observation_space": spaces.Box(-1, 1, (2, 2))}, r"needs a vector observation \(Box\) or choices, got Box"),
        ({"observation_space": spaces.Box(-np.inf, np.inf, (2,))}, "critic: encoder_kwargs needs low and high"),
    ],
)
def test_spaces_it_has_no_place_for_are_refused(spaces_of, message):
    with pytest.raises(ValueError, match=message):
        make("glm", Noise(**spaces_of))


def test_what_would_be_silent_is_warned_of():
    with pytest.warns(UserWarning, match=r"with bias=-6 and n_ticks=4 no output spikes in 97% of env steps"):
        make("glm", policy_kwargs={"bias": -6})


def test_an_unknown_gradient_is_refused():
    with pytest.raises(ValueError, match="hidden_gradient must be one of frozen, expected, score, got 'exact'"):
        make("glm", hidden_gradient="exact")


@pytest.mark.parametrize("kind", ["frozen", "expected", "score"])
def test_hidden_weights_change_unless_they_are_frozen(kind):
    model = make("glm", hidden_gradient=kind, policy_kwargs={"n_hidden": 5})
    before = model.policy.w_hidden.clone()
    model.learn(40)
    assert th.equal(model.policy.w_hidden, before) == (kind == "frozen")


def test_it_learns_a_bandit_of_two_cues():
    class Cues(gym.Env):
        observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.cue = int(self.np_random.integers(2))
            return self.cue, {}

        def step(self, action):
            return self.cue, float(action == self.cue), True, False, {}

    env = Monitor(Cues())
    GLM("GlmPolicy", env, seed=0, reward_scale=1.0, learning_rate=0.5, value_scale=0.2).learn(1_000)
    assert np.mean(env.get_episode_rewards()[-200:]) > 0.95


def test_the_wind_blows_and_the_shortest_way_takes_15_steps():
    table = gym.make("spikeloop/WindyGridworld-v0").unwrapped.P
    distance, reached, n = {START: 0}, {START}, 0
    while GOAL not in distance:
        n += 1
        reached = {table[cell][action][0][1] for cell in reached for action in range(4)} - distance.keys()
        distance |= dict.fromkeys(reached, n)
    assert distance[GOAL] == 15


def test_an_encoder_without_a_range_is_given_none():
    policy_spaces = spaces.Box(0.0, 1.0, (3,)), spaces.Discrete(2)
    assert GlmPolicy(*policy_spaces, lambda _: 0.0, encoder="delta").encoder.kind == "delta"
    with pytest.raises(ValueError, match="encoder 'delta' has no option 'low'"):
        GlmPolicy(*policy_spaces, lambda _: 0.0, encoder="delta", encoder_kwargs={"low": 0})


def test_recordings_show_no_output_units_where_none_has_drawn_a_spike():
    network, obs = trained().to_network(), np.zeros((3, 1, 4), np.float32)
    assert Simulator(network).record(obs)[2].output is None
    assert record(compile_network(network, "loihi1"), obs).output is None
