"""What a policy sees and does, its Network sees and does: bit for bit, or to_network() refuses."""

import json
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from torch import nn

import spikeloop.envs  # noqa: F401
from spikeloop.agents import EProp, SpikingA2C, SpikingPPO
from spikeloop.agents.environment import EnvDescription, describe
from spikeloop.scripts.rollout import record_episode
from spikeloop.spiking import Network, Simulator

N_ENVS, N_STEPS = 2, 12


class Shown(gym.Env):
    """Shows random members of a space; episodes last five steps."""

    def __init__(self, observation_space, action_space=None, seed=0):
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(3)
        self.rng = np.random.default_rng(seed)

    def _show(self):
        def draw(space):
            if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
                return self.rng.normal(0.3, 2.0, space.shape).astype(space.dtype)
            if isinstance(space, spaces.Box):
                return self.rng.integers(0, 200, space.shape).astype(space.dtype)
            return space.sample()

        if isinstance(self.observation_space, spaces.Dict):
            return {key: draw(space) for key, space in self.observation_space.items()}
        return draw(self.observation_space)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.rng.integers(2**31)))
        self.t = 0
        return self._show(), {}

    def step(self, action):
        self.t += 1
        return self._show(), float(self.rng.random()), False, self.t >= 5, {}


def box(*shape, dtype=np.float32):
    return spaces.Box(-np.inf, np.inf, shape, dtype)


SPACES = {
    "vector": box(3),
    "number": box(1),
    "float64": box(4, dtype=np.float64),
    "float16": box(3, dtype=np.float16),
    "matrix": box(2, 3),
    "whole numbers": spaces.Box(0, 255, (4,), np.int64),
    "discrete": spaces.Discrete(5),
    "discrete from -2": spaces.Discrete(4, start=-2),
    "multi-discrete": spaces.MultiDiscrete([3, 2]),
    "multi-binary": spaces.MultiBinary((2, 2)),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "dict": spaces.Dict(speed=box(2, dtype=np.float64), cell=spaces.Discrete(3, start=1), flags=spaces.MultiBinary(2)),
    "dict of boxes": spaces.Dict(a=box(2), b=box(2, 2)),
}
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,)),
}


def normalised(venv, **kwargs):
    if isinstance(venv.observation_space, spaces.Dict):
        kwargs["norm_obs_keys"] = [k for k, s in venv.observation_space.items() if isinstance(s, spaces.Box)]
    return VecNormalize(venv, **kwargs)


WRAPPED = {
    "raw": lambda venv: venv,
    "looked at": lambda venv: VecMonitor(VecCheckNan(venv)),
    "normalised": lambda venv: VecCheckNan(normalised(venv)),
    "not clipped": lambda venv: normalised(venv, clip_obs=np.inf),
    "rewards normalised": lambda venv: VecNormalize(venv, norm_obs=False),
    "stacked": lambda venv: VecFrameStack(venv, 3),
    "stacked alone": lambda venv: VecFrameStack(venv, 1),
    "normalised, stacked": lambda venv: VecFrameStack(normalised(venv), 2),
    "stacked, normalised": lambda venv: normalised(VecFrameStack(venv, 2)),
    "stacked in front": lambda venv: VecFrameStack(venv, 2, channels_order="first"),
}


def environments(space, wrap, action_space=None):
    return WRAPPED[wrap](DummyVecEnv([lambda s=s: Shown(space, action_space, s) for s in range(N_ENVS)]))


def build(space, wrap, action_space=None, algorithm=SpikingPPO, **policy_kwargs):
    """Return a model that has learnt a little; None where SB3 itself does not wrap such a space."""
    try:
        env = environments(space, wrap, action_space)
    except (ValueError, TypeError, AssertionError):
        return None
    kwargs = {} if algorithm is SpikingA2C else {"batch_size": 16, "n_epochs": 1, "seq_len": 8}
    policy_kwargs.setdefault("features_extractor_class", FlattenExtractor) if not isinstance(space, spaces.Dict) else ()
    model = algorithm(
        "LsnnPolicy", env, n_steps=8, seed=0, policy_kwargs={"n_neurons": [16], **policy_kwargs}, **kwargs
    )
    model.learn(16)
    with th.no_grad():
        model.policy.action_net.bias.uniform_(-0.5, 0.5)
    return model


