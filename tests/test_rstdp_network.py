"""The network of an R-STDP policy takes the very actions of the policy."""

import gymnasium as gym
import numpy as np
import pytest
from rstdp_models import CLASSIC, PRESETS, make
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from spikeloop.agents import RSTDP
from spikeloop.spiking import Network, Simulator


def observed(env_id, n_steps=400, seed=0):
    """Return observations of random actions."""
    env = gym.make(env_id)
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    seen = []
    for _ in range(n_steps):
        seen.append(obs)
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        obs = env.reset()[0] if terminated or truncated else obs
    return np.array(seen)


def same_actions(model, obs, raw=None):
    simulator = Simulator(model.to_network())
    chosen = model.predict(obs, deterministic=True)[0]
    raw = obs if raw is None else raw
    np.testing.assert_array_equal(simulator.predict(raw, simulator.initial_state(len(raw)))[0], chosen)
    assert len(set(chosen.tolist())) > 1
    return simulator


@pytest.mark.parametrize("encoder", ["tiles", "places"])
@pytest.mark.parametrize("env_id", CLASSIC)
def test_its_network_takes_the_very_actions_of_the_policy(env_id, encoder, tmp_path):
    places = {} if encoder == "tiles" else {"policy_kwargs": places_for(env_id)}
    model = make(env_id, **places).learn(1500)
    obs = observed(env_id)
    simulator = same_actions(model, obs)
    model.to_network({"note": "kept"}).save(tmp_path / "policy.safetensors")
    network = Network.load(tmp_path / "policy.safetensors")
    assert network.metadata["env"] == env_id and network.metadata["note"] == "kept"
    again = Simulator(network)
    for one in obs[:50]:
        action, _ = again.predict(one, again.initial_state())
        assert action == model.predict(one, deterministic=True)[0]
    outputs, _, monitor = simulator.record(obs[:, None])
    coder, n_ticks = model.policy.coder, model.n_ticks
    expected = np.concatenate([np.tile(coder.lines(one), n_ticks) for one in obs])
    np.testing.assert_array_equal(monitor.input.i, expected)
    np.testing.assert_array_equal(monitor.output.i[n_ticks - 1 :: n_ticks], outputs[:, 0].argmax(axis=1))


def places_for(env_id):
    ends = PRESETS[env_id].get("policy_kwargs", {}).get("encoder_kwargs", {})
    kept = {name: ends[name] for name in ("low", "high", "components") if name in ends}
    return {"encoder": "places", "encoder_kwargs": {**kept, "n_inputs": 300, "n_active": 6}}


def test_ties_go_to_the_first_action_in_the_network_as_in_the_policy():
    model = make("MountainCar-v0")
    rng = np.random.default_rng(0)
    weights = rng.integers(-1, 2, (3, model.policy.coder.n_inputs)) * 0.1
    model.policy.network.load_state_dict({"w": weights, "v": np.zeros(weights.shape[1])})
    same_actions(model, observed("MountainCar-v0"))


def test_what_a_policy_learned_behind_is_carried_or_refused():
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))]))
    ends = {"low": [-3] * 4, "high": [3] * 4, "n_tiles": 4}
    model = RSTDP("WtaPolicy", env, seed=0, policy_kwargs={"encoder_kwargs": ends}).learn(800)
    env.training = False
    raw = observed("CartPole-v1")
    same_actions(model, env.normalize_obs(raw), raw)
    with pytest.raises(ValueError, match="needs the environments that the policy was trained in"):
        model.policy.to_network()


class Wide(gym.ObservationWrapper):
    """Shows float64, with digits that float32 lacks."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-10, 10, env.observation_space.shape, np.float64)

    def observation(self, observation):
        return np.asarray(observation, np.float64) + 1e-9


def test_a_policy_that_tells_float64_apart_keeps_that_and_no_stack_of_frames():
    def make_env():
        return Monitor(Wide(gym.make("CartPole-v1")))

    ends = {"low": [-2] * 4, "high": [2] * 4, "n_tiles": 4}
    model = RSTDP("WtaPolicy", DummyVecEnv([make_env]), seed=0, policy_kwargs={"encoder_kwargs": ends}).learn(300)
    edges = np.nextafter(np.linspace(-2, 2, 129), np.repeat([-9.0, 9.0], [64, 65]))  # about the edges of tiles
    same_actions(model, np.random.default_rng(0).choice(edges, (300, 4)))
    stacked = VecFrameStack(DummyVecEnv([make_env]), 2)
    ends = {"components": [0, 4], "low": [-2] * 2, "high": [2] * 2}
    model = RSTDP("WtaPolicy", stacked, seed=0, policy_kwargs={"encoder_kwargs": ends})
    with pytest.raises(ValueError, match="a Network keeps past frames in float32"):
        model.to_network()


def test_what_learns_on_the_chip_exports_the_weights_that_act():
    from spikeloop.hardware import ChipWinnerTakeAll

    model = make("MountainCar-v0", core=ChipWinnerTakeAll, n_ticks=4).learn(600)
    same_actions(model, observed("MountainCar-v0"))
