"""A network that sees or says nothing is told of, once; one that works is not."""

import warnings
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from learners import Noise
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import spikeloop.envs  # noqa: F401  registers the tasks
from spikeloop.agents import EProp, SpikingA2C, SpikingPPO
from spikeloop.agents.registry import hyperparams_file, load_algorithm

RAW = spaces.Box(-np.inf, np.inf, (3,), np.float32)


class Raw(Noise):
    """Shows noise around an offset, on any scale."""

    def __init__(self, scale, offset=0.0):
        super().__init__(RAW)
        noise = np.random.default_rng(0)
        self.observation_space.sample = lambda: (offset + scale * noise.uniform(-1, 1, 3)).astype(np.float32)


def learner(algo, env, **policy_kwargs):
    if algo is SpikingPPO:
        settings = {"n_steps": 64, "batch_size": 64, "n_epochs": 1, "seed": 0, "device": "cpu"}
        return SpikingPPO("LsnnPolicy", env, policy_kwargs=policy_kwargs, **settings)
    if algo is SpikingA2C:
        return SpikingA2C("LifPolicy", env, seed=0, device="cpu", policy_kwargs=policy_kwargs)
    return EProp("EpropPolicy", env, seed=0, n_episodes=5, policy_kwargs=policy_kwargs)


def said(act):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("algo", [SpikingPPO, SpikingA2C, EProp])
@pytest.mark.parametrize("scale", [0.0, 0.02])
def test_a_layer_that_hardly_spikes_in_the_first_rollout_is_told_of_once(algo, scale):
    model = learner(algo, Raw(scale))
    (text,) = said(lambda: model.learn(100))
    assert text.startswith("layer 0 spikes on 0") and "VecNormalize or obs_scale" in text
    assert said(lambda: model.learn(200)) == []


def test_a_later_layer_is_told_of_by_its_number():
    env = VecNormalize(make_vec_env(lambda: Raw(1.0), seed=0))
    (text,) = said(
        lambda: learner(SpikingPPO, env, n_neurons=[64, 64], tau_m=0.5, v_th=1.5, calibrate_init=False).learn(64)
    )
    assert text.startswith("layer 1 spikes on 0")


@pytest.mark.parametrize("encoder", ["population", "rate", "latency"])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 40.0), (1.0, -40.0), (1e4, 0.0)])
def test_features_that_a_code_never_covers_are_told_of(encoder, scale, offset):
    model = learner(SpikingPPO, Raw(scale, offset), encoder=encoder, n_ticks=8)
    texts = said(lambda: model.learn(64))
    assert sum(f"the {encoder} code covers" in text and "in the first rollout" in text for text in texts) == 1


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("encoder", ["population", "rate", "latency"])
def test_predict_tells_once_that_a_code_covers_nothing_it_is_shown(encoder, deterministic):
    model = learner(SpikingPPO, Raw(1.0), encoder=encoder, n_ticks=8)
    inside, outside = np.float32([[0.5, -1, 2], [40, 50, -60]]), np.float32([[40, 50, -60], [30, 30, 30]])
    start = {"episode_start": np.ones(2), "deterministic": deterministic}
    assert said(lambda: model.predict(inside, **start)) == []
    (text,) = said(lambda: model.predict(outside, **start))
    assert text.startswith(
        f"predict() got observations whose features lie from -60 to 50, far beyond what the {encoder}"
    )
    assert said(lambda: model.predict(outside, **start)) == []


def is_there(env):
    """Return whether an environment can be made quickly here."""
    needs_mujoco = "mujoco" in str(gym.registry[env].entry_point)
    return not env.startswith("LunarLander") and (not needs_mujoco or find_spec("mujoco") is not None)


def presets():
    for algo in ("spiking_ppo", "spiking_a2c", "eprop", "rstdp", "glm"):
        for env, settings in yaml.safe_load(hyperparams_file(algo).read_text("utf-8")).items():
            if env in gym.registry and is_there(env):
                yield algo, env, settings


@pytest.mark.parametrize(
    ("algo", "env", "settings"), list(presets()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_first_rollout_of_a_preset_is_not_warned_of(algo, env, settings):
    settings = {**settings, "n_epochs": 1} if algo == "spiking_ppo" else dict(settings)
    settings = {k: float(v[4:]) if isinstance(v, str) and v.startswith("lin_") else v for k, v in settings.items()}
    venv = make_vec_env(env, settings.pop("n_envs", 1), seed=0, env_kwargs=settings.pop("env_kwargs", None))
    normalize = settings.pop("normalize", None)
    venv = VecNormalize(venv, **normalize) if normalize else venv
    del settings["n_timesteps"]
    model = load_algorithm(algo)(env=venv, seed=0, **settings)
    assert said(lambda: model.learn(1)) == []