def raw_of(venv):
    while isinstance(venv, VecEnvWrapper):
        venv = venv.venv
    return venv


def same_actions(model, simulator, n_steps=N_STEPS):
    """Step the policy behind its wrappers and the network on what the environments show; count equal actions."""
    env = model.get_env()
    bare, shown = raw_of(env), []
    normalise = model.get_vec_normalize_env()
    if normalise is not None:
        normalise.training = False
    seen, step_wait, reset = [], bare.step_wait, bare.reset
    bare.step_wait = lambda: (seen.append((result := step_wait())[0]), result)[1]
    bare.reset = lambda: (seen.append(result := reset()), result)[1]
    obs, starts = env.reset(), np.ones(N_ENVS, bool)
    state, of_network = None, simulator.initial_state(N_ENVS)
    keys = simulator.network.encoder.memory_rows == ("key",)
    equal = 0
    for _ in range(n_steps):
        if keys and state is None:
            state = (model.policy.initial_state(N_ENVS),)
            row = simulator.network.state_shape[0] - model.policy.lstm_actor.state_shape[0]
            of_network[row] = 0
            of_network[row, :, 0] = state[0][0, :, 0]
        wanted, state = model.predict(obs, state, starts, deterministic=True)
        got, of_network = simulator.predict(seen[-1], of_network, starts)
        assert got.shape == wanted.shape and got.dtype == wanted.dtype
        # membranes and traces tell the last bits of what was seen, which actions hardly do
        rows, _, width = state[0].shape
        np.testing.assert_array_equal(of_network[-rows:, :, :width], state[0])
        equal += np.array_equal(got, wanted)
        obs, _, starts, _ = env.step(wanted)
        shown.append(starts)
    assert np.any(shown)  # an episode has ended, so that states were cleared
    return equal


@pytest.mark.parametrize(("space", "wrap"), list(product(SPACES, WRAPPED)))
def test_the_network_acts_as_the_policy_behind_its_wrappers(space, wrap, tmp_path):
    model = build(SPACES[space], wrap)
    if model is None:
        return
    try:
        network = model.to_network()
    except ValueError as error:
        refused = {
            ("float64", "stacked, normalised"): "keeps past frames in float32",
            ("whole numbers", "stacked, normalised"): "keeps past frames in float32",
            ("float16", "normalised, stacked"): "cuts normalised values",
            ("whole numbers", "normalised, stacked"): "cuts normalised values",
        }
        assert refused[space, wrap] in str(error)
        return
    network.save(tmp_path / "policy.safetensors")
    assert same_actions(model, Simulator(Network.load(tmp_path / "policy.safetensors"))) == N_STEPS


@pytest.mark.parametrize("encoder", ["direct", "population", "rate", "latency", "delta"])
@pytest.mark.parametrize("action", ACTIONS)
def test_every_encoder_and_head_keeps_its_bits_behind_normalised_frames(encoder, action):
    model = build(SPACES["vector"], "normalised, stacked", ACTIONS[action], encoder=encoder, n_ticks=4)
    assert same_actions(model, Simulator(model.to_network())) == N_STEPS


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("algorithm", [SpikingPPO, SpikingA2C])
def test_an_mlp_after_the_actor_is_part_of_the_network(activation, algorithm):
    arch = {"pi": [8, 5], "vf": [8]}
    model = build(SPACES["vector"], "normalised", algorithm=algorithm, net_arch=arch, activation_fn=activation)
    assert [layer.w.shape[0] for layer in model.to_network().readout.dense] == [8, 5]
    assert same_actions(model, Simulator(model.to_network())) == N_STEPS


@pytest.mark.parametrize("wrap", ["raw", "normalised", "normalised, stacked"])
@pytest.mark.parametrize("space", ["vector", "float64"])
def test_fixed_factors_keep_their_bits_beside_normalisation(space, wrap):
    model = build(SPACES[space], wrap, obs_scale=0.37)
    assert same_actions(model, Simulator(model.to_network())) == N_STEPS


def test_what_has_no_place_in_a_network_is_refused_by_name():
    class Own(FlattenExtractor):
        def forward(self, observations):
            return super().forward(observations) * 2

    class Shifted(VecEnvWrapper):
        def reset(self):
            return self.venv.reset() + 1

        def step_wait(self):
            obs, *rest = self.venv.step_wait()
            return obs + 1, *rest

    def wrapped(space, wrap=lambda env: env, **policy_kwargs):
        env = wrap(DummyVecEnv([lambda: Shown(space)]))
        return SpikingPPO("LsnnPolicy", env, policy_kwargs=policy_kwargs)

    refused = {
        "Own": wrapped(box(3), features_extractor_class=Own),
        "NatureCNN": wrapped(SPACES["image"]),
        "Shifted": wrapped(box(3), Shifted),
        "GELU": wrapped(box(3), net_arch={"pi": [4]}, activation_fn=nn.GELU),
    }
    for name, model in refused.items():
        with pytest.raises(ValueError, match=name) as refusal:
            model.to_network()
        assert "\n" not in str(refusal.value)


def test_keys_normalised_one_after_the_other_are_refused_where_float32_rounds_them():
    def model(dtype):
        env = DummyVecEnv([lambda: Shown(spaces.Dict(a=box(2), b=box(2, dtype=dtype)))])
        return SpikingPPO("LsnnPolicy", VecNormalize(VecNormalize(env, norm_obs_keys=["a"]), norm_obs_keys=["b"]))

    assert len(model(np.float32).to_network().preprocessing) == 2
    with pytest.raises(ValueError, match="rounds 'b', float64"):
        model(np.float64).to_network()


def test_frames_of_an_image_whose_axes_were_exchanged_are_stacked():
    env = VecFrameStack(VecTransposeImage(environments(SPACES["image"], "raw")), 2)
    model = SpikingPPO("LsnnPolicy", env, policy_kwargs={"features_extractor_class": FlattenExtractor})
    assert same_actions(model, Simulator(model.to_network())) == N_STEPS


def test_running_statistics_inside_an_environment_are_refused():
    def make():
        return gym.wrappers.ClipReward(gym.wrappers.NormalizeObservation(gym.make("CartPole-v1")), 0.0, 1.0)

    model = SpikingPPO("LsnnPolicy", VecNormalize(DummyVecEnv([make])), n_steps=16, batch_size=16)
    with pytest.raises(ValueError, match="obs_rms"):
        model.to_network()
    with pytest.raises(ValueError, match="obs_rms"):
        describe(model.env).make()


def test_a_policy_does_not_export_without_the_wrappers_it_was_trained_behind(tmp_path):
    model = build(SPACES["vector"], "normalised, stacked")
    for env in (None, raw_of(model.env)):
        with pytest.raises(ValueError, match="VecNormalize, VecFrameStack"):
            model.policy.to_network(env)
    model.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="VecNormalize, VecFrameStack"):
        SpikingPPO.load(tmp_path / "model.zip").to_network()
    model.policy.save(tmp_path / "policy.pt")
    with pytest.raises(ValueError, match="VecNormalize, VecFrameStack"):
        type(model.policy).load(tmp_path / "policy.pt").to_network()
    assert SpikingPPO.load(tmp_path / "model.zip", env=model.env).to_network().preprocessing


@pytest.mark.parametrize("algorithm", [SpikingPPO, SpikingA2C])
def test_a_trained_model_does_not_export_behind_other_wrappers_until_it_learns_there(algorithm, tmp_path):
    model, plain = build(SPACES["vector"], "normalised", algorithm=algorithm), environments(SPACES["vector"], "raw")
    model.save(tmp_path / "model.zip")
    loaded = algorithm.load(tmp_path / "model.zip", env=plain)
    model.set_env(plain)
    for other in (model, loaded):
        with pytest.raises(ValueError, match=r"\(VecNormalize\), these have none"):
            other.to_network()
    assert not loaded.learn(16).to_network().preprocessing
    unseen = algorithm.load(tmp_path / "model.zip", env=environments(SPACES["vector"], "normalised"))
    with pytest.raises(ValueError, match="seen no observation"):
        unseen.to_network()


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1)])
def test_eprop_exports_behind_its_wrappers(shape):
    env = WRAPPED["normalised, stacked"](DummyVecEnv([lambda: Shown(box(*shape))]))
    model = EProp("EpropPolicy", env, seed=0, n_episodes=2).learn(20)
    simulator = Simulator(model.to_network())
    env.training = env.venv.training = False
    obs, state, mine = env.reset(), None, simulator.initial_state()
    start = np.ones(1, bool)
    for _ in range(N_STEPS):
        raw = env.venv.get_original_obs()
        wanted, state = model.predict(obs, state, start, deterministic=True)
        got, mine = simulator.predict(raw, mine, start)
        np.testing.assert_array_equal(got, wanted)
        obs, _, start, _ = env.step(wanted)


def test_an_episode_is_recorded_whose_observation_could_be_rows_of_itself():
    env = DummyVecEnv([lambda: Shown(box(1, 3))])
    network = SpikingPPO("LsnnPolicy", env, n_steps=16, batch_size=16, policy_kwargs={"n_neurons": [4]}).to_network()
    assert record_episode(network, env, seed=0).total_ticks == 5 * network.n_ticks


def test_a_network_names_the_environment_and_it_is_made_again():
    def make():
        env = gym.make("spikeloop/CartPoleNoVel-v0", max_episode_steps=30, render_mode="rgb_array")
        return gym.wrappers.RescaleObservation(gym.wrappers.ClipReward(env, 0.0, 0.5), -2.0, 2.0)

    env = DummyVecEnv([lambda: gym.wrappers.ClipReward(gym.make("CartPole-v1", max_episode_steps=30), 0.0, 0.5)])
    model = SpikingPPO("LsnnPolicy", VecNormalize(env), n_steps=16, batch_size=16)
    description = EnvDescription.from_metadata(model.to_network().metadata)
    assert description == describe(env)
    again = description.make()
    again.reset(seed=0)
    steps, rewards, done = 0, [], False
    while not done:
        _, reward, terminated, truncated, _ = again.step(steps % 2)
        steps, done = steps + 1, terminated or truncated
        rewards.append(reward)
    assert steps <= 30 and set(rewards) == {0.5}


def test_a_file_does_not_choose_what_code_runs():
    def described(*wrapper):
        return EnvDescription.from_metadata({"env": "CartPole-v1", "env_wrappers": json.dumps([wrapper])})

    for wrapper, message in {
        ("subprocess:Popen", '{"args": "true"}'): "none of the packages",
        ("my_tasks:Wrapper", "{}"): "--gym-packages my_tasks",
        ("gymnasium.wrappers:RecordVideo", '{"video_folder": "x"}'): "no wrapper that a file may make",
        ("gymnasium:make", '{"id": "x"}'): "is no Wrapper of gymnasium",
        ("gymnasium.wrappers:ClipReward", "null"): "arguments could not be written down",
    }.items():
        with pytest.raises(ValueError, match=message):
            described(wrapper[0], json.loads(wrapper[1])).make()
